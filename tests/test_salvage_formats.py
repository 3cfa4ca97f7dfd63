"""Salvage with a manifest, and of TorchScript programs and .npz archives."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy as np
import pytest

import weighlock as wl
from tests.damage import PLAIN, equal, flipped, regions, saved, tensors, whole, zeroed
from tests.schema_check import schema, violations
from weighlock.cli import run
from weighlock.errors import ArgumentError, DamagedError, WeighlockError

FLAT = {key: value for key, value in PLAIN.items() if isinstance(value, np.ndarray) and key != "view"}
FILES = {
    "zip": saved(PLAIN),
    "stream": saved(PLAIN, _use_new_zipfile_serialization=False),
    "safetensors": saved(FLAT, format="safetensors"),
    "npz": saved(FLAT, format="npz"),
}
MANIFESTS = {name: wl.manifest(data) for name, data in FILES.items()}
RIGHT = "its values have the SHA-256 that the manifest lists"
OTHER = "its values are not those that the manifest lists"


def states(report: Any) -> dict[str, str]:
    return {tensor.key: tensor.state for tensor in report.tensors}


def expected_of(name: str) -> dict[Any, Any]:
    return dict(tensors(PLAIN if name in ("zip", "stream") else FLAT))


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out"


# ----------------------------------------------------------------------------------------------------------- manifests


@pytest.mark.parametrize("name", FILES)
def test_a_manifest_proves_where_there_is_no_checksum(name, target):
    data = FILES[name]
    report = wl.salvage(data[:-30], target, manifest=MANIFESTS[name])
    with_data = [tensor for tensor in report.kept if tensor.nbytes]
    assert {(tensor.state, tensor.reason) for tensor in with_data} == {("proven", RIGHT)}
    strict = wl.salvage(data[:-30], target, manifest=MANIFESTS[name], require_crc=True, force=True)
    assert states(strict) == states(report)
    for path, value in tensors(wl.load(target)):
        assert value is None or equal(value, expected_of(name)[path])


@pytest.mark.parametrize("name", ["stream", "safetensors"])
def test_a_changed_byte_is_found_by_a_manifest_alone(name, target):
    data = FILES[name]
    at = data.index(PLAIN["first"].tobytes()) + 100
    assert states(wl.salvage(flipped(data, at), target))["first"] == "unproven"
    report = wl.salvage(flipped(data, at), target, force=True, manifest=MANIFESTS[name])
    assert [(tensor.key, tensor.reason) for tensor in report.lost] == [("first", OTHER)]
    assert "first" not in wl.load(target)
    assert {tensor.state for tensor in report.kept} == {"proven"}


def test_what_is_proven_by_a_checksum_is_lost_where_the_manifest_has_another_value(target):
    """The file is whole; it is not the one that was written down."""
    other = saved({**PLAIN, "first": PLAIN["first"] + 1})
    report = wl.salvage(other, target, manifest=MANIFESTS["zip"])
    assert [(tensor.key, tensor.reason) for tensor in report.lost] == [("first", OTHER)]


def test_another_shape_is_another_tensor(target):
    other = saved({**PLAIN, "first": PLAIN["first"].reshape(10, 30)})
    assert [tensor.key for tensor in wl.salvage(other, target, manifest=MANIFESTS["zip"]).lost] == ["first"]


def test_a_tensor_that_the_manifest_does_not_list_is_judged_without_it(target):
    more = saved({**PLAIN, "more": np.ones(77, "f4")})
    assert states(wl.salvage(more[:-30], target, manifest=MANIFESTS["zip"]))["more"] == "proven"
    stream = saved({**PLAIN, "more": np.ones(77, "f4")}, _use_new_zipfile_serialization=False)
    assert states(wl.salvage(stream, target, manifest=MANIFESTS["stream"], force=True))["more"] == "unproven"


def test_a_manifest_has_back_what_checksums_contradict(target):
    """The checksums of a storage are damaged, not its bytes."""
    data = FILES["zip"]
    rows = [row for row in regions(data) if row[0] == "descriptor" and row[1].endswith("data/0")]
    damaged = flipped(data, rows[0][2] + 5, 3)
    directory = next(row[2] for row in regions(data) if row[0] == "directory")
    damaged = damaged[:directory]
    assert states(wl.salvage(damaged, target))["first"] == "lost"
    assert states(wl.salvage(damaged, target, manifest=MANIFESTS["zip"], force=True))["first"] == "proven"


def test_names_that_contradict_their_places_are_settled_by_a_manifest(target):
    from tests.adversary import EQUAL, archive

    ours = archive(saved(EQUAL))
    data = bytearray(ours.data[: ours.directory])
    data[ours.names[3][0]], data[ours.names[6][0]] = 54, 51
    assert set(states(wl.salvage(bytes(data), target)).values()) == {"unproven", "lost"}
    report = wl.salvage(bytes(data), target, manifest=wl.manifest(ours.data), force=True)
    found = wl.load(target)
    assert {tensor.state for tensor in report.kept} == {"proven"}
    assert len(report.kept) >= 8
    assert all(equal(found[tensor.key], EQUAL[tensor.key]) for tensor in report.kept)


def test_a_view_is_judged_by_its_own_values(target):
    """Two tensors share a storage, of which one byte is damaged that only one of them has."""
    data = FILES["stream"]
    at = data.index(PLAIN["whole"].tobytes())
    report = wl.salvage(flipped(data, at + 3), target, manifest=MANIFESTS["stream"])
    assert states(report)["view"] == "proven"
    assert [tensor.key for tensor in report.lost] == ["whole"]
    assert equal(wl.load(target)["view"], PLAIN["view"])


def test_a_damaged_pickle_and_a_manifest(target):
    data = FILES["zip"]
    at = next(row[2] for row in regions(data) if row[0] == "pickle") + 60
    report = wl.salvage(zeroed(data, at, 9), target, manifest=MANIFESTS["zip"])
    found, expected = wl.load(target), {".".join(map(str, path)): value for path, value in tensors(PLAIN)}
    assert {tensor.key for tensor in report.kept} == set(found)
    assert {tensor.key for tensor in report.lost} <= {"view", "empty"}
    assert {tensor.state for tensor in report.kept} == {"proven"}
    for key, value in found.items():
        assert equal(value, expected[key])
    assert any("digests" in note for note in report.notes)
    assert wl.verify(target).sound
    nothing = wl.manifest(saved({"x": np.full(9, 3.5)}))
    with pytest.raises(DamagedError, match="no storage has the values"):
        wl.salvage(zeroed(data, at, 9), target, manifest=nothing, force=True)


def test_of_a_damaged_pickle_types_come_back_too(target):
    import ml_dtypes

    value = {"b": np.arange(8).astype(ml_dtypes.bfloat16), "u": np.arange(9, dtype="u2").reshape(3, 3),
             "c": np.ones((2, 2), "c8"), "t": np.array([True, False]), "again": np.array([True, False])}  # fmt: skip
    data = saved(value)
    at = next(row[2] for row in regions(data) if row[0] == "pickle") + 30
    assert wl.salvage(zeroed(data, at, 9), target, manifest=wl.manifest(data)).whole
    found = wl.load(target)
    assert all(equal(found[key], one) for key, one in value.items())


def test_nothing_is_written_where_the_manifest_contradicts_everything(target):
    data = saved({"w": np.ones(30, "f4")})
    with pytest.raises(DamagedError, match="none has the values"):
        wl.salvage(saved({"w": np.zeros(30, "f4")}), target, manifest=wl.manifest(data))
    assert list(target.parent.iterdir()) == []


def test_a_dry_run_with_a_manifest_writes_nothing(target):
    data = flipped(FILES["safetensors"], len(FILES["safetensors"]) - 9)
    report = wl.salvage(data, target, manifest=MANIFESTS["safetensors"], dry_run=True)
    assert len(report.lost) == 1
    assert report.target is None
    assert list(target.parent.iterdir()) == []


def test_which_entry_of_a_manifest_is_meant(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    for name, factor in (("a.pt", 1), ("b.pt", 2)):
        wl.save({"w": np.ones(30, "f4") * factor}, folder / name)
    listed = wl.manifest(folder)
    (tmp_path / "manifest.json").write_text(listed.to_json())
    assert wl.salvage(folder / "b.pt", tmp_path / "out.pt", manifest=tmp_path / "manifest.json").whole
    with pytest.raises(ArgumentError, match="does not tell which"):
        wl.salvage((folder / "b.pt").read_bytes(), tmp_path / "other.pt", manifest=listed)
    with pytest.raises(ArgumentError):
        wl.salvage(folder / "b.pt", tmp_path / "other.pt", manifest=folder / "a.pt")


def test_the_command_takes_a_manifest(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    data = FILES["safetensors"]
    (tmp_path / "m.safetensors").write_bytes(data)
    assert run(["manifest", "m.safetensors", "-o", "manifest.json"]) == 0
    (tmp_path / "m.safetensors").write_bytes(flipped(data, len(data) - 5))
    capsys.readouterr()
    assert run(["salvage", "m.safetensors", "o.safetensors", "--manifest", "manifest.json", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert violations(document, schema("salvage")) == []
    assert (document["totals"]["lost"], document["totals"]["unproven"]) == (1, 0)
    assert [tensor["reason"] for tensor in document["tensors"] if tensor["state"] == "lost"] == [OTHER]
    assert run(["salvage", "m.safetensors", "p.safetensors", "--manifest", "missing.json"]) == 2


@pytest.mark.parametrize("name", FILES)
def test_progress_tells_what_was_read_and_written(name, target):
    done: list[int] = []
    wl.salvage(FILES[name], target, progress=done.append)
    assert 0.5 * len(FILES[name]) < sum(done) <= 3 * len(FILES[name])
    assert min(done) >= 0


# ----------------------------------------------------------------------------------------------------------------- npz


ARRAYS = {**{f"a{number}": np.random.default_rng(number).random(40 + number // 3, "f4") for number in range(6)},
          "text": np.array(["x", "yy"]), "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4))}  # fmt: skip


def npz(save: Any) -> bytes:
    file = io.BytesIO()
    save(file, **ARRAYS)
    return file.getvalue()


NPZ = {"stored": npz(np.savez), "deflated": npz(np.savez_compressed)}
OWN = saved({key: value for key, value in ARRAYS.items() if key != "text"}, format="npz")
NPZ["own"] = OWN


def salvaged(data: bytes, target: Any) -> dict[str, str]:
    """Salvage an archive, and compare what is kept as NumPy reads it."""
    report = wl.salvage(data, target, force=True)
    with np.load(target) as found:
        assert set(found.files) == {tensor.key for tensor in report.kept}
        for key in found.files:
            assert found[key].tobytes() == ARRAYS[key].tobytes()
            assert found[key].shape == ARRAYS[key].shape
    assert report.format == "npz"
    assert wl.verify(target).sound
    return states(report)


@pytest.mark.parametrize("kind", NPZ)
def test_members_of_npz_archives(kind, target):
    data = NPZ[kind]
    assert set(salvaged(data, target).values()) == {"proven"}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        rows = archive.infolist()
    for index, info in enumerate(rows[:-1]):
        middle = (info.header_offset + rows[index + 1].header_offset) // 2 + 40
        key = info.filename.removesuffix(".npy")
        found = salvaged(flipped(data, middle), target)
        assert {name for name, state in found.items() if state != "proven"} <= {key}
        assert len(found) == len(rows)
        if index:
            cut = salvaged(data[: info.header_offset + 60], target)
            kept = [name for name, state in cut.items() if state != "lost"]
            assert kept == [row.filename.removesuffix(".npy") for row in rows[:index]]


@pytest.mark.parametrize("kind", NPZ)
def test_a_name_that_stands_in_one_place_only_is_not_proven(kind, target):
    data = NPZ[kind]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        directory = archive.start_dir
    assert set(salvaged(data[:directory], target).values()) == {"unproven"}
    with pytest.raises(WeighlockError):
        wl.salvage(data[:directory], target, force=True, require_crc=True)
    report = wl.salvage(data.replace(b"a2.npy", b"a9.npy", 1), target, force=True)
    assert states(report)["a9"] == "unproven"
    assert "a2" not in states(report)


def test_an_archive_without_a_whole_member(target):
    with pytest.raises(WeighlockError):
        wl.salvage(NPZ["stored"][:200], target)


# -------------------------------------------------------------------------------------------------------- TorchScript


@pytest.fixture(scope="module")
def script() -> tuple[bytes, dict[str, Any]]:
    import torch

    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Linear(8, 8)
            self.two = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8))
            self.tied = torch.nn.Linear(8, 8, bias=False)
            self.tied.weight = self.one.weight
            self.extra = [torch.ones(3), torch.zeros(3)]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(x)) + self.extra[0].sum()

    torch.manual_seed(1)
    made = torch.jit.script(Tied())
    file = io.BytesIO()
    torch.jit.save(made, file)
    return file.getvalue(), {key: value.detach().clone() for key, value in made.state_dict().items()}


@pytest.mark.requires_torch
def test_the_weights_of_a_program(target, torch, script):
    data, expected = script
    report = wl.salvage(data, target)
    found = torch.load(target, weights_only=True)
    assert expected.keys() <= found.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert any("TorchScript" in note for note in report.notes)
    assert {tensor.state for tensor in report.tensors} == {"proven"}
    assert found["tied.weight"].data_ptr() == found["one.weight"].data_ptr()
    with wl.open_checkpoint(data) as ckpt:
        assert set(ckpt) == set(found)


@pytest.mark.requires_torch
def test_a_damaged_program_keeps_what_is_whole(target, torch, script):
    data, expected = script
    rows = [row for row in regions(data) if row[0] == "data" and row[3]]
    for _, name, at, size in rows:
        report = wl.salvage(flipped(data, at + size // 2), target, force=True)
        assert {tensor.storages for tensor in report.lost} == {(name,)}
        assert {tensor.state for tensor in report.kept} == {"proven"}
        found = torch.load(target, weights_only=True)
        assert all(torch.equal(found[key], expected[key]) for key in found if key in expected)
    pickle = next(row for row in regions(data) if row[0] == "pickle" and row[1].endswith("/data.pkl"))
    cut = data[: pickle[2] + pickle[3] + 16]
    report = wl.salvage(cut, target, force=True)
    assert report.whole
    assert {tensor.state for tensor in report.kept} == {"proven"}


@pytest.mark.requires_torch
def test_a_program_that_was_cut_before_its_pickle_needs_a_manifest(target, torch, script):
    data, expected = script
    pickle = next(row for row in regions(data) if row[0] == "pickle" and row[1].endswith("/data.pkl"))
    cut = data[: data.rindex(b"PK\3\4", 0, pickle[2])]
    with pytest.raises(DamagedError, match="structure is lost"):
        wl.salvage(cut, target)
    report = wl.salvage(cut, target, manifest=wl.manifest(data))
    found = torch.load(target, weights_only=True)
    assert {tensor.state for tensor in report.kept} == {"proven"}
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_whole_is_what_nothing_touches():
    data = FILES["zip"]
    assert whole(data, [], len(data)) == set(dict(tensors(PLAIN)))
