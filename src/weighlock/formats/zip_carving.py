"""What can still be found in a damaged zip archive: headers and directory entries by their marks, bytes by their CRC.

Nothing here trusts a position. A record's bytes count as proven only where a CRC-32 that was written for them fits:
that of the directory, of the descriptor behind the data, or of the local header. Positions that were destroyed are
worked out from what stands around them, and then have to pass the same test.
"""

import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from weighlock.errors import WeighlockError
from weighlock.formats.zip_directory import entry_struct, zip64_fields
from weighlock.formats.zip_remains import LOCAL, LOCAL_MARK, LOCAL_SIZE
from weighlock.storages.checksum import crc32
from weighlock.storages.source import ByteSource

__all__ = ["Carving", "Entry", "Found", "LocalHeader", "Prover", "carve", "crc_of", "described", "inflated"]

_ENTRY_MARK: Final = b"PK\x01\x02"
_DESCRIPTOR_MARK: Final = b"PK\x07\x08"
_ENTRY_SIZE: Final = 46
_FULL32: Final = 0xFFFFFFFF
_CHUNK: Final = 4 << 20
_OVERLAP: Final = 3
_LONGEST_NAME: Final = 1024
# A file made of nothing but marks is not taken apart at each of them.
_MOST_FOUND: Final = 1 << 20
_MOST_FALSE: Final = 1 << 20
_MOST_TRIED: Final = 1 << 16


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


class Found(NamedTuple):
    """Where a record's bytes are, and what proves them.

    Attributes
    ----------
    start, packed, size : int
        Where they begin, how many they are in the file, and unpacked.
    method : int
    state : str
        ``"proven"``: a CRC-32 fits. ``"unproven"``: they are where they should be, and nothing contradicts them.
        ``"damaged"``: a CRC-32 contradicts them. ``"cut"``: the file ends before they do. ``"missing"``: they were not
        found.
    reason : str
        A clause that says why.
    """

    start: int
    packed: int
    size: int
    method: int
    state: str
    reason: str


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

    def next_place(self, position: int, end: int) -> int:
        """Return where the next header or directory stands behind a position; `end` where there is none."""
        from bisect import bisect_right

        index = bisect_right(self.places, position)
        return self.places[index] if index < len(self.places) else end


def carve(source: ByteSource) -> Carving:
    """Search a file for local headers and directory entries."""
    headers: dict[bytes, list[LocalHeader]] = {}
    entries: dict[bytes, list[Entry]] = {}
    places: list[int] = []
    count, false, stop = 0, 0, -1
    for place, is_entry in _marks(source):
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


def _marks(source: ByteSource) -> Iterator[tuple[int, bool]]:
    """Give where the marks of headers and entries stand."""
    position, kept = 0, b""
    while position < source.size:
        data = kept + source.read_at(position, min(_CHUNK, source.size - position))
        base = position - len(kept)
        position = base + len(data)
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
    if method not in (0, 8) or not _is_name(name, name_size) or start > source.size:
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
    _, _, method, crc, packed, size, header_size, _, offset, name, extra = form.unpack_from(raw)
    if method not in (0, 8) or not _is_name(name, int.from_bytes(header_size, "little")):
        return None
    if _FULL32 in (packed, size, offset):
        wide = iter(zip64_fields(extra))
        size, packed, offset = (next(wide, v) if v == _FULL32 else v for v in (size, packed, offset))
    return Entry(name, place, offset, method, crc, packed, size)


def _is_name(name: bytes, size: int) -> bool:
    return 0 < size == len(name) <= _LONGEST_NAME and b"\0" not in name


# ------------------------------------------------------------------------------------------------------------ proofs


def crc_of(source: ByteSource, start: int, size: int) -> int:
    """Return the CRC-32 of a stretch of a file, a few megabytes at a time."""
    crc = 0
    memory = memoryview(bytearray(min(_CHUNK, size)))
    for done in range(0, size, _CHUNK):
        view = memory[: min(_CHUNK, size - done)]
        source.read_into(start + done, view)
        crc = crc32(view, crc)
    return crc


def inflated(source: ByteSource, found: Found) -> bytes:
    """Return the bytes of a record, unpacked where it is packed."""
    raw = source.read_at(found.start, found.packed)
    return raw if not found.method else zlib.decompressobj(-15).decompress(raw, max(found.size, 1))


