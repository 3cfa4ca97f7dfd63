"""NumPy's own files: what numpy.save writes is read, what is written numpy.load reads, and nothing is evaluated."""

import contextlib
import io
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import weighlock as wl
from weighlock.errors import (
    ArgumentError,
    CheckpointError,
    ChecksumError,
    DamagedError,
    LimitError,
    SaveError,
    TensorBoundsError,
    UnsupportedError,
    UnsupportedTypeError,
)
from weighlock.formats.npy import parse_header
from weighlock.formats.npz_writer import npy_header
from weighlock.inspection.values import read_values
from weighlock.limits import DEFAULT_LIMITS

ARRAYS = {
    "plain": np.arange(6.0).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(24, dtype="int16").reshape(2, 3, 4)),
    "big": np.arange(3, dtype=">i4"),
    "big_complex": np.arange(3, dtype=">c16"),
    "scalar": np.array(3.5, "float16"),
    "empty": np.zeros((0, 3), "uint64"),
    "flags": np.array([True, False]),
    "text": np.array(["a", "größer"]),
    "text_big": np.array(["a", "größer"]).astype(">U6"),
    "bytes": np.array([b"a", b"bcd"]),
    "dates": np.array(["2024-01-01", "NaT"], "datetime64[ns]"),
    "spans": np.array([1, 2], "timedelta64[25s]"),
    "long": np.arange(3, dtype="longdouble"),
    "void": np.array([b"ab", b"cd"], "V2"),
    "dir/inside": np.ones(2),
    "W": np.ones(1),
    "w": np.zeros(1),
    "large": np.arange(400_000.0),
}


def npy(array, version=None):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def npz(arrays, save=np.savez):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def same(found, expected):
    assert found.dtype == expected.dtype.newbyteorder("=") or found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert np.array_equal(found, expected, equal_nan=expected.dtype.kind in "fcmM")


def header(text, version=(1, 0)):
    raw = text.encode("latin-1") + b"\n"
    size = struct.pack("<H" if version[0] == 1 else "<I", len(raw))
    return b"\x93NUMPY" + bytes(version) + size + raw


