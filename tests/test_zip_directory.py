"""The zip directory: real files are read as the standard library reads them; what is ambiguous is refused."""

import io
import os
import random
import struct
import zipfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighlock.errors import (
    CheckpointError,
    ChecksumError,
    DirectoryError,
    LimitError,
    TruncatedError,
    UnsupportedError,
)
from weighlock.formats.zip_directory import data_offset, data_offsets, parse_local_header, read_directory, read_record
from weighlock.limits import DEFAULT_LIMITS, Limits
from weighlock.storages.source import BytesSource, PathSource


def entry(name, data=b"", **changes):
    """One record as PyTorch writes it; `changes` lie about it."""
    return {"name": name, "data": data, **changes}


def archive(*entries, prefix=b"", wide=False, comment=b"", middle=b"", **end):
    """A zip file with torch's habits (zeros in local headers, data descriptors), and the caller's lies."""
    out = bytearray(prefix)
    directory = bytearray()
    for item in entries:
        raw = item.get("raw", item["name"].encode())
        data, method, flags = item["data"], item.get("method", 0), item.get("flags", 0x0808)
        size, crc = item.get("size", len(data)), item.get("crc", zlib.crc32(data))
        packed = item.get("packed", len(data))
        offset = item.get("offset", len(out))
        local = item.get("local", {})
        extra = local.get("extra", b"")
        if "offset" not in item:
            out += struct.pack(
                "<4s5H3I2H", local.get("mark", b"PK\3\4"), 0, local.get("flags", flags), local.get("method", method),
                0, 0, local.get("crc", 0), local.get("packed", 0), local.get("size", 0),
                len(local.get("raw", raw)), len(extra),
            )  # fmt: skip
            out += local.get("raw", raw) + extra + data
            if data:
                out += struct.pack("<4s3I", b"PK\7\x08", crc, len(data), size)
        zip64 = b""
        narrow = []
        for value in (size, packed, offset):
            saturated = item.get("zip64", False)
            narrow.append(0xFFFFFFFF if saturated else value)
            zip64 += struct.pack("<Q", value) if saturated else b""
        zip64 = struct.pack("<HH", 1, len(zip64)) + zip64 if zip64 else b""
        zip64 = item.get("extra", zip64)
        directory += struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 0, 0, flags, method, 0, 0, crc, narrow[1], narrow[0], len(raw), len(zip64), 0,
            item.get("disk", 0), 0, 0, narrow[2],
        )  # fmt: skip
        directory += raw + zip64
    start = end.get("offset", len(out))
    out += middle + directory
    count, size = end.get("count", len(entries)), end.get("size", len(directory))
    narrow_end = (count, count, size, start)
    if wide:
        position = len(out)
        out += struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 0x31E, 45, 0, 0, count, count, size, end.get("wide", start))
        out += struct.pack("<4sIQI", b"PK\6\7", 0, end.get("locator", position), end.get("disks", 1))
        narrow_end = end.get("narrow", narrow_end)
    out += struct.pack("<4s4H2IH", b"PK\5\6", end.get("disk", 0), 0, *narrow_end, len(comment)) + comment
    return bytes(out)


def read(data, limits=DEFAULT_LIMITS):
    return read_directory(BytesSource(data), limits)


A, B = entry("m/data.pkl", b"pickle"), entry("m/data/0", b"12345678")


@pytest.fixture
def torch_file(torch, tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.arange(100.0), "bias": torch.zeros(3), "empty": torch.zeros(0)}, path)
    return path


def check_as_zipfile(path):
    """Compare everything with what the standard library finds."""
    source = PathSource(path)
    directory = read_directory(source, DEFAULT_LIMITS)
    with zipfile.ZipFile(path) as theirs:
        assert [
            (r.name, r.size, r.compressed_size, r.crc, r.header_offset, r.method, r.flags) for r in directory.records
        ] == [
            (i.filename, i.file_size, i.compress_size, i.CRC, i.header_offset, i.compress_type, i.flag_bits)
            for i in theirs.infolist()
        ]
        assert directory.start_of_directory == theirs.start_dir
        assert directory.end == source.size
        for record in directory.records:
            assert read_record(source, record, DEFAULT_LIMITS) == theirs.read(record.name)
    offsets = data_offsets(directory.records[::-1], source)[::-1]
    assert offsets == [data_offset(source, record) for record in directory.records]
    for record, offset in zip(directory.records, offsets, strict=True):
        if record.method == 0:
            assert source.read_at(offset, record.size) == read_record(source, record, DEFAULT_LIMITS)
    source.close()
    return directory, offsets


