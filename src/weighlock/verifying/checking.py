"""One file, or one set of files, from its first byte to its check."""

import mmap
from typing import Any, Final

from weighlock.checkpoint import Checkpoint, open_any
from weighlock.errors import (
    ArgumentTypeError,
    CheckpointError,
    LimitError,
    NotACheckpointError,
    PickleStreamError,
    SourceError,
    TruncatedError,
    WeighlockError,
)
from weighlock.formats.collector import collector_paused
from weighlock.formats.detect import read_any, read_file
from weighlock.formats.reading import Contents, Options, Reading
from weighlock.formats.torch_legacy import matches
from weighlock.formats.zip_survey import archive_within
from weighlock.inspection.inventory import take_inventory
from weighlock.limits import DEFAULT_LIMITS, Limits
from weighlock.salvaging.translated import is_translated
from weighlock.scanning.dcp_parts import parts_of, why_unplaced
from weighlock.scanning.examining import examine
from weighlock.scanning.rules import rank
from weighlock.storages.folders import FolderSource, SliceSource
from weighlock.storages.refs import StorageRef
from weighlock.storages.source import ByteSource
from weighlock.tensors.leaves import Leaves
from weighlock.verifying.archives import Progress, check_archive
from weighlock.verifying.objects import check_rows
from weighlock.verifying.report import FileCheck, Notebook

__all__ = ["check_file", "nothing"]

_TENSOR_RULES: Final = frozenset({"WL401", "WL402", "WL403"})
_ZIP: Final = b"PK\x03\x04"
_LOOK: Final = 8 << 20
_SHORTEST: Final = 64
_MOST_STREAMS: Final = 10_000
_READ: Final = 4 << 20
_MOST_AT_ONCE: Final = 4 << 30


def nothing(_: int) -> None:
    """Take note of no progress."""


class _Reading(Reading):
    """A reading that notes where the pickles of an archive's records end."""

    def __init__(self, options: Options, notes: Notebook) -> None:
        super().__init__(Leaves(), read_any, options)
        self._notes = notes

    # Reason for the signature: that of the method it overrides.
    def unpickle(self, data: bytes, *args: Any, **options: Any) -> tuple[Any, int]:
        made, end = super().unpickle(data, *args, **options)
        record = options.get("record")
        if record is not None and end < len(data):
            self._notes.add("WL302", f"{len(data) - end:,} bytes follow the pickle", record=record)
        return made, end


def check_file(
    f: Any, *, limits: Limits | None = None, encoding: str = "utf-8", progress: Progress = nothing,
    notes: Notebook | None = None,
) -> FileCheck:  # fmt: skip
    """Check one file, or a folder that is a checkpoint; whatever is wrong stands in the result."""
    notes = Notebook() if notes is None else notes
    bounds = limits or DEFAULT_LIMITS
    try:
        source = open_any(f)
    except ArgumentTypeError:
        raise
    except WeighlockError as error:
        notes.gap("WL901", str(error.what))
        return notes.done(str(f), None, None)
    try:
        options = Options(limits=bounds, encoding=encoding, verify=False, stubs_allowed=True)
        with collector_paused():
            parts = parts_of(f, bounds)
            unplaced = why_unplaced(f, bounds) if parts is None else None
            if unplaced is not None:
                kind = None
                notes.gap("WL903", unplaced)
            elif parts is None:
                kind = _checked(source, options, notes, progress)
            else:
                kind = _checked_parts(source, parts, options, notes, progress)
        return notes.done(source.name, source.size, kind)
    except WeighlockError as error:
        notes.error(error)
        return notes.done(source.name, source.size, None)
    finally:
        source.close()


def _checked(source: ByteSource, options: Options, notes: Notebook, progress: Progress) -> str | None:
    reading = _Reading(options, notes)
    contents: Contents | None = None
    checkpoint: Checkpoint | None = None
    failed: WeighlockError | None = None
    try:
        contents = read_file(source, reading)
        checkpoint = Checkpoint(source, contents, reading)
    except SourceError as error:
        if not isinstance(source, FolderSource):
            raise
        failed = error
    except WeighlockError as error:
        failed = error
    rows = [] if checkpoint is None else take_inventory(checkpoint).rows
    notes.tensors = len(rows)
    for row in rows:
        for _, part in row.parts:
            notes.places.setdefault(part.ref.record or part.ref.key, row.key)
    archived = _containers(source, options.limits, notes, progress, contents)
    if failed is not None:
        _failed(failed, source, notes, archived=archived)
    if contents is not None:
        _storages(contents, notes, progress, archived=archived)
        check_rows(rows, notes)
        _behind(source, contents, reading, notes)
    return None if contents is None else contents.format


