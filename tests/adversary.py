"""Damages that agree with each other: archives of equal tensors whose names and places are changed on purpose.

All storages are of one size and every checksum in the file is right for some of them: only name and place tell whose
bytes are whose. What may not happen is that a tensor gets the bytes of another one and is called proven.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import weighlock as wl
from tests.damage import equal, flipped, regions, saved, zeroed
from weighlock.errors import WeighlockError

COUNT = 10
EQUAL: dict[str, Any] = {f"t{number}": np.random.default_rng(number).random(56, "f4") for number in range(COUNT)}


class Archive(NamedTuple):
    """A whole archive, and where what belongs to each storage stands in it.

    `records` are whole records, from the header to the end of the descriptor; `names` is where the last digit of each
    storage's name stands, in its header and in the directory.
    """

    data: bytes
    records: list[tuple[int, int]]
    names: list[tuple[int, int]]
    directory: int
    starts: list[int]
    entries: list[tuple[int, int]]


def archive(data: bytes) -> Archive:
    """Take an archive of ours, or of PyTorch's, apart."""
    rows = regions(data)
    directory = next(at for kind, _, at, _ in rows if kind == "directory")
    starts = [next(at for kind, name, at, _ in rows if kind == "data" and name.endswith(f"/data/{number}"))
              for number in range(COUNT)]  # fmt: skip
    heads = [data.rindex(b"PK\3\4", 0, start) for start in starts]
    ends = [data.index(b"PK\7\x08", start) + 16 for start in starts]
    entries = [data.rindex(b"PK\1\2", 0, data.index(b"/data/%d" % number, directory)) for number in range(COUNT)]
    names = [
        (data.index(b"/data/%d" % number, head) + 6, data.index(b"/data/%d" % number, directory) + 6)
        for number, head in enumerate(heads)
    ]
    stops = [data.index(b"PK", at + 4) for at in entries]
    return Archive(data, list(zip(heads, ends, strict=True)), names, directory, starts,
                   list(zip(entries, stops, strict=True)))  # fmt: skip


class Adversary:
    """Damages an archive in a few ways that are likely to agree with each other."""

    def __init__(self, whole: Archive, seed: int) -> None:
        self._whole = whole
        self._rng = random.Random(seed)
        self._near: list[int] = []
        self._overwritten: set[int] = set()
        self.did: list[str] = []

    def damaged(self) -> bytes:
        """Return the archive after one to five damages; those that move bytes come last."""
        rng = self._rng
        data = bytearray(self._whole.data)
        focus = rng.randrange(COUNT)
        self._near = [max(0, min(COUNT - 1, focus + step)) for step in (-1, 0, 0, 1, 1, 2)]
        for _ in range(rng.choice([1, 1, 2, 2, 3, 4])):
            self._in_place(data, rng.choice(IN_PLACE))
        made = bytes(data)
        if rng.random() < 0.5:
            made = self._moved(made)
        if rng.random() < 0.35:
            self.did.append("cut the directory")
            made = made[: max(len(made) - (len(self._whole.data) - self._whole.directory), 0)]
        elif rng.random() < 0.2:
            at = rng.randrange(self._whole.records[0][0], len(made))
            self.did.append(f"cut at {at}")
            made = made[:at]
        return made

    def _one(self) -> int:
        return self._rng.choice(self._near) if self._rng.random() < 0.8 else self._rng.randrange(COUNT)

    def _in_place(self, data: bytearray, do: Callable[[Any, bytearray, int, int], None]) -> None:
        one, other = self._one(), self._one()
        self.did.append(f"{do.__name__} {one} {other}")
        do(self, data, one, other)

    def rename_header(self, data: bytearray, one: int, other: int) -> None:
        if one in self._overwritten or not data[self._whole.names[one][0]]:
            return  # under its old name again it would be a storage that is equal to another one
        data[self._whole.names[one][0]] = 48 + other

    def rename_entry(self, data: bytearray, one: int, other: int) -> None:
        data[self._whole.names[one][1]] = 48 + other

    def rename_both(self, data: bytearray, one: int, other: int) -> None:
        self.rename_header(data, one, other)
        self.rename_entry(data, one, other)

    def swap_headers(self, data: bytearray, one: int, other: int) -> None:
        self.rename_header(data, one, other)
        self.rename_header(data, other, one)

    def swap_entries(self, data: bytearray, one: int, other: int) -> None:
        self.rename_entry(data, one, other)
        self.rename_entry(data, other, one)

    def flip_name(self, data: bytearray, one: int, other: int) -> None:
        if one in self._overwritten:
            return
        at = self._whole.names[one][other % 2]
        data[at] ^= 1 << self._rng.randrange(3)

    def overwrite(self, data: bytearray, one: int, other: int) -> None:
        """A block is written where another one belongs: header, data and descriptor."""
        (low, high), (begin, end) = self._whole.records[one], self._whole.records[other]
        if high - low == end - begin:
            self._overwritten.add(other)
            data[begin:end] = data[low:high]

    def zero_header(self, data: bytearray, one: int, other: int) -> None:
        low = self._whole.records[one][0]
        data[low : self._whole.starts[one]] = bytes(self._whole.starts[one] - low)

    def zero_descriptor(self, data: bytearray, one: int, other: int) -> None:
        high = self._whole.records[one][1]
        data[high - 16 : high] = bytes(16)

    def zero_data(self, data: bytearray, one: int, other: int) -> None:
        start = self._whole.starts[one]
        data[start : start + 40] = bytes(40)

    def zero_record(self, data: bytearray, one: int, other: int) -> None:
        low, high = self._whole.records[one]
        data[low:high] = bytes(high - low)

    def zero_entry(self, data: bytearray, one: int, other: int) -> None:
        low, high = self._whole.entries[one]
        data[low:high] = bytes(high - low)

    def flip_anywhere(self, data: bytearray, one: int, other: int) -> None:
        at = self._rng.randrange(self._whole.records[0][0], len(data))
        data[at] ^= 1 << self._rng.randrange(8)

    def flip_descriptor(self, data: bytearray, one: int, other: int) -> None:
        data[self._whole.records[one][1] - 12 + self._rng.randrange(4)] ^= 1 << self._rng.randrange(8)

    def flip_entry(self, data: bytearray, one: int, other: int) -> None:
        """The CRC-32, sizes or offset of an entry."""
        data[self._whole.entries[one][0] + self._rng.choice([*range(16, 28), *range(42, 46)])] ^= 1 << other % 8

    def _moved(self, data: bytes) -> bytes:
        rng, one = self._rng, self._one()
        low, high = self._whole.records[one]
        kind = rng.randrange(5)
        self.did.append(f"move {kind} {one}")
        if kind < 2:
            return data[:low] + data[high:]
        if kind == 2:
            at, step = rng.randrange(low, high), rng.choice([high - low, 64, 512, rng.randrange(1, 900)])
            return data[:at] + data[at + step :]
        if kind == 3:
            at = rng.choice([low, rng.randrange(low, high)])
            return data[:at] + bytes(rng.choice([high - low, 64, 1])) + data[at:]
        other = self._one()
        begin, end = self._whole.records[other]
        if end - begin != high - low or one == other:
            return data
        moved = bytearray(data)
        moved[low:high], moved[begin:end] = data[begin:end], data[low:high]
        return bytes(moved)


