"""``weighlock scan`` and ``weighlock explain``: documents, exit codes, baselines, policies, hostile names."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.corpus.benign import BENIGN
from tests.corpus.hostile import EVIL, HOSTILE
from tests.corpus.writers import GOOD, Entry, archive, called, checkpoint, pickled, records, tensor, two
from tests.schema_check import schema, violations
from weighlock.cli import run
from weighlock.scanning.rules import RULES

SARIF = json.loads((Path(__file__).parent / "data" / "sarif-2.1.0-rtm.5.json").read_text(encoding="utf-8"))
NASTY = checkpoint(pickled(two(tensor(), called("evil\x1b[31m<script>", "x\x1b]0;pwned\x07", "</td><b>"))))
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
UNKNOWN = checkpoint(pickled(two(tensor(), called("mypackage.models", "Net", "x"))))


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def do(*arguments: str, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = run(list(map(str, arguments)))
        return Done(code, *capsys.readouterr())

    return do


@pytest.fixture
def files(tmp_path) -> Path:
    for name, data in {
        "evil.pt": EVIL, "good.pt": checkpoint(GOOD), "cut.pt": checkpoint(GOOD)[:-100], "unknown.pt": UNKNOWN,
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
    return tmp_path


def document(done: Done, name: str = "scan") -> Any:
    assert done.out.endswith("\n")
    assert done.out.isascii()
    found = json.loads(done.out)
    assert violations(found, schema(name)) == []
    return found


# --------------------------------------------------------------------------------------------------------- exit codes


def test_exit_codes(call, files):
    assert call("scan", "good.pt").code == 0
    assert call("scan", "evil.pt").code == 1
    assert call("scan", "cut.pt", "good.pt", "--fail-on", "high").code == 3
    assert call("scan", "missing.pt").code == 2
    assert call("scan", "missing.pt", "good.pt").code == 3
    assert call("scan", "missing.pt", "evil.pt", "cut.pt").code == 1
    assert call("scan").code == 2
    assert call("scan", "--nothing", "good.pt").code == 2
    assert call("scan", "nothing-*.pt").code == 2


def test_fail_on(call, files):
    assert call("scan", "unknown.pt").code == 1
    assert call("scan", "unknown.pt", "--fail-on", "medium").code == 1
    assert call("scan", "unknown.pt", "--fail-on", "high").code == 0
    assert call("scan", "evil.pt", "--fail-on", "never").code == 0
    assert call("scan", "cut.pt", "--fail-on", "never", "--allow-incomplete").code == 0


def test_allow(call, files):
    assert call("scan", "unknown.pt", "--allow", "mypackage.models.Net").code == 0
    assert call("scan", "evil.pt", "--allow", "os.*").code == 2


# --------------------------------------------------------------------------------------------------------------- text


def test_text(call, files):
    done = call("scan", ".")
    assert "posix.system('echo weighlock') is called: it runs a command or a program" in done.out
    assert re.search(r"evil\.pt +CRITICAL +WL101", done.out)
    assert re.search(r"cut\.pt +INCOMPLETE +WL903", done.out)
    assert re.search(r"good\.pt +ok +PyTorch zip, 1 pickle, 3 globals", done.out)
    assert "4 files: 1 clean, 3 with findings (1 critical, 2 medium), 1 not fully examined" in done.out
    assert done.err == ""


def test_quiet(call, files):
    assert call("scan", "-q", "good.pt") == Done(0, "", "")
    assert "good.pt" not in call("scan", "-q", ".").out
    assert "evil.pt" in call("scan", "-q", ".").out


def test_files_from(call, files):
    (files / "list.txt").write_text("evil.pt\n\ngood.pt\n")
    assert document(call("scan", "--json", "--files-from", "list.txt"))["totals"]["files"] == 2
    assert document(call("scan", "--json", "--files-from", "-", stdin="good.pt\n"))["totals"]["files"] == 1
    assert call("scan", "--files-from", "none.txt").code == 2


def test_exclude(call, files):
    assert document(call("scan", "--json", ".", "-x", "evil*", "-x", "cut.pt"))["totals"]["files"] == 2


# --------------------------------------------------------------------------------------------------------------- JSON


def test_json(call, files):
    found = document(call("scan", "-f", "json", "."))
    assert found["verdict"] == "findings"
    assert found["severity"] == "critical"
    assert found["totals"]["files"] == 4
    evil = next(entry for entry in found["inputs"] if entry["uri"].endswith("evil.pt"))
    assert evil["findings"][0]["rule"] == "WL101"
    assert evil["findings"][0]["cwe"] == [78]
    cut = next(entry for entry in found["inputs"] if entry["uri"].endswith("cut.pt"))
    assert not cut["complete"]
    assert cut["gaps"]


def test_jsonl(call, files):
    done = call("scan", "-f", "jsonl", ".")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert len(lines) == 4
    for line in lines:
        assert violations(line, schema("scan-file")) == []


def test_output_file(call, files):
    done = call("scan", "--json", "-o", "report.json", "evil.pt")
    assert (done.code, done.out) == (1, "")
    assert json.loads((files / "report.json").read_text())["verdict"] == "findings"
    assert [path.name for path in files.glob("report*")] == ["report.json"]
    assert call("scan", "--json", "-o", "no/folder/report.json", "evil.pt").code == 2


@pytest.mark.parametrize("form", ["text", "json", "jsonl", "html", "sarif"])
def test_hostile_names(call, tmp_path, form):
    (tmp_path / "a\x1b[2J<b>.pt").write_bytes(NASTY)
    done = call("scan", "-f", form, ".")
    assert done.code == 1
    assert "pwned" in done.out
    assert not UNSAFE.search(done.out)
    if form == "html":
        assert "<script>" not in done.out
        assert "<b>.pt" not in done.out


# -------------------------------------------------------------------------------------------------------------- SARIF


def test_sarif_of_the_corpus(call, tmp_path):
    for index, case in enumerate(list(HOSTILE.values())[::3]):
        (tmp_path / f"{index}.pt").write_bytes(case.make())
    log = json.loads(call("scan", "-f", "sarif", ".").out)
    assert violations(log, SARIF) == []
    (run_,) = log["runs"]
    assert len(run_["results"]) > 100
    for result in run_["results"]:
        rule = run_["tool"]["driver"]["rules"][result["ruleIndex"]]
        assert rule["id"] == result["ruleId"]
        assert result["partialFingerprints"]["weighlock/v1"]
        region = result["locations"][0]["physicalLocation"]["region"]
        assert region["startLine"] == 1
        assert region.get("byteOffset", 0) >= 0


def test_sarif_says_where(call, files):
    log = json.loads(call("scan", "-f", "sarif", "evil.pt", "cut.pt").out)
    (run_,) = log["runs"]
    result = run_["results"][0]
    location = result["locations"][0]["physicalLocation"]
    assert location["artifactLocation"] == {"uri": "evil.pt", "uriBaseId": "SRCROOT"}
    assert EVIL[location["region"]["byteOffset"]] == ord("R")
    assert result["level"] == "error"
    rule = run_["tool"]["driver"]["rules"][result["ruleIndex"]]
    assert rule["properties"]["security-severity"] == "9.8"
    assert "What to do" in rule["help"]["markdown"]
    (invocation,) = run_["invocations"]
    assert invocation["executionSuccessful"] is False
    assert invocation["toolExecutionNotifications"][0]["descriptor"]["id"] == "WL903"
    assert json.loads(call("scan", "-f", "sarif", "good.pt").out)["runs"][0]["invocations"][0]["executionSuccessful"]


def test_the_check_of_sarif_can_fail():
    assert violations({"version": "2.1.0"}, SARIF)
    assert violations({"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "x"}}, "more": 1}]}, SARIF)
    assert violations({"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "x"}}}]}, SARIF) == []


# --------------------------------------------------------------------------------------------------------------- HTML


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        found = dict(attrs)
        self.links += [found["href"] or ""] if "href" in found else []
        self.ids |= {found["id"] or ""} if "id" in found else set()
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html(call, files):
    page = call("scan", "-f", "html", ".").out
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert not tags.seen & {"script", "img", "link", "iframe", "object"}
    assert tags.links
    assert all(link.startswith("#") and link[1:] in tags.ids for link in tags.links)
    assert "posix.system" in page


# ------------------------------------------------------------------------------------------- baselines and policies


def test_baseline(call, files):
    assert call("scan", ".", "--write-baseline", "known.json", "--allow-incomplete").code == 0
    written = json.loads((files / "known.json").read_text())
    assert violations(written, schema("baseline")) == []
    assert len(written["entries"]) == 3
    done = call("scan", ".", "--baseline", "known.json", "--allow-incomplete", "-x", "known.json")
    assert done.code == 0
    assert "3 findings known" in done.out
    log = json.loads(call("scan", ".", "--baseline", "known.json", "-f", "sarif").out)
    assert {result["baselineState"] for result in log["runs"][0]["results"]} == {"unchanged"}
    assert violations(log, SARIF) == []
    (files / "evil.pt").write_bytes(EVIL + b"changed")
    assert call("scan", ".", "--baseline", "known.json", "--allow-incomplete").code == 1


def test_bad_baselines(call, files):
    (files / "bad.json").write_text("{}")
    assert call("scan", ".", "--baseline", "bad.json").code == 2
    assert call("scan", ".", "--baseline", "none.json").code == 2


def test_policy(call, files):
    (files / "policy.toml").write_text(
        'fail-on = "high"\nallow = ["mypackage.*"]\nexclude = ["evil*", "cut*", "*.toml"]\n[severity]\nWL205 = "high"\n'
    )
    assert call("scan", ".", "--policy", "policy.toml").code == 0
    (files / "tail.pt").write_bytes(archive(records(GOOD), suffix=b"tail"))
    assert call("scan", ".", "--policy", "policy.toml").code == 1
    (files / "policy.toml").write_text('[severity]\nWL205 = "off"\n')
    assert call("scan", "tail.pt", "--policy", "policy.toml").code == 0


@pytest.mark.parametrize(
    "text",
    ['fail-on = "often"', 'allow = "x"', "unknown = 1", '[severity]\nWL999 = "low"', '[severity]\nWL101 = "worse"',
     "[limits]\nmax_nothing = 1", "not toml", '[severity]\nWL901 = "low"'],
)  # fmt: skip
def test_bad_policies(call, files, text):
    (files / "policy.toml").write_text(text)
    assert call("scan", ".", "--policy", "policy.toml").code == 2


# ---------------------------------------------------------------------------------------------------- several at once


def test_jobs_change_nothing(call, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    made = [case.make for case in HOSTILE.values()][:20] + list(BENIGN.values())[:20]
    for index, make in enumerate(made):
        (folder / f"{index:03}.pt").write_bytes(make())
    assert call("scan", "--json", "many", "--jobs", "2") == call("scan", "--json", "many")


def test_a_repository_is_reported(call, tmp_path):
    (tmp_path / "hubconf.py").write_text("import os\nos.system('echo')\nU = 'http://example.org/weights.pt'\n")
    found = document(call("scan", "--json", "."))
    report = next(entry for entry in found["inputs"] if entry["format"] == "repository")
    assert {finding["rule"] for finding in report["findings"]} == {"WL501", "WL502"}
    (tmp_path / "hubconf.py").write_text("dependencies = []\ndef model():\n    '''A model.'''\n    return 1\n")
    assert call("scan", ".").code == 0


@pytest.mark.parametrize("code", [
    "__import__('os').system('x')", "getattr(__import__('o' + 's'), 'sys' + 'tem')('x')",
    "(lambda f: f('x'))(eval)", "import importlib as i; i.import_module('os').system('x')",
    "import builtins; builtins.__dict__['ev' + 'al']('1')", "import sys; sys.modules['os'].system('x')",
    "[].__class__.__base__.__subclasses__()[0]('x')", "import ctypes; ctypes.CDLL('./x.so')",
    "def m(x=__import__('os').system('x')): pass", "import os\nfor f in [os.system]: f('x')",
    "import os\nd = {'a': os.system}\nd['a']('x')", "import os\nlist(map(os.system, ['x']))",
    "import os\ndef go():\n  os.system('x')\ngo()", "import os\nclass A:\n  def __init__(self): os.system('x')\nA()",
    "class A:\n  def __class_getitem__(c, x):\n    import os; os.system(x)\nA['x']",
    "class M(type):\n  def __init__(c, *a):\n    import os; os.system('x')\nclass B(metaclass=M): pass",
])  # fmt: skip
def test_what_a_repository_does_in_other_words(call, tmp_path, code):
    (tmp_path / "hubconf.py").write_text(f"{code}\ndef model(): return 1\n")
    assert call("scan", ".").code == 1
    assert "WL501" in call("scan", ".").out


def test_a_repository_that_could_and_does_not(call, tmp_path):
    (tmp_path / "hubconf.py").write_text("import os\ndef model():\n  os.system('x')\n  return getattr(os, 'name')()\n")
    assert call("scan", ".").code == 0


def test_from_a_terminal_that_went_away(files):
    # Standard output closed early, as by `| head`.
    command = [sys.executable, "-m", "weighlock", "scan", "-f", "jsonl", *["evil.pt"] * 3000]
    with subprocess.Popen(
        command, cwd=files, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ)
    ) as it:
        assert it.stdout is not None
        assert it.stderr is not None
        it.stdout.readline()
        it.stdout.close()
        assert it.stderr.read() == b""
    assert it.returncode == 141


# ------------------------------------------------------------------------------------------------------------ explain


def test_explain(call):
    done = call("explain", "wl101")
    assert done.code == 0
    assert "WL101  Starts a program   critical" in done.out
    assert "CWE-78" in done.out
    listed = call("explain").out
    assert all(rule in listed for rule in RULES)
    assert call("explain", "WL999").code == 2
    assert len(document(call("explain", "--json"), "explain")["rules"]) == len(RULES)
    assert len(document(call("explain", "--json", "WL101"), "explain")["rules"]) == 1


def test_records_are_named(call, tmp_path):
    (tmp_path / "x.pt").write_bytes(archive([*records(GOOD), Entry("archive/notes.bin", EVIL)]))
    assert "archive/notes.bin" in call("scan", "x.pt").out
