"""Files of a distributed checkpoint: small checkpoints one behind the other, where ``.metadata`` beside them says.

Without that index such a file is what it looks like, several archives in one, which readers would take differently.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any, Final

from weighlock.errors import WeighlockError
from weighlock.formats.dcp import is_part
from weighlock.formats.detect import read_any
from weighlock.limits import Limits
from weighlock.pickling.inert import Stub
from weighlock.scanning.tracing import ScanReading
from weighlock.storages.source import open_source

__all__ = ["faults_of_index", "parts_of", "why_unplaced"]

# Of all processes, or of one where they do not speak to each other.
_INDEX: Final = re.compile(r"(?:__\d+)?\.metadata\Z")
_SHARED: Final = ".metadata"
_PLACE: Final = "torch.distributed.checkpoint.filesystem._StorageInfo"


def parts_of(path: Any, limits: Limits) -> list[tuple[int, int]] | None:
    """Return where the parts of a file of a distributed checkpoint lie; None where it is no such file.

    PyTorch opens whatever file the index names, by any name.
    """
    if not isinstance(path, str | os.PathLike):
        return None
    folder, name = os.path.split(os.fsdecode(path))
    if name.endswith(_SHARED) and _INDEX.match(name):
        return None
    found: set[tuple[int, int]] = set()
    for index in _indexes(folder, name):
        found |= _places(_read(os.path.join(folder, index), limits), name)
    return sorted(found) or None


def why_unplaced(path: Any, limits: Limits) -> str | None:
    """Say why `parts_of` finds nothing for a file that is called like one of parts; None for any other file."""
    if not isinstance(path, str | os.PathLike) or not is_part(os.path.basename(os.fsdecode(path))):
        return None
    folder, name = os.path.split(os.fsdecode(path))
    indexes = _indexes(folder, name)
    if not indexes:
        return "the .metadata that says what lies in this file is missing"
    if all(_read(os.path.join(folder, index), limits) is None for index in indexes):
        return "the .metadata that says what lies in this file cannot be read"
    return "nothing of the checkpoint lies in this file: another save has left it"


def _indexes(folder: str, name: str) -> list[str]:
    found = [_SHARED] if os.path.isfile(os.path.join(folder, _SHARED)) else []
    if name.startswith("__"):  # an index of one process names no other files: see `faults_of_index`
        with contextlib.suppress(OSError):
            found += [other for other in os.listdir(folder or ".") if _INDEX.match(other) and other != _SHARED]
    return found


def _read(path: str, limits: Limits) -> Any:
    try:
        source = open_source(path)
    except WeighlockError:
        return None
    try:
        return read_any(source, ScanReading(limits)).object
    except WeighlockError:
        return None  # said where the index itself is scanned
    finally:
        source.close()


def _places(index: Any, name: str) -> set[tuple[int, int]]:
    return {(offset, length) for file, offset, length in _entries(index) if file == name and length > 0}


def _entries(index: Any) -> Iterator[tuple[str, int, int]]:
    """Give file, offset and length of each entry that is written as PyTorch writes it."""
    storage = index.attributes().get("storage_data") if isinstance(index, Stub) else None
    for info in storage.values() if isinstance(storage, dict) else ():
        state = info.attributes() if type(info) is Stub and info.global_ref.full_name == _PLACE else {}
        file, offset, length = state.get("relative_path"), state.get("offset"), state.get("length")
        if type(file) is str and type(offset) is int and type(length) is int and offset >= 0 <= length:
            yield file, offset, length


def faults_of_index(path: str, index: Any) -> Iterator[str]:
    """Say where the index of a distributed checkpoint leads PyTorch to parts that a scan would not find.

    Parameters
    ----------
    path : str
        Of the file that was read.
    index : object
        What it holds.
    """
    called = os.path.basename(path)
    if not _INDEX.match(called):
        return
    storage = index.attributes().get("storage_data") if isinstance(index, Stub) else index
    entries = list(_entries(index))
    if storage is not None and (not isinstance(storage, dict) or len(entries) != len(storage)):
        yield "the index does not say where its parts are as PyTorch writes it"
    for file in sorted({file for file, _, _ in entries}):
        plain = file.strip(". ") and not re.search(r"[/\\\0:]", file)
        if not plain or (called != _SHARED and not file.startswith("__")):
            yield f"the index names a part by a path that PyTorch does not write: {file:.100}"
