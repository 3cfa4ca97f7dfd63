"""Pickled modules as they lie in a file: their parameters and persistent buffers, without their classes.

An `nn.Module` holds them in the attributes ``_parameters``, ``_buffers`` and ``_modules``; a TorchScript object holds
them as attributes, named in the program's text.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from weighlock.errors import StateDictError
from weighlock.pickling.inert import ScriptClass, Stub
from weighlock.state_dicts.trees import is_tensor

__all__ = ["is_module", "module_items"]


def is_module(obj: Any) -> bool:
    """Whether an object is a stub of a pickled module, or of a TorchScript object."""
    if not isinstance(obj, Stub):
        return False
    if isinstance(obj.global_ref, ScriptClass):
        return True
    attributes = obj.attributes()
    return "_parameters" in attributes and "_modules" in attributes


def module_items(root: Stub) -> Iterator[tuple[str, Any]]:
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
