"""A reading that records: the loader's own formats and machine, with a recorder in the machine's place."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from weighlock.dtypes import DType
from weighlock.errors import LimitError, PickleStreamError, TensorBoundsError, WeighlockError
from weighlock.formats.dcp_metadata import CLASSES
from weighlock.formats.detect import read_any
from weighlock.formats.reading import Options, Reading, parse_persistent_id
from weighlock.formats.reading import allowlist_with as _table
from weighlock.formats.torchscript import ScriptRows
from weighlock.limits import Limits
from weighlock.pickling.allowlist import Allowlist, Known
from weighlock.pickling.inert import Described
from weighlock.pickling.recording import Recorder, RecordingAllowlist
from weighlock.scanning.joblib_arrays import JOBLIB_NAMES, skip_array
from weighlock.scanning.numpy_types import check_dtype
from weighlock.storages.checksum import crc32
from weighlock.storages.refs import StorageRef
from weighlock.tensors.leaves import Leaves
from weighlock.tensors.spec import MetaSpec, NumpyArraySpec, NumpyDtypeSpec, SparseSpec, TensorSpec

__all__ = ["ScanLeaves", "ScanReading", "Trace"]

_HUGE: Final = 1 << 30
_MOST_SPARSE: Final = 10_000


class Trace(NamedTuple):
    """One pickle that was run in recording mode."""

    member: str | None
    start: int
    size: int
    recorder: Recorder
    stopped: WeighlockError | None
    result: Any


def _is_more_of(trace: Trace, old: Trace) -> bool:
    """Whether a run is one of the same pickle once more, or over more of the file."""
    end = old.recorder.end if old.stopped is None else old.size
    return old.recorder.data[old.start : end] == trace.recorder.data[trace.start : end]


class ScanLeaves(Leaves):
    """Keeps descriptions, as its base does, and what is to be checked of them afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.first_calls: dict[tuple[str, str], Any] = {}
        self.sparse_specs: list[SparseSpec] = []
        self.huge: list[tuple[int, tuple[int, ...], int]] = []
        self._in_use: dict[int, NumpyDtypeSpec] = {}

    def build(self, target: Any, state: Any) -> Any:
        if type(target) is NumpyDtypeSpec and (target.state is not None or id(target) in self._in_use):
            # NumPy changes the type in its place, and with it the arrays that are of it already.
            raise PickleStreamError("a NumPy type is described anew when it is in use")
        made = super().build(target, state)
        if type(made) is NumpyDtypeSpec:
            check_dtype(made)
        elif type(made) is NumpyArraySpec and type(made.dtype) is NumpyDtypeSpec:
            self._in_use[id(made.dtype)] = made.dtype
        return made

    def numpy_scalar(self, dtype: Any, data: Any) -> Any:
        if type(dtype) is NumpyDtypeSpec:
            self._in_use[id(dtype)] = dtype
        return super().numpy_scalar(dtype, data)

    # Reason for the parameter count: as of the method that it overrides.
    def strided(
        self, storage: Any, dtype: DType, offset: int, shape: tuple[int, ...], stride: tuple[int, ...],
        requires_grad: bool, hooks: Any = None,
    ) -> Any:  # fmt: skip
        if 0 in stride or len(stride) > 1:
            self._note_size(shape, dtype.itemsize, storage.ref.nbytes)
        return TensorSpec(storage, dtype, offset, shape, stride, requires_grad)

    def _note_size(self, shape: tuple[int, ...], itemsize: int, nbytes: int) -> None:
        count = itemsize
        for length in shape:
            count *= length
        if count > _HUGE and count > 1024 * nbytes:
            self.huge.append((count, shape, self.reader.machine.position))

    def meta(self, spec: MetaSpec) -> Any:
        # A meta tensor has no memory by design: only what no memory could ever hold is odd.
        self._note_size(spec.shape, spec.dtype.itemsize, 1 << 38)
        return spec

    def sparse(self, spec: SparseSpec) -> Any:
        if len(self.sparse_specs) < _MOST_SPARSE:
            self.sparse_specs.append(spec)
        return spec


_DATA_CLASSES: Final = JOBLIB_NAMES | frozenset(CLASSES)


class _DataRows:
    """Classes of other writers that are plain data: what joblib wraps arrays in, the index of a DCP folder."""

    def get(self, key: tuple[str, str]) -> Callable[[], Known] | None:
        return (lambda: Known(Described(*key))) if key in _DATA_CLASSES else None


def _recording_table() -> Allowlist:
    plain = _table()
    return RecordingAllowlist(*plain.tables, _DataRows(), idiom_function=plain.idiom_function)


_TABLE: Final = _recording_table()
_SCRIPT_TABLE: Final = _TABLE.extended(ScriptRows({}))


