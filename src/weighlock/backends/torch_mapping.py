"""Storages of PyTorch that are parts of a mapped file."""

import mmap
from itertools import compress
from typing import Any, NamedTuple

import torch

from weighlock.backends.torch_columns import give_form
from weighlock.backends.torch_storages import swap
from weighlock.dtypes import DType
from weighlock.errors import UnsupportedError
from weighlock.storages.mapping import FileMap
from weighlock.tensors.columns import TensorColumns

__all__ = ["TorchMap"]

# Of int64, double and their complex numbers; no element type of PyTorch needs more.
_MOST_ALIGNMENT = 8


class Whole(NamedTuple):
    """A mapped file: its bytes, and the storage over all of them."""

    memory: memoryview
    storage: Any
    address: int


def _wrap(memory: memoryview) -> Whole:
    storage = torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()
    return Whole(memory, storage, storage.data_ptr())


def _unit(dtype: DType) -> int:
    """Return the multiple of bytes at which elements must stand for PyTorch to compute with them."""
    return min(dtype.itemsize, _MOST_ALIGNMENT)


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
        whole: Whole | None = self.whole(ref.reader.source, _wrap)
        if whole is None:
            return None
        unit = _MOST_ALIGNMENT if ref.untyped else _unit(ref.dtype)
        if (whole.address + extent.offset) % unit:
            if self.mode == "shared":
                raise UnsupportedError(
                    f"the storage cannot be mapped: its bytes do not begin at a multiple of {unit}, and PyTorch cannot "
                    "compute with them there", path=ref.reader.source.name, record=ref.record,
                    hint="Save the checkpoint again as a zip archive (weighlock.save), or load it as NumPy arrays.",
                )  # fmt: skip
            if not self._shared:
                return None
        part = whole.storage[extent.offset : extent.offset + extent.nbytes]
        swap(part, ref)
        return part

    def cover(self, columns: TensorColumns) -> tuple[list[Any], list[bool]] | None:
        """Make the tensors of these columns that cover a storage; return them, and for each whether it is one.

        The forms' layouts are known. Returns None where each storage is to be asked for by itself.

        Raises
        ------
        UnsupportedError, DirectoryError
            As for one storage.
        """
        forms, source = columns.forms, columns.reader.source
        starts = self.places(columns.reader, columns.handles, [form.nbytes for form in forms])
        whole: Whole | None = None if starts is None else self.whole(source, _wrap)
        if starts is None or whole is None:
            return None
        memory, _, address = whole
        usual = [
            form.layout.is_whole and not (form.untyped or (address + start) % _unit(form.dtype))
            for form, start in zip(forms, starts, strict=True)
        ]
        chosen = list(compress(forms, usual))
        made = [
            form.layout.over(memory, offset=start) for form, start in zip(chosen, compress(starts, usual), strict=True)
        ]
        give_form(made, chosen)
        return made, usual
