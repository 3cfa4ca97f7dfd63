"""Verify and manifest: every damage is found and named, nothing that is whole is blamed, exit codes, documents."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import weighlock as wl
from tests.corpus.benign import BENIGN
from tests.damage import (
    OPERATIONS,
    PLAIN,
    damaged_by,
    flipped,
    interesting,
    regions,
    saved,
    torch_model,
    torch_saved,
    zeroed,
)
from tests.range_server import RangeServer
from tests.schema_check import schema, violations
from weighlock.cli import run
from weighlock.errors import ArgumentError, PinError
from weighlock.scanning.rules import RULES
from weighlock.storages.connections import Connections

SMALL: dict[str, Any] = {"a": np.arange(10, dtype="f4"), "b": {"c": np.zeros(3, "i8")}, "epoch": 3}
ZIP = saved(SMALL)
BIG_ZIP = saved(PLAIN)
STREAM = saved(SMALL, _use_new_zipfile_serialization=False)
SAFETENSORS = saved({"a": SMALL["a"], "b": np.ones((4, 2), "f2")}, format="safetensors")
GOLDENS = Path(__file__).parent / "goldens"


def codes(data: Any, **options: Any) -> set[str]:
    report = wl.verify(data, **options)
    assert all(problem.code in RULES and problem.hint for problem in report.problems)
    return {problem.code for problem in report.problems}


# --------------------------------------------------------------------------------------------------- what is whole


def goldens() -> Iterator[Path]:
    for path in sorted(GOLDENS.rglob("*")):
        if path.is_file() and path.suffix in (".pt", ".pth", ".safetensors", ".gguf", ".npz", ".npy"):
            yield path


@pytest.mark.parametrize("path", list(goldens()), ids=lambda path: path.name)
def test_files_of_all_writers_are_sound(path):
    report = wl.verify(path)
    assert report.sound, report


@pytest.mark.parametrize("label", BENIGN)
def test_benign_files_have_no_problem(label):
    report = wl.verify(BENIGN[label]())
    # What lies behind the end is a remark of the corpus; verify says where.
    assert [problem for problem in report.problems if problem.code not in ("WL205", "WL302")] == []


@pytest.mark.parametrize("data", [ZIP, BIG_ZIP, STREAM, SAFETENSORS], ids=["zip", "big", "stream", "safetensors"])
def test_our_own_files_are_sound(data):
    report = wl.verify(data)
    assert report.sound
    found = report.files[0]
    assert found.checked or found.unchecked
    assert found.tensors >= 2


@pytest.mark.requires_torch
@pytest.mark.parametrize("zipped", [True, False])
def test_torchs_own_files_are_sound(torch, zipped):
    model = torch_model()
    model["q"] = torch.quantize_per_channel(torch.randn(4, 9), torch.rand(4) + 0.1, torch.zeros(4), 0, torch.qint8)
    model["csr"] = torch.eye(20).to_sparse_csr()
    model["nested"] = torch.nested.nested_tensor([torch.randn(3), torch.randn(5)], layout=torch.strided)
    if not zipped:
        del model["bfloat"]
    assert wl.verify(torch_saved(model, _use_new_zipfile_serialization=zipped)).sound


@pytest.mark.requires_torch
@pytest.mark.parametrize("alignment", [1, 64, 4096])
def test_files_of_torch_with_other_alignments_are_sound(torch, alignment):
    from torch.utils.serialization import config

    with config.patch("save.storage_alignment", alignment):
        data = torch_saved(torch_model())
    assert wl.verify(data).sound
    at = next(row for row in regions(data) if row[0] == "padding" and row[3] > 4)[2] if alignment > 1 else None
    if at is not None:
        assert codes(flipped(data, at + 4)) == {"WL601"}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archives_of_other_writers_are_sound(method):
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(BIG_ZIP)) as old, zipfile.ZipFile(file, "w", method) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    assert wl.verify(file.getvalue()).sound


def test_our_own_npz_is_sound(tmp_path):
    """Its padding is of zeros, where PyTorch's is of another byte."""
    wl.save({"a": np.ones(3), "b": np.ones(9)}, tmp_path / "own.npz", format="npz")
    assert wl.verify(tmp_path / "own.npz").sound
    data = bytearray((tmp_path / "own.npz").read_bytes())
    data[data.index(b"FB") + 9] ^= 1
    (tmp_path / "own.npz").write_bytes(data)
    assert not wl.verify(tmp_path / "own.npz").sound


