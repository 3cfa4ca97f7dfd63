"""Mapping a file instead of reading it: what each mode allows, what cannot be mapped, and where the system cannot."""

import errno
import mmap
import sys
import warnings
from collections.abc import Callable, Sequence
from operator import add
from typing import Any, Final

from weighlock.errors import TruncatedError, UnsupportedError
from weighlock.storages.folders import is_part_of
from weighlock.storages.refs import Extent, StorageRef
from weighlock.storages.source import ByteSource

__all__ = ["MODES", "FileMap"]

MODES: Final = (True, "r", "shared")
_ACCESS: Final = {True: mmap.ACCESS_COPY, "r": mmap.ACCESS_READ, "shared": mmap.ACCESS_WRITE}

# What file systems without mappings answer (some network and FUSE ones, and those of the system itself).
_NO_MAPPINGS: Final = (errno.ENODEV, errno.EACCES, errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)


class FileMap:
    """The map of the file that is being read; made when the first storage asks for it.

    Parameters
    ----------
    source : ByteSource
    mode : bool or str
        True: changes stay private; ``"r"``: read-only; ``"shared"``: changes go to the file. False: nothing is mapped.
    """

    def __init__(self, source: ByteSource, mode: bool | str) -> None:
        self.source = source
        self.mode = mode
        self._wholes: dict[int, Any] = {}

    @property
    def access(self) -> int:
        """How it is mapped, as in `mmap.mmap`."""
        return _ACCESS[self.mode]

    @property
    def turns_bytes(self) -> bool:
        """Whether the bytes of a file in the other order are turned around in the map."""
        return False

    def covers(self, ref: StorageRef) -> bool:
        """Whether a storage is to be mapped: it lies in the file itself, not in a checkpoint inside of its pickle."""
        return bool(self.mode and ref.nbytes) and is_part_of(getattr(ref.reader, "source", None), self.source)

    def extent(self, ref: Any) -> Extent:
        """Return where a storage lies in the map.

        Raises
        ------
        UnsupportedError
            If its bytes do not stand in the file as they are to be in memory.
        TruncatedError
            If the file ends before it does.
        """
        extent: Extent | None = ref.reader.extent(ref)
        source: ByteSource = ref.reader.source
        # Only what is private may be turned around in place.
        if extent is None or (ref.byteorder != sys.byteorder and not self.turns_bytes):
            why = "its record is compressed" if extent is None else f"its bytes are {ref.byteorder}-endian"
            raise UnsupportedError(
                f"the storage cannot be mapped: {why}", path=source.name, record=ref.record,
                hint="Load without mmap, or save the checkpoint again first.",
            )  # fmt: skip
        if extent.offset + extent.nbytes > source.size:
            raise TruncatedError("the file ends inside a record", path=source.name, record=ref.record)
        return extent

    def places(self, reader: Any, handles: Sequence[Any], sizes: Sequence[int]) -> list[int] | None:
        """Return where many storages lie in the map; None where each is to be asked for by itself.

        Parameters
        ----------
        reader : RecordReader
            As in `TensorColumns`.
        handles : sequence
            What it knows them by.
        sizes : sequence of int
            In bytes.
        """
        source: ByteSource = reader.source
        if not self.mode or not is_part_of(source, self.source):
            return None
        found: list[int] | None = reader.starts(handles)
        if found is None or max(map(add, found, sizes), default=0) > source.size:
            return None
        return found

    def whole(self, source: ByteSource, wrap: Callable[[memoryview], Any]) -> Any:
        """Return a file as the framework's memory; None, with a warning, to read it instead.

        Parameters
        ----------
        source : ByteSource
            The checkpoint's, or that of one of its parts.
        wrap : callable
            Makes the framework's memory; called once for a file.

        Raises
        ------
        UnsupportedError
            If it cannot be mapped, and reading would not do the same.
        """
        found = self._wholes.get(id(source))
        if found is None:
            try:
                found = self._wholes[id(source)] = wrap(source.map(self.access))
            except UnsupportedError as error:
                cause = error.__cause__
                if self.mode == "shared" or not isinstance(cause, OSError) or cause.errno not in _NO_MAPPINGS:
                    raise
                self.mode = False
                warnings.warn(
                    f"{source.name}: its file system cannot map files ({cause.strerror}); it is read instead",
                    RuntimeWarning, stacklevel=2,
                )  # fmt: skip
        return found

    def release(self) -> None:
        """Let go of the maps; what was made of them keeps them."""
        self._wholes.clear()
