"""Manifests: the SHA-256 of files and of each tensor in them, as a JSON document.

A document is ``{"schema": "weighlock/manifest", "schema_version": 1, "files": [...]}``; a file has `name`, `size`,
`sha256`, `format`, and `tensors` with `key`, `dtype`, `shape` and the SHA-256 of the values as `weighlock.digest`
defines it. The same files make the same document.
"""

import json
import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple

from weighlock.errors import (
    ArgumentError,
    NotACheckpointError,
    PickleStreamError,
    TruncatedError,
    WeighlockError,
)
from weighlock.limits import Limits
from weighlock.measuring.digests import digest
from weighlock.opening.opened import open_checkpoint
from weighlock.storages.addresses import is_address, open_anywhere
from weighlock.storages.source import ByteSource, open_source
from weighlock.verifying.checking import nothing
from weighlock.verifying.naming import Named, is_index, named_files

__all__ = ["Manifest", "ManifestFile", "ManifestTensor", "describe_tensors", "file_sha256", "manifest", "read_manifest"]

SCHEMA: Final = "weighlock/manifest"
VERSION: Final = 1
_READ: Final = 4 << 20
_LONGEST: Final = 1 << 30
_DIGITS: Final = frozenset("0123456789abcdef")

Progress = Callable[[int], object]


class ManifestTensor(NamedTuple):
    """One tensor: `sha256` is that of its values in row-major order; empty where it has no data."""

    key: str
    dtype: str | None
    shape: tuple[int, ...] | None
    sha256: str


class ManifestFile(NamedTuple):
    """One file; `format` is None, and there are no tensors, where it is no checkpoint."""

    name: str
    size: int
    sha256: str
    format: str | None
    tensors: tuple[ManifestTensor, ...]


