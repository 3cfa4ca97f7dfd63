"""One change of a file by what it is: the same file and the same number give the same result on every machine."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

from tests.fuzzing.archives import changed_archive, looks_like_archive
from tests.fuzzing.numbers import EDGES, MOST_BYTES, changed_bytes, edge, near
from tests.fuzzing.pickles import LEGACY_MAGIC, changed_pickle, legacy_parts, looks_like_pickle
from tests.fuzzing.sound_files import changed_file

__all__ = ["SOUND", "kind_of", "mutated"]

SOUND = 1 << 40
"""Numbers from here on make files that are still loadable, wherever the file's kind allows that."""


def mutated(data: bytes, number: int) -> bytes:
    """The file that `number` makes of `data`."""
    dice = random.Random(number)
    made = changed_file(dice, data) if number >= SOUND else None
    return _changed(dice, data) if made is None else _bounded(made, data)


def kind_of(data: bytes) -> str:
    """What structure is seen in a file; wrong guesses do no harm."""
    return next((kind for kind, fits, _ in _KINDS if fits(data)), "bytes")


def _changed(dice: random.Random, data: bytes) -> bytes:
    if dice.random() < 0.06:
        return _bounded(changed_bytes(dice, data), data)
    change = next((change for _, fits, change in _KINDS if fits(data)), changed_bytes)
    return _bounded(change(dice, data), data)


def _bounded(made: bytes, data: bytes) -> bytes:
    return made if len(made) <= max(MOST_BYTES, len(data) + 4096) else made[:MOST_BYTES]


# ------------------------------------------------------------------------------------------------- the legacy stream


def _changed_legacy(dice: random.Random, data: bytes) -> bytes:
    """Five pickles, then for each storage a count of elements and its bytes."""
    parts, rest = legacy_parts(data)
    kind = dice.random()
    index = dice.randrange(len(parts))
    if kind < 0.5:
        index = dice.choice((3, 3, 3, 3, 4, 4, 0, 1, 2)) % len(parts)
        parts[index] = changed_pickle(dice, parts[index])
    elif kind < 0.65 and len(rest) >= 8:
        at = 0 if dice.random() < 0.7 else dice.randrange(len(rest) - 7)
        rest = rest[:at] + near(dice, int.from_bytes(rest[at : at + 8], "little"), 8) + rest[at + 8 :]
    elif kind < 0.75:
        rest = dice.choice((changed_bytes(dice, rest), b"", rest + rest, rest[:8], bytes(8) + rest))
    elif kind < 0.85:
        parts[index : index + 1] = dice.choice(([], [parts[index]] * 2, [parts[index]] * 40, [dice.choice(parts)]))
    else:
        made = (
            b"\x80\x02"
            + dice.choice((b"\x8a\x08", b"J", b"M", b"X", b"}", b"]", b"N", b"(", b"\x8a\xff"))
            + edge(dice, 4)
        )
        parts[index] = made + b"."
    return b"".join(parts) + rest


# --------------------------------------------------------------------------------------------- tar, NumPy, and others


