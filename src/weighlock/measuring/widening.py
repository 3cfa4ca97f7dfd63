"""Element types made comparable: every type as the floating-point numbers that it stands for, exactly.

Of the types that NumPy computes with slowly or not at all (bfloat16, the float8 family, packed float4) the values are
looked up or shifted into float32, which holds each of them.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from weighlock.dtypes import DTYPES

if TYPE_CHECKING:
    import numpy

__all__ = ["as_numbers", "numbers_in"]

_OPAQUE: Final = frozenset(
    {"bits8", "bits16", "bits1x8", "bits2x4", "bits4x2", "quint4x2", "quint2x4"}
    | {name for name, row in DTYPES.items() if row.kind == "p" and name.startswith(("int", "uint"))}
)
_FLOAT4: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def numbers_in(dtype: str) -> bool:
    """Whether elements of this type are numbers: opaque bits are not, nor are text and objects of NumPy arrays."""
    import numpy as np

    if dtype in DTYPES:
        return dtype not in _OPAQUE
    try:
        return np.dtype(dtype).kind in "biufc"
    except TypeError:
        return False


def as_numbers(piece: "numpy.ndarray", dtype: str) -> "numpy.ndarray":
    """Return elements as numbers that NumPy computes with fast.

    Parameters
    ----------
    piece : numpy.ndarray
        One dimension, as `weighlock.measuring.pieces.pieces` yields it.
    dtype : str
        The name of its element type.

    Returns
    -------
    numpy.ndarray
        float32 for types of 8 and 16 bits that are not integers, uint8 for bool, complex64 for complex32, anything else
        as it is. Packed float4 has two numbers for each element.

    Examples
    --------
    >>> import numpy
    >>> as_numbers(numpy.array([0x21], "u1"), "float4_e2m1fn_x2")
    array([0.5, 1. ], dtype=float32)
    """
    import numpy as np

    if dtype == "bfloat16":
        wide = piece.view("u2").astype("u4")
        wide <<= 16
        return wide.view("f4")
    if dtype == "float16":
        return piece.astype("f4")
    if dtype == "bool":
        return piece.view("u1")
    if dtype == "complex32":
        return piece.view("f2").astype("f4").view("c8")
    if dtype.startswith(("float8", "float4")):
        return np.take(_table(dtype), piece.view("u1"), axis=0).reshape(-1)
    return piece


@lru_cache
def _table(dtype: str) -> Any:
    """Return the numbers of all 256 bytes, one row for each."""
    import numpy as np

    every = np.arange(256, dtype="u1")
    if dtype == "float4_e2m1fn_x2":
        half = np.array([*_FLOAT4, *(-number for number in _FLOAT4)], "f4")
        return np.stack([half[every & 15], half[every >> 4]], axis=1)
    return every.view(DTYPES[dtype].numpy).astype("f4")
