"""The cache and its commands: what they show and do, as text and as JSON; caches that are read-only or shared."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

import weighlock as wl
from tests.hub_host import text_of
from tests.schema_check import schema, violations
from tests.test_hub_archives import HUBCONF
from tests.test_hub_download import sha, weights
from tests.test_hub_load import files
from weighlock.cli import run

pytestmark = pytest.mark.one_lane

hub = wl.hub


class Filled:
    """A cache with one of each kind of thing."""

    def __init__(self, host, store):
        repository = host.repository("o/n", files("v1"))
        hub.load("o/n", "net", trust_repo=True)
        self.old = text_of(repository.folder, "rev-parse", "HEAD")
        repository.commit({**files("v2"), "run.sh": "x", "link": ("utils.py",)}, tag="v2")
        self.new = text_of(repository.folder, "rev-parse", "HEAD")
        hub.load("o/n", "net", force_reload=True)
        hub.load("o/n:v2", "net")
        self.url = host.put("net.pth", weights())
        hub.load_state_dict_from_url(self.url)
        self.checkpoints = Path(store.checkpoints)
        (Path(store.hub) / "p_q_main").mkdir()
        (Path(store.hub) / "p_q_main" / "hubconf.py").write_text(HUBCONF)
        (self.checkpoints / "left.pth").write_bytes(b"left by torch.hub")
        (self.checkpoints / "net.pth.0123456789abcdef.partial").write_bytes(b"x" * 10)
        (self.checkpoints / ".net.pth.damaged.1.x").write_bytes(b"x" * 20)
        self.rubbish = Path(store.folder("tmp"), "tree.1.x")
        self.rubbish.mkdir()
        (self.rubbish / "file").write_bytes(b"x" * 30)


@pytest.fixture
def filled(host, store):
    return Filled(host, store)


@pytest.fixture
def call(capsys):
    def called(*words):
        capsys.readouterr()
        code = run(("cache", *map(str, words)))
        out, err = capsys.readouterr()
        return code, out, err

    return called


@pytest.fixture
def call_json(call):
    def called(*words, code=0):
        found, out, err = call(*words, "--json")
        assert found == code, (out, err)
        document = json.loads(out)
        assert violations(document, schema("cache")) == []
        assert document["command"] == words[0]
        return document

    return called


KINDS = {"repository": 2, "weights": 1, "torch.hub": 2, "partial": 1, "damaged": 1, "temporary": 1}


class TestShowing:
    def test_ls_shows_one_of_each(self, filled, call, call_json):
        items = call_json("ls")["items"]
        assert {kind: sum(item["kind"] == kind for item in items) for kind in KINDS} == KINDS
        by_name = {item["name"]: item for item in items}
        assert sorted(by_name["github.com/o/n@" + filled.new]["refs"]) == ["default branch", "v2"]
        assert by_name["github.com/o/n@" + filled.old]["refs"] == []
        assert by_name[filled.url]["nbytes"] == len(weights())
        assert all(os.path.exists(item["path"]) for item in items)
        out = call("ls")[1]
        assert out.count("\n") == sum(KINDS.values())
        assert [line for line in out.splitlines() if filled.url in line]
        assert len(call_json("ls", "github.com/o/n")["items"]) == 2
        assert len(call_json("ls", "net.pth", "left")["items"]) == 4
        assert call_json("ls", "nothing of that name")["items"] == []

    def test_du_adds_up(self, filled, store, call, call_json):
        usage = call_json("du")
        items = call_json("ls")["items"]
        assert usage["nbytes"] == sum(item["nbytes"] for item in items) == sum(row["nbytes"] for row in usage["kinds"])
        assert {row["kind"]: row["items"] for row in usage["kinds"]} == KINDS
        assert call("du")[1].splitlines()[-1].startswith("all")

    def test_why(self, filled, store, call, call_json, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        hub.lock("o/n:v2", urls=[filled.url])
        rows = {row["name"]: row for row in call_json("why", "o/n")["items"]}
        new, old = rows["github.com/o/n@" + filled.new], rows["github.com/o/n@" + filled.old]
        assert (sorted(new["refs"]), new["locks"]) == (["default branch", "v2"], ["weighlock.lock"])
        assert (old["refs"], old["locks"]) == ([], [])
        assert "/zipball/" in new["source"]
        out = call("why", filled.new[:12])[1]
        assert "because v2 means this commit" in out
        assert "because weighlock.lock names it" in out
        assert call_json("why", "net.pth", "--lock-file", "weighlock.lock")["items"][0]["locks"] == ["weighlock.lock"]
        assert call_json("why", "nothing", code=1)["items"] == []
        code, out, err = call("why", "nothing")
        assert (code, out) == (1, "")
        assert "weighlock cache ls shows what is there" in err

    def test_dir(self, filled, store, call, call_json, tmp_path):
        assert call("dir") == (0, store.hub + "\n", "")
        document = call_json("dir")
        assert (document["path"], document["writable"]) == (store.hub, True)

    def test_an_empty_cache(self, host, call, call_json):
        for words in (("ls",), ("prune", "-y")):
            assert call_json(*words)["items"] == []
        assert call_json("du")["nbytes"] == 0
        assert call_json("verify")["checked"] == 0
        assert call("rm", "x", "-y")[0] == 1
        assert not os.path.exists(hub.get_dir()), "looking makes nothing"


class TestRemoving:
    def test_dry_runs_change_nothing(self, filled, store, call, call_json):
        def all_files():
            return sorted(str(path) for path in Path(store.hub).rglob("*"))

        before = all_files()
        os.utime(filled.rubbish, (1, 1))
        for words in (("rm", "o/n"), ("rm", "net.pth"), ("prune",), ("prune", "--older-than", "0")):
            found = call_json(*words, "--dry-run")
            assert found["items"]
            assert not found["removed"]
            code, out, _ = call(*words, "--dry-run", "-y")
            assert (code, out.count("\n")) == (0, len(found["items"]))
        assert all_files() == before

    def test_nothing_goes_without_a_yes(self, filled, call, monkeypatch):
        code, _, err = call("rm", "o/n")
        assert code == 1
        assert "-y" in err
        monkeypatch.setattr("sys.stdin", _Terminal("n\n"))
        assert call("rm", "o/n")[0] == 1
        assert hub.load("o/n", "net", offline=True).version == "v2"
        monkeypatch.setattr("sys.stdin", _Terminal("y\n"))
        assert call("rm", "o/n")[0] == 0
        with pytest.raises(wl.OfflineError):
            hub.load("o/n", "net", offline=True)

    def test_rm_takes_its_refs_and_records_along(self, filled, store, call_json, host):
        found = call_json("rm", filled.new, "-y")
        assert found["removed"]
        assert [item["name"] for item in found["items"]] == ["github.com/o/n@" + filled.new]
        assert filled.new not in "".join(path.read_text() for path in Path(store.path("repos")).rglob("*.json"))
        assert hub.load("o/n:v2", "net").version == "v2", "fetched again"
        call_json("rm", "net.pth", "-y")
        assert not (filled.checkpoints / "net.pth").exists()
        assert not list(Path(store.path("places")).glob("*.json"))
        assert hub.load_state_dict_from_url(filled.url)["weight"].size == 3000
        call_json("rm", "p_q_main", "-y")
        assert not (Path(store.hub) / "p_q_main").exists()

    def test_prune_takes_what_nothing_refers_to(self, filled, store, call_json, host):
        for path in (filled.rubbish, *filled.checkpoints.glob("*.partial")):
            os.utime(path, (1, 1))
        found = call_json("prune", "-y")
        assert {(item["kind"], item["name"].partition("@")[0]) for item in found["items"]} == {
            ("repository", "github.com/o/n"), ("temporary", "tree.1.x"),
            ("partial", "net.pth.0123456789abcdef.partial"), ("damaged", ".net.pth.damaged.1.x"),
        }  # fmt: skip
        assert hub.load("o/n", "net", offline=True).version == "v2"
        assert hub.load_state_dict_from_url(filled.url, offline=True)["weight"].size == 3000
        assert hub.load("p/q:main", "net", offline=True) == 1
        assert (filled.checkpoints / "left.pth").exists()

    def test_prune_leaves_what_another_process_is_at(self, filled, call_json):
        names = {item["name"] for item in call_json("prune", "--dry-run")["items"]}
        assert "tree.1.x" not in names
        assert "net.pth.0123456789abcdef.partial" not in names

    def test_prune_by_age_and_by_lock_files(self, filled, store, call_json, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        hub.lock("o/n:v2", urls=[filled.url])
        for path in Path(store.hub).rglob("*"):
            if path.is_file() and not path.is_symlink():
                os.utime(path, (time.time() - 40 * 86400,) * 2)
        kinds = lambda *words: {item["kind"] for item in call_json("prune", "--dry-run", *words)["items"]}
        assert "weights" not in kinds("--older-than", "50")
        assert {"weights", "repository"} <= kinds("--older-than", "30")
        names = {item["name"] for item in call_json("prune", "--dry-run", "--older-than", "30", "--keep-locked",
                                                    "weighlock.lock")["items"]}  # fmt: skip
        assert filled.url not in names
        assert "github.com/o/n@" + filled.new not in names
        assert "github.com/o/n@" + filled.old in names


class _Terminal:
    def __init__(self, text):
        self.text = text

    def isatty(self):
        return True

    def readline(self):
        return self.text


class TestVerifying:
    def test_all_is_well(self, filled, call, call_json):
        assert call_json("verify")["wrong"] == []
        assert call("verify")[:2] == (0, "3 checked, 0 damaged\n")
        assert call("verify", "net.pth")[1] == "1 checked, 0 damaged\n"

    @pytest.mark.parametrize(
        ("how", "why"),
        [
            ("change", "the file utils.py was changed"), ("add", "the file more.py was added"),
            ("remove", "the file utils.py is missing"), ("mode", "the file run.sh was changed"),
            ("link", "the file link was changed"), ("record", "its record is missing"),
            ("same size", "the file utils.py was changed"),
        ],
    )  # fmt: skip
    def test_a_repository_that_was_changed(self, filled, store, call_json, how, why):
        folder = Path(store.path("repos", "github.com", "o", "+n", "commits", filled.new))
        if how == "change":
            (folder / "utils.py").write_text("x")
        elif how == "same size":
            data = (folder / "utils.py").read_bytes()
            (folder / "utils.py").write_bytes(data.replace(b"v2", b"v3"))
        elif how == "add":
            (folder / "more.py").write_text("x")
        elif how == "remove":
            (folder / "utils.py").unlink()
        elif how == "mode":
            (folder / "run.sh").chmod(0o644)
        elif how == "link":
            (folder / "link").unlink()
            (folder / "link").symlink_to("hubconf.py")
        else:
            Path(store.path("repos", "github.com", "o", "+n", "meta", filled.new + ".json")).unlink()
        (wrong,) = call_json("verify", code=1)["wrong"]
        assert wrong["why"] == why
        assert filled.new in wrong["name"]

    def test_weights_that_were_changed(self, filled, call_json):
        path = filled.checkpoints / "net.pth"
        kept = path.stat()
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
        (wrong,) = call_json("verify", code=1)["wrong"]
        assert wrong["name"] == filled.url
        assert "SHA-256" in wrong["why"]

    def test_no_connection_is_opened(self, filled, host, call, monkeypatch):
        monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection was opened"))
        for words in (("verify",), ("ls",), ("du",), ("why", "o/n"), ("prune", "--dry-run"), ("dir",)):
            assert call(*words)[0] == 0

    def test_compiled_code_beside_the_files_is_no_damage(self, filled, store, call):
        """Python writes it there when it imports them."""
        folder = Path(store.path("repos", "github.com", "o", "+n", "commits", filled.new))
        (folder / "__pycache__").mkdir(exist_ok=True)
        (folder / "__pycache__" / "utils.cpython-311.pyc").write_bytes(b"x")
        assert call("verify")[0] == 0


def test_names_from_the_network_cannot_reach_the_terminal_raw(host, store, call):
    url = host.put("x.pth", weights()) + "?\x1b[31m\u202e"
    (Path(store.checkpoints)).mkdir(parents=True)
    (Path(store.checkpoints) / "evil\x1b[31m.pth").write_bytes(b"x")
    with contextlib.suppress(wl.HubError):
        hub.load_state_dict_from_url(url)
    for words in (("ls",), ("why", "pth"), ("rm", "pth", "--dry-run"), ("verify",)):
        out = call(*words)[1]
        assert "\x1b" not in out
        assert "\u202e" not in out


# Root may write anywhere. Without these two capabilities it is bound by the bits like everybody else.
_AS_ANYBODY = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]


def as_anybody(code, **environment):
    """Run code as somebody who may not write where the bits say no."""
    before = _AS_ANYBODY if os.geteuid() == 0 else []
    done = subprocess.run(
        [*before, sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, **environment}, timeout=100,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def changes(folder):
    """What every file and folder below is: its mode, size and time of change."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        facts = path.lstat()
        found[str(path)] = (facts.st_mode, facts.st_size if path.is_file() else 0, facts.st_mtime_ns)
    return found


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="setpriv is not installed")
class TestReadOnly:
    @pytest.fixture
    def sealed(self, filled, store):
        """The cache, with nothing in it writable."""
        folder = Path(store.hub)
        for path in folder.rglob("__pycache__"):
            shutil.rmtree(path)
        paths = [folder, *(path for path in folder.rglob("*") if not path.is_symlink())]
        for path in paths:
            path.chmod(path.stat().st_mode & ~0o222)
        yield filled
        for path in paths:
            path.chmod(path.stat().st_mode | stat.S_IWUSR)

    def test_it_really_cannot_be_written(self, sealed, store):
        code, _, err = as_anybody(f"open({store.hub + '/x'!r}, 'w')")
        assert code == 1
        assert "PermissionError" in err

    def test_what_is_there_is_used(self, sealed, store, host):
        before = changes(Path(store.hub))
        code, out, err = as_anybody(
            "import weighlock as wl\nhub = wl.hub\n"
            "print(hub.load('o/n', 'net', trust_repo=True).version, hub.load('o/n:v2', 'net').version)\n"
            "print(hub.list('o/n'), hub.help('o/n', 'net'), hub.inspect('o/n').complete)\n"
            f"print(hub.load_state_dict_from_url({sealed.url!r})['weight'].size)\n"
            "print(hub.load('p/q:main', 'net'))\n"
            "print(hub.prefetch('o/n') != [])\n"
            "with hub.configured(refresh=0):\n    print(hub.load('o/n', 'net').version)\n"
            "print(hub.load('o/n', 'net', offline=True).version)\n"
        )
        assert code == 0, err
        assert out.splitlines() == [
            "v2 v2", "['fails', 'net', 'version', 'voice'] A net. True", "3000", "1", "True", "v2", "v2"
        ]  # fmt: skip
        assert changes(Path(store.hub)) == before

    @pytest.mark.parametrize("words", [["ls"], ["du"], ["verify"], ["why", "o/n"], ["dir"], ["prune", "--dry-run"]])
    def test_its_commands(self, sealed, store, words):
        before = changes(Path(store.hub))
        code, out, err = as_anybody(f"import sys; from weighlock.cli import run; sys.exit(run({['cache', *words]!r}))")
        assert code == 0, err
        assert out
        assert changes(Path(store.hub)) == before

    @pytest.mark.parametrize(
        "code",
        [
            "hub.load('o/other', 'net', trust_repo=True)", "hub.load_state_dict_from_url(URL)",
            "hub.load('o/n', 'net', force_reload=True, trust_repo=True)",
            "hub.prefetch('o/other')",
            "hub.load('o/n:dev', 'net', trust_repo=True)",
        ],
    )  # fmt: skip
    def test_what_is_not_there_has_an_error_of_the_hub(self, sealed, store, host, code):
        host.repository("o/other", files())
        host.repositories["o/n"].commit(files("v3"), branch="dev")
        url = host.put("more.pth", weights(2))
        status, out, err = as_anybody(
            f"import weighlock as wl\nhub, URL = wl.hub, {url!r}\n"
            f"try:\n    {code}\nexcept wl.ReadOnlyCacheError as error:\n"
            "    print(isinstance(error, PermissionError), error)\n"
        )
        assert status == 0, err
        assert out.startswith("True ")
        assert "is not in the cache, and the cache cannot be written" in out
        assert store.hub in out

    def test_removing_says_that_it_may_not(self, sealed):
        code, _, err = as_anybody(
            "import sys; from weighlock.cli import run; sys.exit(run(['cache', 'rm', 'o/n', '-y']))"
        )
        assert code == 2
        assert "cannot be removed" in err


