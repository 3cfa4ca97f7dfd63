"""The shared fixtures can fail."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests import conftest


def test_a_missing_golden_file_is_a_failure(check_golden, request, tmp_path, monkeypatch):
    if request.config.getoption("--update-goldens"):
        pytest.skip("golden files are being written")
    monkeypatch.setattr(conftest, "GOLDENS", tmp_path)
    with pytest.raises(AssertionError, match="is missing"):
        check_golden("nothing.bin", b"")
    assert not (tmp_path / "nothing.bin").exists()


def test_other_bytes_than_the_golden_file_are_a_failure(check_golden, request, tmp_path, monkeypatch):
    if request.config.getoption("--update-goldens"):
        pytest.skip("golden files are being written")
    monkeypatch.setattr(conftest, "GOLDENS", tmp_path)
    (tmp_path / "one.bin").write_bytes(b"one")
    check_golden("one.bin", b"one")
    with pytest.raises(AssertionError, match="not the bytes"):
        check_golden("one.bin", b"two")


def test_hypothesis_runs_without_deadline():
    assert settings.default is not None
    assert settings.default.deadline is None
