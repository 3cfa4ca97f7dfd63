"""The archive, against PyTorch's and against Python's own reader."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighlock.formats.zip_layout import local_header
from weighlock.formats.zip_writer import ALIGNMENT, ZipForm, write_zip
from weighlock.storages.checksum import crc32, crc32_combine
from weighlock.storages.sinks import DescriptorSink, FileSink, GatheringSink, ObjectSink, StorageRecords


class CountingFile(io.BytesIO):
    calls = 0

    def write(self, data):
        self.calls += 1
        return super().write(data)


def archive(*storages: bytes, **options) -> bytes:
    file = io.BytesIO()
    records = StorageRecords([*map(len, storages)], storages.__getitem__)
    write_zip(ObjectSink(file), b"\x80\x02N.", records, ZipForm(**options))
    return file.getvalue()


def test_python_reads_it():
    storages = [b"", b"x" * 7, bytes(300_000), b"y" * 131_072, b"z" * (3 << 20)]
    with zipfile.ZipFile(io.BytesIO(archive(*storages))) as read:
        assert read.testzip() is None
        assert [name.removeprefix("archive/") for name in read.namelist()] == [
            "data.pkl", ".format_version", ".storage_alignment", "byteorder",
            *(f"data/{index}" for index in range(5)), "version", ".data/serialization_id",
        ]  # fmt: skip
        assert [read.read(f"archive/data/{index}") for index in range(5)] == storages
        assert read.read("archive/version") == b"3\n"
        assert read.read("archive/.data/serialization_id").isdigit()
        assert len(read.read("archive/.data/serialization_id")) == 40


def test_without_the_byteorder_record_it_comes_last():
    with zipfile.ZipFile(io.BytesIO(archive(b"a", byteorder_record=False))) as read:
        assert read.namelist()[-3:] == ["archive/version", "archive/byteorder", "archive/.data/serialization_id"]


@given(st.lists(st.binary(max_size=200), max_size=30))
def test_data_are_aligned_and_the_directory_tells_the_truth(storages):
    written = archive(*storages)
    with zipfile.ZipFile(io.BytesIO(written)) as read:
        for info in read.infolist():
            name, extra = struct.unpack_from("<HH", written, info.header_offset + 26)
            start = info.header_offset + 30 + name + extra
            assert start % ALIGNMENT == 0
            data = written[start : start + info.file_size]
            assert zlib.crc32(data) == info.CRC
            if data:
                trailer = struct.pack("<4sIII", b"PK\7\x08", info.CRC, len(data), len(data))
                assert written[start + len(data) :].startswith(trailer)


def test_the_same_records_make_the_same_file_and_others_another():
    assert archive(b"a", b"b") == archive(b"a", b"b")
    ids = set()
    for storages in ([b"a"], [b"b"], [b"a", b""], [b"", b"a"]):
        with zipfile.ZipFile(io.BytesIO(archive(*storages))) as read:
            ids.add(read.read("archive/.data/serialization_id"))
    assert len(ids) == 4


def test_many_small_records_are_few_writes():
    file = CountingFile()
    storages = [bytes(64)] * 20_000
    write_zip(ObjectSink(file), b"N.", StorageRecords([64] * 20_000, storages.__getitem__))
    assert file.calls < 20


def test_large_records_are_not_copied():
    seen = []

    class Sink:
        at_random = False

        def reserve(self, size):
            pass

        def write_at(self, offset, data):
            seen.append(data)

        def write_parts_at(self, offset, parts):
            seen.extend(parts)

    big = bytearray(5 << 20)
    write_zip(Sink(), b"N.", StorageRecords([len(big)], lambda _: memoryview(big)))
    pieces = [data for data in seen if isinstance(data, memoryview)]
    assert sum(map(len, pieces)) == len(big)
    assert all(piece.obj is big for piece in pieces)


SIZES = [5 << 20, 3, (1 << 20) + 77, 0, 131_073, 9 << 20, 4_097, 131_072, 12_345_678]


@pytest.mark.parametrize("any_thread", [True, False])
@pytest.mark.parametrize("form", [ZipForm(), ZipForm(alignment=4096), ZipForm(checksums=False)])
def test_a_file_and_a_stream_get_the_same_bytes(tmp_path, monkeypatch, form, any_thread):
    """The file in any order, by two threads; the stream from front to end."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    storages = [bytes([index + 1]) * size for index, size in enumerate(SIZES)]
    records = StorageRecords(SIZES, storages.__getitem__, any_thread=any_thread)
    stream = io.BytesIO()
    write_zip(ObjectSink(stream), b"N.", records, form)
    with (tmp_path / "file").open("wb") as file:
        write_zip(FileSink(file.fileno()), b"N.", records, form)
    assert (tmp_path / "file").read_bytes() == stream.getvalue()
    if form.checksums:
        with zipfile.ZipFile(stream) as read:
            assert read.testzip() is None


