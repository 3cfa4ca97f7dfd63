"""The restricted pickle machine: runs a pickle against an `Allowlist` and builds inert objects.

Rules: it understands every opcode of protocols 0 to 5; it calls nothing but the table's own functions and what the
user named; it reads no file; whatever goes wrong leaves as a `WeighlockError` that knows the byte where it happened.
Unknown globals do not stop it: they become `GlobalRef` and `Stub`, and the caller decides (so that one error can name
all of them).
"""

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from struct import Struct
from typing import Any, Final

from weighlock.errors import LimitError, PickleStreamError, WeighlockError
from weighlock.limits import DEFAULT_LIMITS, Limits
from weighlock.pickling import idiom
from weighlock.pickling.allowlist import Allowlist
from weighlock.pickling.decoder import READERS, decode_text, truncated
from weighlock.pickling.inert import GlobalRef, Stub
from weighlock.pickling.opcodes import BY_CODE, CODE
from weighlock.pickling.user_globals import NO_USER_GLOBALS, UserGlobals

__all__ = ["Unpickler"]

_I4: Final = Struct("<i").unpack_from
_U4: Final = Struct("<I").unpack_from
_U2: Final = Struct("<H").unpack_from
_F8: Final = Struct(">d").unpack_from
_RUN_F8: Final = Struct(">xd").iter_unpack
_RUN_I4: Final = Struct("<xi").iter_unpack
_RUN_U2: Final = Struct("<xH").iter_unpack
_RUN_U1: Final = Struct("<xB").iter_unpack

# A run is looked for at most this far ahead: pickle writes lists in batches of 1,000.
_RUN_ITEMS: Final = 1000
# Below this many equal opcodes in a row, taking them one by one is as fast.
_RUN_MIN: Final = 4

_SIMPLE_KEYS: Final = frozenset({str, int, bytes, bool, float, type(None)})
_MAX_MEMO_GAP: Final = 1 << 32


