"""PyTorch: descriptions become its own tensors, in storages of exactly the saved size that own their memory.

Whatever is more than a strided tensor is made by the function of PyTorch that its pickle names, once our table has
checked the arguments. Data are read in one plan when the tree stands; before any code runs that could look at them
(a class that the user named, a quantizer, a move to a device) they are read at once.
"""

import ctypes
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

import torch

from weighlock.backends.torch_columns import Batches, Layout
from weighlock.backends.torch_mapping import TorchMap
from weighlock.backends.torch_special import SpecialLeaves
from weighlock.backends.torch_storages import Placement, TorchStorage, address_of, memory_at, swap
from weighlock.backends.torch_values import PLAIN, TORCH_DTYPES
from weighlock.dtypes import DTYPES, DType
from weighlock.errors import DamagedError, PickleStreamError, WeighlockError
from weighlock.storages.refs import StorageRef, Window
from weighlock.tensors.columns import TensorColumns
from weighlock.tensors.rebuild import StorageClass
from weighlock.tensors.spec import TensorSpec

__all__ = ["TorchLeaves"]

_CPU: Final = torch.device("cpu")
_empty_strided: Final = torch.empty_strided
_memmove: Final = ctypes.memmove
_SMALL: Final = 64 << 10
_WINDOWS_AT_ONCE: Final = 32

# How many elements of a storage a view spans. Shapes repeat endlessly. Dropped as a whole when full.
_spans: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
_CACHE_ENTRIES: Final = 8192


def _span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    if len(_spans) > _CACHE_ENTRIES:
        _spans.clear()
    span = 0
    if 0 not in shape:
        span = 1 + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
    _spans[shape, stride] = span
    return span


# An empty tensor of each type, made where no mode was active.
_blanks: Final[dict[DType, Any]] = {}


