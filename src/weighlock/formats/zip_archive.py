"""Storages in the records of a zip archive: what PyTorch's zip files and TorchScript archives share."""

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

from weighlock.errors import (
    DamagedError,
    DirectoryError,
    LimitError,
    PickleStreamError,
    TensorBoundsError,
    WeighlockError,
)
from weighlock.formats.layout import LayoutRow
from weighlock.formats.reading import Reading, parse_persistent_id
from weighlock.formats.zip_directory import ZipDirectory, ZipRecord, data_offset, data_offsets, read_record
from weighlock.formats.zip_records import read_records
from weighlock.formats.zip_remains import LOCAL_SIZE
from weighlock.formats.zip_windows import WindowPlan, read_windows, scatter_windows
from weighlock.pickling.columns import Form
from weighlock.storages.ranges import RangedSource
from weighlock.storages.refs import Extent, StorageRef, Window
from weighlock.storages.source import ByteSource
from weighlock.tensors.columns import TensorColumns, TensorForm
from weighlock.tensors.layout import check_view
from weighlock.tensors.rebuild import StorageClass
from weighlock.text import brief

__all__ = ["StorageLoader", "ZipArchive", "called", "check_proportion"]

# What is known of how an archive was written, and the records that say so.
_NOTES: Final = {
    "format_version": ("version", ".data/version"),
    "byteorder": ("byteorder",),
    "storage_alignment": (".storage_alignment",),
    "torch_format_version": (".format_version",),
}

# The pickles of real checkpoints deflate to a fifth; the machine takes some 4 MB of the slowest pickle per second.
_FREE_UNPACKED: Final = 8 << 20
_UNPACKED_PER_BYTE: Final = 32
_SIZE: Final = attrgetter("size")
_METHOD: Final = attrgetter("method")
_NBYTES: Final = attrgetter("nbytes")


def check_proportion(size: int, packed: int, name: str) -> None:
    """Refuse to unpack a pickle that claims to be far more than its bytes justify: every byte of it costs time.

    Raises
    ------
    LimitError
    """
    most = _FREE_UNPACKED + _UNPACKED_PER_BYTE * packed
    if size > most:
        raise LimitError(
            "the record claims to unpack to far more than its bytes justify", expected=f"at most {most} bytes",
            got=str(size), record=name, hint="If you trust the file, pack the archive again, uncompressed.",
        )  # fmt: skip


