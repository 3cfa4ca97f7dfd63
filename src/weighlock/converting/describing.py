"""Descriptions in a pickle again: what a reading kept of a tensor becomes the call that makes it, in PyTorch's words.

Storages get their keys in the order in which the pickle names them. Those of which no tensor uses the first or the
last bytes are cut to what is used, unless they stand in the object by themselves.
"""

from collections import OrderedDict
from collections.abc import Callable
from math import lcm
from typing import Any, Final

from weighlock.converting.streams import refused
from weighlock.dtypes import VALUES_PER_UNIT, DType
from weighlock.errors import SaveError, UnsupportedTypeError
from weighlock.formats.torch_objects import describe_torch
from weighlock.formats.zip_writer import ALIGNMENT
from weighlock.objects import walk
from weighlock.pickling.inert import GlobalRef
from weighlock.pickling.pickler import Pickler
from weighlock.pickling.reductions import (
    FROM_TYPE,
    NUMPY_DTYPE,
    NUMPY_SCALAR,
    PID_TAIL,
    REBUILD_V2,
    REBUILD_V3,
    STORAGE,
    UNTYPED_STORAGE,
    Describe,
    Description,
    Persistent,
    Reduction,
    TensorCall,
    TensorForm,
    TensorPattern,
    tensor_arguments,
)
from weighlock.saving import trail_path
from weighlock.storages.copying import SourceRange
from weighlock.storages.refs import StorageRef
from weighlock.storages.sinks import GATHER_UP_TO, Buffer, StorageRecords, Stream
from weighlock.tensors.layout import contiguous_stride, reach
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

__all__ = ["SpecDescriber", "pickled", "records"]

_PARAMETER: Final = GlobalRef("torch._utils", "_rebuild_parameter")
_STATEFUL: Final = GlobalRef("torch._utils", "_rebuild_parameter_with_state")
_TENSOR: Final = GlobalRef("torch", "Tensor")
_ARRAY: Final = (GlobalRef("numpy._core.multiarray", "_reconstruct"), GlobalRef("numpy", "ndarray"))


class _Stored:
    """One storage of the new file."""

    __slots__ = ("bare", "high", "key", "kinds", "low", "ref")

    def __init__(self, ref: StorageRef) -> None:
        self.ref = ref
        self.kinds: set[DType] = set()
        self.low, self.high = ref.nbytes, 0
        self.bare = False
        self.key = ""

    def use(self, spec: TensorSpec) -> None:
        """Note a tensor that lies in it."""
        self.kinds.add(spec.dtype)
        stop = reach(spec.offset, spec.shape, spec.stride)
        if stop:
            self.low = min(self.low, spec.offset * spec.dtype.itemsize)
            self.high = max(self.high, stop * spec.dtype.itemsize)

    def settle(self) -> None:
        """Decide which of its bytes are kept."""
        if self.bare or self.ref.location == "meta":
            self.low, self.high = 0, self.ref.nbytes
            return
        self.low = min(self.low, self.high)
        unit = lcm(*(kind.itemsize for kind in self.kinds), self.ref.elements.itemsize)
        self.low -= self.low % unit
        self.high = min(self.high + -(self.high - self.low) % self.ref.elements.itemsize, self.ref.nbytes)

    @property
    def nbytes(self) -> int:
        return self.high - self.low

    @property
    def dtype(self) -> DType | None:
        """The type of all of its tensors; None where it has no class of its own, or they are of several types."""
        kinds = self.kinds or {self.ref.dtype}
        found = next(iter(kinds))
        return found if len(kinds) == 1 and found.storage_class and not self.bare else None


