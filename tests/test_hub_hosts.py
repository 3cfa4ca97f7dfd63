"""Hosts other than github.com: every way to write a repository's address, and what is asked where."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import weighlock as wl
from tests.hub_host import git, text_of
from tests.test_hub_archives import HUBCONF, archive
from tests.test_hub_load import files
from weighlock.hub.hosts import HOSTS, KINDS, find_host
from weighlock.hub.sources import SOURCES, parse

pytestmark = pytest.mark.one_lane

hub = wl.hub

OWN = hub.Settings(
    hosts={
        "ghe.corp": {"kind": "github-enterprise"},
        "git.corp": {"kind": "gitlab"},
        "tea.corp": {"kind": "forgejo"},
        "bb.corp": {"kind": "bitbucket", "web": "https://bb.corp/base"},
        "hf.corp": {"kind": "hf"},
    }
)

# What is written, the source; then host, owner, name, ref.
ADDRESSES = [
    ("o/n", "github", "github.com", "o", "n", None),
    ("o/n:v1", "github", "github.com", "o", "n", "v1"),
    ("o/n:feature/x", "github", "github.com", "o", "n", "feature/x"),
    ("github.com/o/n:v1", "github", "github.com", "o", "n", "v1"),
    ("GitHub.com/o/n", "github", "github.com", "o", "n", None),
    ("https://github.com/o/n", "github", "github.com", "o", "n", None),
    ("https://github.com/o/n/", "github", "github.com", "o", "n", None),
    ("https://github.com/o/n.git", "github", "github.com", "o", "n", None),
    ("https://github.com/o/n.git@v1", "github", "github.com", "o", "n", "v1"),
    ("https://github.com/o/n/tree/v1", "github", "github.com", "o", "n", "v1"),
    ("https://github.com/o/n/tree/feature/x", "github", "github.com", "o", "n", "feature/x"),
    ("https://github.com/o/n:v1", "gitlab", "github.com", "o", "n", "v1"),
    ("ghe.corp/o/n:v1", "github", "ghe.corp", "o", "n", "v1"),
    ("https://ghe.corp/o/n/tree/v1", "github", "ghe.corp", "o", "n", "v1"),
    ("o/n", "gitlab", "gitlab.com", "o", "n", None),
    ("group/sub/n:v1", "gitlab", "gitlab.com", "group/sub", "n", "v1"),
    ("gitlab.com/a/b/c/n", "github", "gitlab.com", "a/b/c", "n", None),
    ("https://gitlab.com/group/sub/n", "github", "gitlab.com", "group/sub", "n", None),
    ("https://gitlab.com/group/sub/n/-/tree/feature/x", "github", "gitlab.com", "group/sub", "n", "feature/x"),
    ("https://gitlab.com/group/sub/n.git:v1", "github", "gitlab.com", "group/sub", "n", "v1"),
    ("git.corp/group/sub/n", "github", "git.corp", "group/sub", "n", None),
    ("https://git.corp/o/n/-/tree/v1", "github", "git.corp", "o", "n", "v1"),
    ("o/n", "gitea", "codeberg.org", "o", "n", None),
    ("https://codeberg.org/o/n/src/branch/main", "github", "codeberg.org", "o", "n", "main"),
    ("https://codeberg.org/o/n/src/tag/v1.0", "github", "codeberg.org", "o", "n", "v1.0"),
    ("https://codeberg.org/o/n/src/commit/" + "a" * 40, "github", "codeberg.org", "o", "n", "a" * 40),
    ("tea.corp/o/n", "github", "tea.corp", "o", "n", None),
    ("o/n:v1", "bitbucket", "bitbucket.org", "o", "n", "v1"),
    ("https://bitbucket.org/o/n/src/v1/", "github", "bitbucket.org", "o", "n", "v1"),
    ("o/n", "huggingface", "huggingface.co", "o", "n", None),
    ("https://huggingface.co/o/n/tree/main", "github", "huggingface.co", "o", "n", "main"),
    ("hf.corp/o/n:v1", "github", "hf.corp", "o", "n", "v1"),
]


class TestAddresses:
    @pytest.mark.parametrize(("text", "source", "host", "owner", "name", "ref"), ADDRESSES)
    def test_ways_to_write_one(self, text, source, host, owner, name, ref):
        found = parse(text, source, OWN)
        assert (found.kind, found.host, found.owner, found.name, found.ref) == ("hosted", host, owner, name, ref)

    @pytest.mark.parametrize(
        ("text", "source", "kind", "ref"),
        [
            ("https://x.org/o/n.git", "github", "git", None), ("https://x.org/o/n.git@v1", "github", "git", "v1"),
            ("git+https://github.com/o/n@v1", "github", "git", "v1"), ("https://x.org/o/n", "git", "git", None),
            ("http://x.org:8080/o/n:v1", "git", "git", "v1"), ("https://x.org/n.zip", "github", "archive", None),
            ("https://x.org/n.zip?token=1", "github", "archive", None),
            ("https://x.org/download", "archive", "archive", None),
            ("https://github.com/o/n/archive/refs/tags/v1.zip", "github", "archive", None),
        ],
    )  # fmt: skip
    def test_addresses_of_no_known_host(self, text, source, kind, ref):
        found = parse(text, source, OWN)
        assert (found.kind, found.ref) == (kind, ref)
        assert found.url is not None
        assert found.url.startswith("http")

    def test_two_addresses_never_share_a_folder(self):
        texts = [row[:2] for row in ADDRESSES]
        texts += [(f"https://x.org/{name}.git", "git") for name in ("o/n", "O/n")]
        texts += [(f"{scheme}://x.org/o/n.zip", "archive") for scheme in ("http", "https")]
        texts += [("gitlab.com/o/x/n", "github"), ("gitlab.com/o/n", "github")]
        places: dict[object, object] = {}
        for text, source in texts:
            found = parse(text, source, OWN)
            identity = (found.kind, found.host, found.owner, found.name)
            assert places.setdefault(found.folders, identity) == identity

    @pytest.mark.parametrize(
        "text",
        ["git@github.com:o/n.git", "ssh://git@github.com/o/n.git", "https://x.org/n.tar.gz", "https://x.org/n.tgz",
         "ftp://x.org/n.zip", "https://github.com/o", "unknown.host/o/n", "gitlab.com/o", "o/n/x"],
    )  # fmt: skip
    def test_what_cannot_be_loaded_is_said_before_anything_is_asked(self, host, text):
        with pytest.raises(wl.RepositoryNameError) as caught:
            hub.load(text, "net", trust_repo=True)
        assert not host.log
        assert caught.value.hint or "got" in str(caught.value)

    def test_every_source_has_its_host(self):
        assert set(SOURCES) == set(KINDS) - {"git"} | {"git", "archive", "local"}
        assert {host.kind for host in HOSTS.values()} == set(KINDS) - {"git"}


def config(tmp_path, host, kind, name="git.example.com", **more):
    """Settings with one host of one's own, of a kind, on the loopback host; github.com is not changed."""
    lines = [f"{key} = {value!r}" for key, value in {"kind": kind, "web": host.web, **more}.items()]
    (tmp_path / "hub.toml").write_text(f"[hosts.'{name}']\n" + "\n".join(lines) + "\n")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "git"])
