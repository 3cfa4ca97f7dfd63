"""Values that a syntax tree spells out: literals, and what a few harmless operations make of them."""

import ast
import itertools
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

__all__ = ["Unknown", "evaluate"]

_MOST: Final = 10_000
"""Items and characters; more is no list of entry points."""


class Unknown(Exception):  # noqa: N818 - it is an answer, not an error
    """The value is known only when the code runs."""


Names = Mapping[str, Any]

_WIDE: Final = re.compile(r"%[^a-zA-Z%]*(\d{3}|\*)")
"""A format that asks for hundreds of characters, or for as many as a value says."""

_WITH_FIELDS: Final = re.compile(r"(?s)\{.*[.\[:]|[.\[:].*\{")
"""A template that may look up attributes or items, or ask for a width."""

_METHODS: Final[dict[type, set[str]]] = {
    str: {"format", "lower", "upper", "title", "capitalize", "replace", "strip", "lstrip", "rstrip", "join", "split",
          "removeprefix", "removesuffix"},
    dict: {"items", "keys", "values", "get"},
}  # fmt: skip
_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "range": range, "zip": zip, "enumerate": enumerate, "list": list, "tuple": tuple, "sorted": sorted, "len": len,
    "str": str, "int": int, "dict": dict, "set": set, "reversed": reversed, "frozenset": frozenset,
}  # fmt: skip
_OPERATORS: Final[dict[type, Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mod: operator.mod, ast.BitOr: operator.or_,
}  # fmt: skip

_TESTS: Final[dict[type, Callable[[Any, Any], bool]]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip


def evaluate(node: ast.AST, names: Names) -> Any:
    """Return the value of an expression.

    Parameters
    ----------
    node : ast.AST
    names : mapping
        The values of names that are known.

    Raises
    ------
    Unknown
        If the syntax tree does not tell it.
    """
    rule = _RULES.get(type(node))
    if rule is None:
        raise Unknown
    try:
        return _bounded(rule(node, names))
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError, MemoryError) as error:
        raise Unknown from error


def _bounded(value: Any) -> Any:
    """Return a value that is small in every way: sixty lists that each hold the last one twice are 10**18 items."""
    left = _MOST
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, int) and item.bit_length() > _MOST:
            raise Unknown
        left -= _weight(item)
        if left < 0:
            raise Unknown
        if isinstance(item, list | tuple | set | frozenset):
            waiting.extend(item)
        elif isinstance(item, dict):
            waiting.extend(item)
            waiting.extend(item.values())
    return value


def _weight(item: Any) -> int:
    if isinstance(item, str | bytes):
        return _MOST + 1 if len(item) > _MOST else len(item) // 100
    return len(item) if hasattr(item, "__len__") else 0


def _name(node: Any, names: Names) -> Any:
    if node.id not in names:
        raise Unknown
    return names[node.id]


def _joined(node: Any, names: Names) -> str:
    parts = []
    for part in node.values:
        if isinstance(part, ast.FormattedValue):
            form = evaluate(part.format_spec, names) if part.format_spec is not None else ""
            parts.append(_formatted(evaluate(part.value, names), part.conversion, form))
        else:
            parts.append(str(part.value))
    return "".join(parts)


def _formatted(value: Any, conversion: int, form: str) -> str:
    if not isinstance(value, str | int | float | bool) or len(form) > 8:
        raise Unknown
    if conversion == ord("r"):
        value = repr(value)
    return format(value, form)


def _binary(node: Any, names: Names) -> Any:
    left, right = evaluate(node.left, names), evaluate(node.right, names)
    if isinstance(node.op, ast.Mult) and isinstance(left, int | float) and isinstance(right, int | float):
        return left * right
    rule = _OPERATORS.get(type(node.op))
    if rule is None or (isinstance(node.op, ast.Mod) and isinstance(left, str | bytes) and _WIDE.search(str(left))):
        raise Unknown
    return rule(left, right)


def _dict(node: Any, names: Names) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key, value in zip(node.keys, node.values, strict=True):
        if key is None:
            found.update(evaluate(value, names))
        else:
            found[evaluate(key, names)] = _or_opaque(value, names)
    return found


