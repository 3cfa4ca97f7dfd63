"""The commands that measure, compare and set up: what they print, their exit codes, files they write, hostile names."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest

import weighlock
from tests.range_server import RangeServer
from tests.schema_check import SCHEMAS, schema, violations
from tests.test_cli import HOSTILE, LONE, UNSAFE, Done, call, document, hostile, model, process  # noqa: F401 - fixtures
from weighlock.cli import completing
from weighlock.cli.application import application
from weighlock.cli.common import FORMATS
from weighlock.cli.progress import Bar
from weighlock.cli.tables import markdown_cell


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def lines(done: Done) -> list:
    assert done.out.isascii()
    return [json.loads(line, parse_constant=refuse) for line in done.out.splitlines()]


@pytest.fixture
def other(tmp_path, model) -> Path:
    obj = weighlock.load(model)
    obj |= {"fc.bias": np.array([1, 1.5], "f4"), "epoch": 4, "new": np.zeros(3)}
    del obj["special"]
    path = tmp_path / "other.pth"
    weighlock.save(obj, path)
    return path


@pytest.fixture
def blocks(tmp_path) -> tuple[Path, Path]:
    paths = tmp_path / "a.pth", tmp_path / "b.pth"
    for number, path in enumerate(paths):
        weighlock.save({f"h.{n}.mlp.w": np.full(4, 1 + n * number / 8) for n in range(12)}, path)
    return paths


# --------------------------------------------------------------------------------------------------------- stats


def test_stats_prints_a_table(call, model):
    done = call("stats", model)
    assert done.code == 0
    rows = done.out.splitlines()
    assert rows[0].split() == ["key", "dtype", "shape", "min", "max", "mean", "std", "zeros", "nan", "posinf", "neginf"]
    assert rows[1].split() == ["fc.weight", "float32", "[2,", "3]", "0", "5", "2.5", "1.708", "1", "0", "0", "0"]
    assert rows[-1] == "1 of 4 tensors hold NaN or infinities"


def test_stats_check(call, model):
    assert call("stats", "--check", model).code == 1
    assert call("stats", "--check", model, "-x", "special").code == 0
    assert call("stats", "--check", "-q", model) == Done(1, "", "")


def test_stats_draws_histograms(call, model):
    done = call("stats", model, "--hist", "--bins", 4, "-i", "fc.*")
    assert "  0 █▄█▄ 5" in done.out.splitlines() or re.search(r"  0 [▁-█]{4} 5", done.out)


def test_stats_as_json(call, model):
    found = document(call("stats", model, "--json", "--hist"), "stats")
    special = found["inputs"][0]["tensors"][3]
    assert (special["nan"], special["posinf"], special["neginf"], special["max"]) == (1, 1, 1, 1.0)
    assert sum(special["histogram"]["counts"]) == 1
    rows = lines(call("stats", model, "-f", "jsonl"))
    assert [row["key"] for row in rows] == ["fc.weight", "fc.bias", "tied", "special"]
    assert rows[0]["uri"] == str(model)


def test_numbers_in_csv_stay_numbers(call, tmp_path):
    path = tmp_path / "n.pth"
    weighlock.save({"-w": np.array([-1.5, -1.5])}, path)
    rows = list(csv.DictReader(io.StringIO(call("stats", path, "-f", "csv").out)))
    assert (rows[0]["key"], rows[0]["min"], rows[0]["std"]) == ("'-w", "-1.5", "0.0")


# ------------------------------------------------------------------------------------------------ digest, layout


def test_digest(call, model, tmp_path):
    legacy = tmp_path / "legacy.pth"
    weighlock.save(weighlock.load(model), legacy, _use_new_zipfile_serialization=False)
    one, two = call("digest", model, legacy).out.splitlines()
    assert one.split()[0] == two.split()[0] == str(weighlock.digest(model))
    assert two.split()[1] == str(legacy)
    assert call("digest", "--weights", model).out.split()[0] == weighlock.digest(model).weights
    assert call("digest", "--tensors", model).out.splitlines()[1].endswith("  fc.bias")
    rows = list(csv.reader(io.StringIO(call("digest", "--tensors", model, legacy, "-f", "csv").out)))
    assert (rows[0], len(rows), rows[-1][2]) == (["digest", "key", "file"], 9, str(legacy))
    found = document(call("digest", "--json", model), "digest")["inputs"][0]
    assert (found["digest"], found["values"]) == (one.split()[0], 4)


def test_layout_covers_the_file(call, model):
    found = document(call("layout", model, "--json"), "layout")["inputs"][0]
    reached = 0
    for stretch in found["stretches"]:
        assert stretch["offset"] == reached
        reached += stretch["nbytes"]
    assert reached == found["size"] == model.stat().st_size
    text = call("layout", model).out.splitlines()
    assert text[0].split() == ["offset", "nbytes", "kind", "name"]
    assert "pickle" in text[-1]
    assert call("layout", model, "-f", "tsv").out.splitlines()[0].split("\t")[0] == "0"


# ---------------------------------------------------------------------------------------------------------- diff


def test_diff_of_the_same(call, model):
    assert call("diff", model, model) == Done(0, "structure   4 in both\n= 4 tensors identical\n", "")
    assert call("diff", "-q", model, model) == Done(0, "", "")


def test_diff_says_what_differs(call, model, other):
    done = call("diff", model, other)
    assert (done.code, done.err) == (1, "")
    assert done.out.splitlines() == [
        "structure   1 only in A · 1 only in B · 1 other values · 1 other plain value · 3 in both",
        "~ fc.bias  float32 [2]  1 of 2 differ · max|Δ| 0.5 · rel L2 0.354 · cos 0.98058",
        "- special  float64 [4]",
        "+ new      float64 [3]",
        "~ epoch = 3 → 4",
        "= 2 tensors identical (--all lists them)",
    ]
    assert call("diff", "--atol", 1, model, other, "-x", "epoch", "-x", "new", "-x", "special").code == 0
    assert call("diff", "--all", model, other).out.count("\n= ") == 2


def test_diff_folds_blocks(call, blocks):
    done = call("diff", *blocks)
    assert done.out.splitlines()[1].replace("\N{MULTIPLICATION SIGN}", "x") == (
        "~ h.[1-11].mlp.w x11  float64 [4]  44 elements differ · max|Δ| 0.125 … 1.38 (worst: h.11.mlp.w)"
    )
    assert call("diff", "--all", *blocks).out.count("\n~ ") == 11


def test_diff_as_documents(call, model, other):
    found = document(call("diff", model, other, "--json"), "diff")
    assert (found["same"], found["complete"], found["counts"]["changed"]) == (False, True, 1)
    assert [row["status"] for row in found["tensors"]] == ["changed", "only_a", "only_b"]
    assert found["tensors"][0]["values"]["max_abs"] == 0.5
    rows = lines(call("diff", model, other, "-f", "jsonl"))
    assert [row["status"] for row in rows] == ["changed", "only_a", "only_b", "object"]
    table = list(csv.DictReader(io.StringIO(call("diff", model, other, "-f", "csv").out)))
    assert [(row["status"], row["key_a"], row["max_abs"]) for row in table] == [
        ("changed", "fc.bias", "0.5"), ("only_a", "special", ""), ("only_b", "", ""), ("object", "epoch", ""),
    ]  # fmt: skip


def test_diff_with_other_names(call, model, tmp_path):
    path = tmp_path / "renamed.pth"
    obj = weighlock.load(model)
    weighlock.save({f"net.{key.replace('fc', 'head')}": value for key, value in obj.items()}, path)
    done = call("diff", model, path)
    assert done.code == 1
    assert "> fc.weight → net.head.weight" in done.out
    assert call("diff", model, path, "--strip-prefix-b", "net.", "--rename", "fc.*=head.*").code == 0
    for wrong in (("--rename", "fc"), ("--rename", "nothing=x"), ("--strip-prefix-a", "net.")):
        assert call("diff", model, path, *wrong).code == 2


def test_diff_without_values(call, model, other):
    done = call("diff", "--no-values", model, other, "-i", "fc.*")
    assert (done.code, done.out.splitlines()[-1]) == (0, "= 2 tensors of the same structure")


def test_what_diff_could_not_compare_is_exit_code_three(call, tmp_path):
    path = tmp_path / "huge.pth"
    weighlock.save({"huge": np.lib.stride_tricks.as_strided(np.zeros(1, "f4"), (1 << 40,), (0,))}, path)
    done = call("diff", path, path)
    assert done.code == 3
    assert "! huge" in done.out
    assert "too often" in done.err
    assert call("stats", path).code == 3
    assert call("digest", path).code == 2
    assert call("diff", path, "/no/such/file").code == 2


# ------------------------------------------------------------------------------------- files in, and results out


def test_files_from_a_list(call, model, other, tmp_path):
    listing = tmp_path / "names"
    listing.write_text(f"{model}\n{other}\r\n\n")
    for verb in ("inspect", "ls", "tree", "stats", "digest", "layout"):
        assert call(verb, "--files-from", listing) == call(verb, model, other)
    listing.write_text(f"{model}\0{other}\0")
    assert call("ls", "-0", "--files-from", listing) == call("ls", model, other)
    assert call("ls", "--files-from", tmp_path / "missing").code == 2
    done = subprocess.run([sys.executable, "-m", "weighlock", "ls", "--files-from", "-"], input=f"{model}\n",
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout == call("ls", model).out


def test_several_files_are_converted_into_a_folder(call, model, other, tmp_path):
    folder, listing = tmp_path / "out", tmp_path / "names"
    folder.mkdir()
    listing.write_text(f"{tmp_path / 'none.pt'}\n{other}\n")
    line = ("convert", model, folder, "--files-from", listing, "--to", "safetensors", "--exclude", "special")
    done = call(*line)
    assert done.code == 3, "one bad file stops no other"
    assert "there is no such file" in done.err
    assert done.out.count("read back and compared") == 2
    names = [Path(path).with_suffix(".safetensors").name for path in (model, other)]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    for path in (model, other):
        name = folder / Path(path).with_suffix(".safetensors").name
        assert call("diff", path, name, "--exclude", "special").code == 0
    assert call(*line).code == 2, "none is replaced without --force"
    done = call(*line, "--force", "--format", "jsonl")
    assert [entry.get("schema") for entry in lines(done)] == ["weighlock/convert", None, "weighlock/convert"]
    assert not violations(lines(done)[0], schema("convert"))


@pytest.mark.parametrize(("more", "word"), [
    (["--to", "npz", "--json"], "jsonl"),
    ([], "--to safetensors"),
    (["same/a.pt", "--to", "npz"], "one name"),
])  # fmt: skip
def test_several_files_that_are_not_converted(call, tmp_path, more, word):
    folder = tmp_path / "out"
    folder.mkdir()
    done = call("convert", "a.pth.tar", "b.pt", *more, folder)
    assert done.code == 2
    assert word in done.out + done.err
    assert not list(folder.iterdir())


def test_several_files_and_no_folder(call, model, other, tmp_path):
    done = call("convert", model, other, tmp_path / "none", "--to", "npz")
    assert done.code == 2
    assert "this is none" in done.err


def test_inspect_counts_what_is_chosen(call, tmp_path):
    path, weight = tmp_path / "m.pt", np.ones((4, 2), "f4")
    tensors = {"head": weight, "layer": {"w": weight, "again": weight[:], "h": np.ones(3, "f2")}, "epoch": 3}
    weighlock.save(tensors, path)
    found = document(call("inspect", path, "--include", "layer.*", "-x", "**.h", "--json"), "inspect")["inputs"][0]
    assert [row["key"] for row in found["tensors"]] == ["layer.w", "layer.again"]
    assert found["totals"]["parameters"] == 8, "an alias of a tensor that is left out counts"
    assert found["dtypes"] == [{"dtype": "float32", "tensors": 1, "parameters": 8, "bytes": 32}]
    assert found["sharing"]["aliases"] == [[1, 2]]
    assert [row["tensors"] for row in found["storages"]] == [[1, 2]]
    text = call("inspect", path, "-i", "layer.again").out
    assert "layer.again" in text
    assert "layer.w" not in text
    assert "epoch=3" in text, "what is no tensor is that of the whole file"
    done = call("inspect", path, "--include", "nothing")
    assert (done.code, "no key matches" in done.err) == (1, True)


@pytest.mark.parametrize("verb", ["inspect", "ls", "tree", "stats", "digest", "layout"])
def test_standard_input_is_a_file_too(model, verb):
    for piped in (True, False):
        with open(model, "rb") as file:
            command = [sys.executable, "-m", "weighlock", verb, "-"]
            if piped:
                done = subprocess.run(command, capture_output=True, check=False, input=file.read())
            else:
                done = subprocess.run(command, capture_output=True, check=False, stdin=file)
        assert done.returncode == 0, done.stderr
        expected = process(verb, model).stdout.replace(str(model), "-")
        assert done.stdout.decode().replace("<stdin>", "-") == expected


def test_standard_input_is_read_once(call):
    assert "only once" in call("ls", "-", "-").err
    assert "only once" in call("diff", "-", "-").err


def test_results_are_written_whole_or_not_at_all(call, model, broken_file, tmp_path):
    target = tmp_path / "out.txt"
    assert call("ls", model, "-o", target) == Done(0, "", "")
    assert target.read_text() == call("ls", model).out
    done = call("ls", model, "-o", target)
    assert done.code == 2
    assert "--force" in done.err
    assert call("stats", model, "-o", target, "--force", "--json").code == 0
    assert violations(json.loads(target.read_text()), schema("stats")) == []
    before = target.read_bytes()
    assert call("diff", model, broken_file, "-o", target, "--force").code == 2
    assert target.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir() if "tmp" in path.name) == []


def test_a_result_never_replaces_its_input(call, model):
    before = model.read_bytes()
    for line in (("ls", model), ("diff", model, model), ("show", model, "fc.bias")):
        done = call(*line, "-o", model, "--force")
        assert done.code == 2
        assert "over the input" in done.err
    assert model.read_bytes() == before


def test_a_dry_run_writes_nothing(call, model, tmp_path):
    for name in ("x.txt", "x.npy"):
        done = call("show", model, "fc.bias", "-o", tmp_path / name, "--dry-run")
        assert (done.code, done.out) == (0, "")
        assert done.err.startswith(f"weighlock: would write {tmp_path / name}, ")
        assert not (tmp_path / name).exists()


@pytest.fixture
def broken_file(tmp_path) -> Path:
    path = tmp_path / "page.html"
    path.write_text("<html></html>")
    return path


def test_show_saves_arrays(call, model, tmp_path):
    target = tmp_path / "x.npy"
    assert call("show", model, "fc.weight[1, ::-2]", "-o", target) == Done(0, "", "")
    np.testing.assert_array_equal(np.load(target), [5.0, 3.0])
    assert call("show", model, "fc.weight", "-o", target).code == 2
    assert call("show", model, "fc.weight", "-o", target, "--force", "--dtype", "float16").code == 0
    assert np.load(target).dtype == np.float16
    assert "only tensors" in call("show", model, "epoch", "-o", tmp_path / "y.npy").err
    assert call("show", model, "fc.weight", "--dtype", "float16").code == 2


def test_show_refuses_types_that_npy_would_lose(call, tmp_path):
    import ml_dtypes

    path = tmp_path / "b.pth"
    weighlock.save({"w": np.ones(2, ml_dtypes.bfloat16)}, path)
    done = call("show", path, "w", "-o", tmp_path / "w.npy")
    assert done.code == 2
    assert "--dtype float32" in done.err
    assert call("show", path, "w", "-o", tmp_path / "w.npy", "--dtype", "float32").code == 0


def test_show_as_csv(call, model):
    assert call("show", model, "fc.weight", "-f", "csv").out == "0.0,1.0,2.0\r\n3.0,4.0,5.0\r\n"
    assert call("show", model, "log", "-f", "tsv").out.startswith("0\tfloat\t0.5")


# ------------------------------------------------------------------------------------------------------- formats


def allowed(verb: str) -> set[str]:
    option = next((o for o in application.commands[verb].params if o.name == "form"), None)
    return set(option.type.choices) if option is not None else {"text"}  # type: ignore[attr-defined]


VERBS = ("inspect", "ls", "tree", "stats", "digest", "layout", "diff", "show")


def line_of(verb: str, path: object, key: str = "fc.bias") -> list[object]:
    return [verb, path, *([path] if verb == "diff" else [key] if verb == "show" else [])]


@pytest.mark.parametrize("verb", VERBS)
def test_formats_that_a_command_does_not_have_are_refused(call, model, verb):
    for form in ("html", "sarif", "yaml", *(FORMATS if verb != "tree" else ())):
        assert (call(*line_of(verb, model), "-f", form).code == 0) is (form in allowed(verb)), form
    assert allowed("ls") == allowed("stats") == allowed("diff") == set(FORMATS)


@pytest.mark.parametrize("verb", ["ls", "stats", "layout", "diff", "digest"])
def test_markdown_is_a_table(call, model, other, verb):
    done = call(verb, model, *([other] if verb == "diff" else []), "-f", "markdown")
    rows = done.out.splitlines()
    assert set(rows[1]) <= set("|- ")
    assert {row.count(" | ") for row in rows} == {rows[0].count(" | ")}


# ------------------------------------------------------------------------------------------------- hostile names


@pytest.fixture
def two_hostile(tmp_path, hostile) -> tuple[Path, Path]:
    obj = weighlock.load(hostile)
    changed = {key: value * 2 if isinstance(value, np.ndarray) else "\x1b]0;y\x07" for key, value in obj.items()}
    path = tmp_path / "b\x1b[31m.pth"
    weighlock.save({**changed, "only\x1b[2J": np.ones(1), "x\u202e": "\x9b31m"}, path)
    return hostile, path


def checked(done: Done, form: str) -> None:
    """Nothing acts on a terminal; rows are rows; JSON is JSON."""
    shown = done.out.replace("\r\n", "\n") if form == "csv" else done.out
    shown = shown.replace("\t", " ") if form == "tsv" else shown
    assert not UNSAFE.search(shown), UNSAFE.search(shown)
    assert not UNSAFE.search(done.err)
    if form in ("json", "jsonl"):
        lines(done)
    if form == "csv":
        rows = list(csv.reader(io.StringIO(done.out)))
        assert len({len(row) for row in rows}) <= 1
        assert not any(cell[:1] in "=+@" for row in rows for cell in row if cell and not cell[1:2].isdigit())
    if form == "tsv":
        assert len({line.count("\t") for line in done.out.splitlines()}) <= 1


@pytest.mark.parametrize("truncate", [(), ("--no-truncate",)], ids=["short", "whole"])
@pytest.mark.parametrize(("verb", "form"), [(verb, form) for verb in VERBS for form in FORMATS])
def test_hostile_names_through_every_command_and_format(call, two_hostile, verb, form, truncate):
    if form not in allowed(verb):
        return
    one, two = two_hostile
    how = [] if verb == "tree" else ["-f", form]
    extra = ["--tensors"] if verb == "digest" else ["--hist"] if verb == "stats" else []
    for name in HOSTILE if verb == "show" else [""]:
        key = json.dumps([name])
        line = ["diff", one, two] if verb == "diff" else line_of(verb, two, key)
        done = call(*line, *how, *extra, *truncate)
        assert done.code == (verb == "diff"), done.err
        checked(done, form)
    if verb in ("ls", "stats", "diff") and form == "markdown":
        rows = done.out.splitlines()
        plain = [re.sub(r"(`+)( ?).*?\2\1(?!`)", "", row) for row in rows[2:]]
        assert not any(mark in row for row in plain for mark in ("[", "<", "*", "_", "\\"))


def test_lone_surrogates_in_the_new_commands(call, tmp_path):
    path = tmp_path / "lone.pth"
    path.write_bytes(pickle.dumps({LONE: 1, "a": LONE}, protocol=2))
    for verb in ("digest", "layout", "stats"):
        for form in FORMATS:
            done = call(verb, path, "-f", form)
            assert done.code == 0
            checked(done, form)
    changed = tmp_path / "b.pth"
    changed.write_bytes(pickle.dumps({LONE: 2}, protocol=2))
    for form in FORMATS:
        checked(call("diff", path, changed, "-f", form), form)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("a|b", "`a\\|b`"), ("`", "`` ` ``"), ("``x", "``` ``x ```"), ("@you", "`@you`"), ("www.x.y", "`www.x.y`"),
        ("<b>", "`<b>`"), ("__init__", "`__init__`"), ("fc.0", "fc.0"), (" a", "` a`"),
    ],
)  # fmt: skip
def test_markdown_cells(text, cell):
    assert markdown_cell(text).replace("`  a `", "` a`") == cell


# ------------------------------------------------------------------------------------------------------- schemas


def test_schemas_are_printed(call):
    assert call("schema").out.split() == sorted(path.stem for path in SCHEMAS.glob("*.json"))
    for name in call("schema").out.split():
        assert (
            json.loads(call("schema", name).out) == schema(name) == json.loads(call("schema", f"weighlock/{name}").out)
        )
    for wrong in ("nothing", "../ls", ""):
        assert call("schema", wrong).code == 2


# ---------------------------------------------------------------------------------------------------- completion


def completed(call, *words: object) -> list[str]:
    done = call("__complete", *words)
    assert (done.code, done.err) == (0, "")
    return done.out.splitlines()


def test_commands_options_and_values_are_completed(call, model):
    assert completed(call, "st") == ["stats"]
    assert completed(call, "diff", "--strip") == ["--strip-prefix-a", "--strip-prefix-b"]
    assert completed(call, "ls", "--format", "js") == ["json", "jsonl"]
    assert completed(call, "completion", "") == ["bash", "zsh", "fish"]
    assert completed(call, "git", "un") == ["uninstall"]
    assert completed(call, "schema", "lay") == ["layout"]
    assert completed(call, "ls", "") == []
    assert completed(call, "show", "/no/such/file", "") == []


def test_names_of_tensors_are_completed(call, model, hostile, tmp_path):
    assert completed(call, "show", model, "fc.") == ["fc.weight", "fc.bias"]
    assert completed(call, "ls", model, "--include", "sp") == ["special"]
    assert completed(call, "show", "--color", "never", model, "ti") == ["tied"]
    assert completed(call, "show", hostile, "") == ["+1", "@sum", "k" * 10_000, "."]
    many = tmp_path / "many.pth"
    weighlock.save({f"a.{n}.w": np.zeros(1) for n in range(100)}, many)
    assert len(completed(call, "show", many, "a.9")) == 11
    assert completed(call, "show", many, "")[:1] == ["a."]


def test_the_table_of_options_is_that_of_the_grammar():
    for verb, options in completing.OPTIONS.items():
        command = application.commands[verb]
        expected = {text for option in command.params for text in (*option.opts, *option.secondary_opts)
                    if text.startswith("--")} | {"--help"}  # fmt: skip
        assert set(options) == expected, verb
        for option in command.params:
            if isinstance(option.type, click.Choice):
                for text in option.opts:
                    assert list(completing._choices(verb, text)) == list(option.type.choices), (verb, text)
    takes = {text for verb in completing.OPTIONS for option in application.commands[verb].params
             if option.param_type_name == "option" and not option.is_flag and not option.count  # type: ignore[attr-defined]
             for text in option.opts}  # fmt: skip
    assert {text for text in takes if not text.startswith("--no-")} == completing._WITH_VALUES
    for verb, names in completing._SUBCOMMANDS.items():
        if verb != "completion":
            assert set(names) == set(application.commands[verb].commands), verb  # type: ignore[attr-defined]


def test_env_tells_what_it_runs_on_and_no_secrets(call, monkeypatch):
    monkeypatch.setenv("WEIGHLOCK_HUB_MIRRORS", "https://someone:hunter2@mirror.example/{name}.zip")
    monkeypatch.setenv("WEIGHLOCK_HUB_TOKEN", "hunter2")
    text = call("env").out
    assert ["numpy", np.__version__] in [line.split() for line in text.splitlines()]
    assert "https://mirror.example/{name}.zip" in text
    document = json.loads(call("env", "--json").out)
    assert violations(document, schema("env")) == []
    assert document["packages"]["ml_dtypes"]
    assert document["variables"]["WEIGHLOCK_HUB_TOKEN"] == "(set)"
    assert "hunter2" not in text + json.dumps(document)


def test_debug_says_where_an_error_arose(call, monkeypatch):
    assert call("ls", "nothing.pt").err.startswith("weighlock: there is no such file")
    for arguments in (("--debug", "ls", "nothing.pt"), ("ls", "nothing.pt", "--debug"), ("nothing.pt", "--debug")):
        found = call(*arguments)
        assert found.code == 2
        assert found.err.startswith("Traceback")
        assert "open_source" in found.err
        assert "weighlock: there is no such file" in found.err
    assert "--debug" in call("ls", "--", "--debug").err, "behind -- everything is a file"
    monkeypatch.setenv("WEIGHLOCK_DEBUG", "1")
    assert call("ls", "nothing.pt").err.startswith("Traceback")


def test_completion_needs_no_click(model):
    command = [sys.executable, "-c", IMPORTED, "__complete", "show", str(model), "f"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("fc.weight\nfc.bias\n", "\n")


@pytest.fixture
def commands(tmp_path) -> dict[str, str]:
    """The environment of a shell that finds the command."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "weighlock").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m weighlock "$@"\n')
    (folder / "weighlock").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {**kept, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path), "XDG_CONFIG_HOME": ""}


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_script_for_bash_works(model, commands):
    script = """
        eval "$(weighlock completion bash)"
        COMP_WORDS=(weighlock show "$1" fc.); COMP_CWORD=3
        _weighlock
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    command = ["bash", "-c", script, "x", str(model)]
    done = subprocess.run(command, capture_output=True, text=True, env=commands, check=True)
    assert done.stdout.split() == ["fc.weight", "fc.bias"]


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_the_script_for_fish_works(model, commands):
    script = "weighlock completion fish | source; complete -C $argv[1]"
    for line, expected in ((f"weighlock show {model} fc.", ["fc.bias", "fc.weight"]), ("weighlock sho", ["show"])):
        done = subprocess.run(
            ["fish", "--no-config", "-c", script, line], capture_output=True, text=True, env=commands, check=True
        )
        assert sorted(done.stdout.split()) == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_scripts_are_understood(call, shell, tmp_path):
    text = call("completion", shell).out
    assert "__complete" in text
    if shutil.which(shell):
        path = tmp_path / "script"
        path.write_text(text)
        subprocess.run([shell, "-n", str(path)], check=True)


# ----------------------------------------------------------------------------------------------------------- git


def git(*arguments: str, env, cwd) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, env=env, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def repository(tmp_path, model, commands):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path / "repository"
    folder.mkdir()
    env = {**commands, "GIT_AUTHOR_NAME": "n", "GIT_AUTHOR_EMAIL": "e", "GIT_COMMITTER_NAME": "n",
           "GIT_COMMITTER_EMAIL": "e", "GIT_CONFIG_NOSYSTEM": "1", "GIT_PAGER": "cat"}  # fmt: skip
    git("init", "-q", env=env, cwd=folder)
    shutil.copy(model, folder / "model.pth")
    git("add", ".", env=env, cwd=folder)
    git("commit", "-qm", "one", env=env, cwd=folder)
    return folder, env


def weighlock_git(*arguments: str, env, cwd) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["weighlock", "git", *arguments], capture_output=True, text=True, env=env, cwd=cwd, check=False
    )


@pytest.mark.parametrize("where", [(), ("--shared",), ("--global",)])
def test_git_shows_differences_of_checkpoints(repository, other, where):
    folder, env = repository
    before = (folder / ".git" / "config").read_text()
    dry = weighlock_git("install", *where, "--dry-run", env=env, cwd=folder)
    assert (dry.returncode, (folder / ".git" / "config").read_text()) == (0, before)
    done = weighlock_git("install", *where, env=env, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert weighlock_git("install", *where, env=env, cwd=folder).returncode == 0  # once more changes nothing
    shutil.copy(other, folder / "model.pth")
    shutil.copy(other, folder / "new\x1b[31m.pth")
    git("add", "-N", ".", env=env, cwd=folder)
    text = git("diff", env=env, cwd=folder)
    assert "diff --weighlock a/model.pth b/model.pth" in text
    assert "~ fc.bias  float32 [2]  1 of 2 differ" in text
    assert "new file: 4 tensors" in text
    assert "\x1b" not in text
    log = git("diff", "--no-ext-diff", "model.pth", env=env, cwd=folder)
    assert re.search(r"^-fc\.bias  float32 \[2\]  [0-9a-f]{64}$", log, re.MULTILINE)
    assert re.search(r"^\+epoch = 4$", log, re.MULTILINE)
    assert weighlock_git("uninstall", *where, env=env, cwd=folder).returncode == 0
    assert "Binary files" in git("diff", "model.pth", env=env, cwd=folder)
    assert (folder / ".git" / "config").read_text() == before
    assert not (folder / ".gitattributes").exists()
    assert weighlock_git("uninstall", *where, env=env, cwd=folder).returncode == 1


def test_git_install_keeps_what_was_there(repository):
    folder, env = repository
    attributes = folder / ".git" / "info" / "attributes"
    attributes.parent.mkdir(exist_ok=True)
    attributes.write_text("*.png binary\n")
    assert weighlock_git("install", "*.bin", env=env, cwd=folder).returncode == 0
    assert "*.bin diff=weighlock" in attributes.read_text()
    assert weighlock_git("uninstall", env=env, cwd=folder).returncode == 0
    assert attributes.read_text() == "*.png binary\n"
    git("config", "diff.weighlock.command", "mine", env=env, cwd=folder)
    refused = weighlock_git("install", env=env, cwd=folder)
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    assert weighlock_git("install", "--force", env=env, cwd=folder).returncode == 0
    assert weighlock_git("install", "two words", env=env, cwd=folder).returncode == 2
    assert weighlock_git("install", env=env, cwd=folder.parent).returncode == 2


def test_what_git_cannot_compare_is_said_and_no_failure(call, model, broken_file):
    done = call("git", "driver", "a.pth", model, "0", "0", broken_file, "0", "0")
    assert done.code == 0
    assert "not compared" in done.out
    text = call("git", "textconv", broken_file)
    assert (text.code, text.out.startswith("not a checkpoint")) == (0, True)
    assert call("git", "driver", "x").code == 2


# --------------------------------------------------------------------------------------------------------- a bar


def test_a_bar_is_for_terminals_and_goes_away(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setattr("weighlock.cli.progress._FIRST", 0)
    with Bar(100) as bar:
        bar(50)
    assert shown.getvalue() == ""
    monkeypatch.setattr(shown, "isatty", lambda: True)
    with Bar(100) as bar:
        bar(50)
    assert " 50%  50 B of 100 B" in shown.getvalue()
    assert shown.getvalue().endswith("\r\x1b[K")
    before = shown.getvalue()
    with Bar(100, shown=False) as bar:
        bar(50)
    assert shown.getvalue() == before


@pytest.mark.skipif(os.name != "posix", reason="there are no such terminals elsewhere")
def test_colours_on_a_terminal(model, other):
    leader, follower = pty.openpty()
    env = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    env["TERM"] = "xterm"
    command = [sys.executable, "-m", "weighlock", "diff", str(model), str(other)]
    done = subprocess.run(command, stdout=follower, stderr=subprocess.PIPE, check=False, env=env)
    os.close(follower)
    shown = os.read(leader, 1 << 16)
    os.close(leader)
    assert done.returncode == 1
    assert b"\x1b[31m- \x1b[0m" in shown


# ------------------------------------------------------------------------------------------------------- imports

IMPORTED = """
import sys
from weighlock.cli import run
code = run(sys.argv[1:])
print(*sorted(name for name in ("numpy", "torch", "ml_dtypes", "rich", "click", "urllib3", "fsspec", "tqdm")
              if name in sys.modules), file=sys.stderr)
