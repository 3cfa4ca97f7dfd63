"""What salvage calls proven: never the bytes of another tensor, and all that a single damage has not touched."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

import weighlock as wl
from tests.adversary import COUNT, EQUAL, Adversary, archive, tally
from tests.damage import equal, flipped, interesting, regions, saved, tensors, torch_saved, whole, zeroed
from weighlock.errors import WeighlockError
from weighlock.salvaging import zips

OURS = archive(saved(EQUAL))
EXPECTED = dict(tensors(EQUAL))


def proven(data: bytes, target) -> set[tuple]:
    """Which tensors a salvage calls proven; their values are compared."""
    report = wl.salvage(data, target, force=True)
    found = wl.load(target)
    for tensor in report.kept:
        assert equal(found[tensor.path[0]], EXPECTED[tensor.path]), tensor
    return {tensor.path for tensor in report.kept if tensor.state == "proven"}


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out.pt"


# ----------------------------------------------------------------------------------- damages that agree with each other


def test_no_damage_gives_a_tensor_the_proven_bytes_of_another(target):
    found = tally(OURS, EQUAL, range(2000), target)
    assert [wrong for wrong in found.wrong if wrong[2] == "proven"] == []
    assert found.states["proven"] > 8000


@pytest.mark.requires_torch
def test_nor_in_an_archive_of_pytorch(target, torch):
    data = torch_saved({key: torch.from_numpy(value) for key, value in EQUAL.items()})
    found = tally(archive(data), EQUAL, range(10_000, 10_400), target)
    assert [wrong for wrong in found.wrong if wrong[2] == "proven"] == []
    assert found.states["proven"] > 1500


def test_a_checksum_alone_would(target, monkeypatch):
    """The same damages, with every CRC-32 that fits taken for proof of whose the bytes are."""
    monkeypatch.setattr(zips, "identified", lambda claims, *_, **__: [claim.found for claim in claims])
    found = tally(OURS, EQUAL, range(400), target)
    assert sum(wrong[2] == "proven" for wrong in found.wrong) > 10


def test_what_is_demanded_to_be_proven_is_right(target):
    found = tally(OURS, EQUAL, range(50_000, 50_400), target, require_crc=True)
    assert found.wrong == []
    assert found.states["unproven"] == 0


# ------------------------------------------------------------------------------------------------------ single damages


@pytest.mark.parametrize("number", range(COUNT))
@pytest.mark.parametrize("other", [*range(COUNT), 67, 0])
def test_one_damaged_name_leaves_all_proven(target, number, other):
    for at in OURS.names[number]:
        data = bytearray(OURS.data)
        data[at] = 48 + other if other < COUNT else other
        assert proven(bytes(data), target) == set(EXPECTED)


def test_one_flipped_byte_leaves_the_others_proven(target):
    first = OURS.records[0][0]
    for at in range(first, len(OURS.data), 11):
        intact = whole(OURS.data, [(at, at + 1)], len(OURS.data))
        assert proven(flipped(OURS.data, at, at % 8), target) == intact, at


@pytest.mark.parametrize("count", [4, 64, 320, 700, 4096])
def test_one_hole_leaves_the_others_proven(target, count):
    """What the hole has taken may have been zeros before, or be proven by the directory: the others have to be."""
    for at in range(OURS.records[0][0], len(OURS.data) - 16, 97):
        data = zeroed(OURS.data, at, count)
        if data[at - 64 : at + count + 64] == OURS.data[at - 64 : at + count + 64]:
            continue
        try:
            found = proven(data, target)
        except WeighlockError:
            assert whole(OURS.data, [(at, at + count)], len(OURS.data)) <= touched(at, count)
            continue
        assert found >= whole(OURS.data, [(at, at + count)], len(OURS.data)) - touched(at, count), at


def touched(at: int, count: int) -> set[tuple]:
    """The tensors of which the hole takes anything: header, data or descriptor."""
    return {(f"t{number}",) for number, (low, high) in enumerate(OURS.records) if low < at + count and at < high}


@pytest.mark.parametrize("end", [end for end in interesting(OURS.data) if end >= OURS.records[0][1]])
def test_a_cut_leaves_what_is_there_proven(target, end):
    # Of the descriptor, the checksum has to be there.
    there = {(f"t{number}",) for number, (_, high) in enumerate(OURS.records) if high - 8 <= end}
    assert proven(OURS.data[:end], target) == there


def test_a_directory_that_is_gone_leaves_all_proven(target):
    assert proven(OURS.data[: OURS.directory], target) == set(EXPECTED)
    size = len(OURS.data) - OURS.directory
    assert proven(zeroed(OURS.data, OURS.directory, size), target) == set(EXPECTED)


@pytest.mark.parametrize("count", [1, 64, 320, 500])
def test_bytes_that_are_gone_leave_the_others_proven(target, count):
    for at in range(OURS.records[0][0], OURS.directory - count, 41):
        rest = {(f"t{number}",) for number, (low, high) in enumerate(OURS.records) if high <= at or low >= at + count}
        assert proven(OURS.data[:at] + OURS.data[at + count :], target) >= rest, at


def test_something_in_between_leaves_the_others_proven(target):
    for at in range(OURS.records[0][0], OURS.directory, 53):
        rest = {(f"t{number}",) for number, (low, high) in enumerate(OURS.records) if high <= at or low >= at}
        for junk in (b"x", bytes(320), OURS.data[OURS.records[3][0] : OURS.records[3][1]]):
            assert proven(OURS.data[:at] + junk + OURS.data[at:], target) >= rest - {("t3",)}, at


def test_equal_tensors_are_not_doubted(target):
    """Biases are all zeros, scales all ones: one of them may not cast doubt on another."""
    value = {f"t{number}": np.full(56, number // 4, "f4") for number in range(COUNT)}
    whole = archive(saved(value))
    places = range(whole.records[0][0], len(whole.data), 23)
    for data in [whole.data[: whole.directory], *(flipped(whole.data, at) for at in places)]:
        report = wl.salvage(data, target, force=True)
        assert len(report.lost) <= 1
        assert {tensor.state for tensor in report.kept} == {"proven"}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archives_that_other_programs_have_packed(target, method):
    """Their headers say how long data are, descriptors are left out, and nothing is aligned."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(OURS.data)) as old, zipfile.ZipFile(file, "w", method) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    with zipfile.ZipFile(file) as archive:
        directory, rows = archive.start_dir, archive.infolist()
    data = file.getvalue()
    assert proven(data[:directory], target) == set(EXPECTED)
    places = {info.filename.rpartition("/")[2]: info.header_offset for info in rows if "/data/" in info.filename}
    assert proven(data[: places["6"] + 3], target) == {(f"t{number}",) for number in range(6)}
    for name, at in places.items():
        assert proven(flipped(data, at + 100), target) == set(EXPECTED) - {(f"t{name}",)}
        assert proven(flipped(data, at + 42), target) >= set(EXPECTED) - {(f"t{name}",)}


