"""Salvage from the zip archives of `torch.save`: by what is left of directory, headers and descriptors.

PyTorch writes ``data.pkl`` first, then the storages in the order in which the pickle names them, each aligned, each
followed by its CRC-32. So the pickle and one neighbour say where a storage is whose header is gone.
"""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Final, NamedTuple

from weighlock.errors import DamagedError, UnsupportedError, WeighlockError
from weighlock.formats.zip_archive import check_proportion
from weighlock.formats.zip_carving import Carving, carve
from weighlock.formats.zip_proving import Found, Prover, described, inflated
from weighlock.formats.zip_writer import ZipForm, write_zip
from weighlock.limits import Limits
from weighlock.pickling.inert import GlobalRef
from weighlock.pickling.pickler import Pickler
from weighlock.pickling.reductions import TensorCall, TensorForm, TensorPattern
from weighlock.salvaging.bytes_kept import kept_records
from weighlock.salvaging.identity import Claim, Surroundings, identified
from weighlock.salvaging.plan import Plan, decide, fates, settled
from weighlock.salvaging.report import SalvagedTensor
from weighlock.salvaging.structure import Structure, describe, nbytes_of
from weighlock.storages.checksum import crc32
from weighlock.storages.sinks import Sink, StorageRecords
from weighlock.storages.source import ByteSource
from weighlock.text import safe_text

__all__ = ["plan_raw", "plan_zip"]

_PICKLE: Final = b"data.pkl"
_DATA: Final = re.compile(rb"(.*/|)(data|tensors)/([^/]+)\Z", re.DOTALL)
_DESCRIPTOR: Final = 16
_LONG_DESCRIPTOR: Final = 24
_FULL32: Final = 0xFFFFFFFF
_ORDERS: Final = (b"little", b"big")
_MOST_PICKLES: Final = 16
# The small records that PyTorch writes between the pickle and the storages.
_FRONT: Final = (b"byteorder", b".format_version", b".storage_alignment")
_BEHIND: Final = (b"version", b".data/serialization_id")
_LONGEST_MARK: Final = 64


class _Pickle(NamedTuple):
    """The pickle of a checkpoint: its record's root folder, where it was found, and what it describes."""

    root: bytes
    found: Found
    structure: Structure
    prover: Prover


def plan_zip(source: ByteSource, limits: Limits, *, require_crc: bool) -> Plan:
    """Find out what can be saved.

    Raises
    ------
    DamagedError
        If the pickle is damaged: then nothing says what the bytes are.
    UnsupportedError
        If the archive is a TorchScript program.
    """
    carving = carve(source)
    notes: list[str] = []
    if not carving.complete:
        notes.append("the file holds too many marks of records; only the first were looked at")
    pickle = _pickle(source, carving, limits, notes)
    if any(name.endswith(b"constants.pkl") for name in carving.headers):
        raise UnsupportedError("a TorchScript program cannot be salvaged", hint="--raw saves its storages as bytes.")
    byteorder = _byteorder(source, carving, pickle, notes)
    storages = {key: decide(found, require_crc=require_crc) for key, found in _storages(pickle).items()}
    structure, root = pickle.structure, pickle.root.decode("utf-8", "surrogateescape")
    tensors = fates(structure.leaves(), storages, lambda key: f"{root}data/{key}")
    made, keys = settled(structure, storages)
    data = Pickler(2).dumps(made)
    records = kept_records(source, [storages[key] for key in keys])
    form = ZipForm(byteorder=byteorder)
    return Plan("torch-zip", tensors, notes, lambda sink: write_zip(sink, data, records, form))


# -------------------------------------------------------------------------------------------------------- the pickle


def _pickle(source: ByteSource, carving: Carving, limits: Limits, notes: list[str]) -> _Pickle:
    """Return the first pickle that is whole."""
    tried: list[str] = []
    unproven: _Pickle | None = None
    candidates = _candidates(source, carving)
    ends = [*(offset for _, offset in candidates[1:]), source.size]
    for index, (name, offset) in enumerate(candidates):
        low = offset if index else 0
        prover = Prover(source, carving.within(low, ends[index]), low, ends[index])
        for found in prover.sized(name, limits.max_pickle_bytes):
            shown = safe_text(name.decode("utf-8", "replace"), limit=80)
            if found.state not in ("proven", "unproven"):
                tried.append(f"{shown}: {found.reason}")
                continue
            try:
                check_proportion(found.size, found.packed, name.decode("utf-8", "replace"))
                structure = describe(inflated(source, found), limits)
            except WeighlockError as error:
                tried.append(f"{shown}: {error.what}")
                continue
            high = _region_end(name.removesuffix(_PICKLE), structure, carving, low, ends[index:])
            prover = Prover(source, carving.within(low, high), low, high)
            pickle = _Pickle(name.removesuffix(_PICKLE), found, structure, prover)
            if found.state == "proven":
                if tried:
                    notes.append(f"an earlier pickle is damaged; this is what the archive at byte {low:,} holds")
                return pickle
            if structure.end == found.size:
                unproven = unproven or pickle
    if unproven is not None:
        notes.append("no checksum proves the pickle: names and shapes are as the file has them")
        return unproven
    raise DamagedError(
        "the structure is lost: the pickle that names the tensors is damaged or missing",
        got="; ".join(dict.fromkeys(tried)) or "no record data.pkl",
        hint="--raw (raw=True) saves the storages that are whole as arrays of bytes, without names.",
    )  # fmt: skip


