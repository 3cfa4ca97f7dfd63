"""Where the bytes of a new checkpoint go: a new file, an open descriptor, or an object with `write`."""

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final, Protocol

from weighlock.errors import ArgumentTypeError, SaveError, TargetError

__all__ = [
    "GATHER_UP_TO",
    "RUN",
    "Buffer",
    "DescriptorSink",
    "FileSink",
    "GatheringSink",
    "ObjectSink",
    "Sink",
    "StorageRecords",
    "Stream",
]

Buffer = bytes | bytearray | memoryview


class Stream:
    """Bytes that are not in memory, and come piece by piece; `storages.copying` has the kinds.

    Attributes
    ----------
    crc : int or None
        Their CRC-32, where it is known without looking at them.
    """

    __slots__ = ()

    crc: int | None

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self) -> bytes:
        """Return all bytes, of a stream that is known to be short."""
        raise NotImplementedError

    def pieces(self) -> Iterator[Buffer]:
        """Yield the bytes piece by piece, each in memory that the next one may take again."""
        raise NotImplementedError

    def copy_to(self, sink: "Sink", offset: int) -> None:
        """Write all bytes to a sink."""
        for piece in self.pieces():
            sink.write_at(offset, piece)
            offset += len(piece)


# Linux writes at most 0x7FFFF000 bytes in one call, other systems refuse more than INT_MAX.
_MOST_AT_ONCE: Final = 1 << 30

# Buffers up to this size are gathered, to runs of about this many bytes for one write.
GATHER_UP_TO: Final = 128 << 10
RUN: Final = 1 << 20

# The least number of buffers that systems take in one call (IOV_MAX).
_MOST_PARTS: Final = 1024

# Errors that say how much a file may hold, with what they mean.
_FULL: Final = {
    errno.ENOSPC: "there is not enough space for the file",
    getattr(errno, "EDQUOT", errno.ENOSPC): "the disk quota is too small for the file",
}

# What the kernel says where it copies nothing between two files: of different systems, or of one that cannot.
_UNCOPIED: Final = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM,
                              errno.ETXTBSY})  # fmt: skip


class Sink(Protocol):
    """What a format's writer writes to. Every byte given is written, or an exception is raised.

    Attributes
    ----------
    at_random : bool
        Whether bytes may be given in any order and by several threads. Otherwise each offset is at or behind the end
        of what came before; what is left out in between stays as it is, and something must be there.
    """

    at_random: bool

    def reserve(self, size: int) -> None:
        """Make sure, where that is possible, that so many bytes fit."""

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write all of `data`; offsets count from where the checkpoint begins."""

    def write_parts_at(self, offset: int, parts: Sequence[Buffer]) -> None:
        """Write buffers one behind the other."""


class FileSink:
    """Writes to a new, empty file, in any order.

    Space is reserved before the first byte: a full disk is then an error at once, and the file system places the file
    in one piece, which makes writing it faster.

    Parameters
    ----------
    descriptor : int
        Stays the caller's.

    Raises
    ------
    TargetError
        If the file does not fit; with how many bytes are missing.
    """

    at_random = True
    __slots__ = ("_descriptor", "_size")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = 0

    def reserve(self, size: int) -> None:
        self._size = size
        allocate = _allocator()
        failure = allocate(self._descriptor, size) if allocate is not None and size else 0
        # Other errors say that this file system cannot reserve; writing will show what it can.
        if failure in _FULL or failure == errno.EFBIG:
            os.ftruncate(self._descriptor, 0)
            raise self._refused(OSError(failure, os.strerror(failure)))

    def write_at(self, offset: int, data: Buffer) -> None:
        try:
            written = os.pwrite(self._descriptor, data[:_MOST_AT_ONCE], offset)
            if written == len(data):
                return
            rest = memoryview(data)[written:]
            while rest:
                offset += written
                written = os.pwrite(self._descriptor, rest[:_MOST_AT_ONCE], offset)
                rest = rest[written:]
        except OSError as error:
            if error.errno in _FULL:
                raise self._refused(error) from error
            raise

    def write_parts_at(self, offset: int, parts: Sequence[Buffer]) -> None:
        if not hasattr(os, "pwritev"):
            self.write_at(offset, b"".join(parts))
            return
        for begin in range(0, len(parts), _MOST_PARTS):
            some = parts[begin : begin + _MOST_PARTS]
            size = sum(map(len, some))
            try:
                written = os.pwritev(self._descriptor, some, offset)
            except OSError as error:
                if error.errno in _FULL:
                    raise self._refused(error) from error
                raise
            if written != size:
                self.write_at(offset + written, memoryview(b"".join(some))[written:])
            offset += size

    def copy_at(self, offset: int, descriptor: int, source_offset: int, size: int) -> int:
        """Let the kernel copy up to `size` bytes from another file; return how many, 0 where it does not."""
        copy = getattr(os, "copy_file_range", None)
        if copy is None:
            return 0
        try:
            return int(copy(descriptor, self._descriptor, size, source_offset, offset))
        except OSError as error:
            if error.errno in _FULL:
                raise self._refused(error) from error
            if error.errno in _UNCOPIED:
                return 0
            raise

    def _refused(self, error: OSError) -> OSError:
        """Return the error that says how much is missing."""
        what = _FULL.get(error.errno or 0)
        if what is None:
            return error
        held = os.fstat(self._descriptor)
        free = _free_bytes(self._descriptor) + getattr(held, "st_blocks", 0) * 512
        hint = _missing(self._size - free, quota=error.errno != errno.ENOSPC)
        return TargetError(what, expected=f"{self._size} bytes", got=f"{free} bytes", hint=hint).caused_by(error)


def _missing(count: int, *, quota: bool) -> str:
    if quota or count <= 0:
        return "Make room, or save elsewhere."
    return f"{count} bytes are missing: make room, or save elsewhere."


def _free_bytes(descriptor: int) -> int:
    found = os.fstatvfs(descriptor)
    return found.f_bavail * found.f_frsize


@cache
def _allocator() -> Callable[[int, int], int] | None:
    """Return a function that reserves space for a file and returns an error number; None where there is none.

    Not `os.posix_fallocate`: where the file system cannot do it, that writes one byte to every block.
    """
    import sys

    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    try:
        call = ctypes.CDLL(None, use_errno=True).fallocate64
    except (OSError, AttributeError):
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

    def allocate(descriptor: int, size: int) -> int:
        while call(descriptor, 0, 0, size):
            if ctypes.get_errno() != errno.EINTR:
                return ctypes.get_errno()
        return 0

    return allocate


class DescriptorSink:
    """Writes to an open file descriptor, in order; it stays the caller's."""

    at_random = False
    __slots__ = ("_descriptor", "_offset")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._offset = 0

    def reserve(self, size: int) -> None:
        """Nothing can be reserved in a pipe or on a device."""

    def write_at(self, offset: int, data: Buffer) -> None:
        if offset > self._offset:
            os.lseek(self._descriptor, offset - self._offset, os.SEEK_CUR)
        self._offset = offset + len(data)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest[:_MOST_AT_ONCE]) :]

    def write_parts_at(self, offset: int, parts: Sequence[Buffer]) -> None:
        self.write_at(offset, b"".join(parts))


