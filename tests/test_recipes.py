"""Every example of the recipes runs as it is written, and prints what the page says."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

import weighlock as wl
from tests.conftest import HAS_TORCH
from tests.markdown_blocks import blocks, run_page

ROOT: Final = Path(__file__).parent.parent
RECIPES: Final = ROOT / "docs" / "recipes"
PAGES: Final = sorted(RECIPES.glob("*.md"))
NEEDS_TORCH: Final = "<!-- needs torch -->"
LINES_WITH_MARK: Final = 5

LINEAR: Final = {"weight": np.array([[0.5, -1.0, 2.0]], "float32"), "bias": np.array([0.25], "float32")}
"""The state_dict of `nn.Linear(3, 1)` in the files that the recipes are given."""


def needs_torch(page: Path) -> bool:
    return NEEDS_TORCH in page.read_text("utf-8").splitlines()[:LINES_WITH_MARK]


def page_parameters() -> list[Any]:
    """Return each page that has examples, marked where it needs PyTorch."""
    return [
        pytest.param(page, id=page.stem, marks=[pytest.mark.requires_torch] if needs_torch(page) else [])
        for page in PAGES
        if any(blocks(page.read_text("utf-8")))
    ]


# Files that no machine of today writes by itself


def replace_in_pickle(path: Path, old: bytes, new: bytes) -> None:
    """Write a zip checkpoint anew with other bytes in its pickle."""
    with zipfile.ZipFile(path) as archive:
        records = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records:
            if name.endswith("/data.pkl"):
                assert old in data
            archive.writestr(name, data.replace(old, new) if name.endswith("/data.pkl") else data)


def binunicode(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode("ascii")


def write_saved_on(path: Path, location: str) -> None:
    """Write the state_dict of a `nn.Linear(3, 1)` whose storages carry another location than the CPU."""
    wl.save(LINEAR, path)
    replace_in_pickle(path, binunicode("cpu"), binunicode(location))


def write_python2(path: Path) -> None:
    """Write a legacy stream with the byte strings of Python 2: ASCII keys, and a value in Latin-1."""
    wl.save({**LINEAR, "author": "Zo_"}, path, _use_new_zipfile_serialization=False)
    stream = path.read_bytes()
    for text, content in [("weight", b"weight"), ("bias", b"bias"), ("author", b"author"), ("Zo_", b"Zo\xeb")]:
        assert stream.count(binunicode(text)) == 1
        stream = stream.replace(binunicode(text), b"U" + bytes([len(content)]) + content)  # U is SHORT_BINSTRING
    path.write_bytes(stream)


def write_given_files(folder: Path) -> None:
    """Write the files that the recipes name as given; docs/recipes/index.md lists them."""
    for example in (ROOT / "examples").glob("*.pt"):
        shutil.copy(example, folder)
    write_saved_on(folder / "saved_on_gpu.pt", "cuda:0")
    write_saved_on(folder / "saved_on_gpu_1.pt", "cuda:1")
    write_saved_on(folder / "saved_on_accelerator.pt", "toy:0")
    write_python2(folder / "saved_by_python2.pt")


@pytest.fixture
def available(monkeypatch):
    """What can be run here. What a page registers with PyTorch is forgotten behind it."""
    if not HAS_TORCH:
        yield frozenset()
        return
    import torch

    monkeypatch.setattr(torch.serialization, "_package_registry", [*torch.serialization._package_registry])
    allowed = torch.serialization.get_safe_globals()
    yield frozenset({"torch", "gpu"} if torch.cuda.is_available() else {"torch"})
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(allowed)


@pytest.mark.parametrize("page", page_parameters())
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch, available):
    write_given_files(tmp_path)
    assert run_page(page, tmp_path, monkeypatch, available=available) > 0
