"""PyTorch's tensors that are more than strided memory: quantized, sparse, nested, of other classes, of other worlds."""

from collections.abc import Callable
from typing import Any, Final

import torch

from weighlock.backends.torch_sources import check_source
from weighlock.backends.torch_values import CONSTANTS, PLAIN, ROWS, TORCH_DTYPES
from weighlock.dtypes import DType
from weighlock.errors import LimitError, PickleStreamError
from weighlock.pickling.inert import GlobalRef, Stub
from weighlock.storages.refs import StorageRef
from weighlock.tensors.leaves import Leaves
from weighlock.tensors.spec import (
    JaggedSpec,
    MetaSpec,
    NestedSpec,
    OpaqueSpec,
    QuantizedSpec,
    SparseSpec,
    SubclassSpec,
    UninitializedSpec,
    WrapperSpec,
)
from weighlock.tensors.values import Device, ReturnType, Size, TorchName
from weighlock.text import brief

__all__ = ["SpecialLeaves"]

# A quantized tensor is made empty before it is given its storage: bounds what its shape may ask for.
_FREE_ELEMENTS: Final = 1 << 20
_TIMES_STORAGE: Final = 16
# Types of scales and zero points that PyTorch keeps as they are, so that they may be read later.
_CHANNELS: Final = tuple(tuple((kind, False) for kind in kinds) for kinds in (
    (torch.float64, torch.int64), (torch.float32, torch.float32)))  # fmt: skip


