"""safetensors files: a JSON header of names, types, shapes and byte ranges, and the bytes: row-major, no aliases."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from weighlock.dtypes import UINT8
from weighlock.formats.extents import ExtentReader
from weighlock.formats.flat import DOCUMENT, restore
from weighlock.formats.reading import Contents, Reading
from weighlock.formats.safetensors_header import SafetensorsHeader, read_header
from weighlock.storages.plan import read_extents
from weighlock.storages.refs import StorageRef, Window
from weighlock.storages.source import ByteSource
from weighlock.tensors.layout import contiguous_stride
from weighlock.tensors.spec import TensorSpec

__all__ = ["read"]

_SMALL: Final = 64 << 10
_WINDOW: Final = 1 << 20


class _Tensors(ExtentReader):
    """The byte ranges of one file, small ones read together."""

    def __init__(self, source: ByteSource, header: SafetensorsHeader) -> None:
        super().__init__(source)
        self._header = header
        self._windows: dict[int, tuple[Window, int]] | None = None

    def window_of(self, ref: StorageRef) -> tuple[Window, int] | None:
        """Return the stretch that a small tensor is read with, and its place in it."""
        if self._windows is None:
            self._windows = self._stretches()
        return self._windows.get(ref.handle)

    def _stretches(self) -> dict[int, tuple[Window, int]]:
        """Return the windows: nothing stands between two tensors, so small ones that follow each other are one."""
        found: dict[int, tuple[Window, int]] = {}
        stretch, stop, start = Window(self, -1, 0, [], []), -1, self._header.data_start
        for _, _, _, _, begin, end in self._header.tensors:
            if 0 < end - begin <= _SMALL:
                offset = start + begin
                if offset != stop or start + end - stretch.offset > _WINDOW:
                    stretch = Window(self, offset, 0, [], [])
                stop = start + end
                stretch.nbytes = stop - stretch.offset
                found[offset] = stretch, offset - stretch.offset
        return found

    def scatter(self, windows: Sequence[tuple[Window, Mapping[int, memoryview]]], *, verify: bool) -> list[Window]:
        """Read small storages straight to where they belong."""
        read_extents(
            self.source,
            [(window.offset + place, target) for window, targets in windows for place, target in targets.items()],
        )
        return []


def read(source: ByteSource, reading: Reading) -> Contents:
    """Read a safetensors file as a dictionary of tensors, in the order of their bytes, as the safetensors package does.

    Where the file was written by `weighlock.save` and its metadata say that tensors are views of others, or that the
    object was more than a dictionary of tensors, that object comes back.

    Raises
    ------
    DamagedError
        If the header is malformed, or does not fit the file.
    UnsupportedError
        If it holds an unknown element type.
    """
    header = read_header(source, reading.limits)
    tensors = _Tensors(source, header)
    made: dict[str, Any] = {}
    specs: dict[str, TensorSpec] = {}
    storages: dict[str, StorageRef] = {}
    document = header.metadata.get(DOCUMENT)
    leaves, start = reading.leaves, header.data_start
    strides: dict[tuple[int, ...], tuple[int, ...]] = {}
    for name, code, dtype, shape, begin, end in header.tensors:
        nbytes = end - begin
        if dtype is None:
            ref = StorageRef(name, UINT8, nbytes, "cpu", tensors, name, start + begin)
            made[name] = leaves.opaque(code, shape, ref)
        else:
            ref = StorageRef(name, dtype, nbytes // dtype.itemsize, "cpu", tensors, name, start + begin)
            storage = leaves.storage(ref)
            stride = strides.get(shape) or strides.setdefault(shape, contiguous_stride(shape))
            made[name] = leaves.strided(storage, dtype, 0, shape, stride, False)
            if document is not None:
                specs[name] = TensorSpec(storage, dtype, 0, shape, stride)
        storages[name] = ref
    held = made if document is None else restore(document, specs, leaves, made)
    return Contents(held, "safetensors", source.size, lambda: {"metadata": dict(header.metadata)}, storages)
