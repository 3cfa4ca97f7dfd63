"""Salvage from the stream of before 1.6: five pickles, then each storage behind its length.

There are no checksums. A storage's place is believed where its own length stands in front of it, and the next one's, or
the end of what is there, behind it; its bytes are never proven.
"""

from collections.abc import Collection
from typing import Any, Final

from weighlock.errors import DamagedError, PickleStreamError, TruncatedPickleError, WeighlockError
from weighlock.formats.legacy_writer import write_legacy
from weighlock.formats.zip_proving import Found
from weighlock.limits import Limits
from weighlock.pickling.allowlist import Allowlist
from weighlock.pickling.pickler import Pickler
from weighlock.pickling.unpickler import Unpickler
from weighlock.salvaging.bytes_kept import kept_records
from weighlock.salvaging.plan import Plan, Terms, decide, fates, settled
from weighlock.salvaging.structure import Structure, describe, nbytes_of, unit_of
from weighlock.storages.source import ByteSource
from weighlock.tensors.leaves import Leaves

__all__ = ["plan_stream"]

_FIRST_READ: Final = 1 << 20
_COUNT: Final = 8


def plan_stream(source: ByteSource, terms: Terms, refused: Collection[tuple[Any, ...]] = ()) -> Plan:
    """Find out what can be saved, without the tensors of some paths.

    Raises
    ------
    DamagedError
        If the pickles are damaged: then nothing says what the bytes are.
    """
    notes: list[str] = ["this format has no checksums: what is kept is where it should be, and as long"]
    structure, keys, position = _pickles(source, terms.limits)
    located = _located(source, structure, keys, position)
    storages = {key: decide(found, terms) for key, found in located.items()}
    tensors = fates(structure.leaves(), storages, lambda key: f"storage {key}")
    places = structure.places
    made, kept = settled(structure, storages, refused)
    data = Pickler(2).dumps(made)
    units = [unit_of(places[key]) for key in kept]
    records = kept_records(source, [storages[key] for key in kept], terms.progress)
    return Plan(
        "torch-legacy", tensors, notes, lambda sink: write_legacy(sink, data, records, units, 2),
        lambda paths: plan_stream(source, terms, paths),
    )  # fmt: skip


def _pickles(source: ByteSource, limits: Limits) -> tuple[Structure, list[str], int]:
    """Run the five pickles; return the object, the keys, and where the data begin."""
    size = min(source.size, _FIRST_READ)
    while True:
        try:
            return _run(source.read_at(0, size), limits)
        except TruncatedPickleError as error:
            if size == source.size:
                raise _lost(error) from error
            size = min(source.size, size * 8)
        except PickleStreamError as error:
            raise _lost(error) from error


def _lost(error: WeighlockError) -> DamagedError:
    return DamagedError(
        "the structure is lost: the pickle that names the tensors is damaged or cut", got=error.what,
        offset=error.offset, hint="Nothing says where the tensors of such a stream are; get the file again.",
    )  # fmt: skip


def _run(data: bytes, limits: Limits) -> tuple[Structure, list[str], int]:
    position = 0
    for _ in range(3):
        _, position = _plain(data, position, limits)
    structure = describe(data, limits, start=position)
    keys, position = _plain(data, structure.end, limits)
    if not isinstance(keys, list):
        raise PickleStreamError("the list of storages is no list", offset=structure.end)
    return structure, [key if isinstance(key, str) else str(key) for key in keys], position


def _plain(data: bytes, start: int, limits: Limits) -> tuple[Any, int]:
    machine = Unpickler(data, Allowlist(), Leaves(), start=start, limits=limits)
    return machine.load(), machine.end


def _located(source: ByteSource, structure: Structure, keys: list[str], position: int) -> dict[str, Found]:
    """Walk the data; each storage is believed where lengths stand around it."""
    found: dict[str, Found] = {}
    for index, key in enumerate(keys):
        place = structure.places.get(key)
        if place is None:
            break  # how long it is, only a damaged pickle could say
        size = nbytes_of(place)
        begin = position + _COUNT
        behind = begin + size
        follower = structure.places.get(keys[index + 1]) if index + 1 < len(keys) else None
        found[key] = _judged(source, Found(begin, size, size, 0, "", ""), int(place.numel), follower)
        position = behind
    for key, place in structure.places.items():
        state, reason = (
            ("missing", "the stream has no data for it") if nbytes_of(place) else ("proven", "it has no bytes")
        )
        found.setdefault(key, Found(0, 0, nbytes_of(place), 0, state, reason))
    return found


def _judged(source: ByteSource, found: Found, numel: int, follower: Any) -> Found:
    end = found.start + found.size
    if not found.size:
        return found._replace(state="proven", reason="it has no bytes")
    if end > source.size:
        return found._replace(state="cut", reason="the file ends before its data do")
    if not _is_count(source, found.start - _COUNT, numel):
        return found._replace(state="damaged", reason="its length does not stand in front of it")
    if follower is not None and end + _COUNT <= source.size and not _is_count(source, end, int(follower.numel)):
        return found._replace(state="damaged", reason="the length of the next storage does not stand behind it")
    return found._replace(state="unproven", reason="by size and position only: the format has no checksums")


def _is_count(source: ByteSource, place: int, numel: int) -> bool:
    return source.read_at(place, _COUNT) == numel.to_bytes(_COUNT, "little", signed=True)
