"""PyTorch's tensors as tensors of formats that hold nothing else."""

from collections.abc import Iterator
from typing import Any, Final

import torch

from weighlock.backends.torch_storages import memory_at
from weighlock.backends.torch_values import PLAIN
from weighlock.errors import UnsupportedTypeError
from weighlock.storages.sinks import Buffer
from weighlock.tensors.flat import FlatLeaf

__all__ = ["flat_leaf", "flat_note"]

_PIECE: Final = 8 << 20


def flat_leaf(value: Any) -> FlatLeaf | None:
    """Return the tensor that a value is; None where it is none.

    Raises
    ------
    UnsupportedTypeError
        If it is a tensor that is more than its elements.
    """
    if not isinstance(value, torch.Tensor):
        return None
    if value.layout is not torch.strided or value.is_quantized or value.is_nested or value.device.type == "meta":
        kind = "meta" if value.device.type == "meta" else str(value.layout)
        raise UnsupportedTypeError(
            f"this format has no form for a tensor of this kind ({kind})",
            hint="Save it in PyTorch's own format, or turn it into an ordinary tensor first.",
        )
    tensor = value.detach()
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    storage = tensor.untyped_storage()
    start = tensor.data_ptr()
    return FlatLeaf(
        PLAIN[id(tensor.dtype)], tuple(tensor.shape), tuple(tensor.stride()), start, tensor.nbytes,
        lambda: _pieces(tensor), storage=(str(tensor.device), storage.data_ptr() or storage._cdata),
    )  # fmt: skip


def _pieces(tensor: Any) -> Iterator[Buffer]:
    size = tensor.numel() * tensor.element_size()
    if not size:
        return
    if tensor.is_contiguous() and tensor.device.type == "cpu":
        yield memory_at(tensor.data_ptr(), size)
        return
    if size <= _PIECE or not tensor.dim():
        held = tensor.cpu().contiguous()
        yield bytes(memory_at(held.data_ptr(), size))
        return
    for row in tensor.split(max(1, tensor.shape[0] * _PIECE // size)):
        yield from _pieces(row if row.shape[0] > 1 else row[0])


def flat_note(value: Any) -> Any:
    """Return the node that stands for a value of PyTorch's in the description of a structure; None for others."""
    if isinstance(value, torch.Size):
        return {"Size": list(value)}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, torch.dtype):
        return {"dtype": PLAIN[id(value)].name}
    from weighlock.backends.numpy_flat import flat_note as numpy_note

    return numpy_note(value)
