"""The machine's state, and the opcodes that are rare in checkpoints: one method each, named after the opcode.

`unpickler` holds the loop with the frequent ones. Nothing here reads a position: arguments come decoded.
"""

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from itertools import pairwise, repeat
from types import ModuleType
from typing import Any, Final

from weighlock.errors import LimitError, PickleStreamError
from weighlock.limits import DEFAULT_LIMITS, Limits
from weighlock.pickling.allowlist import Allowlist
from weighlock.pickling.decoder import decode_text
from weighlock.pickling.frames import ends_with_instruction
from weighlock.pickling.inert import GlobalRef, Stub
from weighlock.pickling.opcodes import CODE
from weighlock.pickling.user_globals import NO_USER_GLOBALS, UserGlobals

__all__ = ["RARE", "Handlers", "Rare"]

_SIMPLE_KEYS: Final = frozenset({str, int, bytes, bool, float, type(None)})
_MAX_MEMO_GAP: Final = 1 << 32
_KEY_NODES_PER_BYTE: Final = 4
_HASH_PRIME: Final = (1 << 61) - 1
_FREE_SEARCHES: Final = 1 << 20
_COMPARED_PER_BYTE: Final = 8


class _Colliding(set[Any]):
    """Keys of one hash that are not equal: each is compared with all of them wherever it is looked up."""


