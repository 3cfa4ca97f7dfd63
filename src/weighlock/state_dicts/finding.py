"""Finding the weights inside of a training checkpoint."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from weighlock.errors import StateDictError
from weighlock.pickling.inert import Stub
from weighlock.state_dicts.advice import HOLDERS
from weighlock.state_dicts.trees import is_tensor

__all__ = ["find_state_dict"]

_MAX_CANDIDATES: Final = 10_000


def find_state_dict(obj: Any) -> Any:
    """Return the mapping of names to tensors that lies in a checkpoint.

    Parameters
    ----------
    obj : object
        Nested mappings, lists, and stubs of `weighlock.load`.

    Returns
    -------
    mapping
        The object's own, not a copy: `obj` itself where it is one, else what stands under a usual name
        (``"state_dict"``, ``"model"`` ...), else the one with the most tensors.

    Raises
    ------
    StateDictError
        If there is none, or several are equally good; the message lists them.

    Examples
    --------
    >>> import numpy
    >>> list(find_state_dict({"epoch": 3, "model": {"fc.weight": numpy.ones(2)}}))
    ['fc.weight']
    """
    if isinstance(obj, Mapping) and _tensors_in(obj) and _tensors_in(obj) * 2 >= len(obj):
        return obj
    candidates = list(_candidates(obj))
    for name in HOLDERS:
        named = [found for path, found in candidates if path and path[-1] == name]
        if len(named) == 1:
            return named[0]
    most = max((_tensors_in(found) for _, found in candidates), default=0)
    best = [(path, found) for path, found in candidates if _tensors_in(found) == most]
    if len(best) == 1:
        return best[0][1]
    listed = ", ".join(f"{'.'.join(map(str, path)) or 'the whole'} ({_tensors_in(found)} tensors)"
                       for path, found in candidates[:10])  # fmt: skip
    if not candidates:
        raise StateDictError("no mapping of names to tensors lies in this object", got=type(obj).__name__)
    raise StateDictError(
        "several mappings of names to tensors lie in this object", got=listed, hint="Take one by name."
    )


def _tensors_in(mapping: Mapping[Any, Any]) -> int:
    return sum(1 for key, value in mapping.items() if isinstance(key, str) and is_tensor(value))


def _candidates(root: Any) -> Iterator[tuple[tuple[Any, ...], Mapping[Any, Any]]]:
    """Yield the mappings with tensors, with their paths, the outermost first."""
    pending: list[tuple[tuple[Any, ...], Any]] = [((), root)]
    seen: set[int] = set()
    for path, node in pending:
        if id(node) in seen or len(pending) > _MAX_CANDIDATES:
            continue
        seen.add(id(node))
        if isinstance(node, Mapping):
            if _tensors_in(node):
                yield path, node
            pending += [((*path, key), value) for key, value in node.items()]
        elif isinstance(node, list | tuple):
            pending += [((*path, index), value) for index, value in enumerate(node)]
        elif isinstance(node, Stub):
            pending += [((*path, name), value) for name, value in node.children()]
