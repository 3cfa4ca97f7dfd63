"""stats and digest: against NumPy on every element type, and the same answer whatever the format and the strides."""

from __future__ import annotations

import hashlib
import io
import json
import math
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import weighlock
from weighlock.dtypes import DTYPES
from weighlock.measuring import pieces as streaming
from weighlock.measuring.contents import canonical, canonical_text
from weighlock.measuring.moments import Moments
from weighlock.measuring.summaries import TensorStats
from weighlock.tensors.values import TORCH_NAMES

RNG = np.random.default_rng(7)


def saved(obj, **options) -> bytes:
    file = io.BytesIO()
    weighlock.save(obj, file, **options)
    return file.getvalue()


def of(array) -> TensorStats:
    (row,) = weighlock.stats(saved({"w": array}), bins=4)
    return row


# --------------------------------------------------------------------------------------------------------- stats

NUMERIC = [name for name, row in DTYPES.items() if row.numpy_name and row.kind in "fiub"]


@pytest.mark.parametrize("name", NUMERIC)
def test_stats_agree_with_numpy_for_every_type(name):
    kind = DTYPES[name].numpy
    array = (RNG.integers(0, 2, 1000) if name == "bool" else RNG.integers(1, 100, 1000)).astype(kind)
    row = of(array)
    wide = array.astype("f8")
    assert (row.dtype, row.numel, row.nan, row.posinf, row.neginf) == (name, 1000, 0, 0, 0)
    assert (row.min, row.max, row.zeros) == (wide.min(), wide.max(), (wide == 0).sum())
    assert row.mean == pytest.approx(wide.mean(), rel=1e-12)
    assert row.std == pytest.approx(wide.std(), rel=1e-12)
    assert row.histogram is not None
    assert sum(row.histogram.counts) == 1000
    assert row.histogram.counts == tuple(np.histogram(wide, 4)[0])


@pytest.mark.parametrize("name", ["complex64", "complex128"])
def test_complex_numbers_are_measured_by_their_magnitudes(name):
    array = (RNG.normal(size=500) + 1j * RNG.normal(size=500)).astype(name)
    row = of(array)
    assert row.max == pytest.approx(np.abs(array).max(), rel=1e-6)
    assert row.mean == pytest.approx(array.astype("c16").mean(), rel=1e-6)
    assert row.std == pytest.approx(array.astype("c16").std(), rel=1e-6)


def test_what_is_not_finite_is_counted_and_left_out():
    array = np.array([np.nan, 1, 3, np.inf, -np.inf, -np.inf, 0], "f4")
    row = of(array)
    assert (row.nan, row.posinf, row.neginf, row.zeros) == (1, 1, 2, 1)
    assert (row.min, row.max, row.mean) == (0.0, 3.0, pytest.approx(4 / 3))
    assert not row.finite
    nothing = of(np.array([np.nan, np.inf], "f2"))
    assert (nothing.min, nothing.mean, nothing.std, nothing.histogram) == (None, None, None, None)
    assert of(np.zeros((0, 3))).numel == 0


def test_bfloat16_with_nan_and_infinities():
    row = of(np.array([1, -2, np.nan, np.inf, 0], ml_dtypes.bfloat16))
    assert (row.min, row.max, row.nan, row.posinf, row.zeros) == (-2.0, 1.0, 1, 1, 1)


def test_integers_stay_exact_and_far_means_lose_nothing():
    row = of(np.array([2**63 - 1, 2**63 - 3]))
    assert (row.min, row.max) == (2**63 - 3, 2**63 - 1)
    far = of(1e9 + np.array([0.0, 1.0] * 5000))
    assert far.std == pytest.approx(0.5, rel=1e-9)


def test_pieces_put_together_are_the_whole(monkeypatch):
    array = RNG.normal(3, 2, 10_001)
    monkeypatch.setattr("weighlock.measuring.moments._BLOCK", 97)
    seen = Moments()
    seen.add(array[:5000])
    seen.add(array[5000:])
    assert seen.mean == pytest.approx(array.mean(), rel=1e-12)
    assert seen.deviation == pytest.approx(array.std(), rel=1e-12)


def test_one_value_has_a_histogram_and_extremes_that_are_far_apart_too():
    row = of(np.full(5, 2.5))
    assert row.histogram == (2.5, 2.5, (5, 0, 0, 0))
    far = of(np.array([-1.7e308, 1.7e308, 0]))
    assert far.histogram is not None
    assert far.histogram.counts == (1, 0, 1, 1)
    assert len(far.histogram.edges()) == 4


