"""Files held against what was written down about them before: a manifest, a lock file."""

import os
from collections.abc import Sequence
from typing import Any

from weighlock.errors import WeighlockError
from weighlock.limits import Limits
from weighlock.storages.addresses import is_address, open_anywhere
from weighlock.storages.source import open_source
from weighlock.verifying.checking import nothing
from weighlock.verifying.manifest import Manifest, ManifestFile, ManifestTensor, Progress, describe_tensors, file_sha256
from weighlock.verifying.naming import Named
from weighlock.verifying.report import Notebook

__all__ = ["Locked", "hold_against_lock", "hold_against_manifest", "locked_weights", "missing_files"]

# What a lock file says of one file of weights: its addresses, its size, its SHA-256.
Locked = tuple[Sequence[str], int, str]


def hold_against_manifest(
    named: Named, manifest: Manifest, notes: Notebook, limits: Limits | None, progress: Progress = nothing
) -> str | None:
    """Note in what a file differs from its manifest; return the name of the entry that it was held against."""
    source = open_anywhere(named.file) if is_address(named.file) else open_source(named.file)
    try:
        size, whole = source.size, file_sha256(source, progress)
    finally:
        source.close()
    notes.checked = max(notes.checked, size)
    entry = next((file for file in manifest.files if file.name == named.name), None)
    if entry is None:
        entry = next((file for file in manifest.files if file.sha256 == whole), None)
    if entry is None:
        notes.add("WL608", "the file is not in the manifest", got=f"{size:,} bytes, SHA-256 {whole}")
        return None
    if entry.sha256 != whole:
        _differs(named, entry, notes, (size, whole), limits)
    return entry.name


def _differs(named: Named, entry: ManifestFile, notes: Notebook, got: tuple[int, str], limits: Limits | None) -> None:
    """Note which tensors of a file differ whose bytes do."""
    before, same = len(notes.problems), False
    try:
        _, tensors = describe_tensors(named.file, limits, nothing, strict=False)
    except WeighlockError:
        notes.gap("WL903", "its tensors could not be compared with the manifest's one by one")
    else:
        _compare(entry.tensors, tensors, notes)
        same = len(notes.problems) == before and bool(entry.tensors)
    what = "the file's bytes are others" + ("; the values of its tensors are the same" if same else "")
    notes.add("WL606", what, severity="low" if same else "medium", got=f"{got[0]:,} bytes, SHA-256 {got[1]}",
              expected=f"{entry.size:,} bytes, SHA-256 {entry.sha256}")  # fmt: skip


def _compare(before: Sequence[ManifestTensor], now: Sequence[ManifestTensor], notes: Notebook) -> None:
    there = {tensor.key: tensor for tensor in now}
    for tensor in before:
        other = there.pop(tensor.key, None)
        if other is None:
            notes.add("WL607", "the tensor is missing", path=tensor.key, expected=_shown(tensor))
        elif (other.dtype, other.shape) != (tensor.dtype, tensor.shape):
            notes.add("WL606", "the tensor has another type or shape", path=tensor.key, expected=_shown(tensor),
                      got=_shown(other))  # fmt: skip
        elif other.sha256 != tensor.sha256:
            notes.add("WL606", "the tensor has other values", path=tensor.key, expected=f"SHA-256 {tensor.sha256}",
                      got=other.sha256)  # fmt: skip
    for tensor in there.values():
        notes.add("WL608", "the tensor is not in the manifest", path=tensor.key, got=_shown(tensor))


def _shown(tensor: ManifestTensor) -> str:
    return f"{tensor.dtype}{[] if tensor.shape is None else list(tensor.shape)}, SHA-256 {tensor.sha256 or 'none'}"


def missing_files(manifest: Manifest, met: set[str], notes: Notebook) -> None:
    """Note the files of a manifest that were not met."""
    for file in manifest.files:
        if file.name not in met:
            notes.add("WL607", "the file is missing", record=file.name,
                      expected=f"{file.size:,} bytes, SHA-256 {file.sha256}")  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- lock files


def locked_weights(path: str | os.PathLike[str]) -> list[Locked]:
    """Return what a lock file says of weights.

    Raises
    ------
    PinError
        If it cannot be read.
    """
    from weighlock.hub.lock_file import read_lock_file

    return [(pin.urls, pin.size, pin.sha256) for pin in read_lock_file(os.fspath(path)).weights]


def hold_against_lock(named: Named, locked: Sequence[Locked], notes: Notebook, progress: Progress = nothing) -> None:
    """Note in what a file differs from its entry in a lock file: the one whose address ends with its name."""
    source: Any = open_anywhere(named.file) if is_address(named.file) else open_source(named.file)
    try:
        size, whole = source.size, file_sha256(source, progress)
    finally:
        source.close()
    notes.checked = max(notes.checked, size)
    name = os.path.basename(named.name)
    rows = [row for row in locked if any(url.partition("?")[0].rsplit("/", 1)[-1] == name for url in row[0])]
    if any(row[2] == whole for row in locked):
        return
    if not rows:
        notes.add("WL609", "the file is not in the lock file", got=f"SHA-256 {whole}")
        return
    notes.add("WL609", "the file is not the one that is locked", expected=f"{rows[0][1]:,} bytes, SHA-256 {rows[0][2]}",
              got=f"{size:,} bytes, SHA-256 {whole}")  # fmt: skip
