"""What a load does to Python's cycle collector, and does not do to it."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import weighlock as wl


@pytest.fixture
def few(tmp_path: Path) -> str:
    path = tmp_path / "few.pt"
    wl.save({"a": [1, 2]}, path)
    return str(path)


@pytest.fixture
def lists(tmp_path: Path) -> str:
    path = tmp_path / "lists.pt"
    wl.save([[number] for number in range(5_000)], path)
    return str(path)


@pytest.fixture
def frozen() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def young(found: list[Any]) -> int:
    """How many of these lists the collector would walk again before it walks everything."""
    walked = {id(each) for generation in (0, 1) for each in gc.get_objects(generation=generation)}
    return sum(id(each) in walked for each in found)


def test_a_small_load_does_not_count_what_the_program_has_frozen(
    few: str, frozen: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Counting walks every frozen object: 13 ms beside PyTorch, twenty times what the load takes.
    wl.load(few)

    def count() -> int:
        raise AssertionError("all frozen objects would be walked")

    monkeypatch.setattr(gc, "get_freeze_count", count)
    assert wl.load(few) == {"a": [1, 2]}


def test_what_the_program_has_frozen_stays_frozen(lists: str, frozen: None) -> None:
    before = gc.get_freeze_count()
    assert len(wl.load(lists)) == 5_000
    assert gc.get_freeze_count() >= before - 100  # single frozen objects are freed by their owners
    assert before > 1_000


def test_a_large_tree_is_taken_for_old(lists: str) -> None:
    found = wl.load(lists)
    assert young(found) == 0
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_left_as_it_was(few: str, enabled: bool) -> None:
    was = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        wl.load(few)
        with pytest.raises(wl.WeighlockError):
            wl.load(b"no checkpoint")
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was else gc.disable)()