class Unpickler:
    """One run of the machine over one pickle.

    Parameters
    ----------
    data : bytes
        Holds the pickle; it may go on behind the pickle's STOP.
    allowlist : Allowlist
        The known globals.
    context : object
        Given to each call of the table; the machine itself never looks at it, except to ask its `build` what to do
        with a state for an object that the table does not know.
    persistent_load : callable
        Called with each persistent id (a checkpoint's storages).
    start : int
        Where the pickle begins in `data`, in bytes; `end` is where it ended.
    encoding, errors : str
        How strings written by Python 2 are decoded; ``"bytes"`` leaves them bytes.

    Examples
    --------
    >>> Unpickler(b"\\x80\\x02]q\\x00(K\\x01K\\x02e.", Allowlist()).load()
    [1, 2]
    """

    # Reason for the parameter count: each is a separate promise to the caller; a bundle would hide them.
    def __init__(  # noqa: PLR0913
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
    ) -> None:
        self.data = data
        self.allowlist = allowlist
        self.context = context
        self.persistent_load = persistent_load or _no_persistent_ids
        self.position = start
        self.end = start
        self.encoding = encoding
        self.errors = errors
        self.limits = limits
        self.user_globals = user_globals
        self.protocol = 0
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.globals_seen: dict[tuple[str, str], int] = {}
        self.unknown: dict[tuple[str, str], GlobalRef] = {}
        self._values: dict[tuple[str, str], Any] = {}

    def load(self) -> Any:
        """Run the pickle and return its object.

        Raises
        ------
        PickleStreamError
            If it is malformed, or asks for something that no checkpoint does.
        LimitError
            If it asks for more than its own bytes justify.
        """
        try:
            return self._run()
        except WeighlockError as error:
            if error.offset is None:
                error.locate(offset=self.position)
            raise
        except Exception as error:  # one boundary: whatever a malformed pickle provokes leaves as our error
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> PickleStreamError:
        if self.position >= len(self.data):
            return truncated(self.data, self.position, 1)
        opcode = BY_CODE.get(self.data[self.position])
        if opcode is None:
            code = self.data[self.position]
            return PickleStreamError("not a pickle opcode", got=f"byte 0x{code:02x}", offset=self.position)
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, IndexError):
            reason = "the stack is empty, or the pickle ends here"
        elif isinstance(error, KeyError):
            reason = "it refers to something that was never stored"
        elif isinstance(error, UnicodeDecodeError) and opcode.name.endswith("STRING"):
            return PickleStreamError(
                f"a string written by Python 2 is not {error.encoding}",
                offset=self.position,
                hint="Pass encoding='latin1' (right for pickled NumPy data) or encoding='bytes'.",
            )
        return PickleStreamError(f"the pickle is malformed at {opcode.name}: {reason}", offset=self.position)

    # Reason for the length: this loop runs for every opcode of every file, and a method call per opcode would double
    # the time to load a checkpoint of many small tensors. Only the opcodes that fill real checkpoints stand here,
    # the most frequent first; all others go through the table `_RARE`.
    def _run(self) -> Any:  # noqa: C901, PLR0912, PLR0915
        data, memo, context = self.data, self.memo, self.context
        position, stack, marks = self.position, self.stack, self.marks
        calls, values = self.allowlist.calls, self._values
        persistent_load, idiom_function = self.persistent_load, self.allowlist.idiom_function
        while True:
            self.position = position
            code = data[position]
            if code == 0x71:  # BINPUT
                memo[data[position + 1]] = stack[-1]
                position += 2
            elif code == 0x68:  # BINGET
                stack.append(memo[data[position + 1]])
                position += 2
            elif code == 0x72:  # LONG_BINPUT
                memo[_U4(data, position + 1)[0]] = stack[-1]
                position += 5
            elif code == 0x4B:  # BININT1
                stack.append(data[position + 1])
                position += 2
                if data[position : position + 6 : 2] == b"KKK":
                    position = self._run_of(data, position, 0x4B, 2, _RUN_U1)
            elif code == 0x28:  # MARK
                if data[position + 1] == 0x28 and stack and stack[-1] is idiom_function:
                    end = idiom.take(self, data, position, calls[id(idiom_function)])
                    if end != position:
                        position = end
                        continue
                marks.append(stack)
                self.stack = stack = []
                position += 1
            elif code == 0x74:  # TUPLE
                items = tuple(stack)
                self.stack = stack = marks.pop()
                stack.append(items)
                position += 1
            elif code == 0x58:  # BINUNICODE
                end = position + 5 + _U4(data, position + 1)[0]
                if end > len(data):
                    raise truncated(data, position + 5, end - position - 5)
                text = decode_text(data[position + 5 : end])
                stack.append(text)
                position = end
                if data[position] == 0x71:  # nearly every string is stored at once
                    memo[data[position + 1]] = text
                    position += 2
                elif data[position] == 0x72:
                    memo[_U4(data, position + 1)[0]] = text
                    position += 5
            elif code == 0x51:  # BINPERSID
                stack[-1] = persistent_load(stack[-1])
                position += 1
            elif code == 0x85:  # TUPLE1
                stack[-1] = (stack[-1],)
                position += 1
            elif code == 0x86:  # TUPLE2
                last = stack.pop()
                stack[-1] = (stack[-1], last)
                position += 1
            elif code == 0x87:  # TUPLE3
                last = stack.pop()
                middle = stack.pop()
                stack[-1] = (stack[-1], middle, last)
                position += 1
            elif code == 0x52:  # REDUCE
                args = stack.pop()
                call = calls.get(id(stack[-1]))
                if call is not None and type(args) is tuple:
                    stack[-1] = call(context, args)
                else:
                    stack[-1] = self._reduce(stack[-1], args)
                position += 1
            elif code == 0x29:  # EMPTY_TUPLE
                stack.append(())
                position += 1
            elif code == 0x89:  # NEWFALSE
                stack.append(False)
                position += 1
            elif code == 0x4D:  # BININT2
                stack.append(_U2(data, position + 1)[0])
                position += 3
                if data[position : position + 9 : 3] == b"MMM":
                    position = self._run_of(data, position, 0x4D, 3, _RUN_U2)
            elif code == 0x6A:  # LONG_BINGET
                stack.append(memo[_U4(data, position + 1)[0]])
                position += 5
            elif code == 0x47:  # BINFLOAT
                stack.append(_F8(data, position + 1)[0])
                position += 9
                if data[position : position + 27 : 9] == b"GGG":
                    position = self._run_of(data, position, 0x47, 9, _RUN_F8)
            elif code == 0x4A:  # BININT
                stack.append(_I4(data, position + 1)[0])
                position += 5
                if data[position : position + 15 : 5] == b"JJJ":
                    position = self._run_of(data, position, 0x4A, 5, _RUN_I4)
            elif code == 0x8C:  # SHORT_BINUNICODE
                end = position + 2 + data[position + 1]
                if end > len(data):
                    raise truncated(data, position + 2, data[position + 1])
                stack.append(decode_text(data[position + 2 : end]))
                position = end
            elif code == 0x94:  # MEMOIZE
                memo[len(memo)] = stack[-1]
                position += 1
            elif code == 0x63:  # GLOBAL
                module_end = data.index(b"\n", position)
                name_end = data.index(b"\n", module_end + 1)
                key = (decode_text(data[position + 1 : module_end]), decode_text(data[module_end + 1 : name_end]))
                stack.append(values[key] if key in values else self._find(key))
                position = name_end + 1
            elif code == 0x2E:  # STOP
                self.end = position + 1
                return self._finish(stack.pop())
            else:
                opcode = BY_CODE[code]
                argument, position = READERS[opcode.argument](data, position + 1)
                _RARE[code](self, argument)
                stack = self.stack

    def _run_of(self, data: bytes, position: int, code: int, width: int, unpack: Callable[[bytes], Any]) -> int:
        """Take a run of equal fixed-width opcodes at once: lists of numbers are decoded in C."""
        codes = data[position : position + width * _RUN_ITEMS : width]
        count = len(codes) - len(codes.lstrip(bytes((code,))))
        end = position + count * width
        if end > len(data):  # the last instruction is cut: let the loop find and report it
            count -= 1
            end -= width
        self.stack.extend([number for (number,) in unpack(data[position:end])])
        return end

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
        what = "the pickle calls something that is data, not a class or function"
        raise PickleStreamError(what, got=type(function).__name__)

    def _pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def check_keys(self, keys: list[Any]) -> None:
        """Refuse keys whose hash would take unbounded time: tuples of tuples of one shared tuple, and so on."""
        if set(map(type, keys)) <= _SIMPLE_KEYS:
            return
        budget = self.limits.max_key_nodes
        pending = [key for key in keys if type(key) in (tuple, frozenset)]
        while pending:
            node = pending.pop()
            budget -= len(node) + 1
            if budget < 0:
                raise LimitError("a dictionary key or set member is nested too deeply or too often")
            pending.extend(child for child in node if type(child) in (tuple, frozenset))

    # Below: the opcodes that are rare in checkpoints, one method each, named after the opcode.

    def op_proto(self, version: int) -> None:
        if version > 5:
            raise PickleStreamError("an unknown pickle protocol", expected="0 to 5", got=str(version))
        self.protocol = version

    def op_ignore(self, _: Any) -> None:
        """FRAME: a hint for reading ahead; the whole pickle is in memory already."""

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
        self.stack.append(self.persistent_load(decode_text(raw)))

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

    def op_extension(self, code: int) -> None:
        raise PickleStreamError("an extension code of the copyreg registry, which no checkpoint uses", got=str(code))

    def op_buffer(self, _: None) -> None:
        raise PickleStreamError("out-of-band buffers are named but were not given (protocol 5)")


