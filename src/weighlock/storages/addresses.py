"""The one place that decides where bytes come from: addresses are text with a scheme, everything else is local."""

import re
from collections.abc import Mapping
from typing import Any, Final

from weighlock.errors import ArgumentError, ArgumentTypeError
from weighlock.storages.folders import Folder
from weighlock.storages.source import ByteSource, open_source

__all__ = ["find_folder", "is_address", "local_path", "open_anywhere"]

# A scheme of two letters or more: one letter is a drive of Windows.
_ADDRESS: Final = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)(?:::[a-zA-Z0-9+.-]+)*://")


def is_address(f: Any) -> bool:
    r"""Whether a caller means something elsewhere: text such as ``https://host/model.pth``. A `pathlib.Path` never is.

    Examples
    --------
    >>> is_address("s3://bucket/model.pth"), is_address("model.pth"), is_address("C:\\model.pth")
    (True, False, False)
    """
    return isinstance(f, str) and _ADDRESS.match(f) is not None


def open_anywhere(f: Any, options: Mapping[str, Any] | None = None) -> ByteSource:
    """Return the source for what a caller passed as `f`: a path, an address, bytes-like, or a file object.

    Parameters
    ----------
    f : object
    options : mapping, optional
        For an address: see `weighlock.open_checkpoint`.

    Raises
    ------
    ArgumentTypeError
        If it is none of these.
    SourceError, DownloadError, MissingDependencyError
        If it cannot be reached.
    """
    match = _ADDRESS.match(f) if isinstance(f, str) else None
    if match is not None:
        return _OPENERS.get(match[1].lower() if "::" not in match[0] else "", _open_fsspec)(f, options)
    if options:
        raise ArgumentTypeError("storage_options are for addresses such as s3://...", got=type(f).__name__)
    return open_source(f)


# Each is imported when an address needs it: HTTP and fsspec cost more than opening a file.


def _open_http(address: str, options: Mapping[str, Any] | None) -> ByteSource:
    from weighlock.storages.remote import open_http

    return open_http(address, options)


def _open_fsspec(address: str, options: Mapping[str, Any] | None) -> ByteSource:
    from weighlock.storages.fsspec_files import open_fsspec

    return open_fsspec(address, options)


def _open_file(address: str, options: Mapping[str, Any] | None) -> ByteSource:
    return open_source(_path_of(address))


def _path_of(address: str) -> str:
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost"):
        raise ArgumentError("a file:// address names another machine", got=parts.netloc)
    return unquote(parts.path)


_OPENERS: Final = {"http": _open_http, "https": _open_http, "file": _open_file}


def local_path(f: Any) -> Any:
    """Return the path that a ``file://`` address names; everything else as it is.

    Raises
    ------
    ArgumentError
        If it names another machine.
    """
    return _path_of(f) if isinstance(f, str) and f[:7].lower() == "file://" else f


def find_folder(address: str, options: Mapping[str, Any] | None = None) -> Folder | None:
    """Return the folder at an address, or None where there is none; of a web server, if the address ends with a slash.

    Raises
    ------
    SourceError, MissingDependencyError
        If that cannot be told.
    """
    from weighlock.storages.remote_folders import FsspecFolder, HttpFolder

    match = _ADDRESS.match(address)
    if match is not None and match[1].lower() in ("http", "https") and "::" not in match[0]:
        from urllib.parse import urlsplit

        return HttpFolder(address, options) if urlsplit(address).path.endswith("/") else None
    from weighlock.storages.fsspec_files import find_system, is_folder

    system, path = find_system(address, options)
    return FsspecFolder(address, system, path) if is_folder(system, path) else None
