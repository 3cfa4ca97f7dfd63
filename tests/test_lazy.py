"""Checkpoints opened lazily: what is said of each tensor, and that whatever is read of it is what `load` gives."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import weighlock as wl
from tests.describe import describe
from weighlock.opening.naming import spell
from weighlock.storages.source import PathSource

GOLDENS = sorted((Path(__file__).parent / "goldens").glob("*/*.pt"))


def saved(value: Any, **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    wl.save(value, file, **options)
    file.seek(0)
    return file


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of what is read of files from here on."""
    read: list[int] = []
    original = PathSource.read_into

    def read_into(self: Any, offset: int, target: memoryview) -> None:
        read.append(len(target))
        original(self, offset, target)

    monkeypatch.setattr(PathSource, "read_into", read_into)
    return read


def at(value: Any, path: tuple[Any, ...]) -> Any:
    """What stands at a path of a loaded object."""
    for part in path:
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(part, int):
            value = list(value)[part]
        else:
            value = getattr(value, part)
    return value


class TestGoldens:
    @pytest.mark.parametrize("path", GOLDENS, ids=lambda path: f"{path.parent.name}-{path.stem}")
    def test_each_leaf_is_what_load_gives(self, path):
        loaded = wl.load(path)
        with wl.open_checkpoint(path) as ckpt:
            together = ckpt.read()
            assert list(together) == list(ckpt)
            for key, lazy in ckpt.items():
                expected = describe(at(loaded, lazy.path))
                assert describe(lazy.read()) == expected, key
                assert describe(together[key]) == expected, key

    @pytest.mark.parametrize("path", GOLDENS, ids=lambda path: f"{path.parent.name}-{path.stem}")
    def test_the_layout_has_each_byte_once(self, path):
        with wl.open_checkpoint(path) as ckpt:
            reached = 0
            for row in ckpt.layout:
                assert row.offset == reached, row
                assert row.nbytes > 0
                reached += row.nbytes
            assert reached == ckpt.size
            assert not [row for row in ckpt.layout if row.kind == "gap"]

    @pytest.mark.requires_torch
    @pytest.mark.parametrize("path", GOLDENS, ids=lambda path: f"{path.parent.name}-{path.stem}")
    def test_torch_tensors_are_what_load_gives(self, path, torch):
        with wl.open_checkpoint(path) as ckpt:
            plain = [key for key, lazy in ckpt.items() if lazy.layout in ("strided", "packed")]
            found = ckpt.read(plain, framework="torch")
            loaded = wl.load(path, framework="torch")
            for key in plain:
                expected = at(loaded, ckpt[key].path)
                assert type(found[key]) is type(expected)
                assert found[key].requires_grad == expected.requires_grad
                assert describe(found[key]) == describe(expected)


