"""What each kind of statement does to a module's names.

Where the text does not tell which way the code goes, every way is followed, and a name that stands at the end of some
of them only is noted. What Python itself decides (its version, `TYPE_CHECKING`, whether it is a script) is decided.
"""

import ast
import sys
from collections.abc import Callable
from typing import Any, Final

from weighlock.hub.static.bindings import Binding
from weighlock.hub.static.constants import Unknown, bound, evaluate
from weighlock.hub.static.folders import FolderReader
from weighlock.hub.static.meanings import decorated, meaning
from weighlock.hub.static.syntax import dotted, is_namespace, is_namespace_used, target_names

__all__ = ["RULES"]

_LISTS: Final = ("__all__", "dependencies")
_CHANGING: Final = {"append", "extend", "insert", "update", "setdefault", "pop", "remove", "clear", "add"}


def _define(scope: Any, node: Any) -> None:
    kind = "class" if isinstance(node, ast.ClassDef) else "def"
    scope.bind(node.name, decorated(scope, node, Binding(kind, scope, node)))


def _assign(scope: Any, node: Any) -> None:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    if node.value is None:
        return
    _within(scope, node.value)
    for target in targets:
        _assign_one(scope, target, node.value, node)


def _assign_one(scope: Any, target: Any, value: Any, node: Any) -> None:
    if isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List):
        parts = _paired(target.elts, value.elts)
        if parts is not None:
            for part, one in parts:
                _assign_one(scope, part, one, node)
            return
    if isinstance(target, ast.Subscript):
        _assign_item(scope, target, value, node)
    for name in target_names(target):
        _assign_name(scope, name, value, node, whole=isinstance(target, ast.Name))


def _paired(targets: list[Any], values: list[Any]) -> list[tuple[Any, Any]] | None:
    """Pair what is assigned with its targets; one of them may take several."""
    starred = [at for at, target in enumerate(targets) if isinstance(target, ast.Starred)]
    if any(isinstance(value, ast.Starred) for value in values) or len(targets) > len(values) + len(starred):
        return None
    if not starred:
        return list(zip(targets, values, strict=True)) if len(targets) == len(values) else None
    at, rest = starred[0], len(targets) - starred[0] - 1
    taken: Any = ast.List(values[at : len(values) - rest], ast.Load())
    middle = (targets[at].value, ast.copy_location(taken, targets[at]))
    return [*zip(targets[:at], values, strict=False), middle,
            *zip(targets[at + 1 :], values[len(values) - rest :], strict=True)]  # fmt: skip


def _assign_name(scope: Any, name: str, value: Any, node: Any, *, whole: bool) -> None:
    try:
        known = evaluate(value, scope.constants)
    except Unknown:
        scope.bind(name, meaning(scope, value, name if whole else ""))
        if not whole:
            _doubt(scope, node, [name])
        scope.constants.pop(name, None)
    else:
        scope.bind(name, meaning(scope, known) if whole and isinstance(known, ast.AST) else Binding("value"))
        scope.constants[name] = known
        if isinstance(known, dict | list | set) and name not in _LISTS and (not known or _is_changed(scope, name)):
            # A registry, which decorators or other modules fill: what stands here is not what it will hold.
            del scope.constants[name]
    if name == "__all__":
        found = scope.constants.get(name)
        if isinstance(found, list | tuple):
            scope.exported = [str(one) for one in found]
        else:
            scope.note(node, "__all__ is known only when the code runs")


def _doubt(scope: Any, node: Any, names: list[str]) -> None:
    for name in names:
        if not name.startswith("_"):
            scope.note(node, f"whether {name} can be called is known only when the code runs")


def _is_changed(scope: Any, name: str) -> bool:
    """Whether the module changes what a name holds."""
    for node in scope.nodes:
        inner = None
        if (isinstance(node, ast.Attribute) and node.attr in _CHANGING) or (
            isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load)
        ):
            inner = node.value
        elif isinstance(node, ast.AugAssign):
            inner = node.target
        if isinstance(inner, ast.Name) and inner.id == name:
            return True
    return False


def _within(scope: Any, node: ast.AST) -> None:
    """Follow assignments inside of an expression: ``(name := value)``."""
    if not scope.assigns_within:
        return
    for inner in ast.walk(node):
        if isinstance(inner, ast.NamedExpr):
            _assign_one(scope, inner.target, inner.value, inner)


# ---------------------------------------------------------------------- names that are made through globals


def _assign_item(scope: Any, target: ast.Subscript, value: Any, node: Any) -> None:
    """Follow ``globals()["name"] = ...``."""
    if not is_namespace(target.value):
        return
    scope.followed.add(id(target.value))
    try:
        name = str(evaluate(target.slice, scope.constants))
    except Unknown:
        scope.note(node, "names are made by running code: globals()[...] = ...")
        return
    _bind_made(scope, name, value)


