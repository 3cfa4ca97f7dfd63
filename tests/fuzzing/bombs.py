"""Files of a megabyte that ask for as much time and memory as they can: what the fuzzer makes is small."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable

from tests.corpus.writers import Entry, archive, checkpoint, pickled, records, tensor
from tests.old_writers import name, text

__all__ = ["BOMBS", "LARGEST"]

LARGEST = 1_000_000


def _filled(head: bytes, part: bytes, tail: bytes = b".", protocol: int = 4) -> bytes:
    """As many parts as go into the largest file."""
    start = b"\x80" + bytes((protocol,)) + head
    return start + part * ((LARGEST - len(start) - len(tail)) // len(part)) + tail


def _many(make: Callable[[int], bytes], head: bytes, tail: bytes) -> bytes:
    made, size, number = [b"\x80\x04", head], len(head) + len(tail) + 2, 0
    while size < LARGEST - 40:
        part = make(number)
        made.append(part)
        size += len(part)
        number += 1
    return b"".join(made) + tail


def _json(text_of: str) -> bytes:
    raw = text_of.encode()
    return struct.pack("<Q", len(raw)) + raw


def _deflated(part: bytes, *, framed: bool = False) -> bytes:
    """A megabyte that is worth 38 MB by what compressed records may be, and is a few opcodes again and again."""
    noise = random.Random(5).randbytes(900_000)
    body = b"B" + struct.pack("<I", len(noise)) + noise + b"0](" + part * ((35 << 20) // len(part)) + b"e."
    pickle = b"\x80\x04" + (b"\x95" + struct.pack("<Q", len(body)) if framed else b"") + body
    return archive([records(pickle)[0]._replace(method=8), *records(b"")[1:]])


_PRIME = (1 << 61) - 1
_TAR_HEAD = b"sys_info".ljust(100, b"\0") + b"0000644\0" * 3 + b"00000000000\0" * 2 + b"        0"
BOMBS: dict[str, Callable[[], bytes]] = {
    "lists in lists": lambda: b"\x80\x02" + b"]" * 499_000 + b"a" * 498_999 + b".",
    "tuples in tuples": lambda: _filled(b")", b"\x85"),
    "pairs of one pair": lambda: _filled(b"K\x01", b"2\x86"),
    "dictionaries in dictionaries": lambda: b"\x80\x02" + b"}N" * 333_000 + b"N" + b"s" * 333_000 + b".",
    "frozen sets in frozen sets": lambda: b"\x80\x04" + b"(" * 499_000 + b"\x91" * 499_000 + b".",
    "empty lists": lambda: _filled(b"](", b"]", b"e."),
    "empty dictionaries": lambda: _filled(b"](", b"}", b"e."),
    "empty sets": lambda: _filled(b"](", b"\x8f", b"e."),
    "deques": lambda: _filled(name("collections", "deque") + b"q\0](", b"h\0)R", b"e."),
    "ordered dictionaries": lambda: _filled(name("collections", "OrderedDict") + b"q\0](", b"h\0)R", b"e."),
    "defaultdicts": lambda: _filled(name("collections", "defaultdict") + b"q\0](", b"h\0)R", b"e."),
    "marks": lambda: _filled(b"", b"(", b"."),
    "floats": lambda: _filled(b"](", b"G" + bytes(8), b"e."),
    "memo": lambda: _filled(b"N", b"\x94"),
    "copies of a list": lambda: _filled(
        b"](" + b"K\x01" * 100_000 + b"eq\0c__builtin__\nset\nq\1](", b"h\1h\0\x85R", b"e."),
    "keys of one hash": lambda: _many(lambda n: b"\x8a\x10" + (n * _PRIME).to_bytes(16, "little") + b"N", b"}(", b"u."),
    "keys of pairs": lambda: _many(lambda n: b"J" + struct.pack("<i", n) + b"\x85\x85\x85N", b"}(", b"u."),
    "unknown classes": lambda: _many(lambda n: f"cm\nC{n}\n".encode(), b"](", b"e."),
    "unknown calls": lambda: _filled(b"cm\nC\nq\0](", b"h\0)R", b"e."),
    "unknown calls of calls": lambda: _filled(b"cm\nC\nq\0", b"\x85\x85R0h\0"),
    "states of unknown": lambda: _filled(b"cm\nC\n)\x81q\0", b"}b"),
    "joined text": lambda: _filled(name("operator", "add") + b"q\0" + text("ab"), b"q\1h\0h\1h\1\x86R"),
    "attributes": lambda: _filled(name("builtins", "getattr") + b"q\0cm\nC\n", b"q\1h\0h\1X\1\0\0\0a\x86R"),
    "long integers": lambda: _filled(b"](", b"\x8a\xff" + b"\x7f" * 255, b"e."),
    "one integer": lambda: b"\x80\x02\x8b" + struct.pack("<i", LARGEST - 8) + b"\x7f" * (LARGEST - 8) + b".",
    "digits": lambda: b"L" + b"9" * (LARGEST - 4) + b"L\n.",
    "tensors": lambda: checkpoint(
        _filled(b"](" + tensor() + b"q\xff", b"h\xff", b"e.", 2)[: LARGEST - 3000 - 2] + b"e."),
    "views": lambda: checkpoint(b"\x80\x02](" + tensor() * (900_000 // len(tensor())) + b"e."),
    "records": lambda: archive(records(pickled(b"N")) + [Entry(f"archive/{n}", b"") for n in range(8500)]),
    "deflated zeros": lambda: archive([*records(pickled(b"N")), Entry("archive/x", bytes(200 << 20), 8)]),
    "deflated pickle": lambda: archive(
        [e._replace(method=8) for e in records(b"\x80\x02]" + b"N0" * (40 << 20) + b".")[:1]] + records(b"")[1:]),
    "deflated, in proportion": lambda: _deflated(b"N0"),
    "deflated frame": lambda: _deflated(b"N0", framed=True),
    "deflated lists": lambda: _deflated(b"]"),
    "deflated text": lambda: _deflated(b"X\0\0\0\0"),
    "deflated numbers": lambda: _deflated(b"K\0"),
    "gzip": lambda: zlib.compress(bytes(300 << 20), 9, 31),
    "safetensors: names": lambda: _json("{" + ",".join(
        f'"{n}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for n in range(17_000)) + "}"),
    "safetensors: nesting": lambda: _json('{"a":' + "[" * 400_000 + "]" * 400_000 + "}"),
    "safetensors: lengths": lambda: _json(
        '{"a":{"dtype":"U8","shape":[' + "1," * 400_000 + '1],"data_offsets":[0,1]}}') + b"x",
    "npy: header": lambda: b"\x93NUMPY\2\0" + struct.pack("<I", LARGEST - 12) + b"{'descr': " + b"(" * (LARGEST - 22),
    "gguf: keys": lambda: (
        b"GGUF" + struct.pack("<I2Q", 3, 0, 1 << 40) + struct.pack("<QI", 0, 7).ljust(13, b"\1") * 69_000),
    "tar: members": lambda: (_TAR_HEAD.ljust(257, b"\0") + b"ustar").ljust(512, b"\0") * 1900,
}  # fmt: skip