class Handlers:
    """The state of one run, and what its rare opcodes do to it. `Unpickler` documents the parameters."""

    # Reason for the parameter count: each is a separate promise to the caller; a bundle would hide them.
    def __init__(
        self,
        data: bytes,
        allowlist: Allowlist,
        context: Any = None,
        persistent_load: Callable[[Any], Any] | None = None,
        *,
        start: int = 0,
        encoding: str = "utf-8",
        errors: str = "strict",
        limits: Limits = DEFAULT_LIMITS,
        user_globals: UserGlobals = NO_USER_GLOBALS,
        steps: Iterator[None] | None = None,
    ) -> None:
        self.data = data
        self.allowlist = allowlist
        self.calls = allowlist.calls
        self.context = context
        self.persistent_load = persistent_load or _no_persistent_ids
        # Makes many tensors at once, where what knows the storages can; and what that has seen of the pickle.
        self.runs: Any = persistent_load if getattr(persistent_load, "takes_runs", False) else None
        self.forms: dict[tuple[Any, ...], Any] = {}
        self.items: Any = None
        self.exposed: Callable[[Any], Any] = getattr(context, "exposed", _as_it_is)
        self.position = start
        self.end = start
        self.encoding = encoding
        self.errors = errors
        self.limits = limits
        self.user_globals = user_globals
        self.steps: Iterator[None] = repeat(None) if steps is None else steps
        self.protocol = 0
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.globals_seen: dict[tuple[str, str], int] = {}
        self.unknown: dict[tuple[str, str], GlobalRef] = {}
        self._large_keys = 0
        self._by_hash: dict[int, Any] = {}
        self._compared = 0
        self._key_nodes = 0
        self._searched = 0
        self._values: dict[tuple[str, str], Any] = {}

    def place(self) -> str | None:
        """Return about where in the object the machine is, for messages: the keys that are being filled."""
        levels = [*self.marks, self.stack]
        parts: list[Any] = []
        for index, level in enumerate(levels):
            owner = levels[index - 1][-1] if index and levels[index - 1] else None
            if isinstance(owner, dict) and level:
                parts.append(level[(len(level) - 1) // 2 * 2])
            elif isinstance(owner, list):
                parts.append(len(owner) + max(len(level) - 1, 0))
            parts += [key for before, key in pairwise(level) if isinstance(before, dict)]
        return ".".join(str(part) for part in parts if isinstance(part, str | int)) or None

    def _finish(self, result: Any) -> Any:
        if self.stack or self.marks:
            raise PickleStreamError("objects are left over at the end of the pickle", offset=self.position)
        return result

    def _find(self, key: tuple[str, str]) -> Any:
        """Return what stands for a global, remembering where the file named it first."""
        self.globals_seen.setdefault(key, self.position)
        found = self.user_globals.find(*key, python2=self.protocol < 3)
        if found is None:
            found = self.allowlist.find(*key)
            if type(found) is GlobalRef:
                self.unknown[key] = found
        self._values[key] = found
        return found

    def _reduce(self, function: Any, args: Any) -> Any:
        """Call what the user named, or note what would have been called."""
        if type(args) is not tuple:
            raise PickleStreamError("the arguments of a call are not a tuple", got=type(args).__name__)
        return self._instance(function, args, None, self.user_globals.call)

    def new(self, cls: Any, args: Any, kwargs: dict[str, Any] | None = None) -> Any:
        """Make an instance without calling `__init__`, as `object.__reduce_ex__(2)` asks for."""
        if type(args) is not tuple or (kwargs is not None and type(kwargs) is not dict):
            raise PickleStreamError("the arguments of a constructor are not a tuple", got=type(args).__name__)
        call = self.allowlist.calls.get(id(cls))
        if call is not None and not kwargs:
            return call(self.context, args)
        return self._instance(cls, args, kwargs, self.user_globals.new)

    def _instance(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None, call: Callable[..., Any]
    ) -> Any:
        if isinstance(function, GlobalRef):
            return Stub(function, args, kwargs, how="reduce" if call == self.user_globals.call else "newobj")
        if self.user_globals.allows(function):
            return call(function, args, kwargs)
        what = "the pickle calls something that is neither known nor named as safe"
        owner = getattr(function, "__self__", None)
        belongs = "" if owner is None or isinstance(owner, ModuleType) else f", which belongs to {owner!r:.80}"
        shown = f"{function!r:.80}{belongs}" if callable(function) else type(function).__name__
        raise PickleStreamError(what, got=shown)

    def _pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def check_keys(self, keys: list[Any]) -> None:
        """Refuse keys whose hash would take unbounded time: tuples of tuples of one shared tuple, and so on."""
        kinds = set(map(type, keys))
        if int in kinds:
            self._check_integers(keys)
        if kinds <= _SIMPLE_KEYS:
            return
        # A frozenset knows the hashes of its members and, once it was hashed, its own: nobody looks inside.
        pending = [key for key in keys if type(key) is tuple]
        # A tuple is hashed anew in each place: one of many parts, named by two bytes, adds up.
        allowed = self.limits.max_key_nodes + _KEY_NODES_PER_BYTE * len(self.data) - self._key_nodes
        budget = allowed = min(allowed, self.limits.max_key_nodes)
        while pending and budget >= 0:
            node = pending.pop()
            budget -= len(node) + 1
            pending.extend(child for child in node if type(child) is tuple)
        self._key_nodes += allowed - budget
        if budget < 0:
            raise LimitError("a dictionary key or set member is nested too deeply or too often")
        self._check_hashes([key for key in keys if type(key) not in _SIMPLE_KEYS])

    def _check_hashes(self, keys: list[Any]) -> None:
        """Bound the keys of one hash: of tuples, complex numbers, fractions, a file can choose any number of them."""
        allowed = self.limits.max_large_keys**2 // 2 + _COMPARED_PER_BYTE * len(self.data)
        for key in keys:
            try:
                value = hash(key)
                held = self._by_hash.setdefault(value, key)
                if type(held) is _Colliding:
                    self._compared += len(held)
                    held.add(key)
                elif held is not key and held != key:
                    self._by_hash[value] = _Colliding((held, key))
            except TypeError:
                return  # no key at all: whoever fills the container says so
            if self._compared > allowed:
                raise LimitError("too many dictionary keys of one hash", expected="Limits.max_large_keys")

    def _check_integers(self, keys: list[Any]) -> None:
        """Bound the integers that may collide: their hash is their remainder by 2**61 - 1, for all to see."""
        self._large_keys += sum(1 for key in keys if type(key) is int and not -_HASH_PRIME < key < _HASH_PRIME)
        if self._large_keys > self.limits.max_large_keys:
            raise LimitError("too many dictionary keys that are huge integers", expected="Limits.max_large_keys")

    # Below: the opcodes that are rare in checkpoints, one method each, named after the opcode.

    def op_proto(self, version: int) -> None:
        if version > 5:
            raise PickleStreamError("an unknown pickle protocol", expected="0 to 5", got=str(version))
        self.protocol = version

    def op_frame(self, length: int) -> None:
        """FRAME: a hint for reading ahead; the whole pickle is in memory already, and need only hold together."""
        start = self.position + 9
        end = start + length
        if end <= len(self.data) and not ends_with_instruction(self.data, start, end, self.steps):
            raise PickleStreamError(
                "a frame ends inside of an instruction, where readers would go on at different bytes",
                got=f"a frame of {length} bytes", offset=self.position,
            )  # fmt: skip

    def op_push(self, value: Any) -> None:
        self.stack.append(value)

    def op_string(self, raw: bytes) -> None:
        self.stack.append(raw if self.encoding == "bytes" else raw.decode(self.encoding, self.errors))

    def op_none(self, _: None) -> None:
        self.stack.append(None)

    def op_newtrue(self, _: None) -> None:
        self.stack.append(True)

    def op_empty_list(self, _: None) -> None:
        self.stack.append([])

    def op_empty_dict(self, _: None) -> None:
        self.stack.append({})

    def op_empty_set(self, _: None) -> None:
        self.stack.append(set())

    def op_bytearray(self, raw: bytes) -> None:
        self.stack.append(bytearray(raw))

    def op_pop(self, _: None) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._pop_mark()

    def op_pop_mark(self, _: None) -> None:
        self._pop_mark()

    def op_dup(self, _: None) -> None:
        self.stack.append(self.stack[-1])

    def op_list(self, _: None) -> None:
        items = self._pop_mark()
        self.stack.append(items)

    def op_dict(self, _: None) -> None:
        items = self._pop_mark()
        self.check_keys(items[::2])
        self.stack.append(dict(zip(items[::2], items[1::2], strict=True)))

    def op_frozenset(self, _: None) -> None:
        items = self._pop_mark()
        self.check_keys(items)
        self.stack.append(frozenset(items))

    def op_append(self, _: None) -> None:
        value = self.stack.pop()
        self._extend(self.stack[-1], [value])

    def op_appends(self, _: None) -> None:
        items = self._pop_mark()
        self._extend(self.stack[-1], items)

    def _extend(self, target: Any, items: list[Any]) -> None:
        kind = type(target)
        if kind is list or kind is deque:
            target.extend(items)
        elif kind is Stub:
            target.items.extend(items)
        elif self.user_globals.is_instance(target):
            self.user_globals.extend(target, items)
        else:
            raise PickleStreamError("items are appended to something that is no list", got=kind.__name__)

    def op_additems(self, _: None) -> None:
        items = self._pop_mark()
        target = self.stack[-1]
        if type(target) is set:
            self.check_keys(items)
            target.update(items)
        elif type(target) is Stub:
            target.items.extend(items)
        elif self.user_globals.is_instance(target):
            self.user_globals.add(target, items)
        else:
            raise PickleStreamError("items are added to something that is no set", got=type(target).__name__)

    def op_setitem(self, _: None) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self._update(self.stack[-1], [key], [value])

    def op_setitems(self, _: None) -> None:
        items = self._pop_mark()
        if len(items) % 2:
            raise PickleStreamError("a dictionary key without a value")
        self._update(self.stack[-1], items[::2], items[1::2])

    def _update(self, target: Any, keys: list[Any], values: list[Any]) -> None:
        kind = type(target)
        if kind is Stub:
            target.entries.extend(zip(keys, values, strict=True))
            return
        self.check_keys(keys)
        # Counter.update adds to the counts and dict.update loses an OrderedDict's order: each its own way.
        if kind is dict or kind is OrderedDict:
            target.update(zip(keys, values, strict=True))
        elif kind is Counter or kind is defaultdict:
            dict.update(target, zip(keys, values, strict=True))
        elif self.user_globals.is_instance(target):
            self.user_globals.update(target, keys, values)
        else:
            raise PickleStreamError("keys are set on something that is no dictionary", got=kind.__name__)

    def op_get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def op_put(self, index: int) -> None:
        if not 0 <= index < _MAX_MEMO_GAP:
            raise PickleStreamError("a memo index out of range", got=str(index))
        self.memo[index] = self.stack[-1]

    def op_persid(self, raw: bytes) -> None:
        self.stack.append(self.exposed(self.persistent_load(decode_text(raw))))

    def op_global(self, key: tuple[str, str]) -> None:
        self.stack.append(self._values[key] if key in self._values else self._find(key))

    def op_stack_global(self, _: None) -> None:
        name = self.stack.pop()
        module = self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise PickleStreamError("a global's module and name are not text", got=type(name).__name__)
        self.op_global((module, name))

    def op_inst(self, key: tuple[str, str]) -> None:
        args = tuple(self._pop_mark())
        self.op_global(key)
        self.stack[-1] = self.called(self.stack[-1], args)

    def op_obj(self, _: None) -> None:
        cls, *args = self._pop_mark()
        self.stack.append(self.called(cls, tuple(args)))

    def called(self, cls: Any, args: tuple[Any, ...]) -> Any:
        """Call what stands for a global; for rows of the table that carry out a call inside of theirs."""
        call = self.allowlist.calls.get(id(cls))
        return call(self.context, args) if call is not None else self._reduce(cls, args)

    def op_newobj(self, _: None) -> None:
        args = self.stack.pop()
        self.stack[-1] = self.new(self.stack[-1], args)

    def op_newobj_ex(self, _: None) -> None:
        kwargs = self.stack.pop()
        args = self.stack.pop()
        self.stack[-1] = self.new(self.stack[-1], args, kwargs)

    def op_build(self, _: None) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        build = self.allowlist.builds.get(type(target))
        if build is not None:
            built = build(self.context, target, state)
        elif type(target) is Stub:
            target.state = state
            return
        elif self.user_globals.is_instance(target):
            self.user_globals.build(target, state)
            return
        else:
            built = self.context.build(target, state)
        if built is not target:
            self.stack[-1] = built
            self._replace(target, built)

    def _replace(self, old: Any, new: Any) -> None:
        """Let later references see the finished object: a tensor of 2016 is named, stored, and only then described."""
        for index in reversed(self.memo):
            if self.memo[index] is old:
                self.memo[index] = new
                return
            # An object's name is stored right before its description, so this is short, unless it is made to be long.
            self._searched += 1
            if self._searched > len(self.data) + _FREE_SEARCHES:
                raise LimitError("the pickle describes objects long after it has named them, again and again")

    def op_extension(self, code: int) -> None:
        raise PickleStreamError("an extension code of the copyreg registry, which no checkpoint uses", got=str(code))

    def op_buffer(self, _: None) -> None:
        raise PickleStreamError("out-of-band buffers are named but were not given (protocol 5)")


def _as_it_is(value: Any) -> Any:
    return value


def _no_persistent_ids(pid: Any) -> Any:
    raise PickleStreamError("a persistent id in a pickle that has no storages beside it", got=type(pid).__name__)


Rare = Callable[[Any, Any], int | None]

_METHODS: Final[dict[str, Rare]] = {
    "PROTO": Handlers.op_proto, "FRAME": Handlers.op_frame,
    **dict.fromkeys(("FLOAT", "INT", "LONG", "LONG1", "LONG4", "UNICODE", "BINUNICODE8", "BINBYTES",
                     "SHORT_BINBYTES", "BINBYTES8"), Handlers.op_push),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), Handlers.op_string),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), Handlers.op_extension),
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), Handlers.op_buffer),
    "NONE": Handlers.op_none, "NEWTRUE": Handlers.op_newtrue, "EMPTY_LIST": Handlers.op_empty_list,
    "EMPTY_DICT": Handlers.op_empty_dict, "EMPTY_SET": Handlers.op_empty_set,
    "BYTEARRAY8": Handlers.op_bytearray, "POP": Handlers.op_pop, "POP_MARK": Handlers.op_pop_mark,
    "DUP": Handlers.op_dup, "LIST": Handlers.op_list, "DICT": Handlers.op_dict,
    "FROZENSET": Handlers.op_frozenset, "APPEND": Handlers.op_append, "APPENDS": Handlers.op_appends,
    "ADDITEMS": Handlers.op_additems, "SETITEM": Handlers.op_setitem, "SETITEMS": Handlers.op_setitems,
    "GET": Handlers.op_get, "PUT": Handlers.op_put, "PERSID": Handlers.op_persid,
    "STACK_GLOBAL": Handlers.op_stack_global, "INST": Handlers.op_inst, "OBJ": Handlers.op_obj,
    "NEWOBJ": Handlers.op_newobj, "NEWOBJ_EX": Handlers.op_newobj_ex, "BUILD": Handlers.op_build,
}  # fmt: skip
RARE: Final[dict[int, Rare]] = {CODE[name]: method for name, method in _METHODS.items()}
