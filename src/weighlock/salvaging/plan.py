"""What a salvage has found out before it writes: which tensors are kept, and how the new file is written."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from weighlock.errors import DamagedError
from weighlock.formats.zip_proving import Found
from weighlock.salvaging.report import SalvagedTensor
from weighlock.salvaging.structure import LOST, Leaf, StoragePlace, Structure
from weighlock.storages.sinks import Sink

__all__ = ["Plan", "decide", "fates", "settled"]


class Plan(NamedTuple):
    """What is written, and what is said about it.

    Attributes
    ----------
    format : str
    tensors : list of SalvagedTensor
    notes : list of str
    write : callable
        Writes the new file to a sink.
    """

    format: str
    tensors: list[SalvagedTensor]
    notes: list[str]
    write: Callable[[Sink], object]


def decide(found: Found, *, require_crc: bool) -> Found:
    """Return what becomes of a storage: unproven bytes are lost where a checksum is demanded."""
    if found.state == "unproven" and require_crc:
        return found._replace(state="lost", reason=f"a checksum is demanded: {found.reason}")
    return found if found.state in ("proven", "unproven") else found._replace(state="lost")


def fates(leaves: Sequence[Leaf], storages: Mapping[str, Found], name: Callable[[str], str]) -> list[SalvagedTensor]:
    """Return what becomes of each tensor: it is worth as much as the worst of its storages.

    Parameters
    ----------
    storages : mapping of str to Found
        By key, as `decide` returns them.
    name : callable
        What a storage is called in messages.
    """
    made = []
    for leaf in leaves:
        keys = list(dict.fromkeys(place.key for place in leaf.places))
        rows = [storages[key] for key in keys]
        worst = max(rows, key=lambda row: _WORTH[row.state])
        at = keys[rows.index(worst)]
        reason = worst.reason if len(keys) == 1 else f"{name(at)}: {worst.reason}"
        nbytes = sum(row.size for row in rows)
        made.append(SalvagedTensor(leaf.path, tuple(map(name, keys)), nbytes, worst.state, reason))
    return made


_WORTH = {"proven": 0, "unproven": 1, "lost": 2}


def settled(structure: Structure, storages: Mapping[str, Found]) -> tuple[Any, list[str]]:
    """Take out what is lost; return the object, and the keys of the storages that it still needs, in their order.

    Raises
    ------
    DamagedError
        If nothing is left.
    """

    def lost(places: tuple[StoragePlace, ...]) -> bool:
        return any(storages[place.key].state == "lost" for place in places)

    needed = {
        place.key for leaf in structure.leaves() if not lost(leaf.places) for place in leaf.places
    }  # fmt: skip
    made = structure.without(lost)
    if made is LOST:
        raise DamagedError("the file holds one tensor, and that is lost")
    keys = [key for key in structure.places if key in needed]
    structure.renumber({key: index for index, key in enumerate(keys)})
    return made, keys
