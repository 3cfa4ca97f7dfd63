"""Where a checkpoint's bytes come from: a path, a file object, or bytes in memory.

Everything above reads through `ByteSource`, by position, so that several threads can read at once and nothing depends
on a file pointer. Offsets are relative to where the checkpoint begins (a file object may stand anywhere).
"""

import io
import mmap
import os
import stat
import threading
from collections.abc import Sequence
from typing import Any, Final, Protocol

from weighlock.errors import SALVAGE, ArgumentTypeError, MissingFileError, SourceError, TruncatedError, UnsupportedError

__all__ = ["ByteSource", "BytesSource", "FileObjectSource", "PathSource", "open_source"]


# How many pieces the system fills in one call (IOV_MAX).
_MOST_PIECES: Final = 1024


class ByteSource(Protocol):
    """Random access to the bytes of one file."""

    name: str
    size: int

    def read_at(self, offset: int, count: int) -> bytes:
        """Return exactly `count` bytes from `offset`; `TruncatedError` where the file ends before."""

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` with the bytes from `offset`; `TruncatedError` where the file ends before."""

    def read_scattered(self, offset: int, targets: Sequence[memoryview]) -> None:
        """Fill the targets one after the other with the bytes from `offset` on."""

    def map(self, access: int) -> memoryview:
        """Map the whole file into memory (`access` as in `mmap.mmap`); `UnsupportedError` where that cannot be."""

    def finish(self, end: int) -> None:
        """Leave a file object's own position behind the checkpoint, which ends at `end`."""

    def close(self) -> None:
        """Release what was opened here."""


def truncated(name: str, offset: int, count: int, got: int) -> TruncatedError:
    """Return the error for a file that ends inside a read."""
    return TruncatedError(
        "the file ends too early",
        expected=f"{count} bytes",
        got=str(got),
        path=name,
        offset=offset,
        hint=f"It was probably cut while it was copied, downloaded or saved: get it again. {SALVAGE}",
    )


class PathSource:
    """A file on disk, read by position (`pread`), and so by any number of threads at once."""

    def __init__(self, path: str | bytes | os.PathLike[Any]) -> None:
        self.name = os.fsdecode(path)
        # Non-blocking: opening a named pipe would otherwise wait for a writer, for ever.
        flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            self._fd = os.open(path, flags)
        except FileNotFoundError as error:
            raise MissingFileError("there is no such file", path=self.name).caused_by(error) from error
        except (OSError, ValueError) as error:
            made = SourceError(f"the file cannot be opened: {_reason(error)}", path=self.name)
            raise (made.caused_by(error) if isinstance(error, OSError) else made) from error
        status = os.fstat(self._fd)
        self.size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise SourceError(
                "the path is no regular file, and cannot be read by position", path=self.name,
                hint="Read it into memory first: weighlock.load(io.BytesIO(sys.stdin.buffer.read())).",
            )  # fmt: skip

    @property
    def descriptor(self) -> int:
        """The open file, for the kernel to copy from."""
        return self._fd

    def read_at(self, offset: int, count: int) -> bytes:
        try:
            data = os.pread(self._fd, count, offset)
            while len(data) < count:
                more = os.pread(self._fd, count - len(data), offset + len(data))
                if not more:
                    raise truncated(self.name, offset, count, len(data))
                data += more
        except OSError as error:
            raise self._failed(error, offset) from error
        return data

    def read_into(self, offset: int, target: memoryview) -> None:
        done, count = 0, len(target)
        try:
            while done < count:
                got = os.preadv(self._fd, [target[done:] if done else target], offset + done)
                if got == 0:
                    raise truncated(self.name, offset, count, done)
                done += got
        except OSError as error:
            raise self._failed(error, offset + done) from error

    def read_scattered(self, offset: int, targets: Sequence[memoryview]) -> None:
        for first in range(0, len(targets), _MOST_PIECES):
            pieces = targets[first : first + _MOST_PIECES]
            total = sum(map(len, pieces))
            try:
                got = os.preadv(self._fd, pieces, offset)
            except OSError as error:
                raise self._failed(error, offset) from error
            if got != total:  # rare: a signal, or the end of the file; each piece says what it lacks
                place = offset
                for piece in pieces:
                    self.read_into(place, piece)
                    place += len(piece)
            offset += total

    def _failed(self, error: OSError, offset: int) -> Exception:
        if isinstance(error, SourceError | TruncatedError):
            return error
        return SourceError(f"reading failed: {_reason(error)}", path=self.name, offset=offset)

    def map(self, access: int) -> memoryview:
        try:
            if access != mmap.ACCESS_WRITE:
                return memoryview(mmap.mmap(self._fd, 0, access=access))
            writable = os.open(self.name, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
            try:
                if not os.path.samestat(os.fstat(writable), os.fstat(self._fd)):
                    raise OSError("it was replaced by another file meanwhile")
                return memoryview(mmap.mmap(writable, 0, access=access))
            finally:
                os.close(writable)
        except (OSError, ValueError) as error:
            raise UnsupportedError(f"the file cannot be mapped: {_reason(error)}", path=self.name) from error

    def finish(self, end: int) -> None:
        """Nothing to do: there is no file position."""

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class BytesSource:
    """Bytes, bytearray, memoryview, mmap or array in memory."""

    def __init__(self, data: Any, name: str = "<bytes>") -> None:
        self.name = name
        try:
            self._view: Final = memoryview(data).cast("B")
        except (TypeError, ValueError, BufferError) as error:
            raise ArgumentTypeError("only contiguous bytes can be read", got=type(data).__name__) from error
        self.size = len(self._view)

    def _slice(self, offset: int, count: int) -> memoryview:
        found = self._view[offset : offset + count]
        if len(found) != count:
            raise truncated(self.name, offset, count, len(found))
        return found

    def read_at(self, offset: int, count: int) -> bytes:
        return bytes(self._slice(offset, count))

    def read_into(self, offset: int, target: memoryview) -> None:
        target[:] = self._slice(offset, len(target))

    def read_scattered(self, offset: int, targets: Sequence[memoryview]) -> None:
        for target in targets:
            target[:] = self._slice(offset, len(target))
            offset += len(target)

    def map(self, access: int) -> memoryview:
        # Bytes in memory are mapped already; only what is to be private is copied.
        if access == mmap.ACCESS_READ:
            return self._view.toreadonly()
        if access == mmap.ACCESS_COPY:
            return memoryview(bytearray(self._view))
        if self._view.readonly:
            raise UnsupportedError(
                "the bytes are read-only, so changes cannot go into them", path=self.name,
                hint="Pass a bytearray, or a mapping that may be written; or load with mmap='r' or mmap=True.",
            )  # fmt: skip
        return self._view

    def finish(self, end: int) -> None:
        """Nothing to do: there is no file position."""

    def close(self) -> None:
        """Leave the caller's bytes alone."""


class FileObjectSource:
    """A file object with `read`, `seek` and `tell`; the checkpoint begins where it stands now."""

    def __init__(self, file: Any) -> None:
        self._file: Final = file
        self._lock: Final = threading.Lock()
        self.name = _name_of(file)
        try:
            self._base: Final = file.tell()
            file.seek(0, os.SEEK_END)
            self.size = file.tell() - self._base
            file.seek(self._base)
        except (OSError, AttributeError, ValueError) as error:
            raise UnsupportedError(
                "the file object cannot seek",
                got=type(file).__name__,
                hint="Read it into memory first: weighlock.load(io.BytesIO(f.read())).",
            ) from error
        if self.size < 0:
            raise UnsupportedError("the file object stands behind its own end", got=type(file).__name__)

    def read_at(self, offset: int, count: int) -> bytes:
        chunks, done = [], 0
        with self._lock:
            try:
                self._file.seek(self._base + offset)
                while done < count:
                    chunk = self._file.read(count - done)
                    if not chunk:
                        raise truncated(self.name, offset, count, done)
                    if not isinstance(chunk, bytes | bytearray | memoryview):
                        what = "the file object returns text, not bytes; open it in binary mode ('rb')"
                        raise ArgumentTypeError(what, got=type(chunk).__name__)
                    chunks.append(bytes(chunk))
                    done += len(chunk)
            except (OSError, ValueError) as error:
                if isinstance(error, TruncatedError | ArgumentTypeError):
                    raise
                raise SourceError(f"reading failed: {_reason(error)}", path=self.name, offset=offset) from error
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def read_into(self, offset: int, target: memoryview) -> None:
        readinto = getattr(self._file, "readinto", None)
        if readinto is None:
            target[:] = self.read_at(offset, len(target))
            return
        done = 0
        with self._lock:
            try:
                self._file.seek(self._base + offset)
                while done < len(target):
                    got = readinto(target[done:])
                    if not got:
                        raise truncated(self.name, offset, len(target), done)
                    done += got
            except (OSError, ValueError) as error:
                if isinstance(error, TruncatedError):
                    raise
                raise SourceError(f"reading failed: {_reason(error)}", path=self.name, offset=offset) from error

    def read_scattered(self, offset: int, targets: Sequence[memoryview]) -> None:
        whole = bytearray(sum(map(len, targets)))
        self.read_into(offset, memoryview(whole))
        BytesSource(whole).read_scattered(0, targets)

    def map(self, access: int) -> memoryview:
        if _is_bytes_like(self._file):  # a mapping that the caller made, which can be read too
            return BytesSource(memoryview(self._file)[self._base :], self.name).map(access)
        raise UnsupportedError(
            "a file object cannot be mapped", path=self.name, hint="Give the path, or the bytes themselves."
        )

    def finish(self, end: int) -> None:
        self._file.seek(self._base + end)

    def close(self) -> None:
        """Leave the caller's file open."""


class OpenedSource(FileObjectSource):
    """A file on disk where the system has no reading by position (Windows): one file pointer, one thread."""

    def __init__(self, path: str | os.PathLike[Any]) -> None:
        try:
            self._opened = open(path, "rb")  # noqa: SIM115 - closed by `close`
        except FileNotFoundError as error:
            raise MissingFileError("there is no such file", path=os.fsdecode(path)) from error
        except (OSError, ValueError) as error:
            raise SourceError(f"the file cannot be opened: {_reason(error)}", path=os.fsdecode(path)) from error
        super().__init__(self._opened)
        self.name = os.fsdecode(path)

    def map(self, access: int) -> memoryview:
        try:
            return memoryview(mmap.mmap(self._opened.fileno(), 0, access=access))
        except (OSError, ValueError) as error:
            raise UnsupportedError(f"the file cannot be mapped: {_reason(error)}", path=self.name) from error

    def finish(self, end: int) -> None:
        """Nothing to do: the file is ours."""

    def close(self) -> None:
        self._opened.close()


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _name_of(file: Any) -> str:
    name = getattr(file, "name", None)
    return name if isinstance(name, str) else f"<{type(file).__name__}>"


def _is_bytes_like(f: Any) -> bool:
    try:
        memoryview(f).release()
    except TypeError:
        return False
    return True


def open_source(f: Any) -> ByteSource:
    """Return the source for what a caller passed as `f`: a path, bytes-like, or a file object.

    Raises
    ------
    ArgumentTypeError
        If it is none of these.
    MissingFileError, SourceError, UnsupportedError
        If it cannot be opened, or cannot seek.
    """
    if isinstance(f, str | os.PathLike):
        return PathSource(f) if hasattr(os, "preadv") else OpenedSource(f)
    if isinstance(f, io.BytesIO):
        # getbuffer would lock the caller's BytesIO against resizing for as long as a result refers to it.
        return FileObjectSource(f)
    if hasattr(f, "read"):
        return FileObjectSource(f)
    if _is_bytes_like(f):
        return BytesSource(f)
    raise ArgumentTypeError(
        "f must be a path, bytes, or a file object opened in binary mode",
        got=type(f).__name__,
        hint="weighlock.load('model.pth') takes the path itself.",
    )
