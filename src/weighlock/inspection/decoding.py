"""Bytes to Python numbers for every element type, without NumPy.

Floats of 8 bits and fewer are decoded by the formula of their format: sign, `exponent` bits with a bias, `mantissa`
bits, and what the format spends its extreme codes on (IEEE: infinities and NaNs; FN: one NaN and no infinity; FNUZ: the
NaN is the code of minus zero; OCP MX: float4 has neither). Sources: OCP 8-bit Floating Point and Microscaling Formats.
"""

import struct
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from weighlock.dtypes import VALUES_PER_UNIT, DType

__all__ = ["decode", "unpack_units"]

_STRUCT_CODES: Final = {
    "float64": "d", "float32": "f", "float16": "e", "int64": "q", "int32": "i", "int16": "h", "int8": "b",
    "uint64": "Q", "uint32": "I", "uint16": "H", "uint8": "B", "bool": "?",
    "complex128": "d", "complex64": "f", "complex32": "e", "qint8": "b", "quint8": "B", "qint32": "i",
}  # fmt: skip


class _Small(NamedTuple):
    """The layout of a small float: bits of exponent and mantissa, the exponent's bias, and its extreme codes."""

    exponent: int
    mantissa: int
    bias: int
    extremes: str


_SMALL: Final = {
    "float8_e4m3fn": _Small(4, 3, 7, "fn"),
    "float8_e4m3fnuz": _Small(4, 3, 8, "fnuz"),
    "float8_e5m2": _Small(5, 2, 15, "ieee"),
    "float8_e5m2fnuz": _Small(5, 2, 16, "fnuz"),
    "float4_e2m1fn_x2": _Small(2, 1, 1, "none"),
}


def _small_value(code: int, form: _Small) -> float:
    width = form.exponent + form.mantissa
    magnitude = code & ((1 << width) - 1)
    negative = bool(code >> width)
    exponent, mantissa = magnitude >> form.mantissa, magnitude & ((1 << form.mantissa) - 1)
    if form.extremes == "fnuz" and negative and magnitude == 0:
        return float("nan")
    if form.extremes == "fn" and magnitude == (1 << width) - 1:
        return float("nan")
    if form.extremes == "ieee" and exponent == (1 << form.exponent) - 1:
        value = float("nan") if mantissa else float("inf")
    elif exponent == 0:
        value = mantissa * 2.0 ** (1 - form.bias - form.mantissa)
    else:
        value = ((1 << form.mantissa) + mantissa) * 2.0 ** (exponent - form.bias - form.mantissa)
    return -value if negative else value


@cache
def small_floats(name: str) -> tuple[float, ...]:
    """Return the value of every code of a small float type."""
    if name == "float8_e8m0fnu":
        return (*(2.0 ** (code - 127) for code in range(255)), float("nan"))
    form = _SMALL[name]
    return tuple(_small_value(code, form) for code in range(1 << (1 + form.exponent + form.mantissa)))


def _bfloat16(raw: bytes) -> Sequence[float]:
    count = len(raw) // 2
    widened = bytearray(4 * count)
    widened[2::4], widened[3::4] = raw[0::2], raw[1::2]
    return struct.unpack(f"<{count}f", widened)


def unpack_units(raw: bytes, name: str) -> list[int]:
    """Return the values that are packed into each byte, the lowest bits first."""
    count = VALUES_PER_UNIT[name]
    bits = 8 // count
    mask = (1 << bits) - 1
    return [(unit >> shift) & mask for unit in raw for shift in range(0, 8, bits)]


def _float4(raw: bytes) -> list[tuple[float, float]]:
    table = small_floats("float4_e2m1fn_x2")
    return [(table[unit & 15], table[unit >> 4]) for unit in raw]


def _hexadecimal(raw: bytes, size: int) -> list[str]:
    return [f"0x{int.from_bytes(raw[at : at + size], 'little'):0{2 * size}x}" for at in range(0, len(raw), size)]


_SPECIAL: Final[dict[str, Callable[[bytes], Sequence[Any]]]] = {"bfloat16": _bfloat16, "float4_e2m1fn_x2": _float4}


def decode(raw: bytes, dtype: DType) -> Sequence[Any]:
    """Return the elements in `raw`, little-endian, as Python numbers.

    Complex types give `complex`, packed floats a pair per unit, and types without a meaning of their own (bits and
    packed integers) the unit as hexadecimal text.

    Examples
    --------
    >>> from weighlock.dtypes import dtype
    >>> decode(bytes([0x80, 0x3F]), dtype("bfloat16"))
    (1.0,)
    """
    special = _SPECIAL.get(dtype.name)
    if special is not None:
        return special(raw)
    if dtype.name in _SMALL or dtype.name == "float8_e8m0fnu":
        table = small_floats(dtype.name)
        return [table[code] for code in raw]
    code = _STRUCT_CODES.get(dtype.name)
    if code is None:
        return _hexadecimal(raw, dtype.itemsize)
    flat = struct.unpack(f"<{len(raw) // struct.calcsize(code)}{code}", raw)
    if dtype.kind != "c":
        return flat
    return [complex(real, imaginary) for real, imaginary in zip(flat[::2], flat[1::2], strict=True)]
