"""Threads that do the work of requests, a bounded number at once, and stop when nobody waits for the answer."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Iterator, MutableMapping
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from weighlock.viewer.bounds import HEAVY_AT_ONCE, LIGHT_AT_ONCE, MOST_WAITING
from weighlock.viewer.failures import AbandonedError, BusyError

__all__ = ["Desk", "Job", "Kept"]

_T = TypeVar("_T")


class Job:
    """What a worker asks whether somebody still waits."""

    __slots__ = ("_checks", "_gone")

    def __init__(self) -> None:
        self._gone = threading.Event()
        self._checks: list[Callable[[], object]] = []

    def abandon(self) -> None:
        """Say that nobody waits any more."""
        self._gone.set()

    def finally_check(self, check: Callable[[], object]) -> None:
        """Have something checked when the answer is there, before it is sent."""
        self._checks.append(check)

    def finish(self) -> None:
        """Check it now; what does not hold is raised."""
        for check in self._checks:
            check()

    def check(self, _: object = None) -> None:
        """Raise `AbandonedError` where nobody does; takes what a progress callback is given."""
        if self._gone.is_set():
            raise AbandonedError


class Desk:
    """Takes work in, and hands it to threads: what reads tensors to few of them, everything else to others."""

    def __init__(self) -> None:
        self._light = _Threads(LIGHT_AT_ONCE, "weighlock-light")
        self._heavy = _Threads(HEAVY_AT_ONCE, "weighlock-heavy")
        self._jobs: set[Job] = set()
        self._streams = 0

    @property
    def working(self) -> int:
        """How many jobs are waiting or being worked on."""
        return len(self._jobs) + self._streams

    async def run(
        self, work: Callable[[Job], _T], receive: Callable[[], Awaitable[MutableMapping[str, Any]]], *, heavy: bool
    ) -> _T:
        """Return the result of some work; abandon it where the connection is closed before.

        Raises
        ------
        BusyError
            If too much waits already.
        AbandonedError
            If the client is gone.
        """
        if len(self._jobs) >= MOST_WAITING:
            raise BusyError("the viewer is busy", hint="Wait until it has answered what it was asked before.")
        job = Job()
        self._jobs.add(job)
        future = asyncio.get_running_loop().run_in_executor(self._heavy if heavy else self._light, work, job)
        future.add_done_callback(lambda _: self._jobs.discard(job))
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            waited: set[asyncio.Future[Any]] = {future, gone}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not future.done():
                raise AbandonedError
            return future.result()
        finally:
            gone.cancel()
            job.abandon()
            future.cancel()
            future.add_done_callback(lambda done: done.cancelled() or done.exception())  # it was seen

    def prepare(self, work: Callable[[], object]) -> None:
        """Do what will be asked for soon; an error is told to whoever asks."""
        self._light.submit(work)

    async def stream(self, pieces: Iterator[_T]) -> AsyncGenerator[_T, None]:
        """Yield pieces that the threads for heavy work make, one at a time; whoever takes them counts as working."""
        self._streams += 1
        try:
            while True:
                piece = await asyncio.get_running_loop().run_in_executor(self._heavy, next, pieces, None)
                if piece is None:
                    return
                yield piece
        finally:
            self._streams -= 1

    def close(self) -> None:
        """Abandon all that is worked on."""
        for job in list(self._jobs):
            job.abandon()
        for pool in (self._light, self._heavy):
            pool.shutdown()


class _Threads(Executor):
    """Threads that the interpreter does not wait for at its end, as it does for those of `ThreadPoolExecutor`.

    One of them may hang for a minute on a server that does not answer, and Ctrl-C would with it.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have something done."""
        future: Future[Any] = Future()
        self._queue.put((future, lambda: fn(*args, **kwargs)))
        if len(self._threads) < self._most:
            self._threads.append(threading.Thread(target=self._work, name=self._name, daemon=True))
            self._threads[-1].start()
        return future

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            future, work = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001 - whoever waits for it is told
                    future.set_exception(error)
            del item, future, work  # a file that was opened anew is held by nobody who only waits

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = True) -> None:
        """Cancel what nobody works on, and have the threads end."""
        while True:
            try:
                item = self._queue.get_nowait()
            except Empty:
                break
            if item is not None:
                item[0].cancel()
        for _ in self._threads:
            self._queue.put(None)


async def _until_gone(receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Kept(Generic[_T]):
    """The results of the latest calls, by key; each is made once, whoever asks for it at the same time.

    A result whose making was abandoned, or failed, is not kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: OrderedDict[Hashable, _T] = OrderedDict()
        self._lock = threading.Lock()
        self._making: dict[Hashable, threading.Lock] = {}

    def drop(self, key: Hashable) -> None:
        """Forget a result."""
        with self._lock:
            self._found.pop(key, None)

    def get(self, key: Hashable, make: Callable[[], _T], job: Job | None = None) -> _T:
        """Return the result for a key."""
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
            own = self._making.setdefault(key, threading.Lock())
        while not own.acquire(timeout=0.1):
            if job is not None:
                job.check()
        try:
            with self._lock:
                if key in self._found:
                    return self._found[key]
            made = make()
            with self._lock:
                self._found[key] = made
                while len(self._found) > self._most:
                    self._found.popitem(last=False)
            return made
        finally:
            with self._lock:
                self._making.pop(key, None)
            own.release()
