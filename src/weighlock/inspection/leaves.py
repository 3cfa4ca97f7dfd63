"""What the description of a leaf says of itself: element type, shape, layout, and the strided tensors it is made of."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple

from weighlock.dtypes import UINT8, DType
from weighlock.pickling.inert import repr_shallow
from weighlock.tensors.layout import is_contiguous
from weighlock.tensors.spec import (
    JaggedSpec,
    MetaSpec,
    NestedSpec,
    NumpyArraySpec,
    NumpyDtypeSpec,
    OpaqueSpec,
    QuantizedSpec,
    SparseSpec,
    SubclassSpec,
    TensorSpec,
    UninitializedSpec,
    WrapperSpec,
)

__all__ = ["LEAVES", "Leaf", "Part", "describe", "numpy_name", "strided_parts"]

Part = tuple[str, TensorSpec]

# A subclass of a subclass of ...: real ones have two levels.
_MAX_NESTING: Final = 16


class Leaf(NamedTuple):
    """One leaf, in the words of a listing; leaves that are alike may be one object.

    `dtype`, `shape` and `stride` are None where the leaf has none of its own. `nbytes` is what its elements take,
    `numel` how many numbers it holds. `strided_parts` has the strided tensors inside.
    """

    layout: str
    dtype: str | None
    shape: tuple[int, ...] | None
    stride: tuple[int, ...] | None = None
    nbytes: int = 0
    numel: int = 0
    contiguous: bool | None = None
    requires_grad: bool = False
    parameter: bool = False
    subclass: str | None = None


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _parts(spec: Any, *names: str) -> tuple[Part, ...]:
    return tuple((name, part) for name in names if type(part := getattr(spec, name)) is TensorSpec)


def _tensor(spec: TensorSpec) -> Leaf:
    meta = spec.ref.location == "meta"
    return _strided(spec.dtype, spec.shape, spec.stride, spec.requires_grad, spec.parameter, meta)


# Reason for the parameter count: what tells one such leaf from another. Shapes repeat endlessly.
@lru_cache(maxsize=4096)
def _strided(
    dtype: DType, shape: tuple[int, ...], stride: tuple[int, ...], requires_grad: bool, parameter: bool, meta: bool
) -> Leaf:
    layout = "meta" if meta else "packed" if dtype.kind == "p" else "strided"
    numel = _count(shape)
    return Leaf(
        layout, dtype.name, shape, stride, 0 if meta else numel * dtype.itemsize, numel,
        is_contiguous(shape, stride), requires_grad, parameter,
    )  # fmt: skip


def _quantized(spec: QuantizedSpec) -> Leaf:
    inner = spec.tensor
    own = type(inner) is TensorSpec and inner.shape == spec.shape
    return Leaf(
        f"quantized {spec.scheme.name}", spec.dtype.name, spec.shape, inner.stride if own else None,
        sum(part.nbytes for _, part in strided_parts(spec)), _count(spec.shape),
        is_contiguous(inner.shape, inner.stride) if own else None,
    )  # fmt: skip


def _assembled(layout: str, shape: tuple[int, ...] | None, parts: tuple[Part, ...]) -> Leaf:
    """Return a leaf whose first part holds the values."""
    values = parts[0][1] if parts else None
    return Leaf(
        layout, values.dtype.name if values else None, shape, nbytes=sum(part.nbytes for _, part in parts),
        numel=values.numel if values else 0,
    )  # fmt: skip


def _sparse(spec: SparseSpec) -> Leaf:
    return _assembled(spec.layout.name, spec.shape, strided_parts(spec))


def _sparse_parts(spec: SparseSpec) -> tuple[Part, ...]:
    indices = spec.indices if isinstance(spec.indices, tuple) else (spec.indices,)
    names = ("compressed_indices", "plain_indices") if len(indices) == 2 else ("indices",)
    parts = [(name, part) for name, part in zip(names, indices, strict=False) if type(part) is TensorSpec]
    return (*_parts(spec, "values"), *parts)


def _nested(spec: NestedSpec) -> Leaf:
    return _assembled("nested", None, strided_parts(spec))


def _jagged(spec: JaggedSpec) -> Leaf:
    return _assembled("jagged", None, strided_parts(spec))


def _meta(spec: MetaSpec) -> Leaf:
    return Leaf("meta", spec.dtype.name, spec.shape, spec.stride, numel=_count(spec.shape),
                contiguous=is_contiguous(spec.shape, spec.stride) if len(spec.shape) == len(spec.stride) else None,
                requires_grad=spec.requires_grad)  # fmt: skip


def _opaque(spec: OpaqueSpec) -> Leaf:
    return Leaf("opaque", spec.kind, spec.shape, nbytes=spec.nbytes, numel=_count(spec.shape))


def _uninitialized(spec: UninitializedSpec) -> Leaf:
    return Leaf("uninitialized", None, None, requires_grad=spec.requires_grad, parameter=spec.kind == "parameter")


def _wrapper(spec: WrapperSpec) -> Leaf:
    name = _class_name(spec.cls)
    return Leaf("wrapper", spec.dtype.name, spec.shape, spec.stride, requires_grad=spec.requires_grad, subclass=name)


def _class_name(cls: Any) -> str:
    full_name = getattr(cls, "full_name", None)
    return full_name if isinstance(full_name, str) else repr_shallow(cls)


def _subclass(spec: SubclassSpec) -> Leaf:
    inner = _inner(spec)
    found = Leaf("", None, None) if inner is None else describe(inner)
    return found._replace(layout="subclass", subclass=_class_name(spec.cls))


def _inner(spec: SubclassSpec) -> Any:
    """Return the leaf that a subclass holds; None where it holds none."""
    inner: Any = spec.data
    for _ in range(_MAX_NESTING):
        if type(inner) is not SubclassSpec:
            break
        inner = inner.data
    return inner if type(inner) in LEAVES and type(inner) is not SubclassSpec else None


_NUMPY_NAMES: Final = {
    "b1": "bool", "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64", "u1": "uint8", "u2": "uint16",
    "u4": "uint32", "u8": "uint64", "f2": "float16", "f4": "float32", "f8": "float64", "f16": "float128",
    "c8": "complex64", "c16": "complex128", "O8": "object",
}  # fmt: skip


def numpy_name(dtype: Any) -> str | None:
    """Return NumPy's name of a dtype that is described by its code; None where it is no such description."""
    if type(dtype) is not NumpyDtypeSpec:
        return None
    code = dtype.code.lstrip("<>|=")
    return _NUMPY_NAMES.get(code, code)


