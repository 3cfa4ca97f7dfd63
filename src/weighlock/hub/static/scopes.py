"""The names that a module has after its code ran, followed through the syntax tree.

Each name is bound to what it was bound to last: a function, a class, a partial, something imported. What only running
code can tell is noted, with its line.
"""

import ast
import functools
import os
from typing import Any, Final

from weighlock.hub.static import hidden
from weighlock.hub.static.bindings import Binding
from weighlock.hub.static.statements import RULES
from weighlock.hub.static.syntax import dotted, is_module, looks_constant

__all__ = ["Scope", "Tree"]

_LARGEST: Final = 2 << 20
_MOST_MODULES: Final = 2000
_DEEPEST: Final = 50
"""Modules that import one another in a chain; Python itself gives up at about three times as many."""
_MOST_STEPS: Final = 20_000


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
        self.depth = 0
        self.unread: dict[str, None] = {}
        """Modules that could not be read, and why."""

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
            self.unread[f"{os.path.relpath(path, self.root)}:1: it is too large to be read"] = None
            return None
        if self.depth >= _DEEPEST:
            self.unread[f"{os.path.relpath(path, self.root)}:1: imports lead deeper than is followed"] = None
            return None
        try:
            with open(path, "rb") as file:
                data = file.read()
            tree = ast.parse(data, path)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            self.unread[
                f"{os.path.relpath(path, self.root)}:{getattr(error, 'lineno', 1) or 1}: it cannot be read: {error}"
            ] = None
            return None
        scope = self.scopes[path] = Scope(self, path, tree)
        self.depth += 1
        scope.follow(data)
        self.depth -= 1
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
        self.starred: list[Scope] = []
        self.reasons: dict[str, None] = {}
        self.followed: set[int] = set()
        self.assigns_within = False
        self.steps = 0

    @functools.cached_property
    def nodes(self) -> list[ast.AST]:
        """Every node of the module: walking the tree is most of the work, and several look at all of it."""
        return list(ast.walk(self.module))

    @property
    def folder(self) -> str:
        return os.path.dirname(self.path)

    def note(self, node: Any, why: str) -> None:
        """Note why the list of names may not be whole."""
        self.reasons[f"{self.file}:{getattr(node, 'lineno', 1)}: {why}"] = None

    def all_reasons(self) -> list[str]:
        """Return why the names may not be whole: also of modules of which everything is taken over."""
        found: dict[str, None] = {}
        seen: set[int] = set()
        waiting = [self]
        while waiting:
            scope = waiting.pop()
            if id(scope) not in seen:
                seen.add(id(scope))
                found.update(scope.reasons)
                waiting.extend(scope.starred)
        return list(found)

    def follow(self, data: bytes) -> None:
        """Go through the module's code once.

        Parameters
        ----------
        data : bytes
            Its text: what does not stand in it needs not be looked for in the tree.
        """
        self.assigns_within = b":=" in data
        self.block(self.module.body)
        hidden.look(self, data)

    def block(self, body: list[Any]) -> None:
        """Follow statements."""
        for node in body:
            self.steps += 1
            if self.steps > _MOST_STEPS:
                self.note(node, "there is more code than is followed")
                return
            rule = RULES.get(type(node))
            if rule is not None:
                rule(self, node)

    def full_name(self, node: Any) -> str:
        """Return a dotted name with the imported name in the place of its alias."""
        text = dotted(node)
        top, dot, rest = text.partition(".")
        return self.imports.get(top, top) + dot + rest

    def bind(self, name: str, binding: Binding) -> None:
        """Let a name stand for something from here on."""
        self.names.pop(name, None)
        self.names[name] = binding
        if binding.kind != "value":
            self.constants.pop(name, None)

    def import_(self, node: ast.Import) -> None:
        for alias in node.names:
            top = alias.name.partition(".")[0]
            self.imports[alias.asname or top] = alias.name if alias.asname else top
            self.bind(alias.asname or top, Binding("module"))
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
            self.bind(name, self._imported(node, own, path, alias.name))

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
            if looks_constant(name):
                return Binding("value")
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
        self.note(node, f"where {name} comes from is known only when the code runs")
        return Binding("unknown")

    def _import_all(self, node: ast.ImportFrom, own: "Scope | None", path: str | None) -> None:
        if path is None or own is None:
            self.note(node, f"everything is imported from {node.module or '.'}, which is not in the repository")
            return
        self.starred.append(own)
        names = own.exported if own.exported is not None else [name for name in own.names if not name.startswith("_")]
        for name in names:
            if name in own.names:
                self.bind(name, own.names[name])
                if name in own.constants:
                    self.constants[name] = own.constants[name]
            elif own.exported is not None and path.endswith("__init__.py"):
                self.bind(name, self._imported(node, own, path, name))
