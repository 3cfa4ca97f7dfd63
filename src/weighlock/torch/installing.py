"""Routing a running program's own `torch.load` and `torch.save` through Weighlock, and back."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
import torch.hub
import torch.utils.model_zoo

from weighlock.torch import hub, serialization
from weighlock.torch.loading import load
from weighlock.torch.saving import save

__all__ = ["install", "installed", "uninstall"]

_REPLACED: Final[tuple[tuple[Any, str, Any], ...]] = (
    (torch, "load", load),
    (torch, "save", save),
    (torch.serialization, "load", load),
    (torch.serialization, "save", save),
    (torch.serialization, "register_package", serialization.register_package),
    *((torch.hub, name, getattr(hub, name)) for name in torch.hub.__all__),
    (torch.utils.model_zoo, "load_url", hub.load_state_dict_from_url),
)

_lock: Final = threading.RLock()
_before: dict[tuple[int, str], Any] = {}
_blocks = 0
_permanent = False


def install() -> None:
    """Let `torch.load`, `torch.save`, `torch.serialization` and `torch.hub` of this process go through Weighlock.

    Calling it again does nothing. What a module took before (``from torch import load``) stays PyTorch's.

    Examples
    --------
    >>> import torch
    >>> install()
    >>> torch.load.__module__
    'weighlock.torch.loading'
    >>> uninstall()
    >>> torch.load.__module__
    'torch.serialization'
    """
    global _permanent  # noqa: PLW0603 - what is installed is a fact of the process
    with _lock:
        _permanent = True
        _put()


def uninstall() -> None:
    """Give PyTorch its own functions back; inside of a block of `installed`, when the block ends."""
    global _permanent  # noqa: PLW0603 - as above
    with _lock:
        _permanent = False
        _take_back()


@contextmanager
def installed() -> Iterator[None]:
    """Route PyTorch's functions through Weighlock for a block, in all threads; blocks may overlap.

    Examples
    --------
    >>> import io, torch
    >>> with installed():
    ...     torch.save({"a": torch.ones(1)}, io.BytesIO())
    """
    global _blocks  # noqa: PLW0603 - as above
    with _lock:
        _blocks += 1
        _put()
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            _take_back()


def _put() -> None:
    if _before:
        return
    for module, name, ours in _REPLACED:
        _before[id(module), name] = getattr(module, name)
        setattr(module, name, ours)


def _take_back() -> None:
    if _permanent or _blocks:
        return
    for module, name, ours in _REPLACED:
        original = _before.pop((id(module), name), None)
        # Whoever put something else there meanwhile keeps it.
        if original is not None and getattr(module, name) is ours:
            setattr(module, name, original)
