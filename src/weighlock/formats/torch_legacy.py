"""The stream that torch 0.1.10 to 1.5 wrote, and `_use_new_zipfile_serialization=False` writes still.

Five pickles back to back: a magic number, a protocol version, facts of the writing system, the object, the list of
storage keys. Then, for each key in that order, an int64 with the number of elements, and the elements, always
little-endian. One file may hold several such streams one after the other.
"""

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Any, Final

from weighlock.errors import (
    SALVAGE,
    DamagedError,
    PickleStreamError,
    TensorBoundsError,
    TruncatedError,
    TruncatedPickleError,
    UnsupportedError,
    WeighlockError,
)
from weighlock.formats.layout import LayoutRow
from weighlock.formats.reading import Contents, Reading, parse_persistent_id, text_of_key
from weighlock.pickling.decoder import decode
from weighlock.pickling.user_globals import NO_USER_GLOBALS
from weighlock.storages.plan import read_extents
from weighlock.storages.ranges import RangedSource
from weighlock.storages.refs import Extent, StorageRef, Window
from weighlock.storages.source import ByteSource
from weighlock.tensors.leaves import Leaves
from weighlock.tensors.rebuild import StorageClass
from weighlock.text import brief

__all__ = ["MAGIC", "matches", "read"]

MAGIC: Final = 0x1950A86A20F9469CFC6C
_VERSION: Final = 1001
_MAGIC_BYTES: Final = MAGIC.to_bytes(10, "little")
_COUNT: Final = Struct("<q")
_PICKLES: Final = ("magic number", "version", "system", "object", "storage keys")

# The pickles stand before the data, and their length is written nowhere: read this much at first, then ever more.
_FIRST_READ: Final = 1 << 20


