"""Files of every writer, kept for ever, are read as they always were; torch is not needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import weighlock as wl
from tests.describe import describe

GOLDENS = Path(__file__).parent / "goldens"
RESULTS = sorted(GOLDENS.glob("torch-*/*.json"))


def test_there_are_goldens():
    assert len(RESULTS) > 40


@pytest.mark.parametrize("result", RESULTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_golden(result):
    """Each container of a case holds what its writer loaded from it, bit for bit."""
    expected = json.loads(result.read_text(encoding="utf-8"))
    files = sorted(result.parent.glob(f"{result.stem}.*.pt"))
    assert files
    for path in files:
        assert json.loads(json.dumps(describe(wl.load(path)))) == expected, path.name


@pytest.mark.parametrize("path", sorted(GOLDENS.glob("*/*.pt")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_described_without_numpy_types(path):
    """Looking at a golden file finds the same number of tensors without building any."""
    with wl.read_checkpoint(path, encoding="latin1") as checkpoint:
        assert checkpoint.format
        assert checkpoint.unknown == ()
