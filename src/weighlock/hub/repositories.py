"""Repositories in the store: found there, or fetched, verified and published.

A tree is stored by its commit, so what stands there never changes. It is filled in a private folder and renamed into
its place; who loses a race throws its own copy away. A process that is killed leaves a private folder that nobody
looks at.
"""

import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

from weighlock.errors import (
    HubError,
    NotInRepositoryError,
    OfflineError,
    PinError,
    ReadOnlyCacheError,
    UntrustedRepositoryError,
)
from weighlock.hub import fetching, git_tree, refs
from weighlock.hub.directories import Store, require_writable, told_if_unwritable
from weighlock.hub.hosts import without_user
from weighlock.hub.lock_file import Pin
from weighlock.hub.locks import forget, held, private_name, read_record, write_record
from weighlock.hub.settings import Settings
from weighlock.hub.sources import Repository, is_commit

__all__ = ["Working", "Wanted", "find", "folder_at", "stored_commits"]


@dataclasses.dataclass(frozen=True, slots=True)
class Working:
    """A repository's files, ready to be read.

    Attributes
    ----------
    root : str
        The folder with `hubconf.py`.
    repository : Repository
    commit : str or None
        None for what is local, or was left by torch.hub.
    source : str
        ``stored``, ``fetched``, ``torch.hub`` or ``local``.
    """

    root: str
    repository: Repository
    commit: str | None
    source: str


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """How a repository is wanted.

    Attributes
    ----------
    allow : callable
        Called with the repository and its commit before anything of it is fetched to be run; raises to refuse.
    force : bool
        Ask and fetch again.
    validate : bool
        Make sure that a commit belongs to the repository.
    pin : Pin or None
        What the lock file says.
    """

    allow: Callable[[Repository, str | None, str | None], None]
    force: bool = False
    validate: bool = True
    pin: Pin | None = None


def find(store: Store, repository: Repository, settings: Settings, wanted: Wanted) -> Working:
    """Return a repository's files: from where they are, else from the store, else from the network.

    Raises
    ------
    HubError
        If they cannot be had.
    """
    if repository.kind == "local":
        return _local(store, repository)
    if repository.kind == "archive":
        return _archive(store, repository, settings, wanted)
    old = None if wanted.force or wanted.pin else _of_torch(store, repository)
    known = refs.recall(store, repository)
    if known is None and old is not None and old[1]:
        wanted.allow(repository, None, old[0])
        return Working(old[0], repository, None, "torch.hub")
    try:
        resolved = _resolved(store, repository, settings, wanted, known)
        working = _at_commit(store, repository, settings, wanted, resolved)
    except (NotInRepositoryError, UntrustedRepositoryError, PinError):
        raise
    except HubError as error:
        # A cache that must not be written is no fault that passes: who asked for it anew is told.
        unwritable = isinstance(error, ReadOnlyCacheError) or getattr(error, "errno", None) is not None
        hopeless = wanted.force and unwritable
        instead = None if hopeless else _instead(store, repository, wanted, known, old, str(error))
        if instead is None:
            raise
        return instead
    # Not before the files are there: a branch that moved while its archive cannot be had still means the old commit.
    if resolved is not known and wanted.pin is None and store.writable():
        refs.remember(store, repository, resolved)
    return working


def folder_at(store: Store, repository: Repository, settings: Settings, commit: str) -> str:
    """Return the folder of a commit, fetched where it is not there: to be read, not to be run.

    Raises
    ------
    HubError
        If it cannot be had.
    """
    wanted = Wanted(lambda *_: None)
    return _at_commit(store, repository, settings, wanted, refs.Resolved("", commit, time.time())).root


def _resolved(
    store: Store, repository: Repository, settings: Settings, wanted: Wanted, known: refs.Resolved | None
) -> refs.Resolved:
    """Return the commit that a ref is: pinned, remembered, or asked."""
    if wanted.pin is not None:
        return refs.Resolved("", wanted.pin.commit, time.time())
    there = known is not None and _published(store, repository, known.commit)
    unseen = is_commit(repository.ref) and wanted.validate and not there
    if known is not None and (settings.offline or (not wanted.force and refs.is_fresh(known, settings) and not unseen)):
        return known
    if settings.offline:
        raise OfflineError(
            f"{repository} is not in the cache, and nothing may be fetched: offline", path=store.hub,
            hint=f"weighlock hub prefetch {repository} fetches it where there is a network.",
        )  # fmt: skip
    from weighlock.hub.download import Client

    # Who has something to go on with does not wait for a network that is not there.
    client = Client(dataclasses.replace(settings, retries=0) if there else settings)
    resolved = refs.resolve(repository, client, thorough=not there)
    by_commit = is_commit(repository.ref) or not resolved.name
    if wanted.validate and by_commit and not _published(store, repository, resolved.commit):
        refs.check_belongs(repository, resolved.commit, client)
    return resolved


