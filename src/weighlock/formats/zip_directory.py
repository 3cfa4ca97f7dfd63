"""The directory of a zip archive: read once, and checked before any of it is believed.

Readers of zip files disagree on damaged and hostile ones: PyTorch finds names without regard to case, the standard
library takes the last of two equal names, and an archive that stands before another is a different file to each. What
two readers could understand in two ways is therefore refused here, with the record that is to blame:

- every field that stands twice (end record and its zip64 form, directory and local header) must agree;
- the directory ends where the end record begins, the first record begins at byte 0, and no two records overlap;
- names are unique, also after case folding, and hold no NUL. Otherwise they are only keys: no file is ever made of one;
- no record has a second name, and none that has data is marked as a folder;
- what records would inflate to stays within `Limits`.

Bytes behind the archive are accepted, as PyTorch does, where no second end record can be meant; they are counted.
"""

import zlib
from collections.abc import Sequence
from itertools import pairwise, repeat
from operator import add, attrgetter, le
from typing import Final, NamedTuple

from weighlock.errors import SALVAGE, ChecksumError, DirectoryError, LimitError, TruncatedError, UnsupportedError
from weighlock.formats.zip_end import EndRecord, find_end, read_tail
from weighlock.formats.zip_entries import Entries, extra_field
from weighlock.formats.zip_remains import LOCAL, LOCAL_MARK, LOCAL_SIZE, cut_archive
from weighlock.limits import Limits
from weighlock.storages.checksum import crc32
from weighlock.storages.source import ByteSource

__all__ = [
    "ENCRYPTED",
    "ZipDirectory",
    "ZipRecord",
    "data_offset",
    "data_offsets",
    "parse_local_header",
    "read_directory",
    "read_record",
]

_FULL32: Final = 0xFFFFFFFF

_STORED: Final = 0
_DEFLATED: Final = 8
ENCRYPTED: Final = 0x2061  # encrypted, a patch of other data, strongly encrypted, directory masked
_FOLDER: Final = 0x10
_UNICODE_PATH: Final = b"up"  # 0x7075, of Info-ZIP

_WINDOW: Final = 1 << 20
_CLOSE: Final = 8 << 10  # as long to copy as another read takes to ask for
_HEADER_OFFSET: Final = attrgetter("header_offset")
_ONE_READ: Final = 1 << 20


class ZipRecord(NamedTuple):
    """One record, as the directory has it.

    Attributes
    ----------
    name : str
        Its whole name, root folder included.
    raw_name : bytes
        The same as it stands in the file.
    header_offset : int
        Where its local header begins.
    size, compressed_size : int
        Bytes as read, and as they lie in the file.
    crc : int
        CRC-32 of the bytes as read; 0 means that it was not computed.
    method, flags : int
        0 for stored, 8 for deflated; the bits as they stand.
    end : int
        Where the next record or the directory begins: everything of this record lies before.
    """

    name: str
    raw_name: bytes
    header_offset: int
    size: int
    compressed_size: int
    crc: int
    method: int
    flags: int
    end: int

    @property
    def span(self) -> int:
        """Bytes from the local header that surely hold the record, whatever its local header says."""
        most = LOCAL_SIZE + len(self.raw_name) + 0xFFFF + self.compressed_size
        return min(self.end - self.header_offset, most)


class ZipDirectory:
    """A directory that was checked.

    Attributes
    ----------
    names : list of str
    records : list of ZipRecord
        In the directory's order.
    comment, trailing_bytes : bytes, int
        Bytes behind the archive that are not its comment.
    start_of_directory, nbytes, end : int
        Where the directory begins, its length, and where the archive ends, comment included.
    """

    __slots__ = ("comment", "end", "names", "nbytes", "records", "start_of_directory", "trailing_bytes")

    def __init__(self, names: list[str], records: list[ZipRecord], end: EndRecord, size: int) -> None:
        self.names = names
        self.records = records
        self.comment = end.comment
        self.start_of_directory = end.offset
        self.nbytes = end.size
        self.end = end.stop
        self.trailing_bytes = size - self.end


