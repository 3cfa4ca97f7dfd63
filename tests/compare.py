"""Comparing what stock torch loads with what Weighlock loads, leaf by leaf: bits, dtype, shape, stride, sharing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import weighlock as wl


class Pairs:
    """The pairs of tensors seen in one comparison, for what holds between them."""

    def __init__(self) -> None:
        self.tensors: list[tuple[Any, np.ndarray[Any, Any]]] = []

    def check_sharing(self) -> None:
        """Two arrays share memory exactly where the two tensors do."""
        for i, (tensor, array) in enumerate(self.tensors):
            for other_tensor, other_array in self.tensors[:i]:
                if (
                    tensor.numel() == 0
                    or other_tensor.numel() == 0
                    or any(t.is_conj() or t.is_neg() for t in (tensor, other_tensor))
                ):
                    continue
                same = tensor.untyped_storage().data_ptr() == other_tensor.untyped_storage().data_ptr()
                spans = np.may_share_memory(array, other_array)
                if not same:
                    assert not spans
                elif np.shares_memory(array, other_array) != _overlap(tensor, other_tensor):
                    raise AssertionError("sharing differs")


def _overlap(a: Any, b: Any) -> bool:
    import torch

    marks = torch.zeros(a.untyped_storage().nbytes(), dtype=torch.int8)

    def cells(t: Any) -> Any:
        index = torch.arange(t.numel()).reshape(t.shape)
        offset = torch.full(t.shape, t.storage_offset(), dtype=torch.int64)
        rest = index
        for size, stride in zip(reversed(t.shape), reversed(t.stride()), strict=True):
            position = rest % size
            rest = rest // size
            shape = position
            offset = offset + shape * stride
        return (offset.reshape(-1, 1) * t.element_size() + torch.arange(t.element_size())).reshape(-1)

    marks[cells(a)] = 1
    return bool((marks[cells(b)] == 1).any())


def same(torch: Any, expected: Any, found: Any, pairs: Pairs | None = None, at: str = "") -> None:
    """Assert that `found` (ours) is `expected` (torch's)."""
    pairs = Pairs() if pairs is None else pairs
    if isinstance(expected, torch.Tensor):
        _same_tensor(torch, expected, found, pairs, at)
    elif isinstance(expected, torch.dtype):
        assert found is wl.dtype(str(expected)), at
    elif isinstance(expected, torch.Size):
        assert isinstance(found, wl.Size) and tuple(found) == tuple(expected), at
    elif isinstance(expected, torch.device):
        assert isinstance(found, wl.Device) and str(found) == str(expected), at
    elif isinstance(expected, torch.storage.TypedStorage | torch.UntypedStorage):
        untyped = expected if isinstance(expected, torch.UntypedStorage) else expected.untyped()
        assert isinstance(found, wl.Storage) and found.tobytes() == bytes(untyped.tolist()), at
    elif type(expected).__module__ == "torch.return_types":
        assert isinstance(found, wl.ReturnType) and found.type_name == type(expected).__name__, at
        for i, item in enumerate(expected):
            same(torch, item, found[i], pairs, f"{at}.{i}")
    elif isinstance(expected, Mapping):
        assert type(found) is type(expected), (at, type(found), type(expected))
        assert [repr(k) for k in expected] == [repr(k) for k in found], at
        for (key, value), other in zip(expected.items(), found.values(), strict=True):
            same(torch, value, other, pairs, f"{at}.{key}")
        assert getattr(expected, "__dict__", {}) == getattr(found, "__dict__", {}), at
    elif isinstance(expected, list | tuple):
        assert type(found) is type(expected) and len(found) == len(expected), (at, type(found))
        for i, item in enumerate(expected):
            same(torch, item, found[i], pairs, f"{at}.{i}")
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype and found.shape == expected.shape, at
        assert found.tobytes() == expected.tobytes() or expected.dtype.hasobject, at
    elif isinstance(expected, float) and expected != expected:
        assert found != found, at
    else:
        assert type(found) is type(expected) and found == expected, (at, expected, found)


def _same_tensor(torch: Any, expected: Any, found: Any, pairs: Pairs, at: str) -> None:
    if expected.is_meta:
        assert isinstance(found, wl.MetaTensor) and found.shape == tuple(expected.shape), at
        assert found.stride == tuple(expected.stride()) and found.dtype is wl.dtype(str(expected.dtype)), at
    elif type(expected).__name__ == "NestedTensor":
        assert isinstance(found, wl.JaggedTensor), at
        for i, (a, b) in enumerate(zip(expected.unbind(), found.unbind(), strict=True)):
            same(torch, a, np.ascontiguousarray(b), Pairs(), f"{at}.{i}")
    elif expected.is_nested:
        assert isinstance(found, wl.NestedTensor), at
        for i, (a, b) in enumerate(zip(expected.unbind(), found.unbind(), strict=True)):
            same(torch, a, b, Pairs(), f"{at}.{i}")
    elif expected.is_quantized:
        assert isinstance(found, wl.QuantizedTensor) and found.dtype is wl.dtype(str(expected.dtype)), at
        assert found.shape == tuple(expected.shape), at
        if expected.dtype not in (torch.quint4x2, torch.quint2x4):
            assert np.array_equal(expected.int_repr().numpy(), found.int_repr()), at
        np.testing.assert_allclose(expected.dequantize().numpy(), found.dequantize(), rtol=1e-6)
    elif expected.layout is not torch.strided:
        assert isinstance(found, wl.SparseTensor) and f"torch.{found.layout.name}" == str(expected.layout), at
        assert np.array_equal(expected.to_dense().numpy(), found.to_dense()), at
    else:
        _same_strided(torch, expected, found, pairs, at)


def _same_strided(torch: Any, expected: Any, found: Any, pairs: Pairs, at: str) -> None:
    dtype = wl.dtype(str(expected.dtype))
    if isinstance(found, wl.PackedTensor):
        assert found.dtype is dtype, at
        array = found.data
    else:
        assert isinstance(found, np.ndarray) and found.dtype == dtype.numpy, (at, type(found))
        array = found
    assert array.shape == tuple(expected.shape), at
    if array.size:
        strides = tuple(step // array.itemsize for step in array.strides)
        assert strides == tuple(expected.stride()), (at, strides, expected.stride())
    assert array.flags.writeable, at
    resolved = expected.detach().resolve_conj().resolve_neg().contiguous()
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[min(dtype.itemsize, 8)]
    if dtype.itemsize == 16:
        raw = torch.view_as_real(resolved).view(torch.int64).numpy().tobytes()
    else:
        raw = resolved.view(width).numpy().tobytes() if resolved.numel() else b""
    assert raw == np.ascontiguousarray(array).tobytes(), at
    pairs.tensors.append((expected, array))
