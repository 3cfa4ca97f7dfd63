"""What the records of `numpy_types` become in a checkpoint again: the calls that PyTorch itself would have written."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np

from weighlock.backends.numpy_describe import NumpyDescriber
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
from weighlock.errors import UnsupportedTypeError
from weighlock.pickling.inert import GlobalRef
from weighlock.pickling.reductions import (
    FROM_TYPE,
    STORAGE,
    UNTYPED_STORAGE,
    Description,
    Persistent,
    Reduction,
    TensorCall,
    tensor_arguments,
)
from weighlock.storages.storage import Storage
from weighlock.tensors.layout import contiguous_stride
from weighlock.tensors.values import Size

__all__ = ["QTENSOR", "add_records", "record_row"]


def _torch(name: str) -> GlobalRef:
    module, _, short = name.rpartition(".")
    return GlobalRef(module, short)


QTENSOR: Final = _torch("torch._utils._rebuild_qtensor")
_SPARSE: Final = _torch("torch._utils._rebuild_sparse_tensor")
_NESTED: Final = _torch("torch._utils._rebuild_nested_tensor")
_META: Final = _torch("torch._utils._rebuild_meta_tensor_no_storage")
_WRAPPER: Final = _torch("torch._utils._rebuild_wrapper_subclass")
_NJT: Final = _torch("torch.nested._internal.nested_tensor._rebuild_njt")
_NJT_CLASS: Final = _torch("torch.nested._internal.nested_tensor.NestedTensor")
_UNINITIALIZED: Final = {
    "parameter": _torch("torch.nn.parameter.UninitializedParameter"),
    "buffer": _torch("torch.nn.parameter.UninitializedBuffer"),
}


def add_records(describer: NumpyDescriber) -> None:
    """Let a describer know the records of `numpy_types`, and storages."""
    describer.leaves.update({kind: partial(row, describer) for kind, row in _TABLE.items()})


def _packed(describer: NumpyDescriber, value: PackedTensor) -> TensorCall:
    return describer.place(value.data, describer.kind(value.data.dtype, value.dtype))


def _quantized(describer: NumpyDescriber, value: QuantizedTensor) -> Reduction:
    units = value.data.data if isinstance(value.data, PackedTensor) else value.data
    call = describer.place(units, describer.kind(units.dtype, value.dtype))
    storage, offset, shape, stride = tensor_arguments(call)[:4]
    if isinstance(value.data, PackedTensor):
        shape, stride = value.shape, contiguous_stride(value.shape)
    if value.axis is None:
        quantizer: tuple[Any, ...] = (value.scheme, value.scale, value.zero_point)
    else:
        quantizer = (value.scheme, value.scale, value.zero_point, value.axis)
    return Reduction(QTENSOR, (storage, offset, shape, stride, quantizer, False, OrderedDict()))


def _sparse(_: NumpyDescriber, value: SparseTensor) -> Reduction:
    size = Size(value.shape)
    if value.layout.name != "sparse_coo":
        return Reduction(_SPARSE, (value.layout, (*value.indices, value.values, size)))
    coalesced = () if value.coalesced is None else (value.coalesced,)
    return Reduction(_SPARSE, (value.layout, (value.indices, value.values, size, *coalesced)))


def _nested(_: NumpyDescriber, value: NestedTensor) -> Reduction:
    parts = (value.buffer, value.sizes, value.strides)
    return Reduction(_NESTED, parts if value.offsets is None else (*parts, value.offsets))


def _jagged(_: NumpyDescriber, value: JaggedTensor) -> Reduction:
    fields = dict(value.fields)
    fields.update(values=value.values, offsets=value.offsets, lengths=value.lengths, _ragged_idx=value.ragged_index)
    return Reduction(FROM_TYPE, (_NJT, _NJT_CLASS, (fields,), {}))


def _meta(_: NumpyDescriber, value: MetaTensor) -> Reduction:
    return Reduction(_META, (value.dtype, tuple(value.shape), tuple(value.stride), value.requires_grad))


def _uninitialized(_: NumpyDescriber, value: UninitializedTensor) -> Reduction:
    return Reduction(_UNINITIALIZED[value.kind], (value.requires_grad,))


def _wrapper(_: NumpyDescriber, value: WrapperTensor) -> Reduction:
    return Reduction(_WRAPPER, (
        value.cls, value.dtype, tuple(value.shape), tuple(value.stride), value.offset, value.layout, value.device,
        value.requires_grad,
    ))  # fmt: skip


def _subclass(describer: NumpyDescriber, value: TensorSubclass) -> Reduction:
    describe = describer.describe(type(value.data))
    description = describe(value.data) if describe is not None else None
    if isinstance(description, tuple):
        function, args = description[0].form.function, tensor_arguments(description)
    elif isinstance(description, Reduction):
        function, args = description.function, description.args
    else:
        raise UnsupportedTypeError("the data of a TensorSubclass is no tensor", got=type(value.data).__name__)
    return Reduction(FROM_TYPE, (function, value.cls, args, value.state))


def _storage(describer: NumpyDescriber, value: Storage) -> Persistent:
    if value.memory is None:
        hint = "Load without map_location='meta' to have its data."
        raise UnsupportedTypeError("a storage on the meta device has no data to save", hint=hint)
    units = np.frombuffer(value.memory, value.dtype.numpy) if value.nbytes else np.empty(0, value.dtype.numpy)
    pattern, key = describer.place(units, describer.kind(units.dtype, value.dtype))
    storage_class = UNTYPED_STORAGE if value.ref.untyped else pattern.form.storage
    numel = pattern.numel
    if pattern.offset or numel * (1 if storage_class == UNTYPED_STORAGE else value.dtype.itemsize) != value.nbytes:
        raise UnsupportedTypeError("a storage that is part of another has no form", hint="Save a copy of it.")
    return Persistent((STORAGE, storage_class, key, pattern.location, numel))


_TABLE: Final[dict[type, Callable[[NumpyDescriber, Any], Description]]] = {
    JaggedTensor: _jagged,
    MetaTensor: _meta,
    NestedTensor: _nested,
    PackedTensor: _packed,
    QuantizedTensor: _quantized,
    SparseTensor: _sparse,
    Storage: _storage,
    TensorSubclass: _subclass,
    UninitializedTensor: _uninitialized,
    WrapperTensor: _wrapper,
}

_BY_FIELDS: Final[dict[str, Callable[[Any, Any], Description]]] = {
    "JaggedSpec": _jagged,
    "MetaSpec": _meta,
    "NestedSpec": _nested,
    "SparseSpec": _sparse,
    "UninitializedSpec": _uninitialized,
    "WrapperSpec": _wrapper,
}


def record_row(kind: type) -> Callable[[Any, Any], Description] | None:
    """Return how a description of `tensors.spec` is written that has the fields of one of the records."""
    return _BY_FIELDS.get(kind.__name__)
