"""Heat maps: a plane of any size as some hundred blocks, each with its least, mean and greatest number."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from weighlock.errors import UnsupportedError
from weighlock.inspection.leaves import describe
from weighlock.viewer.bounds import MOST_PIXELS
from weighlock.viewer.jobs import Job
from weighlock.viewer.looking.describing import chosen_spec, plane
from weighlock.viewer.looking.holding import ViewedFile
from weighlock.viewer.queries import Query
from weighlock.viewer.reading.bands import Band, Plane

if TYPE_CHECKING:
    import numpy

__all__ = ["Heat", "draw", "draw_difference"]


class Heat(NamedTuple):
    """A heat map.

    Attributes
    ----------
    body : bytes
        Little-endian float32: three planes, the least, the mean and the greatest number of each block. NaN where a
        block holds nothing but NaN. Of complex numbers the magnitudes are drawn.
    rows, columns : int
        Of blocks.
    of_rows, of_columns : int
        Of numbers.
    """

    body: bytes
    rows: int
    columns: int
    of_rows: int
    of_columns: int


def _plane(file: ViewedFile, index: int, query: Query) -> Plane:
    spec = chosen_spec(file, index, query.text("part"))
    shape = describe(spec).shape or ()
    at = query.indices()
    lengths = plane(shape, at)
    return Plane(spec, at, query.stretch("rows", lengths[0]), query.stretch("cols", lengths[1]))


def _size(query: Query, height: int, width: int) -> tuple[int, int]:
    wanted = [query.number(name, most, least=1, most=MOST_PIXELS) for name, most in (("height", 384), ("width", 512))]
    return min(wanted[0], height), min(wanted[1], width)


def draw(file: ViewedFile, index: int, query: Query, job: Job) -> Heat:
    """Return the heat map of a tensor, or of a part of it."""
    shown = _plane(file, index, query)
    blocks = _Blocks(*_size(query, shown.height, shown.width), shown.height, shown.width)
    for band in shown.bands():
        job.check()
        blocks.add(band)
    return blocks.result()


def draw_difference(sides: tuple[tuple[ViewedFile, int], tuple[ViewedFile, int]], query: Query, job: Job) -> Heat:
    """Return the heat map of what the second tensor is more than the first.

    Raises
    ------
    UnsupportedError
        If their shapes differ.
    """
    one, other = (_plane(file, index, query) for file, index in sides)
    if (one.height, one.width) != (other.height, other.width):
        raise UnsupportedError(
            "tensors of different shapes have no difference that could be drawn",
            expected=f"{one.height} x {one.width}", got=f"{other.height} x {other.width}",
        )  # fmt: skip
    blocks = _Blocks(*_size(query, one.height, one.width), one.height, one.width)
    for band in _differences(one, other):
        job.check()
        blocks.add(band)
    return blocks.result()


def _differences(one: Plane, other: Plane) -> Iterator[Band]:
    """Yield bands of the difference; element sizes may differ, so that both are cut to the smaller band."""
    import numpy as np

    size = max(one.itemsize, other.itemsize)
    with np.errstate(all="ignore"):
        for a, b in zip(one.bands(size), other.bands(size), strict=True):
            yield Band(a.row, a.column, _wide(b.numbers) - _wide(a.numbers))


def _wide(numbers: "numpy.ndarray") -> "numpy.ndarray":
    return numbers.astype("c16" if numbers.dtype.kind == "c" else "f8")


class _Blocks:
    """The figures of each block, gathered band by band."""

    def __init__(self, rows: int, columns: int, of_rows: int, of_columns: int) -> None:
        import numpy as np

        self._of = of_rows, of_columns
        self._edges = [
            np.arange(count, dtype="i8") * of // max(count, 1) for count, of in ((rows, of_rows), (columns, of_columns))
        ]
        self._low = np.full((rows, columns), np.inf)
        self._high = np.full((rows, columns), -np.inf)
        self._sums = np.zeros((rows, columns))
        self._counts = np.zeros((rows, columns))

    def _cuts(self, axis: int, begin: int, length: int) -> tuple[int, "numpy.ndarray"]:
        """Return the first block that a stretch touches, and where in the stretch the blocks begin."""
        import numpy as np

        edges = self._edges[axis]
        first = int(np.searchsorted(edges, begin, "right")) - 1
        end = int(np.searchsorted(edges, begin + length, "left"))
        return first, np.maximum(edges[first:end] - begin, 0)

    def add(self, band: Band) -> None:
        """Take in some rows and columns."""
        import numpy as np

        numbers = band.numbers
        if numbers.dtype.kind == "c":
            numbers = np.abs(numbers)
        elif numbers.dtype.kind != "f":
            numbers = numbers.astype("f8")
        first_row, rows = self._cuts(0, band.row, numbers.shape[0])
        first_column, columns = self._cuts(1, band.column, numbers.shape[1])
        part = slice(first_row, first_row + len(rows)), slice(first_column, first_column + len(columns))

        def reduced(ufunc: Any, values: Any, *, wide: bool = False) -> Any:
            inner = ufunc.reduceat(values, columns, axis=1, **({"dtype": "f8"} if wide else {}))
            return ufunc.reduceat(inner, rows, axis=0)

        with np.errstate(all="ignore"):
            self._low[part] = np.fmin(self._low[part], reduced(np.fmin, numbers))
            self._high[part] = np.fmax(self._high[part], reduced(np.fmax, numbers))
            gone = np.isnan(numbers)
            if gone.any():
                self._sums[part] += reduced(np.add, np.where(gone, 0, numbers), wide=True)
                self._counts[part] += reduced(np.add, ~gone, wide=True)
            else:
                self._sums[part] += reduced(np.add, numbers, wide=True)
                lengths = [np.diff(cuts, append=of) for cuts, of in zip((rows, columns), numbers.shape, strict=True)]
                self._counts[part] += np.outer(*lengths)

    def result(self) -> Heat:
        """Return the map."""
        import numpy as np

        with np.errstate(all="ignore"):
            empty = self._counts == 0
            mean = self._sums / self._counts
            planes = [np.where(empty, np.nan, values) for values in (self._low, mean, self._high)]
            body = np.stack(planes).astype("<f4").tobytes()
        rows, columns = self._low.shape
        return Heat(body, rows, columns, *self._of)
