"""THE table of element types: every name under which PyTorch, safetensors and NumPy know them.

One row per type; storage classes, safetensors codes, NumPy types and documentation are all read from it. The module
needs no array library: `DType.numpy` imports NumPy (and ml_dtypes) only when it is asked for.

`storage_class` is the class that names the type inside a pickle. Types that came after PyTorch 2.1 have none: their
tensors lie in an `UntypedStorage` and name the dtype themselves (`_rebuild_tensor_v3`).
"""

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy

__all__ = ["DTYPES", "DType", "dtype"]


class DType:
    """The type of a tensor's elements, as `torch.dtype` is, without PyTorch.

    There is exactly one object per type; compare with `is` or `==`.

    Attributes
    ----------
    name : str
        PyTorch's name without the prefix, for example ``"bfloat16"``.
    itemsize : int
        Bytes of one element (for packed types: of the unit that PyTorch counts as one element).
    kind : str
        ``"f"`` float, ``"i"`` signed, ``"u"`` unsigned, ``"b"`` bool, ``"c"`` complex, ``"q"`` quantized,
        ``"p"`` packed or opaque bits.
    swap : int
        Bytes that are reversed together between little- and big-endian files (half of `itemsize` for complex).

    Examples
    --------
    >>> dtype("float32").itemsize
    4
    """

    __slots__ = ("itemsize", "kind", "name", "numpy_name", "safetensors_code", "storage_class", "swap")

    # Reason for eight parameters: one per column of the table below, and only the table calls it.
    def __init__(
        self,
        name: str,
        itemsize: int,
        kind: str,
        *,
        storage_class: str | None = None,
        numpy_name: str | None = None,
        safetensors_code: str | None = None,
    ) -> None:
        self.name = name
        self.itemsize = itemsize
        self.kind = kind
        self.swap = itemsize // 2 if kind == "c" else itemsize
        self.storage_class = storage_class
        self.numpy_name = numpy_name
        self.safetensors_code = safetensors_code

    @property
    def numpy(self) -> "numpy.dtype[Any]":
        """The NumPy type of one element; for types NumPy has none for, that of the raw bytes.

        Examples
        --------
        >>> dtype("bfloat16").numpy
        dtype(bfloat16)
        """
        found = _NUMPY_CACHE.get(self.name)
        if found is None:
            found = _NUMPY_CACHE[self.name] = _numpy_dtype(self)
        return found

    def __repr__(self) -> str:
        return f"weighlock.dtype({self.name!r})"

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return dtype, (self.name,)


_ROWS: Final = (
    # name, bytes, kind, storage class, NumPy name, safetensors code
    ("float64", 8, "f", "DoubleStorage", "float64", "F64"),
    ("float32", 4, "f", "FloatStorage", "float32", "F32"),
    ("float16", 2, "f", "HalfStorage", "float16", "F16"),
    ("bfloat16", 2, "f", "BFloat16Storage", "ml_dtypes.bfloat16", "BF16"),
    ("int64", 8, "i", "LongStorage", "int64", "I64"),
    ("int32", 4, "i", "IntStorage", "int32", "I32"),
    ("int16", 2, "i", "ShortStorage", "int16", "I16"),
    ("int8", 1, "i", "CharStorage", "int8", "I8"),
    ("uint8", 1, "u", "ByteStorage", "uint8", "U8"),
    ("bool", 1, "b", "BoolStorage", "bool", "BOOL"),
    ("complex64", 8, "c", "ComplexFloatStorage", "complex64", "C64"),
    ("complex128", 16, "c", "ComplexDoubleStorage", "complex128", None),
    ("complex32", 4, "c", None, "ml_dtypes.complex32", None),
    ("uint16", 2, "u", None, "uint16", "U16"),
    ("uint32", 4, "u", None, "uint32", "U32"),
    ("uint64", 8, "u", None, "uint64", "U64"),
    ("float8_e4m3fn", 1, "f", None, "ml_dtypes.float8_e4m3fn", "F8_E4M3"),
    ("float8_e5m2", 1, "f", None, "ml_dtypes.float8_e5m2", "F8_E5M2"),
    ("float8_e4m3fnuz", 1, "f", None, "ml_dtypes.float8_e4m3fnuz", "F8_E4M3FNUZ"),
    ("float8_e5m2fnuz", 1, "f", None, "ml_dtypes.float8_e5m2fnuz", "F8_E5M2FNUZ"),
    ("float8_e8m0fnu", 1, "f", None, "ml_dtypes.float8_e8m0fnu", "F8_E8M0"),
    ("float4_e2m1fn_x2", 1, "p", None, None, "F4"),
    ("qint8", 1, "q", "QInt8Storage", "int8", None),
    ("quint8", 1, "q", "QUInt8Storage", "uint8", None),
    ("qint32", 4, "q", "QInt32Storage", "int32", None),
    ("quint4x2", 1, "q", "QUInt4x2Storage", None, None),
    ("quint2x4", 1, "q", "QUInt2x4Storage", None, None),
    ("bits8", 1, "p", None, None, None),
    ("bits16", 2, "p", None, None, None),
    ("bits1x8", 1, "p", None, None, None),
    ("bits2x4", 1, "p", None, None, None),
    ("bits4x2", 1, "p", None, None, None),
    # PyTorch names these, and a pickle may hold the name as a value, but it cannot save tensors of them.
    *((f"int{bits}", 1, "p", None, None, None) for bits in range(1, 8)),
    *((f"uint{bits}", 1, "p", None, None, None) for bits in range(1, 8)),
)