class SpecDescriber:
    """Describes descriptions to a pickler, and keeps which storages they need.

    Parameters
    ----------
    root : object
        All that is to be written.
    untyped : bool
        Whether the container can hold storages without a type; the legacy stream cannot.
    """

    def __init__(self, root: Any, *, untyped: bool) -> None:
        self._untyped = untyped
        self._found: dict[int, _Stored] = {}
        self._patterns: dict[Any, TensorPattern] = {}
        self._forms: dict[Any, TensorForm] = {}
        self._inner: dict[int, TensorSpec] = {}
        self._places: dict[str, str] = {}
        self.stored: list[_Stored] = []
        self._note(root)
        for stored in self._found.values():
            stored.settle()

    @property
    def unit_sizes(self) -> list[int]:
        """How many bytes each storage counts as one element."""
        return [(stored.dtype or stored.ref.dtype).itemsize for stored in self.stored]

    def _note(self, root: Any) -> None:
        """Note every storage that is needed, and what lies in it."""
        for _, value in walk(root):
            if type(value) is TensorSpec:
                self._of(value.ref).use(value)
            elif type(value) is StorageRef:
                self._of(value).bare = True
            elif type(value) is JaggedSpec:  # the walk knows its main parts only
                self._note(value.fields)

    def _of(self, ref: StorageRef) -> _Stored:
        found = self._found.get(id(ref))
        if found is None:
            found = self._found[id(ref)] = _Stored(ref)
        return found

    def describe(self, kind: type) -> Describe | None:
        """Return how descriptions of a type are written. A `pickling.Describer`."""
        row = _TABLE.get(kind)
        if row is not None:
            return lambda value: row(self, value)
        if issubclass(kind, GlobalRef):
            return lambda value: GlobalRef(value.module, value.name)
        return describe_torch(kind) or self._recorded(kind)

    def _recorded(self, kind: type) -> Describe | None:
        if kind not in _RARE:
            return None
        from weighlock.backends.numpy_reductions import record_row

        found = record_row(kind)
        return None if found is None else lambda value: found(self, value)

    # Tensors

    def tensor(self, spec: TensorSpec) -> Description:
        """Describe a strided tensor, with everything that was said of it."""
        if spec.parameter:
            inner = self._without(spec, requires_grad=False)
            if spec.attributes:
                return Reduction(_STATEFUL, (inner, spec.requires_grad, OrderedDict(), spec.attributes))
            return Reduction(_PARAMETER, (inner, spec.requires_grad, OrderedDict()))
        call = self.call(spec)
        if spec.attributes is not None:
            return Reduction(FROM_TYPE, (call[0].form.function, _TENSOR, self._arguments(call, spec), spec.attributes))
        if spec.conj or spec.neg:
            return Reduction(call[0].form.function, self._arguments(call, spec))
        return call

    def _without(self, spec: TensorSpec, *, requires_grad: bool) -> TensorSpec:
        """Return the tensor in a parameter; the pickler knows it again by identity."""
        found = self._inner.get(id(spec))
        if found is None:
            found = self._inner[id(spec)] = TensorSpec(
                spec.storage, spec.dtype, spec.offset, spec.shape, spec.stride, requires_grad, conj=spec.conj,
                neg=spec.neg,
            )  # fmt: skip
        return found

    def _arguments(self, call: TensorCall, spec: TensorSpec) -> tuple[Any, ...]:
        bits = {name: True for name in ("conj", "neg") if getattr(spec, name)}
        return (*tensor_arguments(call), bits) if bits else tensor_arguments(call)

    def call(self, spec: TensorSpec) -> TensorCall:
        """Return the call that makes a strided tensor."""
        stored = self._found[id(spec.ref)]
        form, unit = self._form(stored, spec.dtype)
        offset = spec.offset - stored.low // spec.dtype.itemsize if reach(spec.offset, spec.shape, spec.stride) else 0
        location = self._places.setdefault(spec.ref.location, spec.ref.location)
        key = (form, location, stored.nbytes // unit, offset, spec.shape, spec.stride, spec.requires_grad)
        pattern = self._patterns.get(key)
        if pattern is None:
            pattern = self._patterns[key] = TensorPattern(*key)
        return pattern, self.key_of(stored)

    def _form(self, stored: _Stored, dtype: DType) -> tuple[TensorForm, int]:
        """Return the form of the tensors in a storage, and how many bytes the storage counts as one."""
        typed = stored.dtype
        if typed is None and not self._untyped:
            raise UnsupportedTypeError(
                f"the legacy format has no form for {dtype.name} in a storage of this kind", record=stored.ref.record,
                hint="Write a zip archive instead.",
            )  # fmt: skip
        if typed is None and dtype.kind == "q":
            raise UnsupportedTypeError("a quantized tensor shares its storage with one of another type",
                                       record=stored.ref.record)  # fmt: skip
        form = self._forms.get((typed, dtype))
        if form is None:
            form = TensorForm(REBUILD_V3, UNTYPED_STORAGE, GlobalRef("torch", dtype.name))
            if typed is not None:
                form = TensorForm(REBUILD_V2, GlobalRef("torch", str(typed.storage_class)))
            self._forms[typed, dtype] = form
        return form, 1 if typed is None else typed.itemsize

    def key_of(self, stored: _Stored) -> str:
        """Return the key of a storage, given out when it is named first."""
        if not stored.key:
            stored.key = str(len(self.stored))
            self.stored.append(stored)
        return stored.key

    def bare(self, ref: StorageRef) -> Persistent:
        """Describe a storage that stands in the object by itself."""
        stored = self._found[id(ref)]
        kind = ref.dtype
        untyped = ref.untyped or kind.storage_class is None or len(stored.kinds | {kind}) > 1
        if untyped and not self._untyped:
            raise UnsupportedTypeError("the legacy format has no storages without a type", record=ref.record)
        cls = UNTYPED_STORAGE if untyped else GlobalRef("torch", str(kind.storage_class))
        unit = 1 if untyped else kind.itemsize
        location = self._places.setdefault(ref.location, ref.location)
        return Persistent((STORAGE, cls, self.key_of(stored), location, stored.nbytes // unit))

    def quantized(self, spec: QuantizedSpec) -> Reduction:
        from weighlock.backends.numpy_reductions import QTENSOR

        storage, offset, shape, stride = tensor_arguments(self.call(spec.tensor))[:4]
        if spec.dtype.name in VALUES_PER_UNIT:
            shape, stride = spec.shape, spec.stride or contiguous_stride(spec.shape)
        quantizer = (spec.scheme, spec.scale, spec.zero_point, *(() if spec.axis is None else (spec.axis,)))
        return Reduction(QTENSOR, (storage, offset, tuple(shape), tuple(stride), quantizer, False, OrderedDict()))

    def subclass(self, spec: SubclassSpec) -> Reduction:
        found = self.describe(type(spec.data))
        made = found(spec.data) if found is not None else None
        if isinstance(made, tuple):
            return Reduction(FROM_TYPE, (made[0].form.function, spec.cls, tensor_arguments(made), spec.state))
        if isinstance(made, Reduction):
            return Reduction(FROM_TYPE, (made.function, spec.cls, made.args, spec.state))
        raise UnsupportedTypeError("a tensor of another class has no data that can be written")

    # Values of NumPy

    def numpy_dtype(self, spec: NumpyDtypeSpec) -> Reduction:
        return Reduction(NUMPY_DTYPE, (spec.code, False, True), state=spec.state)

    def numpy_array(self, spec: NumpyArraySpec) -> Reduction:
        function, cls = _ARRAY
        return Reduction(
            function, (cls, (0,), b"b"), state=(1, spec.shape, spec.dtype, spec.fortran, spec.data)
        )  # fmt: skip

    def numpy_scalar(self, spec: NumpyScalarSpec) -> Reduction:
        return Reduction(NUMPY_SCALAR, (spec.dtype, spec.data))

    def opaque(self, spec: OpaqueSpec) -> Description:
        raise refused(spec)


_RARE: Final = frozenset({JaggedSpec, MetaSpec, NestedSpec, SparseSpec, UninitializedSpec, WrapperSpec})

_TABLE: Final[dict[type, Callable[[SpecDescriber, Any], Description]]] = {
    TensorSpec: SpecDescriber.tensor,
    StorageRef: SpecDescriber.bare,
    QuantizedSpec: SpecDescriber.quantized,
    SubclassSpec: SpecDescriber.subclass,
    NumpyDtypeSpec: SpecDescriber.numpy_dtype,
    NumpyArraySpec: SpecDescriber.numpy_array,
    NumpyScalarSpec: SpecDescriber.numpy_scalar,
    OpaqueSpec: SpecDescriber.opaque,
}


def pickled(root: Any, *, zipped: bool, protocol: int = 2) -> tuple[bytes, SpecDescriber]:
    """Return the pickle of a checkpoint's object, and the storages that it names.

    Raises
    ------
    UnsupportedTypeError
        If something in it has no form in such a file.
    """
    describer = SpecDescriber(root, untyped=zipped)
    pickler = Pickler(protocol, describe=describer.describe, pid_tail=() if zipped else PID_TAIL)
    try:
        return pickler.dumps(root), describer
    except SaveError as error:
        raise error.locate(object_path=trail_path(pickler.trail)) from error.__cause__


StreamOf = Callable[[StorageRef, int, int], Stream]


def records(describer: SpecDescriber, stream: StreamOf) -> StorageRecords:
    """Return the storages of a new file, each as a stream when it is its turn."""

    def buffer(index: int) -> Buffer | Stream:
        stored = describer.stored[index]
        if not stored.nbytes:
            return b""
        return stream(stored.ref, stored.low, stored.high)

    places: dict[int, int] = {}
    for index, stored in enumerate(describer.stored):
        if stored.nbytes > GATHER_UP_TO:
            place = _place(stream(stored.ref, stored.low, stored.high))
            if place is not None:
                places[index] = place
    return StorageRecords([stored.nbytes for stored in describer.stored], buffer, places=places)


def _place(data: Stream) -> int | None:
    """Return where in a page data had best begin: where they begin in the source, if the kernel may copy them."""
    if not isinstance(data, SourceRange) or data.crc is None:
        return None
    place = data.place
    return place if place is not None and not place % ALIGNMENT else None
