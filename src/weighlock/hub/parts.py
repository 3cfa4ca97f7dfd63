"""Unfinished downloads: a private file beside its target, and a note of what it is the beginning of.

A process that is killed leaves both. The next one that fetches the same URL takes the beginning over, by copy: it never
writes to a file that another process might still have open, so that a lock that lies can cost time and nothing else.
"""

import contextlib
import hashlib
import os
import shutil
import socket
import time
from collections.abc import Iterator
from typing import Any, Final

from weighlock.hub.locks import forget, private_name, read_record, write_record

__all__ = ["Part", "orphans"]

WRITE: Final = 128 << 10
"""Bytes that are written by one call. Linux takes memory for a file in stretches as long as the write. Of a megabyte it
finds few that are at hand; in a virtual machine that gives free memory back to its host, each new one then has to be
asked for: 0.4 GB/s instead of 6, every other time. With 128 KiB it was 6 GB/s always."""

_NOTE: Final = ".note"
_OLD: Final = 7 * 86400.0
"""Seconds: after which an unfinished download of another machine's is nobody's."""


def boot_id() -> str:
    """Return what changes when the machine starts anew: pages that were not yet on the disk are lost then."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return f"{socket.gethostname()}-{int((time.time() - time.monotonic()) / 600)}"


def _marker(url: str) -> str:
    return hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:12]


class Part:
    """One unfinished download, open for writing.

    Parameters
    ----------
    target : str
        What it will become.
    url : str

    Attributes
    ----------
    size : int
        Bytes from the beginning that are there.
    note : dict
        The answer that they come from: `etag`, `modified`, `length`.
    """

    def __init__(self, target: str, url: str) -> None:
        self.target, self.url = target, url
        folder = os.path.dirname(target)
        self.path = os.path.join(
            folder, "." + private_name(f"{os.path.basename(target)[:80]}.{_marker(url)}") + ".part"
        )
        self.note: dict[str, Any] = {}
        self.size = 0
        self.resumed = False
        self._write_note(done=None)  # before there is a file: one of which nobody knows whose it is would stay for days
        try:
            # Like any file of the user's, so that the umask decides who may read it.
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except OSError:
            forget(self.path + _NOTE)
            raise

    def describe(self, **facts: Any) -> None:
        """Note what the bytes are the beginning of."""
        self.note = facts
        self._write_note(done=None)

    def _write_note(self, done: int | None) -> None:
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "boot": boot_id(), "url": self.url, "done": done}
        with contextlib.suppress(OSError):
            write_record(self.path + _NOTE, {**self.note, **owner})

    def reached(self, done: int) -> None:
        """Note how far the bytes are whole where they do not come in order."""
        self._write_note(done)

    def restart(self) -> None:
        """Forget the bytes that are there."""
        os.ftruncate(self.descriptor, 0)
        self.size = 0
        self.resumed = False

    def write(self, data: memoryview) -> None:
        """Add bytes.

        Raises
        ------
        OSError
            If the disk does not take them.
        """
        while data:
            written = os.pwrite(self.descriptor, data[:WRITE], self.size)
            self.size += written
            data = data[written:]

    def take_over(self, orphan: "Orphan") -> None:
        """Copy the beginning that another process left."""
        with contextlib.suppress(OSError), open(orphan.path, "rb") as source:
            size = min(orphan.done, os.fstat(source.fileno()).st_size)
            copied = _copy(source.fileno(), self.descriptor, size)
            os.ftruncate(self.descriptor, copied)
            self.size = copied
            self.resumed = True
            self.note = {name: orphan.note.get(name) for name in ("etag", "modified", "length")}
            self._write_note(done=None)

    def publish(self, *, replace: bool = True) -> None:
        """Become the target.

        Raises
        ------
        FileExistsError
            If there is a file, and it is not to be replaced.
        FileNotFoundError
            If another process has cleared the private file away.
        """
        if replace:
            os.replace(self.path, self.target)
        else:
            _name_new(self.path, self.target)
        os.close(self.descriptor)
        self.descriptor = -1
        forget(self.path + _NOTE)

    def close(self, *, keep: bool) -> None:
        """Leave the beginning for a later attempt, or nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
            if keep and self.size:
                # Nobody writes to it any more: also this process itself may go on from here.
                self.note["left"] = True
                self._write_note(done=self.size)
                return
        forget(self.path)
        forget(self.path + _NOTE)


