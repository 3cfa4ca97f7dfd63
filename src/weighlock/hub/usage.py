"""What was used, noted while it is used: the repositories and weights of a program, for its lock file."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from weighlock.hub import threads

__all__ = ["Recording", "note_repository", "note_weights", "recording", "running"]


@dataclasses.dataclass(slots=True)
class Recording:
    """What a block of a program used.

    Attributes
    ----------
    repositories : list
        `weighlock.hub.repositories.Working` of each repository.
    weights : dict of str to (str, str)
        Path and SHA-256 by URL.
    users : dict of str to set of str
        The repositories whose entry points asked for a URL.
    """

    repositories: list[Any] = dataclasses.field(default_factory=list)
    weights: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    users: dict[str, set[str]] = dataclasses.field(default_factory=dict)


_recordings: ContextVar[tuple[Recording, ...]] = ContextVar("weighlock hub recordings", default=())
_running: ContextVar[str] = ContextVar("weighlock hub repository whose code runs", default="")
threads.CARRIED.extend((_recordings, _running))


@contextlib.contextmanager
def recording() -> Iterator[Recording]:
    """Note what the block uses."""
    new = Recording()
    token = _recordings.set((*_recordings.get(), new))
    try:
        yield new
    finally:
        _recordings.reset(token)


@contextlib.contextmanager
def running(name: str) -> Iterator[None]:
    """Say whose code runs in the block."""
    token = _running.set(name)
    try:
        yield
    finally:
        _running.reset(token)


def note_repository(working: Any) -> None:
    """Note that a repository is used."""
    for one in _recordings.get():
        one.repositories.append(working)


def note_weights(url: str, path: str, digest: Callable[[], str]) -> None:
    """Note that a URL's file is used."""
    for one in _recordings.get():
        one.weights[url] = (path, digest())
        if _running.get():
            one.users.setdefault(url, set()).add(_running.get())