class ScanReading(Reading):
    """A reading in recording mode.

    Attributes
    ----------
    traces : dict
        Every pickle that was run, by where it is. One that was run again over more of the file counts once.
    read_whole : dict of str to (int, int)
        Length and CRC-32 of the records whose pickle was run.
    inside : str or None
        What the file that is read now lies in.
    lenient : bool
        It is a record of an archive, whose storages lie beside it: a storage is what the pickle says of it.
    scripted : bool
        It lies in a TorchScript archive, whose pickles name the classes of the program.
    beside : mapping of str to int
        The bytes of each record in the archive that it lies in.
    skipping : bool
        The arrays that joblib puts between the opcodes are passed over, as joblib does.
    """

    def __init__(self, limits: Limits) -> None:
        options = Options(limits=limits, encoding="latin1", stubs_allowed=True, verify=False)
        super().__init__(ScanLeaves(), read_any, options, _TABLE)
        self.traces: dict[tuple[str | None, int, int], Trace] = {}
        self._latest: dict[tuple[str | None, int], int] = {}
        self.read_whole: dict[str, tuple[int, int]] = {}
        self.inside: str | None = None
        self.lenient = False
        self.scripted = False
        self.skipping = True
        self.beside: Mapping[str, int] = {}

    @property
    def machine(self) -> Recorder:
        """The recorder that runs now."""
        return self._machine  # type: ignore[no-any-return]

    # Reason for the parameter count: as of the method that it overrides.
    def unpickle(
        self,
        data: bytes,
        persistent_load: Callable[[Any], Any] | None = None,
        *,
        start: int = 0,
        record: str | None = None,
        allowlist: Allowlist | None = None,
        plain: bool = False,
    ) -> tuple[Any, int]:
        """Run one pickle in recording mode; see `Reading.unpickle`."""
        member = self.member(record)
        if len(data) - start > self.limits.max_pickle_bytes:
            got = f"{len(data)} bytes"
            raise LimitError("the pickle is larger than Limits.max_pickle_bytes", got=got, record=record)
        self.leaves.allow_work(len(data) - start)
        if persistent_load is None and self.lenient and not plain:
            persistent_load = self._described
        table = allowlist or (_SCRIPT_TABLE if self.scripted else self.allowlist)
        recorder = Recorder(
            data, table, self.leaves, persistent_load, start=start, encoding=self.options.encoding, errors="replace",
            limits=self.limits, steps=self.steps,
        )  # fmt: skip
        recorder.skips = skip_array if self.skipping else None
        outer, self._machine = self._machine, recorder
        stopped, made = None, None
        if record is not None and start == 0:
            self.read_whole[member or ""] = len(data), crc32(data)
        try:
            made = recorder.load()
        except WeighlockError as error:
            stopped = error
            error.locate(record=record)
            raise
        finally:
            self._machine = outer
            self._note(recorder)
            trace = Trace(member, start, len(data), recorder, stopped, made)
            self.traces[self._key(trace)] = trace
        return made, recorder.end

    def _described(self, pid: Any) -> Any:
        """Return a storage as its persistent id describes it, and check that against its record if there is one.

        The data of ``constants.pkl`` lie in ``constants/``. PyTorch's C++ reader takes the pickle's word for their
        length, and reads on behind a record that is shorter.
        """
        kind, key, location, numel = parse_persistent_id(pid)
        ref = StorageRef(key, kind.dtype, numel, location, untyped=kind.untyped)
        stem = (self.inside or "").rpartition(" > ")[2].removesuffix(".pkl")
        for name in {f"{stem}/{key}", f"{stem.rpartition('/')[0]}/constants/{key}"}:
            size = self.beside.get(name.removeprefix("/"))
            # Inputs that were traced are written without their data.
            if size is not None and size != ref.nbytes and numel and (size or not stem.endswith("/traced_inputs")):
                what = "the data of a storage have another length than the pickle says"
                raise TensorBoundsError(what, expected=f"{ref.nbytes} bytes", got=str(size), record=name)
        return ref

    def _key(self, trace: Trace) -> tuple[str | None, int, int]:
        """Return where a trace is kept: in the place of an earlier one only if that was of the same pickle.

        An old tar archive has many pickles that each begin a stretch of their own: the last one hid the others.
        """
        place = trace.member, trace.start
        latest = self._latest.get(place, 0)
        old = self.traces.get((*place, latest))
        if old is not None and not _is_more_of(trace, old):
            latest += 1
        self._latest[place] = latest
        return (*place, latest)

    def justify(self, nbytes: int) -> None:
        """Allow the work that one file is worth: all that is examined further lies inside of it.

        Twice that of a load: what joblib would pass over is run a second time.
        """
        if self.steps is None:
            super().justify(2 * nbytes)

    def forget(self, key: tuple[str | None, int, int]) -> None:
        """Let go of one run: it was an attempt, and there is nothing to judge."""
        self.traces.pop(key).recorder.release()

    def release(self) -> None:
        """Let go of everything that was run; see `Recorder.release`."""
        for trace in self.traces.values():
            trace.recorder.release()
            # Its traceback, or that of its cause, leads to the frame that holds this trace.
            error: BaseException | None = trace.stopped
            while error is not None:
                error.__traceback__, error = None, error.__cause__ or error.__context__
        self.traces.clear()
        self.leaves.release()

    def member(self, record: str | None) -> str | None:
        """Return what a record is called in the report: what it lies inside of comes first."""
        if self.inside is None:
            return record
        return self.inside if record is None else f"{self.inside} > {record}"

    def nested(self, data: bytes) -> Any:
        """Read a checkpoint inside of the pickle."""
        outer = self.inside
        running = self._machine
        place = self.member(None) or ""
        self.inside = f"{place} > bytes at {running.position}" if place else f"bytes at {running.position}"
        try:
            return super().nested(data)
        finally:
            self.inside = outer
