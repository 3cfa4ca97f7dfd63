"""`weighlock.scan`: files, folders and patterns, one report."""

import fnmatch
import glob
import os
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final

from weighlock.errors import ArgumentError, ArgumentTypeError, WeighlockError
from weighlock.formats.collector import collector_paused
from weighlock.limits import DEFAULT_LIMITS, Limits
from weighlock.pickling import user_globals
from weighlock.scanning.dangers import judge
from weighlock.scanning.dcp_parts import parts_of
from weighlock.scanning.examining import examine
from weighlock.scanning.report import FileReport, Gap, ScanReport
from weighlock.storages.addresses import files_below, is_address, open_anywhere
from weighlock.storages.source import open_source

__all__ = ["allowing", "expand", "scan", "scan_file"]

_NEVER: Final = ("os", "posix", "nt", "sys", "subprocess", "builtins.eval", "builtins.exec")
_PASSED_OVER: Final = frozenset({".git", "__pycache__", ".hg", ".svn"})


def scan(
    f: Any, *, limits: Limits | None = None, deep: bool = False, allow: Collection[str] = (),
    exclude: Collection[str] = (),
) -> ScanReport:  # fmt: skip
    """Say what loading a file would do, and whether it is whole; nothing in it is imported, called or built.

    Parameters
    ----------
    f : path, pattern, folder, address, bytes-like or file object, or a list of these
        Which format a file has is told by its content, never by its name.
    limits : Limits
        How much a file may ask of the machine.
    deep : bool
        Also check the CRC-32 of all tensor data, and the local header of every record: reads the whole file.
    allow : collection of str
        Full names of globals that you trust with any arguments, or all of a module: ``"mypackage.*"``. That does not
        reach through it: ``mypackage.os.system`` stays a finding. What was named with `add_safe_globals` is allowed,
        too.
    exclude : collection of str
        Patterns of paths below folders that are left out.

    Returns
    -------
    ScanReport
        Its `verdict` is ``"clean"``, ``"findings"``, or ``"not fully examined"``. A file that cannot be read is a gap
        in the report, not an error.

    Raises
    ------
    ArgumentError
        If a path or a pattern names nothing, or `allow` names what must never be allowed.

    Examples
    --------
    >>> import pickle, weighlock
    >>> class Evil:
    ...     def __reduce__(self):
    ...         return eval, ("1 + 1",)
    >>> report = weighlock.scan(pickle.dumps(Evil()))
    >>> report.verdict, report.findings[0].rule, report.findings[0].message
    ('findings', 'WL102', "builtins.eval('1 + 1') is called: it runs code that it is given")
    """
    allowed = allowing(allow)
    found = []
    for item, walked in expand(f, exclude):
        found.append(scan_file(item, limits=limits, deep=deep, allowed=allowed, walked=walked))
    return ScanReport(tuple(found))


def scan_file(
    f: Any, *, limits: Limits | None = None, deep: bool = False, allowed: Callable[[str], bool], walked: bool = False
) -> FileReport:
    """Scan one file; whatever is wrong with it stands in its report."""
    try:
        source = open_anywhere(f) if is_address(f) else open_source(f)
    except ArgumentTypeError:
        raise
    except WeighlockError as error:
        return FileReport(str(f), gaps=(Gap("WL901", error.what),))
    try:
        with collector_paused():
            bounds = limits or DEFAULT_LIMITS
            parts = parts_of(f, bounds)
            return examine(source, limits=bounds, deep=deep, allowed=allowed, walked=walked, parts=parts)
    finally:
        source.close()


def allowing(names: Collection[str]) -> Callable[[str], bool]:
    """Return what tells whether a global is allowed.

    Raises
    ------
    ArgumentError
        If a name must never be allowed.
    """
    for name in names:
        if _is_never(name) or not name.strip("*. "):
            raise ArgumentError(
                "this can never be allowed", got=name, hint="Allow the harmless globals by their names."
            )
    exact = {name for name in names if not name.endswith(".*")}
    starts = tuple(name[:-1] for name in names if name.endswith(".*"))
    registry = user_globals.snapshot()

    def allowed(name: str) -> bool:
        if name in exact or any(name.startswith(start) and _stays_below(name, start) for start in starts):
            return True
        module, _, short = name.rpartition(".")
        return registry.find(module, short, python2=True) is not None

    return allowed


def _is_never(name: str) -> bool:
    return any(name == never or name.startswith(f"{never}.") for never in _NEVER)


def _stays_below(name: str, start: str) -> bool:
    """Whether a name that a pattern fits stays in what the pattern means: ``mypackage.os.system`` leads out of it."""
    return not _is_never(name) and judge(f"_.{name.removeprefix(start)}") is None


def expand(f: Any, exclude: Collection[str] = ()) -> Iterator[tuple[Any, bool]]:
    """Give each file that is meant, and whether it was found in a folder.

    Raises
    ------
    ArgumentError
        If a pattern fits nothing.
    """
    if isinstance(f, list | tuple | set | frozenset):
        for item in f:
            yield from expand(item, exclude)
        return
    if is_address(f):
        yield from _expand_address(f, exclude)
        return
    if not isinstance(f, str | os.PathLike):
        yield f, False
        return
    path = os.fspath(f)
    if os.path.isdir(path):
        yield from ((name, True) for name in _walk(path, exclude))
    elif isinstance(path, str) and glob.has_magic(path) and not os.path.lexists(path):
        names = sorted(glob.glob(path, recursive=True))
        if not names:
            raise ArgumentError("no file fits the pattern", got=path)
        for name in names:
            yield from expand(name, exclude)
    else:
        yield path, False


def _expand_address(address: str, exclude: Collection[str]) -> Iterator[tuple[str, bool]]:
    try:
        found = files_below(address)
    except WeighlockError:
        found = None  # whoever opens it is told what is wrong
    if found is None:
        yield address, False
        return
    for below, file in found.items():
        *folders, name = below.split("/")
        if not (_PASSED_OVER.intersection(folders) or _is_excluded(below, name, exclude)):
            yield file, True


def _is_excluded(below: str, name: str, exclude: Collection[str]) -> bool:
    return any(fnmatch.fnmatch(below, rule) or fnmatch.fnmatch(name, rule) for rule in exclude)


def _walk(folder: str, exclude: Collection[str]) -> Iterator[str]:
    unread: list[str] = []
    entered: set[tuple[int, int]] = set()
    # Loaders follow links to folders. One that leads back to a folder that was entered is not entered again.
    for root, folders, names in os.walk(folder, onerror=lambda error: unread.append(error.filename), followlinks=True):
        folders[:] = sorted(name for name in folders if name not in _PASSED_OVER and _is_new(root, name, entered))
        # What cannot be listed is opened as if it were a file: that fails, and the report says so.
        yield from unread
        unread.clear()
        for name in sorted(names):
            path = os.path.join(root, name)
            below = os.path.relpath(path, folder)
            if not _is_excluded(below, name, exclude):
                yield path
    yield from unread


def _is_new(root: str, name: str, entered: set[tuple[int, int]]) -> bool:
    """Whether a folder was not entered yet, by whatever name."""
    try:
        found, above = os.stat(os.path.join(root, name)), os.stat(root)
    except OSError:
        return True
    entered.add((above.st_dev, above.st_ino))
    key = found.st_dev, found.st_ino
    fresh = key not in entered
    entered.add(key)
    return fresh
