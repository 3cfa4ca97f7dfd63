"""State_dicts in several files with an index, as transformers writes them: ``*.index.json`` names each tensor's file.

The parts are checkpoints of any format. What they hold decides, and the index is held against it: a tensor that it
names and that is not there, or stands in another file than it says, is damage; what it does not name is taken as well.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from weighlock.errors import DamagedError, LimitError, MissingFileError, NotACheckpointError, WeighlockError
from weighlock.formats.reading import Contents, Reading
from weighlock.storages.folders import FolderSource, check_name
from weighlock.storages.refs import StorageRef
from weighlock.storages.source import ByteSource

__all__ = [
    "PREFERRED", "WHOLE", "find_entry", "find_index", "is_alone", "looks_like_index", "read", "read_entry",
]  # fmt: skip

_INDEX: Final = re.compile(r".+\.index(\.[\w-]{1,40})?\.json")
WHOLE: Final = ("model.safetensors", "pytorch_model.bin")
"""What a state_dict in one file is called."""
# Where a folder holds several, the one that transformers takes: `from_pretrained` asks for them in this order.
PREFERRED: Final = tuple(name for whole in WHOLE for name in (whole, f"{whole}.index.json"))
_PART: Final = re.compile(r"(.+)-\d{5}-of-\d{5}(\.\w{1,20})")
_MARK: Final = b'"weight_map"'
_LOOK: Final = 64 << 10
_LONGEST: Final = 512 << 20
_SHOWN: Final = 4


def looks_like_index(source: ByteSource) -> bool:
    """Whether a file is the index of a set, and no tensors."""
    head = source.read_at(0, min(source.size, _LOOK))
    if not re.match(rb'(\xef\xbb\xbf)?\s*\{\s*"', head):
        return False
    return _MARK in head or _MARK in source.read_at(max(source.size - _LOOK, 0), min(source.size, _LOOK))


def find_index(names: list[str]) -> str | None:
    """Return which file of a folder is the index of the set in it; None where there is none.

    Raises
    ------
    NotACheckpointError
        If there are several sets.
    """
    found = [name for name in names if _INDEX.fullmatch(name)]
    chosen = [name for name in PREFERRED if name in found] or found
    if len(found) > 1 and chosen is found:
        raise NotACheckpointError(
            "the folder holds several sharded checkpoints", kind="folder", got=", ".join(found[:_SHOWN]),
            hint="Give the path of one index.",
        )  # fmt: skip
    return chosen[0] if chosen else None


def find_entry(names: list[str]) -> str | None:
    """Return the file of a folder that transformers would begin with: a whole state_dict, or the index of a set.

    Raises
    ------
    NotACheckpointError
        If there are several sets, of other names.
    """
    return next((name for name in PREFERRED if name in names), None) or find_index(names)


def is_alone(entry: str, names: list[str]) -> bool:
    """Whether a folder's entry is a whole file, and no index stands beside it."""
    return entry in WHOLE and not any(_INDEX.fullmatch(name) for name in names)


class _Index(NamedTuple):
    """A checked index: the file of each tensor, and what else it says."""

    files: dict[str, str]
    metadata: dict[str, Any]


def _parse(source: ByteSource) -> _Index:
    if source.size > _LONGEST:
        raise LimitError("the index is too large", expected=f"at most {_LONGEST} bytes", got=str(source.size))
    try:
        fields = json.loads(source.read_at(0, source.size), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"the index is no JSON: {error}", path=source.name) from error
    files = fields.get("weight_map") if isinstance(fields, dict) else None
    if not isinstance(files, dict) or not files:
        raise DamagedError("the index has no weight_map", path=source.name)
    for name, file in files.items():
        try:
            check_name(file)
        except DamagedError as error:
            raise error.locate(path=source.name, object_path=name) from None
    metadata = fields.get("metadata")
    return _Index(files, metadata if isinstance(metadata, dict) else {})


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice")
    return made


