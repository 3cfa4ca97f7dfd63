"""The tar archive that torch before 0.1.10 wrote (early 2017), which includes the first published vision models.

Members: ``storages`` (a pickled count; for each storage a pickled ``(key, location, storage class)``, an int64 length
and the elements; then a pickled list of views ``(key, root key, offset, length)``), ``tensors`` (a pickled count; for
each a pickled ``(key, storage key, tensor class)``, an int32 number of dimensions, 4 unused bytes, the sizes, the
strides, the offset), and ``pickle``, the object, whose persistent ids are the keys of tensors and storages.
"""

import io
from collections.abc import Sequence
from struct import Struct
from typing import Any, Final

from weighlock.errors import (
    DamagedError,
    PickleStreamError,
    TensorBoundsError,
    TruncatedPickleError,
    WeighlockError,
)
from weighlock.formats.reading import Contents, Reading, text_of_key
from weighlock.storages.plan import read_extents
from weighlock.storages.refs import Extent, StorageRef, Window
from weighlock.storages.source import ByteSource
from weighlock.tensors.layout import check_view
from weighlock.tensors.rebuild import StorageClass
from weighlock.tensors.spec import TensorSpec
from weighlock.text import brief

__all__ = ["matches", "read"]

_INT64: Final = Struct("<q")
_INT32: Final = Struct("<i")
_MEMBERS: Final = frozenset({"storages", "tensors", "pickle"})


def matches(head: bytes) -> bool:
    """Whether the first block is a tar header: by its magic, or (older tars have none) by its checksum.

    The checksum is read as Python's `tarfile` reads it, which PyTorch asks first, whatever else the file looks like.
    """
    if len(head) < 512 or not head[:1].strip(b"\0"):
        return False
    if head[257:262] == b"ustar":
        return True
    stored = _checksum(head[148:156])
    plain = head[:148] + b" " * 8 + head[156:512]
    total = sum(plain)
    # Some old programs took the bytes for signed numbers.
    return stored is not None and stored in (total, total - 256 * sum(byte > 127 for byte in plain))


