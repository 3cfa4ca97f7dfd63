"""The description of a checkpoint's object, changed in place: entries left out, renamed, moved.

A description belongs to whoever opened the file, so that nothing is copied: containers that stand at two places stay
one, and dictionaries keep their order, their class and their attributes.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Final, NamedTuple

from weighlock.errors import StateDictError, UnsupportedError
from weighlock.inspection.leaves import LEAVES
from weighlock.inspection.paths import key_text, part_text
from weighlock.objects import children
from weighlock.opening.naming import Path
from weighlock.pickling.inert import Stub
from weighlock.text import safe_text

__all__ = ["Slot", "Tree"]

_PLAIN: Final = frozenset({str, bytes, bytearray, int, float, complex, bool, type(None)})


class Slot(NamedTuple):
    """One place of a tree: a tensor, or a value that holds nothing.

    Attributes
    ----------
    path : tuple
    value : object
    chain : tuple of (holder, key)
        What holds it, from the outside in: the dictionary and the key in it; None for both where it is none.
    """

    path: Path
    value: Any
    chain: tuple[tuple[Any, Any], ...]

    @property
    def key(self) -> str:
        """The path as people write it."""
        return key_text(self.path)

    @property
    def is_tensor(self) -> bool:
        """Whether it is a tensor, of any kind."""
        return type(self.value) in LEAVES


class Tree:
    """The object of a checkpoint.

    Attributes
    ----------
    root : object
    """

    def __init__(self, root: Any) -> None:
        self.root = root

    def slots(self) -> list[Slot]:
        """Return every tensor and every value that holds nothing, in the file's order.

        A container that stands at several places is entered once. Attributes of dictionaries (`_metadata`) are not
        among them: they stay with their dictionary.
        """
        found: list[Slot] = []
        seen: set[int] = set()
        pending: list[Iterator[tuple[Path, Any, tuple[tuple[Any, Any], ...]]]] = [iter([((), self.root, ())])]
        while pending:
            step = next(pending[-1], None)
            if step is None:
                pending.pop()
                continue
            path, value, chain = step
            held = [] if type(value) in _PLAIN or type(value) in LEAVES else list(_held(value))
            if not held:
                found.append(Slot(path, value, chain))
            elif id(value) not in seen:
                seen.add(id(value))
                pending.append(_below(path, chain, held))
        return found

    def prune(self, unwanted: Callable[[Slot], bool]) -> list[Slot]:
        """Remove what is unwanted, with the containers that hold nothing else; return it.

        Raises
        ------
        UnsupportedError
            If it is an element of a list or tuple whose other elements stay.
        """
        slots = self.slots()
        dropped = [slot for slot in slots if unwanted(slot)]
        left = {id(slot) for slot in dropped}
        kept: set[Path] = set()
        for slot in slots:
            if id(slot) not in left:
                kept.update(slot.path[:size] for size in range(len(slot.path) + 1))
        gone: set[Path] = set()
        for slot in dropped:
            size = next((size for size in range(len(slot.path) + 1) if slot.path[:size] not in kept), len(slot.path))
            if not size:
                self.root = {}
                break
            top = slot.path[:size]
            if top not in gone:
                gone.add(top)
                _remove(slot, size)
        return dropped

    def rename(self, new_key: Callable[[Slot], str]) -> dict[str, str]:
        """Give places other keys; return the new key of each that has one.

        The part of a key that names containers which are there leads into them; what follows is one name in the last
        of them, except that names which end as the old path ended keep its structure.

        Raises
        ------
        StateDictError
            If two places would have one key.
        UnsupportedError
            If something would leave, or come into, what is no dictionary.
        """
        moves = [(slot, new) for slot in self.slots() if (new := new_key(slot)) != slot.key]
        within: dict[int, tuple[Any, dict[Any, Any]]] = {}
        others: list[tuple[Slot, Path]] = []
        for slot, new in moves:
            if not new:
                raise StateDictError("a name would be empty", got=slot.key)
            target = _target(slot, new)
            holder, key = slot.chain[-1] if slot.chain else (None, None)
            if holder is None:
                raise UnsupportedError("what stands in no dictionary has no name to change", object_path=slot.key)
            if target[:-1] == slot.path[:-1]:
                within.setdefault(id(holder), (holder, {}))[1][key] = target[-1]
            else:
                others.append((slot, target))
        for slot, _ in others:
            _remove(slot, len(slot.path))
        for holder, names in within.values():
            _rename_in(holder, names)
        for slot, target in others:
            self._put(target, slot.value)
        for slot, _ in reversed(others):
            _remove_empty(slot)
        return {slot.key: new for slot, new in moves}

    def hoist(self, key: str) -> bool:
        """Make the container with this key the root, where it is the only thing in it; return whether it was."""
        value, left = self.root, key
        while left:
            if not isinstance(value, Mapping) or len(value) != 1:
                return False
            name, value = next(iter(value.items()))
            if type(name) is not str or not (left == name or left.startswith(f"{name}.")):
                return False
            left = left[len(name) + 1 :]
        if not isinstance(value, Mapping):
            return False
        self.root = value
        return True

    def _put(self, path: Path, value: Any) -> None:
        holder = self.root
        for part in path[:-1]:
            if isinstance(holder, MutableMapping) and part not in holder:
                holder[part] = {}
            holder = dict(_steps(holder)).get(part)
        if not isinstance(holder, MutableMapping):
            raise UnsupportedError("a tensor can be moved into dictionaries only", object_path=key_text(path))
        if path[-1] in holder:
            raise StateDictError("two entries would have one name", got=safe_text(key_text(path)))
        holder[path[-1]] = value


_Held = list[tuple[Any, Any, tuple[Any, Any]]]
_Chain = tuple[tuple[Any, Any], ...]


def _below(path: Path, chain: _Chain, held: _Held) -> Iterator[tuple[Path, Any, _Chain]]:
    for part, child, slot in held:
        yield (*path, part), child, (*chain, slot)


def _steps(value: Any) -> Iterator[tuple[Any, Any]]:
    return ((part, child) for part, child, _ in _held(value))


def _held(value: Any) -> Iterator[tuple[Any, Any, tuple[Any, Any]]]:
    """Yield the path element and the value of all that something holds, and the dictionary that it stands in."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield key, child, (value, key)
        return
    states = _states(value)
    for part, child in value.children() if type(value) is Stub else children(value):
        if part in ("<key>", "<class>"):
            continue
        holder = next((state for state in states if part in state and state[part] is child), None)
        yield part, child, (holder, part if holder is not None else None)


