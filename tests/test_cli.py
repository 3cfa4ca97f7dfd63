"""The command: what it prints, its exit codes, its JSON, and names that try to act on a terminal."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pytest

import weighlock
from tests.schema_check import SCHEMAS, schema, violations
from weighlock.cli import run, verbs
from weighlock.cli.application import application
from weighlock.cli.common import Common
from weighlock.cli.output import as_json
from weighlock.inspection.globs import glob
from weighlock.text import safe_text

HOSTILE = [
    "esc\x1b[31m\x1b]0;pwned\x07", "line\nbreak", "carriage\rreturn", "tab\there", "rtl\u202e\u2066", "c1\x9b31m",
    "del\x7f", "[/oops]", "[bold red]x", "=cmd()|' /C calc'!A0", "+1", "@sum", "zero\u200bwidth", "sep\u2028arator",
    "tag\U000e0041", "k" * 10_000, "", ".", "quote\"'`$(id)", "back\\slash", "\\x1b[31m", "nul\x00",
]  # fmt: skip
LONE = "lone\ud800surrogate"

UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u2028\u202e\u2066\ud800-\udfff\U000e0041]")


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys, monkeypatch):
    """A function that runs one command line in this process."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def run_here(*arguments: object) -> Done:
        code = run([str(argument) for argument in arguments])
        return Done(code, *capsys.readouterr())

    return run_here


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "model.pth"
    base = np.arange(6, dtype="f4").reshape(2, 3)
    weighlock.save(
        {
            "fc.weight": base, "fc.bias": np.ones(2, "f4"), "tied": base, "epoch": 3, "log": [0.5, 1.5],
            "state": {0: {"step": np.float64(2.5)}}, "special": np.array([np.nan, np.inf, -np.inf, 1]),
        },
        path,
    )  # fmt: skip
    return path


@pytest.fixture
def hostile(tmp_path) -> Path:
    path = tmp_path / "hostile.pth"
    weighlock.save({**{name: np.ones(2, "f4") for name in HOSTILE}, "text": "\x1b[31m", "list": ["\x1b]0;x\x07"]}, path)
    return path


def document(done: Done, name: str) -> Any:
    """The one JSON document on standard output, checked against its schema."""
    assert done.out.endswith("\n")
    assert done.out.count("\n") == 1
    assert done.out.isascii()
    assert not UNSAFE.search(done.out)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(done.out, parse_constant=refuse)
    assert violations(found, schema(name)) == []
    return found


# ------------------------------------------------------------------------------------------------------- inspect


def test_inspect_says_what_a_file_is(call, model):
    done = call(model)
    assert done.code == 0
    assert done.err == ""
    first, *rest = done.out.splitlines()
    assert first.startswith(f"{model}   PyTorch zip (format 3, little-endian)   ")
    facts = {line[:12].strip(): line[12:] for line in rest[: rest.index("")]}
    assert facts["holds"].startswith("dict: 4 tensors · epoch=3 · log (list of 2)")
    assert facts["verdict"].startswith("OK to load with weighlock.load")
    assert facts["sharing"] == "1 group: fc.weight = tied (24 B saved)"
    assert call("inspect", model) == done


def test_inspect_as_json(call, model):
    found = document(call(model, "--json"), "inspect")
    (entry,) = found["inputs"]
    assert (entry["uri"], entry["size"], entry["format"]) == (str(model), model.stat().st_size, "torch-zip")
    assert entry["totals"]["tensors"] == 4
    assert entry["sharing"]["aliases"] == [[0, 2]]
    assert entry["tensors"][2]["alias_of"] == 0
    assert entry["verdict"]["loads"] is True
    assert entry["holds"][5] == {
        "path": ["state"], "key": "state", "kind": "dict", "tensors": 0, "items": 1, "text": None
    }  # fmt: skip


def test_a_file_that_is_called_like_a_command(call, model, monkeypatch):
    monkeypatch.chdir(model.parent)
    Path("ls").write_bytes(model.read_bytes())
    assert call("inspect", "ls").out.startswith("ls   PyTorch zip")
    assert call("./ls").out.startswith("./ls   PyTorch zip")
    assert call("--", "ls").out.startswith("ls   PyTorch zip")
    assert call("ls", "ls").out.startswith("fc.weight")
    assert call("ls").code == 2


