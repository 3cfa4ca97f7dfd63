"""Who shares which bytes: tensors that are the same view, views that overlap, and bytes that no tensor uses."""

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Final, NamedTuple

from weighlock.inspection.inventory import Inventory, TensorRow
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


_Views = dict[tuple[int, tuple[int, ...], tuple[int, ...], int], tuple[TensorSpec, list[int]]]


def _views_by_storage(rows: Iterable[TensorRow]) -> dict[int, _Views]:
    found: dict[int, _Views] = {}
    for row in rows:
        for _, part in row.leaf.parts:
            views = found.setdefault(id(part.ref), {})
            key = (part.offset, part.shape, part.stride, part.dtype.itemsize)
            views.setdefault(key, (part, []))[1].append(row.index)
    return found


def storage_rows(inventory: Inventory) -> list[StorageRow]:
    """Return every storage of the checkpoint with what uses it, in the file's order."""
    by_storage = _views_by_storage(inventory.rows)
    allowed = _MAX_ALL_PIECES
    made = []
    for identity, (name, ref) in inventory.storages.items():
        views = list(by_storage.get(identity, {}).values())
        used = _only_view(views[0][0]) if len(views) == 1 else None
        overlapping: set[int] = set()
        if used is None:
            pieces = []
            for number, (spec, _) in enumerate(views):
                own = _pieces(spec, allowed)
                allowed -= len(own)
                pieces += [(start, end, number) for start, end in own]
            used, overlapping = _sweep(pieces)
        tensors = tuple(dict.fromkeys(index for _, indices in views for index in indices))
        twice = tuple(index for number, (_, indices) in enumerate(views) if number in overlapping for index in indices)
        nbytes = 0 if ref.location == "meta" else ref.nbytes
        made.append(StorageRow(name, nbytes, used, ref.location, ref.byteorder, ref.record, tensors, twice))
    return made


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