DTYPES: Final[dict[str, DType]] = {
    name: DType(name, size, kind, storage_class=storage, numpy_name=numpy_name, safetensors_code=code)
    for name, size, kind, storage, numpy_name, code in _ROWS
}

BY_STORAGE_CLASS: Final = {row.storage_class: row for row in DTYPES.values() if row.storage_class}
BY_SAFETENSORS_CODE: Final = {row.safetensors_code: row for row in DTYPES.values() if row.safetensors_code}

# Elements that one unit of a packed type holds, in PyTorch's counting of `numel`.
VALUES_PER_UNIT: Final = {"float4_e2m1fn_x2": 2, "quint4x2": 2, "quint2x4": 4, "bits1x8": 8, "bits2x4": 4, "bits4x2": 2}

UINT8: Final = DTYPES["uint8"]
FLOAT32: Final = DTYPES["float32"]
INT64: Final = DTYPES["int64"]

_ALIASES: Final = {"double": "float64", "float": "float32", "half": "float16", "long": "int64", "int": "int32",
                   "short": "int16", "fp64": "float64", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16",
                   "cfloat": "complex64", "cdouble": "complex128", "chalf": "complex32"}  # fmt: skip

_NUMPY_CACHE: "dict[str, numpy.dtype[Any]]" = {}
_FROM_NUMPY: dict[Any, DType] = {}


def dtype(name: str) -> DType:
    """Return the element type with this PyTorch name.

    Parameters
    ----------
    name : str
        ``"float32"``, ``"torch.float32"`` or a short name such as ``"half"`` or ``"bf16"``.

    Raises
    ------
    KeyError
        If PyTorch has no such type.

    Examples
    --------
    >>> dtype("torch.half")
    weighlock.dtype('float16')
    """
    short = name.removeprefix("torch.")
    return DTYPES[_ALIASES.get(short, short)]


def _numpy_dtype(row: DType) -> Any:
    import numpy

    if row.numpy_name is None:
        return numpy.dtype({1: "u1", 2: "u2"}[row.itemsize])
    module, _, name = row.numpy_name.rpartition(".")
    if not module:
        return numpy.dtype(name)
    import ml_dtypes

    return numpy.dtype(getattr(ml_dtypes, name))


def from_numpy(numpy_dtype: Any) -> DType | None:
    """Return the row for a NumPy type in any byte order, or None where PyTorch has no such type."""
    if not _FROM_NUMPY:
        _FROM_NUMPY.update({row.numpy: row for row in DTYPES.values() if row.numpy_name and row.kind not in "qp"})
    return _FROM_NUMPY.get(numpy_dtype) or _FROM_NUMPY.get(numpy_dtype.newbyteorder("="))
