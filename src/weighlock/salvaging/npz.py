"""Salvage from .npz archives: members that are whole, as they are.

A member's name stands in its header and in the directory, and nothing else says it: neither sizes nor places do. It is
proven where the two agree and a CRC-32 fits.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from weighlock.errors import DamagedError, WeighlockError
from weighlock.formats.npy import parse_header
from weighlock.formats.npz_writer import Member, write_members
from weighlock.formats.zip_carving import Carving, LocalHeader, carve
from weighlock.formats.zip_entries import zip64_fields
from weighlock.formats.zip_proving import Found, Prover, inflated_crc
from weighlock.formats.zip_remains import LOCAL_SIZE
from weighlock.limits import Limits
from weighlock.salvaging.plan import TRIED, Plan, Terms, decide
from weighlock.salvaging.report import SalvagedTensor
from weighlock.storages.sinks import Buffer, Stream
from weighlock.storages.source import ByteSource

__all__ = ["is_npz", "plan_npz"]

_SUFFIX: Final = b".npy"
_PIECE: Final = 1 << 20
_USUAL: Final = 1 << 16
_MISSING: Final = Found(0, 0, 0, 0, "missing", "its header was not found")


def is_npz(carving: Carving) -> bool:
    """Whether the members of an archive are NumPy's, and none is a pickle of PyTorch's."""
    names = {name for rows in (carving.headers, carving.entries) for name, there in rows.items() if there}
    return any(name.endswith(_SUFFIX) for name in names) and not any(name.endswith(b"data.pkl") for name in names)


def plan_npz(
    source: ByteSource, terms: Terms, carving: Carving | None = None, refused: Collection[tuple[Any, ...]] = ()
) -> Plan:
    """Find out what can be saved, without the arrays of some names.

    Raises
    ------
    DamagedError
        If no member is whole.
    """
    carving = carve(source, terms.progress) if carving is None else carving
    claims = _claims(source, carving, terms)
    tensors: list[SalvagedTensor] = []
    kept: list[tuple[bytes, Found]] = []
    for name, found in claims:
        judged = decide(found, terms)
        if judged.state == TRIED and found.state == "damaged":
            judged = judged._replace(state="lost")  # its header may be what is damaged: then it cannot be read at all
        text = name.decode("utf-8", "surrogateescape")
        path = (text.removesuffix(".npy"),)
        tensors.append(SalvagedTensor(path, (text,), judged.size, judged.state, judged.reason))
        if judged.state != "lost" and path not in refused:
            kept.append((name, judged))
    if not kept:
        raise DamagedError("no member of the archive is whole")
    members = [_member(source, name, found, terms) for name, found in kept]
    return Plan(
        "npz", tensors, [], lambda sink: write_members(sink, members),
        lambda paths: plan_npz(source, terms, carving, paths),
    )  # fmt: skip


def _claims(source: ByteSource, carving: Carving, terms: Terms) -> list[tuple[bytes, Found]]:
    """Return what was found of each member, in the order of the directory, or of the headers."""
    prover = Prover(source, carving, 0, source.size, progress=terms.progress)
    places: dict[bytes, int] = {}
    for rows in (carving.entries, carving.headers):
        for name, there in rows.items():
            if name.endswith(_SUFFIX) and there:
                places.setdefault(name, there[0].offset)
    names = sorted(places, key=places.__getitem__)
    headers = [header for name in names for header in carving.headers.get(name, [])]
    bearers = {header.start: header.name for header in headers}
    shown = {header.offset: header.name for header in headers}
    # A member that the directory has under another name than its header is one member.
    names = [name for name in names if carving.headers.get(name)
             or shown.get(places[name] + prover.shifts[0], name) == name]  # fmt: skip
    found = {name: _found(source, prover, name, terms.limits) for name in names}
    return [(name, _judged(name, found[name], bearers, carving)) for name in names]


def _judged(name: bytes, found: Found, bearers: Mapping[int, bytes], carving: Carving) -> Found:
    """Return what was found, proven only where header and directory agree on whose it is."""
    if found.state != "proven":
        return found
    entries, headers = carving.entries.get(name, []), carving.headers.get(name, [])
    is_listed = len(entries) == 1 and entries[0].crc == found.crc
    if bearers.get(found.start) == name and is_listed and len(headers) == 1:
        return found
    where = "directory" if found.start not in bearers else "header"
    return found._replace(state="unproven", reason=f"its CRC-32 fits, but only the {where} says whose it is")


def _found(source: ByteSource, prover: Prover, name: bytes, limits: Limits) -> Found:
    """Return the best of what a member may be: how long it is, directory, header and array say."""
    best = _MISSING
    for size in dict.fromkeys(_sizes(source, prover.carving, name, limits)):
        found = prover.find(name, size)
        if found.state == "proven":
            return found
        best = found if best is _MISSING else best
    for header in prover.carving.headers.get(name, [])[:8]:
        packed, size = _own_sizes(source, header)
        if not header.method or not packed or prover.carving.entries.get(name):
            continue
        if header.start + packed > source.size:
            best = best._replace(state="cut", reason="the file ends before its data do")
        else:
            crc = inflated_crc(source, header.start, packed, size)
            if crc is not None and crc == header.crc:
                reason = "its CRC-32 is the one that was written"
                return Found(header.start, packed, size, header.method, "proven", reason, crc)
    return best


def _sizes(source: ByteSource, carving: Carving, name: bytes, limits: Limits) -> Iterator[int]:
    for entry in carving.entries.get(name, []):
        yield entry.size
    for header in carving.headers.get(name, [])[:8]:
        size = _own_sizes(source, header)[1]
        if size and not header.method:
            yield size
        try:
            array = parse_header(source.read_at(header.start, min(_USUAL, source.size - header.start)), limits)
        except WeighlockError:
            continue
        yield array.data_start + array.nbytes


def _own_sizes(source: ByteSource, header: LocalHeader) -> tuple[int, int]:
    """Return how long a header says that its member is, packed and unpacked; NumPy says so in the field of zip64."""
    if header.size:
        return header.packed, header.size
    fixed = header.offset + LOCAL_SIZE + len(header.name)
    numbers = list(zip64_fields(source.read_at(fixed, max(min(header.start, source.size) - fixed, 0))))
    return (numbers[1], numbers[0]) if len(numbers) >= 2 else (0, 0)


def _member(source: ByteSource, name: bytes, found: Found, terms: Terms) -> Member:
    def pieces() -> Iterator[Buffer | Stream]:
        for done in range(0, found.packed, _PIECE):
            data = source.read_at(found.start + done, min(_PIECE, found.packed - done))
            terms.progress(len(data))
            yield data

    return Member(name, found.method, found.size, found.packed, found.crc if found.method else None, pieces)
