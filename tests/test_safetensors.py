"""safetensors files: written byte for byte as the package writes them, and read back with all that they can say."""

import io
import json
import struct

import ml_dtypes
import numpy as np
import pytest

import weighlock as wl
from tests.test_safetensors_header import file_of, tensor
from weighlock.dtypes import DTYPES
from weighlock.errors import (
    ArgumentError,
    CheckpointError,
    DamagedError,
    LimitError,
    SaveError,
    UnsupportedError,
    UnsupportedTypeError,
)


def saved(obj, **options):
    file = io.BytesIO()
    wl.save(obj, file, format="safetensors", **options)
    return file.getvalue()


def header_of(data):
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length])


PLAIN = {
    "weight": np.arange(6.0).reshape(2, 3),
    "a": np.arange(4, dtype="int16"),
    "half": np.ones(3, "float16"),
    "empty": np.zeros((0, 3), "float32"),
    "scalar": np.array(3, "float32"),
    'ключ "\\\n\x01\x7f': np.arange(6, dtype="float32").reshape(2, 3).T,
    "reversed": np.arange(5, dtype="uint8")[::-1],
    "flags": np.array([True, False]),
}


class TestWriting:
    def test_as_the_package(self):
        package = pytest.importorskip("safetensors.numpy")
        contiguous = {key: np.array(value, order="C") for key, value in PLAIN.items()}
        assert saved(PLAIN) == package.save(contiguous)
        assert saved(PLAIN, metadata={"format": "np"}) == package.save(contiguous, {"format": "np"})
        assert saved({}) == package.save({})

    def test_every_type_as_the_package(self, torch):
        package = pytest.importorskip("safetensors.torch")
        tensors = {}
        for name, row in DTYPES.items():
            if row.safetensors_code is not None:
                raw = torch.arange(2 * row.itemsize, dtype=torch.uint8)
                tensors[name] = raw % 2 == 1 if name == "bool" else raw.view(getattr(torch, name))
        data = saved(tensors, framework="torch")
        assert data == package.save(tensors)
        again = wl.load(data, framework="torch")
        for name, value in tensors.items():
            assert again[name].dtype is value.dtype
            assert torch.equal(again[name].view(torch.uint8), value.view(torch.uint8))
        assert saved(wl.load(data)) == data

    def test_big_endian_and_bfloat16(self):
        made = wl.load(saved({"a": np.arange(3, dtype=">i4"), "b": np.ones(2, ml_dtypes.bfloat16)}))
        assert made["a"].tolist() == [0, 1, 2]
        assert made["a"].dtype == np.int32
        assert made["b"].dtype == ml_dtypes.bfloat16

    def test_large_and_scattered(self):
        whole = np.arange(6_000_000, dtype="float32").reshape(3, 1000, 2000)
        for view in (whole.T, whole[:, ::2, ::3], whole.transpose(1, 0, 2), whole[::-1]):
            assert np.array_equal(wl.load(saved({"a": view}))["a"], view)

    def test_torch_tensors_in_any_order(self, torch):
        whole = torch.arange(6_000_000, dtype=torch.float32).reshape(3, 1000, 2000)
        for view in (whole.permute(2, 1, 0), whole[:, ::2, ::3], whole.permute(1, 0, 2), whole[0, 0, 0]):
            data = saved({"a": view}, framework="torch")
            assert torch.equal(wl.load(data, framework="torch")["a"], view)

    @pytest.mark.parametrize(
        ("obj", "error", "words"),
        [
            ({"__metadata__": np.zeros(1)}, SaveError, "__metadata__"),
            ({"\ud800": np.zeros(1)}, SaveError, "Unicode"),
            ({"a": {"b": np.array(["x"])}}, UnsupportedTypeError, "a.b"),
            ({"a": [object()]}, UnsupportedTypeError, "a.0"),
            ({"a": np.zeros(1, "complex128")}, UnsupportedTypeError, "complex128"),
        ],
    )
    def test_refused(self, obj, error, words):
        with pytest.raises(error, match=words):
            saved(obj)

    def test_refused_metadata(self):
        for metadata in ({"a": 1}, {"weighlock": "{}"}):
            with pytest.raises(ArgumentError):
                saved({}, metadata=metadata)
        with pytest.raises(ArgumentError, match="metadata"):
            wl.save({}, io.BytesIO(), metadata={"a": "b"})
        with pytest.raises(ArgumentError, match="format"):
            wl.save({}, io.BytesIO(), format="onnx")

    def test_what_contains_itself(self):
        loop: dict = {"w": np.zeros(1)}
        loop["self"] = loop
        with pytest.raises(SaveError, match="contains itself"):
            saved(loop)

    def test_a_failed_save_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "m.safetensors"
        wl.save(PLAIN, path, format="safetensors")
        before = path.read_bytes()
        with pytest.raises(UnsupportedTypeError):
            wl.save({"a": object()}, path, format="safetensors")
        assert path.read_bytes() == before
        assert len(list(tmp_path.iterdir())) == 1


