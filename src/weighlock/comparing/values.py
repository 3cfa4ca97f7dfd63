"""Two tensors of one shape compared, streamed: equal bytes as fast as memory is, all else in double precision."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from weighlock.measuring.pieces import Part, Progress, Stretch, piece_size, pieces, stretch_of
from weighlock.measuring.widening import as_numbers, numbers_in

if TYPE_CHECKING:
    import numpy

__all__ = ["Tolerance", "ValueDiff", "compare_parts", "same_bytes"]

_BLOCK: Final = 1 << 15


class Tolerance(NamedTuple):
    """What counts as equal: ``|a - b| <= atol + rtol * |b|``; NaN equals NaN where `equal_nan` is set."""

    rtol: float = 0.0
    atol: float = 0.0
    equal_nan: bool = True


class ValueDiff(NamedTuple):
    """How the values of two tensors differ.

    Attributes
    ----------
    numel : int
        Elements compared.
    differing : int
        Those that are not equal. ``-0.0`` equals ``0.0``; NaN equals NaN with `equal_nan`.
    outside : int
        Those of them that are not within the tolerance either.
    max_abs : float or None
        The largest difference of two finite elements; None where there are none, or they are no numbers.
    rel_l2 : float or None
        The Euclidean norm of all differences of finite elements, divided by that of `a`; None where that is 0.
    cosine : float or None
        Of the angle between both, seen as vectors; None where one is 0.
    nan_a, nan_b, inf_a, inf_b : int
        Elements of each side that are NaN or infinite.
    """

    numel: int = 0
    differing: int = 0
    outside: int = 0
    max_abs: float | None = None
    rel_l2: float | None = None
    cosine: float | None = None
    nan_a: int = 0
    nan_b: int = 0
    inf_a: int = 0
    inf_b: int = 0


def compare_parts(a: Part, b: Part, tolerance: Tolerance, progress: Progress | None = None) -> ValueDiff | None:
    """Compare two tensors of one shape; None where they are the same, byte for byte.

    Raises
    ------
    CheckpointError
        If bytes are missing or damaged.
    """
    start = 0
    if a.dtype == b.dtype:
        one, other = stretch_of(a.source), stretch_of(b.source)
        if one is not None and other is not None:
            start = same_bytes(one, other, progress)
            if start == one.nbytes:
                return None
    seen = Differences(a.dtype, b.dtype, tolerance)
    if seen.add_all(a.source, b.source, progress):
        return None
    return seen.result()


def same_bytes(a: Stretch, b: Stretch, progress: Progress | None = None) -> int:
    """Return how many bytes are the same at the beginning of two stretches, rounded down to whole pieces."""
    size = max(piece_size(a.source), piece_size(b.source))
    memory, other = bytearray(min(size, a.nbytes)), bytearray(min(size, a.nbytes))
    for begin in range(0, a.nbytes, size):
        if a.nbytes - begin < len(memory):
            memory, other = memory[: a.nbytes - begin], other[: a.nbytes - begin]
        a.source.read_into(a.offset + begin, memoryview(memory))
        b.source.read_into(b.offset + begin, memoryview(other))
        if memory != other:
            return begin
        if progress is not None:
            progress(2 * len(memory))
    return a.nbytes


class Differences:
    """What two streams of elements differ in, gathered piece by piece."""

    def __init__(self, dtype_a: str, dtype_b: str, tolerance: Tolerance) -> None:
        self._dtypes = dtype_a, dtype_b
        self._numbers = numbers_in(dtype_a) and numbers_in(dtype_b)
        self._tolerance = tolerance
        self.count = self.differing = self.outside = 0
        self.not_finite = [0, 0, 0, 0]
        self._max: float | None = None
        self._squares = self._squares_a = self._squares_b = self._product = 0.0

    def add_all(self, a: Any, b: Any, progress: Progress | None) -> bool:
        """Take in two whole tensors; return whether their elements were the same, bit for bit."""
        import numpy as np

        same = self._dtypes[0] == self._dtypes[1]
        with np.errstate(all="ignore"):
            for one, other in _in_step(pieces(a, progress=progress), pieces(b, progress=progress)):
                equal = self._dtypes[0] == self._dtypes[1] and one.tobytes() == other.tobytes()
                same = same and equal
                self._add(one, other, equal=equal)
        return same

    def _add(self, one: "numpy.ndarray", other: "numpy.ndarray", *, equal: bool) -> None:
        if not self._numbers:
            self.count += len(one)
            if not equal:
                different = _unlike(one, other)
                self.differing += different
                self.outside += different
            return
        one, other = as_numbers(one, self._dtypes[0]), as_numbers(other, self._dtypes[1])
        self.count += len(one)
        for begin in range(0, len(one), _BLOCK):
            self._add_block(one[begin : begin + _BLOCK], other[begin : begin + _BLOCK])

    def _add_block(self, one: "numpy.ndarray", other: "numpy.ndarray") -> None:
        import numpy as np

        unlike = _not_equal(one, other)
        a, b = _wide(one), _wide(other)
        delta = a - b
        finite = bool(np.isfinite(delta).all())  # where both are, and no infinity takes the other's place
        if not finite:
            a, b, delta, unlike = self._without_others(a, b, delta, unlike)
        sizes = np.abs(delta)
        self._count_unlike(unlike, sizes, b)
        if len(sizes):
            largest = float(sizes.max())
            self._max = largest if self._max is None else max(self._max, largest)
            self._squares += _product(delta, delta)
            self._squares_a += _product(a, a)
            self._squares_b += _product(b, b)
            self._product += _product(a, b)

    def _count_unlike(self, unlike: "numpy.ndarray", sizes: "numpy.ndarray", b: "numpy.ndarray") -> None:
        import numpy as np

        different = int(np.count_nonzero(unlike))
        self.differing += different
        rtol, atol, _ = self._tolerance
        if not different or not (rtol or atol):
            self.outside += different
            return
        self.outside += int(np.count_nonzero(unlike & ~(sizes <= atol + rtol * np.abs(b))))

    def _without_others(self, a: Any, b: Any, delta: Any, unlike: Any) -> tuple[Any, Any, Any, Any]:
        """Count what is not finite on either side, and return the rest."""
        import numpy as np

        nan_a, nan_b, inf_a, inf_b = np.isnan(a), np.isnan(b), np.isinf(a), np.isinf(b)
        for number, found in enumerate((nan_a, nan_b, inf_a & ~nan_a, inf_b & ~nan_b)):
            self.not_finite[number] += int(np.count_nonzero(found))
        usual = ~(nan_a | nan_b | inf_a | inf_b)
        if self._tolerance.equal_nan:
            unlike = unlike & ~(nan_a & nan_b)
        strange = int(np.count_nonzero(unlike & ~usual))
        self.differing += strange
        self.outside += strange
        # The difference of two finite numbers may still be too large for a number: it stays infinite.
        return a[usual], b[usual], delta[usual], unlike[usual]

    def result(self) -> ValueDiff:
        """Return the figures."""
        norms = math.sqrt(self._squares_a) * math.sqrt(self._squares_b)
        relative = math.sqrt(self._squares / self._squares_a) if self._squares_a else None
        cosine = max(-1.0, min(1.0, self._product / norms)) if norms and math.isfinite(norms) else None
        if not self._numbers:
            relative = cosine = None
        return ValueDiff(self.count, self.differing, self.outside, self._max, relative, cosine, *self.not_finite)


def _in_step(
    one: "Iterator[numpy.ndarray]", other: "Iterator[numpy.ndarray]"
) -> "Iterator[tuple[numpy.ndarray, numpy.ndarray]]":
    """Yield pieces of equal length from two streams that are cut differently."""
    a, b = next(one, None), next(other, None)
    while a is not None and b is not None:
        count = min(a.size, b.size)
        yield a[:count], b[:count]
        a = a[count:] if a.size > count else next(one, None)
        b = b[count:] if b.size > count else next(other, None)


def _unlike(one: "numpy.ndarray", other: "numpy.ndarray") -> int:
    """Return how many elements of no numeric type differ."""
    import numpy as np

    if one.dtype != other.dtype:
        return len(one)
    return int(np.count_nonzero(one != other))


def _wide(numbers: "numpy.ndarray") -> "numpy.ndarray":
    return numbers.astype("c16" if numbers.dtype.kind == "c" else "f8")


def _product(a: "numpy.ndarray", b: "numpy.ndarray") -> float:
    # Not by a dot product: BLAS would put threads of its own on each block, which wait for each other.
    if a.dtype.kind == "c" or b.dtype.kind == "c":
        return float((a * b.conj()).real.sum())
    return float((a * b).sum())


def _not_equal(one: "numpy.ndarray", other: "numpy.ndarray") -> "numpy.ndarray":
    """Compare numbers of any two types exactly: an integer and a float are equal only if they are the same number."""
    kinds = one.dtype.kind, other.dtype.kind
    unlike: numpy.ndarray = one != other
    if kinds[0] in "iu" and kinds[1] in "fc" and one.itemsize == 8:
        unlike = unlike | _inexact(one)
    elif kinds[1] in "iu" and kinds[0] in "fc" and other.itemsize == 8:
        unlike = unlike | _inexact(other)
    return unlike


def _inexact(integers: "numpy.ndarray") -> "numpy.ndarray":
    """Return which integers no double-precision number stands for."""
    import numpy as np

    wide = integers.astype("f8")
    # 2**63 and 2**64 themselves are no such integers, and casting them back is undefined.
    within = wide < float(1 << (64 if integers.dtype.kind == "u" else 63))
    back = np.where(within, wide, 0.0).astype(integers.dtype)
    found: numpy.ndarray = ~(within & (back == integers))
    return found