def matches(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a legacy stream: a pickled magic number in any protocol."""
    if _MAGIC_BYTES in head[:32]:
        return True
    return head[:32].startswith((b"L%dL\n" % MAGIC, b"I%d\n" % MAGIC))


class _Stream:
    """One stream: where its storages lie, once their keys are read."""

    def __init__(self, source: ByteSource, reading: Reading) -> None:
        self.source = source
        self.reading = reading
        self.refs: dict[str, StorageRef] = {}
        self.made: dict[str, Any] = {}
        self.views: dict[str, Any] = {}  # storage views of torch before 0.4
        self.parts: list[StorageRef] = []
        self.offsets: dict[str, int] = {}
        self.pickle_ends: list[int] = []
        self.promised = 0
        self.ready = False

    def restart(self) -> None:
        """Forget what an attempt at the object's pickle has made."""
        self.refs.clear()
        self.made.clear()
        self.views.clear()
        self.parts.clear()
        self.promised = 0
        self.reading.leaves.restart()

    def persistent_load(self, pid: Any) -> Any:
        """Storages, and (``('module', class, file, source)``) the classes of whole pickled modules."""
        if type(pid) is tuple and len(pid) == 4 and pid[0] in ("module", b"module"):
            return pid[1]  # the source text is for a warning only; the class is what counts
        kind, key, location, numel = parse_persistent_id(pid)
        made = self.made.get(key)
        if made is None:
            made = self.made[key] = self._new_storage(kind, key, location, numel)
        elif not numel and made.ref.dtype is not kind.dtype:
            # Without bytes there is nothing to share, and each mention may have another type: as in PyTorch.
            made = self._new_storage(kind, key, location, numel)
        view = pid[5] if len(pid) > 5 else None
        return made if view is None else self._view(made, kind, view)

    def _new_storage(self, kind: StorageClass, key: str, location: str, numel: int) -> Any:
        ref = StorageRef(key, kind.dtype, numel, location, self, record=f"storage {key}", untyped=kind.untyped)
        self.promised += ref.nbytes
        if self.promised > self.source.size:
            raise TruncatedError(
                "the storages that the pickle names are larger than the whole file",
                expected=f"at least {self.promised} bytes",
                got=str(self.source.size),
                path=self.source.name,
                hint=f"The file was probably cut while it was copied, downloaded or saved: get it again. {SALVAGE}",
            )
        self.refs[key] = ref
        return self.reading.leaves.storage(ref)

    def _view(self, root: Any, kind: StorageClass, view: Any) -> Any:
        if type(view) is not tuple or len(view) != 3:
            raise PickleStreamError("a storage view with a malformed description", got=brief(view))
        view_key, offset, size = view
        key = text_of_key(view_key)
        if type(offset) is not int or type(size) is not int or offset < 0 or size < 0:
            raise PickleStreamError("a storage view with a malformed description", got=brief(view))
        found = self.views.get(key)
        if found is None:
            ref: StorageRef = root.ref
            if offset + size > ref.numel:
                raise TensorBoundsError(
                    "a storage view reaches outside of its storage", expected=f"{ref.numel}", got=str(offset + size),
                    record=ref.record,
                )  # fmt: skip
            handle = ref, offset * ref.dtype.itemsize
            part = StorageRef(key, kind.dtype, size, ref.location, self, ref.record, handle)
            self.parts.append(part)
            found = self.views[key] = self.reading.leaves.storage_view(root, part, offset)
        return found

    def locate(self, keys: Sequence[Any], position: int) -> int:
        """Walk the data behind the pickles; return where they end."""
        if isinstance(self.source, RangedSource):
            self.source.prefetch(self._places(keys, position))
        for raw_key in keys:
            key = text_of_key(raw_key)
            ref = self.refs.get(key)
            (count,) = _COUNT.unpack(self.source.read_at(position, _COUNT.size))
            if ref is None:
                raise DamagedError(
                    "the stream holds data for a storage that the pickle does not name", got=key, offset=position
                )
            if count != ref.numel:
                raise TensorBoundsError(
                    "a storage has another length than the pickle says",
                    expected=f"{ref.numel} elements", got=str(count), record=ref.record, offset=position,
                )  # fmt: skip
            position += _COUNT.size
            self.offsets[key] = position
            position += ref.nbytes
            if position > self.source.size:
                raise self._cut(position)
        missing = self.refs.keys() - self.offsets.keys()
        if missing:
            raise DamagedError("the stream holds no data for a storage", got=", ".join(sorted(missing)[:5]))
        self.ready = True
        return position

    def _places(self, keys: Sequence[Any], position: int) -> list[tuple[int, int]]:
        """Return where the lengths of the storages stand if all is as the pickle says."""
        places = []
        for raw_key in keys:
            ref = self.refs.get(text_of_key(raw_key))
            if ref is None or position + _COUNT.size > self.source.size:
                break
            places.append((position, _COUNT.size))
            position += _COUNT.size + ref.nbytes
        return places

    def layout(self) -> Iterator[LayoutRow]:
        """Yield what the bytes of the stream are there for."""
        start = 0
        for name, end in zip(_PICKLES, self.pickle_ends, strict=True):
            yield LayoutRow("pickle", name, start, end - start)
            start = end
        for key, offset in self.offsets.items():
            ref = self.refs[key]
            yield LayoutRow("header", ref.record, offset - _COUNT.size, _COUNT.size)
            yield LayoutRow("data", ref.record, offset, ref.nbytes)

    def _cut(self, needed: int) -> TruncatedError:
        whole = sum(1 for key, at in self.offsets.items() if at + self.refs[key].nbytes <= self.source.size)
        return TruncatedError(
            f"the file ends inside its data: {whole} of {len(self.refs)} storages are whole",
            expected=f"at least {needed} bytes",
            got=str(self.source.size),
            path=self.source.name,
            hint=f"It was probably cut while it was copied, downloaded or saved: get it again. {SALVAGE}",
        )

    def read(self, wanted: Sequence[tuple[StorageRef, memoryview]], *, verify: bool) -> None:
        read_extents(self.source, [(self.extent(ref).offset, target) for ref, target in wanted])

    def window_of(self, ref: StorageRef) -> tuple[Window, int] | None:
        """Return None: storages are read one by one, into memory of their own."""
        return None

    def read_windows(self, windows: Sequence[Window], *, verify: bool) -> None:
        """Nothing to do: there are none."""

    def extent(self, ref: StorageRef) -> Extent:
        """Return where a storage lies: known once `locate` has walked the data behind the pickles."""
        root, skipped = ref.handle or (ref, 0)
        offset = self.offsets.get(root.key)
        if offset is None:
            raise _unmapped(self.source)
        return Extent(offset + skipped, ref.nbytes)


def _unmapped(source: ByteSource) -> UnsupportedError:
    return UnsupportedError(
        "a legacy stream cannot be mapped: where its data lie is written behind the pickle that needs them",
        path=source.name, hint="Load without mmap, or save the checkpoint again with weighlock.save.",
    )  # fmt: skip


def _read_pickles(source: ByteSource, stream: _Stream) -> tuple[list[Any], int]:
    """Run the five pickles over as much of the file as they turn out to need."""
    size = min(source.size, _FIRST_READ)
    data = source.read_at(0, size)
    results: list[Any] = []
    position = 0
    while len(results) < 5:
        plain = len(results) != 3
        if not plain and stream.reading.options.trusted is not None:
            data = _with_whole_pickle(source, data, position)
            size = len(data)
        try:
            made, position = stream.reading.unpickle(
                data, None if plain else stream.persistent_load, start=position, plain=plain
            )
        except TruncatedPickleError:
            # Cut by our own window, not by the file: take more and run this pickle again, from nothing. (Skimming
            # every pickle first to learn its length would cost each load a quarter of its time.)
            if size == source.size:
                raise
            size = min(source.size, size * 8)
            data = source.read_at(0, size)
            stream.restart()
            continue
        _check_head(results, made)
        results.append(made)
        stream.pickle_ends.append(position)
    return results, position


def _with_whole_pickle(source: ByteSource, data: bytes, position: int) -> bytes:
    """Return as much of the file as holds the pickle at `position`: code of the user's is not run twice to learn it."""
    while len(data) < source.size:
        try:
            for _ in decode(data, position):
                pass
        except TruncatedPickleError:
            data = source.read_at(0, min(source.size, len(data) * 8))
        except WeighlockError:
            break  # the machine that runs it says what is wrong
        else:
            break
    return data


def _check_head(results: list[Any], made: Any) -> None:
    if len(results) == 0 and (type(made) is not int or made != MAGIC):
        raise DamagedError("the stream does not begin with PyTorch's magic number")
    if len(results) == 1 and (type(made) is not int or made != _VERSION):
        raise DamagedError("a legacy stream of an unknown version", expected=str(_VERSION), got=brief(made, 40))


def _offsets(source: ByteSource, reading: Reading) -> dict[str, int]:
    """Return where each storage lies: that is written behind the pickle, which is run as a mere description for it."""
    options = reading.options._replace(trusted=None, stubs_allowed=True, user_globals=NO_USER_GLOBALS)
    stream = _Stream(source, Reading(Leaves(), reading.read_any, options))
    (*_, keys), position = _read_pickles(source, stream)
    stream.locate(_key_list(keys), position)
    return stream.offsets


def _key_list(keys: Any) -> list[Any]:
    if not isinstance(keys, list):
        raise DamagedError("the list of storages is no list", got=type(keys).__name__)
    return keys


def read(source: ByteSource, reading: Reading) -> Contents:
    """Read one legacy stream from the start of `source`.

    Raises
    ------
    DamagedError
        If it is cut, or contradicts itself.
    PickleStreamError
        If one of its pickles is malformed.
    UnsupportedError
        If it is to be mapped, and streams are not.
    """
    stream = _Stream(source, reading)
    if reading.leaves.maps and not reading.options.map_streams:
        raise _unmapped(source)
    if reading.leaves.maps:
        stream.offsets, stream.ready = _offsets(source, reading), True
    (_, version, system, made, keys), position = _read_pickles(source, stream)
    end = stream.locate(_key_list(keys), position)
    byteorder = "little" if not isinstance(system, dict) or system.get("little_endian", True) else "big"
    metadata = {"format_version": version, "byteorder": "little", "written_on": f"a {byteorder}-endian system"}
    return Contents(made, "torch-legacy", end, lambda: metadata, stream.refs, stream.parts, stream.layout)
