"""One file from its first byte to its report: what it is, by its content, and all in it that could be unpickled."""

import contextlib
import lzma
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from weighlock.errors import (
    CheckpointError,
    DamagedError,
    LimitError,
    NotACheckpointError,
    PickleStreamError,
    SourceError,
    TensorBoundsError,
    TruncatedError,
    WeighlockError,
)
from weighlock.formats.detect import read_any
from weighlock.formats.foreign import describe_foreign
from weighlock.formats.reading import Contents
from weighlock.formats.torch_legacy import matches
from weighlock.formats.zip_directory import read_directory
from weighlock.formats.zip_end import END
from weighlock.formats.zip_survey import archive_within
from weighlock.limits import Limits
from weighlock.scanning.archives import examine_zip, rule_of
from weighlock.scanning.arrays import Header, read_header
from weighlock.scanning.dcp_parts import faults_of_index
from weighlock.scanning.judging import Judge
from weighlock.scanning.notes import Notes
from weighlock.scanning.otherwise import FIRST, Path, follow, run_as_pickle, run_without_joblib
from weighlock.scanning.report import FileReport, in_order
from weighlock.scanning.sources import CountingSource, PartSource
from weighlock.scanning.sparse import check_sparse
from weighlock.scanning.sweeping import looks_like_pickle
from weighlock.scanning.tracing import ScanReading, Trace
from weighlock.scanning.unpacking import PACKED, unpack, unpack_bare
from weighlock.storages.source import ByteSource, BytesSource

__all__ = ["Examination", "examine"]

_WHOLE: Final = 256 << 10
_ZIP: Final = b"PK\x03\x04"
_NPY: Final = b"\x93NUMPY"
_MOST_STREAMS: Final = 10_000
# Checkpoints hardly compress; what unpacks further than this is not worth the memory.
_FREE_UNPACKED: Final = 16 << 20
_UNPACKED_PER_BYTE: Final = 32
_BOMB: Final = 200

# Kinds of files beside models in which no loader of models looks: they are counted, and nothing is missing.
_PICKLES: Final = frozenset({"pickle", "torch-legacy", "npy"})
_HARMLESS: Final = frozenset({
    "text", "json", "html", "git-lfs", "xml", "png", "jpeg", "gif", "pdf", "caff", "riff", "python", "yaml", "csv",
    "safetensors-index",
})  # fmt: skip


def _nowhere(_: str | None) -> int | None:
    return None