def _candidates(source: ByteSource, carving: Carving) -> list[tuple[bytes, int]]:
    """Return the names of what may be the pickle, and where their headers stand, in the order of the file."""
    found = sorted(
        (header.offset, name) for name, rows in carving.headers.items() if _is_pickle(name) for header in rows
    )[:_MOST_PICKLES]
    if found:
        return [(name, offset) for offset, name in found]
    names = [name for name in carving.entries if _is_pickle(name)]
    names += [match[1] + _PICKLE for match in map(_DATA.match, carving.headers) if match][:1]
    return [(name, source.size) for name in dict.fromkeys(names)][:1]


def _region_end(root: bytes, structure: Structure, carving: Carving, low: int, ends: list[int]) -> int:
    """Return where the stretch of a file ends that may belong to a pickle.

    Of several checkpoints behind each other, the storages of one must not be taken for those of another. One that lies
    inside of a storage, as bytes, ends nothing.
    """
    sizes = {root + b"data/" + key.encode("utf-8", "surrogateescape"): nbytes_of(place)
             for key, place in structure.places.items()}  # fmt: skip
    for end in ends[:-1]:
        inside = any(
            low <= header.start <= end < header.start + size
            for name, size in sizes.items() for header in carving.headers.get(name, [])[:8]
        )  # fmt: skip
        if not inside:
            return end
    return ends[-1]


def _is_pickle(name: bytes) -> bool:
    return name == _PICKLE or name.endswith(b"/" + _PICKLE)


# ------------------------------------------------------------------------------------------------------ the storages


def _storages(pickle: _Pickle) -> dict[str, Found]:
    """Look for each storage, and make sure whose the bytes are that were found."""
    places, carving = pickle.structure.places, pickle.prover.carving
    named = {key: pickle.root + b"data/" + key.encode("utf-8", "surrogateescape") for key in places}
    keys, in_order = _file_order(named, carving)
    found = dict(_searched(pickle, keys, named, in_order=in_order))
    stored = [key for key in keys if places[key].location != "meta"]
    claims = [Claim(named[key], nbytes_of(places[key]), found[key]) for key in stored]
    around = _surroundings(pickle)
    return found | dict(
        zip(stored, identified(claims, pickle.prover, carving, around, in_order=in_order), strict=True)
    )


def _surroundings(pickle: _Pickle) -> Surroundings:
    """Return what stands in front of the storages and behind them."""
    carving = pickle.prover.carving
    fronts = [pickle.prover.sized(pickle.root + name, _LONGEST_MARK) for name in _FRONT]
    ends = [end for rows in (*fronts, [pickle.found]) for row in rows if (end := _end(row)) is not None]
    behind = [header.offset for name in _BEHIND for header in carving.headers.get(pickle.root + name, [])]
    return Surroundings(ends, behind + [rows[0].place for rows in carving.entries.values() if rows])


def _searched(
    pickle: _Pickle, keys: list[str], named: dict[str, bytes], *, in_order: bool
) -> Iterator[tuple[str, Found]]:
    """Look for each storage, from the first in the file on: where one ends, the next one begins."""
    if in_order:
        pickle = pickle._replace(prover=pickle.prover.in_order([named[key] for key in keys]))
    before = _end(pickle.prover.find(pickle.root + b"byteorder", 6))
    floor, cut = 0, False
    for index, key in enumerate(keys):
        place, name = pickle.structure.places[key], named[key]
        if place.location == "meta":
            yield key, Found(0, 0, 0, 0, "proven", "it has no data: it was on the device meta")
            continue
        size = nbytes_of(place)
        after = named[keys[index + 1]] if index + 1 < len(keys) else pickle.root + b"version"
        found = pickle.prover.find(name, size, before, after, floor)
        cut = cut or found.state == "cut"
        if cut and found.state == "missing":
            found = found._replace(state="cut", reason="the file ends before its header")
        if not size:
            before = None if before is None else pickle.prover.start_behind(before, name)
        else:
            before = _end(found) if found.state in ("proven", "unproven") else None
            if in_order and found.state in ("proven", "unproven"):
                floor = found.start + found.packed
        yield key, found


