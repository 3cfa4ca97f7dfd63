"""One walk over a checkpoint's object that notes all that a report needs: tensors, stubs, classes, storages.

It is iterative and linear in the size of the pickle. A tensor that stands at several places is listed at each of them;
a container is entered once, under the first path that leads to it.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from weighlock.checkpoint import Checkpoint
from weighlock.formats.collector import collector_paused
from weighlock.inspection.leaves import LEAVES, Leaf, Part, describe, strided_parts
from weighlock.inspection.paths import key_text
from weighlock.objects import children
from weighlock.pickling.inert import Described, GlobalRef, Stub
from weighlock.storages.refs import StorageRef
from weighlock.tensors.spec import SubclassSpec, TensorSpec

__all__ = ["Inventory", "StubRow", "TensorRow", "take_inventory", "tensors"]

_PLAIN: Final = frozenset({str, bytes, bytearray, int, float, complex, bool, type(None)})
# One byte of a pickle makes an empty one: a megabyte of them is passed over, not walked.
_CONTAINERS: Final = frozenset({list, tuple, dict, set, frozenset})
_SEQUENCES: Final = _CONTAINERS - {dict}

# A megabyte of pickle can name one tensor a hundred thousand times below one key of a megabyte. What is listed is
# bounded by this much text of paths per byte of the file, and this much for free.
_PATH_WORK_PER_BYTE: Final = 4
_FREE_PATH_WORK: Final = 64 << 20

_PLACES_KEPT: Final = 5
# What lies deeper is listed nowhere: each level costs a byte in the file, and hundreds in a walk.
_DEEPEST: Final = 100_000


class Place:
    """Where an object stands: the path element that leads to it, and the place above."""

    __slots__ = ("_path", "cost", "parent", "part", "top")

    cost: int

    def __init__(self, parent: "Place | None", part: Any, top: int) -> None:
        self.parent = parent
        self.part = part
        self.top = top
        self.cost = _cost(part) + (parent.cost if parent is not None else 0)
        self._path: tuple[Any, ...] | None = None

    def path(self) -> tuple[Any, ...]:
        if self._path is None:
            self._path = self._collected()
        return self._path

    def _collected(self) -> tuple[Any, ...]:
        parts = []
        here: Place | None = self
        while here is not None and here.parent is not None:
            parts.append(here.part)
            here = here.parent
        return tuple(reversed(parts))


def _cost(part: Any) -> int:
    """Return how much text a path element is, about."""
    return (len(part) if type(part) is str else 8) + 1


class TensorRow(NamedTuple):
    """One tensor (or NumPy array) of a checkpoint, at one place.

    Attributes
    ----------
    index : int
        Its number in the file's order, from 0.
    path : tuple
        The keys, indices and attribute names that lead to it.
    leaf : Leaf
        Element type, shape, layout and the like.
    storage : str or None
        The key of the storage that holds its values; None where there is none.
    storage_offset : int or None
        In elements.
    alias_of : int or None
        The index of the first row that is the same view of the same storage, and so holds the same values.
    spec : object
        The description itself.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which no row needs
    path: tuple[Any, ...]
    leaf: Leaf
    storage: str | None
    storage_offset: int | None
    alias_of: int | None
    spec: Any

    @property
    def key(self) -> str:
        """The path as people write it, joined by dots. `path` is the truth: a key may hold dots itself."""
        return key_text(self.path)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The strided tensors that it is made of, by name, the one with the values first."""
        return strided_parts(self.spec)


class StubRow(NamedTuple):
    """One object of a class that was not built."""

    path: tuple[Any, ...]
    name: str


class Inventory:
    """What one walk has noted.

    Attributes
    ----------
    rows : list of TensorRow
    stubs : list of StubRow
    places : dict of str to list of tuple
        For each class that was not built, the first paths where it stands.
    storages : dict of StorageRef to str
        Each storage, with a name that is unique in this report.
    tops : dict of int to int
        How many tensors each thing at the top level holds, by its position there.
    gaps : list of str
        What was not looked at, and why.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.rows: list[TensorRow] = []
        self.stubs: list[StubRow] = []
        self.places: dict[str, list[tuple[Any, ...]]] = {}
        self.storages: dict[StorageRef, str] = {}
        self.tops: dict[int, int] = {}
        self.gaps: list[str] = []
        self._names: set[str] = set()
        self._seen: set[int] = set()
        self._firsts: dict[Any, int] = {}
        self._first_views: dict[StorageRef, int] = {}
        self._work = _FREE_PATH_WORK + _PATH_WORK_PER_BYTE * checkpoint.size
        for ref in checkpoint.storages.values():
            self.storage_name(ref)

    def storage_name(self, ref: StorageRef) -> str:
        """Return the name of a storage in this report: its key, made unique where two files in one use it."""
        found = self.storages.get(ref)
        if found is None:
            found = ref.key if ref.key not in self._names else f"{ref.key}#{len(self.storages)}"
            self._names.add(found)
            self.storages[ref] = found
        return found

    def visit(self, place: Place, value: Any) -> Iterator[tuple[Any, Any]] | None:
        """Note one object; return what it holds where that is to be visited too."""
        kind = type(value)
        if kind in LEAVES:
            return self._leaf(place, value)
        if id(value) in self._seen:
            return None
        self._seen.add(id(value))
        if kind is Stub:
            self._note_stub(place, value)
            return value.children()  # type: ignore[no-any-return]
        if isinstance(value, GlobalRef):
            self._note_place(value, place)
            return None
        if kind is StorageRef:
            self.storage_name(value)
            return None
        if kind in _SEQUENCES and _PLAIN.issuperset(map(type, value)):
            return None  # a list of numbers: looked at a hundred times faster
        return children(value)

    def tensor(self, above: Place, part: Any, top: int, spec: TensorSpec) -> None:
        """Note a strided tensor without attributes, which nearly all are: no object is made for its place."""
        if not self._afford(above.cost + _cost(part)):
            return
        leaf = describe(spec)
        rows, ref = self.rows, spec.ref
        first = index = len(rows)
        if leaf.nbytes:
            first = self._first_view(ref, index)
            if first != index:
                first = self._firsts.setdefault(_views(leaf.layout, (("", spec),)), index)
        rows.append(
            TensorRow(index, (*above.path(), part), leaf, self.storages.get(ref) or self.storage_name(ref), spec.offset,
                      None if first == index else first, spec)
        )  # fmt: skip
        self.tops[top] = self.tops.get(top, 0) + 1

    def _first_view(self, ref: StorageRef, index: int) -> int:
        """Return `index` for the first view of a storage; nearly every one has no more.

        What the first one is, is told in full when a second one comes.
        """
        first = self._first_views.setdefault(ref, index)
        if first != index and first >= 0:
            row = self.rows[first]
            self._firsts.setdefault(_views(row.leaf.layout, row.parts), first)
            self._first_views[ref] = -1
        return first

    def finish(self) -> None:
        """Let go of what only the walk needs: a third of what the rows take."""
        self._seen, self._names, self._firsts, self._first_views = set(), set(), {}, {}

    def _afford(self, cost: int) -> bool:
        self._work -= cost
        if self._work < 0 and not self.gaps:
            self.gaps.append("the paths in this file are out of all proportion to its size; the rest is not listed")
        return self._work >= 0

    def note_depth(self) -> None:
        """Note that something lies too deeply to be listed."""
        text = f"objects lie in each other more than {_DEEPEST:,} levels deep; what is deeper is not listed"
        if text not in self.gaps:
            self.gaps.append(text)

    def _leaf(self, place: Place, spec: Any) -> Iterator[tuple[Any, Any]] | None:
        if not self._afford(place.cost):
            return None
        self._add_row(place, spec)
        if id(spec) in self._seen:
            return None
        self._seen.add(id(spec))
        if type(spec) is TensorSpec:
            return None if spec.attributes is None else iter([("attributes", spec.attributes)])
        if type(spec) is SubclassSpec:
            if isinstance(spec.cls, GlobalRef):
                self._note_place(spec.cls, place)
            return iter([("state", spec.state)])
        return None

    def _add_row(self, place: Place, spec: Any) -> None:
        leaf = describe(spec)
        index = first = len(self.rows)
        parts = strided_parts(spec)
        refs = [part.ref for _, part in parts]
        names = [self.storage_name(ref) for ref in refs]
        if leaf.nbytes:
            if len(refs) == 1:
                self._first_view(refs[0], index)
            first = self._firsts.setdefault(_views(leaf.layout, parts) if refs else id(spec), index)
        storage, offset = (names[0], parts[0][1].offset) if refs else (None, None)
        alias = None if first == index else first
        self.rows.append(TensorRow(index, place.path(), leaf, storage, offset, alias, spec))
        self.tops[place.top] = self.tops.get(place.top, 0) + 1

    def _note_stub(self, place: Place, stub: Stub) -> None:
        if self._afford(place.cost):
            self.stubs.append(StubRow(place.path(), stub.global_ref.full_name))
            self._note_place(stub.global_ref, place)

    def _note_place(self, ref: GlobalRef, place: Place) -> None:
        if isinstance(ref, Described):
            return
        places = self.places.setdefault(ref.full_name, [])
        if len(places) < _PLACES_KEPT:
            places.append(place.path())


