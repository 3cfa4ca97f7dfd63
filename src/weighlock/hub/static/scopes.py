"""The names that a module has after its code ran, followed through the syntax tree.

Each name is bound to what it was bound to last: a function, a class, a partial, something imported. Both branches of
a condition are taken, because which one runs depends on the machine. What only running code can tell is noted, with
its line.
"""

import ast
import dataclasses
import os
from typing import Any, Final

from weighlock.hub.static.bindings import Binding, gives_a_value
from weighlock.hub.static.constants import Unknown, bound, evaluate
from weighlock.hub.static.folders import FolderReader
from weighlock.hub.static.syntax import dotted, is_module, is_namespace, own_returns, target_names

__all__ = ["Scope", "Tree"]

_LARGEST: Final = 2 << 20
_MOST_MODULES: Final = 2000
_MOST_STEPS: Final = 20_000

_LISTS: Final = ("__all__", "dependencies")
_CHANGING: Final = {"append", "extend", "insert", "update", "setdefault", "pop", "remove", "clear", "add"}
_WRAPPERS: Final = ("lru_cache", "functools.lru_cache", "cache", "functools.cache", "functools.wraps", "staticmethod")


class Tree:
    """The modules of one repository that have been read.

    Parameters
    ----------
    root : str
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.roots = [root]
        self.scopes: dict[str, Scope] = {}
        self.reasons: dict[str, None] = {}

    def note(self, scope: "Scope", node: Any, why: str) -> None:
        """Note why the list of names may not be whole."""
        self.reasons[f"{scope.file}:{getattr(node, 'lineno', 1)}: {why}"] = None

    def add_root(self, path: str) -> None:
        """Look for modules in a further folder, as a changed `sys.path` would."""
        path = os.path.normpath(path)
        if os.path.isdir(path) and path not in self.roots and path.startswith(self.root + os.sep):
            self.roots.append(path)

    def path_of(self, name: str, folders: list[str] | None = None) -> str | None:
        """Return the file or folder of a module of the repository; None where it is not one."""
        for folder in self.roots if folders is None else folders:
            base = os.path.join(folder, *name.split("."))
            for path in (os.path.join(base, "__init__.py"), base + ".py"):
                if os.path.isfile(path):
                    return path
            if os.path.isdir(base) and "." not in name and _has_python(base):
                return base
            if os.path.isdir(base) and "." in name:
                return base
        return None

    def scope(self, path: str) -> "Scope | None":
        """Return a module's scope; None for a folder without code, or what cannot be read."""
        known = self.scopes.get(path)
        if known is not None or not path.endswith(".py"):
            return known
        if len(self.scopes) >= _MOST_MODULES or os.path.getsize(path) > _LARGEST:
            self.reasons[f"{os.path.relpath(path, self.root)} is too large to be read"] = None
            return None
        try:
            with open(path, "rb") as file:
                tree = ast.parse(file.read(), path)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            self.reasons[f"{os.path.relpath(path, self.root)} cannot be read: {error}"] = None
            return None
        scope = self.scopes[path] = Scope(self, path, tree)
        scope.follow()
        return scope


def _has_python(folder: str) -> bool:
    return any(name.endswith(".py") or os.path.isdir(os.path.join(folder, name)) for name in os.listdir(folder))


