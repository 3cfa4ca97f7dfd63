"""What a reading makes of the leaves it meets. This base class builds nothing: it keeps the descriptions.

The rebuild table calls these methods with checked descriptions. A backend overrides them to make arrays; since the
data of a storage may lie behind the pickle, arrays are made over memory that is filled only at the end.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from weighlock.dtypes import DType
from weighlock.errors import LimitError, PickleStreamError
from weighlock.storages.refs import StorageRef
from weighlock.tensors.columns import TensorColumns
from weighlock.tensors.spec import (
    JaggedSpec,
    MetaSpec,
    NestedSpec,
    NumpyArraySpec,
    NumpyDtypeSpec,
    NumpyScalarSpec,
    OpaqueSpec,
    QuantizedSpec,
    SparseSpec,
    SubclassSpec,
    TensorSpec,
    UninitializedSpec,
    WrapperSpec,
)
from weighlock.tensors.values import Device, ReturnType, Size, TorchName

__all__ = ["Leaves"]

# Work that a pickle may cause per byte of its own: copying one list again and again costs 3 bytes a time.
_WORK_PER_BYTE = 16
_FREE_WORK = 16 << 20


class Leaves:
    """Keeps every leaf as its description. Base of the backends.

    A reading sets `reader` (to open checkpoints inside checkpoints) before the first call.

    Attributes
    ----------
    native : bool
        Whether the leaves are PyTorch's own objects. Such a reading has rows of its own in the closed table (`rows`).
    takes_columns : bool
        Whether `strided_columns` is worth asking.
    """

    native = False
    rows: Any = None
    windows = True
    """Whether small storages are read together with their neighbours in the file."""
    takes_columns = True

    def __init__(self) -> None:
        self.reader: Any = None
        self.maps = False
        """Whether where a storage lies is asked as soon as the pickle names it."""
        self.raised: Exception | None = None
        """What a function of the caller's raised: it leaves as it is, not as an error of the file."""
        self._work = _FREE_WORK
        self._awaited: dict[int, Any] = {}

    def awaited(self, made: Any) -> Any:
        """Return what the pickle has named and will describe with a BUILD, noting that it has to."""
        self._awaited[id(made)] = made
        return made

    def described(self, made: Any) -> None:
        """Note that the BUILD has come."""
        self._awaited.pop(id(made), None)

    @contextmanager
    def describing(self) -> Iterator[None]:
        """Refuse a pickle in which something is named and never described; `PickleStreamError`."""
        self._awaited.clear()
        yield
        if self._awaited:
            made = next(iter(self._awaited.values()))
            raise PickleStreamError("a tensor or an array is named, but never described", got=repr(made)[:80])

    def allow_work(self, pickle_bytes: int) -> None:
        """Raise the bound on copying by what a pickle of this many bytes justifies."""
        self._work += pickle_bytes * _WORK_PER_BYTE

    def charge(self, nbytes: int) -> None:
        """Count bytes that a call copies; `LimitError` once they are out of proportion to the pickle."""
        self._work -= nbytes
        if self._work < 0:
            raise LimitError("the pickle copies its own objects out of all proportion to its size")

    @property
    def byteorder(self) -> str:
        """The byte order of archives that do not name theirs."""
        return "little"

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold, while the file is read, what the framework's own functions look up meanwhile."""
        yield

    def safe_globals(self) -> dict[str, Any]:
        """Return what the user named as safe in the framework's own registry, by full name."""
        return {}

    def restart(self) -> None:
        """Forget the storages promised so far: the pickle is run again over more of the file."""

    def storage(self, ref: StorageRef) -> Any:
        """Return what stands for a storage; called once per storage."""
        return ref

    def exposed(self, storage: Any) -> Any:
        """Return what a pickle holds where it names a storage by itself, outside of the usual call for a tensor."""
        return storage

    def hidden(self, storage: Any) -> Any:
        """Return what `storage` made, given what `exposed` made of it; anything else as it is."""
        return storage

    def settle(self) -> bool:
        """Fill what was promised so far: code that may look at it is about to run.

        Returns False where the data are not within reach yet, as in a legacy stream.
        """
        return True

    def storage_view(self, root: Any, ref: StorageRef, offset: int) -> Any:
        """Return a storage that is a part of another (files of before 0.4); `offset` in elements of the root."""
        return ref

    # Reason for the parameter count: the fields of a TensorSpec, without making one: this runs once per tensor.
    def strided(
        self, storage: Any, dtype: DType, offset: int, shape: tuple[int, ...], stride: tuple[int, ...],
        requires_grad: bool, hooks: Any = None,
    ) -> Any:  # fmt: skip
        """Return the plain strided tensor, its bounds checked; the arguments are those of `TensorSpec`."""
        return TensorSpec(storage, dtype, offset, shape, stride, requires_grad)

    def strided_columns(self, columns: TensorColumns) -> list[Any] | None:
        """Return what `strided` would return for each tensor; None, with nothing done, to be asked for each."""
        storages = list(map(columns.ref, range(len(columns.keys))))
        columns.storages = dict(enumerate(storages))
        return [
            TensorSpec(storage, form.dtype, form.offset, form.shape, form.stride, form.requires_grad)
            for storage, form in zip(storages, columns.forms, strict=True)
        ]

    def storage_of(self, columns: TensorColumns, index: int, data: Any) -> Any:
        """Return the storage of a tensor that `strided_columns` made without one."""
        return self.storage(columns.ref(index))

    def hooks_of(self, data: Any) -> Any:
        """Return the backward hooks of a tensor that `strided_columns` made."""
        return OrderedDict()

    def tensor(self, spec: TensorSpec) -> Any:
        """Return a tensor with conj or neg bits, or any other: what `strided` does, from a description."""
        return spec

    def hooked(self, data: Any, hooks: Any) -> Any:
        """Return a leaf with the backward hooks that the pickle gives it: an empty mapping since 0.4."""
        return data

    def attributed(self, data: Any, state: Any) -> Any:
        """Return a tensor with the Python attributes that were saved with it."""
        if type(data) is TensorSpec:
            data.attributes = state
        return data

    def plain(self, value: Any) -> Any:
        """Return the row of our own tables (a dtype, a layout, a tensor class) that a framework's value stands for."""
        return value

    def constant(self, name: TorchName) -> Any:
        return name

    def element_type(self, dtype: DType) -> Any:
        """Return the framework's own element type."""
        return dtype

    def returned(self, value: ReturnType) -> Any:
        return value

    def parameter(self, data: Any, *, requires_grad: bool, state: Any = None) -> Any:
        """Return the `nn.Parameter` around a leaf."""
        if type(data) is TensorSpec:
            data.parameter = True
            data.requires_grad = requires_grad
            data.attributes = state
        return data

    def as_parameter(self, data: Any, state: Any) -> Any:
        """Return a leaf as an `nn.Parameter` that requires a gradient where the leaf does."""
        return self.parameter(data, requires_grad=getattr(data, "requires_grad", False) is True, state=state)

    def requiring(self, data: Any) -> Any:
        """Return a leaf that requires a gradient, as far as the framework has that."""
        if type(data) is TensorSpec:
            data.requires_grad = True
        return data

    def quantized(self, spec: QuantizedSpec) -> Any:
        return spec

    def sparse(self, spec: SparseSpec) -> Any:
        return spec

    def nested(self, spec: NestedSpec) -> Any:
        return spec

    def jagged(self, spec: JaggedSpec) -> Any:
        return spec

    def meta(self, spec: MetaSpec) -> Any:
        return spec

    def opaque(self, kind: str, shape: tuple[int, ...], ref: StorageRef) -> Any:
        """Return a tensor whose values only its own format's programs can read; the arguments are `OpaqueSpec`'s."""
        return OpaqueSpec(kind, shape, ref)

    def uninitialized(self, spec: UninitializedSpec) -> Any:
        return spec

    def wrapper(self, spec: WrapperSpec) -> Any:
        return spec

    def subclass(self, spec: SubclassSpec) -> Any:
        return spec

    def cast(self, data: Any, dtype: DType, device: Any, *, requires_grad: bool) -> Any:
        """Return a leaf as another element type (tensors saved from XLA and the like name theirs apart)."""
        return data

    def device(self, device: Device) -> Any:
        return device

    def size(self, size: Size) -> Any:
        return size

    def numpy_dtype(self, code: str) -> Any:
        return NumpyDtypeSpec(code)

    def numpy_array(self) -> Any:
        """Return an array that a BUILD completes."""
        return NumpyArraySpec()

    def numpy_scalar(self, dtype: Any, data: Any) -> Any:
        if not isinstance(dtype, NumpyDtypeSpec):
            raise PickleStreamError("a NumPy scalar without a dtype", got=type(dtype).__name__)
        return NumpyScalarSpec(dtype, data)

    def build(self, target: Any, state: Any) -> Any:
        """Complete a leaf with the state that the pickle gives it; return the leaf, or what takes its place."""
        if type(target) is NumpyDtypeSpec and isinstance(state, tuple):
            target.state = state
            return target
        if type(target) is NumpyArraySpec and isinstance(state, tuple) and len(state) == 5:
            _, target.shape, target.dtype, target.fortran, target.data = state
            return target
        if type(target) is TensorSpec and isinstance(state, tuple) and len(state) in (3, 5):
            return target  # Parameters and Variables of 2017: requires_grad, volatile and hooks
        raise PickleStreamError("a state is set on something that takes none", got=type(target).__name__)

    def release(self) -> None:
        """Let go of the reading, so that both are freed without Python's collector."""
        self.reader = None

    def finish(self) -> None:
        """Fill what was promised: called once, when the whole tree stands."""
