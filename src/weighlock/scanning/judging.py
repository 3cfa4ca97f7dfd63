"""From what a pickle does to what is wrong with it: events of the recorder become findings."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from weighlock.errors import (
    DirectoryError,
    LimitError,
    TensorBoundsError,
    TruncatedError,
    TruncatedPickleError,
    UnsupportedError,
    WeighlockError,
)
from weighlock.objects import children
from weighlock.pickling.decoder import decode
from weighlock.pickling.inert import GlobalRef, Stub
from weighlock.pickling.opcodes import BY_CODE
from weighlock.pickling.recording import Event
from weighlock.pickling.symbols import Bound, Computed, Name, Resolver
from weighlock.scanning.dangers import judge
from weighlock.scanning.notes import Notes, preview
from weighlock.scanning.report import GlobalUse
from weighlock.scanning.sweeping import names_in
from weighlock.scanning.tracing import Trace

__all__ = ["Judge"]

_DEEP: Final = 1000
_FAR_MEMO: Final = 1 << 20
_MOST_ARGUMENTS: Final = 2000
_DECLARED_FAR: Final = 16 << 20
_NO_ROW: Final = "neither one of PyTorch's rebuild functions nor known to be plain data"


class Judge:
    """Judges the pickles of one file.

    Parameters
    ----------
    notes : Notes
    inside : callable
        Called with bytes that something would unpickle, and what they are called.
    """

    def __init__(self, notes: Notes, inside: Callable[[bytes, str], None]) -> None:
        self._notes = notes
        self._inside = inside
        self._resolver = Resolver()
        self._looked_at: set[int] = set()

    def judge(self, trace: Trace, first_calls: dict[tuple[str, str], Any]) -> None:
        """Judge one pickle."""
        notes, recorder, member = self._notes, trace.recorder, trace.member
        notes.pickles += 1
        used: dict[str, set[str]] = {}
        self._resolver = recorder.resolver
        self._looked_at = set()
        for event in recorder.events:
            self._event(event, member, used)
        self._globals(trace, used, first_calls)
        if recorder.resolver.exhausted:
            notes.gap("WL904", "the pickle puts more names and text together than can be worked out", member)
        if recorder.dropped:
            notes.gap("WL904", f"{recorder.dropped:,} further uses of unknown globals were not looked at", member)
        self._memo(trace)
        if trace.stopped is not None:
            self._stopped(trace, trace.stopped)
        elif _depth(trace.result) > _DEEP:
            notes.add("WL307", f"objects lie in each other more than {_DEEP:,} levels deep", member=member)

    # --------------------------------------------------------------------------------------------------- globals

    def _globals(self, trace: Trace, used: dict[str, set[str]], first_calls: dict[tuple[str, str], Any]) -> None:
        recorder, notes = trace.recorder, self._notes
        calls: dict[str, Event] = {}
        for event in recorder.events:
            if event.kind == "called" and event.ref is not None:
                calls.setdefault(event.ref.full_name, event)
        for key, offset in recorder.globals_seen.items():
            name = ".".join(key)
            ref = recorder.unknown.get(key)
            uses = used.get(name, set())
            arguments = None
            if ref is None and key in first_calls:
                uses = uses | {"called"}
                arguments = preview(first_calls[key], (), self._resolver)
            first = calls.get(name) if ref is not None else None
            if first is not None:
                arguments = preview(first.value, (), self._resolver)
            shown = tuple(use for use in ("called", "built") if use in uses) or ("named",)
            path = None if first is None else first.path
            notes.use(GlobalUse(name, ref is None, shown, arguments, trace.member, offset, path))
            if ref is not None and not uses:
                self._unknown(name, "is named", trace.member, offset)

    def _unknown(
        self, name: str, does: str, member: str | None, offset: int, arguments: str | None = None,
        path: str | None = None,
    ) -> None:  # fmt: skip
        """Add the finding for a global that is not known, graded by the table of dangers."""
        if self._notes.allowed(name):
            return
        danger = judge(name)
        call = name if arguments is None else f"{name}({arguments})"
        if danger is None:
            self._notes.add(
                "WL110", f"{call} {does}: {_NO_ROW}", member=member, offset=offset, name=name, arguments=arguments,
                path=path,
            )  # fmt: skip
            return
        self._notes.add(
            danger.rule, f"{call} {does}: it {danger.reason}" if not danger.reason.startswith("a ") else
            f"{call} {does}: {danger.reason}", member=member, offset=offset, severity=danger.severity, name=name,
            arguments=arguments, path=path,
        )  # fmt: skip

    # ---------------------------------------------------------------------------------------------------- events

    def _event(self, event: Event, member: str | None, used: dict[str, set[str]]) -> None:
        if event.ref is not None and not isinstance(event.ref, Computed):
            use = {"called": "called", "built": "built"}.get(event.kind)
            if use:
                used.setdefault(event.ref.full_name, set()).add(use)
        _EVENTS[event.kind](self, event, member)

    def on_called(self, event: Event, member: str | None) -> None:
        """Something unknown is called, or something that the pickle has worked out."""
        stub, ref = event.stub, event.ref
        if stub is None or ref is None:
            return
        arguments = preview(event.value, stub.kwargs, self._resolver)
        name = self._name(ref)
        does = "is called" if stub.how == "reduce" else "is made"
        if name is None:
            what = "a function that other calls in the pickle have made is called"
            self._notes.add("WL111", f"{what} with ({arguments})", member=member, offset=event.offset, path=event.path,
                            name="<computed>", arguments=arguments)  # fmt: skip
        else:
            self._unknown(name, does, member, event.offset, arguments, event.path)
        self._result(event, stub, member)
        for index, data in enumerate(self._bytes_in((*event.value, *stub.kwargs.values()))):
            self._inside(data, _inner(member, event.offset, index))

    def _result(self, event: Event, stub: Stub, member: str | None) -> None:
        """Look at what a call would return, where that can be worked out."""
        found = self._resolver.of(stub)
        if isinstance(found, bytes):
            self._inside(found, _inner(member, event.offset, 0))
        named = _named(found)
        if named is not None and named != stub.global_ref.full_name and judge(named) is not None:
            self._unknown(named, "is what the calls in the pickle come to", member, event.offset, path=event.path)

    def on_built(self, event: Event, member: str | None) -> None:
        """An object of an unknown class is given its state: noted with the class itself."""
        stub = event.stub
        if stub is None or event.ref is None:
            return
        name = self._name(event.ref)
        if name is not None:
            arguments = preview(stub.args, stub.kwargs, self._resolver)
            self._unknown(name, "is given a state", member, event.offset, arguments, event.path)
        for index, data in enumerate(self._bytes_in((event.value,))):
            self._inside(data, _inner(member, event.offset, index))

    def on_patched(self, event: Event, member: str | None) -> None:
        """BUILD on a class, function or module."""
        name = event.ref.full_name if event.ref is not None else "<computed>"
        if not self._notes.allowed(name):
            self._notes.add(
                "WL112", f"attributes of {name} itself are set: {_keys(event.value)}", member=member,
                offset=event.offset, name=name, arguments=_keys(event.value), path=event.path,
            )  # fmt: skip

    def on_computed(self, event: Event, member: str | None) -> None:
        """STACK_GLOBAL of something that is no text as it stands."""
        ref = event.ref
        if ref is None:
            return
        self._notes.add(
            "WL111", f"the name of a global is worked out by other calls: {ref.full_name}", member=member,
            offset=event.offset, name=ref.full_name, path=event.path,
        )  # fmt: skip
        if judge(ref.full_name) is not None:
            self._unknown(ref.full_name, "is named by a text that other calls have made", member, event.offset)

    def on_discarded(self, event: Event, member: str | None) -> None:
        """A call whose result nobody keeps."""
        name = self._name(event.ref) or "<computed>"
        if not self._notes.allowed(name):
            self._notes.add("WL303", f"what {name} returns is thrown away", member=member, offset=event.offset,
                            name=name, path=event.path)  # fmt: skip

    def on_extension(self, event: Event, member: str | None) -> None:
        """EXT1, EXT2 or EXT4."""
        what = f"extension code {event.value} stands for a global that only the loading program knows"
        self._notes.add("WL113", what, member=member, offset=event.offset, path=event.path)

    def on_odd(self, event: Event, member: str | None) -> None:
        """What no pickler writes, and what harms nobody by itself."""
        what = {
            "buffer": "a buffer outside of the pickle is asked for",
            "frame": f"a frame of {event.value} bytes is longer than the pickle",
            "leftover": f"{event.value} objects are left over at the end of the pickle",
        }.get(event.kind, str(event.value))
        self._notes.add("WL304", what, member=member, offset=event.offset)

    def on_memo(self, event: Event, member: str | None) -> None:
        """PUT with a giant index."""
        self._notes.add("WL305", f"memo index {event.value:,}", member=member, offset=event.offset)

    def on_items(self, event: Event, member: str | None) -> None:
        """Items or a state for what takes none."""
        error = event.value
        rule = "WL114" if "hide a method" in str(error) else "WL308"
        if "a NumPy type" in str(error):
            rule = "WL405" if isinstance(error, TensorBoundsError) else "WL309"
        got = f": {error.got}" if isinstance(error, WeighlockError) and error.got else ""
        what = error.what if isinstance(error, WeighlockError) else f"{type(error).__name__}: {error}"
        self._notes.add(rule, f"{what}{got}", member=member, offset=event.offset, path=event.path)

    def on_limit(self, event: Event, member: str | None) -> None:
        """Keys that would take unbounded time."""
        self._notes.add("WL310", event.value.what, member=member, offset=event.offset, path=event.path)

    def on_array(self, event: Event, member: str | None) -> None:
        """Nothing to say: the array's pickle was run, and is judged by itself."""

    def on_refused(self, event: Event, member: str | None) -> None:
        """A known function, or a storage, that a load refuses."""
        args, error = event.value
        name = None if event.ref is None else event.ref.full_name
        rule = _refusal(error, name)
        if name in _HIDING and "hide a method" in str(error):
            rule = "WL114"
        what = error.what if isinstance(error, WeighlockError) else f"{type(error).__name__}: {error}"
        facts = _facts(error)
        arguments = preview(args, (), self._resolver)
        where = f"{name}({arguments}): " if name is not None else ""
        self._notes.add(rule, f"{where}{what}{facts}", member=member, offset=event.offset, name=name,
                        arguments=arguments, path=event.path)  # fmt: skip
        if name == "torch.storage._load_from_bytes":
            for index, data in enumerate(self._bytes_in(args)):
                self._inside(data, _inner(member, event.offset, index))

    def _name(self, ref: GlobalRef | None) -> str | None:
        """Return the name of what is called; None where it is unknown."""
        return _named(self._resolver.of(ref)) if isinstance(ref, Computed) else ref.full_name if ref else None

    def _bytes_in(self, values: tuple[Any, ...]) -> Iterator[bytes]:
        """Give the byte strings in the arguments of a call, worked out ones among them; each object is entered once."""
        waiting: list[Any] = list(values[:_MOST_ARGUMENTS])
        while waiting:
            value = waiting.pop()
            if type(value) is Stub:
                value = self._resolver.of(value)
            if isinstance(value, bytes | bytearray):
                yield bytes(value)
            elif isinstance(value, list | tuple | set | frozenset | dict) and id(value) not in self._looked_at:
                self._looked_at.add(id(value))
                waiting.extend(value.values() if isinstance(value, dict) else value)

    # ---------------------------------------------------------------------------------------------- the whole run

    def _memo(self, trace: Trace) -> None:
        memo = trace.recorder.stored
        # The loop itself does not look at LONG_BINPUT's index: here once, for all of them.
        far = max(len(memo) * 8, _FAR_MEMO)
        highest = max(memo, default=0)
        if highest > far and highest > trace.size:
            offset = next(
                (step.offset for step in _steps(trace) if step.opcode.name == "LONG_BINPUT" and step.argument > far),
                None,
            )
            self._notes.add("WL305", f"memo index {highest:,}", member=trace.member, offset=offset)

    def _stopped(self, trace: Trace, error: WeighlockError) -> None:
        notes, member = self._notes, trace.member
        offset = trace.recorder.position
        data = trace.recorder.data
        if isinstance(error, LimitError):
            notes.add("WL310", error.what + _facts(error), member=member, offset=offset)
        elif isinstance(error, TruncatedPickleError):
            self._cut(trace, error, offset)
        else:
            notes.add("WL301", error.what + _facts(error), member=member, offset=offset)
        notes.gap("WL905", f"the pickle was followed up to byte {offset:,} of {len(data):,}", member, offset)
        for name, at in names_in(data, offset):
            danger = judge(name)
            if danger is not None and not notes.allowed(name):
                notes.add(
                    danger.rule, f"{name} stands in the part of the pickle that could not be followed: it "
                    f"{danger.reason}", member=member, offset=at, severity=danger.severity, name=name,
                )  # fmt: skip

    def _cut(self, trace: Trace, error: WeighlockError, offset: int) -> None:
        declared = _declared(trace.recorder.data, offset)
        left = max(len(trace.recorder.data) - offset, 0)
        if declared is not None and declared > left + _DECLARED_FAR:
            what = f"{declared:,} bytes are declared where {left:,} are left"
            self._notes.add("WL306", what, member=trace.member, offset=offset)
        else:
            self._notes.add("WL301", error.what, member=trace.member, offset=offset)


