"""Measure the budgets of the source code and fail when one is broken.

Sizes are read from the syntax tree. A function's length is its lines from `def` to its end without the docstring.
What is bounded: lines of a module, median and 90th percentile of function lengths, single long functions (allowed
only with a comment that gives the reason), and the number of parameters.

Usage: python tools/check_budgets.py [folder]      (default: src)
"""

from __future__ import annotations

import ast
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_MODULE_LINES: Final = 500
MAX_MEDIAN_FUNCTION: Final = 8
MAX_P90_FUNCTION: Final = 30
MAX_UNREASONED_FUNCTION: Final = 60
MAX_PARAMETERS: Final = 7

# How many of a long function's first lines may hold the comment with its reason.
REASON_LINES: Final = 5

# Functions that may take more parameters, each with its reason. An entry that is not needed is reported.
ALLOWED_PARAMETERS: Final[Mapping[str, str]] = {
    "weighlock.background._start": "the parameters of weighlock.save",
    "weighlock.cli.hub_commands.lock": "one parameter an option of the command",
    "weighlock.cli.hub_commands.prefetch": "one parameter an option of the command",
    "weighlock.cli.scanning.scan_paths": "one parameter an option of the command",
    "weighlock.comparing.diffing.diff": "each is one way in which checkpoints may differ without being different",
    "weighlock.converting.conversion.convert": "each is a separate wish about the one new file",
    "weighlock.converting.edits.edit": "each is a separate wish about the one new file",
    "weighlock.hub.surface.help": "torch.hub's own parameters come first, then ours, keyword-only",
    "weighlock.hub.surface.list": "torch.hub's own parameters come first, then ours, keyword-only",
    "weighlock.hub.surface.load": "torch.hub's own parameters come first, then ours, keyword-only",
    "weighlock.hub.surface.load_state_dict_from_url": "torch.hub's own parameters come first, then ours, keyword-only",
    "weighlock.loading.load": "torch.load's own parameters come first, then ours, keyword-only",
    "weighlock.pickling.rare_opcodes.Handlers.__init__": "each is a separate promise to the caller",
    "weighlock.salvaging.salvage.salvage": "each is a separate wish about the one new file",
    "weighlock.saving.save": "torch.save's own parameters come first, then ours, keyword-only",
    "weighlock.scanning.notes.Notes.add": "the fields of a finding, each optional",
    "weighlock.storages.refs.StorageRef.__init__": "the fields of the persistent id and of the record, one to one",
    "weighlock.tensors.spec.QuantizedSpec.__init__": "the fields of torch's own rebuild call and its quantizer",
    "weighlock.tensors.spec.WrapperSpec.__init__": "the arguments of torch's own rebuild function, one to one",
    "weighlock.tensors.spec.TensorSpec.__init__": "the fields of torch's own rebuild call, built once per tensor",
}

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
_REASON: Final = re.compile(r"#.*\breason\b", re.IGNORECASE)


@dataclass(frozen=True)
class Function:
    """One function as measured."""

    name: str
    """Dotted name: module, classes, function."""
    place: str
    """File and line."""
    lines: int
    """Lines without the docstring."""
    parameters: int
    """Named parameters without `self`, `cls`, `*args` and `**kwargs`."""
    has_reason: bool
    """Whether a comment with the word "reason" stands above it or in its first lines."""


@dataclass(frozen=True)
class Module:
    """One file as measured."""

    path: str
    lines: int
    functions: tuple[Function, ...]


def measure_module(path: Path, root: Path) -> Module:
    """Measure the file at `path`; names are made from its place below `root`."""
    text = path.read_text(encoding="utf-8")
    source = text.splitlines()
    parts = path.relative_to(root).with_suffix("").parts
    module = ".".join(part for part in parts if part != "__init__")
    functions = tuple(
        Function(
            name=f"{module}.{name}",
            place=f"{path}:{node.lineno}",
            lines=_length(node),
            parameters=_parameters(node, in_class=in_class),
            has_reason=_has_reason(node, source),
        )
        for name, node, in_class in _functions(ast.parse(text, str(path)))
    )
    return Module(str(path), len(source), functions)


