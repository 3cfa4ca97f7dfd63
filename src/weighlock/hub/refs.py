"""Which commit a branch, a tag or the default branch is: asked once, then remembered.

The question goes to the host over git's own protocol, which no quota limits; where that does not answer, to the host's
API; and where that does not either, the archive itself says which commit it is of.
"""

import hashlib
import json
import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

from weighlock.errors import (
    AuthenticationError,
    DownloadError,
    HubError,
    NotInRepositoryError,
    OfflineError,
    StatusError,
)
from weighlock.hub import archive, git_wire
from weighlock.hub.directories import Store
from weighlock.hub.hosts import KINDS, Host, find_host
from weighlock.hub.locks import note_record, read_record
from weighlock.hub.settings import Settings
from weighlock.hub.sources import Repository, is_commit, is_short_commit

if TYPE_CHECKING:
    from weighlock.hub.download import Client

__all__ = ["Resolved", "fetch_pack", "git_host", "recall", "remember", "resolve"]

_DEFAULT: Final = "HEAD"
_LONGEST_NAME: Final = 200


class Resolved(NamedTuple):
    """A ref's full name (``refs/heads/main``; empty for a commit) and its commit; when that was asked."""

    name: str
    commit: str
    checked: float

    @property
    def moves(self) -> bool:
        """Whether it may be another commit tomorrow."""
        return not (is_commit(self.name) or self.name == "" or self.name.startswith("refs/tags/"))


def recall(store: Store, repository: Repository) -> Resolved | None:
    """Return what is remembered of a repository's ref; None where nothing is."""
    if is_commit(repository.ref):
        return Resolved("", str(repository.ref), time.time())
    record = read_record(place(store, repository))
    if record is None or not is_commit(record.get("commit")):
        return None
    return Resolved(str(record.get("name", "")), record["commit"], float(record.get("checked", 0.0)))


def remember(store: Store, repository: Repository, resolved: Resolved) -> None:
    """Remember which commit a repository's ref is."""
    if not is_commit(repository.ref):
        record = {"ref": repository.ref, "name": resolved.name, "commit": resolved.commit, "checked": resolved.checked}
        note_record(place(store, repository), record)


def is_fresh(resolved: Resolved, settings: Settings) -> bool:
    """Whether there is no need to ask again yet."""
    return not resolved.moves or time.time() - resolved.checked < settings.refresh


def place(store: Store, repository: Repository) -> str:
    name = "+default" if repository.ref is None else quote(repository.ref, safe="")
    if len(name) > _LONGEST_NAME:  # a letter beyond ASCII takes six signs
        name = "+" + hashlib.sha256(name.encode()).hexdigest()
    return store.path("repos", *repository.folders, "refs", name + ".json")


def git_host(repository: Repository, settings: Settings) -> tuple[Host | None, str]:
    """Return a repository's host, and its address for git.

    Raises
    ------
    HubError
        If it has none.
    """
    host = find_host(repository.host, settings) if repository.kind == "hosted" else None
    if host is not None:
        return host, host.git_url(repository.owner, repository.name)
    if repository.kind == "git" and repository.url:
        return None, repository.url
    raise HubError("this repository has no address for git", got=str(repository))


def resolve(repository: Repository, client: "Client", *, thorough: bool = True) -> Resolved:
    """Ask the network which commit a ref is.

    Parameters
    ----------
    thorough : bool
        Where nobody answers, fetch the archive to see: not worth it for who has a copy.

    Raises
    ------
    NotInRepositoryError
        If there is no such repository or ref.
    DownloadError
        If nobody answers.
    """
    if is_commit(repository.ref):
        return Resolved("", str(repository.ref), time.time())
    host, url = git_host(repository, client.settings)
    try:
        return _over_git(repository, client, url)
    except (OfflineError, NotInRepositoryError):
        raise
    except HubError as error:
        return _otherwise(repository, client, host, error, thorough=thorough and not _is_gone(error))


