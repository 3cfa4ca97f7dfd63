"""Checkpoints of several files: a folder as one source, its files opened when they are read, few at a time.

Names of files come out of a checkpoint, and so from anybody: `check_name` lets through what stays inside the folder.
"""

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NoReturn, Protocol

from weighlock.errors import DamagedError, MissingFileError, SourceError, StatusError, UnsupportedError
from weighlock.storages.source import ByteSource, open_source, truncated
from weighlock.text import brief

__all__ = ["Folder", "FolderSource", "LocalFolder", "PartSource", "SliceSource", "check_name", "is_part_of"]

# Files that are kept open at once, beside those that threads are reading from at the moment.
_MOST_OPEN: Final = 8
# No disk holds as much: a place beyond it was never written, and is no sign of a file that was cut.
_LARGEST: Final = 1 << 60


def check_name(name: Any) -> str:
    """Return the name of a file as a checkpoint gives it; it may lead into a folder below, never out.

    Raises
    ------
    DamagedError
        If it leads out of the folder, or is no name.

    Examples
    --------
    >>> check_name("model-00001-of-00002.safetensors")
    'model-00001-of-00002.safetensors'
    """
    if type(name) is not str or not name or len(name) > 4096 or "\0" in name:
        raise DamagedError("a checkpoint names a file by something that is no name", got=brief(name, 80))
    parts = re.split(r"[/\\]", name)
    if "\\" in name or any(part in ("", ".", "..") for part in parts) or re.match(r"[A-Za-z]:", name):
        raise DamagedError(
            "a checkpoint names a file outside of its own folder", got=brief(name, 120),
            hint="No program writes that: do not trust the checkpoint.",
        )  # fmt: skip
    return name


class Folder(Protocol):
    """A place that holds files by name.

    Attributes
    ----------
    name : str
        For messages.
    remote : bool
        Whether each read is a journey. Then its files hold nothing open between two reads, and stay.
    connections : int
        Files that may be opened at the same time.
    """

    name: str
    remote: bool
    connections: int

    def called(self, name: str) -> str:
        """Return what a file in it is called in messages."""

    def names(self) -> list[str]:
        """Return the names of all entries, sorted; `UnsupportedError` where the place has no list of them."""

    def open(self, name: str) -> ByteSource:
        """Open a file; `MissingFileError` where there is none. The name was checked."""

    def below(self, name: str) -> "Folder | None":
        """Return the folder of that name inside, or None."""


class LocalFolder:
    """A folder on disk."""

    remote = False
    connections = 1

    def __init__(self, path: str | os.PathLike[Any]) -> None:
        self.name = os.fsdecode(path)

    def called(self, name: str) -> str:
        return os.path.join(self.name, name)

    def names(self) -> list[str]:
        try:
            return sorted(os.listdir(self.name))
        except OSError as error:
            raise SourceError(f"the folder cannot be listed: {error.strerror}", path=self.name) from error

    def open(self, name: str) -> ByteSource:
        return open_source(os.path.join(self.name, name))

    def below(self, name: str) -> "LocalFolder | None":
        path = os.path.join(self.name, name)
        return LocalFolder(path) if os.path.isdir(path) else None


