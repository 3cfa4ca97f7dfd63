"""Who shares which bytes: tensors that are the same view, views that overlap, and bytes that no tensor uses."""

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any, Final, NamedTuple

from weighlock.inspection.inventory import Inventory, TensorRow
from weighlock.storages.refs import StorageRef
from weighlock.tensors.layout import reach
from weighlock.tensors.spec import TensorSpec

__all__ = ["StorageRow", "alias_groups", "storage_rows"]

# A view of every second column is many short pieces. Up to this many are counted one by one, per view and per file;
# beyond that a view counts as everything between its first and its last byte.
_MAX_PIECES: Final = 4096
_MAX_ALL_PIECES: Final = 1 << 20

Piece = tuple[int, int]


class StorageRow(NamedTuple):
    """One storage of a checkpoint.

    Attributes
    ----------
    name : str
        Its key in the file.
    nbytes, used : int
        Its length, and how much of it any tensor uses.
    tensors : tuple of int
        The rows that lie in it.
    overlapping : tuple of int
        Those of them that share bytes with another one without being the same view.
    """

    name: str
    nbytes: int
    used: int
    location: str
    byteorder: str
    member: str
    tensors: tuple[int, ...]
    overlapping: tuple[int, ...]


def alias_groups(rows: Iterable[TensorRow]) -> list[list[int]]:
    """Return the groups of rows that are one and the same view, each with its first row in front."""
    groups: dict[int, list[int]] = {}
    for row in rows:
        if row.alias_of is not None:
            groups.setdefault(row.alias_of, [row.alias_of]).append(row.index)
    return list(groups.values())


def _blocks(spec: TensorSpec) -> tuple[int, list[Piece]]:
    """Return the length of the view's unbroken pieces, and the (stride, length) of the dimensions that repeat them."""
    run = 1
    outer: list[Piece] = []
    steps = zip(spec.stride, spec.shape, strict=True)
    for step, length in sorted((step, length) for step, length in steps if length > 1):
        if not outer and step <= run:
            run += (length - 1) * step
        else:
            outer.append((step, length))
    return run, outer


def _pieces(spec: TensorSpec, allowed: int) -> list[Piece]:
    """Return the byte ranges that a view covers."""
    size = spec.dtype.itemsize
    end = reach(spec.offset, spec.shape, spec.stride)
    if not end:
        return []
    run, outer = _blocks(spec)
    count = 1
    for _, length in outer:
        count *= length
    if count > min(_MAX_PIECES, allowed):
        return [(spec.offset * size, end * size)]
    starts = (spec.offset + sum(steps) for steps in product(*(range(0, step * length, step) for step, length in outer)))
    return [(start * size, (start + run) * size) for start in starts]


_Lying = list[tuple[int, TensorSpec]]
"""The strided tensors in one storage, each with the row that it belongs to."""


def storage_rows(inventory: Inventory) -> list[StorageRow]:
    """Return every storage of the checkpoint with what uses it, in the file's order."""
    lying: dict[StorageRef, _Lying] = {}
    for row in inventory.rows:
        for _, part in row.parts:
            lying.setdefault(part.ref, []).append((row.index, part))
    allowed = _MAX_ALL_PIECES
    made = []
    for ref, name in inventory.storages.items():
        inside = lying.get(ref, [])
        used = _only_view(inside[0][1]) if len(inside) == 1 else None
        tensors: tuple[int, ...] = tuple([index for index, _ in inside])
        overlapping: tuple[int, ...] = ()
        if used is None:
            use = _use_of(inside, allowed)
            allowed -= use.pieces
            used, tensors, overlapping = use.used, tuple(dict.fromkeys(use.rows)), use.overlapping
        nbytes = 0 if ref.location == "meta" else ref.nbytes
        made.append(StorageRow(name, nbytes, used, ref.location, ref.byteorder, ref.record, tensors, overlapping))
    return made


class _Use(NamedTuple):
    """What uses one storage: how many bytes, which rows, view by view, those that overlap; pieces that were counted."""

    used: int
    rows: list[int]
    overlapping: tuple[int, ...]
    pieces: int


def _use_of(inside: _Lying, allowed: int) -> _Use:
    views: dict[Any, tuple[TensorSpec, list[int]]] = {}
    for index, part in inside:
        key = part.offset, part.shape, part.stride, part.dtype.itemsize
        views.setdefault(key, (part, []))[1].append(index)
    found = list(views.values())
    rows = [index for _, indices in found for index in indices]
    used = _only_view(found[0][0]) if len(found) == 1 else None
    if used is not None:
        return _Use(used, rows, (), 0)
    pieces: list[tuple[int, int, int]] = []
    for number, (spec, _) in enumerate(found):
        pieces += [(start, end, number) for start, end in _pieces(spec, allowed - len(pieces))]
    used, twice = _sweep(pieces)
    overlapping = tuple(index for number, (_, indices) in enumerate(found) if number in twice for index in indices)
    return _Use(used, rows, overlapping, len(pieces))


def _only_view(spec: TensorSpec) -> int | None:
    """Return the bytes that the only view of a storage covers; None where its pieces may overlap each other."""
    if not reach(spec.offset, spec.shape, spec.stride):
        return 0
    span, outer = _blocks(spec)
    run, count = span, 1
    for step, length in outer:
        if step < span:
            return None
        span += (length - 1) * step
        count *= length
    return run * count * spec.dtype.itemsize


def _sweep(pieces: list[tuple[int, int, int]]) -> tuple[int, set[int]]:
    """Return how many bytes the pieces cover together, and the views that share bytes with another."""
    used, reached, holder = 0, 0, -1
    overlapping: set[int] = set()
    for start, end, number in sorted(pieces):
        if start < reached and number != holder:
            overlapping |= {number, holder}
        used += max(0, end - max(start, reached))
        if end > reached:
            reached, holder = end, number
    return used, overlapping


def unused(rows: Iterable[StorageRow]) -> Iterator[StorageRow]:
    """Yield the storages of which a part is used by no tensor."""
    return (row for row in rows if row.used < row.nbytes)
