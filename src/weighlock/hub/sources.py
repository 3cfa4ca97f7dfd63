"""What a user writes for a repository, read: ``owner/name:ref``, a URL, a folder, an archive.

The same text always means the same repository: nothing is asked of the network here.
"""

import dataclasses
import hashlib
import os
import re
from typing import Final
from urllib.parse import unquote, urlsplit

from weighlock.errors import ArgumentError, RepositoryNameError
from weighlock.hub.hosts import HOSTS, find_host, host_of_name, host_of_url, without_user
from weighlock.hub.settings import Settings

__all__ = ["SOURCES", "Repository", "is_commit", "parse"]

SOURCES: Final = ("github", "gitlab", "gitea", "bitbucket", "huggingface", "git", "archive", "local")
"""What `source` may be; a text that names its host (a URL, ``gitlab.com/o/n``) needs none."""

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+\Z")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}\Z")
_SHORT: Final = re.compile(r"[0-9a-f]{7,39}\Z")
# What git itself forbids in a ref (gitrevisions(7), git-check-ref-format(1)).
_BAD_REF: Final = re.compile(r"[\x00-\x20\x7f\ud800-\udfff~^:?*\[\\]|\.\.|@\{|//|^[-/]|[/.]$|\.lock$|^@$")
_NO_ADDRESS: Final = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]")
_LONGEST_URL: Final = 2000
_LONGEST_NAME: Final = 200
"""Characters of an owner, a name or a ref: hosts allow fewer, and they are names of folders here."""
_DEFAULT_HOST: Final = {"github": "github.com", "gitlab": "gitlab.com", "gitea": "codeberg.org",
                        "bitbucket": "bitbucket.org", "huggingface": "huggingface.co"}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Repository:
    """A repository, and what was asked of it.

    Attributes
    ----------
    host : str
        ``github.com``; for a plain archive or git URL the host of that URL; empty for what is local.
    owner, name : str
        The owner may have slashes (groups of GitLab).
    ref : str or None
        Branch, tag or commit; None for the default branch.
    url : str or None
        The address of a plain archive or git repository, or the path of what is local.
    kind : str
        ``hosted``, ``archive``, ``git`` or ``local``.
    """

    host: str
    owner: str
    name: str
    ref: str | None = None
    url: str | None = None
    kind: str = "hosted"

    def __str__(self) -> str:
        if self.kind == "local":
            return self.url or ""
        text = f"{self.owner}/{self.name}" if self.host == "github.com" else self.full_name
        if self.kind != "hosted" and self.url:
            text = without_user(self.url)
        return text if self.ref is None else f"{text}:{self.ref}"

    @property
    def full_name(self) -> str:
        """``github.com/owner/name``."""
        return "/".join(part for part in (self.host, self.owner, self.name) if part)

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of the store that hold it: one per part, so that no two repositories share one."""
        return (self.host, *self.owner.split("/"), "+" + self.name)

    def at(self, ref: str | None) -> "Repository":
        """Return the same repository with another ref."""
        return dataclasses.replace(self, ref=ref)


def is_commit(ref: str | None) -> bool:
    """Whether a ref is a whole commit id."""
    return ref is not None and _COMMIT.match(ref) is not None


def is_short_commit(ref: str | None) -> bool:
    """Whether a ref may be the beginning of a commit id."""
    return ref is not None and _SHORT.match(ref) is not None


def parse(text: str | os.PathLike[str], source: str, settings: Settings) -> Repository:
    """Read what a user wrote.

    Parameters
    ----------
    text : str or os.PathLike
        ``owner/name[:ref]``, ``host/owner/name[:ref]``, a URL of a repository's page, of git or of an archive; with
        ``source="local"`` a folder or a zip file.
    source : str
        One of `SOURCES`.
    settings : Settings
        Names further hosts.

    Raises
    ------
    RepositoryNameError
        If the text is none of that.
    ArgumentError
        If there is no such source.
    """
    if source not in SOURCES:
        allowed = " | ".join(f'"{name}"' for name in SOURCES)
        raise ArgumentError(f'Unknown source: "{source}". Allowed values: {allowed}.')
    text = os.fspath(text)
    if source == "local":
        path = os.path.abspath(os.path.expanduser(text))
        return Repository("", "", os.path.basename(path), url=path, kind="local")
    if "://" in text or text.startswith("git@"):
        _check_url(text)
        return _from_url(text, source, settings)
    if source in ("git", "archive"):
        raise RepositoryNameError(f'source="{source}" needs a URL', got=text[:100])
    return _from_name(text, _DEFAULT_HOST[source], settings)


def _from_name(text: str, host: str, settings: Settings) -> Repository:
    place, colon, ref = text.partition(":")
    parts = place.split("/")
    if "." in parts[0] and find_host(parts[0], settings) is not None:
        host, parts = parts[0].lower(), parts[1:]
    if len(parts) < 2 or (len(parts) > 2 and _kind(host, settings) != "gitlab"):
        raise RepositoryNameError("this names no repository", got=text[:100], hint=_advice(text))
    for part in parts:
        if not _NAME.match(part) or part in (".", "..") or len(part) > _LONGEST_NAME:
            raise RepositoryNameError(
                "a name in a repository's address is not one", got=part[:100] or text[:100], hint=_advice(text)
            )
    return Repository(host, "/".join(parts[:-1]), parts[-1], _checked_ref(ref, text) if colon else None)


def _advice(text: str) -> str:
    if os.path.exists(os.path.expanduser(text)):
        return 'That is here on this machine: source="local" (on the command line --source local) loads from it.'
    return "Write owner/name, or owner/name:ref with a branch, tag or commit."


def _kind(host: str, settings: Settings) -> str:
    found = find_host(host, settings) or HOSTS.get(host)
    return found.kind if found else ""


def _checked_ref(ref: str, text: str) -> str:
    if (
        not ref
        or len(ref) > _LONGEST_NAME
        or _BAD_REF.search(ref)
        or any(part.startswith(".") for part in ref.split("/"))
    ):
        raise RepositoryNameError(
            "after the colon stands no branch, tag or commit", got=_shown(text),
            hint="Leave the colon out for the default branch.",
        )  # fmt: skip
    return ref


def _check_url(text: str) -> None:
    try:
        parts = urlsplit(text)
        named = parts.port != 0 and (parts.scheme == "" or bool((parts.hostname or "").strip(".")))
    except ValueError:
        named = False
    if not named or _NO_ADDRESS.search(text) or len(text) > _LONGEST_URL:
        raise RepositoryNameError("this is no address", got=_shown(text))
    if not text.removeprefix("git+").lower().startswith(("https://", "http://")):
        raise RepositoryNameError(
            "only http and https addresses are fetched", got=_shown(text), hint="Write https://host/owner/name.git."
        )
    if urlsplit(text).path.lower().endswith((".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz")):
        raise RepositoryNameError(
            "only zip archives are read", got=_shown(text), hint="Hosts that offer .tar.gz offer the same as .zip."
        )


def _shown(text: str) -> str:
    """Return the beginning of what a user wrote, for a message: without the password in it."""
    try:
        return without_user(text)[:100]
    except ValueError:
        return text.rpartition("@")[2][:100]


_PAGE: Final = re.compile(
    r"/(?P<path>[^?#]+?)(?:\.git)?(?:/(?:-/)?(?:tree|src/(?:branch|tag|commit)|src)/(?P<ref>[^?#]+?))?/?\Z"
)


def _from_url(text: str, source: str, settings: Settings) -> Repository:
    address, ref = _split_ref(text)
    plain = address.removeprefix("git+")
    host = host_of_url(plain, settings) or host_of_name(plain, settings)
    archive = source == "archive" or plain.split("?")[0].endswith(".zip")
    if host is None or archive or source == "git" or plain != address:
        return _foreign(plain, ref, "archive" if archive and plain == address else "git")
    found = _PAGE.match(urlsplit(plain).path)
    if found is None:
        raise RepositoryNameError("this URL names no repository", got=_shown(text))
    name = f"{host.name}/{unquote(found['path'])}"
    wanted = ref if ref is not None else found["ref"]
    return _from_name(name if wanted is None else f"{name}:{unquote(wanted)}", host.name, settings)


def _split_ref(text: str) -> tuple[str, str | None]:
    """Take ``@ref`` or ``:ref`` off the end of a URL's path."""
    start = text.find("://") + 3 if "://" in text else text.find(":") + 1
    slash = text.find("/", start)
    if slash < 0:
        return text, None
    for mark in ("@", ":"):
        at = text.find(mark, slash)
        if at > 0:
            return text[:at], _checked_ref(text[at + 1 :], text)
    return text, None


def _foreign(url: str, ref: str | None, kind: str) -> Repository:
    """Return a repository at an address that belongs to no known host; the address is its identity."""
    parts = urlsplit(url)
    stem = os.path.basename(parts.path.rstrip("/")).removesuffix(".zip").removesuffix(".git")
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", stem).strip(".")[:_LONGEST_NAME] or "repository"
    digest = hashlib.sha256(without_user(url).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    host = re.sub(r"[^a-z0-9.-]", "-", (parts.hostname or "").lower()) or parts.scheme or "local"
    host = host.strip(".")[:_LONGEST_NAME] or "local"
    return Repository(host, digest, name, ref, url, kind)
