"""Descriptions of the leaves of a checkpoint: what is there, without building it.

Shapes and strides are tuples of integers and count elements, as in PyTorch; byte counts say so. A reading that builds
nothing keeps these objects as the leaves of its tree; one that builds hands each to a backend.
"""

from dataclasses import dataclass
from typing import Any

from weighlock.dtypes import DType
from weighlock.storages.refs import StorageRef
from weighlock.tensors.values import TorchName

__all__ = [
    "JaggedSpec",
    "MetaSpec",
    "NestedSpec",
    "NumpyArraySpec",
    "NumpyDtypeSpec",
    "NumpyScalarSpec",
    "QuantizedSpec",
    "SparseSpec",
    "SubclassSpec",
    "TensorSpec",
    "UninitializedSpec",
    "WrapperSpec",
]


class TensorSpec:
    """A strided tensor: a view of a storage.

    Attributes
    ----------
    storage : object
        What the reading made of the storage; its `.ref` is the `StorageRef`.
    dtype : DType
    offset : int
        Of the first element from the storage's start, in elements.
    shape, stride : tuple of int
        In elements.
    requires_grad : bool
    conj, neg : bool
        The values are the conjugates, or the negatives, of what is stored.
    parameter : bool
        It was an `nn.Parameter`.
    attributes : object
        Python attributes saved with it, or None.
    """

    __slots__ = (
        "attributes", "conj", "dtype", "neg", "offset", "parameter", "requires_grad", "shape", "storage", "stride",
    )  # fmt: skip

    # Reason for the parameter count: the fields of PyTorch's own rebuild call, built once per tensor.
    def __init__(
        self,
        storage: Any,
        dtype: DType,
        offset: int,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: bool = False,
        *,
        conj: bool = False,
        neg: bool = False,
    ) -> None:
        self.storage = storage
        self.dtype = dtype
        self.offset = offset
        self.shape = shape
        self.stride = stride
        self.requires_grad = requires_grad
        self.conj = conj
        self.neg = neg
        self.parameter = False
        self.attributes: Any = None

    @property
    def ref(self) -> StorageRef:
        """The storage as the file names it."""
        found: StorageRef = self.storage.ref
        return found

    @property
    def numel(self) -> int:
        """The number of elements."""
        count = 1
        for length in self.shape:
            count *= length
        return count

    @property
    def nbytes(self) -> int:
        """The bytes of its elements, were they stored contiguously."""
        return self.numel * self.dtype.itemsize

    def __repr__(self) -> str:
        kind = "parameter" if self.parameter else "tensor"
        return f"<{kind} {self.dtype.name}{list(self.shape)} in storage {self.ref.key!r}>"


@dataclass(slots=True)
class QuantizedSpec:
    """A quantized tensor: integers, and how to turn them into numbers.

    `scale` and `zero_point` are numbers for a per-tensor scheme; for a per-channel one, leaves or lists with one entry
    per index along `axis`.
    """

    tensor: Any
    dtype: DType
    shape: tuple[int, ...]
    scheme: TorchName
    scale: Any
    zero_point: Any
    axis: int | None = None


@dataclass(slots=True)
class SparseSpec:
    """A sparse tensor.

    `indices` is one leaf (COO: of shape (sparse dimensions, nonzeros)), or a pair of leaves (compressed, plain).
    """

    layout: TorchName
    indices: Any
    values: Any
    shape: tuple[int, ...]
    coalesced: bool | None = None


@dataclass(slots=True)
class NestedSpec:
    """A strided nested tensor: one flat buffer, and per component a row of `sizes` and of `strides`, and an offset."""

    buffer: Any
    sizes: Any
    strides: Any
    offsets: Any


@dataclass(slots=True)
class JaggedSpec:
    """A jagged nested tensor: `values` cut along its ragged dimension at `offsets` (and to `lengths`, where given)."""

    values: Any
    offsets: Any
    lengths: Any
    ragged_index: int
    fields: dict[str, Any]


@dataclass(slots=True)
class MetaSpec:
    """A tensor without data, from the ``meta`` device."""

    dtype: DType
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    requires_grad: bool = False


@dataclass(slots=True)
class UninitializedSpec:
    """An `UninitializedParameter` or `UninitializedBuffer`: it has no shape yet."""

    kind: str
    requires_grad: bool


# Reason for eight fields: the arguments of PyTorch's own rebuild function, one to one.
@dataclass(slots=True)
class WrapperSpec:
    """The outside of a wrapper subclass such as DTensor: everything but the tensors inside, which are attributes."""

    cls: Any
    dtype: DType
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    layout: Any
    device: Any
    requires_grad: bool


@dataclass(slots=True)
class SubclassSpec:
    """A tensor of a class other than Tensor and Parameter: its class by name, its data, its attributes."""

    cls: Any
    data: Any
    state: Any


@dataclass(slots=True)
class NumpyDtypeSpec:
    """A NumPy dtype in a pickle: its code, and the state that completes it (byte order, fields)."""

    code: str
    state: tuple[Any, ...] | None = None


@dataclass(slots=True)
class NumpyArraySpec:
    """A NumPy array that was pickled as such (not as a tensor): its data are in the pickle itself."""

    shape: tuple[int, ...] = ()
    dtype: Any = None
    fortran: bool = False
    data: Any = None


@dataclass(slots=True)
class NumpyScalarSpec:
    """A NumPy scalar: its dtype and the bytes of its value."""

    dtype: Any
    data: Any
