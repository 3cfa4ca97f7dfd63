"""Whose bytes they are: a CRC-32 proves that bytes were written so, and not for which tensor.

The layers of a model are alike: storages of one size, each with a checksum that fits it. Where a name is damaged, or a
block was written in the wrong place, the bytes of one have all that another one needs. So two witnesses that can be
damaged only one by one have to name a storage: its own header, the directory, and the place where it stands between
its neighbours. A storage whose size no other has needs none of them.
"""

from bisect import bisect, bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import IntEnum
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

from weighlock.formats.zip_carving import Carving, Entry, LocalHeader
from weighlock.formats.zip_proving import Found, Prover
from weighlock.formats.zip_remains import LOCAL_SIZE

__all__ = ["Claim", "Surroundings", "identified"]

# What may stand between data and the next header: a descriptor, short or long, or none.
_TAILS: Final = (16, 24, 0, 12, 20)
# A local header with its padding's mark; and what the fields of zip64 add to it.
_LEAST: Final = LOCAL_SIZE + 4
_WIDE: Final = (0, 12, 20, 28)
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


# Reason for the parameter count: what was found, what it was found in, and two facts that only the caller knows.
def identified(
    claims: Sequence[Claim], prover: Prover, carving: Carving, around: Surroundings, *, in_order: bool,
    by_size: bool = True,
) -> Iterator[Found]:  # fmt: skip
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
    by_size : bool
        Whether it is known which name has which size: then one that no other has tells whose it is.
    """
    witnesses = _Witnesses(claims, prover, carving, around, in_order=in_order)
    counts = Counter(claim.size for claim in claims)
    for index, claim in enumerate(claims):
        if claim.found.state != "proven" or not claim.size or (by_size and counts[claim.size] == 1):
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
        # Rows under damaged names too: what they know of a place is right.
        shift = prover.shifts[0]
        self._here = {entry.offset + shift: entry for rows in carving.entries.values() for entry in rows}
        self._only = {name: rows[0] for name, rows in entries if len(rows) == 1}
        if in_order:
            self._only = self._believed(_rising(self._only))
            self._only |= self._chosen({name: rows for name, rows in entries if len(rows) > 1})
        self._owners = {(entry.crc, entry.size): name for name, entry in self._only.items()}
        self._starts = [claim.found.start or _only_start(carving.headers.get(claim.name, [])) for claim in claims]
        self._crcs = {claim.name: claim.found.crc for claim in claims}
        self._named = [self._header(claim.name, start) for claim, start in zip(claims, self._starts, strict=True)]
        self._listed = [self._directory(claim) for claim in claims]
        known = [index for index in range(len(claims)) if self._is_known(index)]
        self._previous = dict(_nearest(known, range(len(claims))))
        self._next = dict(_nearest(known[::-1], range(len(claims) - 1, -1, -1)))
        self._unlisted = {claim.name for claim in claims} - self._only.keys()
        # What no directory knows is doubtful as soon as one header is in a wrong place.
        self._is_contradicted = self._has_contradiction(known, carving)

    def _has_contradiction(self, known: Sequence[int], carving: Carving) -> bool:
        """Whether any header is not where its name says, or stands there twice."""
        if _Says.NO in self._named or max(self._borne.values(), default=0) > 1 or self._has_odd_name(carving):
            return True
        if not self._in_order or not known:
            return False
        links = (self._follows(*pair) for pair in pairwise(known))
        return _Says.NO in (self._before(known[0]), self._after(known[-1])) or _Says.NO in links

    def words(self, index: int) -> _Words:
        """Return what all of them say."""
        before, after = (self._before(index), self._after(index)) if self._in_order else (_Says(0), _Says(0))
        claim = self._claims[index]
        entry = self._only.get(claim.name)
        offset = entry is not None and self._heads.get(claim.found.start) in {
            entry.offset + shift for shift in self._prover.shifts
        }
        header = self._named[index]
        if header > 0 and self._is_contradicted and claim.name in self._unlisted:
            before = after = _Says.NOTHING
        return _Words(header, self._listed[index], before, after, offset, self._has_directory)

    def _header(self, name: bytes, start: int) -> _Says:
        bearer = self._bearers.get(start) if start else None
        return _Says.NOTHING if bearer is None else _Says.YES if bearer == name else _Says.NO

    def _has_odd_name(self, carving: Carving) -> bool:
        """Whether a header in the folder of the storages names none of them."""
        folders = {name.rpartition(b"/")[0] for name in self._borne}
        return any(rows and name not in self._borne and name.rpartition(b"/")[0] in folders
                   for name, rows in carving.headers.items())  # fmt: skip

    def _directory(self, claim: Claim) -> _Says:
        found, entry = claim.found, self._only.get(claim.name)
        if entry is not None and entry.crc and (entry.crc, entry.size) == (found.crc, found.size):
            return _Says.YES
        here = self._here.get(self._heads.get(found.start, -1))
        if any(row is not None and not _is_flipped(row, found) for row in (entry, here)):
            return _Says.NO
        owner = self._owners.get((found.crc, found.size), claim.name)
        # Two storages may be equal: then the other one has its own bytes elsewhere.
        return _Says.NOTHING if owner == claim.name or self._crcs.get(owner) == found.crc else _Says.NO

    def _believed(self, entries: dict[bytes, Entry]) -> dict[bytes, Entry]:
        """Return the entries without those whose offsets do not follow from the sizes of the storages between them.

        In archives with another alignment than PyTorch's, nothing follows from sizes.
        """
        places = [index for index, claim in enumerate(self._claims) if claim.name in entries]
        runs: list[list[int]] = []
        for index in places:
            if runs and self._is_regular(runs[-1][-1], index, entries):
                runs[-1].append(index)
            else:
                runs.append([index])
        kept = max(runs, key=len, default=[])
        if not places or len(runs) * 2 > len(places):
            return entries
        for index in places[bisect(places, kept[-1]) :]:
            if self._is_regular(kept[-1], index, entries):
                kept.append(index)
        for index in reversed(places[: bisect_left(places, kept[0])]):
            if self._is_regular(index, kept[0], entries):
                kept.insert(0, index)
        return {claim.name: entries[claim.name] for claim in map(self._claims.__getitem__, kept)}

    def _chosen(self, entries: dict[bytes, list[Entry]]) -> dict[bytes, Entry]:
        """Return of several entries of one name the one whose offset follows from those of its neighbours."""
        found: dict[bytes, Entry] = {}
        known = [index for index, claim in enumerate(self._claims) if claim.name in self._only]
        for index, claim in enumerate(self._claims):
            rows = entries.get(claim.name, [])[:_MOST_PASSED]
            at = bisect(known, index)
            pairs = [(known[at - 1], index)] if rows and at else [(index, known[at])] if rows and known[at:] else []
            regular = [row for row in rows for pair in pairs if self._is_regular(*pair, self._only | {claim.name: row})]
            if len(regular) == 1:
                found[claim.name] = regular[0]
        return found

    def _is_regular(self, one: int, other: int, entries: dict[bytes, Entry]) -> bool:
        if other - one > _MOST_PASSED:
            return True
        claims, align = self._claims[one:other], self._prover.alignment
        for tail in _TAILS[:2]:
            ends = {entries[claims[0].name].offset}
            for claim in claims:
                starts = {end + _LEAST + len(claim.name) + wide for end in ends for wide in _WIDE}
                ends = {start + -start % align + claim.size + (tail if claim.size else 0) for start in starts}
            if entries[self._claims[other].name].offset in ends:
                return True
        return False

    # ---------------------------------------------------------------------------------------------- neighbours

    def _is_known(self, index: int) -> bool:
        """Whether a neighbour is one: located, and named by somebody."""
        there = self._starts[index] and self._claims[index].size
        return bool(there) and max(self._named[index], self._listed[index]) > 0

    def _before(self, index: int) -> _Says:
        other = self._previous.get(index)
        if other is not None:
            return self._follows(other, index)
        if index > _MOST_PASSED or not self._fronts:
            return _Says.NOTHING
        if any(self._leads(end, -1, index) for end in self._fronts):
            return _Says.YES
        least = self._passed(self._fronts[-1], -1, index, _TAILS[0])
        return _Says.NO if self._starts[index] < least else _Says.NOTHING

    def _after(self, index: int) -> _Says:
        other, last = self._next.get(index), len(self._claims)
        if other is not None:
            return self._follows(index, other)
        end = self._end(index)
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
        end = self._end(one)
        return _Says.YES if any(self._leads(end + tail, one, other, tail) for tail in _TAILS) else _Says.NO

    def _end(self, index: int) -> int:
        claim = self._claims[index]
        return self._starts[index] + (claim.found.packed or claim.size)

    def _leads(self, end: int, one: int, other: int, tail: int = 16) -> bool:
        """Whether records behind each other, from `end` on, come to the place where `other` was found."""
        end = self._passed(end, one, other, tail)
        start = self._starts[other]
        return self._heads.get(start) == end or self._prover.start_behind(end, self._claims[other].name) == start

    def _passed(self, end: int, one: int, other: int, tail: int) -> int:
        for claim in self._claims[one + 1 : other]:
            end = self._prover.start_behind(end, claim.name) + (claim.found.packed or claim.size)
            end += tail if claim.size else 0
        return end


def _only_start(headers: Sequence[LocalHeader]) -> int:
    """Return where the data begin of a record that was cut, as its header says; 0 where there are several, or none."""
    return headers[0].start if len(headers) == 1 else 0


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
    """Whether an entry is that of the bytes, but for one byte of its CRC-32 or for zeros in it."""
    pairs = list(zip(entry.crc.to_bytes(4, "little"), found.crc.to_bytes(4, "little"), strict=True))
    return all(one in (other, 0) for one, other in pairs) or sum(one != other for one, other in pairs) == 1
