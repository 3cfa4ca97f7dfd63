"""The closed table of PyTorch's globals: what each name in a pickle stands for, and how its call is carried out here.

No function of PyTorch is run. Each row restates what PyTorch's function of that name does with its arguments as a
checked description, handed to the reading's `Leaves`. Sources: torch 2.13 `torch/_utils.py`, `torch/_tensor.py` and
`torch/nn/parameter.py`; for files of 0.1 to 0.3, the `__reduce__` and `__setstate__` methods of those releases.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from weighlock.dtypes import BY_STORAGE_CLASS, DTYPES, UINT8, DType
from weighlock.errors import PickleStreamError, TensorBoundsError, UnsupportedError
from weighlock.storages.refs import StorageRef
from weighlock.tensors.layout import check_ints, check_view
from weighlock.tensors.leaves import Leaves
from weighlock.tensors.spec import (
    JaggedSpec,
    MetaSpec,
    NestedSpec,
    QuantizedSpec,
    SparseSpec,
    SubclassSpec,
    TensorSpec,
    UninitializedSpec,
    WrapperSpec,
)
from weighlock.tensors.values import RETURN_TYPES, TORCH_NAMES, Device, ReturnType, Size, TorchName, torch_name
from weighlock.text import brief

__all__ = ["REBUILD_TENSOR_V2", "TORCH_ROWS", "PendingTensor", "StorageClass", "TensorClass"]

Args = tuple[Any, ...]
# Value, call, build, and the types whose state `build` sets: the fields of `pickling.allowlist.Known`, which this room
# may not see.
Row = tuple[Any, Callable[[Any, Args], Any] | None, Callable[[Any, Any, Any], Any] | None, tuple[type, ...]]


class Rebuild:
    """Stands on the stack for one of PyTorch's functions."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<torch function {self.name}>"


class StorageClass:
    """Stands for a storage class: names an element type inside a persistent id."""

    __slots__ = ("dtype", "name", "untyped")

    def __init__(self, name: str, dtype: DType, *, untyped: bool = False) -> None:
        self.name = name
        self.dtype = dtype
        self.untyped = untyped

    def __repr__(self) -> str:
        return f"<torch class {self.name}>"


class TensorClass:
    """Stands for a tensor class: Tensor, Parameter, and the typed ones of 2016 such as FloatTensor."""

    __slots__ = ("kind", "name")

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.kind = kind

    def __repr__(self) -> str:
        return f"<torch class {self.name}>"


class PendingTensor:
    """A tensor that the pickle has named but not described yet (files of 0.1: class first, then BUILD)."""

    __slots__ = ("cls",)

    def __init__(self, cls: TensorClass) -> None:
        self.cls = cls

    def __repr__(self) -> str:
        return repr(self.cls)


TENSOR: Final = TensorClass("Tensor", "tensor")
PARAMETER: Final = TensorClass("nn.Parameter", "parameter")
BUFFER: Final = TensorClass("nn.Buffer", "tensor")
REBUILD_TENSOR_V2: Final = Rebuild("_rebuild_tensor_v2")


def _hidden(leaves: Leaves, storage: Any) -> Any:
    """Return what the reading made of a storage, of what the pickle gave as one."""
    if type(getattr(storage, "ref", None)) is not StorageRef:
        storage = leaves.hidden(storage)
        if type(getattr(storage, "ref", None)) is not StorageRef:
            raise PickleStreamError("a tensor is built on something that is no storage", got=type(storage).__name__)
    return storage


def _dtype_of(leaves: Leaves, value: Any) -> DType:
    row = leaves.plain(value)
    if type(row) is not DType:
        raise PickleStreamError("a tensor's dtype is no dtype", got=type(value).__name__)
    return row


def _name_of(leaves: Leaves, value: Any, kind: str) -> TorchName | None:
    """Return the constant of PyTorch that a value is, if it is one of this kind."""
    name = leaves.plain(value)
    return name if type(name) is TorchName and name.kind == kind else None


def _view(storage: Any, dtype: DType, offset: Any, size: Any, stride: Any, requires_grad: Any = False) -> TensorSpec:
    ref = storage.ref
    if type(size) is not tuple or type(stride) is not tuple:
        size, stride = check_ints(size, "size"), check_ints(stride, "stride")
    try:
        check_view(ref.nbytes, dtype.itemsize, offset, size, stride)
    except TensorBoundsError as error:
        error.locate(record=ref.record or ref.key)
        raise
    return TensorSpec(storage, dtype, offset, size, stride, requires_grad is True)


