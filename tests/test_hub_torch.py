"""The drop-in of torch.hub: the same calls on torch.hub and on ours, and what torch.hub fails at."""

from __future__ import annotations

import base64
import builtins
import hashlib
import http.client
import io
import os
import pickle
import subprocess
import sys
import urllib.error
import urllib.request
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest

import weighlock as wl
from tests.hub_host import git

pytestmark = pytest.mark.requires_torch

HUBCONF = '''
dependencies = ["torch"]
import torch
import torch.nn as nn
from functools import partial
from nets.net import Net, helper
from torch.hub import load_state_dict_from_url

CONSTANT = 3

def net(pretrained=False, **kwargs):
    """Doc of net.

    More.
    """
    model = Net(**kwargs)
    if pretrained:
        model.load_state_dict(torch.hub.load_state_dict_from_url(URL, progress=False))
    return model

def both(*args):
    return Net(), helper

def fetched(path):
    torch.hub.download_url_to_file(URL, path)
    return torch.hub.get_dir()

def early(path):
    return load_state_dict_from_url(URL)

half = partial(net, width=2)

def _private():
    return "private"
'''
NET = """
import torch.nn as nn

class Net(nn.Module):
    def __init__(self, width=1):
        super().__init__()
        self.layer = nn.Linear(width, 1)

def helper(x):
    return x + 1
"""


def kept_by_python(doc):
    """Return a docstring as this Python keeps it: from 3.13 on without the indentation."""
    space: dict[str, Any] = {}
    exec(f"def documented():\n    {doc!r}\n", space)
    return space["documented"].__doc__


def files(url="", **more):
    return {
        "hubconf.py": HUBCONF.replace("URL,", f"{url!r},").replace("(URL)", f"({url!r})"),
        "nets/__init__.py": "",
        "nets/net.py": NET,
        **more,
    }


class _Rerouted(urllib.request.HTTPSHandler):
    """Sends urllib's requests for GitHub to the host on loopback: torch.hub itself is not changed."""

    def __init__(self, running):
        super().__init__()
        self.running = running

    def https_open(self, request):
        base = {"github.com": self.running.web, "api.github.com": self.running.api}[request.host]
        request.host = base.removeprefix("http://")
        return self.do_open(http.client.HTTPConnection, request)


@pytest.fixture(params=["torch", "ours"])
def hub(request, host, torch, monkeypatch, tmp_path):
    """torch.hub itself, and the drop-in, each with a folder of its own."""
    opener = urllib.request.build_opener(_Rerouted(host))
    monkeypatch.setattr(urllib.request, "_opener", opener)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / request.param))
    if request.param == "torch":
        yield torch.hub
        return
    import weighlock.torch

    yield weighlock.torch.hub


@pytest.fixture
def ours(host, torch):
    import weighlock.torch

    return weighlock.torch.hub


def saved(torch, value=1.0, **options):
    file = io.BytesIO()
    torch.save({"layer.weight": torch.full((1, 1), value), "layer.bias": torch.zeros(1)}, file, **options)
    return file.getvalue()