def test_a_file_of_torch(torch_file):
    directory, offsets = check_as_zipfile(torch_file)
    assert "model/data.pkl" in [record.name for record in directory.records]
    assert all(offset % 64 == 0 for offset in offsets)
    assert directory.trailing_bytes == 0
    assert directory.comment == b""


def test_alignment_of_4096(torch, tmp_path):
    from torch.utils.serialization import config

    with config.patch({"save.storage_alignment": 4096}):
        torch.save([torch.arange(10), torch.arange(5.0)], tmp_path / "model.pt")
    _, offsets = check_as_zipfile(tmp_path / "model.pt")
    assert all(offset % 4096 == 0 for offset in offsets)


def test_crc_0_means_not_computed(torch, tmp_path):
    path = tmp_path / "model.pt"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(torch.arange(10), path)
    finally:
        torch.serialization.set_crc32_options(True)
    source = PathSource(path)
    records = {record.name: record for record in read_directory(source, DEFAULT_LIMITS).records}
    assert records["model/data/0"].crc == 0
    assert len(read_record(source, records["model/data/0"], DEFAULT_LIMITS)) == 80
    source.close()


def test_a_file_of_more_than_4_gib(torch, tmp_path):
    """Real zip64 by torch: the bytes are holes, so it takes no room on the disk, and no memory."""
    path = tmp_path / "model.pt"
    with torch.serialization.skip_data():
        torch.save([torch.empty((4 << 30) + 100, dtype=torch.uint8), torch.empty(10)], path)
    assert os.stat(path).st_blocks * 512 < 1 << 20, "the file is not sparse: this test would fill the disk"
    source = PathSource(path)
    directory = read_directory(source, DEFAULT_LIMITS)
    records = {record.name: record for record in directory.records}
    assert records["model/data/0"].size == (4 << 30) + 100
    assert records["model/data/1"].header_offset > 4 << 30
    assert read_record(source, records["model/data/1"], DEFAULT_LIMITS) == bytes(40)
    assert data_offset(source, records["model/data/0"]) % 64 == 0
    with zipfile.ZipFile(path) as theirs:
        assert [info.header_offset for info in theirs.infolist()] == [r.header_offset for r in directory.records]
        assert [info.file_size for info in theirs.infolist()] == [r.size for r in directory.records]
    source.close()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("seekable", [True, False])
@pytest.mark.parametrize("force_zip64", [True, False])
def test_files_of_the_standard_library(tmp_path, method, seekable, force_zip64):
    class OneWay(io.FileIO):
        def seekable(self):
            return seekable

        def tell(self):
            if not seekable:
                raise OSError
            return super().tell()

        def seek(self, *args):
            if not seekable:
                raise OSError
            return super().seek(*args)

    path = tmp_path / "model.zip"
    with OneWay(path, "wb") as file, zipfile.ZipFile(file, "w", method) as made:
        made.comment = b"a comment"
        for name, data in (("m/data.pkl", b"pickle" * 1000), ("m/data/0", b""), ("m/größe", os.urandom(5000))):
            with made.open(name, "w", force_zip64=force_zip64) as record:
                record.write(data)
    directory, _ = check_as_zipfile(path)
    assert directory.comment == b"a comment"


def test_names_of_many_lengths_and_extras():
    chance = random.Random(0)
    entries = [
        entry(f"m/{'x' * chance.choice([1, 1, 1, 5])}{number}", b"1" * (number % 3), zip64=chance.random() < 0.1)
        for number in range(1000)
    ]
    data = archive(*entries, wide=True)
    found = read(data)
    assert [record.name for record in found.records] == [item["name"] for item in entries]
    for record, item in zip(found.records, entries, strict=True):
        assert read_record(BytesSource(data), record, DEFAULT_LIMITS) == item["data"]


def test_names_of_other_codes():
    made = archive(entry("", raw=b"caf\x82", flags=8), entry("ä", flags=8), entry("", raw=b"\xff", flags=8))
    assert [record.name for record in read(made).records] == ["café", "├ñ", "\u00a0"]
    made = archive(entry("ä", flags=0x800), entry("", raw=b"\xff", flags=0x800))
    assert [record.name for record in read(made).records] == ["ä", "\udcff"]


