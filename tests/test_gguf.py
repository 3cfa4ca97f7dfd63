"""GGUF files: what the gguf package writes is read, in either byte order, and nothing is believed unchecked."""

import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import weighlock as wl
from tests.goldens.make_gguf_goldens import ARRAYS, VALUES, tensors
from weighlock.errors import CheckpointError, DamagedError, LimitError, TruncatedError, UnsupportedError
from weighlock.inspection.inventory import tensors as rows_of
from weighlock.inspection.summary import summarize
from weighlock.inspection.values import read_values
from weighlock.limits import Limits

GOLDENS = Path(__file__).parent / "goldens" / "gguf-0.19.0"


class TestGoldens:
    def test_little_endian(self):
        with wl.read_checkpoint(GOLDENS / "little.gguf") as checkpoint:
            assert checkpoint.format == "gguf"
            assert checkpoint.metadata["version"] == 3
            assert checkpoint.metadata["alignment"] == 64
            assert checkpoint.metadata["byteorder"] == "little"
            metadata = checkpoint.metadata["metadata"]
            assert metadata["general.architecture"] == "llama"
            for key, value in (VALUES | ARRAYS).items():
                assert metadata[f"test.{key}"] == value
            for key, array in tensors().items():
                assert checkpoint.object[key].shape == array.shape
                assert read_values(checkpoint, checkpoint.object[key]).nested() == array.tolist()
            values = read_values(checkpoint, checkpoint.object["f32"], (1, slice(1, 3), 2)).nested()
            assert values == tensors()["f32"][1, 1:3, 2].tolist()

    def test_tensors_in_blocks(self):
        path = GOLDENS / "little.gguf"
        with wl.read_checkpoint(path) as checkpoint:
            spec = checkpoint.object["q8"]
            assert (spec.kind, spec.shape, spec.nbytes) == ("Q8_0", (2, 32), 68)
            assert checkpoint.storage_bytes(spec.ref) == (GOLDENS / "q8_0.bin").read_bytes()
            (row,) = (row for row in rows_of(checkpoint) if row.key == "q8")
            assert (row.leaf.dtype, row.leaf.shape, row.leaf.nbytes) == ("Q8_0", (2, 32), 68)
            summary = summarize(checkpoint)
            assert summary.totals.unreferenced_bytes == 0
            assert "Q8_0" in summary.verdict
        with pytest.raises(UnsupportedError, match="Q8_0.*read_checkpoint"):
            wl.load(path)

    @pytest.mark.parametrize("mmap", [False, True])
    def test_values(self, mmap, tmp_path):
        path = tmp_path / "x.gguf"
        bfloat16 = np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3)
        made = {**tensors(), "bf16": bfloat16}
        path.write_bytes(gguf({key: entry(array) for key, array in made.items()}))
        found = wl.load(path, mmap=mmap)
        assert list(found) == list(made)
        for key, array in made.items():
            assert found[key].dtype == array.dtype
            assert np.array_equal(found[key], array)

    def test_big_endian(self):
        found = wl.load(GOLDENS / "big.gguf")
        for key, array in tensors().items():
            assert found[key].dtype == array.dtype
            assert np.array_equal(found[key], array)
        with wl.read_checkpoint(GOLDENS / "big.gguf") as checkpoint:
            assert checkpoint.metadata["byteorder"] == "big"
            for key, value in VALUES.items():
                assert checkpoint.metadata["metadata"][f"test.{key}"] == value
            assert read_values(checkpoint, checkpoint.object["i32"], (slice(1, 3),)).nested() == [1, 2]

    def test_torch(self, torch):
        found = wl.load(GOLDENS / "big.gguf", framework="torch")
        assert found["f32"].tolist() == tensors()["f32"].tolist()


KINDS = {"float32": 0, "float16": 1, "int8": 24, "int16": 25, "int32": 26, "int64": 27, "float64": 28, "bfloat16": 30}


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(array):
    return array.tobytes(), tuple(reversed(array.shape)), KINDS[str(array.dtype)]


def gguf(tensors=None, values=(), *, version=3, counts=None, offsets=None, alignment=32, pad=True):
    """Return a file; `tensors` by name: bytes, dimensions from the fastest on, and type."""
    tensors = tensors or {}
    count, value_count = counts or (len(tensors), len(values))
    head = b"GGUF" + struct.pack("<IQQ", version, count, value_count)
    head += b"".join(text(key) + struct.pack("<I", kind) + raw for key, kind, raw in values)
    data = b""
    for name, (raw, dimensions, kind) in tensors.items():
        offset = (offsets or {}).get(name, len(data))
        head += text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)
        data += raw + bytes(-len(raw) % alignment if pad else 0)
    return head + bytes(-len(head) % alignment) + data


