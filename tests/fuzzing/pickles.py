"""Pickles as lists of opcodes: taken apart by Python's own table (not by Weighlock's), changed, put together again.

Nothing is run. Where a pickle makes sense, the stretch of opcodes that makes each object is found, so that one object
can take the place of another and the pickle goes on making sense.
"""

from __future__ import annotations

import pickletools
import random
import struct
from collections.abc import Sequence
from functools import lru_cache

from tests.fuzzing.numbers import EDGES, MOST_BYTES, changed_bytes, edge, near

__all__ = [
    "EFFECT",
    "LEARNED",
    "LEGACY_MAGIC",
    "changed_pickle",
    "learn",
    "legacy_parts",
    "looks_like_pickle",
    "objects",
    "opcodes",
]

LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e"
"""What a legacy stream begins with."""

_LINE, _PAIR = -1, -9
_COUNTED = {-2: 1, -3: 4, -4: 4, -5: 8}
_ROWS = {ord(row.code): row for row in pickletools.opcodes}
_FORM = [_ROWS[code].arg.n if code in _ROWS and _ROWS[code].arg else 0 for code in range(256)]  # type: ignore[union-attr]
for _row in pickletools.opcodes:
    if _row.arg is not None and _row.arg.name.endswith("_pair"):
        _FORM[ord(_row.code)] = _PAIR
_CODES = bytes(_ROWS)
_STOP = ord(".")
# How much each opcode takes from the stack (below and above a mark) and gives.
EFFECT: dict[int, tuple[int, bool, int, bool]] = {}
for _row in pickletools.opcodes:
    _names = [item.name for item in _row.stack_before]
    _marked = "mark" in _names
    _below = _names.index("mark") if _marked else len(_names)
    EFFECT[ord(_row.code)] = (_below, _marked, len(_row.stack_after), _row.name == "MARK")

# Opcodes, objects and names of all files that were looked at: what is put into others.
LEARNED: tuple[list[bytes], list[bytes], list[bytes]] = ([], [], [])


def looks_like_pickle(data: bytes) -> bool:
    """Whether bytes begin as pickles of protocol 2 and later do, or end as all of them do."""
    return (data[:1] == b"\x80" and data[1:2] < b"\x08") or (data[-1:] == b"." and data[:1] in b"](}c)NKJMI")


@lru_cache(512)
def opcodes(data: bytes) -> tuple[tuple[bytes, ...], bytes]:
    """The opcodes up to STOP, or to what is none, each with its argument; and what stands behind them."""
    found, at = [], 0
    while at < len(data):
        end = _end(data, at)
        if end > len(data) or end <= at:
            break
        found.append(data[at:end])
        at = end
        if found[-1] == b".":
            break
    return tuple(found), data[at:]


def _end(data: bytes, at: int) -> int:
    code = data[at]
    if code not in _ROWS:
        return 0
    form = _FORM[code]
    if form >= 0:
        return at + 1 + form
    if form in _COUNTED:
        width = _COUNTED[form]
        return at + 1 + width + int.from_bytes(data[at + 1 : at + 1 + width], "little")
    end = data.find(b"\n", at + 1) + 1
    return data.find(b"\n", end) + 1 if form == _PAIR and end else end


@lru_cache(512)
def objects(pieces: tuple[bytes, ...]) -> tuple[tuple[int, int], ...]:
    """From which opcode to before which each object is made, as far as the stack can be followed."""
    spans: list[tuple[int, int]] = []
    stack: list[tuple[int, bool]] = []
    for index, piece in enumerate(pieces):
        below, marked, given, is_mark = EFFECT[piece[0]]
        start = index
        if marked:
            while stack:
                start, mark = stack.pop()
                if mark:
                    break
        if len(stack) < below:
            break
        for _ in range(below):
            start, _mark = stack.pop()
        if is_mark:
            stack.append((start, True))
        elif given:
            stack.extend([(start, False)] * given)
            spans.append((start, index + 1))
    return tuple(spans)


def legacy_parts(data: bytes) -> tuple[list[bytes], bytes]:
    """The five pickles of a legacy stream, or as many as there are, and what stands behind them."""
    parts: list[bytes] = []
    rest = data
    while len(parts) < 5 and rest:
        _, behind = opcodes(rest)
        parts.append(rest[: len(rest) - len(behind)])
        rest = behind
    return parts, rest


def learn(data: bytes) -> None:
    """Take the opcodes and objects of a pickle into what is put into others."""
    pieces, _ = opcodes(data)
    atoms, made, names = LEARNED
    atoms += [piece for piece in pieces if len(piece) < 100 and piece not in atoms[-400:]]
    names += [piece for piece in pieces if piece[:1] == b"c" and piece not in names]
    for start, end in objects(pieces):
        whole = b"".join(pieces[start:end])
        if end - start > 1 and len(whole) < 300 and whole not in made[-200:]:
            made.append(whole)


