"""Records of a damaged zip archive: where their bytes are, and what proves them.

Nothing here trusts a position. A record's bytes count as proven only where a CRC-32 that was written for them fits:
that of the directory, of the descriptor behind the data, or of the local header. Positions that were destroyed are
worked out from what stands around them, and then have to pass the same test. And since a name can be damaged too, a
descriptor alone proves only what stands where its record should.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from weighlock.errors import WeighlockError
from weighlock.formats.zip_carving import Carving, Entry, LocalHeader
from weighlock.formats.zip_remains import LOCAL_SIZE
from weighlock.storages.checksum import crc32
from weighlock.storages.source import ByteSource

__all__ = ["Found", "Prover", "crc_of", "described", "inflated", "inflated_crc"]

_DESCRIPTOR_MARK: Final = b"PK\x07\x08"
_DESCRIPTORS: Final = (16, 24)
_FULL32: Final = 0xFFFFFFFF
_CHUNK: Final = 4 << 20
_PIECE: Final = 1 << 20
_OVERLAP: Final = 3
_MOST_TRIED: Final = 1 << 16
_FEW: Final = 8


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
    crc : int
        That of the bytes, where it was computed.
    """

    start: int
    packed: int
    size: int
    method: int
    state: str
    reason: str
    crc: int = 0


def crc_of(source: ByteSource, start: int, size: int, progress: Callable[[int], object] | None = None) -> int:
    """Return the CRC-32 of a stretch of a file, a megabyte at a time."""
    crc = 0
    memory = memoryview(bytearray(min(_PIECE, size)))
    for done in range(0, size, _PIECE):
        view = memory[: min(_PIECE, size - done)]
        source.read_into(start + done, view)
        crc = crc32(view, crc)
        if progress is not None:
            progress(len(view))
    return crc


def inflated(source: ByteSource, found: Found) -> bytes:
    """Return the bytes of a record, unpacked where it is packed."""
    raw = source.read_at(found.start, found.packed)
    return raw if not found.method else zlib.decompressobj(-15).decompress(raw, max(found.size, 1))


def inflated_crc(
    source: ByteSource, start: int, packed_size: int, size: int, progress: Callable[[int], object] | None = None
) -> int | None:
    """Return the CRC-32 of what a record unpacks to, never more of it in memory than a piece; None if it does not."""
    engine, crc, done = zlib.decompressobj(-15), 0, 0
    try:
        for at in range(0, packed_size, _PIECE):
            packed = source.read_at(start + at, min(_PIECE, packed_size - at))
            if progress is not None:
                progress(len(packed))
            while packed:
                data = engine.decompress(packed, _PIECE)
                packed = engine.unconsumed_tail
                crc, done = crc32(data, crc), done + len(data)
                if done > size:
                    return None
    except (zlib.error, WeighlockError):
        return None
    return crc if engine.eof and done == size else None


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


class _Guess(NamedTuple):
    """Where data may begin, why, and what their header states.

    `kind` is ``"header"`` (a header bears the name, and states this CRC-32; misplaced if another record should
    stand there), ``"behind"`` (the record in front ends there), or ``"listed"`` (the directory, or what follows, says
    so).
    """

    start: int
    kind: str
    stated: int = 0
    misplaced: bool = False


class _Weighing:
    """What the guesses for one record have come to."""

    def __init__(self) -> None:
        self.by_name: dict[int, Found] = {}  # proven by their own descriptors; by CRC-32
        self.behind: Found | None = None
        self.doubtful: Found | None = None
        self.cut = False
        self.rivals = 0  # records of the name whose own descriptors contradict them

    def best(self) -> Found | None:
        """Return the best of them."""
        if self.behind is not None:
            return self.behind
        if len(self.by_name) > 1 or (self.by_name and self.rivals):
            found = next(iter(self.by_name.values()))
            return found._replace(state="damaged", reason="several records bear its name, and none is proven to be it")
        return next(iter(self.by_name.values()), self.doubtful)

    def doubt(self, found: Found, state: str, reason: str) -> None:
        """Note bytes that may not be whole: those that are in the wrong outweigh those that are merely unproven."""
        if self.doubtful is None or (state == "damaged" and self.doubtful.state == "unproven"):
            self.doubtful = found._replace(state=state, reason=reason)


