"""`weighlock.save_async`: a copy is taken at once, and written while the program goes on.

Why a copy: pages that are shared until somebody writes to them would need a fork, and a fork of a process with threads,
locks and a CUDA context is not safe. Copying takes the time of one pass through memory, by two threads.
"""

import atexit
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from weighlock.saving import Prepared, form_of, path_of_target, prepare
from weighlock.storages.plan import Task, run_in_order
from weighlock.storages.sinks import StorageRecords
from weighlock.storages.targets import absolute

if TYPE_CHECKING:
    import mmap
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["SaveFuture", "in_background", "save_async"]

# How many snapshots there are at most: one that is being written, and one that waits.
_MOST_SNAPSHOTS: Final = 2
_PIECE: Final = 8 << 20
_ALIGNMENT: Final = 64
_THREADS: Final = 2


def save_async(obj: Any, f: Any, pickle_protocol: int = 2, **options: Any) -> "SaveFuture":
    """Copy an object's data, and save it in the background.

    When this returns, the arrays may be changed: what is written is what they were. Saves are written one after the
    other, in the order of the calls. When the program ends, it waits for those that are left. A function of
    `atexit` runs after that: it has to ask for the `result()`.

    It needs as much memory again as the data, until they are written, and twice as much if the next save is asked for
    meanwhile; a third one waits until the first is written. The memory is kept for the next save, but the system may
    take it back whenever it is short.

    Parameters
    ----------
    obj, f, pickle_protocol
        As for `save`. A file object must not be used before the future is done.
    **options
        The other parameters of `save`, by name.

    Returns
    -------
    SaveFuture
        A `concurrent.futures.Future` whose result is None. What goes wrong while writing is its exception; if nobody
        asks for that, it is shown as a warning when the future is dropped or the program ends.

    Raises
    ------
    UnsupportedTypeError, ArgumentError
        At once, as from `save`: what cannot be saved is found before anything is written.

    Examples
    --------
    >>> import numpy, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "model.pt")
    >>> weight = numpy.zeros(3)
    >>> future = save_async({"weight": weight}, path)
    >>> weight += 1
    >>> future.result()
    >>> from weighlock.loading import load
    >>> load(path)["weight"]
    array([0., 0., 0.])
    """
    return _start(obj, f, pickle_protocol, **options)


# Reason for the parameters: those of `save`.
def _start(
    obj: Any,
    f: Any,
    protocol: int,
    *,
    _use_new_zipfile_serialization: bool = True,
    _disable_byteorder_record: bool = False,
    pickle_module: Any = None,
    framework: str = "numpy",
    durable: bool = False,
) -> "SaveFuture":
    target = path_of_target(f)
    if target is not None:
        target = absolute(target)  # the current folder may be another by then
    form = form_of(_use_new_zipfile_serialization, _disable_byteorder_record)
    prepared = prepare(obj, protocol, pickle_module, framework, form)
    return in_background(prepared, target, f, durable=durable)


