"""Plain values that a checkpoint may hold beside tensors: `torch.Size`, `torch.device`, layouts and the like.

They equal and print like their originals, need no PyTorch, and are saved back as what they were.
"""

from typing import Any, Final, Self

from weighlock.text import safe_text

__all__ = ["Device", "ReturnType", "Size", "TorchName"]


class Size(tuple[int, ...]):
    """A tensor's shape, as `torch.Size`: a tuple of integers.

    Examples
    --------
    >>> Size((2, 3)).numel()
    6
    """

    __slots__ = ()

    def numel(self) -> int:
        """Return the number of elements of a tensor of this shape."""
        count = 1
        for length in self:
            count *= length
        return count

    def __repr__(self) -> str:
        return f"Size({list(self)})"


class Device:
    """Where a tensor lives, as `torch.device`: a type and an optional index.

    Examples
    --------
    >>> str(Device("cuda", 1))
    'cuda:1'
    """

    __slots__ = ("index", "type")

    def __init__(self, type: str, index: int | None = None) -> None:
        self.type = type
        self.index = index

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        return f"Device({safe_text(str(self))!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and (self.type, self.index) == (other.type, other.index)

    def __hash__(self) -> int:
        return hash((self.type, self.index))


class TorchName:
    """A constant of PyTorch that is nothing but its name: a layout, a quantization scheme, a memory format.

    There is one object per name.
    """

    __slots__ = ("kind", "name")

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.kind = kind

    def __repr__(self) -> str:
        return f"torch.{self.name}"

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return torch_name, (self.name,)


_KINDS: Final = {
    "layout": ("strided", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc", "_mkldnn", "jagged"),
    "qscheme": ("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric",
                "per_channel_affine_float_qparams"),
    "memory_format": ("contiguous_format", "preserve_format", "channels_last", "channels_last_3d"),
}  # fmt: skip

TORCH_NAMES: Final = {name: TorchName(name, kind) for kind, names in _KINDS.items() for name in names}


def torch_name(name: str) -> TorchName:
    """Return the constant ``torch.<name>``; KeyError if there is none."""
    return TORCH_NAMES[name]


class ReturnType(tuple[Any, ...]):  # noqa: SLOT001 - a tuple cannot have slots of its own beside items
    """A named tuple of `torch.return_types`, such as the values and indices of ``torch.max``.

    Attributes
    ----------
    type_name : str
        Its name there, for example ``"max"``. Fields are attributes: ``result.values``.
    """

    type_name: str

    def __new__(cls, type_name: str, items: tuple[Any, ...]) -> Self:
        made = super().__new__(cls, items)
        made.type_name = type_name
        return made

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the items."""
        return RETURN_TYPES.get(self.type_name, ())

    def __getattr__(self, name: str) -> Any:
        fields = RETURN_TYPES.get(self.type_name, ())
        if name in fields[: len(self)]:
            return self[fields.index(name)]
        raise AttributeError(f"torch.return_types.{self.type_name} has no field {name!r}")

    def __getnewargs__(self) -> tuple[str, tuple[Any, ...]]:
        return self.type_name, tuple(self)

    def __repr__(self) -> str:
        return f"torch.return_types.{self.type_name}{tuple(self)!r}"


# Of torch 2.13; a name that is not here is read too, without field names.
RETURN_TYPES: Final[dict[str, tuple[str, ...]]] = {
    "aminmax": ("min", "max"),
    "cummax": ("values", "indices"),
    "cummin": ("values", "indices"),
    "frexp": ("mantissa", "exponent"),
    "geqrf": ("a", "tau"),
    "histogram": ("hist", "bin_edges"),
    "histogramdd": ("hist", "bin_edges"),
    "kthvalue": ("values", "indices"),
    "linalg_cholesky_ex": ("L", "info"),
    "linalg_eig": ("eigenvalues", "eigenvectors"),
    "linalg_eigh": ("eigenvalues", "eigenvectors"),
    "linalg_inv_ex": ("inverse", "info"),
    "linalg_ldl_factor": ("LD", "pivots"),
    "linalg_ldl_factor_ex": ("LD", "pivots", "info"),
    "linalg_lstsq": ("solution", "residuals", "rank", "singular_values"),
    "linalg_lu": ("P", "L", "U"),
    "linalg_lu_factor": ("LU", "pivots"),
    "linalg_lu_factor_ex": ("LU", "pivots", "info"),
    "linalg_qr": ("Q", "R"),
    "linalg_slogdet": ("sign", "logabsdet"),
    "linalg_solve_ex": ("result", "info"),
    "linalg_svd": ("U", "S", "Vh"),
    "lu_unpack": ("P", "L", "U"),
    "max": ("values", "indices"),
    "median": ("values", "indices"),
    "min": ("values", "indices"),
    "mode": ("values", "indices"),
    "nanmedian": ("values", "indices"),
    "qr": ("Q", "R"),
    "slogdet": ("sign", "logabsdet"),
    "sort": ("values", "indices"),
    "svd": ("U", "S", "V"),
    "topk": ("values", "indices"),
    "triangular_solve": ("solution", "cloned_coefficient"),
}