class TestKinds:
    def test_by_git_and_by_its_api(self, host, tmp_path, kind, store):
        repository = host.repository("o/n", files("v1"), tag="v1")
        config(tmp_path, host, kind, api=host.api if kind == "github" else host.web)
        commit = text_of(repository.folder, "rev-parse", "HEAD")
        assert hub.load("git.example.com/o/n:v1", "net", trust_repo=True).version == "v1"
        shutil.rmtree(store.root)
        host.log.clear()
        host.git_works = False
        data = git(repository.folder, "archive", "--format=zip", "--prefix=top/", commit)
        host.put(f"mirror/{commit}.zip", data)
        with hub.configured(mirrors=(host.files + "/nowhere/{commit}.zip", host.files + "/mirror/{commit}.zip")):
            if kind == "github":
                assert hub.load("git.example.com/o/n:v1", "net", trust_repo=True).version == "v1"
            else:
                # Nobody tells the commit's tree, so no mirror can be believed; and the host makes no archive here.
                with pytest.raises(wl.HubError, match="cannot be checked|404|403"):
                    hub.load("git.example.com/o/n:v1", "net", trust_repo=True)
        assert host.count("commit", "GET") or kind == "huggingface"
        assert host.count("/v1", "GET")

    def test_its_token_goes_there_and_nowhere_else(self, host, tmp_path, kind, monkeypatch):
        host.repository("o/n", files())
        host.private.add("o/n")
        host.token = "right"
        config(tmp_path, host, kind, api=host.api if kind == "github" else host.web, token="OUR_TOKEN")
        monkeypatch.setenv("GITHUB_TOKEN", "of another host")
        with pytest.raises(wl.NotInRepositoryError, match="private"):
            hub.load("git.example.com/o/n", "net", trust_repo=True)
        assert not any("Authorization" in row[3] for row in host.log)
        monkeypatch.setenv("OUR_TOKEN", "right")
        assert hub.load("git.example.com/o/n", "net", trust_repo=True).version == "v1"
        assert any("Authorization" in row[3] for row in host.log)
        assert not any("Authorization" in row[3] for row in host.log if row[0] == "files")

    def test_two_hosts_with_one_name_are_two_repositories(self, host, tmp_path, kind):
        host.repository("o/n", files("theirs"))
        config(tmp_path, host, kind, api=host.api)
        text = (tmp_path / "hub.toml").read_text()
        (tmp_path / "hub.toml").write_text(
            text + f"[hosts.'github.com']\nweb = '{host.web.replace('127.0.0.1', 'localhost')}'\napi = '{host.api}'\n"
        )
        assert hub.load("git.example.com/o/n", "net", trust_repo=True).version == "theirs"
        with pytest.raises(wl.UntrustedRepositoryError, match="github.com/o/n@"):
            hub.load("o/n", "net")