class Manifest(NamedTuple):
    """What `weighlock.manifest` returns.

    Attributes
    ----------
    files : tuple of ManifestFile
    """

    files: tuple[ManifestFile, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the document."""
        return {
            "schema": SCHEMA, "schema_version": VERSION,
            "files": [
                {**file._asdict(), "tensors": [
                    {**tensor._asdict(), "shape": None if tensor.shape is None else list(tensor.shape)}
                    for tensor in file.tensors
                ]}
                for file in self.files
            ],
        }  # fmt: skip

    def to_json(self) -> str:
        """Return the document as text: one tensor a line, so that two manifests can be compared line by line."""
        text = json.dumps(self.to_dict(), ensure_ascii=True, allow_nan=False, separators=(", ", ": "))
        for mark in ('{"name": ', '{"key": '):
            text = text.replace(f"[{mark}", f"[\n{mark}").replace(f"}}, {mark}", f"}},\n{mark}")
        return text + "\n"


def manifest(
    f: Any, *, limits: Limits | None = None, progress: Progress = nothing, exclude: Sequence[str] = ()
) -> Manifest:
    """Return the SHA-256 of files, and of each tensor in those that are checkpoints.

    Parameters
    ----------
    f : path, folder, pattern, address, bytes-like or file object, or a list of these
    limits : Limits, optional
    progress : callable
        Called with the number of bytes read since the last call, perhaps from several threads.
    exclude : sequence of str
        Paths that are left out.

    Returns
    -------
    Manifest

    Raises
    ------
    SourceError
        If a file cannot be read.
    CheckpointError
        If one is damaged.
    ArgumentError
        If two files would have the same name in it.

    Examples
    --------
    >>> import io, numpy, weighlock
    >>> file = io.BytesIO()
    >>> weighlock.save({"w": numpy.zeros(3, "f4")}, file)
    >>> made = weighlock.manifest(file.getvalue())
    >>> made.files[0].tensors[0].key, made.files[0].tensors[0].sha256[:8]
    ('w', '15ec7bf0')
    """
    left_out = {os.path.realpath(path) for path in exclude}
    found: dict[str, ManifestFile] = {}
    for named in named_files(f):
        if isinstance(named.file, str) and os.path.realpath(named.file) in left_out:
            continue
        if named.name in found:
            raise ArgumentError("two files would have one name in the manifest", got=named.name,
                                hint="Name the folder that holds both.")  # fmt: skip
        found[named.name] = _described(named, limits, progress)
    return Manifest(tuple(found.values()))


def _described(named: Named, limits: Limits | None, progress: Progress) -> ManifestFile:
    source = open_anywhere(named.file) if is_address(named.file) else open_source(named.file)
    try:
        size, whole = source.size, file_sha256(source, progress)
    finally:
        source.close()
    kind, tensors = describe_tensors(named.file, limits, progress, strict=not named.walked)
    return ManifestFile(named.name, size, whole, kind, tensors)


def file_sha256(source: ByteSource, progress: Progress) -> str:
    """Return the SHA-256 of a whole file, in hexadecimal."""
    made = sha256()
    memory = memoryview(bytearray(min(_READ, max(source.size, 1))))
    for begin in range(0, source.size, _READ):
        view = memory[: min(_READ, source.size - begin)]
        source.read_into(begin, view)
        made.update(view)
        progress(len(view))
    return made.hexdigest()


def describe_tensors(
    f: Any, limits: Limits | None, progress: Progress, *, strict: bool
) -> tuple[str | None, tuple[ManifestTensor, ...]]:
    """Return a file's format and its tensors; none where it is no checkpoint.

    Raises
    ------
    CheckpointError
        If it is damaged. Without `strict`, a file that need not have been a checkpoint at all is taken for none.
    """
    if hasattr(f, "seek"):
        f.seek(0)
    if _names_other_files(f):
        return None, ()  # the index of a set: its tensors stand in its files
    try:
        with open_checkpoint(f, limits=limits) as ckpt:
            found = digest(ckpt, progress=progress).tensors
            tensors = tuple(
                ManifestTensor(key, None if lazy.dtype is None else lazy.dtype.name, lazy.shape, found[key])
                for key, lazy in ckpt.items()
            )
            return ckpt.format, tensors
    except NotACheckpointError:
        return None, ()
    except (PickleStreamError, TruncatedError):
        if strict or _begins_like_one(f):
            raise
        return None, ()


def _begins_like_one(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(8).startswith((b"PK\x03\x04", b"\x93NUMPY", b"GGUF"))


def _names_other_files(f: Any) -> bool:
    return isinstance(f, str) and f.endswith(".json") and is_index(f)


# ------------------------------------------------------------------------------------------------------------ reading


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read a manifest.

    Raises
    ------
    SourceError
        If it cannot be read.
    ArgumentError
        If it is none, or of a version that is not known.
    """
    source = open_source(path)
    try:
        if source.size > _LONGEST:
            raise ArgumentError("the manifest is too long", got=f"{source.size:,} bytes")
        text = source.read_at(0, source.size)
    finally:
        source.close()
    try:
        document = json.loads(text)
        if document["schema"] != SCHEMA or document["schema_version"] != VERSION:
            raise ArgumentError(
                "this is no manifest that is known", expected=f"{SCHEMA}, version {VERSION}",
                got=f"{document['schema']}, version {document['schema_version']}"[:80],
            )  # fmt: skip
        return Manifest(tuple(map(_file, document["files"])))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, WeighlockError):
            raise
        raise ArgumentError(f"the manifest cannot be understood: {type(error).__name__}: {error}",
                            got=os.fspath(path)) from error  # fmt: skip


def _file(row: Any) -> ManifestFile:
    tensors = tuple(
        ManifestTensor(
            str(tensor["key"]), tensor["dtype"], None if tensor["shape"] is None else tuple(tensor["shape"]),
            _hex(tensor["sha256"], empty=True),
        )
        for tensor in row["tensors"]
    )  # fmt: skip
    return ManifestFile(str(row["name"]), int(row["size"]), _hex(row["sha256"]), row["format"], tensors)


def _hex(text: str, *, empty: bool = False) -> str:
    if (len(text) == 64 and set(text) <= _DIGITS) or (empty and not text):
        return text
    raise ValueError("a SHA-256 that is none")