def test_npz_and_npy(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.ones(5), b=np.zeros(3))
    np.savez_compressed(tmp_path / "b.npz", a=np.ones(5))
    np.save(tmp_path / "c.npy", np.ones(4))
    assert wl.verify(tmp_path).verdict == "sound"
    assert len(wl.verify(tmp_path).files) == 3
    data = (tmp_path / "b.npz").read_bytes()
    assert codes(flipped(data, data.index(b"a.npy") + 30)) & {"WL207", "WL211", "WL601", "WL206"}


# ------------------------------------------------------------------------------------------------ every damaged byte


@pytest.mark.parametrize("bit", [0, 5])
def test_every_flipped_bit_of_an_archive_is_found(bit):
    assert [at for at in range(len(ZIP)) if wl.verify(flipped(ZIP, at, bit)).verdict != "problems"] == []


@pytest.mark.requires_torch
def test_every_flipped_bit_of_torchs_archive_is_found(torch):
    data = torch_saved({"a": torch.arange(10.0), "b": {"c": torch.zeros(3)}, "epoch": 3})
    assert [at for at in range(len(data)) if wl.verify(flipped(data, at, at % 8)).verdict != "problems"] == []


@pytest.mark.parametrize("at", interesting(BIG_ZIP))
def test_a_flipped_bit_is_located(at):
    report = wl.verify(flipped(BIG_ZIP, at, 1))
    kind, name, start, size = next(row for row in regions(BIG_ZIP) if row[2] <= at < row[2] + row[3])
    assert report.problems
    if kind == "data":
        assert [(p.code, p.record, p.offset, p.length) for p in report.problems] == [("WL207", name, start, size)]
        assert report.problems[0].path
        assert report.problems[0].expected != report.problems[0].got
    elif kind in ("padding", "descriptor", "record", "pickle") and name:
        assert any(problem.record == name for problem in report.problems)
        assert any(problem.offset is not None and abs(problem.offset - at) <= size + 64 for problem in report.problems)


@pytest.mark.parametrize("end", interesting(BIG_ZIP)[1:])
def test_every_cut_is_found(end):
    report = wl.verify(BIG_ZIP[:end])
    assert report.verdict != "sound"
    if end > 30:
        assert report.verdict == "problems"
        assert "salvage" in report.problems[0].hint


@pytest.mark.parametrize("data", [BIG_ZIP, STREAM, SAFETENSORS], ids=["zip", "stream", "safetensors"])
def test_junk_in_front_and_behind_is_found(data):
    assert wl.verify(b"junk" + data).verdict != "sound"
    report = wl.verify(data + b"junk")
    assert report.verdict == "problems"
    if data is BIG_ZIP:
        assert (report.problems[0].code, report.problems[0].offset) == ("WL205", len(data))


@pytest.mark.parametrize("at", range(0, len(BIG_ZIP), 2903))
def test_holes_of_zeros_are_found(at):
    damaged = zeroed(BIG_ZIP, at, 4096)
    if damaged != BIG_ZIP:
        assert wl.verify(damaged).verdict == "problems"


@settings(deadline=None, max_examples=150)
@given(operations=OPERATIONS)
def test_whatever_happens_to_an_archive_is_found(operations):
    damaged = damaged_by(BIG_ZIP, operations)
    assert damaged == BIG_ZIP or wl.verify(damaged).verdict != "sound"


def test_translated_line_ends_are_named():
    found = codes(BIG_ZIP.replace(b"\n", b"\r\n"))
    assert "WL602" in found
    assert "WL602" not in codes(BIG_ZIP)


@pytest.mark.parametrize("end", interesting(STREAM)[2:])
def test_a_cut_stream_is_found(end):
    assert wl.verify(STREAM[:end]).verdict != "sound"


def test_several_streams_in_one_file():
    assert wl.verify(STREAM + STREAM).sound
    assert wl.verify(STREAM + STREAM[:-3]).verdict == "problems"
    assert codes(STREAM + b"\0\0") == {"WL302"}


@pytest.mark.parametrize("end", interesting(SAFETENSORS)[3:])
def test_a_cut_safetensors_file_is_found(end):
    assert wl.verify(SAFETENSORS[:end]).verdict != "sound"


