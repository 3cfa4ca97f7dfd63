"""Folders of torch.distributed.checkpoint: tensors in parts, each part a checkpoint of its own inside of a file.

``.metadata`` says which parts there are and where; ``__0_0.distcp`` and so on hold them, one behind the other. Tensors
are put together as they are read, and may be read in part. The other form, which PyTorch writes for the Hugging Face
hub, has no ``.metadata``: safetensors files that say for each of their tensors where in the whole it begins.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from weighlock.dtypes import DType
from weighlock.errors import (
    DamagedError,
    LimitError,
    MissingFileError,
    TensorBoundsError,
    TruncatedError,
    UnsupportedError,
    WeighlockError,
)
from weighlock.formats.dcp_metadata import Chunk, Place, check_cover, parse
from weighlock.formats.reading import Contents, Options, Reading
from weighlock.storages.folders import FolderSource, SliceSource
from weighlock.storages.plan import Task, run_in_order
from weighlock.storages.refs import Extent, StorageRef, Window
from weighlock.storages.source import ByteSource
from weighlock.tensors.layout import contiguous_stride, is_contiguous
from weighlock.tensors.leaves import Leaves
from weighlock.tensors.spec import TensorSpec

__all__ = ["METADATA", "is_hub_form", "is_part", "read", "read_hub_form", "refuse_without_index"]

METADATA: Final = ".metadata"
_CUT_INDEX: Final = "The save did not end, or the file was cut while it was copied: take the checkpoint before it."
_PART: Final = re.compile(r"__\d+_\d+\.distcp")
_OWN_INDEX: Final = re.compile(r"__\d+\.metadata")
_HUB_FILE: Final = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
_HUB_KEY: Final = "DCP_SHARDING_INFO"


class _Piece(NamedTuple):
    """Bytes that follow each other both in a tensor and in one of its parts."""

    target: int
    begin: int
    size: int


def _pieces(chunk: Chunk, shape: tuple[int, ...], itemsize: int, start: int, stop: int) -> Iterator[_Piece]:
    """Yield the pieces of a chunk that lie between two bytes of the whole tensor, row-major."""
    # Trailing dimensions that the chunk covers whole are one run.
    run, axis = itemsize, len(shape)
    while axis > 0:
        axis -= 1
        run *= chunk.sizes[axis]
        if chunk.sizes[axis] != shape[axis]:
            break
    outer = axis if shape else 0
    steps = [step * itemsize for step in contiguous_stride(shape)]
    base = sum(offset * step for offset, step in zip(chunk.offsets, steps, strict=True))
    inner = [step * itemsize for step in contiguous_stride(chunk.sizes)]

    def rows(level: int, target: int, begin: int) -> Iterator[_Piece]:
        if level == outer:
            first, last = max(start, target), min(stop, target + run)
            if first < last:
                yield _Piece(first, begin + first - target, last - first)
            return
        # Only the indices whose bytes can lie in the range.
        reach = sum((chunk.sizes[d] - 1) * steps[d] for d in range(level + 1, outer)) + run
        low = max(0, -(-(start - target - reach + 1) // steps[level]))
        high = min(chunk.sizes[level], -(-(stop - target) // steps[level]))
        for index in range(low, high):
            yield from rows(level + 1, target + index * steps[level], begin + index * inner[level])

    yield from rows(0, base, 0)


Open = Callable[[Any], TensorSpec]


class _Parts:
    """Reads tensors of which the parts lie in files of a folder.

    Parameters
    ----------
    open_part : callable
        Given a chunk's place, returns the tensor that lies there.
    source : ByteSource or None
        The file, where all tensors of this reader lie in it, each in one piece.
    connections : int
        Parts that may be read at the same time: each part of a tensor at an address is some journeys of its own.
    """

    ready: Final = True

    def __init__(self, open_part: Open, source: ByteSource | None, connections: int) -> None:
        self.source = source
        self._open = open_part
        self._connections = connections

    def _part(self, ref: StorageRef, chunk: Chunk) -> TensorSpec:
        spec = self._open(chunk.place)
        if type(spec) is not TensorSpec or spec.dtype is not ref.dtype or spec.shape != chunk.sizes:
            got = f"{spec.dtype.name}{list(spec.shape)}" if type(spec) is TensorSpec else type(spec).__name__
            raise DamagedError("a part of a tensor is another one than the checkpoint says", object_path=ref.key,
                               expected=f"{ref.dtype.name}{list(chunk.sizes)}", got=got)  # fmt: skip
        if spec.ref.byteorder != "little" or spec.conj or spec.neg:
            what = "the parts of a tensor are big-endian, conjugate or negative views"
            raise UnsupportedError(what, object_path=ref.key)
        return spec

    def read(self, wanted: Sequence[tuple[StorageRef, memoryview]], *, verify: bool) -> None:
        def tasks() -> Iterator[Task]:
            for ref, target in wanted:
                shape, chunks = ref.handle
                for chunk in chunks:
                    yield partial(self._read_chunk, ref, chunk, shape, target, verify=verify)

        run_in_order(enumerate(tasks()), self._connections)

    def _read_chunk(
        self, ref: StorageRef, chunk: Chunk, shape: tuple[int, ...], target: memoryview, *, verify: bool
    ) -> None:
        spec = self._part(ref, chunk)
        pieces = list(_pieces(chunk, shape, ref.dtype.itemsize, 0, len(target)))
        whole = spec.ref.nbytes == spec.nbytes and is_contiguous(spec.shape, spec.stride)
        if whole and len(pieces) == 1:
            _fill(spec.ref, target[pieces[0].target : pieces[0].target + pieces[0].size], verify=verify)
            return
        held = memoryview(bytearray(spec.ref.nbytes))
        _fill(spec.ref, held, verify=verify)
        data = memoryview(_row_major(held, spec))
        for piece in pieces:
            target[piece.target : piece.target + piece.size] = data[piece.begin : piece.begin + piece.size]

    def read_range(self, ref: StorageRef, start: int, target: memoryview) -> None:
        """Fill `target` with the storage's bytes from `start` on, reading little else; unchecked."""
        shape, chunks = ref.handle
        if start < 0 or start + len(target) > ref.nbytes:
            raise TensorBoundsError("bytes outside of a storage", expected=f"at most {ref.nbytes}", object_path=ref.key)
        for chunk in chunks:
            pieces = list(_pieces(chunk, shape, ref.dtype.itemsize, start, start + len(target)))
            if not pieces:
                continue
            spec = self._part(ref, chunk)
            reader: Any = spec.ref.reader
            extent = reader.extent(spec.ref)
            if extent is None or not is_contiguous(spec.shape, spec.stride):
                held = memoryview(bytearray(spec.ref.nbytes))
                _fill(spec.ref, held, verify=False)
                data = memoryview(_row_major(held, spec))
                for piece in pieces:
                    place = piece.target - start
                    target[place : place + piece.size] = data[piece.begin : piece.begin + piece.size]
                continue
            begin = extent.offset + spec.offset * spec.dtype.itemsize
            for piece in pieces:
                place = piece.target - start
                reader.source.read_into(begin + piece.begin, target[place : place + piece.size])

    def window_of(self, ref: StorageRef) -> tuple[Window, int] | None:
        return None

    def read_windows(self, windows: Sequence[Window], *, verify: bool) -> None:
        """Nothing to do: there are none."""

    def extent(self, ref: StorageRef) -> Extent | None:
        """Return where a tensor of one part lies in its file."""
        _, chunks = ref.handle
        if self.source is None or len(chunks) != 1:
            return None
        spec = self._part(ref, chunks[0])
        reader: Any = spec.ref.reader
        found = reader.extent(spec.ref)
        if found is None or not is_contiguous(spec.shape, spec.stride):
            return None
        base = reader.source.offset if type(reader.source) is SliceSource else 0
        return Extent(base + found.offset + spec.offset * spec.dtype.itemsize, ref.nbytes)


