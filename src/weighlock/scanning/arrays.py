"""NumPy's arrays: whether what stands behind the header is a pickle."""

import re
from typing import Final, NamedTuple

from weighlock.errors import WeighlockError
from weighlock.formats.npy import parse_header
from weighlock.limits import Limits
from weighlock.storages.source import ByteSource

__all__ = ["Header", "read_header"]

_LONGEST: Final = 1 << 20
_OBJECTS: Final = re.compile(rb"""['"]descr['"]\s*:\s*['"][<>|=]?O\d?['"]""")


class Header(NamedTuple):
    """What the header of an array says of what follows.

    Attributes
    ----------
    kind : str
        ``numbers``; ``objects``: a pickle; ``unsure``: fields, or a type that NumPy does not write so. Python reads the
        header, with all the spellings that it has for a text, and the data may be a pickle; ``cut``.
    start, end : int
        Where the data begin, and where they end if they are numbers, in bytes from the start of the source.
    """

    kind: str
    start: int
    end: int


def read_header(source: ByteSource, begin: int, limits: Limits) -> Header:
    """Read the header of an array at byte `begin`, whose first six bytes are known to be NumPy's."""
    head = source.read_at(begin, min(source.size - begin, 12))
    width = 2 if head[6:7] == b"\x01" else 4
    length = 8 + width + int.from_bytes(head[8 : 8 + width], "little")
    start = begin + length
    if len(head) < 8 + width or start > source.size or length > _LONGEST:
        return Header("cut", start, source.size)
    whole = source.read_at(begin, length)
    try:
        made = parse_header(whole, limits)
    except WeighlockError:
        return Header("objects" if _OBJECTS.search(whole) else "unsure", start, source.size)
    return Header("numbers", start, start + made.nbytes)
