"""Every byte of a zip archive: data by their checksums, all around them by what stands twice, or the writer's form.

An archive that PyTorch wrote is predictable: all that is not data follows from names, sizes, checksums and alignment.
So each of its bytes is compared with the one that its writer put there. Of other archives the fields are held against
each other: directory against local header against descriptor.
"""

from collections.abc import Callable, Iterator
from itertools import groupby
from struct import Struct
from typing import Final, NamedTuple

from weighlock.errors import CheckpointError, UnsupportedError, WeighlockError
from weighlock.formats.zip_directory import ZipDirectory, ZipRecord, data_offset, read_directory
from weighlock.formats.zip_entries import zip64_fields
from weighlock.formats.zip_layout import Layout, directory, ending, local_header, trailer
from weighlock.formats.zip_proving import crc_of, described, inflated_crc
from weighlock.formats.zip_remains import LOCAL_SIZE
from weighlock.formats.zip_survey import survey
from weighlock.limits import Limits
from weighlock.measuring.pieces import in_threads
from weighlock.scanning.archives import SURVEY_RULES, rule_of
from weighlock.storages.checksum import crc32_combine
from weighlock.storages.copying import PAGE
from weighlock.storages.source import ByteSource
from weighlock.verifying.report import Notebook

__all__ = ["Progress", "check_archive"]

Progress = Callable[[int], object]

_PIECE: Final = 16 << 20
_FULL32: Final = 0xFFFFFFFF
_DESCRIBED: Final = 0x8
# Version, flags, method, time, date, which stand in the local header and in the directory's entry.
_LOCAL_FIELDS: Final = Struct("<4x5H")
_ENTRY_FIELDS: Final = Struct("<4s2x5H12x3H12x")
_FIELDS: Final = ("version", "flags", "method", "time", "date")
_ALIGNMENTS: Final = (64, 4096, 1, 8, 16, 32, 128, 256, 512, 1024, 2048)
_MOST_DIFFERENCES: Final = 50
_SHOWN: Final = 16


class _Task(NamedTuple):
    """One piece of one record's data, as it lies in the file."""

    record: int
    start: int
    size: int


def check_archive(source: ByteSource, limits: Limits, notes: Notebook, progress: Progress) -> ZipDirectory | None:
    """Check an archive; return its directory where that holds together."""
    try:
        listed = read_directory(source, limits)
    except CheckpointError as error:
        _refused(source, limits, notes, error)
        return None
    notes.records += len(listed.records)
    starts = _starts(source, listed, notes)
    if listed.trailing_bytes:
        notes.add("WL205", f"{listed.trailing_bytes:,} bytes follow the archive", offset=listed.end,
                  length=listed.trailing_bytes)  # fmt: skip
    crcs = _data_crcs(source, listed, starts, notes, progress)
    written = _descriptors(source, listed, starts, notes)
    _compare_crcs(listed, starts, crcs, written, notes)
    # Data that are damaged have been noted: what their writer said of them is what stands in the directory.
    known = [
        crc if crc is not None and crc in (record.crc, behind) and record.crc else record.crc
        for record, crc, behind in zip(listed.records, crcs, written, strict=True)
    ]  # fmt: skip
    if not _compare_form(source, listed, known, notes):
        _compare_fields(source, listed, notes)
    return listed


def _refused(source: ByteSource, limits: Limits, notes: Notebook, error: CheckpointError) -> None:
    """Note all that is wrong with an archive whose directory cannot be believed."""
    if isinstance(error, UnsupportedError):
        notes.add(rule_of(error), error.what, record=error.record, expected=error.expected, got=error.got)
    else:
        notes.error(error)
    for problem in survey(source, limits).problems:
        notes.add(SURVEY_RULES[problem.kind], problem.what, record=problem.record, offset=problem.offset)


def _starts(source: ByteSource, listed: ZipDirectory, notes: Notebook) -> list[int | None]:
    """Return where each record's data begin; None where its header does not say."""
    found: list[int | None] = []
    for record in listed.records:
        try:
            found.append(data_offset(source, record))
        except WeighlockError as error:
            notes.add("WL206", error.what, record=record.name, offset=record.header_offset, expected=error.expected,
                      got=error.got, hint=_SALVAGE)  # fmt: skip
            found.append(None)
    return found


_SALVAGE: Final = "Get the file again. `weighlock salvage` saves what is whole."


# ------------------------------------------------------------------------------------------------------ the data


