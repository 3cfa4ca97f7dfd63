"""Describing a loaded object as plain JSON, in the same words for torch's objects and for ours.

Golden results are written from what torch loads and compared with what we load, also where torch is not installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import weighlock as wl


def describe(value: Any) -> Any:
    """Return a JSON description: shape, stride, type and every bit of tensors; type and items of containers."""
    module = type(value).__module__.partition(".")[0]
    if module == "torch":
        return _torch_leaf(value)
    leaf = _our_leaf(value)
    if leaf is not None:
        return leaf
    if isinstance(value, Mapping):
        extra = {
            key: describe(child) for key, child in getattr(value, "__dict__", {}).items() if key != "default_factory"
        }
        return [type(value).__name__, [[repr(key), describe(child)] for key, child in value.items()], extra]
    if isinstance(value, list | tuple):
        return [type(value).__name__, [describe(child) for child in value]]
    if isinstance(value, set | frozenset):
        return [type(value).__name__, sorted(repr(child) for child in value)]
    return [type(value).__name__, repr(value)]


def _our_leaf(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        dtype = next((row for row in wl.dtypes.DTYPES.values() if row.numpy_name and row.numpy == value.dtype), None)
        name = "?" if dtype is None else dtype.name
        return _strided(name, value.shape, [step // value.itemsize for step in value.strides], value.tobytes())
    if isinstance(value, wl.PackedTensor):
        strides = [step // value.data.itemsize for step in value.data.strides]
        return _strided(value.dtype.name, value.data.shape, strides, value.data.tobytes())
    if isinstance(value, wl.QuantizedTensor):
        return ["quantized", value.dtype.name, list(value.shape), value.dequantize().tobytes().hex()]
    if isinstance(value, wl.SparseTensor):
        return ["sparse", value.layout.name, list(value.shape), value.to_dense().tobytes().hex()]
    if isinstance(value, wl.NestedTensor | wl.JaggedTensor):
        return ["nested", [np.ascontiguousarray(part).tobytes().hex() for part in value.unbind()]]
    if isinstance(value, wl.MetaTensor):
        return ["meta", value.dtype.name, list(value.shape), list(value.stride)]
    if isinstance(value, wl.Storage):
        return ["storage", value.tobytes().hex()]
    if isinstance(value, wl.ReturnType):
        return ["return_type", value.type_name, [describe(item) for item in value]]
    if isinstance(value, wl.DType):
        return ["dtype", value.name]
    if isinstance(value, wl.Size):
        return ["size", list(value)]
    if isinstance(value, wl.Device):
        return ["device", str(value)]
    return None


def _strided(name: str, shape: Any, stride: Any, data: bytes) -> Any:
    return ["tensor", name, list(shape), list(stride) if data else [], data.hex()]


def _torch_leaf(value: Any) -> Any:
    import torch

    if isinstance(value, torch.dtype):
        return ["dtype", str(value).removeprefix("torch.")]
    if isinstance(value, torch.Size):
        return ["size", list(value)]
    if isinstance(value, torch.device):
        return ["device", str(value)]
    if isinstance(value, torch.UntypedStorage | torch.storage.TypedStorage):
        untyped = value if isinstance(value, torch.UntypedStorage) else value.untyped()
        return ["storage", bytes(untyped.tolist()).hex()]
    if isinstance(value, tuple):
        return ["return_type", type(value).__name__, [describe(item) for item in value]]
    return _torch_tensor(torch, value.detach())


def _untyped(tensor: Any) -> Any:
    """Return the bytes of a tensor's storage, in any torch that goldens were made with."""
    return tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else tensor.storage().untyped()


def _torch_tensor(torch: Any, value: Any) -> Any:
    name = str(value.dtype).removeprefix("torch.")
    if value.is_meta:
        return ["meta", name, list(value.shape), list(value.stride())]
    if value.is_nested:
        return ["nested", [part.contiguous().numpy().tobytes().hex() for part in value.unbind()]]
    if value.is_quantized:
        return ["quantized", name, list(value.shape), value.dequantize().numpy().tobytes().hex()]
    if value.layout is not torch.strided:
        layout = str(value.layout).removeprefix("torch.")
        return ["sparse", layout, list(value.shape), value.to_dense().numpy().tobytes().hex()]
    plain = value.resolve_conj().resolve_neg().contiguous()
    raw = bytes(_untyped(plain).tolist())[: plain.numel() * plain.element_size()] if plain.numel() else b""
    start = plain.storage_offset() * plain.element_size()
    if plain.numel() and start:
        raw = bytes(_untyped(plain.clone()).tolist())
    return _strided(name, value.shape, value.stride(), raw)