def _otherwise(
    repository: Repository, client: "Client", host: Host | None, error: HubError, *, thorough: bool
) -> Resolved:
    """Ask those who may be limited: the API, which has a quota, then the archive, which is large."""
    failure: HubError | None = None
    try:
        found = _over_api(repository, client, host)
    except DownloadError as second:
        found, failure = None, second
    if found is None and thorough:
        found = _from_archive(repository, client, host)
    if found is None:
        raise failure or _missing(repository, error) from error
    return found


def _is_gone(error: HubError) -> bool:
    return isinstance(error, StatusError) and error.status in (401, 404)


def _missing(repository: Repository, error: HubError) -> HubError:
    """A host answers alike for what is not there and what is private; say so in one way."""
    if not _is_gone(error):
        return error
    return NotInRepositoryError(
        f"there is no repository {repository.at(None)}, or it is private", url=error.url,
        hint=error.hint if isinstance(error, AuthenticationError) else "Is the name right, and the host's token set?",
    )  # fmt: skip


def _over_git(repository: Repository, client: "Client", url: str) -> Resolved:
    refs = ask_refs(client, url, repository.ref)
    found = refs.find(repository.ref)
    if found is not None:
        if refs.ambiguous(repository.ref):
            import warnings

            warnings.warn(
                f"The ref {repository.ref} is ambiguous: it is both a branch and a tag of {repository.at(None)}. The "
                f"branch is taken; refs/tags/{repository.ref} names the tag.", stacklevel=2,
            )  # fmt: skip
        return Resolved(found[0], found[1], time.time())
    if is_short_commit(repository.ref):
        raise HubError("a short commit id is for the host's API")
    raise NotInRepositoryError(
        f"Cannot find {repository.ref or 'a default branch'} in {repository.at(None)}",
        hint=_similar(client, url, repository.ref),
    )


def _similar(client: "Client", url: str, ref: str | None) -> str | None:
    import difflib

    try:
        tips = git_wire.read_refs(_post(client, url, git_wire.tips_request()))
    except HubError:
        return None
    names = [name.split("/", 2)[2] for name in tips.commits if name.startswith(("refs/heads/", "refs/tags/"))]
    close = difflib.get_close_matches(ref or "", names, 3) or sorted(names)[:5]
    return f"There are: {', '.join(close)}." if close else "It is empty."


def ask_refs(client: "Client", url: str, ref: str | None) -> git_wire.Refs:
    """Ask for refs: in one request where the server knows protocol 2, else in what it offers.

    Raises
    ------
    HubError
        If the answer is not git's.
    DownloadError
        If there is none.
    """
    try:
        return git_wire.read_refs(_post(client, url, git_wire.ls_refs_request(ref)))
    except AuthenticationError:
        raise
    except HubError as error:
        if isinstance(error, DownloadError) and not isinstance(error, StatusError):
            raise
        first = client.fetch("GET", f"{url}/info/refs?service=git-upload-pack", {"Git-Protocol": "version=2"})
        names = git_wire.object_format(first)
        if names != "sha1":
            raise HubError("the repository names its objects in a way that is not known here", expected="sha1",
                           got=names, url=url) from error  # fmt: skip
        if git_wire.advertised_version(first) == 2:
            return git_wire.read_refs(_post(client, url, git_wire.ls_refs_request(ref)))
        return git_wire.v0_refs(first)


def _post(client: "Client", url: str, body: bytes) -> bytes:
    headers = {
        "Git-Protocol": "version=2",
        "Content-Type": "application/x-git-upload-pack-request",
        "Accept": "application/x-git-upload-pack-result",
    }
    return client.fetch("POST", f"{url}/git-upload-pack", headers, body)