class Prover:
    """Finds records by all that is left of an archive, and says what proves them.

    Parameters
    ----------
    source : ByteSource
    carving : Carving
    low, high : int
        The stretch of the file that is looked at.
    alignment : int
        That of the data in the file as it was written.
    progress : callable, optional
        Called with the number of bytes whose checksum was computed since the last call.

    Attributes
    ----------
    carving : Carving
    shifts : list of int
        By how much the offsets of the directory may be wrong, the likeliest first.
    """

    # Reason for the parameter count: one stretch of one file, and two facts about it.
    def __init__(
        self, source: ByteSource, carving: Carving, low: int, high: int, alignment: int = 64,
        progress: Callable[[int], object] | None = None,
    ) -> None:  # fmt: skip
        self._source = source
        self._progress = progress
        self.carving = carving
        self.alignment = alignment
        self.low = low
        self.high = high
        shifts = [h.offset - e.offset for n, rows in carving.headers.items() for h in rows[:1]
                  for e in carving.entries.get(n, [])[:1]]  # fmt: skip
        # Where something was put in front, or cut away, all offsets of the directory are wrong by as much.
        self.shifts = sorted(set(shifts), key=lambda shift: (shift != 0, -shifts.count(shift)))[:8] or [0]
        self._unique: dict[int, bytes] | None = None
        self._owners: dict[int, set[bytes]] = {}
        for name, entries in carving.entries.items():
            for entry in entries:
                self._owners.setdefault(entry.crc, set()).add(name)

    def in_order(self, names: Sequence[bytes]) -> "Prover":
        """Return a prover that believes no header which stands out of this order."""
        return Prover(self._source, self.carving.in_order(names), self.low, self.high, self.alignment, self._progress)

    def find(
        self, name: bytes, size: int, before: int | None = None, after: bytes | None = None, floor: int = 0
    ) -> Found:
        """Look for a stored record of known size.

        Parameters
        ----------
        before : int
            Where the record in front of it ends, if that is known.
        after : bytes
            The name of the record behind it.
        floor : int
            It does not begin before: there the one in front of it lies, whatever damaged headers say.
        """
        if not size:
            return Found(0, 0, 0, 0, "proven", "it has no bytes")
        entries = self.carving.entries.get(name, [])
        packed = self._packed(name)
        if packed is not None:
            return packed
        listed = {entry.crc for entry in entries if entry.size == size}
        weighing = _Weighing()
        for guess in self._guesses(name, size, before, after):
            if guess.start + size > self.high:
                weighing.cut = weighing.cut or guess.kind == "header"
            elif guess.start >= floor:
                found = self._weigh(name, size, guess, listed, weighing)
                if found is not None:
                    return found
        best = weighing.best()
        if best is not None:
            return best
        if weighing.cut or self._beyond(name, size, before):
            return Found(0, 0, size, 0, "cut", "the file ends before its data do")
        return Found(0, 0, size, 0, "missing", "its header was not found")

    def _weigh(self, name: bytes, size: int, guess: _Guess, listed: set[int], weighing: _Weighing) -> Found | None:
        """Hold one guess against all checksums; return it where the directory, or name and place, leave no doubt."""
        written, torn = _written(self._source, guess.start + size, size)
        own = (written | {guess.stated}) - {0}
        found = Found(guess.start, size, size, 0, "proven", "its CRC-32 is the one that was written")
        by_name = guess.kind == "header"
        if not own and not listed - {0}:
            if by_name and (written or listed or torn) and not self._holds_header(guess.start, size):
                why = "no CRC-32 was written" if written or listed else "the file ends before its CRC-32"
                weighing.doubt(found, "unproven", f"by size and position only: {why}")
            elif by_name:
                weighing.doubt(found, "damaged", "what stands behind its data is damaged, and no CRC-32 is left")
            return None
        if not own and guess.kind == "behind" and not listed:
            return None
        crc = crc_of(self._source, guess.start, size, self._progress)
        found = found._replace(crc=crc)
        if crc in listed - {0} and (by_name or len(listed) == 1):
            return found
        if crc not in own:
            weighing.doubt(found, "damaged", "its CRC-32 is another one")
            weighing.rivals += by_name
        elif by_name and guess.misplaced and not listed:
            weighing.doubt(found, "damaged", "its header does not stand where the record in front of it ends")
        elif by_name and not self._is_listed_elsewhere(name, crc, listed):
            weighing.by_name.setdefault(crc, found)
        elif guess.kind == "behind" and not listed and not self._is_of_another(guess.start, name):
            weighing.behind = weighing.behind or found
        return None

    def _holds_header(self, start: int, size: int) -> bool:
        """Whether a header stands among the data: then some are missing, and these are not they."""
        return self.carving.next_place(start, self.high) < start + size

    def _is_listed_elsewhere(self, name: bytes, crc: int, listed: set[int]) -> bool:
        """Whether the directory knows these bytes under another name.

        A descriptor proves bytes, not their name. Where header and directory disagree on it, the one is damaged that
        gives its name to two.
        """
        if not self._owners.get(crc, set()) - {name}:
            return False
        return bool(listed - {0}) or len(self.carving.headers.get(name, [])) > 1

    def _is_of_another(self, start: int, name: bytes) -> bool:
        """Whether data that begin here have a header of another name, and the only one of that name."""
        if self._unique is None:
            self._unique = {rows[0].start: one for one, rows in self.carving.headers.items() if len(rows) == 1}
        return self._unique.get(start, name) != name

    def start_behind(self, before: int, name: bytes) -> int:
        """Return where the data of a record begin whose header stands at `before`, as PyTorch aligns them."""
        header = next((h for h in self.carving.headers.get(name, []) if h.offset == before), None)
        if header is not None:
            return header.start
        shift = self.shifts[0]
        start = before - shift + LOCAL_SIZE + len(name) + 4
        return start + -start % self.alignment + shift

    def _beyond(self, name: bytes, size: int, before: int | None) -> bool:
        """Whether the record would begin, or end, behind the end of the file."""
        if self.carving.headers.get(name):
            return False
        return before is not None and before + LOCAL_SIZE + len(name) + size > self.high

    def _guesses(self, name: bytes, size: int, before: int | None, after: bytes | None) -> Iterator[_Guess]:
        """Give where the data may begin, each place once."""
        seen: set[int] = set()
        for guess in self._all_guesses(name, size, before, after):
            if guess.start not in seen and guess.start >= self.low:
                seen.add(guess.start)
                yield guess

    def _all_guesses(self, name: bytes, size: int, before: int | None, after: bytes | None) -> Iterator[_Guess]:
        for header in self.carving.headers.get(name, [])[:_MOST_TRIED]:
            if not header.method and header.size in (0, size):
                # Writers that can seek leave the descriptor out.
                misplaced = before is not None and before - header.offset not in (0, *_DESCRIPTORS)
                yield _Guess(header.start, "header", header.crc, misplaced)
        for entry in self.carving.entries.get(name, []):
            for shift in self.shifts:
                for start in self._from_header(entry.offset + shift, name, size, shift):
                    yield _Guess(start, "listed")
        if before is not None:
            for shift in self.shifts:
                for start in self._from_header(before, name, size, shift):
                    yield _Guess(start, "behind")
        follower = (self.carving.headers.get(after, []) if after is not None else [])[:1]
        for end in [header.offset for header in follower] or self.carving.places[-1:]:
            for tail in _DESCRIPTORS:
                yield _Guess(end - tail - size, "listed")

    def _from_header(self, offset: int, name: bytes, size: int, shift: int) -> Iterator[int]:
        """Give where data begin whose header, perhaps destroyed, stands at `offset`."""
        if not self.low <= offset < self.high:
            return
        raw = self._source.read_at(offset, min(LOCAL_SIZE, self._source.size - offset))
        if len(raw) == LOCAL_SIZE and raw[26:28] == len(name).to_bytes(2, "little"):
            yield offset + LOCAL_SIZE + len(name) + int.from_bytes(raw[28:30], "little")
        # PyTorch fills the header up so that the data are aligned, in the file as it was before anything moved it.
        for wide in (0, 12, 20, 28) if offset + (1 << 20) > _FULL32 or size >= _FULL32 else (0,):
            start = offset - shift + LOCAL_SIZE + len(name) + 4 + wide
            yield start + -start % self.alignment + shift

    def _packed(self, name: bytes) -> Found | None:
        """Prove a record that is compressed, as directory or header say; None if neither does."""
        best: Found | None = None
        for start, row in self._packed_places(name):
            found = Found(start, row.packed, row.size, row.method, "cut", "the file ends before its data do")
            if start + row.packed <= self.high:
                found = self._judged(found, {row.crc})
            if found.state == "proven":
                return found
            best = best or found
        return best

    def _packed_places(self, name: bytes) -> Iterator[tuple[int, Entry | LocalHeader]]:
        """Give where compressed data may begin, and who says how long they are."""
        entries = [entry for entry in self.carving.entries.get(name, []) if entry.method][:_FEW]
        headers = [header for header in self.carving.headers.get(name, []) if header.method][:_FEW]
        for header in headers:
            rows: list[Entry | LocalHeader] = [*entries, header]
            yield from ((header.start, row) for row in rows if row.packed)
        for entry in entries:
            for shift in self.shifts:
                offset = entry.offset + shift
                yield from ((start, entry) for start in self._from_header(offset, name, entry.size, shift))
                yield offset + LOCAL_SIZE + len(name), entry

    def _judged(self, found: Found, crcs: set[int]) -> Found:
        crc = inflated_crc(self._source, found.start, found.packed, found.size)
        if crc is None:
            return found._replace(state="damaged", reason="it cannot be unpacked")
        if crc in crcs - {0}:
            return found._replace(state="proven", reason="its CRC-32 is the one that was written", crc=crc)
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
        for entry in self.carving.entries.get(name, []):
            yield entry.size
        for header in self.carving.headers.get(name, []):
            if header.size:
                yield header.size
            yield from descriptor_sizes(self._source, header.start, self.carving.next_place(header.offset, self.high))


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