def _checked_parts(
    source: ByteSource, parts: list[tuple[int, int]], options: Options, notes: Notebook, progress: Progress
) -> str:
    """Check a file of a distributed checkpoint: small checkpoints one behind the other."""
    for offset, length in parts:
        own = Notebook()
        try:
            part = SliceSource(source, offset, length, source.name)
        except WeighlockError as error:
            notes.error(error, salvage=False)
            continue
        try:
            _checked(part, options, own, progress)
        except WeighlockError as error:
            own.error(error, salvage=False)
        for problem in own.problems:
            facts = problem.to_dict()
            place = offset if problem.offset is None else offset + problem.offset
            notes.add(facts.pop("code"), facts.pop("message"), **{**facts, "offset": place})
        for gap in own.gaps:
            notes.gap(gap.rule, gap.message, gap.member)
        notes.records, notes.tensors = notes.records + own.records, notes.tensors + own.tensors
        notes.checked, notes.unchecked = notes.checked + own.checked, notes.unchecked + own.unchecked
    return "dcp"


def _failed(error: WeighlockError, source: ByteSource, notes: Notebook, *, archived: bool) -> None:
    """Note why the checkpoint cannot be read, unless its archive's check has said so."""
    if isinstance(error, NotACheckpointError):
        head = b"" if isinstance(source, FolderSource) else source.read_at(0, min(source.size, _LOOK))
        if _ZIP in head:
            place = head.index(_ZIP)
            what = f"{place:,} bytes stand before what may be an archive" if place else error.what
            notes.add("WL204" if place else "WL212", what, offset=0, length=place or None,
                      hint="Get the file again. `weighlock salvage` saves what is whole.")  # fmt: skip
            return
    if isinstance(error, TruncatedError) and 0 < source.size < _SHORTEST and not _begins_like_one(source):
        notes.gap("WL902", error.what)
        return
    folder = isinstance(source, FolderSource)
    if isinstance(error, PickleStreamError) and not archived and not folder and not _is_malformed(source):
        notes.gap("WL903", f"this pickle cannot be read as a checkpoint: {error.what}")
        return
    if not archived or not any(problem.message == error.what for problem in notes.problems):
        notes.error(error)


def _is_malformed(source: ByteSource) -> bool:
    """Whether a scan, which also follows what a load refuses (the arrays of joblib), finds a pickle malformed."""
    if matches(source.read_at(0, min(source.size, 32))):
        return True
    report = examine(source, limits=DEFAULT_LIMITS, deep=False, allowed=lambda _: False)
    return any(finding.rule.startswith(("WL30", "WL4")) and rank(finding.severity) > 1 for finding in report.findings)


def _begins_like_one(source: ByteSource) -> bool:
    """Whether a file that is too short for anything begins as a checkpoint does."""
    head = source.read_at(0, source.size)
    return any(head[: len(mark)] == mark[: len(head)] for mark in (_ZIP, b"\x93NUMPY", b"GGUF", b"\x80"))


# --------------------------------------------------------------------------------------------------------- containers


def _containers(
    source: ByteSource, limits: Limits, notes: Notebook, progress: Progress, contents: Contents | None
) -> bool:
    """Check the archives that hold the checkpoint; return whether there are any."""
    if isinstance(source, FolderSource):
        found = False
        for name, part in source.parts.items():
            if not name.endswith(".distcp"):  # archives behind each other, whose tensors are read instead
                found = _part(name, part, limits, notes, progress) or found
        return found
    _translated(source, notes)
    if source.read_at(0, min(source.size, 4)) != _ZIP:
        place = archive_within(source) if contents is not None and contents.format in ("safetensors", "npy") else None
        if place is not None:
            what = "a zip archive ends the file, and something else begins it"
            notes.add("WL204", what, offset=place[0], length=place[1] - place[0])
        return False
    check_archive(source, limits, notes, progress)
    if contents is not None and contents.format == "torchscript":
        _other_pickles(source, limits, notes)
    return True


def _other_pickles(source: ByteSource, limits: Limits, notes: Notebook) -> None:
    """Check the tensors of a program's constants, which a load leaves alone, and PyTorch's C++ reader believes."""
    report = examine(source, limits=limits, deep=False, allowed=lambda _: False)
    for finding in report.findings:
        if finding.rule in _TENSOR_RULES and finding.member and not finding.member.endswith("data.pkl"):
            notes.add(finding.rule, finding.message, record=finding.member, offset=finding.file_offset)


def _part(name: str, part: ByteSource, limits: Limits, notes: Notebook, progress: Progress) -> bool:
    if part.read_at(0, min(part.size, 4)) != _ZIP:
        return False
    own = Notebook()
    own.places = notes.places
    check_archive(part, limits, own, progress)
    for problem in own.problems:
        facts = problem.to_dict()
        record = name + ("" if problem.record is None else f"/{problem.record}")
        notes.add(facts.pop("code"), facts.pop("message"), **{**facts, "record": record})
    notes.checked += own.checked
    notes.unchecked += own.unchecked
    notes.records += own.records
    return True


