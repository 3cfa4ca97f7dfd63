"""What stands in a loaded checkpoint for tensors that NumPy has no type for.

Small frozen records of arrays: nothing is lost, each can be turned into an ordinary array, and saving one writes the
tensor that it was. `docs/mapping.md` lists them.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weighlock.dtypes import VALUES_PER_UNIT, DType
from weighlock.errors import TensorBoundsError, UnsupportedError
from weighlock.tensors.values import TorchName

__all__ = [
    "JaggedTensor",
    "MetaTensor",
    "NestedTensor",
    "PackedTensor",
    "QuantizedTensor",
    "SparseTensor",
    "TensorSubclass",
    "UninitializedTensor",
    "WrapperTensor",
]

Array = np.ndarray[Any, Any]

# What `to_dense` may allocate unless the caller says otherwise: a sparse tensor's shape costs the file nothing.
_DENSE_LIMIT = 1 << 34


@dataclass(frozen=True, slots=True, eq=False)
class PackedTensor:
    """Elements that NumPy has no type for: several in a byte, or opaque bits.

    Attributes
    ----------
    dtype : DType
        For example ``float4_e2m1fn_x2`` (two values a byte) or ``bits16``.
    data : numpy.ndarray
        The raw units, uint8 or uint16, in PyTorch's shape (which counts units).
    """

    dtype: DType
    data: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """PyTorch's shape, in units."""
        return tuple(self.data.shape)

    def unpack(self) -> Array:
        """Return one element per value, along a last dimension that is longer by the values in a unit.

        ``float4_e2m1fn_x2`` becomes `ml_dtypes.float4_e2m1fn`, low half first; other types become unsigned integers.

        Raises
        ------
        UnsupportedError
            If the unit holds one opaque value only (``bits8``, ``bits16``): `data` is all there is.
        """
        count = VALUES_PER_UNIT.get(self.dtype.name)
        if count is None:
            raise UnsupportedError(f"{self.dtype.name} holds one opaque value per unit", hint="Use .data as it is.")
        bits = 8 // count
        shifts = np.arange(count, dtype=np.uint8) * np.uint8(bits)
        values: Array = (self.data[..., None] >> shifts) & np.uint8((1 << bits) - 1)
        values = values.reshape(*self.data.shape[:-1], -1) if self.data.ndim else values
        if self.dtype.name == "float4_e2m1fn_x2":
            import ml_dtypes

            values = values.view(ml_dtypes.float4_e2m1fn)
        return values


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedTensor:
    """A quantized tensor: the stored integers, and the affine map that turns them into numbers.

    Attributes
    ----------
    dtype : DType
        ``qint8``, ``quint8``, ``qint32``, ``quint4x2`` or ``quint2x4``.
    shape : tuple of int
        In values.
    data : numpy.ndarray or PackedTensor
        The integers in their own shape and strides; packed types as a flat `PackedTensor`.
    scheme : TorchName
        ``per_tensor_affine``, ``per_channel_affine`` ...
    scale, zero_point : float and int, or numpy.ndarray
        One each, or one per index along `axis`.
    axis : int or None
    """

    dtype: DType
    shape: tuple[int, ...]
    data: Array | PackedTensor
    scheme: TorchName
    scale: Any
    zero_point: Any
    axis: int | None = None

    def int_repr(self) -> Array:
        """Return the integers, one per value, in `shape`."""
        if isinstance(self.data, PackedTensor):
            count = int(np.prod(self.shape, dtype=np.int64))
            flat = self.data.unpack()[:count]
            if len(flat) != count:
                raise TensorBoundsError("a packed tensor is shorter than its shape", expected=str(count))
            return flat.reshape(self.shape)
        return self.data

    def dequantize(self) -> Array:
        """Return the numbers as float32: ``(integer - zero_point) * scale``."""
        # In float32 throughout, as PyTorch computes it: the same bits.
        scale, zero = np.asarray(self.scale, np.float32), np.asarray(self.zero_point)
        if self.axis is not None:
            broadcast = [1] * len(self.shape)
            broadcast[self.axis] = -1
            scale, zero = scale.reshape(broadcast), zero.reshape(broadcast)
        # The file says per_channel_affine of those with float zero points, too: their type tells them apart.
        if zero.dtype.kind == "f" and self.axis is not None:
            shifted = self.int_repr().astype(np.float32) - zero.astype(np.float32)
        else:
            shifted = (self.int_repr().astype(np.int64) - zero.astype(np.int64)).astype(np.float32)
        return shifted * scale