@pytest.mark.parametrize(("start", "step"), [(0.0, 0.1), (1e9, 1e-3), (-1e6, 1e-5), (0.0, 1e-300), (3.0, 2.0)])
@pytest.mark.parametrize("bins", [1, 3, 40, 1000])
def test_histograms_near_their_edges(start, step, bins):
    array = start + step * np.concatenate([np.arange(2000), RNG.integers(0, 2000, 3000)])
    (row,) = weighlock.stats(saved({"w": array}), bins=bins)
    found = row.histogram
    assert found is not None
    edges = [low for low, _ in found.edges()] + [found.high]
    counts = [int(((array >= low) & (array < high)).sum()) for low, high in found.edges()]
    counts[-1] += int((array == edges[-1]).sum())
    assert list(found.counts) == counts


def test_float4_holds_two_numbers_in_a_unit():
    packed = weighlock.PackedTensor(weighlock.dtype("float4_e2m1fn_x2"), np.array([0x21, 0xF0], "u1"))
    row = of(packed)
    assert (row.numel, row.min, row.max, row.zeros) == (4, -6.0, 1.0, 1)


def test_opaque_bits_and_tensors_without_data_have_no_figures():
    rows = weighlock.stats(saved({"b": weighlock.PackedTensor(weighlock.dtype("bits8"), np.zeros(3, "u1"))}))
    assert (rows[0].numel, rows[0].mean, rows[0].error) == (0, None, None)


@pytest.mark.parametrize("bins", [-1, 10_001])
def test_bins_have_bounds(bins):
    with pytest.raises(weighlock.ArgumentError, match="bin"):
        weighlock.stats(saved({}), bins=bins)


def test_progress_counts_every_byte():
    seen: list[int] = []
    weighlock.stats(saved({"a": np.zeros(3_000_000, "f4"), "b": np.zeros((5, 7), "u1")}), progress=seen.append)
    assert sum(seen) == 12_000_035
    assert max(seen) <= 1 << 20


def test_views_that_repeat_their_storage_out_of_all_proportion_are_not_read():
    array = np.lib.stride_tricks.as_strided(np.zeros(1, "f4"), (1 << 40,), (0,))
    file = saved({"huge": array, "small": np.ones(2)})
    rows = weighlock.stats(file)
    assert isinstance(rows[0].error, weighlock.LimitError)
    assert rows[1].mean == 1.0
    with pytest.raises(weighlock.LimitError, match="huge"):
        weighlock.digest(file)


# ------------------------------------------------------------------------------------------------ pieces of views


@pytest.mark.parametrize("band", [1, 64, 1000, 1 << 20])
def test_strided_views_are_streamed_in_order(monkeypatch, band):
    monkeypatch.setattr(streaming, "_BAND", band)
    base = np.arange(2 * 3 * 5 * 7, dtype="i4").reshape(2, 3, 5, 7)
    views = {"t": base.transpose(3, 1, 0, 2), "step": base[::-1, ::2, :, 1::3].copy()[:, ::1], "e": base[:0]}
    views["broadcast"] = np.broadcast_to(np.arange(3, dtype="i4")[:, None], (3, 4))
    with weighlock.open_checkpoint(saved(views)) as ckpt:
        for key, array in views.items():
            got = [piece.copy() for piece in streaming.pieces(streaming.parts_of(ckpt[key])[0].source)]
            np.testing.assert_array_equal(np.concatenate([*got, np.zeros(0, "i4")]), array.ravel())


# -------------------------------------------------------------------------------------------------------- digest


def example() -> dict:
    return {
        "fc.weight": np.arange(6, dtype="f4").reshape(2, 3), "fc.bias": np.ones(2, ml_dtypes.bfloat16),
        "n": np.array(3), "c": np.array([1 + 2j], "c8"),
    }  # fmt: skip


def by_hand(obj: dict) -> str:
    """The definition, once more."""
    lines = []
    for key, array in obj.items():
        name = str(array.dtype)
        data = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        lines.append(json.dumps(["tensor", [key], name, array.shape, data], separators=(",", ":")))
    return "wl1:" + hashlib.sha256("".join(line + "\n" for line in sorted(lines)).encode()).hexdigest()


def test_the_digest_is_what_its_definition_says():
    found = weighlock.digest(saved(example()))
    assert found.content == found.weights == by_hand(example())
    assert found.tensors["n"] == hashlib.sha256((3).to_bytes(8, "little")).hexdigest()
    assert str(found) == found.content