class TestKeys:
    def test_paths_that_read_alike_are_told_apart(self):
        one = np.ones(1)
        ckpt = wl.open_checkpoint(saved({"a.b": one, "a": {"b": one + 1, "c": one}, 1: one + 2, "1": one + 3}))
        assert list(ckpt) == ['["a.b"]', '["a","b"]', "a.c", "[1]", '["1"]']
        assert ckpt['["a","b"]'].read()[0] == 2
        assert ckpt["a", "b"].read()[0] == 2
        assert ckpt[(1,)].read()[0] == 3
        assert ckpt.__contains__(("a", "b"))
        assert not ckpt.__contains__(("a", "x"))
        with pytest.raises(wl.MissingKeyError, match="more than one"):
            ckpt["a.b"]

    def test_what_stays_ambiguous_is_numbered(self):
        assert spell([("a.b",), ("a", "b"), ('["a","b"]',)]) == ['["a.b"]', '["a","b"]#2', '["a","b"]']
        assert spell([("x",)], taken=["x"]) == ['["x"]']
        paths = [((1, 2),), ((3, 4),)]
        assert len(set(spell(paths))) == 2

    @given(
        st.lists(st.lists(st.one_of(st.text("a.1[", max_size=3), st.integers(0, 1)), max_size=3).map(tuple), max_size=9)
    )
    def test_no_two_keys_are_alike(self, paths):
        assert len(set(spell(paths))) == len(paths)

    def test_the_whole_object_may_be_a_tensor(self):
        ckpt = wl.open_checkpoint(saved(np.arange(3)))
        assert list(ckpt) == ["(top)"]
        assert ckpt[()].read().tolist() == [0, 1, 2]

    def test_globs(self):
        value = {"enc": [{"w": np.ones(1), "b": np.ones(1)}, {"w": np.ones(1)}], "w": np.ones(1)}
        ckpt = wl.open_checkpoint(saved(value))
        assert list(ckpt.keys("enc.*.w")) == ["enc.0.w", "enc.1.w"]
        assert list(ckpt.keys("*")) == ["w"]
        assert list(ckpt.keys("**w")) == ["enc.0.w", "enc.1.w", "w"]
        chosen = ckpt.select(include=["enc.**", "w"], exclude="**.b")
        assert list(chosen) == ["enc.0.w", "enc.1.w", "w"]
        assert list(chosen.select(exclude="w").read()) == ["enc.0.w", "enc.1.w"]
        assert list(ckpt.read(["w", ("enc", 0, "b")])) == ["w", "enc.0.b"]
        assert "enc.0.b" not in chosen

    @pytest.mark.parametrize(
        ("key", "hint"),
        [
            ("layer.weigth", "layer.weight"),
            ("layer", "no tensor"),
            ("epoch", "no tensor"),
            ("zzzzzz", "keys()"),
            (("x",), "keys()"),
        ],
    )
    def test_a_missing_key_says_what_to_do(self, key, hint):
        ckpt = wl.open_checkpoint(saved({"layer": {"weight": np.ones(1)}, "epoch": 1}))
        with pytest.raises(KeyError) as caught:
            ckpt[key]
        assert isinstance(caught.value, wl.MissingKeyError)
        assert hint in str(caught.value)
        assert ckpt.get(key) is None

    def test_hostile_names(self):
        names = [
            "\x1b[31mred",
            "\u202etxt.exe",
            "a\nb",
            "[bold]x[/bold]",
            "k" * 10_000,
            "",
            ".",
            "\ud800",
            '["a"]',
            "**",
            "a",
            "#2",
        ]
        ckpt = wl.open_checkpoint(saved({name: np.full(1, number) for number, name in enumerate(names)}))
        assert len(ckpt) == len(set(ckpt)) == len(names)
        for number, name in enumerate(names):
            lazy = ckpt[(name,)]
            assert lazy.read()[0] == number
            assert ckpt[lazy.key].path == (name,)
            assert "\x1b" not in repr(lazy)
            assert "\n" not in repr(lazy)