class TestGroups:
    def test_a_repository_in_groups(self, host, tmp_path, store):
        repository = host.repository("group/sub/n", files("v1"), tag="v1")
        host.repository("group/n", files("another"))
        config(tmp_path, host, "gitlab")
        for text in ("git.example.com/group/sub/n", f"{host.web}/group/sub/n/-/tree/v1", f"{host.web}/group/sub/n.git"):
            assert hub.load(text, "net", trust_repo=True).version == "v1"
        assert hub.load("git.example.com/group/n", "net", trust_repo=True).version == "another"
        commit = text_of(repository.folder, "rev-parse", "HEAD")
        assert Path(store.path("repos", "git.example.com", "group", "sub", "+n", "commits", commit)).is_dir()
        assert host.count(f"/group/sub/n/-/archive/{commit}/n-{commit}.zip") == 1
        assert hub.load("git.example.com/group/sub/n", "net", offline=True).version == "v1"


class TestWhereThingsAre:
    def test_github_can_be_elsewhere(self, host, tmp_path, monkeypatch):
        host.repository("o/n", files())
        (tmp_path / "hub.toml").unlink()
        with hub.configured(hosts={"github.com": {"web": host.web + "/", "api": host.api}}):
            assert hub.load("o/n", "net", trust_repo=True).version == "v1"
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        monkeypatch.delenv("WEIGHLOCK_HUB_CONFIG")
        (tmp_path / "config" / "weighlock").mkdir(parents=True)
        (tmp_path / "config" / "weighlock" / "hub.toml").write_text(f"[hosts.'github.com']\nweb = '{host.web}'\n")
        assert hub.load("o/n", "net", force_reload=True).version == "v1"

    @pytest.mark.parametrize(
        ("given", "web", "api"),
        [
            ({"kind": "github"}, "https://h.corp", "https://h.corp/api/v3"),
            ({"kind": "github", "api": "https://api.h.corp/"}, "https://h.corp", "https://api.h.corp"),
            ({"kind": "github", "web": "https://h.corp/git/"}, "https://h.corp/git", "https://h.corp/git/api/v3"),
            ({"kind": "gitlab"}, "https://h.corp", "https://h.corp"),
            ({"kind": "forgejo", "web": "http://h.corp:3000"}, "http://h.corp:3000", "http://h.corp:3000"),
        ],
    )
    def test_addresses_that_follow(self, given, web, api):
        found = find_host("h.corp", hub.Settings(hosts={"h.corp": given}))
        assert found is not None
        assert (found.web, found.api) == (web, api)

    def test_mirrors_by_a_variable_in_their_order(self, host, monkeypatch):
        repository = host.repository("o/n", files())
        commit = text_of(repository.folder, "rev-parse", "HEAD")
        data = git(repository.folder, "archive", "--format=zip", "--prefix=any/", commit)
        for number in (1, 2):
            host.put(f"m{number}/github.com/o/n/{commit}.zip", data)
        monkeypatch.setenv(
            "WEIGHLOCK_HUB_MIRRORS",
            " ".join(host.files + f"/m{number}/{{host}}/{{owner}}/{{name}}/{{commit}}.zip" for number in (0, 1, 2)),
        )
        assert hub.load("o/n", "net", trust_repo=True).version == "v1"
        asked = [row[2].split("/")[1] for row in host.log if row[0] == "files"]
        assert asked == ["m0", "m1"]
        assert host.count("zipball") == 0

    def test_when_all_mirrors_fail_the_host_itself_is_asked(self, host):
        host.repository("o/n", files())
        host.put("bad.zip", b"no archive")
        with hub.configured(mirrors=(host.files + "/bad.zip?{commit}", "http://127.0.0.1:1/{commit}.zip"), retries=0):
            assert hub.load("o/n", "net", trust_repo=True).version == "v1"
        assert host.count("zipball") == 1

    @pytest.mark.parametrize(
        "template", ["https://m.org/{nothing}.zip", "https://m.org/{0}.zip", "https://m.org/{commit"]
    )
    def test_a_mirror_that_is_written_wrongly(self, host, template):
        host.repository("o/n", files())
        with hub.configured(mirrors=(template,)), pytest.raises(wl.ArgumentError, match="mirror"):
            hub.load("o/n", "net", trust_repo=True)


