"""THE table of hosts, and what each serves where.

A host is where repositories live. Its kind says how its addresses are built; its addresses can be changed in the file
of settings (`weighlock.hub.settings`), which is also how a host of one's own is named.
"""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote, urlsplit

from weighlock.errors import ArgumentError
from weighlock.hub.settings import Settings
from weighlock.storages.urls import without_user

__all__ = [
    "HOSTS",
    "KINDS",
    "Host",
    "Kind",
    "find_host",
    "host_of_name",
    "host_of_url",
    "mirror_url",
    "without_user",
]


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """How the addresses of one kind of host are built.

    Attributes
    ----------
    archive : tuple of str
        Paths of a ref's zip archive below `web`; empty where the host makes none.
    git : str
        Path of the repository for git below `web`.
    commit : str
        Path that answers with a ref's commit below `api`; empty where there is none.
    answer : str
        The key of the commit's id in that answer.
    forks : bool
        Whether commits of forks can be fetched as if they were the repository's own.
    """

    archive: tuple[str, ...]
    git: str = "/{owner}/{name}.git"
    commit: str = ""
    answer: str = "sha"
    api: str = ""
    forks: bool = False


KINDS: Final[dict[str, Kind]] = {
    "github": Kind(("/{owner}/{name}/zipball/{ref}",), commit="/repos/{owner}/{name}/commits/{ref}", forks=True),
    "gitlab": Kind(
        ("/{owner}/{name}/-/archive/{ref}/{name}-{flat}.zip",),
        commit="/api/v4/projects/{project}/repository/commits/{escaped}",
        answer="id",
    ),
    "gitea": Kind(
        ("/{owner}/{name}/archive/{ref}.zip",),
        commit="/api/v1/repos/{owner}/{name}/git/commits/{ref}",
    ),
    "bitbucket": Kind(
        ("/{owner}/{name}/get/{ref}.zip",),
        commit="/2.0/repositories/{owner}/{name}/commit/{ref}",
        answer="hash",
    ),
    "huggingface": Kind((), git="/{owner}/{name}", commit="/api/models/{owner}/{name}/revision/{escaped}"),
    "git": Kind((), git="/{owner}/{name}"),
}
"""Forgejo is a kind of Gitea; GitHub Enterprise is a kind of GitHub."""


@dataclasses.dataclass(frozen=True, slots=True)
class Host:
    """One host.

    Attributes
    ----------
    name : str
        As it is written in front of a repository: ``github.com``.
    kind : str
        A key of `KINDS`.
    web, api : str
        Base addresses, without a slash at the end.
    token_variable : str
        The environment variable that holds the token for this host.
    """

    name: str
    kind: str
    web: str
    api: str = ""
    token_variable: str = ""

    def token(self) -> str | None:
        """Return the token of the environment, if there is one."""
        text = os.environ.get(self.token_variable, "").strip() if self.token_variable else ""
        return text or None

    def owns(self, url: str) -> bool:
        """Whether a URL is this host's own, so that its token may be sent there."""
        target = _origin(url)
        return any(base and _origin(base) == target for base in (self.web, self.api))

    def archive_urls(self, owner: str, name: str, ref: str) -> Iterator[str]:
        """Give the addresses of a ref's zip archive."""
        for template in KINDS[self.kind].archive:
            yield self.web + template.format(**_fields(owner, name, ref))

    def git_url(self, owner: str, name: str) -> str:
        """Return the repository's address for git."""
        return self.web + KINDS[self.kind].git.format(**_fields(owner, name, ""))

    def commit_url(self, owner: str, name: str, ref: str) -> str | None:
        """Return the address that tells a ref's commit; None where there is none."""
        template = KINDS[self.kind].commit
        return self.api + template.format(**_fields(owner, name, ref)) if template and self.api else None


HOSTS: Final[dict[str, Host]] = {
    host.name: host
    for host in (
        Host("github.com", "github", "https://github.com", "https://api.github.com", "GITHUB_TOKEN"),
        Host("gitlab.com", "gitlab", "https://gitlab.com", "https://gitlab.com", "GITLAB_TOKEN"),
        Host("codeberg.org", "gitea", "https://codeberg.org", "https://codeberg.org", "CODEBERG_TOKEN"),
        Host("bitbucket.org", "bitbucket", "https://bitbucket.org", "https://api.bitbucket.org", "BITBUCKET_TOKEN"),
        Host("huggingface.co", "huggingface", "https://huggingface.co", "https://huggingface.co", "HF_TOKEN"),
    )
}

_ALIASES: Final = {"forgejo": "gitea", "hf": "huggingface", "github-enterprise": "github"}


def find_host(name: str, settings: Settings) -> Host | None:
    """Return the host of a name; None where neither the table nor the settings know it."""
    name = name.lower()
    known = HOSTS.get(name)
    given = settings.hosts.get(name)
    if given is None:
        return known
    return _configured(name, known, dict(given))


def hosts(settings: Settings) -> Iterator[Host]:
    """Give every host that is known here."""
    for name in dict.fromkeys([*HOSTS, *settings.hosts]):
        host = find_host(name, settings)
        if host is not None:
            yield host


def host_of_url(url: str, settings: Settings) -> Host | None:
    """Return the host whose addresses a URL begins with; None for any other."""
    return next((host for host in hosts(settings) if host.owns(url)), None)


def host_of_name(url: str, settings: Settings) -> Host | None:
    """Return the host that a URL names, wherever the settings say that it is: for reading what a user wrote."""
    parts = urlsplit(url)
    return find_host(parts.hostname or "", settings) if parts.port is None else None


def mirror_url(template: str, fields: dict[str, str]) -> str:
    """Fill a mirror's address in.

    Raises
    ------
    ArgumentError
        If it asks for what there is not.
    """
    try:
        return template.format(**fields)
    except (LookupError, ValueError, AttributeError) as error:
        raise ArgumentError(
            f"the address of a mirror is not understood: {error}", expected=", ".join(f"{{{name}}}" for name in fields),
            got=template[:100],
        ) from error  # fmt: skip


def _configured(name: str, known: Host | None, given: dict[str, Any]) -> Host:
    kind = str(given.get("kind", known.kind if known else ""))
    kind = _ALIASES.get(kind, kind)
    if kind not in KINDS:
        raise ArgumentError(
            f"the settings do not say of which kind the host {name} is", expected=", ".join(KINDS), got=kind
        )
    web = str(given.get("web", known.web if known else f"https://{name}")).rstrip("/")
    default = known.api if known else (f"{web}/api/v3" if kind == "github" else web)
    api = str(given.get("api", default if "web" not in given or known is None else "")).rstrip("/")
    variable = str(given.get("token", known.token_variable if known else ""))
    return Host(name, kind, web, api or (f"{web}/api/v3" if kind == "github" else web), variable)


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), port


def _fields(owner: str, name: str, ref: str) -> dict[str, str]:
    return {
        "owner": quote(owner),
        "name": quote(name),
        "ref": quote(ref),
        "escaped": quote(ref, safe=""),
        "flat": quote(ref.replace("/", "-")),
        "project": quote(f"{owner}/{name}", safe=""),
    }
