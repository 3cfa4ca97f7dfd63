"""The names of a file as a tree, with numbered siblings of one structure folded into one: ``layers.[0-31]``.

The command line draws it whole, the viewer a level at a time. Its leaves are tensors, and plain values where they are
asked for.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from weighlock.inspection.inventory import TensorRow
from weighlock.inspection.paths import key_text, part_text

__all__ = ["Branch", "Child", "TreeLine", "Value", "folds", "grow", "labels_of", "ranges", "tree_lines"]

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


class Value:
    """A plain value beside the tensors."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class _Structure:
    """What equal branches have in common, told once: the names below them by their place, and how many tensors."""

    __slots__ = ("places", "tensors")

    def __init__(self, names: Iterable[str], tensors: int) -> None:
        self.places = {name: place for place, name in enumerate(names)}
        self.tensors = tensors


class Branch:
    """A name that holds others.

    Attributes
    ----------
    held : tuple of Branch, TensorRow or Value
        What stands below it, in the file's order; `names` has their names.
    own : TensorRow, Value or None
        What stands at the name itself, where there is something: ``a`` beside ``a.b``.
    nbytes, tensors : int
        Of all tensors in it.
    structure : object
        The same for all branches of one structure.
    """

    __slots__ = ("held", "nbytes", "own", "structure")

    def __init__(
        self, structure: _Structure, held: "tuple[Child, ...]", own: "TensorRow | Value | None", nbytes: int
    ) -> None:
        self.structure = structure
        self.held = held
        self.own = own
        self.nbytes = nbytes

    @property
    def names(self) -> Iterable[str]:
        """The names below it."""
        return self.structure.places

    @property
    def tensors(self) -> int:
        """How many tensors are in it."""
        return self.structure.tensors

    def __contains__(self, name: str) -> bool:
        return name in self.structure.places

    def __getitem__(self, name: str) -> "Child":
        return self.held[self.structure.places[name]]

    def place(self, name: str) -> int:
        """Return where a name stands among all names below it."""
        return self.structure.places[name]


Child = Branch | TensorRow | Value

_Growing = dict[str | None, Any]
"""A branch that may still get children: by name, the tensor that stands at the branch itself under None."""


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


def grow(rows: Iterable[TensorRow], values: Iterable[tuple[tuple[Any, ...], Any]] = ()) -> Branch:
    """Return the tree of some tensors, and of the plain values at some paths behind them.

    Two things whose keys read alike are both there: the second is called ``name #2``.
    """
    growth = _Growth()
    for row in rows:
        growth.add(labels_of(row.path), row)
    for path, value in values:
        growth.add(labels_of(path), Value(value))
    return _grown(growth.top, {})


class _Growth:
    """A tree to which leaves are still added."""

    def __init__(self) -> None:
        self.top: _Growing = {}
        self._texts: dict[str, str] = {}  # nearly all tensors are called weight or bias: one text for all of them
        self._times: dict[tuple[int, str], int] = {}

    def add(self, labels: list[str], leaf: TensorRow | Value) -> None:
        held, texts = self.top, self._texts
        name = labels.pop()
        for label in labels:
            below = held.get(label)
            if type(below) is not dict:
                # What stands there already is a tensor or a value that now has names below its own.
                below = held[texts.setdefault(label, label)] = {} if below is None else {None: below}
            held = below
        taken = held.get(name)
        if taken is None:
            held[texts.setdefault(name, name)] = leaf
        elif type(taken) is dict and None not in taken and type(leaf) is TensorRow:
            taken[None] = leaf
        else:
            held[self._another(held, name)] = leaf

    def _another(self, held: _Growing, name: str) -> str:
        """Return a name that is free. Counted on: a hostile file has a hundred thousand keys that read alike."""
        here = id(held), name
        times = self._times.get(here, 1) + 1
        while f"{name} #{times}" in held:
            times += 1
        self._times[here] = times
        return f"{name} #{times}"


