"""The restricted pickle machine: runs a pickle against an `Allowlist` and builds inert objects.

Rules: it understands every opcode of protocols 0 to 5; it calls nothing but the table's own functions and what the
user named; it reads no file; whatever goes wrong leaves as a `WeighlockError` that knows the byte where it happened.
Unknown globals do not stop it: they become `GlobalRef` and `Stub`, and the caller decides (so that one error can name
all of them).
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import islice
from struct import Struct
from typing import Any, ClassVar, Final

from weighlock.errors import LimitError, PickleStreamError, WeighlockError
from weighlock.pickling import columns, idiom
from weighlock.pickling.decoder import READERS, decode_text, truncated
from weighlock.pickling.opcodes import BY_CODE
from weighlock.pickling.rare_opcodes import RARE, Handlers, Rare

__all__ = ["Unpickler"]

_I4: Final = Struct("<i").unpack_from
_U4: Final = Struct("<I").unpack_from
_U2: Final = Struct("<H").unpack_from
_F8: Final = Struct(">d").unpack_from
_RUN_F8: Final = Struct(">xd").iter_unpack
_RUN_I4: Final = Struct("<xi").iter_unpack
_RUN_U2: Final = Struct("<xH").iter_unpack
_RUN_U1: Final = Struct("<xB").iter_unpack
_FORMATS: Final = {0x47: ">xd", 0x4A: "<xi", 0x4D: "<xH"}

# A run is looked for at most this far ahead: pickle writes lists in batches of 1,000.
_RUN_ITEMS: Final = 1000
_LONG_RUN: Final = 250  # Worth a form of its own, which is kept.
_NUMBERS_PER_STEP: Final = 4


class Unpickler(Handlers):
    r"""One run of the machine over one pickle.

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
    steps : iterator, optional
        One item is taken for each opcode that is run by itself. Pickles that share it share the bound on their work.

    Examples
    --------
    >>> from weighlock.pickling.allowlist import Allowlist
    >>> Unpickler(b"\x80\x02]q\x00(K\x01K\x02e.", Allowlist()).load()
    [1, 2]
    """

    rare: ClassVar[Mapping[int, Rare]] = RARE
    """What the opcodes do that the loop leaves to `rare_opcodes`; recording has a table of its own."""

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
            error.locate(offset=self.position, object_path=self.place())
            raise
        except Exception as error:  # one boundary: whatever a malformed pickle provokes leaves as our error
            raise self._translated(error).locate(object_path=self.place()) from error
        finally:
            # The memo may refer to this machine, and to all that it made: let go without Python's collector.
            self.memo, self.items = {}, None

    def _translated(self, error: Exception) -> PickleStreamError:
        if self.position >= len(self.data):
            return truncated(self.data, self.position, 1)
        opcode = BY_CODE.get(self.data[self.position])
        if opcode is None:
            code = self.data[self.position]
            return PickleStreamError("not a pickle opcode", got=f"byte 0x{code:02x}", offset=self.position)
        try:
            READERS[opcode.argument](self.data, self.position + 1)
        except PickleStreamError as cut:
            return cut
        except ValueError:
            pass  # a malformed argument: what `error` says
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, IndexError):
            reason = "the stack is empty"
        elif isinstance(error, KeyError):
            reason = "it refers to something that was never stored"
        elif isinstance(error, TypeError) and "unhashable type" in str(error):
            return PickleStreamError(
                "a key of a dictionary, or a member of a set, is something that has no hash",
                got=str(error).rpartition(": ")[2].strip("'"),
                offset=self.position,
                hint="NumPy arrays have none. With framework='torch', tensors can be keys."
                if "numpy" in str(error)
                else None,
            )
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
    def _run(self) -> Any:
        data, memo, context = self.data, self.memo, self.context
        position, stack, marks = self.position, self.stack, self.marks
        calls, values = self.allowlist.calls, self._values
        bare: dict[int, int] = {}
        persistent_load, idiom_function, rare = self.persistent_load, self.allowlist.idiom_function, self.rare
        for _ in self.steps:
            self.position = position
            code = data[position]
            if code == 0x71:  # BINPUT
                memo[data[position + 1]] = stack[-1]
                position += 2
            elif code == 0x68:  # BINGET
                found = memo[data[position + 1]]
                stack.append(found if type(found) is not tuple else self._seen(data[position + 1], found))
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
                if stack and stack[-1] is idiom_function and data[position + 1 : position + 3] == b"(h":
                    end = idiom.take(self, data, position, calls[id(idiom_function)])
                    if end != position:
                        position = self._run_of_tensors(data, end)
                        memo = self.memo
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
                storage = persistent_load(stack[-1])
                # The usual call takes it as it is. (The first tensor of a file introduces names: no idiom yet.)
                is_argument = len(stack) == 1 and marks and marks[-1] and marks[-1][-1] is idiom_function
                if is_argument:
                    bare[id(storage)] = bare.get(id(storage), 0) + 1
                stack[-1] = storage if is_argument else self.exposed(storage)
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
                is_tensor = stack[-1] is idiom_function
                if call is not None and type(args) is tuple:
                    stack[-1] = call(context, args)
                else:
                    stack[-1] = self._reduce(stack[-1], args)
                position += 1
                if is_tensor:
                    if args and id(args[0]) in bare:
                        bare[id(args[0])] -= 1
                    position = self._run_of_tensors(data, position)
                    memo = self.memo
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
                found = memo[_U4(data, position + 1)[0]]
                stack.append(found if type(found) is not tuple else self._seen(_U4(data, position + 1)[0], found))
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
                module_end = data.find(b"\n", position)
                name_end = data.find(b"\n", module_end + 1)
                if module_end < 0 or name_end < 0:
                    raise truncated(data, position, 2)
                key = (decode_text(data[position + 1 : module_end]), decode_text(data[module_end + 1 : name_end]))
                stack.append(values[key] if key in values else self._find(key))
                position = name_end + 1
            elif code == 0x2E:  # STOP
                self.end = position + 1
                if any(bare.values()):
                    # They hold storages as only the call may see them.
                    raise PickleStreamError(
                        "the arguments of a tensor's call stand where they are not called", offset=position
                    )
                return self._finish(stack.pop())
            else:
                opcode = BY_CODE[code]
                argument, position = READERS[opcode.argument](data, position + 1)
                # An opcode may be followed by bytes that are none (arrays of joblib): it returns where they end.
                position = rare[code](self, argument) or position
                stack = self.stack
        raise LimitError(
            "the pickle has far more instructions than the file's own bytes justify",
            hint="If you trust the file, pack its archive again, uncompressed.",
        )

    def _seen(self, index: int, found: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return a tuple that the pickle takes from the memo: as the arguments of a call it may hold a bare storage."""
        storage = found[0] if found else None
        shown = self.exposed(storage)
        if shown is storage:
            return found
        made = self.memo[index] = (shown, *found[1:])
        return made

    def _run_of_tensors(self, data: bytes, position: int) -> int:
        """Go on behind the call of one tensor: store it, and take the items of its kind that follow at once."""
        code = data[position] if position < len(data) else 0
        if code not in (0x71, 0x72):  # BINPUT, LONG_BINPUT
            return position
        behind = position + (2 if code == 0x71 else 5)
        if self.runs is None or data[behind : behind + 1] != b"X":
            return position
        self.memo[data[position + 1] if code == 0x71 else _U4(data, position + 1)[0]] = self.stack[-1]
        self.position = behind
        return columns.take(self, data, behind)

    def _run_of(self, data: bytes, position: int, code: int, width: int, unpack: Callable[[bytes], Any]) -> int:
        """Take a run of equal fixed-width opcodes at once: lists of numbers are decoded in C."""
        codes = data[position : position + width * _RUN_ITEMS : width]
        count = len(codes) - len(codes.lstrip(bytes((code,))))
        end = position + count * width
        if end > len(data):  # the last instruction is cut: let the loop find and report it
            count -= 1
            end -= width
        share = count // _NUMBERS_PER_STEP
        next(islice(self.steps, share, share), None)
        if width == 2:
            self.stack.extend(data[position + 1 : end : 2])
        elif count > _LONG_RUN:
            self.stack.extend(_run_struct(_FORMATS[code], count).unpack_from(data, position))
        else:
            self.stack.extend([number for (number,) in unpack(data[position:end])])
        return end


@lru_cache(maxsize=32)
def _run_struct(form: str, count: int) -> Struct:
    """Return what decodes so many opcodes at once. Long lists come in batches of 1,000: one length, then the rest."""
    return Struct(form[0] + form[1:] * count)
