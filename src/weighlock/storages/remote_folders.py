"""Folders at an address: what a checkpoint of several files is read from where it is not on a disk.

A web server has no list of its files, so there only names that a checkpoint gives can be asked for; fsspec's file
systems list theirs.
"""

import posixpath
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit, urlunsplit

from weighlock.errors import MissingFileError, SourceError, StatusError, UnsupportedError
from weighlock.storages.source import ByteSource
from weighlock.storages.urls import shown

__all__ = ["FsspecFolder", "HttpFolder", "split_address"]

_GONE: Final = (404, 410)
_CONNECTIONS: Final = 8
_HTTP: Final = ("http", "https")


def split_address(address: str) -> tuple[str, str]:
    """Return the address of the folder that a file is in, with its slash, and the file's name.

    The query stays with the folder's address, where it goes with each file that is asked for.

    Examples
    --------
    >>> split_address("https://host/a/model.index.json?download=true")
    ('https://host/a/?download=true', 'model.index.json')
    """
    if urlsplit(address).scheme.lower() in _HTTP:
        parts = urlsplit(address)
        folder, name = posixpath.split(parts.path)
        return urlunsplit(parts._replace(path=folder.rstrip("/") + "/", fragment="")), name
    folder, _, name = address.rpartition("/")
    return folder + "/", name


class HttpFolder:
    """A folder on a web server.

    Parameters
    ----------
    address : str
        Its path ends with a slash.
    options : mapping, optional
        As for a file: see `weighlock.storages.remote.Patient`.
    """

    remote = True
    connections = _CONNECTIONS

    def __init__(self, address: str, options: Mapping[str, Any] | None = None) -> None:
        self._parts = urlsplit(address)
        self._options = options
        self.name = shown(address)

    def _address(self, name: str, end: str = "") -> str:
        return urlunsplit(self._parts._replace(path=self._parts.path + quote(name) + end))

    def names(self) -> list[str]:
        raise UnsupportedError(
            "a web server has no list of the files in a folder", path=self.name,
            hint="Give the address of the checkpoint's index, such as .../model.safetensors.index.json.",
        )  # fmt: skip

    def open(self, name: str) -> ByteSource:
        from weighlock.storages.remote import open_http

        try:
            return open_http(self._address(name), self._options)
        except StatusError as error:
            if error.status in _GONE:
                raise MissingFileError("there is no such file", path=self.name + name) from error
            raise

    def below(self, name: str) -> "HttpFolder":
        return HttpFolder(self._address(name, "/"), self._options)


class FsspecFolder:
    """A folder of a file system that fsspec knows.

    Parameters
    ----------
    address : str
    system : fsspec.AbstractFileSystem
    path : str
        The folder's path there.
    """

    remote = True

    def __init__(self, address: str, system: Any, path: str) -> None:
        self.name = address.rstrip("/") + "/"
        self._system = system
        # Several file systems that wait for each answer are not made for threads.
        self.connections = _CONNECTIONS if getattr(system, "async_impl", False) else 1
        self._path = path.rstrip("/")

    def names(self) -> list[str]:
        try:
            self._system.invalidate_cache()
            found = self._system.ls(self._path, detail=False)
        except Exception as error:
            raise SourceError(
                f"the folder cannot be listed: {type(error).__name__}: {str(error)[:200]}", path=self.name
            ) from error
        names = {str(path).rstrip("/").rpartition("/")[2] for path in found if str(path).rstrip("/") != self._path}
        return sorted(name for name in names if name)

    def open(self, name: str) -> ByteSource:
        from weighlock.storages.fsspec_files import FsspecSource

        return FsspecSource(self._system, f"{self._path}/{name}", self.name + name)

    def below(self, name: str) -> "FsspecFolder | None":
        from weighlock.storages.fsspec_files import is_folder

        path = f"{self._path}/{name}"
        return FsspecFolder(self.name + name, self._system, path) if is_folder(self._system, path) else None