class TestNpy:
    @pytest.mark.parametrize("name", ARRAYS)
    def test_read(self, name, tmp_path):
        data = npy(ARRAYS[name])
        same(wl.load(data), ARRAYS[name])
        path = tmp_path / "a.npy"
        path.write_bytes(data)
        same(wl.load(path), ARRAYS[name])

    def test_versions(self):
        for version in ((1, 0), (2, 0), (3, 0)):
            same(wl.load(npy(ARRAYS["fortran"], version)), ARRAYS["fortran"])

    def test_strides_and_mapping(self, tmp_path):
        path = tmp_path / "a.npy"
        path.write_bytes(npy(ARRAYS["fortran"]))
        for mmap in (False, True):
            found = wl.load(path, mmap=mmap)
            assert found.flags.f_contiguous
            assert found.flags.writeable

    def test_several_in_one_file(self):
        file = io.BytesIO(npy(ARRAYS["plain"]) + npy(ARRAYS["flags"]))
        same(wl.load(file), ARRAYS["plain"])
        same(wl.load(file), ARRAYS["flags"])

    def test_described(self):
        with wl.read_checkpoint(npy(ARRAYS["big"])) as checkpoint:
            assert checkpoint.format == "npy"
            assert checkpoint.metadata["dtype"] == ">i4"
            assert read_values(checkpoint, checkpoint.object, (slice(1, 3),)).nested() == [1, 2]
        with wl.read_checkpoint(npy(ARRAYS["fortran"])) as checkpoint:
            assert checkpoint.object.stride == (1, 2, 6)
            assert read_values(checkpoint, checkpoint.object, (1, 2)).nested() == ARRAYS["fortran"][1, 2].tolist()

    def test_torch(self, torch):
        made = wl.load(npy(ARRAYS["fortran"]), framework="torch")
        assert made.stride() == (1, 2, 6)
        assert made.tolist() == ARRAYS["fortran"].tolist()

    @pytest.mark.parametrize(
        "text",
        ["{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}",
         "{'descr':'<f4','shape':(2L,),'fortran_order':False}",
         '{"shape": (2,), "fortran_order": True, "descr": "<f4", }   '],
    )  # fmt: skip
    def test_other_spellings(self, text):
        assert wl.load(header(text) + bytes(8)).tolist() == [0, 0]

    @pytest.mark.parametrize(
        ("data", "error"),
        [
            (npy(np.zeros(3))[:-1], TensorBoundsError),
            (b"\x93NUMPY\x01\0", DamagedError),
            (b"\x93NUMPY\x04\0" + bytes(100), UnsupportedError),
            (b"\x93NUMPY\x02\0\xff\xff\xff\xff" + bytes(100), LimitError),
            (npy(np.zeros(2, "i4,f4")), UnsupportedError),
            (npy(np.zeros(2, [("a", "f4", 2)])), UnsupportedError),
            (npy(np.array([{}], object)), UnsupportedError),
            (header("{'descr': ('<f4', (2,)), 'fortran_order': False, 'shape': (2,)}"), UnsupportedError),
            (header("{'descr': '<x4', 'fortran_order': False, 'shape': (2,)}"), UnsupportedError),
            (header("{'descr': '<f4', 'fortran_order': 1, 'shape': (2,)}"), DamagedError),
            (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}"), DamagedError),
            (header("{'descr': '<f4', 'fortran_order': False, 'shape': (2.0,)}"), DamagedError),
            (header("{'descr': '<f4', 'fortran_order': False}"), DamagedError),
            (header("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': ()}"), DamagedError),
            (header("{'descr': '<f4', 'fortran_order': False, 'shape': (), 'x': True}"), DamagedError),
            (header("{'descr': '<f4', 'fortran_order': False, 'shape': __import__('os')}"), DamagedError),
            (header("{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9)}"), DamagedError),
            (header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",)}"), CheckpointError),
            (header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1, " * 65 + ")}"), LimitError),
            (header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"), TensorBoundsError),
            (header("{'descr': '<U100000000', 'fortran_order': False, 'shape': (100,)}"), TensorBoundsError),
            (header("nothing"), DamagedError),
        ],
    )  # fmt: skip
    def test_refused(self, data, error):
        for read in (wl.load, wl.read_checkpoint):
            with pytest.raises(error):
                read(data)

    @given(st.binary(max_size=60))
    def test_hostile_headers(self, noise):
        raw = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}"
        for data in (header(noise.decode("latin-1")), header((raw[: len(noise) % 50] + noise).decode("latin-1"))):
            with contextlib.suppress(CheckpointError):
                parse_header(data, DEFAULT_LIMITS)

    def test_raw_bytes_of_other_types(self):
        """NumPy has no bfloat16, and writes raw bytes: they come back as it reads them."""
        made = np.arange(3).astype(ml_dtypes.bfloat16)
        found = wl.load(npy(made))
        assert found.dtype == np.dtype("V2")
        assert np.array_equal(found.view(ml_dtypes.bfloat16), made)


class TestNpz:
    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_read(self, save, tmp_path):
        path = tmp_path / "a.npz"
        path.write_bytes(npz(ARRAYS, save))
        for source in (path, path.read_bytes()):
            for verify in (True, False):
                found = wl.load(source, verify=verify)
                assert list(found) == list(ARRAYS)
                for name, array in ARRAYS.items():
                    same(found[name], array)

    def test_one_array(self):
        assert list(wl.load(npz({"only": np.zeros(3)}))) == ["only"]

    def test_mapped(self, tmp_path):
        path = tmp_path / "a.npz"
        tensors = {name: array for name, array in ARRAYS.items() if array.dtype.byteorder != ">"}
        path.write_bytes(npz(tensors))
        found = wl.load(path, mmap=True)
        for name, array in tensors.items():
            same(found[name], array)
        path.write_bytes(npz(tensors, np.savez_compressed))
        with pytest.raises(UnsupportedError, match="compressed"):
            wl.load(path, mmap=True)

    def test_torch(self, torch):
        found = wl.load(npz({"a": ARRAYS["big"], "b": ARRAYS["plain"]}), framework="torch")
        assert found["a"].tolist() == [0, 1, 2]
        assert found["b"].dtype is torch.float64

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_described(self, save, tmp_path):
        path = tmp_path / "a.npz"
        path.write_bytes(npz(ARRAYS, save))
        with wl.read_checkpoint(path) as checkpoint:
            assert checkpoint.format == "npz"
            assert checkpoint.object["large"].shape == (400_000,)
            assert checkpoint.metadata == {"members": 18, "deflated": 0 if save is np.savez else 18}
            assert read_values(checkpoint, checkpoint.object["large"], (slice(7, 9),)).nested() == [7, 8]

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_a_flipped_bit(self, save):
        data = bytearray(npz({"a": np.arange(100_000.0)}, save))
        data[300] ^= 1
        with pytest.raises(CheckpointError):
            wl.load(bytes(data))
        if save is np.savez:
            with pytest.raises(ChecksumError):
                wl.load(bytes(data))
            assert wl.load(bytes(data), verify=False)["a"].shape == (100_000,)

    def test_a_member_of_another_size(self):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.npy", npy(np.zeros(3)) + b"more")
        with pytest.raises(TensorBoundsError, match=r"a\.npy"):
            wl.load(file.getvalue())

    def test_an_object_array_inside(self):
        with pytest.raises(UnsupportedError, match="pickle"):
            wl.load(npz({"a": np.zeros(1), "b": np.array([1, None])}))

    def test_other_members(self):
        file = io.BytesIO(npz({"a": np.zeros(3)}))
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("README.txt", "text")
        with pytest.raises(wl.NotACheckpointError):
            wl.load(file.getvalue())


