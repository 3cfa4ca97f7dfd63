"""Plain pickles: what `pickle.dump` wrote of tensors, or of anything else, without PyTorch's container.

A tensor inside is a whole legacy checkpoint as a byte string (`torch.storage._load_from_bytes`).
"""

from weighlock.errors import LimitError, TruncatedPickleError, WeighlockError
from weighlock.formats.layout import LayoutRow
from weighlock.formats.reading import Contents, Reading
from weighlock.pickling.decoder import decode
from weighlock.storages.source import ByteSource

__all__ = ["looks_like", "read"]

# How far a text-like file is decoded to find out whether it is a pickle of protocol 0 or 1.
_PROBE = 1 << 16


def looks_like(source: ByteSource, head: bytes) -> bool:
    """Whether the file is a pickle: by its PROTO opcode, or (protocols 0 and 1 have none) by decoding."""
    if head[:1] == b"\x80":
        return len(head) > 1 and head[1] <= 5
    steps = 0
    try:
        for step in decode(source.read_at(0, min(source.size, _PROBE))):
            steps = step.end
    except WeighlockError as error:
        # The probe's own end is no proof against it; anything else is. A long text ends behind it, but in the file.
        if source.size <= _PROBE or isinstance(error, LimitError):
            return False
        ends = (
            isinstance(error, TruncatedPickleError) and steps > 0 and (error.offset or 0) + _need(error) <= source.size
        )
        return ends or (error.offset or 0) > _PROBE - 1024
    return steps > 1


def _need(error: TruncatedPickleError) -> int:
    return int((error.expected or "0").partition(" ")[0])


def read(source: ByteSource, reading: Reading) -> Contents:
    """Read one pickle from the start of `source`.

    Raises
    ------
    PickleStreamError
        If it is malformed.
    LimitError
        If it is larger than `Limits.max_pickle_bytes`.
    """
    if source.size > reading.limits.max_pickle_bytes:
        raise LimitError("the pickle is larger than Limits.max_pickle_bytes", got=f"{source.size} bytes")
    made, end = reading.unpickle(source.read_at(0, source.size))
    return Contents(made, "pickle", end, lambda: {"trailing_bytes": source.size - end},
                    layout=lambda: [LayoutRow("pickle", "", 0, end)])  # fmt: skip