def _grown(growing: _Growing, known: dict[Any, _Structure]) -> Branch:
    """Return a branch and all below it; equal ones share one structure. As deep as names are cut, see `labels_of`."""
    if len(growing) == 1:  # half of all branches: above a weight that is alone
        ((label, only),) = growing.items()
        if type(only) is TensorRow and label is not None:
            leaf = only.leaf
            alone = known.get((label, leaf[:3]))
            if alone is None:
                alone = known[label, leaf[:3]] = _Structure((label,), 1)
            return Branch(alone, (only,), None, leaf.nbytes)
    own = growing.pop(None, None)
    nbytes = own.leaf.nbytes if type(own) is TensorRow else 0
    alike = [_alike(own)]
    for name, child in growing.items():
        kind = type(child)
        if kind is TensorRow:
            leaf = child.leaf
            nbytes += leaf.nbytes
            alike.append(leaf[:3])
        elif kind is dict:
            branch = growing[name] = _grown(child, known)
            nbytes += branch.nbytes
            alike.append(branch.structure)
        else:
            alike.append(type(child.value))
    names: Any = tuple(growing)  # no None: it was taken out
    key = names, tuple(alike)
    held = tuple(growing.values())
    structure = known.get(key)
    if structure is None:
        tensors = sum(child.tensors if type(child) is Branch else type(child) is TensorRow for child in (own, *held))
        structure = known[key] = _Structure(names, tensors)
    return Branch(structure, held, own, nbytes)


def _alike(child: Any) -> Any:
    """Return what is equal for all things of one structure: of a tensor its layout, its type and its shape."""
    if type(child) is TensorRow:
        return child.leaf[:3]
    return child.structure if type(child) is Branch else None if child is None else type(child.value)


def folds(branch: Branch, *, folded: bool = True) -> list[list[str]]:
    """Return the names below a branch, numbered ones of one structure together, where the first of them stands."""
    if not folded:
        return [[name] for name in branch.names]
    groups: dict[Any, list[str]] = {}
    for name, child in zip(branch.names, branch.held, strict=True):
        together = _is_number(name) and type(child) is not Value
        groups.setdefault((_alike(child),) if together else name, []).append(name)
    return list(groups.values())


def _is_number(name: str) -> bool:
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


def tree_lines(root: Branch, depth: int = _MAX_DEPTH, *, folded: bool = True) -> Iterator[TreeLine]:
    """Yield the lines of a tree, each with the rails that lead to it, down to `depth` levels."""
    yield from _lines_below(root, "", depth, folded=folded, top=True)


def _lines_below(branch: Branch, rails: str, depth: int, *, folded: bool, top: bool = False) -> Iterator[TreeLine]:
    groups = folds(branch, folded=folded)
    for number, names in enumerate(groups, 1):
        label, times, shown = _joined(branch, names, folded=folded)
        joint = "" if top else "└─ " if number == len(groups) else "├─ "
        row = shown if isinstance(shown, TensorRow) else shown.own if isinstance(shown, Branch) else None
        nbytes = shown.nbytes if isinstance(shown, Branch) else row.leaf.nbytes if isinstance(row, TensorRow) else 0
        yield TreeLine(rails + joint, label, times, nbytes, row if isinstance(row, TensorRow) else None)
        if depth > 1 and isinstance(shown, Branch):
            deeper = rails if top else rails + ("   " if number == len(groups) else "│  ")
            yield from _lines_below(shown, deeper, depth - 1, folded=folded)


def _joined(branch: Branch, names: list[str], *, folded: bool) -> tuple[str, int, Child]:
    """Return a line's label, how many it stands for, and the first of them; a name that is alone below one joins it."""
    label, times, shown = _label(names), len(names), branch[names[0]]
    while isinstance(shown, Branch) and shown.own is None:
        inner = folds(shown, folded=folded)
        if len(inner) > 1 or (times > 1 and len(inner[0]) > 1):
            break
        label, times, shown = f"{label}.{_label(inner[0])}", times * len(inner[0]), shown[inner[0][0]]
    return label, times, shown


def _label(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"[{ranges(names)}]"
