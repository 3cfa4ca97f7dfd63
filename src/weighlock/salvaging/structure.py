"""The object of a damaged checkpoint as its pickle describes it, without what is lost.

Every name is inert and every call a `Stub`, so that nothing is understood that need not be: what is kept is written as
it stood. A call that needs a lost storage is lost as a whole, with all calls around it that need its result; it leaves
the dictionary, attribute or list that holds it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final, NamedTuple

from weighlock.errors import LimitError, PickleStreamError
from weighlock.formats.reading import allowlist_with
from weighlock.formats.torchscript import VALUE_ROWS
from weighlock.limits import Limits
from weighlock.pickling.allowlist import Allowlist
from weighlock.pickling.inert import GlobalRef, Stub
from weighlock.pickling.reductions import Persistent
from weighlock.pickling.unpickler import Unpickler
from weighlock.tensors.leaves import Leaves
from weighlock.tensors.rebuild import StorageClass

__all__ = ["LOST", "Leaf", "StoragePlace", "Structure", "describe", "nbytes_of", "unit_of"]


class _Lost:
    """What stands, while lost tensors are taken out, for one that is to leave its container."""


LOST: Final = _Lost()

_PLAIN: Final = frozenset({str, bytes, bytearray, int, float, complex, bool, type(None), GlobalRef})
_PAIRS: Final = frozenset({"collections.OrderedDict", "collections.defaultdict", "__builtin__.dict", "builtins.dict"})


class StoragePlace:
    """A storage as the pickle names it; `persistent` is written for it."""

    __slots__ = ("key", "kind", "location", "numel", "persistent", "view")

    def __init__(self, pid: tuple[Any, ...]) -> None:
        _, self.kind, self.key, self.location, self.numel = pid[:5]
        self.view = pid[5] if len(pid) > 5 else None
        self.persistent = Persistent(pid)


class Leaf(NamedTuple):
    """One object with data of its own: where it stands, and its storages."""

    path: tuple[Any, ...]
    value: Any
    places: tuple[StoragePlace, ...]


class Structure:
    """An object that was described.

    Attributes
    ----------
    object : object
    mentions : list of StoragePlace
        Each time that the pickle names a storage.
    places : dict of str to StoragePlace
        Each storage, as it is named first.
    end : int
        Where the pickle ends.
    is_script : bool
        Whether it names classes of a TorchScript program.
    """

    def __init__(self, made: Any, mentions: list[StoragePlace], end: int, *, is_script: bool = False) -> None:
        self.object = made
        self.mentions = mentions
        self.places: dict[str, StoragePlace] = {}
        for place in mentions:
            self.places.setdefault(place.key, place)
        self.end = end
        self.is_script = is_script
        self._within: dict[int, tuple[StoragePlace, ...]] = {}
        self._kept: list[Any] = []

    # Reason for recursion: a tree that is nested deeper than Python's own stack is refused, and no checkpoint is.
    def leaves(self, *, again: bool = False) -> list[Leaf]:
        """Return each object with data of its own, at the first place where it stands; with `again`, at each."""
        found: list[Leaf] = []
        seen: set[int] = set()
        try:
            self._visit((), self.object, found, seen, again=again)
        except RecursionError:
            raise _too_deep() from None
        return found

    def _visit(self, path: tuple[Any, ...], value: Any, found: list[Leaf], seen: set[int], *, again: bool) -> None:
        kind = type(value)
        if kind in _PLAIN:
            return
        if kind is StoragePlace:
            found.append(Leaf(path, value, (value,)))
            return
        known = id(value) in seen
        if known and not again:
            return
        seen.add(id(value))
        places = self.needed(value) if kind is Stub else ()
        if places:
            found.append(Leaf(path, value, places))
        elif not known:
            for part, child in _held(value):
                self._visit((*path, part), child, found, seen, again=again)

    def needed(self, value: Any) -> tuple[StoragePlace, ...]:
        """Return the storages without which an object cannot be made; not those of what it merely holds."""
        kind = type(value)
        if kind is StoragePlace:
            return (value,)
        if kind in _PLAIN or kind not in (Stub, tuple, list, dict, set, frozenset):
            return ()
        known = self._within.get(id(value))
        if known is not None:
            return known
        self._within[id(value)] = ()
        self._kept.append(value)
        parts: list[Any] = []
        if kind is Stub:
            if value.global_ref.full_name not in _PAIRS:
                parts = [*value.args, *value.kwargs.values()]
            if not _is_attributes(value.state):
                parts.append(value.state)
        else:
            parts = list(value.values()) if kind is dict else list(value)
        places = [place for part in parts for place in self.needed(part)]
        self._within[id(value)] = found = tuple({id(place): place for place in places}.values())
        return found

    def renumber(self, keys: Mapping[str, int]) -> None:
        """Have the storages written under new keys."""
        for place in self.mentions:
            mark, kind, key, *rest = place.persistent.pid
            if key in keys:
                place.persistent.pid = (mark, kind, str(keys[key]), *rest)

    def without(self, lost: Callable[[tuple[StoragePlace, ...]], bool], refused: Collection[int] = ()) -> Any:
        """Take out what needs a lost storage, and leaves of these ids; return the object, or `LOST`.

        Dictionaries and attributes lose the key. In lists and tuples None takes the place, so that the others keep
        their numbers.
        """
        try:
            return _Pruning(self, lost, refused).pruned(self.object)
        except RecursionError:
            raise _too_deep() from None


def _too_deep() -> LimitError:
    return LimitError("the object is nested too deeply to be taken apart", expected="at most some 300 levels")


def _is_attributes(state: Any) -> bool:
    """Whether a state is what an object holds: its `__dict__`, or that and its slots."""
    parts = state if type(state) is tuple and len(state) == 2 else (state,)
    return all(part is None or type(part) is dict or _is_mapping(part) for part in parts)


def _is_mapping(value: Any) -> bool:
    return type(value) is Stub and value.global_ref.full_name in _PAIRS


def _held(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield what a container holds, by key, index or attribute name."""
    kind = type(value)
    if kind is dict:
        yield from value.items()
    elif kind in (list, tuple, set, frozenset):
        yield from enumerate(value)
    elif kind is Stub:
        if _is_mapping(value):
            yield from _pairs(value.args)
        for part in value.state if type(value.state) is tuple else (value.state,):
            if type(part) is dict:
                yield from part.items()
            elif part is not None:
                yield from _held(part)
        yield from enumerate(value.items)
        yield from value.entries


