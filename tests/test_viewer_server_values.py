"""Numbers that the viewer shows: grids, heat maps, figures and downloads, beside what NumPy says of the same tensor."""

from __future__ import annotations

import io
import math
import pickle

import numpy as np
import pytest

import weighlock
from tests.conftest import GOLDENS
from tests.viewer_client import viewing
from weighlock.viewer import bounds
from weighlock.viewer.reading import bands

RNG = np.random.default_rng(5)
ARRAYS = {
    "plain": RNG.standard_normal((300, 70)).astype("f4"),
    "double": RNG.standard_normal((41, 33)),
    "half": RNG.standard_normal((50, 9)).astype("f2"),
    "line": RNG.standard_normal(1000).astype("f4"),
    "scalar": np.array(2.5),
    "five": RNG.integers(-9, 9, (2, 3, 2, 4, 5)),
    "flags": RNG.integers(0, 2, (7, 8)).astype("?"),
    "bytes": RNG.integers(0, 255, (3, 200)).astype("u1"),
    "wide": RNG.integers(-(1 << 62), 1 << 62, (4, 4)),
    "empty": np.zeros((0, 5), "f4"),
    "narrow": np.zeros((5, 0), "f4"),
    "one": np.array([[1.0]]),
    "columns": RNG.standard_normal((40, 30)).T,
    "steps": RNG.standard_normal((60, 80))[::3, ::7],
    "unfinished": np.array([[1.0, np.nan, np.inf], [-np.inf, np.nan, 0.0]]),
    "nothing": np.full((8, 8), np.nan),
    "complex": (RNG.standard_normal((6, 5)) + 1j * RNG.standard_normal((6, 5))).astype("c8"),
    "extremes": np.array([1.7e308, -1.7e308, 0.0]),
}
NAMES = list(ARRAYS)


@pytest.fixture(scope="module")
def viewer(tmp_path_factory):
    path = tmp_path_factory.mktemp("values") / "values.pt"
    weighlock.save(ARRAYS, path)
    with viewing(path) as found:
        yield found


def where(name):
    return f"/file/0/tensor/{NAMES.index(name)}"


def plane_of(array, at=()):
    found = array[tuple(at)]
    return found.reshape((1,) * (2 - found.ndim) + found.shape)


def blocks(array, height, width):
    """Return the three planes, block by block, as slowly as they are defined."""
    array = np.abs(array) if array.dtype.kind == "c" else array.astype("f8")
    rows, columns = min(height, array.shape[0]), min(width, array.shape[1])
    planes = np.full((3, rows, columns), np.nan)
    for i in range(rows):
        for j in range(columns):
            part = array[
                i * array.shape[0] // rows : (i + 1) * array.shape[0] // rows,
                j * array.shape[1] // columns : (j + 1) * array.shape[1] // columns,
            ]
            part = part[~np.isnan(part)]
            if part.size:
                with np.errstate(all="ignore"):
                    planes[:, i, j] = part.min(), part.mean(), part.max()
    return planes


def heat(viewer, path, **parameters):
    answer = viewer.get(f"{path}/heat", **parameters)
    assert answer.status == 200, answer.body
    rows, columns = (int(answer.headers[f"x-weighlock-{name}"]) for name in ("rows", "cols"))
    return np.frombuffer(answer.body, "<f4").reshape(3, rows, columns), answer


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 16), (384, 512)])
def test_heat_maps_are_what_numpy_says(viewer, name, size):
    array = ARRAYS[name]
    at = [1] * max(0, array.ndim - 2)
    found, answer = heat(viewer, where(name), at=at, height=size[0], width=size[1])
    plane = plane_of(array, at)
    assert (int(answer.headers["x-weighlock-of-rows"]), int(answer.headers["x-weighlock-of-cols"])) == plane.shape
    with np.errstate(over="ignore"):  # what float32 cannot hold is drawn as infinite
        expected = blocks(plane, *size).astype("f4")
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("band", [1, 64, 1000])
@pytest.mark.parametrize("name", ["plain", "line", "columns", "steps", "unfinished", "half"])
def test_heat_maps_do_not_depend_on_how_they_are_read(viewer, monkeypatch, name, band):
    whole, _ = heat(viewer, where(name), height=9, width=6)
    monkeypatch.setattr(bands, "_BAND", band)
    part, _ = heat(viewer, where(name), height=9, width=6)
    np.testing.assert_allclose(part, whole, rtol=1e-6)


