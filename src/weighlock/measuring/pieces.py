"""The values of tensors in row-major order, a piece at a time, so that no size of tensor takes more memory.

Where the bytes of a tensor lie in the file as they are (contiguous, little-endian, not compressed), pieces are read
straight into one buffer that is used again. Any other strided tensor is read in bands of its first dimensions, and one
whose record is compressed or assembled from several is read as a whole.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from weighlock.dtypes import DTYPES, DType
from weighlock.errors import LimitError, TensorBoundsError
from weighlock.inspection.leaves import strided_parts
from weighlock.inspection.slicing import Index
from weighlock.opening.making import make_part, make_whole
from weighlock.opening.tensors import LazyTensor, LazyTensors
from weighlock.storages.ranges import RangedSource
from weighlock.tensors.layout import is_contiguous, reach
from weighlock.tensors.spec import NumpyArraySpec, TensorSpec

if TYPE_CHECKING:
    import numpy

__all__ = ["Part", "Progress", "Stretch", "in_threads", "looking_into", "parts_of", "pieces", "stretch_of"]

Progress = Callable[[int], object]
"""Called with the number of bytes that were read since the last call, from any thread."""

_T = TypeVar("_T")
_R = TypeVar("_R")

# Small enough to stay in a processor's cache between being read and being used, large enough that calls cost nothing.
_PIECE: Final = 1 << 20
_REMOTE_PIECE: Final = 16 << 20
_BAND: Final = 64 << 20
_MOST_THREADS: Final = 4
_BATCH: Final = 1 << 20
_OVERHEAD: Final = 4 << 10
# A view that repeats the elements of its storage may be of any size: up to this many times are read.
_TIMES_STORAGE: Final = 64
_FREE_BYTES: Final = 1 << 20


class Part(NamedTuple):
    """One strided tensor of a leaf.

    Attributes
    ----------
    name : str
        ``""`` for the values of an ordinary tensor; ``"values"``, ``"indices"``, ``"scale"`` ... of the others.
    dtype : str
        The element type's name.
    shape : tuple of int
    nbytes : int
    source : TensorSpec or numpy.ndarray
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    source: Any


class Stretch(NamedTuple):
    """Where the bytes of a whole tensor lie one after the other, little-endian: a source, an offset, a length."""

    source: Any
    offset: int
    nbytes: int


def parts_of(lazy: LazyTensor) -> list[Part]:
    """Return the strided tensors that a leaf is made of; none for one without data of its own."""
    spec = lazy.spec
    if type(spec) is NumpyArraySpec:
        array = lazy.read()
        return [Part("", str(array.dtype), array.shape, array.nbytes, array)]
    # What is no number here is not taken for the bytes that it is read as.
    own = lazy.dtype_name if lazy.layout == "opaque" else None
    return [
        Part(name, own or part.dtype.name, part.shape, part.nbytes, part)
        for name, part in strided_parts(spec)
        if part.ref.location != "meta"
    ]


@contextmanager
def looking_into(f: Any) -> Iterator[LazyTensors]:
    """Give the tensors of what a caller passed: an open checkpoint as it is, anything else opened and closed again."""
    if isinstance(f, LazyTensors):
        yield f
        return
    from weighlock.opening.opened import open_checkpoint

    with open_checkpoint(f) as ckpt:
        yield ckpt


def in_threads(work: Callable[[_T], _R], items: Iterable[_T], size: Callable[[_T], int]) -> Iterator[_R]:
    """Yield the result for each item, in order, worked on by a few threads at once.

    Parameters
    ----------
    work : callable
    items : iterable
    size : callable
        How many bytes an item is: small ones are handed out many at a time.
    """
    from concurrent.futures import ThreadPoolExecutor  # it brings logging with it

    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(threads)
    try:
        for batch in pool.map(lambda batch: list(map(work, batch)), _batches(items, size)):
            yield from batch
    finally:  # an error or an interrupt ends what has not begun yet
        pool.shutdown(cancel_futures=True)


def _batches(items: Iterable[_T], size: Callable[[_T], int]) -> Iterator[list[_T]]:
    batch: list[_T] = []
    held = 0
    for item in items:
        batch.append(item)
        held += size(item) + _OVERHEAD
        if held >= _BATCH:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def stretch_of(source: Any) -> Stretch | None:
    """Return where the bytes of a tensor lie in one piece, in order and as they are; None where they do not."""
    if type(source) is not TensorSpec or source.conj or source.neg or sys.byteorder != "little":
        return None
    ref = source.ref
    if ref.reader is None or not is_contiguous(source.shape, source.stride):
        return None
    if ref.byteorder == "big" and max(ref.elements.swap, source.dtype.swap) > 1:
        return None
    extent = ref.reader.extent(ref)
    if extent is None:
        return None
    return Stretch(ref.reader.source, extent.offset + source.offset * source.dtype.itemsize, source.nbytes)  # type: ignore[attr-defined]


