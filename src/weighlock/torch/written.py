"""Which files this process has saved, and whether somebody has written into one of them since.

Programs overwrite records in place, at the offsets that PyTorch tells them: its own tests do. The checksums of the old
bytes stay in the file, and whoever checks them must tell such a change from damage. In the process that saved the file
it can be told: a write sets the file's time, and the decay of a disk, or a copy that went wrong, does not.

The system's clock for that ticks only every few milliseconds. So a file that was saved is given a time between two
ticks, which no write leaves behind.
"""

import os
import threading
import time
from typing import Any, Final

__all__ = ["note", "was_changed"]

_MOST: Final = 1024
# By device and number: the time that was set. The oldest is forgotten first.
_saved: Final[dict[tuple[int, int], int]] = {}
_lock: Final = threading.Lock()


def note(f: Any) -> None:
    """Remember the file that was just saved; what cannot be asked for its time is left alone."""
    try:
        if not isinstance(f, str | os.PathLike):
            f.flush()
            _mark(f.fileno())
            return
        descriptor = os.open(f, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            _mark(descriptor)
        finally:
            os.close(descriptor)
    except (OSError, AttributeError, ValueError, TypeError):  # in memory, a pipe, a device, another owner's file
        return


def _mark(descriptor: int) -> None:
    now = time.time_ns()
    os.utime(descriptor, ns=(os.fstat(descriptor).st_atime_ns, now - now % 1_000_000 + 999_983))
    status = os.fstat(descriptor)
    with _lock:
        _saved.pop((status.st_dev, status.st_ino), None)
        _saved[status.st_dev, status.st_ino] = status.st_mtime_ns
        while len(_saved) > _MOST:
            del _saved[next(iter(_saved))]


def was_changed(f: Any) -> bool:
    """Whether this process has saved the file, and something has been written into it since."""
    try:
        status = os.stat(f) if isinstance(f, str | os.PathLike) else os.fstat(f.fileno())
    except (OSError, AttributeError, ValueError, TypeError):
        return False
    known = _saved.get((status.st_dev, status.st_ino))
    return known is not None and known != status.st_mtime_ns