class SaveFuture(Future[None]):
    """The outcome of a save in the background.

    Attributes
    ----------
    target : str
        What is being written.
    """

    def __init__(self, target: str) -> None:
        super().__init__()
        self.target = target
        self._asked = False

    def result(self, timeout: float | None = None) -> None:
        """Wait until the file is written; raise what went wrong."""
        self._asked = True
        super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait until the file is written; return what went wrong, or None."""
        self._asked = True
        return super().exception(timeout)

    def warn_if_lost(self) -> None:
        """Show an error that nobody has asked for."""
        if self._asked or not self.done() or self.cancelled():
            return
        error = self.exception()
        if error is not None:
            what = f"a checkpoint was not saved, and nobody asked about it: {error}"
            warnings.warn(what, RuntimeWarning, stacklevel=2)

    def __del__(self) -> None:
        self.warn_if_lost()


def in_background(
    prepared: Prepared, target: str | None, f: Any, *, durable: bool, then: Callable[[], None] | None = None
) -> SaveFuture:
    """Take a snapshot of what was prepared, and write it in the background.

    Parameters
    ----------
    target, f
        The path, or None and the file object.
    then : callable, optional
        Called when the file is whole, before the future is done.
    """
    background = _background
    background.slots.acquire()
    try:
        snapshot = _Snapshot(prepared.storages, background)
    except BaseException:
        background.slots.release()
        raise
    future = SaveFuture(target if target is not None else type(f).__name__)
    background.unasked.add(future)
    prepared = prepared._replace(storages=snapshot.records)

    def work() -> None:
        prepared.write(target, f, durable=durable)
        if then is not None:
            then()

    # In a list that is emptied: the frames that an exception remembers must not keep the future that keeps it.
    box = [future]
    try:
        background.executor().submit(_write, box, work, snapshot)
    except RuntimeError:  # from `atexit` on there is no thread any more: what is asked for then is written at once
        _write(box, work, snapshot)
    return future


def _write(box: list[SaveFuture], work: Callable[[], None], snapshot: "_Snapshot") -> None:
    future = box.pop()
    if not future.set_running_or_notify_cancel():
        snapshot.release()
        return
    error = _outcome(work)
    snapshot.release()
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
    del future, error


def _outcome(work: Callable[[], None]) -> BaseException | None:
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - it is the future's
        return error
    return None


# The copy


class _Snapshot:
    """A copy of all storages in one piece of memory."""

    def __init__(self, storages: StorageRecords, background: "_Background") -> None:
        self._background = background
        self._starts: list[int] = []
        self._sizes = list(storages.sizes)
        end = 0
        for size in self._sizes:
            self._starts.append(end)
            end += -(-size // _ALIGNMENT) * _ALIGNMENT
        self._memory = background.take(max(end, 1)) if storages.buffer is not None else None
        buffer = self._buffer if self._memory is not None else None
        self.records = StorageRecords(self._sizes, buffer)
        if self._memory is not None:
            threads = _THREADS if storages.any_thread and end > _PIECE else 1
            run_in_order(self._copies(storages), min(threads, os.cpu_count() or 1))

    def _buffer(self, index: int) -> memoryview:
        start = self._starts[index]
        return memoryview(self._memory or b"")[start : start + self._sizes[index]]

    def _copies(self, storages: StorageRecords) -> Iterator[tuple[int, Task]]:
        import numpy as np

        target, buffer = np.frombuffer(self._memory or b"\0", np.uint8), storages.buffer
        for index, start in enumerate(self._starts if buffer is not None else ()):
            data: Any = buffer(index)  # type: ignore[misc]
            if len(data) != self._sizes[index]:
                raise AssertionError(f"storage {index} has {len(data)} bytes instead of {self._sizes[index]}")
            if not data:
                continue
            source = np.frombuffer(data, np.uint8)
            for begin in range(0, len(data), _PIECE):
                end = min(begin + _PIECE, len(data))
                yield start + begin, _copy(target[start + begin : start + end], source[begin:end])

    def release(self) -> None:
        """Give the memory back, and the place of this snapshot."""
        memory, self._memory = self._memory, None
        if memory is not None:
            self._background.keep(memory)
        self._background.slots.release()


def _copy(target: Any, source: Any) -> Task:
    def task() -> None:
        target[...] = source  # without the interpreter's lock

    return task


# What all saves in the background share


class _Background:
    """The thread that writes, the memory that is kept, and the futures that somebody may still ask about."""

    def __init__(self) -> None:
        self.slots = threading.Semaphore(_MOST_SNAPSHOTS)
        self.unasked: weakref.WeakSet[SaveFuture] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._kept: mmap.mmap | None = None

    def executor(self) -> "ThreadPoolExecutor":
        """Return the one thread; when the program ends, Python waits until it has done all that it was given."""
        from concurrent.futures import ThreadPoolExecutor  # cannot even be imported any more once `atexit` runs

        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, "weighlock-save")
            return self._executor

    def take(self, size: int) -> "mmap.mmap | bytearray":
        """Return writable memory of at least this size."""
        if size <= _SMALL:
            return bytearray(size)
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is not None and size <= len(kept) <= 2 * size:
            return kept
        return _fresh_memory(size)

    def keep(self, memory: "mmap.mmap | bytearray") -> None:
        """Keep memory for the next snapshot; the system may take its pages whenever it needs them."""
        if isinstance(memory, bytearray):
            return
        import mmap

        if not hasattr(mmap, "MADV_FREE"):
            return
        memory.madvise(mmap.MADV_FREE)
        with self._lock:
            self._kept = memory

    def warn_of_lost(self) -> None:
        """Show the errors that nobody has asked for, when the program ends."""
        for future in list(self.unasked):
            future.warn_if_lost()


_SMALL: Final = 1 << 20


def _fresh_memory(size: int) -> "mmap.mmap | bytearray":
    import mmap

    if sys.platform == "win32":
        return bytearray(size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)  # filling small pages takes twice the time
    return memory


_background = _Background()


@atexit.register
def _warn() -> None:
    _background.warn_of_lost()


def _start_anew() -> None:
    """In a forked child: its parent's thread is not here, and writes what its parent asked for."""
    global _background  # noqa: PLW0603 - there is one in a process
    _background = _Background()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
