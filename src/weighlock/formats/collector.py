"""Holding Python's cycle collector while a tree is built."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["collector_paused"]

_pause_lock: Final = threading.Lock()
_pauses = 0
_was_enabled = False


@contextmanager
def collector_paused() -> Iterator[None]:
    """Hold Python's cycle collector while a tree is built.

    A load makes up to millions of containers and frees none: the collector would walk them again and again, for a
    third of the time of a large training checkpoint. Counted, because several threads may load at once.
    """
    global _pauses, _was_enabled  # noqa: PLW0603 - the collector is process-wide, and so is its pause
    with _pause_lock:
        if _pauses == 0:
            _was_enabled = gc.isenabled()
            gc.disable()
        _pauses += 1
    try:
        yield
    finally:
        with _pause_lock:
            _pauses -= 1
            if _pauses == 0 and _was_enabled:
                _age_objects()
                gc.enable()


def _age_objects() -> None:
    """Let the collector take all objects for old: it would walk the new tree at once, and find nothing to free.

    Both calls only join lists. Objects that the program itself has frozen are left alone; asking whether it has walks
    them all, 13 ms beside PyTorch, so that is not asked after small loads: the collector has no cause to begin then.
    """
    if gc.get_count()[0] <= gc.get_threshold()[0]:
        return
    if hasattr(gc, "get_freeze_count") and gc.get_freeze_count() == 0:
        gc.freeze()
        gc.unfreeze()
