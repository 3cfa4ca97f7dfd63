"""Where every byte of an archive goes, and what stands around the data: headers, trailers, directory, end.

All of it but the checksums follows from the names and sizes of the records alone. The forms are those of PyTorch 2.13.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from struct import Struct
from typing import Final

from weighlock.storages.copying import PAGE

__all__ = ["LIMIT", "Layout", "directory", "ending", "local_header", "short_head", "trailer"]

# Sizes and positions from here on do not fit into 32 bits and stand in a zip64 field.
LIMIT: Final = 0xFFFFFFFF

# Headers up to their first field that varies: signature, versions 0, flags, method 0 (stored), no time; locally also no
# checksum and no sizes. Flags: the name is UTF-8, and a descriptor follows, unless there are no data.
_LOCAL_START: Final = b"PK\x03\x04\0\0\x08\x08" + bytes(18)
_EMPTY_LOCAL_START: Final = b"PK\x03\x04\0\0\x00\x08" + bytes(18)
_CENTRAL_START: Final = b"PK\x01\x02\0\0\0\0\x08\x08" + bytes(6)
_EMPTY_CENTRAL_START: Final = b"PK\x01\x02\0\0\0\0\x00\x08" + bytes(6)

_U2_PAIR: Final = Struct("<HH").pack
_CENTRAL: Final = Struct("<16sIIIHH10sI").pack
_DESCRIPTOR: Final = Struct("<4sIII").pack
_DESCRIPTOR64: Final = Struct("<4sIQQ").pack
_END64: Final = Struct("<4sQHHIIQQQQ").pack
_LOCATOR: Final = Struct("<4sIQI").pack
_END: Final = Struct("<4sHHHHIIH").pack
_END_SIZE: Final = 56 + 20 + 22


class Layout:
    """Where every record of a file goes.

    Parameters
    ----------
    names : sequence of bytes
    sizes : sequence of int
    alignment : int
        The data of every record begin at a multiple of so many bytes.
    places : mapping of int to int
        By index, where in a page of the file the data of a record begin, at the cost of less than a page: a file system
        that shares blocks shares whole ones only. A multiple of the alignment.

    Attributes
    ----------
    offsets, starts : list of int
        Where each record's header begins, and where its data begin.
    end : int
        Where the directory begins.
    total : int
        Bytes of the whole file.

    Examples
    --------
    >>> layout = Layout([b"archive/a", b"archive/b"], [5, 64], 64)
    >>> layout.starts, layout.end, layout.total
    ([64, 128], 208, 416)
    """

    __slots__ = ("end", "names", "offsets", "sizes", "starts", "total")

    def __init__(
        self, names: Sequence[bytes], sizes: Sequence[int], alignment: int, places: Mapping[int, int] | None = None
    ) -> None:
        self.names, self.sizes = names, sizes
        self.offsets: list[int] = []
        self.starts: list[int] = []
        offset = 0
        central = 46 * len(names) + sum(map(len, names))
        wanted = places or {}
        for index, (name, size) in enumerate(zip(names, sizes, strict=True)):
            self.offsets.append(offset)
            start = offset + 34 + len(name)
            if size < LIMIT and offset < LIMIT:
                start += -start % alignment
                if index in wanted:
                    start += (wanted[index] - start) % PAGE
                offset = start + size + (16 if size else 0)
            else:
                start += len(_local_zip64(offset, size))
                start += -start % alignment
                if index in wanted:
                    start += (wanted[index] - start) % PAGE
                central += len(_central_zip64(offset, size))
                offset = start + size + len(trailer(offset, size, 0))
            self.starts.append(start)
        self.end = offset
        self.total = offset + central + _END_SIZE


def local_header(name: bytes, offset: int, size: int, start: int) -> bytes:
    """Return what stands before the data of a record that begins at `offset`, up to the data at `start`."""
    zip64 = _local_zip64(offset, size)
    padding = start - (offset + 30 + len(name) + len(zip64) + 4)
    # Sizes and checksum stand in the directory alone.
    first = _LOCAL_START if size else _EMPTY_LOCAL_START
    return first + _U2_PAIR(len(name), len(zip64) + 4 + padding) + name + zip64 + _padding(padding)


@cache
def short_head(name_size: int, gap: int) -> tuple[bytes, bytes]:
    """Return what stands before and behind the name in the header of a record without zip64 fields, with data.

    Parameters
    ----------
    name_size : int
    gap : int
        Bytes of the header.
    """
    extra = gap - 30 - name_size
    return _LOCAL_START + _U2_PAIR(name_size, extra), _padding(extra - 4)


@cache
def _padding(size: int) -> bytes:
    return b"FB" + size.to_bytes(2, "little") + b"Z" * size


def _local_zip64(offset: int, size: int) -> bytes:
    if size < LIMIT and offset < LIMIT:
        return b""
    return _zip64(size.to_bytes(8, "little") + bytes(8) if size >= LIMIT else b"", offset)


def _central_zip64(offset: int, size: int) -> bytes:
    if size < LIMIT and offset < LIMIT:
        return b""
    return _zip64(size.to_bytes(8, "little") * 2 if size >= LIMIT else b"", offset)


def _zip64(fields: bytes, offset: int) -> bytes:
    """Return the zip64 field of a record: the given sizes, and its offset where that needs 64 bits."""
    if offset >= LIMIT:
        fields += offset.to_bytes(8, "little")
    return b"\x01\x00" + len(fields).to_bytes(2, "little") + fields


def trailer(offset: int, size: int, crc: int) -> bytes:
    """Return what stands behind the data of a record."""
    if not size:
        return b""
    if size >= LIMIT or offset >= LIMIT:
        return _DESCRIPTOR64(b"PK\x07\x08", crc, size, size)
    return _DESCRIPTOR(b"PK\x07\x08", crc, size, size)


@cache
def _central(name_size: int) -> Struct:
    return Struct(f"<16sIIIHH10sI{name_size}s")


def directory(layout: Layout, checksums: Sequence[int]) -> bytes:
    """Return the directory, given the checksum of every record."""
    entries = []
    name_size, pack = -1, Struct("").pack
    for name, size, offset, crc in zip(layout.names, layout.sizes, layout.offsets, checksums, strict=True):
        if size and size < LIMIT and offset < LIMIT:
            if len(name) != name_size:
                name_size = len(name)
                pack = _central(name_size).pack
            entries.append(pack(_CENTRAL_START, crc, size, size, name_size, 0, b"", offset, name))
        else:
            entries.append(_rare_entry(name, offset, size, crc))
    return b"".join(entries)


def _rare_entry(name: bytes, offset: int, size: int, crc: int) -> bytes:
    zip64 = _central_zip64(offset, size)
    shown, place = size, offset
    if zip64:
        shown, place = min(size, LIMIT), min(offset, LIMIT)
    start = _CENTRAL_START if size else _EMPTY_CENTRAL_START
    return _CENTRAL(start, crc, shown, shown, len(name), len(zip64), bytes(10), place) + name + zip64


def ending(count: int, size: int, offset: int) -> bytes:
    """Return the ends of the directory: the zip64 one, always, its locator, and the ordinary one."""
    end64 = _END64(b"PK\x06\x06", 44, 0x031E, 45, 0, 0, count, count, size, offset)
    locator = _LOCATOR(b"PK\x06\x07", 0, offset + size, 1)
    shown = min(count, 0xFFFF)
    return end64 + locator + _END(b"PK\x05\x06", 0, 0, shown, shown, min(size, LIMIT), min(offset, LIMIT), 0)