def _file_order(named: dict[str, bytes], carving: Carving) -> tuple[list[str], bool]:
    """Return the keys in the order of their records, and whether headers or directory bear it out.

    PyTorch writes them as the pickle names them; older releases sorted them as text.
    """
    best, least = list(named), -1
    for keys in (list(named), sorted(named)):
        for rows in (carving.headers, carving.entries):
            found = [there[0].offset for key in keys if (there := rows.get(named[key]))]
            wrong = sum(one > other for one, other in pairwise(found))
            if found and (least < 0 or wrong < least):
                best, least = keys, wrong
    return best, least <= 2 + len(named) // 50


def _end(found: Found) -> int | None:
    """Return where a record ends, its descriptor included; None where that is not known."""
    if not found.start:
        return None
    wide = found.start >= _FULL32 or found.packed >= _FULL32
    return found.start + found.packed + (_LONG_DESCRIPTOR if wide else _DESCRIPTOR)


def _byteorder(source: ByteSource, carving: Carving, pickle: _Pickle, notes: list[str]) -> str:
    """Return in which order the storages' bytes are: the record that says so, or its checksum where it is damaged."""
    name = pickle.root + b"byteorder"
    crcs = {entry.crc for entry in carving.entries.get(name, [])}
    for order in _ORDERS:
        found = pickle.prover.find(name, len(order))
        if found.state in ("proven", "unproven") and source.read_at(found.start, len(order)) == order:
            return order.decode()
        behind = described(source, found.start + len(order), len(order), len(order)) if found.start else None
        if crc32(order) in crcs or (behind is not None and behind[0] == crc32(order)):
            return order.decode()
    if name in carving.headers or name in carving.entries:
        notes.append("the record byteorder is damaged: the bytes were taken for little-endian")
    return "little"


# ----------------------------------------------------------------------------------------------------------- raw bytes


def plan_raw(source: ByteSource, limits: Limits, *, require_crc: bool) -> Plan:
    """Find out which storages are whole, whatever they mean: a dictionary of byte arrays by record name.

    Raises
    ------
    DamagedError
        If none is.
    """
    carving = carve(source)
    prover = Prover(source, carving, 0, source.size)
    names = sorted(
        (min(h.offset for h in rows), name) for name, rows in carving.headers.items() if _DATA.match(name) and rows
    )
    known = {name for _, name in names}
    names += [(source.size, name) for name in carving.entries if _DATA.match(name) and name not in known]
    kept: list[tuple[str, Found]] = []
    tensors: list[SalvagedTensor] = []
    for _, name in names:
        text = name.decode("utf-8", "surrogateescape")
        best = next(iter(prover.sized(name, source.size)), Found(0, 0, 0, 0, "missing", "nothing says how long it is"))
        found = decide(best, require_crc=require_crc)
        match = _DATA.match(name)
        short = text if match is None else text[len(match[1].decode("utf-8", "surrogateescape")) :]
        tensors.append(SalvagedTensor((short,), (text,), found.size, found.state, found.reason))
        if found.state != "lost":
            kept.append((short, found))
    if not kept:
        raise DamagedError("no storage in the file is whole")
    notes = ["the structure is lost: the storages are saved as arrays of bytes, by the names of their records"]
    return Plan("torch-zip", tensors, notes, _raw_writer(source, kept))


def _raw_writer(source: ByteSource, kept: list[tuple[str, Found]]) -> Callable[[Sink], object]:
    founds = [found for _, found in kept]
    form = TensorForm(GlobalRef("torch._utils", "_rebuild_tensor_v2"), GlobalRef("torch", "ByteStorage"))
    made = {}
    for index, (name, found) in enumerate(kept):
        pattern = TensorPattern(form, "cpu", found.size, 0, (found.size,), (1,))
        made[name] = _Flat(pattern, index)
    data = Pickler(2, describe=lambda kind: _Flat.call if kind is _Flat else None).dumps(made)
    records: StorageRecords = kept_records(source, founds)
    return lambda sink: write_zip(sink, data, records)


class _Flat(NamedTuple):
    """A flat array of bytes, as the pickler is given it."""

    pattern: TensorPattern
    number: int

    @staticmethod
    def call(value: "_Flat") -> TensorCall:
        """Describe it to the pickler."""
        return value.pattern, str(value.number)
