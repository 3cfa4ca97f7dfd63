"""Zip archives: what is wrong with their structure, and every record that something could unpickle or run."""

import hashlib
import re
import zlib
from collections.abc import Iterable
from typing import Final, Protocol

from weighlock.errors import ChecksumError, DirectoryError, LimitError, TruncatedError, UnsupportedError, WeighlockError
from weighlock.formats.detect import FORMATS, read_archive
from weighlock.formats.reading import Contents
from weighlock.formats.zip_directory import (
    ZipDirectory,
    ZipRecord,
    check_crc,
    data_offset,
    data_offsets,
    read_directory,
    read_record,
)
from weighlock.formats.zip_remains import LOCAL_MARK
from weighlock.formats.zip_survey import Problem, loose_bytes, survey
from weighlock.scanning.notes import Notes
from weighlock.scanning.otherwise import Path, follow
from weighlock.scanning.programs import operators_in
from weighlock.scanning.tracing import ScanReading
from weighlock.storages.checksum import crc32
from weighlock.storages.source import ByteSource, BytesSource

__all__ = ["SURVEY_RULES", "examine_zip", "rule_of"]

SURVEY_RULES: Final = {
    "twice": "WL201", "case": "WL202", "overlap": "WL203", "two": "WL204", "prefix": "WL204", "header": "WL206",
    "crc": "WL207", "unreadable": "WL208", "bomb": "WL209", "name": "WL213",
}  # fmt: skip
_OUTSIDE: Final = re.compile(r"(^|[/\\])\.\.([/\\]|$)|^[/\\]|^[A-Za-z]:[/\\]")
_STORAGES: Final = re.compile(r"(^|/)(data|constants|tensors)/[^/]*$")
# Of torch.package, of torch.export, and what is imported or loaded as a library.
_PROGRAMS: Final = (
    "/.data/extern_modules", "/.data/python_version", "/archive_format", "/serialized_exported_program.json",
    ".py", ".pyc", ".so", ".dylib", ".dll", ".pyd",
)  # fmt: skip
_KNOWN: Final = frozenset({*FORMATS, "compressed"})
_HEAD: Final = 64
_PACKED_HEAD: Final = 4096
_SMALL: Final = 64 << 10
_PIECE: Final = 4 << 20
_MOST_LOOSE: Final = 512 << 20
_FREE_LOOSE: Final = 32 << 20
_LOOSE_PER_BYTE: Final = 8
_LEAST_LOOSE: Final = 256
# A pickle deflates to a tenth. What claims more than this is not unpacked to be looked at.
_FREE_INFLATED: Final = 16 << 20
_INFLATED_PER_BYTE: Final = 100


class Examiner(Protocol):
    """What an archive's examination asks of the file's: see `examining.Examination`."""

    notes: Notes
    reading: ScanReading
    deep: bool

    def bytes_inside(self, data: bytes, member: str) -> str | None:
        """Examine bytes that something would read as a file of its own; return their format."""

    def worth(self, data: bytes) -> bool:
        """Whether bytes begin like something that is to be examined."""


def rule_of(error: WeighlockError) -> str:
    """Return the rule for an archive that the loader refuses."""
    text = error.what
    for words, rule in _WORDS:
        if words in text:
            return rule
    if isinstance(error, LimitError):
        return "WL209"
    if isinstance(error, ChecksumError):
        return "WL207"
    return "WL208" if isinstance(error, UnsupportedError) else "WL211"


_WORDS: Final = (
    ("several checkpoints", "WL212"), ("first record lies outside", "WL212"), ("several disks", "WL211"),
    ("in different case", "WL202"), ("twice in the directory", "WL201"), ("overlap", "WL203"), ("outside of", "WL203"),
    ("before the first record", "WL204"), ("two end records", "WL204"), ("another end record", "WL204"),
    ("does not begin at", "WL204"), ("local header", "WL206"), ("its header", "WL206"), ("two sizes", "WL206"),
    ("marked as a folder", "WL215"), ("second name", "WL206"),
    ("NUL byte", "WL213"), ("beside other entries", "WL212"),
)  # fmt: skip