def read_directory(source: ByteSource, limits: Limits) -> ZipDirectory:
    """Read and check the directory of the archive that is the whole of `source`.

    Raises
    ------
    TruncatedError
        If there is no end record: the archive was cut.
    DirectoryError
        If the directory contradicts itself or the file, or can be understood in two ways.
    LimitError
        If it has more records, or would inflate to more bytes, than `limits` allows.
    UnsupportedError
        If a record is encrypted, or compressed by another method than deflate, or lies on another disk.
    """
    base, tail = read_tail(source)
    try:
        end = find_end(tail, base)
        if end is None:
            raise cut_archive(source)
        at = end.offset - base
        _check_count(end, limits)
        raw = tail[at : at + end.size] if at >= 0 else source.read_at(end.offset, end.size)
        entries = Entries(raw, end)
        records = _checked_records(entries, end, limits)
    except (DirectoryError, LimitError, UnsupportedError) as error:
        raise error.locate(path=source.name) from None
    return ZipDirectory(entries.names, records, end, source.size)


# ---------------------------------------------------------------------------------------------------- the checks


def _check_count(end: EndRecord, limits: Limits) -> None:
    if end.entries > limits.max_records:
        raise LimitError("too many records", expected=f"at most {limits.max_records}", got=str(end.entries))


def _checked_records(entries: Entries, end: EndRecord, limits: Limits) -> list[ZipRecord]:
    _check_names(entries.names)
    _check_other_names(entries)
    _check_folders(entries)
    _check_readable(entries)
    _check_sizes(entries, limits)
    ends = _check_places(entries, end)
    fields = zip(
        entries.names, entries.raw_names, entries.offsets, entries.sizes, entries.packed, entries.crcs,
        entries.methods, entries.flags, ends, strict=True,
    )  # fmt: skip
    # Reason for tuple.__new__: twice as fast as calling the class, and this runs once per record.
    return list(map(tuple.__new__, repeat(ZipRecord), fields))


def _check_names(names: list[str]) -> None:
    text = "\0".join(names)
    folded = text.casefold()
    # PyTorch finds names without regard to case; in NumPy's archives of arrays, W and w are two.
    exact = folded == text or all(name.endswith(".npy") for name in names)
    keys = names if exact else folded.split("\0")
    if len(set(keys)) == len(keys):
        return
    seen: dict[str, str] = {}
    for name, key in zip(names, keys, strict=True):
        if key in seen:
            same = "twice" if seen[key] == name else "twice, in different case"
            raise DirectoryError(f"a name stands {same} in the directory", got=seen[key], record=name)
        seen[key] = name


def _check_other_names(entries: Entries) -> None:
    """Refuse a record with a second name, which some readers go by and PyTorch does not."""
    if not any(_UNICODE_PATH in extra for extra in set(entries.extras)):
        return
    for name, raw, extra in zip(entries.names, entries.raw_names, entries.extras, strict=True):
        other = extra_field(extra, _UNICODE_PATH)
        if other is not None and other[5:] != raw:
            raise DirectoryError("a record has a second name in its extra field", got=repr(other[5:85]), record=name)


def _check_folders(entries: Entries) -> None:
    """Refuse data in what is marked as a folder.

    PyTorch's reader takes its length and reads nothing: the storage is memory as it was found. Other readers go by the
    name alone, and read the data.
    """
    marked = {bits for bits in set(entries.attributes) if bits & _FOLDER}
    if not marked and "/\0" not in "\0".join(entries.names) + "\0":
        return
    for name, bits, size in zip(entries.names, entries.attributes, entries.sizes, strict=True):
        if size and (bits in marked or name.endswith("/")):
            raise DirectoryError("a record with data is marked as a folder", got=f"{size} bytes", record=name)


def _check_readable(entries: Entries) -> None:
    for bits in set(entries.flags):
        if bits & ENCRYPTED:
            raise UnsupportedError("a record is encrypted or a patch", record=entries.names[entries.flags.index(bits)])
    for method in set(entries.methods) - {_STORED, _DEFLATED}:
        raise UnsupportedError(
            "the record is compressed by a method that checkpoints do not use",
            expected="stored (0) or deflated (8)",
            got=str(method),
            record=entries.names[entries.methods.index(method)],
            hint="Unpack the archive and load what is inside.",
        )
    for disk in set(entries.disks) - {0}:
        raise UnsupportedError("the record is on another disk", record=entries.names[entries.disks.index(disk)])


