"""An archive whose directory was refused, as every reader might see it: all directories, records and problems.

`zip_directory` stops at the first thing that readers could understand in two ways. A scan wants to see all of them, and
what each reader would have read; it goes through the same structures, and believes none of them.
"""

import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Final, NamedTuple

from weighlock.errors import WeighlockError
from weighlock.formats.zip_directory import ENCRYPTED, ZipRecord
from weighlock.formats.zip_end import END, end_places
from weighlock.formats.zip_entries import entry_struct, zip64_fields
from weighlock.formats.zip_remains import LOCAL, LOCAL_MARK, LOCAL_SIZE
from weighlock.limits import Limits
from weighlock.storages.checksum import crc32
from weighlock.storages.source import ByteSource

__all__ = ["Problem", "Survey", "archive_within", "loose_bytes", "survey"]

_ENTRY_MARK: Final = b"PK\x01\x02"
_FULL32: Final = 0xFFFFFFFF
_MOST_RECORDS: Final = 100_000
_MOST_PROBLEMS: Final = 200
_SEARCHED: Final = 256 << 20
_CHUNK: Final = 4 << 20
_TAIL: Final = 128 << 10
_SMALL: Final = 64 << 10
_HEAD: Final = 64
_LOCATOR_SIZE: Final = 20
_END64_SIZE: Final = 56


class Problem(NamedTuple):
    """One thing that is wrong: its kind (``twice``, ``case``, ``overlap``, ...), a sentence, the record, the byte."""

    kind: str
    what: str
    record: str | None = None
    offset: int | None = None


class Survey(NamedTuple):
    """What was found.

    Attributes
    ----------
    views : list of list of ZipRecord
        One list of records for each directory that a reader may take, the last in the file first; their offsets count
        from the file's start.
    problems : list of Problem
    loose : bool
        There is no directory: the records are those whose local headers were found.
    """

    views: list[list[ZipRecord]]
    problems: list[Problem]
    loose: bool


def survey(source: ByteSource, limits: Limits) -> Survey:
    """Look at an archive in every way that a reader might."""
    problems: list[Problem] = []
    views: list[list[ZipRecord]] = []
    taken: set[int] = set()
    for start, stop, shift in _directories(source):
        if start in taken or not 0 <= start < stop <= source.size:
            continue
        records = _entries(source, start, stop, shift)
        if records:
            taken.add(start)
            views.append(records)
    if len(views) > 1:
        what = f"{len(views)} directories hold together in one file"
        problems.append(Problem("two", what))
    for records in views:
        problems += _problems(records, source.size, limits)
    loose = not views
    if loose:
        found = list(_loose_records(source))
        ends = [*(record.header_offset for record in found[1:]), source.size]
        views.append([record._replace(end=end) for record, end in zip(found, ends, strict=False)])
    return Survey(views, problems[:_MOST_PROBLEMS], loose)


def archive_within(source: ByteSource) -> tuple[int, int] | None:
    """Return where the archive that readers find from the file's end begins and ends, whatever stands around it.

    They search the end record in the last 64 KiB, and care neither for what begins the file nor for its last bytes.
    """
    for start, stop, shift in _directories(source):
        if 0 <= start < stop <= source.size and source.read_at(start, 4) == _ENTRY_MARK:
            records = _entries(source, start, stop, shift)
            begin = min((record.header_offset for record in records), default=-1)
            if begin >= 0 and source.read_at(begin, 4) == LOCAL_MARK:
                tail = source.read_at(stop, min(_TAIL, source.size - stop))
                end = next(end_places(tail), 0)
                comment = int.from_bytes(tail[end + 20 : end + 22], "little")
                return begin, min(stop + end + END.size + comment, source.size)
    return None