def pieces(source: Any, *, verify: bool = True, progress: Progress | None = None) -> "Iterator[numpy.ndarray]":
    """Yield the elements of a `Part` in row-major order, as flat arrays of about a megabyte.

    Parameters
    ----------
    source : TensorSpec or numpy.ndarray
    verify : bool
        Check the CRC-32 of storages that have to be read as a whole.
    progress : callable, optional

    Yields
    ------
    numpy.ndarray
        One dimension. Its memory is used again for the next one.

    Raises
    ------
    LimitError
        If the view repeats the elements of its storage out of all proportion.
    CheckpointError
        If bytes are missing or damaged.
    """
    if type(source) is TensorSpec:
        check_effort(source)
        source = of_plain_type(source)
        stretch = stretch_of(source)
        made = _stretched(stretch, source.dtype) if stretch is not None else _banded(source, verify=verify)
    else:
        made = _cut(source)
    for piece in made:
        yield piece
        if progress is not None:
            progress(piece.nbytes)


def check_effort(spec: TensorSpec) -> None:
    """Refuse a view that holds far more elements than its storage; `LimitError`."""
    if not reach(spec.offset, spec.shape, spec.stride):
        return
    if spec.nbytes > max(_TIMES_STORAGE * spec.ref.nbytes, _FREE_BYTES):
        raise LimitError(
            "the tensor repeats the bytes of its storage too often to be read as a whole", got=f"{spec.nbytes} bytes",
            expected=f"at most {_TIMES_STORAGE} times {spec.ref.nbytes}", record=spec.ref.record,
        )  # fmt: skip


def of_plain_type(spec: TensorSpec) -> TensorSpec:
    """Return the same view; of a type that NumPy has none for, as unsigned integers."""
    if spec.dtype.numpy_name is not None:
        return spec
    plain = DTYPES[{1: "uint8", 2: "uint16"}[spec.dtype.itemsize]]
    return TensorSpec(spec.storage, plain, spec.offset, spec.shape, spec.stride)


def piece_size(source: Any) -> int:
    """Return how many bytes to read at once: of a remote file many, since each reading is a journey."""
    return _REMOTE_PIECE if isinstance(source, RangedSource) else _PIECE


def _stretched(stretch: Stretch, dtype: DType) -> "Iterator[numpy.ndarray]":
    import numpy as np

    kind = dtype.numpy
    size = piece_size(stretch.source)
    memory = bytearray(min(size, stretch.nbytes))
    view = memoryview(memory)
    for begin in range(0, stretch.nbytes, size):
        count = min(size, stretch.nbytes - begin)
        stretch.source.read_into(stretch.offset + begin, view[:count])
        yield np.frombuffer(memory, kind, count // kind.itemsize)


def _banded(spec: TensorSpec, *, verify: bool) -> "Iterator[numpy.ndarray]":
    if not reach(spec.offset, spec.shape, spec.stride):
        return
    if spec.ref.reader is None:
        raise TensorBoundsError("the storage has no bytes in the file", record=spec.ref.record or spec.ref.key)
    if whole_only(spec):
        yield from _cut(make_whole([spec], "numpy", verify=verify)[0])
        return
    for band in bands(spec.shape, spec.dtype.itemsize):
        yield from _cut(make_part(spec, band, "numpy", verify=verify))


def whole_only(spec: TensorSpec) -> bool:
    """Whether no part of a tensor can be read alone: of a compressed record, or one turned around in larger units."""
    if spec.ref.byteorder == "big" and spec.ref.elements.swap > spec.dtype.itemsize:
        return True
    return spec.ref.reader is not None and spec.ref.reader.extent(spec.ref) is None


def bands(shape: Sequence[int], itemsize: int) -> Iterator[Index]:
    """Yield slices that cover a shape in row-major order, each of at most 64 MiB where possible.

    Examples
    --------
    >>> list(bands((3, 1 << 26), 1))
    [(slice(0, 1, None),), (slice(1, 2, None),), (slice(2, 3, None),)]
    """
    inner, axis = itemsize, len(shape)
    while axis and inner * shape[axis - 1] <= _BAND:
        axis -= 1
        inner *= shape[axis]
    if not axis:
        yield (Ellipsis,)
        return
    step = max(1, _BAND // inner)
    length = shape[axis - 1]
    for outer in product(*(range(size) for size in shape[: axis - 1])):
        for begin in range(0, length, step):
            yield (*outer, slice(begin, min(begin + step, length)))


def _cut(array: Any) -> "Iterator[numpy.ndarray]":
    import numpy as np

    flat = np.ascontiguousarray(array).reshape(-1)
    step = max(1, _PIECE // max(flat.itemsize, 1))
    for begin in range(0, len(flat), step):
        yield flat[begin : begin + step]