def _fill(ref: StorageRef, target: memoryview, *, verify: bool) -> None:
    if target and ref.reader is not None:
        ref.reader.read([(ref, target)], verify=verify)


def _row_major(held: memoryview, spec: TensorSpec) -> bytearray | memoryview:
    """Return the elements of a view one after the other in row-major order."""
    item, shape, stride = spec.dtype.itemsize, spec.shape, spec.stride
    if is_contiguous(shape, stride):
        return held[spec.offset * item : (spec.offset + spec.numel) * item]
    made = bytearray(spec.nbytes)
    # From the innermost dimension outwards, every element is moved by a slice of its byte planes.
    places = [spec.offset]
    for length, step in zip(shape[:-1], stride[:-1], strict=True):
        places = [place + index * step for place in places for index in range(length)]
    length, step = shape[-1], stride[-1] * item
    row = length * item
    for number, place in enumerate(places):
        for plane in range(item):
            first = place * item + plane
            made[number * row + plane : (number + 1) * row : item] = (
                held[first : first + (length - 1) * step + 1 : step] if step else bytes([held[first]]) * length
            )
    return made


# ------------------------------------------------------------------------------------------------------- folders


def _inner(reading: Reading) -> Reading:
    """Return a reading of the parts: descriptions only."""
    options = Options(limits=reading.limits, verify=reading.verify)
    return Reading(Leaves(), reading.read_any, options)


