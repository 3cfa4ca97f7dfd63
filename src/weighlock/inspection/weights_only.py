"""What ``torch.load(weights_only=True)`` of torch 2.13 accepts, as far as the names in a file tell.

Judged by the format and by the globals alone: that loader also refuses most of pickle protocols 0, 1 and 3 to 5.
"""

from collections.abc import Iterable
from typing import Final

from weighlock.dtypes import BY_STORAGE_CLASS, DTYPES
from weighlock.tensors.values import TORCH_NAMES

__all__ = ["ALLOWED", "refused_by_torch"]

_TENSORS: Final = ("BFloat16", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short")
_FUNCTIONS: Final = (
    "_rebuild_device_tensor_from_cpu_tensor", "_rebuild_device_tensor_from_numpy", "_rebuild_meta_tensor_no_storage",
    "_rebuild_nested_tensor", "_rebuild_parameter", "_rebuild_parameter_with_state", "_rebuild_qtensor",
    "_rebuild_sparse_tensor", "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3",
    "_rebuild_wrapper_subclass",
)  # fmt: skip
_OTHERS: Final = (
    "_codecs.encode", "builtins.bytearray", "builtins.complex", "builtins.set", "collections.Counter",
    "collections.OrderedDict", "torch.Size", "torch.Tensor", "torch.device", "torch.nn.parameter.Parameter",
    "torch.serialization._get_layout", "torch._tensor._rebuild_from_type_v2", "torch.storage.TypedStorage",
    "torch.storage.UntypedStorage", "torch.BoolTensor", "torch.cuda.BoolTensor",
)  # fmt: skip


def _allowed() -> frozenset[str]:
    names = set(_OTHERS)
    names |= {f"torch._utils.{name}" for name in _FUNCTIONS}
    names |= {f"torch.{name}" for name in DTYPES}
    names |= {f"torch.{value.name}" for value in TORCH_NAMES.values() if value.kind == "qscheme"}
    for place in ("torch", "torch.cuda"):
        classes = [name for name, dtype in BY_STORAGE_CLASS.items() if place == "torch" or dtype.kind != "q"]
        names |= {f"{place}.{name}" for name in classes}
        names |= {f"{place}.{name}Tensor" for name in _TENSORS}
        names |= {f"{place}.sparse.{name}Tensor" for name in _TENSORS}
    return frozenset(names)


ALLOWED: Final = _allowed()
"""The globals that torch 2.13 builds under ``weights_only=True``, by full name."""

_REFUSED_FORMATS: Final = {
    "torch-tar": "tar archives",
    "torchscript": "TorchScript archives",
    "pickle": "pickles outside of a PyTorch container",
    "safetensors": "safetensors files",
    "npy": "NumPy's files",
    "npz": "NumPy's files",
    "gguf": "GGUF files",
    "sharded": "checkpoints of several files",
    "dcp": "checkpoints of several files",
    "deepspeed": "checkpoints of several files",
}


def refused_by_torch(format_name: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return what in a file of this format, with these globals, that loader would refuse; empty where nothing."""
    if format_name in _REFUSED_FORMATS:
        return (_REFUSED_FORMATS[format_name],)
    return tuple(name for name in names if _python3_name(name) not in ALLOWED)


def _python3_name(name: str) -> str:
    return f"builtins.{name.removeprefix('__builtin__.')}" if name.startswith("__builtin__.") else name
