"""The sequence of opcodes that makes up a state_dict, taken in one step.

Every tensor that `torch.save` writes is the same call, spelled in about 28 opcodes: a function, a persistent id
``('storage', class, key, location, numel)``, an offset, a size, a stride, a flag and an empty OrderedDict. One regular
expression recognises the spelling; what it does is exactly what the opcodes would have done one by one, memo entries
included. Anything spelled otherwise (the first tensor of a file, which introduces the names, for one) simply does not
match and takes the ordinary way. A test compares the two ways.

In `docs/performance.md`: this is worth a factor of two on a checkpoint of many small tensors.
"""

import re
from struct import Struct
from typing import Any, Final

__all__ = ["PATTERN", "take"]

_U4: Final = Struct("<I").unpack_from
_U2: Final = Struct("<H").unpack_from
_I4: Final = Struct("<i").unpack_from

_REF = rb"(?:h.|j.{4})"  # BINGET, LONG_BINGET
_PUT = rb"(?:q.|r.{4})"  # BINPUT, LONG_BINPUT
_INT = rb"(?:K.|M..|J.{4})"  # BININT1, BININT2, BININT
_INTS = (  # EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, MARK ... TUPLE
    rb"\)|(?:" + _INT + rb"\x85|" + _INT + rb"{2}\x86|" + _INT + rb"{3}\x87|\(" + _INT + rb"{4,8}t)"
)

PATTERN: Final = re.compile(
    rb"\(\((" + _REF + rb")(" + _REF + rb")"  # 1 'storage'; 2 the storage class
    rb"(?:X(.)\0\0\0([0-9]{1,20})(" + _PUT + rb")|(" + _REF + rb"))"  # 3 length, 4 key, 5 its put; or 6 a known key
    rb"(" + _REF + rb")(" + _INT + rb")t(" + _PUT + rb")Q"  # 7 location; 8 numel; 9 put of the persistent id
    rb"(" + _INT + rb")"  # 10 storage offset
    rb"(" + _INTS + rb")(" + _PUT + rb"?)(" + _INTS + rb")(" + _PUT + rb"?)"  # 11, 12 size; 13, 14 stride
    rb"([\x88\x89])(" + _REF + rb")\)R(" + _PUT + rb")"  # 15 requires_grad; 16 OrderedDict; 17 put of the hooks
    rb"t(" + _PUT + rb")R",  # 18 put of the arguments
    re.DOTALL,
).match

# Sizes, strides and small integers repeat endlessly within and between files. Dropped as a whole when full.
_ints_cache: dict[bytes, tuple[int, ...]] = {b")": ()}
_int_cache: dict[bytes, int] = {}
_CACHE_ENTRIES: Final = 8192


def _decode_int(raw: bytes) -> int:
    if raw[0] == 0x4B:
        return raw[1]
    return int(_U2(raw, 1)[0] if raw[0] == 0x4D else _I4(raw, 1)[0])


def _decode_ints(raw: bytes) -> tuple[int, ...]:
    found = _ints_cache.get(raw)
    if found is None:
        position, end, values = (1 if raw[0] == 0x28 else 0), len(raw) - 1, []
        while position < end:
            width = 2 if raw[position] == 0x4B else 3 if raw[position] == 0x4D else 5
            values.append(_decode_int(raw[position : position + width]))
            position += width
        if len(_ints_cache) > _CACHE_ENTRIES:
            _ints_cache.clear()
        found = _ints_cache[raw] = tuple(values)
    return found


def _index(raw: bytes) -> int:
    """Return the memo index of a get or put."""
    return raw[1] if len(raw) == 2 else int(_U4(raw, 1)[0])


def take(machine: Any, match: "re.Match[bytes]", call: Any) -> Any:
    """Do what the matched opcodes do; return the call's result, or None where they would not do the expected.

    Nothing has changed when None is returned.
    """
    # Reason for one flat body: it runs once per tensor, and a call per part costs as much as the part.
    memo = machine.memo
    (mark, kind, length, text, key_put, key_ref, place, count, pid_put, offset, size, size_put, stride, stride_put,
     flag, hooks_ref, hooks_put, args_put) = match.groups()  # fmt: skip
    make_hooks = memo[_index(hooks_ref)]
    hooks_call = machine.allowlist.calls.get(id(make_hooks))
    if hooks_call is None:
        return None
    if text is not None:
        if length[0] != len(text):
            return None
        key = text.decode("ascii")
    else:
        key = memo[_index(key_ref)]
    size_ints, stride_ints = _decode_ints(size), _decode_ints(stride)
    pid = (memo[_index(mark)], memo[_index(kind)], key, memo[_index(place)], _decode_int(count))
    if text is not None:
        memo[_index(key_put)] = key
    memo[_index(pid_put)] = pid
    if size_put:
        memo[_index(size_put)] = size_ints
    if stride_put:
        memo[_index(stride_put)] = stride_ints
    storage = machine.persistent_load(pid)
    hooks = memo[_index(hooks_put)] = hooks_call(machine.context, ())
    args = (storage, _decode_int(offset), size_ints, stride_ints, flag == b"\x88", hooks)
    memo[_index(args_put)] = args
    return call(machine.context, args)