def test_a_part_of_a_tensor_is_drawn(viewer):
    found, _ = heat(viewer, where("plain"), rows="10:30", cols="5:", height=4, width=5)
    np.testing.assert_allclose(found, blocks(ARRAYS["plain"][10:30, 5:], 4, 5), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_grids_are_the_exact_values(viewer, name):
    array = ARRAYS[name]
    at = [1] * max(0, array.ndim - 2)
    found = viewer.document(f"{where(name)}/grid", at=at, rows="0:9", cols="0:12")
    plane = plane_of(array, at)[:9, :12]
    assert found["shape"] == list(array.shape)
    assert (found["rows"], found["cols"]) == ([0, plane.shape[0]], [0, plane.shape[1]])
    assert len(found["values"]) == plane.shape[0]
    for shown, texts, row in zip(found["values"], found["texts"], plane, strict=True):
        for value, text, expected in zip(shown, texts, row, strict=True):
            exact = expected.item()
            if isinstance(exact, float) and not math.isfinite(exact):
                assert value == str(exact)
            elif isinstance(exact, bool):
                assert (value, text) == (str(exact), str(exact))
            elif isinstance(exact, complex):
                assert value == text
                assert array.dtype.type(complex(text)) == expected
            elif isinstance(exact, int):
                assert (str(value), text) == (str(exact), str(exact))
                assert isinstance(value, str) == (abs(exact) > 1 << 53)
            else:
                assert value == exact
                assert array.dtype.type(text) == expected


def test_a_grid_is_any_part(viewer):
    found = viewer.document(f"{where('plain')}/grid", rows="299:400", cols="68:70")
    assert (found["rows"], found["cols"]) == ([299, 300], [68, 70])
    assert found["values"] == [[float(value) for value in ARRAYS["plain"][299, 68:]]]
    five = viewer.document(f"{where('five')}/grid", at=[1, 2, 1])
    assert five["values"] == ARRAYS["five"][1, 2, 1].tolist()
    assert five["at"] == [1, 2, 1]


@pytest.mark.parametrize(
    ("name", "parameters", "status"),
    [
        ("plain", {}, 422),  # 21,000 cells
        ("plain", {"rows": "0:300", "cols": "0:34"}, 422),
        ("plain", {"rows": "5"}, 400),
        ("plain", {"rows": "9:5"}, 400),
        ("plain", {"rows": "-1:5"}, 400),
        ("plain", {"rows": "0:" + "9" * 40}, 400),
        ("plain", {"at": [0]}, 400),
        ("five", {}, 400),
        ("five", {"at": [0, 0]}, 400),
        ("five", {"at": [0, 3, 0]}, 400),
        ("five", {"at": [0, -1, 0]}, 400),
        ("five", {"at": [0, True, 0]}, 400),
        ("five", {"at": "[0,1e400,0]"}, 400),
        ("plain", {"part": "values"}, 400),
    ],
)
def test_parts_that_do_not_fit_are_refused(viewer, name, parameters, status):
    answer = viewer.get(f"{where(name)}/grid", **parameters)
    assert answer.status == status
    if status == 400:
        assert viewer.get(f"{where(name)}/heat", **parameters).status == 400


def test_a_heat_map_has_no_more_pixels_than_a_screen(viewer):
    for parameters in ({"width": bounds.MOST_PIXELS + 1}, {"height": 0}, {"width": "x"}):
        assert viewer.get(f"{where('plain')}/heat", **parameters).status == 400


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_what_numpy_says(viewer, name):
    found = viewer.document(f"{where(name)}/stats", bins=7)
    flat = ARRAYS[name].reshape(-1)
    numbers = flat.astype("c16" if flat.dtype.kind == "c" else "f8")
    finite = numbers[np.isfinite(numbers)]
    assert found["count"] == flat.size
    assert found["nan"] == int(np.isnan(numbers).sum())
    assert found["zeros"] == int((numbers == 0).sum())
    sizes = np.abs(finite) if flat.dtype.kind == "c" else finite
    if not finite.size:
        assert (found["min"], found["max"], found["mean"], found["absmax"], found["histogram"]) == (None,) * 5
        return
    assert float(found["min"]) == pytest.approx(sizes.min())
    assert float(found["absmax"]) == pytest.approx(np.abs(sizes).max())
    assert sum(found["histogram"]["counts"]) == finite.size
    assert len(found["histogram"]["edges"]) == 8
    if name != "extremes":
        assert complex(found["mean"]) == pytest.approx(complex(finite.mean()), rel=1e-9, abs=1e-12)
        assert found["std"] == pytest.approx(finite.std(), rel=1e-9, abs=1e-12)


def test_figures_of_the_largest_numbers_are_no_error(tmp_path):
    """The square of such a distance is no number: `**` raised an OverflowError, which ended the whole report."""
    path = tmp_path / "m.pt"
    weighlock.save({"w": np.concatenate([np.full(1 << 16, 1.7e308), np.full(1 << 16, -1.7e308)])}, path)
    (row,) = weighlock.stats(path)
    assert (row.error, row.min, row.max) == (None, -1.7e308, 1.7e308)
    with viewing(path) as viewer:
        assert viewer.document("/file/0/tensor/0/stats")["max"] == 1.7e308


def test_figures_are_kept(viewer, monkeypatch):
    from weighlock.viewer.reading import figures

    first = viewer.document(f"{where('plain')}/stats", bins=3)
    monkeypatch.setattr(figures, "measure", lambda *_: pytest.fail("measured again"))
    assert viewer.document(f"{where('plain')}/stats", bins=3) == first


# ---------------------------------------------------------------------------------------------------------- downloads


@pytest.mark.parametrize("name", NAMES)
def test_an_array_is_what_numpy_loads(viewer, name):
    answer = viewer.get(f"{where(name)}/export.npy")
    assert answer.status == 200
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}.npy"'
    assert int(answer.headers["content-length"]) == len(answer.body)
    found = np.load(io.BytesIO(answer.body), allow_pickle=False)
    assert found.dtype == ARRAYS[name].dtype
    np.testing.assert_array_equal(found, ARRAYS[name])