def _states(value: Any) -> list[dict[Any, Any]]:
    if type(value) is Stub:
        parts = value.state if isinstance(value.state, tuple) and len(value.state) == 2 else (value.state,)
        return [part for part in parts if isinstance(part, dict)]
    attributes = getattr(value, "__dict__", None)
    return [attributes] if isinstance(attributes, dict) else []


def _remove(slot: Slot, size: int) -> None:
    """Remove what stands at the first `size` elements of a place's path."""
    holder, key = slot.chain[size - 1]
    if holder is None:
        raise UnsupportedError(
            "an element of a list, tuple or set cannot be left out by itself: those behind it would move",
            object_path=key_text(slot.path[:size]), hint="Leave out all of it, or nothing.",
        )  # fmt: skip
    holder.pop(key, None)


def _remove_empty(slot: Slot) -> None:
    """Remove the dictionaries that are empty since a place was moved out of them."""
    for size in range(len(slot.chain) - 1, 0, -1):
        inner = slot.chain[size][0]
        holder, key = slot.chain[size - 1]
        if inner is None or inner or holder is None:
            return
        holder.pop(key, None)


def _target(slot: Slot, new: str) -> Path:
    """Return the path that a new key leads to."""
    texts = [part_text(part) for part in slot.path]
    left, path = new, []
    for text, part in zip(texts[:-1], slot.path[:-1], strict=True):
        if not left.startswith(f"{text}."):
            break
        path.append(part)
        left = left[len(text) + 1 :]
    inner = slot.path[len(path) :]
    for size in range(len(inner), 0, -1):
        tail = ".".join(texts[len(texts) - size :])
        if size > 1 and left == tail:
            return (*path, *inner[len(inner) - size :])
        if left.endswith(f".{tail}") and (size > 1 or len(inner) > 1):
            return (*path, left[: -len(tail) - 1], *inner[len(inner) - size :])
    return (*path, left)


def _rename_in(holder: Any, names: Mapping[Any, str]) -> None:
    """Rename entries of a dictionary: its order stays."""
    items = list(holder.items())
    made: dict[Any, Any] = {}
    for key, value in items:
        name = names.get(key, key)
        if name in made:
            raise StateDictError("two entries would have one name", got=safe_text(part_text(name)))
        made[name] = value
    holder.clear()
    holder.update(made)
    metadata = getattr(holder, "_metadata", None)
    if isinstance(metadata, MutableMapping):
        modules = _modules(names)
        renamed = [(modules.get(key, key), value) for key, value in metadata.items()]
        metadata.clear()
        metadata.update(renamed)


def _modules(names: Mapping[Any, str]) -> dict[str, str]:
    """Return the new names of the modules whose tensors have other names: ``module.fc`` of ``module.fc.weight``."""
    found: dict[str, str] = {}
    for old, new in names.items():
        if type(old) is not str:
            continue
        before, after = old, new
        while before.rpartition(".")[2] == after.rpartition(".")[2] and "." in before:
            before, after = before.rpartition(".")[0], after.rpartition(".")[0]
            found.setdefault(before, after)
    return found
