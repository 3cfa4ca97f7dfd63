"""A folder of numbered checkpoints: what stays, what is found, and what damage does."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

from weighlock.checkpointer import Checkpointer
from weighlock.errors import ArgumentError, SaveError, UnsafeGlobalError, UnsupportedTypeError
from weighlock.loading import load


def tree(step: int) -> dict:
    return {"weight": np.full(50_000, step), "step": step}


def names(folder) -> list[str]:
    return sorted(os.listdir(folder))


def corrupt(path: str, place: int = 200_000) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))


def truncate(path: str) -> None:
    os.truncate(path, os.path.getsize(path) // 2)


def zero(path: str) -> None:
    size = os.path.getsize(path)
    with open(path, "wb") as file:
        file.truncate(size)


def empty(path: str) -> None:
    os.truncate(path, 0)


def test_the_highest_steps_stay(tmp_path):
    checkpoints = Checkpointer(tmp_path / "new" / "folder", keep=3)
    assert checkpoints.all() == []
    assert checkpoints.latest() is None
    assert checkpoints.load_latest() is None
    for step in range(0, 60, 10):
        path = checkpoints.save(tree(step), step)
        assert path == checkpoints.path(step)
    assert names(tmp_path / "new" / "folder") == ["step-00000030.pt", "step-00000040.pt", "step-00000050.pt"]
    assert [saved.step for saved in checkpoints.all()] == [30, 40, 50]
    assert checkpoints.latest() == (50, checkpoints.path(50))
    found = checkpoints.load_latest()
    assert found is not None
    assert (found.step, found.path, found.object["step"]) == (50, checkpoints.path(50), 50)


def test_all_stay_without_a_number(tmp_path):
    checkpoints = Checkpointer(tmp_path, keep=None)
    for step in range(12):
        checkpoints.save([step], step)
    assert [saved.step for saved in checkpoints.all()] == list(range(12))


def test_other_files_are_left_alone(tmp_path):
    others = ["step-1.pt.bak", "step-.pt", "xstep-00000001.pt", "notes.txt", "step-00000001.pth"]
    for name in others:
        (tmp_path / name).write_text("mine")
    checkpoints = Checkpointer(tmp_path, keep=1)
    for step in range(3):
        checkpoints.save([step], step)
    assert names(tmp_path) == sorted([*others, "step-00000002.pt"])


def test_what_was_just_saved_stays_also_with_a_lower_step(tmp_path):
    checkpoints = Checkpointer(tmp_path, keep=2)
    for step in (100, 200, 50):
        checkpoints.save([step], step)
    assert [saved.step for saved in checkpoints.all()] == [50, 100, 200]


def test_names_of_ones_own(tmp_path):
    checkpoints = Checkpointer(tmp_path, keep=2, name="run{{1}}-{step}.ckpt")
    for step in (9, 10, 11):
        checkpoints.save([step], step)
    assert names(tmp_path) == ["run{1}-10.ckpt", "run{1}-11.ckpt"]
    assert [saved.step for saved in checkpoints.all()] == [10, 11]
    assert Checkpointer(tmp_path).all() == []


@pytest.mark.parametrize("name", ["model.pt", "a/{step}.pt", "{step}/{other}", "{other}.pt", ".{step}.pt", "{step}{"])
def test_names_that_make_no_sense(tmp_path, name):
    with pytest.raises(ArgumentError):
        Checkpointer(tmp_path, name=name)


@pytest.mark.parametrize("keep", [0, -1, True, 1.5])
def test_numbers_that_make_no_sense(tmp_path, keep):
    with pytest.raises(ArgumentError):
        Checkpointer(tmp_path, keep=keep)


@pytest.mark.parametrize("step", [-1, 1.0, "1", None, True])
def test_steps_that_make_no_sense(tmp_path, step):
    with pytest.raises(ArgumentError):
        Checkpointer(tmp_path).save([1], step)
    with pytest.raises(ArgumentError):
        Checkpointer(tmp_path, mystery=1)


@pytest.mark.parametrize("damage", [corrupt, truncate, zero, empty])
def test_damaged_files_are_passed_over(tmp_path, damage):
    checkpoints = Checkpointer(tmp_path, keep=3)
    for step in range(3):
        checkpoints.save(tree(step), step)
    damage(checkpoints.path(2))
    for fresh in (checkpoints, Checkpointer(tmp_path)):
        with pytest.warns(RuntimeWarning, match="passed over"):
            assert fresh.latest() == (1, fresh.path(1))
        with pytest.warns(RuntimeWarning, match="passed over"):
            found = fresh.load_latest()
        assert found is not None
        assert found.object["step"] == 1
        with pytest.warns(RuntimeWarning, match="passed over"):
            found = fresh.load_latest(mmap=True)
        assert found is not None
        assert found.object["step"] == 1
    for step in range(2):
        damage(checkpoints.path(step))
    with pytest.warns(RuntimeWarning, match="passed over") as seen:
        assert checkpoints.load_latest() is None
    assert len(seen) == 3
    checkpoints.save(tree(3), 3)
    found = checkpoints.load_latest()
    assert found is not None
    assert found.step == 3


def test_a_file_is_read_once_to_check_it(tmp_path, monkeypatch):
    from weighlock import checkpointer

    checkpoints = Checkpointer(tmp_path)
    checkpoints.save(tree(1), 1)
    read = []
    real = checkpointer._read_all

    def read_all(checkpoint):
        read.append(checkpoint.name)
        real(checkpoint)

    monkeypatch.setattr(checkpointer, "_read_all", read_all)
    checkpoints.latest()
    assert read == []
    fresh = Checkpointer(tmp_path)
    fresh.latest()
    fresh.latest()
    assert len(read) == 1


def test_what_a_whole_file_says_is_no_damage(tmp_path):
    import pickle

    class Unknown:
        pass

    Unknown.__module__, Unknown.__qualname__ = "collections", "Unknown"
    checkpoints = Checkpointer(tmp_path)
    checkpoints.save([1], 1)
    with open(checkpoints.path(2), "wb") as file:
        file.write(pickle.dumps({"a": 1}, 2).replace(b"K\x01", b"cnowhere\nUnknown\n)\x81"))
    with pytest.raises(UnsafeGlobalError):
        checkpoints.load_latest()


def test_a_save_that_fails_touches_nothing(tmp_path):
    checkpoints = Checkpointer(tmp_path, keep=1)
    checkpoints.save([1], 1)
    with pytest.raises(UnsupportedTypeError):
        checkpoints.save([object()], 2)
    os.mkdir(checkpoints.path(3))
    with pytest.raises(SaveError):
        checkpoints.save([3], 3)
    os.rmdir(checkpoints.path(3))
    assert names(tmp_path) == ["step-00000001.pt"]


def test_old_files_that_cannot_be_deleted(tmp_path, monkeypatch):
    checkpoints = Checkpointer(tmp_path, keep=1)
    checkpoints.save([1], 1)
    real = os.unlink

    def unlink(path, **options):
        if str(path).endswith("step-00000001.pt"):
            raise PermissionError("no")
        real(path, **options)

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.warns(RuntimeWarning, match="cannot be deleted"):
        checkpoints.save([2], 2)
    assert len(checkpoints.all()) == 2


def test_in_the_background(tmp_path):
    checkpoints = Checkpointer(tmp_path, keep=2)
    array = np.zeros(100_000)
    futures = []
    for step in range(6):
        array[:] = step
        futures.append(checkpoints.save_async({"a": array}, step))
    for step, future in enumerate(futures):
        future.result(60)
        assert future.target == checkpoints.path(step)
    assert [saved.step for saved in checkpoints.all()] == [4, 5]
    found = checkpoints.load_latest()
    assert found is not None
    assert (found.object["a"] == 5).all()


def test_one_saves_and_others_load(tmp_path):
    """Readers meet files that vanish, never one that is not whole."""
    script = f"""
import sys, warnings
warnings.simplefilter("error")
from weighlock.checkpointer import Checkpointer
checkpoints = Checkpointer({str(tmp_path)!r})
print("ready", flush=True)
last, seen = -1, 0
while last < 39:
    found = checkpoints.load_latest()
    if found is not None:
        assert found.object["step"] == found.step >= last
        assert (found.object["weight"] == found.step).all()
        last = found.step
        seen += 1
"""
    readers = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    checkpoints = Checkpointer(tmp_path, keep=1)
    for step in range(40):
        checkpoints.save(tree(step), step)
    for reader in readers:
        assert reader.communicate(timeout=100) == ("", "")
        assert reader.returncode == 0


def test_tensors(torch, tmp_path):
    checkpoints = Checkpointer(tmp_path, framework="torch", pickle_protocol=4)
    model = torch.nn.Linear(3, 4)
    checkpoints.save(model.state_dict(), 1)
    checkpoints.save_async(model.state_dict(), 2).result(60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = checkpoints.load_latest()
    assert found is not None
    model.load_state_dict(found.object)
    assert isinstance(load(found.path)["weight"], np.ndarray)