class Scope:
    """One module.

    Attributes
    ----------
    names : dict of str to Binding
        In the order in which they were first bound.
    constants : dict of str to object
        Values that the text spells out.
    imports : dict of str to str
        What a name of an imported thing stands for: ``np`` for ``numpy``.
    """

    def __init__(self, tree: Tree, path: str, module: ast.Module) -> None:
        self.tree, self.path, self.module = tree, path, module
        self.file = os.path.relpath(path, tree.root).replace(os.sep, "/")
        self.names: dict[str, Binding] = {}
        self.constants: dict[str, Any] = {"__name__": "hubconf"}
        self.imports: dict[str, str] = {}
        self.exported: list[str] | None = None
        self.used: list[Scope] = []
        self.steps = 0

    @property
    def folder(self) -> str:
        return os.path.dirname(self.path)

    def follow(self) -> None:
        """Go through the module's code once."""
        self._block(self.module.body)

    def _block(self, body: list[Any]) -> None:
        for node in body:
            self.steps += 1
            if self.steps > _MOST_STEPS:
                self.tree.note(self, node, "there is more code than is followed")
                return
            rule = _STATEMENTS.get(type(node))
            if rule is not None:
                rule(self, node)

    def define(self, node: Any) -> None:
        kind = "class" if isinstance(node, ast.ClassDef) else "def"
        self._bind(node.name, Binding(kind, self, node))

    def _bind(self, name: str, binding: Binding) -> None:
        self.names.pop(name, None)
        self.names[name] = binding
        if binding.kind != "value":
            self.constants.pop(name, None)

    def import_(self, node: ast.Import) -> None:
        for alias in node.names:
            top = alias.name.partition(".")[0]
            self.imports[alias.asname or top] = alias.name if alias.asname else top
            self._bind(alias.asname or top, Binding("module"))
            self._use(alias.name)

    def _use(self, name: str) -> "Scope | None":
        """Read one of the repository's own modules, and the packages that it is in."""
        found = None
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            path = self.tree.path_of(".".join(parts[:depth]))
            if path is None:
                return None
            found = self.tree.scope(path)
            if found is not None:
                self.used.append(found)
        return found

    def import_from(self, node: ast.ImportFrom) -> None:
        if node.module == "__future__":
            return
        own, path = self._source(node)
        for alias in node.names:
            if alias.name == "*":
                self._import_all(node, own, path)
                continue
            name = alias.asname or alias.name
            if path is None:
                self.imports[name] = f"{node.module}.{alias.name}"
            self._bind(name, self._imported(node, own, path, alias.name))

    def _source(self, node: ast.ImportFrom) -> tuple["Scope | None", str | None]:
        """Return the scope and path of the module that is imported from, where it is the repository's own."""
        if node.level == 0:
            name = node.module or ""
            path = self.tree.path_of(name)
            return (self._use(name), path) if path is not None else (None, None)
        folder = self.folder
        for _ in range(node.level - 1):
            folder = os.path.dirname(folder)
        if not (folder + os.sep).startswith(self.tree.root + os.sep):
            return None, None
        if node.module is None:
            path = os.path.join(folder, "__init__.py")
            return (self._read(path) if os.path.isfile(path) and path != self.path else None), folder
        path = self.tree.path_of(node.module, [folder])
        return (self._read(path) if path else None), path

    def _read(self, path: str) -> "Scope | None":
        found = self.tree.scope(path)
        if found is not None:
            self.used.append(found)
        return found

    def _imported(self, node: ast.ImportFrom, own: "Scope | None", path: str | None, name: str) -> Binding:
        if path is None:
            return Binding("module") if is_module(node.module or "", name) else Binding("external", node=node)
        if own is not None and name in own.names:
            found = own.names[name]
            if name in own.constants:
                self.constants.setdefault(name, own.constants[name])
            return found
        folder = path if os.path.isdir(path) else os.path.dirname(path)
        if os.path.isdir(path) or os.path.basename(path) == "__init__.py":
            inner = self.tree.path_of(name, [folder])
            if inner is not None:
                self._read(inner)
                return Binding("module")
        if own is not None and name in own.constants:
            return Binding("value")
        self.tree.note(self, node, f"where {name} comes from is known only when the code runs")
        return Binding("unknown")

    def _import_all(self, node: ast.ImportFrom, own: "Scope | None", path: str | None) -> None:
        if path is None or own is None:
            self.tree.note(
                self, node, f"everything is imported from {node.module or '.'}, which is not in the repository"
            )
            return
        names = own.exported if own.exported is not None else [name for name in own.names if not name.startswith("_")]
        for name in names:
            if name in own.names:
                self._bind(name, own.names[name])
            elif own.exported is not None and path.endswith("__init__.py"):
                self._bind(name, self._imported(node, own, path, name))

    def assign(self, node: Any) -> None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if node.value is None:
            return
        for target in targets:
            self._assign(target, node.value, node)

    def _assign(self, target: Any, value: Any, node: Any) -> None:
        several = isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List)
        if several and len(target.elts) == len(value.elts):
            for part, one in zip(target.elts, value.elts, strict=True):
                self._assign(part, one, node)
            return
        if isinstance(target, ast.Subscript):
            self._assign_item(target, value, node)
        for name in target_names(target):
            self._assign_name(name, value, node)

    def _assign_name(self, name: str, value: Any, node: Any) -> None:
        self._bind(name, self.meaning(value, name))
        try:
            known = evaluate(value, self.constants)
        except Unknown:
            self.constants.pop(name, None)
        else:
            self.constants[name] = known
            if isinstance(known, dict | list | set) and name not in _LISTS and (not known or self._is_changed(name)):
                # A registry, which decorators or other modules fill: what stands here is not what it will hold.
                del self.constants[name]
        if name == "__all__":
            found = self.constants.get(name)
            if isinstance(found, list | tuple):
                self.exported = [str(one) for one in found]
            else:
                self.tree.note(self, node, "__all__ is known only when the code runs")

    def _is_changed(self, name: str) -> bool:
        """Whether the module changes what a name holds."""
        for node in ast.walk(self.module):
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

    def meaning(self, value: Any, name: str = "") -> Binding:
        """Return what an expression stands for."""
        if isinstance(value, ast.Name):
            found = self.names.get(value.id)
            if found is None:
                return Binding("value")
            return dataclasses.replace(found, alias=True) if found.is_callable else found
        if isinstance(value, ast.Lambda):
            return Binding("lambda", self, value)
        if isinstance(value, ast.Call):
            return self._result(value, name)
        if isinstance(value, ast.Attribute):
            return self._attribute(value)
        if isinstance(value, ast.IfExp | ast.BoolOp):
            choices = [value.body, value.orelse] if isinstance(value, ast.IfExp) else value.values
            meanings = [self.meaning(one, name) for one in choices]
            return next((one for one in meanings if one.is_callable), meanings[-1])
        return Binding("value")

    def _attribute(self, value: ast.Attribute) -> Binding:
        text = dotted(value)
        top = text.partition(".")[0]
        found = self.names.get(top)
        if found is None or not text:
            return Binding("value")
        if found.kind == "module":
            path = self.tree.path_of(self.imports.get(top, top) + text[len(top) :].rpartition(".")[0])
            own = self.tree.scope(path) if path else None
            if own is not None:
                return own.names.get(value.attr, Binding("unknown"))
        return Binding("external") if found.kind in ("module", "external") and top in self.imports else Binding("value")

    def _result(self, call: ast.Call, name: str) -> Binding:
        """Return what a call gives."""
        text = self.full_name(call.func)
        if text in ("functools.partial", "partial", "functools.partialmethod") and call.args:
            target = self.meaning(call.args[0])
            if isinstance(call.args[0], ast.Attribute) and target.kind == "value":
                target = Binding("external")
            return Binding("partial", self, call, target if target.kind != "value" else Binding("external"))
        if text in _WRAPPERS and call.args:
            return self.meaning(call.args[-1])
        if isinstance(call.func, ast.Call) and self.full_name(call.func.func) in _WRAPPERS and call.args:
            return self.meaning(call.args[0])
        made = self._made_by(call)
        if made is not None:
            return made
        if name and not name.startswith("_") and not gives_a_value(text) and "." not in name:
            self.tree.note(self, call, f"whether {name} can be called is known only when the code runs")
            return Binding("unknown")
        return Binding("value")

    def full_name(self, node: Any) -> str:
        """Return a dotted name with the imported name in the place of its alias."""
        text = dotted(node)
        top, dot, rest = text.partition(".")
        return self.imports.get(top, top) + dot + rest

    def _made_by(self, call: ast.Call) -> Binding | None:
        """Return what one of the repository's own functions gives, where it makes a function."""
        function = self.meaning(call.func)
        if function.kind == "class":
            init = any(isinstance(node, ast.FunctionDef) and node.name == "__call__" for node in function.node.body)
            return Binding("generated", function.scope, function.node) if init else None
        if function.kind != "def" or function.scope is None:
            return None
        inner = {
            node.name: node for node in ast.walk(function.node) if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        for node in own_returns(function.node):
            if isinstance(node.value, ast.Lambda):
                return Binding("generated", function.scope, node.value)
            if isinstance(node.value, ast.Name) and node.value.id in inner:
                return Binding("generated", function.scope, inner[node.value.id])
            if isinstance(node.value, ast.Call) and function.scope.full_name(node.value.func) in (
                "functools.partial",
                "partial",
            ):
                return Binding("generated", function.scope, None)
        return None

    def _assign_item(self, target: ast.Subscript, value: Any, node: Any) -> None:
        """Follow ``globals()["name"] = ...``."""
        if not is_namespace(target.value):
            return
        try:
            name = str(evaluate(target.slice, self.constants))
        except Unknown:
            self.tree.note(self, node, "names are made by running code: globals()[...] = ...")
            return
        self._bind_made(name, value)

    def _bind_made(self, name: str, value: Any) -> None:
        binding = self.meaning(value, f"globals().{name}") if isinstance(value, ast.AST) else Binding("value")
        if binding.kind in ("def", "class", "lambda"):
            binding = Binding("generated", binding.scope, binding.node)
        plain = binding.kind == "value" and isinstance(value, ast.Constant | ast.List | ast.Dict | ast.Tuple)
        if binding.kind == "value" and not plain:
            binding = Binding("generated", self, None)
        self._bind(name, binding)

    def expression(self, node: ast.Expr) -> None:
        call = node.value
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            return
        if call.func.attr == "update" and is_namespace(call.func.value):
            self._update_names(call)
        elif dotted(call.func) in ("__all__.extend", "__all__.append") and call.args:
            self._extend_all(call, call.args[0], one=call.func.attr == "append")
        elif self.full_name(call.func) in ("sys.path.append", "sys.path.insert", "sys.path.extend") and call.args:
            self._extend_path(call.args[-1])
        elif self.full_name(call.func) == "setattr":
            self.tree.note(self, node, "names are made by running code: setattr")

    def _update_names(self, call: ast.Call) -> None:
        try:
            found: dict[Any, Any] = {}
            for argument in call.args:
                found.update(evaluate(argument, self.constants))
        except (Unknown, TypeError, ValueError):
            self.tree.note(self, call, "names are made by running code: globals().update(...)")
            return
        for name, value in found.items():
            self._bind_made(str(name), value)
        for keyword in call.keywords:
            if keyword.arg:
                self._bind_made(keyword.arg, keyword.value)

    def _extend_all(self, node: Any, value: Any, *, one: bool) -> None:
        try:
            found = evaluate(value, self.constants)
            self.exported = [*(self.exported or []), *([str(found)] if one else map(str, found))]
        except (Unknown, TypeError):
            self.tree.note(self, node, "__all__ is known only when the code runs")

    def augment(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name) and node.target.id == "__all__":
            self._extend_all(node, node.value, one=False)

    def _extend_path(self, value: Any) -> None:
        found = FolderReader(self).read(value)
        if found is not None:
            self.tree.add_root(found)

    def delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            for name in target_names(target):
                self.names.pop(name, None)

    def branch(self, node: ast.If) -> None:
        text = ast.unparse(node.test)
        if ("__name__" in text and "__main__" in text) or text.endswith("TYPE_CHECKING"):
            self._block(node.orelse)
            return
        self._block(node.body)
        self._block(node.orelse)

    def attempt(self, node: Any) -> None:
        self._block(node.body)
        known = dict(self.names)
        for handler in node.handlers:
            self._block(handler.body)
        for name, binding in known.items():
            # What stands in a handler is the second choice.
            if self.names.get(name) is not binding and binding.is_callable:
                self.names[name] = binding
        self._block(node.orelse)
        self._block(node.finalbody)

    def loop(self, node: ast.For) -> None:
        makes = any(isinstance(inner, ast.Call) and is_namespace(inner) for inner in ast.walk(node))
        if not makes:
            self._block(node.body)
            self._block(node.orelse)
            return
        before = dict(self.constants)
        try:
            values = list(evaluate(node.iter, self.constants))
            for value in values:
                self.constants.update(bound(node.target, value))
                for name, item in bound(node.target, value).items():
                    if isinstance(item, ast.AST):
                        self._bind(name, self.meaning(item))
                self._block(node.body)
        except (Unknown, TypeError):
            self.tree.note(self, node, "names are made by a loop over what is known only when the code runs")
        self.constants = before

    def within(self, node: Any) -> None:
        self._block(node.body)
        self._block(getattr(node, "orelse", []))


_STATEMENTS: Final[dict[type, Any]] = {
    ast.FunctionDef: Scope.define,
    ast.AsyncFunctionDef: Scope.define,
    ast.ClassDef: Scope.define,
    ast.Import: Scope.import_,
    ast.ImportFrom: Scope.import_from,
    ast.Assign: Scope.assign,
    ast.AnnAssign: Scope.assign,
    ast.AugAssign: Scope.augment,
    ast.Expr: Scope.expression,
    ast.Delete: Scope.delete,
    ast.If: Scope.branch,
    ast.Try: Scope.attempt,
    ast.TryStar: Scope.attempt,
    ast.For: Scope.loop,
    ast.While: Scope.within,
    ast.With: Scope.within,
}