class TorchLeaves(SpecialLeaves):
    """Builds PyTorch's tensors.

    Parameters
    ----------
    map_location : object
        As in `torch.load`.
    mapped : bool or str
        As in `TorchMap`.
    source : ByteSource
        What is mapped.
    verify : bool
        Check CRC-32 while reading.
    eager : bool
        Read each storage when the pickle names it: any code may run next (``weights_only=False``).
    """

    def __init__(
        self,
        *,
        map_location: Any = None,
        mapped: bool | str = False,
        source: Any = None,
        verify: bool = True,
        eager: bool = False,
    ) -> None:
        super().__init__()
        self._map_location = map_location
        self._placement = Placement(map_location)
        self._map = TorchMap(source, mapped)
        self.maps = bool(mapped)
        self._verify, self._eager = verify, eager
        self._local: Any = torch.serialization._serialization_tls
        self._without_data = bool(self._local.skip_data)
        self._fake = _is_faking()
        # Under a mode of PyTorch, its own calls are made, so that the mode sees them.
        self._free = not self._fake and not _modes()
        self._alone = not self._placement.is_function
        self.takes_columns = self._free and self._alone and not (eager or self._without_data)
        self._windows: dict[Window, list[TorchStorage]] = {}
        self._batches = Batches()
        self._filled: dict[Window, bytearray] = {}
        self._unread: list[TorchStorage] = []
        self._foreign: list[TorchStorage] = []
        self._typed: dict[int, TorchStorage] = {}
        self._late: list[Callable[[], None]] = []

    @property
    def byteorder(self) -> str:
        kinds = torch.serialization.LoadEndianness
        chosen = torch.serialization.get_default_load_endianness()
        return {kinds.BIG: "big", kinds.NATIVE: sys.byteorder}.get(chosen, "little")

    @contextmanager
    def reading(self) -> Iterator[None]:
        before, self._local.map_location = self._local.map_location, self._map_location
        try:
            yield
        finally:
            self._local.map_location = before
            if self._eager:
                _sparse_to_validate().clear()

    def restart(self) -> None:
        for kept in (
            self._windows,
            self._batches,
            self._filled,
            self._unread,
            self._foreign,
            self._typed,
            self._late,
            self._after,
        ):
            kept.clear()

    # Storages

    def storage(self, ref: StorageRef) -> Any:
        storage = TorchStorage(ref)
        reader = ref.reader
        if self._fake or not self._placement.is_direct(ref.location):
            self._place(storage)
            return storage
        if self.maps and self._map.covers(ref):
            storage.untyped = self._map.part(ref)
            if storage.untyped is not None:
                return storage
        if self._without_data:
            return storage
        if ref.byteorder != sys.byteorder:
            self._foreign.append(storage)
        if ref.nbytes <= _SMALL and reader is not None and self.windows:
            place = reader.window_of(ref)
            if place is not None:
                window, storage.start = place
                group = self._windows.get(window)
                if group is None:
                    group = self._windows[window] = []
                group.append(storage)
                return storage
        self._unread.append(storage)
        return storage

    def _place(self, storage: TorchStorage) -> None:
        """Give a storage what is not simply memory of the CPU: another device, no data, or what a function returns."""
        ref = storage.ref
        if self._fake or self._placement.is_meta or (ref.location == "meta" and ref.reader is None):
            storage.untyped = torch.UntypedStorage(ref.nbytes, device="meta")
            extent = ref.reader.extent(ref) if ref.reader is not None and ref.reader.ready else None
            if extent is not None:
                storage.untyped._checkpoint_offset = extent.offset
            if self._fake and (ref.reader is None or ref.reader.ready):  # PyTorch forgets it for legacy streams
                storage.untyped._fake_device = ref.location
            if self._fake or self._placement.is_meta:
                return
        read = ref.reader is not None and not self._without_data and ref.nbytes > 0
        if storage.untyped is None and self._map.mode and read:
            storage.untyped = self._map.part(ref)
            read = storage.untyped is None
        first = storage.real()
        if read and ref.reader is not None and ref.reader.ready:
            self._read_alone(storage)
            read = False
        try:
            storage.untyped = self._placement.restore(first, ref.location)
        except Exception as error:
            self.raised = error
            raise
        if read:
            self._late.append(lambda: self._read_late(ref, first, storage.untyped))

    def _read_alone(self, storage: TorchStorage) -> None:
        ref = storage.ref
        assert ref.reader is not None  # noqa: S101 - the callers have looked
        ref.reader.read([(ref, storage.memory())], verify=self._verify)
        swap(storage.real(), ref)

    def _read_late(self, ref: StorageRef, first: Any, moved: Any) -> None:
        """Read a storage of a legacy stream, whose data lie behind the pickle, into what took its place meanwhile."""
        if moved.device.type == "meta" or ref.reader is None:
            return
        ref.reader.read([(ref, memory_at(first.data_ptr(), ref.nbytes))], verify=self._verify)
        if moved.data_ptr() != first.data_ptr():
            moved.copy_(first)

    def storage_view(self, root: Any, ref: StorageRef, offset: int) -> Any:
        view = TorchStorage(ref)
        begin = offset * root.ref.dtype.itemsize
        view.untyped = root.real()[begin : begin + ref.nbytes]
        return view

    def exposed(self, storage: Any) -> Any:
        if type(storage) is not TorchStorage:
            return storage
        if storage.typed is None:
            kind = TORCH_DTYPES[storage.ref.dtype]
            # The class is old, and what `torch.load` returns still.
            storage.typed = torch.storage.TypedStorage(wrap_storage=storage.real(), dtype=kind, _internal=True)
            self._typed[id(storage.typed)] = storage
            if storage.ref.reader is not None and not storage.ref.reader.ready and storage.untyped.device == _CPU:
                # Code that looks now, such as PyTorch's for nested tensors, must not find what lay there before.
                size = min(storage.ref.nbytes, _SMALL)
                memory_at(storage.untyped.data_ptr(), size)[:] = bytes(size)
        if self._eager:
            self.settle()
        return storage.typed

    def hidden(self, storage: Any) -> Any:
        return self._typed.get(id(storage), storage)

    # The ids of storages in a pickle that the standard machine runs

    def storage_type(self, name: str) -> Any:
        """Return what the standard machine pushes for a storage class: as in `torch.load`; None for another name."""
        try:
            return torch.serialization.StorageType(name)
        except KeyError:
            return None

    def known_pid(self, pid: Any) -> Any:
        """Return a persistent id with our own row in place of the storage class."""
        if not isinstance(pid, tuple) or len(pid) < 2:
            return pid
        kind = pid[1]
        if isinstance(kind, torch.serialization.StorageType):
            row = PLAIN[id(kind.dtype)]
            kind = StorageClass(row.storage_class, row)
        elif kind is torch.UntypedStorage or kind is torch.storage.TypedStorage:
            kind = StorageClass(kind.__name__, DTYPES["uint8"], untyped=True)
        else:
            self.check_source(pid)
        return (pid[0], kind, *pid[2:])

    # Tensors

    def strided(
        self, storage: Any, dtype: DType, offset: int, shape: tuple[int, ...], stride: tuple[int, ...],
        requires_grad: bool, hooks: Any = None,
    ) -> Any:  # fmt: skip
        if offset == 0 and storage.tensor is None and storage.untyped is None and self._free:
            span = _spans.get((shape, stride))
            if (_span(shape, stride) if span is None else span) * dtype.itemsize == storage.ref.nbytes:
                made = _empty_strided(
                    shape, stride, dtype=TORCH_DTYPES[dtype], device=_CPU, requires_grad=requires_grad
                )
                storage.tensor = made
                if hooks is not None:
                    made._backward_hooks = hooks
                return made
        return self.hooked(self._view(storage, dtype, offset, shape, stride, requires_grad), hooks)

    def _view(
        self, storage: TorchStorage, dtype: DType, offset: int, shape: tuple[int, ...], stride: tuple[int, ...],
        requires_grad: bool,
    ) -> Any:  # fmt: skip
        untyped = storage.real()
        if untyped.device.type == "meta" and self._alone:
            # PyTorch cuts a storage without data to what its tensor spans, so no two tensors can share one.
            untyped = _like(untyped)
        if self._free and untyped.device == _CPU:
            blank = _blanks.get(dtype)
            if blank is None:
                blank = _blanks[dtype] = torch.empty((0,), dtype=TORCH_DTYPES[dtype], device=_CPU)
            made = blank.new()  # a third of the time of asking for an empty tensor by its type
        else:
            made = torch.empty((0,), dtype=TORCH_DTYPES[dtype], device=untyped.device)
        made.set_(untyped, offset, shape, stride)
        if requires_grad:
            made.requires_grad = True
        return torch._utils._restore_device_fake_mode(made) if self._fake else made

    def strided_columns(self, columns: TensorColumns) -> list[Any] | None:
        distinct = set(columns.forms)
        direct = all(map(self._placement.is_direct, {form.location for form in distinct}))
        if not direct or not self.takes_columns or columns.byteorder != sys.byteorder:
            return None
        for form in distinct:
            form.layout = form.layout or Layout(form)
        found = self._map.cover(columns) if self.maps else self._batches.make(columns)
        if found is None:
            return None
        made, usual = found
        for window in self._batches:
            self._windows.setdefault(window, [])
        tensors = iter(made)
        return [next(tensors) if simple else self._one_of(columns, index) for index, simple in enumerate(usual)]

    def _one_of(self, columns: TensorColumns, index: int) -> Any:
        storage = columns.storages[index] = self.storage(columns.ref(index))
        form = columns.forms[index]
        made = self.strided(storage, form.dtype, form.offset, form.shape, form.stride, form.requires_grad)
        return self.hooked(made, OrderedDict())

    def storage_of(self, columns: TensorColumns, index: int, data: Any) -> Any:
        storage = TorchStorage(columns.ref(index))
        storage.tensor = data
        return storage

    def hooks_of(self, data: Any) -> Any:
        return data._backward_hooks

    def tensor(self, spec: TensorSpec) -> Any:
        if spec.dtype.kind == "q":
            return spec  # the quantizer comes with the next call
        made = self.strided(spec.storage, spec.dtype, spec.offset, spec.shape, spec.stride, spec.requires_grad)
        bits = {name: True for name in ("conj", "neg") if getattr(spec, name)}
        if bits:
            torch._utils.set_tensor_metadata(made, bits)
        return made

    # Data

    def settle(self) -> bool:
        if self._late or not all(storage.ref.reader is None or storage.ref.reader.ready for storage in self._unread):
            return False
        self._fill()
        return True

    def finish(self) -> None:
        if self._windows or self._unread or self._foreign:
            self._scatter()
            self._fill()
        for action in (*self._late, *self._after):
            try:
                action()
            except WeighlockError:
                raise
            except Exception as error:  # what PyTorch says of parts that do not fit together
                raise DamagedError(f"a tensor contradicts itself: {error}") from error
        self._late.clear()
        self._after.clear()
        if self._eager:
            torch._utils._validate_loaded_sparse_tensors()

    def _fill(self) -> None:
        self._fill_windows()
        wanted: dict[Any, list[TorchStorage]] = {}
        later = []
        for storage in self._unread:
            if not storage.has_memory:
                later.append(storage)
            elif storage.ref.reader is not None:
                wanted.setdefault(storage.ref.reader, []).append(storage)
        self._unread = later
        for reader, storages in wanted.items():
            reader.read([(storage.ref, storage.memory()) for storage in storages], verify=self._verify)
        foreign, self._foreign = self._foreign, []
        for storage in foreign:
            if storage.has_memory:
                swap(storage.real(), storage.ref)
            else:
                self._foreign.append(storage)

    def _scatter(self) -> None:
        """Read small storages straight into their memory: the last time, when nobody asks for a window again."""
        chosen: dict[Any, list[tuple[Window, dict[int, memoryview]]]] = {}
        for window, storages in self._windows.items():
            batch = self._batches.get(window)
            if window not in self._filled and (batch is None or batch.is_coarse):
                targets = _targets(storages)
                if batch is not None:
                    targets.update(batch.targets())
                chosen.setdefault(window.reader, []).append((window, targets))
        for reader, windows in chosen.items():
            left = set(reader.scatter(windows, verify=self._verify))
            for window, _ in windows:
                if window not in left:
                    del self._windows[window]
                    self._batches.pop(window, None)

    def _fill_windows(self) -> None:
        windows, self._windows = self._windows, {}
        unread: dict[Any, list[Window]] = {}
        for window, storages in windows.items():
            if window in self._filled:
                self._hand_out(window, storages)
            else:
                unread.setdefault(window.reader, []).append(window)
        for reader, every in unread.items():
            pending = iter(every)
            while batch := list(islice(pending, _WINDOWS_AT_ONCE)):
                for window in batch:
                    block = self._filled[window] = bytearray(window.nbytes)
                    window.memory = memoryview(block)
                reader.read_windows(batch, verify=self._verify)
                for window in batch:
                    window.memory = None
                    self._hand_out(window, windows[window])

    def _hand_out(self, window: Window, storages: list[TorchStorage]) -> None:
        """Copy each storage's bytes from the window to where they belong."""
        base = address_of(self._filled[window])
        batch = self._batches.pop(window, None)
        if batch is not None:
            batch.copy_from(base)
        later = []
        for storage in storages:
            owner = storage.tensor
            if owner is None:
                owner = storage.untyped
                if owner is None:
                    later.append(storage)
                    continue
            _memmove(owner.data_ptr(), base + storage.start, storage.ref.nbytes)
        if later:
            self._windows[window] = later

    def release(self) -> None:
        super().release()
        self._map.release()
        self.restart()

    # States of objects that are not PyTorch's own, or of before 0.4

    def build(self, target: Any, state: Any) -> Any:
        if isinstance(target, torch.Tensor):
            if isinstance(state, tuple) and len(state) in (3, 5):
                requires_grad, hooks = (state[0], state[2]) if len(state) == 3 else (state[3], state[2])
                target.requires_grad = requires_grad is True
                return self.hooked(target, hooks)
            raise PickleStreamError("a tensor's state has an unknown form", got=type(state).__name__)
        from weighlock.backends import numpy_pickles

        return numpy_pickles.build(target, state, self.charge)


