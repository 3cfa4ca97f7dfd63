"""Which arrays share memory, and what of that memory they use together.

Arrays that share memory must share a storage, or loading them would tear them apart; arrays that merely lie in one
piece of memory must not, or a row of a large matrix would cost the matrix.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np

from weighlock.backends.numpy_layout import COMPACT, COPY, Layout, address, memory

__all__ = ["Group", "Member", "sharing"]

Array = np.ndarray[Any, Any]

# Whether two strided arrays share memory is a number-theoretic problem. What takes longer counts as shared, which
# keeps every tensor right and at worst stores elements that nobody uses.
_MAX_WORK: Final = 10_000
_MAX_PAIRS: Final = 20_000
# Up to so many arrays, NumPy's own calls take longer than a loop.
_FEW: Final = 500


class Member:
    """An array with its place in memory. `kind` says what tensor it becomes."""

    __slots__ = ("array", "end", "kind", "layout", "start")

    def __init__(self, array: Array, layout: Layout, kind: Any) -> None:
        self.array = array
        self.layout = layout
        self.kind = kind
        self.start = address(array)
        self.end = self.start + layout.nbytes


class Group:
    """Arrays that become one storage: the bytes from the first that any of them uses to the last.

    Attributes
    ----------
    key : str or None
        The storage's key, given when the first of them is met.
    mixed : bool
        Whether they are of different types, so that the storage has none.
    """

    __slots__ = ("end", "key", "members", "mixed", "start")

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        self.key: str | None = None
        self.start = min(member.start for member in members)
        self.end = max(member.end for member in members)
        self.mixed = len({member.kind.dtype for member in members}) > 1

    @property
    def nbytes(self) -> int:
        return self.end - self.start

    def buffer(self) -> memoryview:
        if self.members[0].layout.how == COPY:
            return _copied(self.members[0])
        return memory(self.start, self.nbytes, [member.array for member in self.members])


def _copied(member: Member) -> memoryview:
    made = np.ascontiguousarray(member.array, member.array.dtype.newbyteorder("="))
    return memory(address(made), made.nbytes, made)


def sharing(arrays: Iterable[tuple[Array, Layout, Any]]) -> list[Group]:
    """Return the groups of two and more arrays that share memory."""
    entries = [entry for entry in arrays if entry[1].span]
    if len(entries) <= _FEW and _apart(entries):
        return []
    starts = np.fromiter((address(entry[0]) for entry in entries), np.uint64, len(entries))
    lengths = np.fromiter((entry[1].nbytes for entry in entries), np.uint64, len(entries))
    copied: dict[Any, list[Member]] = {}
    kept = []
    for index, entry in enumerate(entries):
        if entry[1].how == COPY:
            copied.setdefault((int(starts[index]), entry[1]), []).append(Member(*entry))
        else:
            kept.append(index)
    groups = [Group(same) for same in copied.values() if len(same) > 1]
    chosen = np.array(kept, np.intp)
    for cluster in _clusters(starts[chosen], starts[chosen] + lengths[chosen]):
        for component in _components([Member(*entries[kept[index]]) for index in cluster]):
            groups += _aligned(component)
    return groups


def _apart(entries: list[tuple[Array, Layout, Any]]) -> bool:
    """Return whether a few arrays clearly share no memory; False where it takes a closer look."""
    spans = sorted((address(array), layout.nbytes) for array, layout, _ in entries)
    return all(start + size <= after for (start, size), (after, _) in pairwise(spans)) and not any(
        layout.how == COPY for _, layout, _ in entries
    )


def _clusters(starts: Array, ends: Array) -> list[list[int]]:
    """Cut ranges of memory where none spans from one side to the other; return those of two and more, by index."""
    order = np.argsort(starts, kind="stable")
    reached = np.maximum.accumulate(ends[order])
    cuts = np.flatnonzero(starts[order][1:] >= reached[:-1]) + 1
    if len(cuts) + 1 >= len(order):
        return []
    return [part.tolist() for part in np.split(order, cuts) if len(part) > 1]


def _components(cluster: list[Member]) -> list[list[Member]]:
    """Split a cluster into the sets that truly share memory: arrays with gaps may lie between each other's elements."""
    if all(member.layout.how != COMPACT for member in cluster):
        return [cluster]
    parents = list(range(len(cluster)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    pairs, active = _MAX_PAIRS, list[int]()
    for index, member in enumerate(cluster):
        active = [other for other in active if cluster[other].end > member.start]
        for other in active:
            if root(other) != root(index):
                pairs -= 1
                if pairs < 0 or _share(cluster[other], member):
                    parents[root(index)] = root(other)
        active.append(index)
    components: dict[int, list[Member]] = {}
    for index, member in enumerate(cluster):
        components.setdefault(root(index), []).append(member)
    return [component for component in components.values() if len(component) > 1]


def _share(one: Member, other: Member) -> bool:
    work: Any = _MAX_WORK  # NumPy's stubs know only its two special values
    try:
        return bool(np.shares_memory(one.array, other.array, max_work=work))
    except np.exceptions.TooHardError:
        return True


def _aligned(members: list[Member]) -> list[Group]:
    """Make groups in which every offset is a whole number of elements; what has no place in one stays alone."""
    groups = []
    while len(members) > 1:
        candidates = members
        if len({member.kind.dtype for member in members}) > 1:
            # Types that have no form in an untyped storage cannot share one with others.
            candidates = [member for member in members if not member.kind.typed]
            candidates = candidates or [member for member in members if member.kind.dtype is members[0].kind.dtype]
        start = min(member.start for member in candidates)
        fits = [member for member in candidates if (member.start - start) % member.layout.itemsize == 0]
        if len(fits) > 1:
            groups.append(Group(fits))
        taken = set(map(id, fits))
        members = [member for member in members if id(member) not in taken]
    return groups
