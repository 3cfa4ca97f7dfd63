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
from weighlock.tensors.columns import TensorColumns, TensorForm
from weighlock.tensors.layout import contiguous_stride
from weighlock.tensors.leaves import Leaves
from weighlock.tensors.spec import TensorSpec

__all__ = ["read"]

_SMALL: Final = 64 << 10
_WINDOW: Final = 1 << 20


class _Plan:
    """Which window each small tensor belongs to, and its place there; by where its bytes begin in the file."""

    def __init__(self) -> None:
        self.owners: dict[int, Window] = {}
        self.places: dict[int, int] = {}


class _Columns(TensorColumns):
    """All tensors of a file: a handle is where the bytes begin."""

    __slots__ = ()

    @property
    def headers(self) -> list[int]:
        return list(self.handles)

    def ref(self, index: int) -> StorageRef:
        form, key = self.forms[index], self.keys[index]
        return StorageRef(key, form.dtype, form.numel, "cpu", self.reader, key, self.handles[index])


class _Tensors(ExtentReader):
    """The byte ranges of one file, small ones read together."""

    def __init__(self, source: ByteSource, header: SafetensorsHeader) -> None:
        super().__init__(source)
        self._header = header
        self._plan: _Plan | None = None

    @property
    def windows(self) -> _Plan:
        """Which small tensors are read together: nothing stands between two that follow each other."""
        if self._plan is not None:
            return self._plan
        plan = self._plan = _Plan()
        window, stop, start = Window(self, -1, 0, [], []), -1, self._header.data_start
        for _, _, _, _, begin, end in self._header.tensors:
            if 0 < end - begin <= _SMALL:
                offset = start + begin
                if offset != stop or start + end - window.offset > _WINDOW:
                    window = Window(self, offset, 0, [], [])
                stop = start + end
                window.nbytes = stop - window.offset
                plan.owners[offset] = window
                plan.places[offset] = offset - window.offset
        return plan

    def window_of(self, ref: StorageRef) -> tuple[Window, int] | None:
        """Return the window that a small tensor is read with, and its place in it."""
        window = self.windows.owners.get(ref.handle)
        return None if window is None else (window, self.windows.places[ref.handle])

    def starts(self, handles: Sequence[int]) -> list[int]:
        """Return where the bytes of tensors begin: that is what they are known by."""
        return list(handles)

    def columns(self) -> _Columns:
        """Return all tensors as columns; every one has an element type."""
        forms: dict[Any, TensorForm] = {}
        found, start = [], self._header.data_start
        for name, _, dtype, shape, begin, end in self._header.tensors:
            form = forms.get((dtype, shape))
            if form is None:
                assert dtype is not None  # noqa: S101 - the caller has looked
                ref = StorageRef(name, dtype, (end - begin) // dtype.itemsize, "cpu")
                form = forms[dtype, shape] = TensorForm(ref, 0, shape, contiguous_stride(shape), False)
            found.append(form)
        _, _, _, _, begins, _ = zip(*self._header.tensors, strict=True)
        names = [entry.name for entry in self._header.tensors]
        return _Columns(self, names, [start + begin for begin in begins], found, "little")

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
    tensors, document = _Tensors(source, header), header.metadata.get(DOCUMENT)
    made: dict[str, Any] = {}
    storages: dict[str, StorageRef] = {}
    notes = {"metadata": dict(header.metadata)}
    if document is None and header.tensors and all(entry.row is not None for entry in header.tensors):
        columns = tensors.columns()
        leaves = reading.leaves.strided_columns(columns)
        if leaves is not None:
            made = dict(zip(columns.keys, leaves, strict=True))
            storages = {columns.keys[index]: storage.ref for index, storage in columns.storages.items()}
            contents = Contents(made, "safetensors", source.size, lambda: notes, storages)
            contents.held.append(tensors)
            return contents
    specs = _one_by_one(header, tensors, reading.leaves, made, storages)
    held = made if document is None else restore(document, specs, reading.leaves, made)
    return Contents(held, "safetensors", source.size, lambda: notes, storages)


def _one_by_one(
    header: SafetensorsHeader, tensors: _Tensors, leaves: Leaves, made: dict[str, Any], storages: dict[str, StorageRef]
) -> dict[str, TensorSpec]:
    """Make each tensor; return the descriptions of those that others may be views of."""
    specs: dict[str, TensorSpec] = {}
    start = header.data_start
    for name, code, dtype, shape, begin, end in header.tensors:
        if dtype is None:
            ref = StorageRef(name, UINT8, end - begin, "cpu", tensors, name, start + begin)
            made[name] = leaves.opaque(code, shape, ref)
        else:
            ref = StorageRef(name, dtype, (end - begin) // dtype.itemsize, "cpu", tensors, name, start + begin)
            specs[name] = spec = TensorSpec(leaves.storage(ref), dtype, 0, shape, contiguous_stride(shape))
            made[name] = leaves.tensor(spec)
        storages[name] = ref
    return specs