raise SystemExit(code)
"""


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        (("layout", "FILE"), set()), (("tree", "FILE", "-i", "fc.*"), {"click"}), (("FILE", "-f", "jsonl"), {"click"}),
        (("ls", "FILE", "-f", "markdown"), {"click"}), (("digest", "FILE"), set()),
        (("diff", "FILE", "FILE"), {"numpy"}), (("stats", "FILE"), {"numpy", "ml_dtypes"}),
    ],
)  # fmt: skip
def test_what_a_command_imports(model, line, allowed):
    arguments = [str(model) if argument == "FILE" else argument for argument in line]
    done = subprocess.run([sys.executable, "-c", IMPORTED, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stderr.split()) <= allowed


def test_addresses_are_files_too(call, model, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "WEIGHLOCK_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", os.devnull)
    with RangeServer(model=model.read_bytes()) as server:
        address = f"{server.url}/model"
        assert call("ls", address).out == call("ls", model).out
        assert call("diff", model, address).code == 0
        assert call("stats", address, "-f", "tsv").out == call("stats", model, "-f", "tsv").out
        assert call("show", address, "fc.bias").out == call("show", model, "fc.bias").out
        before = len(server.requests)
        assert completed(call, "show", address, "fc.") == []
        assert len(server.requests) == before


# ------------------------------------------------------------------------------------------------ convert and edit


def test_convert_says_what_it_wrote(call, model, tmp_path):
    target = tmp_path / "x.safetensors"
    done = call("convert", model, target)
    assert (done.code, done.err) == (0, "")
    assert re.match(
        rf"wrote +{re.escape(str(target))} +safetensors · .* · 4 tensors · read back and compared\n", done.out
    )
    assert weighlock.digest(target) == weighlock.digest(model)
    back = tmp_path / "back.pt"
    assert call("convert", target, back, "-q") == Done(0, "", "")
    assert weighlock.digest(back) == weighlock.digest(model)


def test_convert_refuses_to_overwrite(call, model, tmp_path):
    target = tmp_path / "x.pt"
    target.write_bytes(b"mine")
    done = call("convert", model, target)
    assert (done.code, done.out) == (2, "")
    assert "--force" in done.err
    assert call("convert", model, target, "--json").code == 2
    assert call("edit", model, model, "--drop", "epoch").code == 2
    assert target.read_bytes() == b"mine"
    assert call("convert", model, target, "--force", "-q").code == 0
    assert call("edit", model, model, "--drop", "epoch", "--force", "-q").code == 0
    assert "epoch" not in weighlock.load(model)


def test_a_dry_run_of_a_conversion(call, model, tmp_path):
    before = sorted(os.listdir(tmp_path))
    done = call("convert", model, tmp_path / "x.npz", "--take", "tensors", "--dry-run")
    assert done.out.startswith("would write")
    done = call("edit", model, tmp_path / "x.pth", "--rename", "fc.*=head.*", "--dry-run", "--json")
    found = document(done, "edit")
    assert found["written"] is found["verified"] is False
    assert {"from": "fc.weight", "to": "head.weight"} in found["renamed"]
    assert sorted(os.listdir(tmp_path)) == before


def test_convert_as_json(call, model, tmp_path):
    obj = weighlock.load(model)
    obj["tied"] = obj["fc.weight"]
    weighlock.save(obj, model)
    line = (
        "convert",
        model,
        tmp_path / "x.safetensors",
        "--dtype",
        "float16",
        "-x",
        "epoch",
        "--metadata",
        "a=b",
        "--json",
    )
    found = document(call(*line), "convert")
    assert found["aliases"] == {"tied": "fc.weight"}
    assert {"key": "fc.weight", "from": "float32", "to": "float16"} in found["cast"]
    assert found["left_out"] == ["epoch"]
    assert (found["written"], found["verified"], found["target"]["format"]) == (True, True, "safetensors")
    assert found["nbytes"] == (tmp_path / "x.safetensors").stat().st_size
    with weighlock.open_checkpoint(tmp_path / "x.safetensors") as ckpt:
        assert ckpt.metadata["metadata"]["a"] == "b"


def test_convert_in_other_forms(call, model, tmp_path):
    assert call("convert", model, tmp_path / "x", "--to", "torch-legacy", "--no-verify", "--durable", "-q").code == 0
    with weighlock.read_checkpoint(tmp_path / "x") as checkpoint:
        assert checkpoint.format == "torch-legacy"
    line = ("convert", model, tmp_path / "m.safetensors", "--take", "tensors", "--max-shard-size", "20", "--json")
    found = document(call(*line), "convert")
    assert found["files"][-1].endswith("m.safetensors.index.json")
    assert call("convert", model, tmp_path / "no.format").code == 2
    assert call("convert", model, tmp_path / "x.pt", "--to", "gguf").code == 2
    assert call("convert", model, tmp_path / "x.pt", "--metadata", "a=b").code == 2
    assert call("convert", model).code == 2
    command = [sys.executable, "-m", "weighlock", "convert", "-", tmp_path / "piped.pt", "-q"]
    subprocess.run(command, input=model.read_bytes(), check=True)
    assert weighlock.digest(tmp_path / "piped.pt") == weighlock.digest(model)


def test_edit_changes_names_types_and_tensors(call, model, tmp_path):
    np.save(tmp_path / "b.npy", np.array([7, 8], "f4"))
    done = call(
        "edit", model, tmp_path / "x.pt", "--drop", "special", "--strip-prefix", "fc.", "--cast", "float16:fc.weight",
        "--replace", f"fc.bias={tmp_path / 'b.npy'}", "--add-prefix", "net.", "--rename", "weight=w",
    )  # fmt: skip
    assert done.code == 0, done.err
    made = weighlock.load(tmp_path / "x.pt")
    assert made["net.w"].dtype == "f2"
    assert made["net.bias"].tolist() == [7, 8]
    assert "special" not in made
    for line in ("fc.weight → net.w", "2 \N{MULTIPLICATION SIGN} float32 → float16", "fc.bias", "special"):
        assert line in done.out
    assert call("edit", model, tmp_path / "k.pt", "--keep", "fc.*", "-q").code == 0
    assert sorted(weighlock.load(tmp_path / "k.pt")) == ["fc.bias", "fc.weight"]
    for wrong in (
        ("--rename", "fc"), ("--replace", "fc.bias"), ("--replace", f"fc.bias={model}"), ("--drop", "nothing"),
        ("--cast", "float16", "--cast", "float32:fc.*"), ("--within", "nothing"), ("--cast", "nothing"),
    ):  # fmt: skip
        assert call("edit", model, tmp_path / "y.pt", *wrong).code == 2
    assert not (tmp_path / "y.pt").exists()


def test_the_report_goes_to_a_file(call, model, tmp_path):
    report = tmp_path / "report.json"
    assert call("convert", model, tmp_path / "x.pt", "--json", "-o", report) == Done(0, "", "")
    assert not violations(json.loads(report.read_text()), schema("convert"))
    assert call("convert", model, tmp_path / "y.pt", "-o", report).code == 2
    assert not (tmp_path / "y.pt").exists()


@pytest.mark.parametrize("form", ["text", "json"])
def test_hostile_names_in_reports(call, two_hostile, tmp_path, form):
    for number, line in enumerate((
        ("convert", two_hostile[1], tmp_path / "\x1b[31m.safetensors"),
        ("convert", two_hostile[1], tmp_path / "x.npz", "--take", "tensors"),
        ("edit", two_hostile[1], tmp_path / "y.pt", "--add-prefix", "\x1b[2J.", "--cast", "float16"),
        ("edit", two_hostile[1], tmp_path / "z.pt", "--drop", "\x1b[2J*"),
    )):  # fmt: skip
        for extra in ((), ("--no-truncate",)):
            done = call(*line, "-f", form, "--force", *extra)
            assert done.code == (0, 0, 0, 2)[number] or "zip archive cannot have" in done.out + done.err
            checked(done, form)


def test_the_lists_of_the_grammar_are_those_of_the_library():
    from weighlock.cli import common
    from weighlock.converting.conversion import TAKEN
    from weighlock.converting.writing import ALIASES
    from weighlock.saving import WRITTEN_FORMATS

    assert (common.TAKEN, common.ALIASES, common.WRITTEN_FORMATS) == (TAKEN, ALIASES, WRITTEN_FORMATS)


def test_names_of_tensors_are_completed_for_an_edit(capsys, model):
    def found(*words: str) -> list[str]:
        completing.complete(words)
        return capsys.readouterr().out.split()

    assert found("edit", str(model), "x.pt", "--drop", "fc.") == ["fc.weight", "fc.bias"]
    assert found("edit", str(model), "--replace", "fc.b") == ["fc.bias"]
    assert found("convert", str(model), "--include", "fc.w") == ["fc.weight"]
    assert found("convert", str(model), "--take", "s") == ["state_dict"]
    assert found("convert", "--to", "torch-") == ["torch-zip", "torch-legacy"]
    assert "bfloat16" in found("convert", "--dtype", "b")


@pytest.mark.skipif(os.name != "posix", reason="no terminals of this kind")
def test_a_bar_on_a_terminal(tmp_path):
    weighlock.save({f"w{n}": np.zeros(9_000_000) for n in range(8)}, tmp_path / "a.pt")
    script = (
        "import weighlock.cli.progress as p, sys; p._FIRST = 0.0; p._EVERY = 0.0\n"
        "from weighlock.cli import run; sys.exit(run(sys.argv[1:]))"
    )
    parent, child = pty.openpty()
    command = [sys.executable, "-c", script, "convert", str(tmp_path / "a.pt"), str(tmp_path / "b.pt")]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=child)
    os.close(child)
    shown = b""
    while True:
        try:
            piece = os.read(parent, 1 << 16)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(parent)
    assert running.wait() == 0
    assert "█".encode() in shown
    assert b"100%" in shown
    assert shown.endswith(b"\r\x1b[K")
