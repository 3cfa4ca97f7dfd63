"""NumPy: descriptions become arrays over memory that is filled once the whole tree stands.

A large storage owns its memory. Small ones share arenas of at most `_ARENA` bytes, so that keeping one small tensor
never keeps a large file alive, and 20,000 tiny ones do not cost 20,000 allocations. Memory is never more than what
the file's own records hold: a storage is only promised after its record was found to be as long.
"""

import sys
from collections.abc import Callable
from itertools import compress, repeat
from operator import add
from typing import Any, Final

import numpy as np

from weighlock.backends import numpy_pickles
from weighlock.backends.numpy_casting import cast_into
from weighlock.backends.numpy_columns import NUMPY_OF, Layout, made_over, ndarray
from weighlock.backends.numpy_types import (
    JaggedTensor,
    MetaTensor,
    NestedTensor,
    PackedTensor,
    QuantizedTensor,
    SparseTensor,
    TensorSubclass,
    UninitializedTensor,
    WrapperTensor,
)
from weighlock.dtypes import DType
from weighlock.errors import DamagedError, PickleStreamError, WeighlockError
from weighlock.storages.locations import CPU, META, placement
from weighlock.storages.mapping import FileMap
from weighlock.storages.refs import RecordReader, StorageRef, Window
from weighlock.storages.storage import Storage
from weighlock.tensors.columns import TensorColumns
from weighlock.tensors.leaves import Leaves
from weighlock.tensors.spec import (
    JaggedSpec,
    MetaSpec,
    NestedSpec,
    OpaqueSpec,
    QuantizedSpec,
    SparseSpec,
    SubclassSpec,
    TensorSpec,
    UninitializedSpec,
    WrapperSpec,
)

__all__ = ["NumpyLeaves", "swap", "writable"]

_ARENA: Final = 1 << 20
_SMALL: Final = 64 << 10
_ALIGN: Final = 64
_TENSOR_LIKE: Final = (np.ndarray, PackedTensor, QuantizedTensor, SparseTensor, NestedTensor, JaggedTensor, MetaTensor)


def _as_bytes(memory: memoryview) -> Any:
    return np.frombuffer(memory, np.uint8)


