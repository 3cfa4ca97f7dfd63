"""The files that were named at the start: each opened when it is first asked for, and known by its number.

A file that is opened anew is another `ViewedFile`, of the next generation: nothing that was found out about the old one
is taken over, and whoever still works with it keeps it open.
"""

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from weighlock.checkpoint import Checkpoint, read_checkpoint
from weighlock.errors import ChangedFileError, WeighlockError
from weighlock.formats.collector import collector_paused
from weighlock.formats.layout import LayoutRow
from weighlock.inspection.inventory import Inventory, TensorRow, take_inventory
from weighlock.inspection.summary import Summary, summarize
from weighlock.opening.naming import spell
from weighlock.storages.addresses import is_address, local_path
from weighlock.storages.urls import shown
from weighlock.viewer.bounds import KEPT_ORDERS, RETRY_SECONDS
from weighlock.viewer.failures import NoSuchThingError, may_pass
from weighlock.viewer.jobs import Kept

__all__ = ["Files", "ViewedFile"]

_T = TypeVar("_T")
_RELOAD: Final = "Reload it in the page."
_ATTEMPTS: Final = 3

_Stamp = tuple[int, ...]


def _stamp_of(path: str) -> _Stamp | None:
    """Return what changes when a file is written or replaced; None where it is not there."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class ViewedFile:
    """One file as it was opened once, and everything that was found out about it so far. Any thread may ask.

    Attributes
    ----------
    number : int
    given : str
        The path or address, as it was named.
    generation : int
        How many times it was opened anew before, counted from 1.
    """

    def __init__(self, number: int, given: str, encoding: str = "utf-8", generation: int = 1) -> None:
        self.number = number
        self.given = given
        self.generation = generation
        self.orders: Kept[Any] = Kept(KEPT_ORDERS)
        self._encoding = encoding
        self._made: dict[str, Any] = {}
        self._making: dict[str, threading.RLock] = {}
        self._lock = threading.RLock()
        self._opened: Checkpoint | WeighlockError | None = None
        self._failed = 0.0
        self._stamp: _Stamp | None = None
        self._parts: dict[str, _Stamp | None] = {}
        self._closer: weakref.finalize[Any, ViewedFile] | None = None

    def anew(self) -> "ViewedFile":
        """Return the same file, not opened yet."""
        return ViewedFile(self.number, self.given, self._encoding, self.generation + 1)

    @property
    def shown(self) -> str:
        """The path, or the address without what is secret in it."""
        return shown(self.given) if is_address(self.given) else self.given

    @property
    def name(self) -> str:
        """The last part of that."""
        return self.shown.rstrip("/").rpartition("/")[2] or self.shown

    @property
    def tried(self) -> Checkpoint | WeighlockError:
        """Its description, or why there is none.

        No lock where it is known: somebody may hold it for seconds, and the names of the files come before everything.
        """
        known = self._opened
        if known is not None and not isinstance(known, WeighlockError):
            return known
        with self._lock:
            if self._opened is None or self._may_be_there_now():
                try:
                    self._opened = found = self._read()
                    # Whoever still reads from this generation holds it; with the last of them the file is closed.
                    self._closer = weakref.finalize(self, found.close)
                    self._closer.atexit = False
                except WeighlockError as error:
                    self._opened, self._failed = error, time.monotonic()
                gc.freeze()
            return self._opened

    def _read(self) -> Checkpoint:
        """Open the file, and once more where it was written meanwhile: the stamps are those of what was read."""
        attempt = 1
        while True:
            begun = time.time_ns()
            self._stamp, self._parts = self._stamped(), {}
            found = read_checkpoint(self.given, encoding=self._encoding)
            self._parts = {path: _stamp_of(path) for path in found.part_paths}
            written = any(stamp is None or stamp[3] >= begun for stamp in self._parts.values())
            if attempt == _ATTEMPTS or not (written or self.state != "same"):
                return found
            found.close()
            attempt += 1

    def _may_be_there_now(self) -> bool:
        """Whether what could not be reached is worth another attempt; what is damaged stays so."""
        unreached = isinstance(self._opened, WeighlockError) and may_pass(self._opened)
        return unreached and time.monotonic() - self._failed >= RETRY_SECONDS

    @property
    def failed(self) -> bool:
        """Whether it could not be opened; false where nobody has tried."""
        return isinstance(self._opened, WeighlockError)

    @property
    def checkpoint(self) -> Checkpoint:
        """Its description.

        Raises
        ------
        WeighlockError
            If it cannot be read, or was changed since it was opened.
        """
        found = self.tried
        if isinstance(found, WeighlockError):
            raise found.with_traceback(None)
        self.check()
        return found

    def check(self, *, by_name: bool = False) -> None:
        """Make sure that what is read of it now is of the file as it was opened: called before, and after, it is read.

        Parameters
        ----------
        by_name : bool
            It is read by its name, not through what was opened: another file of that name will not do either.

        Raises
        ------
        ChangedFileError
        """
        state = self.state
        if state == "changed":
            raise ChangedFileError("the file was changed while it was open", path=self.shown, hint=_RELOAD)
        if state != "same" and (by_name or not isinstance(self._opened, Checkpoint)):
            raise ChangedFileError("the file on disk is not the one that was opened", path=self.shown, hint=_RELOAD)

    @property
    def state(self) -> str:
        """``"same"``; ``"changed"`` in place; ``"replaced"`` or ``"gone"``: what is shown is the file as it was.

        Of a checkpoint of several files each is opened when it is read: one that was replaced has changed it too.
        """
        if self._stamp is None or is_address(self.given):
            return "same"
        if any(_stamp_of(path) != stamp for path, stamp in self._parts.items()):
            return "changed"
        now = self._stamped()
        if now is None:
            return "gone"
        if self._parts:
            return "same"  # what else is written into a folder is not its own
        if now[:2] != self._stamp[:2]:
            return "replaced"
        return "same" if now == self._stamp else "changed"

    def _stamped(self) -> _Stamp | None:
        return _stamp_of(local_path(self.given))

    def once(self, name: str, make: Callable[[], _T]) -> _T:
        """Return what is made when it is first asked for, and kept."""
        if name in self._made:
            known: _T = self._made[name]
            return known
        with self._lock:
            own = self._making.setdefault(name, threading.RLock())
        with own:  # its own lock: the tree does not wait for the storages
            if name not in self._made:
                with collector_paused():
                    self._made[name] = make()
                gc.freeze()  # it stays to the end: the collector need not walk a million objects again and again
            found: _T = self._made[name]
            return found

    @property
    def inventory(self) -> Inventory:
        """Every tensor."""
        checkpoint = self.checkpoint
        return self.once("inventory", lambda: take_inventory(checkpoint))

    @property
    def rows(self) -> list[TensorRow]:
        """Every tensor, in the file's order."""
        return self.inventory.rows

    def row(self, index: int) -> TensorRow:
        """Return one tensor.

        Raises
        ------
        NoSuchThingError
            If there are not so many.
        """
        rows = self.rows
        if index >= len(rows):
            raise NoSuchThingError("there is no such tensor", expected=f"below {len(rows)}", got=str(index))
        return rows[index]

    @property
    def keys(self) -> list[str]:
        """The key of each of them, as `weighlock.open_checkpoint` has it."""
        rows = self.rows
        return self.once("keys", lambda: spell([row.path for row in rows]))

    @property
    def lowered(self) -> list[str]:
        """The same in small letters, to search in."""
        keys = self.keys
        return self.once("lowered", lambda: [key.casefold() for key in keys])

    @property
    def summary(self) -> Summary:
        """What the file is and holds."""
        checkpoint, inventory = self.checkpoint, self.inventory
        return self.once("summary", lambda: summarize(checkpoint, inventory))

    @property
    def layout(self) -> list[LayoutRow]:
        """What each of its bytes is there for."""
        checkpoint = self.checkpoint
        return self.once("layout", checkpoint.layout)

    def close(self) -> None:
        """Close it, unless somebody still waits for bytes of it: the end of the process does that then."""
        if self._lock.acquire(timeout=1.0):
            try:
                if self._closer is not None:
                    self._closer()
            finally:
                self._lock.release()


class Files:
    """All of them, each of the latest generation."""

    def __init__(self, given: Sequence[str], encoding: str = "utf-8") -> None:
        self.all = [ViewedFile(number, name, encoding) for number, name in enumerate(given)]
        self._lock = threading.Lock()

    def __getitem__(self, number: int) -> ViewedFile:
        if number >= len(self.all):
            raise NoSuchThingError("there is no such file", expected=f"below {len(self.all)}", got=str(number))
        return self.all[number]

    def reload(self, number: int, generation: int, *, failed: bool = False) -> ViewedFile:
        """Return a file opened anew, unless somebody did that since the generation that is meant.

        Parameters
        ----------
        number, generation : int
        failed : bool
            Only if it could not be opened: another attempt, now.
        """
        with self._lock:
            old = self[number]
            if old.generation == generation and (old.failed or not failed):
                self.all[number] = old.anew()
        gc.unfreeze()  # what the collector was told to leave alone may go now
        return self[number]

    def close(self) -> None:
        """Close all."""
        for file in self.all:
            file.close()
