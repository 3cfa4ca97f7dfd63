"""The pages of the rules are those that the tables make."""

from __future__ import annotations

import pytest

from tools import rule_pages


def test_pages_are_current(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["rule_pages.py", "--check"])
    assert rule_pages.main() == 0, capsys.readouterr().out


@pytest.mark.parametrize("change", ["edit", "remove", "add"])
def test_the_check_can_fail(monkeypatch, tmp_path, capsys, change):
    monkeypatch.setattr(rule_pages, "FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["rule_pages.py"])
    assert rule_pages.main() == 0
    page = tmp_path / "wl1xx.md"
    if change == "edit":
        page.write_text(page.read_text() + "more")
    elif change == "remove":
        page.unlink()
    else:
        (tmp_path / "wl8xx.md").write_text("old")
    monkeypatch.setattr("sys.argv", ["rule_pages.py", "--check"])
    assert rule_pages.main() == 1
    assert "is not current" in capsys.readouterr().out
