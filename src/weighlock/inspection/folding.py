"""The names of tensors as a tree, with numbered siblings of one structure folded into one: ``layers.[0-31]``."""

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from weighlock.inspection.inventory import TensorRow
from weighlock.inspection.paths import key_text, part_text

__all__ = ["TreeLine", "fold", "is_number", "labels_of", "ranges", "tree_lines"]

# Deeper names are joined: what is walked recursively here is bounded, whatever the file holds.
_MAX_DEPTH: Final = 40

_MAX_DIGITS: Final = 10
_RANGES_SHOWN: Final = 5


class TreeLine(NamedTuple):
    """One line of a tree: `times` is above 1 for a fold, whose `nbytes` are those of one of them."""

    rails: str
    label: str
    times: int
    nbytes: int
    row: TensorRow | None


class _Node:
    __slots__ = ("children", "nbytes", "row", "shape_of", "times")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.row: TensorRow | None = None
        self.nbytes = 0
        self.times = 1
        self.shape_of = 0


def labels_of(path: tuple[Any, ...]) -> list[str]:
    """Return the names of the nodes that lead to a place: dots inside of keys part them too."""
    labels: list[str] = []
    for part in path:
        text = part_text(part)
        labels += text.split(".", _MAX_DEPTH) if type(part) is str else [text]
        if len(labels) > _MAX_DEPTH:
            break
    if len(labels) > _MAX_DEPTH or "" in labels:
        key = key_text(path)
        return key.split(".", 1) if len(path) > 1 else [key]
    return labels or ["(top)"]


def _grow(rows: Iterable[TensorRow]) -> _Node:
    root = _Node()
    for row in rows:
        node = root
        node.nbytes += row.leaf.nbytes
        for label in labels_of(row.path):
            node = node.children.setdefault(label, _Node())
            node.nbytes += row.leaf.nbytes
        while node.row is not None:  # two things of one name: both are shown
            node = node.children.setdefault("(again)", _Node())
            node.nbytes += row.leaf.nbytes
        node.row = row
    return root


def fold(rows: Iterable[TensorRow], *, folded: bool = True) -> Any:
    """Return the tree of these rows; `tree_lines` draws it."""
    root = _grow(rows)
    if folded:
        _fold_below(root, {})
    return root


def _fold_below(node: _Node, known: dict[Any, int]) -> int:
    """Fold the children of `node`, deepest first; return a number that equal structures share."""
    structures = {name: _fold_below(child, known) for name, child in node.children.items()}
    node.children = dict(_folded_children(node, structures))
    leaf = node.row.leaf if node.row is not None else None
    own = None if leaf is None else (leaf.dtype, leaf.shape, leaf.layout)
    return known.setdefault((own, tuple(structures.items())), len(known))


def _folded_children(node: _Node, structures: dict[str, int]) -> Iterator[tuple[str, _Node]]:
    """Yield the children, numbered ones of one structure together, where the first of them stands."""
    groups: dict[Any, list[str]] = {}
    for name in node.children:
        groups.setdefault(structures[name] if is_number(name) else name, []).append(name)
    for names in groups.values():
        first = node.children[names[0]]
        first.times = len(names)
        yield (names[0] if len(names) == 1 else f"[{ranges(names)}]"), first


def is_number(name: str) -> bool:
    """Whether a name is a number that may be one of a row: ``layers.0``, ``layers.1`` ..."""
    return name.isascii() and name.isdigit() and len(name) < _MAX_DIGITS


def ranges(names: list[str]) -> str:
    """Return numbers as people write them: ``0-31``, ``0-398:2``, ``0-3,7,9-12``."""
    numbers = [int(name) for name in names]
    step = numbers[1] - numbers[0]
    if len(numbers) > 2 and step > 1 and numbers == list(range(numbers[0], numbers[-1] + 1, step)):
        return f"{numbers[0]}-{numbers[-1]}:{step}"
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in runs]
    return ",".join(texts[:_RANGES_SHOWN]) + (",…" if len(texts) > _RANGES_SHOWN else "")


def tree_lines(root: Any, depth: int = _MAX_DEPTH) -> Iterator[TreeLine]:
    """Yield the lines of a tree from `fold`, each with the rails that lead to it, down to `depth` levels."""
    yield from _lines_below(root, "", depth, top=True)


def _lines_below(node: _Node, rails: str, depth: int, *, top: bool = False) -> Iterator[TreeLine]:
    last = len(node.children) - 1
    for number, (name, child) in enumerate(node.children.items()):
        label, times, shown = name, child.times, child
        while shown.row is None and len(shown.children) == 1:
            ((inner, only),) = shown.children.items()
            if times > 1 and only.times > 1:
                break
            label, times, shown = f"{label}.{inner}", times * only.times, only
        joint = "" if top else "└─ " if number == last else "├─ "
        yield TreeLine(rails + joint, label, times, shown.nbytes, shown.row)
        if depth > 1:
            deeper = rails if top else rails + ("   " if number == last else "│  ")
            yield from _lines_below(shown, deeper, depth - 1)
