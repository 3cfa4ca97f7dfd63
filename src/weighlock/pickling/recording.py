"""The machine in recording mode: the same loop, the same tables; it notes what it meets, and goes on where it can.

What a load refuses is an `Event` here, and `Broken` takes the place of what could not be made. It stops only where
every reader of pickles has to stop: at a byte that is no opcode, on an empty stack, at the end of the bytes.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, ClassVar, Final, NamedTuple, cast

from weighlock.errors import LimitError, PickleStreamError
from weighlock.pickling.allowlist import Allowlist, Known
from weighlock.pickling.inert import Described, GlobalRef, Stub, repr_shallow
from weighlock.pickling.opcodes import CODE
from weighlock.pickling.rare_opcodes import RARE, Handlers, Rare
from weighlock.pickling.symbols import Computed, Name, Resolver
from weighlock.pickling.unpickler import Unpickler

__all__ = ["Broken", "Event", "Recorder", "RecordingAllowlist"]

_MOST_EVENTS: Final = 100_000
_MOST_PATHS: Final = 1000
_LONGEST_TEXT: Final = 1 << 20
_FAR_MEMO: Final = 1 << 20


# Their `__init__` reads addresses out of the environment, and connects to them.
_CONNECTING: Final = frozenset({"DeviceMesh", "ShardedTensor"})


class Broken:
    """Stands for an object that could not be made; what is made with it is broken, too."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<not made>"


_BROKEN: Final = Broken()


def _nothing(_: Any) -> Any:
    return _BROKEN


class Event(NamedTuple):
    """One thing that a pickle does.

    Attributes
    ----------
    kind : str
        ``called`` (an unknown or computed function), ``built`` (state for an object of an unknown class), ``patched``
        (state for a class, function or module), ``refused`` (a known function or storage that a load refuses),
        ``computed`` (a global whose name is worked out by the pickle), ``discarded``, ``extension``, ``buffer``,
        ``protocol``, ``number``, ``memo``, ``frame``, ``items``, ``leftover``, ``limit``.
    offset : int
        Where the opcode stands, in bytes from the start of the data.
    ref : GlobalRef or None
        What it is about.
    value : object
        Arguments of a call, state, an error: what there is to say.
    path : str or None
        About where in the object.
    stub : Stub or None
    """

    kind: str
    offset: int
    ref: GlobalRef | None
    value: Any
    path: str | None
    stub: Stub | None = None


class RecordingAllowlist(Allowlist):
    """The closed table, with calls that report to the recorder that runs them (`context.reader.machine`)."""

    def _admit(self, key: tuple[str, str], known: Known) -> Any:
        if known.call is not None:
            known = known._replace(call=_recorded(key, known.call))
        if known.build is not None:
            known = known._replace(build=_recorded_build(key, known.build))
        return super()._admit(key, known)


