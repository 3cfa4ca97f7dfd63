"""The end record of a zip archive, by which its directory is found: there must be one that can be meant, and one only.

Searched in the last 64 KiB, as PyTorch does. It must agree with its zip64 form where it has one, with the file's size
and with the directory's place; a second one that does so as well makes the archive two archives to two readers.
"""

from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from weighlock.errors import SALVAGE, DirectoryError, UnsupportedError
from weighlock.formats.zip_remains import END_MARK
from weighlock.storages.source import ByteSource

__all__ = ["END", "ENTRY_SIZE", "EndRecord", "end_places", "find_end", "read_tail"]

ENTRY_SIZE: Final = 46  # The least that the directory takes for one record.

END: Final = Struct("<4s4H2IH")  # disk, directory's disk, entries here, entries, bytes, offset, comment length
_LOCATOR: Final = Struct("<4sIQI")  # disk, offset of the zip64 end record, disks
_END64: Final = Struct("<4sQ4x2I4Q")  # bytes that follow, disk, directory's disk, entries here, entries, bytes, offset
_LOCATOR_MARK: Final = b"PK\x06\x07"
_END64_MARK: Final = b"PK\x06\x06"

_FULL16: Final = 0xFFFF
_FULL32: Final = 0xFFFFFFFF
_NEAR_END: Final = 16 << 10
_LONGEST_END: Final = 0xFFFF + END.size + _LOCATOR.size + _END64.size  # With the longest comment.


class EndRecord(NamedTuple):
    """An end record: its own position, what it says of the directory, and where the archive's last byte is."""

    position: int
    entries: int
    size: int
    offset: int
    comment: bytes

    @property
    def stop(self) -> int:
        """Where the archive ends, its comment included."""
        return self.position + END.size + len(self.comment)


def read_tail(source: ByteSource) -> tuple[int, bytes]:
    """Return the last bytes of the file, and where they begin.

    An end record without comment, right at the end, is the one that every reader takes: little need be read. Else all
    that a comment may span is read, and searched for others.
    """
    base = max(source.size - _NEAR_END, 0)
    tail = source.read_at(base, source.size - base)
    if tail[-22:-18] != END_MARK or tail[-2:] != b"\0\0":
        base = max(source.size - _LONGEST_END, 0)
        tail = source.read_at(base, source.size - base)
    return base, tail


def find_end(tail: bytes, base: int) -> EndRecord | None:
    """Return the last end record in `tail`, the file's last bytes from `base` on; None where there is none.

    Raises
    ------
    DirectoryError
        If it contradicts itself or the file, or another one could be meant.
    UnsupportedError
        If the archive is spread over several disks.
    """
    places = list(end_places(tail))
    whole = [place for place in places if place + END.size <= len(tail)]
    if not whole:
        return None
    if whole[-1] != places[-1]:
        raise DirectoryError("behind the archive's end stands the beginning of another end record", offset=places[-1])
    end = _read_end(tail, base, whole[-1])
    for place in whole[:-1]:
        try:
            other = _read_end(tail, base, place)
        except (DirectoryError, UnsupportedError):
            continue  # The same four bytes by chance, or the end of an archive that lies in this one as a record.
        raise DirectoryError(
            "the archive has two end records that both hold together, so readers would disagree on what is in it",
            got=f"end records at bytes {other.position} and {end.position}",
        )
    return end


def end_places(tail: bytes) -> Iterator[int]:
    """Give where in `tail` the mark of an end record stands."""
    place = tail.find(END_MARK)
    while place >= 0:
        yield place
        place = tail.find(END_MARK, place + 1)


def _read_end(tail: bytes, base: int, place: int) -> EndRecord:
    """Read the end record at `place` of the tail, and its zip64 form if it has one, and check it against the file."""
    _, disk, directory_disk, here, entries, size, offset, comment = END.unpack_from(tail, place)
    position = base + place
    if place + END.size + comment > len(tail):
        raise DirectoryError("the archive's comment reaches past the end of the file", offset=position)
    narrow = (disk, directory_disk, here, entries, size, offset)
    wide = _read_end64(tail, base, place)
    directory_end = position
    if wide is not None:
        directory_end = wide[0]
        full = (_FULL16, _FULL16, _FULL16, _FULL16, _FULL32, _FULL32)
        if any(a not in (b, most) for a, b, most in zip(narrow, wide[1:], full, strict=True)):
            got = f"{narrow} and {wide[1:]}"
            raise DirectoryError("the end record and its zip64 form differ", got=got, offset=position)
        disk, directory_disk, here, entries, size, offset = wide[1:]
    if disk or directory_disk or here != entries:
        raise UnsupportedError("the archive is spread over several disks", got=f"disk {disk}")
    if offset + size != directory_end:
        raise _misplaced(offset + size, directory_end)
    if entries * ENTRY_SIZE > size:
        got = f"{entries} entries in {size} bytes"
        raise DirectoryError("the directory is too small for its entries", got=got, offset=position)
    start = place + END.size
    return EndRecord(position, entries, size, offset, tail[start : start + comment])


def _read_end64(tail: bytes, base: int, place: int) -> tuple[int, ...] | None:
    """Return position, disk, directory's disk, entries here, entries, bytes and offset from the zip64 end record."""
    at = place - _LOCATOR.size
    if at < 0 or tail[at : at + 4] != _LOCATOR_MARK:
        return None
    _, disk, offset, disks = _LOCATOR.unpack_from(tail, at)
    if disk or disks > 1:
        raise UnsupportedError("the archive is spread over several disks", got=f"{disks} disks")
    start = offset - base
    usual = at - _END64.size
    if start != usual >= 0 and tail[usual : usual + 4] == _END64_MARK:
        raise _misplaced(offset, base + usual)
    if not 0 <= start <= usual or tail[start : start + 4] != _END64_MARK:
        raise DirectoryError("there is no zip64 end record where its locator says", offset=offset)
    _, length, *fields = _END64.unpack_from(tail, start)
    if start + 12 + length != at:
        raise DirectoryError("the zip64 end record does not end at its locator", offset=offset)
    return (offset, *fields)


def _misplaced(expected: int, found: int) -> DirectoryError:
    if found > expected:
        what = "the archive does not begin at the file's first byte, or its directory has been moved"
        hint = "Something was put in front of the archive, perhaps a second archive. Readers would disagree on it."
    else:
        what = "bytes are missing inside the archive"
        hint = f"It was damaged while it was copied or downloaded: get it again. {SALVAGE}"
    return DirectoryError(
        what, expected=f"the end of its directory at byte {expected}", got=f"at byte {found}", hint=hint, offset=found
    )
