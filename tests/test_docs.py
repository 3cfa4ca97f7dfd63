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
from tests.conftest import HAS_TORCH
from tests.hub_world import HOME
from tests.markdown_blocks import blocks, run_page
from weighlock.dtypes import DTYPES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "hub").glob("*.md"))]
NEEDS_HUB = "<!-- needs the hub's hosts -->"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(blocks(page.read_text("utf-8")))], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_examples_run(page, tmp_path, monkeypatch, request):
    """The blocks of a page run one after the other, beside the example files."""
    folder, shown_as = tmp_path, {}
    if NEEDS_HUB in page.read_text("utf-8"):
        request.getfixturevalue("world")
        folder, shown_as = tmp_path / "home" / "work", {str(tmp_path / "home"): HOME}
        folder.mkdir()
    for example in (ROOT / "examples").glob("*.pt"):
        shutil.copy(example, folder)
    found = frozenset({"torch"}) if HAS_TORCH else frozenset()
    ran = run_page(page, folder, monkeypatch, available=found, shown_as=shown_as)
    assert ran > 0 or all(block.needs for block in blocks(page.read_text("utf-8")))


MODULES = [name for _, name, _ in pkgutil.walk_packages(weighlock.__path__, "weighlock.") if "__main__" not in name]


NEEDS_TORCH = ("weighlock.torch", "weighlock.backends.torch_")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.requires_torch] if name.startswith(NEEDS_TORCH) else [])
        for name in ("weighlock", *MODULES)
    ],
)
def test_docstring_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


TYPE_ROW = re.compile(r"^\| `(\w+)` \| `([\w.]+)` \| (\d+) \| `(\w+)` \| (the same|refused) \|$", re.MULTILINE)


def test_the_table_of_types_says_what_the_code_says():
    text = (ROOT / "docs" / "mapping.md").read_text("utf-8")
    section = text.partition("## Element types")[2].partition("## Tensors")[0]
    expected = [
        (
            row.name,
            "QuantizedTensor" if row.kind == "q" else row.numpy_name or "PackedTensor",
            str(row.itemsize),
            row.storage_class or "UntypedStorage",
            "the same" if row.storage_class else "refused",
        )
        for row in DTYPES.values()
    ]
    assert TYPE_ROW.findall(section) == expected
    assert section.count("\n| `") == len(expected)
