"""Making manifests: the SHA-256 of files and of each tensor in them, as `weighlock.measuring.manifests` holds them."""

import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Final

from weighlock.errors import ArgumentError, NotACheckpointError, PickleStreamError, TruncatedError
from weighlock.limits import Limits
from weighlock.measuring.manifests import Manifest, ManifestFile, ManifestTensor, read_manifest, tensors_in
from weighlock.opening.opened import open_checkpoint
from weighlock.storages.addresses import is_address, open_anywhere
from weighlock.storages.source import ByteSource, open_source
from weighlock.verifying.checking import nothing
from weighlock.verifying.naming import Named, is_index, named_files

__all__ = ["Manifest", "ManifestFile", "ManifestTensor", "describe_tensors", "file_sha256", "manifest", "read_manifest"]

_READ: Final = 4 << 20

Progress = Callable[[int], object]


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
            return ckpt.format, tensors_in(ckpt, progress)
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
