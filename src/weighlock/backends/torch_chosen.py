"""PyTorch's tensors of chosen entries only, and cast while they are read: one storage at a time in its saved type."""

from typing import Any

import torch

from weighlock.backends.torch_backend import TorchLeaves
from weighlock.backends.torch_storages import TorchStorage
from weighlock.backends.torch_values import TORCH_DTYPES
from weighlock.dtypes import DType
from weighlock.storages.refs import StorageRef
from weighlock.tensors.choice import Choice
from weighlock.tensors.columns import TensorColumns

__all__ = ["ChosenTorchLeaves"]


class ChosenTorchLeaves(TorchLeaves):
    """Builds what a `Choice` says; tensors on the ``meta`` device for the rest."""

    windows = False

    def __init__(self, *, choice: Choice, **options: Any) -> None:
        super().__init__(**options)
        self._choice = choice
        self._pending: dict[int, TorchStorage] = {}
        self._casts: dict[int, tuple[TorchStorage, dict[tuple[str, str], tuple[DType, TorchStorage]]]] = {}

    def restart(self) -> None:
        super().restart()
        self._pending.clear()
        self._casts.clear()

    def storage(self, ref: StorageRef) -> Any:
        storage = TorchStorage(ref)
        if ref.nbytes and not self._choice.reads(ref):
            storage.untyped = torch.UntypedStorage(ref.nbytes, device="meta")
            return storage
        if ref.nbytes and not self._choice.keeps(ref) and self._placement.is_direct(ref.location):
            self._pending[id(storage)] = storage
            return storage
        return super().storage(ref)

    def strided(
        self, storage: Any, dtype: DType, offset: int, shape: tuple[int, ...], stride: tuple[int, ...],
        requires_grad: bool, hooks: Any = None,
    ) -> Any:  # fmt: skip
        target = self._choice.target(storage.ref, dtype, offset, shape, stride)
        if target is not None:
            storage = self._cast_of(storage, dtype, target)
        return super().strided(storage, target or dtype, offset, shape, stride, requires_grad, hooks)

    def strided_columns(self, columns: TensorColumns) -> list[Any] | None:
        return None

    def _cast_of(self, storage: TorchStorage, dtype: DType, target: DType) -> TorchStorage:
        """Return the storage that will hold the elements in another type: one, whatever views it has."""
        _, casts = self._casts.setdefault(id(storage), (storage, {}))
        found = casts.get((dtype.name, target.name))
        if found is None:
            ref = storage.ref
            made = TorchStorage(
                StorageRef(ref.key, target, ref.nbytes // dtype.itemsize, ref.location, None, ref.record)
            )
            if id(storage) not in self._pending:
                made.untyped = torch.UntypedStorage(made.ref.nbytes, device=storage.real().device)
            found = casts[dtype.name, target.name] = dtype, made
        return found[1]

    def settle(self) -> bool:
        ready = all(storage.ref.reader is None or storage.ref.reader.ready for storage in self._pending.values())
        if not (ready and super().settle()):
            return False
        self._cast_all()
        return True

    def finish(self) -> None:
        self._after.insert(0, self._cast_all)
        super().finish()

    def _cast_all(self) -> None:
        casts, self._casts = self._casts, {}
        for storage, targets in casts.values():
            source = storage
            if self._pending.pop(id(storage), None) is not None:
                source = TorchStorage(storage.ref)
                source.real()
                self._read_alone(source)
            for dtype, target in targets.values():
                if source.real().device.type != "meta":
                    _flat(target, target.ref.dtype).copy_(_flat(source, dtype))


def _flat(storage: TorchStorage, dtype: DType) -> Any:
    """Return all whole elements of a storage."""
    untyped = storage.real()
    made = torch.empty((0,), dtype=TORCH_DTYPES[dtype], device=untyped.device)
    return made.set_(untyped, 0, (untyped.nbytes() // dtype.itemsize,), (1,))
