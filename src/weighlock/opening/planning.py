"""Which bytes of a file the wanted tensors take, and reading them in one plan.

Whole tensors take their storage from their first byte to their last; those that overlap are read once, into memory
that they share as they did before. Where that is the whole storage, its CRC-32 is checked. A slice takes the stretch of
its rows, or, where they lie far apart, each of them; what lies between two of them closer than a few kilobytes is read
along and dropped, since that costs less than another call.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from weighlock.errors import LimitError, UnsupportedError
from weighlock.inspection.gathering import Block, batches
from weighlock.inspection.slicing import View
from weighlock.storages.assembled import assembled
from weighlock.storages.plan import read_extents
from weighlock.storages.ranges import worth_reading_along
from weighlock.storages.refs import Extent, StorageRef, Window
from weighlock.tensors.layout import reach
from weighlock.tensors.spec import TensorSpec

__all__ = ["Gather", "Plan", "gathered", "span_of"]

# Piece boundaries are multiples of the largest element, so that every view of a piece begins at a whole element.
_ALIGN: Final = 16
# A slice of a view that overlaps itself may hold more elements than its storage has bytes: up to this many times.
_TIMES_STORAGE: Final = 64
_FREE_BYTES: Final = 1 << 20


class Part:
    """A stretch of a storage, in bytes, that is read as a storage of its own. Views in it begin at `first` or later."""

    __slots__ = ("first", "high", "low", "ref")

    def __init__(self, low: int, high: int) -> None:
        self.first = self.low = low
        self.high = high
        self.ref: StorageRef | None = None


class Gather(NamedTuple):
    """A slice whose elements are copied together: a view with steps, in elements of `size` bytes."""

    ref: StorageRef
    view: View
    size: int


class Plan:
    """The parts of storages that are wanted; the `RecordReader` of them all.

    Parameters
    ----------
    verify : bool
        Check the CRC-32 of storages that are read as a whole.
    """

    ready: Final = True

    def __init__(self, *, verify: bool) -> None:
        self._verify = verify
        self._refs: dict[int, StorageRef] = {}
        self._parts: dict[int, list[Part]] = {}
        self._firsts: dict[int, list[int]] = {}

    def want(self, spec: TensorSpec) -> None:
        """Note a whole tensor."""
        self._refs.setdefault(id(spec.ref), spec.ref)
        low, high = span_of(spec)
        self._parts.setdefault(id(spec.ref), []).append(Part(low, high))

    def settle(self) -> None:
        """Join what overlaps: nothing more is wanted."""
        for identity, parts in self._parts.items():
            ref = self._refs[identity]
            joined: list[Part] = []
            for part in sorted(parts, key=lambda part: part.low):
                if joined and part.low < joined[-1].high:
                    joined[-1].high = max(joined[-1].high, part.high)
                else:
                    joined.append(part)
            for part in joined:
                part.low -= part.low % _ALIGN
                part.high = min(-(-part.high // _ALIGN) * _ALIGN, ref.nbytes)
                part.ref = self._piece(ref, part.high - part.low, part)
            self._parts[identity] = joined
            self._firsts[identity] = [part.first for part in joined]

    def _piece(self, ref: StorageRef, nbytes: int, handle: Any) -> StorageRef:
        """Return a storage of `nbytes` bytes that is a part of another, or copied together from it."""
        # On the CPU, wherever it was saved: who reads one tensor of a file need not have the file's devices.
        location = "meta" if ref.location == "meta" else "cpu"
        without = ref.reader is None or location == "meta"
        made = StorageRef(
            ref.key, ref.dtype, 0, location, None if without else self, ref.record, (ref, handle), ref.byteorder,
            ref.untyped,
        )  # fmt: skip
        made.elements = ref.elements
        made.nbytes = nbytes
        made.numel = nbytes // ref.dtype.itemsize
        return made

    def place(self, spec: TensorSpec) -> tuple[StorageRef, int]:
        """Return the piece that holds a wanted tensor, and its offset in it, in elements."""
        low, high = span_of(spec)
        part = self._parts[id(spec.ref)][bisect_right(self._firsts[id(spec.ref)], low) - 1]
        assert part.ref is not None  # noqa: S101 - set by `settle`
        # Of an empty tensor no byte is read, wherever it lies.
        return part.ref, spec.offset - part.low // spec.dtype.itemsize if high else 0

    def gather(self, wanted: Gather) -> StorageRef:
        """Return a storage that will hold the elements of a slice, in row-major order."""
        count = wanted.size
        for length in wanted.view.shape:
            count *= length
        if count > max(_TIMES_STORAGE * wanted.ref.nbytes, _FREE_BYTES):
            raise LimitError(
                "the slice holds far more elements than its storage has bytes", got=f"{count} bytes",
                expected=f"at most {_TIMES_STORAGE} times {wanted.ref.nbytes}", record=wanted.ref.record,
            )  # fmt: skip
        return self._piece(wanted.ref, count, wanted)

    # The reader of all pieces

    def extent(self, ref: StorageRef) -> Extent | None:
        """Return None: a piece is asked for by `read` only."""
        return None

    def window_of(self, ref: StorageRef) -> tuple[Window, int] | None:
        """Return None: of a window other tensors' bytes would be read too."""
        return None

    def read_windows(self, windows: Sequence[Window], *, verify: bool) -> None:
        """Nothing to do: there are none."""

    def read(self, wanted: Sequence[tuple[StorageRef, memoryview]], *, verify: bool) -> None:
        """Fill each piece: whole storages by their own reader, the others from where they lie."""
        whole: dict[Any, list[tuple[StorageRef, memoryview]]] = {}
        parts: dict[Any, list[tuple[StorageRef, Any, memoryview]]] = {}
        for piece, target in wanted:
            ref, handle = piece.handle
            if not len(target):
                continue
            if type(handle) is Part and handle.high - handle.low == ref.nbytes:
                whole.setdefault(ref.reader, []).append((ref, target))
            else:
                parts.setdefault(ref.reader, []).append((ref, handle, target))
        for reader, group in whole.items():
            reader.read(group, verify=self._verify)
        for reader, every in parts.items():
            self._read_parts(reader, every)

    def _read_parts(self, reader: Any, every: list[tuple[StorageRef, Any, memoryview]]) -> None:
        refs = list({id(ref): ref for ref, _, _ in every}.values())
        extents = dict(zip(map(id, refs), _extents(reader, refs), strict=True))
        stretches: list[tuple[int, memoryview]] = []
        for ref, handle, target in every:
            extent = extents[id(ref)]
            if extent is None:
                _cut_from_whole(ref, handle, target, verify=self._verify)
            elif type(handle) is Part:
                stretches.append((extent.offset + handle.low, target))
            else:
                _fill_gather(reader.source, extent.offset, handle, target)
        if stretches:
            read_extents(reader.source, stretches)