def _directories(source: ByteSource) -> Iterator[tuple[int, int, int]]:
    """Give where directories begin and end, and what is to be added to their offsets."""
    base = max(source.size - _TAIL, 0)
    tail = source.read_at(base, source.size - base)
    for place in reversed(list(end_places(tail))[-16:]):
        if place + END.size > len(tail):
            continue
        _, _, _, _, _, size, offset, _ = END.unpack_from(tail, place)
        position = base + place
        wide = place - _LOCATOR_SIZE - _END64_SIZE
        if _FULL32 in (size, offset) and wide >= 0 and tail[wide : wide + 4] == b"PK\x06\x06":
            size = int.from_bytes(tail[wide + 40 : wide + 48], "little")
            offset = int.from_bytes(tail[wide + 48 : wide + 56], "little")
        for stop in (position, position - _LOCATOR_SIZE - _END64_SIZE):
            yield offset, min(offset + size, source.size), 0
            yield stop - size, stop, stop - size - offset


def _entries(source: ByteSource, start: int, stop: int, shift: int) -> list[ZipRecord]:
    """Return the records of a directory as far as it can be read."""
    raw = source.read_at(start, stop - start)
    found: list[ZipRecord] = []
    position = 0
    while position + 46 <= len(raw) and len(found) < _MOST_RECORDS:
        entry = entry_struct(raw[position + 28 : position + 34])
        if raw[position : position + 4] != _ENTRY_MARK or position + entry.size > len(raw):
            break
        fields = entry.unpack_from(raw, position)
        flags, method, crc, packed, size, _, _, _, offset, name, extra = fields[1:12]
        if _FULL32 in (packed, size, offset):
            wide = iter(zip64_fields(extra))
            size, packed, offset = (next(wide, v) if v == _FULL32 else v for v in (size, packed, offset))
        text = name.decode("utf-8", "surrogateescape")
        found.append(ZipRecord(text, name, offset + shift, size, packed, crc, method, flags, start))
        position += entry.size
    ends = sorted({record.header_offset for record in found} | {start})
    after = dict(pairwise(ends))
    return [record._replace(end=after.get(record.header_offset, start)) for record in found]


# --------------------------------------------------------------------------------------------------------- problems


def _problems(records: list[ZipRecord], size: int, limits: Limits) -> Iterator[Problem]:
    yield from _names(records)
    yield from _places(records, size)
    total = 0
    for record in records:
        if record.flags & ENCRYPTED:
            yield Problem("unreadable", "the record is encrypted or a patch", record.name, record.header_offset)
        elif record.method not in (0, 8):
            what = f"the record is compressed by method {record.method}, which checkpoints do not use"
            yield Problem("unreadable", what, record.name, record.header_offset)
        elif record.method == 0 and record.size != record.compressed_size:
            what = f"a stored record has two sizes, {record.size:,} and {record.compressed_size:,} bytes"
            yield Problem("header", what, record.name, record.header_offset)
        if record.method:
            total += record.size
            if record.size > record.compressed_size * limits.max_inflation:
                what = f"{record.compressed_size:,} bytes claim to unpack to {record.size:,}"
                yield Problem("bomb", what, record.name, record.header_offset)
    if total > limits.max_inflated_bytes:
        yield Problem("bomb", f"the records claim to unpack to {total:,} bytes together")


def _names(records: list[ZipRecord]) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for record in records:
        folded = record.name.casefold()
        first = seen.setdefault(folded, record.name)
        if b"\0" in record.raw_name:
            yield Problem("name", "the record's name holds a NUL byte", record.name, record.header_offset)
        if first is record.name:
            continue
        kind = "twice" if first == record.name else "case"
        what = (
            "the name stands twice in the directory" if kind == "twice" else f"the name differs from {first!r} in case"
        )
        yield Problem(kind, what, record.name, record.header_offset)


def _places(records: list[ZipRecord], size: int) -> Iterator[Problem]:
    ordered = sorted(records, key=lambda record: record.header_offset)
    least = [record.header_offset + LOCAL_SIZE + len(record.raw_name) + record.compressed_size for record in ordered]
    if ordered and ordered[0].header_offset > 0:
        what = f"{ordered[0].header_offset:,} bytes stand before the first record"
        yield Problem("prefix", what, None, 0)
    for (one, stop), other in zip(zip(ordered, least, strict=True), [*ordered[1:], None], strict=True):
        if other is not None and stop > other.header_offset:
            yield Problem("overlap", f"it reaches into {other.name!r}", one.name, one.header_offset)
        elif stop > size or one.header_offset < 0:
            yield Problem("overlap", "it reaches outside of the file", one.name, one.header_offset)