def _targets(storages: list[TorchStorage]) -> dict[int, memoryview]:
    """Return the memory of those that have any, by the place of their bytes in their window."""
    found = {}
    for storage in storages:
        # Nearly always the tensor; a call less for each.
        owner = storage.tensor if storage.tensor is not None else storage.untyped
        if owner is not None:
            found[storage.start] = memory_at(owner.data_ptr(), storage.ref.nbytes)
    return found


def _like(untyped: Any) -> Any:
    """Return another storage without data, that says the same of itself."""
    made = torch.UntypedStorage(untyped.nbytes(), device="meta")
    for name in ("_checkpoint_offset", "_fake_device"):
        found = getattr(untyped, name, None)
        if found is not None:
            setattr(made, name, found)
    return made


def _sparse_to_validate() -> Any:
    """Return PyTorch's list of the sparse tensors that a load has made: from 2.14 on, one for each thread."""
    found = getattr(torch._utils, "_get_sparse_tensors_to_validate", None)
    return torch._utils._sparse_tensors_to_validate if found is None else found()


def _is_faking() -> bool:
    """Whether tensors are to be fake: asked of PyTorch only where there is a mode or a trace, since that takes long."""
    guards = torch._guards
    if not torch._C._len_torch_dispatch_stack() and guards.TracingContext.try_get() is None:
        return False
    return guards.detect_fake_mode(None) is not None


def _modes() -> bool:
    """Whether a mode of PyTorch is active that wants to see each call."""
    return bool(torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack())
