"""Many processes at once, and processes that are killed: real ones."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.test_hub_download import weights

pytestmark = pytest.mark.one_lane

HUBCONF = """
from utils import NAME
def net(url=None):
    return NAME
"""
# Every lock is granted to everyone: by the system call, and by filelock itself.
LIE = """
import fcntl, filelock
fcntl.flock = fcntl.lockf = lambda *_: None
filelock.FileLock.acquire = lambda *_, **__: None
filelock.FileLock.release = lambda *_, **__: None
"""


def start(code, lying=False):
    return subprocess.Popen(
        [sys.executable, "-c", (LIE if lying else "") + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(processes):
    return [(*process.communicate(timeout=100), process.returncode) for process in processes]


def files(name, count=60):
    return {
        "hubconf.py": HUBCONF,
        "utils.py": f"NAME = {name!r}\n",
        **{f"data/{n}.txt": str(n) * 50 for n in range(count)},
    }


def load_code(host, name, url):
    return (
        "import weighlock as wl\n"
        f"made = wl.hub.load({name!r}, 'net', trust_repo=True, verbose=False)\n"
        f"weights = wl.hub.load_state_dict_from_url({url!r})\n"
        "print(made, weights['weight'].sum())\n"
    )


@pytest.mark.parametrize("lying", [False, True])
def test_thirty_processes_and_one_download(host, store, lying):
    host.repository("o/n", files("right"))
    url = host.put("net.pth", weights())
    done = finish([start(load_code(host, "o/n", url), lying) for _ in range(30)])
    assert {row[0] for row in done} == {"right 3000.0\n"}, [row[1] for row in done if row[2]]
    if not lying:
        assert host.bodies("codeload") == 1
        assert host.bodies("net.pth") == 1
    _assert_whole(store)


@pytest.mark.parametrize("error", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_a_file_system_without_locks(host, store, error):
    """Every lock is an error, as on some network file systems: no lock, no marker that a killed process would leave."""
    host.repository("o/n", files("right"))
    url = host.put("net.pth", weights())
    broken = f"""
import errno, fcntl
def refuse(*_):
    raise OSError(errno.{error}, "no locks here")
