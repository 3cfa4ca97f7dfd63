"""What a checkpoint is and holds, on one page: the facts behind ``weighlock inspect``."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

from weighlock.checkpoint import Checkpoint
from weighlock.inspection.inventory import Inventory, StubRow, TensorRow, take_inventory
from weighlock.inspection.leaves import LEAVES
from weighlock.inspection.plain import kind_of, text_of
from weighlock.inspection.sharing import StorageRow, alias_groups, storage_rows
from weighlock.inspection.weights_only import refused_by_torch
from weighlock.objects import children
from weighlock.pickling.inert import Stub
from weighlock.tensors.spec import NumpyArraySpec

__all__ = ["DtypeShare", "GlobalRow", "Held", "Summary", "Totals", "narrowed", "summarize"]


class Totals(NamedTuple):
    """Counts of a whole checkpoint.

    Attributes
    ----------
    tensors, arrays : int
        Places where a tensor stands; NumPy arrays that were pickled as such.
    parameters : int
        Numbers in all tensors, each view of a storage counted once.
    tensor_bytes : int
        What these numbers take.
    storages, storage_bytes, unreferenced_bytes : int
        How many storages there are, their bytes, and those of them that no tensor uses.
    """

    tensors: int
    arrays: int
    parameters: int
    tensor_bytes: int
    storages: int
    storage_bytes: int
    unreferenced_bytes: int


class DtypeShare(NamedTuple):
    """How much of a checkpoint is of one element type; each view of a storage counts once."""

    dtype: str
    tensors: int
    parameters: int
    nbytes: int


class Held(NamedTuple):
    """One thing at the top level: `tensors` inside it, `items` if it is a container, `text` if it is a value."""

    key: Any
    kind: str
    tensors: int
    items: int | None
    text: str | None


class GlobalRow(NamedTuple):
    """A class or function that the file names: the byte where, whether it is known, and where unknown ones stand."""

    name: str
    offset: int
    known: bool
    paths: tuple[tuple[Any, ...], ...]


class Summary(NamedTuple):
    """Everything that ``weighlock inspect`` says of one file.

    Attributes
    ----------
    name, size, format, metadata
        As of the `Checkpoint`.
    kind : str
        What the whole object is: ``dict``, ``OrderedDict``, ``list``, a class that was not built ...
    held : tuple of Held
        What stands at its top level: the first 10,000.
    held_more, held_tensors : int
        How many more there are, and how many of all are tensors themselves.
    aliases : list of list of int
        Groups of rows that are one and the same view.
    unknown : tuple of str
        Classes that `weighlock.load` would refuse by default.
    refused_by_torch : tuple of str
        What ``torch.load(weights_only=True)`` would refuse, as far as the names tell.
    gaps : tuple of str
        What was not looked at; empty where all was.
    """

    name: str
    size: int
    format: str
    metadata: Mapping[str, Any]
    byteorder: str
    kind: str
    totals: Totals
    dtypes: tuple[DtypeShare, ...]
    held: tuple[Held, ...]
    held_more: int
    held_tensors: int
    tensors: list[TensorRow]
    storages: list[StorageRow]
    aliases: list[list[int]]
    stubs: list[StubRow]
    globals: tuple[GlobalRow, ...]
    unknown: tuple[str, ...]
    refused_by_torch: tuple[str, ...]
    gaps: tuple[str, ...]

    @property
    def opaque(self) -> list[TensorRow]:
        """The tensors of types that have no array type."""
        return [row for row in self.tensors if row.leaf.layout == "opaque"]

    @property
    def verdict(self) -> str:
        """One line: can it be loaded, and what would PyTorch say."""
        if self.unknown:
            count = len(self.unknown)
            what = f"names {count} unknown class{'es' if count > 1 else ''}: {_some(self.unknown)}; to load it, "
            what += 'pass on_unknown="stub" or name them with weighlock.add_safe_globals'
        elif self.opaque:
            types = _some(tuple(dict.fromkeys(row.leaf.dtype or "none" for row in self.opaque)))
            what = f"{len(self.opaque)} tensors are of types that can be listed, but not loaded: {types}"
        else:
            what = "OK to load with weighlock.load"
        if self.refused_by_torch:
            what += f"; torch.load(weights_only=True) would refuse {_some(self.refused_by_torch)}"
        return what


_NAMED: Final = 4


def _some(names: tuple[str, ...]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def summarize(checkpoint: Checkpoint, inventory: Inventory | None = None) -> Summary:
    """Return the facts of one checkpoint. Reads no tensor data.

    Parameters
    ----------
    checkpoint : Checkpoint
    inventory : Inventory, optional
        What `take_inventory` has found in it, where that was called already.

    Examples
    --------
    >>> import io, numpy, weighlock
    >>> file = io.BytesIO()
    >>> weighlock.save({"w": numpy.zeros((2, 3), "f4"), "epoch": 3}, file)
    >>> _ = file.seek(0)
    >>> summary = summarize(weighlock.read_checkpoint(file))
    >>> summary.totals.parameters, summary.verdict
    (6, 'OK to load with weighlock.load')
    """
    inventory = inventory or take_inventory(checkpoint)
    storages = storage_rows(inventory)
    places = inventory.places
    orders = {row.byteorder for row in storages}
    unknown = frozenset(checkpoint.unknown)
    held, held_more, held_tensors = _held(checkpoint.object, inventory)
    return Summary(
        name=checkpoint.name,
        size=checkpoint.size,
        format=checkpoint.format,
        metadata=checkpoint.metadata,
        byteorder=str(checkpoint.metadata.get("byteorder") or (orders.pop() if len(orders) == 1 else "little")),
        kind=kind_of(checkpoint.object),
        totals=_totals(inventory.rows, storages),
        dtypes=_shares(inventory.rows),
        held=held,
        held_more=held_more,
        held_tensors=held_tensors,
        tensors=inventory.rows,
        storages=storages,
        aliases=alias_groups(inventory.rows),
        stubs=inventory.stubs,
        globals=tuple(
            GlobalRow(name, offset, name not in unknown, tuple(places.get(name, ())))
            for name, offset in checkpoint.globals.items()
        ),
        unknown=checkpoint.unknown,
        refused_by_torch=refused_by_torch(checkpoint.format, checkpoint.globals),
        gaps=tuple(inventory.gaps),
    )


def narrowed(summary: Summary, wanted: Callable[[str], bool]) -> Summary:
    """Return a summary of the tensors whose keys are wanted; what is no tensor is that of the whole file.

    Indices stay those of the file. Of a storage, what any tensor uses counts as used.
    """
    rows = [row for row in summary.tensors if wanted(row.key)]
    kept = {row.index for row in rows}
    storages = [
        one._replace(
            tensors=tuple(index for index in one.tensors if index in kept),
            overlapping=tuple(index for index in one.overlapping if index in kept),
        )
        for one in summary.storages
    ]
    storages = [one for one in storages if one.tensors]
    groups = [[index for index in group if index in kept] for group in summary.aliases]
    return summary._replace(
        tensors=rows, storages=storages, totals=_totals(rows, storages), dtypes=_shares(rows),
        aliases=[group for group in groups if len(group) > 1],
    )  # fmt: skip


def _firsts(rows: list[TensorRow]) -> Iterator[TensorRow]:
    """Yield the first row of each view; the one that another is an alias of may not be among the rows."""
    seen = set()
    for row in rows:
        view = row.index if row.alias_of is None else row.alias_of
        if view not in seen and row.leaf.layout != "numpy":
            seen.add(view)
            yield row


def _totals(rows: list[TensorRow], storages: list[StorageRow]) -> Totals:
    own = [row.leaf for row in _firsts(rows)]
    arrays = sum(row.leaf.layout == "numpy" for row in rows)
    return Totals(
        tensors=len(rows) - arrays,
        arrays=arrays,
        parameters=sum(leaf.numel for leaf in own),
        tensor_bytes=sum(leaf.nbytes for leaf in own),
        storages=len(storages),
        storage_bytes=sum(row.nbytes for row in storages),
        unreferenced_bytes=sum(max(0, row.nbytes - row.used) for row in storages),
    )


def _shares(rows: list[TensorRow]) -> tuple[DtypeShare, ...]:
    counts: dict[str, list[int]] = {}
    for row in _firsts(rows):
        count = counts.setdefault(row.leaf.dtype or "none", [0, 0, 0])
        count[0] += 1
        count[1] += row.leaf.numel
        count[2] += row.leaf.nbytes
    made = (DtypeShare(dtype, *count) for dtype, count in counts.items())
    return tuple(sorted(made, key=lambda share: (-share.nbytes, share.dtype)))


# A byte of a pickle makes an entry, and an entry of a report two hundred bytes of text. Tensors are listed in any case.
_MOST_HELD: Final = 10_000
_TENSORS: Final = LEAVES - {NumpyArraySpec}


def _held(root: Any, inventory: Inventory) -> tuple[tuple[Held, ...], int, int]:
    """Return what stands at the top level, in the walk's own order and numbering; then two numbers, as `Summary`."""
    if type(root) in LEAVES:
        return (), 0, 0
    made = tuple(islice(_rows_held(root, inventory), _MOST_HELD))
    if len(made) < _MOST_HELD:
        return made, 0, sum(row.kind == "tensor" for row in made)
    pairs = root.children() if type(root) is Stub else children(root)
    kinds = Counter(type(value) for key, value in pairs if key != "<key>")
    return made, kinds.total() - len(made), sum(kinds[kind] for kind in _TENSORS)


def _rows_held(root: Any, inventory: Inventory) -> Iterator[Held]:
    pairs = root.children() if type(root) is Stub else children(root)
    for number, (key, value) in enumerate(pairs):
        if key == "<key>":
            continue
        size = _size(value)
        count = inventory.tops.get(number, 0)
        text = None if count or size is not None or type(value) in LEAVES or type(value) is Stub else text_of(value)
        yield Held(key, kind_of(value), count, size, text)


def _size(value: Any) -> int | None:
    """Return how much a container holds; None for what is none."""
    if isinstance(value, Mapping | list | tuple | set | frozenset) or type(value).__name__ == "deque":
        return len(value)
    return len(vars(value)) if type(value).__name__ in ("Namespace", "SimpleNamespace") else None
