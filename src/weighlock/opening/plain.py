"""The values beside the tensors of a checkpoint, under flat keys: numbers, text, options, empty containers."""

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any, Final

from weighlock.inspection.leaves import LEAVES
from weighlock.objects import PathNode, children, path_of
from weighlock.opening.naming import Path, spell
from weighlock.pickling.inert import Stub

__all__ = ["plain_places", "plain_values"]

# A pickle can name one list a hundred thousand times below a key of a megabyte. What is spelled is bounded by this many
# characters of paths per byte of the file, and this many for free.
_TEXT_PER_BYTE: Final = 4
_FREE_TEXT: Final = 64 << 20


def plain_values(root: Any, size: int) -> Mapping[str, Any]:
    """Return everything in a checkpoint's object that neither is nor holds anything else, by key, in the file's order.

    Parameters
    ----------
    root : object
        A checkpoint's object.
    size : int
        The file's length in bytes, which bounds how much is spelled out.
    """
    found: list[tuple[Path, Any]] = []
    budget = _FREE_TEXT + _TEXT_PER_BYTE * size
    for node, value in plain_places(root, _held):
        path = path_of(node)
        budget -= sum(len(part) if type(part) is str else 8 for part in path)
        if budget < 0:
            break
        found.append((path, value))
    keys = spell([path for path, _ in found])
    return dict(zip(keys, (value for _, value in found), strict=True))


Held = Callable[[PathNode | None, Any], Iterator[tuple[PathNode | None, Any]]]


def plain_places(root: Any, held: Held) -> Iterator[tuple[PathNode | None, Any]]:
    """Yield each thing that is no tensor and holds nothing, wherever it stands; what holds something is entered once.

    Parameters
    ----------
    root : object
    held : callable
        Given a place and what stands there, yields the places inside.
    """
    seen: set[int] = set()
    pending: list[Iterator[tuple[PathNode | None, Any]]] = [iter([(None, root)])]
    while pending:
        step = next(pending[-1], None)
        if step is None:
            pending.pop()
            continue
        node, value = step
        if type(value) in LEAVES:
            continue
        steps = held(node, value)
        first = next(steps, None)
        if first is None:
            yield node, value
        elif id(value) not in seen:
            seen.add(id(value))
            pending.append(chain([first], steps))


def _held(node: PathNode | None, value: Any) -> Iterator[tuple[PathNode | None, Any]]:
    for part, child in value.children() if type(value) is Stub else children(value):
        if part != "<key>":
            yield (part, node), child