class ZipArchive:
    """One archive: its records by name under the root folder, and the storages that its pickles name.

    Parameters
    ----------
    directory : ZipDirectory
        Already checked.
    """

    ready: Final = True

    def __init__(self, source: ByteSource, directory: ZipDirectory, reading: Reading) -> None:
        self.source = source
        self.directory = directory
        self.reading = reading
        self.root = root_of(directory)
        skip = len(self.root)
        self.records: Mapping[str, ZipRecord] = dict(
            zip([name[skip:] for name in directory.names], directory.records, strict=True)
        )
        self.storages: dict[str, StorageRef] = {}
        self._windows: WindowPlan | None = None
        order = self.text("byteorder") or reading.leaves.byteorder
        if order not in ("little", "big"):
            raise DamagedError("the record byteorder says neither little nor big", got=brief(order, 40))
        self.byteorder = order

    def __contains__(self, name: str) -> bool:
        return name in self.records

    def record(self, name: str) -> bytes:
        """Return one whole record; `DirectoryError` if it is missing."""
        found = self.records.get(name)
        if found is None:
            raise DirectoryError("the archive has no such record", path=self.source.name, record=self.root + name)
        check_proportion(found.size, found.compressed_size if found.method else found.size, found.name)
        return read_record(self.source, found, self.reading.limits, verify=self.reading.verify)

    def text(self, name: str) -> str | None:
        """Return a small text record, or None where there is none."""
        found = self.records.get(name)
        if found is None or found.size > 4096:
            return None
        return self.record(name).decode("utf-8", "replace").strip()

    def notes(self) -> dict[str, Any]:
        """Return what the archive's small records say of how it was written."""
        found: dict[str, Any] = {"root": self.root.rstrip("/"), "records": len(self.records)}
        for key, names in _NOTES.items():
            text = next((text for text in map(self.text, names) if text is not None), None)
            if text is not None:
                found[key] = int(text) if text.isdigit() and len(text) < 19 else text
        return found

    def layout(self) -> Iterator[LayoutRow]:
        """Yield what the bytes of the archive are there for."""
        from weighlock.formats.zip_rows import zip_rows  # a load never asks

        records = frozenset(ref.record for ref in self.storages.values())
        return zip_rows(self.source, self.directory, records)

    def storage_loader(self, *folders: str) -> "StorageLoader":
        """Return the persistent-id function for a pickle whose storages lie in one of `folders`."""
        return StorageLoader(self, folders)

    def unusual(self, key: str, kind: StorageClass, location: str, numel: int, folders: tuple[str, ...]) -> StorageRef:
        """Describe a storage that is not in the first folder: in another one, or without data."""
        for folder in folders[1:]:
            record = self.records.get(folder + key)
            if record is not None:
                ref = StorageRef(
                    key, kind.dtype, numel, location, self, record.name, record, self.byteorder, kind.untyped
                )
                if record.size != ref.nbytes:
                    raise self.wrong_size(ref, record)
                self.storages[key] = ref
                return ref
        name = f"{self.root}{folders[0]}{key}"
        if location != "meta" and numel:
            raise DirectoryError("a storage that the pickle names has no record", path=self.source.name, record=name)
        ref = self.storages[key] = StorageRef(key, kind.dtype, numel, location, None, name, None, untyped=kind.untyped)
        return ref

    def wrong_size(self, ref: StorageRef, record: ZipRecord) -> TensorBoundsError:
        return TensorBoundsError(
            "a record has another size than its storage",
            expected=f"{ref.nbytes} bytes ({ref.numel} x {ref.dtype.name})", got=str(record.size),
            path=self.source.name, record=record.name,
        )  # fmt: skip

    def read(self, wanted: Sequence[tuple[StorageRef, memoryview]], *, verify: bool) -> None:
        """Fill each target with its storage's record."""
        pairs = [(ref.handle, target) for ref, target in wanted]
        read_records(self.source, pairs, verify=verify, limits=self.reading.limits)

    def extent(self, ref: StorageRef) -> Extent | None:
        """Return where a storage lies in the file; None where its record is compressed."""
        record: ZipRecord | None = ref.handle
        if record is None or record.method != 0:
            return None
        return Extent(data_offset(self.source, record), ref.nbytes)

    def starts(self, records: Sequence[ZipRecord]) -> list[int] | None:
        """Return where the data of records begin in the file; None where one is compressed."""
        return None if any(map(_METHOD, records)) else data_offsets(records, self.source)

    def checksum(self, ref: StorageRef) -> int | None:
        """Return the CRC-32 of a storage as the directory has it; None where it was not computed."""
        record: ZipRecord | None = ref.handle
        return record.crc or None if record is not None else None

    def extents(self, refs: Sequence[StorageRef]) -> list[Extent | None]:
        """Return where some storages lie: of a remote archive, the headers that say so are fetched together."""
        if isinstance(self.source, RangedSource):
            records = [ref.handle for ref in refs if ref.handle is not None and not ref.handle.method]
            self.source.prefetch([(record.header_offset, LOCAL_SIZE + len(record.raw_name)) for record in records])
        return [self.extent(ref) for ref in refs]

    def window_of(self, ref: StorageRef) -> tuple[Window, int] | None:
        """Return the window of a small stored record, and where in it the data will lie."""
        offset = ref.handle.header_offset
        window = self.windows.owners.get(offset)
        return None if window is None else (window, self.windows.places[offset])

    @property
    def windows(self) -> WindowPlan:
        """All windows of the archive."""
        if self._windows is None:
            self._windows = WindowPlan(self, self.directory.records)
        return self._windows

    def scatter(self, windows: Sequence[tuple[Window, Mapping[int, memoryview]]], *, verify: bool) -> list[Window]:
        """Read small storages straight to where they belong; return the windows of which that could not be done."""
        return scatter_windows(self.source, windows, verify=verify)

    def read_windows(self, windows: Sequence[Window], *, verify: bool) -> None:
        """Fill whole windows, check the records inside, and let each one's data lie where `window_of` said."""
        read_windows(self.source, windows, verify=verify)


