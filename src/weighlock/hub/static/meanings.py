"""What an expression stands for: a function, a class, a partial of one, a value, or what nobody can tell."""

import ast
import dataclasses
from typing import Any, Final

from weighlock.hub.static.bindings import Binding, gives_a_class, gives_a_value
from weighlock.hub.static.constants import Unknown, evaluate
from weighlock.hub.static.syntax import dotted, looks_constant, own_returns

__all__ = ["decorated", "meaning"]

_WRAPPERS: Final = ("lru_cache", "functools.lru_cache", "cache", "functools.cache", "functools.wraps", "staticmethod")
_PARTIALS: Final = ("functools.partial", "partial", "functools.partialmethod")


def meaning(scope: Any, value: Any, name: str = "") -> Binding:
    """Return what an expression stands for.

    Parameters
    ----------
    scope : Scope
        The module that it is in; notes what only running code can tell.
    name : str
        What it is given to, for that note; an empty text notes nothing.
    """
    rule = _RULES.get(type(value))
    found: Binding = rule(scope, value, name) if rule is not None else Binding("value")
    return found


def _unknown(scope: Any, node: Any, name: str) -> Binding:
    if not name or name.startswith("_") or "." in name:
        return Binding("value")
    scope.note(node, f"whether {name} can be called is known only when the code runs")
    return Binding("unknown")


def _name(scope: Any, value: ast.Name, name: str) -> Binding:
    found: Binding | None = scope.names.get(value.id)
    if found is None:
        return Binding("external") if value.id in _BUILTINS and value.id not in scope.constants else Binding("value")
    return dataclasses.replace(found, alias=True) if found.is_callable else found


_BUILTINS: Final = {"print", "len", "dict", "list", "tuple", "set", "str", "int", "float", "open", "min", "max", "sum"}


def _choice(scope: Any, value: Any, name: str) -> Binding:
    choices = [value.body, value.orelse] if isinstance(value, ast.IfExp) else value.values
    meanings = [meaning(scope, one, name) for one in choices]
    there = [one for one in meanings if one.is_callable]
    if there and len(there) < len(meanings) and isinstance(value, ast.IfExp):
        _unknown(scope, value, name)
    return there[0] if there else meanings[-1]


def _item(scope: Any, value: ast.Subscript, name: str) -> Binding:
    try:
        found = evaluate(value, scope.constants)
    except Unknown:
        return _unknown(scope, value, name)
    return meaning(scope, found, name) if isinstance(found, ast.AST) else Binding("value")


def _attribute(scope: Any, value: ast.Attribute, name: str) -> Binding:
    text = dotted(value)
    top = text.partition(".")[0]
    found = scope.names.get(top)
    if value.attr.startswith("__"):
        return Binding("value")
    if found is None or not text:
        return _unknown(scope, value, name)
    if found.kind == "module":
        path = scope.tree.path_of(scope.imports.get(top, top) + text[len(top) :].rpartition(".")[0])
        own = scope.tree.scope(path) if path else None
        if own is not None:
            return own.names.get(value.attr) or _unknown(scope, value, name)
    if found.kind in ("module", "external") and top in scope.imports:
        constant = looks_constant(value.attr) or name.isupper()
        return Binding("value") if constant else Binding("external")
    return _unknown(scope, value, name)


def _result(scope: Any, call: ast.Call, name: str) -> Binding:
    """Return what a call gives."""
    text = scope.full_name(call.func)
    if text in _PARTIALS and call.args:
        return _partial(scope, call)
    if text in _WRAPPERS and call.args:
        return meaning(scope, call.args[-1])
    if isinstance(call.func, ast.Call) and scope.full_name(call.func.func) in _WRAPPERS and call.args:
        return meaning(scope, call.args[0])
    made = _made_by(scope, call)
    if made is not None:
        return made
    if gives_a_class(text):
        return Binding("generated", scope, None)
    plain = isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Constant | ast.JoinedStr)
    return Binding("value") if plain or gives_a_value(text) else _unknown(scope, call, name)


def _partial(scope: Any, call: ast.Call) -> Binding:
    target = meaning(scope, call.args[0])
    return Binding("partial", scope, call, target if target.kind != "value" else Binding("external"))


def _made_by(scope: Any, call: ast.Call) -> Binding | None:
    """Return what one of the repository's own functions or classes gives."""
    function = meaning(scope, call.func)
    if function.kind == "class":
        return _instance(function)
    if function.kind != "def" or function.scope is None:
        return None
    return _returned(function, meaning(scope, call.args[0]) if call.args else None)


def _instance(binding: Binding) -> Binding | None:
    """Return what an object of a class is; None where a class that is not known may decide."""
    for _ in range(20):
        if any(isinstance(node, ast.FunctionDef) and node.name == "__call__" for node in binding.node.body):
            return Binding("generated", binding.scope, binding.node)
        bases = [base for base in binding.node.bases if dotted(base) != "object"]
        if not bases and not binding.node.keywords:
            return Binding("value")
        base = meaning(binding.scope, bases[0]) if len(bases) == 1 and not binding.node.keywords else Binding("value")
        if base.kind != "class" or base.node is binding.node:
            return None
        binding = base
    return None


def _returned(function: Binding, given: Binding | None) -> Binding | None:
    """Return what a function gives, where it makes one or hands back what it was given."""
    node = function.node
    inner = {one.name: one for one in ast.walk(node) if isinstance(one, ast.FunctionDef | ast.ClassDef)}
    first = next((argument.arg for argument in [*node.args.posonlyargs, *node.args.args]), None)
    for found in own_returns(node):
        if isinstance(found.value, ast.Lambda):
            return Binding("generated", function.scope, found.value)
        if isinstance(found.value, ast.Name) and found.value.id in inner:
            return Binding("generated", function.scope, inner[found.value.id])
        if isinstance(found.value, ast.Name) and found.value.id == first and given is not None and given.is_callable:
            return given
        if isinstance(found.value, ast.Call) and function.scope.full_name(found.value.func) in _PARTIALS[:2]:
            return Binding("generated", function.scope, None)
    return None


def decorated(scope: Any, node: Any, binding: Binding) -> Binding:
    """Return what a definition is after its decorators. Those of other packages are taken to leave it callable."""
    for decorator in node.decorator_list:
        call = decorator.func if isinstance(decorator, ast.Call) else decorator
        function = meaning(scope, call)
        if function.kind != "def" or function.scope is None:
            continue
        made = _returned(function, binding)
        if made is None or not made.is_callable:
            scope.note(node, f"whether {node.name} can be called after its decorator is known only when the code runs")
    return binding


_RULES: Final[dict[type, Any]] = {
    ast.Name: _name,
    ast.Lambda: lambda scope, value, name: Binding("lambda", scope, value),
    ast.Call: _result,
    ast.Attribute: _attribute,
    ast.Subscript: _item,
    ast.IfExp: _choice,
    ast.BoolOp: _choice,
    ast.NamedExpr: lambda scope, value, name: meaning(scope, value.value, name),
}
