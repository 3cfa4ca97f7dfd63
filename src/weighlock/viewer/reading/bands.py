"""A plane of a tensor in bands of some megabytes, as numbers that NumPy computes with."""

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from weighlock.errors import LimitError, UnsupportedError
from weighlock.inspection.leaves import describe
from weighlock.measuring.pieces import check_effort, of_plain_type, whole_only
from weighlock.measuring.widening import as_numbers, numbers_in
from weighlock.opening.making import make_part, make_whole
from weighlock.opening.opened import LazyCheckpoint
from weighlock.opening.tensors import LazyTensor
from weighlock.storages.assembled import assembled
from weighlock.storages.ranges import RangedSource
from weighlock.tensors.spec import QuantizedSpec, TensorSpec
from weighlock.viewer.bounds import MOST_WHOLE_BYTES
from weighlock.viewer.looking.cells import index_of
from weighlock.viewer.looking.holding import ViewedFile

if TYPE_CHECKING:
    import numpy

__all__ = ["Band", "Plane", "lazy_of", "opened"]

_BAND: Final = 4 << 20
_REMOTE_BAND: Final = 16 << 20


def opened(file: ViewedFile) -> LazyCheckpoint:
    """Return the file as lazy tensors, over the description that the page was made from."""
    checkpoint, inventory = file.checkpoint, file.inventory
    return file.once("lazy", lambda: LazyCheckpoint(checkpoint, verify=True, inventory=inventory))


def lazy_of(file: ViewedFile, index: int) -> LazyTensor:
    """Return one tensor."""
    file.row(index)
    return opened(file)[file.keys[index]]


class Band(NamedTuple):
    """Some rows and columns of a plane: where they begin, counted in numbers, and the numbers."""

    row: int
    column: int
    numbers: "numpy.ndarray"


class Plane:
    """A part of the last two dimensions of a tensor, the others fixed.

    Parameters
    ----------
    spec : TensorSpec, QuantizedSpec or NumpyArraySpec
        Of a quantized tensor the stored integers are taken.
    at : tuple of int
        One index for each dimension before.
    rows, columns : range

    Attributes
    ----------
    height, width : int
        In numbers: a packed element holds several.

    Raises
    ------
    UnsupportedError
        If its elements are no numbers.
    LimitError
        If it would have to be held as a whole and is too large.
    """

    def __init__(self, spec: Any, at: tuple[int, ...], rows: range, columns: range) -> None:
        shape = describe(spec).shape or ()
        self._spec = spec.tensor if type(spec) is QuantizedSpec else spec
        inner = self._spec
        if type(inner) is TensorSpec:
            self._spec = of_plain_type(inner)
        self._dtype = str(inner.dtype.name if type(inner) is TensorSpec else describe(inner).dtype)
        if not numbers_in(self._dtype) or (type(inner) is TensorSpec and inner.shape != shape):
            raise UnsupportedError(f"the elements of type {describe(spec).dtype} are no numbers that could be drawn")
        self._shape, self._at, self._rows, self._columns = shape, at, rows, columns
        self._whole: Any = self._read_whole() if self._is_whole() else None
        self._packed = 2 if self._dtype == "float4_e2m1fn_x2" else 1
        self.height, self.width = len(rows), len(columns) * self._packed

    def _is_whole(self) -> bool:
        spec = self._spec
        if type(spec) is not TensorSpec:
            return True
        check_effort(spec)
        if not whole_only(spec) or assembled(spec.ref) is not None:
            return False
        if spec.ref.nbytes > MOST_WHOLE_BYTES:
            raise LimitError(
                "the tensor is compressed, and too large to be held as a whole", got=f"{spec.ref.nbytes:,} bytes",
                expected=f"at most {MOST_WHOLE_BYTES:,}", hint="`weighlock convert` writes it uncompressed.",
            )  # fmt: skip
        return True

    def _read_whole(self) -> Any:
        return make_whole([self._spec], "numpy", verify=True)[0]

    def bands(self, itemsize: int = 0) -> Iterator[Band]:
        """Yield the numbers, a band at a time; planes of one size give the same bands for the same `itemsize`."""
        if not (self.height and self.width):
            return
        most = max(1, (_BAND if itemsize else self._band_bytes()) // (itemsize or self.itemsize))
        wide = min(len(self._columns), most)
        tall = max(1, most // wide)
        for row, column in product(
            range(self._rows.start, self._rows.stop, tall), range(self._columns.start, self._columns.stop, wide)
        ):
            rows = range(row, min(row + tall, self._rows.stop))
            columns = range(column, min(column + wide, self._columns.stop))
            array = self._read(rows, columns)
            numbers = as_numbers(_flat(array), self._dtype).reshape(len(rows), len(columns) * self._packed)
            yield Band(row - self._rows.start, (column - self._columns.start) * self._packed, numbers)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return max(1, int(self._whole.itemsize if self._whole is not None else self._spec.dtype.itemsize))

    def _band_bytes(self) -> int:
        reader = getattr(getattr(self._spec, "ref", None), "reader", None)
        return _REMOTE_BAND if isinstance(getattr(reader, "source", None), RangedSource) else _BAND

    def _read(self, rows: range, columns: range) -> Any:
        index = index_of(self._shape, self._at, rows, columns)
        return self._whole[index] if self._whole is not None else make_part(self._spec, index, "numpy", verify=False)


def _flat(array: Any) -> "numpy.ndarray":
    import numpy as np

    found: numpy.ndarray = np.ascontiguousarray(array).reshape(-1)
    return found
