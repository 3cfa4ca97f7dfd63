"""The opcodes of one tensor's call, written in one step: what `idiom` takes in one step on the way in.

A state_dict of 20,000 tensors is 20,000 times the same 28 opcodes; only the storage's key and the memo's indices
differ. The pickler writes the first such call opcode by opcode and the others from its recipe. A test compares the two.
"""

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Final

from weighlock.errors import SaveError
from weighlock.pickling.opcodes import CODE
from weighlock.pickling.reductions import TensorPattern
from weighlock.pickling.spellings import BYTE_INTS, OP, OP_U4, OP_U8, SHORT_PUTS

__all__ = ["Recipe", "long_text_head", "spell_decimal", "spell_int", "spell_long", "tensor_recipe"]

_TUPLES: Final = (OP["EMPTY_TUPLE"], OP["TUPLE1"], OP["TUPLE2"], OP["TUPLE3"])


def spell_long(value: int) -> bytes:
    """Return an integer of any size in protocol 2: as few bytes as hold its two's complement."""
    size = (value.bit_length() >> 3) + 1
    data = value.to_bytes(size, "little", signed=True)
    if value < 0 and size > 1 and data[-1] == 0xFF and data[-2] & 0x80:
        data = data[:-1]
    size = len(data)
    return (bytes((CODE["LONG1"], size)) if size < 256 else OP["LONG4"] + size.to_bytes(4, "little")) + data


def spell_decimal(value: int) -> bytes:
    """Return an integer of any size in protocol 1."""
    try:
        return f"L{value}L\n".encode()
    except ValueError as error:
        raise SaveError("the integer is too long for protocol 1", hint="Use protocol 2.") from error


def long_text_head(size: int, protocol: int) -> bytes:
    """Return what stands before a text of at least 256 bytes."""
    if size <= 0xFFFFFFFF:
        return OP_U4(OP["BINUNICODE"], size)
    if protocol >= 4:
        return OP_U8(OP["BINUNICODE8"], size)
    raise SaveError("a string of more than 4 GiB", hint="Only pickle protocols 4 and 5 can hold it.")


def spell_int(value: int) -> bytes:
    """Return a non-negative integer in the shortest form."""
    if value < 256:
        return BYTE_INTS[value]
    if value < 65536:
        return OP["BININT2"] + value.to_bytes(2, "little")
    return OP["BININT"] + value.to_bytes(4, "little") if value < 0x80000000 else spell_long(value)


def _spell_ints(values: tuple[int, ...]) -> bytes:
    """Return a tuple of integers, without its entry in the memo."""
    spelled = b"".join(map(spell_int, values))
    return spelled + _TUPLES[len(values)] if len(values) <= 3 else OP["MARK"] + spelled + OP["TUPLE"]


class Recipe:
    """A call with gaps: the storage's key, and the index of each entry in the memo.

    Parameters
    ----------
    pieces : list of bytes
        The key stands after the first; after each other one an entry is put into the memo.
    key_size : int
        Characters of the key.

    Attributes
    ----------
    puts : int
        How many entries the call puts into the memo.
    """

    __slots__ = ("_pack", "_pieces", "_used", "key_size", "puts")

    def __init__(self, pieces: list[bytes], key_size: int) -> None:
        self.puts = len(pieces) - 1
        self.key_size = key_size
        self._pieces = pieces
        self._used = 0
        self._pack: Callable[..., bytes] | None = None

    def spell(self, key: bytes, first: int) -> bytes:
        """Return the opcodes of one call, its first entry into the memo having the index `first`."""
        if self._pack is None or first < 256:
            return self._spell_by_piece(key, first)
        # Written out, since building the list of fields takes twice as long as packing it.
        if self.puts == 7:
            a, b, c, d, e, f, g, h = self._pieces
            return self._pack(
                a, key, b, first, c, first + 1, d, first + 2, e, first + 3, f, first + 4, g, first + 5, h, first + 6
            )
        a, b, c, d, e, f = self._pieces
        return self._pack(a, key, b, first, c, first + 1, d, first + 2, e, first + 3, f, first + 4)

    def _spell_by_piece(self, key: bytes, first: int) -> bytes:
        """Spell a call that occurs once, or one whose entries have small indices."""
        if first > 255:
            self._used += 1
            if self._used > 1:
                self._compile()
                return self.spell(key, first)
        parts = [self._pieces[0], key]
        for index, piece in enumerate(self._pieces[1:], first):
            parts += (piece, SHORT_PUTS[index] if index < 256 else OP_U4(b"r", index))
        return b"".join(parts)

    def _compile(self) -> None:
        self._pieces = [self._pieces[0], *(piece + OP["LONG_BINPUT"] for piece in self._pieces[1:])]
        head, *rest = map(len, self._pieces)
        self._pack = Struct(f"<{head}s{self.key_size}s" + "".join(f"{size}sI" for size in rest)).pack


def tensor_recipe(
    pattern: TensorPattern,
    key_size: int,
    function: bytes,
    storage: Sequence[bytes],
    hooks: bytes,
    rest: Sequence[bytes],
) -> Recipe:
    """Return the recipe of a call, given the opcodes that fetch each name in it from the memo.

    `storage` are those of the persistent id: its first word, the class, the location, and what the container adds
    behind it; `rest` those of the type, where the call names one.
    """
    mark, storage_class, location, tail = storage
    shape, stride = pattern.shape, pattern.stride
    head = OP["BINUNICODE"] + key_size.to_bytes(4, "little")
    pieces = [
        function + OP["MARK"] + OP["MARK"] + mark + storage_class + head,
        b"",
        location + spell_int(pattern.numel) + tail + OP["TUPLE"],
        OP["BINPERSID"] + spell_int(pattern.offset) + _spell_ints(shape),
        _spell_ints(stride),
        OP["NEWTRUE" if pattern.requires_grad else "NEWFALSE"] + hooks + OP["EMPTY_TUPLE"] + OP["REDUCE"],
        b"".join(rest) + OP["TUPLE"],
        OP["REDUCE"],
    ]
    if not shape:  # the empty tuple is not remembered, so three pieces are one
        pieces[3:6] = [b"".join(pieces[3:6])]
    return Recipe(pieces, key_size)