def _check_sizes(entries: Entries, limits: Limits) -> None:
    if entries.sizes == entries.packed and not any(entries.methods):
        return
    total = 0
    for name, method, size, packed in zip(entries.names, entries.methods, entries.sizes, entries.packed, strict=True):
        if method == _STORED:
            if size != packed:
                raise DirectoryError("a stored record has two sizes", got=f"{size} and {packed}", record=name)
            continue
        total += size
        # An empty record deflates to 2 bytes, and a first block may come to more than its share.
        if size > packed * limits.max_inflation:
            most = f"at most {limits.max_inflation} times its {packed} bytes"
            raise LimitError("the record claims to inflate too far", expected=most, got=str(size), record=name)
        if total > limits.max_inflated_bytes:
            most = f"at most {limits.max_inflated_bytes} bytes"
            raise LimitError("the deflated records would take too much memory", expected=most, record=name)


def _check_places(entries: Entries, end: EndRecord) -> list[int]:
    """Return for each record where the next thing begins, having checked that it ends before.

    Here the least length of a record is checked: only its local header says how long that header is.
    """
    offsets = entries.offsets
    first = min(offsets, default=end.offset)
    if first:
        hint = "Something was put in front of the archive. PyTorch and other programs would read different files."
        raise DirectoryError("other bytes stand before the first record", got=f"{first} bytes", hint=hint)
    ends = _next_places(offsets, end.offset)
    stops = list(map(add, map(add, offsets, entries.packed), entries.header_sizes))
    if not all(map(le, stops, ends)):
        index = next(index for index, stop in enumerate(stops) if stop > ends[index])
        outside = stops[index] > end.offset
        raise DirectoryError(
            "a record reaches outside of the file" if outside else "two records overlap",
            expected=f"its end at byte {ends[index]} or before",
            got=str(stops[index]),
            record=entries.names[index],
        )
    return ends


def _next_places(offsets: list[int], last: int) -> list[int]:
    if offsets == sorted(offsets):
        return [*offsets[1:], last] if offsets else []
    order = sorted(range(len(offsets)), key=offsets.__getitem__)
    ends = [last] * len(offsets)
    for here, after in pairwise(order):
        ends[here] = offsets[after]
    return ends


# ------------------------------------------------------------------------------------------------ local headers


def parse_local_header(buffer: bytes | memoryview, position: int, record: ZipRecord) -> int:
    """Return where in `buffer` the record's data begin, its local header standing at `position` of it.

    Raises
    ------
    DirectoryError
        If the header is not there, or says something else than the directory.
    """
    _, raw_name, offset, _, packed, _, method, _, end = record
    start = position + LOCAL_SIZE
    stop = start + len(raw_name)
    if stop > len(buffer):
        raise DirectoryError("the local header lies outside of the archive", record=record.name)
    mark, flags, local_method, crc, local_packed, size, name, extra = LOCAL.unpack_from(buffer, position)
    if mark != LOCAL_MARK or name != stop - start or buffer[start:stop] != raw_name:
        raise _no_header(buffer, position, record)
    # PyTorch leaves the three numbers zero; what is not zero must agree.
    if local_method != method or flags & ENCRYPTED or crc or local_packed or size:
        _check_local_fields(record, (flags, local_method, crc, local_packed, size))
    if offset + LOCAL_SIZE + name + extra + packed > end:
        raise DirectoryError("the record's local header pushes its data into the next record", record=record.name)
    begin: int = stop + extra
    return begin


def _no_header(buffer: bytes | memoryview, position: int, record: ZipRecord) -> DirectoryError:
    got = bytes(buffer[position : position + LOCAL_SIZE + len(record.raw_name)])
    what = "the directory names a record, but its header is not where it should be"
    if got[:4] == LOCAL_MARK:
        what = "a record has one name in the directory and another one in its header"
    return DirectoryError(what, got=repr(got[LOCAL_SIZE:] if got[:4] == LOCAL_MARK else got[:4]), record=record.name)


def _check_local_fields(record: ZipRecord, found: tuple[int, int, int, int, int]) -> None:
    flags, method, crc, packed, size = found
    if method != record.method or flags & ENCRYPTED:
        got = f"method {method}, flags {flags:#06x}"
        expected = f"method {record.method}, flags {record.flags:#06x}"
        raise DirectoryError("local header and directory differ", expected=expected, got=got, record=record.name)
    # All ones: the size stands in the zip64 extra field of the local header, which repeats the directory's.
    for label, local, listed, allowed in (
        ("CRC-32", crc, record.crc, (0, record.crc)),
        ("compressed size", packed, record.compressed_size, (0, record.compressed_size, _FULL32)),
        ("size", size, record.size, (0, record.size, _FULL32)),
    ):
        if local not in allowed:
            what = f"local header and directory differ in {label}"
            raise DirectoryError(what, expected=str(listed), got=str(local), record=record.name)


