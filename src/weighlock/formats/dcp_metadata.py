"""The ``.metadata`` of torch.distributed.checkpoint: a pickle of its own few classes, read by our machine.

Source: `torch.distributed.checkpoint.metadata` and `.filesystem` of PyTorch 2.1 to 2.13. None of the classes is built:
each is a `_Fields` here, and what they say is checked before it is used.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final, NamedTuple

from weighlock.dtypes import DType
from weighlock.errors import DamagedError, LimitError, PickleStreamError
from weighlock.formats.reading import Reading, allowlist_with
from weighlock.pickling.allowlist import Known
from weighlock.pickling.inert import GlobalRef
from weighlock.storages.folders import check_name
from weighlock.tensors.leaves import Leaves
from weighlock.text import brief

__all__ = ["CLASSES", "Chunk", "Described", "Place", "check_cover", "parse"]

_PACKAGE: Final = "torch.distributed.checkpoint"
_SHARD: Final = "torch.distributed._shard.sharded_tensor.metadata"
CLASSES: Final = (
    (f"{_PACKAGE}.metadata", "Metadata"),
    (f"{_PACKAGE}.metadata", "TensorStorageMetadata"),
    (f"{_PACKAGE}.metadata", "BytesStorageMetadata"),
    (f"{_PACKAGE}.metadata", "ChunkStorageMetadata"),
    (f"{_PACKAGE}.metadata", "TensorProperties"),
    (f"{_PACKAGE}.metadata", "MetadataIndex"),
    (f"{_PACKAGE}.metadata", "StorageMeta"),
    (f"{_PACKAGE}.metadata", "_MEM_FORMAT_ENCODING"),
    (f"{_PACKAGE}.filesystem", "_StorageInfo"),
    (f"{_PACKAGE}.filesystem", "_StoragePrefix"),
    (_SHARD, "TensorProperties"),
    (_SHARD, "MEM_FORMAT_ENCODING"),
)
_PROPERTIES: Final = ("dtype", "layout", "requires_grad", "memory_format", "pin_memory")

# How often two chunks of a tensor are compared, at most: they are sorted by their first dimension.
_MOST_COMPARISONS: Final = 4_000_000
_MOST_ELEMENTS: Final = 1 << 60


class _Fields:
    """An object of one of the classes: what its pickle says of it."""

    def __init__(self, name: str, args: tuple[Any, ...]) -> None:
        self.name = name
        self.args = args
        self.fields: dict[str, Any] = {}

    def get(self, field: str) -> Any:
        return self.fields.get(field)


class _Class:
    def __init__(self, name: str) -> None:
        self.name = name


def _build(_: Any, target: _Fields, state: Any) -> _Fields:
    if type(state) is tuple and target.name == "TensorProperties":
        state = dict(zip(_PROPERTIES, state, strict=False))
    elif type(state) is tuple and len(state) == 2 and state[0] is None:
        state = state[1]
    if type(state) is not dict:
        raise PickleStreamError("the state of an object in .metadata is no dictionary", got=type(state).__name__)
    target.fields.update(state)
    return target


def _row(name: str) -> Callable[[], Known]:
    cls = _Class(name)
    return lambda: Known(cls, lambda _, args: _Fields(name, args), _build, (_Fields,))


_ALLOWLIST: Final = allowlist_with({key: _row(key[1]) for key in CLASSES})


class Place(NamedTuple):
    """Where something lies: a checkpoint of its own, inside of a file of the folder."""

    file: str
    offset: int
    length: int


class Chunk(NamedTuple):
    """A part of a tensor: where in it it begins, how large it is, and where it lies."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    place: Any


class Described(NamedTuple):
    """What a folder holds.

    Attributes
    ----------
    tensors : dict of str to (DType, tuple of int, list of Chunk)
    objects : dict of str to Place
        Everything else, each saved by itself.
    names : list of str
        Those of both, in the order of the state_dict.
    paths : dict of str to tuple
        Where in the nested state_dict each name belongs.
    notes : dict
    """

    tensors: dict[str, tuple[DType, tuple[int, ...], list[Chunk]]]
    objects: dict[str, Place]
    names: list[str]
    paths: dict[str, tuple[Any, ...]]
    notes: dict[str, Any]