class TestShared:
    @pytest.mark.parametrize("umask", [0o002, 0o022, 0o027, 0o077])
    def test_the_umask_decides_about_everything(self, host, store, umask):
        host.repository("o/n", {**files(), "run.sh": "true"}, tag="v1")
        url = host.put("net.pth", weights())
        code = (
            f"import os\nos.umask({umask})\nimport weighlock as wl\nwl.hub.load('o/n', 'net', trust_repo=True)\n"
            f"wl.hub.load_state_dict_from_url({url!r})\nwl.hub.list('o/n:v1')\nfrom weighlock.cli import run\n"
            f"wl.hub.download_url_to_file({url!r}, {str(Path(store.hub) / 'own.pth')!r})\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        for path in [Path(store.hub), *Path(store.hub).rglob("*")]:
            mode = stat.S_IMODE(path.lstat().st_mode)
            whole = 0o777 if path.is_dir() or path.name == "run.sh" else 0o666
            assert mode == whole & ~umask, path

    def test_the_mark_of_a_cache(self, filled, store):
        """As https://bford.info/cachedir/ describes it."""
        tag = Path(store.root, "CACHEDIR.TAG").read_bytes()
        assert tag.startswith(b"Signature: 8a477f597d28d172789f06886806bc55")
        assert not Path(store.hub, "CACHEDIR.TAG").exists(), "what torch.hub keeps there is not ours to mark"

    def test_a_file_that_another_user_owns_is_used(self, filled, store):
        if os.geteuid() == 0:
            for path in Path(store.hub).rglob("*"):
                os.chown(path, 65534, 65534, follow_symlinks=False)
        assert hub.load("o/n", "net", offline=True).version == "v2"
        assert sha((filled.checkpoints / "net.pth").read_bytes()) == sha(weights())
        assert hub.load_state_dict_from_url(filled.url, offline=True)["weight"].size == 3000