def described(source: ByteSource, end: int, packed: int, size: int) -> tuple[int, int] | None:
    """Return the CRC-32 and the length of the data descriptor at `end`, if one is there that fits to the sizes."""
    raw = source.read_at(end, max(min(24, source.size - end), 0))
    if raw[:4] != _DESCRIPTOR_MARK:
        return None
    for width in (4, 8):
        pair = [int.from_bytes(raw[at : at + width], "little") for at in (8, 8 + width)]
        if len(raw) >= 8 + 2 * width and pair == [packed, size]:
            return int.from_bytes(raw[4:8], "little"), 8 + 2 * width
    return None


def _written(source: ByteSource, end: int, size: int) -> tuple[set[int], bool]:
    """Return the CRC-32 that stands behind data, and whether the file ends inside of what should stand there."""
    whole = described(source, end, size, size)
    if whole is not None:
        return {whole[0]}, False
    rest = source.read_at(end, max(min(16, source.size - end), 0))
    if len(rest) == 16 or rest[:4] != _DESCRIPTOR_MARK[: len(rest)]:
        return set(), False
    return ({int.from_bytes(rest[4:8], "little")} if len(rest) >= 8 else set()), True


class Prover:
    """Finds records by all that is left of an archive, and says what proves them.

    Parameters
    ----------
    source : ByteSource
    carving : Carving
    alignment : int
        That of the data in the file as it was written.
    low, high : int
        The stretch of the file that is looked at.
    """

    def __init__(self, source: ByteSource, carving: Carving, low: int, high: int, alignment: int = 64) -> None:
        self._source = source
        self._carving = carving
        self.alignment = alignment
        self.low = low
        self.high = high
        shifts = [h.offset - e.offset for n, rows in carving.headers.items() for h in rows[:1]
                  for e in carving.entries.get(n, [])[:1]]  # fmt: skip
        # Where something was put in front, or cut away, all offsets of the directory are wrong by as much.
        self._shifts = sorted(set(shifts), key=lambda shift: (shift != 0, -shifts.count(shift)))[:8] or [0]

    def find(self, name: bytes, size: int, before: int | None = None, after: bytes | None = None) -> Found:
        """Look for a stored record of known size.

        Parameters
        ----------
        before : int
            Where the record in front of it ends, if that is known.
        after : bytes
            The name of the record behind it.
        """
        if not size:
            return Found(0, 0, 0, 0, "proven", "it has no bytes")
        entries = self._carving.entries.get(name, [])
        packed_entry = next((e for e in entries if e.method), None)
        if packed_entry is not None:
            return self._packed(name, packed_entry)
        crcs = {entry.crc for entry in entries if entry.size == size}
        contradicted: Found | None = None
        unproven: Found | None = None
        cut = False
        for start, is_header, stated in self._starts(name, size, before, after):
            if start + size > self.high:
                cut = cut or is_header
                continue
            written, torn = _written(self._source, start + size, size)
            known = crcs | written | ({stated} if stated else set())
            found = Found(start, size, size, 0, "proven", "its CRC-32 is the one that was written")
            if known - {0}:
                if crc_of(self._source, start, size) in known - {0}:
                    return found
                contradicted = contradicted or found._replace(state="damaged", reason="its CRC-32 is another one")
            elif is_header and (known or torn):
                why = "no CRC-32 was written" if known else "the file ends before its CRC-32"
                unproven = unproven or found._replace(state="unproven", reason=f"by size and position only: {why}")
            elif is_header:
                contradicted = contradicted or found._replace(
                    state="damaged", reason="what stands behind its data is damaged, and no CRC-32 is left"
                )
        if contradicted is not None or unproven is not None:
            return contradicted or unproven  # type: ignore[return-value]
        if cut or self._beyond(name, size, before):
            return Found(0, 0, size, 0, "cut", "the file ends before its data do")
        return Found(0, 0, size, 0, "missing", "its header was not found")

    def _beyond(self, name: bytes, size: int, before: int | None) -> bool:
        """Whether the record would begin, or end, behind the end of the file."""
        if self._carving.headers.get(name):
            return False
        return before is not None and before + LOCAL_SIZE + len(name) + size > self.high

    def _starts(
        self, name: bytes, size: int, before: int | None, after: bytes | None
    ) -> Iterator[tuple[int, bool, int]]:
        """Give where the data may begin, whether their own header says so, and the CRC-32 that it states."""
        seen: set[int] = set()
        for start, is_header, stated in self._guesses(name, size, before, after):
            if start not in seen and start >= self.low:
                seen.add(start)
                yield start, is_header, stated

    def _guesses(
        self, name: bytes, size: int, before: int | None, after: bytes | None
    ) -> Iterator[tuple[int, bool, int]]:
        for header in self._carving.headers.get(name, [])[:_MOST_TRIED]:
            if not header.method and header.size in (0, size):
                yield header.start, True, header.crc
        for entry in self._carving.entries.get(name, []):
            for shift in self._shifts:
                yield from self._from_header(entry.offset + shift, name, size, shift)
        if before is not None:
            for shift in self._shifts:
                yield from self._from_header(before, name, size, shift)
        follower = (self._carving.headers.get(after, []) if after is not None else [])[:1]
        ends = [header.offset for header in follower]
        if after is None:
            ends += self._carving.places[-1:]
        for end in ends:
            for tail in (16, 24):
                yield end - tail - size, False, 0

    def _from_header(self, offset: int, name: bytes, size: int, shift: int) -> Iterator[tuple[int, bool, int]]:
        """Give where data begin whose header, perhaps destroyed, stands at `offset`."""
        if not self.low <= offset < self.high:
            return
        raw = self._source.read_at(offset, min(LOCAL_SIZE, self._source.size - offset))
        if len(raw) == LOCAL_SIZE and raw[26:28] == len(name).to_bytes(2, "little"):
            yield offset + LOCAL_SIZE + len(name) + int.from_bytes(raw[28:30], "little"), False, 0
        # PyTorch fills the header up so that the data are aligned, in the file as it was before anything moved it.
        for wide in (0, 12, 20, 28) if offset + (1 << 20) > _FULL32 or size >= _FULL32 else (0,):
            start = offset - shift + LOCAL_SIZE + len(name) + 4 + wide
            yield start + -start % self.alignment + shift, False, 0

    def _packed(self, name: bytes, entry: Entry) -> Found:
        """Prove a record that is compressed."""
        found = Found(0, entry.packed, entry.size, entry.method, "missing", "its header was not found")
        for header in self._carving.headers.get(name, [])[:8]:
            found = found._replace(start=header.start)
            if header.start + entry.packed > self.high:
                found = found._replace(state="cut", reason="the file ends before its data do")
                continue
            return self._judged(found, {entry.crc, header.crc})
        return found

    def _judged(self, found: Found, crcs: set[int]) -> Found:
        try:
            data = inflated(self._source, found)
        except (zlib.error, WeighlockError):
            return found._replace(state="damaged", reason="it cannot be unpacked")
        if len(data) == found.size and crc32(data) in crcs - {0}:
            return found._replace(state="proven", reason="its CRC-32 is the one that was written")
        return found._replace(state="damaged", reason="its CRC-32 is another one")

    # ------------------------------------------------------------------------------------- records of unknown size

    def sized(self, name: bytes, most: int) -> Iterator[Found]:
        """Give what a record may be of which only the name is known, the proven ones first."""
        rest: list[Found] = []
        for size in self._sizes(name, most):
            found = self.find(name, size)
            if found.state == "proven":
                yield found
            else:
                rest.append(found)
        yield from rest

    def _sizes(self, name: bytes, most: int) -> Iterator[int]:
        """Give how long a record may be: as the directory says, its header, or a descriptor behind it."""
        seen: set[int] = set()
        for size in self._stated_sizes(name):
            if size not in seen and size <= most:
                seen.add(size)
                yield size

    def _stated_sizes(self, name: bytes) -> Iterator[int]:
        for entry in self._carving.entries.get(name, []):
            yield entry.size
        for header in self._carving.headers.get(name, []):
            if header.size:
                yield header.size
            yield from descriptor_sizes(self._source, header.start, self._carving.next_place(header.offset, self.high))


def descriptor_sizes(source: ByteSource, start: int, stop: int) -> Iterator[int]:
    """Give the sizes that descriptors between two places state, where that is their distance from the first."""
    position, kept, tried = start, b"", 0
    while position < stop and tried < _MOST_TRIED:
        data = kept + source.read_at(position, min(_CHUNK, stop - position))
        base = position - len(kept)
        position = base + len(data)
        at = data.find(_DESCRIPTOR_MARK)
        while at >= 0 and tried < _MOST_TRIED:
            tried += 1
            size = base + at - start
            if described(source, base + at, size, size) is not None:
                yield size
            at = data.find(_DESCRIPTOR_MARK, at + 1)
        kept = data[-_OVERLAP:]