class TestFacts:
    def test_what_is_said_of_a_tensor(self):
        base = np.arange(24, dtype="f4").reshape(4, 6)
        ckpt = wl.open_checkpoint(saved({"base": base, "part": base[1:3, ::2], "same": base, "t": base.T}))
        part = ckpt["part"]
        assert (part.shape, part.stride, part.offset) == ((2, 3), (6, 2), 6)
        assert (part.dtype, part.numel, part.nbytes) == (wl.dtype("float32"), 6, 24)
        assert (part.layout, part.is_contiguous, part.requires_grad) == ("strided", False, False)
        assert part.storage == ckpt["base"].storage
        assert ckpt["same"].alias_of == "base"
        assert ckpt["base"].alias_of is None
        assert part.alias_of is None
        assert part.path == ("part",)
        assert part.extent is None
        assert len(part) == 2
        assert [row.tolist() for row in part] == part.read().tolist()
        assert np.asarray(part, "f8").dtype == "f8"
        assert bool(ckpt["base"])

    def test_the_extent_is_where_the_bytes_are(self, tmp_path):
        path = tmp_path / "a.pt"
        wl.save({"w": np.arange(100, dtype="i4")}, path)
        with wl.open_checkpoint(path) as ckpt:
            extent = ckpt["w"].extent
        assert extent is not None
        assert path.read_bytes()[extent.offset : extent.offset + extent.nbytes] == np.arange(100, dtype="<i4").tobytes()

    def test_objects_are_the_rest(self):
        value = {
            "epoch": 3, "lr": [0.1, 0.2], "w": np.ones(1), "none": None, "empty": {}, "name": "a",
            "nested": {"w": np.ones(1), "type": wl.dtype("float16"), "other": wl.dtype("float16")},
        }  # fmt: skip
        ckpt = wl.open_checkpoint(saved(value))
        assert dict(ckpt.objects) == {
            "epoch": 3, "lr.0": 0.1, "lr.1": 0.2, "none": None, "empty": {}, "name": "a",
            "nested.type": wl.dtype("float16"), "nested.other": wl.dtype("float16"),
        }  # fmt: skip
        assert ckpt.object["epoch"] == 3

    def test_storages_say_who_shares_what(self):
        base = np.arange(10, dtype="f8")
        ckpt = wl.open_checkpoint(saved({"a": base[:4], "b": base[2:6], "c": np.ones(2)}))
        first = ckpt.storages[str(ckpt["a"].storage)]
        assert first.tensors == ("a", "b")
        assert first.overlapping == ("a", "b")
        assert (first.used, first.unused) == (first.nbytes, 0)
        assert ckpt.storages[str(ckpt["c"].storage)].overlapping == ()

    def test_unused_bytes_are_counted(self, torch):
        file = io.BytesIO()
        torch.save({"w": torch.zeros(1000)[:10]}, file)
        file.seek(0)
        ckpt = wl.open_checkpoint(file)
        (storage,) = ckpt.storages.values()
        assert (storage.nbytes, storage.used, storage.unused) == (4000, 40, 3960)

    def test_nothing_is_read_and_numpy_not_imported(self, tmp_path):
        path = tmp_path / "a.pt"
        wl.save({"w": np.ones((100, 100)), "n": 1, "q": np.ones(3, "f2")}, path)
        program = (
            "import sys, weighlock\n"
            f"with weighlock.open_checkpoint({str(path)!r}) as ckpt:\n"
            "    list(ckpt.items()), ckpt['w'].metadata, ckpt.objects, ckpt.storages, ckpt.layout\n"
            "    ckpt['w'].extent, ckpt['w'].dtype, ckpt.metadata, ckpt.globals, repr(ckpt)\n"
            "assert not {'numpy', 'torch', 'urllib3', 'fsspec', 'ml_dtypes'} & set(sys.modules)\n"
        )
        subprocess.run([sys.executable, "-c", program], check=True)


SHAPES = st.lists(st.integers(0, 7), max_size=4).map(tuple)
PARTS = st.one_of(
    st.integers(-8, 8),
    st.slices(9),
    st.builds(slice, st.none() | st.integers(-9, 9), st.none() | st.integers(-9, 9), st.integers(-4, 4)),
    st.just(...),
)
INDICES = st.one_of(PARTS, st.lists(PARTS, max_size=4).map(tuple))
DTYPES = ("float32", "float16", "int64", "uint8", "bool", "complex64", "complex128", "bfloat16", "float8_e4m3fn")


def filled(shape: tuple[int, ...], name: str) -> Any:
    kind = wl.dtype(name).numpy
    count = int(np.prod(shape, dtype=int)) * kind.itemsize
    raw = (np.arange(count) * 37 + 11).astype("u1")
    return (raw % 2 == 0 if name == "bool" else raw.view(kind)).reshape(shape)


def viewed(base: Any, how: int) -> Any:
    """One of several views that are no plain copies of their storage."""
    if how == 1:
        return base.T
    if how == 2 and base.ndim:
        return base[::2]
    if how == 3 and base.ndim:
        return np.broadcast_to(base, (3, *base.shape))
    if how == 4 and base.ndim > 1:
        return base[:, 1:]
    return base