class TestAliases:
    def test_the_same_tensor_twice(self):
        weight = np.arange(4.0)
        data = saved({"tied": weight, "embed": weight, "other": weight.copy()})
        header = header_of(data)
        assert json.loads(header["__metadata__"]["weighlock"]) == {"version": 1, "aliases": {"embed": "tied"}}
        assert set(header) == {"__metadata__", "tied", "other"}
        made = wl.load(data)
        assert np.shares_memory(made["tied"], made["embed"])
        assert not np.shares_memory(made["tied"], made["other"])

    def test_views_of_one(self):
        base = np.arange(20.0).reshape(4, 5)
        made = wl.load(
            saved({"row": base[1], "column": base[:, 2], "base": base, "flat": base.reshape(-1), "t": base.T})
        )
        assert made["column"].tolist() == [2, 7, 12, 17]
        made["base"][1, 2] = -1
        assert made["row"][2] == made["column"][1] == made["flat"][7] == made["t"][2, 1] == -1

    def test_neighbours_are_not_aliases(self):
        base = np.arange(20.0)
        data = saved({"a": base[:10], "b": base[10:]})
        assert "__metadata__" not in header_of(data)

    def test_overlap_without_a_whole_is_stored_twice(self):
        base = np.arange(20.0)
        made = wl.load(saved({"a": base[:12], "b": base[8:]}))
        assert made["b"].tolist() == base[8:].tolist()

    def test_torch(self, torch):
        weight = torch.arange(6.0).reshape(2, 3)
        data = saved({"a": weight, "b": torch.nn.Parameter(weight), "c": weight.t()}, framework="torch")
        made = wl.load(data, framework="torch")
        assert made["a"].data_ptr() == made["b"].data_ptr() == made["c"].data_ptr()
        assert made["c"].stride() == (1, 3)


NESTED = {
    "model": {"w": np.arange(3.0), "b": np.zeros((2, 2), "int8")},
    "model.w": np.ones(1),
    "epoch": 3,
    "big": 1 << 80,
    "values": (1, 2.5, -0.0, float("inf"), None, True, b"\0\xff", 2 + 3j),
    "sets": [{1, 2}, frozenset({"a"})],
    "keys": {1: "a", ("x", 2): np.arange(2), None: [], 2.5: {}},
    "types": [wl.Size((2, 3)), wl.Device("cuda", 1), wl.dtype("bfloat16"), np.float32(1.5), np.int64(7)],
}


