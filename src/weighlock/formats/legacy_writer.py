"""The stream that `torch.save` wrote before 1.6, and writes with ``_use_new_zipfile_serialization=False``.

Three small pickles say what the file is, the fourth is the object, the fifth the list of storage keys; then the
storages follow in the order of that list, each after its length in elements.
"""

import sys
from typing import Any, Final

from weighlock.errors import UnsupportedError
from weighlock.pickling.pickler import Pickler
from weighlock.storages.sinks import GatheringSink, Sink, StorageRecords

__all__ = ["check_machine", "write_legacy"]

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION: Final = 1001
_TYPE_SIZES: Final = {"short": 2, "int": 4, "long": 4}


def write_legacy(sink: Sink, pickle: bytes, storages: StorageRecords, unit_sizes: list[int], protocol: int) -> None:
    """Write a checkpoint: its pickle and its storages.

    Parameters
    ----------
    sink : Sink
    pickle : bytes
        Of the object, with persistent ids that end with `reductions.PID_TAIL`.
    storages : StorageRecords
    unit_sizes : list of int
        Bytes of one element of each storage.
    protocol : int
        The pickle protocol of the other four pickles.
    """
    system = {
        "protocol_version": _PROTOCOL_VERSION,
        "little_endian": True,
        "type_sizes": _TYPE_SIZES,
    }
    # Sorted as text, as PyTorch does.
    keys = sorted(map(str, range(len(storages.sizes))))
    before = (_pickled(part, protocol) for part in (_MAGIC, _PROTOCOL_VERSION, system))
    gathering, buffer = GatheringSink(sink), storages.buffer
    if buffer is None:
        raise UnsupportedError("the legacy format has no room for data that are not there")
    start = b"".join((*before, pickle, _pickled(keys, protocol)))
    sink.reserve(len(start) + 8 * len(keys) + sum(storages.sizes))
    gathering.write(start)
    for key in keys:
        index = int(key)
        gathering.write((storages.sizes[index] // unit_sizes[index]).to_bytes(8, "little"))
        gathering.write(buffer(index))
    gathering.flush()


def check_machine() -> None:
    """Refuse a big-endian machine: lengths and data are little-endian in this format, whoever writes it.

    Raises
    ------
    UnsupportedError
    """
    if sys.byteorder != "little":
        raise UnsupportedError(
            "the legacy format cannot be written on a big-endian machine",
            hint="Save without _use_new_zipfile_serialization=False.",
        )


def _pickled(part: Any, protocol: int) -> bytes:
    return Pickler(protocol).dumps(part)