def _views(layout: str, parts: tuple[Part, ...]) -> tuple[Any, ...]:
    """Return what two rows have in common that hold the same values."""
    return layout, *[
        (part.ref, part.offset, part.shape, part.stride, part.dtype, part.conj, part.neg) for _, part in parts
    ]


def take_inventory(checkpoint: Checkpoint) -> Inventory:
    """Walk the checkpoint's object once."""
    with collector_paused():
        return _walked(checkpoint)


def _walked(checkpoint: Checkpoint) -> Inventory:
    found = Inventory(checkpoint)
    root = Place(None, None, -1)
    held = found.visit(root, checkpoint.object)
    pending: list[tuple[Place, Iterator[tuple[Any, Any]]]] = [] if held is None else [(root, held)]
    top = 0
    while pending:
        above, steps = pending[-1]
        for part, value in steps:
            if above is root:
                top += 1
            kind = type(value)
            if kind in _PLAIN or (kind in _CONTAINERS and not value):
                continue
            if kind is TensorSpec and value.attributes is None:
                found.tensor(above, part, top - 1, value)
                continue
            place = Place(above, part, top - 1)
            held = found.visit(place, value)
            if held is not None and len(pending) < _DEEPEST:
                pending.append((place, held))
                break
            if held is not None:
                found.note_depth()
        else:
            pending.pop()
    found.finish()
    return found


def tensors(checkpoint: Checkpoint) -> list[TensorRow]:
    """Return every tensor of a checkpoint in the file's order, once for each place where it stands.

    A sparse, quantized or nested tensor is one row; its `parts` are the strided tensors inside.

    Examples
    --------
    >>> import io, numpy, weighlock
    >>> file = io.BytesIO()
    >>> weighlock.save({"w": numpy.zeros((2, 3), "f4")}, file)
    >>> _ = file.seek(0)
    >>> [(row.key, row.leaf.shape) for row in tensors(weighlock.read_checkpoint(file))]
    [('w', (2, 3))]
    """
    return take_inventory(checkpoint).rows
