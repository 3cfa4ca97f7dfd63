"""The header of a safetensors file, parsed strictly: what it says is used as it is to slice the file.

Eight bytes of length (little-endian), a JSON object, then the bytes of all tensors: without holes, without overlaps,
to the last byte of the file. Shapes are the header's own; those of types below a byte count values.
"""

import json
from collections import Counter
from collections.abc import Mapping
from itertools import chain
from operator import itemgetter, sub
from typing import Any, Final, NamedTuple, TypeGuard

from weighlock.dtypes import BY_SAFETENSORS_CODE, VALUES_PER_UNIT, DType
from weighlock.errors import SALVAGE, DamagedError, LimitError, TruncatedError, UnsupportedError
from weighlock.limits import Limits
from weighlock.storages.source import ByteSource

__all__ = ["SafetensorsEntry", "SafetensorsHeader", "read_header"]

# The bound of the safetensors package itself: longer headers are no safetensors file.
_MOST_HEADER_BYTES: Final = 100_000_000
_FIELDS: Final = ("dtype", "shape", "data_offsets")
_ASKED: Final = itemgetter(*_FIELDS)
_MOST_ELEMENTS: Final = 1 << 63
# Bits of one value, for the types that PyTorch has no tensors of.
_OPAQUE_BITS: Final = {"F6_E2M3": 6, "F6_E3M2": 6}
_PLACE: Final = itemgetter(4, 5)


class SafetensorsEntry(NamedTuple):
    """One tensor: `begin` and `end` count bytes from the header's `data_start`.

    `row` is the element type, `shape` then counts its units; None for what PyTorch has no tensor for.
    """

    name: str
    dtype: str
    row: DType | None
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsHeader(NamedTuple):
    """A header that was checked: its metadata, its tensors in the order of their bytes, and where these begin."""

    metadata: Mapping[str, str]
    tensors: list[SafetensorsEntry]
    data_start: int


def read_header(source: ByteSource, limits: Limits) -> SafetensorsHeader:
    """Read and check the header of the safetensors file that is the whole of `source`.

    Raises
    ------
    TruncatedError
        If the file is shorter than its header says.
    DamagedError
        If the header is malformed, or does not fit the file.
    UnsupportedError
        If it names an unknown element type.
    LimitError
        If it is larger than safetensors allows, or has more tensors or dimensions than `limits` allows.
    """
    try:
        text, start = _header_text(source)
        fields = _parse(text)
        metadata = _metadata(fields.pop("__metadata__", None))
        tensors = _entries(fields, limits)
        if not _cover(tensors, source.size - start):
            tensors.sort(key=_PLACE)
            _check_coverage(tensors, source.size - start)
    except (DamagedError, UnsupportedError, LimitError) as error:
        raise error.locate(path=source.name) from error.__cause__
    return SafetensorsHeader(metadata, tensors, start)


def _header_text(source: ByteSource) -> tuple[bytes, int]:
    if source.size < 8:
        raise TruncatedError("the file is too short for a safetensors file", got=f"{source.size} bytes")
    length = int.from_bytes(source.read_at(0, 8), "little")
    if length > _MOST_HEADER_BYTES:
        most = f"at most {_MOST_HEADER_BYTES} bytes"
        raise LimitError("the safetensors header is too large", expected=most, got=str(length))
    if 8 + length > source.size:
        raise TruncatedError(
            "the file ends inside its safetensors header",
            expected=f"{8 + length} bytes or more",
            got=str(source.size),
            hint=f"It was probably cut while it was copied, downloaded or saved: get it again. {SALVAGE}",
        )
    return source.read_at(8, length), 8 + length


def _parse(text: bytes) -> dict[str, Any]:
    if text[:1] != b"{":
        raise DamagedError("the safetensors header is no JSON object", got=repr(text[:20]), offset=8)
    try:
        decoded = text.decode("utf-8")
        fields = json.loads(decoded, parse_constant=_no_constant)
        if not _all_counted(decoded, fields):
            fields = json.loads(decoded, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"the safetensors header is no JSON: {error}", offset=8) from error
    if not isinstance(fields, dict):
        raise DamagedError("the safetensors header is no JSON object", got=type(fields).__name__, offset=8)
    return fields


def _all_counted(text: str, fields: Any) -> bool:
    """Whether the text has as many strings as a header of the usual form with these fields: then none stands twice.

    Half the time of asking at each object.
    """
    if not isinstance(fields, dict) or "\\" in text:
        return False
    metadata = fields.get("__metadata__")
    tensors = len(fields)
    strings = 0
    if isinstance(metadata, dict):
        tensors -= 1
        strings = 1 + 2 * len(metadata)
    # The name, three keys, and the type.
    return text.count('"') == 2 * (strings + 5 * tensors)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise DamagedError("a name stands twice in the safetensors header", got=repr(twice)[:120])
    return made


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _metadata(found: Any) -> dict[str, str]:
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise DamagedError("the safetensors metadata are no object of strings", got=type(found).__name__)
    return found


def _entries(fields: dict[str, Any], limits: Limits) -> list[SafetensorsEntry]:
    if len(fields) > limits.max_records:
        raise LimitError("too many tensors", expected=f"at most {limits.max_records}", got=str(len(fields)))
    try:
        usual = _usual_entries(fields, limits)
    except (KeyError, TypeError):
        usual = None
    return usual or [_entry(name, entry, limits) for name, entry in fields.items()]


