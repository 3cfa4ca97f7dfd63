"""The values of a tensor, or of a part of it, as Python numbers: only the bytes that the part needs are read."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

from weighlock.checkpoint import Checkpoint
from weighlock.dtypes import UINT8
from weighlock.errors import ArgumentError, LimitError, UnsupportedError
from weighlock.inspection import MAX_VALUES
from weighlock.inspection.decoding import decode, unpack_units
from weighlock.inspection.gathering import batches
from weighlock.inspection.numpy_values import read_array
from weighlock.inspection.slicing import Index, View, select
from weighlock.storages.assembled import assembled
from weighlock.storages.refs import StorageRef
from weighlock.tensors.layout import contiguous_stride
from weighlock.tensors.spec import NumpyArraySpec, QuantizedSpec, SubclassSpec, TensorSpec

__all__ = ["Values", "read_values"]


class Values(NamedTuple):
    """The values of a part of a tensor, in row-major order.

    Attributes
    ----------
    dtype : str
    shape : tuple of int
        Of the part.
    flat : sequence
        Numbers; complex numbers; pairs for ``float4_e2m1fn_x2``; hexadecimal text for opaque bits.
    dequantized : sequence of float or None
        The numbers that quantized integers stand for.
    """

    dtype: str
    shape: tuple[int, ...]
    flat: Sequence[Any]
    dequantized: Sequence[float] | None = None

    def nested(self, flat: Sequence[Any] | None = None) -> Any:
        """Return the values as nested lists; the value itself for a single one."""
        items = list(self.flat if flat is None else flat)
        if not self.shape:
            return items[0]
        for axis in range(len(self.shape) - 1, 0, -1):
            length = self.shape[axis]
            items = [items[at * length : (at + 1) * length] for at in range(_count(self.shape[:axis]))]
        return items


def _count(shape: Sequence[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def read_values(checkpoint: Checkpoint, spec: Any, index: Index = (), *, limit: int | None = MAX_VALUES) -> Values:
    """Return the values of a tensor, or of the part of it that `index` names.

    Parameters
    ----------
    checkpoint : Checkpoint
        Still open.
    spec : TensorSpec, QuantizedSpec, SubclassSpec or NumpyArraySpec
        One of its leaves.
    index : tuple of int, slice and Ellipsis
    limit : int or None
        How many values may be read at most.

    Raises
    ------
    ArgumentError
        If the index does not fit the shape.
    LimitError
        If there are more than `limit` values.
    UnsupportedError
        If the leaf has no values of its own: sparse, nested and meta tensors.

    Examples
    --------
    >>> import io, numpy, weighlock
    >>> file = io.BytesIO()
    >>> weighlock.save({"w": numpy.arange(12.0).reshape(3, 4)}, file)
    >>> _ = file.seek(0)
    >>> checkpoint = weighlock.read_checkpoint(file)
    >>> read_values(checkpoint, checkpoint.object["w"], (slice(None), 1)).nested()
    [1.0, 5.0, 9.0]
    """
    while type(spec) is SubclassSpec:
        spec = spec.data
    if type(spec) is TensorSpec:
        return _read_tensor(checkpoint, spec, index, limit)
    if type(spec) is QuantizedSpec and type(spec.tensor) is TensorSpec:
        return _read_quantized(checkpoint, spec, index, limit)
    if type(spec) is NumpyArraySpec:
        dtype, shape, values = read_array(spec)
        view = _checked(index, 0, shape, contiguous_stride(shape), limit)
        return Values(dtype, view.shape, [values(at) for at in _addresses(view)])
    raise UnsupportedError(
        "this kind of tensor has no values that could be listed", got=type(spec).__name__.removesuffix("Spec").lower()
    )


def _checked(index: Index, offset: int, shape: Sequence[int], stride: Sequence[int], limit: int | None) -> View:
    view = select(index, offset, shape, stride)
    count = _count(view.shape)
    if limit is not None and count > limit:
        raise LimitError(
            "too many values to show", expected=f"at most {limit}", got=str(count),
            hint="Show a part, for example KEY[:10], or all of them with --all.",
        )  # fmt: skip
    return view


def _addresses(view: View) -> Iterator[int]:
    steps = [range(length) for length in view.shape]
    for at in product(*steps):
        yield view.offset + sum(number * step for number, step in zip(at, view.stride, strict=True))


def _read_tensor(checkpoint: Checkpoint, spec: TensorSpec, index: Index, limit: int | None) -> Values:
    view = _checked(index, spec.offset, spec.shape, spec.stride, limit)
    raw = _Elements(checkpoint, spec.ref, spec.dtype.itemsize).gather(view.offset, view.shape, view.stride)
    flat = decode(raw, spec.dtype)
    if spec.conj:
        flat = [value.conjugate() for value in flat]
    if spec.neg:
        flat = [-value for value in flat]
    return Values(spec.dtype.name, view.shape, flat)


class _Elements:
    """Reads elements of one size from one storage, turned to little-endian."""

    def __init__(self, checkpoint: Checkpoint, ref: StorageRef, itemsize: int) -> None:
        if ref.location == "meta" or (ref.reader is None and ref.nbytes):
            raise UnsupportedError("the file holds no data of this tensor", record=ref.record or ref.key)
        self._checkpoint = checkpoint
        self._ref = ref
        self._size = itemsize
        self._swap = ref.elements.swap if ref.byteorder == "big" else 1
        packed = ref.reader is not None and ref.nbytes > 0 and ref.reader.extent(ref) is None
        packed = packed and assembled(ref) is None
        self._whole = checkpoint.storage_bytes(ref) if packed else None

    def _read(self, stretches: list[tuple[int, int]]) -> list[bytes]:
        """Return stretches of the storage, each unit of them turned around where the file is big-endian."""
        unit, most = self._swap, self._ref.nbytes
        wider = [(low - low % unit, min(-(-high // unit) * unit, most)) for low, high in stretches]
        if self._whole is not None:
            found = [self._whole[low:high] for low, high in wider]
        else:
            found = self._checkpoint.storage_parts(self._ref, wider)
        if unit > 1:
            found = [_turned(raw, unit) for raw in found]
        return [
            raw[low - first : high - first]
            for raw, (first, _), (low, high) in zip(found, wider, stretches, strict=True)
        ]

    def gather(self, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
        """Return the bytes of the elements of a view in row-major order."""
        view, size = View(offset, shape, stride, ()), self._size
        steps = contiguous_stride(shape)
        out = bytearray(_count(shape) * size)
        for batch in batches(view, size, self._checkpoint.gap):
            parts = self._read([(block.low, block.low + block.nbytes) for block in batch])
            if len(out) == batch[0].nbytes and stride == steps:
                return parts[0]
            for block, data in zip(batch, parts, strict=True):
                first = sum(at * step for at, step in zip(block.start, steps, strict=True))
                places = _addresses(View(first, block.shape, steps, ()))
                for to, at in zip(places, _addresses(View(block.offset // size, block.shape, stride, ())), strict=True):
                    out[to * size : (to + 1) * size] = data[at * size : (at + 1) * size]
        return bytes(out)


def _turned(raw: bytes, unit: int) -> bytes:
    swapped = bytearray(len(raw))
    for place in range(unit):
        swapped[place::unit] = raw[unit - 1 - place :: unit]
    return bytes(swapped)


def _read_quantized(checkpoint: Checkpoint, spec: QuantizedSpec, index: Index, limit: int | None) -> Values:
    inner: TensorSpec = spec.tensor
    packed = spec.dtype.name in ("quint4x2", "quint2x4")
    offset, stride = (0, contiguous_stride(spec.shape)) if packed else (inner.offset, inner.stride)
    view = _checked(index, offset, spec.shape, stride, limit)
    if packed:
        integers: Sequence[int] = _read_packed(checkpoint, spec, view)
    else:
        raw = _Elements(checkpoint, inner.ref, inner.dtype.itemsize).gather(view.offset, view.shape, view.stride)
        integers = decode(raw, spec.dtype)
    return Values(spec.dtype.name, view.shape, integers, _dequantized(checkpoint, spec, view, integers))


def _read_packed(checkpoint: Checkpoint, spec: QuantizedSpec, view: View) -> list[int]:
    addresses = list(_addresses(view))
    if not addresses:
        return []
    per_unit = 2 if spec.dtype.name == "quint4x2" else 4
    first, last = min(addresses) // per_unit, max(addresses) // per_unit + 1
    inner: TensorSpec = spec.tensor
    if last > inner.numel:
        raise ArgumentError("the packed tensor is shorter than its shape", expected=str(last), got=str(inner.numel))
    raw = _Elements(checkpoint, inner.ref, UINT8.itemsize).gather(inner.offset + first, (last - first,), (1,))
    values = unpack_units(raw, spec.dtype.name)
    return [values[at - first * per_unit] for at in addresses]


def _dequantized(checkpoint: Checkpoint, spec: QuantizedSpec, view: View, integers: Sequence[int]) -> list[float]:
    scales, zeros = _parameters(checkpoint, spec.scale), _parameters(checkpoint, spec.zero_point)
    if spec.axis is None:
        return [(value - zeros[0]) * scales[0] for value in integers]
    channels = [at[spec.axis] for at in product(*view.picked)]
    if len(scales) < spec.shape[spec.axis] or len(zeros) < spec.shape[spec.axis]:
        raise ArgumentError("the tensor has fewer scales than channels", expected=str(spec.shape[spec.axis]))
    return [(value - zeros[at]) * scales[at] for value, at in zip(integers, channels, strict=True)]


def _parameters(checkpoint: Checkpoint, given: Any) -> Sequence[Any]:
    if type(given) is TensorSpec:
        return read_values(checkpoint, given, limit=None).flat
    found = list(given) if isinstance(given, list | tuple) else [given]
    if not found or not all(isinstance(value, int | float) for value in found):
        raise UnsupportedError("a quantized tensor's scale is no number", got=type(given).__name__)
    return found
