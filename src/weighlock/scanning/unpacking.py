"""Compressed files: what gzip, bzip2, xz, lzma and zlib hold, all of their streams, within a bound."""

import bz2
import lzma
import zlib
from collections.abc import Callable
from struct import Struct
from typing import Any, Final, NamedTuple

from weighlock.storages.source import ByteSource

__all__ = ["PACKED", "Unpacked", "unpack", "unpack_bare"]

PACKED: Final = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x78\x9c", b"\x78\x01", b"\x78\xda", b"\x78\x5e", b"\x5d\0")
"""How what is compressed begins."""

_PIECE: Final = 16 << 20
_MOST_STREAMS: Final = 10_000
_MOST_WINDOW: Final = 512 << 20


class Unpacked(NamedTuple):
    """What a compressed file holds.

    Attributes
    ----------
    data : bytes
    more : bool
        There is more than was asked for.
    rest : int
        So many bytes behind the last stream are none.
    """

    data: bytes
    more: bool
    rest: int


# The old form of lzma has no magic. Its header: properties, the size of the dictionary, the size of what is inside.
_BARE: Final = Struct("<BIQ")
_LARGEST_INSIDE: Final = 1 << 38
_NOT_SAID: Final = (1 << 64) - 1
_BARE_PIECE: Final = 1 << 20


def _is_bare(head: bytes) -> bool:
    if len(head) < _BARE.size:
        return False
    properties, window, inside = _BARE.unpack_from(head)
    if (
        properties >= 225
        or properties % 9 + properties // 9 % 5 > 4
        or not (inside < _LARGEST_INSIDE or inside == _NOT_SAID)
    ):
        return False
    lowest = window & -window
    return inside > 0 and (window in (lowest, 3 * lowest, 0xFFFFFFFF)) and window <= _MOST_WINDOW


def unpack_bare(source: ByteSource, head: bytes, most: int) -> bytes:
    """Return what a file holds that may be in the old form of lzma, as far as it can be unpacked; mostly nothing.

    Programs that go by a file's name take it for that, whatever its first bytes are to others: they may be opcodes.
    They read as far as they need, and do not find what is wrong further on.
    """
    if not _is_bare(head):
        return b""
    engine = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_MOST_WINDOW)
    parts, position, total = [], 0, 0
    try:
        while not engine.eof and total <= most and (position < source.size or not engine.needs_input):
            piece = b""
            if engine.needs_input:
                piece = source.read_at(position, min(_BARE_PIECE, source.size - position))
                position += len(piece)
            # In steps that grow: what was unpacked before a fault is kept, the step with the fault is lost.
            parts.append(engine.decompress(piece, min(_BARE_PIECE, total + 4096)))
            total += len(parts[-1])
    except lzma.LZMAError:
        pass
    return b"".join(parts)


def _engines(head: bytes) -> Callable[[], Any]:
    if head[:2] == b"\x1f\x8b":
        return lambda: zlib.decompressobj(31)
    if head[:3] == b"BZh":
        return bz2.BZ2Decompressor
    if head[:1] == b"\x78":
        return zlib.decompressobj
    return lambda: lzma.LZMADecompressor(memlimit=_MOST_WINDOW)


class _Reader:
    """Goes through the streams of one file."""

    def __init__(self, source: ByteSource, most: int) -> None:
        self._source = source
        self._most = most
        self._position = 0
        self._tail = b""
        self._total = 0
        self.parts: list[bytes] = []

    @property
    def left(self) -> int:
        return self._source.size - self._position + len(self._tail)

    @property
    def full(self) -> bool:
        return self._total > self._most

    def stream(self, engine: Any) -> None:
        """Unpack one stream; EOFError where the file ends inside of it."""
        while not engine.eof and self.left and not self.full:
            if not self._tail:
                self._fill()
            room = min(_PIECE, self._most - self._total + 1)
            data = engine.decompress(self._tail, room)
            self._tail = getattr(engine, "unconsumed_tail", b"")
            if not self._tail and getattr(engine, "needs_input", True) is False and not engine.eof:
                data += engine.decompress(b"", room)
            self._total += len(data)
            self.parts.append(data)
        if self.full:
            return
        if not engine.eof:
            raise EOFError
        self._tail = engine.unused_data

    def _fill(self) -> None:
        self._tail = self._source.read_at(self._position, min(_PIECE, self._source.size - self._position))
        self._position += len(self._tail)

    def skip_zeros(self) -> None:
        """Pass over zeros between streams, as Python's gzip and lzma do."""
        while self.left:
            if not self._tail:
                self._fill()
            self._tail = self._tail.lstrip(b"\0")
            if self._tail:
                return

    def begins(self, magic: bytes) -> bool:
        if len(self._tail) < len(magic) and self.left > len(self._tail):
            before = self._tail
            self._fill()
            self._tail = before + self._tail
        return self._tail.startswith(magic)


def unpack(source: ByteSource, most: int) -> Unpacked:
    """Return what a compressed file holds: programs read its streams one behind the other, as if they were one.

    Parameters
    ----------
    source : ByteSource
    most : int
        How many bytes to unpack at most.

    Raises
    ------
    zlib.error, OSError, EOFError, lzma.LZMAError, ValueError
        If it is cut or malformed, or not compressed at all.
    """
    head = source.read_at(0, min(source.size, 6))
    make = _engines(head)
    magic = next((one for one in PACKED[:3] if head.startswith(one)), None)
    reader = _Reader(source, most)
    for _ in range(_MOST_STREAMS):
        reader.stream(make())
        if reader.full or magic is None or not reader.left:
            break
        if magic != b"BZh":
            reader.skip_zeros()
        if not reader.begins(magic):
            break
    else:
        return Unpacked(b"".join(reader.parts), True, reader.left)
    return Unpacked(b"".join(reader.parts), reader.full, reader.left)
