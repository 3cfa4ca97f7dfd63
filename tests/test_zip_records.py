"""Reading many records into memory: every size, every source, every plan gives the same bytes and the same errors."""

import io
import os
import random
import zipfile
import zlib
from typing import Any

import pytest

from weighlock.errors import ChecksumError, DirectoryError, TensorBoundsError, TruncatedError
from weighlock.formats import zip_records
from weighlock.formats.zip_directory import read_directory
from weighlock.formats.zip_records import read_records
from weighlock.limits import DEFAULT_LIMITS
from weighlock.storages.plan import thread_count
from weighlock.storages.source import BytesSource, FileObjectSource, PathSource

SIZES = [0, 1, 64, 5000, 0, 300_000, 7, 70_000, 256 << 10, (256 << 10) + 1, 3_000_000, 9, 2_500_000, 12]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """The plan of a large file on a small one: several windows, pieces and threads."""
    monkeypatch.setattr(zip_records, "_PIECE", 1 << 20)
    monkeypatch.setattr(zip_records, "thread_count", lambda source, nbytes: min(3, thread_count(source, nbytes << 9)))


def make(path, method=zipfile.ZIP_STORED, sizes=SIZES):
    chance = random.Random(1)
    with zipfile.ZipFile(path, "w", method) as made:
        for index, size in enumerate(sizes):
            made.writestr(f"m/data/{index}", chance.randbytes(size // 2) + bytes(size - size // 2))
    return path


@pytest.fixture(params=["stored", "deflated"])
def path(request, tmp_path):
    return make(tmp_path / "model.pt", {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}[request.param])


@pytest.fixture(params=["path", "bytes", "file object", "file object at a place"])
def source(request, path):
    data = path.read_bytes()
    behind = io.BytesIO(b"before" + data)
    behind.seek(6)
    made: Any = {
        "path": lambda: PathSource(path),
        "bytes": lambda: BytesSource(data),
        "file object": lambda: FileObjectSource(io.BytesIO(data)),
        "file object at a place": lambda: FileObjectSource(behind),
    }[request.param]()
    yield made
    made.close()


def targets(records):
    return [(record, memoryview(bytearray(b"?" * record.size))) for record in records]


def read(source, wanted, *, verify=True):
    read_records(source, wanted, verify=verify, limits=DEFAULT_LIMITS)
    return [bytes(target) for _, target in wanted]


def records_of(source):
    return read_directory(source, DEFAULT_LIMITS).records


@pytest.mark.parametrize("verify", [True, False])
def test_all_records(path, source, verify):
    with zipfile.ZipFile(path) as theirs:
        expected = [theirs.read(name) for name in theirs.namelist()]
    assert read(source, targets(records_of(source)), verify=verify) == expected


def test_some_records_in_any_order_and_twice(path, source):
    with zipfile.ZipFile(path) as theirs:
        expected = {name: theirs.read(name) for name in theirs.namelist()}
    chance = random.Random(2)
    records = records_of(source)
    for count in (0, 1, 3, 8):
        chosen = chance.sample(records, count)
        chosen += chosen[:1]
        assert read(source, targets(chosen)) == [expected[record.name] for record in chosen]


def test_one_thread_gives_the_same(path, monkeypatch):
    source = BytesSource(path.read_bytes())
    records = records_of(source)
    many = read(source, targets(records))
    monkeypatch.setattr(zip_records, "thread_count", lambda source, nbytes: 1)
    assert read(source, targets(records)) == many


def test_neighbours_are_read_together(tmp_path):
    path = make(tmp_path / "model.pt", sizes=[100] * 2000)

    class Counting(PathSource):
        reads = 0

        def read_at(self, offset, count):
            self.reads += 1
            return super().read_at(offset, count)

    source = Counting(path)
    records = records_of(source)
    source.reads = 0
    read(source, targets(records))
    assert source.reads == 1
    read(source, targets(records[:10] + records[-10:]))
    assert source.reads == 3
    source.close()


def test_a_target_of_another_length(tmp_path):
    source = BytesSource(make(tmp_path / "model.pt").read_bytes())
    record = records_of(source)[2]
    for length in (0, 63, 65):
        with pytest.raises(TensorBoundsError, match="another size") as caught:
            read(source, [(record, memoryview(bytearray(length)))])
        assert caught.value.record == "m/data/2"


@pytest.mark.parametrize("damaged", [[2], [10], [5, 12], [10, 12], [3, 10], list(range(2, 14))])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_error_is_that_of_the_first_damaged_record(path, damaged, threads, monkeypatch):
    monkeypatch.setattr(zip_records, "thread_count", lambda source, nbytes: threads)
    data = bytearray(path.read_bytes())
    records = records_of(BytesSource(data))
    damaged = [index for index in damaged if records[index].size]
    for index in damaged:
        # In its last bytes, so that a deflated record stays one.
        data[records[index].header_offset + 30 + len(records[index].raw_name) + records[index].compressed_size - 1] ^= 1
    for _ in range(5):
        with pytest.raises((ChecksumError, DirectoryError)) as caught:
            read(BytesSource(data, "the file"), targets(records))
        assert caught.value.record == f"m/data/{damaged[0]}"
        assert caught.value.path == "the file"


def test_crc_is_left_out_where_it_is_not_asked_for_or_not_there(tmp_path):
    data = bytearray(make(tmp_path / "model.pt").read_bytes())
    records = records_of(BytesSource(data))
    for index in (2, 10):
        data[records[index].header_offset + 50] ^= 1
        with pytest.raises(ChecksumError):
            read(BytesSource(data), targets([records[index]]))
        read(BytesSource(data), targets([records[index]]), verify=False)
        data[records[index].header_offset + 14 : records[index].header_offset + 18] = bytes(4)
        read(BytesSource(data), targets([records[index]._replace(crc=0)]))


def test_a_wrong_local_header_of_a_large_record(tmp_path):
    data = make(tmp_path / "model.pt").read_bytes()
    records = records_of(BytesSource(data))
    data = data.replace(b"m/data/10", b"m/data/xx", 1)
    with pytest.raises(DirectoryError, match="another one") as caught:
        read(BytesSource(data, "the file"), targets(records))
    assert (caught.value.record, caught.value.path) == ("m/data/10", "the file")


@pytest.mark.parametrize("size", [400_000, 399_999, 400_001])
def test_a_large_deflated_record_of_another_size(size):
    engine = zlib.compressobj(9, wbits=-15)
    packed = engine.compress(os.urandom(1000) * 400) + engine.flush()
    holder = io.BytesIO()
    with zipfile.ZipFile(holder, "w") as made:
        made.writestr("m/data/0", packed)
    source = BytesSource(holder.getvalue())
    (stored,) = records_of(source)
    record = stored._replace(size=size, method=8, crc=0)
    changed = bytearray(holder.getvalue())
    changed[8] = 8
    changed[14:26] = bytes(12)
    source = BytesSource(changed)
    if size == 400_000:
        assert len(read(source, targets([record]))[0]) == size
    else:
        with pytest.raises(DirectoryError, match="another size"):
            read(source, targets([record]))


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path = make(tmp_path / "model.pt")
    source = PathSource(path)
    records = records_of(source)
    os.truncate(path, 400_000)
    with pytest.raises(TruncatedError) as caught:
        read(source, targets(records))
    assert caught.value.path == str(path)
    source.close()


def test_an_error_that_is_not_ours_ends_all_threads(tmp_path):
    class Broken(BytesSource):
        def read_into(self, offset, target):
            raise KeyboardInterrupt

    source = Broken(make(tmp_path / "model.pt").read_bytes())
    with pytest.raises(KeyboardInterrupt):
        read(source, targets(records_of(source)))


def test_a_file_of_torch(torch, tmp_path):
    tensors = [torch.arange(size) for size in (0, 1, 10, 100_000, 500_000)]
    torch.save(tensors, tmp_path / "model.pt")
    source = PathSource(tmp_path / "model.pt")
    records = [record for record in records_of(source) if "/data/" in record.name]
    assert read(source, targets(records)) == [tensor.numpy().tobytes() for tensor in tensors]
    source.close()
