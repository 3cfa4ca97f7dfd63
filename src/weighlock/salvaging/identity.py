"""Whose bytes they are: a CRC-32 proves that bytes were written so, and not for which tensor.

The layers of a model are alike: storages of one size, each with a checksum that fits it. Where a name is damaged, or a
block was written in the wrong place, the bytes of one have all that another one needs. So two witnesses that can be
damaged only one by one have to name a storage: its own header, the directory, and the place where it stands between
its neighbours. A storage whose size no other has needs none of them.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import IntEnum
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

from weighlock.formats.zip_carving import Carving, Entry
from weighlock.formats.zip_proving import Found, Prover

__all__ = ["Claim", "Surroundings", "identified"]

# What may stand between data and the next header: a descriptor, short or long, or none.
_TAILS: Final = (16, 24, 0, 12, 20)
# How many records without header and entry may stand between two neighbours.
_MOST_PASSED: Final = 64


class Claim(NamedTuple):
    """A storage's name, how many bytes it has, and what was found for it."""

    name: bytes
    size: int
    found: Found


class Surroundings(NamedTuple):
    """Where the records end that stand in front of the storages, and where those begin that stand behind them."""

    fronts: Collection[int]
    behind: Collection[int]


class _Says(IntEnum):
    NO = -1
    NOTHING = 0
    YES = 1


class _Words(NamedTuple):
    """What each witness says of a claim."""

    header: _Says
    directory: _Says
    before: _Says
    after: _Says
    offset: bool  # the directory's offset leads to these bytes
    doubtful: bool  # there is a directory: it should know these bytes


def identified(
    claims: Sequence[Claim], prover: Prover, carving: Carving, around: Surroundings, *, in_order: bool
) -> Iterator[Found]:
    """Give what was found for each claim: proven only where it is known whose bytes they are.

    Parameters
    ----------
    claims : sequence of Claim
        In the order of the file.
    carving : Carving
        With all headers, also those that stand out of order.
    around : Surroundings
    in_order : bool
        Whether the file bears the order out; if not, places say nothing.
    """
    witnesses = _Witnesses(claims, prover, carving, around, in_order=in_order)
    counts = Counter(claim.size for claim in claims)
    for index, claim in enumerate(claims):
        if claim.found.state != "proven" or not claim.size or counts[claim.size] == 1:
            yield claim.found
        else:
            yield _judged(claim.found, witnesses.words(index))


def _judged(found: Found, words: _Words) -> Found:
    """Weigh the witnesses: two that agree, and nobody who contradicts them without being outvoted."""
    places = (words.before, words.after)
    between = places == (_Says.YES, _Says.YES)
    placed = _Says.YES in places and _Says.NO not in places
    if words.header > 0 and words.directory > 0:
        sure = _Says.YES in places or _Says.NO not in places
    elif words.directory > 0:
        sure = _Says.YES in places if words.header == 0 else between and words.offset
    elif words.header > 0 and words.directory == 0:
        sure = between if words.doubtful else placed
    else:
        sure = False
    if sure:
        return found
    if words.header < 0 or words.directory < 0 or _Says.NO in places:
        return found._replace(state="damaged", reason="its name and its place contradict each other")
    if words.header > 0 or words.directory > 0:
        where = "header" if words.header > 0 else "directory"
        return found._replace(state="unproven", reason=f"its CRC-32 fits, but only the {where} says whose it is")
    return found._replace(state="unproven", reason="its CRC-32 fits, but only its place says whose it is")


