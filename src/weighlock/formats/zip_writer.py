"""The zip archive of `torch.save` in PyTorch 2.13, byte for byte but for its root folder and its serialization id.

Where every byte goes follows from the names and sizes of the records alone, so the whole file is planned before the
first byte is written. Checksums are computed while the data pass by; they stand behind them and in the directory.

PyTorch names the root folder after the file. Here it is always ``archive``, which is PyTorch's own name for files
without one, and the id is made of the records' names and checksums: the same records make the same file.
"""

import sys
from collections.abc import Callable
from functools import cache
from struct import Struct
from typing import Final, NamedTuple

from weighlock.storages.checksum import crc32
from weighlock.storages.sinks import GATHER_UP_TO, Buffer, GatheringSink, Sink, StorageRecords

__all__ = ["ALIGNMENT", "ZipForm", "local_header", "write_zip"]

ALIGNMENT: Final = 64
_ROOT: Final = "archive/"

# Sizes and positions from here on do not fit into 32 bits and stand in a zip64 field.
_LIMIT: Final = 0xFFFFFFFF
# Large records are written in pieces that are still in the processor's cache after their checksum was computed.
_PIECE: Final = 1 << 20

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


class _Archive:
    """An archive being written: records go to the sink as they come, the directory is kept for the end."""

    def __init__(self, sink: Sink, alignment: int, crc: Callable[..., int]) -> None:
        self._sink = GatheringSink(sink)
        self._alignment = alignment
        self._crc = crc
        self.offset = 0
        self.directory: list[bytes] = []
        self.names: list[bytes] = []
        self.checksums: list[int] = []

    def add(self, name: str, data: Buffer) -> None:
        """Write one record: header, padding, data, and behind them what was learned from the data."""
        encoded = (_ROOT + name).encode()
        offset, size = self.offset, len(data)
        header = local_header(encoded, offset, size, self._alignment)
        if size <= GATHER_UP_TO:
            crc = self._crc(data)
            trailer = _trailer(offset, size, crc)
            self._sink.write(b"".join((header, data, trailer)))
        else:
            self._sink.write(header)
            crc = self._data(data, size)
            trailer = _trailer(offset, size, crc)
            self._sink.write(trailer)
        self._note(encoded, len(header), size, len(trailer), crc)

    def leave_room(self, name: str, size: int) -> None:
        """Write what stands around a record's data, and no data: ``0`` for the checksum says that there is none."""
        encoded = (_ROOT + name).encode()
        header, trailer = local_header(encoded, self.offset, size, self._alignment), _trailer(self.offset, size, 0)
        self._sink.write(header)
        self._sink.skip(size)
        self._sink.write(trailer)
        self._note(encoded, len(header), size, len(trailer), 0)

    def _note(self, name: bytes, head: int, size: int, tail: int, crc: int) -> None:
        self.directory.append(_directory_entry(name, self.offset, size, crc))
        self.offset += head + size + tail
        self.names.append(name)
        self.checksums.append(crc)

    def _data(self, data: Buffer, size: int) -> int:
        crc, view = 0, memoryview(data)
        for start in range(0, size, _PIECE):
            piece = view[start : start + _PIECE]
            crc = self._crc(piece, crc)
            self._sink.write(piece)
        return crc

    def finish(self) -> None:
        """Write the directory and the records that end the file."""
        directory = b"".join(self.directory)
        self._sink.write(directory)
        self._sink.write(_ending(len(self.directory), len(directory), self.offset))
        self._sink.flush()


class ZipForm(NamedTuple):
    """How an archive is written.

    Attributes
    ----------
    byteorder_record : bool
        Whether ``byteorder`` stands in its usual place; otherwise it comes last, as PyTorch writes it then.
    alignment : int
        The data of every record begin at a multiple of so many bytes.
    checksums : bool
        Without, every CRC-32 is 0, which says that there is none.
    """

    byteorder_record: bool = True
    alignment: int = ALIGNMENT
    checksums: bool = True


_USUAL_FORM: Final = ZipForm()


