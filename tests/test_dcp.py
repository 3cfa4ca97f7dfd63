"""Folders of torch.distributed.checkpoint: read as two processes wrote them, in part, and refused where they lie."""

import contextlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import types
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import weighlock as wl
from weighlock.errors import (
    CheckpointError,
    DamagedError,
    LimitError,
    MissingFileError,
    PickleStreamError,
    TruncatedError,
    UnsafeGlobalError,
    UnsupportedError,
)
from weighlock.formats.dcp import _pieces
from weighlock.formats.dcp_metadata import Chunk, check_cover
from weighlock.inspection.values import read_values
from weighlock.limits import Limits

GOLDENS = Path(__file__).parent / "goldens" / "dcp-torch-2.13.0"
WHOLE = {
    "rows": np.arange(35, dtype="float32").reshape(7, 5),
    "columns": np.arange(24, dtype="int32").reshape(4, 6),
    "blocks": np.arange(60.0).reshape(5, 4, 3),
    "half": np.arange(10, dtype="float16"),
    "one": np.arange(3),
}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)


class TestGoldens:
    @pytest.mark.parametrize("verify", [True, False])
    def test_sharded_and_replicated(self, verify):
        made = wl.load(GOLDENS / "dtensor", verify=verify)
        assert list(made) == ["model", "plain", "epoch", "args", "text"]
        same(made["model"], WHOLE)
        assert made["plain"]["scalar"] == 2.5
        assert made["plain"]["empty"].shape == (0, 3)
        assert [array.tolist() for array in made["plain"]["seen"]] == [[1, 1], [0]]
        assert made["epoch"] == 3
        assert made["args"] == {"lr": 0.001, "name": "größer", "betas": (0.9, 0.99), "none": None}

    def test_fsdp(self):
        numbers = json.loads((GOLDENS / "fsdp.json").read_text())
        made = wl.load(GOLDENS / "fsdp")
        same(made["model"], {name: np.array(value, "float32") for name, value in numbers["model"].items()})
        moments = {name: state["exp_avg"] for name, state in made["optim"]["state"].items()}
        same(moments, {name: np.array(value, "float32") for name, value in numbers["exp_avg"].items()})
        assert made["optim"]["param_groups"][0]["betas"] == (0.9, 0.999)

    def test_safetensors_files(self):
        same(wl.load(GOLDENS / "hf"), WHOLE)

    @pytest.mark.parametrize("name", ["dtensor", "hf"])
    def test_described_and_partly_read(self, name):
        with wl.read_checkpoint(GOLDENS / name) as checkpoint:
            assert checkpoint.format == "dcp"
            assert checkpoint.metadata["files"] == 2
            tensors = checkpoint.object["model"] if name == "dtensor" else checkpoint.object
            for key, array in WHOLE.items():
                assert tensors[key].shape == array.shape
                assert read_values(checkpoint, tensors[key]).nested() == array.tolist()
                raw = array.tobytes()
                for start, count in ((0, 1), (3, len(raw) - 6), (len(raw) - 5, 5), (0, 0)):
                    assert checkpoint.storage_bytes(tensors[key].ref, start, count) == raw[start : start + count]
            found = read_values(checkpoint, tensors["blocks"], (slice(1, 3), 2, slice(None, None, 2))).nested()
            assert found == WHOLE["blocks"][1:3, 2, ::2].tolist()

    @pytest.mark.parametrize("name", ["dtensor", "hf"])
    def test_opened(self, name):
        """Lazy tensors: whole, in slices that are one stretch, and in slices that are many."""
        prefix = "model." if name == "dtensor" else ""
        with wl.open_checkpoint(GOLDENS / name) as checkpoint:
            for key, array in WHOLE.items():
                tensor = checkpoint[prefix + key]
                assert np.array_equal(tensor.read(), array)
                for index in ((slice(1, 3),), (Ellipsis, slice(None, None, 2)), (Ellipsis, 1)):
                    assert np.array_equal(tensor[index], array[index])

    @pytest.mark.parametrize("mmap", [False, True])
    def test_torch(self, torch, mmap):
        made = wl.load(GOLDENS / "dtensor", framework="torch", mmap=mmap)
        for key, array in WHOLE.items():
            assert np.array_equal(made["model"][key].numpy(), array)
        assert type(made["plain"]["seen"][0]) is torch.Tensor

    def test_mapped(self):
        same(wl.load(GOLDENS / "dtensor", mmap=True)["model"], WHOLE)

    def test_globals_are_listed(self):
        with wl.read_checkpoint(GOLDENS / "dtensor") as checkpoint:
            assert "torch.distributed.checkpoint.metadata.Metadata" in checkpoint.globals
            assert not checkpoint.unknown

    def test_as_torch(self, torch, tmp_path):
        """What PyTorch's own converter makes of a folder that is written now."""
        script = (
            "import sys, torch, torch.distributed.checkpoint as dcp\n"
            "from torch.distributed.checkpoint.format_utils import dcp_to_torch_save\n"
            "state = {'a': {'t': torch.arange(6.).reshape(2, 3).t(), 'l': [torch.ones(1), {'x': torch.zeros(2)}]},\n"
            "         'n': [1, 2], 'b': torch.arange(3).bfloat16(), 'c': torch.ones(2, dtype=torch.complex64)}\n"
            "dcp.save(state, checkpoint_id=sys.argv[1] + '/folder')\n"
            "dcp_to_torch_save(sys.argv[1] + '/folder', sys.argv[1] + '/whole.pt')\n"
        )
        subprocess.run([sys.executable, "-W", "ignore", "-c", script, str(tmp_path)], check=True, timeout=120)
        made, theirs = wl.load(tmp_path / "folder", framework="torch"), torch.load(tmp_path / "whole.pt")
        assert list(made) == list(theirs)
        assert torch.equal(made["a"]["t"], theirs["a"]["t"])
        assert torch.equal(made["a"]["l"][1]["x"], theirs["a"]["l"][1]["x"])
        assert made["n"] == theirs["n"]
        assert torch.equal(made["b"], theirs["b"])
        assert torch.equal(made["c"], theirs["c"])


shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


@given(shapes, st.data())
def test_pieces(shape, data):
    """Every range of every chunk, against NumPy."""
    offsets = tuple(data.draw(st.integers(0, length - 1)) for length in shape)
    sizes = tuple(data.draw(st.integers(1, length - at)) for length, at in zip(shape, offsets, strict=True))
    item = data.draw(st.sampled_from([1, 4]))
    whole = np.arange(int(np.prod(shape)), dtype="uint8" if item == 1 else "int32").reshape(shape)
    chunk = whole[tuple(slice(at, at + size) for at, size in zip(offsets, sizes, strict=True))].tobytes()
    start = data.draw(st.integers(0, whole.nbytes))
    stop = data.draw(st.integers(start, whole.nbytes))
    mask = np.zeros(shape, bool)
    mask[tuple(slice(at, at + size) for at, size in zip(offsets, sizes, strict=True))] = True
    inside = np.repeat(mask.reshape(-1), item)
    touched = np.zeros(whole.nbytes, bool)
    for piece in _pieces(Chunk(offsets, sizes, None), shape, item, start, stop):
        assert piece.size > 0
        assert not touched[piece.target : piece.target + piece.size].any()
        touched[piece.target : piece.target + piece.size] = True
        expected = whole.tobytes()[piece.target : piece.target + piece.size]
        assert chunk[piece.begin : piece.begin + piece.size] == expected
    wanted = inside.copy()
    wanted[:start] = wanted[stop:] = False
    assert np.array_equal(touched, wanted)


class TestCover:
    def test_many_side_by_side(self):
        chunks = [Chunk((0, at), (1, 1), None) for at in range(5000)]
        with pytest.raises(LimitError):
            check_cover("t", (1, 5000), chunks)
        check_cover("t", (5000, 1), [Chunk((at, 0), (1, 1), None) for at in range(5000)])

    @pytest.mark.parametrize(
        ("shape", "chunks"),
        [
            ((4,), [((0,), (3,))]),
            ((4,), [((0,), (3,)), ((2,), (2,))]),
            ((4, 2), [((0, 0), (2, 2)), ((1, 0), (2, 2))]),
            ((2, 2), [((0, 0), (2, 1)), ((1, 0), (1, 2))]),
            ((4,), [((0,), (5,))]),
            ((4,), [((1,), (4,))]),
            ((4,), [((0, 0), (4, 1))]),
            ((), []),
        ],
    )
    def test_refused(self, shape, chunks):
        with pytest.raises(DamagedError):
            check_cover("t", shape, [Chunk(offsets, sizes, None) for offsets, sizes in chunks])