def _extents(reader: Any, refs: Sequence[StorageRef]) -> list[Extent | None]:
    """Return where storages lie: all asked for at once, where their reader can fetch what that takes together."""
    at_once = getattr(reader, "extents", None)
    return list(at_once(refs)) if at_once is not None else [reader.extent(ref) for ref in refs]


def span_of(spec: TensorSpec) -> tuple[int, int]:
    """Return the first byte of a tensor in its storage, and the one behind its last; equal for an empty one."""
    size = spec.dtype.itemsize
    end = reach(spec.offset, spec.shape, spec.stride)
    return (spec.offset * size, end * size) if end else (0, 0)


def gathered(ref: StorageRef, view: View, size: int) -> Gather | None:
    """Return how a slice is copied together; None where a smaller view takes its whole stretch of bytes anyway.

    Raises
    ------
    UnsupportedError
        If its bytes would have to be turned around in units that are larger than an element.
    """
    count, spread = size, size
    for length, step in zip(view.shape, view.stride, strict=True):
        count *= length
        spread += max(length - 1, 0) * abs(step) * size
    if not count or (spread <= count and all(step >= 0 for step in view.stride)):
        return None
    if ref.byteorder == "big" and ref.elements.swap > size:
        raise UnsupportedError("this slice of a big-endian storage cannot be read alone", record=ref.record)
    return Gather(ref, view, size)


# ------------------------------------------------------------------------------------------ elements far apart


_UNITS: Final = {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "c16"}


def _fill_gather(source: Any, base: int, wanted: Gather, target: memoryview) -> None:
    """Read a slice block by block, a bounded number of bytes at a time, and copy its elements together."""
    for batch in batches(wanted.view, wanted.size, worth_reading_along(source)):
        _fill_blocks(source, base, wanted, batch, target)


def _fill_blocks(source: Any, base: int, wanted: Gather, chosen: Sequence[Block], target: memoryview) -> None:
    import numpy as np

    memory = memoryview(bytearray(sum(block.nbytes for block in chosen)))
    places, used = [], 0
    for block in chosen:
        places.append(memory[used : used + block.nbytes])
        used += block.nbytes
    read_extents(source, [(base + block.low, place) for block, place in zip(chosen, places, strict=True)])
    unit = np.dtype(_UNITS[wanted.size])
    result = np.frombuffer(target, unit).reshape(wanted.view.shape)
    strides = [step * wanted.size for step in wanted.view.stride]
    for block, place in zip(chosen, places, strict=True):
        part = tuple(slice(at, at + length) for at, length in zip(block.start, block.shape, strict=True))
        result[part] = np.ndarray(block.shape, unit, place, block.offset, strides)


def _cut_from_whole(ref: StorageRef, handle: Part | Gather, target: memoryview, *, verify: bool) -> None:
    """Read a storage that cannot be read in part (its record is compressed) as a whole, and take what is wanted.

    Of one that lies in pieces, those that are touched.
    """
    from weighlock.storages.source import BytesSource

    pieces = assembled(ref)
    if pieces is not None:
        if isinstance(handle, Part):
            pieces.read_into(handle.low, target)
        else:
            _fill_gather(pieces, 0, handle, target)
        return
    assert ref.reader is not None  # noqa: S101 - pieces of storages without a reader have none either
    whole = bytearray(ref.nbytes)
    ref.reader.read([(ref, memoryview(whole))], verify=verify)
    if isinstance(handle, Part):
        target[:] = memoryview(whole)[handle.low : handle.high]
    else:
        _fill_gather(BytesSource(whole), 0, handle, target)