class TestTheSame:
    """Each test runs on both."""

    def test_load(self, hub, host, torch):
        host.repository("o/n", files(host.put("net.pth", saved(torch, 4))), branch="main")
        model = hub.load("o/n:main", "net", trust_repo=True, verbose=False)
        assert isinstance(model, torch.nn.Module)
        assert hub.load("o/n:main", "net", True, verbose=False).layer.weight.item() == 4
        assert hub.load("o/n:main", "net", width=5).layer.weight.shape == (1, 5)
        made, helper = hub.load("o/n:main", "both")
        assert type(made).__name__ == "Net"
        assert helper(1) == 2
        assert hub.load("o/n:main", "half").layer.weight.shape == (1, 2)
        assert hub.load("o/n:main", "_private") == "private"

    def test_list_and_help(self, hub, host, torch):
        host.repository("o/n", files(), branch="main")
        names = hub.list("o/n:main", trust_repo=True)
        assert names == [
            "Net",
            "both",
            "early",
            "fetched",
            "half",
            "helper",
            "load_state_dict_from_url",
            "net",
            "partial",
        ]
        assert hub.help("o/n:main", "net", trust_repo=True) == kept_by_python("Doc of net.\n\n    More.\n    ")
        assert hub.help("o/n:main", "both", trust_repo=True) is None

    def test_local(self, hub, torch, tmp_path):
        for name, text in files().items():
            path = tmp_path / "local" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert hub.load(str(tmp_path / "local"), "net", source="local", width=3).layer.weight.shape == (1, 3)

    def test_errors(self, hub, host, tmp_path):
        host.repository("o/n", {"hubconf.py": "dependencies = ['no_such_thing']\ndef net(): pass\n"}, branch="main")
        host.repository("o/m", {"hubconf.py": "def net(): pass\n"}, branch="main")
        with pytest.raises(RuntimeError, match="Missing dependencies: no_such_thing"):
            hub.load("o/n:main", "net", trust_repo=True)
        with pytest.raises(RuntimeError, match="Cannot find callable x in hubconf"):
            hub.load("o/m:main", "x", trust_repo=True)
        with pytest.raises(ValueError, match="Invalid input: model should be a string of function name"):
            hub.load("o/m:main", None, trust_repo=True)
        with pytest.raises(ValueError, match='Unknown source: "xx"'):
            hub.load("o/m:main", "net", source="xx")
        with pytest.raises(ValueError, match="Cannot find nothing in"):
            hub.load("o/m:nothing", "net", trust_repo=True) if hub.__name__ != "torch.hub" else _raise(
                "Cannot find nothing in"
            )
        with pytest.raises(urllib.error.HTTPError) as caught:
            hub.load_state_dict_from_url(host.files + "/missing.pth")
        assert caught.value.code == 404
        caught.value.close()
        with pytest.raises(urllib.error.URLError):
            hub.download_url_to_file("http://127.0.0.1:1/x", str(tmp_path / "x"))
        with pytest.raises(FileNotFoundError):
            hub.download_url_to_file(host.put("a", b"x"), str(tmp_path / "no" / "x"))
        with pytest.raises(RuntimeError, match=r"invalid hash value \(expected \"00\", got \""):
            hub.download_url_to_file(host.put("a", b"x"), str(tmp_path / "x"), hash_prefix="00")

    @pytest.mark.parametrize(("answer", "good"), [("y", True), ("Yes", True), ("n", False), ("", False)])
    def test_the_question(self, hub, host, monkeypatch, answer, good):
        host.repository("o/n", {"hubconf.py": "def net():\n    return 1\n"}, branch="main")
        asked = []

        def ask(text):
            asked.append(text)
            return answer

        monkeypatch.setattr(builtins, "input", ask)
        if not good:
            with pytest.raises(Exception, match="Untrusted repository"):
                hub.load("o/n:main", "net")
            return
        assert hub.load("o/n:main", "net") == 1
        assert hub.load("o/n:main", "net") == 1
        assert len(asked) == 1
        assert hub.load("o/n:main", "net", trust_repo=False) == 1
        assert len(asked) == 2
        assert "o_n" in Path(hub.get_dir(), "trusted_list").read_text()

    def test_weights(self, hub, host, torch, tmp_path):
        data = saved(torch, 2)
        url = host.put(f"net-{hashlib.sha256(data).hexdigest()[:8]}.pth", data)
        for options in ({}, {"check_hash": True}, {"map_location": "meta"}, {"weights_only": True}, {"progress": False},
                        {"model_dir": str(tmp_path / "d"), "file_name": "x.pth"}):  # fmt: skip
            found = hub.load_state_dict_from_url(url, **options)
            assert found["layer.weight"].device.type == options.get("map_location", "cpu")
        assert host.count(".pth") == 2
        assert (tmp_path / "d" / "x.pth").exists()
        assert (Path(hub.get_dir()) / "checkpoints").is_dir()

    def test_whole_objects_and_scripts(self, hub, host, torch):
        file = io.BytesIO()
        torch.save(torch.nn.Linear(2, 3), file)
        assert hub.load_state_dict_from_url(host.put("whole.pth", file.getvalue())).weight.shape == (3, 2)
        with pytest.raises(Exception, match="weights_only|Unsupported|WeightsUnpickler"):
            hub.load_state_dict_from_url(host.put("whole2.pth", file.getvalue()), weights_only=True)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_old_files(self, hub, host, torch, zipped):
        data = saved(torch, 3, _use_new_zipfile_serialization=False)
        if zipped:
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("inner.pth", data)
            data = file.getvalue()
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            assert hub.load_state_dict_from_url(host.put("old.pth", data))["layer.weight"].item() == 3
        assert any(one.category is FutureWarning for one in seen) == zipped

    def test_folders(self, hub, monkeypatch, tmp_path):
        monkeypatch.setenv("TORCH_HOME", "~/x")
        assert hub.get_dir() == os.path.expanduser("~/x/hub")
        hub.set_dir(Path("~/y"))
        try:
            assert str(hub.get_dir()) == os.path.expanduser("~/y")
        finally:
            wl.hub.set_dir(None)

    def test_an_existing_copy_needs_no_network(self, hub, tmp_path):
        folder = Path(hub.get_dir(), "o_n_main")
        folder.mkdir(parents=True)
        (folder / "hubconf.py").write_text("def net():\n    return 'left'\n")
        assert hub.load("o/n:main", "net") == "left"

    def test_whatever_an_entry_point_returns(self, hub, host, torch):
        text = (
            "import torch\nclass Made:\n    x = 1\ndef none(): pass\ndef number(): return 3\ndef made(): return Made\n"
            "def pair(): return torch.nn.Linear(1, 1), (len, Made)\ndef gen():\n    yield 1\n"
            "def module(): return torch\ndef args(*a, **k): return a, k\n"
        )
        host.repository("o/n", {"hubconf.py": text}, branch="main")
        load = lambda name, *a, **k: hub.load("o/n:main", name, *a, trust_repo=True, verbose=False, **k)
        assert load("none") is None
        assert load("number") == 3
        assert load("made").x == 1
        assert load("Made").x == 1
        assert type(load("pair")) is tuple
        assert load("pair")[1][0] is len
        assert list(load("gen")) == [1]
        assert load("module") is torch
        assert load("args", 1, "two", three=3) == ((1, "two"), {"three": 3})
        with pytest.raises(TypeError):
            load("none", 1)

    def test_values_of_trust_repo(self, hub, host):
        host.repository("o/n", {"hubconf.py": "def net():\n    return 1\n"}, branch="main")
        trusted = Path(hub.get_dir(), "trusted_list")
        with pytest.raises((EOFError, OSError, wl.UntrustedRepositoryError)):
            hub.load("o/n:main", "net")
        assert trusted.read_text() == "", "it is there from the first call on"
        assert hub.load("o/n:main", "net", trust_repo=None) == 1
        assert trusted.read_text().split() == ["o_n"]
        assert hub.load("o/n:main", "net", trust_repo=True) == 1
        assert hub.load("o/n:main", "net", trust_repo="check") == 1
        assert trusted.read_text().split() == ["o_n"]
        trusted.unlink()
        host.repository("pytorch/n", {"hubconf.py": "def net():\n    return 2\n"}, branch="main")
        assert hub.load("pytorch/n:main", "net", trust_repo="check") == 2
        assert trusted.read_text() == "", "some owners are trusted without an entry"

    def test_help_gives_the_docstring_that_is_there_at_run_time(self, hub, host, torch):
        text = (
            "from functools import partial\nfrom deco import add\ndef net():\n    'Doc.'\nhalf = partial(net)\n"
            "@add('more')\ndef added():\n    'Base.'\ndef changed():\n    'Old.'\nchanged.__doc__ += ' New.'\n"
            "class Net(dict):\n    pass\nalias = changed\nsmall = lambda: 1\n"
        )
        deco = "def add(text):\n    def inner(f):\n        f.__doc__ += text\n        return f\n    return inner\n"
        host.repository("o/n", {"hubconf.py": text, "deco.py": deco}, branch="main")
        found = {name: hub.help("o/n:main", name, trust_repo=True)
                 for name in ("net", "half", "added", "changed", "Net", "alias", "small", "partial")}  # fmt: skip
        import functools

        assert found == {"net": "Doc.", "half": functools.partial.__doc__, "added": "Base.more", "Net": None,
                         "changed": "Old. New.", "alias": "Old. New.", "small": None,
                         "partial": functools.partial.__doc__}  # fmt: skip

    def test_messages(self, hub, host, capfd):
        host.repository("o/n", {"hubconf.py": "def net():\n    return 1\n"}, branch="main")
        hub.load("o/n:main", "net", trust_repo=True)
        capfd.readouterr()
        for verbose in (True, False):
            hub.load("o/n:main", "net", verbose=verbose)
            hub.list("o/n:main", verbose=verbose)
            out, err = capfd.readouterr()
            assert out == ""
            assert err.count("Using cache found in ") == (2 if verbose else 0)

    @pytest.mark.parametrize("variable", ["TORCH_HUB", "TORCH_MODEL_ZOO"])
    def test_warnings_of_old_variables(self, hub, host, torch, monkeypatch, variable):
        monkeypatch.setenv(variable, "/old")
        url = host.put("net.pth", saved(torch))
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            hub.get_dir() if variable == "TORCH_HUB" else hub.load_state_dict_from_url(url, weights_only=True)
        (one,) = [w for w in seen if variable in str(w.message)]
        assert one.category is UserWarning
        assert str(one.message) == f"{variable} is deprecated, please use env TORCH_HOME instead"

    def test_places_of_weights(self, hub, host, torch, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        data = saved(torch, 2)
        url = host.put("a%20b.pth", data) + "?version=1#part"
        hub.load_state_dict_from_url(url)
        hub.load_state_dict_from_url(url, "relative/deep", None, False, False, "given.pth", True)
        assert (Path(hub.get_dir()) / "checkpoints" / "a%20b.pth").read_bytes() == data
        assert (tmp_path / "relative" / "deep" / "given.pth").read_bytes() == data
        dst = tmp_path / "dst.bin"
        dst.write_bytes(b"old")
        hub.download_url_to_file(host.put("b.bin", b"new"), dst, hashlib.sha256(b"new").hexdigest()[:10], False)
        (tmp_path / "reference").touch()
        assert dst.read_bytes() == b"new"
        assert dst.stat().st_mode == (tmp_path / "reference").stat().st_mode

    @pytest.mark.parametrize("where", ["meta", {"cpu": "meta"}, "callable", "device", None])
    def test_map_location(self, hub, host, torch, where):
        given = {"callable": lambda storage, tag: storage, "device": torch.device("meta")}
        location = given.get(where, where) if isinstance(where, str) else where
        url = host.put("net.pth", saved(torch))
        found = hub.load_state_dict_from_url(url, map_location=location)["layer.weight"]
        assert found.device.type == ("cpu" if where in ("callable", None) else "meta")

    def test_a_zip_with_one_new_checkpoint_in_it(self, hub, host, torch):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("inner.pth", saved(torch, 5))
        with pytest.warns(FutureWarning, match="will be deprecated in favor of default zipfile"):
            assert hub.load_state_dict_from_url(host.put("z.zip", file.getvalue()))["layer.weight"].item() == 5

    def test_the_token_is_sent(self, hub, host, monkeypatch):
        host.token = "secret"
        host.repository("o/n", {"hubconf.py": "def net():\n    return 1\n"}, branch="main")
        monkeypatch.setenv("GITHUB_TOKEN", "secret")
        assert hub.load("o/n:main", "net", trust_repo=True) == 1
        assert any("secret" in row[3].get("Authorization", "") or "c2VjcmV0" in row[3].get("Authorization", "") or
                   _decoded(row[3].get("Authorization", "")).endswith("secret") for row in host.log)  # fmt: skip
        assert not any(row[3].get("Authorization") for row in host.log if row[0] == "files")

    def test_set_dir_takes_paths_and_makes_nothing(self, hub, tmp_path):
        for given in (str(tmp_path / "a"), tmp_path / "b"):
            hub.set_dir(given)
            try:
                assert str(hub.get_dir()) == str(given)
                assert not Path(given).exists()
            finally:
                wl.hub.set_dir(None)


def _decoded(header):
    kind, _, text = header.partition(" ")
    return base64.b64decode(text).decode() if kind == "Basic" else text


def _raise(text):
    raise ValueError(text)


class TestWhatTorchHubLeft:
    """Folders and weights that torch.hub itself put there, used without a request."""

    @pytest.fixture
    def left(self, host, torch, monkeypatch, tmp_path):
        data, old = saved(torch, 4), saved(torch, 6, _use_new_zipfile_serialization=False)
        zipped = io.BytesIO()
        with zipfile.ZipFile(zipped, "w") as archive:
            archive.writestr("inner.pth", old)
        urls = {
            "plain": host.put("net.pth", data),
            "hashed": host.put(f"net-{hashlib.sha256(data).hexdigest()[:8]}.pth", data),
            "zipped": host.put("old.zip", zipped.getvalue()),
        }
        monkeypatch.setattr(urllib.request, "_opener", urllib.request.build_opener(_Rerouted(host)))
        host.repository("o/n", files(urls["plain"]), branch="main", tag="v1")
        for ref in ("", ":main", ":v1"):
            torch.hub.load("o/n" + ref, "net", True, trust_repo=True, verbose=False)
        for name, url in urls.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                torch.hub.load_state_dict_from_url(url, check_hash=name == "hashed")
        torch.hub.load_state_dict_from_url(urls["plain"], file_name="other.pth")
        host.log.clear()
        return urls

    @pytest.mark.parametrize("ref", ["", ":main", ":v1"])
    def test_repositories(self, left, host, ours, ref):
        for hub in (ours, wl.hub):
            assert type(hub.load("o/n" + ref, "net", verbose=False)).__name__ == "Net", "trusted, as torch.hub does"
            assert "net" in hub.list("o/n" + ref, verbose=False)
            assert hub.help("o/n" + ref, "net").startswith("Doc of net.")
        assert not host.log

    @pytest.mark.parametrize("up", [True, False])
    def test_weights(self, left, host, ours, up):
        if not up:
            host.__exit__()
        for name, url in left.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for options in ({}, {"file_name": "other.pth"} if name == "plain" else {}):
                    found = ours.load_state_dict_from_url(url, check_hash=name == "hashed", **options)
                    assert found["layer.weight"].item() == (6 if name == "zipped" else 4)
        assert host.count(method="GET") == 0
        assert host.count(left["hashed"].rpartition("/")[2]) == 0, "its name says what it is: nobody is asked"
        hub_asked = host.count(method="HEAD")
        for name, url in left.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                wl.hub.load_state_dict_from_url(url, check_hash=name == "hashed")
        assert host.count(method="HEAD") == hub_asked, "asked once, then remembered"

    def test_weights_offline(self, left, host, ours):
        with wl.hub.configured(offline=True):
            for url in left.values():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", FutureWarning)
                    ours.load_state_dict_from_url(url)
        assert not host.log

    def test_what_we_fetch_torch_hub_finds(self, host, torch, ours, monkeypatch, tmp_path):
        url = host.put("net.pth", saved(torch, 3))
        ours.load_state_dict_from_url(url)
        host.log.clear()
        assert torch.hub.load_state_dict_from_url(url)["layer.weight"].item() == 3
        assert not host.log


class TestBetter:
    """What torch.hub fails at, where that is cheap to show."""

    def test_two_urls_with_one_name(self, hub, host, torch):
        one, two = host.put("a/download", saved(torch, 1)), host.put("b/download", saved(torch, 2))
        found = [hub.load_state_dict_from_url(url)["layer.weight"].item() for url in (one, two)]
        assert found == ([1, 1] if hub is torch.hub else [1, 2])

    def test_a_short_body(self, hub, host, torch, tmp_path):
        host.fail("a.bin", "truncate", 1, after=100)
        hub.download_url_to_file(host.put("a.bin", b"x" * 1000), str(tmp_path / "a"))
        assert (tmp_path / "a").stat().st_size == (100 if hub is torch.hub else 1000)

    def test_names_that_are_taken_for_one(self, hub, host, torch):
        host.repository("a/b_c", {"hubconf.py": "def net():\n    return 'a/b_c'\n"}, branch="main")
        assert hub.load("a/b_c:main", "net", trust_repo=True) == "a/b_c"
        if hub is torch.hub:
            assert hub.load("a_b/c:main", "net") == "a/b_c", "the other repository's code ran, and nobody was asked"
        else:
            with pytest.raises(ValueError, match="there is no repository a_b/c"):
                hub.load("a_b/c:main", "net")

    def test_two_repositories_with_the_same_module(self, hub, host, torch):
        for name in ("one", "two"):
            text = "from hub_shared_name import NAME\ndef net():\n    return NAME\n"
            host.repository(
                f"o/{name}", {"hubconf.py": text, "hub_shared_name.py": f"NAME = {name!r}\n"}, branch="main"
            )
        found = [hub.load(f"o/{name}:main", "net", trust_repo=True) for name in ("one", "two")]
        sys.modules.pop("hub_shared_name", None)
        assert found == (["one", "one"] if hub is torch.hub else ["one", "two"])

    def test_an_older_commit(self, hub, host, torch):
        repository = host.repository("o/n", {"hubconf.py": "def net():\n    return 1\n"}, branch="main")
        first = git(repository.folder, "rev-parse", "HEAD").decode().strip()
        repository.commit({"hubconf.py": "def net():\n    return 2\n"})
        if hub is torch.hub:
            with pytest.raises(Exception, match="Cannot find|Authorization"):
                hub.load(f"o/n:{first}", "net", trust_repo=True)
        else:
            assert hub.load(f"o/n:{first}", "net", trust_repo=True) == 1

    def test_a_default_branch_with_another_name(self, hub, host, torch):
        host.repository("o/n", {"hubconf.py": "def net():\n    return 1\n"})
        if hub is torch.hub:
            with pytest.raises(Exception, match="Cannot find master|Authorization|404"):
                hub.load("o/n", "net", trust_repo=True)
        else:
            assert hub.load("o/n", "net", trust_repo=True) == 1

    def test_a_full_branch_name(self, hub, host, torch):
        host.repository("o/n", {"hubconf.py": "def net():\n    return 1\n"}, branch="main")
        if hub is torch.hub:
            with pytest.raises(Exception, match="Cannot find|Authorization"):
                hub.load("o/n:refs/heads/main", "net", trust_repo=True)
        else:
            assert hub.load("o/n:refs/heads/main", "net", trust_repo=True) == 1

    def test_no_quota_left(self, hub, host, torch, monkeypatch):
        monkeypatch.delenv("GITHUB_TOKEN", raising=False)
        host.repository("o/n", {"hubconf.py": "def net():\n    return 1\n"}, branch="main")
        host.quota = 0
        if hub is torch.hub:
            with pytest.raises(KeyError, match="Authorization"):
                hub.load("o/n:main", "net", trust_repo=True)
        else:
            assert hub.load("o/n:main", "net", trust_repo=True) == 1

    def test_a_cached_default_branch_needs_no_request(self, hub, host, torch):
        host.repository("o/n", {"hubconf.py": "def net():\n    return 1\n"}, branch="main")
        hub.load("o/n", "net", trust_repo=True)
        host.log.clear()
        assert [hub.load("o/n", "net", verbose=False) for _ in range(3)] == [1, 1, 1]
        assert len(host.log) == (3 if hub is torch.hub else 0)

    @pytest.mark.parametrize("code", [403, 429, 503])
    def test_a_refusal_although_there_is_a_copy(self, hub, host, torch, code):
        host.repository("o/n", {"hubconf.py": "def net():\n    return 1\n"}, branch="main")
        hub.load("o/n", "net", trust_repo=True)
        host.fail("", "status", 100, code=code)
        if hub is torch.hub:
            with pytest.raises(urllib.error.HTTPError, match=str(code)):
                hub.load("o/n", "net")
        else:
            assert hub.load("o/n", "net") == 1
            with pytest.warns(UserWarning, match="in the cache is used"):
                assert hub.load("o/n", "net", force_reload=True) == 1

    def test_two_refs_that_share_a_folder(self, hub, host, torch):
        repository = host.repository("o/n", {"hubconf.py": "def net():\n    return 'x/y'\n"}, branch="x/y")
        repository.commit({"hubconf.py": "def net():\n    return 'x_y'\n"}, branch="x_y")
        found = [hub.load(f"o/n:{ref}", "net", trust_repo=True) for ref in ("x/y", "x_y")]
        assert found == (["x/y", "x/y"] if hub is torch.hub else ["x/y", "x_y"])

    def test_nobody_is_there_to_be_asked(self, hub, host, torch, monkeypatch):
        host.repository("o/n", {"hubconf.py": "def net():\n    return 1\n"}, branch="main")
        monkeypatch.setattr("sys.stdin", io.StringIO(""))
        with pytest.raises(EOFError if hub is torch.hub else wl.UntrustedRepositoryError) as caught:
            hub.load("o/n:main", "net")
        assert ("weighlock hub trust add" in str(caught.value)) == (hub is not torch.hub)

    def test_links_and_the_executable_bit(self, hub, host, torch):
        text = (
            "import os\nhere = os.path.dirname(__file__)\ndef net():\n    link = os.path.join(here, 'link')\n"
            "    return os.path.islink(link), os.access(os.path.join(here, 'run.sh'), os.X_OK)\n"
        )
        host.repository("o/n", {"hubconf.py": text, "run.sh": "true\n", "link": ("run.sh",)}, branch="main")
        assert hub.load("o/n:main", "net", trust_repo=True) == ((False, False) if hub is torch.hub else (True, True))

    def test_objects_of_a_hubconfs_class(self, hub, host, torch):
        host.repository("o/n", {"hubconf.py": "class Net:\n    pass\ndef net():\n    return Net()\n"}, branch="main")
        made = hub.load("o/n:main", "net", trust_repo=True)
        if hub is torch.hub:
            with pytest.raises(pickle.PicklingError):
                pickle.dumps(made)
        else:
            assert type(pickle.loads(pickle.dumps(made))) is type(made)

    def test_a_dataclass_in_a_hubconf(self, hub, host, torch):
        text = """
from __future__ import annotations
import dataclasses
from typing import ClassVar
@dataclasses.dataclass
class Net:
    kind: ClassVar[int] = 3
    width: int = 1
def net():
    return Net().width
"""
        host.repository("o/n", {"hubconf.py": text}, branch="main")
        if hub is torch.hub:
            with pytest.raises(AttributeError, match="__dict__"):
                hub.load("o/n:main", "net", trust_repo=True)
        else:
            assert hub.load("o/n:main", "net", trust_repo=True) == 1

    def test_packages_are_looked_for_before_anything_runs(self, hub, host, torch, tmp_path):
        text = f"dependencies = ['no_such_package']\nopen({str(tmp_path / 'ran')!r}, 'w').close()\ndef net(): pass\n"
        host.repository("o/n", {"hubconf.py": text}, branch="main")
        with pytest.raises(RuntimeError, match="Missing dependencies: no_such_package"):
            hub.load("o/n:main", "net", trust_repo=True)
        assert (tmp_path / "ran").exists() == (hub is torch.hub)

    def test_a_file_name_that_leads_out(self, hub, host, torch, tmp_path):
        url = host.put("net.pth", saved(torch, 1))
        (tmp_path / "m").mkdir()
        try:
            hub.load_state_dict_from_url(url, model_dir=str(tmp_path / "m"), file_name="../out.pth")
        except ValueError:
            assert hub is not torch.hub
        assert (tmp_path / "out.pth").exists() == (hub is torch.hub)

    def test_an_address_that_ends_in_a_slash(self, hub, host, torch):
        host.put("", saved(torch, 3))
        if hub is torch.hub:
            with pytest.raises(IsADirectoryError):
                hub.load_state_dict_from_url(host.files + "/")
        else:
            assert hub.load_state_dict_from_url(host.files + "/")["layer.weight"].item() == 3

    def test_a_damaged_copy(self, hub, host, torch):
        data = saved(torch, 1)
        name = f"net-{hashlib.sha256(data).hexdigest()[:8]}.pth"
        url = host.put(name, data)
        hub.load_state_dict_from_url(url, check_hash=True)
        path = Path(hub.get_dir(), "checkpoints", name)
        path.write_bytes(saved(torch, 666))
        if hub is torch.hub:
            assert hub.load_state_dict_from_url(url, check_hash=True)["layer.weight"].item() == 666
        else:
            with pytest.warns(UserWarning, match="set aside"):
                assert hub.load_state_dict_from_url(url, check_hash=True)["layer.weight"].item() == 1

    def test_a_hash_behind_a_version(self, hub, host, torch):
        data = saved(torch, 1)
        url = host.put(f"yolo-3.1-{hashlib.sha256(data).hexdigest()[:8]}.pth", data)
        good = hub is not torch.hub or hashlib.sha256(data).hexdigest().startswith("3")
        if good:
            assert hub.load_state_dict_from_url(url, check_hash=True)["layer.weight"].item() == 1
        else:
            with pytest.raises(RuntimeError, match='invalid hash value .expected "3"'):
                hub.load_state_dict_from_url(url, check_hash=True)

    def test_a_check_that_cannot_be_made_is_not_passed_over(self, hub, host, torch):
        url = host.put("net.pth", saved(torch, 1))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            hub.load_state_dict_from_url(url, check_hash=True)
        assert any("the file is not checked" in str(one.message) for one in said) == (hub is not torch.hub)

    def test_a_web_page_instead_of_weights(self, hub, host, torch):
        url = host.put("net.pth", b"<!DOCTYPE html><html>sign in</html>", type="text/html")
        for _ in range(2):
            with pytest.raises(Exception, match="web page" if hub is not torch.hub else ".") as caught:
                hub.load_state_dict_from_url(url)
            assert isinstance(caught.value, wl.NotWeightsError) == (hub is not torch.hub)
        there = Path(hub.get_dir(), "checkpoints", "net.pth").exists()
        assert there == (hub is torch.hub), "what is no file of weights is not kept as one"

    def test_nothing_is_printed(self, hub, host, torch, capsys):
        host.repository("o/n", {"hubconf.py": "def net():\n    return 1\n"}, branch="main")
        hub.load("o/n:main", "net", trust_repo=True, verbose=False)
        assert (capsys.readouterr().out == "") == (hub is not torch.hub)

    def test_another_repositorys_archive_in_between(self, hub, host, torch, monkeypatch):
        """What a second process does between two steps of the first: torch.hub names both archives main.zip."""
        for name in ("one", "two"):
            host.repository(f"o/{name}", {"hubconf.py": f"def net():\n    return {name!r}\n"}, branch="main")
        if hub is torch.hub:
            real = torch.hub.download_url_to_file

            def interrupted(url, dst, **options):
                real(url, dst, **options)
                real(url.replace("o/one", "o/two"), dst, **options)

            monkeypatch.setattr(torch.hub, "download_url_to_file", interrupted)
            assert hub.load("o/one:main", "net", trust_repo=True) == "two", "the code of another repository ran"
        else:
            from weighlock.hub import fetching

            save = fetching.save_archive

            def between(client, url, path):
                save(client, url, path)
                monkeypatch.setattr(fetching, "save_archive", save)
                assert hub.load("o/two:main", "net", trust_repo=True) == "two"

            monkeypatch.setattr(fetching, "save_archive", between)
            assert hub.load("o/one:main", "net", trust_repo=True) == "one"

    def test_six_processes_at_once(self, host, torch, tmp_path):
        from tests.test_hub_processes import files as many
        from tests.test_hub_processes import finish, start

        host.repository("o/n", many("right"), branch="main")
        code = "import weighlock.torch as t; print(t.hub.load('o/n:main', 'net', trust_repo=True, verbose=False))"
        assert [row[0] for row in finish([start(code) for _ in range(6)])] == ["right\n"] * 6


class TestRouting:
    def test_entry_points_own_calls_come_here(self, host, torch, tmp_path, ours):
        url = host.put("net.pth", saved(torch, 4))
        host.repository("o/n", files(url))
        stock = (torch.hub.load, torch.hub.load_state_dict_from_url, torch.hub.get_dir, torch.load)
        with wl.hub.recording() as used:
            assert wl.hub.load("o/n", "net", True, trust_repo=True).layer.weight.item() == 4
            assert wl.hub.load("o/n", "fetched", str(tmp_path / "f")) == wl.hub.get_dir()
            assert wl.hub.load("o/n", "early", "x")["layer.weight"].item() == 4
        assert set(used.weights) == {url}
        assert used.users == {url: {"github.com/o/n"}}
        assert stock == (torch.hub.load, torch.hub.load_state_dict_from_url, torch.hub.get_dir, torch.load)
        with wl.hub.configured(offline=True):
            assert wl.hub.load("o/n", "net", True).layer.weight.item() == 4
            assert wl.hub.load("o/n", "fetched", str(tmp_path / "g")) == wl.hub.get_dir()

    def test_a_lock_file_holds_for_them(self, host, torch, tmp_path, monkeypatch, ours):
        monkeypatch.chdir(tmp_path)
        url = host.put("net.pth", saved(torch, 4))
        host.repository("o/n", files(url))
        wl.hub.lock("o/n")
        with pytest.raises(wl.PinError, match="net.pth"):
            wl.hub.load("o/n", "net", True, trust_repo=True, locked=True)
        wl.hub.lock(urls=[url])
        assert wl.hub.load("o/n", "net", True, trust_repo=True, locked=True).layer.weight.item() == 4

    def test_functions_that_were_taken_before_download_through_us(self, host, torch, ours, monkeypatch):
        url = host.put("x/net.pth", saved(torch, 4))
        taken = torch.hub.load_state_dict_from_url
        monkeypatch.setattr(builtins, "hub_taken", taken, raising=False)
        host.repository("o/n", {"hubconf.py": f"def net():\n    return hub_taken({url!r})\n"})
        with wl.hub.recording() as used:
            wl.hub.load("o/n", "net", trust_repo=True)
        assert set(used.weights) == {url}

    def test_it_can_be_left_alone(self, host, torch, ours, monkeypatch):
        monkeypatch.setenv("WEIGHLOCK_HUB_ROUTE", "0")
        host.repository("o/n", {"hubconf.py": "import torch\ndef net():\n    return torch.hub.load.__module__\n"})
        assert wl.hub.load("o/n", "net", trust_repo=True) == "torch.hub"
        monkeypatch.setenv("WEIGHLOCK_HUB_ROUTE", "1")
        assert wl.hub.load("o/n", "net", force_reload=True) == "weighlock.hub.torch_surface"

    def test_nested_repositories(self, host, torch, ours):
        host.repository(
            "o/inner",
            {"hubconf.py": "from shared import NAME\ndef net():\n    return NAME\n", "shared.py": "NAME = 'inner'\n"},
        )
        host.repository("o/outer", {"hubconf.py": "import torch\nfrom shared import NAME\ndef net():\n"
                                    "    made = torch.hub.load('o/inner', 'net', trust_repo=True)\n"
                                    "    return NAME, made, __import__('json').dumps(1)\n",
                                    "shared.py": "NAME = 'outer'\n"})  # fmt: skip
        assert wl.hub.load("o/outer", "net", trust_repo=True) == ("outer", "inner", "1")

    def test_pickled_models_that_name_the_repositorys_modules(self, host, torch, ours, tmp_path):
        script = (
            "import sys; sys.path.insert(0, sys.argv[1]); import torch, models.yolo; "
            "torch.save(models.yolo.Model(3), sys.argv[2])"
        )
        for name, text in (
            ("models/__init__.py", ""),
            ("models/yolo.py", "class Model:\n    def __init__(self, n):\n        self.n = n\n"),
        ):
            path = tmp_path / "author" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        subprocess.run([sys.executable, "-c", script, str(tmp_path / "author"), str(tmp_path / "m.pt")], check=True)
        url = host.put("m.pt", (tmp_path / "m.pt").read_bytes())
        host.repository("o/n", {
            "hubconf.py": f"import torch\ndef net():\n    return torch.hub.load_state_dict_from_url({url!r})\n",
            "models/__init__.py": "", "models/yolo.py": (tmp_path / "author/models/yolo.py").read_text(),
        })  # fmt: skip
        made = wl.hub.load("o/n", "net", trust_repo=True)
        assert made.n == 3
        assert type(made).__module__.startswith("weighlock.hub.spaces.")
        assert "models" not in sys.modules

    def test_calls_of_calls_come_here_too(self, host, torch, ours, tmp_path):
        """An entry point calls torch.hub.load of a repository whose entry point calls load_url and get_dir."""
        import weighlock.torch

        url = host.put("net.pth", saved(torch, 4))
        inner = (
            "import torch.utils.model_zoo as zoo\nfrom torch.hub import get_dir\nimport torch\ndef net():\n"
            f"    found = zoo.load_url({url!r})\n"
            "    return found, get_dir(), torch.hub.list('o/inner'), torch.hub.help('o/inner', 'net')\n"
        )
        host.repository("o/inner", {"hubconf.py": inner})
        host.repository("o/outer", {"hubconf.py": "import torch\ndef net():\n"
                                    "    return torch.hub.load('o/inner', 'net', trust_repo=True)\n"})  # fmt: skip
        stock = torch.hub.load
        with wl.hub.recording() as used:
            weights, folder, names, doc = wl.hub.load("o/outer", "net", trust_repo=True)
        assert weights["layer.weight"].item() == 4
        assert folder == wl.hub.get_dir()
        assert (names, doc) == (["get_dir", "net"], None)
        assert [working.repository.name for working in used.repositories][:2] == ["outer", "inner"]
        assert used.users == {url: {"github.com/o/inner"}}
        asked = len(host.log)
        with weighlock.torch.installed(), wl.hub.configured(offline=True):
            assert torch.hub.load("o/outer", "net")[0]["layer.weight"].item() == 4
        assert len(host.log) == asked
        assert torch.hub.load is stock

    def test_models_can_be_traced_and_scripted(self, host, torch, ours):
        repository = host.repository("o/n", files(), tag="v1")
        repository.commit({"nets/net.py": NET.replace("width, 1", "width, 2")}, tag="v2")
        one, two = (ours.load(f"o/n:{tag}", "net", width=3, trust_repo=True) for tag in ("v1", "v2"))
        given = torch.ones(1, 3)
        for model in (one, two):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                for made in (torch.jit.trace(model.layer, given), torch.jit.script(model.layer)):
                    assert torch.equal(made(given), model.layer(given))
        assert torch.jit.trace(one.layer, given)(given).shape == (1, 1)
        file = io.BytesIO()
        torch.save(one, file)
        file.seek(0)
        assert type(torch.load(file, weights_only=False)) is type(one)

    def test_install_routes_torch_hub(self, host, torch, ours):
        import weighlock.torch

        host.repository("o/n", {"hubconf.py": "def net():\n    return 1\n"})
        stock = torch.hub.load
        with weighlock.torch.installed():
            assert torch.hub.load("o/n", "net", trust_repo=True) == 1
            assert torch.utils.model_zoo.load_url is weighlock.torch.hub.load_state_dict_from_url
        assert torch.hub.load is stock


def test_signatures_are_those_of_torch_hub(torch):
    import inspect

    import weighlock.torch

    for name in torch.hub.__all__:
        theirs, mine = (inspect.signature(getattr(module, name)) for module in (torch.hub, weighlock.torch.hub))
        assert [(one.name, one.kind, one.default) for one in theirs.parameters.values()] == [
            (one.name, one.kind, one.default) for one in mine.parameters.values()
        ], name
    for name in ("tqdm", "HASH_REGEX", "READ_DATA_CHUNK"):
        assert getattr(weighlock.torch.hub, name) is getattr(torch.hub, name)