def packed(data: bytes) -> bytes:
    """The same archive with every record deflated."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    return out.getvalue()


def turned(data: bytes, unit: int) -> bytes:
    """The same archive as a big-endian machine would have written it; all tensors of elements of `unit` bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            record = old.read(info)
            if info.filename.endswith("/byteorder"):
                record = b"big"
            elif "/data/" in info.filename:
                record = np.frombuffer(record, f"u{unit}").byteswap().tobytes()
            new.writestr(info.filename, record)
    return out.getvalue()


def safetensors(arrays: dict[str, Any]) -> bytes:
    header, blocks, end = {}, [], 0
    for name, array in arrays.items():
        raw = np.ascontiguousarray(array).tobytes()
        code = next(
            row.safetensors_code for row in wl.dtypes.DTYPES.values() if row.numpy_name and row.numpy == array.dtype
        )
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [end, end + len(raw)]}
        blocks.append(raw)
        end += len(raw)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(blocks)


class TestInside:
    """A checkpoint that lies in an archive as its only file: readable, but no byte of it is where it would seem."""

    def test_an_archive_of_one_checkpoint(self):
        inner = saved({"w": np.arange(6.0)}).getvalue()
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("model.pt", inner)
        ckpt = wl.open_checkpoint(out.getvalue())
        assert ckpt["w"].read().tolist() == [0, 1, 2, 3, 4, 5]
        assert ckpt["w"][1::2].tolist() == [1, 3, 5]
        assert ckpt["w"].extent is None
        assert [row.kind for row in ckpt.layout] == ["header", "record", "directory", "end"]
        assert sum(row.nbytes for row in ckpt.layout) == ckpt.size