def _without_quantizer(dtype: DType) -> PickleStreamError:
    # PyTorch makes a tensor of it whose first use ends the process.
    return PickleStreamError("a quantized storage in the call for a plain tensor, without a quantizer", got=dtype.name)


def rebuild_tensor(leaves: Leaves, args: Args) -> Any:
    storage, offset, size, stride = args
    storage = _hidden(leaves, storage)
    if storage.ref.dtype.kind == "q":
        raise _without_quantizer(storage.ref.dtype)
    return leaves.tensor(_view(storage, storage.ref.dtype, offset, size, stride))


def rebuild_tensor_v2(leaves: Leaves, args: Args) -> Any:
    """(storage, offset, size, stride, requires_grad, backward_hooks[, {'conj': ..., 'neg': ...}])."""
    storage, offset, size, stride, requires_grad, hooks = args[:6]
    ref = getattr(storage, "ref", None)
    if type(ref) is not StorageRef:
        storage = _hidden(leaves, storage)
        ref = storage.ref
    if ref.dtype.kind == "q":
        raise _without_quantizer(ref.dtype)
    if len(args) > 6:
        spec = _with_bits(_view(storage, ref.dtype, offset, size, stride, requires_grad), args[6])
        return leaves.hooked(leaves.tensor(spec), hooks)
    if type(size) is not tuple or type(stride) is not tuple:
        size, stride = check_ints(size, "size"), check_ints(stride, "stride")
    try:
        check_view(ref.nbytes, ref.dtype.itemsize, offset, size, stride)
    except TensorBoundsError as error:
        error.locate(record=ref.record or ref.key)
        raise
    return leaves.strided(storage, ref.dtype, offset, size, stride, requires_grad is True, hooks)


def rebuild_tensor_v3(leaves: Leaves, args: Args) -> Any:
    """(untyped storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])."""
    storage, offset, size, stride, requires_grad, hooks, dtype = args[:7]
    storage = _hidden(leaves, storage)
    ref = storage.ref
    dtype = _dtype_of(leaves, dtype)
    if dtype.kind == "q":
        raise _without_quantizer(dtype)
    if ref.untyped and ref.elements is UINT8:
        ref.elements = dtype
    spec = _view(storage, dtype, offset, size, stride, requires_grad)
    return leaves.hooked(leaves.tensor(spec if len(args) < 8 else _with_bits(spec, args[7])), hooks)


def _with_bits(spec: TensorSpec, metadata: Any) -> TensorSpec:
    if not isinstance(metadata, dict):
        if metadata is None:
            return spec
        raise PickleStreamError("a tensor's metadata is no dictionary", got=type(metadata).__name__)
    if not all(type(name) is str and type(value) is bool for name, value in metadata.items()):
        raise PickleStreamError("a tensor's metadata is more than names and truth values", got=brief(metadata))
    # PyTorch writes the names of the bits that are set, and looks at nothing but the names when it reads them.
    spec.conj, spec.neg = "conj" in metadata, "neg" in metadata
    return spec


def rebuild_parameter(leaves: Leaves, args: Args) -> Any:
    data, requires_grad = args[:2]
    made = leaves.parameter(data, requires_grad=requires_grad is True)
    return leaves.hooked(made, args[2]) if len(args) > 2 else made


def rebuild_parameter_with_state(leaves: Leaves, args: Args) -> Any:
    data, requires_grad, hooks, state = args
    return leaves.hooked(leaves.parameter(data, requires_grad=requires_grad is True, state=state), hooks)


def rebuild_qtensor(leaves: Leaves, args: Args) -> Any:
    """(storage, offset, size, stride, quantizer parameters, requires_grad, hooks)."""
    storage, offset, size, stride, quantizer = args[:5]
    storage = _hidden(leaves, storage)
    dtype = storage.ref.dtype
    if dtype.kind != "q" or not isinstance(quantizer, tuple) or not quantizer:
        raise PickleStreamError("a quantized tensor is not on a quantized storage", got=dtype.name)
    # Packed types count values in their shape, and bytes in their storage.
    packed = dtype.name in ("quint4x2", "quint2x4")
    tensor = _packed(storage, size) if packed else _view(storage, dtype, offset, size, stride)
    scheme, parameters = _name_of(leaves, quantizer[0], "qscheme"), quantizer[1:]
    expected = 2 if scheme is TORCH_NAMES["per_tensor_affine"] else 3
    if scheme is None or len(parameters) != expected:
        raise PickleStreamError("unknown quantizer parameters", got=brief(quantizer[0]))
    if expected == 2 and (type(parameters[0]) not in (float, int) or type(parameters[1]) is not int):
        raise PickleStreamError("a quantized tensor's scale or zero point is no number", got=brief(parameters))
    axis = parameters[2] if expected == 3 else None
    if axis is not None and (type(axis) is not int or not 0 <= axis < len(size)):
        raise PickleStreamError("a quantization axis outside of the shape", got=brief(axis, 20))
    made = leaves.tensor(tensor)
    shape, strides = check_ints(size, "size"), check_ints(stride, "stride")
    made = leaves.quantized(
        QuantizedSpec(made, dtype, shape, scheme, parameters[0], parameters[1], axis, stride=strides)
    )
    return leaves.hooked(made, args[6]) if len(args) > 6 else made


