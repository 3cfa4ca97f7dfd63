"""Whose code may run: rules by every way they can be given, the question, and what to do where nobody can be asked."""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

import weighlock as wl
from tests.hub_host import git, text_of
from tests.test_hub_archives import HUBCONF, archive
from tests.test_hub_load import files
from weighlock.cli import run
from weighlock.hub import trust

pytestmark = pytest.mark.one_lane

hub = wl.hub


def command_of(error):
    """The command that an error advises, as words for a shell."""
    found = re.search(r"To trust it: (weighlock hub trust add \S+)", str(error))
    assert found is not None, str(error)
    return shlex.split(found[1])


class TestWithoutATerminal:
    @pytest.mark.parametrize("kind", ["github", "ref", "gitlab group", "archive", "git"])
    def test_the_command_that_is_given_is_all_it_takes(self, host, tmp_path, kind):
        repository = host.repository("o/n", files())
        commit = repository.commit({}, tag="v1")
        text = "o/n"
        options: dict[str, Any] = {}
        if kind == "ref":
            text = "o/n:v1"
        elif kind == "gitlab group":
            host.repositories["group/sub/n"] = repository
            (tmp_path / "hub.toml").write_text(f"[hosts.'gitlab.com']\nweb = '{host.web}'\n")
            text, options = "group/sub/n", {"source": "gitlab"}
        elif kind == "archive":
            text = host.put("some/net.zip", archive([("top/hubconf.py", HUBCONF)], commit.encode()))
        elif kind == "git":
            text = f"git+{host.web}/o/n.git@v1"
        with pytest.raises(wl.UntrustedRepositoryError, match="is not trusted, and nobody can be asked") as caught:
            hub.load(text, "net", **options)
        words = command_of(caught.value)
        # What an archive says of itself is anybody's word: it is known by a digest of its files.
        assert words[-1].endswith("@" + commit) == (kind != "archive")
        assert re.search(r"@[0-9a-f]{40}\Z", words[-1])
        done = subprocess.run(
            [sys.executable, "-m", "weighlock", *words[1:]], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == words[-1]
        hub.load(text, "net", **options)
        repository.commit({"more.py": "x = 1\n"}, tag="v2")
        if kind in ("github", "gitlab group"):
            with hub.configured(refresh=0), pytest.raises(wl.UntrustedRepositoryError):
                hub.load(text, "net", **options)

    def test_nothing_is_fetched_to_be_run_first(self, host):
        host.repository("o/n", files())
        with pytest.raises(wl.UntrustedRepositoryError):
            hub.load("o/n", "net")
        assert host.count("codeload") == host.count("zipball") == 0

    def test_from_a_thread_and_with_a_closed_stdin(self, host):
        host.repository("o/n", files())
        code = (
            "import sys, threading, weighlock as wl\nfound = []\n"
            "def work():\n    try:\n        wl.hub.load('o/n', 'net')\n    except Exception as e:\n"
            "        found.append(type(e).__name__)\n"
            "t = threading.Thread(target=work); t.start(); t.join()\nsys.stdin.close(); work()\n"
            "sys.stdin = None; work()\n"
            "print(*found)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == ["UntrustedRepositoryError"] * 3


def at_a_terminal(code, answer, **environment):
    """Run a program whose stdin is a terminal, at which an answer is typed; what it says on each stream."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, answer.encode())
    out, err = process.communicate(timeout=60)
    os.close(ours)
    return process.returncode, out, err


class TestAtATerminal:
    SHOWN: ClassVar = {
        **files(),
        "hubconf.py": "dependencies = ['json']\nimport os, yaml_that_is_not_there as y\nos.environ['X'] = '1'\n"
        "URL = 'https://example.com/net-0123abcd.pth'\ndef net():\n    return 'ran'\ndef other():\n    pass\n",
        "yaml_that_is_not_there.py": "print('\\x1b[31m')\n",
    }

    @pytest.mark.parametrize(("answer", "good"), [("y\n", True), ("yes\n", True), ("\n", False), ("n\n", False)])
    def test_the_question_shows_what_would_run(self, host, store, answer, good):
        commit = text_of(host.repository("o/n", self.SHOWN).folder, "rev-parse", "HEAD")
        code = "import weighlock; print('got', weighlock.hub.load('o/n', 'net', verbose=False))"
        status, out, err = at_a_terminal(code, answer)
        assert f"github.com/o/n at commit {commit}" in err
        assert "it offers net, other" in err
        assert "it needs json" in err
        assert "it may fetch https://example.com/net-0123abcd.pth" in err
        assert "when it is imported, it changes the environment: os.environ (hubconf.py:3)" in err
        assert "when it is imported, it prints: print (yaml_that_is_not_there.py:1)" in err
        assert "Trust it, now and later (y/N)?" in out + err
        assert (status == 0) == good
        assert ("got ran" in out) == good
        assert ("UntrustedRepositoryError: Untrusted repository." in err) != good
        assert trust.is_trusted(store, wl.hub.Settings(), _repository(), commit) == good
        if good:
            status, out, err = at_a_terminal(code, "n\n")
            assert (status, "(y/N)" in out + err) == (0, False), "asked only once"

    def test_an_archive_is_asked_for_once(self, host):
        url = host.put("net.zip", archive([("top/hubconf.py", HUBCONF)]))
        code = f"import weighlock; print('got', weighlock.hub.load({url!r}, 'net', trust_repo=False, verbose=False))"
        status, out, err = at_a_terminal(code, "y\nn\n")
        assert (status, (out + err).count("(y/N)")) == (0, 1)
        assert "it offers net" in err

    def test_what_cannot_be_fetched_to_be_shown_is_said(self, host):
        host.repository("o/n", files())
        hub.prefetch("o/n")
        code = (
            "import weighlock as wl, shutil\nfrom weighlock.hub.directories import find_store\n"
            "shutil.rmtree(next(iter(__import__('pathlib').Path(find_store().root).rglob('commits'))))\n"
            "wl.hub.load('o/n', 'net', offline=True)\n"
        )
        status, _, err = at_a_terminal(code, "n\n")
        assert status == 1
        assert "is not in the cache, and nothing may be fetched: offline" in err


def _repository():
    from weighlock.hub.sources import parse

    return parse("o/n", "github", hub.Settings())


class TestRules:
    def test_by_the_file_of_settings(self, host, tmp_path):
        repository = host.repository("o/n", files("v1"), tag="v1")
        path = tmp_path / "hub.toml"
        good = path.read_text()
        path.write_text('trust = ["p/*", "o/n@v1"]\n' + good)
        assert hub.load("o/n:v1", "net").version == "v1"
        repository.commit(files("v2"), tag="v2")
        with pytest.raises(wl.UntrustedRepositoryError):
            hub.load("o/n:v2", "net")
        os.utime(path, ns=(1, 1))
        path.write_text('trust = ["o/*"]\n' + good)
        assert hub.load("o/n:v2", "net").version == "v2"
        path.write_text('trust = "o/*"\n' + good)
        with pytest.raises(wl.ArgumentError, match="trust"):
            hub.load("o/n:v2", "net")

    def test_by_a_block_of_the_program(self, host):
        host.repository("o/n", files())
        with hub.configured(trust=("o/n",)):
            assert hub.load("o/n", "net").version == "v1"
        assert not Path(hub.get_dir(), "trusted_list").exists()
        with pytest.raises(wl.UntrustedRepositoryError):
            hub.load("o/n", "net")

    def test_by_several_in_a_variable(self, host, monkeypatch):
        host.repository("o/n", files())
        monkeypatch.setenv("WEIGHLOCK_HUB_TRUST", "gitlab.com/x/* p/q  o/*")
        assert hub.load("o/n", "net").version == "v1"

    def test_by_commands_and_back(self, host, store, capsys):
        host.repository("o/n", files())
        assert run(("hub", "trust", "add", "o/*", "https://gitlab.com/g/s/n")) == 0
        assert capsys.readouterr().out.split() == ["github.com/o/*", "gitlab.com/g/s/n"]
        assert hub.load("o/n", "net").version == "v1"
        assert run(("hub", "trust", "remove", "o/*")) == 0
        with pytest.raises(wl.UntrustedRepositoryError):
            hub.load("o/n", "net")

    def test_taking_back_what_torch_hub_also_has_written(self, host, store):
        host.repository("o/n", files())
        hub.load("o/n", "net", trust_repo=True)
        assert Path(store.hub, "trusted_list").read_text() == "o_n\n"
        assert trust.remove(store, "o/n")
        assert Path(store.hub, "trusted_list").read_text() == ""
        with pytest.raises(wl.UntrustedRepositoryError):
            hub.load("o/n", "net")

    @pytest.mark.parametrize(
        ("pattern", "text", "good"),
        [
            ("o/n@7chars1", "o/n", False), ("o/n*", "o/nn", True), ("o/n?", "o/n", False), ("*/n", "p/n", True),
            ("gitlab.com/g/*/n", "gitlab.com/g/s/n", True), ("gitlab.com/g/*", "gitlab.com/g/s/n", False),
            ("*/o/n", "gitlab.com/o/n", True), ("o/n", "gitlab.com/o/n", False), ("GITHUB.com/O/N", "o/n", True),
            ("o/n@main", "o/n:main", True), ("o/n@main", "o/n:maintain", False), ("o/n@v*", "o/n:v1", False),
        ],
    )  # fmt: skip
    def test_patterns(self, host, pattern, text, good):
        from weighlock.hub.directories import find_store
        from weighlock.hub.sources import parse

        settings = hub.Settings(trust=(pattern,))
        assert trust.is_trusted(find_store(), settings, parse(text, "github", settings), "a" * 40) == good

    def test_the_beginning_of_a_commit(self, host, store):
        first = text_of(host.repository("o/n", files()).folder, "rev-parse", "HEAD")
        trust.add(store, f"o/n@{first[:6]}")
        with pytest.raises(wl.UntrustedRepositoryError):
            hub.load("o/n", "net")
        trust.add(store, f"o/n@{first[:7]}")
        assert hub.load("o/n", "net").version == "v1"

    @pytest.mark.parametrize("pattern", ["", "n", "o/", "/n", "o/n@", "github.com/o", "https://github.com/o"])
    def test_what_is_no_pattern(self, host, store, pattern):
        with pytest.raises(wl.RepositoryNameError):
            trust.add(store, pattern)

    def test_a_cache_that_cannot_be_written_still_lets_pass(self, host, store, monkeypatch):
        host.repository("o/n", files())
        hub.prefetch("o/n")
        monkeypatch.setattr("weighlock.hub.directories.Store.writable", lambda self: False)
        assert hub.load("o/n", "net", trust_repo=True).version == "v1"

    def test_a_branch_that_moves_is_asked_about_where_only_its_commit_was_trusted(self, host, store):
        repository = host.repository("o/n", files("v1"))
        trust.add(store, f"o/n@{text_of(repository.folder, 'rev-parse', 'HEAD')}")
        assert hub.load("o/n", "net").version == "v1"
        git(repository.folder, "commit", "-q", "--allow-empty", "-m", "more")
        with pytest.raises(wl.UntrustedRepositoryError):
            hub.load("o/n", "net", force_reload=True)

    def test_listing_by_running_asks_too_and_takes_the_rules(self, host, store):
        host.repository("o/n", {"hubconf.py": "globals()['made' + str(1)] = len\n"})
        assert run(("hub", "list", "o/n", "--execute")) == 2
        trust.add(store, "o/n")
        assert hub.list("o/n", execute=True) == ["made1"]
