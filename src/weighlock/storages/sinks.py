"""Where the bytes of a new checkpoint go: a file descriptor, or an object with `write`."""

import os
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from weighlock.errors import ArgumentTypeError, SaveError

__all__ = ["GATHER_UP_TO", "Buffer", "DescriptorSink", "GatheringSink", "ObjectSink", "Sink", "StorageRecords"]

Buffer = bytes | bytearray | memoryview

# Linux writes at most 0x7FFFF000 bytes in one call, other systems refuse more than INT_MAX.
_MOST_AT_ONCE: Final = 1 << 30

# Buffers up to this size are gathered, to this many bytes for one write.
GATHER_UP_TO: Final = 128 << 10
_GATHERED: Final = 1 << 20


class Sink(Protocol):
    """What a format's writer writes to. Every byte given is written, or an exception is raised."""

    def write(self, data: Buffer) -> None:
        """Write all of `data`, in order."""

    def skip(self, count: int) -> None:
        """Leave so many bytes as they are: what is written next lies behind them. Something must be."""


class DescriptorSink:
    """Writes to an open file descriptor, which stays the caller's."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: Buffer) -> None:
        written = os.write(self._descriptor, data[:_MOST_AT_ONCE])
        if written == len(data):
            return
        rest = memoryview(data)[written:]
        while rest:
            rest = rest[os.write(self._descriptor, rest[:_MOST_AT_ONCE]) :]

    def skip(self, count: int) -> None:
        os.lseek(self._descriptor, count, os.SEEK_CUR)


class ObjectSink:
    """Writes to any object with `write`: a file, a buffer, an upload.

    Raises
    ------
    ArgumentTypeError
        If it was opened for text.
    SaveError
        If it takes no more bytes without saying why.
    """

    __slots__ = ("_file",)

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: Buffer) -> None:
        rest = memoryview(data)
        while rest:
            written = self._write(rest)
            # Buffered files take everything; raw ones may take a part, and say how much. Many objects say nothing.
            if written is None or written == len(rest):
                return
            if not 0 < written < len(rest):
                raise SaveError("the file object does not take the bytes it is given", got=f"write() = {written}")
            rest = rest[written:]

    def skip(self, count: int) -> None:
        self._file.seek(count, os.SEEK_CUR)

    def _write(self, data: memoryview) -> int | None:
        try:
            written = self._file.write(data)
        except TypeError as error:
            hint = "Open the file with mode 'wb'."
            raise ArgumentTypeError(
                "the file object does not take bytes", got=type(self._file).__name__, hint=hint
            ) from error
        return written if type(written) is int else None


class GatheringSink:
    """Gathers small buffers for one write, and passes large ones on from where they lie."""

    __slots__ = ("_gathered", "_sink", "_size")

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._gathered: list[Buffer] = []
        self._size = 0

    def write(self, data: Buffer) -> None:
        size = len(data)
        if size > GATHER_UP_TO:
            self.flush()
            self._sink.write(data)
            return
        self._gathered.append(data)
        self._size += size
        if self._size >= _GATHERED:
            self.flush()

    def skip(self, count: int) -> None:
        self.flush()
        self._sink.skip(count)

    def flush(self) -> None:
        """Write what was gathered; to be called at the end."""
        if self._gathered:
            gathered, self._gathered, self._size = self._gathered, [], 0
            self._sink.write(b"".join(gathered))


class StorageRecords:
    """The storages of a checkpoint: how long each is, and how to come by its bytes when it is its turn.

    Parameters
    ----------
    sizes : sequence of int
        Bytes of each storage, in the order of their keys.
    buffer : callable or None
        Given a storage's index, returns exactly so many bytes. None leaves room for the bytes and writes none.
    """

    __slots__ = ("buffer", "sizes")

    def __init__(self, sizes: Sequence[int], buffer: Callable[[int], Buffer] | None) -> None:
        self.sizes = sizes
        self.buffer = buffer
