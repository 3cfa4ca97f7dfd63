"""Whether two loads of one file agree: PyTorch's objects beside Weighlock's, as NumPy's arrays or as PyTorch's own.

No recursion, and each pair of objects once: what a mutant holds may be deep, may hold itself, and may name one part a
thousand times. Nothing is caught here: a comparison that cannot be made is a finding, or a note that is counted.
"""

from __future__ import annotations

import itertools
import struct
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

import weighlock as wl
from tests import torch_compare
from tests.fuzzing.targets import BrokenPromiseError
from weighlock.dtypes import BY_STORAGE_CLASS

__all__ = ["Agreement", "DifferenceError"]

CORNER = "views of more than 16 MiB: their storage, and a corner of them"
BY_NAME = "functions and classes by themselves: their names"
COPIED = "parts of a tensor in a legacy stream: PyTorch has converted them before it has read them"
UNORDERED = "sets of objects without an order: their number"
_MOST_BYTES = 1 << 24
_PLAIN = frozenset({str, bytes, int, bool, type(None)})
_CONTAINERS = dict | list | set | bytearray


class DifferenceError(BrokenPromiseError):
    """Both read the file, and what they made of it differs."""


class Agreement:
    """One comparison of what `torch.load` gave with what Weighlock gave.

    Attributes
    ----------
    notes : Counter
        What was compared only in part, and why, by number.
    tensors, values : int
        How many tensors and how many other leaves were compared.
    """

    def __init__(self, torch: Any, *, drop_in: bool, late: bool = False) -> None:
        self.torch = torch
        self.late = late  # whether the file's data stand behind its pickle
        self.drop_in = drop_in
        self.notes: Counter[str] = Counter()
        self.tensors = self.values = 0
        self._waiting: list[tuple[Any, Any, str]] = []
        self._seen: set[tuple[int, int]] = set()
        self._converted: set[int] = set()
        self._kept: list[Any] = []  # an id is an object's own only while it lives
        self._ours: dict[int, int] = {}
        self._theirs: dict[int, int] = {}
        self._sharing = torch_compare.Sharing()
        self._places: dict[int, tuple[int, int, int, str]] = {}  # ours, theirs, length, where

    def check(self, theirs: Any, ours: Any) -> None:
        """Raise `DifferenceError` at the first difference."""
        self._waiting.append((theirs, ours, ""))
        while self._waiting:
            self._check(*self._waiting.pop())
        self._check_places()

    def _hold(self, holds: bool, at: str, what: str, *facts: Any) -> None:
        if not holds:
            told = ", ".join(str(fact)[:80] for fact in facts)
            side = "torch" if self.drop_in else "NumPy"
            raise DifferenceError(f"other results ({side}): {what} | {told} at {at!r}")

    def _later(self, theirs: Any, ours: Any, at: str, part: Any = "") -> None:
        self._waiting.append((theirs, ours, f"{at}.{str(part)[:40]}"[-200:]))

    def _check(self, theirs: Any, ours: Any, at: str) -> None:
        kind = type(theirs)
        if kind in _PLAIN:
            self.values += 1
            self._hold(type(ours) is kind and ours == theirs, at, "a value", repr(theirs)[:80], repr(ours)[:80])
            return
        if (id(theirs), id(ours)) in self._seen:
            return
        self._seen.add((id(theirs), id(ours)))
        self._kept += [theirs, ours]
        if isinstance(theirs, self.torch.Tensor):
            self._check_tensor(theirs, ours, at)
        elif isinstance(theirs, self.torch.storage.TypedStorage | self.torch.UntypedStorage):
            self._check_storage(theirs, ours, at)
        elif isinstance(theirs, Mapping | list | tuple | set | frozenset | bytearray):
            self._check_container(theirs, ours, at)
        else:
            self._check_value(theirs, ours, at)

    # ------------------------------------------------------------------------------------------------ plain objects

    def _check_container(self, theirs: Any, ours: Any, at: str) -> None:
        size = isinstance(theirs, self.torch.Size)
        expected = wl.Size if size and not self.drop_in else type(theirs)
        self._hold(type(ours) is expected, at, "a container", type(theirs), type(ours))
        # With NumPy, tensors without data are equal where all that is known of them is.
        if isinstance(theirs, set | frozenset) and any(isinstance(item, wl.MetaTensor) for item in ours):
            self.notes[UNORDERED] += 1
            return
        self._hold(len(ours) == len(theirs), at, "a length", len(theirs), len(ours))
        if isinstance(theirs, _CONTAINERS):
            there = self._ours.setdefault(id(theirs), id(ours)) == id(ours)
            self._hold(there, at, "one object is two", type(theirs))
            back = self._theirs.setdefault(id(ours), id(theirs)) == id(theirs)
            self._hold(back, at, "two objects are one", type(theirs))
        if isinstance(theirs, Mapping):
            for (key, value), (other, found) in zip(theirs.items(), ours.items(), strict=True):
                self._later(key, other, at, "<key>")
                self._later(value, found, at, key if type(key) in _PLAIN else "<value>")
            self._later(getattr(theirs, "__dict__", None), getattr(ours, "__dict__", None), at, "__dict__")
        elif isinstance(theirs, set | frozenset):
            self._check_set(theirs, ours, at)
        elif isinstance(theirs, bytearray):
            self._hold(ours == theirs, at, "bytes", theirs, ours)
        else:
            for index, (one, other) in enumerate(zip(theirs, ours, strict=True)):
                self._later(one, other, at, index)

    def _check_set(self, theirs: Any, ours: Any, at: str) -> None:
        if all(type(item) in _PLAIN or type(item) in (float, complex) for item in theirs):
            self._hold(sorted(map(repr, theirs)) == sorted(map(repr, ours)), at, "a set", theirs, ours)
        else:
            self.notes[UNORDERED] += 1

    def _check_value(self, theirs: Any, ours: Any, at: str) -> None:
        torch, kind = self.torch, type(theirs)
        self.values += 1
        if kind is float:
            same = type(ours) is float and struct.pack("d", theirs) == struct.pack("d", ours)
        elif kind is complex:
            same = type(ours) is complex and repr(theirs) == repr(ours)
        elif kind in (torch.dtype, torch.device, torch.qscheme, torch.layout):
            same = ours == theirs if self.drop_in else self._same_constant(theirs, ours)
        elif callable(theirs) or isinstance(theirs, torch.serialization.StorageType):
            self.notes[BY_NAME] += 1
            same = ours is theirs or self._same_name(theirs, ours)
        else:
            raise DifferenceError(f"nothing here knows how to compare {kind}")
        self._hold(same, at, "a value", repr(theirs), repr(ours))

    def _same_constant(self, theirs: Any, ours: Any) -> bool:
        if isinstance(theirs, self.torch.dtype):
            return ours is wl.dtype(str(theirs))
        if isinstance(theirs, self.torch.device):
            return isinstance(ours, wl.Device) and str(ours) == str(theirs)
        return repr(ours) == str(theirs)

    def _same_name(self, theirs: Any, ours: Any) -> bool:
        """Ours is a record of our own tables, which prints the name that the pickle gave."""
        if isinstance(theirs, self.torch.serialization.StorageType):
            rows = [name for name, row in BY_STORAGE_CLASS.items() if row is wl.dtype(str(theirs.dtype))]
            return any(name in repr(ours) for name in rows)
        return str(theirs.__name__) in repr(ours)

    # ---------------------------------------------------------------------------------------------------- storages

    def _check_storage(self, theirs: Any, ours: Any, at: str) -> None:
        torch = self.torch
        self.values += 1
        untyped = theirs if isinstance(theirs, torch.UntypedStorage) else theirs._untyped_storage
        if self.drop_in:
            self._hold(type(ours) is type(theirs), at, "a storage", type(theirs), type(ours))
            if untyped is not theirs:
                self._hold(ours.dtype is theirs.dtype, at, "a storage's type", theirs.dtype, ours.dtype)
            self._same(torch_compare.same_storage, untyped, getattr(ours, "_untyped_storage", ours), at)
            return
        self._hold(isinstance(ours, wl.Storage), at, "a storage", type(ours))
        self._hold((ours.nbytes, ours.device) == (untyped.nbytes(), untyped.device.type), at, "a storage",
                   untyped.nbytes(), untyped.device, ours)  # fmt: skip
        if untyped is not theirs:
            self._hold(ours.dtype is wl.dtype(str(theirs.dtype)), at, "a storage's type", theirs.dtype, ours.dtype)
        if untyped.nbytes() and untyped.device.type == "cpu":
            self._hold(ours.tobytes() == self._bytes(untyped), at, "a storage's bytes")
            self._place(untyped, np.frombuffer(ours.memory, np.uint8), 0, at)

    def _bytes(self, untyped: Any) -> bytes:
        made = self.torch.empty(0, dtype=self.torch.uint8).set_(untyped)
        return bytes(made.numpy())

    def _same(self, compare: Any, theirs: Any, ours: Any, at: str) -> None:
        """What the tests of the drop-in compare, with its words."""
        try:
            compare(self.torch, theirs, ours, at, self._sharing)
        except AssertionError as error:
            if self.late and "q_per_channel" in str(error):
                self.notes[COPIED] += 1
                return
            self._hold(False, at, str(error).rpartition(": ")[2].split("\n")[0][:30], error)

    # ----------------------------------------------------------------------------------------------------- tensors

    def _check_tensor(self, theirs: Any, ours: Any, at: str) -> None:
        self.tensors += 1
        if self.drop_in:
            self._check_drop_in(theirs, ours, at)
        elif isinstance(ours, wl.WrapperTensor):
            facts = (wl.dtype(str(theirs.dtype)), tuple(theirs.shape), tuple(theirs.stride()))
            self._hold((ours.dtype, ours.shape, ours.stride) == facts, at, "a wrapper", facts, ours)
        elif theirs.is_meta:
            self._hold(isinstance(ours, wl.MetaTensor), at, "a tensor without data", type(ours))
            facts = (wl.dtype(str(theirs.dtype)), tuple(theirs.shape), tuple(theirs.stride()))
            self._hold((ours.dtype, ours.shape, ours.stride) == facts, at, "a tensor without data", facts, ours)
        elif theirs.is_nested:
            self._check_nested(theirs, ours, at)
        elif theirs.is_quantized:
            self._check_quantized(theirs, ours, at)
        elif theirs.layout is not self.torch.strided:
            self._check_sparse(theirs, ours, at)
        else:
            self._check_strided(theirs, ours, at)

    def _check_drop_in(self, theirs: Any, ours: Any, at: str) -> None:
        torch = self.torch
        self._hold(type(ours) is type(theirs), at, "a tensor", type(theirs), type(ours))
        for fact in torch_compare.PLAIN_FACTS:
            if fact != "shape" or not theirs.is_nested:
                one, other = getattr(theirs, fact), getattr(ours, fact)
                self._hold(one == other, at, fact, one, other)
        self._later(getattr(theirs, "__dict__", None), getattr(ours, "__dict__", None), at, "__dict__")
        self._later(theirs._backward_hooks, ours._backward_hooks, at, "_backward_hooks")
        if theirs.is_nested:
            parts = ["values", "_nested_tensor_size", "_nested_tensor_strides", "_nested_tensor_storage_offsets"]
            parts = ["values", "offsets"] if theirs.layout is torch.jagged else parts
        elif theirs.layout is torch.sparse_coo:
            self._hold(theirs.is_coalesced() == ours.is_coalesced(), at, "coalesced", theirs.is_coalesced())
            parts = ["_indices", "_values"]
        elif theirs.layout is not torch.strided:
            parts = list(torch_compare.compressed_parts(torch, theirs.layout))
        else:
            self._same(torch_compare.same_strided, theirs, ours, at)
            parts = []
        for part in parts:
            self._later(getattr(theirs, part)(), getattr(ours, part)(), at, part)

    def _check_nested(self, theirs: Any, ours: Any, at: str) -> None:
        jagged = theirs.layout is self.torch.jagged
        self._hold(isinstance(ours, wl.JaggedTensor if jagged else wl.NestedTensor), at, "nested", type(ours))
        if jagged:
            self._later(theirs.values(), ours.values, at, "values")
            self._later(theirs.offsets(), ours.offsets, at, "offsets")
            return
        self._later(theirs.values(), ours.buffer, at, "buffer")
        for ours_too, part in (("sizes", "_nested_tensor_size"), ("strides", "_nested_tensor_strides")):
            one, other = getattr(theirs, part)().tolist(), getattr(ours, ours_too).tolist()
            self._hold(one == other, at, ours_too, one, other)
        starts = theirs._nested_tensor_storage_offsets().tolist()
        self._hold(starts == [int(start) for start in np.asarray(ours.offsets)], at, "offsets", starts, ours.offsets)

    def _check_quantized(self, theirs: Any, ours: Any, at: str) -> None:
        torch = self.torch
        self._hold(isinstance(ours, wl.QuantizedTensor), at, "quantized", type(ours))
        facts = (wl.dtype(str(theirs.dtype)), tuple(theirs.shape), theirs.qscheme() in _per_tensor(torch))
        self._hold((ours.dtype, ours.shape, ours.axis is None) == facts, at, "quantized", facts, ours.shape)
        if facts[2]:
            one, other = (theirs.q_scale(), theirs.q_zero_point()), (ours.scale, ours.zero_point)
            self._hold(repr(one) == repr(tuple(map(float, other[:1])) + other[1:]), at, "its scale", one, other)
        else:
            self._hold(theirs.q_per_channel_axis() == ours.axis, at, "its axis", ours.axis)
            for part, found in (("scales", ours.scale), ("zero_points", ours.zero_point)):
                one = getattr(theirs, f"q_per_channel_{part}")().detach().numpy()
                # Ours are as they are stored; PyTorch has one type for them.
                same = np.array_equal(one, np.asarray(found).astype(one.dtype), equal_nan=True)
                if self.late and not same:
                    self.notes[COPIED] += 1
                self._hold(same or self.late, at, f"its {part}", one, found)
        if theirs.dtype in (torch.quint4x2, torch.quint2x4):
            self._check_packed_quantized(theirs, ours, at)
        elif theirs.numel() * theirs.element_size() > _MOST_BYTES:
            self.notes[CORNER] += 1
        else:
            self._hold(np.array_equal(theirs.int_repr().numpy(), ours.int_repr()), at, "its integers")

    def _check_packed_quantized(self, theirs: Any, ours: Any, at: str) -> None:
        """Several values in a byte: what PyTorch's own storage holds from its beginning."""
        found = np.ascontiguousarray(ours.data.data).tobytes()
        whole = self._bytes(theirs.untyped_storage())
        start = theirs.storage_offset()
        self._hold(whole[start : start + len(found)] == found, at, "its bytes", whole, found)

    def _check_sparse(self, theirs: Any, ours: Any, at: str) -> None:
        torch = self.torch
        self._hold(isinstance(ours, wl.SparseTensor), at, "sparse", type(ours))
        self._hold(repr(ours.layout) == str(theirs.layout), at, "layout", theirs.layout, ours.layout)
        self._hold(ours.shape == tuple(theirs.shape), at, "shape", theirs.shape, ours.shape)
        names: tuple[str, ...] = ("_indices", "_values")
        parts: tuple[Any, ...] = (ours.indices, ours.values)
        if theirs.layout is torch.sparse_coo:
            self._hold(ours.coalesced in (None, theirs.is_coalesced()), at, "coalesced", ours.coalesced)
        else:
            names = torch_compare.compressed_parts(torch, theirs.layout)
            parts = (*ours.indices, ours.values)
        for name, found in zip(names, parts, strict=True):
            part = getattr(theirs, name)()
            self._converted |= {id(part)} if self.late else set()
            self._later(part, found, at, name)

    def _check_strided(self, theirs: Any, ours: Any, at: str) -> None:
        dtype = wl.dtype(str(theirs.dtype))
        array = ours.data if isinstance(ours, wl.PackedTensor) else ours
        self._hold(isinstance(array, np.ndarray), at, "an array", type(array))
        named = ours.dtype if isinstance(ours, wl.PackedTensor) else array.dtype
        self._hold(named == (dtype if array is not ours else dtype.numpy), at, "dtype", dtype, named)
        self._hold(array.shape == tuple(theirs.shape), at, "shape", theirs.shape, array.shape)
        self._hold(array.flags.writeable or not array.size, at, "writable")
        if not array.size:
            return
        lazy = theirs.is_conj() or theirs.is_neg()
        steps = tuple(step // array.itemsize for step in array.strides)
        stride = tuple(theirs.stride())
        moved = [i for i, length in enumerate(array.shape) if length > 1 and steps[i] != stride[i]]
        self._hold(lazy or not moved, at, "strides", stride, steps)
        if theirs.numel() * theirs.element_size() > _MOST_BYTES:
            self.notes[CORNER] += 1
        corner = _corner(array.shape)
        raw, found = _raw(self.torch, theirs.detach()[corner].resolve_conj().resolve_neg()), array[(..., *corner)]
        same = raw == np.ascontiguousarray(found).tobytes() or (lazy and _same_numbers(raw, found))
        if not same and id(theirs) in self._converted:
            self.notes[COPIED] += 1
            return
        self._hold(same, at, "values", raw, found)
        if not lazy:
            self._place(theirs.untyped_storage(), array, theirs.storage_offset() * theirs.element_size(), at)

    # ----------------------------------------------------------------------------------------------------- sharing

    def _place(self, untyped: Any, array: Any, offset: int, at: str) -> None:
        """Where one of our storages begins in memory: the same place for all views of one of theirs."""
        begin = array.__array_interface__["data"][0] - offset
        key = untyped._cdata
        self._kept.append(untyped)
        known = self._places.setdefault(key, (begin, untyped.data_ptr(), untyped.nbytes(), at))
        self._hold(known[0] == begin, at, "memory is not shared", known[-1])

    def _check_places(self) -> None:
        """Storages have bytes in common where PyTorch's have (the storage views of old files), and nowhere else."""
        for order in (0, 1):
            places = sorted(
                (*((row[1], row[0]) if order else row[:2]), row[2], row[3]) for row in self._places.values()
            )
            for (begin, elsewhere, length, at), (following, there, _, other) in itertools.pairwise(places):
                if begin + length > following:
                    what = "memory is not shared" if order else "memory is shared"
                    self._hold(following - begin == there - elsewhere, at, what, other)


def _per_tensor(torch: Any) -> tuple[Any, ...]:
    return torch.per_tensor_affine, torch.per_tensor_symmetric


def _corner(shape: tuple[int, ...]) -> tuple[Any, ...]:
    """The first million elements or so along all dimensions; all of them in most cases."""
    left, slices = 1 << 20, []
    for length in reversed(shape):
        slices.append(slice(0, min(length, left)))
        left = max(left // max(min(length, left), 1), 1)
    return tuple(reversed(slices))


def _same_numbers(raw: bytes, found: Any) -> bool:
    """Whether all numbers are equal but for the bits of what is no number, which negating may change."""
    parts = [found.real, found.imag] if found.dtype.kind == "c" or "complex" in found.dtype.name else [found]
    theirs = np.frombuffer(raw, found.dtype).reshape(found.shape)
    others = [theirs.real, theirs.imag] if len(parts) == 2 else [theirs]
    return all(
        np.array_equal(np.isnan(part), np.isnan(other)) and np.array_equal(part, other, equal_nan=True)
        for part, other in zip(parts, others, strict=True)
    )


def _raw(torch: Any, tensor: Any) -> bytes:
    """The bytes of a tensor's elements in order. Seen as integers first: not every type can be copied."""
    if tensor.element_size() == 16:
        return bytes(torch.view_as_real(tensor).contiguous().numpy().tobytes())
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return bytes(tensor.view(width).contiguous().numpy().tobytes())