class NumpyLeaves(Leaves):
    """Builds NumPy arrays.

    Parameters
    ----------
    map_location : object
        As in `weighlock.load`.
    mapped : bool or str
        As in `FileMap`.
    source : ByteSource
        What is mapped.
    verify : bool
        Check CRC-32 while reading.
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
        self._place, self._place_is_function = placement(map_location)
        self._to_cpu = map_location is None or map_location == CPU
        self._file = FileMap(source, mapped)
        self.maps = bool(mapped)
        self._frozen = mapped == "r"
        self.takes_columns = not self._place_is_function
        self._verify = verify
        self._unread: list[Storage] = []
        self._windows: dict[Window, tuple[Any, int]] = {}
        self._filled: dict[Window, tuple[Any, int]] = {}
        self._foreign_order: list[Storage] = []
        self._arena: Any = None
        self._arena_used = _ARENA + 1
        self._after: list[Callable[[], None]] = []
        self._variants: dict[tuple[int, str, bool, bool], Storage] = {}

    def restart(self) -> None:
        self._unread.clear()
        self._windows.clear()
        self._filled.clear()
        self._foreign_order.clear()
        self._after.clear()
        self._variants.clear()

    # Storages

    def storage(self, ref: StorageRef) -> Any:
        storage = Storage(ref)
        if self._place_is_function:
            return self._placed(storage)
        if self._is_meta(ref.location):
            return storage
        if self.maps and self._file.covers(ref) and self._attach(storage):
            return storage
        if ref.byteorder != sys.byteorder:
            self._foreign_order.append(storage)
        if ref.nbytes <= _SMALL and ref.reader is not None and self.windows:
            place = ref.reader.window_of(ref)
            if place is not None:
                window, offset = place
                block = self._block_of(window)
                storage.array = block[0]
                storage.start = block[1] + offset
                return storage
        self._allocate(storage)
        self._unread.append(storage)
        return storage

    def _is_meta(self, location: str) -> bool:
        """Whether a storage that was saved there has no data here; not for functions, which are asked for each."""
        if self._to_cpu:
            return location == META
        rule: Any = self._place
        return bool(rule(None, location) == META)

    def _placed(self, storage: Storage) -> Storage:
        """Ask the caller's function; the storage has memory already, and is read at once if the function looks."""
        ref = storage.ref
        if ref.byteorder != sys.byteorder:
            self._foreign_order.append(storage)
        self._allocate(storage)
        storage.fill = self._fill_one
        self._unread.append(storage)
        try:
            placed = self._place(storage, ref.location)
        except Exception as error:
            self.raised = error
            raise
        if isinstance(placed, Storage):
            return placed
        if placed == META:
            storage.array = None
        return storage

    def _block_of(self, window: Window) -> tuple[Any, int]:
        """Return the memory of a window, made now if there is none yet, and where in it the window begins."""
        found = self._windows.get(window) or self._filled.get(window)
        if found is None:
            found = self._windows[window] = self._block(window)
        return found

    def _block(self, window: Window) -> tuple[Any, int]:
        """Return memory for a window, aligned as the window is in the file: records are aligned there."""
        block = np.empty(window.nbytes + _ALIGN, np.uint8)
        start = (window.offset - block.__array_interface__["data"][0]) % _ALIGN
        window.memory = block.data[start : start + window.nbytes]
        return block, start

    def _attach(self, storage: Storage) -> bool:
        """Let a storage be a part of the mapped file; False where it must be read instead."""
        extent = self._file.extent(storage.ref)
        reader: Any = storage.ref.reader
        mapped = self._file.whole(reader.source, _as_bytes)
        if mapped is None:
            return False
        storage.array, storage.start = mapped, extent.offset
        return True

    def _allocate(self, storage: Storage) -> None:
        """Give a storage its memory; its bytes come with `finish`."""
        nbytes = storage.ref.nbytes
        if nbytes > _SMALL:
            storage.array = np.empty(nbytes, np.uint8)
            return
        start = self._arena_used
        if start + nbytes > _ARENA:
            self._arena = np.empty(_ARENA, np.uint8)
            start = -self._arena.__array_interface__["data"][0] % _ALIGN
        storage.array = self._arena
        storage.start = start
        self._arena_used = start + nbytes + (-nbytes % _ALIGN)

    def _fill_one(self, storage: Storage) -> None:
        """Read one storage before its turn: a map_location function looks at it."""
        self._unread.remove(storage)
        self._read([storage])

    def storage_view(self, root: Any, ref: StorageRef, offset: int) -> Any:
        view = Storage(ref)
        if root.array is not None:
            view.array, view.start = root.array, root.start + offset * ref.dtype.itemsize
        return view

    def _read(self, storages: list[Storage]) -> None:
        by_reader: dict[RecordReader, list[Storage]] = {}
        for storage in storages:
            storage.fill = None
            if storage.ref.reader is not None:
                by_reader.setdefault(storage.ref.reader, []).append(storage)
        for reader, group in by_reader.items():
            reader.read([(storage.ref, writable(storage)) for storage in group], verify=self._verify)

    # Tensors

    def strided(
        self, storage: Any, dtype: DType, offset: int, shape: tuple[int, ...], stride: tuple[int, ...],
        requires_grad: bool, hooks: Any = None,
    ) -> Any:  # fmt: skip
        if storage.array is None:
            return MetaTensor(dtype, shape, stride, requires_grad)
        item = dtype.itemsize
        if 0 in shape:
            array = np.empty(shape, dtype.numpy)
        else:
            array = ndarray(
                shape, NUMPY_OF[dtype], storage.array, storage.start + offset * item, [step * item for step in stride]
            )
        if self._frozen:
            array.flags.writeable = False
        return array if dtype.numpy_name is not None else PackedTensor(dtype, array)

    def strided_columns(self, columns: TensorColumns) -> list[Any] | None:
        distinct = set(columns.forms)
        if not self.takes_columns or columns.byteorder != sys.byteorder:
            return None
        try:
            if any(map(self._is_meta, {form.location for form in distinct})):
                return None
        except WeighlockError:  # a place that NumPy does not have: reported with the tensor that asks for it
            return None
        for form in distinct:
            form.layout = form.layout or Layout(form)
        found = self._over_map(columns) if self.maps else self._over_windows(columns)
        if found is None:
            return None
        arrays, usual = iter(found[0]), found[1]
        if all(usual):
            return found[0]
        return [next(arrays) if simple else self._one_of(columns, index) for index, simple in enumerate(usual)]

    def _over_windows(self, columns: TensorColumns) -> tuple[list[Any], list[bool]]:
        """Make the arrays on small storages, over what their windows will be read to; return too which those are."""
        plan, headers = columns.reader.windows, columns.headers
        windows = list(map(plan.owners.get, headers))
        layouts = [form.layout for form in columns.forms]
        usual = [window is not None and layout.usual for window, layout in zip(windows, layouts, strict=True)]
        if not all(usual):
            windows, headers, layouts = (list(compress(every, usual)) for every in (windows, headers, layouts))
        blocks = {window: self._block_of(window) for window in dict.fromkeys(windows)}
        arrays = {window: block for window, (block, _) in blocks.items()}
        begins = {window: begin for window, (_, begin) in blocks.items()}
        starts = map(add, map(plan.places.__getitem__, headers), map(begins.__getitem__, windows))
        return made_over(map(arrays.__getitem__, windows), starts, layouts), usual

    def _over_map(self, columns: TensorColumns) -> tuple[list[Any], list[bool]] | None:
        """Make the arrays that are parts of the mapped file; None where each storage is to be asked for by itself."""
        starts = self._file.places(columns.reader, columns.handles, [form.nbytes for form in columns.forms])
        mapped = None if starts is None else self._file.whole(columns.reader.source, _as_bytes)
        if starts is None or mapped is None:
            return None
        layouts = [form.layout for form in columns.forms]
        usual = [layout.usual for layout in layouts]
        made = made_over(repeat(mapped), compress(starts, usual), list(compress(layouts, usual)))
        if self._frozen:
            for array in made:
                array.flags.writeable = False
        return made, usual

    def _one_of(self, columns: TensorColumns, index: int) -> Any:
        storage = columns.storages[index] = self.storage(columns.ref(index))
        form = columns.forms[index]
        return self.strided(storage, form.dtype, form.offset, form.shape, form.stride, form.requires_grad)

    def tensor(self, spec: TensorSpec) -> Any:
        storage = spec.storage
        if (spec.conj or spec.neg) and storage.array is not None:
            storage = self._variant(storage, spec.dtype, conj=spec.conj, neg=spec.neg)
        return self.strided(storage, spec.dtype, spec.offset, spec.shape, spec.stride, spec.requires_grad)

    def _variant(self, storage: Storage, dtype: DType, *, conj: bool, neg: bool) -> Storage:
        """Return a storage that will hold the conjugates or negatives: one per storage, whatever views it has."""
        key = (id(storage), dtype.name, conj, neg)
        found = self._variants.get(key)
        if found is None:
            found = self._variants[key] = Storage(storage.ref)
            self._allocate(found)
            self._after.append(lambda: _resolve_bits(storage, found, dtype, conj=conj, neg=neg))
        return found

    def parameter(self, data: Any, *, requires_grad: bool, state: Any = None) -> Any:
        # An nn.Parameter is its array: state_dicts hold nothing else, and NumPy has no gradients.
        if not isinstance(data, (*_TENSOR_LIKE, TensorSubclass, WrapperTensor, UninitializedTensor)):
            raise PickleStreamError("a parameter of something that is no tensor", got=type(data).__name__)
        return data

    def quantized(self, spec: QuantizedSpec) -> Any:
        if isinstance(spec.tensor, MetaTensor):
            return spec.tensor
        made = QuantizedTensor(
            spec.dtype, spec.shape, spec.tensor, spec.scheme,
            _plain_or_array(spec.scale), _plain_or_array(spec.zero_point), spec.axis,
        )  # fmt: skip
        if spec.axis is not None:
            for channel in (made.scale, made.zero_point):
                if np.shape(channel) != (spec.shape[spec.axis],):
                    raise PickleStreamError("a quantized tensor needs one scale and zero point per channel")
            if np.asarray(made.scale).dtype.kind in "iubc" or np.asarray(made.zero_point).dtype.kind == "c":
                what = "the scales of a quantized tensor are no fractions, or its zero points no real numbers"
                raise PickleStreamError(what)
        return made

    def sparse(self, spec: SparseSpec) -> Any:
        made = SparseTensor(spec.layout, spec.indices, spec.values, spec.shape, spec.coalesced)
        parts = spec.indices if isinstance(spec.indices, tuple) else (spec.indices,)
        if not any(isinstance(part, MetaTensor) for part in (*parts, spec.values)):
            self._after.append(made.check)
        return made

    def nested(self, spec: NestedSpec) -> Any:
        made = NestedTensor(spec.buffer, spec.sizes, spec.strides, spec.offsets)
        if not isinstance(spec.buffer, MetaTensor):
            self._after.append(lambda: _check_nested(made))
        return made

    def jagged(self, spec: JaggedSpec) -> Any:
        made = JaggedTensor(spec.values, spec.offsets, spec.lengths, spec.ragged_index, spec.fields)
        if not isinstance(spec.values, MetaTensor):
            self._after.append(lambda: _check_jagged(made))
        return made

    def meta(self, spec: MetaSpec) -> Any:
        return MetaTensor(spec.dtype, spec.shape, spec.stride, spec.requires_grad)

    def opaque(self, kind: str, shape: tuple[int, ...], ref: StorageRef) -> Any:
        raise OpaqueSpec(kind, shape, ref).refused()

    def uninitialized(self, spec: UninitializedSpec) -> Any:
        return UninitializedTensor(spec.kind, spec.requires_grad)

    def wrapper(self, spec: WrapperSpec) -> Any:
        return WrapperTensor(
            spec.cls, spec.dtype, spec.shape, spec.stride, spec.offset, spec.layout, spec.device, spec.requires_grad
        )

    def subclass(self, spec: SubclassSpec) -> Any:
        return TensorSubclass(spec.cls, spec.data, spec.state)

    def cast(self, data: Any, dtype: DType, device: Any, *, requires_grad: bool) -> Any:
        if not isinstance(data, np.ndarray):
            raise PickleStreamError("a device tensor without its data", got=type(data).__name__)
        if data.dtype == dtype.numpy:
            return data
        # The array may not be filled yet.
        made = np.empty(data.shape, dtype.numpy)
        self.charge(made.nbytes)
        self._after.append(lambda: cast_into(made, data))
        return made

    # NumPy's own objects in a pickle

    def numpy_dtype(self, code: str) -> Any:
        return numpy_pickles.dtype(code)

    def numpy_array(self) -> Any:
        return numpy_pickles.PendingArray()

    def numpy_scalar(self, dtype: Any, data: Any) -> Any:
        return numpy_pickles.scalar(dtype, data)

    def build(self, target: Any, state: Any) -> Any:
        if isinstance(target, np.ndarray) and isinstance(state, tuple) and len(state) in (3, 5):
            return target  # Parameters and Variables of 2017: requires_grad, volatile and hooks
        return numpy_pickles.build(target, state, self.charge)

    # The end of the reading

    def settle(self) -> bool:
        if not all(storage.ref.reader is None or storage.ref.reader.ready for storage in self._unread):
            return False
        self.finish()
        return True

    def finish(self) -> None:
        by_reader: dict[Any, list[Window]] = {}
        for window in self._windows:
            by_reader.setdefault(window.reader, []).append(window)
        for reader, windows in by_reader.items():
            reader.read_windows(windows, verify=self._verify)
        self._filled.update(self._windows)
        self._windows.clear()
        unread, self._unread = self._unread, []
        self._read([storage for storage in unread if storage.array is not None])
        foreign, self._foreign_order = self._foreign_order, []
        for storage in foreign:
            swap(storage)
        after, self._after = self._after, []
        for action in after:
            try:
                action()
            except WeighlockError:
                raise
            except Exception as error:  # arrays of the wrong shape or type, from a file that lies about them
                raise DamagedError(f"a tensor contradicts itself: {error}") from error

    def release(self) -> None:
        super().release()
        self._arena = None
        self._file.release()
        self.restart()


