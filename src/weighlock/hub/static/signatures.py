"""How an entry point is called, and its docstring, from its definition."""

import ast
import copy
import sys
from typing import Any, Final

from weighlock.hub.static.bindings import Binding

__all__ = ["doc_of", "signature_of"]

_NO_ARGUMENTS: Final = ast.arguments(
    posonlyargs=[], args=[], vararg=None, kwonlyargs=[], kw_defaults=[], kwarg=None, defaults=[]
)


def doc_of(binding: Binding) -> str | None:
    """Return a docstring as Python would keep it; of a partial that of its function."""
    if binding.kind == "partial" and binding.target is not None:
        return doc_of(binding.target)
    if isinstance(binding.node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return _as_compiled(ast.get_docstring(binding.node, clean=False))
    return None


def _as_compiled(doc: str | None) -> str | None:
    """From Python 3.13 on, the compiler takes out the spaces that all lines but the first begin with."""
    if doc is None or sys.hexversion < 0x030D0000:
        return doc
    first, *others = doc.expandtabs().split("\n")
    margin = min((len(line) - len(line.lstrip(" ")) for line in others if line.strip(" ")), default=0)
    return "\n".join([first.lstrip(" "), *(line[margin:] for line in others)])


def signature_of(binding: Binding) -> str | None:
    """Return ``(a, b=1)``; None where it is not known."""
    arguments = _arguments(binding)
    if arguments is None:
        return None
    text = f"({ast.unparse(arguments)})"
    while binding.kind == "partial" and binding.target is not None:
        binding = binding.target
    node = binding.node
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
        text += f" -> {ast.unparse(node.returns)}"
    return text


def _arguments(binding: Binding) -> ast.arguments | None:
    node = binding.node
    if binding.kind == "partial":
        return _left_to_give(binding)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return node.args
    if isinstance(node, ast.ClassDef):
        for inner in node.body:
            if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
                return _without_first(inner.args, 1)
        return None if node.bases else _NO_ARGUMENTS
    return None


def _without_first(arguments: ast.arguments, count: int) -> ast.arguments:
    """Return arguments without those that are given by position already."""
    left = copy.deepcopy(arguments)
    for names in (left.posonlyargs, left.args):
        taken = min(count, len(names))
        del names[:taken]
        count -= taken
    kept = len(left.posonlyargs) + len(left.args)
    left.defaults = left.defaults[len(left.defaults) - kept :] if kept < len(left.defaults) else left.defaults
    if not kept:
        left.defaults = []
    return left


def _left_to_give(binding: Binding) -> ast.arguments | None:
    """Return what a partial still takes: what it gives by name has become a default."""
    inner = _arguments(binding.target) if binding.target is not None else None
    call: Any = binding.node
    if inner is None or any(isinstance(one, ast.Starred) for one in call.args):
        return None
    left = _without_first(inner, len(call.args) - 1)
    for keyword in call.keywords:
        if keyword.arg is None:
            return None
        _give(left, keyword.arg, keyword.value)
    return left


def _give(arguments: ast.arguments, name: str, value: ast.expr) -> None:
    """Make a named argument one with a default. It and those behind it can then be given by name only."""
    for at, one in enumerate(arguments.args):
        if one.arg == name:
            first = len(arguments.args) - len(arguments.defaults)
            moved = arguments.args[at:]
            values: list[ast.expr | None] = [
                arguments.defaults[at + index - first] if at + index >= first else None for index in range(len(moved))
            ]
            values[0] = value
            arguments.defaults = arguments.defaults[: max(0, at - first)]
            arguments.args = arguments.args[:at]
            arguments.vararg = None
            arguments.kwonlyargs = [*moved, *arguments.kwonlyargs]
            arguments.kw_defaults = [*values, *arguments.kw_defaults]
            return
    for at, one in enumerate(arguments.kwonlyargs):
        if one.arg == name:
            arguments.kw_defaults[at] = value
