"""Walking the object of a checkpoint: where a thing stands, without recursion.

A tree from a file may be a million levels deep, may contain itself, and may refer to one part a thousand times: every
walk here is iterative and visits each container once, under the first path that leads to it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from weighlock.pickling.inert import Stub, repr_shallow
from weighlock.tensors.spec import JaggedSpec, NestedSpec, QuantizedSpec, SparseSpec, SubclassSpec, TensorSpec

__all__ = ["PathNode", "children", "format_path", "path_of", "walk"]

# A path as a chain from the leaf up, so that a walk costs the same at any depth; None is the root.
PathNode = tuple[Any, "PathNode | None"]

_PLAIN: Final = frozenset({str, bytes, bytearray, int, float, complex, bool, type(None)})
_PARTS: Final[dict[type, tuple[str, ...]]] = {
    QuantizedSpec: ("tensor", "scale", "zero_point"),
    SparseSpec: ("indices", "values"),
    NestedSpec: ("buffer", "sizes", "strides", "offsets"),
    JaggedSpec: ("values", "offsets", "lengths"),
    SubclassSpec: ("cls", "data", "state"),
    TensorSpec: ("attributes",),
}


def children(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (path element, value) for each thing that a container from a checkpoint holds; nothing for a leaf."""
    kind = type(value)
    if kind in _PLAIN:
        return
    if isinstance(value, Mapping):
        yield from value.items()
        yield from (("<key>", key) for key in value if type(key) not in _PLAIN)
    elif kind is Stub:
        yield "<class>", value.global_ref
        yield from value.children()
    elif kind in _PARTS:
        yield from ((name, getattr(value, name)) for name in _PARTS[kind])
    elif isinstance(value, list | tuple | set | frozenset) or kind.__name__ == "deque":
        yield from enumerate(value)
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict) and kind.__name__ in _WITH_ATTRIBUTES:
        yield from attributes.items()


_WITH_ATTRIBUTES: Final = frozenset({"Namespace", "SimpleNamespace", "OrderedDict"})


def walk(root: Any) -> Iterator[tuple[PathNode | None, Any]]:
    """Yield every object of a tree with its `PathNode`, in the file's order, the root first.

    Examples
    --------
    >>> [(format_path(path_of(node)), value) for node, value in walk({"a": [1, 2]}) if isinstance(value, int)]
    [('a.0', 1), ('a.1', 2)]
    """
    seen: set[int] = set()
    pending: list[Iterator[tuple[PathNode | None, Any]]] = [iter([(None, root)])]
    while pending:
        step = next(pending[-1], None)
        if step is None:
            pending.pop()
            continue
        node, value = step
        if type(value) not in _PLAIN:
            if id(value) in seen:
                continue
            seen.add(id(value))
            pending.append(_steps(node, value))
        yield node, value


def _steps(node: PathNode | None, value: Any) -> Iterator[tuple[PathNode | None, Any]]:
    for key, child in children(value):
        yield (key, node), child


def path_of(node: PathNode | None) -> tuple[Any, ...]:
    """Return the path elements from the root to a node: dictionary keys, list indices, attribute names."""
    parts = []
    while node is not None:
        parts.append(node[0])
        node = node[1]
    return tuple(reversed(parts))


def format_path(path: tuple[Any, ...]) -> str:
    """Return a path as text: ``optimizer.state.0.exp_avg``; ``(top)`` for the whole object.

    Examples
    --------
    >>> format_path(("optimizer", "state", 0, "exp_avg"))
    'optimizer.state.0.exp_avg'
    """
    return ".".join(_part_text(part) for part in path) or "(top)"


def _part_text(part: Any) -> str:
    # Not str() of any integer, which Python refuses above 4,300 digits, nor repr() of a tuple, which may be endless.
    plain = isinstance(part, str) or (isinstance(part, int) and abs(part) < 1 << 64)
    return str(part) if plain else repr_shallow(part)
