"""Reading many extents: pieces handed out to threads in the order of the file, and the error that lies first."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Final

from weighlock.storages.folders import PartSource, SliceSource
from weighlock.storages.ranges import RangedSource
from weighlock.storages.source import ByteSource, BytesSource, PathSource

__all__ = ["Task", "read_extents", "run_in_order", "thread_count"]

Task = Callable[[], None]

_PIECE: Final = 8 << 20
_WORTH_THREADS: Final = 8 << 20
_MOST_THREADS: Final = 4
_AT_ONCE: Final = (PathSource, BytesSource, PartSource, SliceSource)
_SMALL: Final = 256 << 10
_OFFSET: Final = itemgetter(0)


def thread_count(source: ByteSource, nbytes: int) -> int:
    """Return how many threads to read this much with: one for little, and for sources with one file pointer."""
    if isinstance(source, RangedSource):
        return source.connections
    if nbytes <= _WORTH_THREADS or not isinstance(source, _AT_ONCE):
        return 1
    return min(_MOST_THREADS, os.cpu_count() or 1)


def run_in_order(tasks: Iterator[tuple[int, Task]], threads: int) -> None:
    """Run tasks, each with the offset it reads from, handed out in their order to `threads` threads.

    When a task fails, every task before it was handed out already and is finished; no later one is begun. So the
    error that is raised is the one that a single thread would have met.
    """
    lock = threading.Lock()
    failed: list[tuple[int, BaseException]] = []

    def work() -> None:
        offset = 0
        while True:
            try:
                with lock:
                    offset, task = (offset, None) if failed else next(tasks, (offset, None))
                if task is None:
                    return
                task()
            except Exception as error:  # noqa: BLE001 - raised below, when all threads have ended
                failed.append((offset, error))
                return
            # Reason for BaseException: an interrupt in one thread must end the others, and is raised when they have.
            except BaseException as error:  # noqa: BLE001
                failed.append((-1, error))
                return

    others = _started(work, threads - 1)
    work()
    for thread in others:
        thread.join()
    if failed:
        raise min(failed, key=lambda failure: failure[0])[1]


def _started(work: Task, count: int) -> list[threading.Thread]:
    """Start up to so many threads, and return those that run.

    Python 3.12 starts none any more when the program ends, where `atexit` still loads and saves; and a system can be
    out of them.
    """
    threads: list[threading.Thread] = []
    for _ in range(count):
        thread = threading.Thread(target=work, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            break
        threads.append(thread)
    return threads


def read_extents(source: ByteSource, wanted: Sequence[tuple[int, memoryview]]) -> None:
    """Fill each target with the bytes from its offset.

    Parameters
    ----------
    wanted : sequence of (offset, memoryview)
        Offsets in bytes from the start of the source; targets are writable.

    Raises
    ------
    TruncatedError, SourceError
        The error that lies first in the file.
    """
    if isinstance(source, RangedSource):
        source.read_many(wanted)
        return
    run_in_order(_pieces(source, wanted), thread_count(source, sum(len(target) for _, target in wanted)))


def _pieces(source: ByteSource, wanted: Sequence[tuple[int, memoryview]]) -> Iterator[tuple[int, Task]]:
    """Yield the reads: a large target in pieces, small ones that follow each other in the file in one."""
    run: list[memoryview] = []
    begin = stop = 0
    for offset, target in sorted(wanted, key=_OFFSET):
        size = len(target)
        if run and (offset != stop or size > _SMALL or stop - begin > _PIECE):
            yield begin, _scattered(source, begin, run)
            run = []
        if size > _SMALL:
            for place in range(0, size, _PIECE):
                yield offset + place, _piece(source, offset + place, target[place : place + _PIECE])
        elif size:
            if not run:
                begin = offset
            run.append(target)
            stop = offset + size
    if run:
        yield begin, _scattered(source, begin, run)


def _piece(source: ByteSource, offset: int, target: memoryview) -> Task:
    return lambda: source.read_into(offset, target)


def _scattered(source: ByteSource, offset: int, targets: Sequence[memoryview]) -> Task:
    return lambda: source.read_scattered(offset, targets)
