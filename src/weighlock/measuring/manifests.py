"""Manifests as documents: what the SHA-256 of files and of each tensor in them were when they were written down.

A document is ``{"schema": "weighlock/manifest", "schema_version": 1, "files": [...]}``; a file has `name`, `size`,
`sha256`, `format`, and `tensors` with `key`, `dtype`, `shape` and the SHA-256 of the values as `weighlock.digest`
defines it. The same files make the same document. `weighlock.verifying.manifest` makes them.
"""

import json
import os
from typing import Any, Final, NamedTuple

from weighlock.errors import ArgumentError, WeighlockError
from weighlock.measuring.digests import digest
from weighlock.measuring.pieces import Progress
from weighlock.opening.opened import LazyCheckpoint
from weighlock.storages.source import open_source

__all__ = ["Manifest", "ManifestFile", "ManifestTensor", "read_manifest", "tensors_in"]

_SCHEMA: Final = "weighlock/manifest"
_VERSION: Final = 1
_LONGEST: Final = 1 << 30
_DIGITS: Final = frozenset("0123456789abcdef")


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
            "schema": _SCHEMA, "schema_version": _VERSION,
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


def tensors_in(ckpt: LazyCheckpoint, progress: Progress | None = None) -> tuple[ManifestTensor, ...]:
    """Return what a manifest says of each tensor of an open checkpoint.

    Raises
    ------
    CheckpointError
        If it is damaged.
    """
    found = digest(ckpt, include="**", progress=progress).tensors
    return tuple(
        ManifestTensor(key, None if lazy.dtype is None else lazy.dtype.name, lazy.shape, found[key])
        for key, lazy in ckpt.items()
    )


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
        if document["schema"] != _SCHEMA or document["schema_version"] != _VERSION:
            raise ArgumentError(
                "this is no manifest that is known", expected=f"{_SCHEMA}, version {_VERSION}",
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