def test_an_error_in_a_thread_is_the_callers(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    storages = [bytes(size) for size in SIZES]
    records = StorageRecords(SIZES, storages.__getitem__)

    class Failing:
        at_random = True
        reserve = staticmethod(lambda size: None)
        write_parts_at = staticmethod(lambda offset, parts: None)

        @staticmethod
        def write_at(offset, data):
            if offset > 6 << 20:
                raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        write_zip(Failing(), b"N.", records)


def test_space_is_reserved_exactly(tmp_path, monkeypatch):
    from weighlock.storages import sinks

    reserved: list[int] = []

    def reserve(size):
        reserved.append(size)
        return 0

    monkeypatch.setattr(sinks, "_allocator", lambda: lambda _descriptor, size: reserve(size))
    for storages in ([], [b"abc"], [bytes(200_000), b"", bytes(70)]):
        records = StorageRecords([*map(len, storages)], storages.__getitem__)
        with (tmp_path / "file").open("wb") as file:
            write_zip(FileSink(file.fileno()), b"N.", records)
        assert (tmp_path / "file").stat().st_size == reserved[-1]


def test_where_space_cannot_be_reserved_the_file_is_written_all_the_same(tmp_path, monkeypatch):
    import errno

    from weighlock.storages import sinks

    monkeypatch.setattr(sinks, "_allocator", lambda: lambda _descriptor, _size: errno.EOPNOTSUPP)
    with (tmp_path / "file").open("wb") as file:
        write_zip(FileSink(file.fileno()), b"N.", StorageRecords([3], lambda _: b"abc"))
    assert zipfile.ZipFile(tmp_path / "file").testzip() is None


@given(st.lists(st.sampled_from([b"", b"ab", b"c" * 5_000]), max_size=1_200), st.integers(0, 9))
def test_many_parts_in_one_write(parts, offset):
    import tempfile

    with tempfile.TemporaryFile() as file:
        FileSink(file.fileno()).write_parts_at(offset, parts)
        assert file.read() == bytes(offset if any(parts) else 0) + b"".join(parts)


def test_a_storage_of_another_size_than_planned_is_noticed():
    with pytest.raises(AssertionError):
        write_zip(ObjectSink(io.BytesIO()), b"N.", StorageRecords([5], lambda _: b"four"))


# What no test file of a few bytes can show: records and offsets that do not fit into 32 bits.


@pytest.mark.parametrize(
    ("offset", "size", "field"),
    [
        (0, 0xFFFFFFFF, struct.pack("<HHQQ", 1, 16, 0xFFFFFFFF, 0)),
        (0, 5 << 32, struct.pack("<HHQQ", 1, 16, 5 << 32, 0)),
        (0xFFFFFFFF, 5, struct.pack("<HHQ", 1, 8, 0xFFFFFFFF)),
        (7 << 32, 5 << 32, struct.pack("<HHQQQ", 1, 24, 5 << 32, 0, 7 << 32)),
        (0xFFFFFFFE, 0xFFFFFFFE, b""),
    ],
)
def test_zip64_fields(offset, size, field):
    start = offset + 30 + 14 + len(field) + 4
    start += -start % ALIGNMENT
    header = local_header(b"archive/data/0", offset, size, start)
    assert header[30 + 14 :].startswith(field + b"FB")
    assert offset + len(header) == start
    assert header[14:26] == bytes(12)  # checksum and sizes


class Pretender(bytes):
    """Data that claims to be large: the sink only counts it."""

    size = 0

    def __len__(self):
        return self.size


class Discarder:
    at_random = False

    def __init__(self):
        self.kept = []
        self.size = None

    def reserve(self, size):
        self.size = size

    def write_at(self, offset, data):
        self.kept.append(bytes(data))

    def write_parts_at(self, offset, parts):
        self.kept.extend(map(bytes, parts))


def test_records_behind_four_gigabytes(monkeypatch):
    from weighlock.formats import zip_writer

    monkeypatch.setattr(zip_writer._Archive, "_large", lambda _self, _index, _data: iter(()))
    monkeypatch.setattr(zip_writer._Archive, "_combined", lambda _self, _index: 0x1234)
    size = 5 << 30
    pretender = Pretender()
    pretender.size = size
    sink = Discarder()
    write_zip(sink, b"N.", StorageRecords([size, 3], lambda index: (pretender, b"abc")[index]))
    written = b"".join(sink.kept)
    assert sink.size == len(written) + size
    assert struct.pack("<4sIQQ", b"PK\7\x08", 0x1234, size, size) in written
    small = written.index(b"archive/data/1")
    place = struct.unpack_from("<Q", written, small + 14 + 4)[0]
    assert place > size
    assert struct.pack("<4sIQQ", b"PK\7\x08", zlib.crc32(b"abc"), 3, 3) in written, "a 24-byte descriptor behind 4 GiB"
    entry = written.index(b"archive/data/0", written.index(b"PK\1\2"))
    assert written[entry + 14 :].startswith(struct.pack("<HHQQ", 1, 16, size, size))
    entry = written.index(b"archive/data/1", written.index(b"PK\1\2"))
    assert written[entry + 14 :].startswith(struct.pack("<HHQ", 1, 8, place))
    assert struct.unpack_from("<II", written, entry - 46 + 20) == (3, 3)
    assert struct.unpack_from("<I", written, entry - 46 + 42) == (0xFFFFFFFF,)
    assert written[-22:].startswith(b"PK\5\6")
    assert struct.unpack_from("<I", written, len(written) - 22 + 16) == (0xFFFFFFFF,)


# Checksums


@given(st.binary(), st.binary())
def test_checksums_of_pieces_combine(first, second):
    assert crc32(first + second) == zlib.crc32(first + second)
    assert crc32(second, crc32(first)) == zlib.crc32(first + second)
    assert crc32_combine(crc32(first), crc32(second), len(second)) == zlib.crc32(first + second)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**40))
