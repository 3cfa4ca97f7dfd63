"""Where the hub keeps things: PyTorch's rule for the folder, and our own layout below it.

The rule is that of `torch.hub` on every system: what `set_dir` said, else ``$TORCH_HOME/hub``, else
``$XDG_CACHE_HOME/torch/hub``, else ``~/.cache/torch/hub``. Beside what torch.hub keeps there (`checkpoints/`,
`trusted_list`, one folder per repository and ref) stands one folder of ours, which torch.hub never looks into::

    .weighlock/v1/
        repos/<host>/<owner>/<name>/commits/<commit>/     the tree of one commit, as it was extracted
                                    meta/<commit>.json    its tree id, content hash, origin
                                    refs/<ref>.json       which commit a branch or tag was, and when that was asked
        places/<digest>.json    what a file of weights is: its URL, size, SHA-256, validators
        used/<host>/...         which URLs a repository's entry points have fetched
        trust.json
        locks/ tmp/ CACHEDIR.TAG
"""

import contextlib
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from typing import Any, Final

from weighlock.errors import DownloadError, HubError, ReadOnlyCacheError

__all__ = ["Store", "find_store", "get_dir", "require_writable", "set_dir", "torch_home"]

_TAG: Final = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This file says that the folder is a cache, and that backups may leave it out.\n"
)

_chosen: list[str] = []
"""The folder that `set_dir` named, if any."""


def torch_home() -> str:
    """Return PyTorch's folder for caches, by the same rule on every system."""
    base = os.environ.get("TORCH_HOME")
    if base is None:
        base = os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    return os.path.expanduser(base)


def get_dir() -> str:
    """Return the folder where the hub keeps repositories and weights. It need not exist.

    Returns
    -------
    str
        What `set_dir` said, else ``$TORCH_HOME/hub``, ``$XDG_CACHE_HOME/torch/hub`` or ``~/.cache/torch/hub``.

    Examples
    --------
    >>> import os
    >>> os.path.basename(get_dir())
    'hub'
    """
    if os.environ.get("TORCH_HUB"):
        warnings.warn("TORCH_HUB is deprecated, please use env TORCH_HOME instead", stacklevel=2)
    return _chosen_dir() or os.path.join(torch_home(), "hub")


def _chosen_dir() -> str | None:
    """Return the folder that was named here or, if PyTorch is loaded, to `torch.hub.set_dir`."""
    if _chosen:
        return _chosen[-1]
    found = getattr(sys.modules.get("torch.hub"), "_hub_dir", None)
    return str(found) if found is not None else None


def set_dir(d: str | os.PathLike[str] | None) -> None:
    """Use another folder, in this process.

    Parameters
    ----------
    d : str, os.PathLike or None
        The folder; ``~`` is expanded. None goes back to the rule of the environment.

    Examples
    --------
    >>> set_dir("/tmp/hub")
    >>> get_dir()
    '/tmp/hub'
    >>> set_dir(None)
    """
    _chosen[:] = [] if d is None else [os.path.expanduser(os.fspath(d))]
    module: Any = sys.modules.get("torch.hub")
    if module is not None:
        # What already holds one of torch.hub's own functions is to find the same folder.
        module._hub_dir = _chosen[-1] if _chosen else None  # noqa: SLF001 - it has no other way in


class Store:
    """The folders of one hub.

    Parameters
    ----------
    hub : str
        The hub's folder, as `get_dir` gives it.
    """

    def __init__(self, hub: str) -> None:
        self.hub = os.path.abspath(hub)
        self.root = os.path.join(self.hub, ".weighlock", "v1")

    @property
    def checkpoints(self) -> str:
        """Where weights go that nobody gave another place."""
        return os.path.join(self.hub, "checkpoints")

    def path(self, *parts: str) -> str:
        """Return a path inside of our own folder."""
        return os.path.join(self.root, *parts)

    def folder(self, *parts: str) -> str:
        """Return a folder inside of our own, which is made where it is missing."""
        path = self.path(*parts)
        if not os.path.isdir(path):
            self._begin()
            os.makedirs(path, exist_ok=True)
        return path

    def _begin(self) -> None:
        """Mark our folder as a cache, once."""
        tag = os.path.join(self.root, "CACHEDIR.TAG")
        if os.path.exists(tag):
            return
        os.makedirs(self.root, exist_ok=True)
        try:
            with open(tag, "x", encoding="ascii") as file:
                file.write(_TAG)
        except FileExistsError:
            pass

    def writable(self) -> bool:
        """Whether anything can be added: a shared cache may be read-only."""
        return _can_write(self.root)


def require_writable(folder: str, what: str) -> None:
    """Make sure that something can be put into a folder.

    Raises
    ------
    ReadOnlyCacheError
        If not. It says where else to put it.
    """
    if not _can_write(folder):
        raise ReadOnlyCacheError(
            f"{what} is not in the cache, and the cache cannot be written", path=folder,
            hint="Set TORCH_HOME, or call weighlock.hub.set_dir, to use a folder of your own.",
        )  # fmt: skip


@contextlib.contextmanager
def told_if_unwritable(folder: str, what: str) -> Iterator[None]:
    """Say of what cannot be written in the block what and where: the system's own error has no more than its number.

    Raises
    ------
    DownloadError
        If the system refuses to write: the disk or a quota is full, for example.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, HubError):
            raise
        made = DownloadError(
            f"{what} cannot be written: {error.strerror or error}", path=folder,
            hint="weighlock cache prune makes room; TORCH_HOME or weighlock.hub.set_dir names another folder.",
        )  # fmt: skip
        raise made.caused_by(error) from error


def _can_write(folder: str) -> bool:
    there = os.path.abspath(folder)
    while not os.path.isdir(there):
        parent = os.path.dirname(there)
        if parent == there:
            return False
        there = parent
    return os.access(there, os.W_OK | os.X_OK)


def find_store() -> Store:
    """Return the store below `get_dir`."""
    return Store(_chosen_dir() or os.path.join(torch_home(), "hub"))


def signature(path: str) -> list[int]:
    """Return what changes whenever a file's content does: size, both times, and the file's own number.

    Raises
    ------
    OSError
        If there is no such file.
    """
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def is_file(path: str) -> bool:
    """Whether a regular file stands there (not a folder, not a pipe)."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def free_bytes(folder: str) -> int | None:
    """Return how many bytes may still be written below a folder; None where the system does not say."""
    statvfs: Any = getattr(os, "statvfs", None)
    if statvfs is None:
        return None
    try:
        found = statvfs(folder)
    except OSError:
        return None
    return int(found.f_bavail) * int(found.f_frsize)