def test_a_file_that_looks_like_an_option(call, model, monkeypatch):
    monkeypatch.chdir(model.parent)
    Path("--json").write_bytes(model.read_bytes())
    assert call("--", "--json").out.startswith("--json   PyTorch zip")
    assert call("ls", "--", "--json").code == 0


# ------------------------------------------------------------------------------------------------------------ ls


def test_ls_has_one_line_per_tensor(call, model):
    assert call("ls", model).out.splitlines() == [
        "fc.weight  float32  [2, 3]  24 B",
        "fc.bias    float32  [2]      8 B",
        "tied       float32  [2, 3]  24 B  = fc.weight",
        "special    float64  [4]     32 B",
    ]


def test_ls_as_tsv_and_csv(call, model):
    lines = call("ls", model, "-f", "tsv").out.splitlines()
    assert lines[0].split("\t") == ["fc.weight", "float32", "2,3", "24", "0", "0", "contiguous"]
    rows = list(csv.reader(io.StringIO(call("ls", "--format=csv", "-l", model).out)))
    assert rows[0] == [
        "key", "dtype", "shape", "nbytes", "storage", "storage_offset", "contiguous", "stride", "layout",
        "requires_grad", "alias_of",
    ]  # fmt: skip
    assert rows[3] == ["tied", "float32", "2,3", "24", "0", "0", "contiguous", "3,1", "strided", "false", "0"]


def test_ls_as_json(call, model):
    found = document(call("ls", model, "--json"), "ls")
    assert [row["key"] for row in found["inputs"][0]["tensors"]] == ["fc.weight", "fc.bias", "tied", "special"]
    assert call("ls", model, "--format", "json").out == call("ls", "--json", model).out


def test_ls_of_several_files_names_them(call, model):
    assert call("ls", model, model).out.count(f"{model}:\n") == 2
    assert call("ls", model, model, "-f", "tsv").out.splitlines()[0].startswith(f"{model}\tfc.weight\t")
    assert call("ls", model, model, "-f", "csv").out.count("file,key,dtype") == 1


def test_ls_picks_keys(call, model):
    assert call("ls", model, "--include", "fc.*").out.count("\n") == 2
    assert call("ls", model, "-i", "**", "-x", "fc.**").out.splitlines()[0].startswith("tied")
    assert call("ls", model, "-i", "*").out.count("\n") == 2
    nothing = call("ls", model, "--include", "no.such.key")
    assert nothing == Done(1, "", "weighlock: no key matches\n")


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("a.*", "a.b", True), ("a.*", "a.b.c", False), ("a.**", "a.b.c", True), ("**.w", "a.b.w", True),
        ("?", ".", False),
        ("h.[0-3].w", "h.2.w", True), ("h.[!0-3].w", "h.2.w", False), ("h.[", "h.[", True), ("(a|b)+", "(a|b)+", True),
        ("[]]", "]", True), ("[^a]", "^", True), ("a\nb", "a\nb", True),
    ],
)  # fmt: skip
def test_globs(pattern, key, matches):
    assert bool(glob(pattern).fullmatch(key)) is matches


# ---------------------------------------------------------------------------------------------------------- show


def test_show_prints_values(call, model):
    assert call("show", model, "fc.weight").out == (
        "fc.weight  float32  [2, 3]\n[[0.0, 1.0, 2.0],\n [3.0, 4.0, 5.0]]\n"
    )
    assert call("show", model, "fc.weight[..., -1]").out == "fc.weight  float32  [2] of [2, 3]\n[2.0, 5.0]\n"
    assert call("show", model, "epoch").out == "epoch  int\n3\n"
    assert call("show", model, "log[1]").out == "log  float\n1.5\n"
    assert call("show", model, "state").out == "state  dict\n  0: <dict of 1>\n"
    assert call("show", model, "state.0.step").out == "state.0.step  numpy scalar\n2.5 (float64)\n"


def test_show_as_json(call, model):
    found = document(call("show", model, "special", "--json"), "show")
    assert found["values"] == ["NaN", "Infinity", "-Infinity", 1.0]
    assert document(call("show", model, '["state", 0]', "--json"), "show")["items"][0]["text"] == "2.5 (float64)"
    assert document(call("show", model, "fc.weight[0, 1]", "--json"), "show")["values"] == 1.0
    assert document(call("show", model, "epoch", "--json"), "show")["value"] == 3


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_show_draws_brackets_that_can_be_read_back(call, tmp_path, dimensions):
    path = tmp_path / "deep.pth"
    array = np.arange(60, dtype="i8").reshape(((60,), (4, 15), (3, 4, 5))[dimensions - 1])
    weighlock.save({"w": array}, path)
    _, text = call("show", path, "w").out.split("\n", 1)
    assert json.loads(text) == array.tolist()
    assert max(map(len, text.splitlines())) <= 110