def test_names_are_only_keys():
    names = ["/etc/passwd", "../../x", "C:\\x", "m/", ""]
    assert [record.name for record in read(archive(*map(entry, names))).records] == names


def test_records_in_another_order_than_their_entries():
    whole = archive(A, B)
    second = whole.index(b"PK\3\4", 4)
    records = read(archive(A, B, entry("m/c"))).records
    assert records[0].end == second
    directory = whole.index(b"PK\1\2")
    middle = whole.index(b"PK\1\2", directory + 4)
    end = whole.index(b"PK\5\6")
    swapped = whole[:directory] + whole[middle:end] + whole[directory:middle] + whole[end:]
    again = read(swapped)
    assert [(record.name, record.end) for record in again.records] == [("m/data/0", directory), ("m/data.pkl", second)]


def test_an_empty_archive():
    assert read(archive()).records == []


def test_trailing_bytes_are_counted():
    for junk in (b"\0", b"junk" * 1000, b"PK"):
        found = read(archive(A, B, comment=b"note") + junk)
        assert found.trailing_bytes == len(junk)
        assert found.comment == b"note"
        assert len(found.records) == 2


def test_an_archive_stored_inside_an_archive_is_a_record_like_any_other():
    inner = archive(A, B, wide=True)
    found = read(archive(entry("inner.pt", inner)))
    assert read_record(BytesSource(archive(entry("inner.pt", inner))), found.records[0], DEFAULT_LIMITS) == inner