def examine_zip(source: ByteSource, examiner: Examiner) -> Contents | None:
    """Examine an archive; return what the loader makes of it, where it makes something."""
    try:
        directory = read_directory(source, examiner.reading.limits)
    except WeighlockError as error:
        _examine_refused(source, examiner, error)
        return None
    return _Archive(source, directory, examiner).examine()


class _Archive:
    """An archive whose directory holds together."""

    def __init__(self, source: ByteSource, directory: ZipDirectory, examiner: Examiner) -> None:
        self._source = source
        self._directory = directory
        self._examiner = examiner
        self._notes = examiner.notes
        self._by_name = {record.name: record for record in directory.records}
        files = [record for record in directory.records if not record.name.endswith("/")]
        self._alone = files[0] if len(files) == 1 else None
        self._broken: WeighlockError | None = None
        if examiner.reading.inside is None:
            self._notes.place = self._place

    def _place(self, member: str | None) -> int | None:
        if member is None:
            return 0
        record = self._by_name.get(member)
        if record is None or record.method:
            return None
        try:
            return data_offset(self._source, record)
        except WeighlockError:
            return record.header_offset

    def examine(self) -> Contents | None:
        notes, directory = self._notes, self._directory
        names = [record.name for record in directory.records]
        joined = "\n".join(names)
        if ".." in joined or "\\" in joined or joined[:1] == "/" or "\n/" in joined or ":" in joined:
            for record in directory.records:
                if _OUTSIDE.search(record.name):
                    notes.add("WL213", "the record's name reaches outside of a folder", member=self._called(record))
        if directory.trailing_bytes:
            what = f"{directory.trailing_bytes:,} bytes follow the archive"
            notes.add("WL205", what, offset=directory.end, member=self._examiner.reading.member(None),
                      length=directory.trailing_bytes)  # fmt: skip
        contents = self._load()
        reading = self._examiner.reading
        outer, beside = reading.scripted, reading.beside
        reading.beside = {record.name: record.size for record in directory.records}
        reading.scripted = outer or any(f"/{name}".endswith("/constants.pkl") for name in names)
        self._others(contents)
        reading.scripted, reading.beside = outer, beside
        if self._examiner.deep:
            self._deep()
        if self._broken is not None:
            _examine_loosely(self._source, self._examiner)
        return contents

    def _called(self, record: ZipRecord) -> str:
        return self._examiner.reading.member(record.name) or record.name

    def _load(self) -> Contents | None:
        """Have the loader's own reader read the checkpoint, if it is one."""
        pickles = [record for record in self._directory.records if f"/{record.name}".endswith("/data.pkl")]
        if not pickles or any(map(self._is_bomb, pickles)):
            return None
        reading = self._examiner.reading
        try:
            return read_archive(self._source, self._directory, reading)
        except WeighlockError as error:
            self._failed(error, "WL301")
        return None

    def _failed(self, error: WeighlockError, otherwise: str) -> None:
        reading, notes = self._examiner.reading, self._notes
        if any(trace.stopped is error for trace in reading.traces.values()):
            return  # said where the pickle is judged
        member = reading.member(error.record)
        rule = rule_of(error) if isinstance(error, DirectoryError | UnsupportedError | LimitError) else otherwise
        notes.add(rule, str(error.what), member=member)
        notes.gap("WL903", str(error.what), member)
        self._broken = error

    def _others(self, contents: Contents | None) -> None:
        """Examine the records that are no storages of the checkpoint."""
        reading = self._examiner.reading
        storages = {ref.record for ref in contents.storages.values()} if contents is not None else set()
        programs: list[str] = []
        for record in self._directory.records:
            if record.name in storages or record.name.endswith("/") or not record.size:
                continue
            called = self._called(record)
            if called in reading.read_whole:
                self._check(record, *reading.read_whole[called])
                continue
            if record.name.endswith(".py") and "/code/" in f"/{record.name}":
                programs.append(called)
                self._program(record, called)
                continue
            self._other(record, called)
        if contents is not None and contents.format != "npz":
            self._beside()
        if programs:
            what = f"a TorchScript program of {len(programs)} files"
            self._notes.add("WL120", what, member=programs[0])

    def _beside(self) -> None:
        """Look for what other loaders would run out of the same archive: by its names, as they do."""
        for record in self._directory.records:
            name = f"/{record.name}".lower()
            # What was given to `torch.jit.save` is a file beside the program.
            if name.endswith(_PROGRAMS) and "/extra/" not in name and not self._is_script(name):
                what = "a checkpoint's archive holds what other loaders take for a program, and run"
                self._notes.add("WL216", what, member=self._called(record), offset=0)

    def _is_script(self, name: str) -> bool:
        return self._examiner.reading.scripted and "/code/" in name

    def _program(self, record: ZipRecord, called: str, *, bytecode: bool = False) -> None:
        """Look for operators in a program that reach beyond tensors."""
        try:
            if self._is_bomb(record):
                return
            text = read_record(self._source, record, self._examiner.reading.limits, verify=False)
        except WeighlockError as error:
            self._failed(error, "WL211")
            return
        self._check(record, len(text), crc32(text))
        for name, does, offset in operators_in(text, bytecode=bytecode):
            self._notes.add("WL121", f"the program names the operator {name}, which {does}", member=called,
                            offset=offset, name=name)  # fmt: skip

    def _check(self, record: ZipRecord, size: int, crc: int) -> None:
        if size == record.size and record.crc and crc != record.crc:
            what = f"CRC-32 {crc:08x} where {record.crc:08x} was written"
            self._notes.add("WL207", what, member=self._called(record), offset=0)

    def _other(self, record: ZipRecord, called: str) -> None:
        """Look at the head of a record; read it as a whole where it is small, or where the head says so."""
        # The one file of an archive is read as a checkpoint by the loader, whatever it begins with.
        alone = self._alone is record
        if f"/{record.name}".endswith("/bytecode.pkl"):
            self._program(record, called, bytecode=True)
        try:
            if record.size > _SMALL and not alone and not self._worth(record):
                return
            if self._is_bomb(record):
                return
            data = read_record(self._source, record, self._examiner.reading.limits, verify=False)
        except WeighlockError as error:
            self._failed(error, "WL211")
            return
        self._check(record, len(data), crc32(data))
        if not alone and not self._examiner.worth(data):
            return
        found = self._examiner.bytes_inside(data, called)
        if alone and found is not None and found not in _KNOWN and data[:4] != LOCAL_MARK:
            self._notes.gap("WL902", f"the one file of the archive is of a kind that is not read: {found}", called)

    def _worth(self, record: ZipRecord) -> bool:
        """Whether a large record begins like something that is to be examined."""
        head = self._head(record)
        return self._examiner.worth(head) or follow(BytesSource(head, record.name), record.size) is not Path.NOWHERE

    def _head(self, record: ZipRecord) -> bytes:
        """Return the first bytes of a large record, unpacked."""
        start = data_offset(self._source, record)
        raw = self._source.read_at(start, min(_PACKED_HEAD if record.method else _HEAD, record.compressed_size))
        if not record.method:
            return raw
        try:
            return zlib.decompressobj(-15).decompress(raw, _HEAD)
        except zlib.error:
            return b"\x80\x02"  # let the whole record say what is wrong with it

    def _is_bomb(self, record: ZipRecord) -> bool:
        """Whether a record claims to unpack to more than its bytes justify; then it is said."""
        if not record.method or record.size <= _FREE_INFLATED + _INFLATED_PER_BYTE * record.compressed_size:
            return False
        what = f"{record.compressed_size:,} bytes claim to unpack to {record.size:,}"
        self._notes.add("WL209", what, member=self._called(record), offset=0)
        self._notes.gap("WL904", "the record claims to unpack to far more than its bytes", self._called(record))
        return True

    def _deep(self) -> None:
        """Check the local header and the CRC-32 of every record."""
        records = self._directory.records
        try:
            data_offsets(records, self._source)
        except WeighlockError as error:
            self._failed(error, "WL206")
        for record in records:
            if record.name.endswith("/"):
                continue
            try:
                check_crc(record, _whole_crc(self._source, record, self._examiner))
            except ChecksumError as error:
                self._notes.add("WL207", f"{error.got} where {error.expected} was written", member=self._called(record))
            except WeighlockError as error:
                self._failed(error, "WL211")


