"""One reading of one file: what every format needs to run its pickles and to hand its leaves on.

A format's module has one function ``read(source, reading) -> Contents``. It runs its pickles through
`Reading.unpickle`, describes each storage once to `reading.leaves`, and says how bytes are reached (`RecordReader`).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import repeat
from operator import length_hint
from typing import Any, Final, NamedTuple

from weighlock.errors import LimitError, PickleStreamError, UnsafeGlobalError, WeighlockError
from weighlock.formats.layout import LayoutRow
from weighlock.limits import DEFAULT_LIMITS, Limits
from weighlock.pickling.allowlist import Allowlist, Known
from weighlock.pickling.python_rows import DESCRIBED_ROWS, PYTHON_ROWS
from weighlock.pickling.unpickler import Unpickler
from weighlock.pickling.user_globals import NO_USER_GLOBALS, UserGlobals
from weighlock.storages.refs import StorageRef
from weighlock.storages.source import ByteSource
from weighlock.tensors.leaves import Leaves
from weighlock.tensors.numpy_rows import NUMPY_ROWS
from weighlock.tensors.rebuild import REBUILD_TENSOR_V2, TORCH_ROWS, StorageClass
from weighlock.text import brief

__all__ = ["Contents", "Options", "Reading", "allowlist_with", "parse_persistent_id", "text_of_key"]


class Contents:
    """What a format found: the object, and what is known of the file around it.

    Attributes
    ----------
    object : object
    format : str
        One of ``detect.FORMATS``.
    end : int
        Where the checkpoint ends, in bytes from its start.
    notes : callable
        Returns what the container says of how it was written: read when it is asked for, which a load never does.
    storages : dict of str to StorageRef
    views : list of StorageRef
        Storages that are parts of others (files of before 0.4).
    layout : callable or None
        Returns what the bytes of the file are there for, as far as the format tells; see `formats.layout`.
    held : list of object
        What must live until the data are read: the contents of the files that this is made of, a reader.
    """

    __slots__ = ("end", "format", "held", "layout", "notes", "object", "storages", "views")

    def __init__(
        self,
        object: Any,
        format: str,
        end: int,
        notes: Callable[[], dict[str, Any]],
        storages: dict[str, StorageRef] | None = None,
        views: list[StorageRef] | None = None,
        layout: "Callable[[], Iterable[LayoutRow]] | None" = None,
    ) -> None:
        self.object = object
        self.format = format
        self.end = end
        self.notes = notes
        self.storages = storages or {}
        self.views = views or []
        self.layout = layout
        self.held: list[Any] = []

    def release(self) -> None:
        """Let go of the file: nothing of this reading can read from it any more.

        Also breaks the circle of storages and their reader, so that the reading is freed without Python's collector.
        """
        for ref in (*self.storages.values(), *self.views):
            ref.reader = None
        held, self.held = self.held, []
        for part in held:
            if type(part) is Contents:
                part.release()


def _known(row: Callable[[], tuple[Any, ...]]) -> Callable[[], Known]:
    return lambda: Known(*row())


_TENSOR_ROWS = {key: _known(row) for table in (TORCH_ROWS, NUMPY_ROWS) for key, row in table.items()}


def allowlist_with(*overlays: Any, described: bool = True) -> Allowlist:
    """Return the closed table, with tables of a framework or a format searched before it.

    Without `described`, classes that only their own package could build count as unknown.
    """
    last = (DESCRIBED_ROWS,) if described else ()
    return Allowlist(*overlays, _TENSOR_ROWS, PYTHON_ROWS, *last, idiom_function=REBUILD_TENSOR_V2)


_ALLOWLIST = allowlist_with()


class Options(NamedTuple):
    """What a caller may say of a reading.

    `encoding` and `errors` are how strings written by Python 2 are decoded. With `stubs_allowed`, unknown globals do
    not end the reading. `trusted` runs the pickles instead of our machine (``weights_only=False``). Without
    `scripts`, TorchScript archives are refused; without `map_streams`, the maps of legacy streams.
    """

    limits: Limits = DEFAULT_LIMITS
    encoding: str = "utf-8"
    errors: str = "strict"
    verify: bool = True
    stubs_allowed: bool = False
    user_globals: UserGlobals = NO_USER_GLOBALS
    trusted: Any = None
    scripts: bool = True
    map_streams: bool = True


_DEFAULT_OPTIONS = Options()


# An opcode takes a byte at least, and is looked at twice where it lies in a frame: only compressed files can have
# more of them. Some four million are run in a second, and each can make an object of 64 bytes.
_FREE_STEPS: Final = 1 << 20
_STEPS_PER_BYTE: Final = 2


class Reading:
    """One reading: its options, its leaves, and what it has seen.

    Parameters
    ----------
    leaves : Leaves
        What is made of tensors.
    read_any : callable
        Called with a source and this reading; returns the `Contents` of a checkpoint inside the checkpoint.
    options : Options
    allowlist : Allowlist
        The closed table, with the rows of a framework before it.
    """

    def __init__(
        self,
        leaves: Leaves,
        read_any: Callable[[ByteSource, "Reading"], Contents],
        options: Options = _DEFAULT_OPTIONS,
        allowlist: Allowlist = _ALLOWLIST,
    ) -> None:
        self.leaves = leaves
        self.read_any = read_any
        self.options = options
        self.limits = options.limits
        self.verify = options.verify
        self.allowlist = allowlist
        self.globals_seen: dict[str, int] = {}
        self.unknown: dict[str, Any] = {}
        self.steps: Iterator[None] | None = None
        """One item for each opcode that the pickles of this file may still have: what is unpacked can be a thousand
        times the file."""
        self._depth = 0
        self._machine: Any = None
        leaves.reader = self

    def justify(self, nbytes: int) -> None:
        """Allow the work that a file of so many bytes is worth. What is read inside of it has its share of that."""
        if self._depth == 0:
            left = _FREE_STEPS if self.steps is None else length_hint(self.steps)
            self.steps = repeat(None, left + _STEPS_PER_BYTE * nbytes)

    # Reason for the parameter count: those of the machine that differ from pickle to pickle.
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
        """Run one pickle; return its object and the position behind its STOP.

        Parameters
        ----------
        plain : bool
            It is one of the small pickles around the object (a magic number, a list of keys): always run by our own
            machine, also for ``weights_only=False``.
        """
        if len(data) - start > self.limits.max_pickle_bytes:
            raise LimitError(
                "the pickle is larger than Limits.max_pickle_bytes", got=f"{len(data)} bytes", record=record
            )
        self.leaves.allow_work(len(data) - start)
        table = allowlist or self.allowlist
        if self.options.trusted is not None and not plain:
            return self.options.trusted(data, start, persistent_load, self, table)  # type: ignore[no-any-return]
        machine = Unpickler(
            data, table, self.leaves, persistent_load, start=start, encoding=self.options.encoding,
            errors=self.options.errors, limits=self.limits, user_globals=self.options.user_globals, steps=self.steps,
        )  # fmt: skip
        outer, self._machine = self._machine, machine
        try:
            with self.leaves.describing():
                made = machine.load()
        except WeighlockError as error:
            error.locate(record=record)
            if machine.unknown and isinstance(error, PickleStreamError) and not self.options.stubs_allowed:
                raise self.unsafe(machine) from error
            raise
        finally:
            self._machine = outer
            self._note(machine)
        return made, machine.end

    def _note(self, machine: Unpickler) -> None:
        for key, position in machine.globals_seen.items():
            self.globals_seen.setdefault(".".join(key), position)
        for key, ref in machine.unknown.items():
            self.unknown.setdefault(".".join(key), ref)

    def unsafe(self, machine: Unpickler) -> UnsafeGlobalError:
        """Return the error for a pickle that failed after it had named unknown globals."""
        names: dict[str, tuple[str, ...]] = {
            ".".join(key): (f"byte {machine.globals_seen[key]}",) for key in machine.unknown
        }
        return unsafe_global_error(names)

    # What rows of the allowlist ask of the machine that runs them (`context.reader`).

    def call(self, function: Any, args: Any) -> Any:
        """Carry out a call named inside another call's arguments."""
        if not isinstance(args, tuple):
            raise PickleStreamError("the arguments of a call are not a tuple", got=type(args).__name__)
        return self._machine.called(function, args)

    def new(self, cls: Any, args: Any, kwargs: Any = None) -> Any:
        """Make an instance without its `__init__`."""
        return self._machine.new(cls, args, kwargs)

    def check_keys(self, keys: list[Any]) -> None:
        """Refuse keys that would take unbounded time to hash."""
        self._machine.check_keys(keys)

    def nested(self, data: bytes) -> Any:
        """Read a checkpoint that lies inside the pickle as bytes."""
        from weighlock.storages.source import BytesSource

        with self.enclosed():
            return self.read_any(BytesSource(data, "<bytes inside the pickle>"), self).object

    @contextmanager
    def enclosed(self) -> Iterator[None]:
        """Read what lies inside of the file that is being read."""
        if self._depth >= self.limits.max_nesting:
            raise LimitError("checkpoints inside checkpoints inside checkpoints ...", expected="Limits.max_nesting")
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1


