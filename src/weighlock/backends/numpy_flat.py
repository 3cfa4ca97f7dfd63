"""NumPy arrays as tensors of formats that hold nothing else."""

import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import numpy as np

from weighlock import dtypes
from weighlock.backends.numpy_layout import address, address_of_piece, memory
from weighlock.backends.numpy_types import (
    JaggedTensor,
    MetaTensor,
    NestedTensor,
    PackedTensor,
    QuantizedTensor,
    SparseTensor,
    TensorSubclass,
    UninitializedTensor,
    WrapperTensor,
)
from weighlock.dtypes import DType
from weighlock.errors import UnsupportedTypeError
from weighlock.storages.sinks import Buffer
from weighlock.tensors.flat import FlatLeaf
from weighlock.tensors.layout import contiguous_stride

__all__ = ["flat_array", "flat_leaf", "flat_note"]

Array = np.ndarray[Any, Any]

_IS_LITTLE: Final = sys.byteorder == "little"
_PIECE: Final = 8 << 20
# Strides by shape, of arrays in one piece. Shapes repeat endlessly. Dropped as a whole when full.
_strides: dict[tuple[int, ...], tuple[int, ...]] = {}
_CACHE_ENTRIES: Final = 8192
_NO_FORM: Final = (
    JaggedTensor, MetaTensor, NestedTensor, QuantizedTensor, SparseTensor, TensorSubclass, UninitializedTensor,
    WrapperTensor,
)  # fmt: skip


def flat_leaf(value: Any) -> FlatLeaf | None:
    """Return the tensor that a value is; None where it is none.

    Raises
    ------
    UnsupportedTypeError
        If it is a tensor that is more than its elements, or of a type that PyTorch does not have.
    """
    kind = type(value)
    if kind is np.ndarray or kind is np.memmap:
        dtype = dtypes.from_numpy(value.dtype)
        if dtype is None:
            raise UnsupportedTypeError(f"PyTorch has no dtype for NumPy's {value.dtype}")
        return flat_array(value, dtype)
    if kind is PackedTensor:
        return flat_array(value.data, value.dtype)
    if kind in _NO_FORM:
        raise UnsupportedTypeError(
            f"this format has no form for a {kind.__name__}",
            hint="Save it in PyTorch's own format, or turn it into an ordinary array first.",
        )
    return None


def flat_array(array: Array, dtype: DType) -> FlatLeaf:
    """Return the tensor that an array is."""
    start = address_of_piece(array)
    if start is None:
        return _unusual(array, dtype)
    shape, native = array.shape, array.dtype.isnative
    stride = (_strides.get(shape) or _stride(shape)) if native else None
    return FlatLeaf(
        dtype, shape, stride, start, array.nbytes, partial(_pieces, array), array if native and _IS_LITTLE else None,
        _owner(array),
    )  # fmt: skip


def _stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(_strides) > _CACHE_ENTRIES:
        _strides.clear()
    found = _strides[shape] = contiguous_stride(shape)
    return found


def _unusual(array: Array, dtype: DType) -> FlatLeaf:
    """Return the tensor that an array is for which there is no `address_of_piece`."""
    item = array.itemsize
    stride = None
    if array.dtype.isnative and all(step >= 0 and step % item == 0 for step in array.strides):
        stride = tuple(step // item for step in array.strides)
    return FlatLeaf(
        dtype, array.shape, stride, address(array), array.nbytes, partial(_pieces, array), storage=_owner(array)
    )


def _owner(array: Any) -> int:
    """Return what identifies the memory that an array is a view of."""
    base = array.base
    while isinstance(base, np.ndarray):
        array, base = base, base.base
    return id(array if base is None else base)


def _pieces(array: Array) -> Iterator[Buffer]:
    native = array.dtype.isnative if _IS_LITTLE else array.itemsize == 1
    if native and array.flags.c_contiguous:
        yield memory(address(array), array.nbytes, array)
        return
    if not array.size:
        return
    little = array.dtype.newbyteorder("<") if array.dtype.kind != "V" else array.dtype
    if array.nbytes <= _PIECE or not array.ndim:
        made = np.ascontiguousarray(array, little)
        yield memory(address(made), made.nbytes, made)
        return
    rows = max(1, _PIECE // (array.nbytes // array.shape[0]))
    if rows == 1 and array.nbytes // array.shape[0] > _PIECE:
        for row in array:
            yield from _pieces(row)
        return
    for begin in range(0, array.shape[0], rows):
        made = np.ascontiguousarray(array[begin : begin + rows], little)
        yield memory(address(made), made.nbytes, made)


def flat_note(value: Any) -> Any:
    """Return the node that stands for a NumPy scalar in the description of a structure; None for anything else."""
    if not isinstance(value, np.generic) or value.dtype.kind not in "biufcSUmM" or value.dtype.char in "gG":
        return None
    import base64

    return {"numpy": [value.dtype.str, base64.b64encode(value.tobytes()).decode()]}
