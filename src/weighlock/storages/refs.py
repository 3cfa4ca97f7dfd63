"""A storage as a checkpoint names it, before any of its bytes are read."""

import weakref
from collections.abc import Sequence
from typing import Any, Protocol

from weighlock.dtypes import DType

__all__ = ["Extent", "RecordReader", "StorageRef", "Window"]


class Extent:
    """Bytes of a file that lie in one piece, as they are: `offset` from the start of the checkpoint, and `nbytes`."""

    __slots__ = ("nbytes", "offset")

    def __init__(self, offset: int, nbytes: int) -> None:
        self.offset = offset
        self.nbytes = nbytes

    def __repr__(self) -> str:
        return f"Extent(offset={self.offset}, nbytes={self.nbytes})"


class Window:
    """A stretch of a file that holds many small storages, and is read at once into memory that they share.

    Attributes
    ----------
    offset, nbytes : int
        Where it lies in the file.
    memory : memoryview or None
        Where it is read to; set by whoever wants it read.
    reader : RecordReader
        Held weakly, since it holds its windows: what was read must be freed without Python's collector.
    records : list
        What the reader knows the storages inside by, in the order of the file.
    places : list of int
        Where the data of each will lie, in bytes from the window's start.
    """

    __slots__ = ("_reader", "memory", "nbytes", "offset", "places", "records")

    # Reason for the parameter count: a plain record of what is known from the directory.
    def __init__(self, reader: Any, offset: int, nbytes: int, records: list[Any], places: list[int]) -> None:
        self._reader = weakref.ref(reader)
        self.offset = offset
        self.nbytes = nbytes
        self.records = records
        self.places = places
        self.memory: memoryview | None = None

    @property
    def reader(self) -> Any:
        """What reads it."""
        return self._reader()


class RecordReader(Protocol):
    """What knows how to reach a storage's bytes: one per container.

    Attributes
    ----------
    ready : bool
        Whether it can be asked now. Where the data of a legacy stream lie is known when its pickles have been run.
    """

    @property
    def ready(self) -> bool: ...

    def read(self, wanted: "Sequence[tuple[StorageRef, memoryview]]", *, verify: bool) -> None:
        """Fill each target with its storage's bytes, checking their CRC where there is one and `verify` is set."""

    def extent(self, ref: "StorageRef") -> Extent | None:
        """Return where the storage's bytes lie, or None where they are compressed or in pieces."""

    def window_of(self, ref: "StorageRef") -> tuple[Window, int] | None:
        """Return the window that a small storage is read with, and its place in it in bytes; None to read it alone."""

    def read_windows(self, windows: "Sequence[Window]", *, verify: bool) -> None:
        """Fill the memory of each window; every storage in it then lies at its place."""


class StorageRef:
    """One storage: what the file says of it, and who can read it.

    Attributes
    ----------
    key : str
        Its name in the file.
    dtype : DType
        The type of its elements; ``uint8`` for an `UntypedStorage`.
    numel, nbytes : int
        Its length in elements and in bytes.
    location : str
        Where it lived when it was saved: ``"cpu"``, ``"cuda:0"``, ``"meta"`` ...
    byteorder : str
        ``"little"`` or ``"big"``: the order of the bytes in the file.
    record : str
        The name of the record that holds it, for messages.
    handle : object
        What its reader knows it by.
    elements : DType
        The type in units of which bytes are swapped. Differs from `dtype` for untyped storages, whose tensors name
        their own type.
    """

    __slots__ = (
        "byteorder", "dtype", "elements", "handle", "key", "location", "nbytes", "numel", "reader", "record", "untyped",
    )  # fmt: skip

    # Reason for the parameter count: these are the fields of the persistent id and of the record, one to one.
    def __init__(
        self,
        key: str,
        dtype: DType,
        numel: int,
        location: str,
        reader: RecordReader | None = None,
        record: str = "",
        handle: Any = None,
        byteorder: str = "little",
        untyped: bool = False,
    ) -> None:
        self.key = key
        self.dtype = dtype
        self.numel = numel
        self.nbytes = numel * dtype.itemsize
        self.location = location
        self.reader = reader
        self.byteorder = byteorder
        self.record = record
        self.handle = handle
        self.untyped = untyped
        self.elements = dtype

    def __repr__(self) -> str:
        return f"<storage {self.key!r}: {self.numel} x {self.dtype.name}, {self.location}>"

    @property
    def part_of(self) -> "tuple[StorageRef, int] | None":
        """The storage that this one is a part of, and how many of its bytes come before (files of before 0.4)."""
        handle = self.handle
        return handle if type(handle) is tuple and handle and type(handle[0]) is StorageRef else None

    @property
    def ref(self) -> "StorageRef":
        """Itself: a reading that builds nothing keeps the refs in place of storages."""
        return self
