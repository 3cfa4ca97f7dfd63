"""The values of NumPy arrays and scalars that were pickled as such, without NumPy."""

import struct
from collections.abc import Callable
from typing import Any, Final

from weighlock.errors import DamagedError, UnsupportedError
from weighlock.inspection.leaves import numpy_name
from weighlock.tensors.layout import contiguous_stride
from weighlock.tensors.spec import NumpyArraySpec, NumpyDtypeSpec, NumpyScalarSpec

__all__ = ["read_array", "read_scalar"]

_CODES: Final = {
    "bool": "?", "int8": "b", "int16": "h", "int32": "i", "int64": "q", "uint8": "B", "uint16": "H", "uint32": "I",
    "uint64": "Q", "float16": "e", "float32": "f", "float64": "d", "complex64": "ff", "complex128": "dd",
}  # fmt: skip


def _element(dtype: Any) -> tuple[str, struct.Struct]:
    name = numpy_name(dtype)
    code = _CODES.get(name or "")
    if name is None or code is None:
        raise UnsupportedError("values of this NumPy type cannot be shown", got=name or type(dtype).__name__)
    return name, struct.Struct(_order(dtype) + code)


def _order(dtype: NumpyDtypeSpec) -> str:
    state = dtype.state
    if state is not None and len(state) > 1 and state[1] in ("<", ">"):
        return str(state[1])
    return ">" if dtype.code.startswith(">") else "<"


def _value(found: tuple[Any, ...]) -> Any:
    return complex(*found) if len(found) == 2 else found[0]


def read_array(spec: NumpyArraySpec) -> tuple[str, tuple[int, ...], Callable[[int], Any]]:
    """Return the type, the shape, and a function from an element's row-major number to its value.

    Raises
    ------
    UnsupportedError
        If it holds objects, text or records.
    DamagedError
        If its data do not fit its shape.
    """
    name, element = _element(spec.dtype)
    shape: Any = spec.shape  # as the pickle gives it, unchecked
    data = spec.data
    if not isinstance(shape, tuple) or not all(type(length) is int and length >= 0 for length in shape):
        raise DamagedError("a NumPy array whose shape is no shape", got=type(shape).__name__)
    count = 1
    for length in shape:
        count *= length
    if isinstance(data, str):
        data = data.encode("latin-1", "replace")
    if not isinstance(data, bytes | bytearray) or len(data) != count * element.size:
        raise DamagedError("the data of a NumPy array do not fit its shape", expected=f"{count * element.size} bytes")
    raw = bytes(data)

    def value(at: int) -> Any:
        place = _fortran_place(at, shape) if spec.fortran else at
        return _value(element.unpack_from(raw, place * element.size))

    return name, shape, value


def _fortran_place(at: int, shape: tuple[int, ...]) -> int:
    place, step = 0, 1
    for length, stride in zip(shape, contiguous_stride(shape), strict=True):
        place += at // stride % length * step
        step *= length
    return place


def read_scalar(spec: NumpyScalarSpec) -> tuple[str, Any]:
    """Return the type and the value of a NumPy scalar.

    Raises
    ------
    UnsupportedError, DamagedError
        As `read_array`.
    """
    name, element = _element(spec.dtype)
    data = spec.data.encode("latin-1", "replace") if isinstance(spec.data, str) else spec.data
    if not isinstance(data, bytes | bytearray) or len(data) != element.size:
        raise DamagedError("the data of a NumPy scalar do not fit its type", expected=f"{element.size} bytes")
    return name, _value(element.unpack(data))
