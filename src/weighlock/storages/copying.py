"""Bytes on their way from a source to a sink, of which no more than a piece is ever in memory.

Where both are files, the kernel copies ranges from one to the other (`os.copy_file_range`): the bytes never come into
this process, and a file system that can shares its blocks instead of copying them.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

from weighlock.storages.assembled import AssembledSource
from weighlock.storages.folders import PartSource, SliceSource
from weighlock.storages.ranges import RangedSource
from weighlock.storages.sinks import Buffer, FileSink, Sink, Stream
from weighlock.storages.source import ByteSource, PathSource

__all__ = ["PAGE", "Generated", "Progress", "SourceRange", "scratch"]

Progress = Callable[[int], object]
"""Called with the number of bytes that were moved since the last call, from any thread."""

# Stays in a processor's cache between being read and being written, and is large enough that calls cost nothing. Linux
# takes memory for a file in stretches as long as the write: half a megabyte at a time, a virtual machine that gives
# free memory back to its host took 1 to 1.6 s for what takes 0.3 s, depending on what had been freed before.
_PIECE: Final = 256 << 10
_REMOTE_PIECE: Final = 16 << 20
# The blocks of file systems.
PAGE: Final = 4096
# How much the kernel copies in one call: a progress bar and an interrupt wait for it.
_AT_ONCE: Final = 64 << 20

_memory: Final = threading.local()


def scratch(size: int) -> memoryview:
    """Return memory of this thread, which the next call takes again."""
    held: bytearray | None = getattr(_memory, "held", None)
    if held is None or len(held) < size:
        held = _memory.held = bytearray(size)
    return memoryview(held)[:size]


class SourceRange(Stream):
    """Bytes of a source that lie in one piece and are wanted as they are.

    Parameters
    ----------
    source : ByteSource
    offset, size : int
    crc : int or None
        Their CRC-32, where the source says it.
    progress : callable, optional
    """

    __slots__ = ("_progress", "crc", "offset", "size", "source")

    def __init__(
        self, source: ByteSource, offset: int, size: int, crc: int | None = None, progress: Progress | None = None
    ) -> None:
        self.source = source
        self.offset = offset
        self.size = size
        self.crc = crc
        self._progress = progress

    def __len__(self) -> int:
        return self.size

    @property
    def piece_size(self) -> int:
        """How many bytes to read at once: of a remote file many, since each reading is a journey, or a search."""
        return _REMOTE_PIECE if isinstance(self.source, RangedSource | AssembledSource) else _PIECE

    def read_into(self, begin: int, target: memoryview) -> None:
        """Fill memory with the bytes from `begin` on."""
        self.source.read_into(self.offset + begin, target)
        self._moved(len(target))

    def read(self) -> bytes:
        """Return all bytes, of a range that is known to be small."""
        self._moved(self.size)
        return self.source.read_at(self.offset, self.size)

    def pieces(self) -> Iterator[memoryview]:
        """Yield the bytes piece by piece, each in memory that the next one takes again."""
        step = self.piece_size
        for begin in range(0, self.size, step):
            piece = scratch(min(step, self.size - begin))
            self.read_into(begin, piece)
            yield piece

    @property
    def place(self) -> int | None:
        """Where in a page of its file it begins; None where it is in no file of the system."""
        with _file_of(self.source, self.offset) as found:
            return None if found is None else found[1] % PAGE

    def copy_to(self, sink: Sink, offset: int) -> None:
        """Write all bytes to a sink: whole pages in the kernel where that can be, all else piece by piece."""
        begin, end = self._copied(sink, offset) if isinstance(sink, FileSink) else (0, 0)
        for low, high in ((0, begin), (end, self.size)):
            part = SourceRange(self.source, self.offset + low, high - low, None, self._progress)
            place = offset + low
            for piece in part.pieces():
                sink.write_at(place, piece)
                place += len(piece)

    def _copied(self, sink: FileSink, offset: int) -> tuple[int, int]:
        """Return from where to where the kernel has copied.

        Only pages that are whole on both sides: they are what file systems share, and to copy others takes the kernel
        twice as long as it takes us.
        """
        with _file_of(self.source, self.offset) as found:
            if found is None or (found[1] - offset) % PAGE or self.size < PAGE:
                return 0, 0
            descriptor, place = found
            begin = done = -place % PAGE
            end = begin + (self.size - begin) // PAGE * PAGE
            while done < end:
                count = sink.copy_at(offset + done, descriptor, place + done, min(_AT_ONCE, end - done))
                if not count:  # not between these two files; or the source ends, which reading will say better
                    break
                done += count
                self._moved(count)
        return (begin, done) if done > begin else (0, 0)

    def _moved(self, count: int) -> None:
        if self._progress is not None:
            self._progress(count)


@contextmanager
def _file_of(source: ByteSource, offset: int) -> Iterator[tuple[int, int] | None]:
    """Give the descriptor of the file that a source reads, and the place in it; None where it is no file."""
    inner: Any = source
    while isinstance(inner, SliceSource):
        inner, offset = inner.source, offset + inner.offset
    with inner.opened() if isinstance(inner, PartSource) else nullcontext(inner) as held:
        yield (held.descriptor, offset) if isinstance(held, PathSource) else None


class Generated(Stream):
    """Bytes that are made piece by piece.

    Parameters
    ----------
    size : int
    make : callable
        Returns the pieces, from the first one on; the memory of each may be used again for the next.
    """

    __slots__ = ("_make", "_size")

    crc = None

    def __init__(self, size: int, make: Callable[[], Iterator[Buffer]]) -> None:
        self._size = size
        self._make = make

    def __len__(self) -> int:
        return self._size

    def read(self) -> bytes:
        """Return all bytes, where they are known to be few."""
        return b"".join(map(bytes, self._make()))

    def pieces(self) -> Iterator[Buffer]:
        """Yield the bytes piece by piece."""
        return self._make()
