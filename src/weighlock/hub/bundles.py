"""A bundle: repositories and weights in one file, to be carried to a machine without a network.

A tar file: what a bundle holds stands first, in JSON, then the files. Everything in it is checked when it is read,
against the ids and digests that it names itself and, where a lock file is in force, against that.
"""

import io
import json
import os
import tarfile
import time
from collections.abc import Iterable
from typing import IO, Any, Final

from weighlock.errors import ArchiveError, HubError, PinError
from weighlock.hub import entrypoints, git_tree, refs
from weighlock.hub.archive import MOST_MEMBERS, check_links, link
from weighlock.hub.checkpoints import Weights, file_sha256, find_weights, other_path, place_path
from weighlock.hub.directories import Store, find_store, signature
from weighlock.hub.hosts import without_user
from weighlock.hub.lock_file import load_lock
from weighlock.hub.locks import forget, private_name, read_record, write_record
from weighlock.hub.repositories import meta_path, publish
from weighlock.hub.settings import current
from weighlock.hub.sources import Repository, is_commit

__all__ = ["read_bundle", "write_bundle"]

_INDEX: Final = "weighlock-bundle.json"
_VERSION: Final = 1
_LARGEST_INDEX: Final = 64 << 20


def write_bundle(
    path: str | os.PathLike[str], *repositories: Any, urls: Iterable[str] = (), source: str = "github"
) -> None:
    """Write repositories and weights into one file; what is not in the cache is fetched first.

    Parameters
    ----------
    path : str or os.PathLike
        The bundle; replaced only when the new one is whole.
    *repositories : str
        As for `load`.
    urls : iterable of str
        Weights.
    source : str
        As for `load`.

    Raises
    ------
    HubError
        If something cannot be had.

    Examples
    --------
    >>> import os, tempfile
    >>> bundle = os.path.join(tempfile.mkdtemp(), "models.bundle")
    >>> write_bundle(bundle)
    >>> read_bundle(bundle)
    []
    """
    store, settings = find_store(), current()
    rows: list[dict[str, Any]] = []
    weights: list[dict[str, Any]] = []
    for repository in repositories:
        request = entrypoints.Request(repository=repository, source=source, verbose=False, runs=False)
        rows.append(_row(store, entrypoints.obtain(request, settings)))
    for url in urls:
        file = find_weights(store, Weights(url=url), settings)
        record = read_record(place_path(store, file)) or {}
        weights.append(
            {
                "url": without_user(url),
                "name": os.path.basename(file),
                "path": file,
                "sha256": record.get("sha256") or file_sha256(file),
            }
        )
    target = os.path.abspath(os.fspath(path))
    temporary = os.path.join(os.path.dirname(target), "." + private_name(os.path.basename(target)))
    try:
        with tarfile.open(temporary, "x:", format=tarfile.PAX_FORMAT) as bundle:
            _write(bundle, rows, weights)
        os.replace(temporary, target)
    finally:
        forget(temporary)


def _row(store: Store, working: Any) -> dict[str, Any]:
    repository = working.repository
    if working.commit is None:
        raise HubError(f"{repository} has no commit, so a bundle cannot name it", path=working.root)
    meta = read_record(meta_path(store, repository, working.commit)) or {}
    known = refs.recall(store, repository)
    return {
        "host": repository.host, "owner": repository.owner, "name": repository.name, "kind": repository.kind,
        "url": repository.url and without_user(repository.url),
        "ref": repository.ref, "ref_name": known.name if known else "", "meta": meta,
        "root": working.root,
    }  # fmt: skip


def _write(bundle: tarfile.TarFile, rows: list[dict[str, Any]], weights: list[dict[str, Any]]) -> None:
    hidden = ("root", "path")
    index = {
        "version": _VERSION,
        "repositories": [{name: value for name, value in row.items() if name not in hidden} for row in rows],
        "weights": [{name: value for name, value in row.items() if name not in hidden} for row in weights],
    }
    data = json.dumps(index, sort_keys=True).encode()
    info = tarfile.TarInfo(_INDEX)
    info.size = len(data)
    bundle.addfile(info, io.BytesIO(data))
    for at, row in enumerate(rows):
        for name in row["meta"].get("files", {}):
            bundle.add(os.path.join(row["root"], name), f"repositories/{at}/{name}", recursive=False)
    for at, row in enumerate(weights):
        bundle.add(row["path"], f"weights/{at}", recursive=False)


def read_bundle(path: str | os.PathLike[str]) -> list[str]:
    """Put what a bundle holds into the cache.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    list of str
        The repositories and URLs that can be used now.

    Raises
    ------
    ArchiveError
        If the bundle is damaged, or its files are not what it says.
    PinError
        If a lock file is in force, and says otherwise.
    """
    store = find_store()
    try:
        with tarfile.open(os.fspath(path), "r:") as bundle:
            index = _index(bundle, os.fspath(path))
            found = [_put_repository(store, bundle, at, row) for at, row in enumerate(index["repositories"])]
            found += [_put_weights(store, bundle, at, row) for at, row in enumerate(index["weights"])]
    except (tarfile.TarError, EOFError, KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, HubError):
            raise
        raise ArchiveError(f"this is no bundle that can be read: {error!r}", path=os.fspath(path)) from error
    return found