def _pairs(args: tuple[Any, ...]) -> Iterator[tuple[Any, Any]]:
    """Yield the pairs that Python 2 gives an OrderedDict as its one argument."""
    for arg in args:
        if type(arg) is dict:
            yield from arg.items()
        elif type(arg) is list:
            yield from ((pair[0], pair[1]) for pair in arg if type(pair) in (list, tuple) and len(pair) == 2)


class _Pruning:
    """One removal of what is lost; containers are changed where they are, so that what shares them still does."""

    def __init__(
        self, structure: Structure, lost: Callable[[tuple[StoragePlace, ...]], bool], refused: Collection[int]
    ) -> None:
        self._structure = structure
        self._lost = lost
        self._refused = refused
        self._done: dict[int, Any] = {}
        self._kept: list[Any] = []

    def pruned(self, value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if id(value) in self._done:
            return self._done[id(value)]
        self._kept.append(value)
        self._done[id(value)] = value
        made = self._done[id(value)] = self._made(kind, value)
        return made

    def _made(self, kind: type, value: Any) -> Any:
        if id(value) in self._refused:
            return LOST
        if kind is StoragePlace:
            return LOST if self._lost((value,)) else value.persistent
        if kind is Stub:
            return self._stub(value)
        if kind is dict:
            pairs = [(key, self.pruned(item)) for key, item in value.items()]
            value.clear()
            value.update(pair for pair in pairs if pair[1] is not LOST)
        elif kind is list:
            value[:] = map(self._item, value)
        elif kind is set or kind is frozenset:
            for item in value:
                self.pruned(item)
        elif kind is tuple:
            items = tuple(map(self._item, value))
            return value if all(a is b for a, b in zip(items, value, strict=True)) else items
        return value

    def _item(self, value: Any) -> Any:
        made = self.pruned(value)
        return None if made is LOST else made

    def _stub(self, stub: Stub) -> Any:
        needed = self._structure.needed(stub)
        if needed and self._lost(needed):
            return LOST
        if _is_mapping(stub):
            stub.args = tuple(map(self._without_pairs, stub.args))
        else:
            stub.args = tuple(map(self._item, stub.args))
        stub.kwargs = {key: self._item(value) for key, value in stub.kwargs.items()}
        if stub.state is not None:
            stub.state = self._item(stub.state)
        stub.items = list(map(self._item, stub.items))
        entries = [(key, self.pruned(value)) for key, value in stub.entries]
        stub.entries = [pair for pair in entries if pair[1] is not LOST]
        return stub

    def _without_pairs(self, arg: Any) -> Any:
        if type(arg) is list:
            made = [
                pair if type(pair) not in (list, tuple) or len(pair) != 2 else (pair[0], self.pruned(pair[1]))
                for pair in arg
            ]
            arg[:] = [list(pair) for pair in made if pair[1] is not LOST]
            return arg
        return self._item(arg)


# ----------------------------------------------------------------------------------------------------- in and out


def describe(data: bytes, limits: Limits, *, start: int = 0) -> Structure:
    """Run a pickle as a description; in one of TorchScript, lists are lists, whatever says their types.

    Raises
    ------
    PickleStreamError
        If it is malformed, or names something outside of it that is no storage.
    LimitError
        If it asks for more than its own bytes justify.
    """
    made = _described(data, limits, start, Allowlist())
    return _described(data, limits, start, Allowlist(VALUE_ROWS)) if made.is_script else made


def _described(data: bytes, limits: Limits, start: int, table: Allowlist) -> Structure:
    mentions: list[StoragePlace] = []

    def persistent_load(pid: Any) -> Any:
        if type(pid) is tuple and len(pid) == 4 and pid[0] == "module":
            return pid[1]  # a class of a whole pickled module: its source text is for a warning only
        mentions.append(_place(pid))
        return mentions[-1]

    machine = Unpickler(data, table, Leaves(), persistent_load, start=start, limits=limits)
    made = machine.load()
    is_script = any(module.partition(".")[0] == "__torch__" for module, _ in machine.globals_seen)
    return Structure(made, mentions, machine.end, is_script=is_script)


def _place(pid: Any) -> StoragePlace:
    if (
        type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage" or type(pid[1]) is not GlobalRef
        or not isinstance(pid[2], str | int) or type(pid[3]) is not str or type(pid[4]) is not int or pid[4] < 0
    ):  # fmt: skip
        raise PickleStreamError("a persistent id that is no storage", got=repr(pid)[:60])
    return StoragePlace((pid[0], pid[1], str(pid[2]), *pid[3:]))


def unit_of(place: StoragePlace) -> int:
    """Return how many bytes one element of a storage takes.

    Raises
    ------
    PickleStreamError
        If its class is unknown.
    """
    found = _CLASSES.find(place.kind.module, place.kind.name)
    if not isinstance(found, StorageClass):
        raise PickleStreamError("a storage of an unknown class", got=place.kind.full_name)
    return found.dtype.itemsize


def nbytes_of(place: StoragePlace) -> int:
    """Return how many bytes a storage takes; raises as `unit_of`."""
    return int(place.numel) * unit_of(place)


_CLASSES: Final = allowlist_with()