def test_checksums_combine_in_python_as_in_c(first, second, length):
    from weighlock.storages.checksum import _combine_slowly

    assert _combine_slowly(first, second, length) == crc32_combine(first, second, length)


def test_checksums_combine_over_lengths_beyond_memory():
    zeros = 0
    for power in range(41):  # the checksum of 2**40 zero bytes, by doubling
        zeros = crc32(b"\0") if power == 0 else crc32_combine(zeros, zeros, 1 << (power - 1))
    half = crc32_combine(zeros, zeros, 1 << 40)
    assert half == crc32_combine(crc32_combine(zeros, zeros, 1 << 40), 0, 0)
    assert crc32_combine(crc32(b"abc"), 0, 0) == crc32(b"abc")


# Sinks


class Raw(io.RawIOBase):
    """Takes seven bytes at a time, as a full pipe does."""

    def __init__(self):
        self.data = bytearray()

    def writable(self):
        return True

    def write(self, data):
        self.data += bytes(data[:7])
        return len(data[:7])


def test_partial_writes_are_completed():
    raw = Raw()
    ObjectSink(raw).write_at(0, b"0123456789" * 5)
    assert bytes(raw.data) == b"0123456789" * 5


def test_descriptors_that_take_little_at_a_time(tmp_path, monkeypatch):
    import os

    write, pwrite = os.write, os.pwrite
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data[:3])))
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: pwrite(descriptor, bytes(data[:3]), offset))
    for sink in (DescriptorSink, FileSink):
        with (tmp_path / "file").open("wb") as file:
            sink(file.fileno()).write_at(0, memoryview(b"0123456789"))
        assert (tmp_path / "file").read_bytes() == b"0123456789"


@given(st.lists(st.sampled_from([b"a", b"b" * 200_000, b"c" * 131_072, b""]), max_size=30))
def test_gathering_keeps_the_order(parts):
    file = io.BytesIO()
    sink = GatheringSink(ObjectSink(file))
    for part in parts:
        sink.write(part)
    sink.flush()
    assert file.getvalue() == b"".join(parts)
