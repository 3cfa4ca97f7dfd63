"""Locks that save work, and writes that are whole or not there.

Nothing is ever correct because of a lock: files are filled under a private name and then renamed. A lock only keeps
thirty processes from fetching the same thing thirty times; where locks do not work (some network file systems grant
every one), there is more work, and the result is the same.
"""

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from typing import Any, Final

from weighlock.hub.directories import Store

__all__ = ["forget", "held", "note_record", "private_name", "read_record", "write_record"]

_SLOW: Final = 10.0
_PATIENCE: Final = 3600.0


@contextlib.contextmanager
def held(store: Store, *what: str) -> Iterator[None]:
    """Hold the lock on a thing while the block runs; without one where the file system has none.

    Parameters
    ----------
    store : Store
    *what : str
        Names the thing.
    """
    lock = _lock(store, what)
    if lock is None:
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.release()


def _lock(store: Store, what: tuple[str, ...]) -> Any:
    import filelock

    try:
        folder = store.folder("locks")
        path = os.path.join(folder, _digest(what) + ".lock")
        mode = 0o666 & ~_umask()
        try:
            # Not a file that means a lock by being there: who is killed would leave it, and everyone would wait for it.
            lock = filelock.FileLock(path, mode=mode, fallback_to_soft=False)
        except TypeError:
            lock = filelock.FileLock(path, mode=mode)  # an older filelock, which never does that
        started = time.monotonic()
        while True:
            try:
                lock.acquire(timeout=_SLOW, poll_interval=0.02)
            except filelock.Timeout:
                waited = time.monotonic() - started
                _say_waiting(what, waited)
                if waited > _PATIENCE:
                    # Who holds it hangs. To go on without it costs work, and nothing else.
                    return None
            else:
                return lock
    except (OSError, NotImplementedError):
        return None


def _say_waiting(what: tuple[str, ...], seconds: float) -> None:
    import logging

    logging.getLogger("weighlock.hub").info("waiting for another process: %s (%d s)", " ".join(what), seconds)


_seen_umask: list[int] = []


def _umask() -> int:
    """Return the umask. Reading it means setting it, for a moment and for all threads; so it is read once."""
    if not _seen_umask:
        value = os.umask(0o077)
        os.umask(value)
        _seen_umask.append(value)
    return _seen_umask[0]


def _digest(parts: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:40]


def record_name(*parts: str) -> str:
    """Return the file name of the record on a thing."""
    return _digest(parts) + ".json"


def private_name(purpose: str) -> str:
    """Return a name that no other process uses, and that says who made it."""
    return f"{purpose}.{os.getpid()}.{secrets.token_hex(6)}"


def read_record(path: str) -> dict[str, Any] | None:
    """Return a record; None where there is none that can be read."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_record(path: str, record: dict[str, Any]) -> None:
    """Write a record: whoever reads it finds the old one or the new one, whole.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, private_name(".tmp"))
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            json.dump(record, file, ensure_ascii=True, sort_keys=True)
        os.replace(temporary, path)
    except BaseException:
        forget(temporary)
        raise


def note_record(path: str, record: dict[str, Any]) -> None:
    """Write a record that saves work the next time; a disk that takes none must not keep anyone from what is there."""
    with contextlib.suppress(OSError):
        write_record(path, record)


def forget(path: str) -> None:
    """Remove a file or a folder if it is there."""
    import shutil

    with contextlib.suppress(OSError):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)
