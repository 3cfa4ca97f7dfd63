"""`weighlock.stats`: the figures of every tensor of a checkpoint, streamed."""

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from weighlock.errors import ArgumentError, WeighlockError
from weighlock.measuring.moments import Moments
from weighlock.measuring.pieces import Part, Progress, in_threads, looking_into, parts_of, pieces
from weighlock.measuring.widening import as_numbers, numbers_in
from weighlock.opening.tensors import LazyTensor

if TYPE_CHECKING:
    import numpy

__all__ = ["Histogram", "TensorStats", "measure", "stats"]

_MOST_BINS: Final = 10_000
# What is counted at once, so that every pass over it finds it in the processor's cache.
_BLOCK: Final = 1 << 15
# How near to an edge rounding can matter, in bins: scaling rounds by less than a hundredth of the first, and the edges
# themselves by some units in the last place of the extremes.
_NEAR: Final = 1e-9
_UNITS: Final = 8 * 2.0**-52


class Histogram(NamedTuple):
    """Counts of finite values in bins of equal width; the last bin holds its upper edge.

    Attributes
    ----------
    low, high : float
        The outer edges.
    counts : tuple of int
    """

    low: float
    high: float
    counts: tuple[int, ...]

    def edges(self) -> list[tuple[float, float]]:
        """Return the lower and the upper edge of each bin."""
        return list(pairwise(_edges(self.low, self.high, len(self.counts))))


def _edges(low: float, high: float, bins: int) -> list[float]:
    half = high / 2 - low / 2  # the difference of two finite numbers need not be one
    return [*(2 * (low / 2 + half / bins * at) for at in range(bins)), high]


class TensorStats(NamedTuple):
    """The figures of one tensor.

    Attributes
    ----------
    key : str
    path : tuple
    dtype : str or None
    shape : tuple of int
    layout : str
        Of a sparse tensor the stored values are measured, of a quantized one the stored integers.
    numel : int
        Numbers measured; 0 where there are none: without data, or without meaning as numbers.
    zeros, nan, posinf, neginf : int
    min, max : int, float or None
        Of the finite numbers, and so are the others; of complex ones the magnitudes. None where there are none.
    mean : float, complex or None
    std : float or None
        Of the population.
    histogram : Histogram or None
    error : WeighlockError or None
        Why it could not be measured.
    """

    key: str
    path: tuple[Any, ...]
    dtype: str | None
    shape: tuple[int, ...]
    layout: str
    numel: int = 0
    zeros: int = 0
    nan: int = 0
    posinf: int = 0
    neginf: int = 0
    min: Any = None
    max: Any = None
    mean: Any = None
    std: float | None = None
    histogram: Histogram | None = None
    error: WeighlockError | None = None

    @property
    def finite(self) -> bool:
        """Whether it holds neither NaN nor infinities."""
        return not (self.nan or self.posinf or self.neginf)


def stats(
    f: Any, *, include: str | Iterable[str] = (), exclude: str | Iterable[str] = (), bins: int = 0,
    progress: Progress | None = None,
) -> list[TensorStats]:  # fmt: skip
    """Measure every tensor of a checkpoint: extremes, mean, deviation, zeros, NaN, infinities, histogram.

    Tensors are read in pieces of a megabyte; the figures are gathered in double precision.

    Parameters
    ----------
    f : LazyCheckpoint, LazyTensors, path, address, bytes or file object
    include, exclude : str or iterable of str
        Globs over keys.
    bins : int
        How many bins a histogram has; 0 for none. It takes a second reading.
    progress : callable, optional
        Called with the number of bytes read since the last call, from several threads.

    Returns
    -------
    list of TensorStats
        In the file's order. A tensor that could not be read has its `error`.

    Raises
    ------
    ArgumentError
        If there are less than 0 or more than 10,000 bins.
    CheckpointError
        If `f` is no checkpoint.

    Examples
    --------
    >>> import io, numpy, weighlock
    >>> file = io.BytesIO()
    >>> weighlock.save({"w": numpy.array([0.0, 1.0, 5.0, numpy.inf])}, file)
    >>> _ = file.seek(0)
    >>> row = weighlock.stats(file, bins=2)[0]
    >>> row.min, row.max, row.mean, row.zeros, row.posinf, row.histogram.counts
    (0.0, 5.0, 2.0, 1, 1, (2, 1))
    """
    if not 0 <= bins <= _MOST_BINS:
        raise ArgumentError("a histogram has at least one bin", expected=f"at most {_MOST_BINS}", got=str(bins))
    with looking_into(f) as ckpt:
        chosen = ckpt.select(include, exclude) if include or exclude else ckpt
        rows = in_threads(lambda lazy: measure(lazy, bins, progress), chosen.values(), lambda lazy: lazy.nbytes)
        return list(rows)


