"""Many processes at once, and processes that are killed: real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_hub_download import weights

HUBCONF = """
from utils import NAME
def net(url=None):
    return NAME
"""
LIE = "import fcntl; fcntl.flock = lambda *_: None; fcntl.lockf = lambda *_: None; import os\n"


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


@pytest.mark.parametrize("lying", [False, True])
def test_repositories_with_the_same_ref_never_mix(host, store, lying):
    for number in range(6):
        host.repository(f"o/r{number}", files(f"r{number}"))
    url = host.put("net.pth", weights())
    done = finish([start(load_code(host, f"o/r{n % 6}:trunk", url), lying) for n in range(18)])
    assert [row[0] for row in done] == [f"r{n % 6} 3000.0\n" for n in range(18)], done
    _assert_whole(store)


def _assert_whole(store):
    from weighlock.hub import cache

    kinds = [item.kind for item in cache.items(store)]
    assert not {"partial", "damaged"} & set(kinds)
    assert [cache.check_item(item) for item in cache.items(store) if cache.check_item(item)] == []


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5])
@pytest.mark.parametrize("lying", [False, True])
def test_a_process_that_is_killed_leaves_a_cache_that_the_next_one_completes(host, store, moment, lying):
    host.repository("o/n", files("right"))
    data = weights() * 1
    url = host.put("net.pth", data)
    host.fail("net.pth", "drip", 1, piece=2000, delay=0.05)
    victim = start(load_code(host, "o/n", url), lying)
    deadline = time.monotonic() + 20
    while not host.log and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(moment)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    host.faults.clear()
    done = finish([start(load_code(host, "o/n", url), lying) for _ in range(2)])
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