def test_headers_of_safetensors_that_contradict_their_bytes():
    def made(header: dict[str, Any], data: bytes) -> bytes:
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data

    good = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    assert wl.verify(made({"a": good}, bytes(8))).sound
    assert codes(made({"a": good}, bytes(9)))
    assert codes(made({"a": good, "b": {**good, "data_offsets": [4, 12]}}, bytes(12)))
    assert codes(made({"a": good, "b": {**good, "data_offsets": [12, 20]}}, bytes(20)))
    assert codes(made({"a": {**good, "shape": [3]}}, bytes(8)))


def test_a_gap_between_records_is_found():
    """A writer that leaves room; nothing says what is in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in (("archive/data.pkl", b"\x80\x02}."), ("archive/version", b"3\n")):
            archive.writestr(name, data)
            file.seek(5, os.SEEK_CUR)
            archive.start_dir = file.tell()
    report = wl.verify(file.getvalue())
    assert ("WL601", 5) in {(problem.code, problem.length) for problem in report.problems}


# --------------------------------------------------------------------------------------------------- what tensors say


@pytest.mark.requires_torch
def test_sparse_indices_and_claims(torch):
    torch.sparse.check_sparse_tensor_invariants.disable()  # said aloud, it warns of nothing
    good = torch.sparse_coo_tensor(torch.tensor([[0, 1], [1, 0]]), torch.ones(2), (2, 2)).coalesce()
    assert wl.verify(torch_saved({"s": good})).sound
    twice = torch.sparse_coo_tensor(torch.tensor([[1, 1], [0, 0]]), torch.ones(2), (2, 2))
    assert wl.verify(torch_saved({"s": twice})).sound
    claimed = torch.sparse_coo_tensor(torch.tensor([[1, 1], [0, 0]]), torch.ones(2), (2, 2), is_coalesced=True,
                                      check_invariants=False)  # fmt: skip
    report = wl.verify(torch_saved({"s": claimed}))
    assert [(problem.code, problem.path) for problem in report.problems] == [("WL604", "s")]
    outside = torch_saved({"s": good}).replace((1).to_bytes(8, "little") + (1).to_bytes(8, "little"),
                                               (1).to_bytes(8, "little") + (9).to_bytes(8, "little"))  # fmt: skip
    assert codes(outside) >= {"WL403", "WL207"}


def test_quantization_parameters(monkeypatch):
    from weighlock.dtypes import DTYPES
    from weighlock.inspection.inventory import TensorRow
    from weighlock.inspection.leaves import describe
    from weighlock.tensors.spec import QuantizedSpec
    from weighlock.tensors.values import TorchName
    from weighlock.verifying.objects import check_rows
    from weighlock.verifying.report import Notebook

    scheme = TorchName("qscheme", "per_channel_affine")

    def found(scale: Any, zero_point: Any, axis: int | None) -> list[str]:
        spec = QuantizedSpec(None, DTYPES["qint8"], (4, 3), scheme, scale, zero_point, axis)
        notes = Notebook()
        monkeypatch.setattr("weighlock.inspection.leaves.describe", describe)
        check_rows([TensorRow(0, ("q",), None, None, None, None, spec)], notes)  # type: ignore[arg-type]
        return [problem.code for problem in notes.problems]

    assert found([1.0] * 4, [0] * 4, 0) == []
    assert found([1.0] * 3, [0] * 4, 0) == ["WL603"]
    assert found([1.0] * 4, [0] * 5, 0) == ["WL603"]
    assert found([1.0] * 4, [0] * 4, 2) == ["WL603"]
    assert found(0.5, 3, None) == []
    assert found("x", 3, None) == ["WL603"]


def test_offsets_of_nested_tensors():
    from weighlock.dtypes import DTYPES
    from weighlock.formats.extents import ExtentReader
    from weighlock.storages.refs import StorageRef
    from weighlock.storages.source import BytesSource
    from weighlock.tensors.spec import JaggedSpec, NestedSpec, TensorSpec
    from weighlock.verifying.objects import check_rows
    from weighlock.verifying.report import Notebook

    def numbers(*values: int, shape: tuple[int, ...] | None = None) -> TensorSpec:
        reader = ExtentReader(BytesSource(np.array(values, "i8").tobytes()))
        ref = StorageRef("0", DTYPES["int64"], len(values), "cpu", reader, "0", 0)
        shape = shape or (len(values),)
        return TensorSpec(ref, DTYPES["int64"], 0, shape, (shape[-1], 1)[-len(shape) :])

    def found(spec: Any) -> list[str]:
        from weighlock.inspection.inventory import TensorRow

        notes = Notebook()
        check_rows([TensorRow(0, ("n",), None, None, None, None, spec)], notes)  # type: ignore[arg-type]
        return [problem.code for problem in notes.problems]

    values = numbers(*range(8))
    assert found(JaggedSpec(values, numbers(0, 3, 8), None, 1, {})) == []
    assert found(JaggedSpec(values, numbers(0, 9, 8), None, 1, {})) == ["WL604"]
    assert found(JaggedSpec(values, numbers(0, 3, 9), None, 1, {})) == ["WL604"]
    assert found(NestedSpec(values, numbers(3, 5, shape=(2, 1)), None, None)) == []
    assert found(NestedSpec(values, numbers(3, 6, shape=(2, 1)), None, None)) == ["WL604"]
    assert found(NestedSpec(values, numbers(3, -5, shape=(2, 1)), None, None)) == ["WL604"]


def test_views_that_reach_outside():
    from tests.corpus.hostile import HOSTILE

    for name, case in HOSTILE.items():
        rules = {rule for one in case.rules for rule in one.split("|")}
        if rules & {"WL201", "WL202", "WL203", "WL204", "WL206", "WL207", "WL401", "WL402", "WL403"}:
            assert wl.verify(case.make()).verdict != "sound", name


# ------------------------------------------------------------------------------------------------------ sets of files


@pytest.fixture
def sharded(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    tensors = {f"t{n}": np.random.default_rng(n).random(500, "f4") for n in range(6)}
    wl.save(tensors, folder / "model.safetensors", format="safetensors", max_shard_size=4500)
    return folder


def test_a_sharded_set(sharded):
    report = wl.verify(sharded)
    assert report.sound
    assert {file.format for file in report.files} == {"safetensors", "sharded"}
    assert wl.verify(sharded / "model.safetensors.index.json").sound
    parts = sorted(path for path in sharded.iterdir() if path.suffix == ".safetensors")
    moved = parts[1].rename(parts[1].with_suffix(".gone"))
    report = wl.verify(sharded)
    assert ("WL605", "1 of the 3 files that the index names are missing") in {
        (problem.code, problem.message) for problem in report.problems
    }
    moved.rename(parts[1])
    index = sharded / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    document["weight_map"]["extra"] = parts[0].name
    index.write_text(json.dumps(document))
    assert "WL605" in {problem.code for problem in wl.verify(index).problems}


def test_a_sharded_set_of_zips(tmp_path):
    tensors = {f"t{n}": np.random.default_rng(n).random(500, "f4") for n in range(4)}
    wl.save(tensors, tmp_path / "pytorch_model.bin", max_shard_size=4500)
    assert wl.verify(tmp_path).sound
    index = tmp_path / "pytorch_model.bin.index.json"
    part = min(tmp_path.glob("*.bin"))
    data = part.read_bytes()
    at = next(row[2] for row in regions(data) if row[0] == "data")
    part.write_bytes(flipped(data, at))
    problem = wl.verify(index).problems[0]
    assert (problem.code, problem.record) == ("WL207", f"{part.name}/archive/data/0")


@pytest.mark.parametrize("name", ["dtensor", "fsdp", "hf"])
def test_distributed_checkpoints(name, tmp_path):
    import shutil

    source = GOLDENS / "dcp-torch-2.13.0" / name
    folder = shutil.copytree(source, tmp_path / name)
    report = wl.verify(folder)
    assert report.sound, report.problems
    for path in folder.glob("*.distcp"):
        assert wl.verify(path).sound
        data = path.read_bytes()
        at = data.index(b"/data/0") + 64
        path.write_bytes(flipped(data, at, 2))
        assert wl.verify(folder).verdict == "problems"
        assert wl.verify(path).verdict == "problems"
        path.write_bytes(data)


def test_folders_and_patterns_and_other_files(tmp_path):
    (tmp_path / "a.pt").write_bytes(ZIP)
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.pt").write_bytes(ZIP[:-50])
    report = wl.verify(tmp_path)
    assert [(os.path.basename(file.name), file.verdict) for file in report.files] == [
        ("a.pt", "sound"), ("b.pt", "problems"),
    ]  # fmt: skip
    assert len(wl.verify(str(tmp_path / "*.pt")).files) == 1
    assert wl.verify(tmp_path / "notes.txt").verdict == "not fully checked"
    assert wl.verify(tmp_path / "missing.pt").verdict == "not fully checked"
    assert [file.verdict for file in wl.verify([tmp_path / "sub", tmp_path / "a.pt"], jobs=3).files] == [
        "problems", "sound",
    ]  # fmt: skip
    with pytest.raises(ArgumentError, match="no file fits"):
        wl.verify(str(tmp_path / "*.nothing"))
    with pytest.raises(ArgumentError, match="nothing to verify"):
        wl.verify()


# ---------------------------------------------------------------------------------------------------------- manifests


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.pt").write_bytes(ZIP)
    (folder / "sub" / "b.safetensors").write_bytes(SAFETENSORS)
    (folder / "README.md").write_text("about")
    return folder


def test_a_manifest_names_what_differs(models):
    made = wl.manifest(models)
    assert [(file.name, file.format) for file in made.files] == [
        ("README.md", None), ("a.pt", "torch-zip"), ("sub/b.safetensors", "safetensors"),
    ]  # fmt: skip
    assert made == wl.manifest(models)
    assert violations(made.to_dict(), schema("manifest")) == []
    assert json.loads(made.to_json()) == json.loads(json.dumps(made.to_dict()))
    path = models / "manifest.json"
    path.write_text(made.to_json())
    assert wl.verify(models, manifest=path).sound
    assert wl.verify(manifest=path).sound
    assert wl.verify(models, manifest=made).verdict == "problems"  # it does not list itself
    path.unlink()
    (models / "a.pt").write_bytes(saved({**SMALL, "a": SMALL["a"] + 1, "new": np.ones(2)}))
    (models / "sub" / "b.safetensors").unlink()
    (models / "other.pt").write_bytes(saved({"x": np.zeros(9)}))
    found = {(problem.code, problem.path, problem.record) for problem in wl.verify(models, manifest=made).problems}
    assert found == {
        ("WL606", "a", None), ("WL608", "new", None), ("WL606", None, None), ("WL608", None, None),
        ("WL607", None, "sub/b.safetensors"),
    }  # fmt: skip


def test_one_file_and_a_manifest_of_many(models):
    made = wl.manifest(models)
    assert wl.verify(models / "a.pt", manifest=made).sound
    (models / "a.pt").rename(models / "renamed.pt")
    assert wl.verify(models / "renamed.pt", manifest=made).sound


def test_the_same_tensors_in_other_bytes(models):
    made = wl.manifest(models)
    (models / "a.pt").write_bytes(saved({"b": SMALL["b"], "a": SMALL["a"], "epoch": 4}))
    problem = wl.verify(models / "a.pt", manifest=made).problems[0]
    assert (problem.code, problem.severity) == ("WL606", "low")
    assert "the values of its tensors are the same" in problem.message


def test_types_shapes_and_missing_tensors(models):
    made = wl.manifest(models)
    (models / "a.pt").write_bytes(saved({"a": SMALL["a"].reshape(2, 5)}))
    found = {(problem.code, problem.path) for problem in wl.verify(models / "a.pt", manifest=made).problems}
    assert found >= {("WL606", "a"), ("WL607", "b.c")}


def test_manifests_that_are_none(tmp_path):
    for text in ("{}", "[]", "nonsense", '{"schema": "other", "schema_version": 1}',
                 '{"schema": "weighlock/manifest", "schema_version": 9, "files": []}',
                 '{"schema": "weighlock/manifest", "schema_version": 1, "files": [{"name": "a"}]}'):  # fmt: skip
        (tmp_path / "m.json").write_text(text)
        with pytest.raises(ArgumentError):
            wl.verify(tmp_path, manifest=tmp_path / "m.json")


def test_a_manifest_never_leads_out_of_its_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.pt").write_bytes(ZIP)
    row = {"name": "../secret.pt", "size": 1, "sha256": "0" * 64, "format": None, "tensors": []}
    document = {"schema": "weighlock/manifest", "schema_version": 1, "files": [row]}
    (tmp_path / "in" / "m.json").write_text(json.dumps(document))
    report = wl.verify(manifest=tmp_path / "in" / "m.json")
    assert [problem.code for problem in report.problems] == ["WL607"]
    assert not any("secret" in file.name for file in report.files)


def test_two_files_of_one_name_need_a_folder(models):
    (models / "sub" / "a.pt").write_bytes(ZIP)
    with pytest.raises(ArgumentError, match="one name"):
        wl.manifest([models / "a.pt", models / "sub" / "a.pt"])
    assert len(wl.manifest(models).files) == 4


# ---------------------------------------------------------------------------------------------------------- lock files


def test_a_lock_file(tmp_path):
    import hashlib

    from weighlock.hub.lock_file import LockFile, WeightsPin, write_lock_file

    (tmp_path / "net-1.pt").write_bytes(ZIP)
    pin = WeightsPin(("https://host/x/net-1.pt?download=1",), len(ZIP), hashlib.sha256(ZIP).hexdigest())
    path = tmp_path / "weighlock.lock"
    write_lock_file(LockFile((), (pin,)), str(path))
    assert wl.verify(tmp_path / "net-1.pt", lock=path).sound
    (tmp_path / "net-1.pt").write_bytes(BIG_ZIP)
    problem = wl.verify(tmp_path / "net-1.pt", lock=path).problems[0]
    assert (problem.code, problem.message) == ("WL609", "the file is not the one that is locked")
    (tmp_path / "other.pt").write_bytes(BIG_ZIP)
    assert wl.verify(tmp_path / "other.pt", lock=path).problems[0].message == "the file is not in the lock file"
    with pytest.raises(PinError):
        wl.verify(tmp_path / "net-1.pt", lock=tmp_path / "no.lock")


def test_every_integrity_rule_is_found_by_a_test():
    text = Path(__file__).read_text(encoding="utf-8")
    assert {rule for rule in RULES if rule.startswith("WL6") and f'"{rule}"' not in text} == set()


# --------------------------------------------------------------------------------------------------------- addresses


@pytest.fixture
def server(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "WEIGHLOCK_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/dev/null")
    monkeypatch.setattr(Connections, "wait", lambda _self, _attempt, seconds=None: None)
    damaged = flipped(BIG_ZIP, next(row[2] for row in regions(BIG_ZIP) if row[0] == "data"))
    with RangeServer(good=BIG_ZIP, damaged=damaged, cut=BIG_ZIP[:-200]) as running:
        yield running


def test_files_on_a_server(server, tmp_path):
    assert wl.verify(f"{server.url}/good").sound
    assert {problem.code for problem in wl.verify(f"{server.url}/damaged").problems} == {"WL207"}
    assert wl.verify(f"{server.url}/cut").verdict == "problems"
    assert wl.verify(f"{server.url}/missing").verdict == "not fully checked"
    made = wl.manifest(f"{server.url}/good")
    assert wl.verify(f"{server.url}/damaged", manifest=made).problems
    assert len(wl.salvage(f"{server.url}/damaged", tmp_path / "out.pt").lost) == 1


def test_scan_of_files_on_a_server(server):
    assert wl.scan(f"{server.url}/good").verdict == "clean"
    assert wl.scan(f"{server.url}/cut").verdict == "findings"
    assert wl.scan(f"{server.url}/missing").verdict == "not fully examined"


# -------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def do(*arguments: object) -> tuple[int, str, str]:
        code = run(list(map(str, arguments)))
        found = capsys.readouterr()
        return code, found.out, found.err

    return do


@pytest.fixture
def files(tmp_path):
    (tmp_path / "good.pt").write_bytes(BIG_ZIP)
    (tmp_path / "bad.pt").write_bytes(flipped(BIG_ZIP, next(row[2] for row in regions(BIG_ZIP) if row[0] == "data")))
    (tmp_path / "text.txt").write_text("hello")
    return tmp_path


@pytest.mark.usefixtures("files")
def test_exit_codes(call):
    assert call("verify", "good.pt")[0] == 0
    assert call("verify", "bad.pt")[0] == 1
    assert call("verify", "good.pt", "bad.pt", "text.txt")[0] == 1
    assert call("verify", "good.pt", "text.txt")[0] == 3
    assert call("verify", "good.pt", "text.txt", "--allow-incomplete")[0] == 0
    assert call("verify", "missing.pt")[0] == 2
    assert call("verify", "good.pt", "missing.pt")[0] == 3
    assert call("verify")[0] == 2
    assert call("verify", "--nonsense")[0] == 2
    assert call("verify", "*.nothing")[0] == 2


@pytest.mark.usefixtures("files")
def test_documents(call):
    code, out, _ = call("verify", "good.pt", "bad.pt", "text.txt", "--json")
    document = json.loads(out)
    assert violations(document, schema("verify")) == []
    assert (code, document["verdict"]) == (1, "problems")
    assert document["totals"]["sound"] == 1
    lines = call("verify", "good.pt", "bad.pt", "--format", "jsonl")[1].splitlines()
    assert [violations(json.loads(line), schema("verify-file")) for line in lines] == [[], []]
    assert call("verify", "bad.pt", "-q")[:2] == (1, "")
    assert call("verify", "bad.pt", "-o", "report.txt")[1] == ""
    assert "WL207" in Path("report.txt").read_text()
    assert call("verify", "bad.pt", "-o", "report.txt")[0] == 2


@pytest.mark.usefixtures("files")
def test_text(call):
    out = call("verify", "good.pt", "bad.pt")[1]
    assert "good.pt  ok" in out
    assert "WL207  archive/data/0, byte" in out
    assert "[first]" in out
    assert "weighlock salvage" in out
    assert "2 files: 1 sound, 1 with problems" in out


@pytest.mark.usefixtures("files")
def test_manifest_command(call):
    assert call("manifest", ".", "-o", "m.json")[0] == 0
    assert violations(json.loads(Path("m.json").read_text()), schema("manifest")) == []
    before = Path("m.json").read_bytes()
    assert call("manifest", ".", "-o", "m.json")[0] == 2
    assert call("manifest", ".", "-o", "m.json", "--force")[0] == 0
    assert Path("m.json").read_bytes() == before
    assert call("manifest", "good.pt", "-o", "good.pt", "--force")[0] == 2
    assert call("manifest", ".", "-o", "new.json", "--dry-run")[0] == 0
    assert not Path("new.json").exists()
    assert json.loads(call("manifest", "good.pt")[1])["files"][0]["name"] == "good.pt"
    assert call("verify", "--manifest", "m.json")[0] == 1  # one of the files was damaged from the start
    assert call("verify", "good.pt", "--manifest", "m.json")[0] == 0
    Path("good.pt").write_bytes(ZIP)
    code, out, _ = call("verify", "good.pt", "--manifest", "m.json")
    assert code == 1
    assert "WL606" in out


def test_standard_input(call, files):
    with open(files / "bad.pt", "rb") as file:
        line = [sys.executable, "-m", "weighlock", "verify", "-", "--json"]
        done = subprocess.run(line, stdin=file, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert json.loads(done.stdout)["inputs"][0]["problems"][0]["code"] == "WL207"


def test_a_cut_file_is_no_interrupt(call, tmp_path):
    """TruncatedError is an EOFError, which click takes for the end of its input: the command ended with 130."""
    (tmp_path / "cut.pt").write_bytes(ZIP[:-50])
    code, _, err = call("show", "cut.pt", "a", "--no-progress")
    assert code == 2
    assert "the archive was cut" in err


def test_a_list_of_files(call, files):
    (files / "list").write_text("good.pt\nbad.pt\n")
    assert call("verify", "--files-from", "list")[0] == 1


def test_hostile_names_are_escaped(call, tmp_path):
    (tmp_path / "evil.pt").write_bytes(flipped(saved({"a\x1b[2J": np.ones(50, "f4")}), 1600))
    for extra in ((), ("--json",), ("--format", "jsonl")):
        out = call("verify", "evil.pt", *extra)[1]
        assert "\x1b" not in out
    (tmp_path / "x\x1b[31m.pt").write_bytes(ZIP[:-40])
    assert "\x1b" not in call("verify", ".")[1]


def test_help_keeps_its_lines(call):
    """The paragraph of examples stands as it was written: once it ran together behind a literal backslash."""
    for command in ("verify", "salvage", "manifest", "show", "scan", "completion"):
        out = call(command, "--help")[1]
        assert "\\b" not in out
        assert any(line.startswith(("  weighlock ", "  bash:")) for line in out.splitlines())


def test_inspect_grades_the_names_it_meets(call, tmp_path):
    from tests.corpus.writers import called, checkpoint, pickled, tensor, two

    evil = called("posix", "system", "echo weighlock")
    (tmp_path / "evil.pt").write_bytes(checkpoint(pickled(two(evil, called("mypackage.models", "Net", "x")))))
    (tmp_path / "good.pt").write_bytes(checkpoint(pickled(two(tensor(), tensor()))))
    evil_document, good_document = (json.loads(call("inspect", name, "--json")[1]) for name in ("evil.pt", "good.pt"))
    assert violations(evil_document, schema("inspect")) == []
    assert {(found["rule"], found["name"]) for found in evil_document["inputs"][0]["findings"]} == {
        ("WL101", "posix.system"), ("WL110", "mypackage.models.Net"),
    }  # fmt: skip
    assert good_document["inputs"][0]["findings"] == []


# ----------------------------------------------------------------------------------------------------------- its limits


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: the peak of memory in /proc")
def test_a_large_file_takes_little_memory(tmp_path):
    big = tmp_path / "big.pt"
    wl.save({"a": np.zeros(60_000_000, "f4"), "b": np.ones(40_000_000, "f4")}, big)
    code = (
        "import re, sys, weighlock\n"
        "assert weighlock.verify(sys.argv[1]).sound\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1], 'numpy' in sys.modules)\n"
    )
    line = [sys.executable, "-c", code, str(big)]
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=120)
    peak, numpy = done.stdout.split()
    assert int(peak) < 90_000
    assert numpy == "False"


PROBE = """
import re, sys, time
import weighlock
from weighlock.cli import run
def peak():  # of this program; what the system calls maxrss also counts what forked it
    with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\\s+(\\d+)", file.read())[1])
