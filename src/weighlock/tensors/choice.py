"""Which tensors of a reading get their data, and in which element type: decided before any of them is built."""

from typing import Any

from weighlock.dtypes import DType
from weighlock.storages.refs import StorageRef
from weighlock.tensors.spec import TensorSpec

__all__ = ["Choice"]

_Key = tuple[Any, ...]


def _storage(ref: StorageRef) -> _Key:
    return getattr(getattr(ref.reader, "source", None), "name", ""), ref.record, ref.key


class Choice:
    """The decisions, by what the file says of a tensor: tensors that are one view of one storage share theirs."""

    def __init__(self) -> None:
        self._wanted: set[_Key] = set()
        self._as_saved: set[_Key] = set()
        self._types: dict[_Key, DType | None] = {}

    def keep(self, ref: StorageRef) -> None:
        """Have a storage read as it was saved."""
        if ref.part_of is not None:
            self.keep(ref.part_of[0])
        self._wanted.add(_storage(ref))
        self._as_saved.add(_storage(ref))

    def want(self, spec: TensorSpec, target: DType | None) -> None:
        """Have a tensor read: as it was saved (None), or as another type. What was said first of a view counts."""
        ref = spec.ref
        target = self._types.setdefault(_view(ref, spec.dtype, spec.offset, spec.shape, spec.stride), target)
        if target is None or ref.part_of is not None:
            self.keep(ref)
        self._wanted.add(_storage(ref))

    def reads(self, ref: StorageRef) -> bool:
        """Whether anything needs a storage's bytes."""
        return _storage(ref) in self._wanted

    def keeps(self, ref: StorageRef) -> bool:
        """Whether anything needs them as they were saved."""
        return _storage(ref) in self._as_saved

    def target(
        self, ref: StorageRef, dtype: DType, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]
    ) -> DType | None:
        """Return the type that a tensor becomes; None for its own."""
        return self._types.get(_view(ref, dtype, offset, shape, stride))


def _view(ref: StorageRef, dtype: DType, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> _Key:
    return (*_storage(ref), dtype.name, offset, shape, stride)
