"""Storages that lie in pieces, as a source of bytes: what their reader puts together where it is read."""

from collections.abc import Sequence
from typing import Any

from weighlock.errors import UnsupportedError
from weighlock.storages.refs import StorageRef

__all__ = ["AssembledSource", "assembled"]


class AssembledSource:
    """The bytes of one storage, by position in it.

    Parameters
    ----------
    ref : StorageRef
        Its reader has `read_range`: given the storage, a position and memory, it fills the memory from there.
    """

    def __init__(self, ref: StorageRef) -> None:
        self._ref = ref
        self._reader: Any = ref.reader
        self.name = ref.record or ref.key
        self.size = ref.nbytes

    def read_at(self, offset: int, count: int) -> bytes:
        data = bytearray(count)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def read_into(self, offset: int, target: memoryview) -> None:
        self._reader.read_range(self._ref, offset, target)

    def read_scattered(self, offset: int, targets: Sequence[memoryview]) -> None:
        for target in targets:
            self.read_into(offset, target)
            offset += len(target)

    def map(self, access: int) -> memoryview:
        raise UnsupportedError("a storage in pieces cannot be mapped", record=self.name)

    def finish(self, end: int) -> None:
        """Nothing to do: it has no position."""

    def close(self) -> None:
        """Leave the files to whoever opened them."""


def assembled(ref: StorageRef) -> AssembledSource | None:
    """Return the bytes of a storage whose reader puts it together piece by piece; None for any other."""
    return AssembledSource(ref) if hasattr(ref.reader, "read_range") else None