def parse(data: bytes, reading: Reading) -> Described:
    """Read a ``.metadata`` file.

    Raises
    ------
    DamagedError
        If it contradicts itself: holes, chunks that overlap, places that are missing or used twice.
    PickleStreamError, UnsafeGlobalError
        If it is no pickle, or names classes that are none of its own.
    """
    own = Reading(Leaves(), reading.read_any, reading.options, _ALLOWLIST)
    found, _ = own.unpickle(data, record=".metadata", allowlist=_ALLOWLIST, plain=True)
    for name, position in own.globals_seen.items():
        reading.globals_seen.setdefault(name, position)
    for name, ref in own.unknown.items():
        reading.unknown.setdefault(name, ref)
    entries = _expect(found, "Metadata").get("state_dict_metadata")
    if type(entries) is not dict or not all(type(name) is str for name in entries):
        raise DamagedError("the .metadata has no list of what is there")
    if len(entries) > reading.limits.max_records:
        raise LimitError("too many entries", expected=f"at most {reading.limits.max_records}", got=str(len(entries)))
    places = _places(found.get("storage_data"))
    tensors, objects = {}, {}
    for name, entry in entries.items():
        kind = _expect(entry, "TensorStorageMetadata", "BytesStorageMetadata").name
        if kind == "BytesStorageMetadata":
            objects[name] = _place_of(places, name, None)
        else:
            tensors[name] = _tensor(name, entry, places, reading)
    _check_apart([chunk.place for _, _, chunks in tensors.values() for chunk in chunks], [*objects.values()])
    return Described(tensors, objects, list(entries), _paths(found.get("planner_data")), _notes(found))


def _expect(value: Any, *names: str) -> _Fields:
    if type(value) is not _Fields or value.name not in names:
        got = value.name if type(value) is _Fields else type(value).__name__
        raise DamagedError("the .metadata has another form than PyTorch gives it", expected=" or ".join(names), got=got)
    return value


def _lengths(value: Any, what: str) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or not all(type(n) is int and 0 <= n < _MOST_ELEMENTS for n in value):
        raise DamagedError(f"a tensor's {what} in .metadata are no lengths", got=brief(value))
    return tuple(value)


def _places(found: Any) -> dict[tuple[str, Any], Place]:
    if type(found) is not dict:
        raise DamagedError("the .metadata does not say where the data are", got=type(found).__name__)
    places = {}
    for key, value in found.items():
        index, info = _expect(key, "MetadataIndex"), _expect(value, "_StorageInfo")
        name, offset = index.get("fqn"), index.get("offset")
        if info.get("transform_descriptors"):
            raise DamagedError("the data were transformed by an extension of PyTorch, which is not here",
                               got=brief(info.get("transform_descriptors")))  # fmt: skip
        file, begin, length = info.get("relative_path"), info.get("offset"), info.get("length")
        if type(name) is not str or not all(type(n) is int and n >= 0 for n in (begin, length)):
            raise DamagedError("the place of an entry in .metadata is malformed", got=brief(name))
        place = Place(check_name(file), begin, length)
        places[name, None if offset is None else _lengths(offset, "offsets")] = place
    return places


def _place_of(places: dict[tuple[str, Any], Place], name: str, offsets: Any) -> Place:
    found = places.get((name, offsets))
    if found is None:
        raise DamagedError("the .metadata does not say where a part is", got=f"offsets {offsets}", object_path=name)
    return found


