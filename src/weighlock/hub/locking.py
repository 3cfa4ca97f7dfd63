"""Writing the lock file: what repositories are now, and which weights were used."""

import os
from collections.abc import Iterable
from typing import Any

from weighlock.errors import HubError, PinError
from weighlock.hub import entrypoints, git_tree
from weighlock.hub.checkpoints import Weights, file_sha256, find_weights, place_records
from weighlock.hub.directories import Store, find_store
from weighlock.hub.hosts import without_user
from weighlock.hub.lock_file import LockFile, Pin, WeightsPin, lock_name, read_lock_file, write_lock_file
from weighlock.hub.locks import read_record
from weighlock.hub.repositories import Working, meta_path
from weighlock.hub.settings import configured, current
from weighlock.hub.usage import Recording

__all__ = ["lock"]


# Reason for the parameters: the ways in which something comes to be locked.
def lock(
    *repositories: Any, urls: Iterable[str] = (), used: Recording | None = None,
    path: str | os.PathLike[str] | None = None,
    source: str = "github", update: bool = True,
) -> LockFile:  # fmt: skip
    """Write what repositories and weights are now into the lock file, beside what it says already.

    Parameters
    ----------
    *repositories : str
        As for `load`. Weights that their entry points were seen to use in `used` are locked, too.
    urls : iterable of str
        Weights; they are fetched if they are not in the cache.
    used : Recording, optional
        What a block of `weighlock.hub.recording` used.
    path : str, optional
        The lock file; that of the settings by default.
    source : str
        As for `load`.
    update : bool
        Ask again which commits branches are, instead of taking what the cache says.

    Returns
    -------
    LockFile
        What the file says now.

    Raises
    ------
    HubError
        If something cannot be had.

    Examples
    --------
    >>> import os, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> lock(path=os.path.join(folder, "weighlock.lock")).repositories
    ()
    """
    store = find_store()
    with configured(locked=False, refresh=0.0 if update else None):
        settings = current()
        pins = []
        for repository in repositories:
            request = entrypoints.Request(repository=repository, source=source, verbose=False, runs=False)
            pins.append(_pin(store, entrypoints.obtain(request, settings)))
        pins += [_pin(store, working) for working in (used.repositories if used else ()) if working.source != "local"]
        weights = [_weights(without_user(url), find_weights(store, Weights(url=url), settings), ()) for url in urls]
        for url, (file, _) in (used.weights if used else {}).items():
            weights.append(_weights(url, file, tuple(sorted(used.users.get(url, ())) if used else ())))
    target = os.fspath(path) if path is not None else settings.lock_file
    old = read_lock_file(target) if os.path.exists(target) else LockFile(path=target)
    new = old.merged(LockFile(_distinct(pins), _joined(weights), target))
    write_lock_file(new, target)
    return new


def _distinct(pins: list[Pin]) -> tuple[Pin, ...]:
    return tuple({(pin.name.lower(), pin.ref): pin for pin in pins}.values())


def _joined(weights: list[WeightsPin]) -> tuple[WeightsPin, ...]:
    """Let URLs of one content stand in one entry."""
    found: dict[tuple[str, int], WeightsPin] = {}
    for pin in weights:
        old = found.get((pin.sha256, pin.size))
        urls = tuple(dict.fromkeys((*(old.urls if old else ()), *pin.urls)))
        users = tuple(sorted({*(old.used_by if old else ()), *pin.used_by}))
        found[pin.sha256, pin.size] = WeightsPin(urls, pin.size, pin.sha256, users)
    return tuple(found.values())


def _pin(store: Store, working: Working) -> Pin:
    repository, commit = working.repository, working.commit
    if commit is None:
        raise PinError(
            f"{repository} has no commit to lock", path=working.root,
            hint="force_reload=True fetches the copy that torch.hub left anew; a folder cannot be locked.",
        )  # fmt: skip
    record = read_record(meta_path(store, repository, commit)) or {}
    names = record.get("files")
    if not isinstance(names, dict) or not record.get("tree"):
        raise HubError("the record of a stored repository is missing", path=working.root, hint="Fetch it again.")
    content = git_tree.content_hash(git_tree.files_of(working.root, names))
    if content != record["content"]:
        raise PinError("the repository in the cache is not what was fetched", expected=record["content"], got=content,
                       path=working.root, hint="Fetch it again with force_reload=True.")  # fmt: skip
    return Pin(lock_name(repository), repository.ref, commit, str(record["tree"]), content)


def _weights(url: str, path: str, users: tuple[str, ...]) -> WeightsPin:
    return WeightsPin((url,), os.path.getsize(path), file_sha256(path), users)


def locked_paths(lock_file: LockFile) -> set[str]:
    """Return the paths of the files in the cache that a lock file names."""
    wanted = {pin.sha256 for pin in lock_file.weights}
    return {str(record["path"]) for _, record in place_records(find_store()) if record.get("sha256") in wanted}