def write_zip(sink: Sink, pickle: bytes, storages: StorageRecords, form: ZipForm = _USUAL_FORM) -> None:
    """Write a checkpoint: its pickle and its storages.

    Parameters
    ----------
    sink : Sink
    pickle : bytes
        The record ``data.pkl``.
    storages : StorageRecords
        The records ``data/0``, ``data/1`` ...
    form : ZipForm
    """
    archive = _Archive(sink, form.alignment, crc32 if form.checksums else _no_crc)
    archive.add("data.pkl", pickle)
    archive.add(".format_version", b"1")
    archive.add(".storage_alignment", str(form.alignment).encode())
    byteorder = sys.byteorder.encode()
    if form.byteorder_record:
        archive.add("byteorder", byteorder)
    for index, size in enumerate(storages.sizes):
        if storages.buffer is None:
            archive.leave_room(f"data/{index}", size)
            continue
        data = storages.buffer(index)
        if len(data) != size:
            raise AssertionError(f"storage {index} has {len(data)} bytes instead of {size}")
        archive.add(f"data/{index}", data)
    archive.add("version", b"3\n")
    if not form.byteorder_record:
        archive.add("byteorder", byteorder)
    archive.add(".data/serialization_id", _serialization_id(archive.names, archive.checksums))
    archive.finish()


def _no_crc(data: Buffer, crc: int = 0) -> int:
    return 0


def local_header(name: bytes, offset: int, size: int, alignment: int = ALIGNMENT) -> bytes:
    """Return what stands before the data of a record that begins at `offset`, so that the data are aligned."""
    zip64 = b""
    if size >= _LIMIT or offset >= _LIMIT:
        zip64 = size.to_bytes(8, "little") + bytes(8) if size >= _LIMIT else b""
        zip64 = _zip64(zip64, offset)
    padding = -(offset + 30 + len(name) + len(zip64) + 4) % alignment
    # Sizes and checksum stand in the directory alone.
    start = _LOCAL_START if size else _EMPTY_LOCAL_START
    return start + _U2_PAIR(len(name), len(zip64) + 4 + padding) + name + zip64 + _padding(padding)


def _zip64(fields: bytes, offset: int) -> bytes:
    """Return the zip64 field of a record: the given sizes, and its offset where that needs 64 bits."""
    if offset >= _LIMIT:
        fields += offset.to_bytes(8, "little")
    return b"\x01\x00" + len(fields).to_bytes(2, "little") + fields


def _trailer(offset: int, size: int, crc: int) -> bytes:
    """Return what stands behind the data of a record."""
    if not size:
        return b""
    if size >= _LIMIT or offset >= _LIMIT:
        return _DESCRIPTOR64(b"PK\x07\x08", crc, size, size)
    return _DESCRIPTOR(b"PK\x07\x08", crc, size, size)


@cache
def _padding(size: int) -> bytes:
    return b"FB" + size.to_bytes(2, "little") + b"Z" * size


def _directory_entry(name: bytes, offset: int, size: int, crc: int) -> bytes:
    zip64 = b""
    shown, place = size, offset
    if size >= _LIMIT or offset >= _LIMIT:
        zip64 = _zip64(size.to_bytes(8, "little") * 2 if size >= _LIMIT else b"", offset)
        shown, place = min(size, _LIMIT), min(offset, _LIMIT)
    start = _CENTRAL_START if size else _EMPTY_CENTRAL_START
    return _CENTRAL(start, crc, shown, shown, len(name), len(zip64), bytes(10), place) + name + zip64


def _ending(count: int, size: int, offset: int) -> bytes:
    """Return the ends of the directory: the zip64 one, always, its locator, and the ordinary one."""
    end64 = _END64(b"PK\x06\x06", 44, 0x031E, 45, 0, 0, count, count, size, offset)
    locator = _LOCATOR(b"PK\x06\x07", 0, offset + size, 1)
    shown = min(count, 0xFFFF)
    return end64 + locator + _END(b"PK\x05\x06", 0, 0, shown, shown, min(size, _LIMIT), min(offset, _LIMIT), 0)


def _serialization_id(names: list[bytes], checksums: list[int]) -> bytes:
    """Return 40 digits: 20 that follow from the names of all records, 20 from their checksums."""
    from hashlib import blake2b

    digits = b""
    for material in (b"\n".join(names), b"".join(crc.to_bytes(4, "little") for crc in checksums)):
        digits += b"%020d" % int.from_bytes(blake2b(material, digest_size=8).digest(), "little")
    return digits
