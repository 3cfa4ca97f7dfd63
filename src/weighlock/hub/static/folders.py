"""Folders that a module names beside itself, as it puts them into `sys.path`."""

import ast
import os
from typing import Any

from weighlock.hub.static.syntax import mentions, target_names, text

__all__ = ["FolderReader"]


class FolderReader:
    """Reads an expression that names a folder beside the module: ``os.path.join(os.path.dirname(__file__), "src")``."""

    def __init__(self, scope: Any) -> None:
        self.scope = scope

    def read(self, node: Any) -> str | None:
        """Return the folder; None where the expression is another."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value if os.path.isabs(node.value) else os.path.join(self.scope.tree.root, node.value)
        if isinstance(node, ast.Name):
            return self.scope.path if node.id == "__file__" else self._named(node.id)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div | ast.Add):
            left, right = self.read(node.left), text(node.right)
            return None if left is None or right is None else os.path.join(left, right.lstrip("/"))
        if isinstance(node, ast.Attribute):
            inner = self.read(node.value)
            return os.path.dirname(inner) if inner is not None and node.attr == "parent" else None
        return self._call(node) if isinstance(node, ast.Call) else None

    def _named(self, name: str) -> str | None:
        for statement in self.scope.module.body:
            if isinstance(statement, ast.Assign) and name in target_names(statement.targets[0]):
                return None if mentions(statement.value, name) else self.read(statement.value)
        return None

    def _call(self, node: ast.Call) -> str | None:
        name = self.scope.full_name(node.func)
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("resolve", "absolute", "as_posix"):
            return self.read(node.func.value)
        inner = self.read(node.args[0]) if node.args else None
        if inner is None:
            return None
        if name.endswith("path.dirname"):
            return os.path.dirname(inner)
        if name.endswith("path.join"):
            parts = [text(part) for part in node.args[1:]]
            return None if None in parts else os.path.normpath(os.path.join(inner, *[str(part) for part in parts]))
        known = ("path.abspath", "path.realpath", "path.normpath", "Path", "str", "fspath")
        return inner if name.endswith(known) else None