@pytest.mark.requires_safetensors
def test_formats_orders_strides_and_names_do_not_matter(tmp_path):
    from safetensors.numpy import save_file

    obj = example()
    expected = weighlock.digest(saved(obj))
    assert weighlock.digest(saved(obj, _use_new_zipfile_serialization=False)) == expected
    save_file(obj, tmp_path / "other name.safetensors")
    assert weighlock.digest(tmp_path / "other name.safetensors") == expected
    turned = {key: np.copy(obj[key], order="F") for key in reversed(obj)}
    assert weighlock.digest(saved(turned)).content == expected.content
    shared = np.concatenate([np.zeros(1, "f4"), obj["fc.weight"].ravel()])
    views = {**obj, "fc.weight": shared[1:].reshape(2, 3)}
    assert weighlock.digest(saved(views)) == expected
    with weighlock.open_checkpoint(saved(obj)) as ckpt:
        assert weighlock.digest(ckpt) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"n": np.array(4)}, {"n": np.array([3])}, {"n": np.array(3, "i4")}, {"m": np.array(3)}, {"epoch": 1},
        {"fc.weight": np.arange(6, dtype="f4").reshape(3, 2)}, {"c": np.array([1 - 2j], "c8")},
    ],
)  # fmt: skip
def test_what_the_content_is_made_of_matters(change):
    assert weighlock.digest(saved({**example(), **change})).content != weighlock.digest(saved(example())).content


def test_plain_values_count_in_one_digest_and_not_in_the_other():
    one = weighlock.digest(saved({"w": np.ones(2), "epoch": 1, "lr": 0.1}))
    two = weighlock.digest(saved({"w": np.ones(2), "epoch": 2, "lr": 0.1}))
    assert one.content != two.content
    assert one.weights == two.weights == weighlock.digest(saved({"w": np.ones(2)})).content
    assert one.values == 2
    chosen = weighlock.digest(saved({"w": np.ones(2), "v": np.ones(2), "epoch": 1}), include="w")
    assert (chosen.content, chosen.values) == (one.weights, 0)


def test_paths_count_and_integer_keys_are_not_text():
    digests = {
        weighlock.digest(saved(obj)).content
        for obj in ({"a": {"b": np.ones(1)}}, {"a.b": np.ones(1)}, {1: np.ones(1)}, {"1": np.ones(1)}, [np.ones(1)])
    }
    assert len(digests) == 5


def test_sets_have_no_order_and_no_hash_seed():
    code = (
        "import io, weighlock as w; f = io.BytesIO(); w.save({'s': {'a', 'b', 'c'}}, f); print(w.digest(f.getvalue()))"
    )
    found = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                       env={"PYTHONHASHSEED": str(seed), "PYTHONPATH": ":".join(sys.path)}).stdout
        for seed in (1, 2, 3)
    }  # fmt: skip
    assert len(found) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (1, 1.0), (0.0, -0.0), ("1", 1), (None, "null"), (b"a", "a"), (2**70, -(2**70)), ([], {}), ([], set()),
     (1e308, math.inf), (1j, 1.0), (2**53, float(2**53))],
)  # fmt: skip
def test_plain_values_that_differ_are_spelled_differently(one, other):
    assert canonical_text(one) != canonical_text(other)


def test_plain_values_that_are_equal_are_spelled_alike():
    assert canonical([]) == canonical(())
    assert canonical(math.nan) == canonical(-math.nan)
    assert canonical_text("\ud800é") == '"\\ud800\\u00e9"'


def test_leaves_of_several_parts_have_digests_too():
    def sparse(value: float) -> bytes:
        made = weighlock.SparseTensor(
            TORCH_NAMES["sparse_coo"], np.array([[0, 1]]), np.array([value, 2.0]), (3,), coalesced=True
        )
        return saved({"s": made})

    assert weighlock.digest(sparse(1)) == weighlock.digest(sparse(1))
    assert weighlock.digest(sparse(1)) != weighlock.digest(sparse(3))


@pytest.mark.requires_torch
def test_metadata_of_a_state_dict_is_not_content(torch, tmp_path):
    layer = torch.nn.BatchNorm1d(3)
    torch.save(layer.state_dict(), tmp_path / "a.pt")
    torch.save(dict(layer.state_dict()), tmp_path / "b.pt")
    assert weighlock.digest(tmp_path / "a.pt") == weighlock.digest(tmp_path / "b.pt")