def _changed_tar(dice: random.Random, data: bytes) -> bytes:
    members: list[list[bytes]] = []
    at = 0
    while at + 512 <= len(data) and data[at : at + 1] != b"\0" and len(members) < 50:
        head = data[at : at + 512]
        try:
            size = int(head[124:135].strip(b"\0 ") or b"0", 8)
        except ValueError:
            break
        members.append([head, data[at + 512 : at + 512 + size]])
        at += 512 + -(-size // 512) * 512
    if not members:
        return changed_bytes(dice, data)
    for _ in range(dice.choice((1, 1, 2))):
        _change_member(dice, members)
    return b"".join(head + body + bytes(-len(body) % 512) for head, body in members) + bytes(1024)


def _change_member(dice: random.Random, members: list[list[bytes]]) -> None:
    index = dice.randrange(len(members))
    head, body = members[index]
    kind = dice.random()
    if kind < 0.6:
        body = _changed_stream(dice, body)
        head = head[:124] + b"%011o\0" % len(body) + head[136:]
    elif kind < 0.75:
        start, width = dice.choice(((0, 100), (100, 8), (124, 12), (148, 8), (156, 1), (257, 8), (345, 155)))
        field = dice.choice(
            (b"-1", b"7" * width, b"\xff" * width, b"\0" * width, b"pickle\0", b"L", b"x", b"\x80" + bytes(11))
        )
        head = head[:start] + field[:width].ljust(width, b"\0") + head[start + width :]
    elif kind < 0.9:
        members[index:index] = [members[dice.randrange(len(members))]]
        return
    else:
        del members[index]
        if not members:
            members.append([head, body])
        return
    if dice.random() < 0.95:
        blank = head[:148] + b" " * 8 + head[156:]
        head = head[:148] + b"%06o\0 " % sum(blank) + head[156:]
    members[index] = [head, body]


def _changed_stream(dice: random.Random, data: bytes) -> bytes:
    """Pickles with numbers between them: one pickle changed, or one number."""
    starts = [at for at in range(len(data)) if data[at : at + 2] == b"\x80\x02"]
    if starts and dice.random() < 0.7:
        at = dice.choice(starts)
        return data[:at] + changed_pickle(dice, data[at:])
    if len(data) > 8:
        at = dice.randrange(len(data) - 7)
        return data[:at] + near(dice, int.from_bytes(data[at : at + 8], "little"), 8) + data[at + 8 :]
    return changed_bytes(dice, data)


_NPY_WORDS = (
    "'descr'", "'fortran_order'", "'shape'", "'<f4'", "'|O'", "'>i8'", "'V0'", "'<U99999999'", "'|S0'", "'M8[ns]'",
    "'c16'",
    "[('a', '<f4'), ('b', '|O')]", "[('a', '<i4', (2, 3))]", "(0,)", "(2, 3)", "(-1,)", "(1<<40,)", "(2**63, 2)", "()",
    "(3,", "True", "False", "None", "1e9", "__import__('os')", "{}", "[" * 300, "(" * 3000, "'" * 9, "(9999999999,)",
    "(1,) * 999", "'<f4', " * 50, "\0", "\n",
)  # fmt: skip


def _changed_npy(dice: random.Random, data: bytes) -> bytes:
    wide = data[6:7] > b"\x01"
    start = 12 if wide else 10
    length = int.from_bytes(data[8:start], "little")
    header, body = data[start : start + length].decode("latin1"), data[start + length :]
    kind = dice.random()
    version, said = data[6:8], None
    if kind < 0.1:
        version = bytes((dice.choice((0, 1, 2, 3, 4, 255)), dice.choice((0, 0, 1))))
    elif kind < 0.2:
        said = near(dice, length, 4 if wide else 2)
    elif kind < 0.35:
        body = _changed(dice, body) if body[:1] == b"\x80" else changed_bytes(dice, body)
    else:
        words = [word for word in _NPY_WORDS if word in header] + [part for part in header.split(" ") if part]
        header = header.replace(dice.choice(words), dice.choice(_NPY_WORDS), 1) if words else dice.choice(_NPY_WORDS)
    raw = header.encode("latin1")
    width = 4 if version[:1] > b"\x01" else 2
    return b"\x93NUMPY" + version + (said or (len(raw) % (1 << 8 * width)).to_bytes(width, "little")) + raw + body


def _changed_safetensors(dice: random.Random, data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    kind = dice.random()
    if kind < 0.1:
        return near(dice, length, 8) + header + body
    if kind < 0.2:
        body = changed_bytes(dice, body)
    else:
        header = changed_json(dice, header)
    return struct.pack("<Q", len(header)) + header + body


def _changed_gguf(dice: random.Random, data: bytes) -> bytes:
    """Numbers of four and eight bytes at any place of the header; the whole of the header is such numbers and texts."""
    made = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 3))):
        width = dice.choice((4, 8, 8))
        limit = max(min(len(made) - 8, 1200), 1)
        at = dice.choice((4, 8, 16, dice.randrange(limit), dice.randrange(limit), dice.randrange(limit)))
        order = dice.choice(("little", "little", "big"))
        value = int.from_bytes(made[at : at + width], order)  # type: ignore[arg-type]
        new = near(dice, value, width)
        made[at : at + width] = new if order == "little" else new[::-1]
    return bytes(made) if dice.random() < 0.9 else changed_bytes(dice, bytes(made))


