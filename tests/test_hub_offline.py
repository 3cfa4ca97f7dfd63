"""Without a network: nothing is asked that need not be, offline opens no socket, any fault falls back to the cache."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import weighlock as wl
import weighlock.storages.connections
from tests.test_hub_download import weights
from tests.test_hub_load import files

pytestmark = pytest.mark.one_lane

hub = wl.hub

# Whatever touches a socket, or asks for an address, is noted even if somebody catches what is raised; the name of the
# machine is no question to the network.
NO_SOCKETS = """
import sys, json
touched = []
def hook(event, arguments):
    if event.startswith("socket.") and event != "socket.gethostname":
        touched.append(event)
        raise AssertionError(event)
sys.addaudithook(hook)
import weighlock as wl
hub = wl.hub
results = {}
def note(name, call):
    try:
        results[name] = str(call())
    except wl.WeighlockError as error:
        results[name] = f"{type(error).__name__}: {error}"
"""


def without_sockets(code, **environment):
    """Run code in a process where a socket cannot be made; return what it noted."""
    code = NO_SOCKETS + code + "\nprint(json.dumps([results, touched]))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    results, touched = json.loads(done.stdout.splitlines()[-1])
    assert touched == []
    return results


class TestOffline:
    def test_the_hook_sees_a_socket(self):
        with pytest.raises(AssertionError, match=r"socket\.__new__"):
            without_sockets("import socket; socket.socket()")
        with pytest.raises(AssertionError, match=r"socket\.getaddrinfo"):
            without_sockets("import socket\ntry: socket.getaddrinfo('localhost', 1)\nexcept BaseException: pass")

    def test_no_socket_is_opened_and_the_error_says_what_is_missing(self, host, tmp_path):
        host.repository("o/n", files(), tag="v1")
        hub.load("o/n", "net", trust_repo=True)
        url = host.put("net.pth", weights(2))
        hub.load_state_dict_from_url(url)
        host.log.clear()
        (tmp_path / "there.pth").write_bytes(weights(3))
        found = without_sockets(
            f"""