def measure(lazy: LazyTensor, bins: int = 0, progress: Progress | None = None, part: str = "") -> TensorStats:
    """Return the figures of one tensor, or of one of its parts by name; see `stats`."""
    dtype = lazy.dtype_name
    row = TensorStats(lazy.key, lazy.path, dtype, lazy.shape, lazy.layout)
    try:
        parts = [one for one in parts_of(lazy) if part in ("", one.name)]
        if not parts:
            return row
        values = parts[0]  # of a whole tensor the first part is the one with the values
        row = row._replace(dtype=values.dtype if part else dtype or values.dtype)
        return _of_values(row, values, bins, progress) if numbers_in(values.dtype) else row
    except WeighlockError as error:
        error.locate(object_path=lazy.key)
        return row._replace(error=error)


def _of_values(row: TensorStats, part: Part, bins: int, progress: Progress | None) -> TensorStats:
    seen = Moments()
    for piece in pieces(part.source, progress=progress):
        seen.add(as_numbers(piece, part.dtype))
    any_finite = seen.finite > 0
    found = row._replace(
        numel=seen.count, zeros=seen.zeros, nan=seen.nan, posinf=seen.posinf, neginf=seen.neginf, min=seen.low,
        max=seen.high, mean=seen.mean if any_finite else None, std=seen.deviation,
    )  # fmt: skip
    if not bins or not any_finite:
        return found
    return found._replace(histogram=_histogram(part, float(seen.low), float(seen.high), bins, progress))


def _histogram(part: Part, low: float, high: float, bins: int, progress: Progress | None) -> Histogram:
    import numpy as np

    counts = np.zeros(bins, "i8")
    width = high / 2 - low / 2
    edges = np.array(_edges(low, high, bins))
    for piece in pieces(part.source, progress=progress):
        numbers = as_numbers(piece, part.dtype)
        for begin in range(0, len(numbers), _BLOCK):
            block = numbers[begin : begin + _BLOCK]
            wide = (np.abs(block) if block.dtype.kind == "c" else block).astype("f8")
            finite = np.isfinite(wide)
            wide = wide if finite.all() else wide[finite]
            if width:
                counts += np.bincount(_bins_of(wide, edges, width), minlength=bins)
            else:
                counts[0] += len(wide)
    return Histogram(low, high, tuple(counts.tolist()))


def _bins_of(wide: "numpy.ndarray", edges: "numpy.ndarray", width: float) -> "numpy.ndarray":
    """Return the bin of each number, as the edges say: what rounding moved by one is moved back."""
    import numpy as np

    bins = len(edges) - 1
    scaled = wide / 2
    scaled -= edges[0] / 2
    scaled *= bins / width
    found: numpy.ndarray = scaled.astype("i8")
    np.minimum(found, bins - 1, out=found)
    scaled -= np.rint(scaled)
    np.abs(scaled, out=scaled)
    largest = max(abs(edges[0]), abs(edges[-1])) / 2
    near = np.flatnonzero(scaled < _NEAR + _UNITS * largest / (width / bins))
    if near.size:
        numbers, chosen = wide[near], found[near]
        chosen -= numbers < edges[chosen]
        chosen += (numbers >= edges[chosen + 1]) & (chosen < bins - 1)
        found[near] = chosen
    return found
