"""Drawing the state_dict out of an object, in PyTorch's order and naming.

A pickled `nn.Module` holds its parameters in the attributes ``_parameters``, ``_buffers`` and ``_modules``; a
TorchScript object holds them as attributes, named in the program's text. Neither class is needed to read them.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Final

from weighlock.errors import StateDictError
from weighlock.pickling.inert import ScriptClass, Stub
from weighlock.state_dicts.advice import HOLDERS
from weighlock.state_dicts.trees import has_own, is_tensor, slots

__all__ = ["held_in", "state_dict"]

_MAX_HOLDERS: Final = 8


def state_dict(obj: Any) -> dict[str, Any]:
    """Return the state_dict of an object: parameters and persistent buffers by dotted name, in PyTorch's order.

    Parameters
    ----------
    obj : object
        One of: an object with a `state_dict` method, such as PyTorch's modules and optimizers; a `Stub` (a whole
        pickled `nn.Module`, Lightning module or TorchScript object, loaded with ``on_unknown="stub"``); a mapping
        that is one already, or that holds one of these under a usual name such as ``"state_dict"`` or ``"model"``;
        any tree of objects, dataclasses, lists and dictionaries that hold arrays, whose places become the names.
        Attributes that begin with an underscore are not looked at.

    Returns
    -------
    collections.OrderedDict
        With the arrays of `obj` themselves, not copies.

    Raises
    ------
    StateDictError
        If there is nothing to draw from.

    Examples
    --------
    >>> import numpy
    >>> dict(state_dict({"epoch": 3, "state_dict": {"fc.weight": numpy.ones(2)}}))
    {'fc.weight': array([1., 1.])}
    >>> dict(state_dict({"layers": [{"weight": numpy.ones(2)}]}))
    {'layers.0.weight': array([1., 1.])}
    """
    root = held_in(obj)
    if _is_module(root):
        return OrderedDict(_module_items(root))
    if has_own(root):
        made = root.state_dict()
        return made if isinstance(made, OrderedDict) else OrderedDict(made)
    if isinstance(root, Mapping) and _is_flat(root):
        return OrderedDict((key, value) for key, value in root.items() if isinstance(key, str))
    drawn: OrderedDict[str, Any] = OrderedDict()
    if not isinstance(root, Stub):
        for slot in slots(root):
            if slot.owner:
                drawn.update((slot.key + key, value) for key, value in slot.value.state_dict().items())
            else:
                drawn[slot.key] = slot.value
    if drawn:
        return drawn
    raise StateDictError(
        "no state_dict can be drawn from this object",
        expected="an object with state_dict(), a pickled module, or a tree that holds arrays",
        got=_describe(obj),
        hint="If the weights lie deeper, pass that part: weighlock.state_dict(checkpoint['...']).",
    )


def held_in(obj: Any) -> Any:
    """Return the part of a checkpoint that holds the weights: `obj` itself where no usual name leads further."""
    current = obj
    for _ in range(_MAX_HOLDERS):
        if not isinstance(current, Mapping | Stub) or _is_module(current) or has_own(current):
            return current
        fields = _fields(current)
        if isinstance(current, Mapping) and any(is_tensor(value) for value in fields.values()):
            return current
        held = next((fields[name] for name in HOLDERS if _may_hold(fields.get(name))), None)
        if held is None:
            return current
        current = held
    return current


def _may_hold(value: Any) -> bool:
    return value is not None and not isinstance(value, str | int | float)


def _is_flat(mapping: Mapping[Any, Any]) -> bool:
    """Whether a mapping is a state_dict as it is: tensors by name, and nothing below them that holds others."""
    if not any(is_tensor(value) for value in mapping.values()):
        return False
    return not any(isinstance(value, Mapping | list | tuple) or has_own(value) for value in mapping.values())


def _describe(obj: Any) -> str:
    if isinstance(obj, Mapping):
        return f"a mapping with the keys {', '.join(repr(key) for key in list(obj)[:6])}"
    return repr(obj)[:80] if isinstance(obj, Stub) else type(obj).__name__


def _fields(obj: Any) -> Mapping[Any, Any]:
    if isinstance(obj, Mapping):
        return obj
    if isinstance(obj, Stub):
        return {**dict(obj.entries), **obj.attributes()} if _hashable(obj) else obj.attributes()
    return {}


def _hashable(stub: Stub) -> bool:
    return all(isinstance(key, str | int) for key, _ in stub.entries)


def _is_module(obj: Any) -> bool:
    if not isinstance(obj, Stub):
        return False
    if isinstance(obj.global_ref, ScriptClass):
        return True
    attributes = obj.attributes()
    return "_parameters" in attributes and "_modules" in attributes


def _module_items(root: Stub) -> Iterator[tuple[str, Any]]:
    """Yield names and tensors depth first, each module's own before its children's: without recursion."""
    pending: list[tuple[str, Any]] = [("", root)]
    on_path: set[tuple[int, str]] = set()
    while pending:
        prefix, module = pending.pop()
        if not isinstance(module, Stub):
            continue
        if (id(module), prefix) in on_path or prefix.count(".") > 1000:
            raise StateDictError("the module contains itself", object_path=prefix[:80])
        on_path.add((id(module), prefix))
        own, children = _members(module)
        yield from ((prefix + name, value) for name, value in own)
        pending.extend((f"{prefix}{name}.", child) for name, child in reversed(children))


_Pairs = list[tuple[str, Any]]


def _members(module: Stub) -> tuple[_Pairs, _Pairs]:
    """Return a module's own parameters and persistent buffers, and its submodules."""
    attributes = module.attributes()
    if isinstance(module.global_ref, ScriptClass):
        return _script_members(module.global_ref, attributes)
    own: _Pairs = [(name, value) for name, value in _items(attributes.get("_parameters")) if value is not None]
    hidden = attributes.get("_non_persistent_buffers_set") or ()
    own += [
        (name, value) for name, value in _items(attributes.get("_buffers")) if value is not None and name not in hidden
    ]
    return own, [(name, child) for name, child in _items(attributes.get("_modules")) if child is not None]


def _items(mapping: Any) -> _Pairs:
    return (
        [(name, value) for name, value in mapping.items() if isinstance(name, str)]
        if isinstance(mapping, Mapping)
        else []
    )


def _script_members(cls: ScriptClass, attributes: Mapping[str, Any]) -> tuple[_Pairs, _Pairs]:
    # A program always lists them, if only as empty: a tensor that it does not list is a plain attribute.
    named = [*cls.parameters, *cls.buffers]
    if not cls.listed:
        named = [name for name, value in attributes.items() if is_tensor(value)]
    own = [(name, attributes[name]) for name in named if attributes.get(name) is not None]
    children = [(name, value) for name, value in attributes.items() if isinstance(value, Stub)]
    return own, children
