"""THE table of pickle opcodes, protocols 0 to 5: one row per opcode.

The names and argument forms are those of Python's `pickletools`, which documents each opcode. Decoder, machine,
scanner and tests read this table; there is no second one.
"""

from typing import Final, NamedTuple

__all__ = ["BY_CODE", "OPCODES", "Opcode"]


class Opcode(NamedTuple):
    """One opcode: its byte, name, argument form (a key of `decoder.READERS`) and the protocol it came with."""

    code: int
    name: str
    argument: str
    protocol: int


_ROWS: Final = """
( MARK - 0            . STOP - 0            0 POP - 0             1 POP_MARK - 1        2 DUP - 0
F FLOAT floatnl 0     I INT decimalnl 0     J BININT i4 1         K BININT1 u1 1        L LONG longnl 0
M BININT2 u2 1        N NONE - 0            P PERSID line 0       Q BINPERSID - 1       R REDUCE - 0
S STRING stringnl 0   T BINSTRING string4 1 U SHORT_BINSTRING string1 1                 V UNICODE unicodenl 0
X BINUNICODE unicode4 1                     a APPEND - 0          b BUILD - 0           c GLOBAL pair 0
d DICT - 0            } EMPTY_DICT - 1      e APPENDS - 1         g GET keynl 0     h BINGET u1 1
i INST pair 0         j LONG_BINGET u4 1    l LIST - 0            ] EMPTY_LIST - 1      o OBJ - 1
p PUT keynl 0     q BINPUT u1 1         r LONG_BINPUT u4 1    s SETITEM - 0         t TUPLE - 0
) EMPTY_TUPLE - 1     u SETITEMS - 1        G BINFLOAT f8 1       B BINBYTES bytes4 3   C SHORT_BINBYTES bytes1 3
80 PROTO u1 2         81 NEWOBJ - 2         82 EXT1 u1 2          83 EXT2 u2 2          84 EXT4 i4 2
85 TUPLE1 - 2         86 TUPLE2 - 2         87 TUPLE3 - 2         88 NEWTRUE - 2        89 NEWFALSE - 2
8a LONG1 long1 2      8b LONG4 long4 2      8c SHORT_BINUNICODE unicode1 4              8d BINUNICODE8 unicode8 4
8e BINBYTES8 bytes8 4 8f EMPTY_SET - 4      90 ADDITEMS - 4       91 FROZENSET - 4      92 NEWOBJ_EX - 4
93 STACK_GLOBAL - 4   94 MEMOIZE - 4        95 FRAME u8 4         96 BYTEARRAY8 bytes8 5
97 NEXT_BUFFER - 5    98 READONLY_BUFFER - 5
"""


def _parse() -> tuple[Opcode, ...]:
    words = _ROWS.split()
    rows = zip(words[::4], words[1::4], words[2::4], words[3::4], strict=True)
    return tuple(
        Opcode(ord(code) if len(code) == 1 else int(code, 16), name, argument, int(protocol))
        for code, name, argument, protocol in rows
    )


OPCODES: Final = _parse()
BY_CODE: Final = {row.code: row for row in OPCODES}
CODE: Final = {row.name: row.code for row in OPCODES}
