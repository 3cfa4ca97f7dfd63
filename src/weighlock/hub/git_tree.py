"""Ids of a folder's content: git's tree id, and a SHA-256 over everything.

The tree id is what a commit names, so a folder whose tree id is right is the commit's, whoever delivered it. It is
SHA-1, and an archive can differ from its commit with good reason (`.gitattributes` leaves files out or rewrites them;
submodules are empty), so a SHA-256 over all files stands beside it, which pins a folder without help from git.
"""

import dataclasses
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from typing import Any, Final

__all__ = ["File", "content_hash", "files_of", "is_left_behind", "tree_id"]

_LEFT_BEHIND: Final = ("__pycache__",)
"""What running the code leaves in its folder. It counts for nothing here, so nothing of it may arrive or run either:
Python takes bytecode for the source beside it, whatever the two say."""


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """One file: its path with slashes, git's mode, the ids of its content, its size in bytes."""

    path: str
    mode: int
    blob: str
    sha256: str
    size: int


def files_of(root: str, only: Iterable[str] | None = None) -> Iterator[File]:
    """Give every file below a folder, or those of given paths, with their ids.

    Raises
    ------
    OSError
        If one cannot be read.
    """
    for path in walk(root) if only is None else only:
        full = os.path.join(root, *path.split("/"))
        found = os.lstat(full)
        if stat.S_ISLNK(found.st_mode):
            yield _file(path, 0o120000, os.fsencode(os.readlink(full)))
        else:
            with open(full, "rb") as file:
                yield _file(path, 0o100755 if found.st_mode & 0o100 else 0o100644, file.read())


def walk(root: str, prefix: str = "") -> Iterator[str]:
    """Give the paths of all files below a folder, but for what running the code leaves behind."""
    with os.scandir(os.path.join(root, *prefix.split("/")) if prefix else root) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        path = f"{prefix}/{entry.name}" if prefix else entry.name
        if not entry.is_dir(follow_symlinks=False):
            yield path
        elif entry.name not in _LEFT_BEHIND:
            yield from walk(root, path)


def is_left_behind(path: str) -> bool:
    """Whether a path is in a folder that `walk` passes over."""
    return any(part in _LEFT_BEHIND for part in path.split("/")[:-1])


def _file(path: str, mode: int, data: bytes) -> File:
    blob = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
    blob.update(data)
    return File(path, mode, blob.hexdigest(), hashlib.sha256(data).hexdigest(), len(data))


def content_hash(files: Iterable[File]) -> str:
    """Return a SHA-256 over modes, paths and contents of all files, in the order of their paths."""
    total = hashlib.sha256()
    for file in sorted(files, key=lambda file: os.fsencode(file.path)):
        total.update(b"%06o %s " % (file.mode, file.sha256.encode()) + os.fsencode(file.path) + b"\0")
    return "sha256:" + total.hexdigest()


def tree_id(files: Iterable[File], submodules: Iterable[tuple[str, str]] = ()) -> str:
    """Return git's id of the folder that holds these files (gitformat of tree objects; SHA-1).

    Parameters
    ----------
    files : iterable of File
    submodules : iterable of (str, str)
        Path and commit of each submodule, where they are known.
    """
    root: dict[bytes, Any] = {}
    entries = [(file.path, file.mode, file.blob) for file in files]
    entries += [(path, 0o160000, commit) for path, commit in submodules]
    for path, mode, name in entries:
        parts = [os.fsencode(part) for part in path.split("/")]
        folder = root
        for part in parts[:-1]:
            folder = folder.setdefault(part, {})
        folder[parts[-1]] = (mode, name)
    return _tree(root)


def _tree(folder: dict[bytes, Any]) -> str:
    rows = []
    for name, item in folder.items():
        if isinstance(item, dict):
            rows.append((name + b"/", b"40000 " + name, _tree(item)))
        else:
            rows.append((name, b"%o " % item[0] + name, item[1]))
    data = b"".join(row[1] + b"\0" + bytes.fromhex(row[2]) for row in sorted(rows))
    return hashlib.sha1(b"tree %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