class Examination:
    """The examination of one file.

    Parameters
    ----------
    limits : Limits
    deep : bool
        Also check the CRC-32 and the local header of every record.
    allowed : callable
        Whether the user has allowed a global by name.
    """

    def __init__(self, limits: Limits, *, deep: bool, allowed: Callable[[str], bool]) -> None:
        self.notes = Notes(allowed)
        self.reading = ScanReading(limits)
        self.deep = deep
        self._judge = Judge(self.notes, self.examine_bytes)
        self._judged: set[tuple[str | None, int, int]] = set()
        self._depth = 0
        self._part_depth = 0  # how deep the parts of a file lie: each is a file that something loads
        self._seen: set[tuple[int, int]] = set()
        self.skipped = False

    def release(self) -> None:
        """Let go of the file: scanning thousands of them must not wait for Python's collector."""
        self.reading.release()
        self.notes.place = _nowhere
        del self._judge

    def examine(self, source: ByteSource) -> str | None:
        """Examine a file, or what lies in one as a file; return its format."""
        self.reading.justify(source.size)
        head = source.read_at(0, min(source.size, 4096))
        try:
            found = self._by_content(source, head)
            if run_without_joblib(self.reading):
                what = "joblib passes over bytes as an array, which other programs run as a pickle"
                self.notes.add("WL214", what, offset=0, member=self.reading.member(None))
        finally:
            self._settle()
        if head[:4] != _ZIP:
            if found != "compressed":
                self._as_bare_lzma(source, head)
            if found not in _PICKLES:
                self._as_pickle(source, found)
            self._zip_behind(source, found)
        return found

    def _as_bare_lzma(self, source: ByteSource, head: bytes) -> None:
        """Examine what a program that goes by the file's name would unpack, whatever the bytes are to others."""
        data = unpack_bare(source, head, self._most_unpacked(source))
        if data and self.worth(data):
            what = "the file is compressed (lzma) to some programs, and something else to others"
            self.notes.add("WL214", what, offset=0, member=self.reading.member(None))
            self.bytes_inside(data, self.reading.member("unpacked") or "unpacked")

    def _most_unpacked(self, source: ByteSource) -> int:
        return min(self.reading.limits.max_inflated_bytes, _FREE_UNPACKED + _UNPACKED_PER_BYTE * source.size)

    def _as_pickle(self, source: ByteSource, found: str | None) -> None:
        """Run what an unpickler would make of a file of another kind: it does not ask what a file is."""
        if found is None and any(key[:2] == (self.reading.member(None), 0) for key in self.reading.traces):
            return
        outer, self.reading.inside = self.reading.inside, self.reading.member("as a pickle")
        try:
            if run_as_pickle(source, self.reading):
                what = f"the file is {found or 'something else'} to some programs, and a pickle to others"
                self.notes.add("WL214", what, offset=0, member=outer)
                self.skipped = False
        except LimitError as error:
            self.notes.gap("WL904", error.what, outer)
            self.skipped = False
        finally:
            self._settle()
            self.reading.inside = outer

    def _by_content(self, source: ByteSource, head: bytes) -> str | None:
        if head[:4] == _ZIP:
            contents = examine_zip(source, self)
            self._sparse(contents)
            return contents.format if contents is not None else self._foreign_zip(source)
        if head[:6] == _NPY:
            self._npy(source)
            return "npy"
        if head.startswith(PACKED) and self._packed(source):
            return "compressed"
        return self._plain(source)

    def _zip_behind(self, source: ByteSource, found: str | None) -> None:
        """Examine an archive that ends a file which begins otherwise, whatever follows it."""
        place = archive_within(source) if source.size > END.size and found != "tar" else None
        if place is None:
            return
        if source.size == place[1] or found not in _PICKLES:
            self.skipped = False
            what = "a zip archive ends the file, and something else begins it"
            self.notes.add("WL204", what, offset=0, member=self.reading.member(None))
        if source.size == place[1]:
            examine_zip(source, self)
            self._settle()
            return
        self.part(source, place[0], place[1] - place[0])

    # ------------------------------------------------------------------------------- checkpoints that are no zip

    def _plain(self, source: ByteSource) -> str | None:
        try:
            contents = read_any(source, self.reading)
        except NotACheckpointError as error:
            return self._foreign(error)
        except WeighlockError as error:
            self._failed(error, source)
            return None
        for what in faults_of_index(source.name, contents.object) if self._depth == 0 else ():
            self.notes.add("WL217", what, offset=0)
        self._sparse(contents)
        if contents.format in ("pickle", "torch-legacy"):
            self._following(source, contents.end)
        return contents.format

    def _foreign_zip(self, source: ByteSource) -> str:
        """Say what an archive is that is no checkpoint. Its pickles and arrays were examined, and nothing else."""
        error = describe_foreign(source)
        kind = getattr(error, "kind", None)
        if isinstance(error, NotACheckpointError) and not _only_known(source, self.reading.limits):
            self.notes.gap("WL902", error.what, self.reading.member(None))
        return kind or "zip"

    def _foreign(self, error: NotACheckpointError) -> str:
        kind = error.kind or "unknown"
        self.skipped = kind in _HARMLESS and self._depth == 0
        if self._depth in (0, self._part_depth):
            self.notes.gap("WL902", error.what, self.reading.member(None))
        return kind

    def _failed(self, error: WeighlockError, source: ByteSource | None) -> None:
        if isinstance(error, SourceError):
            raise error
        if any(trace.stopped is error for trace in self.reading.traces.values()):
            return
        rule = "WL301" if isinstance(error, PickleStreamError) else "WL211"
        if isinstance(error, TensorBoundsError):
            rule = "WL402"
        elif isinstance(error, LimitError):
            rule = "WL310"
        member = self.reading.member(error.record)
        empty = isinstance(error, TruncatedError) and source is not None and source.size < 8
        if not empty:
            self.notes.add(rule, error.what, member=member, offset=error.offset)
        self.notes.gap("WL903" if not empty else "WL901", error.what, member, error.offset)

    def _following(self, source: ByteSource, end: int) -> None:
        """Examine what stands behind the first pickle of a file: further ones, or bytes that are none."""
        if end >= source.size:
            return
        data, member = source.read_at(0, source.size), self.reading.member(None)
        for _ in range(_MOST_STREAMS):
            if end >= len(data):
                return
            if data[end : end + 1] != b"\x80" or data[end + 1 : end + 2] > b"\x05":
                what = f"{len(data) - end:,} bytes follow the last pickle"
                self.notes.add("WL302", what, offset=end, length=len(data) - end, member=member)
                return
            try:
                end = self._next_stream(data, end)
            except WeighlockError as error:
                self._failed(error, source)
                return
        self.notes.gap("WL904", f"only the first {_MOST_STREAMS:,} pickles of the file were examined", member, end)

    def _next_stream(self, data: bytes, start: int) -> int:
        """Run a pickle, or read a whole legacy stream, that begins at `start`; return where it ends."""
        if not matches(data[start : start + 32]):
            return self.reading.unpickle(data, start=start)[1]
        outer, self.reading.inside = self.reading.inside, self.reading.member(f"stream at {start}")
        try:
            contents = read_any(BytesSource(data[start:], "stream"), self.reading)
        finally:
            self.reading.inside = outer
        self._sparse(contents)
        return start + contents.end

    # ------------------------------------------------------------------------------------------- other containers

    def _npy(self, source: ByteSource) -> None:
        """NumPy arrays, one behind the other: one of objects is a pickle behind its header."""
        begin = 0
        while begin < source.size and source.read_at(begin, min(6, source.size - begin)) == _NPY:
            header = read_header(source, begin, self.reading.limits)
            if header.kind == "cut":
                member = self.reading.member(None)
                self.notes.add("WL211", "the header of the array is cut or malformed", offset=begin, member=member)
                self.notes.gap("WL903", "the array's header cannot be read", member)
                return
            if header.kind != "numbers":
                self._objects(PartSource(source, header.start, source.size - header.start), header)
                return
            begin = header.end
        if begin < source.size:
            rest = PartSource(source, begin, source.size - begin)
            self._inside(f"behind byte {begin}", lambda: run_as_pickle(rest, self.reading))

    def _objects(self, source: ByteSource, header: Header) -> None:
        """Run what NumPy would unpickle, whatever it looks like."""
        place = f"objects at {header.start}"
        if header.kind == "unsure":
            self._inside(place, lambda: run_as_pickle(source, self.reading))
            return
        data = source.read_at(0, source.size)
        self._inside(place, lambda: self.reading.unpickle(data))

    def _inside(self, place: str, run: Callable[[], Any]) -> None:
        """Run pickles that lie in the file at a place of their own."""
        outer, self.reading.inside = self.reading.inside, self.reading.member(place)
        try:
            run()
        except WeighlockError as error:
            self._failed(error, None)
        finally:
            self._settle()
            self.reading.inside = outer

    def _packed(self, source: ByteSource) -> bool:
        """Unpack gzip, bzip2, xz and zlib, and examine what is inside; False where it is none of them."""
        try:
            data, more, rest = unpack(source, self._most_unpacked(source))
        except (zlib.error, OSError, EOFError, lzma.LZMAError, ValueError):
            return False
        member = self.reading.member(None)
        if more:
            if len(data) > _BOMB * source.size:
                self.notes.add("WL209", f"{source.size:,} bytes unpack to more than {len(data):,}", member=member)
            self.notes.gap("WL904", "the file unpacks to more than the limits allow", member)
            return True
        if rest:
            what = f"{rest:,} bytes follow what is compressed"
            self.notes.add("WL302", what, offset=source.size - rest, length=rest, member=member)
        found = self.bytes_inside(data, self.reading.member("unpacked") or "unpacked")
        self.skipped = found in _HARMLESS and self._depth == 0 and not self.notes.findings
        if found in _HARMLESS or found == "unknown":
            self.notes.gap("WL902", f"what is unpacked is of no format that is known: {found}", member)
        return True

    def bytes_inside(self, data: bytes, member: str) -> str | None:
        """Examine bytes that are a file of their own: a record, what a compressed file holds; return their format."""
        key = (len(data), hash(data))
        if key in self._seen:
            return None
        self._seen.add(key)
        if self._depth >= self.reading.limits.max_nesting:
            self.notes.gap("WL904", "files inside files inside files ...", member)
            return None
        reading = self.reading
        outer, reading.inside = reading.inside, member
        lenient, reading.lenient = reading.lenient, True
        self._depth += 1
        try:
            return self.examine(BytesSource(data, member))
        except (CheckpointError, SourceError) as error:
            self.notes.gap("WL903", error.what, member)
            return None
        finally:
            self._depth -= 1
            reading.inside, reading.lenient = outer, lenient

    def part(self, source: ByteSource, offset: int, length: int) -> None:
        """Examine one of several checkpoints that lie behind each other in a file."""
        outer, self.reading.inside = self.reading.inside, f"part at {offset}"
        self._depth += 1
        self._part_depth = self._depth
        try:
            self.examine(PartSource(source, offset, length))
        except (CheckpointError, SourceError) as error:
            self.notes.gap("WL903", error.what, f"part at {offset}")
        finally:
            self._depth -= 1
            self.reading.inside = outer

    def examine_bytes(self, data: bytes, member: str) -> None:
        """Examine a byte string of a pickle, where it begins like something that would be unpickled."""
        if self.worth(data):
            outer, self.reading.inside = self.reading.inside, None
            try:
                self.bytes_inside(data, member)
            finally:
                self.reading.inside = outer

    def worth(self, data: bytes) -> bool:
        """Whether bytes begin like a pickle, an archive, or a file that may hold one."""
        if data[:4] == _ZIP or data[:6] == _NPY:
            return True
        if looks_like_pickle(data) or (len(data) > 64 and data.startswith(PACKED[:3])):
            return True
        return data[:1] != b"" and data[0] in FIRST and follow(BytesSource(data, "bytes")) is Path.GLOBAL

    # ---------------------------------------------------------------------------------------------------- the end

    def _sparse(self, contents: Contents | None) -> None:
        """Check the sparse tensors that were met; then the file can be let go of."""
        leaves: Any = self.reading.leaves
        specs, leaves.sparse_specs = leaves.sparse_specs, []
        for spec in specs:
            check_sparse(spec, self.notes, self.reading.member(None))
        if contents is not None:
            contents.release()

    def _settle(self) -> None:
        """Judge the pickles that were run meanwhile."""
        leaves: Any = self.reading.leaves
        while True:
            waiting = [(key, trace) for key, trace in self.reading.traces.items() if key not in self._judged]
            if not waiting:
                break
            for key, trace in waiting:
                self._judged.add(key)
                self._judge.judge(trace, leaves.first_calls)
                self._behind(trace)
        for count, shape, position in leaves.huge:
            what = f"a tensor of shape {list(shape)} takes {count:,} bytes, and its storage next to nothing"
            self.notes.add("WL404", what, offset=position)
        leaves.huge = []

    def _behind(self, trace: Trace) -> None:
        """Look behind the STOP of a pickle that is alone in its record."""
        recorder, member = trace.recorder, trace.member
        if trace.stopped is not None or member is None or trace.start:
            return
        if not member.endswith(".pkl") or recorder.end >= trace.size:
            return
        rest = recorder.data[recorder.end :]
        self.notes.add("WL302", f"{len(rest):,} bytes follow the pickle", member=member, offset=recorder.end,
                       length=len(rest))  # fmt: skip
        if self.worth(rest):
            self.examine_bytes(rest, f"{member} > behind byte {recorder.end}")


