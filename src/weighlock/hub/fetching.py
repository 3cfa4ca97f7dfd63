"""A commit's files, from whoever has them: mirrors, the host's archive, git itself; and whether they are the commit's.

The commit's id leads to the id of its tree, and the tree's id is computed from the files. So it does not matter who
delivered them: a mirror or a proxy that changed one byte is noticed, and the next address is tried.
"""

import dataclasses
import hashlib
import os
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from weighlock.errors import ArchiveError, HubError, NetworkError, OfflineError
from weighlock.hub import archive, differences, git_pack, git_tree, refs
from weighlock.hub.hosts import Host, find_host, mirror_url, without_user
from weighlock.hub.lock_file import Pin
from weighlock.hub.locks import forget
from weighlock.hub.settings import Settings
from weighlock.hub.sources import Repository

if TYPE_CHECKING:
    from weighlock.hub.download import Client

__all__ = ["fetch_tree", "file_digest", "save_archive", "unpack"]


def fetch_tree(repository: Repository, commit: str, pin: Pin | None, settings: Settings, folder: str) -> dict[str, Any]:
    """Fill a folder with a commit's files; return what is known of them.

    Parameters
    ----------
    pin : Pin or None
        What the lock file says; None asks the host for the tree's id.
    folder : str
        Is made.

    Raises
    ------
    HubError
        If nobody delivers the commit's files.
    """
    from weighlock.hub.download import Client

    client = Client(settings)
    host = find_host(repository.host, settings) if repository.kind == "hosted" else None
    judge = _Judge(repository, client, commit, pin, pin.tree if pin else _tree_of(repository, client, commit))
    failures: list[HubError] = []
    for url, trusted in _addresses(repository, commit, host, settings):
        try:
            facts = _from_archive(client, url, folder, commit)
            return {**facts, "source": without_user(url), **judge.judge(folder, facts["tree"], trusted=trusted)}
        except OfflineError:
            raise
        except HubError as error:
            failures.append(error)
            forget(folder)
    try:
        return _from_git(repository, client, commit, folder)
    except HubError as error:
        forget(folder)
        failures.append(error)
    raise _worst(failures)


def _worst(failures: list[HubError]) -> HubError:
    """Return the failure that says most: an archive that was refused comes before an address that was not there."""
    return next((error for error in failures if isinstance(error, ArchiveError)), failures[0])


def _addresses(
    repository: Repository, commit: str, host: Host | None, settings: Settings
) -> Iterator[tuple[str, bool]]:
    """Give archive addresses in order, each with whether it is the host's own."""
    fields = {
        "host": repository.host, "owner": repository.owner, "name": repository.name, "commit": commit,
        "ref": repository.ref or "HEAD",
    }  # fmt: skip
    if repository.kind == "hosted":
        for template in settings.mirrors:
            yield mirror_url(template, fields), False
    if host is not None:
        for url in host.archive_urls(repository.owner, repository.name, commit):
            yield url, True


def _tree_of(repository: Repository, client: "Client", commit: str) -> str | None:
    """Ask for the commit object alone, a few hundred bytes, and read its tree; None where nobody gives it."""
    try:
        _, url = refs.git_host(repository, client.settings)
        objects = git_pack.read_pack(refs.fetch_pack(client, url, commit, "tree:0"))
        return git_pack.commit_tree(objects, commit)
    except OfflineError:
        raise
    except HubError:
        return None


def _from_archive(client: "Client", url: str, folder: str, commit: str) -> dict[str, Any]:
    packed = folder + ".zip"
    save_archive(client, url, packed)
    try:
        return unpack(packed, folder, commit)
    finally:
        forget(packed)


@dataclasses.dataclass(frozen=True, slots=True)
class _Judge:
    """Says whether files are a commit's: by the id of its tree, the lock file, and what the commit says of itself."""

    repository: Repository
    client: "Client"
    commit: str
    pin: Pin | None
    expected: str | None

    def judge(self, folder: str, tree: str, *, trusted: bool) -> dict[str, Any]:
        """Return what is known of the files in a folder.

        Raises
        ------
        ArchiveError
            If they are not the commit's, and the commit does not say why.
        """
        if self.expected is None:
            if not trusted:
                raise ArchiveError("a mirror's archive cannot be checked: nobody tells the commit's tree", path=folder)
            return {"tree": tree, "tree_checked": False}
        if tree == self.expected:
            return {"tree": tree, "tree_checked": True}
        if self.pin is not None and git_tree.content_hash(git_tree.files_of(folder)) == self.pin.content:
            reason: str | None = "it did when it was locked"
        else:
            reason = self._explained(folder, self.expected)
        if reason is None:
            raise ArchiveError("the archive does not hold the commit's files", expected=self.expected, got=tree)
        return {"tree": self.expected, "tree_checked": False, "tree_differs": reason}

    def _explained(self, folder: str, tree: str) -> str | None:
        """Ask git for the names of the commit's files, without what is in them, and compare."""
        try:
            _, url = refs.git_host(self.repository, self.client.settings)
            objects = git_pack.read_pack(refs.fetch_pack(self.client, url, self.commit, "blob:none"))
            return differences.explained(folder, git_tree.files_of(folder), git_pack.walk(objects, tree))
        except HubError:
            return None


