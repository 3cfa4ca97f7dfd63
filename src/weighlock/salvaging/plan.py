"""What a salvage has found out before it writes: which tensors are kept, and how the new file is written."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from weighlock.errors import DamagedError
from weighlock.formats.zip_proving import Found
from weighlock.limits import Limits
from weighlock.salvaging.report import SalvagedTensor
from weighlock.salvaging.structure import LOST, Leaf, StoragePlace, Structure
from weighlock.storages.sinks import Sink

__all__ = ["TRIED", "Plan", "Progress", "Terms", "decide", "fates", "nothing", "settled"]

Progress = Callable[[int], object]


def nothing(_: int) -> None:
    """Show no progress."""


TRIED: Final = "tried"
"""The state of what would be lost, and is written for a manifest to decide on."""


class Terms(NamedTuple):
    """On what terms tensors are kept.

    Attributes
    ----------
    limits : Limits
    require_crc : bool
        Only what is proven.
    tries : bool
        Whether there is a manifest, which can tell whether doubtful bytes are the right ones.
    progress : callable
        Called with the number of bytes that were read or written since the last call.
    """

    limits: Limits
    require_crc: bool = False
    tries: bool = False
    progress: Progress = nothing


class Plan(NamedTuple):
    """What is written, and what is said about it.

    Attributes
    ----------
    format : str
    tensors : list of SalvagedTensor
    notes : list of str
    write : callable
        Writes the new file to a sink.
    narrowed : callable
        Given paths of tensors, returns the plan that leaves them out as well.
    is_held : bool
        Whether the tensors were found by a manifest already.
    """

    format: str
    tensors: list[SalvagedTensor]
    notes: list[str]
    write: Callable[[Sink], object]
    narrowed: Callable[[Collection[tuple[Any, ...]]], "Plan"]
    is_held: bool = False


def decide(found: Found, terms: Terms) -> Found:
    """Return what becomes of a storage: unproven bytes are lost where a checksum is demanded."""
    if found.state == "proven":
        return found
    if found.state == "unproven":
        if not terms.require_crc:
            return found
        found = found._replace(reason=f"a checksum is demanded: {found.reason}")
    tried = terms.tries and found.start and not found.method and found.state in ("unproven", "damaged")
    return found._replace(state=TRIED if tried else "lost")


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


_WORTH = {"proven": 0, "unproven": 1, TRIED: 2, "lost": 3}


def settled(
    structure: Structure, storages: Mapping[str, Found], refused: Collection[tuple[Any, ...]] = ()
) -> tuple[Any, list[str]]:
    """Take out what is lost; return the object, and the keys of the storages that it still needs, in their order.

    Raises
    ------
    DamagedError
        If nothing is left.
    """

    def lost(places: tuple[StoragePlace, ...]) -> bool:
        return any(storages[place.key].state == "lost" for place in places)

    leaves = structure.leaves()
    needed = {
        place.key for leaf in leaves if leaf.path not in refused and not lost(leaf.places) for place in leaf.places
    }
    made = structure.without(lost, {id(leaf.value) for leaf in leaves if leaf.path in refused})
    if made is LOST:
        raise DamagedError("the file holds one tensor, and that is lost")
    keys = [key for key in structure.places if key in needed]
    structure.renumber({key: index for index, key in enumerate(keys)})
    return made, keys