class FolderSource:
    """A folder in the place of a file: what a checkpoint of several files is read from.

    Parameters
    ----------
    folder : Folder
    index : str or None
        The file in it that was asked for, where it was not the folder itself.

    Attributes
    ----------
    size : int
        Bytes of all the files that were opened so far.
    """

    def __init__(self, folder: Folder, index: str | None = None) -> None:
        self.folder = folder
        self.index = index
        self.name = folder.name if index is None else folder.called(index)
        self.size = 0
        self._parts: dict[str, ByteSource] = {}
        self._held: set[int] = set()
        self._open: OrderedDict[str, list[Any]] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False

    def part(self, name: str) -> ByteSource:
        """Return one file, which is not to be closed.

        Raises
        ------
        DamagedError
            If its name leads out of the folder.
        MissingFileError
            If there is none.
        """
        found = self._parts.get(name)
        if found is None:
            self._take(name, self._open_part(check_name(name)))
        return self._parts[name]

    def _open_part(self, name: str) -> ByteSource:
        try:
            return self.folder.open(name) if self.folder.remote else PartSource(self, name)
        except MissingFileError as error:
            raise error.locate(
                hint="The checkpoint is not complete: get the file again.", expected=name, got="none"
            ) from error.__cause__  # fmt: skip

    def _take(self, name: str, part: ByteSource) -> None:
        self._parts[name] = part
        self._held.add(id(part))
        self.size += part.size

    def prepare(self, names: Sequence[str]) -> None:
        """Open files that are about to be asked for, several at a time where each is a journey.

        One that cannot be opened is left out: `part` says why.
        """
        missing = [check_name(name) for name in names if name not in self._parts]
        if min(self.folder.connections, len(missing)) < 2:
            return
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(self.folder.connections, len(missing))) as pool:
            opened = [pool.submit(self._open_part, name) for name in missing]
        for name, future in zip(missing, opened, strict=True):
            if future.exception() is None:
                self._take(name, future.result())

    def has(self, name: str) -> bool:
        """Whether a file can be had."""
        try:
            self.part(name)
        except (MissingFileError, StatusError):
            return False
        return True

    def holds(self, source: Any) -> bool:
        """Whether a source is one of the files."""
        return id(source) in self._held

    @property
    def parts(self) -> dict[str, ByteSource]:
        """The files that were asked for so far, by name."""
        return dict(self._parts)

    def paths(self) -> list[str]:
        """Return the paths of the files that were asked for so far, and of the index; none where they are not local."""
        if not isinstance(self.folder, LocalFolder):
            return []
        names = [*([] if self.index is None else [self.index]), *self._parts]
        return [os.path.join(self.folder.name, name) for name in dict.fromkeys(names)]

    @contextmanager
    def borrowed(self, name: str) -> Iterator[ByteSource]:
        """Hold a file open."""
        with self._lock:
            if self._closed:
                raise SourceError("the checkpoint was closed", path=self.name)
            entry = self._open.pop(name, None)
            if entry is None:
                entry = [self.folder.open(name), 0]
            self._open[name] = entry
            entry[1] += 1
            self._retire(_MOST_OPEN)
        try:
            yield entry[0]
        finally:
            with self._lock:
                entry[1] -= 1
                self._retire(self._most())

    def _most(self) -> int:
        return 0 if self._closed else _MOST_OPEN

    def _retire(self, most: int) -> None:
        """Close files that nobody reads from, the one used least recently first."""
        idle = [name for name, entry in self._open.items() if not entry[1]]
        for name in idle[: max(len(self._open) - most, 0)]:
            self._open.pop(name)[0].close()

    def names(self) -> list[str]:
        """Return the names of what the folder holds."""
        return self.folder.names()

    def _refuse(self) -> NoReturn:
        raise UnsupportedError("a folder has no bytes of its own", path=self.name)

    def read_at(self, offset: int, count: int) -> bytes:
        self._refuse()

    def read_into(self, offset: int, target: memoryview) -> None:
        self._refuse()

    def read_scattered(self, offset: int, targets: Sequence[memoryview]) -> None:
        self._refuse()

    def map(self, access: int) -> memoryview:
        self._refuse()

    def finish(self, end: int) -> None:
        """Nothing to do: there is no file position."""

    def close(self) -> None:
        """Close all files, those in use when their reading is done."""
        with self._lock:
            self._closed = True
            self._retire(0)
        if self.folder.remote:
            for part in self._parts.values():
                part.close()


class PartSource:
    """One file of a checkpoint of several, open only while it is read from, and for a while after."""

    def __init__(self, whole: FolderSource, name: str) -> None:
        self.whole = whole
        self.part_name = name
        self.name = whole.folder.called(name)
        with whole.borrowed(name) as source:
            self.size = source.size

    @contextmanager
    def opened(self) -> Iterator[ByteSource]:
        """Give the open file; it may be closed afterwards."""
        with self.whole.borrowed(self.part_name) as source:
            if source.size != self.size:
                raise SourceError("the file was changed while it was read", path=self.name,
                                  expected=f"{self.size} bytes", got=str(source.size))  # fmt: skip
            yield source

    def read_at(self, offset: int, count: int) -> bytes:
        with self.opened() as source:
            return source.read_at(offset, count)

    def read_into(self, offset: int, target: memoryview) -> None:
        with self.opened() as source:
            source.read_into(offset, target)

    def read_scattered(self, offset: int, targets: Sequence[memoryview]) -> None:
        with self.opened() as source:
            source.read_scattered(offset, targets)

    def map(self, access: int) -> memoryview:
        with self.opened() as source:
            return source.map(access)

    def finish(self, end: int) -> None:
        """Nothing to do: there is no file position."""

    def close(self) -> None:
        """Nothing to do: the folder closes its files."""


def is_part_of(source: Any, whole: Any) -> bool:
    """Whether a source is this one, or one of its files."""
    return source is whole or (isinstance(whole, FolderSource) and whole.holds(source))


class SliceSource:
    """A stretch of another source, as a source of its own."""

    def __init__(self, source: ByteSource, offset: int, size: int, name: str) -> None:
        if 0 <= offset <= _LARGEST and 0 <= size <= _LARGEST and offset + size > source.size:
            raise truncated(source.name, offset, size, max(source.size - offset, 0))
        if offset < 0 or size < 0 or offset + size > source.size:
            raise DamagedError(
                "a part of a checkpoint reaches outside of its file", path=source.name,
                expected=f"at most {source.size} bytes", got=f"{size} bytes from byte {offset}",
            )  # fmt: skip
        self.source = source
        self.offset = offset
        self.size = size
        self.name = name

    def _check(self, offset: int, count: int) -> None:
        if offset < 0 or offset + count > self.size:
            raise truncated(self.name, offset, count, max(self.size - offset, 0))

    def read_at(self, offset: int, count: int) -> bytes:
        self._check(offset, count)
        return self.source.read_at(self.offset + offset, count)

    def read_into(self, offset: int, target: memoryview) -> None:
        self._check(offset, len(target))
        self.source.read_into(self.offset + offset, target)

    def read_scattered(self, offset: int, targets: Sequence[memoryview]) -> None:
        self._check(offset, sum(map(len, targets)))
        self.source.read_scattered(self.offset + offset, targets)

    def map(self, access: int) -> memoryview:
        return self.source.map(access)[self.offset : self.offset + self.size]

    def finish(self, end: int) -> None:
        """Nothing to do: it has no position."""

    def close(self) -> None:
        """Leave the other source open."""