# Classes of the names that PyTorch pickles; what the pickle of one says is up to each test.
METADATA = "torch.distributed.checkpoint.metadata"
STORAGE = "torch.distributed.checkpoint.filesystem"
OLD = "torch.distributed._shard.sharded_tensor.metadata"


class Writer:
    """Writes a .metadata without PyTorch."""

    def __init__(self, monkeypatch, old=False):
        self._modules: dict = {}
        self._patch = monkeypatch
        self._class("torch", "Size", base=tuple)
        for name in ("Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata",
                     "MetadataIndex", "StorageMeta"):  # fmt: skip
            self._class(METADATA, name)
        self._class(OLD if old else METADATA, "TensorProperties")
        self._class(STORAGE, "_StorageInfo")
        enum: Any = Enum
        self.format = enum("MEM_FORMAT_ENCODING", {"TORCH_CONTIGUOUS_FORMAT": 0})
        self._place(self.format, OLD if old else METADATA, "MEM_FORMAT_ENCODING" if old else "_MEM_FORMAT_ENCODING")
        self._modules["torch"].Size.__reduce__ = lambda size: (self.Size, (tuple(size),))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def _class(self, module, name, base=object):
        self._place(type(name, (base,), {}), module, name)

    def _place(self, cls, module, name):
        cls.__module__, cls.__qualname__, cls.__name__ = module, name, name
        if module not in self._modules:
            self._modules[module] = types.ModuleType(module)
            self._patch.setitem(sys.modules, module, self._modules[module])
        setattr(self._modules[module], name, cls)
        setattr(self, name, cls)

    def make(self, name, **fields):
        made = getattr(self, name)()
        made.__dict__.update(fields)
        return made

    def tensor(self, shape, chunks, **fields):
        properties: Any = self.TensorProperties()
        state = (Dtype(), None, False, self.format.TORCH_CONTIGUOUS_FORMAT, False)
        kind: Any = type(properties)
        kind.__reduce__ = lambda _: (self.TensorProperties, (), state)
        listed = [
            self.make("ChunkStorageMetadata", offsets=self.Size(offsets), sizes=self.Size(sizes))
            for offsets, sizes in chunks
        ]
        return self.make("TensorStorageMetadata", properties=properties, size=self.Size(shape), chunks=listed, **fields)

    def dumps(self, tensors, places, **fields):
        storage = {
            self.make("MetadataIndex", fqn=name, offset=None if offset is None else self.Size(offset), index=0):
            self.make("_StorageInfo", **info) for (name, offset), info in places.items()
        }  # fmt: skip
        made = self.make("Metadata", state_dict_metadata=tensors, storage_data=storage, planner_data=None, **fields)
        return Pickled.dumps(made)


class Dtype:
    """Stands for torch.float32 in a pickle."""


PythonPickler: Any = vars(pickle)["_Pickler"]


class Pickled(PythonPickler):
    """Python's own pickler, with one more thing that it knows."""

    def save(self, obj, *args, **kwargs):
        if type(obj) is Dtype:
            self.write(b"ctorch\nfloat32\n")
            return None
        return super().save(obj, *args, **kwargs)

    @classmethod
    def dumps(cls, obj):
        file = io.BytesIO()
        cls(file, 2).dump(obj)
        return file.getvalue()


@pytest.fixture
def writer(monkeypatch):
    return Writer(monkeypatch)


def blob(array, folder):
    wl.save(array, folder / "blob")
    data = (folder / "blob").read_bytes()
    (folder / "blob").unlink()
    return data


@pytest.fixture
def parts(tmp_path):
    """A folder with the two halves of a tensor in one file, and where they are."""
    first, second = blob(np.arange(4, dtype="f4"), tmp_path), blob(np.arange(4, 8, dtype="f4"), tmp_path)
    (tmp_path / "__0_0.distcp").write_bytes(first + second)
    places = {
        ("t", (0,)): {"relative_path": "__0_0.distcp", "offset": 0, "length": len(first)},
        ("t", (4,)): {"relative_path": "__0_0.distcp", "offset": len(first), "length": len(second)},
    }
    return tmp_path, places


HALVES = [((0,), (4,)), ((4,), (4,))]