base, begin = peak(), time.perf_counter()
code = run([sys.argv[1], sys.argv[2], *sys.argv[3:]])
print(time.perf_counter() - begin, peak() - base, code, file=sys.stderr)
"""


def hostile() -> dict[str, bytes]:
    """Files below a megabyte that ask for all time and memory."""
    from tests.corpus.writers import checkpoint

    def packed(data: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", data)
            archive.writestr("archive/version", b"3\n")
        return file.getvalue()

    return {
        "declared": checkpoint(b"\x80\x04\x8e" + (1 << 60).to_bytes(8, "little") + b"x."),
        "deep": checkpoint(b"\x80\x02" + b"]" * 400_000 + b"a" * 399_999 + b"."),
        "tuples": checkpoint(b"\x80\x02" + b"(" * 300_000 + b"t" * 300_000 + b"."),
        "memo": checkpoint(b"\x80\x02]r\xff\xff\xff\xff" + b"r\xfe\xff\xff\x7f" * 1000 + b"."),
        "ratio": packed(b"\x80\x02]" + b"N0" * 60_000_000 + b"."),
        "doubling": checkpoint(b"\x80\x02]q\x00" + b"(h\x00h\x00lq\x00" * 100_000 + b"."),
        "headers": b"PK\x03\x04" * 240_000,
        "names": b"PK\x03\x04" + bytes(22) + b"\x04\x00\x00\x00name" * 30_000,
        "json": (900_000).to_bytes(8, "little") + b'{"a":' + b"[" * 899_995,
        "gguf": b"GGUF\x03\0\0\0" + (1 << 60).to_bytes(8, "little") * 2,
    }


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: the peak of memory in /proc")
@pytest.mark.parametrize("command", ["inspect", "ls", "scan", "verify", "salvage"])
@pytest.mark.parametrize("name", sorted(hostile()))
def test_hostile_files_take_bounded_time_and_memory(tmp_path, name, command):
    path = tmp_path / "hostile.pt"
    path.write_bytes(hostile()[name])
    assert path.stat().st_size < 1 << 20
    more = [str(tmp_path / "out.pt")] if command == "salvage" else []
    line = [sys.executable, "-c", PROBE, command, str(path), *more]
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=60)
    seconds, peak, code = done.stderr.splitlines()[-1].split()
    assert float(seconds) < 4  # 2 s on a machine that does nothing else
    assert int(peak) < 200_000
    assert int(code) in (0, 1, 2, 3)