def _translated(source: ByteSource, notes: Notebook) -> None:
    head = source.read_at(0, min(source.size, _LOOK))
    if (_ZIP in head[:64] or matches(head)) and is_translated(source):
        notes.add("WL602", "every line feed has a carriage return before it", offset=head.find(b"\r\n"))


def _behind(source: ByteSource, contents: Contents, reading: _Reading, notes: Notebook) -> None:
    """Look at what follows the first stream or pickle: further ones, or bytes that are none."""
    if isinstance(source, FolderSource) or contents.format not in ("torch-legacy", "pickle"):
        return
    end = contents.end
    for _ in range(_MOST_STREAMS):
        if end >= source.size:
            return
        rest = SliceSource(source, end, source.size - end, source.name)
        head = rest.read_at(0, min(rest.size, 32))
        if contents.format != "torch-legacy" or not matches(head):
            if contents.format == "torch-legacy" or head[:1] != b"\x80":
                notes.add(
                    "WL302", f"{rest.size:,} bytes follow the last pickle or storage", offset=end, length=rest.size
                )
            return
        try:
            found = read_file(rest, _Reading(reading.options, notes))
        except WeighlockError as error:
            notes.error(error, base=end)
            return
        _storages(found, notes, nothing, archived=False)
        end += found.end


# ----------------------------------------------------------------------------------------------------------- storages


def _storages(contents: Contents, notes: Notebook, progress: Progress, *, archived: bool) -> None:
    """Check that every storage lies inside of its file, and read those that no archive's check has read."""
    places: dict[int, list[tuple[int, int, str]]] = {}
    sources: dict[int, ByteSource] = {}
    for key, ref in contents.storages.items():
        if ref.reader is None or ref.location == "meta" or not ref.nbytes:
            continue
        source: Any = getattr(ref.reader, "source", None)
        if notes.has(ref.record):
            continue  # where it is, or what it holds, cannot be believed
        try:
            extent = None if source is None else ref.reader.extent(ref)
        except CheckpointError as error:
            notes.error(error)
            continue
        if extent is None:
            _read(ref, key, notes, progress, archived=archived)
            continue
        sources[id(source)] = source
        places.setdefault(id(source), []).append((extent.offset, extent.nbytes, ref.record or key))
    for number, rows in places.items():
        _check_places(sources[number], rows, notes)
        if not archived:
            notes.unchecked += sum(nbytes for _, nbytes, _ in rows)
            _touch(sources[number], rows, notes, progress)


def _read(ref: StorageRef, key: str, notes: Notebook, progress: Progress, *, archived: bool) -> None:
    """Read a storage that does not lie in one piece, and have its checksums looked at."""
    if getattr(ref.reader, "source", None) is not None and archived:
        return  # a compressed record: unpacked already
    if ref.nbytes > _MOST_AT_ONCE:
        notes.gap("WL904", f"{key}: it is too large to be put together from its pieces", ref.record)
        return
    assert ref.reader is not None  # noqa: S101 - the caller has looked
    memory = mmap.mmap(-1, ref.nbytes)
    try:
        with memoryview(memory) as view:
            ref.reader.read([(ref, view)], verify=True)
        notes.checked += ref.nbytes
        progress(ref.nbytes)
    except CheckpointError as error:
        notes.error(error.locate(object_path=key))
    finally:
        memory.close()


def _check_places(source: ByteSource, rows: list[tuple[int, int, str]], notes: Notebook) -> None:
    reached, before = 0, ""
    for offset, nbytes, name in sorted(rows):
        path = notes.places.get(name)
        if offset + nbytes > source.size:
            notes.add("WL402", "the data reach outside of the file", record=name, offset=offset, path=path,
                      expected=f"{nbytes:,} bytes", got=f"{max(source.size - offset, 0):,}")  # fmt: skip
        elif offset < reached:
            notes.add("WL203", f"its data lie in those of {before}", record=name, offset=offset, path=path)
        if offset + nbytes > reached:
            reached, before = offset + nbytes, name


def _touch(source: ByteSource, rows: list[tuple[int, int, str]], notes: Notebook, progress: Progress) -> None:
    """Read data without a checksum: that the disk, or the server, gives them is all that can be known."""
    memory = memoryview(bytearray(_READ))
    for offset, nbytes, name in sorted(rows):
        stop = min(offset + nbytes, source.size)
        try:
            for begin in range(offset, stop, _READ):
                view = memory[: min(_READ, stop - begin)]
                source.read_into(begin, view)
                progress(len(view))
        except WeighlockError as error:
            if isinstance(error, LimitError):
                raise
            notes.gap("WL901", error.what, name)
            return