url, elsewhere, folder = {url!r}, "https://elsewhere.example/net.pth", {str(tmp_path)!r}
note("load", lambda: hub.load("o/n", "net", verbose=False).version)
note("again", lambda: hub.load("o/n", "net", force_reload=True, verbose=False).version)
note("list", lambda: hub.list("o/n"))
note("weights", lambda: hub.load_state_dict_from_url(url)["weight"][0])
note("weights again", lambda: hub.load_state_dict_from_url(url, force_reload=True)["weight"][0])
note("copy", lambda: hub.download_url_to_file(url, folder + "/copy"))
note("file", lambda: hub.download_url_to_file("file://" + folder + "/there.pth", folder + "/there"))
note("data", lambda: hub.download_url_to_file("data:,abc", folder + "/data"))
note("prefetch", lambda: len(hub.prefetch("o/n", urls=[url])))
note("lock", lambda: len(hub.lock("o/n", urls=[url], path=folder + "/weighlock.lock").weights))
note("other", lambda: hub.load("o/other", "net"))
note("ref", lambda: hub.load("o/n:v2", "net"))
note("commit", lambda: hub.load("o/n:" + 40 * "0", "net", trust_repo=True))
note("archive", lambda: hub.load("https://elsewhere.example/net.zip", "net", source="archive", trust_repo=True))
note("git", lambda: hub.load("git+https://elsewhere.example/net.git", "net", trust_repo=True))
note("url", lambda: hub.load_state_dict_from_url(elsewhere))
note("download", lambda: hub.download_url_to_file(elsewhere, folder + "/x"))
note("ftp", lambda: hub.download_url_to_file("ftp://elsewhere.example/net", folder + "/x"))
""",
            WEIGHLOCK_OFFLINE="1",
        )
        missing = {
            name: found.pop(name) for name in ("other", "ref", "commit", "archive", "git", "url", "download", "ftp")
        }
        assert found == {"load": "v1", "again": "v1", "list": "['fails', 'net', 'version', 'voice']", "weights": "2.0",
                         "weights again": "2.0", "copy": "None", "file": "None", "data": "None", "prefetch": "2",
                         "lock": "1"}  # fmt: skip
        assert all(text.startswith("OfflineError: ") and "offline" in text for text in missing.values()), missing
        for name, text in (("other", "o/other"), ("ref", "o/n:v2"), ("commit", "o/n:" + 40 * "0"), ("url", "/net.pth"),
                           ("archive", "elsewhere.example/net.zip"), ("git", "elsewhere.example/net.git")):  # fmt: skip
            assert text in missing[name]
        for name in ("other", "ref", "commit", "url"):
            assert "weighlock hub prefetch" in missing[name]
        assert not host.log

    def test_an_argument_is_as_good_as_the_variable(self, host):
        host.repository("o/n", files())
        hub.load("o/n", "net", trust_repo=True)
        found = without_sockets(
            "with hub.configured(refresh=0):\n"
            "    note('load', lambda: hub.load('o/n', 'net', offline=True).version)\n"
            "    note('url', lambda: hub.load_state_dict_from_url('http://x.example/y', offline=True))\n"
        )
        assert found["load"] == "v1"
        assert found["url"].startswith("OfflineError")

    def test_entry_points_are_offline_too(self, host):
        loading = "weighlock.hub.load_state_dict_from_url('http://127.0.0.1:1/net.pth')"
        host.repository("o/n", {"hubconf.py": f"import weighlock\ndef net():\n    return {loading}\n"})
        hub.prefetch("o/n")
        found = without_sockets("note('load', lambda: hub.load('o/n', 'net', offline=True, trust_repo=True))")
        assert found["load"].startswith("OfflineError: these weights are not in the cache")

    def test_from_one_home_to_another(self, host, tmp_path):
        host.repository("o/n", files("v1"), tag="v1")
        url = host.put("net.pth", weights(3))
        hub.write_bundle(tmp_path / "all.bundle", "o/n:v1", "o/n", urls=[url])
        found = without_sockets(
            f"""