def _index(bundle: tarfile.TarFile, path: str) -> dict[str, Any]:
    first = bundle.next()
    if first is None or first.name != _INDEX or first.size > _LARGEST_INDEX:
        raise ArchiveError("this is no bundle", path=path)
    index = json.loads(_opened(bundle, first).read())
    if index.get("version") != _VERSION:
        raise ArchiveError(
            "the bundle is of another version", expected=str(_VERSION), got=str(index.get("version")), path=path
        )
    return dict(index)


def _opened(bundle: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = bundle.extractfile(info)
    if file is None:
        raise ArchiveError("the bundle has a folder where a file should be", record=info.name)
    return file


def _put_repository(store: Store, bundle: tarfile.TarFile, at: int, row: dict[str, Any]) -> str:
    repository = Repository(row["host"], row["owner"], row["name"], row["ref"], row["url"], row["kind"])
    meta = row["meta"]
    if not is_commit(meta["commit"]) or not all(_is_plain(part) for part in repository.folders):
        raise ArchiveError("the bundle names a repository that cannot be", got=repository.full_name[:100])
    place = os.path.join(store.folder("tmp"), private_name("tree"))
    os.makedirs(place)
    try:
        _extract(bundle, f"repositories/{at}/", meta["files"], place)
        files = list(git_tree.files_of(place))
        if git_tree.content_hash(files) != meta["content"]:
            raise ArchiveError("the bundle's files are not what it says", record=repository.full_name)
        if meta.get("tree_checked") and git_tree.tree_id(files) != meta["tree"]:
            raise ArchiveError("the bundle's files are not the commit's", record=repository.full_name)
        _check_lock(repository, meta)
        facts = {name: meta.get(name) for name in ("source", "tree", "tree_checked", "tree_differs")}
        publish(store, repository, meta["commit"], place, {**facts, "bundle": True})
    finally:
        forget(place)
    refs.remember(store, repository, refs.Resolved(str(row.get("ref_name") or ""), meta["commit"], time.time()))
    return str(repository)


def _check_lock(repository: Repository, meta: dict[str, Any]) -> None:
    lock = load_lock(current())
    pin = lock.pin(repository) if lock else None
    if pin is not None and (pin.commit, pin.content) != (meta["commit"], meta["content"]):
        raise PinError(
            "the bundle holds another state than the lock file names", expected=pin.commit, got=meta["commit"]
        )


def _is_plain(part: str) -> bool:
    return part not in ("", ".", "..") and not any(mark in part for mark in "/\\\0")


def _extract(bundle: tarfile.TarFile, prefix: str, files: dict[str, Any], folder: str) -> None:
    """Write the files that the index names, and no others, wherever the tar file says they belong."""
    if len(files) > MOST_MEMBERS:
        raise ArchiveError("the bundle has too many files")
    links = []
    for name, (mode, _, size) in files.items():
        if not all(map(_is_plain, name.split("/"))) or git_tree.is_left_behind(name):
            raise ArchiveError("the bundle names a file that may not be written", record=name)
        info = bundle.getmember(prefix + name)
        target = os.path.join(folder, *name.split("/"))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if mode == 0o120000:
            links.append((name, info.linkname.encode("utf-8", "surrogateescape")))
            continue
        if not info.isreg() or info.size != size:
            raise ArchiveError("the bundle's file has another size than it says", record=name)
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o777 if mode & 0o100 else 0o666), "wb") as out:
            _copy(_opened(bundle, info), out)
    for name, target_text in links:
        link(folder, name, target_text, prefix)
    check_links(folder, [name for name, _ in links], prefix)


def _copy(source: IO[bytes], target: Any) -> str:
    import hashlib

    digest = hashlib.sha256()
    while piece := source.read(1 << 20):
        digest.update(piece)
        target.write(piece)
    return digest.hexdigest()


def _put_weights(store: Store, bundle: tarfile.TarFile, at: int, row: dict[str, Any]) -> str:
    url, name = str(row["url"]), str(row["name"])
    if not _is_plain(name):
        raise ArchiveError("the bundle names a file that may not be written", record=name)
    lock = load_lock(current())
    pin = lock.weights_of(url) if lock else None
    os.makedirs(store.checkpoints, exist_ok=True)
    temporary = os.path.join(store.checkpoints, "." + private_name(name) + ".part")
    target = os.path.join(store.checkpoints, name)
    try:
        with open(temporary, "xb") as file:
            digest = _copy(_opened(bundle, bundle.getmember(f"weights/{at}")), file)
        if digest != row["sha256"] or (pin is not None and digest != pin.sha256):
            raise ArchiveError(
                "the bundle's weights are not what they should be", expected=str(row["sha256"]), got=digest, url=url
            )
        known = read_record(place_path(store, target))
        if os.path.exists(target) and (known is None or known.get("url") != url):
            target = other_path(target, url)
        os.replace(temporary, target)
    finally:
        forget(temporary)
    facts = {
        "url": url,
        "sha256": digest,
        "path": target,
        "size": os.path.getsize(target),
        "signature": signature(target),
    }
    write_record(place_path(store, target), facts)
    return url