def _bind_made(scope: Any, name: str, value: Any) -> None:
    if not isinstance(value, ast.AST):
        scope.bind(name, Binding("value"))
        return
    binding = meaning(scope, value, f"globals().{name}")
    if binding.kind in ("def", "class", "lambda"):
        binding = Binding("generated", binding.scope, binding.node)
    if binding.kind == "value" and not isinstance(value, ast.Constant | ast.List | ast.Dict | ast.Tuple):
        try:
            evaluate(value, scope.constants)
        except Unknown:
            binding = Binding("generated", scope, None)
    scope.bind(name, binding)


def _update_names(scope: Any, call: ast.Call) -> None:
    found: dict[Any, Any] = {}
    try:
        for argument in call.args:
            found.update(_table(scope, argument))
    except (Unknown, TypeError, ValueError):
        scope.note(call, "names are made by running code: globals().update(...)")
        return
    for keyword in call.keywords:
        if keyword.arg is None:
            scope.note(call, "names are made by running code: globals().update(**...)")
        else:
            found[keyword.arg] = keyword.value
    for name, value in found.items():
        _bind_made(scope, str(name), value)


def _table(scope: Any, node: Any) -> Any:
    if isinstance(node, ast.Call) and dotted(node.func) == "dict" and not node.args:
        if any(keyword.arg is None for keyword in node.keywords):
            raise Unknown
        return {keyword.arg: keyword.value for keyword in node.keywords}
    return evaluate(node, scope.constants)


def _expression(scope: Any, node: ast.Expr) -> None:
    _within(scope, node.value)
    call = node.value
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return
    if is_namespace(call.func.value):
        if call.func.attr == "update":
            scope.followed.add(id(call.func.value))
            _update_names(scope, call)
        elif call.func.attr == "pop" and call.args:
            _take_out(scope, call.func.value, call.args[0], node)
    elif dotted(call.func) in ("__all__.extend", "__all__.append") and call.args:
        _extend_all(scope, call, call.args[0], one=call.func.attr == "append")
    elif scope.full_name(call.func) in ("sys.path.append", "sys.path.insert", "sys.path.extend") and call.args:
        found = FolderReader(scope).read(call.args[-1])
        if found is not None:
            scope.tree.add_root(found)


def _extend_all(scope: Any, node: Any, value: Any, *, one: bool) -> None:
    try:
        found = evaluate(value, scope.constants)
        scope.exported = [*(scope.exported or []), *([str(found)] if one else map(str, found))]
    except (Unknown, TypeError):
        scope.note(node, "__all__ is known only when the code runs")


def _augment(scope: Any, node: ast.AugAssign) -> None:
    if isinstance(node.target, ast.Name) and node.target.id == "__all__":
        _extend_all(scope, node, node.value, one=False)


def _delete(scope: Any, node: ast.Delete) -> None:
    for target in node.targets:
        if isinstance(target, ast.Subscript) and is_namespace(target.value):
            _take_out(scope, target.value, target.slice, node)
        for name in target_names(target):
            scope.names.pop(name, None)
            scope.constants.pop(name, None)


def _take_out(scope: Any, namespace: ast.AST, key: Any, node: Any) -> None:
    scope.followed.add(id(namespace))
    try:
        scope.names.pop(str(evaluate(key, scope.constants)), None)
    except Unknown:
        scope.note(node, "names are taken away by running code")


# ---------------------------------------------------------------------- ways that code can go


def _either(scope: Any, node: Any, ways: list[list[Any]], why: str) -> None:
    """Follow several ways from one start. What all of them agree on is known afterwards."""
    names, constants = dict(scope.names), dict(scope.constants)
    ends = []
    for way in ways:
        scope.names, scope.constants = dict(names), dict(constants)
        scope.block(way)
        ends.append((scope.names, scope.constants))
    scope.names = {}
    for name in dict.fromkeys(name for found, _ in ends for name in found):
        meanings = [found[name] for found, _ in ends if name in found]
        there = [one for one in meanings if one.is_callable]
        if there and len(there) < len(ends) and not name.startswith("_"):
            scope.note(node, f"whether {name} is there {why}")
        scope.names[name] = there[0] if there else meanings[0]
    first = ends[0][1]
    scope.constants = {
        name: value
        for name, value in first.items()
        if all(name in known and (known[name] is value or known[name] == value) for _, known in ends[1:])
    }


def _branch(scope: Any, node: ast.If) -> None:
    _within(scope, node.test)
    known = _decided(scope, node.test)
    if known is None:
        _either(scope, node, [node.body, node.orelse], "depends on a condition")
    else:
        scope.block(node.body if known else node.orelse)


