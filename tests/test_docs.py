"""The examples in the README and in the docs run as they are written, and the tables say what the code says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import shutil
from pathlib import Path

import pytest

import weighlock
from weighlock.dtypes import DTYPES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if BLOCK.search(page.read_text("utf-8"))], ids=lambda page: page.name
)
def test_examples_run(page, tmp_path, monkeypatch):
    """The blocks of a page run one after the other, beside the example files."""
    for example in (ROOT / "examples").glob("*.pt"):
        shutil.copy(example, tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in BLOCK.findall(page.read_text("utf-8")):
        exec(compile(block, str(page), "exec"), names)


MODULES = [name for _, name, _ in pkgutil.walk_packages(weighlock.__path__, "weighlock.") if "__main__" not in name]


@pytest.mark.parametrize("name", ["weighlock", *MODULES])
def test_docstring_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_table_of_types_is_complete():
    table = (ROOT / "docs" / "mapping.md").read_text("utf-8")
    for row in DTYPES.values():
        if row.kind != "p" or "_" in row.name or row.name.startswith("bits"):
            assert f"| `{row.name}` |" in table
            assert row.numpy_name is None or row.kind == "q" or f"`{row.numpy_name}`" in table


def test_the_demo_runs(tmp_path):
    """`make demo`: three files read alike, one saved and loaded back, one refused."""
    import os
    import subprocess
    import sys

    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "demo.py")],
        capture_output=True, text=True, env=environment, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("86.40%") == 3
    assert "loaded back: equal" in done.stdout
    assert "nothing was run" in done.stdout