IN_PLACE = [
    Adversary.rename_header, Adversary.rename_header, Adversary.rename_header, Adversary.rename_entry,
    Adversary.rename_both, Adversary.swap_headers, Adversary.swap_entries, Adversary.flip_name, Adversary.flip_name,
    Adversary.overwrite, Adversary.zero_header, Adversary.zero_descriptor, Adversary.zero_data, Adversary.zero_record,
    Adversary.zero_entry, Adversary.flip_anywhere, Adversary.flip_descriptor, Adversary.flip_entry,
]  # fmt: skip


def is_of_another(whole: Archive, data: bytes, number: int) -> bool:
    """Whether damage has made, around a storage, what another model's archive would be.

    Where no directory lists it, its name and its neighbours' stand where they must, or are gone: the file says
    nothing that is wrong.
    """
    heads = [at for at, _ in whole.names]
    return data.count(b"/data/%d" % number) == 1 and all(
        data[heads[index] : heads[index] + 1] in ((b"%d" % index,) if index == number else (b"%d" % index, b"", b"\0"))
        for index in range(max(number - 1, 0), min(number + 2, COUNT))
    )


class Tally(NamedTuple):
    """What became of the tensors of many damaged files; `wrong` are those with the values of others, by state."""

    files: int
    states: dict[str, int]
    wrong: list[tuple[int, str, str, list[str]]]


def tally(whole: Archive, expected: dict[str, Any], seeds: range, target: Path, **options: Any) -> Tally:
    """Damage, salvage and compare, once for each seed."""
    states = {"proven": 0, "unproven": 0, "lost": 0}
    wrong: list[tuple[int, str, str, list[str]]] = []
    for seed in seeds:
        adversary = Adversary(whole, seed)
        data = adversary.damaged()
        try:
            report = wl.salvage(data, target, force=True, **options)
        except WeighlockError:
            continue
        found = wl.load(target)
        for tensor in report.tensors:
            states[tensor.state] += 1
            if tensor.state == "lost" or equal(found[tensor.path[0]], expected[tensor.path[0]]):
                continue
            if not is_of_another(whole, data, int(tensor.key[1:])):
                wrong.append((seed, tensor.key, tensor.state, adversary.did))
    return Tally(len(seeds), states, wrong)


__all__ = ["COUNT", "EQUAL", "Adversary", "Archive", "Tally", "archive", "flipped", "saved", "tally", "zeroed"]

if __name__ == "__main__":
    import sys
    import tempfile

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        made = tally(archive(saved(EQUAL)), EQUAL, range(9_000_000, 9_000_000 + count), Path(folder, "out.pt"))
    bad = [row for row in made.wrong if row[2] == "proven"]
    print(f"{made.files:,} damaged files, {made.states['proven']:,} tensors proven, {len(bad)} of them another's:", bad)
