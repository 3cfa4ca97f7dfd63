"""Small records read where they stay: a stretch of the file is read once, and the arrays are views of it.

A record's data begin where its local header says, which is known only when the header has been read; but where they
*end* is known from the directory alone: before the next record, less the data descriptor. So places are given out
before anything is read, and checked afterwards. In an archive that some other program wrote, where a place turns out
to be wrong, the data are moved to it: it lies inside of the record's own span.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from weighlock.formats.zip_directory import ZipDirectory, ZipRecord, check_crc, parse_local_header
from weighlock.storages.checksum import crc32
from weighlock.storages.plan import Task, run_in_order, thread_count
from weighlock.storages.refs import Window
from weighlock.storages.source import ByteSource

__all__ = ["plan_windows", "read_windows", "scatter_windows"]

_WINDOW: Final = 1 << 20
_SMALL: Final = 64 << 10
_HAS_DESCRIPTOR: Final = 0x8
_ALL_ONES: Final = 0xFFFFFFFF


class _Part:
    """A record in a window: where its header and its data lie, from the window's start."""

    __slots__ = ("header", "place", "reader", "record")

    def __init__(self, reader: Any, record: ZipRecord, header: int, place: int) -> None:
        self.reader = reader
        self.record = record
        self.header = header
        self.place = place


def plan_windows(reader: Any, directory: ZipDirectory) -> dict[int, tuple[Window, int]]:
    """Return, for the header offset of each small stored record, its window and the place of its data in it.

    Windows hold neighbouring records and nothing else, and are at most 1 MiB: what one small tensor keeps alive.
    """
    places: dict[int, tuple[Window, int]] = {}
    window = Window(-1)
    stop = -1
    for record in sorted(directory.records, key=lambda record: record.header_offset):
        begin, end, size = record.header_offset, record.end, record.size
        if size > _SMALL or record.method or end - begin > 2 * _SMALL or not size:
            continue
        if begin != stop or end - window.offset > _WINDOW:
            window = Window(begin)
        stop = end
        window.nbytes = end - window.offset
        # A descriptor is 16 bytes, or 24 with 64-bit fields; without one the data end where the record ends.
        tail = 0 if not record.flags & _HAS_DESCRIPTOR else 24 if begin >= _ALL_ONES else 16
        place = max(end - tail - size, begin) - window.offset
        window.contents.append(_Part(reader, record, begin - window.offset, place))
        places[begin] = window, place
    return places


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
    sides = memoryview(bytearray(window.nbytes - sum(map(len, targets.values()))))
    pieces: list[memoryview] = []
    read_to = side = 0
    shifts = []  # by how much each header lies further back in the sides than in the window
    for part in window.contents:
        shifts.append(read_to - side)
        target = targets.get(part.place)
        if target is not None:
            between = part.place - read_to
            pieces += (sides[side : side + between], target)
            side += between
            read_to = part.place + len(target)
    pieces.append(sides[side:])
    source.read_scattered(window.offset, pieces)
    for part, shift in zip(window.contents, shifts, strict=True):
        record, place = part.record, part.place
        if parse_local_header(sides, part.header - shift, record) + shift != place:
            return False
        data = targets.get(place)
        if data is None:
            data = sides[place - shift : place - shift + record.size]
        # The common case inline: this runs once per record.
        if verify and crc32(data) != record.crc:
            check_crc(record, crc32(data))
    return True


def _read_window(source: ByteSource, window: Window, *, verify: bool) -> None:
    memory = window.memory
    assert memory is not None  # noqa: S101 - the caller gives every window its memory before it asks for data
    source.read_into(window.offset, memory)
    for part in window.contents:
        record, place = part.record, part.place
        begin = parse_local_header(memory, part.header, record)
        data = memory[begin : begin + record.size]
        # The common case inline: this runs once per record.
        if verify and crc32(data) != record.crc:
            check_crc(record, crc32(data))
        if begin != place:
            memory[place : place + record.size] = bytes(data)
