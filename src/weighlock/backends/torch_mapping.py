"""Storages of PyTorch that are parts of a mapped file."""

import mmap
from typing import Any

import torch

from weighlock.backends.torch_storages import swap
from weighlock.errors import UnsupportedError
from weighlock.storages.mapping import FileMap

__all__ = ["TorchMap"]

# Of int64, double and their complex numbers; no element type of PyTorch needs more.
_MOST_ALIGNMENT = 8


class TorchMap(FileMap):
    """A mapped file as storages. What ``True`` means is PyTorch's own setting, `set_default_mmap_options`."""

    def __init__(self, source: Any, mode: bool | str) -> None:
        super().__init__(source, mode)
        self._asked: bool | None = None

    @property
    def _shared(self) -> bool:
        if self.mode == "shared":
            return True
        if self._asked is None:  # once for a file: PyTorch looks it up in its configuration, which takes long
            self._asked = torch.serialization.get_default_mmap_options() == getattr(mmap, "MAP_SHARED", None)
        return self._asked

    @property
    def access(self) -> int:
        return mmap.ACCESS_WRITE if self._shared else mmap.ACCESS_COPY

    @property
    def turns_bytes(self) -> bool:
        return not self._shared

    def part(self, ref: Any) -> Any:
        """Return a storage over the file; None for one to be read, because of where its bytes stand.

        Raises
        ------
        UnsupportedError, TruncatedError
            As `FileMap.extent`; and for a shared map of bytes that PyTorch could not compute with there.
        """
        extent = self.extent(ref)
        overall = self.whole(ref, lambda memory: torch.frombuffer(memory, dtype=torch.uint8).untyped_storage())
        if overall is None:
            return None
        unit = _MOST_ALIGNMENT if ref.untyped else min(ref.dtype.itemsize, _MOST_ALIGNMENT)
        if (overall.data_ptr() + extent.offset) % unit:
            if self.mode == "shared":
                raise UnsupportedError(
                    f"the storage cannot be mapped: its bytes do not begin at a multiple of {unit}, and PyTorch cannot "
                    "compute with them there", path=ref.reader.source.name, record=ref.record,
                    hint="Save the checkpoint again as a zip archive (weighlock.save), or load it as NumPy arrays.",
                )  # fmt: skip
            if not self._shared:
                return None
        part = overall[extent.offset : extent.offset + extent.nbytes]
        swap(part, ref)
        return part
