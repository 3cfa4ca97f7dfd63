"""A file of any file system that fsspec knows: ``s3://``, ``gs://``, ``memory://`` and so on."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from weighlock.errors import (
    ArgumentTypeError,
    ChangedFileError,
    MissingDependencyError,
    MissingFileError,
    SourceError,
    TruncatedError,
    WeighlockError,
)
from weighlock.storages.ranges import HEAD, RangedSource, Stretch
from weighlock.storages.urls import links, shown

__all__ = ["FsspecSource", "failed", "find_system", "is_folder", "open_fsspec"]

_CONNECTIONS: Final = 8
# What file systems call the thing that changes with a file's content, the most reliable first.
_VALIDATORS: Final = ("ETag", "etag", "VersionId", "generation", "md5Hash", "md5", "content_md5")
_TIMES: Final = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")


def open_fsspec(address: str, options: Mapping[str, Any] | None = None) -> "FsspecSource":
    """Open the file at an address.

    Parameters
    ----------
    address : str
    options : mapping, optional
        Handed to the file system, as `fsspec.open` would.

    Raises
    ------
    MissingDependencyError
        If fsspec, or the package for this kind of address, is not installed.
    MissingFileError, SourceError
        If it cannot be reached.
    """
    system, path = find_system(address, options)
    return FsspecSource(system, path, address)


def find_system(address: str, options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """Return the file system of an address, and the path there; the parameters and errors are `open_fsspec`'s."""
    scheme = address.partition(":")[0].lower()
    try:
        import fsspec
    except ImportError as error:
        raise MissingDependencyError(
            f"fsspec is not installed, which reads {scheme}:// addresses", hint="pip install 'weighlock[remote]'"
        ) from error
    unknown = next((kind for kind in map(_scheme_of, links(address)) if kind and not _is_known(fsspec, kind)), None)
    if unknown is not None:
        raise SourceError(
            f"no kind of address that is known: {unknown}://", path=shown(address),
            expected="http, https, file, or a kind that fsspec knows, such as s3, gs, az, hf, sftp, zip",
            hint="A local file that is called so: pass a pathlib.Path, or ./NAME on the command line.",
        )  # fmt: skip
    try:
        system, path = fsspec.core.url_to_fs(address, **dict(options or {}))
    except ImportError as error:
        kinds = [kind for kind in map(_scheme_of, reversed(links(address))) if kind]
        hint = next((_ADVICE[kind] for kind in kinds if kind in _ADVICE), None)
        raise MissingDependencyError(
            f"the package that reads {kinds[0]}:// addresses is not installed: {error}", hint=hint
        ) from error
    except TypeError as error:  # also what a file system takes, and hands on to the package below
        raise _unfit(error, address, options) from error
    except Exception as error:  # of whatever kind: the file system may have connected already
        raise failed(error, address) from error
    return system, path


def _is_known(fsspec: Any, scheme: str) -> bool:
    return scheme in fsspec.available_protocols() or scheme in fsspec.registry


def _scheme_of(link: str) -> str | None:
    """Return the scheme of one link of a chain; None where the last one is a path."""
    scheme, found, _ = link.partition("://")
    return scheme if found or (link.isalpha() and link.islower()) else None  # as fsspec tells them apart


def _unfit(error: TypeError, address: str, options: Mapping[str, Any] | None) -> WeighlockError:
    scheme, text = address.partition(":")[0], str(error)[:200]
    if options:
        return ArgumentTypeError(f"storage_options do not fit {scheme}://", got=text)
    return ArgumentTypeError(
        f"{scheme}:// addresses need more than this one says", path=shown(address), got=text,
        hint=f"Pass it in storage_options, as fsspec.filesystem({scheme!r}, ...) takes it.",
    )  # fmt: skip


def is_folder(system: Any, path: str) -> bool:
    """Whether a file system has a folder there, as far as it can tell."""
    try:
        return bool(_beneath(system).isdir(path))
    except Exception:  # noqa: BLE001 - of whatever kind: then opening it as a file says what is wrong
        return False


def _beneath(system: Any) -> Any:
    """Return the file system that a cache keeps files of.

    A cache (``filecache::``, ``blockcache::``) lists the folder that a file is in to tell what the file is, and web
    servers have no lists.
    """
    from fsspec.implementations.cached import CachingFileSystem

    while isinstance(system, CachingFileSystem):
        system = system.fs
    return system


def _keeps_copies(system: Any) -> bool:
    from fsspec.implementations.cached import WholeFileCacheFileSystem

    return isinstance(system, WholeFileCacheFileSystem)


_ADVICE: Final = {
    "http": "pip install aiohttp", "https": "pip install aiohttp",
    "s3": "pip install s3fs", "s3a": "pip install s3fs", "gs": "pip install gcsfs", "gcs": "pip install gcsfs",
    "az": "pip install adlfs", "abfs": "pip install adlfs", "hf": "pip install huggingface_hub",
    "sftp": "pip install paramiko", "ssh": "pip install paramiko", "smb": "pip install smbprotocol",
}  # fmt: skip

