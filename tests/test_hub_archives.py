"""Archives: what is refused, what is kept, and whether they are the commit's."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import warnings
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import pytest

import weighlock as wl
from tests.hub_host import git, text_of

pytestmark = pytest.mark.one_lane

hub = wl.hub
HUBCONF = "def net():\n    return 1\n"


def archive(members, comment=b""):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two members of one name are made on purpose
        for name, content, *mode in members:
            info = zipfile.ZipInfo("placeholder")
            info.filename = name
            info.create_system = 3
            info.external_attr = (mode[0] if mode else stat.S_IFREG | 0o644) << 16
            zipped.writestr(info, content, zipfile.ZIP_DEFLATED)
        zipped.comment = comment
    return file.getvalue()


LINK = stat.S_IFLNK | 0o777
BASE = ("top/hubconf.py", HUBCONF)
EVIL = {
    "parent": [BASE, ("top/../../evil", "x")],
    "parent of the top": [BASE, ("../evil", "x")],
    "absolute": [BASE, ("/tmp/evil", "x")],
    "drive": [BASE, ("C:/evil", "x")],
    "backslash": [BASE, ("top/..\\..\\evil", "x")],
    "nul": [BASE, ("top/a\0b", "x")],
    "control": [BASE, ("top/a\x1b[31mb", "x")],
    "empty part": [BASE, ("top//a", "x")],
    "dot": [BASE, ("top/./a", "x")],
    "git": [BASE, ("top/.git/hooks/post-checkout", "x")],
    "duplicate": [BASE, BASE],
    "case": [BASE, ("top/HubConf.py", "x")],
    "folders by case": [BASE, ("top/a/x", "1"), ("top/A/y", "2")],
    "file as folder": [BASE, ("top/a", "x"), ("top/a/b", "x")],
    "link out": [BASE, ("top/link", "../../evil", LINK)],
    "link absolute": [BASE, ("top/link", "/etc/passwd", LINK)],
    "link through a link": [BASE, ("top/a/b/c/one", "two/../../../..", LINK), ("top/a/b/c/two", "../../..", LINK)],
    "through a link": [BASE, ("top/dir", "..", LINK), ("top/dir/evil", "x")],
    "device": [BASE, ("top/dev", "", stat.S_IFCHR | 0o666)],
    "two tops": [BASE, ("other/x", "x")],
    "bomb": [BASE, ("top/bomb", b"\0" * (80 << 20))],
    "network share": [BASE, ("//server/share/evil", "x")],
    "parent as a folder": [BASE, ("top/../", "")],
    "top is the parent": [("../hubconf.py", HUBCONF)],
    "top is the folder itself": [("./hubconf.py", HUBCONF)],
    "two spellings of one accent": [BASE, ("top/caf\u00e9.py", "x"), ("top/cafe\u0301.py", "y")],
    "sharp s": [BASE, ("top/stra\u00dfe", "x"), ("top/STRASSE", "y")],
    "link in the place of a folder": [BASE, ("top/dir/file", "x"), ("top/dir", "..", LINK)],
    "two links of one name": [BASE, ("top/a", "hubconf.py", LINK), ("top/a", "hubconf.py", LINK)],
    "link with a nul": [BASE, ("top/link", "hub\0conf.py", LINK)],
    "link that is empty": [BASE, ("top/link", "", LINK)],
    "link that is too long": [BASE, ("top/link", "a/" * 4000, LINK)],
    "link with a backslash": [BASE, ("top/link", "..\\evil", LINK)],
    "link to a drive": [BASE, ("top/link", "C:/evil", LINK)],
    "socket": [BASE, ("top/socket", "", stat.S_IFSOCK | 0o666)],
    "pipe": [BASE, ("top/pipe", "", stat.S_IFIFO | 0o666)],
    "git in another case": [BASE, ("top/.GIT/config", "x")],
    "git as windows shortens it": [BASE, ("top/git~1/config", "x")],
    "git with a dot behind": [BASE, ("top/.git./config", "x")],
    "name that is too long": [BASE, ("top/" + "n" * 300, "x")],
    "path that is too long": [BASE, ("top/" + "d/" * 3000 + "x", "x")],
}


@pytest.mark.parametrize("kind", EVIL)
def test_hostile_archives_write_nothing(host, store, tmp_path, kind):
    host.repository("o/n", {"hubconf.py": HUBCONF})
    host.archives["o/n"] = archive(EVIL[kind])
    with pytest.raises(wl.ArchiveError) as caught:
        _from_archive_alone(host, store)
    assert isinstance(caught.value, ValueError)
    assert "\x1b" not in str(caught.value)
    assert not (tmp_path / "evil").exists()
    assert not list(Path(store.root).rglob("evil"))


def patched(data, old, new, count=-1):
    assert old in data
    return data.replace(old, new, count)


def lying(data, field, value):
    """The archive with another number in a field of the first member's entry in the directory."""
    at = data.index(b"PK\x01\x02") + field
    return data[:at] + value.to_bytes(4, "little") + data[at + 4 :]


