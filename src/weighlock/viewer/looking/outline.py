"""The names in a file as a tree, level by level: tensors first, then the plain values beside them."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from weighlock.inspection.folding import is_number, labels_of, ranges
from weighlock.inspection.inventory import TensorRow
from weighlock.inspection.plain import kind_of, text_of
from weighlock.objects import PathNode, children, path_of
from weighlock.opening.plain import plain_places
from weighlock.pickling.inert import Stub
from weighlock.viewer.bounds import MOST_VALUES
from weighlock.viewer.failures import NoSuchThingError
from weighlock.viewer.looking.facts import alias_of, shorter, size_of, text
from weighlock.viewer.looking.holding import ViewedFile

__all__ = ["Node", "children_of", "outline_of", "value_at"]

_NOTHING: Final[Mapping[str, "Node"]] = {}
_TEXT: Final = 10_000


class Node:
    """One name: a tensor by its number, a plain value, or what holds others."""

    __slots__ = ("children", "index", "nbytes", "structure", "tensors", "value")

    def __init__(self) -> None:
        self.children: dict[str, Node] | None = None
        self.index = -1
        self.value: Any = None
        self.nbytes = 0
        self.tensors = 0
        self.structure = -1

    @property
    def kind(self) -> str:
        """``"branch"``, ``"tensor"`` or ``"value"``."""
        return "branch" if self.children else "tensor" if self.index >= 0 else "value"

    def below(self, label: str) -> "Node":
        """Return the child of this name, a new one where there is none."""
        if self.children is None:
            self.children = {}
        found = self.children.get(label)
        if found is None:
            found = self.children[label] = Node()
        return found


def _tree(file: ViewedFile) -> Node:
    checkpoint = file.checkpoint
    root = Node()
    for row in file.rows:
        _leaf(root, labels_of(row.path), row).index = row.index
    for path, value in islice(_values(checkpoint.object), MOST_VALUES):
        _leaf(root, labels_of(path), None).value = value
    _number(root, file.rows, {})
    return root


def _leaf(root: Node, labels: Sequence[str], row: TensorRow | None) -> Node:
    """Return a new node for a place, and count it in all above it."""
    node = root
    above = [root]
    for label in labels[:-1]:
        node = node.below(label)
        above.append(node)
    held = node.children or _NOTHING
    name, times = labels[-1], 1
    while name in held and (held[name].index >= 0 or held[name].value is not None or row is None):
        times += 1  # two things whose keys read alike: both are shown
        name = f"{labels[-1]} #{times}"
    made = node.below(name)
    if row is not None:
        for one in (*above, made):
            one.nbytes += row.leaf.nbytes
            one.tensors += 1
    return made


def _values(root: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    return ((path_of(node), value) for node, value in plain_places(root, _held) if node is not None)


def _held(node: PathNode | None, value: Any) -> Iterator[tuple[PathNode | None, Any]]:
    for part, child in value.children() if type(value) is Stub else children(value):
        if part != "<key>":
            yield (part, node), child


def _number(node: Node, rows: Sequence[TensorRow], known: dict[Any, int]) -> int:
    """Give equal structures one number; as deep as names are cut, see `labels_of`."""
    held = node.children
    inner = tuple([(name, _number(child, rows, known)) for name, child in held.items()]) if held else ()
    if node.index >= 0:
        leaf = rows[node.index].leaf
        own: Any = leaf.dtype, leaf.shape, leaf.layout
    else:
        own = None if held else type(node.value)
    node.structure = known.setdefault((own, inner), len(known))
    return node.structure


def outline_of(file: ViewedFile) -> Node:
    """Return the tree of a file."""
    found: Node = file.once("outline", lambda: _tree(file))
    return found


def _found(file: ViewedFile, path: Sequence[str]) -> Node:
    tree = outline_of(file)
    for part in path:
        child = (tree.children or _NOTHING).get(part)
        if child is None:
            raise NoSuchThingError("nothing in the file has this path", got=text(".".join(path), 120))
        tree = child
    return tree


Fold = list[str]
"""Names of one structure; the first stands for all."""


def _folds(node: Node, *, folded: bool) -> list[Fold]:
    """Return the names below a node, numbered ones of one structure together where the first of them stands."""
    groups: dict[Any, Fold] = {}
    for name, child in (node.children or _NOTHING).items():
        groups.setdefault(child.structure if folded and child.kind != "value" and is_number(name) else name, []).append(
            name
        )
    return list(groups.values())


def children_of(file: ViewedFile, path: Sequence[str], page: tuple[int, int], *, folded: bool) -> dict[str, Any]:
    """Return a page of what stands below a node."""
    node = _found(file, path)
    folds: list[Fold] = file.orders.get(("tree", tuple(path), folded), lambda: _folds(node, folded=folded))
    offset, limit = page
    shown = folds[offset : offset + limit]
    return {
        "path": list(path), "total": len(folds), "offset": offset, "tensors": node.tensors, "nbytes": node.nbytes,
        "nodes": [_shown(file, path, node, names) for names in shown],
    }  # fmt: skip


def _shown(file: ViewedFile, path: Sequence[str], node: Node, names: Fold) -> dict[str, Any]:
    child = (node.children or _NOTHING)[names[0]]
    own = [*path, names[0]]
    facts: dict[str, Any] = {
        "part": text(names[0] if len(names) == 1 else f"[{ranges(names)}]", 300),
        "key": text(".".join((*path, names[0]))), "path": own if shorter(own) else None, "kind": child.kind,
        "children": len(child.children or ()), "tensors": child.tensors, "nbytes": child.nbytes,
        "fold": {"count": len(names), "first": names[0], "last": names[-1]} if len(names) > 1 else None,
        "index": None, "dtype": None, "shape": None, "layout": None, "text": None,
    }  # fmt: skip
    if child.index >= 0:
        row = file.rows[child.index]
        return facts | size_of(row.leaf) | {"index": child.index, "alias_of": alias_of(file, row)}
    return facts if child.children else facts | {"type": text(kind_of(child.value)), "text": text(text_of(child.value))}


def value_at(file: ViewedFile, path: Sequence[str]) -> dict[str, Any]:
    """Return what stands at a place, at more length than the tree has room for."""
    node = _found(file, path)
    value = node.value
    if node.kind == "value":
        long = isinstance(value, str | bytes)
        shown = repr(value[:_TEXT]) + ("…" if len(value) > _TEXT else "") if long else text_of(value)
        kind = kind_of(value)
    else:
        kind, shown = node.kind, f"{node.tensors:,} tensors"
    return {"path": list(path), "kind": node.kind, "type": text(kind), "text": text(shown, 3 * _TEXT)}