def _name_new(path: str, target: str) -> None:
    """Rename a file to a name that is free. A rename alone would take it from another file."""
    try:
        os.link(path, target, follow_symlinks=False)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):  # a file system without links
        if os.path.lexists(target):
            raise FileExistsError(target) from None
        os.replace(path, target)
    else:
        os.unlink(path)


class Orphan:
    """What another process left unfinished: a beginning, or no more than the note that there would be one."""

    def __init__(self, path: str, note: dict[str, Any]) -> None:
        self.path, self.note = path, note
        done = note.get("done")
        self.done = done if isinstance(done, int) else os.stat(path).st_size if os.path.exists(path) else 0

    def remove(self) -> None:
        forget(self.path)
        forget(self.path + _NOTE)


def orphans(target: str, url: str) -> Iterator[Orphan]:
    """Give the unfinished downloads of a URL beside a target whose process is gone, the longest first."""
    folder, marker = os.path.dirname(target), f".{_marker(url)}."
    found = []
    for name in os.listdir(folder):
        if name.startswith(".") and name.endswith(".part" + _NOTE) and marker in name:
            path = os.path.join(folder, name.removesuffix(_NOTE))
            note = read_record(path + _NOTE)
            with contextlib.suppress(OSError):
                if note is not None and note.get("url") == url and _is_gone(note, path):
                    found.append(Orphan(path, note))
    yield from sorted(found, key=lambda orphan: -orphan.done)


def leftovers(folder: str) -> Iterator[str]:
    """Give the paths of all unfinished downloads in a folder whose process is gone."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    for name in sorted({name.removesuffix(_NOTE) for name in names}):
        path = os.path.join(folder, name)
        if name.startswith(".") and name.endswith(".part"):
            note = read_record(path + _NOTE) or {}
            with contextlib.suppress(OSError):
                if _is_gone(note, path):
                    yield path
                    yield path + _NOTE


def usable(note: dict[str, Any]) -> bool:
    """Whether a beginning can be trusted to be on the disk, and can be continued."""
    return note.get("boot") == boot_id() and bool(note.get("etag") or note.get("modified"))


def _is_gone(note: dict[str, Any], path: str) -> bool:
    if note.get("left"):
        return True
    if note.get("host") != socket.gethostname() or not isinstance(note.get("pid"), int):
        return time.time() - os.stat(path if os.path.exists(path) else path + _NOTE).st_mtime > _OLD
    if note["pid"] == os.getpid():
        return False
    try:
        os.kill(note["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return note.get("boot") != boot_id()


def _copy(source: int, target: int, size: int) -> int:
    """Copy the first bytes of a file; by the file system itself where it can share them."""
    copied = 0
    copy_range: Any = getattr(os, "copy_file_range", None)
    while copied < size and copy_range is not None:
        try:
            count = copy_range(source, target, size - copied, copied, copied)
        except OSError:
            break
        if not count:
            break
        copied += count
    if copied < size:
        os.lseek(target, copied, os.SEEK_SET)
        with open(source, "rb", closefd=False) as reader, open(target, "wb", closefd=False) as writer:
            reader.seek(copied)
            limited: Any = _Limited(reader, size - copied)
            shutil.copyfileobj(limited, writer, 1 << 20)
            copied = writer.tell()
    return copied


class _Limited:
    """The next bytes of a file, as a file."""

    def __init__(self, file: Any, left: int) -> None:
        self._file, self._left = file, left

    def read(self, count: int = -1, /) -> bytes:
        data: bytes = self._file.read(self._left if count < 0 else min(count, self._left))
        self._left -= len(data)
        return data
