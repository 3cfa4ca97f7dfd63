"""A checkpoint that is looked at, not loaded: its object with descriptions in place of tensors.

Reads the directory and the pickles, no tensor data, and needs neither NumPy nor PyTorch.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from weighlock.errors import DamagedError, MissingFileError, SourceError, WeighlockError
from weighlock.formats.collector import collector_paused
from weighlock.formats.detect import is_index, read_any, read_file
from weighlock.formats.layout import LayoutRow, complete
from weighlock.formats.reading import Contents, Options, Reading
from weighlock.limits import DEFAULT_LIMITS, Limits
from weighlock.storages.addresses import find_folder, folder_at, is_address, local_path, open_anywhere
from weighlock.storages.assembled import AssembledSource, assembled
from weighlock.storages.folders import FolderSource, LocalFolder
from weighlock.storages.plan import read_extents
from weighlock.storages.ranges import worth_reading_along
from weighlock.storages.refs import Extent, StorageRef
from weighlock.storages.source import ByteSource, open_source
from weighlock.tensors.leaves import Leaves

__all__ = ["Checkpoint", "open_any", "read_checkpoint"]

_ONE_SLASH: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/(?!/)")


class Checkpoint:
    """The description of one file. A context manager: closing it closes the file.

    Attributes
    ----------
    object : object
        What the file holds, tensors as `TensorSpec` and its relatives, unknown classes as `Stub`.
    format : str
        One of ``formats.detect.FORMATS``.
    metadata : dict
        What the container says of how it was written.
    globals : dict of str to int
        Every global that the pickles name, and the byte where it is named first.
    unknown : tuple of str
        Those that are neither known data nor named by the user.
    storages : dict of str to StorageRef
    name : str
        The file's name.
    size : int
        Its length in bytes.
    """

    def __init__(self, source: ByteSource, contents: Contents, reading: Reading) -> None:
        self.object = contents.object
        self.format = contents.format
        self.metadata = contents.notes()
        self.storages = contents.storages
        self.globals = dict(reading.globals_seen)
        self.unknown = tuple(reading.unknown)
        self.name = source.name
        self.size = source.size
        self._source = source
        self._contents = contents

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. What was described stays; bytes can no longer be read."""
        self._source.close()

    def layout(self) -> list[LayoutRow]:
        """Return every stretch of the file in its order: records, headers, padding, gaps, bytes behind the end.

        Where the format says no more, the storages' bytes, and gaps between them.
        """
        contents = self._contents
        rows = contents.layout() if contents.layout is not None else self._stored()
        return complete(rows, contents.end, self.size)

    def extent(self, ref: StorageRef) -> Extent | None:
        """Return where a storage lies in this file; None where it is compressed, in pieces, or in another file."""
        reader: Any = ref.reader
        if reader is None or getattr(reader, "source", None) is not self._source:
            return None
        found: Extent | None = reader.extent(ref)
        return found

    def _stored(self) -> list[LayoutRow]:
        """Return where storages lie; what stands before the first of them is the header that says so."""
        rows = []
        for ref in self.storages.values():
            extent = self.extent(ref) if ref.nbytes else None
            if extent is not None:
                rows.append(LayoutRow("data", ref.record or ref.key, extent.offset, extent.nbytes))
        first = min((row.offset for row in rows), default=0)
        return [LayoutRow("header", "", 0, first), *rows]

    def storage_bytes(self, ref: StorageRef, start: int = 0, count: int | None = None) -> bytes:
        """Return bytes of one storage, as the file has them: only those are read, where the record is not compressed.

        Parameters
        ----------
        ref : StorageRef
        start, count : int
            In bytes from the storage's start; to its end where `count` is None.
        """
        count = ref.nbytes - start if count is None else count
        if count <= 0 or ref.location == "meta":
            return b""
        if ref.reader is None:
            raise DamagedError("the storage has no bytes in the file", path=self.name, record=ref.record or ref.key)
        if ref.reader.extent(ref) is not None or assembled(ref) is not None:
            return self.storage_parts(ref, [(start, start + count)])[0]
        whole = bytearray(ref.nbytes)
        ref.reader.read([(ref, memoryview(whole))], verify=True)
        return bytes(whole[start : start + count])

    def storage_parts(self, ref: StorageRef, parts: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return stretches of one storage that is not compressed, from one byte to before another, in one plan."""
        reader: Any = ref.reader
        extent = reader.extent(ref)
        base, source = (0, AssembledSource(ref)) if extent is None else (extent.offset, reader.source)
        if len(parts) == 1:  # of a remote file, what follows is kept for the next time
            low, high = parts[0]
            return [source.read_at(base + low, high - low)]
        found = [bytearray(high - low) for low, high in parts]
        read_extents(source, [(base + low, memoryview(part)) for (low, _), part in zip(parts, found, strict=True)])
        return list(map(bytes, found))

    @property
    def part_paths(self) -> list[str]:
        """The files on disk that a checkpoint of several files was described from, the index among them."""
        source = self._source
        return source.paths() if isinstance(source, FolderSource) else []

    @property
    def gap(self) -> int:
        """How many unwanted bytes between two wanted ones are cheaper to read than a second call."""
        return worth_reading_along(self._source)


def open_any(f: Any, storage_options: Mapping[str, Any] | None = None, *, addresses: bool = True) -> ByteSource:
    """Open what a caller passed as a file: a folder, and a file that names others, as a source of several files."""
    import os

    if addresses and is_address(f):
        path = local_path(f)
        if path is f:
            return _open_address(f, storage_options)
        f = path
    try:
        source = open_anywhere(f, storage_options) if addresses else open_source(f)
    except SourceError as error:
        if isinstance(f, str | os.PathLike):  # asked only now: most paths are files
            if os.path.isdir(f):
                return FolderSource(LocalFolder(f))
            if isinstance(error, MissingFileError) and os.path.islink(f):
                error.locate(hint="It is a symbolic link to a file that is not there.")
            elif isinstance(error, MissingFileError) and isinstance(f, str) and _ONE_SLASH.match(f):
                error.locate(hint="An address has two slashes behind the colon.")
        raise
    if not isinstance(f, str | os.PathLike) or not _is_index(source):
        return source
    source.close()
    folder, name = os.path.split(source.name)
    return FolderSource(LocalFolder(folder), name)


def _open_address(address: str, options: Mapping[str, Any] | None) -> ByteSource:
    folder = find_folder(address, options) if address.partition("?")[0].endswith("/") else None
    if folder is not None:
        return FolderSource(folder)
    try:
        source = open_anywhere(address, options)
    except SourceError:  # also what a file system says of a folder
        folder = find_folder(address, options)
        if folder is None:
            raise
        return FolderSource(folder)
    if not _is_index(source):
        return source
    from weighlock.storages.remote_folders import split_address

    where, name = split_address(address)
    source.close()
    return FolderSource(folder_at(where, options), name)


def _is_index(source: ByteSource) -> bool:
    try:
        return is_index(source)
    except BaseException:
        source.close()
        raise


def read_checkpoint(
    f: Any, *, limits: Limits | None = None, encoding: str = "utf-8", errors: str = "strict", verify: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> Checkpoint:  # fmt: skip
    """Describe the checkpoint in `f` without reading its tensors' data.

    Parameters
    ----------
    f : path, address, bytes-like or file object
        Of an address (``https://``, ``s3://`` ...) only the bytes that are needed are fetched.
    limits : Limits, optional
    encoding, errors : str
        How strings written by Python 2 are decoded.
    verify : bool
        Check the CRC-32 of the records that are read.
    storage_options : mapping, optional
        For addresses; see `weighlock.open_checkpoint`.

    Raises
    ------
    CheckpointError
        If it is no checkpoint, or damaged.

    Examples
    --------
    >>> import io, weighlock, numpy
    >>> file = io.BytesIO()
    >>> weighlock.save({"w": numpy.zeros((2, 3), "f4")}, file)
    >>> _ = file.seek(0)
    >>> read_checkpoint(file).object["w"]
    <tensor float32[2, 3] in storage '0'>
    """
    source = open_any(f, storage_options)
    options = Options(
        limits=limits or DEFAULT_LIMITS, encoding=encoding, errors=errors, stubs_allowed=True, verify=verify
    )
    reading = Reading(Leaves(), read_any, options)
    try:
        with collector_paused():
            return Checkpoint(source, read_file(source, reading), reading)
    except BaseException as error:
        source.close()
        if isinstance(error, WeighlockError):
            error.locate(path=source.name)
        raise