def _packed(storage: Any, size: Any) -> TensorSpec:
    check_ints(size, "size")
    ref = storage.ref
    return _view(storage, ref.dtype, 0, (ref.numel,), (1,))


def rebuild_sparse_tensor(leaves: Leaves, args: Args) -> Any:
    """(layout, data): COO (indices, values, size[, coalesced]), compressed (compressed, plain, values, size)."""
    layout, data = _name_of(leaves, args[0], "layout"), args[1]
    if layout is None or not layout.name.startswith("sparse_") or not isinstance(data, tuple):
        raise PickleStreamError("a sparse tensor with an unknown layout", got=brief(args[0]))
    if layout.name == "sparse_coo":
        indices, values, size = data[:3]
        coalesced = data[3] if len(data) > 3 else None
        return leaves.sparse(SparseSpec(layout, indices, values, check_ints(size, "size"), coalesced))
    compressed, plain, values, size = data
    return leaves.sparse(SparseSpec(layout, (compressed, plain), values, check_ints(size, "size")))


def rebuild_nested_tensor(leaves: Leaves, args: Args) -> Any:
    buffer, sizes, strides = args[:3]
    return leaves.nested(NestedSpec(buffer, sizes, strides, args[3] if len(args) > 3 else None))


def rebuild_njt(leaves: Leaves, args: Args) -> Any:
    """A jagged nested tensor: one dictionary of constructor arguments, sometimes followed by a state."""
    fields = args[0] if len(args) == 1 else dict(zip(("cls", "kwargs"), args, strict=True)).get("kwargs")
    if not isinstance(fields, dict) or "values" not in fields or "offsets" not in fields:
        raise PickleStreamError("a jagged tensor without values and offsets", got=type(fields).__name__)
    ragged = fields.get("_ragged_idx", 1)
    if type(ragged) is not int or ragged < 1:
        raise PickleStreamError("a jagged tensor's ragged dimension is no dimension", got=brief(ragged, 20))
    return leaves.jagged(JaggedSpec(fields["values"], fields["offsets"], fields.get("lengths"), ragged, fields))


