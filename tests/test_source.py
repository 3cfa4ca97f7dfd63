"""Bans on the source code that no linter rule covers."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "weighlock"
RUNS_TRUSTED_CODE = {"hub/isolation.py", "pickling/trusted.py", "torch/__main__.py"}
LOADS_OWN_ROOMS = {"__init__.py", "hub/__init__.py"}
"""Imports a room of the package itself, by a name out of its own table, when it is first asked for."""

BANNED_NAMES = {"__import__", "compile", "eval", "exec"}


def banned_names(source: str) -> set[str]:
    """The builtins that a module names, called or handed on, and that could run or import what a file asks for."""
    return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)} & BANNED_NAMES


def test_no_module_runs_or_imports_by_name():
    modules = {path.relative_to(SOURCE).as_posix(): path for path in SOURCE.rglob("*.py")}
    assert modules
    found = {name: banned_names(path.read_text(encoding="utf-8")) for name, path in modules.items()}
    assert {
        name: names for name, names in found.items() if names and name not in {*RUNS_TRUSTED_CODE, *LOADS_OWN_ROOMS}
    } == {}


def test_the_check_can_fail():
    assert banned_names("f = __import__\nx = [eval]\nexec('1')\nre.compile('x')\n") == {"__import__", "eval", "exec"}
