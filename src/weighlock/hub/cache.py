"""What the cache holds, what it costs, whether it is sound, and what can go."""

import dataclasses
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

from weighlock.errors import HubError
from weighlock.hub import git_tree, refs
from weighlock.hub.checkpoints import file_sha256, place_path, place_records
from weighlock.hub.directories import Store
from weighlock.hub.lock_file import LockFile
from weighlock.hub.locks import forget, private_name
from weighlock.hub.parts import leftovers
from weighlock.hub.repositories import stored_commits
from weighlock.hub.sources import Repository

__all__ = ["Item", "Reason", "check_item", "items", "prunable", "remove", "why"]

_ABANDONED: Final = 86400.0
"""Seconds, after which a private folder is nobody's any more."""


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One thing in the cache.

    Attributes
    ----------
    kind : str
        ``repository``, ``weights``, ``torch.hub`` (left by it), ``partial``, ``temporary``, ``damaged``.
    name : str
        ``github.com/o/n@<commit>``, or a URL, or a file's name.
    path : str
    nbytes : int
    used_by : tuple of str
        The refs that mean this commit.
    record : str or None
        Where the record of it is.
    facts : mapping
        What the record says.
    """

    kind: str
    name: str
    path: str
    nbytes: int
    used_by: tuple[str, ...] = ()
    record: str | None = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False)


def items(store: Store) -> Iterator[Item]:
    """Give everything that the hub's folder holds."""
    yield from _repositories(store)
    yield from _weights(store)
    yield from _left_by_torch(store)
    yield from _temporary(store)


def _repositories(store: Store) -> Iterator[Item]:
    for folder, record, facts in stored_commits(store):
        commit = os.path.basename(folder)
        name = str(
            facts.get("repository") or os.path.relpath(os.path.dirname(os.path.dirname(folder)), store.path("repos"))
        )
        yield Item(
            "repository", f"{name}@{commit}", folder, _size(folder), _refs_to(store, folder, commit), record, facts
        )


def _refs_to(store: Store, folder: str, commit: str) -> tuple[str, ...]:
    parts = os.path.relpath(os.path.dirname(os.path.dirname(folder)), store.path("repos")).split(os.sep)
    repository = Repository(parts[0], "/".join(parts[1:-1]), parts[-1].removeprefix("+"))
    known = refs.known_refs(store, repository)
    return tuple(ref or "default branch" for ref, resolved in known if resolved.commit == commit)


def _weights(store: Store) -> Iterator[Item]:
    known = set()
    for record, facts in place_records(store):
        path = str(facts["path"])
        if os.path.isfile(path):
            known.add(os.path.realpath(path))
            yield Item("weights", str(facts.get("url")), path, os.path.getsize(path), (), record, facts)
    for path in _files(store.checkpoints):
        name = os.path.basename(path)
        if os.path.realpath(path) in known or name.endswith(".note"):
            continue
        yield Item(_kind_of(name), name, path, os.path.getsize(path))


def _kind_of(name: str) -> str:
    """Return what a file of nobody's is: the names are those that the writers give."""
    if name.endswith((".part", ".partial")):
        return "partial"
    if name.startswith(".tmp."):
        return "temporary"
    return "damaged" if ".damaged." in name else "torch.hub"


def _files(folder: str) -> Iterator[str]:
    for base, _, names in os.walk(folder):
        for name in sorted(names):
            path = os.path.join(base, name)
            if os.path.isfile(path):
                yield path


def _left_by_torch(store: Store) -> Iterator[Item]:
    if not os.path.isdir(store.hub):
        return
    for name in sorted(os.listdir(store.hub)):
        path = os.path.join(store.hub, name)
        if os.path.isfile(os.path.join(path, "hubconf.py")):
            yield Item("torch.hub", name, path, _size(path))


def _temporary(store: Store) -> Iterator[Item]:
    folder = store.path("tmp")
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        path = os.path.join(folder, name)
        yield Item("temporary", name, path, _size(path))


def _size(path: str) -> int:
    """Return the bytes of all files below a folder, or of a file."""
    if not os.path.isdir(path):
        return os.path.getsize(path) if os.path.exists(path) else 0
    return sum(os.lstat(os.path.join(base, name)).st_size for base, _, names in os.walk(path) for name in names)


def check_item(item: Item) -> str | None:
    """Return what is wrong with a thing in the cache; None where nothing is. No network is needed."""
    try:
        if item.kind == "repository":
            return _check_repository(item)
        if item.kind == "weights" and file_sha256(item.path) != item.facts.get("sha256"):
            return "its SHA-256 is no longer the one that was fetched"
    except OSError as error:
        return str(error)
    return None


