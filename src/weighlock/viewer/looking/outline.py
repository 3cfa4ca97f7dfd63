"""The names in a file as a tree, level by level: tensors first, then the plain values beside them."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

from weighlock.inspection.folding import Branch, Child, Value, folds, grow, labels_of, ranges
from weighlock.inspection.inventory import TensorRow
from weighlock.inspection.plain import kind_of, text_of
from weighlock.objects import PathNode, children, path_of
from weighlock.opening.plain import plain_places
from weighlock.pickling.inert import Stub
from weighlock.viewer.bounds import MOST_VALUES
from weighlock.viewer.failures import NoSuchThingError
from weighlock.viewer.looking.facts import alias_of, shorter, size_of, text
from weighlock.viewer.looking.holding import ViewedFile

__all__ = ["children_of", "outline_of", "value_at"]

_TEXT: Final = 10_000


def _tree(file: ViewedFile) -> Branch:
    return grow(file.rows, islice(_values(file.checkpoint.object), MOST_VALUES))


def _values(root: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    return ((path_of(node), value) for node, value in plain_places(root, _held) if node is not None)


def _held(node: PathNode | None, value: Any) -> Iterator[tuple[PathNode | None, Any]]:
    for part, child in value.children() if type(value) is Stub else children(value):
        if part != "<key>":
            yield (part, node), child


def outline_of(file: ViewedFile) -> Branch:
    """Return the tree of a file."""
    found: Branch = file.once("outline", lambda: _tree(file))
    return found


def _found(file: ViewedFile, path: Sequence[str]) -> Child:
    found: Child = outline_of(file)
    for part in path:
        if not (isinstance(found, Branch) and part in found):
            raise NoSuchThingError("nothing in the file has this path", got=text(".".join(path), 120))
        found = found[part]
    return found


def _groups(file: ViewedFile, path: Sequence[str], node: Branch, *, folded: bool) -> list[list[str]]:
    made: list[list[str]] = file.orders.get(("tree", tuple(path), folded), lambda: folds(node, folded=folded))
    return made


def children_of(file: ViewedFile, path: Sequence[str], page: tuple[int, int], *, folded: bool) -> dict[str, Any]:
    """Return a page of what stands below a node."""
    node, (offset, limit) = _found(file, path), page
    tensors, nbytes = _size(node)
    total, nodes = 0, []
    if isinstance(node, Branch):
        groups = _groups(file, path, node, folded=folded)
        total = len(groups)
        nodes = [_shown(file, path, node[names[0]], names) for names in groups[offset : offset + limit]]
    return {
        "path": list(path), "total": total, "offset": offset, "tensors": tensors, "nbytes": nbytes, "nodes": nodes,
    }  # fmt: skip


def _size(node: Child) -> tuple[int, int]:
    if isinstance(node, Branch):
        return node.tensors, node.nbytes
    return (1, node.leaf.nbytes) if isinstance(node, TensorRow) else (0, 0)


def _kind(node: Child) -> str:
    return "branch" if isinstance(node, Branch) else "tensor" if isinstance(node, TensorRow) else "value"


def _shown(file: ViewedFile, path: Sequence[str], child: Child, names: list[str]) -> dict[str, Any]:
    own = [*path, names[0]]
    tensors, nbytes = _size(child)
    facts: dict[str, Any] = {
        "part": text(names[0] if len(names) == 1 else f"[{ranges(names)}]", 300),
        "key": text(".".join(own)), "path": own if shorter(own) else None, "kind": _kind(child),
        "children": len(child.held) if isinstance(child, Branch) else 0, "tensors": tensors, "nbytes": nbytes,
        "fold": {"count": len(names), "first": names[0], "last": names[-1]} if len(names) > 1 else None,
        "index": None, "dtype": None, "shape": None, "layout": None, "text": None,
    }  # fmt: skip
    row = child.own if isinstance(child, Branch) else child
    if isinstance(row, TensorRow):
        return facts | size_of(row.leaf) | {"index": row.index, "alias_of": alias_of(file, row)}
    if isinstance(child, Value):
        return facts | {"type": text(kind_of(child.value)), "text": text(text_of(child.value))}
    return facts


def place_of(file: ViewedFile, index: int) -> dict[str, Any]:
    """Return how the tree leads to a tensor: for each level the name, and its places among all names and among folds.

    `first` tells whether it is the one that stands for its fold; where it is not, the fold does not show it.
    """
    row = file.row(index)
    steps: list[dict[str, Any]] = []
    node = outline_of(file)
    path: list[str] = []
    while True:
        name = _name_towards(node, labels_of(row.path)[len(path) :], row)
        groups = _groups(file, path, node, folded=True)
        fold = next(place for place, names in enumerate(groups) if name in names)
        steps.append({
            "part": name, "place": node.place(name), "fold": fold, "first": groups[fold][0] == name,
        })  # fmt: skip
        below = node[name]
        if not isinstance(below, Branch) or below.own is row:
            return {"index": index, "steps": steps}
        node, path = below, [*path, name]


def _name_towards(node: Branch, labels: Sequence[str], row: TensorRow) -> str:
    """Return the name by which a branch leads to a tensor; the last one may be numbered, see `grow`."""
    if len(labels) > 1:
        return labels[0]
    for name in node.names:
        below = node[name]
        if below is row or (isinstance(below, Branch) and below.own is row):
            return name
    raise NoSuchThingError("the tree does not have this tensor", got=str(row.index))


def value_at(file: ViewedFile, path: Sequence[str]) -> dict[str, Any]:
    """Return what stands at a place, at more length than the tree has room for."""
    node = _found(file, path)
    if isinstance(node, Value):
        value = node.value
        long = isinstance(value, str | bytes)
        shown = repr(value[:_TEXT]) + ("…" if len(value) > _TEXT else "") if long else text_of(value)
        kind = kind_of(value)
    else:
        kind, shown = _kind(node), f"{_size(node)[0]:,} tensors"
    return {"path": list(path), "kind": _kind(node), "type": text(kind), "text": text(shown, 3 * _TEXT)}