def _slice(source: FolderSource, place: Place) -> SliceSource:
    part = source.part(place.file)
    return SliceSource(part, place.offset, place.length, part.name)


def is_part(name: str) -> bool:
    """Whether a file is called as PyTorch calls those that hold the parts of tensors."""
    return _PART.fullmatch(name) is not None


def refuse_without_index(source: FolderSource, names: list[str]) -> None:
    """Say of a folder of parts why it is no checkpoint; nothing of any other folder.

    PyTorch writes ``.metadata`` when all parts are there: a save that was killed leaves parts alone.

    Raises
    ------
    MissingFileError
        If there are parts, and no index of them.
    UnsupportedError
        If each process has written an index of its own.
    """
    if not any(map(is_part, names)):
        return
    if any(map(_OWN_INDEX.fullmatch, names)):
        raise UnsupportedError(
            "a distributed checkpoint with one index per process, not one of all", path=source.name,
            hint="Load it with torch.distributed.checkpoint as it was saved, and save it with use_collectives=True.",
        )  # fmt: skip
    raise MissingFileError(
        "a distributed checkpoint without its .metadata, which PyTorch writes last", path=source.name,
        expected=METADATA, got="none", hint="Its save did not end: take the checkpoint before it. Or .metadata was not "
        "copied: `cp folder/*` leaves out files whose names begin with a dot.",
    )  # fmt: skip


def read(source: FolderSource, reading: Reading) -> Contents:
    """Read a folder with a ``.metadata``: its state_dict, nested as it was saved.

    Raises
    ------
    DamagedError
        If the metadata contradict themselves or the files.
    MissingFileError
        If a file is missing.
    """
    metadata = source.part(METADATA)
    if metadata.size > reading.limits.max_pickle_bytes:
        raise LimitError("the .metadata is larger than Limits.max_pickle_bytes", got=f"{metadata.size} bytes")
    try:
        found = parse(metadata.read_at(0, metadata.size), reading)
    except TruncatedError as error:
        raise error.locate(hint=_CUT_INDEX) from error.__cause__
    inner = _inner(reading)

    def open_part(place: Place) -> TensorSpec:
        spec: TensorSpec = inner.read_any(_slice(source, place), inner).object
        return spec

    files = {chunk.place.file for _, _, chunks in found.tensors.values() for chunk in chunks}
    files |= {place.file for place in found.objects.values()}
    source.prepare(sorted(files))
    builder = _Builder(source, reading, open_part)
    made: dict[str, Any] = {}
    held: list[Any] = []
    for name in found.names:
        if name in found.tensors:
            dtype, shape, chunks = found.tensors[name]
            for chunk in chunks:
                _slice(source, chunk.place)
            made[name] = builder.tensor(name, dtype, shape, chunks, [chunk.place.file for chunk in chunks])
            continue
        try:
            contents = reading.read_any(_slice(source, found.objects[name]), reading)
        except WeighlockError as error:
            raise error.locate(object_path=name) from error.__cause__
        made[name] = contents.object
        held.append(contents)
        builder.storages |= {f"{name}/{key}": ref for key, ref in contents.storages.items()}
    notes = {"files": len(files), **found.notes}
    whole = Contents(_nested(made, found.paths), "dcp", 0, lambda: notes, builder.storages)
    whole.held = held
    return whole


class _Builder:
    """Makes the tensors of a folder."""

    def __init__(self, source: FolderSource, reading: Reading, open_part: Open) -> None:
        self.storages: dict[str, StorageRef] = {}
        self._source = source
        self._leaves = reading.leaves
        self._open = open_part
        self._readers: dict[str | None, _Parts] = {}

    def tensor(self, name: str, dtype: DType, shape: tuple[int, ...], chunks: list[Chunk], files: list[str]) -> Any:
        if dtype.kind == "q":
            raise UnsupportedError("a quantized tensor in a distributed checkpoint", object_path=name)
        count = 1
        for length in shape:
            count *= length
        file = files[0] if len(files) == 1 else None
        reader = self._readers.get(file)
        if reader is None:
            part = None if file is None else self._source.part(file)
            reader = self._readers[file] = _Parts(self._open, part, self._source.folder.connections)
        ref = self.storages[name] = StorageRef(
            name, dtype, count, "cpu", reader if count else None, ", ".join(files[:3]), (shape, chunks)
        )
        return self._leaves.tensor(TensorSpec(self._leaves.storage(ref), dtype, 0, shape, contiguous_stride(shape)))


