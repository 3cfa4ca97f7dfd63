"""Sources over another source: one that counts what is read, and one that is a stretch of it."""

from collections.abc import Sequence

from weighlock.storages.source import ByteSource

__all__ = ["CountingSource", "PartSource"]


class CountingSource:
    """A source that counts what is read from it."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self.name = source.name
        self.size = source.size
        self.bytes_read = 0

    def read_at(self, offset: int, count: int) -> bytes:
        self.bytes_read += count
        return self._source.read_at(offset, count)

    def read_into(self, offset: int, target: memoryview) -> None:
        self.bytes_read += len(target)
        self._source.read_into(offset, target)

    def read_scattered(self, offset: int, targets: Sequence[memoryview]) -> None:
        self.bytes_read += sum(map(len, targets))
        self._source.read_scattered(offset, targets)

    def map(self, access: int) -> memoryview:
        return self._source.map(access)

    def finish(self, end: int) -> None:
        """Nothing to do: the caller's file stays where it is."""

    def close(self) -> None:
        """Leave the source to whoever opened it."""


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
