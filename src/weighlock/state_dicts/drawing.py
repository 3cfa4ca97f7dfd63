"""Drawing the state_dict out of an object, in PyTorch's order and naming."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from weighlock.errors import StateDictError
from weighlock.pickling.inert import Stub
from weighlock.state_dicts.finding import held_in
from weighlock.state_dicts.modules import is_module, module_items
from weighlock.state_dicts.trees import has_own, is_tensor, places

__all__ = ["state_dict"]


def state_dict(obj: Any) -> dict[str, Any]:
    """Return the state_dict of an object: parameters and persistent buffers by dotted name, in PyTorch's order.

    Parameters
    ----------
    obj : object
        One of: an object with a `state_dict` method, such as PyTorch's modules and optimizers; a `Stub` (a whole
        pickled `nn.Module`, Lightning module or TorchScript object, loaded with ``on_unknown="stub"``); a mapping
        that is one already, or that holds one of these under a usual name such as ``"state_dict"`` or ``"model"``;
        any tree of objects, dataclasses, lists and dictionaries that hold arrays, whose places become the names.
        Attributes that begin with an underscore are not looked at, nor are the states of optimizers (mappings with
        ``"state"`` and ``"param_groups"``) beside other arrays.

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
    if is_module(root):
        return OrderedDict(module_items(root))
    if has_own(root):
        made = root.state_dict()
        return made if isinstance(made, OrderedDict) else OrderedDict(made)
    if isinstance(root, Mapping) and _is_flat(root):
        return OrderedDict((key, value) for key, value in root.items() if isinstance(key, str))
    drawn: OrderedDict[str, Any] = OrderedDict()
    if not isinstance(root, Stub):
        for slot in places(root):
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


def _is_flat(mapping: Mapping[Any, Any]) -> bool:
    """Whether a mapping is a state_dict as it is: tensors by name, and nothing below them that holds others."""
    if not any(is_tensor(value) for value in mapping.values()):
        return False
    return not any(isinstance(value, Mapping | list | tuple) or has_own(value) for value in mapping.values())


def _describe(obj: Any) -> str:
    if isinstance(obj, Mapping):
        return f"a mapping with the keys {', '.join(repr(key) for key in list(obj)[:6])}"
    return repr(obj)[:80] if isinstance(obj, Stub) else type(obj).__name__
