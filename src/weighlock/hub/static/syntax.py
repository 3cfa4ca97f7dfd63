"""Questions about single nodes of a syntax tree."""

import ast
from collections.abc import Iterator
from typing import Any, Final

__all__ = [
    "dotted",
    "is_for_others",
    "is_module",
    "is_namespace",
    "is_namespace_used",
    "looks_constant",
    "mentions",
    "own_returns",
    "run_at_import",
    "target_names",
    "text",
]


def dotted(node: Any) -> str:
    """Return ``a.b.c`` for a chain of attributes; an empty text for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def text(node: Any) -> str | None:
    """Return the text that a node spells out; None where it is no text."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def mentions(node: Any, name: str) -> bool:
    """Whether a name is used anywhere in a node."""
    return any(isinstance(inner, ast.Name) and inner.id == name for inner in ast.walk(node))


def target_names(target: Any) -> Iterator[str]:
    """Yield the names that an assignment to a target binds."""
    if isinstance(target, ast.Name):
        yield target.id
    elif isinstance(target, ast.Tuple | ast.List):
        for part in target.elts:
            yield from target_names(part)
    elif isinstance(target, ast.Starred):
        yield from target_names(target.value)


def own_returns(function: Any) -> Iterator[ast.Return]:
    """Give the returns of a function, without those of functions inside of it."""
    waiting = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Return) and node.value is not None:
            yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def is_namespace(node: Any) -> bool:
    """Whether an expression is ``globals()``, or what is the same at the top of a module."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("globals", "locals", "vars")
        and not node.args
    )


def is_namespace_used(node: Any) -> bool:
    """Whether ``globals()`` or the like stands anywhere in a node."""
    return any(is_namespace(inner) for inner in ast.walk(node))


def looks_constant(name: str) -> bool:
    """Whether a name of another package is spelled like a constant: ``TYPE_CHECKING``; ``VGG`` may be a class."""
    return name.startswith("__") or (name.isupper() and ("_" in name or len(name) > 6))


def run_at_import(body: list[Any]) -> Iterator[ast.AST]:
    """Give every node that runs on import: not the bodies of functions, nor what only a script does."""
    waiting: list[ast.AST] = list(reversed(body))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting.extend([*node.args.defaults, *(value for value in node.args.kw_defaults if value is not None)])
            # A decorator is called.
            decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
            waiting.extend(ast.copy_location(ast.Call(one, [], []), one) for one in decorators)
            continue
        if isinstance(node, ast.If) and is_for_others(node.test):
            waiting.extend(reversed(node.orelse))
            continue
        yield node
        waiting.extend(reversed(list(ast.iter_child_nodes(node))))


def is_for_others(test: ast.expr) -> bool:
    """Whether a condition holds only in a script, or for a checker of types."""
    text = ast.unparse(test)
    return "__main__" in text or text.endswith("TYPE_CHECKING")


def is_module(module: str, name: str) -> bool:
    """Whether a name that is imported from a package is known to be a module."""
    return f"{module}.{name}" in ("os.path", "xml.etree", "concurrent.futures", "urllib.request", "urllib.parse") or (
        module in ("torch", "torchvision", "torchaudio", "numpy", "torch.nn", "scipy", "PIL", "sklearn", "transformers")
        and name in _KNOWN_MODULES
    )


_KNOWN_MODULES: Final = {
    "nn", "optim", "hub", "jit", "distributed", "functional", "utils", "autograd", "cuda", "models", "transforms",
    "datasets", "init", "random", "linalg", "Image", "io", "ops", "signal", "stats", "ndimage", "amp", "fft",
}  # fmt: skip
