"""While a repository's code runs, its own calls of torch.hub come here.

Entry points call `torch.hub.load`, `load_state_dict_from_url`, `download_url_to_file` and `get_dir` themselves. Left
alone, those would escape the cache, the lock file and the offline switch. What is replaced is put back when the last
entry point has returned. `WEIGHLOCK_HUB_ROUTE=0` leaves torch.hub alone.
"""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

from weighlock.hub import isolation
from weighlock.hub.settings import current

__all__ = ["ensure", "routed", "with_plain_names"]

_NAMES: Final = ("download_url_to_file", "get_dir", "help", "list", "load", "load_state_dict_from_url", "set_dir")
_lock: Final = threading.RLock()
_before: Final[dict[tuple[str, str], Any]] = {}
_blocks: Final[list[Callable[[], Any]]] = []


@contextlib.contextmanager
def routed(names: Callable[[], Any]) -> Iterator[None]:
    """Route torch.hub in the block, from the moment on that PyTorch is loaded.

    Parameters
    ----------
    names : callable
        Returns what holds the functions that stand in the place of torch.hub's own.
    """
    if not current().route:
        yield
        return
    with _lock:
        _blocks.append(names)
    ensure()
    try:
        yield
    finally:
        with _lock:
            _blocks.pop()
            if not _blocks:
                _put_back()


def ensure() -> None:
    """Route torch.hub if that is wanted now, and PyTorch has been loaded."""
    if not _blocks or ("torch", "load") in _before or "torch.hub" not in sys.modules:
        return
    torch: Any = sys.modules.get("torch")
    if not hasattr(torch, "load") or not hasattr(sys.modules["torch.hub"], "load_state_dict_from_url"):
        return  # PyTorch is still being imported
    with _lock:
        if not _blocks or ("torch", "load") in _before:
            return
        surface = _blocks[-1]()
        for name in _NAMES:
            _replace("torch.hub", name, getattr(surface, name))
        _replace("torch.utils.model_zoo", "load_url", surface.load_state_dict_from_url)
        _replace("torch.serialization", "load", with_plain_names(torch.serialization.load))
        _replace("torch", "load", with_plain_names(torch.load))


def _replace(module: str, name: str, new: Any) -> None:
    found: Any = sys.modules.get(module)
    if found is not None and hasattr(found, name):
        _before[module, name] = (getattr(found, name), new)
        setattr(found, name, new)


def _put_back() -> None:
    for (module, name), (old, new) in _before.items():
        found: Any = sys.modules.get(module)
        if getattr(found, name, None) is new:
            setattr(found, name, old)
    _before.clear()


def with_plain_names(load: Any) -> Any:
    """Let pickled objects of a repository be found under the names that they were saved with: ``models.yolo``."""
    import functools

    @functools.wraps(load)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        space = isolation.running_space.get()
        if space is None:
            return load(*args, **kwargs)
        with space.plain_names():
            return load(*args, **kwargs)

    return wrapper


isolation.AFTER_IMPORT.append(ensure)