def _decided(scope: Any, test: ast.expr) -> bool | None:
    """Return what a condition is wherever the code is imported by this Python; None where that is not known."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _decided(scope, test.operand)
        return None if inner is None else not inner
    if isinstance(test, ast.BoolOp):
        found = [_decided(scope, value) for value in test.values]
        ends = isinstance(test.op, ast.Or)
        if ends in found:
            return ends
        return None if None in found else not ends
    if scope.full_name(test) in ("typing.TYPE_CHECKING", "TYPE_CHECKING"):
        return False
    known = {**scope.constants, "sys.version_info": tuple(sys.version_info)}
    try:
        return bool(evaluate(_Names(scope).visit(_copied(test)), known))
    except Unknown:
        return None


class _Names(ast.NodeTransformer):
    """Lets ``sys.version_info`` be a name like any other."""

    def __init__(self, scope: Any) -> None:
        self.scope = scope

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if self.scope.full_name(node) == "sys.version_info":
            return ast.copy_location(ast.Name("sys.version_info", ast.Load()), node)
        return self.generic_visit(node)


def _copied(node: ast.expr) -> ast.expr:
    return ast.parse(ast.unparse(node), mode="eval").body


def _attempt(scope: Any, node: Any) -> None:
    before = dict(scope.names), dict(scope.constants)
    scope.block([*node.body, *node.orelse])
    after = scope.names, scope.constants
    if node.handlers and not all(_is_sure(scope, one) for one in node.body):
        scope.names, scope.constants = before
        _either(scope, node, [[*node.body, *node.orelse], *(handler.body for handler in node.handlers)],
                "depends on whether something fails")  # fmt: skip
    else:
        scope.names, scope.constants = after
    scope.block(node.finalbody)


def _is_sure(scope: Any, node: Any) -> bool:
    """Whether a statement cannot well fail."""
    if isinstance(node, ast.ImportFrom) and node.level:
        return True
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        return all(
            name.partition(".")[0] in sys.stdlib_module_names or scope.tree.path_of(name) is not None for name in names
        )
    simple = isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.Name | ast.Lambda)
    return simple or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Pass)


def _match(scope: Any, node: ast.Match) -> None:
    last = node.cases[-1]
    catches = last.guard is None and isinstance(last.pattern, ast.MatchAs) and last.pattern.pattern is None
    ways = [case.body for case in node.cases]
    _either(scope, node, ways if catches else [*ways, []], "depends on a match")


def _loop(scope: Any, node: ast.For) -> None:
    try:
        values = list(evaluate(node.iter, scope.constants))
    except (Unknown, TypeError):
        if is_namespace_used(node):
            scope.note(node, "names are made by a loop over what is known only when the code runs")
        for name in target_names(node.target):
            scope.bind(name, Binding("value"))
            scope.constants.pop(name, None)
        _either(scope, node, [node.body, []], "depends on a loop")
        if isinstance(node.target, ast.Name) or not is_namespace_used(node):
            _doubt(scope, node, [name for name in target_names(node.target) if name in _carriers(node)])
        scope.block(node.orelse)
        return
    kept = {name: scope.constants.get(name) for name in target_names(node.target)}
    for value in values:
        _take(scope, node.target, value)
        scope.block(node.body)
    for name in kept:
        scope.constants.pop(name, None)
    scope.block(node.orelse)


def _carriers(node: ast.For) -> set[str]:
    """Return the loop's own names, where what it goes over may hold functions: not what merely counts or spells."""
    plain = isinstance(node.iter, ast.Call) and dotted(node.iter.func) in ("range", "enumerate", "os.listdir")
    return set() if plain else set(target_names(node.target))


def _take(scope: Any, target: Any, value: Any) -> None:
    if isinstance(value, ast.AST):
        _assign_one(scope, target, value, value)
        return
    try:
        for name, item in bound(target, value).items():
            scope.bind(name, meaning(scope, item) if isinstance(item, ast.AST) else Binding("value"))
            scope.constants[name] = item
    except (Unknown, TypeError):
        for name in target_names(target):
            scope.bind(name, Binding("value"))


def _while(scope: Any, node: ast.While) -> None:
    _within(scope, node.test)
    if _decided(scope, node.test):
        scope.block(node.body)
    else:
        _either(scope, node, [node.body, []], "depends on a condition")
    scope.block(node.orelse)


def _with(scope: Any, node: ast.With) -> None:
    for item in node.items:
        for name in target_names(item.optional_vars):
            scope.bind(name, Binding("value"))
    scope.block(node.body)


RULES: Final[dict[type, Callable[[Any, Any], None]]] = {
    ast.FunctionDef: _define,
    ast.AsyncFunctionDef: _define,
    ast.ClassDef: _define,
    ast.Import: lambda scope, node: scope.import_(node),
    ast.ImportFrom: lambda scope, node: scope.import_from(node),
    ast.Assign: _assign,
    ast.AnnAssign: _assign,
    ast.AugAssign: _augment,
    ast.Expr: _expression,
    ast.Delete: _delete,
    ast.If: _branch,
    ast.Try: _attempt,
    ast.TryStar: _attempt,
    ast.Match: _match,
    ast.For: _loop,
    ast.While: _while,
    ast.With: _with,
}