def _check_repository(item: Item) -> str | None:
    recorded = item.facts.get("files")
    if not isinstance(recorded, dict):
        return "its record is missing"
    found = {file.path: [file.mode, file.sha256, file.size] for file in git_tree.files_of(item.path)}
    for name in sorted(recorded.keys() | found.keys()):
        if name not in found:
            return f"the file {name} is missing"
        if name not in recorded:
            return f"the file {name} was added"
        if found[name] != recorded[name]:
            return f"the file {name} was changed"
    if item.facts.get("tree_checked") and git_tree.tree_id(git_tree.files_of(item.path)) != item.facts.get("tree"):
        return "its files are not the commit's"
    return None


def prunable(store: Store, lock_files: Iterable[LockFile] = (), older_than: float | None = None) -> Iterator[Item]:
    """Give what nothing refers to: commits that no ref means, unfinished downloads, folders of killed processes.

    Parameters
    ----------
    lock_files : iterable of LockFile
        What these name is kept.
    older_than : float, optional
        Seconds: also weights and repositories that have not been read for so long.
    """
    commits = {pin.commit for lock in lock_files for pin in lock.repositories}
    digests = {pin.sha256 for lock in lock_files for pin in lock.weights}
    partial = set(leftovers(store.checkpoints))
    now = time.time()
    for item in items(store):
        idle = older_than is not None and now - _last_read(item.path) > older_than
        if item.kind == "repository":
            kept = os.path.basename(item.path) in commits or (item.used_by and not idle)
        elif item.kind == "weights":
            kept = item.facts.get("sha256") in digests or not idle
        elif item.kind in ("partial", "temporary"):
            kept = item.path not in partial and now - os.lstat(item.path).st_mtime < _ABANDONED
        else:
            kept = item.kind == "torch.hub"
        if not kept:
            yield item


def _last_read(path: str) -> float:
    target = os.path.join(path, "hubconf.py") if os.path.isdir(path) else path
    try:
        found = os.stat(target)
    except OSError:
        return time.time()
    return max(found.st_atime, found.st_mtime)


def remove(store: Store, item: Item) -> None:
    """Remove a thing: out of sight by one rename, then for good.

    Raises
    ------
    HubError
        If that is not allowed.
    """
    try:
        if os.path.isdir(item.path):
            aside = os.path.join(store.folder("tmp"), private_name("removed"))
            os.rename(item.path, aside)
            forget(aside)
        elif os.path.lexists(item.path):
            os.unlink(item.path)
            forget(item.path + ".note")
        if item.record:
            forget(item.record)
    except OSError as error:
        raise HubError(f"cannot be removed: {error.strerror}", path=item.path) from error
    if item.kind == "repository":
        _forget_refs(store, item)


def _forget_refs(store: Store, item: Item) -> None:
    base = os.path.dirname(os.path.dirname(item.path))
    folder = os.path.join(base, "refs")
    commit = os.path.basename(item.path)
    parts = os.path.relpath(base, store.path("repos")).split(os.sep)
    repository = Repository(parts[0], "/".join(parts[1:-1]), parts[-1].removeprefix("+"))
    for ref, resolved in refs.known_refs(store, repository):
        if resolved.commit == commit:
            forget(refs.place(store, repository.at(ref)))
    for empty in (os.path.join(base, "commits"), os.path.join(base, "meta"), folder, base):
        try:
            os.rmdir(empty)
        except OSError:
            return


@dataclasses.dataclass(frozen=True, slots=True)
class Reason:
    """Why a thing is in the cache.

    Attributes
    ----------
    item : Item
    source : str or None
        Where it came from.
    locks : tuple of str
        The lock files that name it.
    """

    item: Item
    source: str | None
    locks: tuple[str, ...]


def why(store: Store, text: str, lock_files: Iterable[LockFile] = ()) -> Iterator[Reason]:
    """Say why a thing is in the cache.

    Parameters
    ----------
    text : str
        A part of its name or path.
    """
    locks = list(lock_files)
    for item in items(store):
        if text in item.name or text in item.path:
            source = item.facts.get("source")
            named = tuple(lock.path for lock in locks if _is_named(lock, item))
            yield Reason(item, None if source is None else str(source), named)


def _is_named(lock: LockFile, item: Item) -> bool:
    digest = item.facts.get("sha256")
    return any(pin.commit in item.name for pin in lock.repositories) or any(
        pin.sha256 == digest for pin in lock.weights
    )


def record_of(store: Store, path: str) -> str:
    """Return where the record of a file of weights is."""
    return place_path(store, path)