class TestArchivesAndFolders:
    def test_archives_by_url(self, host):
        data = archive([("top/hubconf.py", HUBCONF), ("top/x.txt", "x")])
        for text, source in (
            (host.put("a/net.zip", data), "github"),
            (host.put("b/net.zip", data) + "?download=1", "github"),
            (host.put("c/download", data), "archive"),
        ):
            assert hub.load(text, "net", trust_repo=True, source=source) == 1
            assert hub.list(text, source=source) == ["net"]
            assert hub.load(text, "net", offline=True, source=source) == 1
        assert host.bodies("net.zip") == 2

    def test_an_archive_that_is_made_anew_is_seen_when_asked_for(self, host):
        url = host.put("net.zip", archive([("top/hubconf.py", HUBCONF)]))
        assert hub.load(url, "net", trust_repo=True) == 1
        host.put("net.zip", archive([("top/hubconf.py", HUBCONF.replace("1", "2"))]))
        assert hub.load(url, "net") == 1
        assert hub.load(url, "net", force_reload=True, trust_repo=True) == 2

    def test_git_by_url_with_each_kind_of_ref(self, host):
        repository = host.repository("o/n")
        first = repository.commit(files("v1"), tag="v1", annotated="a1")
        repository.commit(files("v2"), branch="dev")
        git(repository.folder, "checkout", "-q", "trunk")
        for ref, wanted in (("", "v1"), ("@v1", "v1"), ("@a1", "v1"), ("@dev", "v2"), ("@refs/heads/dev", "v2"),
                            ("@" + first, "v1")):  # fmt: skip
            assert hub.load(f"git+{host.web}/o/n.git{ref}", "net", trust_repo=True).version == wanted
        assert hub.load(f"git+{host.web}/o/n.git@dev", "net", offline=True).version == "v2"
        with pytest.raises(wl.NotInRepositoryError):
            hub.load(f"git+{host.web}/o/n.git@nothing", "net", trust_repo=True)

    def test_local_ones_need_no_trust_and_no_network(self, host, tmp_path, monkeypatch):
        folder = tmp_path / "folder"
        folder.mkdir()
        (folder / "hubconf.py").write_text(HUBCONF)
        (tmp_path / "top.zip").write_bytes(archive([("top/hubconf.py", HUBCONF)]))
        (tmp_path / "flat.zip").write_bytes(archive([("hubconf.py", HUBCONF)]))
        (tmp_path / "evil.zip").write_bytes(archive([("hubconf.py", HUBCONF), ("../evil", "x")]))
        monkeypatch.chdir(tmp_path)
        for text in ("folder", "./folder/", str(folder), folder, "top.zip", tmp_path / "flat.zip"):
            assert hub.load(text, "net", source="local") == 1
            assert hub.list(text, source="local") == ["net"]
            assert hub.help(text, "net", source="local") is None
            assert hub.inspect(text, source="local").complete
        monkeypatch.setenv("HOME", str(tmp_path))
        assert hub.load("~/folder", "net", source="local") == 1
        with pytest.raises(wl.ArchiveError):
            hub.load("evil.zip", "net", source="local")
        assert not host.log

    def test_a_local_archive_that_changes(self, host, tmp_path):
        path = tmp_path / "net.zip"
        for number in (1, 2):
            path.write_bytes(archive([("top/hubconf.py", HUBCONF.replace("1", str(number)))]))
            assert hub.load(path, "net", source="local") == number
