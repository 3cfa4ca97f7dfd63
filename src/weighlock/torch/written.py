"""Which files this process has saved, and whether somebody has written into one of them since.

Programs overwrite records in place, at the offsets that PyTorch tells them: its own tests do. The checksums of the old
bytes stay in the file, and whoever checks them must tell such a change from damage. In the process that saved the file
it can be told: a write sets the file's time, and the decay of a disk, or a copy that went wrong, does not.

The system's clock for that ticks only every few milliseconds. So a file that was saved is given a time between two
ticks, which no write leaves behind. Files are known by device, number and the time of their birth: the number of a file
that was removed is soon given to another one.
"""

import ctypes
import os
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final, NamedTuple

__all__ = ["note", "was_changed"]

_MOST: Final = 1024
_UNASKABLE: Final = (OSError, AttributeError, ValueError, TypeError)
"""In memory, a pipe, a device, closed, another owner's file."""

# Linux: `statx` of the C library, since Python's `os.stat` leaves the time of birth out there.
_EMPTY_PATH: Final = 0x1000
_BIRTH: Final = 0x800
_BIRTH_AT: Final = 80
_SIZE_OF_STATX: Final = 256


class _File(NamedTuple):
    """What no two files have in common that were ever on a disk."""

    device: int
    number: int
    birth: float | tuple[int, int]


# The times that were set. The oldest is forgotten first.
_saved: Final[dict[_File, int]] = {}
_lock: Final = threading.Lock()


def note(f: Any) -> None:
    """Remember the file that was just saved; what cannot be asked for its times is left alone."""
    try:
        with _descriptor(f) as descriptor:
            before = os.fstat(descriptor)
            known = _identity(descriptor, before)
            if known is None:
                return
            now = time.time_ns()
            os.utime(descriptor, ns=(before.st_atime_ns, now - now % 1_000_000 + 999_983))
            set_to = os.fstat(descriptor).st_mtime_ns
    except _UNASKABLE:
        return
    with _lock:
        _saved.pop(known, None)
        _saved[known] = set_to
        while len(_saved) > _MOST:
            del _saved[next(iter(_saved))]


def was_changed(f: Any) -> bool:
    """Whether this process has saved the file, and something has been written into it since."""
    try:
        with _descriptor(f) as descriptor:
            status = os.fstat(descriptor)
            known = _identity(descriptor, status)
    except _UNASKABLE:
        return False
    before = None if known is None else _saved.get(known)
    return before is not None and before != status.st_mtime_ns


@contextmanager
def _descriptor(f: Any) -> Iterator[int]:
    """Give the descriptor of a file object, all it has gathered written; that of a path for as long as is needed."""
    if not isinstance(f, str | os.PathLike):
        if hasattr(f, "flush"):
            f.flush()
        yield f.fileno()
        return
    descriptor = os.open(f, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _identity(descriptor: int, status: os.stat_result) -> _File | None:
    """Return what a file is known by; None where the system does not say when it was born."""
    birth = getattr(status, "st_birthtime", None) or _birth(descriptor)
    return None if birth is None else _File(status.st_dev, status.st_ino, birth)


@cache
def _statx() -> Any:
    return getattr(ctypes.CDLL(None), "statx", None) if sys.platform == "linux" else None


def _birth(descriptor: int) -> tuple[int, int] | None:
    ask = _statx()
    answer = ctypes.create_string_buffer(_SIZE_OF_STATX)
    if ask is None or ask(descriptor, b"", _EMPTY_PATH, _BIRTH, answer):
        return None
    (said,) = struct.unpack_from("=I", answer, 0)
    seconds, fraction = struct.unpack_from("=qI", answer, _BIRTH_AT)
    return (seconds, fraction) if said & _BIRTH else None
