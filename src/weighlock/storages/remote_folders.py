"""Folders at an address: what a checkpoint of several files is read from where it is not on a disk.

A web server has no list of its files, so there only names that a checkpoint gives can be asked for; fsspec's file
systems list theirs.
"""

import posixpath
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from weighlock.errors import MissingFileError, StatusError, UnsupportedError
from weighlock.storages.fsspec_files import FsspecSource, failed, is_folder
from weighlock.storages.source import ByteSource
from weighlock.storages.urls import is_web, links, shown

__all__ = ["FsspecFolder", "HttpFolder", "split_address"]

_GONE: Final = (404, 410)
_CONNECTIONS: Final = 8


def _no_list(name: str) -> UnsupportedError:
    return UnsupportedError(
        "a web server has no list of the files in a folder", path=name,
        hint="Give the address of the checkpoint's index, such as .../model.safetensors.index.json.",
    )  # fmt: skip


def split_address(address: str) -> tuple[str, str]:
    """Return the address of the folder that a file is in, with its slash, and the file's name.

    The query stays with the folder's address, where it goes with each file that is asked for; and so does what the
    folder itself is in.

    Examples
    --------
    >>> split_address("https://host/a/model.index.json?download=true")
    ('https://host/a/?download=true', 'model.index.json')
    >>> split_address("zip://a/model.index.json::s3://bucket/a.zip")
    ('zip://a/::s3://bucket/a.zip', 'model.index.json')
    """
    before, link, after = _path_link(address)
    if is_web(link):
        parts = urlsplit(link)
        path, name = posixpath.split(parts.path)
        folder, name = urlunsplit(parts._replace(path=path.rstrip("/") + "/", fragment="")), unquote(name)
    else:
        scheme, separator, path = link.rpartition("://")
        above, slash, name = path.rpartition("/")
        folder = scheme + separator + above + slash
    return "::".join([*before, folder, *after]), name


def _path_link(address: str) -> tuple[list[str], str, list[str]]:
    """Return the part of a chained address that holds the path, and the parts before and behind it."""
    chain = links(address)
    place = next((place for place, link in enumerate(chain) if "://" in link), len(chain) - 1)
    return chain[:place], chain[place], chain[place + 1 :]


def _below(address: str, name: str) -> str:
    """Return the address of a name in a folder, which may lack its slash; without a name, that of the folder."""
    before, link, after = _path_link(address)
    if is_web(link):
        parts = urlsplit(link)
        link = urlunsplit(parts._replace(path=parts.path.rstrip("/") + "/" + quote(name)))
    else:
        link += ("" if link.endswith("/") else "/") + name
    return "::".join([*before, link, *after])


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

    def is_there(self) -> bool:
        """Whether the address is that of a folder."""
        return self._parts.path.endswith("/")

    def _address(self, name: str, end: str = "") -> str:
        return urlunsplit(self._parts._replace(path=self._parts.path + quote(name) + end))

    def called(self, name: str) -> str:
        return self.name + name

    def names(self) -> list[str]:
        raise _no_list(self.name)

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
        self._address = _below(address, "")
        self.name = shown(self._address)
        self._system = system
        # Several file systems that wait for each answer are not made for threads.
        self.connections = _CONNECTIONS if getattr(system, "async_impl", False) else 1
        # The path on a web server is its address, which may end with a query.
        self._path = path if is_web(path) else path.rstrip("/")

    def is_there(self) -> bool:
        """Whether the file system has such a folder, as far as it can tell; see `HttpFolder`."""
        if is_web(self._path):
            return urlsplit(self._path).path.endswith("/")
        return is_folder(self._system, self._path)

    def called(self, name: str) -> str:
        return shown(_below(self._address, name))

    def _place(self, name: str) -> str:
        return _below(self._path, name) if is_web(self._path) else f"{self._path}/{name}"

    def names(self) -> list[str]:
        if is_web(self._path):
            raise _no_list(self.name)
        try:
            self._system.invalidate_cache()
            found = self._system.ls(self._path, detail=False)
        except Exception as error:
            raise failed(error, self.name, "the folder cannot be listed") from error
        names = {str(path).rstrip("/").rpartition("/")[2] for path in found if str(path).rstrip("/") != self._path}
        return sorted(name for name in names if name)

    def files(self) -> dict[str, str]:
        """Return the addresses of all files in it and below, by path; the errors are those of `names`."""
        if is_web(self._path):
            raise _no_list(self.name)
        try:
            found = [str(path) for path in self._system.find(self._path)]
        except Exception as error:
            raise failed(error, self.name, "the folder cannot be listed") from error
        above = self._path.strip("/")
        inside = [path.lstrip("/").removeprefix(f"{above}/" if above else "") for path in sorted(found)]
        return {name: _below(self._address, name) for name in inside if name}

    def open(self, name: str) -> ByteSource:
        return FsspecSource(self._system, self._place(name), _below(self._address, name))

    def below(self, name: str) -> "FsspecFolder | None":
        folder = FsspecFolder(_below(self._address, name), self._system, self._place(f"{name}/"))
        return folder if folder.is_there() else None
