"""The opcodes of one tensor's call, written in one step: what `idiom` takes in one step on the way in.

A state_dict of 20,000 tensors is 20,000 times the same 28 opcodes; only the storage's key and the memo's indices
differ. The pickler writes the first such call opcode by opcode and the others from its recipe. A test compares the two.
"""

from struct import Struct
from typing import Final

from weighlock.pickling.opcodes import CODE
from weighlock.pickling.reductions import TensorCall

__all__ = ["Recipe", "spell_int", "spell_long", "tensor_recipe"]

_OP: Final = {name: bytes([code]) for name, code in CODE.items()}
_TUPLES: Final = (_OP["EMPTY_TUPLE"], _OP["TUPLE1"], _OP["TUPLE2"], _OP["TUPLE3"])


def spell_long(value: int) -> bytes:
    """Return an integer of any size in protocol 2: as few bytes as hold its two's complement."""
    size = (value.bit_length() >> 3) + 1
    data = value.to_bytes(size, "little", signed=True)
    if value < 0 and size > 1 and data[-1] == 0xFF and data[-2] & 0x80:
        data = data[:-1]
    size = len(data)
    return (bytes((CODE["LONG1"], size)) if size < 256 else _OP["LONG4"] + size.to_bytes(4, "little")) + data


def spell_int(value: int) -> bytes:
    """Return a non-negative integer in the shortest form."""
    if value < 256:
        return _OP["BININT1"] + bytes([value])
    if value < 65536:
        return _OP["BININT2"] + value.to_bytes(2, "little")
    return _OP["BININT"] + value.to_bytes(4, "little") if value < 0x80000000 else spell_long(value)


def _spell_ints(values: tuple[int, ...]) -> bytes:
    """Return a tuple of integers, without its entry in the memo."""
    spelled = b"".join(map(spell_int, values))
    return spelled + _TUPLES[len(values)] if len(values) <= 3 else _OP["MARK"] + spelled + _OP["TUPLE"]


class Recipe:
    """A call with gaps: the storage's key, and the index of each entry in the memo.

    Parameters
    ----------
    pieces : list of bytes
        The key stands after the first; after each other one comes LONG_BINPUT.
    key_size : int
        Characters of the key.
    """

    __slots__ = ("_pack", "_pieces", "puts")

    def __init__(self, pieces: list[bytes], key_size: int) -> None:
        self.puts = len(pieces) - 1
        self._pieces = (pieces[0], *(piece + _OP["LONG_BINPUT"] for piece in pieces[1:]))
        head, *rest = map(len, self._pieces)
        self._pack = Struct(f"<{head}s{key_size}s" + "".join(f"{size}sI" for size in rest)).pack

    def spell(self, key: bytes, first: int) -> bytes:
        """Return the opcodes of one call, its first entry into the memo having the index `first`."""
        # Written out, since building the list of fields takes twice as long as packing it.
        if self.puts == 7:
            a, b, c, d, e, f, g, h = self._pieces
            return self._pack(
                a, key, b, first, c, first + 1, d, first + 2, e, first + 3, f, first + 4, g, first + 5, h, first + 6
            )
        a, b, c, d, e, f = self._pieces
        return self._pack(a, key, b, first, c, first + 1, d, first + 2, e, first + 3, f, first + 4)


def tensor_recipe(
    call: TensorCall, function: bytes, storage: tuple[bytes, bytes, bytes], hooks: bytes, dtype: list[bytes]
) -> Recipe:
    """Return the recipe of a call, given the opcodes that fetch each name in it from the memo.

    `storage` are those of the persistent id: its first word, the class, and the location.
    """
    _, key, _, numel, offset, shape, stride = call
    mark, storage_class, location = storage
    head = _OP["BINUNICODE"] + len(key).to_bytes(4, "little")
    pieces = [
        function + _OP["MARK"] + _OP["MARK"] + mark + storage_class + head,
        b"",
        location + spell_int(numel) + _OP["TUPLE"],
        _OP["BINPERSID"] + spell_int(offset) + _spell_ints(shape),
        _spell_ints(stride),
        _OP["NEWFALSE"] + hooks + _OP["EMPTY_TUPLE"] + _OP["REDUCE"],
        b"".join(dtype) + _OP["TUPLE"],
        _OP["REDUCE"],
    ]
    if not shape:  # the empty tuple is not remembered, so three pieces are one
        pieces[3:6] = [b"".join(pieces[3:6])]
    return Recipe(pieces, len(key))
