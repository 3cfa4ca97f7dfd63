"""What a file must be, and what is known of it once it is there; the same for every way of fetching."""

import dataclasses
from collections.abc import Callable

__all__ = ["Expected", "Fetched", "Progress"]

Progress = Callable[[int, int | None], object]
"""Called with the bytes that are there, and the file's length where it is known."""


@dataclasses.dataclass(frozen=True, slots=True)
class Expected:
    """What a file must be.

    Attributes
    ----------
    prefix : str or None
        The first digits of its SHA-256.
    size : int or None
        Bytes.
    weights : bool
        It must not be a page.
    otherwise : str or None
        The path that it gets if its own is another file's by then; None lets it replace what is there.
    announce : callable
        Called before it gets its name, with what is known of it, and the paths where it is and will be.
    """

    prefix: str | None = None
    size: int | None = None
    weights: bool = True
    otherwise: str | None = None
    announce: Callable[["Fetched", str, str], object] = lambda *_: None


@dataclasses.dataclass(frozen=True, slots=True)
class Fetched:
    """What was fetched: its SHA-256, its size in bytes, how the server names this version, and where it is."""

    sha256: str
    size: int
    etag: str | None
    modified: str | None
    declared: str | None
    path: str