class _Witnesses:
    """Header, directory and neighbours of each claim."""

    def __init__(
        self, claims: Sequence[Claim], prover: Prover, carving: Carving, around: Surroundings, *, in_order: bool
    ) -> None:
        self._claims = claims
        self._prover = prover
        self._in_order = in_order
        self._fronts = sorted(around.fronts)
        self._behind = sorted(around.behind)
        self._heads = {header.start: header.offset for rows in carving.headers.values() for header in rows}
        self._bearers: dict[int, bytes] = {}
        self._borne: Counter[bytes] = Counter()
        for name in {claim.name for claim in claims}:
            rows = carving.headers.get(name, [])
            self._borne[name] = len(rows)
            self._bearers.update((header.start, name) for header in rows)
        entries = [(claim.name, carving.entries.get(claim.name, [])) for claim in claims]
        self._has_directory = any(rows for _, rows in entries)
        self._here = {entry.offset + shift: entry for _, rows in entries for entry in rows
                      for shift in prover.shifts[:1]}  # fmt: skip
        self._only = {name: rows[0] for name, rows in entries if len(rows) == 1}
        if in_order:
            self._only = _rising(self._only)
        self._owners = {(entry.crc, entry.size): name for name, entry in self._only.items()}
        self._crcs = {claim.name: claim.found.crc for claim in claims}
        self._named = [self._header(claim) for claim in claims]
        self._listed = [self._directory(claim) for claim in claims]
        known = [index for index in range(len(claims)) if self._is_known(index)]
        self._previous = dict(_nearest(known, range(len(claims))))
        self._next = {index: at for index, at in _nearest(known[::-1], range(len(claims) - 1, -1, -1))}
        self._is_broken = in_order and any(self._follows(*pair) == _Says.NO for pair in pairwise(known))

    def words(self, index: int) -> _Words:
        """Return what all of them say."""
        before, after = (self._before(index), self._after(index)) if self._in_order else (_Says(0), _Says(0))
        claim = self._claims[index]
        entry = self._only.get(claim.name)
        offset = entry is not None and self._heads.get(claim.found.start) in {
            entry.offset + shift for shift in self._prover.shifts
        }
        header = self._named[index]
        if header > 0 and not self._has_directory and (self._is_broken or self._borne[claim.name] > 1):
            before = after = _Says.NOTHING
        return _Words(header, self._listed[index], before, after, offset, self._has_directory)

    def _header(self, claim: Claim) -> _Says:
        name = self._bearers.get(claim.found.start) if claim.found.start else None
        return _Says.NOTHING if name is None else _Says.YES if claim.name == name else _Says.NO

    def _directory(self, claim: Claim) -> _Says:
        found, entry = claim.found, self._only.get(claim.name)
        if entry is not None and entry.crc and (entry.crc, entry.size) == (found.crc, found.size):
            return _Says.YES
        here = self._here.get(self._heads.get(found.start, -1))
        if here is not None and not _is_flipped(here, found):
            return _Says.NO
        owner = self._owners.get((found.crc, found.size), claim.name)
        if owner == claim.name:
            return _Says.NOTHING
        # Two storages may be equal: then the other one has its own bytes elsewhere.
        is_equal = self._crcs.get(owner) == found.crc and (entry is None or _is_flipped(entry, found))
        return _Says.NOTHING if is_equal else _Says.NO

    # ---------------------------------------------------------------------------------------------- neighbours

    def _is_known(self, index: int) -> bool:
        """Whether a neighbour is one: located, and named by somebody."""
        found = self._claims[index].found
        return bool(found.start and self._claims[index].size) and max(self._named[index], self._listed[index]) > 0

    def _before(self, index: int) -> _Says:
        other = self._previous.get(index)
        if other is not None:
            return self._follows(other, index)
        if index > _MOST_PASSED or not self._fronts:
            return _Says.NOTHING
        if any(self._leads(end, -1, index) for end in self._fronts):
            return _Says.YES
        least = self._passed(self._fronts[-1], -1, index, _TAILS[0])
        return _Says.NO if self._claims[index].found.start < least else _Says.NOTHING

    def _after(self, index: int) -> _Says:
        other, last = self._next.get(index), len(self._claims)
        if other is not None:
            return self._follows(index, other)
        found = self._claims[index].found
        end = found.start + found.packed
        tail = next((place for place in self._behind if place >= end), None)
        if tail is None or last - index > _MOST_PASSED:
            return _Says.NOTHING
        reached = [self._passed(end + more, index, last, more) for more in _TAILS]
        # Less room than the storages behind it need; more is what a destroyed header leaves.
        return _Says.YES if tail in reached else _Says.NO if tail < reached[0] else _Says.NOTHING

    def _follows(self, one: int, other: int) -> _Says:
        """Whether a record stands where it must if another one stands where it does."""
        if other - one > _MOST_PASSED:
            return _Says.NOTHING
        found = self._claims[one].found
        end = found.start + found.packed
        return _Says.YES if any(self._leads(end + tail, one, other, tail) for tail in _TAILS) else _Says.NO

    def _leads(self, end: int, one: int, other: int, tail: int = 16) -> bool:
        """Whether records behind each other, from `end` on, come to the place where `other` was found."""
        end = self._passed(end, one, other, tail)
        start = self._claims[other].found.start
        return self._heads.get(start) == end or self._prover.start_behind(end, self._claims[other].name) == start

    def _passed(self, end: int, one: int, other: int, tail: int) -> int:
        for claim in self._claims[one + 1 : other]:
            end = self._prover.start_behind(end, claim.name) + (claim.found.packed or claim.size)
            end += tail if claim.size else 0
        return end


def _nearest(known: Sequence[int], indices: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Give for each index the known one that comes before it; both in the same order, upwards or downwards."""
    wanted, last = set(known), None
    for index in indices:
        if last is not None:
            yield index, last
        if index in wanted:
            last = index


def _rising(entries: dict[bytes, Entry]) -> dict[bytes, Entry]:
    """Return the entries whose offsets are larger than all before them, and smaller than all behind them."""
    offsets = [entry.offset for entry in entries.values()]
    most = list(accumulate(offsets, max))
    least = list(accumulate(reversed(offsets), min))[::-1]
    return {name: entry for (name, entry), high, low in zip(entries.items(), most, least, strict=True)
            if entry.offset == high == low}  # fmt: skip


def _is_flipped(entry: Entry, found: Found) -> bool:
    """Whether an entry is that of the bytes but for one byte of its CRC-32, or has none."""
    differs = entry.crc ^ found.crc
    return not entry.crc or any(not differs & ~(0xFF << shift) for shift in range(0, 32, 8))
