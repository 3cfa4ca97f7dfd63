"""Small records read where they stay: a stretch of the file is read once, and the arrays are views of it.

A record's data begin where its local header says, which is known only when the header has been read; but where they
*end* is known from the directory alone: before the next record, less the data descriptor. So places are given out
before anything is read, and checked afterwards. In an archive that some other program wrote, where a place turns out
to be wrong, the data are moved to it: it lies inside of the record's own span.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise, repeat
from operator import add, attrgetter, itemgetter, le, sub
from typing import Any, Final

from weighlock.formats.zip_directory import ENCRYPTED, ZipRecord, check_crc, parse_local_header
from weighlock.formats.zip_remains import LOCAL, LOCAL_MARK, LOCAL_SIZE
from weighlock.storages.checksum import crc32
from weighlock.storages.plan import Task, run_in_order, thread_count
from weighlock.storages.refs import Window
from weighlock.storages.source import ByteSource

__all__ = ["WindowPlan", "read_windows", "scatter_windows"]

_WINDOW: Final = 1 << 20
_SMALL: Final = 64 << 10
_HAS_DESCRIPTOR: Final = 0x8
_ALL_ONES: Final = 0xFFFFFFFF

_HEADER: Final = attrgetter("header_offset")
_SIZE: Final = attrgetter("size")
_CRC: Final = attrgetter("crc")
_FIELDS_OF: Final = itemgetter(slice(LOCAL_SIZE))
_NAME_OF: Final = itemgetter(slice(LOCAL_SIZE, None))
_RAW_NAME: Final = attrgetter("raw_name")


class WindowPlan:
    """Which window each small stored record of an archive belongs to.

    Windows hold neighbouring records and nothing else, and are at most 1 MiB: what one small tensor keeps alive.

    Attributes
    ----------
    owners : dict of int to Window
        By the offset of a record's header; records that are large, compressed or empty are not in it.
    places : dict of int to int
        Likewise: where in its window a record's data will lie.
    """

    __slots__ = ("owners", "places")

    def __init__(self, reader: Any, records: Sequence[ZipRecord]) -> None:
        self.owners: dict[int, Window] = {}
        self.places: dict[int, int] = {}
        if not records:
            return
        ordered = sorted(records, key=_HEADER)
        _, _, begins, sizes, _, _, methods, flags, ends = zip(*ordered, strict=True)
        places = _data_places(begins, sizes, flags, ends)
        others = [
            index for index, (begin, end, size, method) in enumerate(zip(begins, ends, sizes, methods, strict=True))
            if size > _SMALL or method or end - begin > 2 * _SMALL or not size
        ]  # fmt: skip
        # Between two others, records follow each other without a gap: each ends where the next begins.
        for before, after in pairwise([-1, *others, len(ordered)]):
            first = before + 1
            while first < after:
                begin = begins[first]
                stop = max(bisect_right(ends, begin + _WINDOW, first, after), first + 1)
                inside = list(map(sub, places[first:stop], repeat(begin)))
                window = Window(reader, begin, ends[stop - 1] - begin, ordered[first:stop], inside)
                self.owners.update(zip(begins[first:stop], repeat(window)))
                self.places.update(zip(begins[first:stop], inside, strict=True))
                first = stop


def _data_places(
    begins: Sequence[int], sizes: Sequence[int], flags: Sequence[int], ends: Sequence[int]
) -> Sequence[int]:
    """Return where the data of stored records lie in the file, if nothing stands behind them but a descriptor."""
    tails = {bits: 16 if bits & _HAS_DESCRIPTOR else 0 for bits in set(flags)}
    places = list(map(sub, map(sub, ends, sizes), map(tails.__getitem__, flags)))
    if begins[-1] >= _ALL_ONES:  # with 64-bit fields a descriptor has 24 bytes
        first = bisect_left(begins, _ALL_ONES)
        places[first:] = [place - tails[bits] // 2 for place, bits in zip(places[first:], flags[first:], strict=True)]
    return places if all(map(le, begins, places)) else list(map(max, begins, places))


def read_windows(source: ByteSource, windows: Sequence[Window], *, verify: bool) -> None:
    """Read each window into its memory, and check every record in it.

    Raises
    ------
    DirectoryError, ChecksumError, TruncatedError
        The error of the damaged record that lies first.
    """

    def tasks() -> Iterator[tuple[int, Task]]:
        for window in sorted(windows, key=lambda window: window.offset):
            yield window.offset, lambda window=window: _read_window(source, window, verify=verify)  # type: ignore[misc]

    run_in_order(tasks(), thread_count(source, sum(window.nbytes for window in windows)))


def scatter_windows(
    source: ByteSource, windows: Sequence[tuple[Window, Mapping[int, memoryview]]], *, verify: bool
) -> list[Window]:
    """Read windows, each record's data straight to its target, and what lies between to the side.

    Parameters
    ----------
    windows : sequence of (Window, mapping of place to target)
        A target is writable memory of the record's size, for the data at that place in the window.

    Returns
    -------
    list of Window
        Those whose data lie elsewhere than an archive of PyTorch has them; to be read by `read_windows`.

    Raises
    ------
    DirectoryError, ChecksumError, TruncatedError
        The error of the damaged record that lies first.
    """
    other: list[Window] = []

    def tasks() -> Iterator[tuple[int, Task]]:
        for window, targets in sorted(windows, key=lambda entry: entry[0].offset):
            yield window.offset, _scattering(source, window, targets, other, verify=verify)

    run_in_order(tasks(), thread_count(source, sum(window.nbytes for window, _ in windows)))
    return other


def _scattering(
    source: ByteSource, window: Window, targets: Mapping[int, memoryview], other: list[Window], *, verify: bool
) -> Task:
    def read() -> None:
        if not _scatter(source, window, targets, verify=verify):
            other.append(window)

    return read


def _scatter(source: ByteSource, window: Window, targets: Mapping[int, memoryview], *, verify: bool) -> bool:
    records, places = window.records, window.places
    wanted = list(map(targets.get, places))
    lengths = [0 if target is None else len(target) for target in wanted]
    passed = list(accumulate(lengths, initial=0))  # bytes that lie in targets before each record, and not in the sides
    cuts = [place - before for place, before, target in zip(places, passed, wanted, strict=False) if target is not None]
    sides = memoryview(bytearray(window.nbytes - passed[-1]))
    pieces: list[Any] = [None] * (2 * len(cuts) + 1)
    pieces[::2] = map(sides.__getitem__, map(slice, [0, *cuts], [*cuts, len(sides)]))
    pieces[1::2] = [target for target in wanted if target is not None]
    source.read_scattered(window.offset, pieces)
    headers = list(map(sub, map(_HEADER, records), repeat(window.offset)))
    at = list(map(sub, headers, passed))
    data = [
        sides[place - before : place - before + record.size] if target is None else target
        for record, place, before, target in zip(records, places, passed, wanted, strict=False)
    ]
    if _headers_fit(sides, at, list(map(sub, places, headers)), records):
        if verify:
            _check_data(records, data)
        return True
    for record, header, begin, place, found in zip(records, headers, at, places, data, strict=True):
        if parse_local_header(sides, begin, record) + header - begin != place:
            return False
        if verify:
            check_crc(record, crc32(found))
    return True


def _read_window(source: ByteSource, window: Window, *, verify: bool) -> None:
    memory, records, places = window.memory, window.records, window.places
    assert memory is not None  # noqa: S101 - the caller gives every window its memory before it asks for data
    source.read_into(window.offset, memory)
    headers = list(map(sub, map(_HEADER, records), repeat(window.offset)))
    if _headers_fit(memory, headers, list(map(sub, places, headers)), records):
        if verify:
            stops = map(add, places, map(_SIZE, records))
            _check_data(records, list(map(memory.__getitem__, map(slice, places, stops))))
        return
    for record, header, place in zip(records, headers, places, strict=True):
        begin = parse_local_header(memory, header, record)
        data = memory[begin : begin + record.size]
        if verify:
            check_crc(record, crc32(data))
        if begin != place:
            memory[place : place + record.size] = bytes(data)


def _headers_fit(
    raw: bytes | memoryview, at: Sequence[int], lengths: Sequence[int], records: Sequence[ZipRecord]
) -> bool:
    """Whether each local header is as PyTorch writes it, names its record, and ends where its data are expected.

    Where it is not, `parse_local_header` tells what is wrong, if anything is.

    Parameters
    ----------
    raw : memoryview
        Holds the headers, `at` these places.
    lengths : sequence of int
        From each header's start to its data.
    """
    names = list(map(_RAW_NAME, records))
    bodies = list(map(LOCAL_SIZE.__add__, map(len, names)))
    heads = list(map(bytes, map(raw.__getitem__, map(slice, at, map(add, at, bodies)))))
    if list(map(_NAME_OF, heads)) != names:
        return False
    count, flat = len(records), b"".join(map(_FIELDS_OF, heads))
    mark, flags, method, crc, packed, size, _, _ = LOCAL.unpack_from(flat)
    if mark != LOCAL_MARK or flags & ENCRYPTED or method or crc or packed or size:
        return False
    # All say the same up to the lengths of name and padding: byte by byte, over all of them at once.
    if any(flat[place::LOCAL_SIZE] != flat[place : place + 1] * count for place in range(26)):
        return False
    low_names, high_names, low_extras, high_extras = (flat[place::LOCAL_SIZE] for place in range(26, LOCAL_SIZE))
    try:
        fits = low_names == bytes(map(len, names)) and low_extras == bytes(map(sub, lengths, bodies))
    except ValueError:  # longer than 255 bytes, or shorter than nothing
        return False
    return fits and high_names == high_extras == bytes(count)


def _check_data(records: Sequence[ZipRecord], data: Sequence[memoryview]) -> None:
    """Raise for the first record whose data have another CRC-32 than the directory says."""
    found = list(map(crc32, data))
    if found != list(map(_CRC, records)):
        for record, crc in zip(records, found, strict=True):
            check_crc(record, crc)
