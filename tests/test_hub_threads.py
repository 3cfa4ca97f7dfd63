"""What a call says holds in the threads that the repository's code starts, and nowhere else."""

from __future__ import annotations

import threading

import pytest

import weighlock as wl
from tests.test_hub_download import weights
from tests.test_hub_offline import without_sockets

hub = wl.hub

# Each way in which code starts a thread; each calls `work` in one and returns what it returned.
WAYS = {
    "thread": "def go(work):\n    found = []\n    thread = threading.Thread(target=lambda: found.append(work()))\n"
    "    thread.start()\n    thread.join()\n    return found[0]\n",
    "subclass": "class Mine(threading.Thread):\n    def __init__(self, work):\n        super().__init__(daemon=True)\n"
    "        self.work = work\n    def run(self):\n        self.found = self.work()\n"
    "    def start(self):\n        super().start()\n        return self\n"
    "def go(work):\n    thread = Mine(work).start()\n    thread.join()\n    return thread.found\n",
    "own run": "def go(work):\n    found = []\n    thread = threading.Thread()\n"
    "    thread.run = lambda: found.append(work())\n    thread.start()\n    thread.join()\n    return found[0]\n",
    "timer": "def go(work):\n    found = []\n    thread = threading.Timer(0.001, lambda: found.append(work()))\n"
    "    thread.start()\n    thread.join()\n    return found[0]\n",
    "executor": "from concurrent.futures import ThreadPoolExecutor\ndef go(work):\n"
    "    with ThreadPoolExecutor(2) as pool:\n        return pool.submit(work).result()\n",
    "pool": "from multiprocessing.pool import ThreadPool\ndef go(work):\n"
    "    with ThreadPool(2) as pool:\n        return pool.apply(work)\n",
    "asyncio": "import asyncio\ndef go(work):\n    async def wait():\n"
    "        return await asyncio.get_running_loop().run_in_executor(None, work)\n    return asyncio.run(wait())\n",
    "nested": "from concurrent.futures import ThreadPoolExecutor\ndef go(work):\n"
    "    with ThreadPoolExecutor(1) as outer, ThreadPoolExecutor(1) as inner:\n"
    "        return outer.submit(lambda: inner.submit(work).result()).result()\n",
}

IMPORTS = "import threading\nimport weighlock\n"
TRY = "    try:\n        {}\n    except weighlock.WeighlockError as error:\n        return type(error).__name__\n"


def entry(way, call):
    """Return a hubconf whose entry point makes a call in a thread and returns what came of it."""
    work = "def work():\n" + TRY.format(f"return {call}")
    return {"hubconf.py": f"{IMPORTS}{WAYS[way]}{work}def net():\n    return go(work)\n"}


