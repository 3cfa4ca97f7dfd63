"""Object trees as state_dicts: where the tensors of any tree of Python objects stand, in PyTorch's naming.

Attributes, list indices and dictionary keys are joined by dots. An object with a `state_dict` method of its own is
asked for it. Nothing here imports an array library: a tensor is whatever has a shape and a dtype.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Final, NamedTuple

from weighlock.errors import StateDictError
from weighlock.pickling.inert import GlobalRef, Stub

__all__ = ["Slot", "assign", "dtype_name", "is_tensor", "places", "shape_of", "slots"]

_FUNCTIONS: Final = (FunctionType, MethodType, BuiltinFunctionType, partial)
"""Objects of any other class that can be called may be layers, and hold tensors."""

_PLAIN: Final = (str, bytes, bytearray, int, float, complex, bool, range, memoryview, type(None), type, GlobalRef)


class Slot(NamedTuple):
    """A place in a tree that holds a tensor, or an object that names its own.

    Attributes
    ----------
    key : str
        Its name; of an object with a `state_dict` method, the prefix of the names inside.
    holder : object
        What holds it.
    name : object
        The attribute, key or index under which it is held.
    value : object
    owner : bool
        Whether `value` has a `state_dict` method of its own.
    """

    key: str
    holder: Any
    name: Any
    value: Any
    owner: bool


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor of some kind: it has a shape and a dtype, and is no single number of NumPy's."""
    if isinstance(value, type | Stub):
        return False
    try:
        if not (hasattr(value, "shape") and hasattr(value, "dtype")):
            return False
    except RuntimeError:  # a lazy parameter of PyTorch, which has no shape yet
        return True
    return not (type(value).__module__ == "numpy" and not hasattr(value, "__setitem__"))


def shape_of(value: Any) -> tuple[int, ...] | None:
    """Return a tensor's shape; None where it has none yet (a lazy parameter of PyTorch)."""
    try:
        return tuple(int(length) for length in value.shape)
    except (RuntimeError, ValueError, TypeError):
        return None


def dtype_name(value: Any) -> str:
    """Return the name of a tensor's element type, the same for NumPy, PyTorch and Weighlock."""
    return str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")


def _members(obj: Any) -> list[tuple[Any, Any]]:
    """Return what an object holds, by name, in the order in which it was defined."""
    if isinstance(obj, Mapping):
        return [(key, value) for key, value in obj.items() if isinstance(key, str | int)]
    if isinstance(obj, Sequence):
        return list(enumerate(obj))
    found: dict[str, Any] = {}
    for kind in reversed(type(obj).__mro__):
        names = kind.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if hasattr(obj, name):
                found[name] = getattr(obj, name)
    found.update(getattr(obj, "__dict__", {}))
    return [(name, value) for name, value in found.items() if not name.startswith("_")]


def has_own(value: Any) -> bool:
    """Whether an object names its own tensors."""
    return callable(getattr(value, "state_dict", None)) and not isinstance(value, type)


def _is_container(value: Any) -> bool:
    if isinstance(value, (*_PLAIN, *_FUNCTIONS)) or is_tensor(value):
        return False
    return isinstance(value, Mapping | Sequence) or hasattr(value, "__dict__") or hasattr(type(value), "__slots__")


def places(root: Any) -> list[Slot]:
    """Return where the weights of a tree stand: what optimizers remember of them is none, where there is anything else.

    Raises
    ------
    StateDictError
        If an object contains itself.
    """
    return list(slots(root, _is_optimizer_state)) or list(slots(root))


def _is_optimizer_state(value: Any) -> bool:
    return isinstance(value, Mapping) and "state" in value and "param_groups" in value


def slots(root: Any, unwanted: Callable[[Any], bool] = lambda _: False) -> Iterator[Slot]:
    """Yield where the tensors of a tree stand, depth first, in the order of definition.

    An object that stands at several places is found at each. There is no recursion: trees may be a million deep.
    Nothing in a container that is `unwanted` is looked at.

    Raises
    ------
    StateDictError
        If an object contains itself.
    """
    # A name for each level, put together only where a tensor stands: together they are the square of the depth.
    names: list[str] = []
    levels: list[tuple[Any, Iterator[tuple[Any, Any]], int]] = [(root, iter(_members(root)), 0)]
    on_path = {id(root)}
    # Containers without tensors, entered once: sixty pairs of one shared pair are as many places as there are atoms.
    barren: dict[int, Any] = {}
    found = 0
    while levels:
        holder, members, before = levels[-1]
        name, value = next(members, (levels, None))
        if name is levels:
            levels.pop()
            del names[-1:]
            on_path.discard(id(holder))
            if found == before:
                barren[id(holder)] = holder
        elif is_tensor(value):
            found += 1
            yield Slot("".join([*names, str(name)]), holder, name, value, owner=False)
        elif has_own(value):
            found += 1
            yield Slot("".join([*names, f"{name}."]), holder, name, value, owner=True)
        elif _is_container(value) and id(value) not in barren and not unwanted(value):
            if id(value) in on_path:
                raise StateDictError("the object contains itself", object_path="".join([*names, str(name)])[:200])
            on_path.add(id(value))
            names.append(f"{name}.")
            levels.append((value, iter(_members(value)), found))


def assign(slot: Slot, value: Any) -> None:
    """Put another value into a slot."""
    if isinstance(slot.holder, Mapping | Sequence):
        slot.holder[slot.name] = value  # type: ignore[index]
    else:
        setattr(slot.holder, slot.name, value)
