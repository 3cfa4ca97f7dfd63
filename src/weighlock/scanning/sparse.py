"""Indices of sparse tensors against their shape: the one tensor data that a scan reads.

What is wrong with them shows only when the tensor is used: `to_dense` writes where they point (CVE-2025-62164).
"""

import sys
from itertools import pairwise
from typing import Any, Final

from weighlock.errors import WeighlockError
from weighlock.scanning.notes import Notes
from weighlock.tensors.spec import SparseSpec, TensorSpec

__all__ = ["UnreadableError", "check_sparse", "numbers"]

_CODES: Final = {"int64": "q", "int32": "i", "int16": "h", "int8": "b", "uint8": "B"}
_MOST_BYTES: Final = 1 << 30


def check_sparse(spec: SparseSpec, notes: Notes, member: str | None) -> None:
    """Note what is wrong with the indices of one sparse tensor."""
    try:
        wrong = _wrong_coo(spec) if spec.layout.name == "sparse_coo" else _wrong_compressed(spec)
    except UnreadableError as error:
        notes.gap("WL903", f"the indices of a sparse tensor: {error}", member)
        return
    except WeighlockError as error:
        notes.gap("WL903", f"the indices of a sparse tensor: {error.what}", error.record or member)
        return
    if wrong:
        notes.add("WL403", f"a tensor of shape {list(spec.shape)}, {spec.layout.name}: {wrong}", member=member)


class UnreadableError(Exception):
    """Why the integers of a tensor cannot be had."""


def _wrong_coo(spec: SparseSpec) -> str | None:
    indices = spec.indices
    if type(indices) is not TensorSpec or len(indices.shape) != 2:
        return "its indices are no matrix" if type(indices) is TensorSpec else None
    dimensions, count = indices.shape
    if dimensions > len(spec.shape):
        return f"indices of {dimensions} dimensions"
    if type(spec.values) is TensorSpec and spec.values.shape != (count, *spec.shape[dimensions:]):
        return f"{count} indices, and values of shape {list(spec.values.shape)}"
    for dimension in range(dimensions):
        row = numbers(indices, indices.offset + dimension * indices.stride[0], count, indices.stride[1])
        wrong = _outside(row, spec.shape[dimension], f"index in dimension {dimension}")
        if wrong:
            return wrong
    return None


def _wrong_compressed(spec: SparseSpec) -> str | None:
    compressed, plain = spec.indices
    if type(compressed) is not TensorSpec or type(plain) is not TensorSpec:
        return None
    if len(compressed.shape) != len(plain.shape) or not compressed.shape or len(spec.shape) < 2:
        return "its two kinds of indices do not fit together"
    values = spec.values.shape if type(spec.values) is TensorSpec else ()
    batch = len(compressed.shape) - 1
    if compressed.shape[:-1] != plain.shape[:-1] or values[: batch + 1] != plain.shape:
        return f"plain indices of shape {list(plain.shape)}, and values of shape {list(values)}"
    block = values[batch + 1 : batch + 3] if spec.layout.name in ("sparse_bsr", "sparse_bsc") else (1, 1)
    rows, columns = spec.shape[batch : batch + 2] if len(spec.shape) >= batch + 2 else (0, 0)
    if len(block) == 2 and all(block):
        rows, columns = rows // block[0], columns // block[1]
    lines, across = (columns, rows) if spec.layout.name in ("sparse_csc", "sparse_bsc") else (rows, columns)
    if compressed.shape[-1] != lines + 1:
        return f"{compressed.shape[-1]} compressed indices for {lines} lines"
    return _wrong_lines(compressed, plain, across)


def _wrong_lines(compressed: TensorSpec, plain: TensorSpec, across: int) -> str | None:
    count = plain.shape[-1]
    for batch in _starts(compressed.shape[:-1]):
        ends = numbers(compressed, _offset(compressed, batch), compressed.shape[-1], compressed.stride[-1])
        listed = list(ends)
        if listed and (listed[0] != 0 or listed[-1] != count or any(a > b for a, b in pairwise(listed))):
            return f"its compressed indices do not rise from 0 to {count}"
        wrong = _outside(numbers(plain, _offset(plain, batch), count, plain.stride[-1]), across, "plain index")
        if wrong:
            return wrong
    return None


def _starts(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    places: list[tuple[int, ...]] = [()]
    for length in shape:
        if len(places) * length > 4096:
            raise UnreadableError("too many batches")
        places = [(*place, index) for place in places for index in range(length)]
    return places


def _offset(spec: TensorSpec, batch: tuple[int, ...]) -> int:
    return spec.offset + sum(index * step for index, step in zip(batch, spec.stride, strict=False))


def _outside(found: Any, length: int, what: str) -> str | None:
    if not len(found):
        return None
    low, high = min(found), max(found)
    if low < 0 or high >= length:
        return f"{what} {low if low < 0 else high} where {length} are"
    return None


def numbers(spec: TensorSpec, offset: int, count: int, step: int) -> Any:
    """Return integers of a storage: only these bytes are read."""
    from array import array

    ref = spec.ref
    code = _CODES.get(spec.dtype.name)
    if count == 0:
        return ()
    if code is None:
        raise UnreadableError(f"they are of type {spec.dtype.name}")
    width = spec.dtype.itemsize
    span = ((count - 1) * step + 1) * width
    if ref.reader is None or span > _MOST_BYTES:
        raise UnreadableError("they have no data in the file" if ref.reader is None else "they take too much memory")
    extent = ref.reader.extent(ref)
    if extent is not None:
        source: Any = ref.reader.source  # type: ignore[attr-defined]
        raw = source.read_at(extent.offset + offset * width, span)
    else:
        whole = bytearray(ref.nbytes)
        ref.reader.read([(ref, memoryview(whole))], verify=False)
        raw = bytes(whole[offset * width : offset * width + span])
    values = array(code)
    values.frombytes(raw)
    if ref.byteorder != sys.byteorder:
        values.byteswap()
    return values[:: max(step, 1)]
