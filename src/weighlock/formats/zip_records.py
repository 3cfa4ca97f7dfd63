"""Many records read into memory that the caller owns: the one plan of all readings.

Records are taken in the order in which they lie in the file. Small neighbours are read together, in windows of at most
1 MiB; of a large one only the local header is read apart, and its data go straight to their target in pieces of at most
8 MiB, each checked while it is still in the processor's cache. From 8 MiB on, several threads share the pieces.

The error of a damaged file does not depend on the threads: it is that of the record which lies first.
"""

import threading
import zlib
from collections.abc import Iterator, Sequence
from typing import Final

from weighlock.errors import DirectoryError, TensorBoundsError, WeighlockError
from weighlock.formats.zip_directory import ZipRecord, check_crc, data_offset, inflate, parse_local_header
from weighlock.formats.zip_ranges import read_ranges
from weighlock.limits import Limits
from weighlock.storages.checksum import crc32, crc32_combine
from weighlock.storages.plan import Task, run_in_order, thread_count
from weighlock.storages.ranges import RangedSource
from weighlock.storages.source import ByteSource

__all__ = ["first_bytes", "inflated", "read_records"]

Wanted = tuple[ZipRecord, memoryview]

_WINDOW: Final = 1 << 20
_SMALL: Final = 256 << 10
_GAP: Final = 64 << 10  # Unwanted bytes between two records that are cheaper to read than a second call.
_PIECE: Final = 8 << 20
_BITE: Final = 1 << 20  # Read and checked in one go: fits into the second-level cache.


def read_records(source: ByteSource, wanted: Sequence[Wanted], *, verify: bool, limits: Limits) -> None:
    """Fill each target with the bytes of its record, inflated where it is deflated.

    Parameters
    ----------
    source : ByteSource
    wanted : sequence of (ZipRecord, memoryview)
        Each target is writable, of bytes, and exactly as long as its record. One record may be wanted several times.
    verify : bool
        Compare each record's CRC-32 with the directory's, where that is not 0.
    limits : Limits
        What deflated records may inflate to was checked against it with the directory; nothing else is allocated.

    Raises
    ------
    TensorBoundsError
        If a target has another length than its record.
    DirectoryError, ChecksumError, TruncatedError
        If the file is damaged: the error of the damaged record that lies first, with its name.
    """
    for record, target in wanted:
        if len(target) != record.size:
            raise TensorBoundsError(
                "a record has another size than its tensor needs", expected=f"{len(target)} bytes",
                got=str(record.size), path=source.name, record=record.name,
            )  # fmt: skip
    if isinstance(source, RangedSource):
        read_ranges(source, wanted, verify=verify)
        return
    ordered = sorted(wanted, key=lambda item: item[0].header_offset)
    targets = [target for _, target in wanted]
    try:
        run_in_order(_Plan(source, ordered, verify=verify).tasks(), thread_count(source, sum(map(len, targets))))
    except WeighlockError as error:
        raise error.locate(path=source.name) from error.__cause__


class _Plan:
    """One call: what its tasks share, and the tasks in the order of the file."""

    def __init__(self, source: ByteSource, ordered: Sequence[Wanted], *, verify: bool) -> None:
        self.source = source
        self.verify = verify
        self.lock = threading.Lock()
        self._ordered = ordered

    # A generator, so that a file of a million records needs no million tasks at once.
    def tasks(self) -> Iterator[tuple[int, Task]]:
        batch: list[Wanted] = []
        start = stop = 0
        for item in self._ordered:
            record, target = item
            offset = record.header_offset
            if record.size > _SMALL or record.compressed_size > _SMALL:
                if batch:
                    yield start, _Window(self, batch, start, stop)
                    batch = []
                yield from self._large(record, target)
                continue
            end = record.end
            reach = end if end - offset < _SMALL else offset + record.span
            if batch and (reach - start > _WINDOW or offset - stop > _GAP):
                yield start, _Window(self, batch, start, stop)
                batch = []
            if not batch:
                start = offset
            batch.append(item)
            stop = reach
        if batch:
            yield start, _Window(self, batch, start, stop)

    def _large(self, record: ZipRecord, target: memoryview) -> Iterator[tuple[int, Task]]:
        offset = record.header_offset
        if record.method:
            yield offset, lambda: _inflate_into(self, record, target)
            return
        large = _Large(self, record, target)
        for index in range(large.pieces):
            yield offset, _Piece(large, index)