def _tensor(name: str, entry: _Fields, places: Any, reading: Reading) -> tuple[DType, tuple[int, ...], list[Chunk]]:
    dtype = _expect(entry.get("properties"), "TensorProperties").get("dtype")
    shape, listed = _lengths(entry.get("size"), "sizes"), entry.get("chunks")
    if type(dtype) is not DType or type(listed) is not list or len(shape) > reading.limits.max_dimensions:
        raise DamagedError("a tensor in .metadata is malformed", object_path=name)
    chunks: dict[Any, Chunk] = {}
    for item in listed:
        fields = _expect(item, "ChunkStorageMetadata")
        offsets, sizes = _lengths(fields.get("offsets"), "offsets"), _lengths(fields.get("sizes"), "sizes")
        if 0 not in sizes:
            chunks[offsets, sizes] = Chunk(offsets, sizes, _place_of(places, name, offsets))
    made = list(chunks.values())
    check_cover(name, shape, made)
    for chunk in made:
        if _count(chunk.sizes) * dtype.itemsize > chunk.place.length:
            raise DamagedError(
                "a part of a tensor is larger than its place in the file", object_path=name,
                expected=f"{_count(chunk.sizes) * dtype.itemsize} bytes or more", got=str(chunk.place.length),
            )  # fmt: skip
    return dtype, shape, made


def _count(sizes: tuple[int, ...]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count


def check_cover(name: str, shape: tuple[int, ...], chunks: list[Chunk]) -> None:
    """Check that the chunks of a tensor cover it: all of it, and nothing twice.

    Raises
    ------
    DamagedError
        If they do not.
    """
    for offsets, sizes, _ in chunks:
        inside = len(offsets) == len(sizes) == len(shape) and all(
            begin + size <= whole for begin, size, whole in zip(offsets, sizes, shape, strict=True)
        )
        if not inside:
            raise DamagedError("a part lies outside of its tensor", object_path=name, expected=f"shape {list(shape)}",
                               got=f"{list(sizes)} at {list(offsets)}")  # fmt: skip
    covered, whole = sum(_count(chunk.sizes) for chunk in chunks), _count(shape)
    if covered != whole:
        what = "parts of a tensor are missing" if covered < whole else "parts of a tensor overlap"
        raise DamagedError(what, expected=f"{whole} elements", got=str(covered), object_path=name)
    active: list[Chunk] = []
    budget = _MOST_COMPARISONS
    for chunk in sorted(chunks, key=lambda chunk: chunk.offsets):
        if shape:
            active = [other for other in active if other.offsets[0] + other.sizes[0] > chunk.offsets[0]]
        budget -= len(active)
        if budget < 0:
            raise LimitError("a tensor is cut into too many parts side by side", object_path=name)
        if any(_meet(other, chunk) for other in active):
            raise DamagedError("parts of a tensor overlap", got=f"{list(chunk.sizes)} at {list(chunk.offsets)}",
                               object_path=name)  # fmt: skip
        active.append(chunk)


def _meet(one: Chunk, other: Chunk) -> bool:
    return all(
        a < b + size and b < a + own
        for a, own, b, size in zip(one.offsets, one.sizes, other.offsets, other.sizes, strict=True)
    )


def _check_apart(parts: list[Place], objects: list[Place]) -> None:
    """Refuse places that overlap: a file would be worth more memory than it has bytes."""
    for one, other in pairwise(sorted([*parts, *objects])):
        if one.file == other.file and other.offset < one.offset + one.length and other.length:
            raise DamagedError("two parts of a checkpoint lie on each other", record=one.file, offset=other.offset)


def _paths(found: Any) -> dict[str, tuple[Any, ...]]:
    """Return the paths of the nested state_dict; what is no path is left out: that name stays as it is."""
    if type(found) is not dict:
        return {}
    return {
        name: path for name, path in found.items()
        if type(name) is str and type(path) is tuple and path and all(type(part) in (str, int) for part in path)
    }  # fmt: skip


def _notes(found: _Fields) -> dict[str, Any]:
    notes: dict[str, Any] = {}
    version, meta = found.get("version"), found.get("storage_meta")
    if type(version) is str:
        notes["version"] = version
    if type(meta) is _Fields:
        for name in ("checkpoint_id", "save_id"):
            value = meta.get(name)
            if value is not None and not isinstance(value, GlobalRef):
                plain = isinstance(value, str) or hasattr(value, "__fspath__")
                notes[name] = str(value)[:400] if plain else brief(value, 400)
    return notes
