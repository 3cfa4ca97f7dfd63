"""Mean, deviation, extremes and counts of a stream of numbers, gathered piece by piece in double precision.

Means and sums of squared deviations of pieces are put together by the rule of Chan, Golub and LeVeque ("Updating
formulae and a pairwise algorithm for computing sample variances", 1979), which loses no digits where the mean is far
from zero.
"""

import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy

__all__ = ["Moments"]

# What is computed at once, so that every pass over it finds it in the processor's cache.
_BLOCK: Final = 1 << 16


class Moments:
    """Figures of the numbers seen so far.

    Attributes
    ----------
    count : int
        How many there were; `nan`, `posinf` and `neginf` of them are not finite, `zeros` are zero.
    low, high : number or None
        The extremes of the finite ones; of complex numbers, of their magnitudes. Integers stay exact.
    mean : float or complex
        Of the finite ones.
    squares : float
        The sum of squared distances from the mean.

    Examples
    --------
    >>> import numpy
    >>> seen = Moments()
    >>> seen.add(numpy.array([1.0, 3.0, numpy.nan]))
    >>> seen.count, seen.nan, seen.mean, seen.deviation
    (3, 1, 2.0, 1.0)
    """

    def __init__(self) -> None:
        self.count = self.zeros = self.nan = self.posinf = self.neginf = 0
        self.low: Any = None
        self.high: Any = None
        self.mean: float | complex = 0.0
        self.squares = 0.0
        self._finite = 0
        self._wide: Any = None
        self._squared: Any = None

    @property
    def finite(self) -> int:
        """How many of the numbers are finite."""
        return self._finite

    @property
    def deviation(self) -> float | None:
        """The standard deviation of the finite numbers (the population's); None where there are none."""
        return math.sqrt(self.squares / self._finite) if self._finite else None

    def add(self, numbers: "numpy.ndarray") -> None:
        """Take in some more numbers: one dimension, of a type that NumPy computes with."""
        import numpy as np

        with np.errstate(all="ignore"):
            for begin in range(0, len(numbers), _BLOCK):
                self._add_block(numbers[begin : begin + _BLOCK])

    def _add_block(self, block: "numpy.ndarray") -> None:
        import numpy as np

        self.count += len(block)
        self.zeros += len(block) - int(np.count_nonzero(block != 0))
        if block.dtype.kind == "c":
            wide = block.astype("c16")
            self._add_finite(wide, np.abs(block), *_extremes(np.abs(block)))
            return
        if self._wide is None:
            size = min(len(block), _BLOCK)
            self._wide, self._squared = np.empty(size), np.empty(size)
        wide = self._wide[: len(block)] if len(block) <= len(self._wide) else np.empty(len(block))
        np.copyto(wide, block, casting="unsafe")
        self._add_finite(wide, block, *_extremes(block))

    def _add_finite(self, wide: "numpy.ndarray", sizes: "numpy.ndarray", low: Any, high: Any) -> None:
        import numpy as np

        if sizes.dtype.kind == "f" and not (math.isfinite(low) and math.isfinite(high)):
            usual = np.isfinite(wide)
            self._count_others(wide)
            wide, sizes = wide[usual], sizes[usual]
            if not len(wide):
                return
            low, high = _extremes(sizes)
        self.low = low if self.low is None or low < self.low else self.low
        self.high = high if self.high is None or high > self.high else self.high
        self._merge(wide)

    def _count_others(self, wide: "numpy.ndarray") -> None:
        import numpy as np

        gone = np.isnan(wide)
        self.nan += int(np.count_nonzero(gone))
        if wide.dtype.kind == "c":  # of an infinite complex number the sign says little
            self.posinf += int(np.count_nonzero(np.isinf(wide) & ~gone))
            return
        self.posinf += int(np.count_nonzero(wide == np.inf))
        self.neginf += int(np.count_nonzero(wide == -np.inf))

    def _merge(self, wide: "numpy.ndarray") -> None:

        more = len(wide)
        mean = wide.mean().item()
        wide -= mean  # a copy of our own
        squares = self._sum_of_squares(wide)
        total = self._finite + more
        step = mean - self.mean
        distance = math.hypot(step.real, step.imag)  # unlike abs and **, it gives an infinity where others raise
        self.squares += squares + distance * distance * self._finite * more / total
        self.mean += step * more / total
        self._finite = total

    def _sum_of_squares(self, wide: "numpy.ndarray") -> float:
        # Not by a dot product: BLAS would put threads of its own on each block, which wait for each other.
        import numpy as np

        if wide.dtype.kind == "c":
            wide = wide.view("f8")
        room = self._squared is not None and len(wide) <= len(self._squared)
        return float(np.multiply(wide, wide, out=self._squared[: len(wide)] if room else None).sum())


def _extremes(block: "numpy.ndarray") -> tuple[Any, Any]:
    return block.min().item(), block.max().item()
