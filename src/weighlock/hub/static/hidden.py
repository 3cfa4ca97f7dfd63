"""Ways to change a module's names that are not followed; where one stands, the list of names is not called whole."""

import ast
from typing import Any, Final

from weighlock.hub.static.syntax import dotted, is_namespace, run_at_import

__all__ = ["look"]

_SIGNS: Final = (b"globals", b"locals", b"vars(", b"exec", b"global ", b"setattr", b"sys.modules", b"__dir__", b"eval")
_READING: Final = {"get", "keys", "values", "items", "copy"}


def look(scope: Any, data: bytes) -> None:
    """Note what changes a module's names unseen.

    Parameters
    ----------
    scope : Scope
        After its statements were followed.
    data : bytes
        The module's text.
    """
    if not any(sign in data for sign in _SIGNS):
        return
    for node in scope.nodes:
        for child in ast.iter_child_nodes(node):
            changes = is_namespace(child) and id(child) not in scope.followed and not _only_reads(node, child)
            if changes and _is_the_modules(scope, child):
                scope.note(child, "names are made by running code: globals()")
        if isinstance(node, ast.Subscript) and dotted(node.value) == "sys.modules" and _is_name(node.slice):
            scope.note(node, "the module changes itself through sys.modules")
    _at_import(scope)


def _is_name(node: Any) -> bool:
    return isinstance(node, ast.Name) and node.id == "__name__"


def _only_reads(parent: Any, child: Any) -> bool:
    if isinstance(parent, ast.Subscript):
        return isinstance(parent.ctx, ast.Load)
    if isinstance(parent, ast.Attribute):
        return parent.attr in _READING
    return isinstance(parent, ast.Compare | ast.For | ast.comprehension) or (
        isinstance(parent, ast.Call) and dotted(parent.func) in ("sorted", "list", "tuple", "set", "dict", "len")
    )


def _is_the_modules(scope: Any, call: Any) -> bool:
    """Whether a namespace is the module's: within a function, ``locals()`` is not."""
    return dotted(call.func) == "globals" or any(node is call for node in run_at_import(scope.module.body))


def _at_import(scope: Any) -> None:
    called = set()
    for node in run_at_import(scope.module.body):
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            called.add(name)
            if name in ("exec", "eval"):
                scope.note(node, f"text is run as code: {name}")
            elif name == "setattr" and node.args and _may_be_itself(scope, node.args[0]):
                scope.note(node, "names are made by running code: setattr")
    for node in scope.module.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__dir__":
            scope.note(node, "the module says itself which names it has: __dir__")
        elif isinstance(node, ast.FunctionDef) and node.name in called:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Global) and any(not name.startswith("_") for name in inner.names):
                    scope.note(node, f"{node.name}() binds names of the module: global {', '.join(inner.names)}")


def _may_be_itself(scope: Any, node: Any) -> bool:
    """Whether what gets an attribute may be the module: not where it is a class or another package."""
    binding = scope.names.get(dotted(node).partition(".")[0])
    return binding is None or binding.kind not in ("class", "def", "module", "external")
