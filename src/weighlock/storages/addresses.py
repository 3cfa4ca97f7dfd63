"""The one place that decides where bytes come from: addresses are text with a scheme, everything else is local."""

from collections.abc import Mapping
from typing import Any, Final

from weighlock.errors import ArgumentError, ArgumentTypeError, SourceError, UnsupportedError
from weighlock.storages.folders import Folder
from weighlock.storages.source import ByteSource, open_source
from weighlock.storages.urls import is_address, is_web, links, shown

__all__ = ["files_below", "find_folder", "folder_at", "is_address", "local_path", "open_anywhere"]


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
    if is_address(f):
        _check_complete(f, options)
        return _OPENERS.get(f.partition("://")[0].lower(), _open_fsspec)(f, options)
    if options:
        raise ArgumentTypeError("storage_options are for addresses such as s3://...", got=type(f).__name__)
    return open_source(f)


# What addresses look like whose scheme says nothing alone.
_EXAMPLES: Final = {
    **dict.fromkeys(("http", "https"), "https://host/model.pt"), "file": "file:///folder/model.pt",
    **{name: f"{name}://bucket/model.pt" for name in ("s3", "s3a", "gs", "gcs")},
    **{name: f"{name}://container/model.pt" for name in ("az", "abfs")},
    **{name: f"{name}://host/model.pt" for name in ("ftp", "sftp", "ssh", "smb")},
    "hf": "hf://owner/name/model.safetensors", "github": "github://owner:repository@branch/model.pt",
}  # fmt: skip
# And of what is inside of something else, or a copy of it.
_INSIDE: Final = {
    **{name: f"{name}://model.pt::https://host/archive.{name}" for name in ("zip", "tar", "libarchive")},
    **{name: f"{name}::https://host/model.pt" for name in ("simplecache", "filecache", "blockcache", "cached")},
    "dir": "the address without dir://, such as s3://bucket/folder",
}  # fmt: skip


def _check_complete(address: str, options: Mapping[str, Any] | None) -> None:
    """Refuse an address that names neither a file nor a folder, before anybody is asked; `SourceError`."""
    from urllib.parse import urlsplit

    link = links(address)[-1]
    scheme, _, rest = link.partition("://")
    scheme = scheme.lower()
    if scheme in _INSIDE and not options:
        raise SourceError(
            f"the address ends too early: {scheme}:// is inside of something else", path=shown(address),
            expected=_INSIDE[scheme],
        )  # fmt: skip
    example = _EXAMPLES.get(scheme)
    if example is not None and not (rest if scheme == "file" else rest.partition("/")[0]):
        what = next((word for word in ("bucket", "container", "host") if f"//{word}" in example), "file")
        raise SourceError(f"the address names no {what}", path=shown(address), expected=example)
    if is_web(link):
        try:
            urlsplit(link).port  # noqa: B018 - looked at, it says what is wrong with the whole
        except ValueError as error:
            raise SourceError(f"this is no address: {error}", path=shown(address), expected=example) from error


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

    _check_complete(address, None)
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


def folder_at(address: str, options: Mapping[str, Any] | None = None) -> Folder:
    """Return the folder at an address; nobody is asked whether there is one.

    Raises
    ------
    SourceError, MissingDependencyError
        If nothing can be read from addresses of this kind.
    """
    from weighlock.storages.remote_folders import FsspecFolder, HttpFolder

    _check_complete(address, options)
    if is_web(address):
        return HttpFolder(address, options)
    from weighlock.storages.fsspec_files import find_system

    return FsspecFolder(address, *find_system(address, options))


def find_folder(address: str, options: Mapping[str, Any] | None = None) -> Folder | None:
    """Return the folder at an address, or None where there is none; of a web server, if the address ends with a slash.

    Raises
    ------
    SourceError, MissingDependencyError
        If that cannot be told.
    """
    folder: Any = folder_at(address, options)
    return folder if folder.is_there() else None


def files_below(address: str) -> dict[str, str] | None:
    """Return the addresses of the files in a folder and below, by path in it; None where there is no folder or no list.

    Raises
    ------
    SourceError, MissingDependencyError
        If that cannot be told.
    """
    if is_web(address):
        return None
    folder: Any = find_folder(address)
    if folder is None:
        return None
    try:
        found: dict[str, str] = folder.files()
    except UnsupportedError:
        return None
    return found