def _numpy(spec: NumpyArraySpec) -> Leaf:
    shape: Any = spec.shape  # as the pickle gives it, unchecked
    known = isinstance(shape, tuple) and all(type(length) is int for length in shape)
    nbytes = len(spec.data) if isinstance(spec.data, bytes | bytearray) else 0
    return Leaf("numpy", numpy_name(spec.dtype), tuple(shape) if known else None, nbytes=nbytes)


_DESCRIBERS: Final[dict[type, Callable[[Any], Leaf]]] = {
    TensorSpec: _tensor,
    QuantizedSpec: _quantized,
    SparseSpec: _sparse,
    NestedSpec: _nested,
    JaggedSpec: _jagged,
    MetaSpec: _meta,
    OpaqueSpec: _opaque,
    UninitializedSpec: _uninitialized,
    WrapperSpec: _wrapper,
    SubclassSpec: _subclass,
    NumpyArraySpec: _numpy,
}

LEAVES: Final = frozenset(_DESCRIBERS)
"""The classes of everything that a listing shows as one row."""


def describe(spec: Any) -> Leaf:
    """Return what one leaf says of itself; its class must be in `LEAVES`."""
    return _DESCRIBERS[type(spec)](spec)


_PARTERS: Final[dict[type, Callable[[Any], tuple[Part, ...]]]] = {
    TensorSpec: lambda spec: (("", spec),),
    QuantizedSpec: lambda spec: _parts(spec, "tensor", "scale", "zero_point"),
    SparseSpec: _sparse_parts,
    NestedSpec: lambda spec: _parts(spec, "buffer", "sizes", "strides", "offsets"),
    JaggedSpec: lambda spec: _parts(spec, "values", "offsets", "lengths"),
    # Its bytes as a tensor: who shares them and who uses them is found out as for any other.
    OpaqueSpec: lambda spec: (("", TensorSpec(spec.storage, UINT8, 0, (spec.nbytes,), (1,))),),
    SubclassSpec: lambda spec: strided_parts(_inner(spec)),
}


def strided_parts(spec: Any) -> tuple[Part, ...]:
    """Return the strided tensors that a leaf is made of, by name, the one with the values first."""
    parter = _PARTERS.get(type(spec))
    return () if parter is None else parter(spec)