class ObjectSink:
    """Writes to any object with `write`: a file, a buffer, an upload.

    Raises
    ------
    ArgumentTypeError
        If it was opened for text.
    SaveError
        If it takes no more bytes without saying why.
    """

    at_random = False
    __slots__ = ("_file", "_offset")

    def __init__(self, file: Any) -> None:
        self._file = file
        self._offset = 0

    def reserve(self, size: int) -> None:
        """What holds the bytes of an object with `write` is its own affair."""

    def write_at(self, offset: int, data: Buffer) -> None:
        if offset > self._offset:
            self._file.seek(offset - self._offset, os.SEEK_CUR)
        self._offset = offset + len(data)
        rest = memoryview(data)
        while rest:
            written = self._write(rest)
            # Buffered files take everything; raw ones may take a part, and say how much. Many objects say nothing.
            if written is None or written == len(rest):
                return
            if not 0 < written < len(rest):
                raise SaveError("the file object does not take the bytes it is given", got=f"write() = {written}")
            rest = rest[written:]

    def write_parts_at(self, offset: int, parts: Sequence[Buffer]) -> None:
        self.write_at(offset, b"".join(parts))

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
    """Takes buffers one after the other: gathers small ones for one write, passes large ones on from where they lie."""

    __slots__ = ("_gathered", "_offset", "_sink", "_size")

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._gathered: list[Any] = []
        self._offset = 0
        self._size = 0

    def write(self, data: Buffer | Stream) -> None:
        size = len(data)
        if size > GATHER_UP_TO:
            self.flush()
            if isinstance(data, Stream):
                data.copy_to(self._sink, self._offset)
            else:
                self._sink.write_at(self._offset, data)
            self._offset += size
            return
        if isinstance(data, Stream):
            data = data.read()
        self.gather(data, size)

    def gather(self, buffer: Any, nbytes: int) -> None:
        """Take a small buffer of any kind, such as an array, of which `len` need not be its bytes."""
        self._gathered.append(buffer)
        self._size += nbytes
        if self._size >= RUN:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered; to be called at the end."""
        if self._gathered:
            gathered, self._gathered, self._size = b"".join(self._gathered), [], 0
            self._sink.write_at(self._offset, gathered)
            self._offset += len(gathered)


class StorageRecords:
    """The storages of a checkpoint: how long each is, and how to come by its bytes when it is its turn.

    Parameters
    ----------
    sizes : sequence of int
        Bytes of each storage, in the order of their keys.
    buffer : callable or None
        Given a storage's index, returns exactly so many bytes, or a `Stream` of them. None leaves room for the bytes
        and writes none.
    any_thread : bool
        Whether `buffer` may be called by other threads, one at a time.
    places : mapping of int to int
        Where in a page of the file a storage had best begin, by its index.
    """

    __slots__ = ("any_thread", "buffer", "places", "sizes")

    def __init__(
        self, sizes: Sequence[int], buffer: Callable[[int], Buffer | Stream] | None, *, any_thread: bool = True,
        places: Mapping[int, int] | None = None,
    ) -> None:  # fmt: skip
        self.sizes = sizes
        self.buffer = buffer
        self.any_thread = any_thread
        self.places = places or {}
