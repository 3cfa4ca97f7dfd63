"""Shapes, strides and bounds: plain arithmetic on integers, checked before any view is made."""

from collections.abc import Iterable
from typing import Any

from weighlock.errors import PickleStreamError, TensorBoundsError
from weighlock.limits import DEFAULT_LIMITS

__all__ = ["check_ints", "check_view", "contiguous_stride", "is_contiguous", "reach", "widest"]

_MAX_BYTES = (1 << 63) - 1


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides (in elements) of a row-major tensor of this shape.

    Examples
    --------
    >>> contiguous_stride((2, 3, 4))
    (12, 4, 1)
    """
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= max(length, 1)
    return tuple(reversed(strides))


def is_contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether the elements follow each other in row-major order; dimensions of length 1 do not count."""
    step = 1
    for length, actual in zip(reversed(shape), reversed(stride), strict=True):
        if length != 1 and actual != step:
            return 0 in shape
        step *= length
    return True


def check_ints(values: Any, what: str) -> tuple[int, ...]:
    """Return `values` as a tuple of non-negative integers, or raise."""
    if not isinstance(values, tuple | list) or len(values) > DEFAULT_LIMITS.max_dimensions:
        raise PickleStreamError(f"a tensor's {what} is not a short list of integers", got=type(values).__name__)
    for value in values:
        if type(value) is not int or value < 0:
            raise PickleStreamError(f"a tensor's {what} holds something that is no size", got=type(value).__name__)
    return tuple(values)


def reach(offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Return how many elements of its storage a view spans, from the storage's start; 0 for an empty view."""
    last = offset
    for length, step in zip(shape, stride, strict=True):
        if length == 0:
            return 0
        last += (length - 1) * step
    return last + 1


def widest(shape: Iterable[int]) -> int:
    """Return the product of the lengths that are not 0: where it is too large, no library has such an array."""
    found = 1
    for length in shape:
        found *= length or 1
    return found


def _check_empty(itemsize: int, shape: tuple[int, ...]) -> None:
    if widest(shape) * itemsize > _MAX_BYTES:
        raise TensorBoundsError("a tensor has more elements than can be counted", got=f"shape {list(shape)}")


def check_view(nbytes: int, itemsize: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
    """Refuse a view that is malformed or reaches outside of its storage of `nbytes` bytes.

    An index outside a storage is how CVE-2026-24747 and its relatives read and write memory that is not theirs.
    """
    if type(offset) is not int or offset < 0 or len(shape) != len(stride) or len(shape) > DEFAULT_LIMITS.max_dimensions:
        raise PickleStreamError(
            "a tensor's offset, size and stride do not fit together", got=f"{len(shape)} sizes, {len(stride)} strides"
        )
    # One loop instead of check_ints, reach and a product: this runs once per tensor.
    last, count = offset, 1
    for length, step in zip(shape, stride):  # noqa: B905 - equally long, as checked above
        if type(length) is not int or type(step) is not int or length < 0 or step < 0:
            raise PickleStreamError("a tensor's size or stride holds something that is no length")
        last += (length - 1) * step
        count *= length
    if count == 0:
        _check_empty(itemsize, shape)
        return
    if (last + 1) * itemsize > nbytes:
        raise TensorBoundsError(
            "a tensor reaches outside of its storage", expected=f"at most {nbytes} bytes",
            got=f"{(last + 1) * itemsize} bytes",
        )  # fmt: skip
    if count * itemsize > _MAX_BYTES:
        raise TensorBoundsError("a tensor has more elements than can be counted", got=f"shape {list(shape)}")