class TestSlices:
    @given(SHAPES, INDICES, st.sampled_from(DTYPES), st.integers(0, 4), st.sampled_from(["zip", "legacy", "deflated"]))
    def test_every_slice_is_numpys(self, shape, index, name, how, form):
        array = viewed(filled(shape, name), how)
        if wl.dtype(name).storage_class is None and form == "legacy":
            form = "zip"  # legacy streams have no place for the types of later years
        data = saved({"w": array}, _use_new_zipfile_serialization=form != "legacy").getvalue()
        lazy = wl.open_checkpoint(packed(data) if form == "deflated" else data)["w"]
        try:
            expected = array[index]
        except (IndexError, ValueError):
            with pytest.raises(wl.ArgumentError):
                lazy[index]
            return
        found = lazy[index]
        assert type(found) is type(expected)
        assert found.dtype == expected.dtype
        assert np.shape(found) == np.shape(expected)
        assert np.asarray(found).tobytes() == np.asarray(expected).tobytes()

    @pytest.mark.parametrize("name", ["float32", "float16", "int64", "complex64", "uint8"])
    def test_big_endian_files(self, name):
        array = filled((5, 7), name)
        unit = wl.dtype(name).swap
        data = turned(saved({"w": array}).getvalue(), unit)
        lazy = wl.open_checkpoint(data)["w"]
        for index in (np.s_[:], np.s_[1:3], np.s_[::2, ::-3], np.s_[-1, 2]):
            assert np.asarray(lazy[index]).tobytes() == np.asarray(array[index]).tobytes()
        assert lazy.read().tobytes() == array.tobytes()

    def test_safetensors(self):
        arrays = {"a": filled((6, 5), "bfloat16"), "b": filled((4,), "int64"), "c": filled((), "float32")}
        ckpt = wl.open_checkpoint(safetensors(arrays))
        assert ckpt.format == "safetensors"
        assert [row.kind for row in ckpt.layout] == ["header", "data", "data", "data"]
        assert ckpt["a"][::2, 1:].tobytes() == arrays["a"][::2, 1:].tobytes()
        assert ckpt["c"][...].tobytes() == arrays["c"].tobytes()
        for key, found in ckpt.read().items():
            assert found.tobytes() == arrays[key].tobytes()

    @pytest.mark.parametrize(
        "index", [None, True, [0, 1], "a", 1.0, np.array([1, 2]), (slice(None), None), (0, True)], ids=repr
    )
    def test_what_is_no_slice_is_refused(self, index):
        lazy = wl.open_checkpoint(saved({"w": np.ones((3, 3))}))["w"]
        with pytest.raises(wl.ArgumentTypeError, match="integers, slices"):
            lazy[index]

    def test_numpy_integers_are_integers(self):
        lazy = wl.open_checkpoint(saved({"w": np.arange(9).reshape(3, 3)}))["w"]
        assert lazy[np.int64(1), np.uint8(2)] == 5

    def test_slices_larger_than_a_block(self):
        array = np.arange(3 << 20, dtype="i4").reshape(3, 1 << 10, 1 << 10)
        data = saved({"w": array, "t": array.transpose(2, 0, 1)}).getvalue()
        ckpt = wl.open_checkpoint(data)
        for index in (np.s_[:, ::-1], np.s_[..., ::7], np.s_[1, :, 3], np.s_[::-2, 1:5], np.s_[:, 2]):
            assert np.array_equal(ckpt["w"][index], array[index])
            assert np.array_equal(ckpt["t"][index], array.transpose(2, 0, 1)[index])

    def test_only_the_bytes_that_are_needed_are_read(self, tmp_path, monkeypatch):
        path = tmp_path / "a.pt"
        array = np.arange(4 << 20, dtype="i4").reshape(1 << 10, 4 << 10)
        wl.save({"w": array}, path)
        read = counted(monkeypatch)
        with wl.open_checkpoint(path) as ckpt:
            lazy = ckpt["w"]
            for index, most, calls in (
                (np.s_[3:5], 2 * 16384, 1),
                (np.s_[7, 100:200], 400, 1),
                (np.s_[:, 5], 1024 * 4, 1024),
                (np.s_[::512, ::2], 2 * 16384, 2),
                (np.s_[10:20, ::-1], 10 * 16384, 1),
            ):
                read.clear()
                assert np.array_equal(lazy[index], array[index])
                assert sum(read) <= most
                assert len(read) <= calls

    def test_an_expanded_tensor_costs_what_is_stored(self, torch):
        file = io.BytesIO()
        torch.save({"w": torch.ones(1).expand(1 << 40)}, file)
        file.seek(0)
        lazy = wl.open_checkpoint(file)["w"]
        assert lazy.shape == (1 << 40,)
        assert lazy[:100_000_000_000].shape == (100_000_000_000,)
        assert lazy[5] == 1
        assert lazy[::-1].shape == (1 << 40,)

    def test_a_view_that_overlaps_itself_is_no_bomb(self, torch):
        file = io.BytesIO()
        torch.save({"w": torch.arange(1 << 20, dtype=torch.uint8).as_strided((1 << 19, 1 << 19), (1, 1))}, file)
        file.seek(0)
        lazy = wl.open_checkpoint(file)["w"]
        assert lazy[5:].shape == ((1 << 19) - 5, 1 << 19)
        assert lazy[100::-1, :3].shape == (101, 3)
        with pytest.raises(wl.LimitError):
            lazy[::-1]

    def test_parts_of_special_tensors_are_refused(self, torch):
        file = io.BytesIO()
        torch.save(
            {"s": torch.eye(3).to_sparse(), "conj": torch.ones(4, dtype=torch.complex64).mul(1 + 2j).conj()}, file
        )
        file.seek(0)
        ckpt = wl.open_checkpoint(file)
        with pytest.raises(wl.UnsupportedError, match="as a whole"):
            ckpt["s"][0]
        assert ckpt["s"].read().to_dense().tolist() == np.eye(3).tolist()
        assert ckpt["conj"].metadata == {"conj": True}
        assert ckpt["conj"][1:3].tolist() == [1 - 2j, 1 - 2j]
        assert ckpt["conj"][::-2].tolist() == [1 - 2j, 1 - 2j]

    def test_torch_slices(self, torch):
        array = np.arange(60, dtype="f4").reshape(5, 12)
        lazy = wl.open_checkpoint(saved({"w": array}))["w"]
        for index in (np.s_[1:3], np.s_[:, ::-1], np.s_[2, 3]):
            found = lazy.read_part(index, framework="torch")
            assert isinstance(found, torch.Tensor)
            assert found.numpy().tolist() == array[index].tolist()


