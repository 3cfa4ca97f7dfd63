"""Tensors whose parts must fit each other: sparse, quantized, nested. Only their indices are read."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

from weighlock.errors import WeighlockError
from weighlock.inspection.inventory import TensorRow
from weighlock.scanning.notes import Notes
from weighlock.scanning.sparse import UnreadableError, check_sparse, numbers
from weighlock.tensors.spec import JaggedSpec, NestedSpec, QuantizedSpec, SparseSpec, SubclassSpec, TensorSpec
from weighlock.verifying.report import Notebook

__all__ = ["check_rows"]

_MOST_INDICES: Final = 1 << 24


def check_rows(rows: list[TensorRow], notes: Notebook) -> None:
    """Check every tensor that has parts."""
    for row in rows:
        spec = row.spec
        while type(spec) is SubclassSpec:
            spec = spec.data
        check = _CHECKS.get(type(spec))
        if check is None or row.alias_of is not None:
            continue
        try:
            check(spec, row.key, notes)
        except UnreadableError as error:
            notes.gap("WL903", f"{row.key}: its indices: {error}")
        except WeighlockError as error:
            if not notes.has(error.record):
                notes.error(error.locate(object_path=row.key))


def _sparse(spec: SparseSpec, key: str, notes: Notebook) -> None:
    found = Notes(lambda _: False)
    check_sparse(spec, found, None)
    for finding in found.findings.values():
        notes.add(finding.rule, finding.message, path=key)
    for gap in found.gaps.values():
        notes.gap(gap.rule, f"{key}: {gap.message}", gap.member)
    indices = spec.indices
    if not found.findings and spec.layout.name == "sparse_coo" and spec.coalesced and type(indices) is TensorSpec:
        dimensions, count = indices.shape
        if dimensions * count > _MOST_INDICES:
            notes.gap("WL904", f"{key}: it has too many indices to be compared with each other")
            return
        columns = zip(*_rows(indices, dimensions, count), strict=True)
        if any(one >= other for one, other in pairwise(columns)):
            notes.add("WL604", "it is said to be coalesced, and its indices are not sorted and unique", path=key)


def _rows(indices: TensorSpec, dimensions: int, count: int) -> Iterator[Any]:
    for row in range(dimensions):
        yield numbers(indices, indices.offset + row * indices.stride[0], count, indices.stride[1])


def _quantized(spec: QuantizedSpec, key: str, notes: Notebook) -> None:
    if spec.axis is None:
        if not isinstance(spec.scale, int | float) or not isinstance(spec.zero_point, int):
            notes.add("WL603", "its scale or zero point is no number", path=key)
        return
    if not 0 <= spec.axis < len(spec.shape):
        notes.add("WL603", "it is quantized along an axis that it does not have", path=key,
                  expected=f"0 to {len(spec.shape) - 1}", got=str(spec.axis))  # fmt: skip
        return
    for name in ("scale", "zero_point"):
        held = getattr(spec, name)
        count = held.numel if isinstance(held, TensorSpec) else len(held) if isinstance(held, list | tuple) else 1
        if count != spec.shape[spec.axis]:
            notes.add("WL603", f"it has another number of values in {name} than channels", path=key,
                      expected=str(spec.shape[spec.axis]), got=str(count))  # fmt: skip


def _nested(spec: NestedSpec, key: str, notes: Notebook) -> None:
    if not isinstance(spec.buffer, TensorSpec) or not isinstance(spec.sizes, TensorSpec) or len(spec.sizes.shape) != 2:
        return
    count, dimensions = spec.sizes.shape
    if count * dimensions > _MOST_INDICES:
        notes.gap("WL904", f"{key}: it has too many parts to be checked")
        return
    total = 0
    for row in range(count):
        numel = 1
        for length in _row(spec.sizes, row):
            if length < 0:
                notes.add("WL604", "a part of the nested tensor has a negative size", path=key, got=str(length))
                return
            numel *= length
        total += numel
    if total > spec.buffer.numel:
        notes.add("WL604", "the parts of the nested tensor need more elements than its buffer has", path=key,
                  expected=f"at most {spec.buffer.numel}", got=str(total))  # fmt: skip


def _row(spec: TensorSpec, row: int) -> Any:
    return numbers(spec, spec.offset + row * spec.stride[0], spec.shape[1], spec.stride[1])


def _jagged(spec: JaggedSpec, key: str, notes: Notebook) -> None:
    if not isinstance(spec.values, TensorSpec) or not isinstance(spec.offsets, TensorSpec):
        return
    if len(spec.offsets.shape) != 1 or not spec.values.shape or spec.offsets.shape[0] > _MOST_INDICES:
        return
    ends = list(numbers(spec.offsets, spec.offsets.offset, spec.offsets.shape[0], spec.offsets.stride[0]))
    ragged = max(spec.ragged_index - 1, 0)
    most = spec.values.shape[ragged] if ragged < len(spec.values.shape) else 0
    if ends and (ends[0] < 0 or ends[-1] > most or any(one > other for one, other in pairwise(ends))):
        notes.add("WL604", "the offsets of the nested tensor do not rise within its values", path=key,
                  expected=f"from 0 to {most}", got=f"{ends[0]} to {ends[-1]}")  # fmt: skip


_CHECKS: Final[dict[type, Any]] = {
    SparseSpec: _sparse, QuantizedSpec: _quantized, NestedSpec: _nested, JaggedSpec: _jagged,
}  # fmt: skip