class StorageLoader:
    """The persistent-id function of one pickle: each storage once, whatever mentions it; many at once where it can.

    Parameters
    ----------
    archive : ZipArchive
    folders : sequence of str
        Where the storages' records lie; nearly always in the first.
    """

    __slots__ = (
        "_archive",
        "_columns",
        "_folders",
        "_in_columns",
        "_leaves",
        "_made",
        "_places",
        "_prefix",
        "_records",
        "takes_runs",
    )

    def __init__(self, archive: ZipArchive, folders: tuple[str, ...]) -> None:
        self._archive = archive
        self._records = archive.records
        self._leaves = archive.reading.leaves
        self._folders = folders
        self._prefix = folders[0]
        self.takes_runs = self._leaves.takes_columns
        self._made: dict[str, Any] = {}
        self._in_columns: set[str] = set()
        self._columns: list[tuple[TensorColumns, list[Any]]] = []
        self._places: dict[str, tuple[TensorColumns, list[Any], int]] = {}

    def __call__(self, pid: Any) -> Any:
        """Return the storage that a persistent id names."""
        kind, key, location, numel = parse_persistent_id(pid)
        if (
            type(pid[2]) is int
        ):  # as only tar archives name them: PyTorch takes 1 and "1" for two storages in one record
            raise PickleStreamError("a storage in an archive is named by a number", got=brief(pid[2], 20))
        # Without bytes there is nothing to share, and each mention may have another type: as in PyTorch.
        if numel:
            found = self._made.get(key)
            if found is None and key in self._in_columns:
                found = self._from_columns(key)
            if found is not None:
                # PyTorch forgets a storage without data, and makes another at the next mention.
                if location != found.ref.location and "meta" in (location, found.ref.location):
                    raise PickleStreamError("a storage stands on the meta device and elsewhere", got=brief(key))
                return found
        archive = self._archive
        record = self._records.get(self._prefix + key)
        if record is None:
            found = self._made[key] = self._leaves.storage(archive.unusual(key, kind, location, numel, self._folders))
            return found
        ref = StorageRef(
            key, kind.dtype, numel, location, archive, record.name, record, archive.byteorder, kind.untyped
        )
        if record.size != ref.nbytes:
            raise archive.wrong_size(ref, record)
        archive.storages[key] = ref
        found = self._made[key] = self._leaves.storage(ref)
        return found

    def _from_columns(self, key: str) -> Any:
        """Return a storage that came in columns, and is mentioned again."""
        for columns, tensors in self._columns:
            self._places.update((name, (columns, tensors, index)) for index, name in enumerate(columns.keys))
        self._columns.clear()
        columns, tensors, index = self._places[key]
        found = self._made[key] = self._leaves.storage_of(columns, index, tensors[index])
        self._archive.storages[key] = found.ref
        return found

    # Many at once

    def form(self, form: Form, key: str) -> TensorForm | None:
        """Return what is known of all tensors of one form, their bounds checked; None to have them taken one by one."""
        try:
            kind, _, location, numel = parse_persistent_id(form.full_pid(key))
            ref = StorageRef(key, kind.dtype, numel, location, untyped=kind.untyped)
            check_view(ref.nbytes, kind.dtype.itemsize, form.offset, form.size, form.stride)
        except WeighlockError:
            return None
        if not numel or kind.dtype.kind == "q":
            return None
        return TensorForm(ref, form.offset, form.size, form.stride, form.requires_grad)

    def batch(self, keys: list[str], forms: list[TensorForm | None]) -> "TensorBatch":
        """Return what makes the tensors on these storages, many at once."""
        records = list(map(self._records.get, map(self._prefix.__add__, keys)))
        return TensorBatch(self, keys, forms, records, self._doubts(keys, forms, records))

    def _doubts(
        self, keys: list[str], forms: list[TensorForm | None], records: list[ZipRecord | None]
    ) -> list[int]:  # fmt: skip
        """Return which of these tensors are not the first on their storage, or do not fit to its record."""
        fresh = set(keys)
        if (
            len(fresh) == len(keys) and None not in forms and None not in records
            and list(map(_SIZE, records)) == list(map(_NBYTES, forms))
            and self._in_columns.isdisjoint(fresh) and fresh.isdisjoint(self._made)
        ):  # fmt: skip
            return []
        found = []
        seen: set[str] = set()
        for index, (key, form, record) in enumerate(zip(keys, forms, records, strict=True)):
            known = key in seen or key in self._made or key in self._in_columns
            if known or form is None or record is None or record.size != form.nbytes:
                found.append(index)
            seen.add(key)
        return found

    def make(self, columns: TensorColumns) -> list[Any] | None:
        """Return the tensors of these columns; None, with nothing changed, where they are to be made one by one."""
        tensors = self._leaves.strided_columns(columns)
        if tensors is None:
            return None
        for index, storage in columns.storages.items():
            key = columns.keys[index]
            self._made[key] = storage
            self._archive.storages[key] = storage.ref
        if len(columns.storages) < len(columns.keys):
            self._in_columns.update(columns.keys)
            self._columns.append((columns, tensors))
        return tensors

    def columns(self, keys: list[str], records: list[Any], forms: list[Any]) -> TensorColumns | None:
        """Return what the leaves are asked for; None where one of the storages was named meanwhile."""
        if not self._made.keys().isdisjoint(keys):
            return None
        return TensorColumns(self._archive, keys, records, forms, self._archive.byteorder)


