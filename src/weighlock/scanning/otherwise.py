"""What an unpickler would make of a file that says it is something else: a picture, safetensors, a tar archive.

`pickle.load`, and with it `torch.load(weights_only=False)`, joblib and pandas, do not ask what a file is: they take its
bytes for opcodes, one after the other. "GIF8" is one that takes eight bytes for a number, and what follows it may be
any pickle. A pickle has no jumps: what its opcodes lead to is told by reading them in order, and large arguments are
passed over unread.
"""

from enum import Enum
from typing import Any, Final

from weighlock.errors import LimitError, WeighlockError
from weighlock.pickling.opcodes import BY_CODE, CODE
from weighlock.scanning.dangers import judge
from weighlock.scanning.tracing import ScanReading, Trace
from weighlock.storages.source import ByteSource

__all__ = ["FIRST", "Path", "follow", "run_as_pickle", "run_without_joblib"]

_WINDOW: Final = 4096
_SEARCHED: Final = 1 << 20
_LONGEST_LINE: Final = 64 << 20
_LOST: Final = -1
_MOST_STEPS: Final = 1_000_000
_LONGEST_NAME: Final = 1000
_SIZES: Final = {"-": 0, "u1": 1, "u2": 2, "i4": 4, "u4": 4, "u8": 8, "f8": 8}
_NUMBERS: Final = frozenset({"decimalnl", "longnl", "floatnl", "keynl"})
_BEGINS_A_NUMBER: Final = frozenset(b"\0 \t\v\f\r+-.0123456789nNiI")
_NAMING: Final = frozenset(CODE[name] for name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"))
# What needs nothing on the stack. Any other opcode at the very beginning stops every reader.
_STARTERS: Final = frozenset({
    "MARK", "NONE", "NEWTRUE", "NEWFALSE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE", "EMPTY_SET", "NEXT_BUFFER",
})  # fmt: skip
FIRST: Final = frozenset(
    row.code
    for row in BY_CODE.values()
    if row.name in _STARTERS or (row.argument not in ("-", "keynl") and not row.name.endswith("BINPUT"))
)
"""The opcodes that a pickle can begin with."""


class Path(Enum):
    """Where the opcodes lead."""

    NOWHERE = "every reader stops before it has named anything"
    GLOBAL = "to a global"
    UNKNOWN = "beyond what was looked at"


class _Walk:
    """A walk over opcodes; `size` is how long the whole is of which `source` may hold only the beginning."""

    def __init__(self, source: ByteSource, size: int) -> None:
        self._source = source
        self._size = size
        self._base = 0
        self._window = b""

    def _bytes(self, position: int, count: int) -> bytes:
        """Return up to `count` bytes from `position` on."""
        start = position - self._base
        if start < 0 or start + count > len(self._window):
            most = max(min(max(count, _WINDOW), self._source.size - position), 0)
            self._base, self._window, start = position, self._source.read_at(position, most) if most else b"", 0
        return self._window[start : start + count]

    def path(self) -> Path:
        position, fresh = 0, True
        for _ in range(_MOST_STEPS):
            if position >= self._source.size:
                return Path.NOWHERE if position >= self._size else Path.UNKNOWN
            code = self._bytes(position, 1)[0]
            row = BY_CODE.get(code)
            if row is None or (fresh and code not in FIRST):
                return Path.NOWHERE
            if code in _NAMING:
                return Path.GLOBAL
            if row.argument == "pair":
                return self._pair(position + 1)
            fresh = row.name == "STOP" or (fresh and row.name in ("PROTO", "FRAME"))
            following = self._behind(row.argument, position + 1)
            if following is None:
                return Path.NOWHERE
            if following == _LOST:
                return Path.UNKNOWN
            position = following
        return Path.UNKNOWN

    def _pair(self, position: int) -> Path:
        """Whether two lines can be a module and a name: what is no text, or holds a NUL, cannot be imported."""
        lines = self._bytes(position, 2 * _LONGEST_NAME).split(b"\n")
        if len(lines) < 3:
            whole = position + 2 * _LONGEST_NAME <= self._source.size or self._source.size == self._size
            return Path.NOWHERE if whole else Path.UNKNOWN
        try:
            named = all(line and b"\0" not in line and line.decode("utf-8") for line in lines[:2])
        except UnicodeDecodeError:
            return Path.NOWHERE
        return Path.GLOBAL if named else Path.NOWHERE

    def _behind(self, argument: str, position: int) -> int | None:
        """Return where the argument that begins at `position` ends; None where no reader takes it."""
        if argument in _SIZES:
            return position + _SIZES[argument]
        if argument[-1:].isdigit():  # a length, and so many bytes
            width = int(argument[-1])
            length = int.from_bytes(self._bytes(position, width), "little", signed=argument in ("string4", "long4"))
            return position + width + length if length >= 0 else None
        first = self._bytes(position, 1)
        if argument in _NUMBERS and (not first or first[0] not in _BEGINS_A_NUMBER):
            return None
        if argument == "stringnl" and first not in (b"'", b'"'):
            return None
        return self._line_end(position)

    def _line_end(self, position: int) -> int | None:
        begin = position
        while position < self._source.size and position - begin < _LONGEST_LINE:
            data = self._bytes(position, min(_WINDOW if position == begin else _SEARCHED, self._source.size - position))
            at = data.find(b"\n")
            if at >= 0:
                return position + at + 1
            position += len(data)
        return None if position >= self._size else _LOST


def follow(source: ByteSource, size: int | None = None) -> Path:
    r"""Tell where the opcodes from the first byte on lead.

    Parameters
    ----------
    source : ByteSource
    size : int
        The length of the whole in bytes, where `source` holds only its beginning.

    Examples
    --------
    >>> from weighlock.storages.source import BytesSource
    >>> follow(BytesSource(b"GIF89a\x01\x02\x03cposix\nsystem\n", "picture"))
    <Path.GLOBAL: 'to a global'>
    >>> follow(BytesSource(b"Some text\n", "text"))
    <Path.NOWHERE: 'every reader stops before it has named anything'>
    """
    return _Walk(source, source.size if size is None else size).path()


def run_as_pickle(source: ByteSource, reading: ScanReading) -> bool:
    """Run what the opcodes of a file do, if they do anything; whether they do. Its trace is kept only then.

    Raises
    ------
    LimitError
        If the file is larger than any pickle may be, and its opcodes lead to a global.
    """
    if follow(source) is Path.NOWHERE:
        return False
    if source.size > reading.limits.max_pickle_bytes:
        got = f"{source.size} bytes"
        raise LimitError("it can be read as a pickle, which is larger than Limits.max_pickle_bytes", got=got)
    data, end, does = source.read_at(0, source.size), 0, False
    while end < len(data):
        before = set(reading.traces)
        stopped: WeighlockError | None = None
        start = end
        try:
            end = reading.unpickle(data, start=start)[1]
        except WeighlockError as error:
            stopped = error
        new = [key for key in reading.traces if key not in before]
        acts = any(_acts(reading.traces[key], stopped) for key in new)
        if not acts:
            for key in new:
                reading.forget(key)
        does = does or acts
        if stopped is not None or end <= start:
            break
    return does


_DOING: Final = frozenset({"called", "computed", "extension", "built", "patched", "refused", "discarded"})


def _acts(trace: Trace, stopped: WeighlockError | None) -> bool:
    """Whether a run has named anything, or ended for a reason that holds for our machine alone."""
    recorder: Any = trace.recorder
    kinds = {event.kind for event in recorder.events}
    if recorder.globals_seen and (stopped is None or kinds & _DOING):
        return True
    # A list of words may begin with "car", "bus": a name that nothing is made of, and then the end.
    if any((danger := judge(".".join(key))) is not None and danger.rule == "WL102" for key in recorder.globals_seen):
        return True
    return isinstance(stopped, LimitError) and "text argument" not in stopped.what


def run_without_joblib(reading: ScanReading) -> bool:
    """Run the pickles in which bytes were passed over once more, as whoever has no joblib does; whether they act then.

    What joblib takes for an array is opcodes to everybody else. Those of an array are nonsense, and end the run.
    """
    does = False
    for trace in [trace for trace in reading.traces.values() if trace.recorder.skipped]:
        behind = trace.recorder.skipped[0][1]
        outer, reading.inside = reading.inside, f"{trace.member} > without joblib" if trace.member else "without joblib"
        reading.skipping = False
        before = set(reading.traces)
        try:
            reading.unpickle(trace.recorder.data, start=trace.start)
        except WeighlockError:
            pass
        finally:
            reading.skipping, reading.inside = True, outer
        for key in [key for key in reading.traces if key not in before]:
            events = reading.traces[key].recorder.events
            if any(event.offset >= behind and event.kind not in _NOTHING for event in events):
                does = True
            else:
                reading.forget(key)
    return does


# What bytes that are no pickle may come to by chance.
_NOTHING: Final = frozenset({"leftover", "frame", "protocol", "memo", "items", "limit", "buffer", "refused", "number"})
