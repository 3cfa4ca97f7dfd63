"""Finding the weights inside of a training checkpoint."""

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from weighlock.errors import StateDictError
from weighlock.pickling.inert import Stub
from weighlock.state_dicts.modules import is_module, module_items
from weighlock.state_dicts.trees import dtype_name, has_own, is_tensor, shape_of
from weighlock.text import safe_text

__all__ = ["HOLDERS", "Candidate", "candidates", "find_state_dict", "held_in", "weights_in"]

# Under these names trainers keep the weights inside of a checkpoint, the most specific first: Lightning and timm,
# PyTorch's tutorials, ultralytics, BasicSR (whose params_ema are those to use), SlowFast, nnU-Net, DeepSpeed.
HOLDERS: Final = (
    "state_dict", "model_state_dict", "ema", "model_ema", "ema_state_dict", "params_ema", "model", "model_state",
    "model_weights", "net_state_dict", "network_weights", "module", "net", "network", "generator", "params", "weights",
    "state_dict_ema",
)  # fmt: skip

_MAX_HOLDERS: Final = 8
_MAX_CANDIDATES: Final = 10_000
# Numbers that trainers keep as tensors beside the weights.
_FIGURE: Final = re.compile(r"(?i)best|loss|acc|metric|score|decay|(^|_)lr($|_)|time")


class Candidate(NamedTuple):
    """A mapping of names to tensors inside of an object, or a module.

    Attributes
    ----------
    path : tuple
        The keys, indices and attributes that lead to it.
    value : object
        The object's own.
    names : mapping of str to tensor
        `value` itself, or what was drawn from the module.
    """

    path: tuple[Any, ...]
    value: Any
    names: Mapping[Any, Any]


def find_state_dict(obj: Any) -> Any:
    """Return the mapping of names to tensors that lies in a checkpoint.

    Parameters
    ----------
    obj : object
        Nested mappings, lists, modules, and stubs of `weighlock.load`.

    Returns
    -------
    mapping
        The object's own, not a copy, or the state_dict of a module in it: `obj` itself where it is one, else what
        stands under a usual name (``"state_dict"``, ``"model"`` ...), the outermost first, else the one with the
        most tensors.

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
    found = list(candidates(obj))
    inner = [candidate for candidate in found if candidate.path]
    if isinstance(obj, Mapping) and weights_in(obj) and weights_in(obj) * 2 >= len(obj):
        return obj
    named = _usual([candidate for candidate in inner if weights_in(candidate.names)]) or _usual(inner)
    if named is not None and not (isinstance(obj, Mapping) and weights_in(obj) > weights_in(named.names)):
        return named.names
    most = max((weights_in(candidate.names) for candidate in found), default=0)
    best = [candidate for candidate in found if weights_in(candidate.names) == most]
    if len(best) == 1:
        return best[0].names
    listed = ", ".join(f"{safe_text('.'.join(map(str, path))) or 'the whole'} ({_tensors_in(names)} tensors)"
                       for path, _, names in found[:10])  # fmt: skip
    if not found:
        raise StateDictError("no mapping of names to tensors lies in this object", got=type(obj).__name__)
    raise StateDictError(
        "several mappings of names to tensors lie in this object", got=listed, hint="Take one by name."
    )


def _usual(found: list[Candidate]) -> Candidate | None:
    """Return the candidate under a usual name: the outermost, and of these the most specific one."""
    ranks = {name: rank for rank, name in enumerate(HOLDERS)}
    named = [(len(candidate.path), ranks[candidate.path[-1]], candidate) for candidate in found
             if type(candidate.path[-1]) is str and candidate.path[-1] in ranks]  # fmt: skip
    first = min(((depth, rank) for depth, rank, _ in named), default=None)
    best = [candidate for depth, rank, candidate in named if (depth, rank) == first]
    return best[0] if len(best) == 1 else None


def held_in(obj: Any) -> Any:
    """Return the part of a checkpoint that holds the weights: `obj` itself where no usual name leads further."""
    current = obj
    for _ in range(_MAX_HOLDERS):
        if not isinstance(current, Mapping | Stub) or is_module(current) or has_own(current):
            return current
        fields = _fields(current)
        if isinstance(current, Mapping) and weights_in(fields):
            return current
        usual = [fields[name] for name in HOLDERS if _may_hold(fields.get(name))]
        if not usual:
            return current
        # What an averager keeps in a list has no names, and what a configuration holds is no tensor.
        current = next((value for value in usual if _names_weights(value)), usual[0])
    return current


def _may_hold(value: Any) -> bool:
    if isinstance(value, Mapping | list | tuple):
        return len(value) > 0
    return value is not None and not isinstance(value, str | int | float)


def _fields(obj: Any) -> Mapping[Any, Any]:
    if isinstance(obj, Mapping):
        return obj
    if isinstance(obj, Stub):
        return {**dict(obj.entries), **obj.attributes()} if _hashable(obj) else obj.attributes()
    return {}


def _hashable(stub: Stub) -> bool:
    return all(isinstance(key, str | int) for key, _ in stub.entries)


def weights_in(mapping: Mapping[Any, Any]) -> int:
    """Return how many tensors a mapping holds by name, without the numbers that trainers keep beside them."""
    return sum(1 for key, value in mapping.items() if isinstance(key, str) and _is_weight(key, value))


def _is_weight(key: str, value: Any) -> bool:
    if not is_tensor(value):
        return False
    shape = shape_of(value)
    if shape in ((), (1,)):
        kind = dtype_name(value)
        return "float" in kind and not _FIGURE.search(key)  # a step, an epoch, a flag
    return not (shape is not None and len(shape) == 1 and dtype_name(value) == "uint8" and "rng" in key.lower())


def _tensors_in(mapping: Mapping[Any, Any]) -> int:
    return sum(1 for key, value in mapping.items() if isinstance(key, str) and is_tensor(value))


def _names_weights(value: Any) -> bool:
    return any(weights_in(candidate.names) for candidate in candidates(value))


def candidates(root: Any) -> Iterator[Candidate]:
    """Yield the mappings with tensors, and the modules, with their paths, the outermost first."""
    pending: list[tuple[tuple[Any, ...], Any]] = [((), root)]
    seen: set[int] = set()
    for path, node in pending:
        if id(node) in seen or len(seen) > _MAX_CANDIDATES:
            continue
        seen.add(id(node))
        inside: Iterable[tuple[Any, Any]] = ()
        if is_module(node):
            yield Candidate(path, node, OrderedDict(module_items(node)))
        elif has_own(node) and not hasattr(node, "param_groups"):
            yield Candidate(path, node, node.state_dict())
        elif isinstance(node, Mapping):
            if _tensors_in(node):
                yield Candidate(path, node, node)
            inside = node.items()
        elif isinstance(node, list | tuple):
            inside = enumerate(node)
        elif isinstance(node, Stub):
            inside = node.children()
        # Numbers do not wait in line: what stands behind a long history of losses would be out of reach.
        pending += [((*path, key), value) for key, value in inside if _is_container(value)]


def _is_container(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple | Stub) or has_own(value)