class TestReading:
    def test_sharing_is_kept(self):
        base = np.arange(100.0)
        ckpt = wl.open_checkpoint(saved({"a": base[:50], "b": base[25:75], "c": base[80:], "a2": base[:50]}))
        found = ckpt.read()
        found["a"][30] = -1
        assert found["b"][5] == -1
        assert np.shares_memory(found["a"], found["a2"])
        assert not np.shares_memory(found["a"], found["c"])
        assert ckpt["a"].read()[30] == 30

    def test_casting(self):
        base = np.arange(6.0)
        ckpt = wl.open_checkpoint(saved({"a": base, "b": base[2:], "n": np.arange(3)}))
        found = ckpt.read(dtype="float16")
        assert {key: value.dtype.name for key, value in found.items()} == {"a": "float16", "b": "float16", "n": "int64"}
        assert np.shares_memory(found["a"], found["b"])
        assert ckpt["n"].read(dtype="float32").dtype == "f4"
        assert ckpt["a"].read_part(np.s_[1:], dtype=wl.dtype("int32")).tolist() == [1, 2, 3, 4, 5]
        with pytest.raises(wl.ArgumentError, match="element type"):
            ckpt["a"].read(dtype="float99")

    def test_what_cannot_be_cast_is_refused(self, torch):
        file = io.BytesIO()
        torch.save({"s": torch.eye(3).to_sparse()}, file)
        file.seek(0)
        with pytest.raises(wl.UnsupportedError, match="cannot be cast"):
            wl.open_checkpoint(file)["s"].read(dtype="float16")

    def test_an_unknown_framework(self):
        with pytest.raises(wl.ArgumentError, match="framework"):
            wl.open_checkpoint(saved({"a": np.ones(1)}))["a"].read(framework="abacus")

    def test_damage_is_found(self):
        data = bytearray(saved({"w": np.full(1000, 7.0)}).getvalue())
        where = data.index(np.full(8, 7.0).tobytes())
        data[where + 100] ^= 1
        with pytest.raises(wl.ChecksumError):
            wl.open_checkpoint(bytes(data))["w"].read()
        assert wl.open_checkpoint(bytes(data), verify=False)["w"].read().shape == (1000,)

    def test_a_large_storage_is_not_read_for_a_small_part(self, torch, tmp_path, monkeypatch):
        path = tmp_path / "a.pt"
        whole = torch.arange(1 << 20)
        torch.save({"a": whole[100:200], "b": whole[150:160]}, path)
        read = counted(monkeypatch)
        with wl.open_checkpoint(path) as ckpt:
            found = ckpt.read()
            assert found["a"].tolist() == list(range(100, 200))
            assert np.shares_memory(found["a"], found["b"])
        assert sum(read) <= 100 * 8 + 2 * 16

    def test_many_views_of_one_storage(self, torch):
        """A flat parameter: neighbours of odd sizes, that share no byte."""
        raw = torch.arange(4096, dtype=torch.uint8)
        views = {f"{at}": raw[at : at + 7] for at in range(0, 4000, 9)}
        file = io.BytesIO()
        torch.save(views, file)
        file.seek(0)
        for key, found in wl.open_checkpoint(file).read().items():
            assert found.tobytes() == views[key].numpy().tobytes()

    def test_closed(self, tmp_path):
        path = tmp_path / "a.pt"
        wl.save({"w": np.ones(9)}, path)
        with wl.open_checkpoint(path) as ckpt:
            kept = ckpt["w"].read()
        assert kept.sum() == 9
        assert ckpt["w"].shape == (9,)
        with pytest.raises(wl.SourceError):
            ckpt["w"].read()

    def test_options_for_addresses_are_for_addresses(self, tmp_path):
        with pytest.raises(wl.ArgumentTypeError, match="storage_options"):
            wl.open_checkpoint(tmp_path / "a", storage_options={"timeout": 1})

    def test_what_is_no_checkpoint_is_said_so(self):
        with pytest.raises(wl.NotACheckpointError):
            wl.open_checkpoint(b"<!doctype html><html></html>")