ONES = (struct.pack("<2f", 1, 1), (2,), 0)


class TestWrittenHere:
    def test_version_2(self):
        assert wl.load(gguf({"a": ONES}, version=2))["a"].tolist() == [1, 1]

    def test_without_tensors(self):
        assert wl.load(gguf()) == {}

    def test_alignment(self):
        data = gguf({"a": ONES, "b": ONES}, [("general.alignment", 4, struct.pack("<I", 8))], alignment=8)
        assert wl.load(data)["b"].tolist() == [1, 1]

    def test_an_array_of_many_strings(self):
        count = 50_000
        raw = struct.pack("<IQ", 8, count) + b"".join(text(str(number)) for number in range(count))
        with wl.read_checkpoint(gguf({"a": ONES}, [("words", 9, raw)])) as checkpoint:
            assert checkpoint.metadata["metadata"]["words"] == [str(number) for number in range(count)]

    @pytest.mark.parametrize(
        ("data", "error", "words"),
        [
            (b"GGUF", TruncatedError, "header"),
            (gguf({"a": ONES})[:40], TruncatedError, "header"),
            (gguf({"a": ONES}, pad=False)[:-1], TruncatedError, "last tensor"),
            (gguf(version=1), UnsupportedError, "version"),
            (gguf(version=4), UnsupportedError, "version"),
            (gguf(counts=(1 << 60, 0)), LimitError, "entries"),
            (gguf(counts=(0, 1 << 60)), LimitError, "entries"),
            (gguf(counts=(5, 0)), CheckpointError, "header"),
            (gguf({"a": (b"", (1,) * 9, 0)}), DamagedError, "dimensions"),
            (gguf({"a": (b"", (1 << 62,), 0)}), DamagedError, "memory"),
            (gguf({"a": (b"", (1 << 40, 1 << 40), 0)}), DamagedError, "memory"),
            (gguf({"a": (b"", (1 << 40, 0), 0)}), None, None),
            (gguf({"a": (bytes(32), (33,), 8)}), DamagedError, "blocks"),
            (gguf({"a": (b"", (1,), 4)}), UnsupportedError, "GGML type 4"),
            (gguf({"a": ONES, "b": ONES}, offsets={"b": 0}), DamagedError, "lies on"),
            (gguf({"a": ONES, "b": ONES}, offsets={"b": 4}), DamagedError, "lies on"),
            (gguf({"a": ONES}, offsets={"a": 16}), DamagedError, "aligned"),
            (gguf({"a": ONES}, offsets={"a": 1 << 63}), TruncatedError, "last tensor"),
            (gguf({}, [("a", 99, b"")]), DamagedError, "type 99"),
            (gguf({}, [("a", 0, b"1"), ("a", 0, b"1")]), DamagedError, "twice"),
            (gguf({}, [("a", 8, struct.pack("<Q", 1 << 62))]), TruncatedError, "header"),
            (gguf({}, [("a", 9, struct.pack("<IQ", 8, 1 << 62))]), TruncatedError, "array"),
            (gguf({}, [("a", 9, struct.pack("<IQ", 4, 1 << 62))]), TruncatedError, "header"),
            (gguf({}, [("a", 9, struct.pack("<IQ", 9, 1) * 20)]), DamagedError, "type"),
            (gguf({}, [("general.alignment", 4, struct.pack("<I", 3))]), DamagedError, "alignment"),
            (gguf({}, [("general.alignment", 4, struct.pack("<I", 0))]), DamagedError, "alignment"),
            (gguf({}, [("general.alignment", 8, text("x"))]), DamagedError, "alignment"),
        ],
    )
    def test_refused(self, data, error, words):
        if error is None:
            assert wl.load(data)["a"].size == 0
            return
        for read in (wl.load, wl.read_checkpoint):
            with pytest.raises(error, match=words):
                read(data)

    def test_limits(self):
        with pytest.raises(LimitError):
            wl.load(gguf({"a": ONES, "b": ONES}), limits=Limits(max_records=1))

    def test_noise(self):
        data = (GOLDENS / "little.gguf").read_bytes()
        for at in range(0, 1200, 7):
            try:
                wl.read_checkpoint(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]).close()
            except CheckpointError:
                continue
