"""Loading from repositories: refs, the cache, offline, trust, and several versions in one process."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import ClassVar

import pytest

import weighlock as wl
import weighlock.hub.download
import weighlock.hub.refs
import weighlock.hub.settings
from tests.hub_host import git, text_of
from tests.test_hub_download import weights

hub = wl.hub

NET = """
dependencies = ["json"]
from utils import version

def net(width=1, **kwargs):
    "A net."
    import models.late
    return models.late.Late(version(), width)

def voice(source="none"):
    return source

def fails():
    raise ZeroDivisionError("on purpose")
"""
LATE = """
class Late:
    def __init__(self, version, width):
        self.version, self.width = version, width
"""


def files(version="v1", **more):
    return {
        "hubconf.py": NET,
        "utils.py": f"def version():\n    return {version!r}\n",
        "models/__init__.py": "",
        "models/late.py": LATE,
        **more,
    }


def git_posts(host):
    return host.count("git-upload-pack", "POST")


class TestRefs:
    def test_the_real_default_branch(self, host):
        host.repository("o/n", files())
        assert hub.load("o/n", "net", trust_repo=True).version == "v1"

    @pytest.mark.parametrize("ref", ["v1", "refs/tags/v1", "old", "refs/heads/old", "with/slash", "annotated"])
    def test_branches_and_tags(self, host, ref):
        repository = host.repository("o/n")
        repository.commit(files("v1"), tag="v1", annotated="annotated")
        git(repository.folder, "branch", "old")
        git(repository.folder, "branch", "with/slash")
        repository.commit(files("v2"))
        assert hub.load(f"o/n:{ref}", "net", trust_repo=True).version == "v1"
        assert hub.load("o/n", "net").version == "v2"

    @pytest.mark.parametrize("length", [40, 12])
    def test_any_commit(self, host, length):
        repository = host.repository("o/n")
        first = repository.commit(files("v1"))
        repository.commit(files("v2"))
        repository.commit(files("v3"))
        assert hub.load(f"o/n:{first[:length]}", "net", trust_repo=True).version == "v1"

    def test_a_commit_of_a_fork_is_refused(self, host):
        repository = host.repository("o/n", files("v1"))
        git(repository.folder, "checkout", "-q", "--orphan", "elsewhere")
        commit = repository.commit(files("evil"))
        git(repository.folder, "checkout", "-q", "trunk")
        git(repository.folder, "update-ref", "-d", "refs/heads/elsewhere")
        git(repository.folder, "commit-tree", "-m", "x", f"{commit}^{{tree}}")
        git(repository.folder, "commit", "-q", "--allow-empty", "-m", "y")
        with pytest.raises(wl.NotInRepositoryError, match="fork"):
            hub.load(f"o/n:{commit}", "net", trust_repo=True)
        assert hub.load(f"o/n:{commit}", "net", trust_repo=True, skip_validation=True).version == "evil"

    def test_a_ref_that_is_both_means_the_branch(self, host):
        repository = host.repository("o/n")
        repository.commit(files("tag"), tag="both")
        repository.commit(files("branch"), branch="both")
        with pytest.warns(UserWarning, match="ambiguous"):
            assert hub.load("o/n:both", "net", trust_repo=True).version == "branch"
        assert hub.load("o/n:refs/tags/both", "net").version == "tag"

    def test_what_is_not_there(self, host):
        host.repository("o/n", files(), tag="v1.0")
        with pytest.raises(wl.NotInRepositoryError, match=r"Cannot find v1\.1 in o/n.*v1\.0") as caught:
            hub.load("o/n:v1.1", "net", trust_repo=True)
        assert isinstance(caught.value, ValueError)
        with pytest.raises(wl.NotInRepositoryError, match="no repository o/missing"):
            hub.load("o/missing", "net", trust_repo=True)

    @pytest.mark.parametrize("text", ["n", "a/b:c:d", "a/b/c", "a/b:", "a/../b", "a/b:-x", "a/b:x..y", "a b/c", ""])
    def test_what_names_no_repository(self, host, text):
        with pytest.raises(wl.RepositoryNameError) as caught:
            hub.load(text, "net")
        assert isinstance(caught.value, ValueError)
        assert not host.log

    @pytest.mark.parametrize("text", ["copy", "./copy"])
    def test_a_folder_in_the_place_of_a_name(self, host, tmp_path, monkeypatch, text):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "copy").mkdir()
        with pytest.raises(wl.RepositoryNameError, match='source="local"'):
            hub.list(text)

    def test_a_ref_behind_the_wrong_sign(self, host):
        with pytest.raises(wl.RepositoryNameError, match="owner/name:ref"):
            hub.list("o/n@v1")

    def test_an_unknown_source(self, host):
        with pytest.raises(ValueError, match=r'Unknown source: "x". Allowed values: "github" | "local"'):
            hub.load("o/n", "net", source="x")

    def test_a_renamed_repository(self, host):
        host.repository("o/new", files())
        host.renamed["o/old"] = "o/new"
        assert hub.load("o/old", "net", trust_repo=True).version == "v1"

    def test_the_old_protocol(self, host, monkeypatch):
        repository = host.repository("o/n")
        repository.commit(files(), tag="v1", annotated="a1")
        git(repository.folder, "config", "protocol.version", "0")
        monkeypatch.setattr("tests.hub_host._Handler._git", _only_version_0)
        assert hub.load("o/n:a1", "net", trust_repo=True).version == "v1"

    def test_the_api_where_git_does_not_answer(self, host):
        host.repository("o/n", files())
        host.git_works = False
        assert hub.load("o/n", "net", trust_repo=True).version == "v1"
        assert host.count("/commits/", role="api") == 1

    def test_no_quota_is_used(self, host):
        host.repository("o/n", files(), tag="v1")
        host.quota = 0
        assert hub.load("o/n:v1", "net", trust_repo=True).version == "v1"
        assert host.count(role="api") == 0

    def test_the_quota_has_an_error_of_its_own(self, host):
        host.repository("o/n", files())
        host.git_works = False
        host.quota = 0
        host.fail("zipball", "status", 100, code=503)
        with pytest.raises(wl.RateLimitError, match="rate limit exceeded until .*UTC") as caught:
            hub.load("o/n", "net", trust_repo=True)
        assert caught.value.reset is not None
        assert caught.value.status == 403

    @pytest.mark.parametrize("ref", ["", ":v1", ":refs/tags/v1", ":with/slash", ":SHORT"])
    def test_the_archive_says_it_where_neither_git_nor_the_api_answers(self, host, ref):
        repository = host.repository("o/n")
        commit = repository.commit(files("v1"), tag="v1", branch="with/slash")
        git(repository.folder, "checkout", "-q", "-B", "trunk")
        host.git_works = host.api_works = False
        name = "o/n" + ref.replace("SHORT", commit[:10])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "whether .* belongs to o/n")
            assert hub.load(name, "net", trust_repo=True).version == "v1"
        assert hub.load(f"o/n:{commit}", "net", offline=True, trust_repo=True).version == "v1"

    def test_the_api_may_be_out_of_quota_too(self, host):
        host.repository("o/n", files())
        host.git_works = False
        host.quota = 0
        assert hub.load("o/n", "net", trust_repo=True).version == "v1"

    def test_one_ref_is_asked_for_and_no_others(self, host):
        repository = host.repository("o/n", files("v1"), tag="v1")
        for number in range(50):
            git(repository.folder, "branch", f"other/{number}")
        client = weighlock.hub.download.Client(weighlock.hub.settings.current())
        for ref, most in ((None, 1), ("v1", 1), ("other/1", 11), ("refs/heads/other/2", 11)):
            found = weighlock.hub.refs.ask_refs(client, host.web + "/o/n.git", ref)
            assert len(found.commits) <= most
            assert found.find(ref)

    def test_an_archive_that_is_not_there_is_asked_for_once(self, host):
        """The host may have no archive of a commit that git has: who waits and asks again waits for nothing."""
        host.repository("o/n", files())
        host.fail("zipball", "status", 100, code=404)
        assert hub.load("o/n", "net", trust_repo=True).version == "v1"
        assert host.count("zipball") == 1

    def test_a_ref_is_resolved_once(self, host):
        repository = host.repository("o/n", files("v1"))
        with hub.configured(refresh=1000):
            hub.load("o/n:trunk", "net", trust_repo=True)
            asked = git_posts(host)
            repository.commit(files("v2"))
            assert [hub.load("o/n:trunk", "net").version for _ in range(3)] == ["v1"] * 3
            assert hub.list("o/n:trunk") == ["fails", "net", "version", "voice"]
        assert git_posts(host) == asked == 2, "the ref, and the commit's tree"


def _only_version_0(self, repository):
    if self.command == "POST":
        self._send(400, b"bad request")
        return
    data = git(repository.folder, "upload-pack", "--stateless-rpc", "--advertise-refs", ".")
    self._send(200, b"001e# service=git-upload-pack\n0000" + data)


class TestTokens:
    def test_a_private_repository(self, host, monkeypatch):
        host.repository("o/n", files())
        host.private.add("o/n")
        host.token = "right"
        with pytest.raises(wl.NotInRepositoryError, match="private"):
            hub.load("o/n", "net", trust_repo=True)
        monkeypatch.setenv("GITHUB_TOKEN", "right")
        assert hub.load("o/n", "net", trust_repo=True).version == "v1"

    def test_a_token_goes_to_its_host_and_to_no_other(self, host, monkeypatch):
        host.repository("o/n", files())
        host.token = "right"
        monkeypatch.setenv("GITHUB_TOKEN", "right")
        hub.load("o/n", "net", trust_repo=True)
        url = host.put("w.bin", b"x" * 100)
        host.fail("/to-files", "redirect", to=url)
        hub.download_url_to_file(host.web + "/o/n/to-files", str(Path(os.environ["HOME"]).parent / "w"))
        sent = {row[0] for row in host.log if "Authorization" in row[3]}
        assert sent == {"web"}
        assert host.count(role="files") == 2

    @pytest.mark.parametrize("way", ["netrc", "url"])
    def test_a_password_stays_with_the_address_it_is_for(self, host, monkeypatch, tmp_path, way):
        start = host.web + "/o/n/to-files"
        host.fail("/to-files", "redirect", to=host.put("w.bin", b"x" * 100))
        if way == "netrc":
            (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
            monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        else:
            start = start.replace("http://", "http://me:secret@")
        hub.download_url_to_file(start, tmp_path / "w")
        sent = {row[0]: row[3].get("Authorization") for row in host.log}
        assert sent == {"web": "Basic bWU6c2VjcmV0", "files": None}, "another port is another server"

    def test_a_password_in_an_address_is_written_nowhere(self, host, tmp_path, monkeypatch, caplog):
        """Not into the cache, the lock file, a bundle, a log, or a message; and it is no part of what is cached."""
        monkeypatch.chdir(tmp_path)
        caplog.set_level("DEBUG")
        host.repository("o/n", files())
        host.private.add("o/n")
        host.token = "secret"
        web, held = (base.replace("://", "://me:secret@") for base in (host.web, host.files))
        host.put("net.pth", weights(2))
        host.put("net.zip", git(host.repositories["o/n"].folder, "archive", "--format=zip", "trunk"))
        repositories = [f"git+{web}/o/n.git", f"{held}/net.zip"]
        for name in repositories:
            assert hub.load(name, "net", trust_repo=True, verbose=False).version == "v1"
        assert hub.load_state_dict_from_url(f"{held}/net.pth")["weight"][0] == 2
        hub.download_url_to_file(f"{held}/net.pth", "copy")
        hub.lock(*repositories, urls=[f"{held}/net.pth"])
        hub.write_bundle("all.bundle", *repositories, urls=[f"{held}/net.pth"])
        assert hub.load_state_dict_from_url(f"{host.files}/net.pth", locked=True, offline=True)["weight"][0] == 2
        assert hub.load(f"{host.files}/net.zip", "net", locked=True, offline=True).version == "v1"
        host.faults.clear()
        said = [caplog.text]
        host.fail("", "status", 100, code=503)
        for call in (
            lambda: hub.load(f"git+{web}/o/x.git", "net", trust_repo=True),
            lambda: hub.load(f"{held}/x.zip", "net", trust_repo=True),
            lambda: hub.load(f"{held}/x.zip", "net", locked=True),
            lambda: hub.load(f"{held}/y.zip", "net"),
            lambda: hub.load_state_dict_from_url(f"{held}/x.pth"),
            lambda: hub.load_state_dict_from_url(f"{held}/x.pth", offline=True),
            lambda: hub.load_state_dict_from_url(f"{held}/x.pth", locked=True),
            lambda: hub.download_url_to_file(f"{held}/x.pth", "x"),
            lambda: hub.download_url_to_file(f"{held}/x.pth", "x", offline=True),
        ):
            with pytest.raises(wl.HubError) as caught:
                call()
            said.append(str(caught.value))
        written = [path for path in tmp_path.rglob("*") if path.is_file() and "host" not in path.parts]
        assert len(written) > 20
        said += [path.read_bytes().decode("latin-1") for path in written]
        assert [text for text in said if "secret" in text] == []

    def test_a_token_does_not_go_to_mirrors(self, host, monkeypatch):
        repository = host.repository("o/n", files())
        host.token = "right"
        monkeypatch.setenv("GITHUB_TOKEN", "right")
        commit = text_of(repository.folder, "rev-parse", "HEAD")
        host.put(f"{commit}.zip", git(repository.folder, "archive", "--format=zip", "--prefix=n/", commit))
        with hub.configured(mirrors=(host.files + "/{commit}.zip",)):
            hub.load("o/n", "net", trust_repo=True)
        assert host.count(".zip", role="files") == 1
        assert {row[0] for row in host.log if "Authorization" in row[3]} == {"web"}

    def test_a_bad_token_for_a_private_repository_is_named(self, host, monkeypatch):
        host.repository("o/n", files())
        host.private.add("o/n")
        host.token = "right"
        monkeypatch.setenv("GITHUB_TOKEN", "wrong")
        with pytest.raises(wl.NotInRepositoryError, match="token that was sent was refused"):
            hub.load("o/n", "net", trust_repo=True)

    def test_a_bad_token_does_not_keep_anyone_from_a_public_repository(self, host, monkeypatch):
        host.repository("o/n", files())
        host.token = "right"
        monkeypatch.setenv("GITHUB_TOKEN", "wrong")
        assert hub.load("o/n", "net", trust_repo=True).version == "v1"

    def test_netrc(self, host, monkeypatch, tmp_path):
        host.repository("o/n", files())
        host.private.add("o/n")
        host.token = "right"
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password right\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        assert hub.load("o/n", "net", trust_repo=True).version == "v1"


class TestCache:
    def test_what_is_fresh_needs_no_request(self, host):
        host.repository("o/n", files(), tag="v1")
        hub.load("o/n", "net", trust_repo=True)
        asked = len(host.log)
        for name in ("o/n", "o/n"):
            assert hub.load(name, "net").version == "v1"
        assert hub.list("o/n") == ["fails", "net", "version", "voice"]
        assert hub.help("o/n", "net") == "A net."
        assert len(host.log) == asked

    def test_a_branch_is_looked_up_again_after_a_while(self, host):
        repository = host.repository("o/n", files("v1"))
        hub.load("o/n", "net", trust_repo=True)
        repository.commit(files("v2"))
        assert hub.load("o/n", "net").version == "v1"
        with hub.configured(refresh=0):
            assert hub.load("o/n", "net").version == "v2"

    def test_force_reload(self, host):
        repository = host.repository("o/n", files("v1"))
        hub.load("o/n", "net", trust_repo=True)
        repository.commit(files("v2"))
        assert hub.load("o/n", "net", force_reload=True).version == "v2"

    @pytest.mark.parametrize("kind", ["reset", "status", "gone"])
    def test_any_fault_of_the_network_falls_back_to_the_cache(self, host, kind):
        host.repository("o/n", files())
        hub.load("o/n", "net", trust_repo=True)
        if kind == "gone":
            host.__exit__()
        else:
            host.fail("/", kind, 100, after=3, code=503)
        with hub.configured(refresh=0, connect_timeout=1), pytest.warns(UserWarning, match="in the cache is used"):
            assert hub.load("o/n", "net").version == "v1"

    def test_offline_opens_no_connection(self, host, monkeypatch):
        host.repository("o/n", files(), tag="v1")
        hub.load("o/n", "net", trust_repo=True)
        monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection was opened"))
        monkeypatch.setenv("WEIGHLOCK_OFFLINE", "1")
        with hub.configured(refresh=0):
            assert hub.load("o/n", "net").version == "v1"
        with pytest.raises(wl.OfflineError, match=r"o/other is not in the cache.*weighlock hub prefetch o/other"):
            hub.load("o/other", "net", trust_repo=True)
        monkeypatch.delenv("WEIGHLOCK_OFFLINE")
        with pytest.raises(wl.OfflineError):
            hub.load("o/n:v1", "net", offline=True)

    def test_what_torch_hub_left_is_used(self, host, store):
        host.repository("o/n", files("new"))
        folder = Path(store.hub) / "o_n_main"
        for name, text in files("left").items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        assert hub.load("o/n", "net").version == "left"
        assert hub.load("o/n:main", "net").version == "left"
        assert not host.log
        assert hub.load("o/n", "net", force_reload=True, trust_repo=True).version == "new"

    def test_what_torch_hub_left_and_may_be_anothers_is_not(self, host, store):
        host.repository("a/b_c", files("right"), tag="main")
        folder = Path(store.hub) / "a_b_c_main"
        folder.mkdir(parents=True)
        (folder / "hubconf.py").write_text("def net():\n    raise AssertionError('another repository')\n")
        assert hub.load("a/b_c:main", "net", trust_repo=True).version == "right"

    def test_the_folder_follows_the_rule_of_torch_hub(self, host, monkeypatch):
        monkeypatch.delenv("TORCH_HOME")
        assert hub.get_dir() == os.path.expanduser("~/.cache/torch/hub")
        monkeypatch.setenv("XDG_CACHE_HOME", "/x")
        assert hub.get_dir() == "/x/torch/hub"
        monkeypatch.setenv("TORCH_HOME", "~/t")
        assert hub.get_dir() == os.path.expanduser("~/t/hub")
        hub.set_dir("~/own")
        assert hub.get_dir() == os.path.expanduser("~/own")
        hub.set_dir(None)
        monkeypatch.setenv("TORCH_HUB", "/old")
        with pytest.warns(UserWarning, match="TORCH_HUB is deprecated"):
            hub.get_dir()

    def test_a_record_that_was_lost_comes_back(self, host, store):
        host.repository("o/n", files())
        hub.load("o/n", "net", trust_repo=True)
        (record,) = Path(store.root).rglob("meta/*.json")
        before = record.read_text()
        record.unlink()
        hub.load("o/n", "net", force_reload=True)
        assert json.loads(record.read_text())["files"] == json.loads(before)["files"]

    def test_a_cache_that_cannot_be_written_is_still_read(self, host, store):
        host.repository("o/n", files())
        hub.load("o/n", "net", trust_repo=True)
        code = (
            "import weighlock, os\n"
            "os.access = lambda *_, **__: False\n"
            "print(weighlock.hub.load('o/n', 'net', offline=True).version)"
        )
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "v1\n"

    def test_the_folder_is_marked_as_a_cache_and_keeps_the_umask(self, host, store):
        host.repository("o/n", {**files(), "run.sh": "true"})
        old = os.umask(0o027)
        try:
            code = "import weighlock; weighlock.hub.load('o/n', 'net', trust_repo=True)"
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        finally:
            os.umask(old)
        assert Path(store.root, "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
        modes = {path.name: path.stat().st_mode & 0o777 for path in Path(store.root).rglob("*")}
        assert modes["hubconf.py"] == 0o640
        assert modes["run.sh"] == 0o750
        assert modes["trust.json"] == 0o640
        assert not any(mode & 0o007 for mode in modes.values())


class TestTrust:
    def test_without_a_terminal_a_typed_error_gives_the_command(self, host):
        commit = text_of(host.repository("o/n", files()).folder, "rev-parse", "HEAD")
        for trust in ("check", None, False):
            with pytest.raises(wl.UntrustedRepositoryError, match=f"weighlock hub trust add github.com/o/n@{commit}"):
                hub.load("o/n", "net", trust_repo=trust)
        assert host.count("codeload") == 0

    def test_trust_is_remembered(self, host):
        host.repository("o/n", files())
        hub.load("o/n", "net", trust_repo=True)
        assert hub.load("o/n", "net", trust_repo="check").version == "v1"
        with pytest.raises(wl.UntrustedRepositoryError):
            hub.load("o/n", "net", trust_repo=False)

    def test_names_that_torch_hub_takes_for_one(self, host):
        host.repository("a/b_c", files())
        host.repository("a_b/c", files("evil"))
        hub.load("a/b_c", "net", trust_repo=True)
        with pytest.raises(wl.UntrustedRepositoryError):
            hub.load("a_b/c", "net")

    @pytest.mark.parametrize(
        ("pattern", "good"),
        [("o/n", True), ("github.com/o/*", True), ("O/N", True), ("o/n@v1", True), ("o/n@v2", False), ("p/n", False),
         ("gitlab.com/o/n", False), ("*/*", True), ("github.com/o/n@trunk", False)],
    )  # fmt: skip
    def test_patterns(self, host, monkeypatch, pattern, good):
        host.repository("o/n", files(), tag="v1")
        monkeypatch.setenv("WEIGHLOCK_HUB_TRUST", pattern)
        if good:
            assert hub.load("o/n:v1", "net").version == "v1"
        else:
            with pytest.raises(wl.UntrustedRepositoryError):
                hub.load("o/n:v1", "net")

    def test_a_commit_can_be_trusted_alone(self, host, store):
        from weighlock.hub import trust

        repository = host.repository("o/n")
        first = repository.commit(files("v1"), tag="v1")
        repository.commit(files("v2"), tag="v2")
        trust.add(store, f"o/n@{first}")
        assert hub.load("o/n:v1", "net").version == "v1"
        with pytest.raises(wl.UntrustedRepositoryError):
            hub.load("o/n:v2", "net")
        assert trust.remove(store, f"o/n@{first}")
        assert not trust.remove(store, f"o/n@{first}")
        with pytest.raises(wl.UntrustedRepositoryError):
            hub.load("o/n:v1", "net")

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            ("y", None),
            ("YES", None),
            ("", wl.UntrustedRepositoryError),
            ("n", wl.UntrustedRepositoryError),
            ("perhaps", ValueError),
        ],
    )
    def test_the_question(self, host, monkeypatch, capsys, answer, error):
        host.repository("o/n", {**files(), "hubconf.py": NET + "\nimport os\nos.environ['X_HUB'] = '1'\n"})
        hub.prefetch("o/n")
        monkeypatch.setattr(builtins, "input", lambda question: answer)
        if error is None:
            assert hub.load("o/n", "net").version == "v1"
        else:
            with pytest.raises(error):
                hub.load("o/n", "net")
        said = capsys.readouterr().err
        assert "github.com/o/n at commit" in said
        assert "changes the environment: os.environ (hubconf.py:" in said

    def test_the_list_of_torch_hub_counts_where_it_is_clear(self, host, store):
        host.repository("o/n", files())
        host.repository("a/b_c", files())
        Path(store.hub).mkdir(parents=True)
        Path(store.hub, "trusted_list").write_text("o_n\na_b_c\n")
        assert hub.load("o/n", "net").version == "v1"
        with pytest.raises(wl.UntrustedRepositoryError):
            hub.load("a/b_c", "net")

    def test_other_values_are_refused(self, host):
        host.repository("o/n", files())
        with pytest.raises(ValueError, match="trust_repo"):
            hub.load("o/n", "net", trust_repo="Check")


class TestEntries:
    def test_arguments(self, host):
        host.repository("o/n", files())
        assert hub.load("o/n", "net", 3, trust_repo=True).width == 3
        assert hub.load("o/n", "net", width=4).width == 4
        assert hub.entry("o/n", "voice")(source="microphone") == "microphone"

    def test_errors(self, host):
        host.repository("o/n", files())
        with pytest.raises(wl.EntryPointError, match=r"Cannot find callable nett in hubconf.*There are: net") as caught:
            hub.load("o/n", "nett", trust_repo=True)
        assert isinstance(caught.value, RuntimeError)
        with pytest.raises(ValueError, match="Invalid input: model should be a string of function name"):
            hub.load("o/n", 3)  # type: ignore[arg-type]
        with pytest.raises(ZeroDivisionError, match="on purpose"):
            hub.load("o/n", "fails")

    def test_missing_packages_are_seen_before_anything_runs(self, host, tmp_path):
        declared = "dependencies = ['json', 'no_such_package', 'cv2.nothing']"
        text = f"open({str(tmp_path / 'ran')!r}, 'w')\n{declared}\ndef net(): pass\n"
        host.repository("o/n", {"hubconf.py": text})
        with pytest.raises(
            wl.MissingPackagesError, match="Missing dependencies: no_such_package, cv2.nothing"
        ) as caught:
            hub.load("o/n", "net", trust_repo=True)
        assert caught.value.packages == ("no_such_package", "cv2.nothing")
        assert isinstance(caught.value, RuntimeError)
        assert not (tmp_path / "ran").exists()

    def test_a_repository_without_hubconf(self, host):
        host.repository("o/n", {"README": "x"})
        with pytest.raises(wl.EntryPointError, match="no hubconf.py"):
            hub.load("o/n", "net", trust_repo=True)

    def test_local_folders_and_archives(self, host, tmp_path):
        folder = tmp_path / "local"
        for name, text in files("local").items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        assert hub.load(str(folder), "net", source="local").version == "local"
        assert hub.load(folder, "net", source="LOCAL").version == "local"
        assert hub.list(folder, source="local") == ["fails", "net", "version", "voice"]
        assert hub.help(folder, "net", source="local") == "A net."
        (folder / "utils.py").write_text("def version():\n    return 'edited'\n")
        assert hub.load(folder, "net", source="local").version == "edited"
        git(folder, "init", "-q")
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", "x")
        (tmp_path / "a.zip").write_bytes(git(folder, "archive", "--format=zip", "--prefix=top/", "HEAD"))
        assert hub.load(tmp_path / "a.zip", "net", source="local").version == "edited"
        with pytest.raises(wl.HubError, match="no such folder"):
            hub.load(tmp_path / "nowhere", "net", source="local")


USER_UTILS = "def version():\n    return 'the user\\'s own'\n"


class TestIsolation:
    def test_two_versions_side_by_side(self, host):
        repository = host.repository("o/n")
        repository.commit(files("v1"), tag="v1")
        repository.commit({**files("v2"), "models/late.py": LATE + "\n    extra = True\n"}, tag="v2")
        one, two = hub.load("o/n:v1", "net", trust_repo=True), hub.load("o/n:v2", "net")
        assert (one.version, two.version) == ("v1", "v2")
        assert not hasattr(one, "extra")
        assert two.extra
        assert hub.load("o/n:v1", "net").version == "v1"
        assert not {"utils", "models", "hubconf"} & set(sys.modules)

    def test_the_users_own_modules_are_left_alone(self, host, tmp_path, monkeypatch):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "utils.py").write_text(USER_UTILS)
        monkeypatch.syspath_prepend(str(tmp_path / "mine"))
        import utils  # type: ignore[import-not-found]

        host.repository("o/n", files("v1"))
        host.repository("p/q", files("other"))
        before = list(sys.path)
        assert hub.load("o/n", "net", trust_repo=True).version == "v1"
        assert hub.load("p/q", "net", trust_repo=True).version == "other"
        assert sys.modules.pop("utils") is utils
        assert utils.version() == "the user's own"
        assert sys.path == before

    def test_objects_can_be_pickled_and_sent_to_a_new_process(self, host, tmp_path):
        host.repository("o/n", files())
        made = hub.load("o/n", "net", 7, trust_repo=True)
        data = pickle.dumps(made)
        assert pickle.loads(data).width == 7
        (tmp_path / "data").write_bytes(data)
        code = f"import pickle; x = pickle.load(open({str(tmp_path / 'data')!r}, 'rb')); print(x.width, x.version)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "7 v1\n"

    def test_spawned_workers(self, host, tmp_path):
        host.repository("o/n", files())
        script = tmp_path / "main.py"
        script.write_text(
            "import multiprocessing, weighlock\n"
            "def work(x):\n    return type(x).__module__, x.width\n"
            "if __name__ == '__main__':\n"
            f"    weighlock.hub.set_dir({str(tmp_path / 'elsewhere')!r})\n"
            "    made = weighlock.hub.load('o/n', 'net', 5, trust_repo=True)\n"
            "    with multiprocessing.get_context('spawn').Pool(2) as pool:\n"
            "        print(pool.map(work, [made, made])[0][1])\n"
        )
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
        assert done.stdout == "5\n"

    def test_imports_within_functions_dataclasses_and_relative_imports(self, host):
        host.repository("o/n", {
            "hubconf.py": "from __future__ import annotations\nimport dataclasses, typing\nfrom pkg import make\n"
            "@dataclasses.dataclass\nclass Config:\n    size: int = 3\n    shared: typing.ClassVar[int] = 4\n"
            "def net():\n    from pkg.inner.deep import value\n"
            "    import pkg.inner.deep as d\n    import pkg.inner.deep\n"
            "    return make(), value, d.value, pkg.inner.deep.value, Config().size\n",
            "pkg/__init__.py": "from .other import make\n",
            "pkg/other.py": "from . import sibling\ndef make():\n    return sibling.x\n",
            "pkg/sibling.py": "x = 1\n",
            "pkg/inner/__init__.py": "", "pkg/inner/deep.py": "from ..sibling import x\nvalue = x + 1\n",
        })  # fmt: skip
        assert hub.load("o/n", "net", trust_repo=True) == (1, 2, 2, 2, 3)

    def test_a_repository_whose_package_is_installed_too(self, host):
        import click

        host.repository("o/n", {
            "hubconf.py": "from click.net import value\ndef net():\n    import click\n    return value, click.mine\n",
            "click/__init__.py": "mine = True\n", "click/net.py": "value = 'the repository\\'s'\n",
        })  # fmt: skip
        assert hub.load("o/n", "net", trust_repo=True) == ("the repository's", True)
        assert sys.modules["click"] is click

    def test_folders_that_it_puts_into_sys_path(self, host):
        host.repository("o/n", {
            "hubconf.py": "import sys, os\nsys.path.insert(0, os.path.join(os.path.dirname(__file__), 'src'))\n"
            "sys.path.append('lib' + '')\nfrom inner_name import a\nimport other_name\n"
            "def net():\n    return a, other_name.b\n",
            "src/inner_name.py": "a = 1\n", "lib/other_name.py": "b = 2\n",
        })  # fmt: skip
        before = list(sys.path)
        assert hub.load("o/n", "net", trust_repo=True) == (1, 2)
        assert sys.path == before

    PLAIN: ClassVar = {
        "hubconf.py": "import importlib, sys\nfrom models import kinds\ndef net(kind):\n"
        "    module = importlib.import_module('models.' + kind)\n    assert sys.modules['models'] is not None\n"
        "    assert sys.path[0].endswith(kinds.HERE)\n    return module.Made()\n\n"
        "def later():\n    def inner():\n        import models.second\n"
        "        return models.second.Made().name\n    return inner\n",
        "models/__init__.py": "",
        "models/kinds.py": "import os\nHERE = os.path.basename(os.path.dirname(os.path.dirname(__file__)))\n",
        "models/first.py": "class Made:\n    class Inner:\n        pass\n    name = 'first'\n",
        "models/second.py": "class Made:\n    name = 'second'\n",
    }  # fmt: skip

    def test_the_compatible_way_is_chosen_by_itself(self, host, tmp_path, monkeypatch):
        (tmp_path / "mine" / "models").mkdir(parents=True)
        (tmp_path / "mine" / "models" / "__init__.py").write_text("mine = True\n")
        monkeypatch.syspath_prepend(str(tmp_path / "mine"))
        import models  # type: ignore[import-not-found]

        host.repository("o/n", self.PLAIN)
        host.repository("p/q", files())
        before = list(sys.path)
        made = hub.load("o/n", "net", "first", trust_repo=True)
        assert made.name == "first"
        assert hub.load("p/q", "net", trust_repo=True).version == "v1"
        assert hub.load("o/n", "later")() == "second"
        assert sys.modules["models"] is models
        assert models.mine
        assert sys.path == before
        assert "hubconf" not in sys.modules
        assert pickle.loads(pickle.dumps(made)).name == "first"
        assert type(pickle.loads(pickle.dumps(type(made).Inner()))).__name__ == "Inner"
        (tmp_path / "data").write_bytes(pickle.dumps(made))
        code = f"import pickle; print(pickle.load(open({str(tmp_path / 'data')!r}, 'rb')).name)"
        assert (
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "first\n"
        )
        del sys.modules["models"]

    def test_many_threads(self, host):
        from concurrent.futures import ThreadPoolExecutor

        repository = host.repository("o/n")
        for number in range(4):
            repository.commit(files(f"v{number}"), tag=f"v{number}")
        host.repository("p/q", self.PLAIN)

        def load(number):
            if number % 5 == 4:
                return hub.load("p/q", "net", "second", trust_repo=True).name
            return hub.load(f"o/n:v{number % 5}", "net", trust_repo=True).version

        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(load, range(60)))
        assert found == ["second" if number % 5 == 4 else f"v{number % 5}" for number in range(60)]

    def test_nothing_is_imported_but_what_is_needed(self):
        code = (
            "import sys, weighlock; weighlock.hub.load; "
            "print(*{'urllib3', 'filelock', 'tqdm', 'torch', 'numpy', 'ssl', 'http.client'} & set(sys.modules))"
        )
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_listing_runs_nothing(host, tmp_path):
    text = f"open({str(tmp_path / 'ran')!r}, 'w')\ndef net(a=1):\n    'Doc.'\n"
    host.repository("o/n", {"hubconf.py": text})
    assert hub.list("o/n") == ["net"]
    assert hub.help("o/n", "net") == "Doc."
    assert hub.inspect("o/n").effects[0].what == "opens a file: open"
    assert not (tmp_path / "ran").exists()


def test_listing_by_running_needs_trust_and_happens_elsewhere(host):
    host.repository("o/n", {"hubconf.py": "import random\nglobals().update({f'n{random.randrange(1)}': len})\n"})
    with pytest.warns(UserWarning, match="may not be complete"):
        assert hub.list("o/n") == []
    with pytest.raises(wl.UntrustedRepositoryError):
        hub.list("o/n", execute=True)
    assert hub.list("o/n", execute=True, trust_repo=True) == ["n0"]
    assert hub.help("o/n", "n0", execute=True) == len.__doc__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not hub.inspect("o/n").complete