def _checksum(field: bytes) -> int | None:
    if field[:1] in (b"\x80", b"\xff"):
        return int.from_bytes(field[1:], "big") - (1 << 56 if field[:1] == b"\xff" else 0)
    try:
        return int(field.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        return None


class _SourceFile(io.RawIOBase):
    """A byte source as the file object that `tarfile` reads."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._position, self._source.size)[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(min(len(view), self._source.size - self._position), 0)
        self._source.read_into(self._position, view[:count])
        self._position += count
        return count


def find_members(source: ByteSource) -> dict[str, tuple[int, int]]:
    """Return offset and size of the three members.

    Raises
    ------
    DamagedError
        If the archive is malformed, or one of the names stands for two members or for no regular file: readers would
        take different ones.
    """
    import tarfile  # slow to import, and needed for the oldest files only

    found: dict[str, tuple[int, int]] = {}
    doubtful = False
    try:
        with tarfile.open(fileobj=io.BufferedReader(_SourceFile(source)), mode="r:") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if name not in _MEMBERS:
                    continue
                doubtful = doubtful or name in found or not member.isreg()
                found[name] = member.offset_data, member.size
    except WeighlockError:
        raise
    except Exception as error:  # tarfile raises a dozen kinds on malformed headers
        raise DamagedError(f"the tar archive is malformed: {error}", path=source.name) from error
    if doubtful:
        raise DamagedError("a member stands twice in the tar archive, or is a link", path=source.name)
    return found


class _Tar:
    """The storages and tensors of one archive."""

    ready: Final = True

    def __init__(self, source: ByteSource, reading: Reading, members: dict[str, tuple[int, int]]) -> None:
        self.source = source
        self.reading = reading
        self.members = members
        self.refs: dict[str, StorageRef] = {}
        self.storages: dict[str, Any] = {}
        self.tensors: dict[str, Any] = {}
        self.parts: list[StorageRef] = []
        self._offsets: dict[str, int] = {}

    def _window(self, member: str) -> tuple[int, int]:
        offset, size = self.members[member]
        if offset + size > self.source.size:
            raise DamagedError("a member of the tar archive is cut", record=member, expected=f"{size} bytes")
        return offset, offset + size

    def _pickle(self, position: int, end: int) -> tuple[Any, int]:
        """Run the small pickle at `position`; its length is written nowhere, so try a little, then more."""
        window = 512
        while True:
            data = self.source.read_at(position, min(window, end - position))
            try:
                made, used = self.reading.unpickle(data, plain=True)
            except TruncatedPickleError:
                if position + window >= end:
                    raise
                window *= 16
                continue
            return made, position + used

    def read_storages(self) -> None:
        position, end = self._window("storages")
        count, position = self._pickle(position, end)
        for _ in range(_count(count, "storages")):
            description, position = self._pickle(position, end)
            key, location, kind = _triple(description, "storages")
            if type(kind) is not StorageClass:
                raise PickleStreamError("a storage of an unknown class", got=brief(kind), record="storages")
            (numel,) = _INT64.unpack(self.source.read_at(position, 8))
            position += 8
            ref = StorageRef(text_of_key(key), kind.dtype, numel, text_of_key(location), self, record=f"storage {key}")
            if numel < 0 or position + ref.nbytes > end:
                raise TensorBoundsError(
                    "a storage is longer than its archive member", got=str(numel), record="storages"
                )
            self.refs[ref.key] = ref
            self._offsets[ref.key] = position
            self.storages[ref.key] = self.reading.leaves.storage(ref)
            position += ref.nbytes
        views, _ = self._pickle(position, end)
        for view in views if isinstance(views, list) else []:
            self._read_view(view)

    def _read_view(self, view: Any) -> None:
        if not isinstance(view, tuple | list) or len(view) != 4:
            raise PickleStreamError("a storage view with a malformed description", record="storages")
        key, root_key, offset, size = view
        root = self.storages.get(text_of_key(root_key))
        if root is None or type(offset) is not int or type(size) is not int or offset < 0 or size < 0:
            raise PickleStreamError("a storage view with a malformed description", record="storages")
        if offset + size > root.ref.numel:
            raise TensorBoundsError("a storage view reaches outside of its storage", record="storages")
        root_ref: StorageRef = root.ref
        handle = root_ref, offset * root_ref.dtype.itemsize
        part = StorageRef(text_of_key(key), root_ref.dtype, size, root_ref.location, self, root_ref.record, handle)
        self.parts.append(part)
        self.storages[part.key] = self.reading.leaves.storage_view(root, part, offset)

    def read_tensors(self) -> None:
        position, end = self._window("tensors")
        count, position = self._pickle(position, end)
        for _ in range(_count(count, "tensors")):
            description, position = self._pickle(position, end)
            key, storage_key, _ = _triple(description, "tensors")
            storage = self.storages.get(text_of_key(storage_key))
            if storage is None:
                raise DamagedError("a tensor on a storage that the archive does not hold", record="tensors")
            (dimensions,) = _INT32.unpack(self.source.read_at(position, 4))
            if not 0 <= dimensions <= self.reading.limits.max_dimensions:
                raise DamagedError("a tensor with an impossible number of dimensions", got=str(dimensions))
            numbers = Struct(f"<{2 * dimensions + 1}q")
            values = numbers.unpack(self.source.read_at(position + 8, numbers.size))
            position += 8 + numbers.size
            shape, stride, offset = values[:dimensions], values[dimensions:-1], values[-1]
            ref: StorageRef = storage.ref
            check_view(ref.nbytes, ref.dtype.itemsize, offset, shape, stride)
            made = self.reading.leaves.tensor(TensorSpec(storage, ref.dtype, offset, shape, stride))
            self.tensors[text_of_key(key)] = made

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, tuple):
            return pid[0] if pid else None  # (class, source file, source): the class of a pickled module
        found = self.tensors.get(text_of_key(pid))
        if found is None:
            found = self.storages.get(text_of_key(pid))
        if found is None:
            raise PickleStreamError("a persistent id that is neither tensor nor storage", got=brief(pid))
        return found

    def read(self, wanted: Sequence[tuple[StorageRef, memoryview]], *, verify: bool) -> None:
        read_extents(self.source, [(self.extent(ref).offset, target) for ref, target in wanted])

    def window_of(self, ref: StorageRef) -> tuple[Window, int] | None:
        """Return None: storages are read one by one, into memory of their own."""
        return None

    def read_windows(self, windows: Sequence[Window], *, verify: bool) -> None:
        """Nothing to do: there are none."""

    def extent(self, ref: StorageRef) -> Extent:
        root, skipped = ref.handle or (ref, 0)
        return Extent(self._offsets[root.key] + skipped, ref.nbytes)


def _count(value: Any, record: str) -> int:
    if type(value) is not int or value < 0:
        raise DamagedError("an archive member without its count", got=brief(value, 40), record=record)
    return value


def _triple(value: Any, record: str) -> tuple[Any, ...]:
    if not isinstance(value, tuple) or len(value) != 3:
        raise DamagedError("an archive member with a malformed description", got=brief(value), record=record)
    return value


def read(source: ByteSource, reading: Reading) -> Contents:
    """Read a checkpoint in a tar archive.

    Raises
    ------
    DamagedError
        If the archive or one of its members is cut or malformed.
    """
    members = find_members(source)
    missing = _MEMBERS - members.keys()
    if missing:
        raise DamagedError("the tar archive is no checkpoint", expected="storages, tensors, pickle", path=source.name)
    tar = _Tar(source, reading, members)
    tar.read_storages()
    tar.read_tensors()
    offset, size = members["pickle"]
    made, _ = reading.unpickle(source.read_at(offset, size), tar.persistent_load, record="pickle")
    return Contents(made, "torch-tar", source.size, lambda: {"byteorder": "little"}, tar.refs, tar.parts)