def test_show_refuses_to_flood(call, tmp_path):
    path = tmp_path / "large.pth"
    weighlock.save({"w": np.zeros(10_001, "u1")}, path)
    done = call("show", path, "w")
    assert done.code == 2
    assert "at most 10000, got 10001" in done.err
    assert "--all" in done.err
    assert len(document(call("show", path, "w", "--json", "--all"), "show")["values"]) == 10_001


@pytest.mark.parametrize("key", ["nothing", "fc.weight[9]", "fc.weight[0,0,0]", "epoch[0]", "fc.weight[0", ""])
def test_show_says_what_cannot_be_shown(call, model, key):
    done = call("show", model, key)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("weighlock: ")
    assert document(call("show", model, key, "--json"), "error")["error"]["type"] in (
        "ArgumentError", "OutOfRangeError", "UnsupportedError",
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- tree


def test_tree_folds(call, tmp_path):
    path = tmp_path / "blocks.pth"
    weighlock.save({f"h.{number}.{name}": np.zeros(2, "f4") for number in range(3) for name in "wb"}, path)
    assert call("tree", path).out.replace("\N{MULTIPLICATION SIGN}", "x").splitlines() == [
        "h.[0-2]  x3                16 B each",
        "├─ w         float32  [2]  8 B",
        "└─ b         float32  [2]  8 B",
    ]
    assert call("tree", "--no-fold", path).out.count("\n") == 10
    assert call("tree", "--depth", "1", path).out.count("\n") == 1


# -------------------------------------------------------------------------------------------- errors, exit codes


@pytest.fixture
def broken(tmp_path) -> Path:
    path = tmp_path / "page.html"
    path.write_text("<!DOCTYPE html><html><body>404</body></html>")
    return path


@pytest.mark.parametrize("verb", ["inspect", "ls", "tree"])
def test_one_bad_file_does_not_stop_the_others(call, model, broken, verb):
    done = call(verb, broken, model)
    assert done.code == 3
    assert str(broken) in done.err
    assert "fc.weight" in done.out
    assert call(verb, broken, "/no/such/file").code == 2
    assert call(verb, model, model).code == 0


@pytest.mark.parametrize("verb", ["inspect", "ls"])
def test_bad_files_in_json(call, model, broken, verb):
    found = document(call(verb, "--json", broken, model), verb)
    assert [entry["complete"] for entry in found["inputs"]] == [False, True]
    assert found["inputs"][0]["error"]["type"] == "NotACheckpointError"
    done = call(verb, "--json", "/no/such/file")
    assert (done.code, done.err) == (2, "")
    assert document(done, "error")["error"]["type"] == "MissingFileError"


def test_an_error_is_one_line_and_a_hint(call):
    done = call("/no/such/file")
    assert (done.code, done.out) == (2, "")
    assert done.err == "weighlock: there is no such file (/no/such/file)\n"
    assert call("lss").err.splitlines()[1] == "  hint: It is no command either; see weighlock --help."


@pytest.mark.parametrize(
    "line", [("ls",), ("show", "x"), ("ls", "x", "--bad"), ("ls", "x", "-f", "yaml"), ("--bad", "x")]
)
def test_mistakes_on_the_command_line(call, line):
    done = call(*line)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("weighlock: ")
    assert "  hint: Try: weighlock" in done.err
    assert document(call(*line, "--json"), "error")["error"]["type"] == "ArgumentError"


def test_an_unknown_encoding(call, model):
    assert "no such encoding" in call("ls", "--encoding", "klingon", model).err


def test_our_own_mistake_is_exit_code_two(call, model, monkeypatch):
    def fail(*_: object) -> None:
        raise ZeroDivisionError("oh\x1b[31m no")

    monkeypatch.setattr("weighlock.cli.listing.take_inventory", fail)
    done = call("ls", model)
    assert done.code == 2
    assert done.err.startswith("weighlock: internal error: ZeroDivisionError: oh\\x1b[31m no\n")
    monkeypatch.setenv("WEIGHLOCK_DEBUG", "1")
    assert "Traceback" in call("ls", model).err
    assert document(call("ls", model, "--json"), "error")["error"]["message"].startswith("internal error")


def test_what_was_not_examined_is_exit_code_three(call, model, monkeypatch):
    monkeypatch.setattr("weighlock.inspection.inventory._FREE_PATH_WORK", 12)
    monkeypatch.setattr("weighlock.inspection.inventory._PATH_WORK_PER_BYTE", 0)
    for verb in ("inspect", "ls", "tree"):
        done = call(verb, model)
        assert done.code == 3
        assert "out of all proportion" in done.err
    assert document(call("ls", model, "--json"), "ls")["inputs"][0]["complete"] is False


# ------------------------------------------------------------------------------------------------- hostile names

LINES = [
    (), ("inspect",), ("ls",), ("ls", "-l"), ("ls", "-f", "tsv"), ("ls", "-f", "csv"), ("ls", "-f", "csv", "-l"),
    ("tree",), ("tree", "--no-fold"), ("--color=never",), ("ls", "--color", "never"),
]  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_hostile_names_reach_no_terminal(call, hostile, line):
    done = call(*line, hostile)
    assert done.code == 0, done.err
    shown = done.out.replace("\t", "").replace("\r\n", "\n")
    assert not UNSAFE.search(shown)
    assert "[/oops]" in done.out
    if line[:1] == ("ls",):
        assert done.out.count("\n") == len(HOSTILE) + (line[1:3] == ("-f", "csv"))


@pytest.mark.parametrize("line", [("--json",), ("ls", "--json")])
def test_hostile_names_in_json_are_exact(call, hostile, line):
    found = document(call(*line, hostile), line[0] if len(line) > 1 else "inspect")
    assert [row["path"] for row in found["inputs"][0]["tensors"]] == [[name] for name in HOSTILE]


@pytest.mark.parametrize("name", [*HOSTILE, "text", "list"])
def test_show_finds_hostile_names(call, hostile, name):
    for key in (json.dumps([name]), name) if "\x00" not in name else (json.dumps([name]),):
        done = call("show", hostile, key)
        assert done.code == 0, done.err
        assert not UNSAFE.search(done.out)
        assert document(call("show", hostile, key, "--json"), "show")["path"] == [name]


def test_keys_can_be_copied_from_the_listing(call, hostile):
    assert call("show", hostile, safe_text(HOSTILE[0]) + "[0]").code == 0


def test_colour_is_only_ours(call, hostile):
    done = call("ls", "--color=always", hostile)
    assert "\x1b[" in done.out
    assert not UNSAFE.search(re.sub("\x1b\\[(1|2|31|32|36|0)m", "", done.out))


def test_lone_surrogates(call, tmp_path):
    path = tmp_path / "lone.pth"
    path.write_bytes(pickle.dumps({LONE: 1}, protocol=2))
    for line in ((), ("ls",), ("tree",)):
        done = call(*line, path)
        assert done.code == 0, done.err
        assert not UNSAFE.search(done.out)
    found = document(call(path, "--json"), "inspect")
    assert found["inputs"][0]["holds"][0]["path"] == ["lone\\ud800surrogate"]
    assert call("show", path, "lone\\ud800surrogate").code == 0


@pytest.mark.parametrize("name", ["a\x1b[31m.pth", "line\nbreak.pth", "[oops].pth", "\udcff.pth"])
def test_hostile_file_names(call, model, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(model.read_bytes())
    for line in ((), ("ls",), ("ls", "-f", "csv"), ("tree",), ("show",)):
        arguments = [*line, path, "epoch"] if line == ("show",) else [*line, path, path]
        done = call(*arguments)
        assert done.code == 0
        assert not UNSAFE.search((done.out + done.err).replace("\r\n", "\n"))
    document(call(path, "--json"), "inspect")
    missing = call(tmp_path / f"no{name}")
    assert not UNSAFE.search(missing.err)


def test_formulas_are_disarmed_in_csv(call, hostile):
    cells = [row[0] for row in csv.reader(io.StringIO(call("ls", "-f", "csv", hostile).out))]
    assert {"'=cmd()|' /C calc'!A0", "'+1", "'@sum"} <= set(cells)


def test_lone_surrogates_are_escaped_in_json_and_nothing_else():
    for text in ("\ud800", "a\udfff", "\\ud800", "\\\ud800", "\U0001f600", "\ud83d", "\\\\", "é\x7f"):
        found = json.loads(as_json({"t": text}))["t"]
        assert found == "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in text)


# ------------------------------------------------------------------------------------- two parsers, one grammar


@pytest.mark.parametrize(
    "line",
    [
        ("f",), ("inspect", "f"), ("f", "--json"), ("--json", "f", "g"), ("ls", "f"), ("ls", "-l", "f", "--json"),
        ("ls", "--long", "f"),
        ("show", "f", "k"), ("show", "--all", "f", "k[0]", "--json"), ("tree", "f", "g"), ("inspect", "ls"),
        (), ("ls",), ("--help",), ("-h", "f"), ("--version",), ("ls", "-f", "tsv", "f"), ("show", "f"),
        ("--", "ls"), ("f", ""),
        ("ls", "f", "-"), ("show", "f", "-k"), ("tree", "--json", "f"), ("ls", "-il", "f"),
        ("inspect", "-l", "f"), ("--jso", "f"), ("stats", "f", "--check"), ("stats", "--hist", "f", "g", "--json"),
        ("digest", "f", "--tensors", "--weights"), ("layout", "f", "--json"), ("diff", "a", "b", "--all", "-q"),
        ("diff", "a", "b", "--quiet"), ("diff", "a"), ("diff", "a", "b", "c"),
    ],
)  # fmt: skip
def test_the_quick_parser_agrees_with_click(monkeypatch, line):
    parsed = verbs.parse(line)
    if parsed is None:
        return
    verb, options = parsed
    defaults = passed_on(monkeypatch, [verb, *["x"] * (2 if verb in verbs._PAIRS else 1)])[1]
    assert passed_on(monkeypatch, line) == (verb, {**defaults, **options})
    assert options.keys() <= defaults.keys()


def passed_on(monkeypatch, line) -> tuple[str, dict[str, Any]]:
    """What click makes of a line: the verb, and every option with its value."""
    seen: list[tuple[str, dict[str, Any]]] = []
    for verb in verbs._FLAGS:
        function = verbs._function(verb)
        monkeypatch.setattr(
            f"{function.__module__}.{function.__name__}",
            lambda *_, verb=verb, **options: seen.append((verb, options)),
        )
    application.main(list(line), standalone_mode=False)
    monkeypatch.undo()
    return seen[0]


@pytest.mark.parametrize("verb", verbs._FLAGS)
def test_the_defaults_of_the_functions_are_those_of_click(monkeypatch, verb):
    """What the quick parser leaves out has the same value either way."""
    room = importlib.import_module(verbs._function(verb).__module__)
    own: dict[str, Any] = dict(Common._field_defaults)
    own |= getattr(getattr(room, "Hashing" if verb == "digest" else "Choice", None), "_field_defaults", {})
    arguments = {option.name for option in application.commands[verb].params if option.param_type_name == "argument"}
    for name, default in passed_on(monkeypatch, [verb, *["x"] * (2 if verb in verbs._PAIRS else 1)])[1].items():
        if name in own:
            assert default == own[name], name
        else:
            assert name in arguments | {"as_json", "files_from", "null", "everything", "dtype", "src"}


def test_every_verb_is_a_command_with_help(call):
    assert sorted(application.commands) == sorted(verbs.VERBS)
    for verb in verbs.VERBS:
        text = call(verb, "--help").out
        assert text.startswith(f"Usage: weighlock {verb} [OPTIONS]")
        assert "\\b" not in text, "a raw string hides the mark of a paragraph that is shown as it is written"


def test_help_has_the_examples_first(call):
    text = call("--help").out
    assert text.index("weighlock model.pth") < text.index("Usage:") < text.index("Commands:")
    assert call("-h").out == text
    nothing = call()
    assert (nothing.code, nothing.out) == (2, "")
    assert "Usage:" in nothing.err


def test_version(call):
    assert re.fullmatch(r"weighlock \d\S*\n", call("--version").out)


def test_every_schema_is_valid_and_used():
    assert {path.stem for path in SCHEMAS.glob("*.json")} == {
        "inspect", "ls", "show", "stats", "layout", "diff", "digest", "error", "hub", "cache", "scan", "scan-file",
        "explain", "baseline", "env", "convert", "edit",
        "verify", "verify-file", "manifest", "salvage",
    }  # fmt: skip
    for path in SCHEMAS.glob("*.json"):
        assert violations({}, schema(path.stem))


def test_the_validator_can_fail():
    rules = {
        "type": "object",
        "required": ["a"],
        "properties": {"a": {"type": "array", "items": {"type": "integer", "minimum": 0}}},
    }
    assert violations({"a": [0]}, rules) == []
    wrongs: list[Any] = [{}, {"a": 1}, {"a": [True]}, {"a": [-1]}, []]
    for wrong in wrongs:
        assert violations(wrong, rules)
    with pytest.raises(AssertionError):
        violations(1, {"multipleOf": 3})


# ----------------------------------------------------------------------------------------------- whole processes


def process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    environment |= options.pop("env", {})
    return subprocess.run(
        [sys.executable, "-m", "weighlock", *map(str, arguments)], capture_output=True, text=True, encoding="utf-8",
        check=False, timeout=60, env=environment, **options,
    )  # fmt: skip


IMPORTED = """
import sys
from weighlock.cli import run
code = run(sys.argv[1:])
print(*sorted(name for name in ("numpy", "torch", "ml_dtypes", "rich", "click", "importlib.metadata")
              if name in sys.modules), file=sys.stderr)
raise SystemExit(code)
"""


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        (("FILE",), set()), (("ls", "FILE"), set()), (("show", "FILE", "fc.weight[0]"), set()),
        (("tree", "FILE"), set()),
        (("ls", "--json", "FILE"), {"importlib.metadata"}), (("ls", "-f", "tsv", "FILE"), {"click"}),
    ],
)  # fmt: skip
def test_what_a_command_imports(model, line, allowed):
    arguments = [str(model) if argument == "FILE" else argument for argument in line]
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stderr.split()) <= allowed


