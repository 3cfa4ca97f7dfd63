"""diff: structure, values of every pair of types, tolerances, names, renames."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import weighlock
from tests.range_server import RangeServer
from tests.test_deepspeed import write_stage_2
from tests.test_lazy import packed, turned
from weighlock.comparing.values import Tolerance, ValueDiff, compare_parts
from weighlock.dtypes import DTYPES
from weighlock.measuring.pieces import Part
from weighlock.tensors.values import TORCH_NAMES

RNG = np.random.default_rng(11)
DISTRIBUTED = Path(__file__).parent / "goldens" / "dcp-torch-2.13.0"
GGUF = Path(__file__).parent / "goldens" / "gguf-0.19.0"


def saved(obj, **options) -> bytes:
    file = io.BytesIO()
    weighlock.save(obj, file, **options)
    return file.getvalue()


def diff(a, b, **options):
    return weighlock.diff(saved(a), saved(b), **options)


def compared(a, b, tolerance=None) -> ValueDiff | None:
    one, other = (Part("", str(array.dtype), array.shape, array.nbytes, array) for array in (a, b))
    return compare_parts(one, other, tolerance or Tolerance())


def test_the_same_content_in_two_formats_is_the_same():
    obj = {"w": RNG.normal(size=(300, 40)).astype("f4"), "epoch": 3}
    found = weighlock.diff(saved(obj), saved(obj, _use_new_zipfile_serialization=False))
    assert found.same
    assert found.complete
    assert [(row.name, row.compared, row.values, row.changes) for row in found.tensors] == [("w", True, None, ())]
    assert found.objects_compared == 1


def test_structure():
    found = diff(
        {"same": np.ones(2), "a": np.ones(2), "shape": np.ones(4), "dtype": np.ones(3, "f4"), "n": 1, "old": "x"},
        {"b": np.zeros(2), "shape": np.ones((2, 2)), "same": np.ones(2), "dtype": np.ones(3, "f8"), "n": 2},
    )
    assert [(row.name, row.changes) for row in found.changed] == [
        ("a", ()), ("shape", ("shape",)), ("dtype", ("dtype",)), ("b", ()),
    ]  # fmt: skip
    assert [(row.a is None, row.b is None) for row in found.changed] == [
        (False, True), (False, False), (False, False), (True, False),
    ]  # fmt: skip
    assert found.objects == (weighlock.ObjectDiff("n", "1", "2"), weighlock.ObjectDiff("old", "'x'", None))
    assert not found.same


def test_values_against_numpy():
    a = RNG.normal(size=100_001).astype("f4")
    b = a.copy()
    b[::1000] += RNG.normal(size=101).astype("f4")
    (row,) = diff({"w": a}, {"w": b}).tensors
    delta = a.astype("f8") - b
    assert row.changes == ("values",)
    assert row.values is not None
    assert (row.values.numel, row.values.differing) == (100_001, 101)
    assert row.values.max_abs == np.abs(delta).max()
    assert row.values.rel_l2 == pytest.approx(np.linalg.norm(delta) / np.linalg.norm(a.astype("f8")), rel=1e-9)
    cosine = a.astype("f8") @ b / np.linalg.norm(a.astype("f8")) / np.linalg.norm(b.astype("f8"))
    assert row.values.cosine == pytest.approx(cosine, rel=1e-9)


def test_tolerances():
    a, b = {"w": np.array([1.0, 2.0, 100.0])}, {"w": np.array([1.001, 2.0, 100.1])}
    assert not diff(a, b, atol=0.01).same
    within = diff(a, b, rtol=0.01)
    assert within.same
    values = within.tensors[0].values
    assert values is not None
    assert (values.differing, values.outside) == (2, 0)
    with pytest.raises(weighlock.ArgumentError, match="tolerance"):
        diff(a, b, atol=-1)
    with pytest.raises(weighlock.ArgumentError, match="tolerance"):
        diff(a, b, rtol=float("nan"))


def test_what_is_not_finite():
    a = np.array([np.nan, np.nan, 1, np.inf, np.inf, -np.inf, 5], "f4")
    b = np.array([np.nan, 1, np.nan, np.inf, -np.inf, 0, 5], "f4")
    values = compared(a, b)
    assert values is not None
    assert (values.differing, values.outside, values.nan_a, values.nan_b, values.inf_a, values.inf_b) == (
        4, 4, 2, 2, 3, 2,
    )  # fmt: skip
    assert values.max_abs == 0.0
    strict = compared(a, b, Tolerance(equal_nan=False))
    assert strict is not None
    assert strict.differing == 5
    loose = compared(a, b, Tolerance(rtol=1e9, atol=1e9))
    assert loose is not None
    assert loose.outside == 4


def test_zeros_of_both_signs_are_equal_but_not_the_same_bytes():
    values = compared(np.array([0.0, 1.0]), np.array([-0.0, 1.0]))
    assert values == ValueDiff(2, 0, 0, 0.0, 0.0, 1.0)
    assert diff({"w": np.array(0.0)}, {"w": np.array(-0.0)}).same


TYPES = [name for name, row in DTYPES.items() if row.numpy_name and row.kind in "fiubc" and name != "complex32"]


@pytest.mark.parametrize("one", TYPES)
def test_every_two_types_can_be_compared(one):
    for other in TYPES:
        a = np.array([0, 1, 1, 1, 0] * 3).astype(DTYPES[one].numpy)
        b = np.array([0, 1, 1, 1, 0] * 3).astype(DTYPES[other].numpy)
        values = compared(a, b)
        assert values is None or (values.differing, values.max_abs) == (0, 0.0) or "float8_e8m0fnu" in (one, other)
        b = np.array([0, 1, 0, 1, 0] * 3).astype(DTYPES[other].numpy)
        values = compared(a, b)
        if "float8_e8m0fnu" not in (one, other):  # it has no zero
            assert values is not None
            assert (values.differing, values.max_abs) == (3, 1.0)
            assert values.cosine == pytest.approx(6 / 54**0.5)


@pytest.mark.parametrize(
    ("one", "other", "differing"),
    [
        (np.array([2**53 + 1]), np.array([2.0**53]), 1), (np.array([2**53]), np.array([2.0**53]), 0),
        (np.array([2**63 - 1]), np.array([2.0**63]), 1), (np.array([2**64 - 1], "u8"), np.array([2.0**64]), 1),
        (np.array([2**63], "u8"), np.array([-(2**63)]), 1), (np.array([2**62]), np.array([2**62 + 1]), 1),
        (np.array([300], "i2"), np.array([44], "u1"), 1),
        (np.array([1.1], "f4"), np.array([1.1]), 1), (np.array([1.5], "f4"), np.array([1.5], ml_dtypes.bfloat16), 0),
    ],
)  # fmt: skip
def test_numbers_of_different_types_are_compared_exactly(one, other, differing):
    for a, b in ((one, other), (other, one)):
        values = compared(a, b)
        assert values is not None
        assert values.differing == differing


def test_pieces_that_are_cut_differently(monkeypatch):
    monkeypatch.setattr("weighlock.measuring.pieces._PIECE", 24)
    a = RNG.normal(size=(13, 11))
    b = np.asfortranarray(a).astype("f4")
    values = diff({"w": a}, {"w": b}).tensors[0].values
    assert values is not None
    assert values.numel == 143
    assert values.differing == (a != b).sum()
    assert diff({"w": a}, {"w": np.asfortranarray(a)}).same
    c = a.copy()
    c[12, 10] += 1
    values = diff({"w": a}, {"w": c}).tensors[0].values
    assert values is not None
    assert (values.numel, values.differing, values.max_abs) == (143, 1, pytest.approx(1))


def test_opaque_bits_and_text_are_compared_as_they_are():
    a, b = (weighlock.PackedTensor(weighlock.dtype("bits8"), np.array([1, value], "u1")) for value in (2, 3))
    values = diff({"w": a}, {"w": b}).tensors[0].values
    assert values is not None
    assert (values.differing, values.max_abs, values.cosine) == (1, None, None)
    assert diff({"w": a}, {"w": a}).same


def test_sparse_tensors():
    def sparse(*values: float):
        indices = np.arange(len(values))[None]
        return {
            "s": weighlock.SparseTensor(
                TORCH_NAMES["sparse_coo"], indices, np.array(values, "f8"), (5,), coalesced=True
            )
        }

    assert diff(sparse(1, 2), sparse(1, 2)).same
    row = diff(sparse(1, 2), sparse(1, 2.5)).tensors[0]
    assert row.values is not None
    assert (row.changes, row.values.max_abs) == (("values",), 0.5)
    assert diff(sparse(1, 2), sparse(1, 2, 3)).tensors[0].changes == ("values",)


# --------------------------------------------------------------------------------------------------------- names


def test_prefixes_and_rules():
    a, b = {"module.fc.w": np.ones(2), "module.n": 1}, {"net.fc.weight": np.ones(2), "net.n": 1}
    found = diff(a, b, strip_prefix_a="module.", strip_prefix_b="net.", rename={"*.w": "*.weight"})
    assert found.same
    assert [row.name for row in found.tensors] == ["fc.weight"]
    side = found.tensors[0].a
    assert side is not None
    assert side.key == "module.fc.w"
    with pytest.raises(weighlock.StateDictError, match="no name has the prefix"):
        diff(a, b, strip_prefix_a="nothing.")


def test_globs_choose_what_is_compared():
    a = {"fc.w": np.ones(2), "fc.b": np.ones(2), "head.w": np.ones(2), "epoch": 1}
    b = {"fc.w": np.ones(2), "fc.b": np.zeros(2), "epoch": 2}
    assert diff(a, b, include="fc.*", exclude=["*.b"]).same
    assert [row.name for row in diff(a, b, exclude="epoch").changed] == ["fc.b", "head.w"]


def test_renames_are_guessed_by_content():
    w = {name: RNG.normal(size=(3, 4)) for name in "abc"}
    found = diff({"enc.w": w["a"], "x": w["b"], "y": w["c"]}, {"encoder.w": w["a"], "x": w["b"], "z": w["a"] + 1})
    assert [(row.name, row.renamed, row.b and row.b.key) for row in found.changed] == [
        ("enc.w", True, "encoder.w"), ("y", False, None), ("z", False, "z"),
    ]  # fmt: skip
    assert not found.same


def test_renames_of_equal_content_go_by_their_names():
    a = {f"old.{n}.bias": np.zeros(4) for n in (1, 2, 3)}
    b = {f"new.{n}.bias": np.zeros(4) for n in (3, 1, 2)}
    assert {row.name[4:] == (row.b and row.b.key[4:]) for row in diff(a, b).changed} == {True}
    many = diff({f"a{n}": np.zeros(2) for n in range(70)}, {f"b{n}": np.zeros(2) for n in range(70)})
    assert all(row.renamed for row in many.tensors)


def test_without_values_nothing_is_read(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError

    for name in ("weighlock.comparing.diffing.parts_of", "weighlock.comparing.pairing.parts_of"):
        monkeypatch.setattr(name, refuse)
    found = diff({"w": np.ones(2), "a": np.ones(3)}, {"w": np.zeros(2), "b": np.ones(3)}, values=False)
    assert [row.name for row in found.changed] == ["a", "b"]
    assert not found.tensors[0].compared


def test_a_tensor_that_cannot_be_read_is_one_row():
    huge = np.lib.stride_tricks.as_strided(np.zeros(1, "f4"), (1 << 40,), (0,))
    found = diff({"huge": huge, "w": np.ones(2)}, {"huge": huge, "w": np.zeros(2)})
    assert isinstance(found.tensors[0].error, weighlock.LimitError)
    assert found.tensors[1].changes == ("values",)
    assert not found.complete


def test_an_open_part_of_a_checkpoint_is_compared_without_plain_values():
    with weighlock.open_checkpoint(saved({"a": np.ones(1), "b": np.ones(1), "n": 1})) as ckpt:
        found = weighlock.diff(ckpt.select("a"), saved({"a": np.ones(1), "n": 2}))
    assert found.same
    assert found.objects_compared == 0


# ------------------------------------------------------------------------------------- every format, and anywhere


@pytest.fixture
def everywhere(tmp_path):
    """One state_dict in every format that can be written here."""
    obj = {f"layers.{n}.w": RNG.normal(size=(30, 20)).astype("f4") for n in range(4)} | {"n": np.arange(5)}
    weighlock.save(obj, tmp_path / "zip.pt")
    weighlock.save(obj, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    arrays: dict[str, Any] = dict(obj)
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez_compressed(tmp_path / "compressed.npz", **arrays)
    (tmp_path / "sharded").mkdir()
    weighlock.save(obj, tmp_path / "sharded" / "model.bin", max_shard_size="5KB")
    (tmp_path / "deflated.pt").write_bytes(packed((tmp_path / "zip.pt").read_bytes()))
    return [
        tmp_path / name for name in ("zip.pt", "legacy.pt", "plain.npz", "compressed.npz", "sharded", "deflated.pt")
    ]


def test_every_format_has_the_same_content(everywhere):
    first, *others = everywhere
    expected = weighlock.stats(first)
    for path in others:
        assert weighlock.digest(path) == weighlock.digest(first), path
        assert weighlock.diff(first, path).same, path
        found = {row.key: row for row in weighlock.stats(path)}
        for row in expected:
            assert found[row.key][4:13] == row[4:13], path


@pytest.mark.parametrize("form", ["dtensor", "fsdp", "hf", "deepspeed"])
def test_tensors_in_parts_are_compared_as_wholes(form, tmp_path):
    """Folders whose tensors are put together when they are read have the content of the file that they make."""
    folder = DISTRIBUTED / form
    if form == "deepspeed":
        folder = tmp_path / "step"
        write_stage_2(folder, 2)
    weighlock.save(weighlock.load(folder), tmp_path / "whole.pt")
    assert weighlock.digest(folder) == weighlock.digest(tmp_path / "whole.pt")
    found = weighlock.diff(folder, tmp_path / "whole.pt")
    assert found.same
    assert found.tensors
    expected = {row.key: row for row in weighlock.stats(tmp_path / "whole.pt")}
    for row in weighlock.stats(folder):
        assert row[4:13] == expected[row.key][4:13]


def test_gguf_is_compared(tmp_path):
    little = GGUF / "little.gguf"
    assert weighlock.diff(little, little).same
    found = weighlock.diff(GGUF / "big.gguf", little)
    only = [row.name for row in found.tensors if row.a is None]
    assert only == ["bf16", "q8"]
    assert all(row.values is None and not row.changes for row in found.tensors if row.a is not None)
    # Of numbers in blocks nothing is measured; the type counts in the digest, and in what is compared.
    (row,) = (row for row in weighlock.stats(little) if row.key == "q8")
    assert (row.dtype, row.shape, row.mean, row.zeros, row.error) == ("Q8_0", (2, 32), None, 0, None)
    data = bytearray(little.read_bytes())
    blocks = (GGUF / "q8_0.bin").read_bytes()
    assert data.count(blocks) == 1
    data[data.index(blocks) + 5] ^= 1
    (tmp_path / "other.gguf").write_bytes(data)
    assert weighlock.digest(tmp_path / "other.gguf") != weighlock.digest(little)
    differing = [row for row in weighlock.diff(little, tmp_path / "other.gguf").tensors if row.values is not None]
    assert [row.name for row in differing] == ["q8"]
    assert differing[0].a is not None
    assert differing[0].a.dtype == "Q8_0"


@pytest.mark.parametrize("kind", ["i1", "f2", "f4", "c8", "c16"])
def test_big_endian_files_have_the_same_content(kind):
    obj = {"w": RNG.normal(size=(4, 6)).astype(kind), "t": np.asfortranarray(RNG.normal(size=(3, 5)).astype(kind))}
    little = saved(obj)
    big = turned(little, np.dtype(kind).itemsize // (2 if kind[0] == "c" else 1))
    assert weighlock.digest(big) == weighlock.digest(little)
    assert weighlock.diff(big, little).same


def test_checkpoints_on_a_server_are_compared(everywhere, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "WEIGHLOCK_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", os.devnull)
    with RangeServer(model=everywhere[0].read_bytes()) as server:
        address = f"{server.url}/model"
        assert weighlock.diff(address, everywhere[1]).same
        assert weighlock.digest(address) == weighlock.digest(everywhere[0])


MEMORY = """
import resource, sys
import numpy, weighlock
from weighlock.measuring.pieces import looking_into
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
weighlock.stats(sys.argv[3], bins=3), weighlock.diff(sys.argv[3], sys.argv[3])
before = peak()
weighlock.stats(sys.argv[1], bins=3), weighlock.digest(sys.argv[1]), weighlock.diff(sys.argv[1], sys.argv[2])
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted in kibibytes on Linux")
def test_memory_is_bounded_whatever_the_size(tmp_path):
    paths = [tmp_path / name for name in ("a.pt", "b.pt", "small.pt")]
    for path, value in zip(paths, (0, 1, 0), strict=True):
        weighlock.save({"w": np.full(1 if path.name == "small.pt" else 32 << 20, value, "f4")}, path)
    done = subprocess.run([sys.executable, "-c", MEMORY, *paths], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 24 << 10


def test_a_tied_weight_that_one_side_leaves_out(tmp_path):
    """Files of transformers lack the second name of a tied weight: nothing is lost, and the difference says so."""
    from weighlock.cli.comparing import diff_lines

    weight = np.ones((3, 2), "f4")
    weighlock.save({"embed": weight, "head": weight, "x": np.zeros(2)}, tmp_path / "a.pt")
    weighlock.save({"embed": weight, "x": np.zeros(2)}, tmp_path / "b.pt")
    found = weighlock.diff(tmp_path / "a.pt", tmp_path / "b.pt")
    assert [(row.name, row.a and row.a.alias_of) for row in found.changed] == [("head", "embed")]
    lines = ["".join(piece if isinstance(piece, str) else piece[0] for piece in line) for line in diff_lines(found)]
    assert lines[1] == "- head  float32 [3, 2]  = embed"
