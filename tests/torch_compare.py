"""Comparing two loads by PyTorch's own objects: what stock torch made, and what the drop-in made of the same bytes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

PLAIN_FACTS = ("dtype", "layout", "device", "requires_grad", "is_leaf", "shape", "is_quantized", "is_nested")


class Sharing:
    """Which storages of one load stand where those of the other do: the same partition on both sides."""

    def __init__(self, *, meta: bool = True) -> None:
        self.meta = meta  # whether storages without data are compared too
        self._to: dict[int, int] = {}
        self._back: dict[int, int] = {}
        self._kept: list[Any] = []

    def check(self, expected: Any, found: Any, at: str) -> None:
        self._kept += [expected, found]
        assert self._to.setdefault(expected._cdata, found._cdata) == found._cdata, f"{at}: shares other memory"
        assert self._back.setdefault(found._cdata, expected._cdata) == expected._cdata, f"{at}: shares too much"


def same(torch: Any, expected: Any, found: Any, at: str = "", sharing: Sharing | None = None) -> None:
    """Assert that two objects are the same in every respect that a program can see."""
    sharing = Sharing() if sharing is None else sharing
    assert type(found) is type(expected), f"{at}: {type(found)} instead of {type(expected)}"
    if isinstance(expected, torch.Tensor):
        _same_tensor(torch, expected, found, at, sharing)
    elif isinstance(expected, torch.storage.TypedStorage):
        assert found.dtype is expected.dtype, at
        same_storage(torch, expected._untyped_storage, found._untyped_storage, at, sharing)
    elif isinstance(expected, torch.UntypedStorage):
        same_storage(torch, expected, found, at, sharing)
    elif isinstance(expected, Mapping):
        assert [repr(key) for key in expected] == [repr(key) for key in found], at
        for key, other in zip(expected, found, strict=True):
            same(torch, expected[key], found[other], f"{at}.{key}", sharing)
        same(torch, getattr(expected, "__dict__", None), getattr(found, "__dict__", None), f"{at}.__dict__", sharing)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), at
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            same(torch, one, other, f"{at}.{index}", sharing)
    elif isinstance(expected, float):
        assert repr(found) == repr(expected), at
    elif hasattr(expected, "__dict__") and not isinstance(expected, type) and not callable(expected):
        same(torch, expected.__dict__, found.__dict__, at, sharing)
    else:
        assert found == expected, at


def _same_tensor(torch: Any, expected: Any, found: Any, at: str, sharing: Sharing) -> None:
    for fact in PLAIN_FACTS:
        if fact == "shape" and (expected.is_nested or expected.layout is torch.jagged):
            continue
        assert getattr(found, fact) == getattr(expected, fact), f"{at}: {fact}"
    if expected.layout is not torch.jagged:  # whose attributes name the compiler's own symbols
        same(torch, getattr(expected, "__dict__", None), getattr(found, "__dict__", None), f"{at}.__dict__", sharing)
    same(torch, expected._backward_hooks, found._backward_hooks, f"{at}._backward_hooks", sharing)
    if expected.is_nested:
        _same_nested(torch, expected, found, at, sharing)
    elif expected.layout is torch.sparse_coo:
        assert found.is_coalesced() == expected.is_coalesced(), at
        same(torch, expected._indices(), found._indices(), f"{at}.indices", sharing)
        same(torch, expected._values(), found._values(), f"{at}.values", sharing)
    elif expected.layout is not torch.strided:
        for part in compressed_parts(torch, expected.layout):
            same(torch, getattr(expected, part)(), getattr(found, part)(), f"{at}.{part}", sharing)
    else:
        same_strided(torch, expected, found, at, sharing)


def compressed_parts(torch: Any, layout: Any) -> tuple[str, ...]:
    by_row = layout in (torch.sparse_csr, torch.sparse_bsr)
    return (*(("crow_indices", "col_indices") if by_row else ("ccol_indices", "row_indices")), "values")


def _same_nested(torch: Any, expected: Any, found: Any, at: str, sharing: Sharing) -> None:
    if expected.layout is torch.jagged:
        same(torch, expected.values(), found.values(), f"{at}.values", sharing)
        same(torch, expected.offsets(), found.offsets(), f"{at}.offsets", sharing)
        return
    same(torch, expected.values(), found.values(), f"{at}.values", sharing)
    for part in ("_nested_tensor_size", "_nested_tensor_strides", "_nested_tensor_storage_offsets"):
        same(torch, getattr(expected, part)(), getattr(found, part)(), f"{at}.{part}", sharing)


def same_strided(torch: Any, expected: Any, found: Any, at: str, sharing: Sharing) -> None:
    assert found.stride() == expected.stride(), f"{at}: stride"
    assert found.storage_offset() == expected.storage_offset(), f"{at}: storage offset"
    if expected.is_quantized:
        assert found.qscheme() == expected.qscheme(), f"{at}: scheme"
        if expected.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            assert (found.q_scale(), found.q_zero_point()) == (expected.q_scale(), expected.q_zero_point()), at
        else:
            assert found.q_per_channel_axis() == expected.q_per_channel_axis(), at
            for part in ("q_per_channel_scales", "q_per_channel_zero_points"):
                both = [getattr(tensor, part)().detach() for tensor in (found, expected)]
                assert torch.allclose(*both, rtol=0, atol=0, equal_nan=True), f"{at}: {part}"
    else:
        assert (found.is_conj(), found.is_neg()) == (expected.is_conj(), expected.is_neg()), f"{at}: bits"
    same_storage(torch, expected.untyped_storage(), found.untyped_storage(), at, sharing)


def same_storage(torch: Any, expected: Any, found: Any, at: str, sharing: Sharing) -> None:
    if not sharing.meta and expected.device.type == found.device.type == "meta":
        return
    assert found.nbytes() == expected.nbytes(), f"{at}: storage of {found.nbytes()} instead of {expected.nbytes()}"
    assert found.device == expected.device, f"{at}: device of the storage"
    if not expected.nbytes():
        return  # torch itself does not keep the identity of storages without bytes
    sharing.check(expected, found, at)
    if expected.device.type == "cpu":
        both = [torch.empty(0, dtype=torch.uint8).set_(storage) for storage in (expected, found)]
        assert torch.equal(*both), f"{at}: bytes"


class Outcome:
    """What a call did: its result or its exception, and what it warned of."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: Exception | None = None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                self.result = call()
            except Exception as error:
                self.error = error
        self.warnings = sorted(
            (warning.category.__name__, str(warning.message)) for warning in caught if not _is_expected(warning)
        )

    def __repr__(self) -> str:
        return f"<{self.error!r}>" if self.error is not None else f"<{type(self.result).__name__}>"


def _is_expected(warning: Any) -> bool:
    # Told once per process, or about what the test itself makes; and of pickle protocols, which Weighlock reads all.
    text = str(warning.message)
    return any(part in text for part in ("TypedStorage is deprecated", "Detected pickle protocol", "beta state"))