# ---------------------------------------------------------------------------------------------------- loose records


def _loose_records(source: ByteSource) -> Iterator[ZipRecord]:
    """Give the records whose local headers stand in the file, in a file without a directory."""
    position, found = 0, 0
    end = min(source.size, _SEARCHED)
    while position < end and found < _MOST_RECORDS:
        window = source.read_at(position, min(_CHUNK, source.size - position))
        at = window.find(LOCAL_MARK)
        while at >= 0 and found < _MOST_RECORDS:
            head = window[at : at + LOCAL_SIZE]
            if len(head) == LOCAL_SIZE:
                _, flags, method, crc, packed, size, name_length, _ = LOCAL.unpack(head)
                name = window[at + LOCAL_SIZE : at + LOCAL_SIZE + name_length]
                if 0 < name_length < 1024 and b"\0" not in name:
                    found += 1
                    text = name.decode("utf-8", "replace")
                    yield ZipRecord(text, name, position + at, size, packed, crc, method, flags, source.size)
            at = window.find(LOCAL_MARK, at + 4)
        position += max(len(window) - LOCAL_SIZE - 1024, 1) if position + len(window) < source.size else len(window)


def loose_bytes(
    source: ByteSource, record: ZipRecord, most: int, worth: Callable[[bytes], bool]
) -> tuple[bytes, bool, list[Problem]]:
    """Return a record's bytes as far as they can be had, whether that is all of them, and what contradicts what.

    Where its length is not known, all up to the next record is returned: a pickle knows by itself where it ends. Of a
    large record that does not begin like something worth examining, only the beginning is returned.
    """
    problems: list[Problem] = []
    if record.flags & ENCRYPTED or record.method not in (0, 8):
        return b"", False, problems
    try:
        head = source.read_at(record.header_offset, LOCAL_SIZE)
        mark, flags, method, crc, packed, size, name_length, extra = LOCAL.unpack(head)
        start = record.header_offset + LOCAL_SIZE
        if mark != LOCAL_MARK:
            problems.append(Problem("header", "there is no local header where the directory says", record.name))
            return b"", False, problems
        name = source.read_at(start, name_length)
        problems += _contradictions(record, name, (flags, method, crc, packed, size))
        start += name_length + extra
        count = record.compressed_size or packed or max(record.end - start, 0)
        count = max(min(count, most, source.size - start), 0)
        if method == 0 and count > _SMALL:
            head = source.read_at(start, _HEAD)
            if not worth(head):
                return head, True, problems
        raw = source.read_at(start, count)
    except WeighlockError:
        return b"", False, problems
    return _unpacked(record, method, raw, most, problems)


def _contradictions(record: ZipRecord, name: bytes, local: tuple[int, int, int, int, int]) -> Iterator[Problem]:
    flags, method, crc, packed, size = local
    offset = record.header_offset
    if name != record.raw_name:
        yield Problem("header", f"its local header calls it {name.decode('utf-8', 'replace')!r}", record.name, offset)
    if method != record.method or (flags ^ record.flags) & ENCRYPTED:
        yield Problem("header", "its local header names another method", record.name, offset)
    pairs = (
        ("checksum", crc, record.crc),
        ("packed size", packed, record.compressed_size),
        ("size", size, record.size),
    )
    for label, here, there in pairs:
        if here not in (0, there, _FULL32):
            yield Problem(
                "header", f"its local header has another {label}: {here:,} for {there:,}", record.name, offset
            )


def _unpacked(
    record: ZipRecord, method: int, raw: bytes, most: int, problems: list[Problem]
) -> tuple[bytes, bool, list[Problem]]:
    known = record.compressed_size > 0
    if method == 0:
        data = raw
    else:
        engine = zlib.decompressobj(-15)
        try:
            data = engine.decompress(raw, most)
        except zlib.error:
            return b"", False, problems
    whole = known and len(data) == record.size
    if whole and record.crc and crc32(data) != record.crc:
        problems.append(Problem("crc", "the bytes are not those that were written", record.name, record.header_offset))
    return data, whole, problems
