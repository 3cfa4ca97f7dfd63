"""What a call of the hub says holds in the threads too that the repository's code starts.

A new thread starts with an empty context, so the settings of `hub.load(..., offline=True)` would end at the first
`ThreadPoolExecutor` of an entry point: its weights were fetched from the network all the same, and a recording for the
lock file missed them. While a repository's code runs, `threading.Thread.start` is replaced by one that hands on what is
listed here, and only to threads which that code starts. The context as a whole is not handed on: other libraries keep
theirs (decimal's precision, NumPy's error states), and count on a fresh one.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Final

__all__ = ["CARRIED", "carrying"]

CARRIED: Final[list[ContextVar[Any]]] = []
"""What a started thread is given; each module of the hub adds its own."""

_lock: Final = threading.Lock()
_users: Final[list[None]] = []
_before: Final[list[tuple[Any, Any]]] = []


@contextlib.contextmanager
def carrying(inside: ContextVar[Any]) -> Iterator[None]:
    """Let threads inherit what is carried, in the block, where they are started with `inside` set."""
    _begin(inside)
    try:
        yield
    finally:
        _end()


def _begin(inside: ContextVar[Any]) -> None:
    with _lock:
        _users.append(None)
        if len(_users) == 1:
            old = threading.Thread.start
            new = _inheriting(old, inside)
            _before.append((old, new))
            threading.Thread.start = new  # type: ignore[method-assign]


def _end() -> None:
    with _lock:
        _users.pop()
        if not _users:
            old, new = _before.pop()
            if threading.Thread.start is new:  # else somebody has wrapped it: theirs stays, and ours is idle
                threading.Thread.start = old  # type: ignore[method-assign]


def _inheriting(start: Callable[[threading.Thread], None], inside: ContextVar[Any]) -> Any:
    @functools.wraps(start)
    def wrapper(self: threading.Thread) -> None:
        if inside.get(None) is None:
            return start(self)
        own = vars(self).get("run")
        values = [(variable, variable.get()) for variable in (*CARRIED, inside) if variable.get(None) is not None]
        self.run = _setting(self, values)  # type: ignore[method-assign]
        # It counts from here on, not from when it runs: it may outlive the block, and start threads itself.
        _begin(inside)
        try:
            return start(self)
        except BaseException:
            _give_back(self, own)
            _end()
            raise

    return wrapper


def _setting(thread: threading.Thread, values: list[tuple[ContextVar[Any], Any]]) -> Callable[[], None]:
    """Return a `run` that sets values before the thread does what it is for."""
    own = vars(thread).get("run")
    run = thread.run

    def first() -> None:
        for variable, value in values:
            variable.set(value)
        _give_back(thread, own)
        try:
            run()
        finally:
            _end()

    return first


def _give_back(thread: threading.Thread, own: Any) -> None:
    if own is None:
        del thread.run
    else:
        thread.run = own  # type: ignore[method-assign]