class TestMetadata:
    @pytest.mark.parametrize("old", [False, True])
    def test_read(self, monkeypatch, parts, old):
        folder, places = parts
        writer = Writer(monkeypatch, old)
        (folder / ".metadata").write_bytes(writer.dumps({"t": writer.tensor((8,), HALVES)}, places))
        assert wl.load(folder)["t"].tolist() == list(range(8))

    def test_a_part_that_is_listed_twice(self, writer, parts):
        folder, places = parts
        tensor = writer.tensor((8,), [*HALVES, HALVES[0]])
        (folder / ".metadata").write_bytes(writer.dumps({"t": tensor}, places))
        assert wl.load(folder)["t"].tolist() == list(range(8))

    def test_strided_parts(self, writer, tmp_path):
        """A part is saved as it lies in memory; put together, all is row-major."""
        array = np.arange(12, dtype="f4").reshape(3, 4)
        data = blob(array.T, tmp_path)
        (tmp_path / "x").write_bytes(data)
        tensor = writer.tensor((4, 3), [((0, 0), (4, 3))])
        places = {("t", (0, 0)): {"relative_path": "x", "offset": 0, "length": len(data)}}
        (tmp_path / ".metadata").write_bytes(writer.dumps({"t": tensor}, places))
        assert np.array_equal(wl.load(tmp_path)["t"], array.T)
        with wl.read_checkpoint(tmp_path) as checkpoint:
            assert read_values(checkpoint, checkpoint.object["t"], (2,)).nested() == [2, 6, 10]

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"relative_path": "../x"}, "outside"),
            ({"relative_path": "/etc/passwd"}, "outside"),
            ({"relative_path": 3}, "no name"),
            ({"relative_path": None}, "no name"),
            ({"offset": -1}, "malformed"),
            ({"offset": "0"}, "malformed"),
            ({"length": 1 << 80}, "outside of its file"),
            ({"offset": 1 << 62}, "outside of its file"),
            ({"length": 3}, "larger than its place"),
            ({"transform_descriptors": ["zstd"]}, "extension"),
        ],
    )
    def test_hostile_places(self, writer, parts, change, words):
        folder, places = parts
        places["t", (4,)].update(change)
        (folder / ".metadata").write_bytes(writer.dumps({"t": writer.tensor((8,), HALVES)}, places))
        for read in (wl.load, wl.read_checkpoint):
            with pytest.raises(CheckpointError, match=words):
                read(folder)

    @pytest.mark.parametrize(
        ("shape", "chunks", "words"),
        [
            ((9,), HALVES, "missing"),
            ((8,), [((0,), (4,)), ((3,), (4,))], "where a part is"),
            ((8,), [((0,), (4,))], "missing"),
            ((8,), [((0,), (5,)), ((4,), (4,))], "overlap"),
            ((1 << 62,), HALVES, "no lengths"),
            ((1 << 50,), HALVES, "missing"),
            ((1 << 50, 0), [], ""),
            ((8, 1), HALVES, "outside of its tensor"),
            ((-8,), HALVES, "no lengths"),
            ((True,), HALVES, "no shape"),
            ((1,) * 65, HALVES, "malformed"),
        ],
    )
    def test_hostile_tensors(self, writer, parts, shape, chunks, words):
        folder, places = parts
        (folder / ".metadata").write_bytes(writer.dumps({"t": writer.tensor(shape, chunks)}, places))
        if not words:
            assert wl.load(folder)["t"].shape == shape
            return
        with pytest.raises(CheckpointError, match=words):
            wl.load(folder)

    def test_places_that_overlap(self, writer, parts):
        folder, places = parts
        places["t", (4,)]["offset"] -= 1
        (folder / ".metadata").write_bytes(writer.dumps({"t": writer.tensor((8,), HALVES)}, places))
        with pytest.raises(DamagedError, match="lie on each other"):
            wl.load(folder)

    def test_one_place_for_many(self, writer, parts):
        """A file is never worth more memory than it has bytes."""
        folder, places = parts
        (folder / ".metadata").write_bytes(writer.dumps(
            {name: writer.tensor((4,), [((0,), (4,))]) for name in "ab"},
            {(name, (0,)): places["t", (0,)] for name in "ab"},
        ))  # fmt: skip
        with pytest.raises(DamagedError, match="lie on each other"):
            wl.load(folder)

    def test_another_part_than_said(self, writer, tmp_path):
        for array in (np.arange(4), np.arange(5, dtype="f4"), {"a": 1}):
            data = blob(array, tmp_path)
            (tmp_path / "x").write_bytes(data)
            places = {("t", (0,)): {"relative_path": "x", "offset": 0, "length": len(data)}}
            tensor = writer.tensor((4,), [((0,), (4,))])
            (tmp_path / ".metadata").write_bytes(writer.dumps({"t": tensor}, places))
            with pytest.raises(DamagedError, match="another one"):
                wl.load(tmp_path)

    def test_a_missing_file(self, writer, parts):
        folder, places = parts
        (folder / ".metadata").write_bytes(writer.dumps({"t": writer.tensor((8,), HALVES)}, places))
        (folder / "__0_0.distcp").unlink()
        with pytest.raises(MissingFileError, match="not complete"):
            wl.load(folder)
        assert [(problem.code, problem.expected) for problem in wl.verify(folder).problems] == [
            ("WL605", "__0_0.distcp")
        ]  # fmt: skip

    def test_a_file_that_was_cut_is_no_hostile_one(self, writer, parts):
        folder, places = parts
        (folder / ".metadata").write_bytes(writer.dumps({"t": writer.tensor((8,), HALVES)}, places))
        path = folder / "__0_0.distcp"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(TruncatedError, match="cut while it was copied"):
            wl.load(folder)
        checks = {Path(check.name).name: check for check in wl.verify(folder).files}
        problem = checks[path.name].problems[0]
        assert (problem.code, problem.offset) == ("WL211", places["t", (4,)]["offset"])
        assert [problem.code for problem in checks[folder.name].problems] == ["WL211"]

    @pytest.mark.parametrize("index", [None, 0, 100])
    def test_a_save_that_did_not_end(self, writer, parts, index):
        folder, places = parts
        if index is not None:
            (folder / ".metadata").write_bytes(
                writer.dumps({"t": writer.tensor((8,), HALVES)}, places)[:index]
            )  # fmt: skip
        with pytest.raises((MissingFileError, TruncatedError), match=r"ave did not end"):
            wl.load(folder)
        report = wl.verify(folder)
        assert [check.verdict for check in report.files] == ["not fully checked", "problems"]
        assert [problem.code for problem in report.problems] == ["WL605" if index is None else "WL301"]

    def test_each_process_with_its_own_index(self, parts):
        folder, _ = parts
        (folder / "__0.metadata").write_bytes(b"")
        with pytest.raises(UnsupportedError, match="one index per process"):
            wl.load(folder)

    def test_a_part_that_another_save_left(self, writer, parts):
        folder, places = parts
        (folder / ".metadata").write_bytes(writer.dumps({"t": writer.tensor((8,), HALVES)}, places))
        shutil.copy(folder / "__0_0.distcp", folder / "__1_0.distcp")
        assert wl.load(folder)["t"].tolist() == list(range(8))
        checks = {Path(check.name).name: check for check in wl.verify(folder).files}
        assert not any(check.problems for check in checks.values())
        assert "another save has left it" in checks["__1_0.distcp"].gaps[0].message

    @pytest.mark.parametrize("planner", [
        {"t": ()}, {"t": ("a", "b" * 3, 0, 1)}, {"t": (0,)}, {"t": ("a",) * 1000}, {"t": ("a", 5)}, {"t": ("a", -1)},
    ])  # fmt: skip
    def test_hostile_paths(self, writer, parts, planner):
        folder, places = parts
        (folder / ".metadata").write_bytes(_with_planner(writer, places, {"t": HALVES}, planner))
        with contextlib.suppress(DamagedError):
            assert wl.load(folder)["t"].tolist() == list(range(8))

    def test_paths_that_contradict(self, writer, parts):
        folder, places = parts
        places = {("a", (0,)): places["t", (0,)], ("b", (4,)): places["t", (4,)]}
        tensors = {"a": [((0,), (4,))], "b": [((0,), (4,))]}
        places["b", (0,)] = places.pop(("b", (4,)))
        for planner in ({"a": ("x",), "b": ("x",)}, {"a": ("x",), "b": ("x", "y")}, {"a": ("x", 0), "b": ("x", "y")}):
            (folder / ".metadata").write_bytes(_with_planner(writer, places, tensors, planner, (4,)))
            with pytest.raises(DamagedError, match="path"):
                wl.load(folder)

    def test_classes_that_are_not_its_own(self, parts):
        folder, _ = parts
        for data in (pickle.dumps(os.system), pickle.dumps(Path("x")), b"cos\nsystem\n(S'x'\ntR.", b"", b"no pickle"):
            (folder / ".metadata").write_bytes(data)
            with pytest.raises((PickleStreamError, DamagedError)):
                wl.load(folder)
        (folder / ".metadata").write_bytes(pickle.dumps(os.system, 2))
        with pytest.raises((UnsafeGlobalError, DamagedError)):
            wl.load(folder)

    def test_limits(self, writer, parts):
        folder, places = parts
        (folder / ".metadata").write_bytes(writer.dumps({"t": writer.tensor((8,), HALVES)}, places))
        with pytest.raises(LimitError):
            wl.load(folder, limits=Limits(max_pickle_bytes=10))

    def test_noise(self, tmp_path):
        """Any byte of the metadata may be another one: a result, or one of our errors."""
        folder = tmp_path / "copy"
        shutil.copytree(GOLDENS / "dtensor", folder)
        data = (folder / ".metadata").read_bytes()
        for at in range(0, len(data), 37):
            (folder / ".metadata").write_bytes(data[:at] + bytes([data[at] ^ 0x15]) + data[at + 1 :])
            with contextlib.suppress(CheckpointError, MissingFileError):
                wl.load(folder)


