"""Sources of which each read is a journey: few requests, several at a time, and what was read is kept for a while.

`RangedSource` is what ``http://`` and fsspec's file systems have in common. Small reads are widened and kept, since
what lies beside them is asked for next; large ones go straight to where they are wanted, neighbours in one request.
"""

from typing import Any, Final

__all__ = ["RangedSource", "worth_reading_along"]

# Bytes between two wanted ones that are cheaper to read than another call: a page of a file, part of a round trip.
_LOCAL_GAP: Final = 4 << 10
_REMOTE_GAP: Final = 128 << 10


class RangedSource:
    """To come."""


def worth_reading_along(source: Any) -> int:
    """Return how many unwanted bytes between two wanted ones are cheaper to read than a second call."""
    return _REMOTE_GAP if isinstance(source, RangedSource) else _LOCAL_GAP
