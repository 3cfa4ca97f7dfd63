"""Saving in the background: what is written is what was there at the call, and no error is lost."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from weighlock import background
from weighlock.background import save_async
from weighlock.errors import ArgumentError, TargetError, UnsupportedTypeError
from weighlock.loading import load
from weighlock.saving import save


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


@pytest.fixture
def held(monkeypatch):
    """The writing thread waits until this event is set."""
    may_write, real = threading.Event(), background._outcome

    def outcome(*args):
        assert may_write.wait(60)
        return real(*args)

    monkeypatch.setattr(background, "_outcome", outcome)
    yield may_write
    may_write.set()


@pytest.mark.parametrize("count", [0, 1, 1000, 3_000_000])
def test_what_is_written_is_what_was_there(tmp_path, held, count):
    array = np.arange(count, dtype="float64")
    shared = {"whole": array, "part": array[: count // 2], "reversed": array[::-1], "odd": array[1::2]}
    expected = io.BytesIO()
    save(shared, expected)
    future = save_async(shared, tmp_path / "a.pt")
    array += 1
    shared.clear()
    held.set()
    future.result(60)
    assert future.exception() is None
    assert (tmp_path / "a.pt").read_bytes() == expected.getvalue()


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"durable": True}])
def test_the_options_of_save(tmp_path, options):
    save_async({"a": np.ones(3)}, tmp_path / "a.pt", **options).result(60)
    save({"a": np.ones(3)}, tmp_path / "b.pt", **options)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_saves_to_one_path_keep_their_order(tmp_path):
    array = np.zeros(200_000)
    futures = []
    for step in range(20):
        array[:] = step
        futures.append(save_async({"a": array, "step": step}, tmp_path / "a.pt"))
    futures[-1].result(60)
    assert all(future.done() for future in futures)
    loaded = load(tmp_path / "a.pt")
    assert loaded["step"] == 19
    assert (loaded["a"] == 19).all()


def test_a_third_snapshot_waits(tmp_path, held):
    first = [save_async([np.ones(10)], tmp_path / f"{index}.pt") for index in range(2)]
    third: list[background.SaveFuture] = []
    caller = threading.Thread(target=lambda: third.append(save_async([np.ones(10)], tmp_path / "3.pt")))
    caller.start()
    caller.join(0.1)
    assert caller.is_alive()
    held.set()
    caller.join(60)
    for future in first + third:
        future.result(60)
    assert sorted(os.listdir(tmp_path)) == ["0.pt", "1.pt", "3.pt"]


def test_a_save_that_has_not_begun_may_be_cancelled(tmp_path, held):
    first, second = (save_async([np.ones(10)], tmp_path / name) for name in ("a.pt", "b.pt"))
    assert second.cancel()
    held.set()
    first.result(60)
    save_async([1], tmp_path / "c.pt").result(60)
    save_async([1], tmp_path / "d.pt").result(60)
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "c.pt", "d.pt"]


def test_the_path_is_the_one_of_the_call(tmp_path, monkeypatch, held):
    monkeypatch.chdir(tmp_path)
    future = save_async([1], "a.pt")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    held.set()
    future.result(60)
    assert (tmp_path / "a.pt").exists()
    assert future.target == str(tmp_path / "a.pt")


def test_file_objects(tmp_path):
    file = io.BytesIO()
    save_async({"a": 1}, file).result(60)
    file.seek(0)
    assert load(file) == {"a": 1}


def test_what_cannot_be_saved_is_an_error_at_once(tmp_path):
    with pytest.raises(UnsupportedTypeError):
        save_async({"a": object()}, tmp_path / "a.pt")
    with pytest.raises(ArgumentError):
        save_async({"a": 1}, tmp_path / "a.pt", framework="fortran")
    with pytest.raises(TypeError):
        save_async({"a": 1}, tmp_path / "a.pt", nonsense=True)
    assert os.listdir(tmp_path) == []


def test_errors_of_writing_reach_the_caller(tmp_path):
    future = save_async([np.ones(10)], tmp_path / "missing" / "a.pt")
    with pytest.raises(TargetError, match="Create it first"):
        future.result(60)
    assert isinstance(future.exception(), FileNotFoundError)
    save_async([1], tmp_path / "b.pt").result(60)  # the thread lives on


def test_an_error_that_nobody_asks_for_is_a_warning(tmp_path):
    future = save_async([np.ones(10)], tmp_path / "missing" / "a.pt")
    save_async([1], tmp_path / "b.pt").result(60)
    with pytest.warns(RuntimeWarning, match="nobody asked"):
        del future


def test_memory_is_used_again(tmp_path):
    arrays = [np.full(1_000_000, step, "float64") for step in range(3)]
    places = set()
    for array in arrays:
        save_async([array], tmp_path / "a.pt").result(60)
        places.add(id(background._background._kept))
        assert (load(tmp_path / "a.pt")[0] == array).all()
    if sys.platform == "linux":
        assert len(places) == 1


def test_pending_saves_finish_when_the_program_ends(tmp_path):
    done = run(f"""