def data_offset(source: ByteSource, record: ZipRecord) -> int:
    """Return where the record's data begin in `source`, from its local header; raises as `parse_local_header`."""
    count = min(LOCAL_SIZE + len(record.raw_name), record.end - record.header_offset)
    try:
        return record.header_offset + parse_local_header(source.read_at(record.header_offset, count), 0, record)
    except DirectoryError as error:
        raise error.locate(path=source.name) from None


def data_offsets(records: Sequence[ZipRecord], source: ByteSource) -> list[int]:
    """Return where each record's data begin; headers that stand close together are read together."""
    found: dict[int, int] = {}
    for group in _close_together(records):
        base = group[0].header_offset
        stop = group[-1].header_offset + LOCAL_SIZE + len(group[-1].raw_name)
        window = source.read_at(base, stop - base)
        try:
            for record in group:
                found[record.header_offset] = base + parse_local_header(window, record.header_offset - base, record)
        except DirectoryError as error:
            raise error.locate(path=source.name) from None
    return [found[record.header_offset] for record in records]


def _close_together(records: Sequence[ZipRecord]) -> list[list[ZipRecord]]:
    """Return the records in groups, each of neighbours with little between their headers."""
    groups: list[list[ZipRecord]] = []
    begin, before = 0, -_WINDOW
    for record in sorted(records, key=_HEADER_OFFSET):
        offset = record.header_offset
        if offset - before > _CLOSE or offset - begin > _WINDOW:
            groups.append([])
            begin = offset
        groups[-1].append(record)
        before = offset
    return groups


# ------------------------------------------------------------------------------------------------- whole records


def read_record(source: ByteSource, record: ZipRecord, limits: Limits, verify: bool = True) -> bytes:
    """Return all bytes of one record, inflated where it is deflated.

    Raises
    ------
    DirectoryError
        If its local header or its size is not what the directory says.
    ChecksumError
        If `verify` is set and its CRC-32 is another one.
    LimitError
        If it is larger than `limits.max_pickle_bytes`, the bound for what is held in memory as a whole.
    """
    if record.size > limits.max_pickle_bytes:
        most = f"at most {limits.max_pickle_bytes} bytes"
        raise LimitError("the record is too large", expected=most, got=str(record.size), record=record.name)
    try:
        packed = _read_packed(source, record)
        data = inflate(packed, record) if record.method == _DEFLATED else packed
        if verify:
            check_crc(record, crc32(data))
    except (DirectoryError, ChecksumError, TruncatedError) as error:
        raise error.locate(path=source.name, record=record.name) from None
    return data


def _read_packed(source: ByteSource, record: ZipRecord) -> bytes:
    if record.span > _ONE_READ:
        return source.read_at(data_offset(source, record), record.compressed_size)
    buffer = source.read_at(record.header_offset, record.span)
    start = parse_local_header(buffer, 0, record)
    return buffer[start : start + record.compressed_size]


def inflate(packed: bytes | memoryview, record: ZipRecord) -> bytes:
    """Return the bytes of a deflated record; never more than it declares."""
    engine = zlib.decompressobj(-15)
    try:
        data = engine.decompress(packed, record.size + 1)
    except zlib.error as error:
        raise DirectoryError(f"the record cannot be inflated: {error}", record=record.name) from error
    if len(data) != record.size or not engine.eof or engine.unused_data:
        got = f"{len(data)} bytes" if len(data) <= record.size else "more"
        raise DirectoryError(
            "the record inflates to another size", expected=f"{record.size} bytes", got=got, record=record.name
        )
    return data


def check_crc(record: ZipRecord, crc: int) -> None:
    """Raise `ChecksumError` unless `crc` is the record's; 0 in the directory means that none was computed."""
    if crc != record.crc and record.crc:
        raise ChecksumError(
            f"the bytes of the record at byte {record.header_offset} of the file are not the ones that were written",
            expected=f"CRC-32 {record.crc:08x}",
            got=f"{crc:08x}",
            record=record.name,
            hint=f"The file was damaged after it was saved: get it again. {SALVAGE}",
        )
