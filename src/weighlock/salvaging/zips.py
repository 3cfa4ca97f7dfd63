"""Salvage from the zip archives of `torch.save`: by what is left of directory, headers and descriptors.

PyTorch writes ``data.pkl`` first, then the storages in the order in which the pickle names them, each aligned, each
followed by its CRC-32. So the pickle and one neighbour say where a storage is whose header is gone.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from weighlock.errors import DamagedError, WeighlockError
from weighlock.formats.zip_archive import check_proportion
from weighlock.formats.zip_carving import Carving, carve
from weighlock.formats.zip_proving import Found, Prover, described, inflated
from weighlock.formats.zip_writer import ZipForm, write_zip
from weighlock.inspection.paths import key_text
from weighlock.measuring.manifests import ManifestTensor
from weighlock.pickling.pickler import Pickler
from weighlock.salvaging.bytes_kept import kept_records
from weighlock.salvaging.identity import Claim, Surroundings, identified
from weighlock.salvaging.npz import is_npz, plan_npz
from weighlock.salvaging.plan import Plan, Terms, decide, fates, settled
from weighlock.salvaging.raw import DATA, plan_named
from weighlock.salvaging.structure import Structure, describe, nbytes_of
from weighlock.storages.checksum import crc32
from weighlock.storages.source import ByteSource
from weighlock.text import safe_text

__all__ = ["plan_zip"]

_PICKLE: Final = b"data.pkl"
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


class _Archive(NamedTuple):
    """What was found out of an archive: a plan is made of this as often as tensors turn out to be others."""

    source: ByteSource
    terms: Terms
    pickle: _Pickle
    storages: dict[str, Found]
    byteorder: str
    notes: list[str]


def plan_zip(source: ByteSource, terms: Terms, listed: Sequence[ManifestTensor] = ()) -> Plan:
    """Find out what can be saved.

    Parameters
    ----------
    listed : sequence of ManifestTensor
        What storages are looked for, by their digests, where the pickle is damaged.

    Raises
    ------
    DamagedError
        If the pickle is damaged: then nothing else says what the bytes are.
    """
    carving = carve(source, terms.progress)
    if is_npz(carving):
        return plan_npz(source, terms, carving)
    notes: list[str] = []
    if not carving.complete:
        notes.append("the file holds too many marks of records; only the first were looked at")
    tried: list[str] = []
    pickle = _pickle(source, carving, terms, notes, tried)
    if pickle is None and listed:
        return plan_named(source, terms, carving, listed)
    if pickle is None:
        raise DamagedError(
            "the structure is lost: the pickle that names the tensors is damaged or missing",
            got="; ".join(dict.fromkeys(tried)) or "no record data.pkl",
            hint="--raw (raw=True) saves the storages that are whole as arrays of bytes, without names; with a "
            "manifest, tensors are found by their digests.",
        )
    if pickle.structure.is_script:
        notes.append("a TorchScript program: its weights are saved as a state_dict, without the code")
    byteorder = _byteorder(source, carving, pickle, notes)
    storages = {key: decide(found, terms) for key, found in _storages(pickle).items()}
    return _planned(_Archive(source, terms, pickle, storages, byteorder, notes))


def _planned(archive: _Archive, refused: Collection[tuple[Any, ...]] = ()) -> Plan:
    """Plan the new archive, without the tensors of some paths."""
    source, terms, pickle, storages = archive[:4]
    structure = describe(inflated(source, pickle.found), terms.limits) if refused else pickle.structure
    root = pickle.root.decode("utf-8", "surrogateescape")
    leaves = structure.leaves()
    tensors = fates(leaves, storages, lambda key: f"{root}data/{key}")
    named = [(key_text(leaf.path), leaf.value) for leaf in structure.leaves(again=True)] if structure.is_script else []
    made, keys = settled(structure, storages, refused)
    if structure.is_script:
        kept = {id(leaf.value) for leaf, tensor in zip(leaves, tensors, strict=True)
                if tensor.state != "lost" and leaf.path not in refused}  # fmt: skip
        made = {name: value for name, value in named if id(value) in kept}
    data = Pickler(2).dumps(made)
    records = kept_records(source, [storages[key] for key in keys], terms.progress)
    form = ZipForm(byteorder=archive.byteorder)
    return Plan(
        "torch-zip", tensors, archive.notes, lambda sink: write_zip(sink, data, records, form),
        lambda paths: _planned(archive, paths),
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------------- the pickle


def _pickle(source: ByteSource, carving: Carving, terms: Terms, notes: list[str], tried: list[str]) -> _Pickle | None:
    """Return the first pickle that is whole; say of the others why they are not."""
    unproven: _Pickle | None = None
    candidates = _candidates(source, carving)
    ends = [*(offset for _, offset in candidates[1:]), source.size]
    for index, (name, offset) in enumerate(candidates):
        low = offset if index else 0
        prover = Prover(source, carving.within(low, ends[index]), low, ends[index])
        for found in prover.sized(name, terms.limits.max_pickle_bytes):
            shown = safe_text(name.decode("utf-8", "replace"), limit=80)
            if found.state not in ("proven", "unproven"):
                tried.append(f"{shown}: {found.reason}")
                continue
            try:
                check_proportion(found.size, found.packed, name.decode("utf-8", "replace"))
                structure = describe(inflated(source, found), terms.limits)
            except WeighlockError as error:
                tried.append(f"{shown}: {error.what}")
                continue
            high = _region_end(name.removesuffix(_PICKLE), structure, carving, low, ends[index:])
            prover = Prover(source, carving.within(low, high), low, high, progress=terms.progress)
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
    return None


def _candidates(source: ByteSource, carving: Carving) -> list[tuple[bytes, int]]:
    """Return the names of what may be the pickle, and where their headers stand, in the order of the file."""
    found = sorted(
        (header.offset, name) for name, rows in carving.headers.items() if _is_pickle(name) for header in rows
    )[:_MOST_PICKLES]
    if found:
        return [(name, offset) for offset, name in found]
    names = [name for name in carving.entries if _is_pickle(name)]
    names += [match[1] + _PICKLE for match in map(DATA.match, carving.headers) if match][:1]
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
    around = _surroundings(pickle, claims)
    return found | dict(zip(stored, identified(claims, pickle.prover, carving, around, in_order=in_order), strict=True))


def _surroundings(pickle: _Pickle, claims: Sequence[Claim]) -> Surroundings:
    """Return what stands in front of the storages and behind them; TorchScript's pickle stands behind."""
    carving = pickle.prover.carving
    fronts = [pickle.prover.sized(pickle.root + name, _LONGEST_MARK) for name in _FRONT]
    ends = [end for rows in (*fronts, [pickle.found]) for row in rows if (end := _end(row)) is not None]
    first = min((claim.found.start for claim in claims if claim.found.start), default=0)
    behind = [header.offset for name in (*_BEHIND, _PICKLE) for header in carving.headers.get(pickle.root + name, [])]
    return Surroundings(
        [end for end in ends if end <= first],
        [place for place in behind if place >= first] + [rows[0].place for rows in carving.entries.values() if rows],
    )


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
    best, least = list(named), (len(named) + 1, 0)
    for keys in (list(named), sorted(named)):
        for rows in (carving.headers, carving.entries):
            there = [index for index, key in enumerate(keys) if rows.get(named[key])]
            found = [rows[named[keys[index]]][0].offset for index in there]
            wrong = sum(one > other for one, other in pairwise(found))
            # What is cut away is missing at the end of the right order, and in the middle of the other.
            missing = there[-1] - len(there) if there else 0
            if there and (wrong, missing) < least:
                best, least = keys, (wrong, missing)
    return best, least[0] <= 2 + len(named) // 50


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