def changed_pickle(dice: random.Random, data: bytes) -> bytes:
    """Change a pickle, opcode by opcode or object by object, one to eight times."""
    found, rest = opcodes(data)
    pieces = list(found)
    for _ in range(dice.choice((1, 1, 1, 1, 2, 2, 3, 8))):
        dice.choice(_CHANGES)(dice, pieces)
        if sum(map(len, pieces)) > MOST_BYTES:
            pieces = list(found)
    made = b"".join(pieces)
    if dice.random() < 0.03:
        made = changed_bytes(dice, made)
    return made + rest


def _at(dice: random.Random, pieces: Sequence[bytes]) -> int:
    return dice.randrange(len(pieces)) if pieces else 0


def _drop(dice: random.Random, pieces: list[bytes]) -> None:
    at = _at(dice, pieces)
    del pieces[at : at + dice.choice((1, 1, 1, 2, 3, 8))]


def _double(dice: random.Random, pieces: list[bytes]) -> None:
    at = _at(dice, pieces)
    part = pieces[at : at + dice.choice((1, 1, 2, 3, 5, 20))]
    pieces[at:at] = part * dice.choice((1, 1, 1, 2, 3, 10, 60, 500))


def _swap(dice: random.Random, pieces: list[bytes]) -> None:
    if pieces:
        a, b = _at(dice, pieces), _at(dice, pieces)
        pieces[a], pieces[b] = pieces[b], pieces[a]


def _move(dice: random.Random, pieces: list[bytes]) -> None:
    at, size = _at(dice, pieces), dice.choice((1, 1, 2, 3, 5))
    part = pieces[at : at + size]
    del pieces[at : at + size]
    to = _at(dice, pieces)
    pieces[to:to] = part


def _insert(dice: random.Random, pieces: list[bytes]) -> None:
    at = _at(dice, pieces)
    if dice.random() < 0.5 and LEARNED[0]:
        pieces.insert(at, dice.choice(LEARNED[0]))
    else:
        pieces.insert(at, _any_opcode(dice))


def _splice(dice: random.Random, pieces: list[bytes]) -> None:
    """Put a stretch of another pickle in, or a whole object of it."""
    at = _at(dice, pieces)
    if dice.random() < 0.6 and LEARNED[1]:
        pieces.insert(at, dice.choice(LEARNED[1]))
    elif LEARNED[0]:
        start = dice.randrange(len(LEARNED[0]))
        pieces[at:at] = LEARNED[0][start : start + dice.randrange(1, 12)]


def _replace_object(dice: random.Random, pieces: list[bytes]) -> None:
    """One object in the place of another: of this pickle, of another one, or a plain value."""
    spans = objects(tuple(pieces))
    if not spans:
        return
    start, end = dice.choice(spans)
    kind = dice.random()
    if kind < 0.35:
        a, b = dice.choice(spans)
        new = pieces[a:b]
    elif kind < 0.7 and LEARNED[1]:
        new = [dice.choice(LEARNED[1])]
    else:
        new = [_value(dice)]
    pieces[start:end] = new


def _wrap_object(dice: random.Random, pieces: list[bytes]) -> None:
    """An object inside of others: tuples, lists, keys, calls."""
    spans = objects(tuple(pieces))
    if not spans:
        return
    start, end = dice.choice(spans)
    before, after = dice.choice((
        (b"", b"\x85"), (b"]", b"a"), (b"(", b"t"), (b"(", b"l"), (b"}", b"Ns"), (b"}N", b"s"), (b"(", b"d"),
        (b"", b"2\x86"), (b"(", b"\x91"), (b"", b"0N"), (b"(K\x01", b"1"), (b"\x8f(", b"\x90"),
        (_name(dice), b"\x85R"), (_name(dice), b"\x85\x81"), (_name(dice) + b")R", b"b"),
        (_name(dice) + b")\x81", b"b"),
        (_name(dice) + b")}", b"\x92"), (b"(", _name(dice)[1:].join((b"i", b""))), (b"(" + _name(dice), b"o"),
        (b"", b"Q"),
    ))  # fmt: skip
    times = dice.choice((1, 1, 1, 1, 2, 5, 70, 300)) if len(before) < 2 and len(after) < 2 else 1
    pieces[end:end] = list(opcodes(after)[0]) * times
    pieces[start:start] = list(opcodes(before)[0]) * times


def _rename(dice: random.Random, pieces: list[bytes]) -> None:
    """Another function or class in the place of one."""
    places = [i for i, piece in enumerate(pieces) if piece[:1] in (b"c", b"i", b"\x93")]
    if places:
        at = dice.choice(places)
        new = _name(dice)
        pieces[at] = b"i" + new[1:] if pieces[at][:1] == b"i" else (b"00" if pieces[at] == b"\x93" else b"") + new


def _argument(dice: random.Random, pieces: list[bytes]) -> None:
    """Another argument for one opcode: numbers at their edges, lengths that lie, other texts, other memo places."""
    places = [i for i, piece in enumerate(pieces) if len(piece) > 1]
    if places:
        at = dice.choice(places)
        pieces[at] = _other_argument(dice, pieces[at])