def save_archive(client: "Client", url: str, path: str) -> None:
    """Fetch an archive into a file.

    Raises
    ------
    DownloadError
        If it does not come whole.
    """
    for attempt in range(client.settings.retries + 1):
        answer = client.open("GET", url)
        try:
            with open(path, "wb") as file:
                total = 0
                while data := answer.read(1 << 20):
                    file.write(data)
                    total += len(data)
                    if total > archive.MOST_BYTES:
                        raise ArchiveError("the archive is larger than can be meant", url=url)
            answer.done()
        except NetworkError:
            if attempt == client.settings.retries:
                raise
            client.wait(attempt)
        else:
            return
        finally:
            answer.close()


def unpack(packed: str, folder: str, commit: str | None) -> dict[str, Any]:
    """Judge an archive and extract it; return its tree id and what it says of its commit.

    Raises
    ------
    ArchiveError
        If it is not safe, damaged, or another commit's.
    """
    try:
        opened = zipfile.ZipFile(packed)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ArchiveError(f"this is no zip archive: {error}", path=packed) from error
    with opened:
        said = archive.commit_of(opened)
        if commit is not None and said is not None and said != commit:
            raise ArchiveError("the archive is another commit's", expected=commit, got=said, path=packed)
        members = archive.read_members(opened, packed)
        os.makedirs(folder)
        archive.extract(opened, members, folder, packed)
    return {"archive_commit": said, "tree": git_tree.tree_id(git_tree.files_of(folder))}


def _from_git(repository: Repository, client: "Client", commit: str, folder: str) -> dict[str, Any]:
    """Fetch the commit over git's own protocol: every object's id is checked by computing it."""
    _, url = refs.git_host(repository, client.settings)
    objects = git_pack.read_pack(refs.fetch_pack(client, url, commit))
    tree = git_pack.commit_tree(objects, commit)
    os.makedirs(folder)
    write_objects(objects, tree, folder, url)
    facts = {"source": without_user(url), "tree": tree, "archive_commit": None}
    if git_tree.tree_id(git_tree.files_of(folder)) == tree:
        return {**facts, "tree_checked": True}
    # Every object was checked; but what was left out keeps anyone from computing the tree from the files again.
    return {**facts, "tree_checked": False, "tree_differs": "submodules and bytecode are left out"}


def write_objects(objects: git_pack.Objects, tree: str, folder: str, url: str) -> None:
    """Write the files of a tree into an empty folder.

    Raises
    ------
    ArchiveError
        If a name may not be written, or an object is missing.
    """
    links = []
    entries = [entry for entry in git_pack.walk(objects, tree) if not git_tree.is_left_behind(os.fsdecode(entry.path))]
    members = [archive.Member(os.fsdecode(entry.path), entry.mode) for entry in entries]
    for path in (member.path for member in members):
        why = archive.why_unsafe(path)
        if why:
            raise ArchiveError(f"the commit has a file that {why}", url=url, record=path)
    archive.check_names(members, url)
    for entry, (path, *_) in zip(entries, members, strict=True):
        target = os.path.join(folder, *path.split("/"))
        if entry.mode == 0o160000:
            os.makedirs(target, exist_ok=True)
            continue
        kind, content = objects.get(entry.object, (b"", b""))
        if kind != b"blob":
            raise ArchiveError("git's pack lacks a file of the commit", url=url, record=path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if entry.mode == 0o120000:
            links.append((path, content))
            continue
        mode = 0o777 if entry.mode & 0o100 else 0o666
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
    for path, content in links:
        archive.link(folder, path, content, url)
    archive.check_links(folder, [path for path, _ in links], url)


def file_digest(path: str) -> str:
    """Return the first 40 hexadecimal digits of a file's SHA-256: a name for what has no commit."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return digest[:40]