_EVENTS: Final[dict[str, Callable[[Judge, Event, str | None], None]]] = {
    "called": Judge.on_called, "built": Judge.on_built, "patched": Judge.on_patched, "computed": Judge.on_computed,
    "discarded": Judge.on_discarded, "extension": Judge.on_extension, "buffer": Judge.on_odd,
    "protocol": Judge.on_odd, "number": Judge.on_odd, "frame": Judge.on_odd, "leftover": Judge.on_odd,
    "memo": Judge.on_memo,
    "items": Judge.on_items, "limit": Judge.on_limit, "refused": Judge.on_refused, "array": Judge.on_array,
}  # fmt: skip

_HIDING: Final = frozenset({"collections.OrderedDict", "argparse.Namespace", "types.SimpleNamespace"})


def _refusal(error: Exception, name: str | None) -> str:
    """Return the rule for what a load refuses."""
    if isinstance(error, TensorBoundsError):
        if "a NumPy type" in error.what:
            return "WL405"
        return "WL401" if name is not None or "view" in error.what else "WL402"
    if isinstance(error, LimitError):
        return "WL310"
    if name is None:
        return "WL402" if isinstance(error, DirectoryError | TruncatedError) else "WL311"
    if name == "torch.storage._load_from_bytes":
        return "WL108"
    if isinstance(error, UnsupportedError):
        return "WL309"
    return "WL309"


