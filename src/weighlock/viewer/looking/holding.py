"""The files that were named at the start: each opened once, when it is first asked for, and known by its number."""

import gc
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from weighlock.checkpoint import Checkpoint, read_checkpoint
from weighlock.errors import ChangedFileError, DownloadError, SourceError, WeighlockError
from weighlock.formats.collector import collector_paused
from weighlock.formats.layout import LayoutRow
from weighlock.inspection.inventory import Inventory, TensorRow, take_inventory
from weighlock.inspection.summary import Summary, summarize
from weighlock.opening.naming import spell
from weighlock.storages.addresses import is_address, local_path
from weighlock.storages.urls import shown
from weighlock.viewer.bounds import KEPT_ORDERS, RETRY_SECONDS
from weighlock.viewer.failures import NoSuchThingError
from weighlock.viewer.jobs import Kept

__all__ = ["Files", "ViewedFile"]

_T = TypeVar("_T")


class ViewedFile:
    """One file, and everything that was found out about it so far. Any thread may ask.

    Attributes
    ----------
    number : int
    given : str
        The path or address, as it was named.
    """

    def __init__(self, number: int, given: str, encoding: str = "utf-8") -> None:
        self.number = number
        self.given = given
        self.orders: Kept[Any] = Kept(KEPT_ORDERS)
        self._encoding = encoding
        self._made: dict[str, Any] = {}
        self._lock = threading.RLock()
        self._opened: Checkpoint | WeighlockError | None = None
        self._failed = 0.0
        self._stamp: tuple[int, ...] | None = None

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
                    self._stamp = self._stamped()
                    self._opened = read_checkpoint(self.given, encoding=self._encoding)
                except WeighlockError as error:
                    self._opened, self._failed = error, time.monotonic()
                gc.freeze()
            return self._opened

    def _may_be_there_now(self) -> bool:
        """Whether what could not be reached is worth another attempt; what is damaged stays so."""
        unreached = isinstance(self._opened, SourceError | DownloadError)
        return unreached and time.monotonic() - self._failed >= RETRY_SECONDS

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
        if self.state == "changed":
            raise ChangedFileError(
                "the file was changed while it was open", path=self.given, hint="Start `weighlock view` again."
            )
        return found

    @property
    def state(self) -> str:
        """``"same"``; ``"changed"`` in place; ``"replaced"`` or ``"gone"``: what is shown is the file as it was."""
        if self._stamp is None or is_address(self.given):
            return "same"
        now = self._stamped()
        if now is None:
            return "gone"
        if now[:2] != self._stamp[:2]:
            return "replaced"
        return "same" if now == self._stamp else "changed"

    def _stamped(self) -> tuple[int, ...] | None:
        try:
            status = os.stat(local_path(self.given))
        except (OSError, ValueError):
            return None
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def once(self, name: str, make: Callable[[], _T]) -> _T:
        """Return what is made when it is first asked for, and kept."""
        if name in self._made:
            known: _T = self._made[name]
            return known
        with self._lock:
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
                if isinstance(self._opened, Checkpoint):
                    self._opened.close()
            finally:
                self._lock.release()


class Files:
    """All of them."""

    def __init__(self, given: Sequence[str], encoding: str = "utf-8") -> None:
        self.all = [ViewedFile(number, name, encoding) for number, name in enumerate(given)]

    def __getitem__(self, number: int) -> ViewedFile:
        if number >= len(self.all):
            raise NoSuchThingError("there is no such file", expected=f"below {len(self.all)}", got=str(number))
        return self.all[number]

    def close(self) -> None:
        """Close all."""
        for file in self.all:
            file.close()