class TensorBatch:
    """Tensors that a pickle describes one after the other.

    Attributes
    ----------
    doubts : list of int
        Which of them are to be made one by one, in the order of the pickle.
    """

    __slots__ = ("_forms", "_keys", "_loader", "_records", "doubts")

    def __init__(
        self, loader: StorageLoader, keys: list[str], forms: list[Any], records: list[Any], doubts: list[int]
    ) -> None:
        self._loader = loader
        self._keys = keys
        self._forms = forms
        self._records = records
        self.doubts = doubts

    def make(self, begin: int, end: int) -> list[Any] | None:
        """Return a stretch of the tensors, no doubt among them; None, with nothing changed, to decline."""
        where = slice(begin, end)
        columns = self._loader.columns(self._keys[where], self._records[where], self._forms[where])
        return None if columns is None else self._loader.make(columns)


def called(directory: ZipDirectory, file: str) -> list[str]:
    """Return the names of which this is the last part, in the directory's order."""
    text, ending, found = "\0".join(["", *directory.names, ""]), file + "\0", []
    place = text.find(ending)
    while place > 0:
        if text[place - 1] in "/\0":
            found.append(text[text.rfind("\0", 0, place) + 1 : place + len(file)])
        place = text.find(ending, place + 1)
    return found


def root_of(directory: ZipDirectory) -> str:
    """Return the folder that holds the archive's records, with its slash: that of the record ``data.pkl``.

    PyTorch takes the folder of whichever record comes first; we ask for the one that holds the pickle, and for there
    being one only, so that both read the same file.
    """
    found = called(directory, "data.pkl")
    shallow = min((name.count("/") for name in found), default=0)
    roots = [name.removesuffix("data.pkl") for name in found if name.count("/") == shallow]
    if not roots:
        return ""
    if len(roots) > 1:
        raise DirectoryError("the archive holds several checkpoints side by side", got=", ".join(roots[:4]))
    first = directory.names[0]
    if not first.startswith(roots[0]):
        raise DirectoryError(
            "the archive's first record lies outside of the folder of its pickle, where PyTorch would look",
            expected=f"{roots[0]}...", got=first,
        )  # fmt: skip
    return roots[0]
