"""Checkpoints to damage, ways to damage them, and what is whole afterwards: for the tests of verify and salvage."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from hypothesis import strategies as st

import weighlock as wl
from weighlock.pickling.inert import Stub

RNG = np.random.default_rng(7)
SHARED = RNG.random(400, "f4")
PLAIN: dict[str, Any] = {
    "first": RNG.random(300, "f4"),
    "blocks": [RNG.random((40, 25), "f4"), RNG.integers(0, 99, 2000, "i8"), {"deep": RNG.random(7, "f8")}],
    "view": SHARED[100:200].reshape(10, 10),
    "whole": SHARED,
    "bytes": RNG.integers(0, 255, 5000, "u1"),
    "empty": np.zeros((0, 3), "f4"),
    "epoch": 12,
    "name": "a run",
    "optimizer": {
        "state": {0: {"step": RNG.random(1, "f4"), "avg": RNG.random((60, 30), "f4").astype("f2")}},
        "lr": 0.1,
    },
    "last": RNG.random(900, "f4"),
}


def saved(value: Any, **options: Any) -> bytes:
    """The bytes of our own file of an object."""
    file = io.BytesIO()
    wl.save(value, file, **options)
    return file.getvalue()


def torch_saved(value: Any, **options: Any) -> bytes:
    """The bytes of PyTorch's file of an object."""
    import torch

    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def torch_model() -> dict[str, Any]:
    """An object with all that PyTorch saves in its own ways."""
    import torch

    torch.manual_seed(3)
    shared = torch.randn(400)
    return {
        "first": torch.randn(300),
        "blocks": [torch.randn(40, 25), torch.arange(2000), {"deep": torch.randn(7).double()}],
        "view": shared[100:200].view(10, 10), "whole": shared, "half": torch.randn(500).half(),
        "bfloat": torch.randn(321).bfloat16(), "empty": torch.zeros(0, 3), "epoch": 12,
        "parameter": torch.nn.Parameter(torch.randn(30, 20)), "sparse": torch.eye(40).to_sparse(),
        "transposed": torch.randn(50, 30).t(), "size": torch.Size([3, 4]),
        "state": torch.nn.Linear(20, 30).state_dict(), "last": torch.randn(900),
    }  # fmt: skip


def tensors(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Give the arrays, or tensors, of an object with their paths."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from tensors(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from tensors(item, (*path, index))
    elif hasattr(value, "shape") and not isinstance(value, Stub) and type(value).__name__ != "Size":
        yield path, value


def equal(one: Any, other: Any) -> bool:
    """Whether two arrays, or two tensors, have the same type, shape and bits."""
    if type(one) is not type(other) or one.dtype != other.dtype or tuple(one.shape) != tuple(other.shape):
        return False
    if isinstance(one, np.ndarray):
        return one.tobytes() == other.tobytes()
    import torch

    if one.is_sparse:
        return torch.equal(one.to_dense(), other.to_dense())
    return torch.equal(one, other) and one.requires_grad == other.requires_grad and one.stride() == other.stride()


def regions(data: bytes) -> list[tuple[str, str, int, int]]:
    """Each stretch of a file: its kind, its name, where it begins, its length."""
    with wl.read_checkpoint(data) as checkpoint:
        return [(row.kind, row.name, row.offset, row.nbytes) for row in checkpoint.layout()]


def places(data: bytes) -> dict[tuple[Any, ...], list[tuple[int, int]]]:
    """Where the storages of each tensor lie in the file, by its path."""
    found: dict[tuple[Any, ...], list[tuple[int, int]]] = {}
    with wl.open_checkpoint(data) as ckpt:
        for lazy in ckpt.values():
            spans = found.setdefault(lazy.path, [])
            for _, part in lazy_parts(lazy):
                extent = ckpt.checkpoint.extent(part.ref)
                if extent is not None and part.ref.nbytes:
                    spans.append((extent.offset, extent.offset + extent.nbytes))
    return found


def lazy_parts(lazy: Any) -> Any:
    from weighlock.inspection.leaves import strided_parts

    return strided_parts(lazy.spec)


def whole(data: bytes, damaged: list[tuple[int, int]], end: int) -> set[tuple[Any, ...]]:
    """Which tensors are untouched by damage to some stretches, in a file that ends at `end`."""
    return {
        path for path, spans in places(data).items()
        if all(stop <= end and all(stop <= low or high <= start for low, high in damaged) for start, stop in spans)
    }  # fmt: skip


def interesting(data: bytes) -> list[int]:
    """Offsets at and around each border of a file's stretches, and inside of each."""
    found: set[int] = set()
    for _, _, offset, nbytes in regions(data):
        found |= {offset - 1, offset, offset + 1, offset + nbytes // 2, offset + nbytes - 1}
    return sorted(at for at in found if 0 <= at < len(data))


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    """The same with one bit flipped."""
    made = bytearray(data)
    made[at] ^= 1 << bit
    return bytes(made)


def zeroed(data: bytes, at: int, count: int) -> bytes:
    """The same with a stretch of zeros."""
    made = bytearray(data)
    made[at : at + count] = bytes(len(made[at : at + count]))
    return bytes(made)


KINDS = ["flip", "zero", "drop", "insert", "cut"]
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.floats(0, 1), st.sampled_from([1, 16, 500])), min_size=1, max_size=4
)


def damaged_by(data: bytes, operations: list[tuple[str, float, int]]) -> bytes:
    """The same after some operations: each a kind, a place as a share of the length, and a count."""
    for kind, where, count in operations:
        at = int(where * max(len(data) - 1, 0))
        if kind == "flip" and data:
            data = flipped(data, at, count % 8)
        elif kind == "zero":
            data = zeroed(data, at, count)
        elif kind == "drop":
            data = data[:at] + data[at + count :]
        elif kind == "insert":
            data = data[:at] + b"\xa5" * count + data[at:]
        else:
            data = data[:at]
    return data