# What file systems say of somebody whom they do not know or do not let in; their classes are not ours to import.
_REFUSED: Final = re.compile(
    r"NoCredentials|NoAuthCredential|PermissionError|Forbidden|Unauthorized|\b40[13]\b|AccessDenied|AuthenticationFailed"
    r"|InvalidAccessKey|SignatureDoesNotMatch"
)
_CREDENTIALS: Final = {
    **dict.fromkeys(("s3", "s3a"), "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or pass storage_options={'key': "
                    "..., 'secret': ...}; of a public bucket, {'anon': True}."),
    **dict.fromkeys(("gs", "gcs"), "Set GOOGLE_APPLICATION_CREDENTIALS, or pass storage_options={'token': ...}; of a "
                    "public bucket, {'token': 'anon'}."),
}  # fmt: skip


class FsspecSource(RangedSource):
    """A file of a file system of fsspec's, read by ranges.

    Parameters
    ----------
    system : fsspec.AbstractFileSystem
    path : str
        The file's path there.
    address : str
    """

    def __init__(self, system: Any, path: str, address: str) -> None:
        # A local or in-memory file system has no round trips to save, and several are not made for threads.
        super().__init__(shown(address), _CONNECTIONS if getattr(system, "async_impl", False) else 1)
        self._system = system
        self._path = path
        found = self._described()
        self.size = int(found["size"])
        self._mark = _mark(found)
        count = min(self.size, HEAD)
        self.keep(0, self._cat(0, count) if count else b"")

    def _described(self) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = _beneath(self._system).info(self._path)
            if found.get("type") != "directory" and _keeps_copies(self._system):
                # What is read is the copy, even an old one. The file as it is now may be longer.
                with self._system.open(self._path, "rb") as copy:
                    found = {**found, "size": os.fstat(copy.fileno()).st_size}
        except Exception as error:
            raise failed(error, self.name) from error
        if found.get("type") == "directory":
            raise SourceError("the address is a folder", path=self.name)
        if not isinstance(found.get("size"), int):
            raise SourceError("the file system does not know how long the file is", path=self.name)
        return found

    def _cat(self, start: int, end: int) -> bytes:
        try:
            data: bytes = self._system.cat_file(self._path, start=start, end=end)
        except Exception as error:
            raise failed(error, self.name) from error
        return data

    def fetch(self, stretch: Stretch) -> None:
        data = memoryview(self._cat(stretch.offset, stretch.end))
        if len(data) != stretch.end - stretch.offset:
            raise self._short(stretch, len(data))
        place = 0
        for count, target in stretch.targets:
            if target is not None:
                target[:] = data[place : place + count]
            place += count

    def _short(self, stretch: Stretch, got: int) -> WeighlockError:
        if not self.unchanged():
            return self._changed()
        expected = f"{stretch.end - stretch.offset} bytes"
        return TruncatedError("the file ends too early", expected=expected, got=str(got), path=self.name)

    def read_many(self, wanted: Sequence[tuple[int, memoryview]]) -> None:
        """Fetch each target, and look afterwards whether the file is still the one that was opened."""
        super().read_many(wanted)
        if self._mark and not self.unchanged():
            raise self._changed()

    def _changed(self) -> ChangedFileError:
        return ChangedFileError("the file has changed since it was opened", path=self.name, hint="Open it again.")

    def unchanged(self) -> bool:
        """Whether the file is the one that was opened, as far as its file system tells."""
        self._system.invalidate_cache()
        found = self._described()
        return int(found["size"]) == self.size and _mark(found) == self._mark


def failed(error: Exception, address: str, what: str = "reading failed") -> WeighlockError:
    """Return the error for what a file system has raised."""
    if isinstance(error, WeighlockError):
        return error
    kind, text = type(error).__name__, " ".join(str(error).split())[:200]
    if isinstance(error, FileNotFoundError):
        place = "bucket" if "bucket does not exist" in text.lower() else "file"
        return MissingFileError(f"there is no such {place}", path=shown(address))
    if isinstance(error, TypeError) and "unexpected keyword argument" in text:
        return ArgumentTypeError(f"storage_options do not fit {address.partition(':')[0]}://", got=text)
    hint = None
    if _REFUSED.search(f"{kind} {text}"):
        scheme = links(address)[-1].partition(":")[0].lower()
        hint = _CREDENTIALS.get(scheme, "Pass the credentials in storage_options.")
    return SourceError(f"{what}: {kind}: {text}", path=shown(address), hint=hint)


def _mark(found: Mapping[str, Any]) -> str:
    for names in (_VALIDATORS, _TIMES):
        marks = [str(found[name]) for name in names if found.get(name) is not None]
        if marks:
            return marks[0]
    return ""