def _functions(node: ast.AST, prefix: str = "", *, in_class: bool = False) -> Iterator[tuple[str, FunctionNode, bool]]:
    """Give every function below `node`, nested ones too, with its dotted name and whether it is a method."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FunctionNode):
            yield prefix + child.name, child, in_class
            yield from _functions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.", in_class=True)
        else:
            yield from _functions(child, prefix, in_class=in_class)


def _docstring_lines(node: FunctionNode) -> int:
    if ast.get_docstring(node, clean=False) is None:
        return 0
    return _last_line(node.body[0]) - node.body[0].lineno + 1


def _last_line(node: ast.stmt) -> int:
    return node.end_lineno if node.end_lineno is not None else node.lineno


def _length(node: FunctionNode) -> int:
    return _last_line(node) - node.lineno + 1 - _docstring_lines(node)


def _parameters(node: FunctionNode, *, in_class: bool) -> int:
    named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    is_static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
    return len(named) - (1 if in_class and not is_static and named else 0)


def _has_reason(node: FunctionNode, source: Sequence[str]) -> bool:
    """Look at the comment block above the function (and its decorators), and at its first lines."""
    top = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
    above = []
    while top > 0 and source[top - 1].lstrip().startswith("#"):
        top -= 1
        above.append(source[top])
    # Comments may stand before the docstring, or after it and before the first statement.
    after_docstring = _last_line(node.body[0]) if _docstring_lines(node) else node.lineno
    first = [*source[node.lineno - 1 : node.body[0].lineno], *source[after_docstring : after_docstring + REASON_LINES]]
    return any(_REASON.search(line) for line in [*above, *first])


def percentile(values: Sequence[int], share: float) -> int:
    """Give the smallest value that at least `share` of `values` do not exceed; 0 when there are none."""
    if not values:
        return 0
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def violations(modules: Sequence[Module], allowed: Mapping[str, str] = ALLOWED_PARAMETERS) -> list[str]:
    """Give one sentence for each broken budget."""
    functions = [function for module in modules for function in module.functions]
    lengths = [function.lines for function in functions]
    found = [
        f"{module.path}: {module.lines} lines, at most {MAX_MODULE_LINES}"
        for module in modules
        if module.lines > MAX_MODULE_LINES
    ]
    for label, share, bound in (("median", 0.5, MAX_MEDIAN_FUNCTION), ("90th percentile", 0.9, MAX_P90_FUNCTION)):
        if (value := percentile(lengths, share)) > bound:
            found.append(f"function length, {label}: {value} lines, at most {bound}")
    for function in functions:
        found += _function_violations(function, allowed)
    used = {function.name for function in functions if function.parameters > MAX_PARAMETERS}
    found += [f"{name}: allowed more parameters but does not need it" for name in allowed if name not in used]
    return found


def _function_violations(function: Function, allowed: Mapping[str, str]) -> Iterator[str]:
    if function.lines > MAX_UNREASONED_FUNCTION and not function.has_reason:
        yield (
            f"{function.place} {function.name}: {function.lines} lines, above {MAX_UNREASONED_FUNCTION} "
            'only with a comment "Reason: ..." above it or in its first lines'
        )
    if function.parameters > MAX_PARAMETERS and function.name not in allowed:
        yield f"{function.place} {function.name}: {function.parameters} parameters, at most {MAX_PARAMETERS}"


def summary(modules: Sequence[Module]) -> str:
    """Give the figures in one line."""
    lengths = [function.lines for module in modules for function in module.functions]
    return (
        f"budgets: {len(modules)} modules, largest {max((m.lines for m in modules), default=0)} lines; "
        f"{len(lengths)} functions, median {percentile(lengths, 0.5)}, p90 {percentile(lengths, 0.9)}, "
        f"longest {max(lengths, default=0)} lines"
    )


def main(arguments: Sequence[str]) -> int:
    """Print the figures and what is broken; give the exit code."""
    root = Path(arguments[0] if arguments else "src")
    modules = [measure_module(path, root) for path in sorted(root.rglob("*.py"))]
    if not modules:
        print(f"budgets: no Python files below {root}", file=sys.stderr)
        return 1
    found = violations(modules)
    print(summary(modules))
    for sentence in found:
        print(f"  {sentence}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
