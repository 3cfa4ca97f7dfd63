"""Writing a pickle: a closed set of types, each opcode as Python's own C pickler writes it, and no recursion.

For what a training checkpoint holds, the bytes are those of `torch.save`: the same opcodes, the same memo, found by
identity. Two things differ on purpose. Empty `bytes` are spelled like all others, because
``torch.load(weights_only=True)`` refuses PyTorch's own spelling; and the items of a set are sorted where they can be,
so that one object always makes the same bytes. Protocols 4 and 5 are written without frames, which are optional.

Each container is a generator that writes its own opcodes and yields what it holds; one loop drives the innermost
generator, so that nesting costs memory, but no stack.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from math import inf
from sys import intern
from typing import Any, Final

from weighlock.errors import ArgumentError, SaveError, UnsupportedTypeError
from weighlock.pickling.inert import GlobalRef
from weighlock.pickling.opcodes import CODE
from weighlock.pickling.recipes import Recipe, long_text_head, spell_decimal, spell_long, tensor_recipe
from weighlock.pickling.reductions import (
    STORAGE,
    Describe,
    Describer,
    Description,
    Persistent,
    Reduction,
    TensorPattern,
    describe_exactly,
    describe_python,
    hint_for,
    named_type,
    ordered,
    spelled_name,
    tensor_arguments,
)
from weighlock.pickling.spellings import (
    BYTE_INTS,
    OP,
    OP_F8,
    OP_I4,
    OP_U2,
    OP_U4,
    OP_U8,
    SHORT_GETS,
    SHORT_PUTS,
    SHORT_TEXT_HEADS,
    TEXT_HEADS,
)

__all__ = ["PROTOCOLS", "Pickler"]

PROTOCOLS: Final = range(1, 6)

# How many items one opcode sets at most, as in Python's picklers.
_BATCH: Final = 1000

# Python's own is faster by half a microsecond with a string or a container, and slower by fifteen with a tensor.
_PLAIN_OBJECTS, _PLAIN_PER_TENSOR = 20_000, 40

_MARK, _POP, _POP_MARK, _TUPLE = OP["MARK"], OP["POP"], OP["POP_MARK"], OP["TUPLE"]
_REDUCE, _NEWOBJ, _BUILD = OP["REDUCE"], OP["NEWOBJ"], OP["BUILD"]
_SHORT_TUPLES: Final = (b"", OP["TUPLE1"], OP["TUPLE2"], OP["TUPLE3"])


class Pickler:
    r"""Writes one object tree as a pickle; use a new one for each.

    Parameters
    ----------
    protocol : int
        1 to 5.
    describe : callable, optional
        Asked once per type that Python's own table does not know: it returns how objects of this exact type are
        described, or None.
    pid_tail : tuple
        What the container adds to every persistent id.
    exact : bool
        Refuse what would not come out byte for byte as from Python's own pickler, or might not; and what that one
        writes faster: a great many strings and containers with few tensors among them.

    Attributes
    ----------
    trail : list
        After an error: the containers from the outermost to the innermost, then the object that failed.

    Examples
    --------
    >>> Pickler(2).dumps({"a": 1})
    b'\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x01s.'
    """

    def __init__(
        self, protocol: int = 2, *, describe: Describer | None = None, pid_tail: tuple[Any, ...] = (),
        exact: bool = False,
    ) -> None:  # fmt: skip
        if type(protocol) is not int or protocol not in PROTOCOLS:
            hint = "PyTorch's own default is 2. Protocol 0 has no form for tensors."
            raise ArgumentError("no such pickle protocol", expected="1 to 5", got=repr(protocol), hint=hint)
        self.protocol = protocol
        self.trail: list[Any] = []
        self._describe = describe
        self._pid_tail = pid_tail
        self._out = bytearray()
        self._memo: dict[Any, int] = {}  # by identity; globals by name
        self._count = 0
        self._patience = float(_PLAIN_OBJECTS) if exact else inf
        self._kept: list[Any] = []  # identities stay valid only while their objects live
        self._open: Counter[int] = Counter()
        self._recipes: dict[TensorPattern, Recipe] = {}
        self._uses_recipes = protocol in (2, 3) and pid_tail in ((), (None,))
        self._text_heads = SHORT_TEXT_HEADS if protocol >= 4 else TEXT_HEADS
        self._writers: dict[type, Callable[[Any], Iterator[Any] | None]] = {
            bytes: self._bytes, bytearray: self._bytearray, list: self._list, tuple: self._tuple, dict: self._dict,
            set: self._set, frozenset: self._frozenset, type: self._type, GlobalRef: self._global,
            Persistent: self._persistent,
        }  # fmt: skip
        self._describe_python = describe_exactly if exact else describe_python
        for kind in _INEXACT if exact else ():
            del self._writers[kind]

    def dumps(self, obj: Any) -> bytes:
        """Return the pickle of an object.

        Raises
        ------
        UnsupportedTypeError
            If it holds something of a type that has no form in a checkpoint.
        SaveError
            If a value is too large for the protocol, or changes meanwhile.
        """
        if self.protocol >= 2:
            self._out += b"%c%c" % (CODE["PROTO"], self.protocol)
        self._run(obj)
        self._out += OP["STOP"]
        return bytes(self._out)

    # Reason for the length: the one loop that sees every object; a call per plain value would double its time.
    def _run(self, root: Any) -> None:
        out, memo, writers, heads = self._out, self._memo, self._writers, self._text_heads
        put_code = OP["MEMOIZE"] if self.protocol >= 4 else None
        truths = (OP["NEWFALSE"], OP["NEWTRUE"]) if self.protocol >= 2 else (b"I00\n", b"I01\n")
        stack: list[Iterator[Any]] = []
        owners: list[Any] = []
        current: Iterator[Any] = iter((root,))
        obj = root
        try:
            while True:
                for obj in current:
                    kind = type(obj)
                    if kind is int:
                        if 0 <= obj < 256:
                            out += BYTE_INTS[obj]
                        elif 0 <= obj < 65536:
                            out += OP_U2(b"M", obj)
                        elif -0x80000000 <= obj < 0x80000000:
                            out += OP_I4(b"J", obj)
                        else:
                            out += spell_long(obj) if self.protocol >= 2 else spell_decimal(obj)
                        continue
                    if kind is float:
                        out += OP_F8(b"G", obj)
                        continue
                    if obj is None:
                        out += b"N"
                        continue
                    if kind is bool:
                        out += truths[obj]
                        continue
                    index = memo.get(id(obj))
                    if index is not None:
                        out += SHORT_GETS[index] if index < 256 else OP_U4(b"j", index)
                        continue
                    if kind is str:
                        data = obj.encode("utf-8", "surrogatepass")
                        size = len(data)
                        out += heads[size] if size < 256 else long_text_head(size, self.protocol)
                        out += data
                        index = self._count
                        self._count = index + 1
                        memo[id(obj)] = index
                        out += put_code or (SHORT_PUTS[index] if index < 256 else OP_U4(b"r", index))
                        continue
                    writer = writers.get(kind) or self._writer(kind)
                    inner = writer(obj)
                    if inner is not None:
                        stack.append(current)
                        owners.append(obj)
                        current = inner
                        break
                else:
                    if not stack:
                        return
                    current = stack.pop()
                    owners.pop()
        except SaveError:
            self.trail = [*owners, obj]
            raise
        except RuntimeError as error:  # "dictionary changed size during iteration"
            self.trail = owners
            raise SaveError("the object changed while it was being saved", got=str(error)) from error

    def _writer(self, kind: type) -> Callable[[Any], Iterator[Any] | None]:
        """Find out, once per type, how its objects are written."""
        describe = self._describe_python(kind) or (self._describe(kind) if self._describe is not None else None)
        if describe is None:
            named = f"{kind.__module__}.{kind.__qualname__}"
            raise UnsupportedTypeError(f"PyTorch checkpoints have no safe form for {named}", hint=hint_for(kind))
        self._writers[kind] = writer = self._tensor_writer(describe)
        return writer

    def _other(self, obj: Any, description: Description) -> Iterator[Any] | None:
        """Write an object that is not described as a tensor."""
        kind = type(description)
        self._kept.append(description)
        if kind is Reduction:
            return self._reduction(obj, description)  # type: ignore[arg-type]
        if kind is Persistent:
            return self._persistent(description)  # type: ignore[arg-type]
        return self._global(description)  # type: ignore[arg-type]

    def _put(self, key: Any) -> None:
        index = self._count
        self._count = index + 1
        self._memo[key] = index
        if self.protocol >= 4:
            self._out += OP["MEMOIZE"]
        else:
            self._out += SHORT_PUTS[index] if index < 256 else OP_U4(b"r", index)

    def _get(self, key: Any) -> bytes:
        index = self._memo[key]
        return SHORT_GETS[index] if index < 256 else OP_U4(b"j", index)

    def _text(self, text: str) -> None:
        """Write a name that stands in a global of protocol 4."""
        if id(text) in self._memo:
            self._out += self._get(id(text))
            return
        data = text.encode("utf-8", "surrogatepass")
        self._out += self._text_heads[len(data)] if len(data) < 256 else long_text_head(len(data), self.protocol)
        self._out += data
        self._kept.append(text)
        self._put(id(text))

    def _bytes(self, obj: bytes) -> Iterator[Any] | None:
        if self.protocol < 3:
            return self._called(obj, _ENCODE, (obj.decode("latin-1"), "latin1"))
        size = len(obj)
        if size < 256:
            self._out += bytes((CODE["SHORT_BINBYTES"], size))
        elif size <= 0xFFFFFFFF:
            self._out += OP_U4(OP["BINBYTES"], size)
        elif self.protocol >= 4:
            self._out += OP_U8(OP["BINBYTES8"], size)
        else:
            raise SaveError("bytes of more than 4 GiB", hint="Only pickle protocols 4 and 5 can hold them.")
        self._out += obj
        self._put(id(obj))
        return None

    def _bytearray(self, obj: bytearray) -> Iterator[Any] | None:
        if self.protocol < 5:
            return self._called(obj, _BYTEARRAY, (bytes(obj),) if obj else ())
        self._out += OP_U8(OP["BYTEARRAY8"], len(obj))
        self._out += obj
        self._put(id(obj))
        return None

    # Containers

    def _tuple(self, obj: tuple[Any, ...]) -> Iterator[Any] | None:
        if not obj:
            self._out += OP["EMPTY_TUPLE"]
            return None
        return self._tuple_items(obj)

    def _tuple_items(self, obj: tuple[Any, ...]) -> Iterator[Any]:
        short = len(obj) <= 3 and self.protocol >= 2
        if not short:
            self._out += _MARK
        yield from obj
        if id(obj) in self._memo:  # it contains itself, and was written on the way
            self._out += (_POP * len(obj) if short else _POP_MARK) + self._get(id(obj))
            return
        self._out += _SHORT_TUPLES[len(obj)] if short else _TUPLE
        self._put(id(obj))

    def _reconsider(self) -> None:
        self._patience = _PLAIN_OBJECTS + _PLAIN_PER_TENSOR * len(self._kept)
        if self._count > self._patience:
            raise SaveError("more plain objects than this pickler is made for")

    def _list(self, obj: list[Any]) -> Iterator[Any]:
        out = self._out
        out += OP["EMPTY_LIST"]
        self._put(id(obj))
        if len(obj) == 1:
            yield obj[0]
            out += OP["APPEND"]
            return
        items = iter(obj)
        for _ in range(0, len(obj), _BATCH):
            if self._count > self._patience:
                self._reconsider()
            out += _MARK
            yield from islice(items, _BATCH)
            out += OP["APPENDS"]

    def _dict(self, obj: dict[Any, Any]) -> Iterator[Any]:
        out, length = self._out, len(obj)
        out += OP["EMPTY_DICT"]
        self._put(id(obj))
        items = iter(obj.items())
        if length == 1:
            yield from next(items)
            out += OP["SETITEM"]
            return
        # A dictionary of exactly 1000 entries ends with an empty batch, as from Python's C pickler.
        for _ in range(0, length + 1 if length else 0, _BATCH):
            if self._count > self._patience:
                self._reconsider()
            out += _MARK
            yield from chain.from_iterable(islice(items, _BATCH))
            out += OP["SETITEMS"]

    def _set(self, obj: set[Any]) -> Iterator[Any]:
        if self.protocol < 4:
            yield from self._called(obj, _SET, (ordered(obj),))
            return
        self._out += OP["EMPTY_SET"]
        self._put(id(obj))
        items = iter(ordered(obj))
        for _ in range(0, len(obj) + 1 if obj else 0, _BATCH):
            self._out += _MARK
            yield from islice(items, _BATCH)
            self._out += OP["ADDITEMS"]

    def _frozenset(self, obj: frozenset[Any]) -> Iterator[Any]:
        if self.protocol < 4:
            yield from self._called(obj, _FROZENSET, (ordered(obj),))
            return
        self._out += _MARK
        yield from ordered(obj)
        if id(obj) in self._memo:
            self._out += _POP_MARK + self._get(id(obj))
            return
        self._out += OP["FROZENSET"]
        self._put(id(obj))

    # Names and calls

    def _type(self, obj: type) -> Iterator[Any] | None:
        return self._called(obj, _TYPE, (None,)) if obj is type(None) else self._global(named_type(obj))

    def _global(self, ref: GlobalRef) -> Iterator[Any] | None:
        module, name = spelled_name(ref, self.protocol)
        if (module, name) in self._memo:
            self._out += self._get((module, name))
            return None
        if self.protocol >= 4:
            self._text(intern(module))
            self._text(intern(name))
            self._out += OP["STACK_GLOBAL"]
        elif "\n" in module or "\n" in name:
            raise SaveError("a global's name has a line break", got=ref.full_name, hint="Only protocol 4 can hold it.")
        else:
            self._out += f"c{module}\n{name}\n".encode("utf-8", "surrogatepass")
        self._put((module, name))
        return None

    def _persistent(self, obj: Persistent) -> Iterator[Any]:
        self._kept.append(pid := (*obj.pid, *self._pid_tail))
        yield pid
        self._out += OP["BINPERSID"]

    def _called(self, obj: Any, function: GlobalRef, args: tuple[Any, ...]) -> Iterator[Any]:
        reduction = Reduction(function, args)
        self._kept.append(reduction)
        return self._reduction(obj, reduction)

    def _reduction(self, obj: Any, reduction: Reduction) -> Iterator[Any]:
        out = self._out
        if self._open[id(obj)] > 1:  # made of fresh arguments each time, as a Counter that holds itself: without end
            raise SaveError("an object stands inside of the arguments that make it")
        self._open[id(obj)] += 1
        yield from self._call(reduction)
        self._open[id(obj)] -= 1
        if id(obj) in self._memo:  # its arguments contain it
            out += _POP + self._get(id(obj))
            return
        self._put(id(obj))
        yield from self._batches(reduction.items, OP["APPEND"], OP["APPENDS"])
        yield from self._entries(reduction.entries)
        if reduction.state is not None:
            yield reduction.state
            out += _BUILD

    def _call(self, reduction: Reduction) -> Iterator[Any]:
        function, args = reduction.function, reduction.args
        if reduction.how == "reduce" and not reduction.kwargs:
            yield function
            yield args
            self._out += _REDUCE
        elif reduction.kwargs:
            yield from self._new_with_keywords(reduction)
        elif self.protocol >= 2:
            yield function
            yield args
            self._out += _NEWOBJ
        else:
            self._kept.append(args := (function, *args))
            yield _NEW
            yield args
            self._out += _REDUCE

    def _new_with_keywords(self, reduction: Reduction) -> Iterator[Any]:
        if self.protocol >= 4:
            yield reduction.function
            yield reduction.args
            yield reduction.kwargs
            self._out += OP["NEWOBJ_EX"]
            return
        self._kept.append(args := (reduction.function, reduction.args, reduction.kwargs))
        yield _NEW_WITH_KEYWORDS
        yield args
        self._out += _REDUCE

    def _batches(self, items: Iterable[Any], single: bytes, several: bytes) -> Iterator[Any]:
        iterator = iter(items)
        while batch := list(islice(iterator, _BATCH)):
            if len(batch) == 1:
                yield batch[0]
                self._out += single
            else:
                self._out += _MARK
                yield from batch
                self._out += several

    def _entries(self, entries: Iterable[tuple[Any, Any]]) -> Iterator[Any]:
        iterator = iter(entries)
        while batch := list(islice(iterator, _BATCH)):
            if self._count > self._patience:
                self._reconsider()
            self._out += _MARK if len(batch) > 1 else b""
            yield from chain.from_iterable(batch)
            self._out += OP["SETITEMS"] if len(batch) > 1 else OP["SETITEM"]

    # Tensors: thousands of nearly the same call

    def _tensor_writer(self, describe: Describe) -> Callable[[Any], Iterator[Any] | None]:
        """Return what writes objects that are described as tensors: in one step, where all names have been written."""
        memo, recipes, kept = self._memo, self._recipes, self._kept

        def write(obj: Any) -> Iterator[Any] | None:
            call = describe(obj)
            if type(call) is not tuple:
                return self._other(obj, call)
            pattern, key = call
            kept.append(call)
            recipe = recipes.get(pattern)
            if recipe is None or recipe.key_size != len(key):
                recipe = self._recipe(pattern, len(key))
            # The key may be an object that occurs elsewhere: Python has only one of each string of one character.
            if recipe is None or id(key) in memo:
                return self._called(obj, pattern.form.function, tensor_arguments(call))
            first = self._count
            last = memo[id(obj)] = first + recipe.puts - 1
            self._count = last + 1
            memo[id(key)] = first
            self._out += recipe.spell(key.encode(), first)
            return None

        return write

    def _recipe(self, pattern: TensorPattern, key_size: int) -> Recipe | None:
        """Return the spelling of the calls of a pattern, once all names in it have been written."""
        form, location = pattern.form, pattern.location
        refs = [form.function, form.storage, _ORDERED_DICT, *((form.dtype,) if form.dtype else ())]
        names = [*(spelled_name(ref, self.protocol) for ref in refs), id(STORAGE), id(location)]
        if not self._uses_recipes or not all(name in self._memo for name in names):
            return None
        function, storage, hooks, *dtype, mark, place = map(self._get, names)
        pid = (mark, storage, place, b"N" if self._pid_tail else b"")
        recipe = self._recipes[pattern] = tensor_recipe(pattern, key_size, function, pid, hooks, dtype)
        return recipe


# Spelled otherwise where they are empty, sorted, or known by another name.
_INEXACT: Final = (bytes, bytearray, set, frozenset, type)

_ENCODE: Final = GlobalRef("_codecs", "encode")
_BYTEARRAY: Final = GlobalRef("builtins", "bytearray")
_SET, _FROZENSET = GlobalRef("builtins", "set"), GlobalRef("builtins", "frozenset")
_TYPE: Final = GlobalRef("builtins", "type")
_ORDERED_DICT: Final = GlobalRef("collections", "OrderedDict")
_NEW: Final = GlobalRef("copyreg", "__newobj__")
_NEW_WITH_KEYWORDS: Final = GlobalRef("copyreg", "__newobj_ex__")
