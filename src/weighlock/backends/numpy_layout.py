"""How the elements of an array lie in memory, and how a tensor can say so: worked out once per shape and strides."""

from ctypes import addressof, c_char
from typing import Any, Final

import numpy as np

from weighlock.tensors.layout import contiguous_stride

__all__ = ["COMPACT", "COPY", "KEEP", "Layout", "address", "address_of_piece", "compacted", "memory"]

Array = np.ndarray[Any, Any]

KEEP: Final = "keep"  # its memory, as it is, is the storage
COMPACT: Final = "compact"  # the same, once the gaps between its elements are left out
COPY: Final = "copy"  # tensors have no form for it: it is copied in row-major order

_from_buffer: Final = c_char.from_buffer


class Layout:
    """One way to lie in memory.

    Attributes
    ----------
    how : str
        `KEEP`, `COMPACT` or `COPY`: what becomes of an array that shares its memory with no other.
    numel : int
        Elements that its storage then has.
    stride : tuple of int
        The strides that its tensor then has, in elements.
    span : int
        Elements between the first and the last, both included.
    spread : tuple of int
        The strides that it has where its memory is kept.
    contiguous : bool
        Whether its memory is its elements in row-major order.
    nbytes : int
        Bytes between the start of the first and the end of the last element.
    stored : int
        Bytes of its storage.
    pattern : TensorPattern
        Of such arrays in storages of their own; made when there is one.
    """

    __slots__ = (
        "contiguous", "how", "itemsize", "nbytes", "numel", "pattern", "shape", "span", "spread", "stored", "stride",
    )  # fmt: skip

    def __init__(self, shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int, *, native: bool) -> None:
        self.shape = shape
        self.itemsize = itemsize
        self.pattern: Any = None
        self._measure(strides, native=native)
        self.nbytes, self.stored = self.span * itemsize, self.numel * itemsize

    def _measure(self, strides: tuple[int, ...], *, native: bool) -> None:
        shape, itemsize = self.shape, self.itemsize
        count = 1
        for length in shape:
            count *= length
        moving = [(step, length) for step, length in zip(strides, shape, strict=True) if length > 1]
        if not count or not native or any(step < 0 or step % itemsize for step, _ in moving):
            self.how, self.numel, self.span, self.contiguous = COPY if count else KEEP, count, count, True
            self.stride = self.spread = contiguous_stride(shape)
            return
        self.spread = self.stride = _element_strides(shape, strides, itemsize)
        reaches = [(step // itemsize, length) for step, length in moving]
        self.span = self.numel = 1 + sum(step * (length - 1) for step, length in reaches)
        self.contiguous = _is_row_major(reaches)
        self.how = KEEP
        used = _used(reaches)
        if used is not None and used < self.span:
            self.how = COMPACT
            self.numel = used
            self.stride = _compact(shape, self.spread)


def _element_strides(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return strides in elements; where a dimension of length 1 has one that tensors cannot have, 1."""
    if any(step < 0 or step % itemsize for step in strides):
        return tuple(
            step // itemsize if step >= 0 and step % itemsize == 0 else usual
            for step, usual in zip(strides, contiguous_stride(shape), strict=True)
        )
    return tuple(step // itemsize for step in strides)


def _is_row_major(reaches: list[tuple[int, int]]) -> bool:
    step = 1
    for actual, length in reversed(reaches):
        if actual != step:
            return False
        step *= length
    return True


def _used(reaches: list[tuple[int, int]]) -> int | None:
    """Return how many elements of memory are in use, or None if elements lie on each other in an irregular way."""
    used, end = 1, 1
    for step, length in sorted(reaches):
        if step == 0:  # broadcast: the same elements again
            continue
        if step < end:
            return None
        used *= length
        end += step * (length - 1)
    return used


def _compact(shape: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...]:
    """Return strides of the same order without gaps."""
    result, step = [0] * len(shape), 1
    for axis in memory_order(shape, stride):
        result[axis] = step
        step *= shape[axis]
    for axis, length in enumerate(shape):
        if length == 1:
            result[axis] = step
    return tuple(result)


def memory_order(shape: tuple[int, ...], stride: tuple[int, ...]) -> list[int]:
    """Return the dimensions that move through memory, from the fastest to the slowest."""
    moving = [axis for axis, length in enumerate(shape) if length > 1 and stride[axis]]
    return sorted(moving, key=lambda axis: (stride[axis], -axis))


def compacted(array: Array, layout: Layout) -> Array:
    """Return the elements of an array one after the other, in the order in which they lie in memory."""
    fixed = tuple(
        slice(None) if length > 1 and step else 0 for length, step in zip(layout.shape, layout.spread, strict=True)
    )
    axes = [axis for axis, index in enumerate(fixed) if index != 0]
    slowest_first = [axes.index(axis) for axis in reversed(memory_order(layout.shape, layout.spread))]
    view: Array = array[fixed]
    return np.ascontiguousarray(view.transpose(slowest_first)).reshape(-1)


def address(array: Array) -> int:
    """Return where in memory the first element lies."""
    found = address_of_piece(array)
    if found is None:
        found = array.__array_interface__["data"][0]
    return found


def address_of_piece(array: Any) -> int | None:
    """Return the address, in a quarter of the usual time, of an array in one piece, row by row, with a buffer.

    None for one that is read-only, empty, in several pieces, or of a type that NumPy cannot name in a buffer.
    """
    try:
        return addressof(_from_buffer(array))
    except (BufferError, TypeError, ValueError):
        return None


class _Memory:
    """Shows NumPy a range of memory that `owner` keeps alive."""

    def __init__(self, start: int, nbytes: int, owner: Any) -> None:
        self.owner = owner
        # True: the array made of it cannot be written to.
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (nbytes,), "data": (start, True)}


def memory(start: int, nbytes: int, owner: Any) -> memoryview:
    """Return bytes of memory as they are, without a copy; `owner` must own all of them."""
    return np.asarray(_Memory(start, nbytes, owner)).data if nbytes else memoryview(b"")