def swap(storage: Storage) -> None:
    """Reverse the bytes of each element in place: the file was written on a machine of the other byte order."""
    width = storage.ref.elements.swap
    usable = storage.ref.nbytes // width * width
    if width > 1 and storage.array is not None and usable:
        np.frombuffer(writable(storage)[:usable], f"u{width}").byteswap(inplace=True)


def writable(storage: Storage) -> memoryview:
    """Return the bytes of a storage; none where it has no data."""
    memory = storage.memory
    return memoryview(b"") if memory is None else memory


def _resolve_bits(storage: Storage, target: Storage, dtype: DType, *, conj: bool, neg: bool) -> None:
    usable = storage.nbytes // dtype.itemsize * dtype.itemsize
    values = np.frombuffer(writable(storage)[:usable], dtype.numpy)
    result = np.frombuffer(writable(target)[:usable], dtype.numpy)
    if conj:
        np.copyto(result, np.conjugate(values))
        values = result
    if neg:
        np.copyto(result, np.negative(values))


def _plain_or_array(value: Any) -> Any:
    if isinstance(value, list) and len(value) <= 1 << 24 and all(isinstance(item, int | float) for item in value):
        return np.array(value)
    if isinstance(value, int | float | np.ndarray):
        return value
    raise PickleStreamError("a quantized tensor's scale or zero point is no number", got=type(value).__name__)


def _check_nested(tensor: NestedTensor) -> None:
    parts: tuple[Any, ...] = (tensor.buffer, tensor.sizes, tensor.strides)
    whole = isinstance(tensor.offsets, np.ndarray) or (
        isinstance(tensor.offsets, list | tuple) and all(type(start) is int for start in tensor.offsets)
    )
    if not whole or not all(isinstance(part, np.ndarray) for part in parts) or parts[1].shape != parts[2].shape:
        raise PickleStreamError("a nested tensor whose parts do not fit together")
    tensor.unbind()


def _check_jagged(tensor: JaggedTensor) -> None:
    values: Any = tensor.values
    offsets: Any = tensor.offsets
    lengths = tensor.lengths
    if not isinstance(values, np.ndarray) or not isinstance(offsets, np.ndarray) or offsets.ndim != 1:
        raise PickleStreamError("a jagged tensor whose parts do not fit together")
    ends = offsets if lengths is None else offsets[:-1] + lengths
    size = values.shape[tensor.ragged_index - 1] if values.ndim >= tensor.ragged_index else -1
    if offsets.size and (offsets.min() < 0 or offsets.max() > size or ends.max(initial=0) > size):
        raise PickleStreamError("a jagged tensor reaches outside of its values")
