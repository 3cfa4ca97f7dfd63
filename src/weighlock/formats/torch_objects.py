"""PyTorch's plain values as names and calls: `tensors.values` and `dtypes` become what they were in the file."""

from collections.abc import Mapping
from typing import Final

from weighlock.dtypes import DType
from weighlock.pickling.inert import GlobalRef
from weighlock.pickling.reductions import Describe, Description, Reduction
from weighlock.tensors.rebuild import StorageClass, TensorClass
from weighlock.tensors.values import Device, ReturnType, Size, TorchName

__all__ = ["describe_torch"]

_GET_LAYOUT: Final = GlobalRef("torch.serialization", "_get_layout")
_SIZE: Final = GlobalRef("torch", "Size")
_DEVICE: Final = GlobalRef("torch", "device")


def describe_torch(kind: type) -> Describe | None:
    """Return how objects of this exact class are written, or None if they are not PyTorch's. A `pickling.Describer`."""
    return _TABLE.get(kind)


def _torch_name(value: TorchName) -> Description:
    if value.kind == "layout":
        return Reduction(_GET_LAYOUT, (f"torch.{value.name}",))
    return GlobalRef("torch", value.name)


def _device(value: Device) -> Reduction:
    return Reduction(_DEVICE, (value.type,) if value.index is None else (value.type, value.index))


def _return_type(value: ReturnType) -> Reduction:
    return Reduction(GlobalRef("torch.return_types", value.type_name), (tuple(value), {}))


def _storage_class(value: StorageClass) -> GlobalRef:
    return GlobalRef("torch.storage" if value.untyped else "torch", value.name.rpartition(".")[2])


def _tensor_class(value: TensorClass) -> GlobalRef:
    module, _, name = value.name.rpartition(".")
    return GlobalRef(_CLASS_MODULES.get(value.name, f"torch.{module}" if module else "torch"), name)


_CLASS_MODULES: Final = {"nn.Parameter": "torch.nn.parameter", "nn.Buffer": "torch.nn.parameter"}

_TABLE: Final[Mapping[type, Describe]] = {
    DType: lambda value: GlobalRef("torch", value.name),
    Device: _device,
    ReturnType: _return_type,
    Size: lambda value: Reduction(_SIZE, (tuple(value),)),
    StorageClass: _storage_class,
    TensorClass: _tensor_class,
    TorchName: _torch_name,
}