@pytest.mark.parametrize("way", WAYS)
class TestEachWay:
    def test_offline(self, host, way):
        url = host.put("net.pth", weights(2))
        host.repository("o/n", entry(way, f"weighlock.hub.load_state_dict_from_url({url!r})['weight'][0]"))
        hub.prefetch("o/n")
        host.log.clear()
        assert hub.load("o/n", "net", offline=True, trust_repo=True) == "OfflineError"
        assert not host.log
        assert hub.load("o/n", "net") == 2

    def test_locked_and_recorded(self, host, way, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        url = host.put("net.pth", weights(2))
        host.repository("o/n", entry(way, f"weighlock.hub.load_state_dict_from_url({url!r})['weight'][0]"))
        hub.lock("o/n")
        assert hub.load("o/n", "net", trust_repo=True, locked=True) == "PinError"
        with hub.recording() as used:
            assert hub.load("o/n", "net", trust_repo=True) == 2
        assert used.users == {url: {"github.com/o/n"}}
        hub.lock(used=used)
        assert hub.load("o/n", "net", locked=True) == 2


@pytest.mark.requires_torch
def test_calls_of_torch_hub_in_a_thread(host):
    call = "torch.hub.load_state_dict_from_url('http://127.0.0.1:1/net.pth', progress=False)"
    files = entry("executor", call)
    files["hubconf.py"] = "import torch\n" + files["hubconf.py"]
    host.repository("o/n", files)
    hub.prefetch("o/n")
    found = without_sockets("note('load', lambda: hub.load('o/n', 'net', offline=True, trust_repo=True))")
    assert found["load"] == "OfflineError"


def folder(tmp_path, text):
    (tmp_path / "hubconf.py").write_text(IMPORTS + text)
    return str(tmp_path)


def load(*arguments, **options):
    return hub.load(*arguments, source="local", verbose=False, **options)


def test_a_thread_that_outlives_the_call(tmp_path):
    """It keeps what held when it was started, and so do the threads that it starts then."""
    stock = threading.Thread.start
    text = (
        WAYS["thread"]
        + "def net(may_go):\n    found = []\n    def late():\n        may_go.wait(30)\n"
        + "        found.append(go(lambda: weighlock.hub.settings.current().offline))\n"
        + "    thread = threading.Thread(target=late)\n    thread.start()\n    return thread, found\n"
    )
    may_go = threading.Event()
    thread, found = load(folder(tmp_path, text), "net", may_go, offline=True)
    may_go.set()
    thread.join(30)
    assert found == [True]
    assert threading.Thread.start is stock


def test_threads_of_the_program_are_left_alone(tmp_path):
    """A thread that the program starts while an entry point runs elsewhere has the program's settings."""
    stock = threading.Thread.start
    text = "def net(inside, done):\n    inside.set()\n    done.wait(30)\n"
    inside, done = threading.Event(), threading.Event()
    where = folder(tmp_path, text)
    loading = threading.Thread(target=lambda: load(where, "net", inside, done, offline=True))
    loading.start()
    inside.wait(30)
    found: list[bool] = []
    with hub.configured(offline=True):
        mine = threading.Thread(target=lambda: found.append(hub.settings.current().offline))
        mine.start()
        mine.join()
    done.set()
    loading.join()
    assert found == [False]
    assert threading.Thread.start is stock


def test_only_what_is_ours_is_handed_on(tmp_path):
    """A library that keeps its state in a context variable counts on a fresh one in a new thread."""
    text = (
        "import decimal\n" + WAYS["thread"] + "def net():\n    with decimal.localcontext() as mine:\n"
        "        mine.prec = 3\n        return go(lambda: decimal.getcontext().prec)\n"
    )
    assert load(folder(tmp_path, text), "net") == 28


def test_a_thread_is_as_it_was_afterwards(tmp_path):
    text = (
        "def net():\n    thread = threading.Thread(target=int)\n    thread.start()\n    thread.join()\n"
        "    try:\n        thread.start()\n    except RuntimeError as error:\n        return vars(thread), str(error)\n"
    )
    stock = threading.Thread.start
    left, message = load(folder(tmp_path, text), "net")
    assert "run" not in left
    assert message == "threads can only be started once"
    assert threading.Thread.start is stock


def test_somebody_else_wraps_starting(tmp_path, monkeypatch):
    """What an entry point puts over `Thread.start` stays, as it would without us, and works."""
    monkeypatch.setattr(threading.Thread, "start", threading.Thread.start)  # put back after the test
    text = (
        WAYS["thread"] + "calls = []\ndef net():\n    start = threading.Thread.start\n    def counting(self):\n"
        "        calls.append(1)\n        start(self)\n    threading.Thread.start = counting\n"
        "    return calls, go(lambda: weighlock.hub.settings.current().offline)\n"
    )
    where = folder(tmp_path, text)
    calls, offline = load(where, "net", offline=True)
    assert (calls, offline) == ([1], True)
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(hub.settings.current().offline))
    thread.start()
    thread.join()
    assert (calls, found) == ([1, 1], [False])
    assert load(where, "net", offline=True)[1] is True
