"""Progress of a download: a bar for a person at a terminal, a call for a program, nothing for a log file."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from weighlock.text import safe_text

__all__ = ["shown"]


@contextlib.contextmanager
def shown(progress: Any, name: str) -> Iterator[Callable[[int, int | None], object] | None]:
    """Give what is to be called with the bytes done and the bytes in all.

    Parameters
    ----------
    progress : bool or callable
        A function is passed on. True draws a bar if standard error is a terminal.
    name : str
        The file's name.
    """
    if callable(progress):
        yield progress
        return
    if not progress or not _is_terminal():
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc=safe_text(name)[:40], unit="B", unit_scale=True, unit_divisor=1024, file=sys.stderr) as bar:

        def report(done: int, total: int | None) -> None:
            if bar.total != total:
                bar.total = total
            bar.update(done - bar.n)

        yield report


def _is_terminal() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:
        return False