def _facts(error: Exception) -> str:
    if not isinstance(error, WeighlockError):
        return ""
    pairs = [f"{label} {value}" for label, value in (("expected", error.expected), ("got", error.got)) if value]
    return f" ({', '.join(pairs)})" if pairs else ""


def _named(found: Any) -> str | None:
    """Return the name that a worked out value stands for; of a partial, the one that it calls."""
    while isinstance(found, Bound) and found.function == "partial":
        found = found.of
    return str(found) if isinstance(found, Name) else None


def _keys(state: Any) -> str:
    if isinstance(state, tuple) and len(state) == 2:
        return ", ".join(_keys(part) for part in state if isinstance(part, dict))
    if isinstance(state, dict):
        return preview(tuple(str(key) for key in list(state)[:6]))
    return preview((state,))


def _inner(member: str | None, offset: int, index: int) -> str:
    place = f"bytes at {offset}" + (f" ({index + 1})" if index else "")
    return place if member is None else f"{member} > {place}"


def _depth(root: Any) -> int:
    """Return how deeply containers lie in each other, up to a little more than `_DEEP`."""
    depth, level = 0, [root]
    seen: set[int] = set()
    while level and depth <= _DEEP:
        below: list[Any] = []
        for value in level:
            kind = type(value)
            if kind in _LEAVES or id(value) in seen:
                continue
            seen.add(id(value))
            if kind is dict or kind is list or kind is tuple:
                below.extend(value.values() if kind is dict else value)
                if kind is dict:
                    below.extend([key for key in value if type(key) is tuple])
                continue
            below.extend([child for _, child in children(value)])
        level = below
        depth += 1
    return depth


_LEAVES: Final = frozenset({str, bytes, bytearray, int, float, complex, bool, type(None)})


def _steps(trace: Trace) -> Iterator[Any]:
    try:
        yield from decode(trace.recorder.data, trace.start)
    except WeighlockError:
        return


def _declared(data: bytes, offset: int) -> int | None:
    """Return the length that the opcode at `offset` declares."""
    opcode = BY_CODE.get(data[offset]) if offset < len(data) else None
    if opcode is None:
        return None
    width = {"4": 4, "8": 8, "1": 1}.get(opcode.argument[-1:])
    if width is None or opcode.argument[0] not in "sbul" or len(opcode.argument) < 5:
        return None
    return int.from_bytes(data[offset + 1 : offset + 1 + width], "little")