note("read", lambda: hub.read_bundle({str(tmp_path / "all.bundle")!r}))
note("tag", lambda: hub.load("o/n:v1", "net", trust_repo=True, verbose=False).version)
note("default", lambda: hub.load("o/n", "net", verbose=False).version)
note("weights", lambda: hub.load_state_dict_from_url({url!r})["weight"][0])
""",
            WEIGHLOCK_OFFLINE="1", HOME=str(tmp_path / "other"), TORCH_HOME=str(tmp_path / "other" / "torch"),
        )  # fmt: skip
        assert found == {"read": str(["o/n:v1", "o/n", url]), "tag": "v1", "default": "v1", "weights": "3.0"}

    def test_what_is_cached_and_fresh_is_not_asked_for(self, host):
        repository = host.repository("o/n", files(), tag="v1")
        commit = repository.commit(files("v2"), branch="old")
        url = host.put("net.pth", weights(2))
        names = ["o/n", "o/n:old", "o/n:v1", "o/n:refs/tags/v1", "o/n:refs/heads/old", f"o/n:{commit}"]
        hub.prefetch(*names, urls=[url])
        found = without_sockets(
            f"for name in {names!r}:\n"
            "    note(name, lambda: hub.load(name, 'net', trust_repo=True, verbose=False).version)\n"
            f"note('weights', lambda: hub.load_state_dict_from_url({url!r})['weight'][0])\n"
        )
        assert found.pop("weights") == "2.0"
        assert [found[name] for name in names] == ["v2", "v2", "v1", "v1", "v2", "v2"]


def _no_address(*_, **__):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "no address": ("", {}),
    "refused": ("", {}),
    "reset": ("reset", {"after": 0}),
    "cut off": ("truncate", {"after": 0}),
    "stall": ("stall", {"after": 0, "seconds": 30}),
    "500": ("status", {"code": 500}),
    "502": ("status", {"code": 502}),
    "503": ("status", {"code": 503}),
    "403": ("status", {"code": 403}),
    "403 limit": ("status", {"code": 403, "headers": {"X-RateLimit-Remaining": "0"}}),
    "429": ("status", {"code": 429, "headers": {"Retry-After": "9999"}}),
    "407": ("status", {"code": 407}),
    "page": ("html", {}),
}


@pytest.mark.parametrize("fault", FAULTS)
class TestFaults:
    """Every fault of the network, with a cache that can be used instead."""

    @pytest.fixture
    def broken(self, host, fault, monkeypatch):
        """Return a function that breaks the network."""

        def breaks(*parts):
            # A connection that is still open from before would still work.
            weighlock.storages.connections._pools.cache_clear()
            if fault == "no address":
                monkeypatch.setattr("socket.getaddrinfo", _no_address)
            elif fault == "refused":
                host.__exit__()
            else:
                kind, options = FAULTS[fault]
                for part in parts:
                    host.fail(part, kind, 100, **options)

        # Only what stalls is waited for in vain; what answers may take its time on a busy machine.
        with hub.configured(read_timeout=1 if fault == "stall" else 10, connect_timeout=10, retries=1):
            yield breaks

    @pytest.mark.parametrize("options", [{}, {"force_reload": True}])
    def test_a_branch_that_should_be_looked_up_again(self, host, broken, options):
        host.repository("o/n", files())
        hub.load("o/n", "net", trust_repo=True)
        broken("")
        with hub.configured(refresh=0), pytest.warns(UserWarning, match="what is in the cache is used, last checked 0"):
            assert hub.load("o/n", "net", **options).version == "v1"

    def test_a_branch_that_moved_to_where_nobody_can_follow(self, host, broken, monkeypatch):
        repository = host.repository("o/n", files("v1"))
        hub.load("o/n", "net", trust_repo=True)
        repository.commit(files("v2"))

        def cut(*_, **__):
            broken("zipball", "codeload")
            raise wl.NetworkError("git's pack does not come either")

        monkeypatch.setattr("weighlock.hub.refs.fetch_pack", cut)
        with hub.configured(refresh=0), pytest.warns(UserWarning, match="what is in the cache is used"):
            assert hub.load("o/n", "net").version == "v1"
        assert hub.load("o/n", "net", offline=True).version == "v1", "the branch still means what is there"

    def test_weights_that_should_be_fetched_again(self, host, broken):
        url = host.put("net.pth", weights(2))
        hub.load_state_dict_from_url(url)
        broken("net.pth")
        assert hub.load_state_dict_from_url(url)["weight"][0] == 2
        with pytest.warns(UserWarning, match="what is in the cache is used"):
            assert hub.load_state_dict_from_url(url, force_reload=True)["weight"][0] == 2


def test_without_a_cache_a_fault_is_an_error(host):
    host.repository("o/n", files())
    host.fail("", "status", 100, code=503)
    with pytest.raises(wl.StatusError, match="503"):
        hub.load("o/n", "net", trust_repo=True)


def test_a_copy_that_is_not_there_any_more_is_no_cache(host, store):
    host.repository("o/n", files())
    hub.load("o/n", "net", trust_repo=True)
    shutil.rmtree(next(Path(store.root).rglob("commits")))
    host.fail("", "status", 100, code=503)
    with pytest.raises(wl.StatusError, match="503"):
        hub.load("o/n", "net", trust_repo=True)


def test_who_has_a_copy_does_not_wait(host):
    """With nothing to go on with, a server is asked again and again; with a copy, once each way."""
    host.repository("o/n", files())
    hub.load("o/n", "net", trust_repo=True)
    host.fail("", "status", 100, code=503)
    host.log.clear()
    with hub.configured(refresh=0, retries=5), pytest.warns(UserWarning, match="in the cache is used"):
        hub.load("o/n", "net")
    assert host.count("git-upload-pack") <= 2
    assert len(host.log) <= 4