def _data_crcs(
    source: ByteSource, listed: ZipDirectory, starts: list[int | None], notes: Notebook, progress: Progress
) -> list[int | None]:
    """Return the CRC-32 of each record's data as they are; None where they cannot be had."""
    records = listed.records

    def work(task: _Task) -> tuple[_Task, int | None]:
        record = records[task.record]
        if record.method:
            return task, inflated_crc(source, task.start, record.compressed_size, record.size, progress)
        return task, crc_of(source, task.start, task.size, progress)

    found: list[int | None] = [None] * len(records)
    results = in_threads(work, _tasks(records, starts), lambda task: task.size)
    for index, group in groupby(results, key=lambda result: result[0].record):
        crc: int | None = 0
        for task, piece in group:
            crc = None if crc is None or piece is None else crc32_combine(crc, piece, task.size) if crc else piece
        found[index] = crc
        if crc is None:
            notes.add("WL211", "the record cannot be inflated", record=records[index].name, offset=starts[index],
                      hint=_SALVAGE)  # fmt: skip
    return found


def _tasks(records: list[ZipRecord], starts: list[int | None]) -> Iterator[_Task]:
    for index, (record, start) in enumerate(zip(records, starts, strict=True)):
        if start is None:
            continue
        step = _PIECE if not record.method else max(record.compressed_size, 1)
        for done in range(0, max(record.compressed_size, 1), step):
            yield _Task(index, start + done, min(step, record.compressed_size - done))


# ------------------------------------------------------------------------------------ descriptors, and what they say


def _descriptors(
    source: ByteSource, listed: ZipDirectory, starts: list[int | None], notes: Notebook
) -> list[int | None]:
    """Return the CRC-32 that stands behind each record's data; note what is there and belongs to nothing."""
    found: list[int | None] = []
    for record, start in zip(listed.records, starts, strict=True):
        crc = None
        if start is not None:
            behind = start + record.compressed_size
            crc, length = _descriptor(source, record, behind)
            if record.flags & _DESCRIBED and record.compressed_size and crc is None:
                notes.add("WL601", "the descriptor behind the data is damaged", record=record.name, offset=behind,
                          severity="medium", expected=_hex(trailer(record.header_offset, record.size, record.crc)),
                          got=_hex(source.read_at(behind, min(16, source.size - behind))))  # fmt: skip
                length = min(16, record.end - behind)
            if behind + length < record.end:
                notes.add("WL601", f"{record.end - behind - length:,} bytes between two records belong to none",
                          record=record.name, offset=behind + length, length=record.end - behind - length)  # fmt: skip
        found.append(crc)
    return found


def _descriptor(source: ByteSource, record: ZipRecord, behind: int) -> tuple[int | None, int]:
    """Return the CRC-32 and the length of a descriptor; of one without its mark as well."""
    whole = described(source, behind, record.compressed_size, record.size) if record.flags & _DESCRIBED else None
    if whole is not None:
        return whole
    if record.flags & _DESCRIBED and record.end - behind in (12, 20):
        raw = source.read_at(behind, 4)
        return int.from_bytes(raw, "little"), record.end - behind
    return None, 0


def _compare_crcs(
    listed: ZipDirectory, starts: list[int | None], crcs: list[int | None], written: list[int | None], notes: Notebook
) -> None:
    for record, start, crc, behind in zip(listed.records, starts, crcs, written, strict=True):
        if crc is None:
            continue
        stated = {value for value in (record.crc, behind) if value}
        if not stated:
            if record.compressed_size:
                notes.unchecked += record.compressed_size
            continue
        notes.checked += record.compressed_size
        if stated == {crc}:
            continue
        facts = {"record": record.name, "path": notes.places.get(record.name)}
        if crc not in stated:
            notes.add("WL207", "the bytes are not the ones that were written", offset=start,
                      length=record.compressed_size, expected=f"CRC-32 {record.crc:08x}", got=f"{crc:08x}",
                      hint=_SALVAGE, **facts)  # fmt: skip
        else:
            at = "directory" if record.crc != crc else "descriptor"
            other = record.crc if record.crc != crc else behind or 0
            notes.add("WL601", f"the {at} has another CRC-32 than the data, which are whole", severity="medium",
                      expected=f"{crc:08x}", got=f"{other:08x}", offset=record.header_offset, **facts)  # fmt: skip


# ------------------------------------------------------------------------------------------ the bytes around the data


