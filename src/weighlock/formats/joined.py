"""Storages that are put together from stretches of others: how the flat partitions of several processes become one."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from weighlock.errors import TensorBoundsError, UnsupportedError
from weighlock.storages.refs import Extent, StorageRef, Window
from weighlock.tensors.layout import is_contiguous
from weighlock.tensors.spec import TensorSpec

__all__ = ["Joined", "Stretch", "joined_ref"]


class Stretch(NamedTuple):
    """Elements that follow each other both in the new storage and in the tensor that they come from."""

    spec: TensorSpec
    target: int
    begin: int
    size: int


def joined_ref(key: str, stretches: Sequence[Stretch], numel: int) -> StorageRef:
    """Return the storage that consists of these stretches; they cover it, each element once.

    Raises
    ------
    UnsupportedError
        If a tensor is not simply elements one after the other, or of another type than the first.
    """
    first = stretches[0].spec
    for stretch in stretches:
        spec = stretch.spec
        if spec.dtype is not first.dtype or spec.ref.byteorder != first.ref.byteorder or spec.conj or spec.neg:
            raise UnsupportedError("parts of different types cannot be put together", object_path=key)
        if not is_contiguous(spec.shape, spec.stride) or spec.ref.reader is None:
            raise UnsupportedError("parts that do not lie in one piece cannot be put together", object_path=key)
    return StorageRef(
        key, first.dtype, numel, "cpu", Joined(), first.ref.record, list(stretches), first.ref.byteorder
    )  # fmt: skip


class Joined:
    """Reads such storages: a storage's handle is its stretches."""

    ready: Final = True

    def read(self, wanted: Sequence[tuple[StorageRef, memoryview]], *, verify: bool) -> None:
        for ref, target in wanted:
            by_tensor: dict[int, list[Stretch]] = {}
            for stretch in ref.handle:
                by_tensor.setdefault(id(stretch.spec), []).append(stretch)
            for stretches in by_tensor.values():
                _read_tensor(stretches, target, ref.dtype.itemsize, verify=verify)

    def read_range(self, ref: StorageRef, start: int, target: memoryview) -> None:
        """Fill `target` with the storage's bytes from `start` on, reading little else; unchecked."""
        item, stop = ref.dtype.itemsize, start + len(target)
        if start < 0 or stop > ref.nbytes:
            raise TensorBoundsError("bytes outside of a storage", expected=f"at most {ref.nbytes}", object_path=ref.key)
        for spec, place, begin, size in ref.handle:
            first, last = max(start, place * item), min(stop, (place + size) * item)
            if first < last:
                inside = (spec.offset + begin) * item + first - place * item
                _read_part(spec.ref, inside, target[first - start : last - start])

    def window_of(self, ref: StorageRef) -> tuple[Window, int] | None:
        return None

    def read_windows(self, windows: Sequence[Window], *, verify: bool) -> None:
        """Nothing to do: there are none."""

    def extent(self, ref: StorageRef) -> Extent | None:
        """Return None: it lies in pieces."""
        return None


def _read_tensor(stretches: list[Stretch], target: memoryview, item: int, *, verify: bool) -> None:
    """Read a tensor once, and put its stretches where they belong."""
    spec = stretches[0].spec
    reader: Any = spec.ref.reader
    if len(stretches) == 1 and stretches[0].size * item == spec.ref.nbytes:
        place = stretches[0].target * item
        reader.read([(spec.ref, target[place : place + spec.ref.nbytes])], verify=verify)
        return
    held = memoryview(bytearray(spec.ref.nbytes))
    reader.read([(spec.ref, held)], verify=verify)
    for _, place, begin, size in stretches:
        first = (spec.offset + begin) * item
        target[place * item : (place + size) * item] = held[first : first + size * item]


def _read_part(ref: StorageRef, start: int, target: memoryview) -> None:
    reader: Any = ref.reader
    extent = reader.extent(ref)
    if extent is not None:
        reader.source.read_into(extent.offset + start, target)
        return
    held = memoryview(bytearray(ref.nbytes))
    reader.read([(ref, held)], verify=False)
    target[:] = held[start : start + len(target)]