def _usual_entries(fields: dict[str, Any], limits: Limits) -> list[SafetensorsEntry] | None:
    """Return all entries, checked column by column, which is several times as fast; None where one is unusual."""
    if not fields:
        return None
    codes, shapes, offsets = zip(*map(_ASKED, fields.values()), strict=True)
    lengths = set(chain.from_iterable(shapes))
    kinds = set(map(type, chain(chain.from_iterable(shapes), chain.from_iterable(offsets))))
    if (
        set(map(type, codes)) != {str} or set(map(type, shapes)) != {list} or set(map(type, offsets)) != {list}
        or set(map(len, offsets)) != {2} or not kinds <= {int} or min(lengths, default=0) < 0
    ):  # fmt: skip
        return None
    begins, ends = zip(*offsets, strict=True)
    keys = list(zip(codes, map(tuple, shapes), strict=True))
    forms: dict[Any, SafetensorsEntry] = {}
    for key, name in dict(zip(keys, fields, strict=True)).items():
        size = _byte_count(name, key[0], list(key[1]))
        forms[key] = _entry(name, dict(zip(_FIELDS, (key[0], list(key[1]), [0, size]), strict=True)), limits)
    found = list(map(forms.__getitem__, keys))
    if min(begins) < 0 or list(map(sub, ends, begins)) != list(map(itemgetter(5), found)):
        return None
    columns = (fields, codes, map(itemgetter(2), found), map(itemgetter(3), found), begins, ends)
    return list(map(SafetensorsEntry._make, zip(*columns, strict=True)))


def _entry(name: str, entry: Any, limits: Limits) -> SafetensorsEntry:
    if not isinstance(entry, dict):
        raise DamagedError("a tensor's description is no JSON object", got=type(entry).__name__, object_path=name)
    code, shape, offsets = (entry.get(key) for key in _FIELDS)
    if not isinstance(code, str) or not _are_lengths(shape) or not _are_lengths(offsets) or len(offsets) != 2:
        raise DamagedError(
            "a tensor's description is malformed",
            expected="dtype (string), shape (list of lengths) and data_offsets (begin and end)",
            object_path=name,
        )
    if len(shape) > limits.max_dimensions:
        most = f"at most {limits.max_dimensions}"
        raise LimitError("the tensor has too many dimensions", expected=most, got=str(len(shape)), object_path=name)
    begin, end = offsets
    nbytes = _byte_count(name, code, shape)
    if end - begin != nbytes:
        raise DamagedError(
            "a tensor's shape does not fit its bytes", expected=f"{nbytes} bytes for {code}{shape}",
            got=f"{end - begin} bytes at [{begin}, {end}]", object_path=name,
        )  # fmt: skip
    row = BY_SAFETENSORS_CODE.get(code)
    if row is not None and row.name in VALUES_PER_UNIT:
        per_unit = VALUES_PER_UNIT[row.name]
        if not shape or shape[-1] % per_unit:
            row = None  # rows that do not fill whole bytes
        else:
            shape[-1] //= per_unit
    return SafetensorsEntry(name, code, row, tuple(shape), begin, end)


def _are_lengths(values: Any) -> TypeGuard[list[int]]:
    # `type` rather than isinstance: JSON's true is an int to Python.
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _byte_count(name: str, code: str, shape: list[int]) -> int:
    row = BY_SAFETENSORS_CODE.get(code)
    if row is not None:
        bits = 8 * row.itemsize // VALUES_PER_UNIT.get(row.name, 1)
    elif code in _OPAQUE_BITS:
        bits = _OPAQUE_BITS[code]
    else:
        raise UnsupportedError("an unknown element type", got=repr(code)[:40], object_path=name)
    count, bound = 1, 1
    for length in shape:
        count *= length
        bound *= length or 1
        # Also where another length is 0: no array library can hold such a shape.
        if max(bound, bound * bits // 8) >= _MOST_ELEMENTS:
            raise DamagedError("a tensor's shape is larger than any memory", got=str(shape)[:80], object_path=name)
    if count * bits % 8:
        raise DamagedError(f"values of {code} that do not fill whole bytes", got=str(shape)[:80], object_path=name)
    return count * bits // 8


def _cover(tensors: list[SafetensorsEntry], available: int) -> bool:
    """Whether the tensors follow each other in this order, from the first byte to the last."""
    if not tensors:
        return available == 0
    _, _, _, _, begins, ends = zip(*tensors, strict=True)
    return begins[0] == 0 and ends[-1] == available and begins[1:] == ends[:-1]


def _check_coverage(tensors: list[SafetensorsEntry], available: int) -> None:
    position = 0
    for entry in tensors:
        if entry.begin != position:
            what = "bytes of the file belong to no tensor" if entry.begin > position else "two tensors overlap"
            raise DamagedError(
                what, expected=f"its first byte at {position}", got=str(entry.begin), object_path=entry.name
            )
        position = entry.end
    if position > available:
        whole = sum(entry.end <= available for entry in tensors)
        raise TruncatedError(
            "the file ends before its last tensor",
            expected=f"{position} bytes of tensors",
            got=f"{available}; {whole} of {len(tensors)} tensors are whole",
            hint=f"It was probably cut while it was copied, downloaded or saved: get it again. {SALVAGE}",
        )
    if position < available:
        raise DamagedError("bytes behind the last tensor", expected=f"{position} bytes of tensors", got=str(available))
