"""Descriptions of the leaves of a checkpoint: what is there, without building it.

Shapes and strides are tuples of integers and count elements, as in PyTorch; byte counts say so. A reading that builds
nothing keeps these objects as the leaves of its tree; one that builds hands each to a backend.
"""

from typing import Any

from weighlock.dtypes import DType
from weighlock.errors import UnsupportedError
from weighlock.storages.refs import StorageRef
from weighlock.tensors.values import TorchName

__all__ = [
    "JaggedSpec",
    "MetaSpec",
    "NestedSpec",
    "NumpyArraySpec",
    "NumpyDtypeSpec",
    "NumpyScalarSpec",
    "OpaqueSpec",
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


class _Spec:
    """Shows its fields. Plain classes, because `dataclasses` alone takes a tenth of the command line's start."""

    __slots__: tuple[str, ...] = ()

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"


class QuantizedSpec(_Spec):
    """A quantized tensor: integers, and how to turn them into numbers.

    `scale` and `zero_point` are numbers for a per-tensor scheme; for a per-channel one, leaves or lists with one entry
    per index along `axis`. `shape` and `stride` count values, which packed types hold several of in one unit.
    """

    __slots__ = ("axis", "dtype", "scale", "scheme", "shape", "stride", "tensor", "zero_point")

    def __init__(
        self,
        tensor: Any,
        dtype: DType,
        shape: tuple[int, ...],
        scheme: TorchName,
        scale: Any,
        zero_point: Any,
        axis: int | None = None,
        *,
        stride: tuple[int, ...] = (),
    ) -> None:
        self.stride = stride
        self.tensor = tensor
        self.dtype = dtype
        self.shape = shape
        self.scheme = scheme
        self.scale = scale
        self.zero_point = zero_point
        self.axis = axis


class SparseSpec(_Spec):
    """A sparse tensor.

    `indices` is one leaf (COO: of shape (sparse dimensions, nonzeros)), or a pair of leaves (compressed, plain).
    """

    __slots__ = ("coalesced", "indices", "layout", "shape", "values")

    def __init__(
        self,
        layout: TorchName,
        indices: Any,
        values: Any,
        shape: tuple[int, ...],
        coalesced: bool | None = None,
    ) -> None:
        self.layout = layout
        self.indices = indices
        self.values = values
        self.shape = shape
        self.coalesced = coalesced


class NestedSpec(_Spec):
    """A strided nested tensor: one flat buffer, and per component a row of `sizes` and of `strides`, and an offset."""

    __slots__ = ("buffer", "offsets", "sizes", "strides")

    def __init__(self, buffer: Any, sizes: Any, strides: Any, offsets: Any) -> None:
        self.buffer = buffer
        self.sizes = sizes
        self.strides = strides
        self.offsets = offsets


class JaggedSpec(_Spec):
    """A jagged nested tensor: `values` cut along its ragged dimension at `offsets` (and to `lengths`, where given)."""

    __slots__ = ("fields", "lengths", "offsets", "ragged_index", "values")

    def __init__(self, values: Any, offsets: Any, lengths: Any, ragged_index: int, fields: dict[str, Any]) -> None:
        self.values = values
        self.offsets = offsets
        self.lengths = lengths
        self.ragged_index = ragged_index
        self.fields = fields


class OpaqueSpec(_Spec):
    """A tensor of a type that no array library here has: blocks of GGUF, six-bit floats, half-filled bytes.

    It is listed, and its bytes can be read; its values cannot. `kind` is the type in the words of the file's format,
    `shape` counts values, row-major; the storage holds exactly its bytes.
    """

    __slots__ = ("kind", "shape", "storage")

    def __init__(self, kind: str, shape: tuple[int, ...], storage: Any) -> None:
        self.kind = kind
        self.shape = shape
        self.storage = storage

    @property
    def ref(self) -> StorageRef:
        """The storage as the file names it."""
        found: StorageRef = self.storage.ref
        return found

    @property
    def nbytes(self) -> int:
        """The bytes that the file has of it."""
        return self.ref.nbytes

    def refused(self) -> UnsupportedError:
        """Return the error for whoever wants its values."""
        return UnsupportedError(
            f"a tensor is of type {self.kind}, whose values cannot be read here",
            got=f"shape {list(self.shape)}",
            object_path=self.ref.key,
            hint="weighlock.read_checkpoint describes the file, and its storage_bytes reads the bytes as they are.",
        )


class MetaSpec(_Spec):
    """A tensor without data, from the ``meta`` device."""

    __slots__ = ("dtype", "requires_grad", "shape", "stride")

    def __init__(
        self,
        dtype: DType,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: bool = False,
    ) -> None:
        self.dtype = dtype
        self.shape = shape
        self.stride = stride
        self.requires_grad = requires_grad


class UninitializedSpec(_Spec):
    """An `UninitializedParameter` or `UninitializedBuffer`: it has no shape yet."""

    __slots__ = ("kind", "requires_grad")

    def __init__(self, kind: str, requires_grad: bool) -> None:
        self.kind = kind
        self.requires_grad = requires_grad


class WrapperSpec(_Spec):
    """The outside of a wrapper subclass such as DTensor: everything but the tensors inside, which are attributes."""

    __slots__ = ("cls", "device", "dtype", "layout", "offset", "requires_grad", "shape", "stride")

    # Reason for eight fields: the arguments of PyTorch's own rebuild function, one to one.
    def __init__(
        self,
        cls: Any,
        dtype: DType,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        offset: int,
        layout: Any,
        device: Any,
        requires_grad: bool,
    ) -> None:
        self.cls = cls
        self.dtype = dtype
        self.shape = shape
        self.stride = stride
        self.offset = offset
        self.layout = layout
        self.device = device
        self.requires_grad = requires_grad


class SubclassSpec(_Spec):
    """A tensor of a class other than Tensor and Parameter: its class by name, its data, its attributes."""

    __slots__ = ("cls", "data", "state")

    def __init__(self, cls: Any, data: Any, state: Any) -> None:
        self.cls = cls
        self.data = data
        self.state = state


class NumpyDtypeSpec(_Spec):
    """A NumPy dtype in a pickle: its code, and the state that completes it (byte order, fields)."""

    __slots__ = ("code", "state")

    def __init__(self, code: str, state: tuple[Any, ...] | None = None) -> None:
        self.code = code
        self.state = state


class NumpyArraySpec(_Spec):
    """A NumPy array that was pickled as such (not as a tensor): its data are in the pickle itself."""

    __slots__ = ("data", "dtype", "fortran", "shape")

    def __init__(self, shape: tuple[int, ...] = (), dtype: Any = None, fortran: bool = False, data: Any = None) -> None:
        self.shape = shape
        self.dtype = dtype
        self.fortran = fortran
        self.data = data


class NumpyScalarSpec(_Spec):
    """A NumPy scalar: its dtype and the bytes of its value."""

    __slots__ = ("data", "dtype")

    def __init__(self, dtype: Any, data: Any) -> None:
        self.dtype = dtype
        self.data = data