# What FSDP saves as a sharded state_dict, one file per process.
_SHARDED: Final = "torch.distributed._shard.sharded_tensor."
_ONE_PROCESS: Final = (
    "The file holds the parts that one process had of sharded tensors: save with torch.distributed.checkpoint, or "
    "gather a full state_dict first. "
)


def unsafe_global_error(names: dict[str, tuple[str, ...]]) -> UnsafeGlobalError:
    """Return the one error that names every unknown global and where it stands."""
    listed = "; ".join(f"{name} at {', '.join(paths[:3])}" if paths else name for name, paths in names.items())
    count = "1 global that is" if len(names) == 1 else f"{len(names)} globals that are"
    part = _ONE_PROCESS if any(name.startswith(_SHARDED) for name in names) else ""
    return UnsafeGlobalError(
        f"the file names {count} neither known data nor allowed: {listed}",
        globals=names,
        hint=part
        + "To look at them as inert data, pass on_unknown='stub'. To build the classes for real, if you trust them "
        "with any arguments, name them with weighlock.add_safe_globals([...]).",
    )


_MAX_NUMEL = 1 << 60


def parse_persistent_id(pid: Any) -> tuple[StorageClass, str, str, int]:
    """Check a storage's persistent id; return its class, key, location and length.

    ``('storage', class, key, location, numel[, view metadata])``; Python 2 and `encoding='bytes'` leave text as bytes.
    """
    if type(pid) is tuple and (len(pid) == 5 or (len(pid) == 6 and pid[5] is None)):
        mark, kind, key, location, numel = pid if len(pid) == 5 else pid[:5]
        # The common form first, without a call: this runs once per tensor.
        if (
            type(kind) is StorageClass and mark == "storage" and type(key) is str and type(location) is str
            and type(numel) is int and 0 <= numel < _MAX_NUMEL
        ):  # fmt: skip
            return kind, key, location, numel
    if type(pid) is not tuple or len(pid) < 5 or _text(pid[0]) != "storage":
        raise PickleStreamError("a persistent id that is no storage", got=brief(pid))
    kind, key, location, numel = pid[1], _text(pid[2]), _text(pid[3]), pid[4]
    if type(kind) is not StorageClass:
        raise PickleStreamError("a storage of an unknown class", got=brief(kind))
    if type(key) is not str or type(location) is not str or type(numel) is not int or not 0 <= numel < _MAX_NUMEL:
        raise PickleStreamError("a storage with a malformed description", got=brief(pid[2:5], 80))
    return kind, key, location, numel


def text_of_key(value: Any) -> str:
    """Return a storage's key or location as text. What is neither text nor number might take for ever to write out.

    Raises
    ------
    PickleStreamError
    """
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if not isinstance(value, str) and not (type(value) is int and abs(value) < 1 << 64):
        raise PickleStreamError("a key or location that is neither text nor number", got=brief(value))
    return str(value)


def _text(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value) if type(value) is int else value
