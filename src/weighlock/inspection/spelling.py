"""Elements as text: the shortest that names a value of its type and no other."""

import struct
from typing import Any, Final

__all__ = ["float_text", "number_text"]

_FLOATS: Final = {"float32": ("f", (6, 7, 8, 9)), "float16": ("e", (3, 4, 5)), "complex64": ("f", (6, 7, 8, 9)),
                  "complex32": ("e", (3, 4, 5))}  # fmt: skip


def number_text(value: Any, dtype: str) -> str:
    """Return the shortest text that names this value of its type and no other."""
    if isinstance(value, tuple):
        return "|".join(number_text(part, dtype) for part in value)
    if isinstance(value, complex):
        imaginary = number_text(value.imag, dtype)
        return f"{number_text(value.real, dtype)}{'' if imaginary[0] == '-' else '+'}{imaginary}j"
    if not isinstance(value, float):
        return str(value)
    return float_text(value, dtype)


def float_text(value: float, dtype: str) -> str:
    """Return the shortest text that names this number of a floating-point type, with a point in it."""
    code, digits = _FLOATS.get(dtype, ("d", ()))
    text = f"{value:.4g}" if dtype.startswith(("bfloat", "float8", "float4")) else repr(value)
    for count in digits:
        shorter = f"{value:.{count}g}"
        if struct.pack(code, float(shorter)) == struct.pack(code, value):
            text = shorter
            break
    return text if not text.lstrip("-").isdigit() else f"{text}.0"