# Reason for the parameters: everything that may stand in for what cannot be fetched.
def _instead(
    store: Store, repository: Repository, wanted: Wanted, known: refs.Resolved | None, old: tuple[str, bool] | None,
    why: str,
) -> Working | None:  # fmt: skip
    """Return what the cache has of a repository that cannot be fetched, with a warning; None where it has nothing."""
    commit = wanted.pin.commit if wanted.pin else known.commit if known else None
    if commit is not None and _published(store, repository, commit):
        since = "" if known is None else f", last checked {_ago(known.checked)}"
        warnings.warn(f"{why}; what is in the cache is used{since}", stacklevel=2)
        wanted.allow(repository, commit, None)
        folder = _commit_folder(store, repository, commit)
        if wanted.pin is not None:
            check_pin(store, repository, folder, wanted.pin)
        return Working(folder, repository, commit, "stored")
    if old is None:
        return None
    warnings.warn(f"{why}; the copy that torch.hub left is used: {old[0]}", stacklevel=2)
    wanted.allow(repository, None, old[0] if old[1] else None)
    return Working(old[0], repository, None, "torch.hub")


def _ago(when: float) -> str:
    days = (time.time() - when) / 86400
    return f"{days:.0f} days ago" if days >= 2 else f"{days * 24:.0f} hours ago"


def _commit_folder(store: Store, repository: Repository, commit: str) -> str:
    return store.path("repos", *repository.folders, "commits", commit)


def meta_path(store: Store, repository: Repository, commit: str) -> str:
    """Return where the record of a stored commit is."""
    return store.path("repos", *repository.folders, "meta", commit + ".json")


def _published(store: Store, repository: Repository, commit: str) -> bool:
    return os.path.isdir(_commit_folder(store, repository, commit))


def _at_commit(
    store: Store, repository: Repository, settings: Settings, wanted: Wanted, resolved: refs.Resolved
) -> Working:
    commit = resolved.commit
    folder = _commit_folder(store, repository, commit)
    wanted.allow(repository, commit, None)
    source = "stored"
    if wanted.force or not os.path.isdir(folder):
        _fetch(store, repository, settings, wanted, commit)
        source = "fetched"
    if wanted.pin is not None:
        check_pin(store, repository, folder, wanted.pin)
    return Working(folder, repository, commit, source)


def _fetch(store: Store, repository: Repository, settings: Settings, wanted: Wanted, commit: str) -> None:
    folder = _commit_folder(store, repository, commit)
    if settings.offline:
        how = "cannot be fetched again" if os.path.isdir(folder) else "is not in the cache, and nothing may be fetched"
        raise OfflineError(
            f"{repository} at {commit[:12]} {how}: offline", path=store.hub,
            hint=f"weighlock hub prefetch {repository} fetches it where there is a network.",
        )  # fmt: skip
    require_writable(store.root, f"{repository} at {commit[:12]}")
    with held(store, "commit", repository.full_name, commit), told_if_unwritable(store.root, str(repository)):
        if not wanted.force and os.path.isdir(folder):
            return
        temporary = store.folder("tmp")
        place = os.path.join(temporary, private_name("tree"))
        os.makedirs(place)
        try:
            found = fetching.fetch_tree(repository, commit, wanted.pin, settings, os.path.join(place, "new"))
            publish(store, repository, commit, os.path.join(place, "new"), found)
        finally:
            forget(place)


def publish(store: Store, repository: Repository, commit: str, new: str, facts: dict[str, Any]) -> None:
    """Put a filled folder in its place, with its record; where a sound one is already, that one stays."""
    files = list(git_tree.files_of(new))
    record = meta_path(store, repository, commit)
    facts = {
        **facts,
        "commit": commit,
        "repository": repository.full_name,
        "content": git_tree.content_hash(files),
        "fetched": int(time.time()),
        "files": {file.path: [file.mode, file.sha256, file.size] for file in files},
    }
    folder = _commit_folder(store, repository, commit)
    if os.path.isdir(folder):
        if git_tree.content_hash(git_tree.files_of(folder)) == facts["content"]:
            if read_record(record) is None:
                write_record(record, facts)
            return
        # Somebody changed it, or the disk did. It is renamed away, so that who runs from it keeps its open files.
        aside = os.path.join(store.folder("tmp"), private_name("damaged"))
        os.rename(folder, aside)
        forget(aside)
    write_record(record, facts)
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    try:
        os.rename(new, folder)
    except OSError:
        if not os.path.isdir(folder):
            raise


