"""safetensors files: a JSON header of names, types, shapes and byte ranges, and the bytes. Row-major, no aliases."""

from collections.abc import Sequence
from typing import Final

from weighlock.dtypes import BY_SAFETENSORS_CODE, VALUES_PER_UNIT
from weighlock.formats.reading import Contents, Reading
from weighlock.formats.safetensors_header import read_header
from weighlock.storages.plan import read_extents
from weighlock.storages.refs import Extent, StorageRef, Window
from weighlock.storages.source import ByteSource
from weighlock.tensors.layout import contiguous_stride
from weighlock.tensors.spec import TensorSpec

__all__ = ["matches", "read"]


def matches(head: bytes, size: int) -> bool:
    """Whether the file begins with the length of a JSON object that fits into it."""
    length = int.from_bytes(head[:8], "little")
    return len(head) > 8 and 2 <= length <= size - 8 and head[8:9] == b"{"


class _Tensors:
    """The byte ranges of one file."""

    ready: Final = True

    def __init__(self, source: ByteSource) -> None:
        self.source = source
        self.offsets: dict[str, int] = {}

    def read(self, wanted: Sequence[tuple[StorageRef, memoryview]], *, verify: bool) -> None:
        read_extents(self.source, [(self.offsets[ref.key], target) for ref, target in wanted])

    def window_of(self, ref: StorageRef) -> tuple[Window, int] | None:
        """Return None: storages are read one by one, into memory of their own."""
        return None

    def read_windows(self, windows: Sequence[Window], *, verify: bool) -> None:
        """Nothing to do: there are none."""

    def extent(self, ref: StorageRef) -> Extent | None:
        return Extent(self.offsets[ref.key], ref.nbytes)


def read(source: ByteSource, reading: Reading) -> Contents:
    """Read a safetensors file as a dictionary of tensors, in the order of their bytes, as the safetensors package does.

    Raises
    ------
    DamagedError
        If the header is malformed, or does not fit the file.
    UnsupportedError
        If it holds an element type that is not in `weighlock.dtypes`.
    """
    header = read_header(source, reading.limits)
    tensors = _Tensors(source)
    made, storages = {}, {}
    for entry in header.tensors:
        dtype = BY_SAFETENSORS_CODE[entry.dtype]
        shape = tuple(entry.shape)
        if dtype.name in VALUES_PER_UNIT and shape:
            shape = (*shape[:-1], shape[-1] // VALUES_PER_UNIT[dtype.name])
        ref = StorageRef(
            entry.name, dtype, (entry.end - entry.begin) // dtype.itemsize, "cpu", tensors, record=entry.name
        )
        tensors.offsets[entry.name] = header.data_start + entry.begin
        storages[entry.name] = ref
        storage = reading.leaves.storage(ref)
        made[entry.name] = reading.leaves.tensor(TensorSpec(storage, dtype, 0, shape, contiguous_stride(shape)))
    return Contents(made, "safetensors", source.size, lambda: {"metadata": dict(header.metadata)}, storages)