import numpy, weighlock
for step in range(4):
    weighlock.save_async([numpy.full(2_000_000, step)], {str(tmp_path)!r} + f"/{{step}}.pt")
""")
    assert (done.returncode, done.stderr) == (0, "")
    assert [int(load(tmp_path / f"{step}.pt")[0][-1]) for step in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize("before", ["", "weighlock.save_async([0], folder + '/before.pt')"])
def test_functions_of_atexit_save_and_load(tmp_path, before):
    """Mostly there are no threads then; Python 3.12 does not even let loading and saving start some of their own.

    Where `threading` is imported only then, a thread can be had, which nobody waits for: so the result is asked for.
    """
    done = run(f"""
import atexit, numpy, weighlock
folder = {str(tmp_path)!r}
def at_the_end():
    for step in range(4):  # more than there is room for snapshots
        weighlock.save_async([numpy.full(2_000_000, step)], f"{{folder}}/{{step}}.pt").result()
    weighlock.save(weighlock.load(folder + "/3.pt"), folder + "/4.pt")
    print(weighlock.save_async([1], folder + "/missing/a.pt").exception())
atexit.register(at_the_end)
{before}
""")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Create it first" in done.stdout
    assert [int(load(tmp_path / f"{step}.pt")[0][-1]) for step in range(5)] == [0, 1, 2, 3, 3]


@pytest.mark.parametrize("started", [0, 1])
def test_without_more_threads_the_work_is_done_all_the_same(tmp_path, monkeypatch, started):
    save([np.arange(3_000_000)], tmp_path / "a.pt")
    real, asked = threading.Thread.start, []

    def start(thread):
        asked.append(thread)
        if len(asked) > started:
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr(threading.Thread, "start", start)
    assert (load(tmp_path / "a.pt")[0] == np.arange(3_000_000)).all()
    assert len(asked) == started + 1


def test_lost_errors_are_shown_when_the_program_ends(tmp_path):
    done = run(f"""
import weighlock
kept = weighlock.save_async([1], {str(tmp_path / "missing" / "a.pt")!r})
""")
    assert "was not saved, and nobody asked about it" in done.stderr
    assert "Create it first" in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_has_a_thread_of_its_own(tmp_path):
    done = run(f"""
import os, warnings, numpy, weighlock
weighlock.save_async([1], {str(tmp_path / "a.pt")!r}).result()
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 advises against what is tried here
child = os.fork()
weighlock.save_async([os.getpid()], {str(tmp_path)!r} + ("/parent.pt" if child else "/child.pt")).result(60)
if child:
    assert os.waitpid(child, 0)[1] == 0
""")
    assert (done.returncode, done.stderr) == (0, "")
    assert load(tmp_path / "parent.pt") != load(tmp_path / "child.pt")


class TestTorch:
    def test_tensors_may_be_changed_at_once(self, torch, tmp_path, held):
        import weighlock.torch

        model = torch.nn.Linear(300, 300)
        optimizer = torch.optim.Adam(model.parameters())
        model(torch.randn(5, 300)).sum().backward()
        optimizer.step()
        tree = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "any": {1, 2, 3}}
        expected = io.BytesIO()
        weighlock.torch.save(tree, expected)
        future = weighlock.torch.save_async(tree, tmp_path / "a.pt", durable=True)
        optimizer.step()
        held.set()
        future.result(60)
        assert (tmp_path / "a.pt").read_bytes() == expected.getvalue()
        assert torch.equal(
            torch.load(tmp_path / "a.pt")["model"]["weight"],
            torch.load(io.BytesIO(expected.getvalue()))["model"]["weight"],
        )

    def test_what_cannot_be_pickled_is_an_error_at_once(self, torch, tmp_path):
        import weighlock.torch

        with pytest.raises(Exception, match="pickle"):
            weighlock.torch.save_async({"a": threading.Lock()}, tmp_path / "a.pt")
