"""The data of .npz members: what stands behind an array's header, checked together with it."""

from collections.abc import Iterator, Sequence
from typing import Final

from weighlock.errors import WeighlockError
from weighlock.formats.zip_directory import ZipRecord, check_crc, data_offset
from weighlock.formats.zip_records import inflated
from weighlock.storages.checksum import crc32
from weighlock.storages.plan import Task, read_extents, run_in_order, thread_count
from weighlock.storages.source import ByteSource

__all__ = ["read_members"]

Wanted = tuple[ZipRecord, int, memoryview]

_BITE: Final = 1 << 20


def read_members(source: ByteSource, wanted: Sequence[Wanted], *, verify: bool) -> None:
    """Fill each target with a record's bytes from the given one on.

    Raises
    ------
    DirectoryError, ChecksumError, TruncatedError
        The error of the damaged record that lies first.
    """
    whole = [item for item in wanted if item[0].method or verify]
    rest = [item for item in wanted if not (item[0].method or verify)]
    read_extents(source, [(data_offset(source, record) + skipped, target) for record, skipped, target in rest])

    def tasks() -> Iterator[tuple[int, Task]]:
        for record, skipped, target in sorted(whole, key=lambda item: item[0].header_offset):
            yield record.header_offset, _member(source, record, skipped, target, verify=verify)

    run_in_order(tasks(), thread_count(source, sum(len(target) for _, _, target in whole)))


def _member(source: ByteSource, record: ZipRecord, skipped: int, target: memoryview, *, verify: bool) -> Task:
    def read() -> None:
        try:
            crc = (
                _stored(source, record, skipped, target)
                if not record.method
                else _packed(source, record, skipped, target)
            )
            if verify:
                check_crc(record, crc)
        except WeighlockError as error:
            raise error.locate(record=record.name) from error.__cause__

    return read


def _stored(source: ByteSource, record: ZipRecord, skipped: int, target: memoryview) -> int:
    offset = data_offset(source, record)
    crc = crc32(source.read_at(offset, skipped))
    for begin in range(0, len(target), _BITE):
        bite = target[begin : begin + _BITE]
        source.read_into(offset + skipped + begin, bite)
        crc = crc32(bite, crc)
    return crc


def _packed(source: ByteSource, record: ZipRecord, skipped: int, target: memoryview) -> int:
    crc, position = 0, -skipped
    for data in inflated(source, record):
        crc = crc32(data, crc)
        piece = data[-position:] if position < 0 else data
        begin = max(position, 0)
        target[begin : begin + len(piece)] = piece
        position += len(data)
    return crc
