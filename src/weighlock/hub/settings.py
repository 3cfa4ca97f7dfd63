"""What the hub may do, and where its hosts are: the environment, one file, and what a program sets for a block.

The file is ``$WEIGHLOCK_HUB_CONFIG``, else ``$XDG_CONFIG_HOME/weighlock/hub.toml`` (``~/.config``), in TOML::

    offline = false
    refresh = 86400                     # seconds until a branch is looked up again
    mirrors = ["https://mirror.example/{host}/{owner}/{name}/{commit}.zip"]
    trust = ["github.com/our-group/*", "gitlab.com/o/n@v1"]

    [hosts."git.example.com"]           # a host of one's own, or other addresses for a known one
    kind = "gitlab"
    web = "https://git.example.com"
    token = "OUR_GIT_TOKEN"             # the NAME of the environment variable that holds the token
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final

from weighlock.errors import ArgumentError, ArgumentTypeError
from weighlock.hub import threads

__all__ = ["Settings", "configured", "current"]

_TRUE: Final = ("1", "y", "yes", "true", "on")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the hub may do.

    Attributes
    ----------
    offline : bool
        Open no connection; take what is in the cache, however old.
    locked : bool
        Refuse what the lock file does not name, or what is not as it says.
    lock_file : str
        The lock file's path.
    refresh : float
        Seconds until a branch is looked up again. Commits and tags never are.
    connect_timeout, read_timeout : float
        Seconds.
    retries : int
        Further attempts after the first.
    backoff : float
        Seconds before the second attempt; doubled each time.
    connections : int
        Connections for one large file.
    parallel_from : int
        Bytes from which on a file is fetched over several connections.
    mirrors : tuple of str
        Archive URLs that are tried before the host's own, with the fields host, owner, name, ref, commit.
    trust : tuple of str
        Patterns of repositories whose code may run.
    route : bool
        While a repository's code runs, let its calls of `torch.hub` come to this hub: to its cache, its lock file and
        its offline switch.
    hosts : mapping
        Hosts by name, as in the file.
    """

    offline: bool = False
    locked: bool = False
    lock_file: str = "weighlock.lock"
    refresh: float = 86400.0
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    retries: int = 5
    backoff: float = 0.5
    connections: int = 4
    parallel_from: int = 256 << 20
    mirrors: tuple[str, ...] = ()
    trust: tuple[str, ...] = ()
    route: bool = True
    hosts: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)


# The environment variable of each setting.
_VARIABLES: Final = {
    "WEIGHLOCK_OFFLINE": "offline",
    "WEIGHLOCK_HUB_LOCKED": "locked",
    "WEIGHLOCK_LOCK_FILE": "lock_file",
    "WEIGHLOCK_HUB_REFRESH": "refresh",
    "WEIGHLOCK_HUB_CONNECT_TIMEOUT": "connect_timeout",
    "WEIGHLOCK_HUB_READ_TIMEOUT": "read_timeout",
    "WEIGHLOCK_HUB_RETRIES": "retries",
    "WEIGHLOCK_HUB_CONNECTIONS": "connections",
    "WEIGHLOCK_HUB_MIRRORS": "mirrors",
    "WEIGHLOCK_HUB_TRUST": "trust",
    "WEIGHLOCK_HUB_ROUTE": "route",
}

_KINDS: Final[Mapping[str, type]] = {field.name: type(field.default) for field in dataclasses.fields(Settings)}

_set: ContextVar[Mapping[str, Any]] = ContextVar("weighlock hub settings")
threads.CARRIED.append(_set)


def current() -> Settings:
    """Return the settings that hold here: what the program set, else the environment, else the file."""
    values: dict[str, Any] = dict(_from_file())
    for variable, name in _VARIABLES.items():
        text = os.environ.get(variable)
        if text is not None and text != "":
            values[name] = _read(name, text, variable)
    values.update(_set.get({}))
    return Settings(**values)


@contextlib.contextmanager
def configured(**changes: Any) -> Iterator[Settings]:
    """Change settings for a block, for the calls that entry points make there too, also in threads of their own.

    Parameters
    ----------
    **changes
        Attributes of `weighlock.hub.Settings`; None leaves one as it is.

    Examples
    --------
    >>> with configured(offline=True) as settings:
    ...     settings.offline
    True
    """
    known = {field.name for field in dataclasses.fields(Settings)}
    for name in changes:
        if name not in known:
            raise ArgumentTypeError(f"the hub has no setting called {name!r}", expected=", ".join(sorted(known)))
    given = {name: value for name, value in changes.items() if value is not None}
    token = _set.set({**_set.get({}), **given})
    try:
        yield current()
    finally:
        _set.reset(token)


def _read(name: str, text: str, where: str) -> Any:
    """Read the text of a setting as its type."""
    kind = _KINDS[name]
    if kind is bool:
        return text.strip().lower() in _TRUE
    if kind is tuple:
        return tuple(text.split())
    try:
        return kind(text)
    except ValueError as error:
        raise ArgumentError(f"{where} is no {kind.__name__}", got=text[:40]) from error


def config_path() -> str:
    """Return where the file of settings is, or would be."""
    named = os.environ.get("WEIGHLOCK_HUB_CONFIG")
    if named:
        return os.path.expanduser(named)
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return os.path.join(os.path.expanduser(base), "weighlock", "hub.toml")


_files: dict[str, tuple[int, Mapping[str, Any]]] = {}
"""What was read from a file of settings, with the time of its last change."""


def _from_file() -> Mapping[str, Any]:
    path = config_path()
    try:
        changed = os.stat(path).st_mtime_ns
    except OSError:
        return {}
    known = _files.get(path)
    if known is None or known[0] != changed:
        known = _files[path] = (changed, _parsed(path))
    return known[1]


def _parsed(path: str) -> Mapping[str, Any]:
    import tomllib

    try:
        with open(path, "rb") as file:
            values = tomllib.load(file)
    except (OSError, ValueError) as error:
        raise ArgumentError(f"the file of settings cannot be read: {error}", path=path) from error
    for name, value in values.items():
        kind = _KINDS.get(name, type(None))
        wanted: Any = {tuple: list, float: (int, float)}.get(kind, dict if name == "hosts" else kind)
        if not isinstance(value, wanted) or (kind is not bool and isinstance(value, bool)):
            raise ArgumentError(f"the file of settings has a value that is not understood: {name}", path=path)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