def _geometry(size: Any, stride: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return size and stride of a tensor without data, checked as far as they can be."""
    size, stride = check_ints(size, "size"), check_ints(stride, "stride")
    if len(size) != len(stride):
        got = f"{len(size)} sizes, {len(stride)} strides"
        raise PickleStreamError("a tensor's offset, size and stride do not fit together", got=got)
    return size, stride


def rebuild_meta_tensor(leaves: Leaves, args: Args) -> Any:
    dtype, size, stride, requires_grad = args
    size, stride = _geometry(size, stride)
    return leaves.meta(MetaSpec(_dtype_of(leaves, dtype), size, stride, requires_grad is True))


def rebuild_wrapper_subclass(leaves: Leaves, args: Args) -> Any:
    cls, dtype, size, stride, offset, layout, device, requires_grad = args
    size, stride = _geometry(size, stride)
    return leaves.wrapper(
        WrapperSpec(cls, _dtype_of(leaves, dtype), size, stride, offset, layout, device, requires_grad is True)
    )


def rebuild_from_type(leaves: Leaves, args: Args) -> Any:
    """(function, class, arguments, state): a tensor with attributes, a Buffer, or of another class."""
    function, cls, arguments, state = args
    data = leaves.reader.call(function, arguments)
    known = leaves.plain(cls)
    if type(known) is TensorClass:
        if known.kind == "parameter":
            return leaves.as_parameter(data, state)
        return leaves.attributed(data, state)
    if type(data) is JaggedSpec or type(cls) is Rebuild:
        return data
    return leaves.subclass(SubclassSpec(cls, data, state))


def rebuild_device_tensor(leaves: Leaves, args: Args) -> Any:
    """(array or CPU tensor, dtype, device, requires_grad): from devices that the file has no location for."""
    data, dtype = args[:2]
    device, requires_grad = args[2:4] if len(args) > 3 else ("cpu", False)
    return leaves.cast(data, _dtype_of(leaves, dtype), device, requires_grad=requires_grad is True)


def load_from_bytes(leaves: Leaves, args: Args) -> Any:
    """`pickle.dumps` of a tensor: the bytes of a whole checkpoint. Read by ourselves, never by calling `torch.load`."""
    (data,) = args
    if not isinstance(data, bytes | bytearray):
        raise PickleStreamError("a checkpoint inside the pickle is not bytes", got=type(data).__name__)
    leaves.charge(len(data))
    return leaves.reader.nested(bytes(data))


def get_layout(leaves: Leaves, args: Args) -> Any:
    (name,) = args
    short = name.removeprefix("torch.")
    if short not in TORCH_NAMES or TORCH_NAMES[short].kind != "layout":
        raise PickleStreamError("an unknown tensor layout", got=brief(name))
    return leaves.constant(torch_name(short))


def make_device(leaves: Leaves, args: Args) -> Any:
    """`torch.device`: ("cuda", 1), or ("cuda:1",)."""
    kind = args[0]
    index = args[1] if len(args) > 1 else None
    if not isinstance(kind, str) or not (index is None or type(index) is int):
        raise PickleStreamError("a device that is no device", got=brief(kind))
    if index is None and ":" in kind:
        kind, _, number = kind.partition(":")
        index = int(number)
    return leaves.device(Device(kind, index))


def make_size(leaves: Leaves, args: Args) -> Any:
    (lengths,) = args or ((),)
    if not isinstance(lengths, tuple | list) or not all(type(length) is int for length in lengths):
        raise PickleStreamError("a torch.Size that is no shape", got=type(lengths).__name__)
    return leaves.size(Size(lengths))


def _storage_call(_: Leaves, args: Args) -> Any:
    what = "the pickle asks for a new, uninitialised storage, which is no data"
    raise UnsupportedError(what, got=f"size {brief(args, 40)}")


_NO_TENSORS: Final = (int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset, type(None))


def _tensor_call(cls: TensorClass) -> Callable[[Leaves, Args], Any]:
    def call(leaves: Leaves, args: Args) -> Any:
        if cls.kind == "parameter" and args:
            return leaves.parameter(args[0], requires_grad=args[1] is True if len(args) > 1 else True)
        if cls.kind == "tensor" and len(args) == 1 and not isinstance(args[0], _NO_TENSORS):
            return args[0]  # Variable(data) of 0.2
        if cls.kind == "sparse" and len(args) in (2, 3):
            return _sparse_of_class(leaves, args)
        if args:
            what = "the pickle asks for a new, uninitialised tensor, which is no data"
            raise UnsupportedError(what, got=f"{cls.name}{brief(args, 40)}")
        return leaves.awaited(PendingTensor(cls))

    return call


def _sparse_of_class(leaves: Leaves, args: Args) -> Any:
    """(indices, values, size): how a sparse tensor was written before it had a function of its own."""
    if len(args) == 2:
        raise UnsupportedError("a sparse tensor without a size")
    return rebuild_sparse_tensor(leaves, (torch_name("sparse_coo"), args))


def _build_pending(leaves: Leaves, pending: PendingTensor, state: Any) -> Any:
    """(storage, offset, size, stride) for a tensor; (data, _, hooks, requires_grad, volatile) for a Parameter."""
    leaves.described(pending)
    if not isinstance(state, tuple):
        raise PickleStreamError("a tensor's state is no tuple", got=type(state).__name__)
    if len(state) == 4:
        return rebuild_tensor(leaves, state)
    if len(state) == 5 and pending.cls.kind == "parameter":
        return leaves.hooked(leaves.parameter(state[0], requires_grad=state[3] is True), state[2])
    raise PickleStreamError("a tensor's state has an unknown form", got=f"{len(state)} items")


def _uninitialized(kind: str) -> Callable[[Leaves, Args], Any]:
    def call(leaves: Leaves, args: Args) -> Any:
        requires_grad = args[0] if args else kind == "parameter"
        return leaves.uninitialized(UninitializedSpec(kind, requires_grad is True))

    return call


def _return_type(name: str) -> Callable[[Leaves, Args], Any]:
    def call(leaves: Leaves, args: Args) -> Any:
        items = args[0]
        if not isinstance(items, tuple | list):
            raise PickleStreamError(f"torch.return_types.{name} of something that is no tuple")
        return leaves.returned(ReturnType(name, tuple(items)))

    return call


_FUNCTIONS: Final[Mapping[str, Callable[[Leaves, Args], Any]]] = {
    "torch._utils._rebuild_tensor": rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": rebuild_parameter_with_state,
    "torch._utils._rebuild_qtensor": rebuild_qtensor,
    "torch._utils._rebuild_sparse_tensor": rebuild_sparse_tensor,
    "torch._utils._rebuild_nested_tensor": rebuild_nested_tensor,
    "torch._utils._rebuild_meta_tensor_no_storage": rebuild_meta_tensor,
    "torch._utils._rebuild_wrapper_subclass": rebuild_wrapper_subclass,
    "torch._utils._rebuild_device_tensor_from_numpy": rebuild_device_tensor,
    "torch._utils._rebuild_xla_tensor": rebuild_device_tensor,
    "torch._utils._rebuild_mlc_tensor": rebuild_device_tensor,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": rebuild_device_tensor,
    "torch._tensor._rebuild_from_type_v2": rebuild_from_type,
    "torch._tensor._rebuild_from_type": rebuild_from_type,
    "torch.tensor._rebuild_from_type": rebuild_from_type,
    "torch.nested._internal.nested_tensor._rebuild_njt": rebuild_njt,
    "torch.storage._load_from_bytes": load_from_bytes,
    "torch.serialization._get_layout": get_layout,
}

_TENSOR_NAMES: Final = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_STORAGE_MODULES: Final = ("torch", "torch.cuda", "torch.storage")


def _constant(value: Any, call: Callable[[Any, Args], Any] | None = None) -> Callable[[], Row]:
    return lambda: (value, call, None, ())


def _tensor_class(cls: TensorClass) -> Callable[[], Row]:
    return lambda: (cls, _tensor_call(cls), _build_pending, (PendingTensor,))


def _split(name: str) -> tuple[str, str]:
    module, _, short = name.rpartition(".")
    return module, short


def _rows() -> dict[tuple[str, str], Callable[[], Row]]:
    rows: dict[tuple[str, str], Callable[[], Row]] = {
        ("torch._utils", "_rebuild_tensor_v2"): _constant(REBUILD_TENSOR_V2, rebuild_tensor_v2),
        ("torch", "device"): _constant(Rebuild("device"), make_device),
        ("torch", "Size"): _constant(Rebuild("Size"), make_size),
        ("torch.nn.parameter", "UninitializedParameter"): _constant(
            Rebuild("UninitializedParameter"), _uninitialized("parameter")
        ),
        ("torch.nn.parameter", "UninitializedBuffer"): _constant(
            Rebuild("UninitializedBuffer"), _uninitialized("buffer")
        ),
        ("torch.nested._internal.nested_tensor", "NestedTensor"): _constant(Rebuild("NestedTensor")),
    }
    rows.update({_split(name): _constant(Rebuild(name), call) for name, call in _FUNCTIONS.items()})
    rows.update({("torch", name): _constant(row) for name, row in DTYPES.items()})
    rows.update({("torch", name): _constant(value) for name, value in TORCH_NAMES.items()})
    for module, name in (("torch", "Tensor"), ("torch._tensor", "Tensor"), ("torch.tensor", "Tensor"),
                         ("torch.autograd.variable", "Variable")):  # fmt: skip
        rows[module, name] = _tensor_class(TENSOR)
    rows["torch.nn.parameter", "Buffer"] = _tensor_class(BUFFER)
    rows["torch.nn.parameter", "Parameter"] = _tensor_class(PARAMETER)
    rows["torch.nn", "Parameter"] = _tensor_class(PARAMETER)
    for module in _STORAGE_MODULES:
        for name, dtype in BY_STORAGE_CLASS.items():
            rows[module, name] = _constant(StorageClass(name, dtype), _storage_call)
        for name in ("UntypedStorage", "_UntypedStorage", "TypedStorage", "_TypedStorage"):
            rows[module, name] = _constant(StorageClass(name, UINT8, untyped=True), _storage_call)
    for module in ("torch", "torch.cuda", "torch.sparse", "torch.cuda.sparse"):
        for name in _TENSOR_NAMES:
            kind = "sparse" if module.endswith("sparse") else "typed"
            rows[module, f"{name}Tensor"] = _tensor_class(TensorClass(f"{name}Tensor", kind))
    for name in RETURN_TYPES:
        rows["torch.return_types", name] = _constant(Rebuild(f"return_types.{name}"), _return_type(name))
    return rows


TORCH_ROWS: Final = _rows()
