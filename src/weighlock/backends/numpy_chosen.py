"""NumPy's arrays of chosen entries only, and cast while they are read: one storage at a time in its saved type."""

import sys
from typing import Any

import numpy as np

from weighlock.backends.numpy_backend import NumpyLeaves, swap, writable
from weighlock.backends.numpy_casting import cast_into
from weighlock.dtypes import DType
from weighlock.storages.refs import StorageRef
from weighlock.storages.storage import Storage
from weighlock.tensors.choice import Choice

__all__ = ["ChosenNumpyLeaves"]


class ChosenNumpyLeaves(NumpyLeaves):
    """Builds what a `Choice` says; tensors without data for the rest."""

    windows = False

    def __init__(self, *, choice: Choice, **options: Any) -> None:
        super().__init__(**options)
        self.takes_columns = False
        self._choice = choice
        self._pending: dict[int, Storage] = {}
        self._casts: dict[int, tuple[Storage, dict[tuple[str, str], tuple[DType, Storage]]]] = {}

    def restart(self) -> None:
        super().restart()
        self._pending.clear()
        self._casts.clear()

    def storage(self, ref: StorageRef) -> Any:
        if ref.nbytes and not self._choice.reads(ref):
            return Storage(ref)
        if (
            ref.nbytes
            and not self._choice.keeps(ref)
            and not self._place_is_function
            and not self._is_meta(ref.location)
        ):
            storage = Storage(ref)
            self._pending[id(storage)] = storage
            return storage
        return super().storage(ref)

    def strided(
        self, storage: Any, dtype: DType, offset: int, shape: tuple[int, ...], stride: tuple[int, ...],
        requires_grad: bool, hooks: Any = None,
    ) -> Any:  # fmt: skip
        target = self._choice.target(storage.ref, dtype, offset, shape, stride)
        if target is not None and (storage.array is not None or id(storage) in self._pending):
            storage = self._cast_of(storage, dtype, target)
        return super().strided(storage, target or dtype, offset, shape, stride, requires_grad, hooks)

    def _cast_of(self, storage: Storage, dtype: DType, target: DType) -> Storage:
        """Return the storage that will hold the elements in another type: one, whatever views it has."""
        _, casts = self._casts.setdefault(id(storage), (storage, {}))
        found = casts.get((dtype.name, target.name))
        if found is None:
            ref = storage.ref
            made = Storage(StorageRef(ref.key, target, ref.nbytes // dtype.itemsize, ref.location, None, ref.record))
            self._allocate(made)
            found = casts[dtype.name, target.name] = dtype, made
        return found[1]

    def settle(self) -> bool:
        ready = all(storage.ref.reader is None or storage.ref.reader.ready for storage in self._pending.values())
        return ready and super().settle()

    def finish(self) -> None:
        self._after.insert(0, self._cast_all)
        super().finish()

    def _cast_all(self) -> None:
        casts, self._casts = self._casts, {}
        self._pending.clear()
        for storage, targets in casts.values():
            source = storage
            if source.array is None:
                source = Storage(storage.ref)
                source.array = np.empty(storage.ref.nbytes, np.uint8)
                self._read([source])
                if source.ref.byteorder != sys.byteorder:
                    swap(source)
            for dtype, target in targets.values():
                usable = source.nbytes // dtype.itemsize * dtype.itemsize
                values = np.frombuffer(writable(source)[:usable], dtype.numpy)
                made = np.frombuffer(writable(target), target.ref.dtype.numpy)
                cast_into(made, values)
