r"""Files whose line ends were translated on their way: every ``\n`` has become ``\r\n``, as transfers of text do it.

The translation is undone exactly: it put one ``\r`` before each ``\n``, so that no ``\n`` is without one, which in a
file of other bytes hardly happens by chance.
"""

import tempfile
from typing import BinaryIO, Final

from weighlock.storages.source import ByteSource

__all__ = ["is_translated", "untranslated"]

_CHUNK: Final = 4 << 20
# Beyond this many line ends, none of them alone, nobody doubts; in a short file fewer must do.
_LEAST: Final = 8
_LOOK: Final = 1 << 20


def is_translated(source: ByteSource) -> bool:
    r"""Whether a file's beginning shows a translation of line ends: many ``\n``, none without its ``\r``."""
    head = source.read_at(0, min(source.size, _LOOK))
    ends = head.count(b"\n")
    return ends >= _LEAST and head.count(b"\r\n") == ends


def untranslated(source: ByteSource) -> BinaryIO | None:
    r"""Return the file as it was, in a temporary file without a name; None where one ``\n`` stands alone."""
    made = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the last reference
    held = b""
    for position in range(0, source.size, _CHUNK):
        data = held + source.read_at(position, min(_CHUNK, source.size - position))
        held = data[-1:] if data.endswith(b"\r") and position + _CHUNK < source.size else b""
        data = data[: len(data) - len(held)]
        if data.count(b"\n") != data.count(b"\r\n"):
            made.close()
            return None
        made.write(data.replace(b"\r\n", b"\n"))
    made.seek(0)
    return made