def read_entry(source: FolderSource, name: str, reading: Reading) -> Contents:
    """Read what `find_entry` has found; raises as `read`."""
    return read(source, name, reading) if _INDEX.fullmatch(name) else _read_file(source, name, reading)


def read(source: FolderSource, index_name: str, reading: Reading) -> Contents:
    """Read a set: the state_dict of all parts, in the order of their names.

    Raises
    ------
    MissingFileError
        If parts are missing.
    DamagedError
        If parts and index contradict each other, or the index names files outside of its folder.
    """
    index = _parse(source.part(index_name))
    parts = _opened(source, sorted(set(index.files.values())))
    made: dict[str, Any] = {}
    storages: dict[str, StorageRef] = {}
    formats = set()
    views: list[StorageRef] = []
    held: list[Any] = []
    places: dict[str, str] = {}
    for name in parts:
        contents = _read_part(source, name, reading)
        held.append(contents)
        for key, value in contents.object.items():
            _check_place(key, name, index, places, source)
            made[key] = value
        storages |= {f"{name}/{key}": ref for key, ref in contents.storages.items()}
        views += contents.views
        formats.add(contents.format)
    lost = [key for key in index.files if key not in places]
    if lost:
        raise DamagedError(
            "tensors that the index names are in none of the files", got=_some(lost), path=source.name,
            expected=f"{len(index.files)} tensors",
        )  # fmt: skip
    stored = sum(ref.nbytes for ref in storages.values())
    whole = Contents(
        made, "sharded", 0, lambda: _notes(source, index_name, index, sorted(formats), places, stored), storages, views
    )
    whole.held = held
    return whole


def _opened(source: FolderSource, names: list[str]) -> list[str]:
    """Open every part once: all that are missing are named together."""
    source.prepare(names)
    missing = []
    for name in names:
        try:
            source.part(name)
        except MissingFileError:
            missing.append(name)
    if missing:
        raise MissingFileError(
            f"{len(missing)} of the {len(names)} files that the index names are missing", got=_some(missing),
            path=source.name, hint="Get them, and put them beside the index.",
        )  # fmt: skip
    return names


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _read_file(source: FolderSource, name: str, reading: Reading) -> Contents:
    part = source.part(name)
    try:
        return reading.read_any(part, reading)
    except WeighlockError as error:
        raise error.locate(path=part.name) from error.__cause__


def _read_part(source: FolderSource, name: str, reading: Reading) -> Contents:
    contents, part = _read_file(source, name, reading), source.part(name)
    if not isinstance(contents.object, Mapping):
        raise DamagedError("a file of a sharded checkpoint is no dictionary of tensors", path=part.name,
                           got=type(contents.object).__name__)  # fmt: skip
    return contents


def _check_place(key: Any, name: str, index: _Index, places: dict[str, str], source: FolderSource) -> None:
    expected = index.files.get(key, name) if isinstance(key, str) else name
    if expected != name or key in places:
        raise DamagedError(
            "a tensor stands in another file than the index says", expected=expected if expected != name else
            places[key], got=name, path=source.name, object_path=str(key),
        )  # fmt: skip
    places[key] = name


def _notes(
    source: FolderSource, index_name: str, index: _Index, formats: list[str], places: dict[str, str], stored: int
) -> dict[str, Any]:
    files = sorted(set(index.files.values()))
    notes: dict[str, Any] = {
        "index": index_name, "files": len(files), "part_formats": formats, "stored_size": stored, **index.metadata,
    }  # fmt: skip
    unlisted = [key for key in places if key not in index.files]
    if unlisted:
        notes["not_in_index"] = unlisted
    patterns = {(match[1], match[2]) for match in map(_PART.fullmatch, files) if match}
    try:
        extra = [
            name for name in source.names()
            if (match := _PART.fullmatch(name)) and (match[1], match[2]) in patterns and name not in files
        ]  # fmt: skip
    except WeighlockError:  # a place that has no list of its files
        extra = []
    if extra:
        notes["files_not_in_index"] = extra
    return notes