fcntl.flock = fcntl.lockf = refuse
"""
    done = finish([start(broken + load_code(host, "o/n", url)) for _ in range(3)])
    assert [row[0] for row in done] == ["right 3000.0\n"] * 3, done
    _assert_whole(store)


def test_a_lock_whose_holder_hangs_is_gone_without(host, store, monkeypatch):
    from weighlock.hub import locks

    monkeypatch.setattr(locks, "_SLOW", 0.05)
    monkeypatch.setattr(locks, "_PATIENCE", 0.1)
    reached = threading.Event()

    def other():
        with locks.held(store, "thing"):
            reached.set()

    with locks.held(store, "thing"):
        thread = threading.Thread(target=other)
        thread.start()
        assert reached.wait(30)
    thread.join()


@pytest.mark.parametrize("lying", [False, True])
def test_repositories_with_the_same_ref_never_mix(host, store, lying):
    for number in range(6):
        host.repository(f"o/r{number}", files(f"r{number}"))
    url = host.put("net.pth", weights())
    done = finish([start(load_code(host, f"o/r{n % 6}:trunk", url), lying) for n in range(12)])
    assert [row[0] for row in done] == [f"r{n % 6} 3000.0\n" for n in range(12)], done
    _assert_whole(store)


def _assert_whole(store):
    from weighlock.hub import cache

    kinds = [item.kind for item in cache.items(store)]
    assert not {"partial", "damaged"} & set(kinds)
    assert [cache.check_item(item) for item in cache.items(store) if cache.check_item(item)] == []


SOAK = int(os.environ.get("WEIGHLOCK_SOAK", "0"))
"""How many more moments of each kind are tried: `make soak`."""


def _moments(kind, few, longest):
    """Random, and the same on every machine: so many seconds after the first request."""
    chance = random.Random(f"{kind} of a kill")
    return [round(chance.uniform(0, longest), 3) for _ in range(SOAK or few)]


# What the victim is doing when it is killed: how the host slows it down, how many moments, and the longest of them.
VICTIMS: dict[str, tuple[Any, int, float]] = {
    "resolving": (lambda host: host.fail("upload-pack", "drip", 2, piece=20, delay=0.02), 1, 0.4),
    "fetching": (lambda host: host.fail("codeload", "drip", 1, piece=4000, delay=0.02), 1, 0.4),
    "extracting": (lambda host: None, 2, 0.3),
    "weights": (lambda host: host.fail("net.pth", "drip", 1, piece=2000, delay=0.05), 1, 0.7),
    "ranges": (lambda host: host.fail("net.pth", "drip", 100, piece=1 << 16, delay=0.02), 2, 0.9),
}
RANGES = """
import weighlock.hub.parallel as parallel, weighlock.hub.transfer as transfer
parallel._RANGE, transfer._TRIAL_BYTES, transfer._FAST = 1 << 18, 1, float("inf")
"""


def _has_begun(host, kind):
    if kind == "ranges":
        return any("Range" in row[3] for row in list(host.log))
    return host.count({"resolving": "upload-pack", "weights": "net.pth"}.get(kind, "codeload")) > 0


@pytest.mark.parametrize("lying", [False, True], ids=["", "lying"])
@pytest.mark.parametrize(
    ("kind", "moment"), [(kind, at) for kind, row in VICTIMS.items() for at in _moments(kind, row[1], row[2])]
)
def test_a_process_that_is_killed_leaves_a_cache_that_the_next_one_completes(
    host, store, monkeypatch, kind, moment, lying
):
    host.repository("o/n", files("right", 200 if kind == "extracting" else 20))
    url = host.put("net.pth", weights(size=1_500_000 if kind == "ranges" else 3000), digest=True)
    VICTIMS[kind][0](host)
    host.config(Path(os.environ["WEIGHLOCK_HUB_CONFIG"]), retries=2, parallel_from=1 << 20)
    code = (RANGES if kind == "ranges" else "") + load_code(host, "o/n", url)
    victim = start(code, lying)
    deadline = time.monotonic() + 20
    while not _has_begun(host, kind) and time.monotonic() < deadline:
        time.sleep(0.002)
    assert _has_begun(host, kind)
    time.sleep(moment)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    host.faults.clear()
    done = finish([start(code, lying) for _ in range(2)])
    assert [row[0] for row in done] == ["right 3000.0\n"] * 2, done
    _assert_whole(store)


def test_the_next_process_continues_what_a_killed_one_began(host, store):
    host.repository("o/n", files("right"))
    data = weights() + b"\0" * 2_000_000
    url = host.put("big.bin", data)
    host.fail("big.bin", "stall", 1, after=1_500_000, seconds=60)
    target = Path(store.hub).parent / "big"
    target.parent.mkdir(parents=True, exist_ok=True)
    code = f"import weighlock as wl; wl.hub.download_url_to_file({url!r}, {str(target)!r})"
    victim = start(code)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        parts = [path for path in target.parent.glob(".*.part") if path.stat().st_size >= 1 << 20]
        if parts:
            break
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    assert finish([start(code)])[0][2] == 0
    assert target.read_bytes() == data
    assert int(host.log[-1][3]["Range"].removeprefix("bytes=").rstrip("-")) >= 1 << 20
    assert not list(target.parent.glob(".*.part*"))


def test_what_a_process_began_that_was_killed_before_the_first_answer(host, store):
    """Nothing was noted of it yet, so that the empty file stayed for a week."""
    url = host.put("net.bin", b"data")
    host.fail("net.bin", "hold", 1)
    target = Path(store.hub).parent / "held"
    target.parent.mkdir(parents=True, exist_ok=True)
    code = f"import weighlock as wl; wl.hub.download_url_to_file({url!r}, {str(target)!r})"
    victim = start(code)
    deadline = time.monotonic() + 20
    while not host.count("net.bin") and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    (part,) = target.parent.glob(".*.part")
    host.released.set()
    other = part.with_name(part.name.replace(str(victim.pid), f"{victim.pid}.1"))
    shutil.copy(f"{part}.note", f"{other}.note")  # as of one that was killed between its note and its file
    assert finish([start(code)])[0][2] == 0
    assert target.read_bytes() == b"data"
    assert [path for path in target.parent.iterdir() if ".part" in path.name] == []


def test_a_winner_that_is_killed_is_taken_over_by_who_waits(host, store):
    host.repository("o/n", files("right"))
    url = host.put("net.pth", weights())
    host.fail("codeload", "hold", 1)
    first = start(load_code(host, "o/n", url))
    deadline = time.monotonic() + 20
    while not host.count("codeload") and time.monotonic() < deadline:
        time.sleep(0.01)
    others = [start(load_code(host, "o/n", url)) for _ in range(4)]
    time.sleep(0.7)
    assert host.count("codeload") == 1
    first.send_signal(signal.SIGKILL)
    first.communicate()
    done = finish(others)
    host.released.set()
    assert [row[0] for row in done] == ["right 3000.0\n"] * 4, done
    assert host.count("codeload") == 2
    _assert_whole(store)