def _or_opaque(node: ast.AST, names: Names) -> Any:
    """Return a value, or the expression itself: a table's keys matter even where its values are functions."""
    try:
        return evaluate(node, names)
    except Unknown:
        return node


def _items(node: Any, names: Names) -> list[Any]:
    found: list[Any] = []
    for item in node.elts:
        if isinstance(item, ast.Starred):
            found.extend(evaluate(item.value, names))
        else:
            found.append(_or_opaque(item, names))
    return found


def _call(node: Any, names: Names) -> Any:
    arguments = [evaluate(argument, names) for argument in node.args]
    keywords = {keyword.arg: evaluate(keyword.value, names) for keyword in node.keywords}
    if isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS and node.func.id not in names:
        result = _FUNCTIONS[node.func.id](*arguments, **keywords)
        return list(itertools.islice(result, _MOST + 1)) if isinstance(result, Iterator | range) else result
    if isinstance(node.func, ast.Attribute):
        value: Any = evaluate(node.func.value, names)
        for kind, methods in _METHODS.items():
            if isinstance(value, kind) and node.func.attr in methods:
                if kind is str and _WITH_FIELDS.search(str(value)):
                    raise Unknown
                result = getattr(value, node.func.attr)(*arguments, **keywords)
                return list(result) if kind is dict and node.func.attr != "get" else result
    raise Unknown


def _subscript(node: Any, names: Names) -> Any:
    value = evaluate(node.value, names)
    if isinstance(node.slice, ast.Slice):
        bounds = [
            None if part is None else evaluate(part, names)
            for part in (node.slice.lower, node.slice.upper, node.slice.step)
        ]
        return value[slice(*bounds)]
    return value[evaluate(node.slice, names)]


def _comprehension(node: Any, names: Names) -> Any:
    found: list[Any] = []
    for scope in _loops(node.generators, names, itertools.count()):
        if len(found) > _MOST:
            raise Unknown
        if isinstance(node, ast.DictComp):
            found.append((evaluate(node.key, scope), _or_opaque(node.value, scope)))
        else:
            found.append(_or_opaque(node.elt, scope))
    return dict(found) if isinstance(node, ast.DictComp) else found


def _loops(generators: list[Any], names: Names, rounds: Iterator[int]) -> Iterator[Names]:
    if not generators:
        yield names
        return
    first = generators[0]
    for value in _bounded(list(evaluate(first.iter, names))):
        if next(rounds) > _MOST:  # loops in loops whose conditions let nothing through find nothing for ever
            raise Unknown
        scope = {**names, **bound(first.target, value)}
        if all(evaluate(test, scope) for test in first.ifs):
            yield from _loops(generators[1:], scope, rounds)


def bound(target: ast.AST, value: Any) -> dict[str, Any]:
    """Return what an assignment of a value to a target gives to which name.

    Raises
    ------
    Unknown
        If the target is more than names.
    """
    if isinstance(target, ast.Name):
        return {target.id: value}
    if isinstance(target, ast.Tuple | ast.List):
        values = list(value)
        if len(values) != len(target.elts):
            raise Unknown
        return {
            name: item for part, one in zip(target.elts, values, strict=True) for name, item in bound(part, one).items()
        }
    raise Unknown


def _compare(node: Any, names: Names) -> bool:
    left = evaluate(node.left, names)
    for rule, part in zip(node.ops, node.comparators, strict=True):
        right = evaluate(part, names)
        if not _TESTS[type(rule)](left, right):
            return False
        left = right
    return True


_RULES: Final[dict[type, Callable[[Any, Names], Any]]] = {
    ast.Constant: lambda node, names: node.value,
    ast.Name: _name,
    ast.JoinedStr: _joined,
    ast.BinOp: _binary,
    ast.List: _items,
    ast.Tuple: lambda node, names: tuple(_items(node, names)),
    ast.Set: _items,
    ast.Dict: _dict,
    ast.Call: _call,
    ast.Subscript: _subscript,
    ast.ListComp: _comprehension,
    ast.SetComp: _comprehension,
    ast.GeneratorExp: _comprehension,
    ast.DictComp: _comprehension,
    ast.Compare: _compare,
}