@dataclass(frozen=True, slots=True, eq=False)
class SparseTensor:
    """A sparse tensor: the nonzero values, and where they are.

    Attributes
    ----------
    layout : TorchName
        ``sparse_coo``, ``sparse_csr``, ``sparse_csc``, ``sparse_bsr`` or ``sparse_bsc``.
    indices : numpy.ndarray or pair of numpy.ndarray
        COO: int64 of shape (sparse dimensions, nonzeros). Others: compressed indices and plain indices.
    values : numpy.ndarray
        COO: shape (nonzeros, dense dimensions ...). BSR and BSC: (..., nonzero blocks, block rows, block columns).
    shape : tuple of int
    coalesced : bool or None
        COO only: whether indices are sorted and unique; None where the file does not say.
    """

    layout: TorchName
    indices: Any
    values: Any
    shape: tuple[int, ...]
    coalesced: bool | None = None

    def check(self) -> None:
        """Refuse indices outside of the shape, which index memory that is not theirs (CVE-2025-62164).

        Raises
        ------
        TensorBoundsError
        """
        from weighlock.backends.sparse_layouts import check

        check(self)

    def to_dense(self, *, max_bytes: int = _DENSE_LIMIT) -> Array:
        """Return the tensor as an ordinary array; duplicate COO entries are added up, as PyTorch does.

        Raises
        ------
        UnsupportedError
            If the result is larger than `max_bytes`.
        """
        from weighlock.backends.sparse_layouts import to_dense

        return to_dense(self, max_bytes)


@dataclass(frozen=True, slots=True, eq=False)
class NestedTensor:
    """A strided nested tensor: components of different shapes in one flat buffer.

    Attributes
    ----------
    buffer : numpy.ndarray
        One-dimensional.
    sizes, strides : numpy.ndarray
        int64, one row per component.
    offsets : numpy.ndarray
        int64, the start of each component, in elements.
    """

    buffer: Array
    sizes: Array
    strides: Array
    offsets: Any

    def unbind(self) -> list[Array]:
        """Return the components, as views of the buffer.

        Raises
        ------
        TensorBoundsError
            If a component reaches outside of the buffer.
        """
        from weighlock.tensors.layout import check_view

        starts = [int(start) for start in np.asarray(self.offsets)]
        views = []
        item = self.buffer.itemsize
        for start, size, stride in zip(starts, self.sizes.tolist(), self.strides.tolist(), strict=True):
            check_view(self.buffer.nbytes, item, start, tuple(size), tuple(stride))
            views.append(
                np.ndarray(tuple(size), self.buffer.dtype, self.buffer, start * item, tuple(s * item for s in stride))
            )
        return views


@dataclass(frozen=True, slots=True, eq=False)
class JaggedTensor:
    """A jagged nested tensor: values of all components one after the other along the ragged dimension.

    Attributes
    ----------
    values : numpy.ndarray
        Without the batch dimension.
    offsets : numpy.ndarray
        int64, one more than components: where each begins and ends.
    lengths : numpy.ndarray or None
        Where given, how much of each component is used.
    ragged_index : int
        The ragged dimension of the nested tensor; that of `values` is one less.
    fields : dict
        Everything else that the file gives its constructor.
    """

    values: Array
    offsets: Array
    lengths: Any
    ragged_index: int
    fields: dict[str, Any] = field(default_factory=dict, repr=False)

    def unbind(self) -> list[Array]:
        """Return the components, as views of the values."""
        axis = self.ragged_index - 1
        starts = self.offsets[:-1]
        ends = self.offsets[1:] if self.lengths is None else starts + self.lengths
        before: tuple[Any, ...] = (slice(None),) * axis
        return [self.values[(*before, slice(int(a), int(b)))] for a, b in zip(starts, ends, strict=True)]


@dataclass(frozen=True, slots=True)
class MetaTensor:
    """A tensor without data: from the ``meta`` device, or loaded with ``map_location="meta"``.

    Attributes
    ----------
    dtype : DType
    shape, stride : tuple of int
        In elements.
    requires_grad : bool
    """

    dtype: DType
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    requires_grad: bool = False

    @property
    def nbytes(self) -> int:
        """The bytes that its elements would take."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class UninitializedTensor:
    """An `UninitializedParameter` or `UninitializedBuffer` of a lazy module: it has no shape yet.

    Attributes
    ----------
    kind : str
        ``"parameter"`` or ``"buffer"``.
    requires_grad : bool
    """

    kind: str
    requires_grad: bool


@dataclass(frozen=True, slots=True, eq=False)
class TensorSubclass:
    """A tensor of a class other than Tensor and Parameter.

    Attributes
    ----------
    cls : GlobalRef
        The class, by name; it was not imported.
    data : object
        Its data: an array, or one of the records here.
    state : object
        Its attributes, as saved.
    """

    cls: Any
    data: Any
    state: Any


@dataclass(frozen=True, slots=True, eq=False)
class WrapperTensor:
    """The outside of a tensor that wraps others, such as DTensor; the tensors inside are attributes of its subclass.

    Attributes
    ----------
    cls : GlobalRef
    dtype : DType
    shape, stride : tuple of int
        In elements.
    offset : int
    layout, device : object
    requires_grad : bool
    """

    cls: Any
    dtype: DType
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    layout: Any
    device: Any
    requires_grad: bool