def test_a_process_as_a_whole(model, broken):
    assert process(model).returncode == 0
    assert process(model, broken).returncode == 3
    assert process(broken).returncode == 2
    assert process("ls", model, "--include", "x").returncode == 1


def test_colour_follows_the_environment(model):
    assert "\x1b" not in process("ls", model).stdout
    assert "\x1b" in process("ls", model, env={"FORCE_COLOR": "1"}).stdout
    assert "\x1b" not in process("ls", model, env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stdout
    assert "\x1b" not in process("ls", model, "--color=never", env={"FORCE_COLOR": "1"}).stdout
    assert "\x1b" in process("ls", model, "--color=always", env={"NO_COLOR": "1"}).stdout


@pytest.mark.skipif(os.name != "posix", reason="there are no such pipes elsewhere")
def test_a_reader_that_goes_away_is_no_error(tmp_path):
    path = tmp_path / "many.pth"
    weighlock.save({f"key.{'x' * 100}.{number}": np.zeros(1, "f4") for number in range(5000)}, path)
    for line in (("ls", path), ("ls", path, "--json"), (path,)):
        with subprocess.Popen(
            [sys.executable, "-m", "weighlock", *map(str, line)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            child.stdout.close()
            assert child.stderr.read() == b""
        assert child.returncode in (0, 141)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no such device here")
@pytest.mark.parametrize("count", [1, 5000])
@pytest.mark.parametrize("options", [("ls",), ("ls", "--json"), ("inspect",)])
def test_a_full_disk_behind_standard_output_is_said(tmp_path, count, options):
    path = tmp_path / "some.pth"
    weighlock.save({f"key.{'x' * 100}.{number}": np.zeros(1, "f4") for number in range(count)}, path)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "weighlock", *options, path], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.stderr == b"weighlock: standard output cannot be written: No space left on device\n"
    assert done.returncode == 2


def test_output_in_a_narrow_encoding(model, tmp_path):
    path = tmp_path / "name.pth"
    weighlock.save({"層.weight": np.zeros(1, "f4")}, path)
    done = process("ls", path, env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.returncode == 0
    assert "\\u5c64.weight" in done.stdout


def test_start_up_is_quick(tmp_path):
    """Counted, not timed: what a plain listing may import, and how many modules in all beyond Python's own start."""
    path = tmp_path / "w.pth"
    weighlock.save({"w": np.zeros(1, "f4")}, path)
    code = (
        "import sys; before = len(sys.modules); from weighlock.cli import run; run(['ls', sys.argv[1]])\n"
        "print(len(sys.modules) - before, *sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    count, *modules = done.stderr.split()
    heavy = {
        "numpy",
        "torch",
        "click",
        "rich",
        "urllib3",
        "asyncio",
        "json",
        "dataclasses",
        "inspect",
        "typing",
        "tarfile",
    }
    assert not heavy - {"typing"} & set(modules)
    assert int(count) < 140


def test_click_knows_all_commands():
    assert isinstance(application, click.Group)