@pytest.mark.parametrize("name", ["plain", "five", "scalar", "line", "wide", "flags", "unfinished", "empty", "complex"])
def test_text_for_a_spreadsheet_holds_every_value(viewer, name):
    answer = viewer.get(f"{where(name)}/export.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    array = ARRAYS[name]
    rows = [line.split(",") for line in answer.body.decode().splitlines()]
    assert len(rows) == (array.size // max(1, array.shape[-1]) if array.ndim else 1)
    texts = [text.replace("True", "1").replace("False", "0") for row in rows for text in row]
    found = (
        np.array([complex(text) for text in texts])
        if array.dtype.kind == "c"
        else np.array(texts, "i8" if array.dtype.kind == "i" else array.dtype.kind)
    )
    if name != "flags" and array.size:
        np.testing.assert_array_equal(found.astype(array.dtype).reshape(array.shape), array)


def test_names_of_downloads_are_harmless(tmp_path):
    path = tmp_path / "m.pt"
    weighlock.save({'../a"b\r\nX-Evil: 1': np.zeros(2), "": np.zeros(2), "é" * 300: np.zeros(2)}, path)
    with viewing(path) as viewer:
        for index, expected in enumerate(("a_b__X-Evil__1", "top", "tensor")):
            answer = viewer.get(f"/file/0/tensor/{index}/export.npy")
            assert answer.headers["content-disposition"] == f'attachment; filename="{expected}.npy"'
            assert "x-evil" not in answer.headers


def test_what_is_too_large_for_a_download_is_refused_at_once(tmp_path, monkeypatch):
    from weighlock.viewer.reading import exporting

    path = tmp_path / "m.pt"
    weighlock.save({"w": np.zeros((1001, 1000), "i1")}, path)
    with viewing(path) as viewer:
        assert viewer.get("/file/0/tensor/0/export.csv").status == 422
        monkeypatch.setattr(exporting, "MOST_NPY_BYTES", 1000)
        refused = viewer.get("/file/0/tensor/0/export.npy")
        assert refused.status == 422
        assert "weighlock show" in refused.json["error"]["next"]


def test_damage_that_shows_when_bytes_are_read_is_an_answer_not_half_a_file(tmp_path, capsys):
    """The name in the header of the record is another one, which only the first reading of it sees."""
    path = tmp_path / "m.pt"
    weighlock.save({"w": np.arange(3_000_000.0)}, path)
    data = path.read_bytes()
    at = data.index(b"archive/data/0")
    path.write_bytes(data[:at] + b"archive/data/1" + data[at + 14 :])
    with viewing(path) as viewer:
        for what in ("export.npy", "export.csv", "heat", "stats", "grid"):
            answer = viewer.get(f"/file/0/tensor/0/{what}")
            assert answer.status == 422, what
            assert answer.json["error"]["message"]


# ------------------------------------------------------------------------------------------------------ kinds of files


def test_a_compressed_record_is_read_whole_but_only_up_to_a_bound(tmp_path, monkeypatch):
    import zipfile

    plain, packed = tmp_path / "plain.pt", tmp_path / "packed.pt"
    weighlock.save({"w": ARRAYS["plain"]}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with viewing(packed) as viewer:
        found, _ = heat(viewer, "/file/0/tensor/0", height=5, width=6)
        np.testing.assert_allclose(found, blocks(ARRAYS["plain"], 5, 6), rtol=2e-6, atol=1e-6)
        assert viewer.document("/file/0/tensor/0/grid", rows="0:1", cols="0:1")["values"] == [
            [float(ARRAYS["plain"][0, 0])]
        ]
        monkeypatch.setattr(bands, "MOST_WHOLE_BYTES", 100)
        assert viewer.get("/file/0/tensor/0/heat").status == 422


def test_a_view_that_repeats_itself_is_refused(tmp_path):
    path = tmp_path / "m.pt"
    weighlock.save({"w": np.lib.stride_tricks.as_strided(np.zeros(4), (1 << 20, 1 << 20), (0, 0))}, path)
    with viewing(path) as viewer:
        for what in ("heat", "stats", "export.npy"):
            assert viewer.get(f"/file/0/tensor/0/{what}").status == 422
        assert viewer.document("/file/0/tensor/0/grid", rows="0:2", cols="5:7")["values"] == [[0.0, 0.0], [0.0, 0.0]]


GOLDEN = sorted((GOLDENS / "torch-2.13.0").glob("*.zip.pt"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_every_kind_of_tensor_has_values_or_says_why_not(path):
    with viewing(path) as viewer:
        assert viewer.document("/file/0/tree")["nodes"] is not None
        for row in viewer.document("/file/0/tensors")["rows"]:
            where = f"/file/0/tensor/{row['index']}"
            found = viewer.document(where)
            at = [0] * max(0, len(row["shape"] or ()) - 2)
            grid = viewer.get(f"{where}/grid", at=at, rows="0:20", cols="0:20")
            assert (grid.status == 200) == found["readable"] == (found["why_not"] is None)
            if grid.status != 200:
                assert grid.status == 422
                assert found["why_not"] in grid.json["error"]["message"]
            for part in found["parts"]:
                leading = [0] * max(0, len(part["shape"]) - 2)
                viewer.document(f"{where}/grid", part=part["name"], at=leading, rows="0:5", cols="0:5")
            assert viewer.get(f"{where}/stats").status == 200
            for what in ("heat", "export.npy", "export.csv"):
                assert viewer.get(f"{where}/{what}", **({"at": at} if what == "heat" else {})).status in (200, 422)


@pytest.mark.requires_ml_dtypes
@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"])
def test_small_floats_are_drawn_and_saved_as_the_numbers_they_are(tmp_path, name):
    import ml_dtypes

    array = np.abs(RNG.standard_normal((20, 30))).astype(getattr(ml_dtypes, name))
    path = tmp_path / "m.pt"
    weighlock.save({"w": array}, path)
    with viewing(path) as viewer:
        numbers = array.astype("f4")
        found, _ = heat(viewer, "/file/0/tensor/0", height=4, width=5)
        np.testing.assert_allclose(found, blocks(numbers, 4, 5), rtol=2e-6)
        exported = np.load(io.BytesIO(viewer.get("/file/0/tensor/0/export.npy").body))
        assert exported.dtype == np.float32
        np.testing.assert_array_equal(exported, numbers)
        grid = viewer.document("/file/0/tensor/0/grid")["values"]
        np.testing.assert_array_equal(np.array(grid, "f4"), numbers)


def test_packed_floats_are_two_numbers_an_element():
    with viewing(GOLDENS / "torch-2.13.0" / "dtype_float4_e2m1fn_x2.zip.pt") as viewer:
        row = viewer.document("/file/0/tensors")["rows"][0]
        found, answer = heat(viewer, "/file/0/tensor/0")
        assert int(answer.headers["x-weighlock-of-cols"]) == 2 * row["shape"][-1]
        exported = np.load(io.BytesIO(viewer.get("/file/0/tensor/0/export.npy").body))
        assert exported.shape == (*row["shape"][:-1], 2 * row["shape"][-1])
        np.testing.assert_array_equal(found[1], exported)


def test_arrays_that_were_pickled_as_such(tmp_path):
    path = tmp_path / "m.pkl"
    arrays = {
        "numbers": np.arange(6.0).reshape(2, 3), "texts": np.array(["a", "b"]), "bytes": np.array([b"x"]),
        "objects": np.array([None, {}], dtype=object), "fields": np.zeros(2, [("a", "i4"), ("b", "f8")]),
        "dates": np.array(["2020-01-01"], "M8[D]"), "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    }  # fmt: skip
    path.write_bytes(pickle.dumps(arrays))
    with viewing(path) as viewer:
        rows = viewer.document("/file/0/tensors")["rows"]
        assert {row["key"] for row in rows} >= {"numbers", "texts", "objects", "fortran"}
        for row in rows:
            where = f"/file/0/tensor/{row['index']}"
            readable = viewer.document(where)["readable"]
            assert readable == (row["key"] in ("numbers", "fortran"))
            for what in ("grid", "heat", "stats", "export.npy", "export.csv"):
                answer = viewer.get(f"{where}/{what}")
                assert answer.status == (200 if readable else answer.status), what
                assert answer.status in (200, 422), (row["key"], what, answer.body)
            if readable:
                assert viewer.document(f"{where}/grid")["values"] == arrays[row["key"]].tolist()


@pytest.mark.requires_torch
def test_a_quantized_tensor_has_its_integers_and_what_they_stand_for(torch, tmp_path):
    tensor = torch.quantize_per_tensor(torch.linspace(-1, 1, 12).reshape(3, 4), 0.01, 3, torch.qint8)
    path = tmp_path / "m.pt"
    torch.save({"q": tensor}, path)
    with viewing(path) as viewer:
        found = viewer.document("/file/0/tensor/0/grid")
        assert found["values"] == tensor.int_repr().tolist()
        assert np.array(found["dequantized"]) == pytest.approx(tensor.dequantize().numpy(), rel=1e-6)
        drawn, _ = heat(viewer, "/file/0/tensor/0")
        assert drawn[1].tolist() == tensor.int_repr().tolist()


@pytest.mark.requires_torch
def test_the_parts_of_a_sparse_tensor_are_shown(torch, tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"s": torch.eye(4).to_sparse()}, path)
    with viewing(path) as viewer:
        found = viewer.document("/file/0/tensor/0")
        assert (found["readable"], [part["name"] for part in found["parts"]]) == (False, ["values", "indices"])
        assert viewer.document("/file/0/tensor/0/grid", part="indices")["values"] == [[0, 1, 2, 3]] * 2
        assert heat(viewer, "/file/0/tensor/0", part="values")[0].tolist() == [[[1.0] * 4]] * 3
        assert viewer.document("/file/0/tensor/0/stats")["count"] == 4
        indices = viewer.document("/file/0/tensor/0/stats", part="indices")
        assert (indices["count"], indices["max"], indices["dtype"]) == (8, 3, "int64")
        assert viewer.get("/file/0/tensor/0/stats", part="nothing").status == 400
