"""The closed table of NumPy's globals, under the module names of NumPy 1 (`numpy.core`) and 2 (`numpy._core`).

Arrays inside a pickle carry their data with them. Nothing here needs NumPy; what is made is up to the `Leaves`.
"""

import re
from collections.abc import Callable
from typing import Any, Final

from weighlock.errors import PickleStreamError
from weighlock.tensors.leaves import Leaves
from weighlock.text import brief

__all__ = ["NUMPY_ROWS", "NumpyName"]

Args = tuple[Any, ...]

# Type codes and names of `numpy.dtype`; no commas, so that no structured type is spelled in a string.
_CODE: Final = re.compile(r"[<>|=]?[?bBhHiIlLqQnNpPefdgFDGSaUVOMmc]\d{0,9}(\[[\w/]{1,20}\])?|[a-z]+\d{0,3}(_\w{1,12})?")


class NumpyName:
    """Stands on the stack for a class or function of NumPy."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<numpy.{self.name}>"


NDARRAY: Final = NumpyName("ndarray")


def _dtype(leaves: Leaves, args: Args) -> Any:
    code = args[0]
    if isinstance(code, NumpyName):
        code = code.name
    if isinstance(code, bytes):
        code = code.decode("ascii")
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        raise PickleStreamError("a NumPy dtype with an unknown code", got=brief(code))
    return leaves.numpy_dtype(code)


def _reconstruct(leaves: Leaves, args: Args) -> Any:
    """(class, shape, type code): an empty array that BUILD completes."""
    if not args or args[0] is not NDARRAY:
        raise PickleStreamError("a NumPy array of an unknown class", got=brief(args[:1]))
    if len(args) < 2 or args[1] != (0,):
        # NumPy would make one of any size, and leave in it what the memory held.
        what = "the pickle asks for a new, uninitialised NumPy array, which is no data"
        raise PickleStreamError(what, expected="the shape (0,)", got=brief(args[1:2]))
    return leaves.numpy_array()


def _scalar(leaves: Leaves, args: Args) -> Any:
    dtype, data = args if len(args) == 2 else (args[0], b"")
    return leaves.numpy_scalar(dtype, data)


def _frombuffer(leaves: Leaves, args: Args) -> Any:
    """(buffer, dtype, shape, order): protocol 5 with the data in the pickle."""
    data, dtype, shape, order = args
    return leaves.build(leaves.numpy_array(), (1, shape, dtype, order == "F", data))


def _row(value: Any, call: Callable[[Leaves, Args], Any] | None = None) -> Callable[[], Any]:
    return lambda: (value, call, None, ())


_SCALAR_TYPES: Final = (
    "bool_", "bool", "int8", "int16", "int32", "int64", "intc", "longlong", "uint8", "uint16", "uint32", "uint64",
    "uintc", "ulonglong", "float16", "float32", "float64", "longdouble", "complex64", "complex128", "clongdouble",
    "str_", "bytes_", "void", "object_", "datetime64", "timedelta64", "generic", "number", "integer", "floating",
)  # fmt: skip
_ML_DTYPES: Final = (
    "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float8_e4m3",
    "float8_e3m4", "float8_e4m3b11fnuz", "float4_e2m1fn", "int4", "uint4", "int2", "uint2",
)  # fmt: skip


def _rows() -> dict[tuple[str, str], Callable[[], Any]]:
    rows = {
        ("numpy", "dtype"): _row(NumpyName("dtype"), _dtype),
        ("numpy", "ndarray"): _row(NDARRAY),
    }
    for core in ("numpy.core", "numpy._core"):
        rows[f"{core}.multiarray", "_reconstruct"] = _row(NumpyName("_reconstruct"), _reconstruct)
        rows[f"{core}.multiarray", "scalar"] = _row(NumpyName("scalar"), _scalar)
        rows[f"{core}.numeric", "_frombuffer"] = _row(NumpyName("_frombuffer"), _frombuffer)
    for name in _SCALAR_TYPES:
        rows["numpy", name] = _row(NumpyName(name))
    for name in _ML_DTYPES:
        rows["ml_dtypes", name] = _row(NumpyName(name))
    return rows


NUMPY_ROWS: Final = _rows()
