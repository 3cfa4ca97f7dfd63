"""What can still be found in a damaged zip archive: local headers and directory entries, by their marks."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from weighlock.formats.zip_entries import entry_struct, zip64_fields
from weighlock.formats.zip_remains import LOCAL, LOCAL_MARK, LOCAL_SIZE
from weighlock.storages.source import ByteSource

__all__ = ["Carving", "Entry", "LocalHeader", "carve"]

_ENTRY_MARK: Final = b"PK\x01\x02"
_ENTRY_SIZE: Final = 46
_FULL32: Final = 0xFFFFFFFF
_CHUNK: Final = 4 << 20
_OVERLAP: Final = 3
_LONGEST_NAME: Final = 1024
# A file made of nothing but marks is not taken apart at each of them.
_MOST_FOUND: Final = 1 << 20
_MOST_FALSE: Final = 1 << 20


class LocalHeader(NamedTuple):
    """A local header that was found: its name, where it and its data begin, and what it says of them."""

    name: bytes
    offset: int
    start: int
    method: int
    crc: int
    packed: int
    size: int


class Entry(NamedTuple):
    """An entry of a directory that was found; `offset` is where it says that the header stands."""

    name: bytes
    place: int
    offset: int
    method: int
    crc: int
    packed: int
    size: int


class Carving(NamedTuple):
    """What was found in a file, or in a stretch of it.

    Attributes
    ----------
    headers : dict of bytes to list of LocalHeader
    entries : dict of bytes to list of Entry
    places : list of int
        Where headers and the first entry of each directory stand, in order.
    complete : bool
        Whether the whole file was searched.
    """

    headers: dict[bytes, list[LocalHeader]]
    entries: dict[bytes, list[Entry]]
    places: list[int]
    complete: bool

    def within(self, low: int, high: int) -> "Carving":
        """Return what lies in a stretch of the file."""
        headers = {n: [h for h in rows if low <= h.offset < high] for n, rows in self.headers.items()}
        entries = {n: [e for e in rows if low <= e.place < high] for n, rows in self.entries.items()}
        return Carving(headers, entries, [place for place in self.places if low <= place <= high], self.complete)

    def in_order(self, names: Sequence[bytes]) -> "Carving":
        """Return this without headers that stand where a record of their name cannot be: their names are damaged.

        Parameters
        ----------
        names : sequence of bytes
            In the order of the file. Where the headers do not bear that order out, nothing is taken away.
        """
        found = sorted(
            (header.offset, index) for index, name in enumerate(names) for header in self.headers.get(name, [])
        )
        kept = _longest_rise([index for _, index in found])
        if len(kept) * 10 < len(found) * 9 - 10:
            return self
        offsets = {found[at][0] for at in range(len(found)) if at not in kept}
        if not offsets:
            return self
        headers = {name: [h for h in rows if h.offset not in offsets] for name, rows in self.headers.items()}
        return self._replace(headers=headers)

    def next_place(self, position: int, end: int) -> int:
        """Return where the next header or directory stands behind a position; `end` where there is none."""
        from bisect import bisect_right

        index = bisect_right(self.places, position)
        return self.places[index] if index < len(self.places) else end


def _longest_rise(numbers: Sequence[int]) -> set[int]:
    """Return the places of a longest part of a sequence that never falls."""
    from bisect import bisect_right

    tails: list[int] = []  # the least last number of a rise of each length, and its place
    places: list[int] = []
    before: list[int] = []
    for place, number in enumerate(numbers):
        length = bisect_right(tails, number)
        tails[length : length + 1] = [number]
        places[length : length + 1] = [place]
        before.append(places[length - 1] if length else -1)
    found: set[int] = set()
    place = places[-1] if places else -1
    while place >= 0:
        found.add(place)
        place = before[place]
    return found


def carve(source: ByteSource, progress: Callable[[int], object] | None = None) -> Carving:
    """Search a file for local headers and directory entries.

    Parameters
    ----------
    progress : callable, optional
        Called with the number of bytes read since the last call.
    """
    headers: dict[bytes, list[LocalHeader]] = {}
    entries: dict[bytes, list[Entry]] = {}
    places: list[int] = []
    count, false, stop = 0, 0, -1
    for place, is_entry in _marks(source, progress):
        found = _entry(source, place) if is_entry else _header(source, place)
        if found is None:
            false += 1
        elif isinstance(found, Entry):
            count += 1
            entries.setdefault(found.name, []).append(found)
            if place != stop:
                places.append(place)
            stop = place + _entry_size(source, place)
        else:
            count += 1
            headers.setdefault(found.name, []).append(found)
            places.append(place)
        if count >= _MOST_FOUND or false >= _MOST_FALSE:
            return Carving(headers, entries, sorted(places), False)
    return Carving(headers, entries, sorted(places), True)


def _marks(source: ByteSource, progress: Callable[[int], object] | None) -> Iterator[tuple[int, bool]]:
    """Give where the marks of headers and entries stand."""
    position, kept = 0, b""
    while position < source.size:
        data = kept + source.read_at(position, min(_CHUNK, source.size - position))
        base = position - len(kept)
        position = base + len(data)
        if progress is not None:
            progress(len(data) - len(kept))
        for mark, is_entry in ((LOCAL_MARK, False), (_ENTRY_MARK, True)):
            at = data.find(mark)
            while at >= 0:
                yield base + at, is_entry
                at = data.find(mark, at + 4)
        kept = data[-_OVERLAP:]


def _header(source: ByteSource, place: int) -> LocalHeader | None:
    raw = source.read_at(place, min(LOCAL_SIZE + _LONGEST_NAME, source.size - place))
    if len(raw) < LOCAL_SIZE:
        return None
    _, _, method, crc, packed, size, name_size, extra = LOCAL.unpack_from(raw)
    name = raw[LOCAL_SIZE : LOCAL_SIZE + name_size]
    start = place + LOCAL_SIZE + name_size + extra
    if method not in (0, 8) or not _is_name(name, name_size):
        return None
    if _FULL32 in (packed, size):
        packed = size = 0  # the zip64 field of PyTorch's local headers is not to be believed either
    return LocalHeader(name, place, start, method, crc, packed, size)


def _entry_size(source: ByteSource, place: int) -> int:
    return entry_struct(source.read_at(place + 28, 6)).size


def _entry(source: ByteSource, place: int) -> Entry | None:
    raw = source.read_at(place, min(_ENTRY_SIZE + _LONGEST_NAME + 64, source.size - place))
    if len(raw) < _ENTRY_SIZE:
        return None
    form = entry_struct(raw[28:34])
    if form.size > len(raw):
        return None
    _, _, method, crc, packed, size, header_size, _, _, offset, name, extra = form.unpack_from(raw)
    if method not in (0, 8) or not _is_name(name, int.from_bytes(header_size, "little")):
        return None
    if _FULL32 in (packed, size, offset):
        wide = iter(zip64_fields(extra))
        size, packed, offset = (next(wide, v) if v == _FULL32 else v for v in (size, packed, offset))
    return Entry(name, place, offset, method, crc, packed, size)


def _is_name(name: bytes, size: int) -> bool:
    return 0 < size == len(name) <= _LONGEST_NAME and b"\0" not in name