def _with_planner(writer, places, tensors, planner, shape=(8,)):
    made = {name: writer.tensor(shape, chunks) for name, chunks in tensors.items()}
    storage = {
        writer.make("MetadataIndex", fqn=name, offset=writer.Size(offset)): writer.make("_StorageInfo", **info)
        for (name, offset), info in places.items()
    }
    return Pickled.dumps(writer.make("Metadata", state_dict_metadata=made, storage_data=storage, planner_data=planner))


class TestSafetensorsFiles:
    def write(self, folder, number, tensors, info):
        metadata = {"DCP_SHARDING_INFO": info if type(info) is str else json.dumps(info)}
        name = f"shard-0000{number}-model-00001-of-00001.safetensors"
        wl.save(tensors, folder / name, format="safetensors", metadata=metadata)

    def test_written_here(self, tmp_path):
        array = np.arange(12.0).reshape(3, 4)
        self.write(tmp_path, 1, {"a": array[:, :1], "whole": array}, {"a": {"saved_offsets": [0, 0]}})
        self.write(tmp_path, 2, {"a": array[:, 1:], "whole": array}, {"a": {"saved_offsets": [0, 1]}})
        made = wl.load(tmp_path)
        assert np.array_equal(made["a"], array)
        assert np.array_equal(made["whole"], array)

    @pytest.mark.parametrize(
        "info",
        ["[", "[]", '{"a": 1}', {"a": {"saved_offsets": 3}}, {"a": {"saved_offsets": [0]}},
         {"a": {"saved_offsets": [0, -1]}}, {"a": {"saved_offsets": [1, 0]}}, {"a": {"saved_offsets": [0, 1.0]}}],
    )  # fmt: skip
    def test_refused(self, tmp_path, info):
        self.write(tmp_path, 1, {"a": np.zeros((2, 2))}, info)
        with pytest.raises(DamagedError):
            wl.load(tmp_path)

    def test_verify_misses_a_file(self, tmp_path):
        self.write(tmp_path, 1, {"a": np.zeros((2, 2))}, {"a": {"saved_offsets": [0, 0]}})
        self.write(tmp_path, 2, {"a": np.zeros((2, 2))}, {"a": {"saved_offsets": [2, 0]}})
        report = wl.verify(tmp_path)
        assert report.sound
        assert [check.format for check in report.files] == ["safetensors", "safetensors", "dcp"]
        min(tmp_path.iterdir()).unlink()
        assert [problem.message for problem in wl.verify(tmp_path).problems] == ["parts of a tensor are missing"]

    def test_overlap(self, tmp_path):
        self.write(tmp_path, 1, {"a": np.zeros((2, 2))}, {"a": {"saved_offsets": [0, 0]}})
        self.write(tmp_path, 2, {"a": np.zeros((2, 2))}, {"a": {"saved_offsets": [1, 0]}})
        with pytest.raises(DamagedError):
            wl.load(tmp_path)

    def test_other_ranks(self, tmp_path):
        self.write(tmp_path, 1, {"a": np.zeros((2, 2))}, {"a": {"saved_offsets": [0, 0]}})
        self.write(tmp_path, 2, {"a": np.zeros(2)}, {"a": {"saved_offsets": [2]}})
        with pytest.raises(CheckpointError):
            wl.load(tmp_path)
