"""A bar for long work: on standard error, for a person at a terminal, gone when the work is done."""

import os
import sys
import threading
import time
from types import TracebackType
from typing import Any, Final, Self

from weighlock.cli.wording import size

__all__ = ["Bar", "file_size"]

_EVERY: Final = 0.1
_FIRST: Final = 0.5
_WIDTH: Final = 30


class Bar:
    """Shows how many bytes are done; called with how many more, from any thread.

    Parameters
    ----------
    total : int
        Bytes in all.
    shown : bool
        False draws nothing.
    """

    def __init__(self, total: int, *, shown: bool = True) -> None:
        self._total = max(total, 1)
        self._done = 0
        self._lock = threading.Lock()
        self._next = time.monotonic() + _FIRST  # what is quick needs no bar
        self._drawn = False
        self._shown = shown and total > 0 and _is_terminal()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def __call__(self, more: int) -> None:
        with self._lock:
            self._done += more
            if self._shown and time.monotonic() >= self._next:
                self._draw()

    def _draw(self) -> None:
        self._next = time.monotonic() + _EVERY
        self._drawn = True
        share = min(self._done / self._total, 1.0)
        full = round(share * _WIDTH)
        bar = "█" * full + "░" * (_WIDTH - full)
        done = min(self._done, self._total)
        sys.stderr.write(f"\r\x1b[K{bar} {share:4.0%}  {size(done)} of {size(self._total)}")
        sys.stderr.flush()


def _is_terminal() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:
        return False


def file_size(file: Any) -> int:
    """Return how long a file is; 0 for what is no file here, such as an address."""
    try:
        return os.path.getsize(file)
    except (OSError, TypeError, ValueError):
        return 0