def _nested(flat: dict[str, Any], paths: dict[str, tuple[Any, ...]]) -> dict[Any, Any]:
    """Put each value where the state_dict had it: strings are keys of dictionaries, numbers are places in lists."""
    root: dict[Any, Any] = {}
    for name, value in flat.items():
        path = paths.get(name) or (name,)
        if len(path) > _LONGEST_PATH or type(path[0]) is not str:
            raise DamagedError("the path of an entry is none", object_path=name)
        holder: Any = root
        for part, after in zip(path, (*path[1:], None), strict=True):
            empty = value if after is None else [] if type(after) is int else {}
            holder = _entered(holder, part, empty, name, last=after is None)
    return root


_LONGEST_PATH: Final = 128


def _entered(holder: Any, part: Any, empty: Any, name: str, *, last: bool) -> Any:
    if type(part) is int and type(holder) is list and 0 <= part <= len(holder):
        if part == len(holder):
            holder.append(empty)
            return empty
        found = holder[part]
    elif type(part) is str and type(holder) is dict:
        if part not in holder:
            holder[part] = empty
            return empty
        found = holder[part]
    else:
        raise DamagedError("the paths of two entries contradict each other", object_path=name)
    if last or type(found) not in (dict, list):
        raise DamagedError("two entries have the same path", object_path=name)
    return found


# --------------------------------------------------------------------------------------------- safetensors files


def is_hub_form(names: list[str]) -> bool:
    """Whether a folder holds the parts of tensors in safetensors files."""
    return any(map(_HUB_FILE.fullmatch, names))


def read_hub_form(source: FolderSource, reading: Reading) -> Contents:
    """Read a folder of safetensors files that hold parts of tensors.

    Raises
    ------
    DamagedError
        If the parts do not make whole tensors.
    """
    names = [name for name in source.names() if _HUB_FILE.fullmatch(name)]
    source.prepare(names)
    inner = _inner(reading)
    parts: dict[str, list[tuple[Chunk, str]]] = {}
    for name in names:
        contents = inner.read_any(source.part(name), inner)
        info = _sharding_info(contents.notes().get("metadata", {}), name)
        for key, spec in contents.object.items():
            if type(spec) is not TensorSpec:
                raise UnsupportedError("a part of a tensor has no type that PyTorch knows", object_path=key)
            offsets = info.get(key, {}).get("saved_offsets", [0] * len(spec.shape))
            if len(offsets) != len(spec.shape) or not all(type(n) is int and n >= 0 for n in offsets):
                raise DamagedError("the place of a part of a tensor is malformed", object_path=key, record=name)
            if spec.nbytes or not parts.get(key):
                parts.setdefault(key, []).append((Chunk(tuple(offsets), spec.shape, spec), name))
    builder = _Builder(source, reading, lambda spec: spec)
    made = {}
    for key, found in parts.items():
        # Every process that has a tensor whole writes it.
        distinct = {(chunk.offsets, chunk.sizes): (chunk, file) for chunk, file in found if chunk.place.nbytes}
        chunks = list(distinct.values())
        shape = tuple(
            max(chunk.offsets[axis] + chunk.sizes[axis] for chunk, _ in chunks or found)
            for axis in range(len(found[0][0].sizes))
        )
        if any(len(chunk.sizes) != len(shape) for chunk, _ in found):
            raise DamagedError("parts of a tensor have different numbers of dimensions", object_path=key)
        check_cover(key, shape, [chunk for chunk, _ in chunks])
        made[key] = builder.tensor(
            key, found[0][0].place.dtype, shape, [chunk for chunk, _ in chunks], [file for _, file in chunks]
        )
    notes = {"files": len(names), "part_formats": ["safetensors"]}
    return Contents(made, "dcp", 0, lambda: notes, builder.storages)


def _sharding_info(metadata: dict[str, str], name: str) -> dict[str, Any]:
    try:
        found = json.loads(metadata.get(_HUB_KEY, "{}"))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"the places of the parts are no JSON: {error}", record=name) from error
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise DamagedError("the places of the parts are no JSON objects", record=name)
    if not all(isinstance(entry.get("saved_offsets", []), list) for entry in found.values()):
        raise DamagedError("the place of a part of a tensor is malformed", record=name)
    return found