def check_pin(store: Store, repository: Repository, folder: str, pin: Pin) -> None:
    """Compare a folder's files with what the lock file says.

    Raises
    ------
    PinError
        If they differ.
    """
    record = read_record(meta_path(store, repository, pin.commit)) or {}
    names = record.get("files")
    try:
        files = list(git_tree.files_of(folder, names if isinstance(names, dict) else None))
    except OSError as error:
        raise PinError(f"{repository.at(None)} is not as it was locked: {error}", path=folder) from error
    content = git_tree.content_hash(files)
    if content != pin.content:
        raise PinError(
            f"{repository.at(None)} is not as it was locked", expected=pin.content, got=content, path=folder,
            hint="force_reload=True fetches it again; weighlock hub lock writes what is there now.",
        )  # fmt: skip


def _local(store: Store, repository: Repository) -> Working:
    path = repository.url or ""
    if os.path.isfile(path):
        return _local_archive(store, repository, path)
    if not os.path.isdir(path):
        raise HubError("there is no such folder", path=path, hint='source="github" (the default) loads owner/name.')
    return Working(path, repository, None, "local")


def _local_archive(store: Store, repository: Repository, path: str) -> Working:
    digest = fetching.file_digest(path)
    if not _published(store, repository, digest):
        require_writable(store.root, path)
    with held(store, "commit", path, digest):
        if not _published(store, repository, digest):
            place = os.path.join(store.folder("tmp"), private_name("tree"))
            try:
                facts = fetching.unpack(path, place, None)
                publish(store, repository, digest, place, {"source": path, **facts})
            finally:
                forget(place)
    return Working(_commit_folder(store, repository, digest), repository, digest, "local")


def _archive(store: Store, repository: Repository, settings: Settings, wanted: Wanted) -> Working:
    """Return the tree of a plain archive's URL; in the place of a commit stands a digest of its files."""
    known = None if wanted.force else refs.recall(store, repository.at("archive"))
    if wanted.pin is not None:
        known = refs.Resolved("refs/tags/archive", _digest_name(wanted.pin.content), time.time())
    if known is None or not _published(store, repository, known.commit):
        # Only when it is here can be said which code it is that would run; fetching it runs nothing.
        with held(store, "archive", without_user(str(repository.url))), told_if_unwritable(store.root, str(repository)):
            commit = _fetch_archive(store, repository, settings)
        known = refs.Resolved("refs/tags/archive", commit, time.time())
        refs.remember(store, repository.at("archive"), known)
    wanted.allow(repository, known.commit, None)
    folder = _commit_folder(store, repository, known.commit)
    if wanted.pin is not None:
        check_pin(store, repository, folder, wanted.pin)
    return Working(folder, repository, known.commit, "stored")


def _fetch_archive(store: Store, repository: Repository, settings: Settings) -> str:
    if settings.offline:
        raise OfflineError(f"{repository} is not in the cache, and nothing may be fetched: offline", path=store.hub)
    from weighlock.hub.download import Client

    require_writable(store.root, str(repository))
    place = os.path.join(store.folder("tmp"), private_name("tree"))
    os.makedirs(place)
    try:
        packed, new = os.path.join(place, "archive.zip"), os.path.join(place, "new")
        fetching.save_archive(Client(settings), str(repository.url), packed)
        facts = fetching.unpack(packed, new, None)
        # The commit that an archive names is anybody's word: it is noted, and is no name of what came.
        commit = _digest_name(git_tree.content_hash(git_tree.files_of(new)))
        publish(store, repository, commit, new, {"source": without_user(str(repository.url)), **facts})
    finally:
        forget(place)
    return commit


def _digest_name(content: str) -> str:
    """Return what stands in the place of a commit where there is none: the beginning of a digest of the files."""
    return content.removeprefix("sha256:")[:40]


_SAFE_UNDERSCORES: Final = 2


def _of_torch(store: Store, repository: Repository) -> tuple[str, bool] | None:
    """Return the folder that torch.hub left for a repository and ref, and whether it can be no other's.

    torch.hub joins owner, name and ref with ``_``. Where one of them holds that sign, the folder may be another
    repository's; it is then taken only when nobody answers, and never counts as a sign of trust.
    """
    if repository.host != "github.com" or repository.kind != "hosted":
        return None
    for ref in [repository.ref] if repository.ref is not None else ["main", "master"]:
        name = "_".join([repository.owner, repository.name, str(ref).replace("/", "_")])
        folder = os.path.join(store.hub, name)
        if os.path.isfile(os.path.join(folder, "hubconf.py")) and "_" not in repository.owner:
            return folder, name.count("_") == _SAFE_UNDERSCORES and "/" not in str(ref)
    return None


def stored_commits(store: Store) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Give every stored commit: its folder, its record's path, and its record."""
    base = store.path("repos")
    for folder, names, _ in os.walk(base):
        names.sort()
        if "commits" not in names or not os.path.basename(folder).startswith("+"):
            continue
        names.clear()
        for commit in sorted(os.listdir(os.path.join(folder, "commits"))):
            record = os.path.join(folder, "meta", commit + ".json")
            yield os.path.join(folder, "commits", commit), record, read_record(record) or {}
