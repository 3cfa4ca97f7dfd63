"""Numbers, texts and changes of plain bytes that break readers: shared by all mutations."""

from __future__ import annotations

import random
import struct

__all__ = ["EDGES", "MOST_BYTES", "changed_bytes", "edge", "near"]

MOST_BYTES = 1 << 16
"""No mutation makes a file longer than this, or than the file it began with."""

EDGES = (
    0, 1, 2, 3, 4, 6, 7, 8, 63, 64, 65, 127, 128, 255, 256, 1000, 4095, 4096, 32767, 32768, 65535, 65536, 2**24,
    2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**33, 2**40, 2**53, 2**61 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -1, -2, -7,
    -128, -(2**31), -(2**63),
)  # fmt: skip

# Bytes that mean something to one of the formats.
_LOUD = b'\x00\x01\x28\x29\x2e\x52\x62\x63\x71\x74\x80\x81\x85\x93\x94\x95\xff\n"{}[]PK/\\'


def edge(dice: random.Random, width: int) -> bytes:
    """A number at an edge, little-endian, in `width` bytes."""
    return (dice.choice(EDGES) % (1 << 8 * width)).to_bytes(width, "little")


def near(dice: random.Random, value: int, width: int) -> bytes:
    """A number near or far from another, little-endian, in `width` bytes."""
    if dice.random() < 0.5:
        return edge(dice, width)
    made = dice.choice((value + 1, value - 1, value * 2, value // 2, -value, value + 4, value - 4, value ^ 1 << 31))
    return (made % (1 << 8 * width)).to_bytes(width, "little")


def changed_bytes(dice: random.Random, data: bytes) -> bytes:
    """Change bytes without looking at what they mean."""
    if not data:
        return bytes(dice.choice(_LOUD) for _ in range(dice.randrange(9)))
    if dice.random() < 0.5:
        return _poked(dice, data)
    a, b = sorted(dice.randrange(len(data) + 1) for _ in range(2))
    kind = dice.randrange(7)
    if kind == 0:
        return data[:a]
    if kind == 1:
        return data[:a] + data[b:]
    if kind == 2:
        return data[:b] + data[a : a + MOST_BYTES // 2]
    if kind == 3:
        return data[:a] + bytes(min(dice.choice((1, 2, 4, 8, 64, 512, 4096)), MOST_BYTES)) + data[a:]
    if kind == 4:
        return data[:a] + bytes(b - a) + data[b:]
    if kind == 5:
        return data[b:] + data[:b]
    return data[:a].replace(b"\n", b"\r\n") + data[a:]


def _poked(dice: random.Random, data: bytes) -> bytes:
    made = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 4, 16))):
        at, kind = dice.randrange(len(made)), dice.randrange(5)
        if kind == 0:
            made[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            made[at] = dice.randrange(256)
        elif kind == 2:
            made[at] = dice.choice(_LOUD)
        else:
            width = dice.choice((2, 4, 8))
            found = made[at : at + width]
            if len(found) == width:
                made[at : at + width] = near(dice, struct.unpack("<q", bytes(found).ljust(8, b"\0"))[0], width)
    return bytes(made)
