"""Opcodes as bytes, and those with a small argument ready made: what a pickle is written with."""

from struct import Struct
from typing import Final

from weighlock.pickling.opcodes import CODE

__all__ = [
    "BYTE_INTS",
    "OP",
    "OP_F8",
    "OP_I4",
    "OP_U2",
    "OP_U4",
    "OP_U8",
    "SHORT_GETS",
    "SHORT_PUTS",
    "SHORT_TEXT_HEADS",
    "TEXT_HEADS",
]

OP: Final = {name: bytes([code]) for name, code in CODE.items()}

# An opcode with its argument in binary.
OP_U2: Final = Struct("<cH").pack
OP_U4: Final = Struct("<cI").pack
OP_U8: Final = Struct("<cQ").pack
OP_I4: Final = Struct("<ci").pack
OP_F8: Final = Struct(">cd").pack

# The same for every argument of one byte.
BYTE_INTS: Final = tuple(OP["BININT1"] + bytes([value]) for value in range(256))
SHORT_PUTS: Final = tuple(OP["BINPUT"] + bytes([index]) for index in range(256))
SHORT_GETS: Final = tuple(OP["BINGET"] + bytes([index]) for index in range(256))
TEXT_HEADS: Final = tuple(OP_U4(OP["BINUNICODE"], size) for size in range(256))
SHORT_TEXT_HEADS: Final = tuple(OP["SHORT_BINUNICODE"] + bytes([size]) for size in range(256))