def _no_persistent_ids(pid: Any) -> Any:
    raise PickleStreamError("a persistent id in a pickle that has no storages beside it", got=type(pid).__name__)


_METHODS: Final[dict[str, Callable[[Unpickler, Any], None]]] = {
    "PROTO": Unpickler.op_proto, "FRAME": Unpickler.op_ignore,
    **dict.fromkeys(("FLOAT", "INT", "LONG", "LONG1", "LONG4", "UNICODE", "BINUNICODE8", "BINBYTES",
                     "SHORT_BINBYTES", "BINBYTES8"), Unpickler.op_push),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), Unpickler.op_string),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), Unpickler.op_extension),
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), Unpickler.op_buffer),
    "NONE": Unpickler.op_none, "NEWTRUE": Unpickler.op_newtrue, "EMPTY_LIST": Unpickler.op_empty_list,
    "EMPTY_DICT": Unpickler.op_empty_dict, "EMPTY_SET": Unpickler.op_empty_set,
    "BYTEARRAY8": Unpickler.op_bytearray, "POP": Unpickler.op_pop, "POP_MARK": Unpickler.op_pop_mark,
    "DUP": Unpickler.op_dup, "LIST": Unpickler.op_list, "DICT": Unpickler.op_dict,
    "FROZENSET": Unpickler.op_frozenset, "APPEND": Unpickler.op_append, "APPENDS": Unpickler.op_appends,
    "ADDITEMS": Unpickler.op_additems, "SETITEM": Unpickler.op_setitem, "SETITEMS": Unpickler.op_setitems,
    "GET": Unpickler.op_get, "PUT": Unpickler.op_put, "PERSID": Unpickler.op_persid,
    "STACK_GLOBAL": Unpickler.op_stack_global, "INST": Unpickler.op_inst, "OBJ": Unpickler.op_obj,
    "NEWOBJ": Unpickler.op_newobj, "NEWOBJ_EX": Unpickler.op_newobj_ex, "BUILD": Unpickler.op_build,
}  # fmt: skip
_RARE: Final = {CODE[name]: method for name, method in _METHODS.items()}