def overlapping():
    """Two members that are the same bytes of the file."""
    data = archive([("top/hubconf.py", b"#" * 5000), ("top/other__.py", b"#" * 5000)])
    second = data.rindex(b"PK\x01\x02")
    return data[: second + 42] + (0).to_bytes(4, "little") + data[second + 46 :]


DAMAGED = {
    "longer than it says": lambda: lying(archive([BASE, ("top/x", "x" * 10000)]), 24, 3),
    "packed size that lies": lambda: lying(archive([BASE]), 20, 1 << 31),
    "encrypted": lambda: patched(
        archive([BASE]), b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00"
    ),
    "unknown method": lambda: patched(archive([BASE]), b"\x08\x00", b"\x63\x00"),
    "wrong sum": lambda: lying(archive([BASE]), 16, 12345),
    "overlapping": overlapping,
    "cut": lambda: archive([BASE, ("top/x", os.urandom(5000))])[:3000],
    "too many members": lambda: archive([BASE, *((f"top/{number}", "") for number in range(30))]),
    "too large": lambda: archive([BASE, *((f"top/{number}", os.urandom(3000)) for number in range(30))]),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_archives_and_limits(host, store, monkeypatch, kind):
    from weighlock.hub import archive as module

    monkeypatch.setattr(module, "MOST_MEMBERS", 20)
    monkeypatch.setattr(module, "MOST_BYTES", 50_000)
    host.repository("o/n", {"hubconf.py": HUBCONF})
    host.archives["o/n"] = DAMAGED[kind]()
    with pytest.raises(wl.ArchiveError):
        _from_archive_alone(host, store)
    assert not list(Path(store.path("repos")).rglob("hubconf.py"))
    assert not list(Path(store.path("tmp")).iterdir()), "nothing is left behind"


def test_limits_hold_at_their_number(host, store, monkeypatch):
    from weighlock.hub import archive as module

    monkeypatch.setattr(module, "MOST_MEMBERS", 20)
    host.repository("o/n", {"hubconf.py": HUBCONF})
    host.archives["o/n"] = archive([BASE, *((f"top/{number}", "") for number in range(19))])
    _from_archive_alone(host, store)


KEPT = stat.S_IFREG | 0o6755


def test_what_is_kept_and_what_is_not(host, store):
    members = [
        ("top/", "", stat.S_IFDIR | 0o755), BASE, ("top/empty/", "", stat.S_IFDIR | 0o755), ("top/run", "x", KEPT),
        ("top/open", "x", stat.S_IFREG | 0o666), ("top/dir/link", "../run", LINK), ("top/dirs", "dir", LINK),
        ("top/Ünïcode/名前.py", "x"), ("top/with space", "x"), ("top/.hidden", "x"), ("top/.github/x", "x"),
        ("top/.gitignore", "x"), ("top/con.py", "x"), ("top/" + "b" * 200, "x"),
        ("top/itself", "itself", LINK), ("top/there", "back", LINK), ("top/back", "there", LINK),
        ("top/gone", "nothing", LINK),
    ]  # fmt: skip
    host.repository("o/n", {"hubconf.py": HUBCONF})
    host.archives["o/n"] = archive(members)
    _from_archive_alone(host, store)
    folder = next(Path(store.path("repos")).rglob("hubconf.py")).parent
    assert stat.S_IMODE((folder / "run").stat().st_mode) == 0o755, "executable, and no more than that"
    assert stat.S_IMODE((folder / "open").stat().st_mode) == 0o644
    assert os.readlink(folder / "dir" / "link") == "../run"
    assert (folder / "dirs" / "link").resolve() == (folder / "run").resolve()
    assert (folder / "Ünïcode" / "名前.py").read_text() == "x"
    assert (folder / "empty").is_dir()


def tree(folder, *rows):
    """A tree object with whatever names, as git itself would not write it; the commit that holds it."""
    body = b"".join(mode + b" " + name + b"\0" + bytes.fromhex(text_of(folder, "rev-parse", "HEAD:hubconf.py"))
                    for mode, name in rows)  # fmt: skip
    made = git(folder, "hash-object", "-t", "tree", "-w", "--literally", "--stdin", data=body).decode().strip()
    commit = text_of(folder, "commit-tree", "-m", "x", made)
    git(folder, "update-ref", "refs/heads/hostile", commit)
    return commit


FILE = (b"100644", b"hubconf.py")


@pytest.mark.parametrize(
    "rows",
    [
        [FILE, (b"100644", b"../evil")], [FILE, (b"100644", b"..")], [FILE, (b"100644", b".git")],
        [FILE, (b"100644", b".GIT")], [FILE, (b"100644", b"/tmp/evil")], [FILE, (b"100644", b"a\\evil")],
        [FILE, (b"100644", b"HubConf.py")], [FILE, FILE], [FILE, (b"120000", b"evil")],
        [FILE, (b"100644", b"a\x1b[31m")],
        [FILE, (b"40000", b"evil")], [FILE, (b"100644", b"git~1")], [FILE, (b"100644", b"C:evil")],
    ],
)  # fmt: skip
def test_hostile_trees_of_git_write_nothing(host, store, tmp_path, rows):
    """The blob is the text of a hubconf: as a link it leads nowhere, as a tree it is none."""
    repository = host.repository("o/n", {"hubconf.py": HUBCONF if rows[-1][0] != b"120000" else "../../evil"})
    tree(repository.folder, *rows)
    with pytest.raises(wl.HubError) as caught:
        hub.load(f"git+{host.web}/o/n.git@hostile", "net", trust_repo=True)
    assert "\x1b" not in str(caught.value)
    assert not list(tmp_path.rglob("evil"))
    assert not list(Path(store.path("repos")).rglob("hubconf.py"))


def _from_archive_alone(host, store):
    """Load from the plain archive, where git itself cannot stand in for it."""
    hub.load(host.files + "/codeload/o/n/x.zip", "net", trust_repo=True)


@pytest.mark.parametrize("data", [b"", b"no archive", archive([BASE])[:-30], archive([("top/README", "x")])])
def test_what_is_no_archive_of_a_hub(host, store, data):
    host.repository("o/n", {"hubconf.py": HUBCONF})
    host.archives["o/n"] = data
    with pytest.raises(wl.HubError):
        _from_archive_alone(host, store)


def test_a_damaged_archive_is_replaced_by_gits_own_objects(host, store):
    host.repository("o/n", {"hubconf.py": HUBCONF, "a.sh": "x", "b": ("hubconf.py",), "dir/c": "c" * 5000})
    host.archives["o/n"] = archive(EVIL["parent"])
    assert hub.load("o/n", "net", trust_repo=True) == 1
    folder = next(Path(store.root).rglob("hubconf.py")).parent
    assert os.readlink(folder / "b") == "hubconf.py"
    assert (folder / "a.sh").stat().st_mode & 0o111
    assert (folder / "dir/c").read_text() == "c" * 5000


def test_an_archive_that_was_changed_on_the_way_is_noticed(host, store):
    repository = host.repository("o/n", {"hubconf.py": HUBCONF})
    commit = text_of(repository.folder, "rev-parse", "HEAD")
    host.archives["o/n"] = archive([("top/hubconf.py", "def net():\n    return 'evil'\n")], commit.encode())
    assert hub.load("o/n", "net", trust_repo=True) == 1


def test_another_commits_archive_is_noticed(host, store):
    from weighlock.hub.fetching import unpack

    path = Path(store.hub) / "a.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(archive([BASE], b"1" * 40))
    with pytest.raises(wl.ArchiveError, match="another commit's"):
        unpack(str(path), str(path) + ".d", "2" * 40)


def test_links_and_the_executable_bit_are_kept_and_the_tree_id_is_right(host, store):
    files = {
        "hubconf.py": HUBCONF,
        "run.sh": "x",
        "link": ("hubconf.py",),
        "dir/sub/file": b"\0\1",
        "dir.x": "",
        "dir0": "z",
    }
    repository = host.repository("o/n", files)
    assert hub.load("o/n", "net", trust_repo=True) == 1
    folder = next(Path(store.root).rglob("hubconf.py")).parent
    assert (folder / "link").is_symlink()
    assert (folder / "run.sh").stat().st_mode & 0o100
    assert not (folder / "hubconf.py").stat().st_mode & 0o100
    meta = next(Path(store.root).rglob("meta/*.json")).read_text()
    assert text_of(repository.folder, "rev-parse", "HEAD^{tree}") in meta
    assert '"tree_checked": true' in meta


def meta_of(store):
    return json.loads(next(Path(store.root).rglob("meta/*.json")).read_text())


class TestDifferences:
    """An archive that is not its commit is taken only where the commit says why."""

    FILES: ClassVar[dict[str, Any]] = {"hubconf.py": HUBCONF, "a.md": "x", "docs/a/b.txt": "y", "c.txt": "z"}

    @pytest.mark.parametrize(
        "rules", ["*.md export-ignore", "/docs export-ignore", "docs/** export-ignore", "docs/a/b.txt export-ignore",
                  "docs/ export-ignore\n*.md export-ignore"],
    )  # fmt: skip
    def test_what_git_leaves_out(self, host, store, rules):
        host.repository("o/n", {**self.FILES, ".gitattributes": f"# rules\n{rules}\n"})
        assert hub.load("o/n", "net", trust_repo=True) == 1
        assert meta_of(store)["tree_differs"] == ".gitattributes leaves files out of archives"
        assert "zipball" in meta_of(store)["source"]

    @pytest.mark.parametrize("attributes", ["c.txt export-subst", ".gitattributes export-ignore\n*.md export-ignore"])
    def test_what_cannot_be_looked_up_comes_from_git(self, host, store, attributes):
        files = {**self.FILES, "c.txt": "$Format:%H$", ".gitattributes": attributes + "\n"}
        repository = host.repository("o/n", files)
        assert hub.load("o/n", "net", trust_repo=True) == 1
        assert meta_of(store)["tree_checked"]
        assert meta_of(store)["tree"] == text_of(repository.folder, "rev-parse", "HEAD^{tree}")

    def test_files_that_lfs_points_to(self, host, store):
        pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"
        files = {**self.FILES, "w.bin": pointer, ".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n"}
        host.repository("o/n", files)
        host.archives["o/n"] = archive([(f"top/{name}", text) for name, text in {**files, "w.bin": "big"}.items()])
        assert hub.load("o/n", "net", trust_repo=True) == 1
        assert meta_of(store)["tree_differs"] == "files stand where Git LFS has pointers"
        assert next(Path(store.root).rglob("w.bin")).read_text() == "big"

    def test_a_submodule(self, host, store):
        repository = host.repository("o/n", {**self.FILES, ".gitmodules": "[submodule 's']\n"})
        git(repository.folder, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},sub/s")
        git(repository.folder, "commit", "-q", "-m", "x")
        assert hub.load("o/n", "net", trust_repo=True) == 1
        assert meta_of(store)["tree_differs"] == "submodules are empty in an archive"

    @pytest.mark.parametrize("evil", [
        {"hubconf.py": HUBCONF.replace("1", "666")},
        {"hubconf.py": HUBCONF.replace("1", "666"), ".gitattributes": "*.md export-ignore\n*.py export-subst\n"},
        {"hubconf.py": HUBCONF.replace("1", "666"), ".gitattributes": "*.py filter=lfs\n"},
        {"new.py": ""},
        {"new.py": "", ".gitmodules": ""},
        {"c.txt": None},
        {"a.md": "not left out, but changed"},
    ])  # fmt: skip
    def test_an_excuse_does_not_cover_anything_else(self, host, store, evil):
        files = {**self.FILES, ".gitattributes": "*.md export-ignore\n"}
        host.repository("o/n", files)
        served = {name: text for name, text in {**files, "a.md": None, **evil}.items() if text is not None}
        host.archives["o/n"] = archive([(f"top/{name}", text) for name, text in served.items()])
        assert hub.load("o/n", "net", trust_repo=True) == 1
        assert meta_of(store)["tree_checked"], "from git itself"
        assert "git" in meta_of(store)["source"]
        assert (next(Path(store.root).rglob("hubconf.py")).parent / "a.md").read_text() == "x"

    def test_a_mirror_may_leave_out_what_git_leaves_out(self, host, store):
        files = {**self.FILES, ".gitattributes": "*.md export-ignore\n"}
        repository = host.repository("o/n", files)
        commit = text_of(repository.folder, "rev-parse", "HEAD")
        host.put(f"{commit}.zip", git(repository.folder, "archive", "--format=zip", "--prefix=any/", commit))
        with hub.configured(mirrors=(host.files + "/{commit}.zip",)):
            assert hub.load("o/n", "net", trust_repo=True) == 1
        assert host.count("zipball") == 0

    def test_what_was_locked_is_taken_where_git_is_silent(self, host, store, tmp_path):
        host.repository("o/n", {**self.FILES, ".gitattributes": "*.md export-ignore\n"})
        with hub.configured(lock_file=str(tmp_path / "weighlock.lock")):
            hub.lock("o/n")
            shutil.rmtree(store.root)
            host.git_works = host.api_works = False
            assert hub.load("o/n", "net", locked=True, trust_repo=True) == 1
            shutil.rmtree(store.root)
            host.archives["o/n"] = archive([("top/hubconf.py", HUBCONF.replace("1", "666"))])
            with pytest.raises(wl.ArchiveError, match="does not hold the commit's files"):
                hub.load("o/n", "net", locked=True, trust_repo=True)


class TestMirrors:
    def test_in_order_and_without_trust(self, host, store, monkeypatch, tmp_path):
        repository = host.repository("o/n", {"hubconf.py": HUBCONF})
        commit = text_of(repository.folder, "rev-parse", "HEAD")
        evil = archive([("top/hubconf.py", "def net():\n    return 'evil'\n")])
        good = git(repository.folder, "archive", "--format=zip", "--prefix=any/", commit)
        host.put(f"evil/o/n/{commit}.zip", evil)
        host.put(f"good/o/n/{commit}.zip", good)
        mirrors = (host.files + "/none/{commit}.zip", host.files + "/evil/{owner}/{name}/{commit}.zip",
                   host.files + "/good/{owner}/{name}/{commit}.zip")  # fmt: skip
        with hub.configured(mirrors=mirrors):
            assert hub.load("o/n", "net", trust_repo=True) == 1
        assert host.count("zipball") == 0
        assert host.bodies("/evil/") == host.bodies("/good/") == 1

    def test_a_mirror_that_nobody_can_vouch_for_is_not_used(self, host):
        repository = host.repository("o/n", {"hubconf.py": HUBCONF})
        commit = text_of(repository.folder, "rev-parse", "HEAD")
        host.git_works = False
        host.put(f"{commit}.zip", archive([("top/hubconf.py", "def net():\n    return 'evil'\n")]))
        with hub.configured(mirrors=(host.files + "/{commit}.zip",)):
            assert hub.load("o/n", "net", trust_repo=True) == 1


class TestOtherHosts:
    @pytest.mark.parametrize(("kind", "path"), [
        ("gitlab", "/o/n/-/archive/{commit}/n-{commit}.zip"), ("gitea", "/o/n/archive/{commit}.zip"),
        ("bitbucket", "/o/n/get/{commit}.zip"), ("github", "/o/n/zipball/{commit}"),
    ])  # fmt: skip
    def test_addresses_of_archives(self, host, monkeypatch, tmp_path, kind, path):
        repository = host.repository("o/n", {"hubconf.py": HUBCONF}, tag="v1")
        commit = text_of(repository.folder, "rev-parse", "HEAD")
        path = path.format(commit=commit)
        data = git(repository.folder, "archive", "--format=zip", "--prefix=n-v1/", commit)
        real = host._servers[0].RequestHandlerClass._web

        def web(self, parts):
            if self.path.endswith((".zip", commit)):
                assert self.path == path
                self._send(200, data)
            else:
                real(self, parts)

        monkeypatch.setattr(host._servers[0].RequestHandlerClass, "_web", web)
        config = f"[hosts.'git.example.com']\nkind = '{kind}'\nweb = '{host.web}'\napi = '{host.api}'\n"
        (tmp_path / "hub.toml").write_text(config)
        for text in (
            "git.example.com/o/n:v1",
            f"{host.web}/o/n:v1",
            f"{host.web}/o/n.git:v1",
            f"{host.web}/o/n/tree/v1",
        ):
            assert hub.load(text, "net", trust_repo=True) == 1
        assert host.count(path) == 1

    def test_hugging_face_and_git_itself(self, host, tmp_path):
        host.repository("o/n", {"hubconf.py": HUBCONF}, tag="v1")
        (tmp_path / "hub.toml").write_text(f"[hosts.'huggingface.co']\nweb = '{host.web}'\n")
        assert hub.load("o/n:v1", "net", source="huggingface", trust_repo=True) == 1
        assert host.count("zip") == 0

    def test_a_git_url(self, host, tmp_path, monkeypatch):
        host.repository("o/n", {"hubconf.py": HUBCONF}, tag="v1")
        monkeypatch.delenv("WEIGHLOCK_HUB_CONFIG")
        assert hub.load(f"git+{host.web}/o/n.git@v1", "net", trust_repo=True) == 1
        assert hub.load(f"{host.web}/o/n.git", "net", source="git", trust_repo=True) == 1

    def test_a_plain_archive(self, host, tmp_path):
        url = host.put("some/model.zip", archive([BASE]))
        assert hub.load(url, "net", trust_repo=True) == 1
        assert hub.load(url, "net") == 1
        assert host.count("model.zip") == 1
        flat = host.put("flat.zip", archive([("hubconf.py", HUBCONF)]))
        assert hub.load(flat, "net", trust_repo=True) == 1

    def test_github_enterprise_has_its_api_below_its_name(self):
        from weighlock.hub.hosts import find_host
        from weighlock.hub.settings import Settings

        host = find_host("ghe.corp", Settings(hosts={"ghe.corp": {"kind": "github", "token": "GHE"}}))
        assert host is not None
        assert (host.web, host.api) == ("https://ghe.corp", "https://ghe.corp/api/v3")
        assert find_host("unknown.example", Settings()) is None
        with pytest.raises(ValueError, match="which kind"):
            find_host("x.y", Settings(hosts={"x.y": {}}))


@pytest.mark.parametrize("name", ["con", "top/NUL.txt", "top/com1.py", "top/x.", "top/x /y", "top/a:b"])
def test_names_that_windows_does_not_allow_are_refused_there(monkeypatch, name):
    from weighlock.hub import archive as module

    assert module.why_unsafe(name) == ""
    monkeypatch.setattr(module, "_WINDOWS", True)
    assert module.why_unsafe(name) == "has a name that Windows does not allow"
    assert module.why_unsafe("top/console.py") == ""