_JSON_WORDS = (
    "dtype", "shape", "data_offsets", "__metadata__", "weight_map", "metadata", "total_size", "F32", "F64",
    "BF16", "I8", "U8",
    "BOOL", "F8_E4M3", "F4", "F6_E2M3", "C64", "X", "", "../x", "/etc/passwd", "a\x00b", "\ud800", "model.safetensors",
    "weighlock", "{}", "[1]", "format", "pt",
)  # fmt: skip


def changed_json(dice: random.Random, text: bytes) -> bytes:
    """Change a document as a tree, or as text."""
    if dice.random() < 0.2:
        return _changed_json_text(dice, text)
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return changed_bytes(dice, text)
    places: list[tuple[Any, Any]] = []
    todo = [tree]
    while todo:
        here = todo.pop()
        for key in here if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ():
            places.append((here, key))
            todo.append(here[key])
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        if places:
            _change_place(dice, *dice.choice(places), places)
    return json.dumps(tree, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")


def _change_place(dice: random.Random, here: Any, key: Any, places: list[tuple[Any, Any]]) -> None:
    if key not in here if isinstance(here, dict) else key >= len(here):
        return
    kind = dice.randrange(6)
    if kind == 0:
        del here[key]
    elif kind == 1 and isinstance(here, dict):
        here[dice.choice(_JSON_WORDS)] = here.pop(key)
    elif kind == 2 and isinstance(here, list):
        here[key:key] = [here[key]] * dice.choice((1, 2, 60, 1000))
    elif kind == 3:
        other, where = dice.choice(places)
        found = other.get(where) if isinstance(other, dict) else other[where] if where < len(other) else None
        here[key] = found if isinstance(found, str | int | float) or found is None else json.loads(json.dumps(found))
    elif isinstance(here[key], int) and dice.random() < 0.6:
        here[key] += dice.choice((1, -1, 4, -4, 8, -8))
    else:
        here[key] = dice.choice(
            (dice.choice(EDGES), dice.choice(_JSON_WORDS), 1.5, 1e400, None, True, [], {}, [0, 4], "x" * 999)
        )


def _changed_json_text(dice: random.Random, text: bytes) -> bytes:
    at = dice.randrange(len(text) + 1)
    junk = dice.choice(
        (b"[" * 5000, b'{"a":' * 3000, b"9" * 6000, b"1e999", b"NaN", b"-", b"\\u0000", b'"', b",", b"}", b"\xff", b" ")
    )
    if dice.random() < 0.3:  # a name twice
        return text[:1] + b'"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},' * dice.choice((1, 2)) + text[1:]
    return text[:at] + junk + text[at + dice.choice((0, 0, 1, 3)) :]


_KINDS: tuple[tuple[str, Callable[[bytes], bool], Callable[[random.Random, bytes], bytes]], ...] = (
    ("zip", looks_like_archive, lambda dice, data: changed_archive(dice, data, _changed)),
    ("legacy", lambda data: data.startswith(LEGACY_MAGIC), _changed_legacy),
    ("npy", lambda data: data.startswith(b"\x93NUMPY"), _changed_npy),
    ("gguf", lambda data: data.startswith(b"GGUF"), _changed_gguf),
    ("tar", lambda data: data[257:262] == b"ustar", _changed_tar),
    ("safetensors", lambda data: data[8:9] == b"{" and data[3:8] == bytes(5), _changed_safetensors),
    ("json", lambda data: data[:1] == b"{" and b"weight_map" in data, changed_json),
    ("pickle", looks_like_pickle, changed_pickle),
)