class TestStructure:
    def test_nested(self):
        made = wl.load(saved(NESTED))
        assert list(made) == list(NESTED)
        assert repr(made) == repr(NESTED)
        assert type(made["types"][3]) is np.float32

    def test_one_tensor(self):
        assert wl.load(saved(np.arange(3))).tolist() == [0, 1, 2]

    def test_order_and_class(self):
        from collections import OrderedDict

        made = wl.load(saved(OrderedDict(z=1, a=np.zeros(1))))
        assert type(made) is OrderedDict
        assert list(made) == ["z", "a"]

    def test_torch_values(self, torch):
        obj = {"w": torch.ones(2), "s": torch.Size([2]), "d": torch.device("cpu"), "t": torch.float16}
        made = wl.load(saved(obj, framework="torch"), framework="torch")
        assert made["s"] == torch.Size([2])
        assert type(made["s"]) is torch.Size
        assert made["d"] == torch.device("cpu")
        assert made["t"] is torch.float16

    def test_described(self):
        with wl.read_checkpoint(saved(NESTED)) as checkpoint:
            assert checkpoint.object["model"]["w"].shape == (3,)
            assert checkpoint.object["epoch"] == 3

    @pytest.mark.parametrize(
        ("document", "error"),
        [
            ("", DamagedError),
            ("[1]", DamagedError),
            ("[" * 100_000, DamagedError),
            ('{"version":2}', DamagedError),
            ('{"version":1,"aliases":[]}', DamagedError),
            ('{"version":1,"aliases":{"b":"nowhere"}}', DamagedError),
            ('{"version":1,"aliases":{"a":"a"}}', DamagedError),
            ('{"version":1,"aliases":{"b":{"of":"a","offset":0,"shape":[9],"stride":[1]}}}', CheckpointError),
            ('{"version":1,"aliases":{"b":{"of":"a","offset":-1,"shape":[1],"stride":[1]}}}', CheckpointError),
            ('{"version":1,"aliases":{"b":{"of":"a","offset":0,"shape":["x"],"stride":[1]}}}', CheckpointError),
            ('{"version":1,"aliases":{"b":3}}', DamagedError),
            ('{"version":1,"tree":{"tensor":"nowhere"}}', DamagedError),
            ('{"version":1,"tree":{"tensor":[]}}', DamagedError),
            ('{"version":1,"tree":{"exec":"1"}}', DamagedError),
            ('{"version":1,"tree":{"a":1,"b":2}}', DamagedError),
            ('{"version":1,"tree":{"items":[[[],1]]}}', LimitError),
            ('{"version":1,"tree":{"items":[[2305843009213693952,1]]}}', LimitError),
            ('{"version":1,"tree":{"numpy":["O","AA=="]}}', DamagedError),
            ('{"version":1,"tree":{"device":3}}', DamagedError),
            ('{"version":1,"tree":{"dtype":"nothing"}}', DamagedError),
            ('{"version":1,"tree":' + '{"tuple":[' * 400 + "]}" * 400 + "}", DamagedError),
        ],
    )
    def test_a_hostile_document(self, document, error):
        data = file_of({"__metadata__": {"weighlock": document}, "a": tensor("F32", [2], 0, 8)}, bytes(8))
        with pytest.raises(error):
            wl.load(data)
        with pytest.raises(error):
            wl.read_checkpoint(data)

    def test_a_short_number(self):
        with pytest.raises(CheckpointError):
            wl.load(file_of({"__metadata__": {"weighlock": '{"version":1,"tree":{"numpy":["<f4","AA=="]}}'}}))


class TestReading:
    def test_types_without_arrays(self):
        data = file_of({"a": tensor("F6_E2M3", [4], 0, 3), "b": tensor("U8", [1], 3, 4)}, b"1234")
        with wl.read_checkpoint(data) as checkpoint:
            spec = checkpoint.object["a"]
            assert (spec.kind, spec.shape, spec.nbytes) == ("F6_E2M3", (4,), 3)
            assert checkpoint.storage_bytes(spec.ref) == b"123"
        with pytest.raises(UnsupportedError, match="F6_E2M3"):
            wl.load(data)

    def test_six_bits_with_torch(self, torch):
        with pytest.raises(UnsupportedError, match="F6_E2M3"):
            wl.load(file_of({"a": tensor("F6_E2M3", [4], 0, 3)}, b"123"), framework="torch")

    def test_small_and_large_tensors_mixed(self, tmp_path):
        rng = np.random.default_rng(0)
        made = {f"t{number}": rng.random(int(size)) for number, size in enumerate(rng.integers(0, 30_000, 200))}
        path = tmp_path / "m.safetensors"
        wl.save(made, path, format="safetensors")
        for again in (wl.load(path), wl.load(path.read_bytes()), wl.load(path, mmap=True)):
            assert all(np.array_equal(again[key], value) for key, value in made.items())
        assert wl.load(path, map_location="meta")["t0"].shape == made["t0"].shape

    def test_map_location_function(self, tmp_path):
        seen = []

        def place(storage, location):
            seen.append((storage.nbytes, location, storage.tobytes()[:1]))
            return storage

        wl.load(saved({"a": np.ones(2, "u1"), "b": np.full(3, 2, "u1")}), map_location=place)
        assert seen == [(2, "cpu", b"\1"), (3, "cpu", b"\2")]

    def test_torch(self, torch, tmp_path):
        path = tmp_path / "m.safetensors"
        made = {f"t{number}": np.arange(number * 100.0) for number in range(50)}
        wl.save(made, path, format="safetensors")
        for mmap in (False, True):
            again = wl.load(path, framework="torch", mmap=mmap)
            assert all(np.array_equal(again[key].numpy(), value) for key, value in made.items())