def _whole_crc(source: ByteSource, record: ZipRecord, examiner: Examiner) -> int:
    if record.method:
        return crc32(read_record(source, record, examiner.reading.limits, verify=False))
    start, crc = data_offset(source, record), 0
    for done in range(0, record.size, _PIECE):
        crc = crc32(source.read_at(start + done, min(_PIECE, record.size - done)), crc)
    return crc


# ------------------------------------------------------------------------------------- archives that are refused


def _examine_refused(source: ByteSource, examiner: Examiner, error: WeighlockError) -> None:
    """Examine an archive that the loader refuses, as every other reader might see it."""
    notes, reading = examiner.notes, examiner.reading
    rule = rule_of(error)
    member = reading.member(None)
    notes.add(rule, error.what + (f" (got {error.got})" if error.got else ""), offset=error.offset,
              member=reading.member(error.record) or member)  # fmt: skip
    _examine_loosely(source, examiner, cut=isinstance(error, TruncatedError))


def _examine_loosely(source: ByteSource, examiner: Examiner, *, cut: bool = False) -> None:
    """Report all that is wrong with an archive, and examine its records in every way that they can be had."""
    notes, reading = examiner.notes, examiner.reading
    found = survey(source, reading.limits)
    _report(found.problems, examiner)
    if found.loose or cut:
        what = "the archive's directory is missing; its records were searched for"
        notes.gap("WL903", what, reading.member(None))
    unread: list[str] = []
    pickles: dict[str, set[str]] = {}
    called: set[str] = set(reading.read_whole)
    # Many entries may name the same bytes: together they are worth a few times the file.
    budget = _FREE_LOOSE + _LOOSE_PER_BYTE * source.size
    for record in (record for records in found.views for record in records if not record.name.endswith("/")):
        if budget <= 0:
            notes.gap("WL904", "the records claim far more bytes than the file has", reading.member(None))
            break
        most = min(budget, _MOST_LOOSE, reading.limits.max_pickle_bytes)
        data, whole, problems = loose_bytes(source, record, most, examiner.worth)
        budget -= len(data) + _LEAST_LOOSE
        _report(problems, examiner)
        if not whole and not _STORAGES.search(record.name):
            unread.append(record.name)
        if record.name.casefold().endswith("data.pkl"):
            digest = hashlib.sha256(data if whole else data[:_SMALL]).hexdigest()
            pickles.setdefault(record.name.casefold(), set()).add(digest)
        name = reading.member(record.name) or record.name
        if name in called:
            name += f" (at byte {record.header_offset})"
        called.add(name)
        if examiner.worth(data):
            examiner.bytes_inside(data, name)
    if any(len(kinds) > 1 for kinds in pickles.values()):
        what = "readers would take different pickles: " + ", ".join(sorted(pickles)[:4])
        notes.add("WL210", what, member=reading.member(None))
    if unread:
        what = f"{len(unread)} records could not be read as a whole: {', '.join(sorted(unread)[:4])}"
        notes.gap("WL903", what, reading.member(None))


def _report(problems: Iterable[Problem], examiner: Examiner) -> None:
    for problem in problems:
        member = examiner.reading.member(problem.record)
        examiner.notes.add(
            SURVEY_RULES[problem.kind], problem.what, member=member, offset=0 if problem.record else None
        )
        if problem.kind == "unreadable":
            examiner.notes.gap("WL903", problem.what, member)