def _other_argument(dice: random.Random, piece: bytes) -> bytes:
    form = _FORM[piece[0]]
    if form > 0:
        value = int.from_bytes(piece[1:], "little")
        return piece[:1] + near(dice, value, form)
    if form in _COUNTED:
        width = _COUNTED[form]
        text = piece[1 + width :]
        kind = dice.random()
        if kind < 0.25:
            return piece[:1] + near(dice, len(text), width) + text
        text = changed_bytes(dice, text) if kind < 0.6 else dice.choice(_TEXTS)
        return piece[:1] + (len(text) % (1 << 8 * width)).to_bytes(width, "little") + text
    if dice.random() < 0.5:
        return piece[:1] + str(dice.choice(EDGES)).encode() + b"\n" + (b"x\n" if form == _PAIR else b"")
    return piece[:1] + changed_bytes(dice, piece[1:-1]) + b"\n"


_TEXTS = (
    b"", b"0", b"1", b"storage", b"module", b"cpu", b"cuda:0", b"meta", b"cuda:99", b"x" * 300, b"\xff\xfe", b"a.b.c",
    b"../../x", b"__class__", b"__dict__", b"items", b"_metadata", b"latin1", b"utf-7", b"torch.sparse_coo", b"f4",
    b"<f8", b"O8", b"V8", b"M8[ns]", b"|S9", b"1e999999999", b"9" * 400, b"\xed\xa0\x80", b"nan", b"os", b"system",
)  # fmt: skip


def _frame(dice: random.Random, pieces: list[bytes]) -> None:
    """PROTO, FRAME and STOP where they should not be, or not there."""
    at = dice.choice((0, 1, _at(dice, pieces), len(pieces)))
    kind = dice.randrange(4)
    if kind == 0:
        pieces.insert(at, b"\x80" + bytes((dice.choice((0, 1, 2, 3, 4, 5, 6, 255)),)))
    elif kind == 1:
        pieces.insert(at, b"\x95" + near(dice, sum(map(len, pieces[at:])), 8))
    elif kind == 2:
        pieces.insert(at, b".")
    else:
        pieces[:] = [piece for piece in pieces if piece != b"."]


def _memo(dice: random.Random, pieces: list[bytes]) -> None:
    """Objects put away and taken out again, at the same places and others."""
    at, where = _at(dice, pieces), dice.choice((0, 1, 2, 5, 255, 256, 70_000, 2**31, 2**32 - 1))
    short = bytes((where % 256,))
    put = dice.choice((b"q" + short, b"r" + struct.pack("<I", where), b"\x94", b"p%d\n" % where))
    got = dice.choice((b"h" + short, b"j" + struct.pack("<I", where), b"g%d\n" % where))
    pieces.insert(at, put)
    pieces.insert(dice.choice((at + 1, _at(dice, pieces))), got)


def _name(dice: random.Random) -> bytes:
    if LEARNED[2] and dice.random() < 0.9:
        return dice.choice(LEARNED[2])
    return dice.choice((b"cos\nsystem\n", b"cbuiltins\ngetattr\n", b"c__main__\nNet\n", b"c\n\n", b"c.\n.\n"))


def _value(dice: random.Random) -> bytes:
    kind = dice.randrange(6)
    if kind == 0:
        return b"J" + edge(dice, 4)
    if kind == 1:
        width = dice.choice((0, 1, 4, 8, 9, 16, 255))
        return b"\x8a" + bytes((width,)) + bytes(dice.choice((0, 1, 127, 128, 255)) for _ in range(width))
    if kind == 2:
        text = dice.choice(_TEXTS)
        return dice.choice((b"X", b"B", b"T")) + struct.pack("<I", len(text)) + text
    if kind == 3:
        return b"G" + struct.pack(">d", dice.choice((0.0, -0.0, 1e308, float("inf"), float("nan"), 0.5)))
    if kind == 4:
        return _name(dice)
    return dice.choice(
        (b"N", b"\x88", b"\x89", b")", b"]", b"}", b"\x8f", b"K\x07", b"(t", b"h\x00", b"L5L\n", b"I01\n")
    )


def _any_opcode(dice: random.Random) -> bytes:
    code = dice.choice(_CODES)
    form = _FORM[code]
    if form >= 0:
        return bytes((code,)) + bytes(dice.choice((0, 1, 2, 5, 255)) for _ in range(form))
    text = dice.choice(_TEXTS)
    if form in _COUNTED:
        width = _COUNTED[form]
        return bytes((code,)) + (len(text) % (1 << 8 * width)).to_bytes(width, "little") + text
    return bytes((code,)) + text + b"\n" + (b"y\n" if form == _PAIR else b"")


_CHANGES = (
    _drop, _double, _swap, _move, _insert, _splice, _replace_object, _replace_object, _wrap_object, _wrap_object,
    _rename,
    _argument, _argument, _argument, _frame, _memo,
)  # fmt: skip
