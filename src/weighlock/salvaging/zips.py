"""Salvage from the zip archives of `torch.save`: by what is left of directory, headers and descriptors.

PyTorch writes ``data.pkl`` first, then the storages in the order in which the pickle names them, each aligned, each
followed by its CRC-32. So the pickle and one neighbour say where a storage is whose header is gone.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from weighlock.errors import DamagedError, UnsupportedError, WeighlockError
from weighlock.formats.zip_carving import Carving, Found, Prover, carve, described, inflated
from weighlock.formats.zip_writer import ZipForm, write_zip
from weighlock.limits import Limits
from weighlock.pickling.inert import GlobalRef
from weighlock.pickling.pickler import Pickler
from weighlock.pickling.reductions import TensorCall, TensorForm, TensorPattern
from weighlock.salvaging.bytes_kept import kept_records
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
    storages = {key: decide(found, require_crc=require_crc) for key, found in _storages(pickle)}
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
    for name, low, high in _regions(source, carving):
        prover = Prover(source, carving.within(low, high), low, high)
        for found in prover.sized(name, limits.max_pickle_bytes):
            if found.state not in ("proven", "unproven"):
                tried.append(f"{safe_text(name.decode('utf-8', 'replace'), limit=80)}: {found.reason}")
                continue
            try:
                structure = describe(inflated(source, found), limits)
            except WeighlockError as error:
                tried.append(f"{safe_text(name.decode('utf-8', 'replace'), limit=80)}: {error.what}")
                continue
            pickle = _Pickle(name.removesuffix(_PICKLE), found, structure, prover)
            if found.state == "proven":
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


def _regions(source: ByteSource, carving: Carving) -> Iterator[tuple[bytes, int, int]]:
    """Give the names of what may be the pickle, and the stretch of the file that may belong to it."""
    found = sorted(
        (header.offset, name) for name, rows in carving.headers.items() if _is_pickle(name) for header in rows
    )[:_MOST_PICKLES]
    for index, (offset, name) in enumerate(found):
        # Of several checkpoints in one file, one's pickle must not be taken for the other's storages.
        high = found[index + 1][0] if index + 1 < len(found) else source.size
        yield name, offset if index else 0, high
    if not found:
        names = [name for name in carving.entries if _is_pickle(name)]
        names += [match[1] + _PICKLE for match in map(_DATA.match, carving.headers) if match][:1]
        yield from ((name, 0, source.size) for name in dict.fromkeys(names))


def _is_pickle(name: bytes) -> bool:
    return name == _PICKLE or name.endswith(b"/" + _PICKLE)


# ------------------------------------------------------------------------------------------------------ the storages


def _storages(pickle: _Pickle) -> Iterator[tuple[str, Found]]:
    """Look for each storage, from the first on: where one ends, the next one begins."""
    places = list(pickle.structure.places.values())
    names = [pickle.root + b"data/" + place.key.encode("utf-8", "surrogateescape") for place in places]
    # Storages that no PyTorch writes in this order have headers of their own, or are lost.
    before = _end(pickle.prover.find(pickle.root + b"byteorder", 6))
    taken: list[Found] = []
    cut = False
    for index, place in enumerate(places):
        if place.location == "meta":
            yield place.key, Found(0, 0, 0, 0, "proven", "it has no data: it was on the device meta")
            continue
        size = nbytes_of(place)
        after = names[index + 1] if index + 1 < len(names) else pickle.root + b"version"
        found = pickle.prover.find(names[index], size, before, after)
        if found.size and found.state in ("proven", "unproven") and _overlaps(found, taken):
            found = found._replace(state="damaged", reason="what was found lies inside of another storage")
        if found.start and size:
            taken.append(found)
        cut = cut or found.state == "cut"
        if cut and found.state == "missing":
            found = found._replace(state="cut", reason="the file ends before its header")
        before = _end(found) if size else before
        yield place.key, found


def _end(found: Found) -> int | None:
    """Return where a record ends, its descriptor included; None where that is not known."""
    if not found.start:
        return None
    wide = found.start >= _FULL32 or found.packed >= _FULL32
    return found.start + found.packed + (_LONG_DESCRIPTOR if wide else _DESCRIPTOR)


def _overlaps(found: Found, taken: list[Found]) -> bool:
    return any(
        other.start < found.start + found.packed and found.start < other.start + other.packed for other in taken[-2:]
    )


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


def _raw_writer(source: ByteSource, kept: list[tuple[str, Found]]) -> Callable[[Sink], None]:
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
