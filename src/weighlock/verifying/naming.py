"""Which files are meant, and what each is called in a manifest: its path below the folder that was named."""

import glob
import os
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from weighlock.errors import ArgumentError, WeighlockError
from weighlock.formats import dcp, deepspeed
from weighlock.formats.sharded import find_index, looks_like_index
from weighlock.storages.addresses import is_address
from weighlock.storages.source import open_source

__all__ = ["Named", "is_index", "named_files", "sets_in"]

_PASSED_OVER: Final = frozenset({".git", "__pycache__", ".hg", ".svn"})
_MOST_NAMES: Final = 1 << 20


class Named(NamedTuple):
    """One thing to look at.

    Attributes
    ----------
    file : object
        A path, an address, bytes or a file object.
    name : str
        What it is called in a manifest.
    walked : bool
        It was found in a folder: a file of another kind is no gap.
    """

    file: Any
    name: str
    walked: bool = False


def named_files(f: Any) -> list[Named]:
    """Return each file that is meant: a folder stands for all files in it, a pattern for those that fit.

    Raises
    ------
    ArgumentError
        If a pattern fits nothing.
    """
    items = f if isinstance(f, list | tuple | set | frozenset) else [f]
    found = [named for item in items for named in _meant(item)]
    if len(found) > _MOST_NAMES:
        raise ArgumentError("too many files", expected=f"at most {_MOST_NAMES:,}", got=f"{len(found):,}")
    return found


def _meant(item: Any) -> Iterator[Named]:
    if not isinstance(item, str | os.PathLike) or is_address(item):
        name = item.rsplit("/", 1)[-1].partition("?")[0] if isinstance(item, str) else str(getattr(item, "name", ""))
        yield Named(item, os.path.basename(name))
        return
    path = os.fspath(item)
    if os.path.isdir(path):
        yield from _walked(path)
    elif isinstance(path, str) and glob.has_magic(path) and not os.path.lexists(path):
        names = sorted(glob.glob(path, recursive=True))
        if not names:
            raise ArgumentError("no file fits the pattern", got=path)
        for name in names:
            yield from _meant(name)
    else:
        yield Named(path, os.path.basename(path))


def _walked(folder: str) -> Iterator[Named]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _PASSED_OVER)
        for name in sorted(names):
            path = os.path.join(root, name)
            yield Named(path, os.path.relpath(path, folder).replace(os.sep, "/"), walked=True)


def sets_in(files: Sequence[Named]) -> dict[str, str]:
    """Return, by its folder, what stands for a set of files among those that were found: an index, or the folder."""
    found: dict[str, str] = {}
    by_folder: dict[str, list[str]] = {}
    for named in files:
        if named.walked:
            folder, name = os.path.split(named.file)
            by_folder.setdefault(folder, []).append(name)
    for folder, names in by_folder.items():
        if dcp.METADATA in names or any(map(dcp.is_part, names)):
            found[folder] = folder
            continue
        try:
            index = find_index(names)
        except WeighlockError:
            continue  # several sets: each index is looked at by itself
        if index is not None and is_index(os.path.join(folder, index)):
            found[folder] = os.path.join(folder, index)
        elif index is None and (dcp.is_hub_form(names) or deepspeed.is_zero(names)):
            found[folder] = folder
    return found


def is_index(path: str) -> bool:
    """Whether a file is the index of a set."""
    try:
        source = open_source(path)
    except WeighlockError:
        return False
    try:
        return looks_like_index(source)
    finally:
        source.close()