class TestWriting:
    @pytest.mark.parametrize("name", [name for name, array in ARRAYS.items() if array.dtype.kind in "biufc"])
    def test_headers_are_numpys(self, name):
        array = np.ascontiguousarray(ARRAYS[name]) if ARRAYS[name].ndim else ARRAYS[name]
        row = wl.dtype(str(array.dtype.newbyteorder("="))) if array.dtype != np.longdouble else None
        if row is not None:
            native = array.astype(array.dtype.newbyteorder("<"))
            assert npy(native).startswith(npy_header(row, array.shape))

    def test_numpy_reads_it(self, tmp_path):
        made = {name: array for name, array in ARRAYS.items() if array.dtype.kind in "biufc" and name != "long"}
        path = tmp_path / "x.npz"
        wl.save(made, path, format="npz", durable=True)
        with np.load(path, allow_pickle=False) as found:
            assert list(found) == list(made)
            for name, array in made.items():
                same(found[name], array)
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            for entry in archive.infolist():
                with archive.open(entry) as member, open(path, "rb") as file:
                    file.seek(entry.header_offset + 26)
                    name_length, extra = struct.unpack("<HH", file.read(4))
                    assert (entry.header_offset + 30 + name_length + extra) % 64 == 0
                    assert member.read(6) == b"\x93NUMPY"
        again = wl.load(path, mmap=True)
        for name, array in made.items():
            same(again[name], array)

    def test_same_bytes_every_time(self):
        one, other = io.BytesIO(), io.BytesIO()
        for file in (one, other):
            wl.save({"a": np.zeros(3), "b": np.ones(2)}, file, format="npz")
        assert one.getvalue() == other.getvalue()

    def test_many_members(self):
        file = io.BytesIO()
        wl.save({str(number): np.zeros(1, "u1") for number in range(70_000)}, file, format="npz")
        assert len(wl.load(file.getvalue())) == 70_000
        assert len(zipfile.ZipFile(file).namelist()) == 70_000

    def test_torch(self, torch):
        file = io.BytesIO()
        wl.save({"a": torch.ones(2, 3).t(), "b": torch.ones(2).bfloat16()}, file, format="npz", framework="torch")
        file.seek(0)
        with np.load(file, allow_pickle=False) as found:
            assert found["a"].shape == (3, 2)
            assert found["b"].dtype == np.dtype("V2")

    @pytest.mark.parametrize(
        ("obj", "error"),
        [([np.zeros(1)], UnsupportedTypeError), ({"a": 1}, UnsupportedTypeError),
         ({1: np.zeros(1)}, UnsupportedTypeError),
         ({"a": {"b": np.zeros(1)}}, UnsupportedTypeError), ({"\ud800": np.zeros(1)}, SaveError),
         ({"a\0": np.zeros(1)}, SaveError), ({"": np.zeros(1)}, SaveError), ({"/a": np.zeros(1)}, SaveError)],
    )  # fmt: skip
    def test_refused(self, obj, error):
        with pytest.raises(error):
            wl.save(obj, io.BytesIO(), format="npz")

    def test_no_shards(self, tmp_path):
        with pytest.raises(ArgumentError, match="npz"):
            wl.save({"a": np.zeros(1)}, tmp_path, format="npz", max_shard_size=1)
