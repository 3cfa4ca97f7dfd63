"""Records of a remote archive: headers and data in the same requests.

Where a record's data begin is written in its local header; where they end is known from the directory: before the next
record, less the data descriptor. So header and data are asked for together, the data straight to where they belong, and
the header is read afterwards. In an archive that some other program wrote, where the data turn out to lie elsewhere,
they are fetched once more.
"""

from collections.abc import Sequence
from typing import Final

from weighlock.errors import WeighlockError
from weighlock.formats.zip_directory import ZipRecord, check_crc, inflate, parse_local_header
from weighlock.formats.zip_remains import LOCAL_SIZE
from weighlock.storages.checksum import crc32
from weighlock.storages.ranges import RangedSource

__all__ = ["expected_start", "read_ranges"]

_HAS_DESCRIPTOR: Final = 0x8
_FULL32: Final = 0xFFFFFFFF


def expected_start(record: ZipRecord) -> int:
    """Return where a record's data begin if they end right before its descriptor, or the next record."""
    # A descriptor is 16 bytes, or 24 where sizes or places need 64 bits.
    wide = record.header_offset >= _FULL32 or record.compressed_size >= _FULL32 or record.size >= _FULL32
    tail = 0 if not record.flags & _HAS_DESCRIPTOR else 24 if wide else 16
    return max(record.end - tail - record.compressed_size, record.header_offset)


def read_ranges(source: RangedSource, wanted: Sequence[tuple[ZipRecord, memoryview]], *, verify: bool) -> None:
    """Fill each target with its record's bytes, inflated where it is deflated.

    Raises
    ------
    DirectoryError, ChecksumError, TruncatedError
        The error of the damaged record that lies first.
    """
    plan = [_Fetched(record, target) for record, target in wanted]
    source.read_many([piece for one in plan for piece in one.pieces])
    again = [one for one in plan if one.misplaced(source.name)]
    if again:
        source.read_many([(one.start, one.data) for one in again])
    for one in sorted(plan, key=lambda one: one.record.header_offset):
        try:
            one.finish(verify=verify)
        except WeighlockError as error:
            raise error.locate(path=source.name, record=one.record.name) from error.__cause__


class _Fetched:
    """One record: the memory for what lies before its data, and for the data."""

    def __init__(self, record: ZipRecord, target: memoryview) -> None:
        self.record = record
        self.target = target
        self.start = expected_start(record)
        self.data = memoryview(bytearray(record.compressed_size)) if record.method else target
        # A foreign archive may leave a gap of any size before the next record.
        before = min(self.start - record.header_offset, record.span - record.compressed_size)
        before = max(before, LOCAL_SIZE + len(record.raw_name))
        self.header = memoryview(bytearray(before))
        self.pieces = [(record.header_offset, self.header), (self.start, self.data)]

    def misplaced(self, name: str) -> bool:
        """Read the header; whether the data lie elsewhere than they were fetched from."""
        offset = self.record.header_offset
        try:
            found = offset + parse_local_header(self.header, 0, self.record)
        except WeighlockError as error:
            raise error.locate(path=name) from None
        moved = found != self.start
        self.start = found
        return moved

    def finish(self, *, verify: bool) -> None:
        data = self.data
        if self.record.method:
            data = memoryview(inflate(data, self.record))
            self.target[:] = data
        if verify and crc32(data) != self.record.crc:
            check_crc(self.record, crc32(data))