HOSTILE = {
    "a name twice": (archive(A, B, A), DirectoryError, "twice"),
    "a name twice in another case": (archive(A, entry("M/DATA.PKL")), DirectoryError, "different case"),
    "a name twice after folding": (archive(entry("straße", flags=0x800), entry("STRASSE")), DirectoryError, "case"),
    "a NUL in a name": (archive(A, entry("m/data\0x")), DirectoryError, "NUL"),
    "overlapping": (archive(A, B, entry("m/x", b"pickle", offset=0)), DirectoryError, "overlap"),
    "a size into the next record": (archive(entry("m/a", b"12", size=50, packed=50), B), DirectoryError, "overlap"),
    "a size past the end": (archive(A, entry("m/x", b"1", size=9999, packed=9999)), DirectoryError, "outside"),
    "an offset past the end": (archive(A, entry("m/x", offset=1 << 31)), DirectoryError, "outside"),
    "an offset into the directory": (archive(A, entry("m/x", offset=60)), DirectoryError, "outside"),
    "a prefix that the offsets know": (archive(A, B, prefix=b"#!/bin/sh\n"), DirectoryError, "before the first"),
    "a prefix": (b"#!/bin/sh\n" + archive(A, B), DirectoryError, "first byte"),
    "an archive before it": (archive(A) + archive(A, B), DirectoryError, "first byte"),
    "an archive before it, zip64": (archive(A, wide=True) + archive(A, B, wide=True), DirectoryError, "first byte"),
    "bytes missing inside": (archive(A, entry("m/x", b"x" * 100)).replace(b"x" * 9, b"", 1), DirectoryError, "missing"),
    "a gap before the end": (archive(A, B)[:-22] + b"gap" + archive(A, B)[-22:], DirectoryError, "directory"),
    "two sizes of a stored record": (archive(entry("m/a", b"12", size=3)), DirectoryError, "two sizes"),
    "more entries than counted": (archive(A, B, count=1), DirectoryError, "other entries"),
    "fewer entries than counted": (archive(A, B, count=3), DirectoryError, "entries"),
    "a wrong mark": (archive(A, B).replace(b"PK\1\2", b"PK\1\3", 1), DirectoryError, "signature"),
    "a long name": (archive(A, B).replace(b"\x0a\0\0\0\0\0\0\0\0\0", b"\xff\xff\0\0\0\0\0\0\0\0", 1),
                    DirectoryError, "inside an entry"),
    "encrypted": (archive(entry("m/a", b"1", flags=0x809)), UnsupportedError, "encrypted"),
    "bzip2": (archive(entry("m/a", b"1", method=12)), UnsupportedError, "method"),
    "another disk": (archive(entry("m/a", disk=1)), UnsupportedError, "disk"),
    "several disks": (archive(A, disk=1), UnsupportedError, "disks"),
    "several disks, zip64": (archive(A, wide=True, disks=2), UnsupportedError, "disks"),
    "4 GiB without the field": (archive(entry("m/a", zip64=True, extra=b"")), DirectoryError, "zip64"),
    "4 GiB with half the field": (archive(entry("m/a", zip64=True, extra=b"\1\0\x08\0" + bytes(8))),
                                  DirectoryError, "zip64"),
    "zip64 end elsewhere": (archive(A, wide=True, locator=3), DirectoryError, "moved"),
    "zip64 end past the end": (archive(A, wide=True, locator=1 << 60), DirectoryError, "missing"),
    "no zip64 end": (archive(A, wide=True).replace(b"PK\6\6", b"PK\6\5"), DirectoryError, "locator"),
    "a longer zip64 end": (archive(A, wide=True).replace(b"PK\6\6\x2c", b"PK\6\6\x2d"), DirectoryError, "locator"),
    "zip64 end with other numbers": (archive(A, wide=True, narrow=(2, 2, 9, 9)), DirectoryError, "differ"),
    "two ends": (archive(A, B, comment=b"PK\5\6" + archive(A, B)[-18:]), DirectoryError, "directory"),
    "a second end in the comment": (archive(A, B, comment=b"PK\5\6" + bytes(18)), DirectoryError, "first byte"),
    "half an end behind it": (archive(A, B) + b"PK\5\6", DirectoryError, "another end"),
    "a comment past the end": (archive(A, comment=b"comment")[:-3], DirectoryError, "comment"),
    "too many inflated bytes": (archive(entry("m/a", b"12", size=2**31, method=8)), LimitError, "inflate"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_refused(case):
    data, error, words = HOSTILE[case]
    with pytest.raises(error, match=words):
        read(data)


def test_two_archives_in_one_file():
    """Both end records hold together: the first for readers that trust comments, the second for those that search."""
    first = archive(A)
    hidden = entry("m/evil.pkl", b"evil")
    body = archive(A, hidden)
    start = body.index(b"PK\1\2")
    directory = body[start:-22]
    second_end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 2, 2, len(directory), len(first) + 0, 0)
    comment = directory + second_end
    outer = bytearray(first + comment)
    struct.pack_into("<H", outer, len(first) - 2, len(comment))
    with pytest.raises(DirectoryError, match="two end records"):
        read(bytes(outer))


def test_limits():
    data = archive(A, B)
    with pytest.raises(LimitError, match="too many records"):
        read(data, Limits(max_records=1))
    packed = zlib.compressobj(9, wbits=-15)
    body = packed.compress(bytes(100_000)) + packed.flush()
    deflated = archive(entry("m/a", body, size=100_000, method=8, crc=0))
    assert read_record(BytesSource(deflated), read(deflated).records[0], DEFAULT_LIMITS) == bytes(100_000)
    with pytest.raises(LimitError, match="inflate too far"):
        read(deflated, Limits(max_inflation=100))
    with pytest.raises(LimitError, match="memory"):
        read(deflated, Limits(max_inflated_bytes=99_999))
    with pytest.raises(LimitError, match="too large"):
        read_record(BytesSource(data), read(data).records[0], Limits(max_pickle_bytes=5))


LOCAL = {
    "another name": ({"raw": b"m/data.pkx"}, "another one"),
    "a shorter name": ({"raw": b"m/data.pk"}, "another one"),
    "no header": ({"mark": b"PK\3\5"}, "not where it should be"),
    "another method": ({"method": 8}, "differ"),
    "encrypted": ({"flags": 0x809}, "differ"),
    "another crc": ({"crc": 7}, "CRC-32"),
    "another size": ({"size": 7}, "differ in size"),
    "another compressed size": ({"packed": 7}, "compressed size"),
}


@pytest.mark.parametrize("case", LOCAL)
def test_local_header_that_contradicts_the_directory(case):
    changes, words = LOCAL[case]
    data = archive(A | {"local": changes}, B)
    source = BytesSource(data, "the file")
    record = read(data).records[0]
    for call in (
        lambda: data_offset(source, record),
        lambda: data_offsets([record], source),
        lambda: read_record(source, record, DEFAULT_LIMITS),
    ):
        with pytest.raises(DirectoryError, match=words) as caught:
            call()
        assert caught.value.record == "m/data.pkl"
        assert caught.value.path == "the file"


def test_local_header_with_the_directory_s_own_numbers():
    crc = zlib.crc32(b"pickle")
    for local in ({"crc": crc, "size": 6, "packed": 6}, {"crc": crc, "size": 0xFFFFFFFF, "packed": 0xFFFFFFFF}):
        data = archive(A | {"local": local | {"extra": b"\1\0\x10\0" + struct.pack("<2Q", 6, 6)}}, B)
        assert read_record(BytesSource(data), read(data).records[0], DEFAULT_LIMITS) == b"pickle"


def test_local_header_whose_extra_field_reaches_into_the_next_record():
    data = bytearray(archive(A, B))
    struct.pack_into("<H", data, 28, 40)
    with pytest.raises(DirectoryError, match="next record"):
        data_offset(BytesSource(data), read(bytes(data)).records[0])


def test_parse_local_header_in_a_window():
    data = archive(A, B)
    record = read(data).records[1]
    window = data[record.header_offset - 3 :]
    for buffer in (window, memoryview(window)):
        start = parse_local_header(buffer, 3, record)
        assert bytes(buffer[start : start + 8]) == b"12345678"
    with pytest.raises(DirectoryError):
        parse_local_header(window[:20], 3, record)


def test_wrong_crc():
    data = archive(A, entry("m/data/0", b"12345678")).replace(b"12345678", b"12345679")
    source = BytesSource(data, "the file")
    record = read(data).records[1]
    with pytest.raises(ChecksumError, match="CRC-32") as caught:
        read_record(source, record, DEFAULT_LIMITS)
    assert (caught.value.record, caught.value.path) == ("m/data/0", "the file")
    assert read_record(source, record, DEFAULT_LIMITS, verify=False) == b"12345679"


@pytest.mark.parametrize("size", [999, 1001, 0])
def test_deflated_record_of_another_size(size):
    packed = zlib.compressobj(9, wbits=-15)
    body = packed.compress(os.urandom(10) * 100) + packed.flush()
    data = archive(entry("m/a", body, size=size, method=8, crc=0))
    with pytest.raises(DirectoryError, match="another size"):
        read_record(BytesSource(data), read(data).records[0], DEFAULT_LIMITS)


def test_deflated_record_that_is_damaged():
    data = archive(entry("m/a", b"\xff" * 20, size=100, method=8, crc=0))
    with pytest.raises(DirectoryError, match="inflated"):
        read_record(BytesSource(data), read(data).records[0], DEFAULT_LIMITS)


def read_all(data):
    source = BytesSource(data)
    directory = read_directory(source, DEFAULT_LIMITS)
    data_offsets(directory.records, source)
    return [read_record(source, record, DEFAULT_LIMITS) for record in directory.records]


@pytest.mark.parametrize("wide", [False, True])
def test_every_truncation_is_our_error(wide):
    data = archive(A, B, entry("m/version", b"3\n"), wide=wide)
    for length in range(len(data)):
        with pytest.raises(CheckpointError):
            read_all(data[:length])


def test_a_cut_archive_says_how_much_is_there():
    data = archive(A, B, entry("m/data/1", b"PK\7\x08" * 9), entry("m/data/2", b"x" * 100))
    for length, records, tensors in ((20, 0, 0), (len(data) // 2, 3, 2), (data.index(b"PK\1\2") + 9, 4, 3)):
        with pytest.raises(TruncatedError, match=f"{length} bytes with {records} whole records, {tensors} of them"):
            read(data[:length])


def test_a_cut_file_of_torch(torch_file):
    data = torch_file.read_bytes()
    with pytest.raises(TruncatedError, match="7 whole records, 3 of them tensor storages"):
        read(data[: data.index(b"model/version") + 3])


BASE = archive(A, B, entry("m/version", b"3\n"), wide=True)


@given(st.lists(st.tuples(st.integers(0, len(BASE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_are_read_or_our_error(changes):
    data = bytearray(BASE)
    for place, value in changes:
        data[place] = value
    try:
        read_all(bytes(data))
    except CheckpointError as error:
        str(error)
