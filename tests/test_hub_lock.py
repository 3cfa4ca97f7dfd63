"""The lock file, bundles, the cache's own commands, and the command line of it all."""

from __future__ import annotations

import functools
import json
import os
import shutil
import threading
import tomllib
import zipfile
from pathlib import Path

import pytest

import weighlock as wl
from tests.hub_host import git, text_of
from tests.schema_check import schema, violations
from tests.test_hub_download import sha, weights
from tests.test_hub_load import files
from weighlock.cli import run

pytestmark = pytest.mark.one_lane

hub = wl.hub


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder that the program runs in."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def call(capsys):
    def called(*arguments):
        capsys.readouterr()
        code = run(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return called


@pytest.fixture
def call_json(call):
    def called(*arguments, code=0):
        found, out, err = call(*arguments, "--json")
        assert found == code, (out, err)
        document = json.loads(out)
        assert violations(document, schema(document["schema"].partition("/")[2])) == []
        return document

    return called


class TestLock:
    def test_what_it_says(self, host, project):
        repository = host.repository("o/n", files(), tag="v1")
        url = host.put("net.pth", weights())
        hub.lock("o/n:v1", "o/n", urls=[url])
        document = tomllib.loads((project / "weighlock.lock").read_text())
        commit = text_of(repository.folder, "rev-parse", "HEAD")
        assert [row.get("ref") for row in document["repository"]] == [None, "v1"]
        for row in document["repository"]:
            assert row["commit"] == commit
            assert row["tree"] == text_of(repository.folder, "rev-parse", "HEAD^{tree}")
            assert row["content"].startswith("sha256:")
        (found,) = document["weights"]
        assert (found["urls"], found["size"], found["sha256"]) == ([url], len(weights()), sha(weights()))
        before = (project / "weighlock.lock").read_bytes()
        hub.lock("o/n", urls=[url])
        assert (project / "weighlock.lock").read_bytes() == before

    def test_locked_means_that_commit(self, host, project):
        repository = host.repository("o/n", files("v1"))
        hub.lock("o/n")
        repository.commit(files("v2"))
        assert hub.load("o/n", "net", trust_repo=True, locked=True).version == "v1"
        with hub.configured(refresh=0):
            assert hub.load("o/n", "net").version == "v2"
            assert hub.load("o/n", "net", locked=True).version == "v1"
        hub.lock("o/n")
        assert hub.load("o/n", "net", locked=True).version == "v2"

    def test_what_is_not_locked_is_refused(self, host, project):
        host.repository("o/n", files(), tag="v1")
        with pytest.raises(wl.PinError, match="there is no lock file"):
            hub.load("o/n", "net", locked=True, trust_repo=True)
        hub.lock("o/n")
        with pytest.raises(wl.PinError, match=r"o/n:v1 is not in the lock file.*weighlock hub lock o/n:v1"):
            hub.load("o/n:v1", "net", locked=True, trust_repo=True)
        with pytest.raises(wl.PinError, match="weighlock hub lock --url"):
            hub.load_state_dict_from_url(host.put("net.pth", weights()), locked=True)

    def test_a_changed_copy_is_refused(self, host, store, project):
        host.repository("o/n", files())
        hub.lock("o/n")
        next(Path(store.root).rglob("utils.py")).write_text("def version():\n    return 'evil'\n")
        with pytest.raises(wl.PinError, match="is not as it was locked"):
            hub.load("o/n", "net", locked=True, trust_repo=True)
        assert hub.load("o/n", "net", locked=True, trust_repo=True, force_reload=True).version == "v1"

    def test_an_empty_cache_and_a_mirror_that_lies(self, host, store, project):
        host.repository("o/n", files())
        hub.lock("o/n")
        shutil.rmtree(store.root)
        host.git_works = False
        host.archives["o/n"] = b"PK"
        with pytest.raises(wl.HubError):
            hub.load("o/n", "net", locked=True, trust_repo=True)
        host.archives.clear()
        assert hub.load("o/n", "net", locked=True, trust_repo=True).version == "v1"
        assert host.count("git-upload-pack") < 10

    def test_weights(self, host, store, project):
        url = host.put("net.pth", weights(1))
        hub.lock(urls=[url])
        assert hub.load_state_dict_from_url(url, locked=True)["weight"][0] == 1
        shutil.rmtree(store.hub)
        host.put("net.pth", weights(2))
        with pytest.raises(wl.HashMismatchError):
            hub.load_state_dict_from_url(url, locked=True)

    def test_every_other_commit_is_refused(self, host, project):
        repository = host.repository("o/n", files("v1"), tag="v1")
        first = text_of(repository.folder, "rev-parse", "HEAD")
        second = repository.commit(files("v2"), branch="next")
        hub.lock("o/n:v1")
        assert hub.load("o/n:v1", "net", locked=True, trust_repo=True).version == "v1"
        assert hub.load(f"o/n:{first}", "net", locked=True).version == "v1"
        hub.prefetch("o/n", "o/n:next", f"o/n:{second}")
        for name in ("o/n", "o/n:next", f"o/n:{second}", "o/n:refs/tags/v1", "other/n:v1"):
            with pytest.raises(wl.PinError, match="is not in the lock file"):
                hub.load(name, "net", locked=True, trust_repo=True)
        git(repository.folder, "tag", "-f", "v1", second)
        with hub.configured(refresh=0):
            assert hub.load("o/n:v1", "net", locked=True, force_reload=True).version == "v1", "a tag that was moved"

    def test_a_changed_archive_under_the_right_name_is_refused(self, host, store, project):
        repository = host.repository("o/n", files())
        hub.lock("o/n")
        commit = text_of(repository.folder, "rev-parse", "HEAD")
        with zipfile.ZipFile("evil.zip", "w") as archive:
            for name, text in files("evil").items():
                archive.writestr(f"o-n-{commit[:7]}/{name}", text)
            archive.comment = commit.encode()
        shutil.rmtree(store.root)
        host.git_works = False
        host.archives["o/n"] = Path("evil.zip").read_bytes()
        host.put(f"{commit}.zip", host.archives["o/n"])
        with (
            hub.configured(mirrors=(host.files + "/{commit}.zip",)),
            pytest.raises(wl.ArchiveError, match="does not hold the commit's files"),
        ):
            hub.load("o/n", "net", locked=True, trust_repo=True)
        assert host.count(f"/{commit}.zip") == 1
        assert not list(Path(store.root).rglob("hubconf.py"))

    def test_an_entry_point_that_fetches_something_else(self, host, project):
        listed, unlisted = host.put("a.pth", weights(1)), host.put("b.pth", weights(2))
        text = f"""
import weighlock, os
def net(url):
    return weighlock.hub.load_state_dict_from_url(url)["weight"][0]
def copy(url):
    weighlock.hub.download_url_to_file(url, "copy")
    return os.path.getsize("copy")
def other():
    return weighlock.hub.load("o/other", "net", {listed!r}, trust_repo=True)
"""
        host.repository("o/n", {"hubconf.py": text})
        host.repository("o/other", {"hubconf.py": text})
        hub.lock("o/n", urls=[listed])
        load = functools.partial(hub.load, "o/n", trust_repo=True, locked=True)
        assert load("net", listed) == 1
        assert load("copy", listed) == len(weights(1))
        for entry, words in (("net", (unlisted,)), ("copy", (unlisted,)), ("other", ())):
            with pytest.raises(wl.PinError, match="not in the lock file"):
                load(entry, *words)
        assert host.count("b.pth") == 0
        assert hub.load("o/n", "net", unlisted) == 2, "without the lock it may"

    def test_weights_that_changed_are_refused_wherever_they_are(self, host, store, project):
        url = host.put("net.pth", weights(1))
        hub.lock(urls=[url])
        path = Path(store.checkpoints, "net.pth")
        path.write_bytes(weights(2))
        with pytest.warns(UserWarning, match="set aside"):
            assert hub.load_state_dict_from_url(url, locked=True)["weight"][0] == 1
        host.put("net.pth", weights(3))
        assert hub.load_state_dict_from_url(url, force_reload=True)["weight"][0] == 3
        with pytest.raises(wl.PinError, match="not the locked ones"):
            hub.load_state_dict_from_url(url, locked=True)
        for target in ("copy", "copy2"):
            with pytest.raises(wl.HashMismatchError):
                hub.download_url_to_file(url, target, locked=True)
        local = Path("own.pth")
        local.write_bytes(weights(4))
        hub.lock(urls=[local.resolve().as_uri()])
        local.write_bytes(weights(5))
        with pytest.raises(wl.HashMismatchError):
            hub.load_state_dict_from_url(local.resolve().as_uri(), locked=True)

    def test_a_shorter_hash_does_not_weaken_the_lock(self, host, store, project):
        """The user's own check of a few digits comes beside the lock's check of all of them."""
        data = weights(1)
        url = host.put(f"net-{sha(data)[:8]}.pth", data)
        hub.lock(urls=[url])
        lock_file = Path("weighlock.lock")
        lock_file.write_text(lock_file.read_text().replace(sha(data), sha(data)[:8] + "0" * 56))
        shutil.rmtree(store.hub)
        with pytest.raises(wl.HashMismatchError, match="0000"):
            hub.load_state_dict_from_url(url, check_hash=True, locked=True)
        with pytest.raises(wl.HashMismatchError, match="0000"):
            hub.download_url_to_file(url, "copy", hash_prefix=sha(data)[:8], locked=True)
        with pytest.raises(wl.HashMismatchError, match='expected "ffff"'):
            hub.download_url_to_file(url, "copy", hash_prefix="ffff", locked=True)

    def test_the_variable_locks_every_thread(self, host, project, monkeypatch):
        host.repository("o/n", files())
        monkeypatch.setenv("WEIGHLOCK_HUB_LOCKED", "1")
        found = []

        def work():
            try:
                hub.load("o/n", "net", trust_repo=True)
            except wl.PinError as error:
                found.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert len(found) == 1

    def test_what_entry_points_fetch_is_locked_with_them(self, host, project):
        url = host.put("net.pth", weights())
        loading = f"weighlock.hub.load_state_dict_from_url({url!r})"
        text = f"import weighlock\ndef net():\n    return {loading}['weight'].sum()\n"
        host.repository("o/n", {"hubconf.py": text})
        with hub.recording() as used:
            hub.load("o/n", "net", trust_repo=True)
        hub.lock(used=used)
        document = tomllib.loads((project / "weighlock.lock").read_text())
        assert document["weights"][0]["used_by"] == ["github.com/o/n"]
        assert hub.load("o/n", "net", locked=True, offline=True) == 3000

    @pytest.mark.parametrize(
        "text",
        [
            "version = 2\n",
            "version = 1\n[[repository]]\nname = 'x'\n",
            "][",
            "version = 1\n[[weights]]\nurls = []\nsize = 1\nsha256 = 'x'\n",
        ],
    )
    def test_files_that_are_not_understood(self, project, text):
        (project / "weighlock.lock").write_text(text)
        with pytest.raises(wl.PinError):
            hub.load("o/n", "net", locked=True)


class TestBundles:
    def test_from_one_machine_to_another(self, host, store, project, monkeypatch):
        repository = host.repository("o/n", {**files("v1"), "run.sh": "x", "link": ("utils.py",)}, tag="v1")
        url = host.put("net.pth", weights(3))
        hub.lock("o/n:v1", urls=[url])
        hub.write_bundle(project / "all.bundle", "o/n:v1", "o/n", urls=[url])
        shutil.rmtree(store.hub)
        host.__exit__()
        monkeypatch.setenv("WEIGHLOCK_OFFLINE", "1")
        assert hub.read_bundle(project / "all.bundle") == ["o/n:v1", "o/n", url]
        assert hub.load("o/n:v1", "net", trust_repo=True, locked=True).version == "v1"
        assert hub.load("o/n", "net").version == "v1"
        assert hub.load_state_dict_from_url(url, locked=True)["weight"][0] == 3
        assert os.readlink(next(Path(store.root).rglob("link"))) == "utils.py"
        assert text_of(repository.folder, "rev-parse", "HEAD") in str(next(Path(store.root).rglob("run.sh")))

    @pytest.mark.parametrize("part", [b"hubconf", b"def version", b"weight"])
    def test_a_damaged_bundle_is_refused(self, host, store, project, part):
        host.repository("o/n", files())
        url = host.put("net.pth", weights(3))
        hub.write_bundle("all.bundle", "o/n", urls=[url])
        shutil.rmtree(store.hub)
        data = bytearray(Path("all.bundle").read_bytes())
        at = data.rindex(part)
        data[at] ^= 1
        Path("all.bundle").write_bytes(data)
        with pytest.raises(wl.HubError):
            hub.read_bundle("all.bundle")
            hub.load("o/n", "net", offline=True, trust_repo=True)
            hub.load_state_dict_from_url(url, offline=True)

    def test_a_hostile_bundle_writes_nothing_outside(self, host, store, project):
        host.repository("o/n", files())
        hub.write_bundle("all.bundle", "o/n")
        data = Path("all.bundle").read_bytes()
        for old, new in ((b'"owner": "o"', b'"owner": "/"'), (b"models/late.py", b"../../../x.py!")):
            Path("evil.bundle").write_bytes(data.replace(old, new))
            with pytest.raises(wl.HubError):
                hub.read_bundle("evil.bundle")
        with pytest.raises(wl.ArchiveError):
            Path("x.bundle").write_bytes(b"nothing")
            hub.read_bundle("x.bundle")


class TestCache:
    def fill(self, host):
        repository = host.repository("o/n", files("v1"))
        hub.load("o/n", "net", trust_repo=True)
        self.first = text_of(repository.folder, "rev-parse", "HEAD")
        repository.commit(files("v2"))
        hub.load("o/n", "net", force_reload=True)
        self.url = host.put("net.pth", weights())
        hub.load_state_dict_from_url(self.url)

    def test_ls_and_du(self, host, call, call_json):
        self.fill(host)
        items = call_json("cache", "ls")["items"]
        assert sorted(item["kind"] for item in items) == ["repository", "repository", "weights"]
        assert [item["refs"] for item in items if self.first in item["name"]] == [[]]
        assert [item["nbytes"] for item in items if item["name"] == self.url] == [len(weights())]
        code, out, _ = call("cache", "ls", "net.pth")
        assert code == 0
        assert out.count("\n") == 1
        assert self.url in out
        usage = call_json("cache", "du")
        assert usage["nbytes"] == sum(item["nbytes"] for item in items)
        assert call("cache", "du")[1].splitlines()[-1].startswith("all")

    def test_prune(self, host, store, call, call_json):
        self.fill(host)
        rubbish = Path(store.folder("tmp"), "tree.1.x")
        rubbish.mkdir()
        os.utime(rubbish, (1, 1))
        code, out, _ = call("cache", "prune", "--dry-run")
        assert code == 0
        assert self.first in out
        assert rubbish.exists()
        assert call("cache", "prune")[0] == 1, "nobody can be asked"
        found = call_json("cache", "prune", "-y")
        assert found["removed"]
        assert {item["kind"] for item in found["items"]} == {"repository", "temporary"}
        assert not rubbish.exists()
        assert hub.load("o/n", "net", offline=True).version == "v2"
        assert call_json("cache", "prune", "-y")["items"] == []

    def test_what_is_locked_is_kept(self, host, call, project):
        repository = host.repository("o/n", files("v1"))
        hub.lock("o/n")
        repository.commit(files("v2"))
        hub.load("o/n", "net", force_reload=True, trust_repo=True)
        assert "o/n" not in call("cache", "prune", "--dry-run", "--keep-locked", "weighlock.lock")[1]
        assert "o/n" in call("cache", "prune", "--dry-run")[1]

    def test_rm(self, host, call):
        self.fill(host)
        code, out, err = call("cache", "rm", "nothing", "-y")
        assert (code, out) == (1, "")
        assert "nothing in the cache has this in its name" in err
        assert call("cache", "rm", "o/n", "-y")[0] == 0
        with pytest.raises(wl.OfflineError):
            hub.load("o/n", "net", offline=True)
        assert hub.load_state_dict_from_url(self.url, offline=True)["weight"].size == 3000
        assert call("cache", "rm", "net.pth", "-y")[0] == 0
        assert call("cache", "ls") == (0, "", "")

    def test_verify(self, host, store, call, call_json):
        self.fill(host)
        assert call("cache", "verify")[:2] == (0, "3 checked, 0 damaged\n")
        next(Path(store.root).rglob("utils.py")).write_text("x")
        Path(store.checkpoints, "net.pth").write_bytes(b"x")
        wrong = call_json("cache", "verify", code=1)["wrong"]
        assert sorted(row["why"] for row in wrong) == [
            "its SHA-256 is no longer the one that was fetched",
            "the file utils.py was changed",
        ]

    def test_why_and_dir(self, host, store, call, project):
        self.fill(host)
        code, out, _ = call("cache", "why", "o/n")
        assert code == 0
        assert "because default branch means this commit" in out
        assert "/zipball/" in out
        code, out, err = call("cache", "why", "nothing")
        assert (code, out) == (1, "")
        assert "nothing in the cache has this in its name" in err
        assert call("cache", "dir")[1] == store.hub + "\n" == call("hub", "dir")[1]


class TestCommands:
    def test_list_help_inspect(self, host, call, call_json):
        host.repository("o/n", {**files(), "hubconf.py": "from os.path import join\n" + files()["hubconf.py"]})
        code, out, _ = call("hub", "list", "o/n")
        assert code == 0
        assert "net(width=1, **kwargs)   A net.\n" in out
        assert "join" not in out
        assert "join" in call("hub", "list", "o/n", "--all")[1]
        assert [entry["name"] for entry in call_json("hub", "list", "o/n")["entries"]] == [
            "fails",
            "net",
            "version",
            "voice",
        ]
        assert call("hub", "help", "o/n", "net")[1] == "net(width=1, **kwargs)\n  A net.\n"
        assert call_json("hub", "help", "o/n", "net")["entry"]["kind"] == "def"
        assert call("hub", "help", "o/n", "nett")[0] == 2
        report = call_json("hub", "inspect", "o/n")["report"]
        assert report["dependencies"] == ["json"]
        assert "json" in call("hub", "inspect", "o/n")[1]
        host.repository("o/dynamic", {"hubconf.py": "globals().update(make())\n"})
        assert call("hub", "list", "o/dynamic")[0] == 3
        assert call("hub", "list", "o/dynamic", "--execute")[0] == 2

    def test_prefetch_and_offline(self, host, call, call_json, project):
        host.repository("o/n", files())
        url = host.put("net.pth", weights())
        assert call("hub", "prefetch")[0] == 2
        assert len(call_json("hub", "prefetch", "o/n", "--url", url, "--write-bundle", "b")["paths"]) == 3
        assert hub.load("o/n", "net", offline=True, trust_repo=True).version == "v1"
        code, _, err = call("hub", "prefetch", "o/other", "--offline")
        assert code == 2
        assert "hint: weighlock hub prefetch o/other" in err
        assert call("hub", "prefetch", "--read-bundle", "b")[0] == 0

    def test_lock(self, host, store, call, call_json, project):
        url = host.put("net.pth", weights())
        text = f"import weighlock\ndef net():\n    return weighlock.hub.load_state_dict_from_url({url!r})\n"
        host.repository("o/n", {"hubconf.py": text})
        code, _, err = call("hub", "lock")
        assert (code, "nothing was named to be locked" in err) == (2, True)
        assert not Path("weighlock.lock").exists()
        assert call("hub", "trust", "add", "o/n")[:2] == (0, "github.com/o/n\n")
        assert len(call_json("hub", "lock", "o/n", "--entry", "net")["lock"]["weights"]) == 1
        assert call("hub", "lock", "--check")[0] == 0
        Path(store.checkpoints, "net.pth").write_bytes(b"x")
        with pytest.warns(UserWarning, match="set aside"):
            assert len(call_json("hub", "lock", "--check", code=1)["wrong"]) == 1
        shutil.rmtree(store.hub)
        assert call("hub", "prefetch", "--locked")[0] == 0
        assert call("hub", "lock", "--check")[0] == 0

    def test_trust(self, host, call, call_json):
        assert call("hub", "trust", "add", "o/n", "gitlab.com/a/*")[0] == 0
        rows = call_json("hub", "trust", "list")["trusted"]
        assert {"pattern": "gitlab.com/a/*", "from": "user"} in rows
        assert {"pattern": "github.com/pytorch/*", "from": "built in"} in rows
        assert call("hub", "trust", "remove", "o/n")[0] == 0
        code, _, err = call("hub", "trust", "remove", "o/n")
        assert code == 1
        assert "no such pattern" in err
        assert call("hub", "trust", "add", "nothing")[0] == 2

    def test_check(self, call, call_json, project):
        (project / "hubconf.py").write_text(
            "import torch, os\nfrom os.path import join\nfrom net import Net\nos.system('true')\nURL = 'http://x.org/net.pth'\n"
            "def model():\n    return Net\nfor name in dir(os):\n    globals()[name] = name\n"
        )
        (project / "net.py").write_text("class Net:\n    'A class.'\n")
        found = {row["rule"] for row in call_json("hub", "check", str(project), code=1)["advice"]}
        assert found == {"no-dependencies", "foreign-name", "class-offered", "hidden-names", "missing-docstring",
                         "import-side-effect", "insecure-url", "unhashed-weights"}  # fmt: skip
        code, out, _ = call("hub", "check", str(project))
        assert code == 1
        assert "hubconf.py:4 importing it starts a process: os.system  [import-side-effect]" in out
        (project / "hubconf.py").write_text("dependencies = []\ndef model():\n    'A model.'\n")
        assert call("hub", "check") == (0, "", "")

    def test_text_from_a_repository_cannot_reach_the_terminal_raw(self, host, call):
        host.repository("o/n", {"hubconf.py": "def net(a='\\x1b[31m'):\n    '''Doc \x1b]0;title\x07 \u202e.'''\n"})
        for words in (("list", "o/n"), ("help", "o/n", "net"), ("inspect", "o/n")):
            out = call("hub", *words)[1]
            assert "\x1b" not in out
            assert "\u202e" not in out