def fetch_pack(client: "Client", url: str, commit: str, *filters: str) -> bytes:
    """Fetch one commit without its history, as a pack.

    Raises
    ------
    HubError
        If the server has no such commit.
    DownloadError
        If it does not answer.
    """
    return git_wire.pack_of(_post(client, url, git_wire.fetch_request(commit, filters)))


def _over_api(repository: Repository, client: "Client", host: Host | None) -> Resolved | None:
    ref = repository.ref or _DEFAULT
    url = host.commit_url(repository.owner, repository.name, ref) if host else None
    if host is None or url is None:
        return None
    try:
        answer = json.loads(client.fetch("GET", url, {"Accept": "application/json"}))
    except ValueError:
        return None
    except StatusError as error:
        if error.status == 422:
            raise NotInRepositoryError(f"Cannot find {ref} in {repository.at(None)}", url=url) from error
        if error.status == 404:
            return None
        raise
    commit = answer.get(KINDS[host.kind].answer) if isinstance(answer, dict) else ""
    if not isinstance(commit, str) or not is_commit(commit):
        return None
    return Resolved(_name_of(repository.ref, commit), commit, time.time())


def _name_of(ref: str | None, commit: str) -> str:
    """Return the full name of a ref as somebody understood it who does not say: `deadbeef` can be a branch, too."""
    return "" if is_short_commit(ref) and commit.startswith(ref or "") else f"refs/heads/{ref or _DEFAULT}"


def _from_archive(repository: Repository, client: "Client", host: Host | None) -> Resolved | None:
    """Read which commit the host's archive of a ref is of: git writes that at its end."""
    ref = repository.ref or _DEFAULT
    for url in host.archive_urls(repository.owner, repository.name, ref) if host else ():
        try:
            commit = archive.commit_at_end(client.end_of(url))
        except DownloadError:
            continue
        if commit is not None:
            return Resolved(_name_of(repository.ref, commit), commit, time.time())
    return None


def check_belongs(repository: Repository, commit: str, client: "Client") -> None:
    """Refuse a commit that a host shows under this repository's name although it was only ever pushed to a fork.

    Raises
    ------
    NotInRepositoryError
        If the host says that the repository's own history does not hold it.
    """
    host, url = git_host(repository, client.settings)
    if host is None or not KINDS[host.kind].forks:
        return
    try:
        tips = git_wire.read_refs(_post(client, url, git_wire.tips_request()))
        if commit in tips.commits.values():
            return
        compare = f"{host.api}/repos/{quote(repository.owner)}/{quote(repository.name)}/compare/{_DEFAULT}...{commit}"
        status = json.loads(client.fetch("GET", compare)).get("status")
    except OfflineError:
        return
    except (StatusError, ValueError, AttributeError) as error:
        if isinstance(error, StatusError) and error.status == 404:
            status = "unknown"
        else:
            _warn_unchecked(repository, commit, error)
            return
    except HubError as error:
        _warn_unchecked(repository, commit, error)
        return
    if status not in ("behind", "identical"):
        raise NotInRepositoryError(
            f"Cannot find {commit} in the history of {repository.at(None)}: it may be a fork's commit", url=compare,
            hint="Name the fork, or a branch that holds it; skip_validation=True takes it as it is.",
        )  # fmt: skip


def _warn_unchecked(repository: Repository, commit: str, error: Exception) -> None:
    import warnings

    warnings.warn(
        f"whether {commit[:12]} belongs to {repository.at(None)}, and not to a fork, could not be checked: {error}",
        stacklevel=2,
    )


def known_refs(store: Store, repository: Repository) -> list[tuple[str | None, Resolved]]:
    """Return every ref of a repository that is remembered."""
    folder = store.path("repos", *repository.folders, "refs")
    found = []
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        record = read_record(os.path.join(folder, name))
        if record and is_commit(record.get("commit")):
            resolved = Resolved(str(record.get("name", "")), record["commit"], float(record.get("checked", 0.0)))
            found.append((record.get("ref"), resolved))
    return found
