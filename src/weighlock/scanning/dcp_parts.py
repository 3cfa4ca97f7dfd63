"""Files of a distributed checkpoint: small checkpoints one behind the other, where ``.metadata`` beside them says.

Without that index such a file is what it looks like, several archives in one, which readers would take differently.
"""

import os
from collections.abc import Sequence
from typing import Any, Final

from weighlock.errors import WeighlockError
from weighlock.formats.detect import read_any
from weighlock.limits import Limits
from weighlock.pickling.inert import Stub
from weighlock.scanning.tracing import ScanReading
from weighlock.storages.source import ByteSource, open_source

__all__ = ["PartSource", "parts_of"]

_INDEX: Final = ".metadata"
_ENDING: Final = ".distcp"


class PartSource:
    """A stretch of another source."""

    def __init__(self, source: ByteSource, offset: int, size: int) -> None:
        self._source = source
        self._offset = offset
        self.name = source.name
        self.size = size

    def read_at(self, offset: int, count: int) -> bytes:
        return self._source.read_at(self._offset + offset, count)

    def read_into(self, offset: int, target: memoryview) -> None:
        self._source.read_into(self._offset + offset, target)

    def read_scattered(self, offset: int, targets: Sequence[memoryview]) -> None:
        self._source.read_scattered(self._offset + offset, targets)

    def map(self, access: int) -> memoryview:
        return self._source.map(access)[self._offset : self._offset + self.size]

    def finish(self, end: int) -> None:
        """Nothing to do: the whole source is the caller's."""

    def close(self) -> None:
        """Leave the source to its owner."""


def parts_of(path: Any, limits: Limits) -> list[tuple[int, int]] | None:
    """Return where the parts of a file of a distributed checkpoint lie; None where it is no such file."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path).endswith(_ENDING):
        return None
    folder, name = os.path.split(os.fspath(path))
    index = os.path.join(folder, _INDEX)
    if not os.path.isfile(index):
        return None
    try:
        source = open_source(index)
    except WeighlockError:
        return None
    try:
        made = read_any(source, ScanReading(limits)).object
    except WeighlockError:
        return None  # said where the index itself is scanned
    finally:
        source.close()
    return sorted(_places(made, name))


def _places(index: Any, name: str) -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    storage = index.attributes().get("storage_data") if isinstance(index, Stub) else None
    for info in storage.values() if isinstance(storage, dict) else ():
        state = info.attributes() if isinstance(info, Stub) else {}
        offset, length = state.get("offset"), state.get("length")
        if state.get("relative_path") == name and type(offset) is int and type(length) is int and offset >= 0 < length:
            found.add((offset, length))
    return found
