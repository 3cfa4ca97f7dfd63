"""Which stretches of a storage a strided view needs: few reads, with little between that nobody wants."""

from collections.abc import Iterator
from itertools import product
from typing import Final, NamedTuple

from weighlock.inspection.slicing import View

__all__ = ["Block", "batches"]

_MOST: Final = 8 << 20
_AT_ONCE: Final = 64 << 20


class Block(NamedTuple):
    """A stretch of bytes that is read at once, and the part of the view that it holds.

    Attributes
    ----------
    low, nbytes : int
        From the storage's start.
    start, shape : tuple of int
        The part: its first index in each dimension of the view, and its lengths.
    offset : int
        Where in the stretch the part's first element lies, in bytes.
    """

    low: int
    nbytes: int
    start: tuple[int, ...]
    shape: tuple[int, ...]
    offset: int


def batches(view: View, size: int, gap: int) -> Iterator[list[Block]]:
    """Yield the stretches of a view, as many together as may be held in memory at a time; see `blocks`."""
    batch: list[Block] = []
    held = 0
    for block in blocks(view, size, gap):
        batch.append(block)
        held += block.nbytes
        if held >= _AT_ONCE:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def blocks(view: View, size: int, gap: int) -> Iterator[Block]:
    """Cut a view into stretches without larger gaps inside than `gap` bytes, of at most 8 MiB where that can be.

    Parameters
    ----------
    view : View
        In elements of `size` bytes. Strides may be negative or 0.

    Examples
    --------
    >>> rows = View(0, (2, 3), (1000, 1), ())
    >>> [(block.low, block.nbytes) for block in blocks(rows, 4, gap=100)]
    [(0, 12), (4000, 12)]
    """
    if 0 in view.shape:
        return
    lengths = _lengths(view, size, gap)
    for start in product(*(range(0, length, piece) for length, piece in zip(view.shape, lengths, strict=True))):
        shape = tuple(min(piece, length - at) for piece, length, at in zip(lengths, view.shape, start, strict=True))
        first = view.offset + sum(at * step for at, step in zip(start, view.stride, strict=True))
        ends = [(length - 1) * step for length, step in zip(shape, view.stride, strict=True)]
        low = first + sum(end for end in ends if end < 0)
        high = first + sum(end for end in ends if end > 0) + 1
        yield Block(low * size, (high - low) * size, start, shape, (first - low) * size)


def _lengths(view: View, size: int, gap: int) -> list[int]:
    """Return how many indices along each dimension one block holds: of the closest dimensions as many as fit."""
    lengths = [1] * len(view.shape)
    span = size
    for axis in sorted(range(len(view.shape)), key=lambda axis: abs(view.stride[axis])):
        step, length = abs(view.stride[axis]) * size, view.shape[axis]
        if length > 1 and step - span > gap:
            break
        lengths[axis] = min(length, 1 + max(0, _MOST - span) // step) if step else length
        span += (lengths[axis] - 1) * step
        if lengths[axis] < length:
            break
    return lengths