class SpecialLeaves(Leaves):
    """Makes everything but strided tensors, by PyTorch's own functions."""

    native = True
    rows = ROWS

    def __init__(self) -> None:
        super().__init__()
        self._after: list[Callable[[], None]] = []
        self._without_data = False
        self._fake = False

    def safe_globals(self) -> dict[str, Any]:
        found: dict[str, Any] = torch._weights_only_unpickler._get_user_allowed_globals()
        return found

    def check_source(self, pid: tuple[Any, ...]) -> None:
        """Warn where the source text of a pickled module's class has changed since."""
        try:
            check_source(pid)
        except Warning as error:  # made an error by the caller's filters: it is theirs to catch
            self.raised = error
            raise

    # Values

    def plain(self, value: Any) -> Any:
        return PLAIN.get(id(value), value)

    def constant(self, name: TorchName) -> Any:
        return CONSTANTS.get(name, name)

    def returned(self, value: ReturnType) -> Any:
        kind = getattr(torch.return_types, value.type_name, None)
        return value if kind is None else kind(tuple(value))

    def element_type(self, dtype: DType) -> Any:
        return TORCH_DTYPES[dtype]

    def device(self, device: Device) -> Any:
        return torch.device(str(device))

    def size(self, size: Size) -> Any:
        return torch.Size(size)

    # What belongs to a tensor beside its data

    def hooked(self, data: Any, hooks: Any) -> Any:
        if isinstance(data, torch.Tensor) and hooks is not None:
            if not isinstance(hooks, dict):
                raise PickleStreamError("a tensor's hooks are no mapping", got=type(hooks).__name__)
            data._backward_hooks = hooks
        return data

    def attributed(self, data: Any, state: Any) -> Any:
        _check_tensor(data)
        if type(data) is not torch.Tensor:
            data = data.as_subclass(torch.Tensor)
        return _with_state(data, state)

    def parameter(self, data: Any, *, requires_grad: bool, state: Any = None) -> Any:
        if isinstance(data, Stub | GlobalRef):
            return data  # inside of what is unknown, and stays a description
        _check_tensor(data)
        return _with_state(torch.nn.Parameter(data, requires_grad), state)

    def as_parameter(self, data: Any, state: Any) -> Any:
        if isinstance(data, Stub | GlobalRef):
            return data
        _check_tensor(data)
        made = data if type(data) is torch.nn.Parameter else data.as_subclass(torch.nn.Parameter)
        return _with_state(made, state)

    def requiring(self, data: Any) -> Any:
        return data.requires_grad_(True) if isinstance(data, torch.Tensor) else data

    # Tensors of other kinds

    def quantized(self, spec: QuantizedSpec) -> Any:
        view = spec.tensor
        elements = 1
        for length in spec.shape:
            elements *= length
        if elements > _FREE_ELEMENTS + _TIMES_STORAGE * view.ref.nbytes:
            raise LimitError("a quantized tensor is out of all proportion to its storage", got=str(list(spec.shape)))
        known = self.settle()  # a quantizer copies its scales
        parts = [part for part in (spec.scale, spec.zero_point) if isinstance(part, torch.Tensor)]
        if any(part.is_quantized or part.layout is not torch.strided for part in parts):
            raise PickleStreamError("a quantized tensor's scale or zero point is no number")  # PyTorch ends the process
        if not known and parts and tuple((part.dtype, part.is_neg()) for part in parts) not in _CHANNELS:
            self._settle_for_a_copy()
        storage = self.exposed(view.storage)
        scheme = CONSTANTS[spec.scheme]
        quantizer = (scheme, spec.scale, spec.zero_point)
        if spec.axis is not None:
            quantizer = (*quantizer, spec.axis)  # type: ignore[assignment]
        rebuild = torch._utils._rebuild_qtensor
        return self._asked(rebuild, storage, view.offset, spec.shape, spec.stride, quantizer, False, None)

    def _asked(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function of PyTorch; what it cannot do on a device leaves as its own error, not as one of the file."""
        try:
            return function(*args)
        except NotImplementedError as error:
            self.raised = error
            raise

    def sparse(self, spec: SparseSpec) -> Any:
        size, layout = torch.Size(spec.shape), CONSTANTS[spec.layout]
        parts = spec.indices if isinstance(spec.indices, tuple) else (spec.indices,)
        if not all(isinstance(part, torch.Tensor) for part in (*parts, spec.values)):
            # PyTorch would make tensors of lists in lists, and take for ever where they are one list many times over.
            raise PickleStreamError("a sparse tensor whose parts are no tensors")
        converted = spec.layout.name == "sparse_coo" and parts[0].dtype is not torch.int64
        if converted or any(part.is_conj() or part.is_neg() for part in (*parts, spec.values)):
            self._settle_for_a_copy()
        if spec.layout.name == "sparse_coo":
            made = torch.sparse_coo_tensor(
                spec.indices, spec.values, size, check_invariants=False, is_coalesced=spec.coalesced
            )
        else:
            made = torch.sparse_compressed_tensor(
                *spec.indices, spec.values, size, layout=layout, check_invariants=False
            )
        if not self._without_data and not self._fake and made.device.type != "meta":
            self._after.append(lambda: _check_sparse(made))
        return made

    def _settle_for_a_copy(self) -> None:
        """Read the data now: PyTorch is about to convert a part, and would copy what lay in its memory before."""
        if not self.settle():
            what = "a tensor's part would have to be converted before the stream gives its data"
            raise PickleStreamError(what, hint="Save the checkpoint as a zip archive: weighlock convert does it.")

    def nested(self, spec: NestedSpec) -> Any:
        parts = (spec.buffer, spec.sizes, spec.strides, spec.offsets)
        if not all(isinstance(part, torch.Tensor) for part in parts):
            raise PickleStreamError("a nested tensor whose parts are no tensors")
        known = self.settle()
        if not known:  # a legacy stream: PyTorch would look at memory that nobody has written
            for part in parts[1:]:
                part.zero_()
        if not self._without_data and spec.buffer.device.type != "meta":
            if known:
                _check_nested(*parts)
            else:
                self._after.append(lambda: _check_nested(*parts))
        return self._asked(torch._nested_view_from_buffer, *parts)

    def jagged(self, spec: JaggedSpec) -> Any:
        raise PickleStreamError(
            "``torch.nested`` and ``torch._dynamo`` must be imported to load nested jagged tensors (NJTs)"
        )

    def meta(self, spec: MetaSpec) -> Any:
        rebuild = torch._utils._rebuild_meta_tensor_no_storage
        return rebuild(TORCH_DTYPES[spec.dtype], spec.shape, spec.stride, spec.requires_grad)

    def opaque(self, kind: str, shape: tuple[int, ...], ref: StorageRef) -> Any:
        raise OpaqueSpec(kind, shape, ref).refused()

    def uninitialized(self, spec: UninitializedSpec) -> Any:
        if spec.kind == "parameter":
            return torch.nn.parameter.UninitializedParameter(requires_grad=spec.requires_grad)
        return torch.nn.parameter.UninitializedBuffer(requires_grad=spec.requires_grad)

    def wrapper(self, spec: WrapperSpec) -> Any:
        if isinstance(spec.cls, GlobalRef):
            return Stub(spec.cls, (spec.dtype, spec.shape))
        if not isinstance(spec.cls, type) or not issubclass(spec.cls, torch.Tensor):
            raise PickleStreamError("the class of a wrapped tensor is no tensor class", got=brief(spec.cls))
        rebuild = torch._utils._rebuild_wrapper_subclass
        return rebuild(
            spec.cls, TORCH_DTYPES[spec.dtype], spec.shape, spec.stride, spec.offset, spec.layout, spec.device,
            spec.requires_grad,
        )  # fmt: skip

    def subclass(self, spec: SubclassSpec) -> Any:
        cls, data = spec.cls, spec.data
        if isinstance(cls, GlobalRef):
            stub = data if type(data) is Stub else Stub(cls, (data,), how="reduce")
            stub.state = spec.state
            return stub
        if not isinstance(cls, type) or not isinstance(data, torch.Tensor):
            raise PickleStreamError("a tensor of a class that is no tensor class", got=brief(cls))
        made = data if type(data) is cls else data.as_subclass(cls)
        own: Any = getattr(cls, "__setstate__", torch.Tensor.__setstate__)
        if own is torch.Tensor.__setstate__:
            return _with_state(made, spec.state)
        self.settle()  # a class that the user named runs its own code
        own(made, spec.state)
        return made

    def cast(self, data: Any, dtype: DType, device: Any, *, requires_grad: bool) -> Any:
        self.settle()
        tensor = data if isinstance(data, torch.Tensor) else torch.from_numpy(data)
        target = torch._utils._get_restore_location(device)
        if tensor is data and (tensor.dtype is not TORCH_DTYPES[dtype] or tensor.is_conj() or tensor.is_neg()):
            self._settle_for_a_copy()
        try:
            made = tensor.to(dtype=TORCH_DTYPES[dtype], device=target)
        except Exception as error:  # the device is not here: PyTorch's own message, as from torch.load
            self.raised = error
            raise
        made.requires_grad = requires_grad
        return made

    # NumPy's own objects in a pickle

    def numpy_dtype(self, code: str) -> Any:
        from weighlock.backends import numpy_pickles

        return numpy_pickles.dtype(code)

    def numpy_array(self) -> Any:
        from weighlock.backends import numpy_pickles

        return numpy_pickles.PendingArray()

    def numpy_scalar(self, dtype: Any, data: Any) -> Any:
        from weighlock.backends import numpy_pickles

        return numpy_pickles.scalar(dtype, data)


def _check_tensor(data: Any) -> None:
    if not isinstance(data, torch.Tensor):
        raise PickleStreamError("a parameter of something that is no tensor", got=type(data).__name__)


def _with_state(made: Any, state: Any) -> Any:
    """Set the attributes that were saved with a tensor: the object's `__dict__`, or a pair of it and slots."""
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    for part in parts:
        if part is not None and not isinstance(part, dict):
            raise PickleStreamError("a tensor's attributes are no mapping", got=type(part).__name__)
        for name, value in (part or {}).items():
            # What Python itself reads (`__class__` and the like) is nobody's saved attribute.
            if type(name) is not str or (name.startswith("__") and name.endswith("__")):
                raise PickleStreamError("a tensor's attribute has an impossible name", got=brief(name))
            setattr(made, name, value)
    return made


def _check_sparse(made: Any) -> None:
    """Check that indices lie inside of the shape: PyTorch itself trusts them, and reads memory that is not there."""
    if made.layout is torch.sparse_coo:
        torch._validate_sparse_coo_tensor_args(
            made._indices(), made._values(), made.size(), made.is_coalesced(), **_NO_PINNING
        )
        return
    if made.layout in (torch.sparse_csr, torch.sparse_bsr):
        compressed, plain = made.crow_indices(), made.col_indices()
    else:
        compressed, plain = made.ccol_indices(), made.row_indices()
    torch._validate_sparse_compressed_tensor_args(
        compressed, plain, made.values(), made.size(), made.layout, **_NO_PINNING
    )


# Newer releases look whether the parts are pinned, which makes a CUDA context.
_NO_PINNING: Final[dict[str, Any]] = (
    {"check_pinning": False}
    if "check_pinning" in str(getattr(torch.ops.aten._validate_sparse_coo_tensor_args.default, "_schema", ""))
    else {}
)


def _check_nested(buffer: Any, sizes: Any, strides: Any, offsets: Any) -> None:
    if sizes.dim() != 2 or strides.shape != sizes.shape or offsets.shape != sizes.shape[:1] or buffer.dim() != 1:
        raise PickleStreamError("a nested tensor whose parts do not fit together")
    total = buffer.numel()
    for size, stride, offset in zip(sizes.tolist(), strides.tolist(), offsets.tolist(), strict=True):
        if min((*size, *stride, offset), default=0) < 0:
            raise PickleStreamError("a nested tensor with a negative size")
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if 0 not in size and last >= total:
            raise PickleStreamError("a nested tensor reaches outside of its buffer", got=str(last))