def _compare_form(source: ByteSource, listed: ZipDirectory, crcs: list[int], notes: Notebook) -> bool:
    """Hold all that is not data against what PyTorch's writer puts there; False where another one wrote the file."""
    records = listed.records
    if any(record.method for record in records):
        return False
    names, sizes = [record.raw_name for record in records], [record.size for record in records]
    for alignment, places in [*((known, None) for known in _ALIGNMENTS), (_ALIGNMENTS[0], _places(listed))]:
        layout = Layout(names, sizes, alignment, places)
        fits = layout.offsets == [record.header_offset for record in records]
        if fits and layout.end == listed.start_of_directory and layout.total == listed.end:
            break
    else:
        return False
    differences = 0
    for place, record, expected in _around(layout, listed, crcs):
        got = source.read_at(place, len(expected))
        if got != expected and not (record is not None and notes.has(record)):
            differences += 1
            if differences <= _MOST_DIFFERENCES:
                _note_difference(place, record, expected, got, notes)
    return True


def _places(listed: ZipDirectory) -> dict[int, int]:
    """Return where in a page the data of each record begin: an edited archive keeps some where they were."""
    ends = [*(record.header_offset for record in listed.records[1:]), listed.start_of_directory]
    starts = {
        index: end - record.size - len(trailer(record.header_offset, record.size, 0))
        for index, (record, end) in enumerate(zip(listed.records, ends, strict=True)) if record.size
    }  # fmt: skip
    return {index: start % PAGE for index, start in starts.items() if start % _ALIGNMENTS[0] == 0}


def _around(layout: Layout, listed: ZipDirectory, crcs: list[int]) -> Iterator[tuple[int, str | None, bytes]]:
    """Give what the writer puts around the data: where, for which record, and its bytes."""
    for index, record in enumerate(listed.records):
        offset, size = layout.offsets[index], layout.sizes[index]
        yield offset, record.name, local_header(record.raw_name, offset, size, layout.starts[index])
        if size:
            yield layout.starts[index] + size, record.name, trailer(offset, size, crcs[index])
    entries = directory(layout, crcs)
    yield layout.end, None, entries
    yield layout.end + len(entries), None, ending(len(listed.records), len(entries), layout.end)


def _note_difference(place: int, record: str | None, expected: bytes, got: bytes, notes: Notebook) -> None:
    at = next(index for index, (one, other) in enumerate(zip(expected, got, strict=True)) if one != other)
    what = "the header or padding of a record" if record is not None else "the directory or its end"
    shown = slice(at, at + _SHOWN)
    notes.add("WL601", f"{what} is not as its writer left it", record=record, offset=place + at,
              expected=_hex(expected[shown]), got=_hex(got[shown]))  # fmt: skip


def _hex(data: bytes) -> str:
    return f"bytes {data.hex(' ')}"


def _compare_fields(source: ByteSource, listed: ZipDirectory, notes: Notebook) -> None:
    """Hold the fields of each local header against those of the directory, and look at the local extra fields."""
    raw = source.read_at(listed.start_of_directory, listed.nbytes)
    position = 0
    for record in listed.records:
        _, *entry, name, extra, comment = _ENTRY_FIELDS.unpack_from(raw, position)
        position += _ENTRY_FIELDS.size + name + extra + comment
        if notes.has(record.name):
            continue
        head = source.read_at(record.header_offset, LOCAL_SIZE)
        local = _LOCAL_FIELDS.unpack_from(head)
        for label, here, there in zip(_FIELDS, local, entry, strict=True):
            if here != there:
                notes.add("WL601", f"local header and directory differ in {label}", record=record.name,
                          offset=record.header_offset, expected=f"{there:#06x}", got=f"{here:#06x}")  # fmt: skip
        length = int.from_bytes(head[28:30], "little")
        where = record.header_offset + LOCAL_SIZE + name
        field = source.read_at(where, length)
        wide = zip64_fields(field)
        full = _FULL32 in (int.from_bytes(head[18:22], "little"), int.from_bytes(head[22:26], "little"))
        sizes = all(size in (0, record.size, record.compressed_size) for size in wide[:2])
        if not _is_tiled(field) or (full and (len(wide) < 2 or not sizes)):
            notes.add("WL601", "the extra field of the local header is malformed", record=record.name, offset=where,
                      length=length)  # fmt: skip


def _is_tiled(extra: bytes) -> bool:
    """Whether an extra field is made of whole parts, and padding of what PyTorch, or our writer of .npz, fills with."""
    position = 0
    while position + 4 <= len(extra):
        stop = position + 4 + int.from_bytes(extra[position + 2 : position + 4], "little")
        body = extra[position + 4 : stop]
        if extra[position : position + 2] == b"FB" and body.strip(b"Z") and body.strip(b"\0"):
            return False
        position = stop
    return position == len(extra)
