"""The description of a checkpoint's object, changed in place: entries left out, renamed, moved.

A description belongs to whoever opened the file, so that nothing is copied: containers that stand at two places stay
one, and dictionaries keep their order, their class and their attributes.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Final

from weighlock.errors import LimitError, StateDictError, UnsupportedError
from weighlock.inspection.leaves import LEAVES
from weighlock.inspection.paths import key_text, part_text
from weighlock.objects import children
from weighlock.opening.naming import Path
from weighlock.pickling.inert import Stub
from weighlock.text import safe_text

__all__ = ["Slot", "Tree"]

_PLAIN: Final = frozenset({str, bytes, bytearray, int, float, complex, bool, type(None)})


# A megabyte of pickle can name one value a hundred thousand times below a key of a megabyte: so much text of keys per
# byte of the file, and so much for free, as in a listing.
_TEXT_PER_BYTE: Final = 4
_FREE_TEXT: Final = 64 << 20


class Node:
    """A step of a path, and the dictionary that it leads out of."""

    __slots__ = ("cost", "holder", "key", "parent", "part")

    cost: int

    def __init__(self, parent: "Node | None", part: Any, holder: Any, key: Any) -> None:
        self.parent = parent
        self.part = part
        self.holder = holder
        self.key = key
        self.cost = (len(part) if type(part) is str else 8) + 1 + (parent.cost if parent is not None else 0)

    def line(self) -> "list[Node]":
        """Return the steps from the outside in."""
        found: list[Node] = []
        here: Node | None = self
        while here is not None:
            found.append(here)
            here = here.parent
        return found[::-1]


class Slot:
    """One place of a tree: a tensor, or a value that holds nothing.

    Attributes
    ----------
    node : Node or None
        Where it stands; None for the whole object.
    value : object
    """

    __slots__ = ("node", "value")

    def __init__(self, node: Node | None, value: Any) -> None:
        self.node = node
        self.value = value

    @property
    def path(self) -> Path:
        """The keys, indices and attribute names that lead to it."""
        return tuple(step.part for step in self.node.line()) if self.node is not None else ()

    @property
    def key(self) -> str:
        """The path as people write it."""
        return key_text(self.path)

    @property
    def holder(self) -> tuple[Any, Any]:
        """The dictionary that holds it, and its key there; None for both where there is none."""
        return (self.node.holder, self.node.key) if self.node is not None else (None, None)

    @property
    def is_tensor(self) -> bool:
        """Whether it is a tensor, of any kind."""
        return type(self.value) in LEAVES


class Tree:
    """The object of a checkpoint.

    Parameters
    ----------
    root : object
    size : int
        The file's length in bytes, which bounds how much of its paths is looked at.
    """

    def __init__(self, root: Any, size: int) -> None:
        self.root = root
        self._budget = _FREE_TEXT + _TEXT_PER_BYTE * size

    def slots(self) -> list[Slot]:
        """Return every tensor and every value that holds nothing, in the file's order.

        A container that stands at several places is entered once. Attributes of dictionaries (`_metadata`) are not
        among them: they stay with their dictionary.

        Raises
        ------
        LimitError
            If the paths are out of all proportion to the file.
        """
        found: list[Slot] = []
        seen: set[int] = set()
        left = self._budget
        pending: list[Iterator[tuple[Node | None, Any]]] = [iter([(None, self.root)])]
        while pending:
            step = next(pending[-1], None)
            if step is None:
                pending.pop()
                continue
            node, value = step
            held = [] if type(value) in _PLAIN or type(value) in LEAVES else list(_held(value))
            if not held:
                found.append(Slot(node, value))
                left -= node.cost if node is not None else 0
                if left < 0:
                    raise LimitError("the paths in this file are out of all proportion to its size")
            elif id(value) not in seen:
                seen.add(id(value))
                pending.append(_below(node, held))
        return found

    def prune(self, unwanted: Callable[[Slot], bool]) -> list[Slot]:
        """Remove what is unwanted, with the containers that hold nothing else; return it.

        Raises
        ------
        UnsupportedError
            If it is an element of a list or tuple whose other elements stay.
        """
        dropped: list[Slot] = []
        kept: set[int] = set()
        for slot in self.slots():
            if unwanted(slot):
                dropped.append(slot)
                continue
            here = slot.node
            while here is not None and id(here) not in kept:
                kept.add(id(here))
                here = here.parent
            kept.add(0)  # the root
        if dropped and not kept:
            self.root = {}
            return dropped
        gone: set[int] = set()
        for slot in dropped:
            top = next(step for step in slot.node.line() if id(step) not in kept) if slot.node is not None else None
            if top is not None and id(top) not in gone:
                gone.add(id(top))
                _remove(top)
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
            holder, key = slot.holder
            if holder is None:
                raise UnsupportedError("what stands in no dictionary has no name to change", object_path=slot.key)
            if target[:-1] == slot.path[:-1]:
                within.setdefault(id(holder), (holder, {}))[1][key] = target[-1]
            else:
                others.append((slot, target))
        for slot, _ in others:
            if slot.node is not None:
                _remove(slot.node)
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


def _below(node: Node | None, held: list[tuple[Any, Any, tuple[Any, Any]]]) -> Iterator[tuple[Node, Any]]:
    for part, child, (holder, key) in held:
        yield Node(node, part, holder, key), child


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


def _remove(node: Node) -> None:
    """Remove what stands at a place."""
    if node.holder is None:
        raise UnsupportedError(
            "an element of a list, tuple or set cannot be left out by itself: those behind it would move",
            object_path=key_text(tuple(step.part for step in node.line())), hint="Leave out all of it, or nothing.",
        )  # fmt: skip
    node.holder.pop(node.key, None)


def _remove_empty(slot: Slot) -> None:
    """Remove the dictionaries that are empty since a place was moved out of them."""
    here = slot.node
    while here is not None and here.parent is not None:
        above = here.parent
        if here.holder is None or here.holder or above.holder is None:
            return
        above.holder.pop(above.key, None)
        here = above


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
