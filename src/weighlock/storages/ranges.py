"""Sources of which each read is a journey: few requests, several at a time, and what was read is kept for a while.

`RangedSource` is what ``http://`` and fsspec's file systems have in common. Small reads are widened and kept, since
what lies beside them is asked for next; large ones go straight to where they are wanted, neighbours in one request.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from weighlock.errors import TruncatedError, UnsupportedError

__all__ = ["RangedSource", "Stretch", "worth_reading_along"]

# Bytes between two wanted ones that are cheaper to read than another call: a page of a file, part of a round trip.
_LOCAL_GAP: Final = 4 << 10
_REMOTE_GAP: Final = 128 << 10

HEAD: Final = 128 << 10
"""Bytes that are fetched at once from the beginning, where pickles are, and from the end, where directories are."""

_AHEAD: Final = 64 << 10
_PIECE: Final = 8 << 20  # What one request asks for at most where several are under way.
_WORTH_SEVERAL: Final = 16 << 20
_KEPT: Final = 16 << 20


class Stretch:
    """Bytes that are fetched by one request: from `offset` on, to the targets one after the other.

    A target of None is that many bytes that nobody wants, which lie between two wanted ones.
    """

    __slots__ = ("end", "offset", "targets")

    def __init__(self, offset: int) -> None:
        self.offset = self.end = offset
        self.targets: list[tuple[int, memoryview | None]] = []

    def add(self, offset: int, target: memoryview) -> None:
        """Append a target, and what lies between it and the last one."""
        if offset > self.end:
            self.targets.append((offset - self.end, None))
        self.targets.append((len(target), target))
        self.end = offset + len(target)


class RangedSource:
    """A file of which any range can be fetched, at the price of a round trip.

    Parameters
    ----------
    name : str
        Its address, without what is secret in it.
    connections : int
        Requests that may be under way at once.
    """

    size: int

    def __init__(self, name: str, connections: int) -> None:
        self.name = name
        self.connections = connections
        self._kept: list[tuple[int, bytes]] = []
        self._lock = threading.Lock()

    def fetch(self, stretch: Stretch) -> None:
        """Fetch one stretch into its targets. For the subclasses."""
        raise NotImplementedError

    # The kept bytes

    def keep(self, offset: int, data: bytes) -> None:
        """Keep bytes that were fetched; the oldest are dropped."""
        with self._lock:
            self._kept.append((offset, data))
            while len(self._kept) > 1 and sum(len(kept) for _, kept in self._kept) > _KEPT:
                del self._kept[0]

    def _held(self, offset: int, count: int) -> memoryview:
        """Return as much of a range's beginning as is kept."""
        best = memoryview(b"")
        with self._lock:
            for start, data in self._kept:
                if start <= offset < start + len(data):
                    found = memoryview(data)[offset - start : offset - start + count]
                    if len(found) > len(best):
                        best = found
        return best

    # ByteSource

    def read_at(self, offset: int, count: int) -> bytes:
        self._check(offset, count)
        held = self._held(offset, count)
        if len(held) == count:
            return bytes(held)
        whole = bytearray(count)
        whole[: len(held)] = held
        begin, end = offset + len(held), offset + count
        if end - begin > _AHEAD:
            self.read_into(begin, memoryview(whole)[len(held) :])
            return bytes(whole)
        first, last = self._widened(begin, end)
        data = bytearray(last - first)
        stretch = Stretch(first)
        stretch.add(first, memoryview(data))
        self.fetch(stretch)
        self.keep(first, bytes(data))
        whole[len(held) :] = data[begin - first : end - first]
        return bytes(whole)

    def _widened(self, begin: int, end: int) -> tuple[int, int]:
        """Return the range that is fetched where a small one is wanted: what follows it, or all of the file's end."""
        if begin >= self.size - HEAD:
            return self.size - min(self.size, HEAD), self.size
        return begin, min(max(end, begin + _AHEAD), self.size)

    def read_into(self, offset: int, target: memoryview) -> None:
        self.read_many([(offset, target)])

    def read_scattered(self, offset: int, targets: Sequence[memoryview]) -> None:
        wanted = []
        for target in targets:
            wanted.append((offset, target))
            offset += len(target)
        self.read_many(wanted)

    def read_many(self, wanted: Sequence[tuple[int, memoryview]]) -> None:
        """Fill each target with the bytes from its offset: neighbours by one request, several requests at a time.

        Raises
        ------
        TruncatedError, SourceError, DownloadError
            The error that lies first in the file.
        """
        left = []
        for offset, target in sorted(wanted, key=lambda item: item[0]):
            self._check(offset, len(target))
            held = self._held(offset, len(target))
            target[: len(held)] = held
            if len(held) < len(target):
                left.append((offset + len(held), target[len(held) :]))
        total = sum(len(target) for _, target in left)
        piece = _PIECE if total > _WORTH_SEVERAL else max(total, 1)
        self._run([lambda stretch=stretch: self.fetch(stretch) for stretch in _stretches(left, piece)])  # type: ignore[misc]

    def prefetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Fetch small ranges, given as (offset, bytes), that are about to be read one by one, and keep them."""
        missing = [(offset, count) for offset, count in ranges if len(self._held(offset, count)) < count]
        blocks = [(offset, bytearray(max(0, min(count, self.size - offset)))) for offset, count in missing]
        joined = _stretches([(offset, memoryview(block)) for offset, block in sorted(blocks)], _PIECE)

        def get(stretch: Stretch) -> None:
            data = bytearray(stretch.end - stretch.offset)
            whole = Stretch(stretch.offset)
            whole.add(stretch.offset, memoryview(data))
            self.fetch(whole)
            self.keep(stretch.offset, bytes(data))

        self._run([lambda stretch=stretch: get(stretch) for stretch in joined])  # type: ignore[misc]

    def _run(self, tasks: Sequence[Callable[[], None]]) -> None:
        """Do the tasks, several at a time; the error of the first one that fails is raised, the rest not begun."""
        if len(tasks) <= 1 or self.connections <= 1:
            for task in tasks:
                task()
            return
        from concurrent.futures import ThreadPoolExecutor

        failed = threading.Event()

        # Said by the thread that fails: until this one is woken, the others would have begun the next requests.
        def guarded(task: Callable[[], None]) -> None:
            if failed.is_set():
                return
            try:
                task()
            except BaseException:
                failed.set()
                raise

        pool = ThreadPoolExecutor(min(self.connections, len(tasks)))
        try:
            for future in [pool.submit(guarded, task) for task in tasks]:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _check(self, offset: int, count: int) -> None:
        if offset + count > self.size:
            raise TruncatedError(
                "the file ends too early", expected=f"{count} bytes", got=str(max(0, self.size - offset)),
                path=self.name, offset=offset, hint="It was probably cut while it was copied, uploaded or saved.",
            )  # fmt: skip

    def map(self, access: int) -> memoryview:
        raise UnsupportedError("a remote file cannot be mapped", path=self.name, hint="Download it, or leave mmap out.")

    def finish(self, end: int) -> None:
        """Nothing to do: there is no file position."""

    def close(self) -> None:
        """Forget what was kept."""
        with self._lock:
            self._kept.clear()


def _stretches(wanted: Sequence[tuple[int, memoryview]], piece: int) -> list[Stretch]:
    """Return the requests for some targets, which are in the order of the file."""
    made: list[Stretch] = []
    for offset, target in _pieces(wanted, piece):
        last = made[-1] if made else None
        far = last is None or not last.end <= offset <= last.end + _REMOTE_GAP
        if last is None or far or offset + len(target) - last.offset > max(piece, _PIECE):
            last = Stretch(offset)
            made.append(last)
        last.add(offset, target)
    return made


def _pieces(wanted: Sequence[tuple[int, memoryview]], piece: int) -> Iterator[tuple[int, memoryview]]:
    for offset, target in wanted:
        for begin in range(0, len(target), piece):
            yield offset + begin, target[begin : begin + piece]


def worth_reading_along(source: Any) -> int:
    """Return how many unwanted bytes between two wanted ones are cheaper to read than a second call."""
    return _REMOTE_GAP if isinstance(source, RangedSource) else _LOCAL_GAP