def _only_known(source: ByteSource, limits: Limits) -> bool:
    """Whether an archive holds one file, or nothing but pickles and arrays by their names: they are examined."""
    try:
        names = read_directory(source, limits).names
    except WeighlockError:
        return True  # said already
    files = [name for name in names if not name.endswith("/")]
    return len(files) == 1 or all(name.endswith((".npy", ".pkl", ".pickle")) for name in files)


def _by_parts(examination: Examination, source: ByteSource, parts: Sequence[tuple[int, int]]) -> str:
    """Examine the parts of a file of a distributed checkpoint, and say where there are others."""
    end = 0
    for offset, length in parts:
        if offset != end:
            what = f"{abs(offset - end):,} bytes are {'not in the index' if offset > end else 'twice in the index'}"
            examination.notes.add("WL205" if offset > end else "WL203", what, offset=min(offset, end))
        end = offset + length
        if end > source.size:
            examination.notes.add("WL211", "the index names bytes behind the end of the file", offset=offset)
            break
        examination.part(source, offset, length)
    if end < source.size:
        examination.notes.add("WL205", f"{source.size - end:,} bytes are not in the index", offset=end)
    return "dcp-part"


# Reason for the parameter count: what a caller may say of one file, keyword-only.
def examine(
    source: ByteSource, *, limits: Limits, deep: bool, allowed: Callable[[str], bool], walked: bool = False,
    parts: Sequence[tuple[int, int]] | None = None,
) -> FileReport:  # fmt: skip
    """Examine one file.

    Parameters
    ----------
    walked : bool
        It was found in a folder, not named: text and images beside the models are no gaps then.
    parts : sequence of (int, int)
        Offset and length of the checkpoints in the file, where an index beside it says.
    """
    counting = CountingSource(source)
    examination = Examination(limits, deep=deep, allowed=allowed)
    notes = examination.notes
    found = None
    try:
        whole: ByteSource = counting
        if 0 < source.size <= _WHOLE:
            whole = BytesSource(counting.read_at(0, source.size), source.name)
        if parts and not any(offset for offset, _ in parts) and whole.read_at(0, min(source.size, 9))[8:] == b"{":
            parts = None  # safetensors: the index only says how long each tensor is
        found = examination.examine(whole) if not parts else _by_parts(examination, whole, parts)
    except DamagedError as error:
        notes.gap("WL903", error.what, error.record, error.offset)
    except SourceError as error:
        notes.gap("WL901", error.what)
    except CheckpointError as error:
        notes.add(rule_of(error), error.what, member=error.record)
        notes.gap("WL903", error.what, error.record, error.offset)
    except (MemoryError, RecursionError) as error:
        notes.gap("WL904", f"examining it takes too much: {type(error).__name__}")
    except Exception as error:  # noqa: BLE001 - one bad file never stops the run, and never counts as clean
        notes.gap("WL903", f"it cannot be examined: {type(error).__name__}: {str(error)[:200]}")
    finally:
        examination.release()
    gaps = tuple(notes.gaps.values())
    skipped = examination.skipped and walked
    with contextlib.suppress(WeighlockError):
        source.finish(0)
    return FileReport(
        source.name, source.size, found, in_order(notes.findings.values()), () if skipped else gaps,
        tuple(notes.globals.values()), notes.pickles, counting.bytes_read, skipped=skipped,
    )  # fmt: skip
