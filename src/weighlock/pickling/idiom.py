"""The sequence of opcodes that makes up a state_dict, taken in one step.

Every tensor that `torch.save` writes is the same call, spelled in about 28 opcodes: a function, a persistent id
``('storage', class, key, location, numel)``, an offset, a size, a stride, a flag and an empty OrderedDict. One regular
expression recognises the spelling; what it does is exactly what the opcodes would have done one by one, memo entries
included. Anything spelled otherwise (the first tensor of a file, which introduces the names, for one) simply does not
match and takes the ordinary way. A test compares the two ways.

`columns` takes many such calls at once; this is for those that stand alone, such as the states of an optimizer.
"""

import re
from collections.abc import Callable
from struct import Struct
from typing import Any, Final

__all__ = ["INT", "INTS", "REF", "decode_int", "decode_ints", "index_of", "take"]

_U4: Final = Struct("<I").unpack_from
_U2: Final = Struct("<H").unpack_from
_I4: Final = Struct("<i").unpack_from

REF: Final = rb"(?:h.|j.{4})"  # BINGET, LONG_BINGET
INT: Final = rb"(?:K.|M..|J.{4})"  # BININT1, BININT2, BININT
INTS: Final = (  # TUPLE1, TUPLE2, TUPLE3, MARK ... TUPLE
    rb"(?:" + INT + rb"\x85|" + INT + rb"{2}\x86|" + INT + rb"{3}\x87|\(" + INT + rb"{4,8}t)"
)


def _pattern(put: bytes) -> Callable[[bytes, int], "re.Match[bytes] | None"]:
    """Return the idiom with all its puts in one form: mixed forms are rare (one tensor per file), and slower."""
    return re.compile(
        rb"\(\(h(.)(" + REF + rb")X(.)\0\0\0([0-9]{1,20})" + put  # 1 'storage'; 2 class; 3 length, 4 key, 5 its put
        + rb"(" + REF + rb")(" + INT + rb")(N?)t" + put + rb"Q"  # 6 location; 7 numel; 8 None (legacy); 9 put of the id
        + rb"(" + INT + rb")"  # 10 storage offset
        + rb"(" + INTS + rb")" + put + rb"(" + INTS + rb")" + put  # 11, 12 size; 13, 14 stride
        + rb"([\x88\x89])h(.)\)R" + put  # 15 requires_grad; 16 OrderedDict; 17 put of the hooks
        + rb"t" + put + rb"R",  # 18 put of the arguments
        re.DOTALL,
    ).match  # fmt: skip


_SHORT_PUTS: Final = _pattern(rb"q(.)")
_LONG_PUTS: Final = _pattern(rb"r(.{4})")
_SIX_BYTES: Final = Struct("<6B").unpack
_SIX_WORDS: Final = Struct("<6I").unpack
_SHORT: Final = _SHORT_PUTS, _SIX_BYTES
_LONG: Final = _LONG_PUTS, _SIX_WORDS
_SHORT_INDICES: Final = 255

# Sizes, strides and small integers repeat endlessly within and between files. Dropped as a whole when full.
_ints_cache: dict[bytes, tuple[int, ...]] = {}
_int_cache: dict[bytes, int] = {}
_CACHE_ENTRIES: Final = 8192


def decode_int(raw: bytes) -> int:
    """Return the integer that an opcode pushes."""
    if raw[0] == 0x4B:
        return raw[1]
    value = int(_U2(raw, 1)[0] if raw[0] == 0x4D else _I4(raw, 1)[0])
    if len(_int_cache) > _CACHE_ENTRIES:
        _int_cache.clear()
    _int_cache[raw] = value
    return value


def decode_ints(raw: bytes) -> tuple[int, ...]:
    """Return the tuple of integers that some opcodes push."""
    found = _ints_cache.get(raw)
    if found is None:
        position, end, values = (1 if raw[0] == 0x28 else 0), len(raw) - 1, []
        while position < end:
            width = 2 if raw[position] == 0x4B else 3 if raw[position] == 0x4D else 5
            values.append(decode_int(raw[position : position + width]))
            position += width
        if len(_ints_cache) > _CACHE_ENTRIES:
            _ints_cache.clear()
        found = _ints_cache[raw] = tuple(values)
    return found


def index_of(raw: bytes) -> int:
    """Return the memo index of a get."""
    return raw[1] if len(raw) == 2 else int(_U4(raw, 1)[0])


def take(machine: Any, data: bytes, position: int, call: Any) -> int:
    """Do what the opcodes at `position` do, if they are the idiom: replace the function on the stack by its result.

    Returns the position behind them; `position` itself, with nothing changed, where they are something else.
    """
    # Reason for one flat body: it runs once per tensor, and a call per part costs as much as the part.
    # An index of the memo takes one byte, and four from the 257th on.
    memo = machine.memo
    many = type(memo) is not dict or len(memo) > _SHORT_INDICES
    first, second = (_LONG, _SHORT) if many else (_SHORT, _LONG)
    pattern, unpack = first
    match = pattern(data, position)
    if match is None:
        pattern, unpack = second
        match = pattern(data, position)
        if match is None:
            return position
    (mark, kind, length, text, put1, place, count, none, put2, offset, size, put3, stride, put4, flag, hooks_ref, put5,
     put6) = match.groups()  # fmt: skip
    make_hooks = machine.calls.get(id(memo[hooks_ref[0]]))
    if make_hooks is None or length[0] != len(text):
        return position
    at_key, at_pid, at_size, at_stride, at_hooks, at_args = unpack(put1 + put2 + put3 + put4 + put5 + put6)
    located = place[1] if len(place) == 2 else index_of(place)
    if located == at_key or hooks_ref[0] in (at_key, at_pid, at_size, at_stride):
        return position  # what is looked up here is about to be replaced
    key = text.decode("ascii")
    pid = (
        memo[mark[0]], memo[kind[1] if len(kind) == 2 else index_of(kind)], key,
        memo[located], _int_cache.get(count) or decode_int(count),
    )  # fmt: skip
    if none:
        pid = (*pid, None)  # type: ignore[assignment]
    memo[at_key] = key
    memo[at_pid] = pid
    sizes = memo[at_size] = _ints_cache.get(size) or decode_ints(size)
    strides = memo[at_stride] = _ints_cache.get(stride) or decode_ints(stride)
    storage = machine.persistent_load(pid)
    hooks = memo[at_hooks] = make_hooks(machine.context, ())
    args = memo[at_args] = (
        storage, _int_cache.get(offset) or decode_int(offset), sizes, strides, flag == b"\x88", hooks
    )  # fmt: skip
    machine.stack[-1] = call(machine.context, args)
    return match.end()