def _recorded(key: tuple[str, str], call: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def recorded(context: Any, args: Any) -> Any:
        try:
            made = call(context, args)
        except Exception as error:  # noqa: BLE001 - what it may raise on hostile arguments is anything
            return context.reader.machine.refuse(key, args, error)
        context.first_calls.setdefault(key, args)
        return made

    return recorded


def _recorded_build(key: tuple[str, str], build: Callable[[Any, Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
    def recorded(context: Any, target: Any, state: Any) -> Any:
        try:
            return build(context, target, state)
        except Exception as error:  # noqa: BLE001 - as above
            context.reader.machine.refuse(key, state, error)
            return target

    return recorded


def _holds_broken(args: Any) -> bool:
    return isinstance(args, tuple) and any(
        type(arg) is Broken or (type(arg) is tuple and _BROKEN in arg) for arg in args
    )


class Recorder(Unpickler):
    """One run in recording mode. Parameters as of `Unpickler`.

    Attributes
    ----------
    events : list of Event
    dropped : int
        Events that were too many to keep.
    resolver : Resolver
        What the calls that were not made would return.
    skips : callable or None
        Asked after each BUILD of an unknown class where the bytes behind it end that are no opcodes.
    skipped : list of (Stub, int)
        The objects behind whose BUILD bytes were passed over, and where.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.events: list[Event] = []
        self.dropped = 0
        self.resolver = Resolver()
        self._names: dict[int, tuple[str, str]] = {}
        self.skips: Callable[[Recorder, Stub, int], int | None] | None = None
        self.skipped: list[tuple[Stub, int]] = []
        self.first = self.position
        self.stored = self.memo  # the run itself lets go of it at its end
        self._storage_of = self.persistent_load
        self.persistent_load = self._persistent
        self.runs = None  # every tensor goes the ordinary way, where what is wrong with it is noted

    def release(self) -> None:
        """Let go of what refers back to this run, so that it is freed without Python's collector."""
        self.persistent_load = self._storage_of = _nothing
        self.context = self.skips = None
        self.skipped = []
        self.stored = {}

    def note(self, kind: str, ref: GlobalRef | None = None, value: Any = None, stub: Stub | None = None) -> None:
        """Keep an event that happens at the current opcode."""
        if len(self.events) >= _MOST_EVENTS:
            self.dropped += 1
            return
        path = self.place() if len(self.events) < _MOST_PATHS else None
        self.events.append(Event(kind, self.position, ref, value, path, stub))

    def place(self) -> str | None:
        """Return about where in the object the machine is; looks at the top of each level only."""
        if len(self.marks) > 64:
            return None
        levels = [*self.marks, self.stack]
        parts: list[str] = []
        for index, level in enumerate(levels):
            owner = levels[index - 1][-1] if index and levels[index - 1] else None
            if isinstance(owner, dict) and level:
                key = level[(len(level) - 1) // 2 * 2]
                parts.append(key[:80] if isinstance(key, str) else repr_shallow(key))
            elif isinstance(owner, list):
                parts.append(str(len(owner) + max(len(level) - 1, 0)))
            top = level[-4:]
            parts += [key[:80] for before, key in pairwise(top)
                      if isinstance(before, dict) and isinstance(key, str)]  # fmt: skip
        return ".".join(parts) or None

    def refuse(self, key: tuple[str, str], args: Any, error: Exception) -> Any:
        """Note that a known function cannot be called so; what it would make is `Broken`."""
        if not _holds_broken(args):
            self.note("refused", GlobalRef(*key), (args, error))
        return _BROKEN

    def _persistent(self, pid: Any) -> Any:
        try:
            return self._storage_of(pid)
        except Exception as error:  # noqa: BLE001 - what a malformed id provokes is anything
            self.note("refused", None, (pid, error))
            return _BROKEN

    def _reduce(self, function: Any, args: Any) -> Any:
        if type(args) is not tuple and type(args) in (Stub, Broken):
            args = (args,)
        return super()._reduce(function, args)

    def new(self, cls: Any, args: Any, kwargs: dict[str, Any] | None = None) -> Any:
        """Make an instance without `__init__`; arguments that are computed are taken as they are."""
        if type(args) in (Stub, Broken):
            args = (args,)
        if type(kwargs) is not dict:
            kwargs = None if kwargs is None else {}
        return super().new(cls, args, kwargs)

    def _instance(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None, call: Callable[..., Any]
    ) -> Any:
        if type(function) is Broken:
            return _BROKEN
        ref = function if isinstance(function, GlobalRef) else self._name_of(function)
        stub = Stub(ref, args, kwargs, how="reduce" if call == self.user_globals.call else "newobj")
        if isinstance(ref, Described):
            if stub.how == "reduce" and ref.name in _CONNECTING:
                what = "an object that joins other processes when it is made by a call; writers make it without one"
                self.note("refused", ref, (args, PickleStreamError(what)))
        else:
            self.resolver.note(stub)
            self.note("called", ref, args, stub)
        return stub

    def _find(self, key: tuple[str, str]) -> Any:
        found = super()._find(key)
        self._names.setdefault(id(found), key)
        return found

    def _name_of(self, value: Any) -> GlobalRef:
        key = self._names.get(id(value))
        return Computed(value) if key is None else GlobalRef(*key)

    def _finish(self, result: Any) -> Any:
        if self.stack or self.marks:
            self.note("leftover", value=len(self.stack) + sum(map(len, self.marks)))
        return result

    def check_keys(self, keys: list[Any]) -> None:
        try:
            super().check_keys(keys)
        except LimitError as error:
            self.note("limit", value=error)
            keys.clear()
            raise

    # --------------------------------------------------------------------------------------- opcodes, one method each

    def rare_build(self, _: None) -> int | None:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is Stub:
            if not isinstance(target.global_ref, Described):
                self.note("built", target.global_ref, state, target)
            target.state = state
            if self.skips is not None:
                return self.skips(self, target, self.position + 1)
            return None
        if type(target) is Broken:
            return None
        if isinstance(target, GlobalRef | type) or callable(target):
            ref = target if isinstance(target, GlobalRef) else self._name_of(target)
            self.note("patched", ref, state)
            return None
        self.stack.append(state)
        try:
            self.op_build(None)
        except Exception as error:  # noqa: BLE001 - a state may be anything
            self.note("items", None, error)
        return None

    def rare_stack_global(self, _: None) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is str and type(module) is str:
            self.op_global((module, name))
            return
        found = self.resolver.of(module), self.resolver.of(name)
        if not isinstance(module, str | Stub | GlobalRef) or not isinstance(name, str | Stub | GlobalRef):
            raise PickleStreamError("a global's module and name are not text", got=type(name).__name__)
        known = [part if isinstance(part, str) and not isinstance(part, Name) else "<computed>" for part in found]
        ref = GlobalRef(known[0], known[1])
        self.note("computed", ref, (module, name))
        self.stack.append(ref)

    def rare_pop(self, _: None) -> None:
        if self.stack and type(self.stack[-1]) is Stub:
            self.note("discarded", self.stack[-1].global_ref, self.stack[-1].args, self.stack[-1])
        self.op_pop(None)

    def rare_pop_mark(self, _: None) -> None:
        for value in self.stack:
            if type(value) is Stub:
                self.note("discarded", value.global_ref, value.args, value)
        self.op_pop_mark(None)

    def rare_proto(self, version: int) -> None:
        if self.position != self.first:
            self.note("protocol", value=f"protocol {version} is declared in the middle of the pickle")
        self.op_proto(version)

    def rare_frame(self, length: int) -> None:
        if length > len(self.data) - self.position - 9:
            self.note("frame", value=length)
        self.op_frame(length)

    def rare_put(self, index: int) -> None:
        if index > _FAR_MEMO and index > len(self.data):
            self.note("memo", value=index)
            self.memo[index] = self.stack[-1]
            return
        self.op_put(index)

    def rare_integer(self, value: int) -> None:
        """INT or LONG: the text as no pickler writes it is one number to C, another one or none to others."""
        line = self.data[self.position + 1 : self.data.find(b"\n", self.position)]
        if line not in (b"00", b"01") and line.removesuffix(b"L") != b"%d" % value:
            self.note("number", value=f"an integer is written as no pickler does, and read as {value}")
        self.stack.append(value)

    def rare_extension(self, code: int) -> None:
        ref = GlobalRef("copyreg", f"<extension {code}>")
        self.note("extension", ref, code)
        self.stack.append(ref)

    def rare_buffer(self, _: None) -> None:
        self.note("buffer")
        self.stack.append(_BROKEN)

    def rare_readonly(self, _: None) -> None:
        self.note("buffer")

    def filled(self, method: Callable[[Handlers, Any], object]) -> None:
        """Carry out an opcode that fills a container; note where what it fills is none."""
        try:
            method(self, None)
        except PickleStreamError as error:
            if type(self.stack[-1]) is not Broken:
                self.note("items", None, error)
        except LimitError:
            pass  # noted by `check_keys`

    rare: ClassVar[Mapping[int, Rare]] = RARE


def _filling(method: Callable[[Handlers, Any], object]) -> Rare:
    return lambda machine, _: machine.filled(method)


Recorder.rare = {
    **RARE,
    **{CODE[name]: cast("Rare", method) for name, method in {
        "BUILD": Recorder.rare_build, "STACK_GLOBAL": Recorder.rare_stack_global, "POP": Recorder.rare_pop,
        "POP_MARK": Recorder.rare_pop_mark, "PROTO": Recorder.rare_proto, "FRAME": Recorder.rare_frame,
        "PUT": Recorder.rare_put, "INT": Recorder.rare_integer, "LONG": Recorder.rare_integer,
        "EXT1": Recorder.rare_extension, "EXT2": Recorder.rare_extension,
        "EXT4": Recorder.rare_extension, "NEXT_BUFFER": Recorder.rare_buffer,
        "READONLY_BUFFER": Recorder.rare_readonly,
        **{name: _filling(getattr(Handlers, f"op_{name.lower()}"))
           for name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS")},
    }.items()},
}  # fmt: skip