class _Window:
    """A task: neighbouring small records, read together."""

    __slots__ = ("_batch", "_plan", "_start", "_stop")

    def __init__(self, plan: _Plan, batch: list[Wanted], start: int, stop: int) -> None:
        self._plan = plan
        self._batch = batch
        self._start = start
        self._stop = stop

    def __call__(self) -> None:
        start, verify = self._start, self._plan.verify
        buffer = self._plan.source.read_at(start, self._stop - start)
        view = memoryview(buffer)
        for record, target in self._batch:
            begin = parse_local_header(buffer, record.header_offset - start, record)
            data = view[begin : begin + record.compressed_size]
            if record.method:
                data = memoryview(inflate(data, record))
            # The common case inline: this runs once per record.
            if verify and crc32(data) != record.crc:
                check_crc(record, crc32(data))
            target[:] = data


class _Large:
    """A stored record that is read in pieces, by any threads in any order."""

    __slots__ = ("_crcs", "_left", "_plan", "_start", "pieces", "record", "target")

    def __init__(self, plan: _Plan, record: ZipRecord, target: memoryview) -> None:
        self.record = record
        self.target = target
        self.pieces = -(-record.size // _PIECE)
        self._plan = plan
        self._crcs = [0] * self.pieces
        self._left = self.pieces
        self._start: int | None = None

    def read(self, index: int) -> None:
        """Read one piece; whoever reads the last one compares the CRC of the whole."""
        plan, begin = self._plan, index * _PIECE
        piece = self.target[begin : begin + _PIECE]
        # Two threads may both read the header: cheaper than waiting for each other.
        if self._start is None:
            self._start = data_offset(plan.source, self.record)
        self._crcs[index] = _read_piece(plan, self._start + begin, piece)
        with plan.lock:
            self._left -= 1
        if not self._left and plan.verify:
            check_crc(self.record, self._combined())

    def _combined(self) -> int:
        crc = self._crcs[0]
        for index in range(1, self.pieces):
            crc = crc32_combine(crc, self._crcs[index], min(_PIECE, self.record.size - index * _PIECE))
        return crc


class _Piece:
    """A task: one piece of a large record."""

    __slots__ = ("_index", "_large")

    def __init__(self, large: _Large, index: int) -> None:
        self._large = large
        self._index = index

    def __call__(self) -> None:
        try:
            self._large.read(self._index)
        except WeighlockError as error:
            raise error.locate(record=self._large.record.name) from None


def _read_piece(plan: _Plan, offset: int, piece: memoryview) -> int:
    """Fill `piece` from `offset`; return its CRC-32, or 0 where none is asked for."""
    if not plan.verify:
        plan.source.read_into(offset, piece)
        return 0
    crc = 0
    for begin in range(0, len(piece), _BITE):
        bite = piece[begin : begin + _BITE]
        plan.source.read_into(offset + begin, bite)
        crc = crc32(bite, crc)
    return crc


def _inflate_into(plan: _Plan, record: ZipRecord, target: memoryview) -> None:
    """Inflate a large record piece by piece, never past its target's end."""
    done, crc = 0, 0
    for data in inflated(plan.source, record):
        target[done : done + len(data)] = data
        crc = crc32(data, crc)
        done += len(data)
    if plan.verify:
        check_crc(record, crc)


def inflated(source: ByteSource, record: ZipRecord) -> Iterator[bytes]:
    """Yield the bytes of a deflated record piece by piece; never more than it declares.

    Raises
    ------
    DirectoryError
        If it is no deflated data, or of another length.
    """
    engine = zlib.decompressobj(-15)
    position = data_offset(source, record)
    end = position + record.compressed_size
    done, packed = 0, b""
    while not engine.eof and (packed or position < end):
        if not packed:
            packed = source.read_at(position, min(_BITE, end - position))
            position += len(packed)
        try:
            data = engine.decompress(packed, min(_BITE, record.size - done + 1))
        except zlib.error as error:
            raise DirectoryError(f"the record cannot be inflated: {error}", record=record.name) from error
        packed = engine.unconsumed_tail
        if len(data) > record.size - done:
            break
        done += len(data)
        yield data
    if done != record.size or not engine.eof or engine.unused_data or position != end:
        raise DirectoryError(
            "the record inflates to another size", expected=f"{record.size} bytes", got=f"{done} or more",
            record=record.name,
        )  # fmt: skip


def first_bytes(source: ByteSource, record: ZipRecord, count: int) -> bytes:
    """Return the first bytes of a record, inflated where it is deflated; unchecked, as the rest is not read."""
    offset = data_offset(source, record)
    if record.method == 0:
        return source.read_at(offset, min(count, record.size))
    # Deflate needs at most a few bytes more than it packs, behind its tables.
    packed = source.read_at(offset, min(record.compressed_size, count + 4096))
    try:
        return zlib.decompressobj(-15).decompress(packed, count)
    except zlib.error as error:
        raise DirectoryError(f"the record cannot be inflated: {error}", record=record.name) from error
