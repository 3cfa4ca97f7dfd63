"""The reader of formats whose storages lie in the file as they are: a storage's handle is where its bytes begin."""

from collections.abc import Sequence
from typing import Final

from weighlock.storages.plan import read_extents
from weighlock.storages.refs import Extent, StorageRef, Window
from weighlock.storages.source import ByteSource

__all__ = ["ExtentReader"]


class ExtentReader:
    """The byte ranges of one file. Nothing is checked: such formats have no checksums."""

    ready: Final = True

    def __init__(self, source: ByteSource) -> None:
        self.source = source

    def read(self, wanted: Sequence[tuple[StorageRef, memoryview]], *, verify: bool) -> None:
        read_extents(self.source, [(ref.handle, target) for ref, target in wanted])

    def window_of(self, ref: StorageRef) -> tuple[Window, int] | None:
        """Return None: storages are read to memory of their own."""
        return None

    def read_windows(self, windows: Sequence[Window], *, verify: bool) -> None:
        read_extents(self.source, [(window.offset, window.memory) for window in windows if window.memory is not None])

    def extent(self, ref: StorageRef) -> Extent | None:
        return Extent(ref.handle, ref.nbytes)