def test_records_that_were_sorted_as_text(target):
    """As older releases of PyTorch wrote them; of the order, a cut archive shows the beginning only."""
    value = {f"t{number}": np.random.default_rng(number).random(56, "f4") for number in range(25)}
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(value))) as old, zipfile.ZipFile(file, "w") as new:
        names = old.namelist()
        storages = sorted(name for name in names if "/data/" in name)
        first = next(index for index, name in enumerate(names) if name in storages)
        for name in [*names[:first], *storages, *names[first + 25 :]]:
            new.writestr(name, old.read(name))
    with zipfile.ZipFile(file) as archive:
        at = next(info.header_offset for info in archive.infolist() if info.filename.endswith("/data/19"))
    report = wl.salvage(file.getvalue()[:at], target)
    assert [tensor.key for tensor in report.kept] == ["t0", "t1", *(f"t{number}" for number in range(10, 19))]
    assert {tensor.state for tensor in report.kept} == {"proven"}


# --------------------------------------------------------------------------------------------- what is contradicted


def swapped_names(data: bytes, one: int, other: int) -> bytes:
    made = bytearray(data)
    made[OURS.names[one][0]], made[OURS.names[other][0]] = 48 + other, 48 + one
    return bytes(made)


def test_the_directory_outvotes_a_damaged_header(target):
    report = wl.salvage(swapped_names(OURS.data, 3, 6), target)
    assert {tensor.state for tensor in report.tensors} == {"proven"}


def test_without_a_directory_nothing_outvotes_it(target):
    report = wl.salvage(swapped_names(OURS.data, 3, 6)[: OURS.directory], target)
    states = {tensor.key: (tensor.state, tensor.reason) for tensor in report.tensors}
    assert states["t3"] == states["t6"] == ("lost", "its name and its place contradict each other")
    assert states["t0"] == ("unproven", "its CRC-32 fits, but only the header says whose it is")


def test_a_place_alone_is_no_proof(target):
    low, start = OURS.records[4][0], OURS.starts[4]
    report = wl.salvage(zeroed(OURS.data[: OURS.directory], low, start - low), target)
    states = {tensor.key: tensor.reason for tensor in report.tensors if tensor.state != "proven"}
    assert states == {"t4": "its CRC-32 fits, but only its place says whose it is"}


def test_a_size_that_no_other_has_is_proof_enough(target):
    value = {f"t{number}": np.full(50 + number, number, "f4") for number in range(COUNT)}
    data = saved(value)
    for kind, name, at, size in regions(data):
        if (kind in ("header", "padding") and "/data/" in name) or kind in ("directory", "end"):
            data = zeroed(data, at, size)
    assert {tensor.state for tensor in wl.salvage(data, target).tensors} == {"proven"}


def test_the_adversary_says_what_it_did():
    adversary = Adversary(OURS, 7)
    assert adversary.damaged() != OURS.data
    assert adversary.did
