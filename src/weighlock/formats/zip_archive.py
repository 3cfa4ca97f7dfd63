"""Storages in the records of a zip archive: what PyTorch's zip files and TorchScript archives share."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from weighlock.errors import DamagedError, DirectoryError, TensorBoundsError
from weighlock.formats.layout import LayoutRow
from weighlock.formats.reading import Reading, parse_persistent_id
from weighlock.formats.zip_directory import ZipDirectory, ZipRecord, data_offset, read_record
from weighlock.formats.zip_layout import zip_rows
from weighlock.formats.zip_records import read_records
from weighlock.formats.zip_remains import LOCAL_SIZE
from weighlock.formats.zip_windows import plan_windows, read_windows, scatter_windows
from weighlock.storages.ranges import RangedSource
from weighlock.storages.refs import Extent, StorageRef, Window
from weighlock.storages.source import ByteSource
from weighlock.tensors.rebuild import StorageClass

__all__ = ["ZipArchive"]

# What is known of how an archive was written, and the records that say so.
_NOTES: Final = {
    "format_version": ("version", ".data/version"),
    "byteorder": ("byteorder",),
    "storage_alignment": (".storage_alignment",),
    "torch_format_version": (".format_version",),
}


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
        self.records: Mapping[str, ZipRecord] = {record.name[skip:]: record for record in directory.records}
        self.storages: dict[str, StorageRef] = {}
        self._windows: dict[int, tuple[Window, int]] | None = None
        order = self.text("byteorder") or reading.leaves.byteorder
        if order not in ("little", "big"):
            raise DamagedError("the record byteorder says neither little nor big", got=repr(order)[:40])
        self.byteorder = order

    def __contains__(self, name: str) -> bool:
        return name in self.records

    def record(self, name: str) -> bytes:
        """Return one whole record; `DirectoryError` if it is missing."""
        found = self.records.get(name)
        if found is None:
            raise DirectoryError("the archive has no such record", path=self.source.name, record=self.root + name)
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
        records = frozenset(ref.record for ref in self.storages.values())
        return zip_rows(self.source, self.directory, records)

    def storage_loader(self, *folders: str) -> Any:
        """Return the persistent-id function for a pickle whose storages lie in one of `folders`."""
        made: dict[str, Any] = {}
        records, folder, make = self.records, folders[0], self.reading.leaves.storage

        def persistent_load(pid: Any) -> Any:
            kind, key, location, numel = parse_persistent_id(pid)
            found = made.get(key)
            # Without bytes there is nothing to share, and each mention may have another type: as in PyTorch.
            if found is None or not numel:
                record = records.get(folder + key)
                if record is None:
                    found = made[key] = make(self._unusual(key, kind, location, numel, folders))
                    return found
                ref = StorageRef(
                    key, kind.dtype, numel, location, self, record.name, record, self.byteorder, kind.untyped
                )
                if record.size != ref.nbytes:
                    raise self._wrong_size(ref, record)
                self.storages[key] = ref
                found = made[key] = make(ref)
            return found

        return persistent_load

    def _unusual(self, key: str, kind: StorageClass, location: str, numel: int, folders: tuple[str, ...]) -> StorageRef:
        """Describe a storage that is not in the first folder: in another one, or without data."""
        for folder in folders[1:]:
            record = self.records.get(folder + key)
            if record is not None:
                ref = StorageRef(
                    key, kind.dtype, numel, location, self, record.name, record, self.byteorder, kind.untyped
                )
                if record.size != ref.nbytes:
                    raise self._wrong_size(ref, record)
                self.storages[key] = ref
                return ref
        name = f"{self.root}{folders[0]}{key}"
        if location != "meta" and numel:
            raise DirectoryError("a storage that the pickle names has no record", path=self.source.name, record=name)
        ref = self.storages[key] = StorageRef(key, kind.dtype, numel, location, None, name, None, untyped=kind.untyped)
        return ref

    def _wrong_size(self, ref: StorageRef, record: ZipRecord) -> TensorBoundsError:
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

    def extents(self, refs: Sequence[StorageRef]) -> list[Extent | None]:
        """Return where some storages lie: of a remote archive, the headers that say so are fetched together."""
        if isinstance(self.source, RangedSource):
            records = [ref.handle for ref in refs if ref.handle is not None and not ref.handle.method]
            self.source.prefetch([(record.header_offset, LOCAL_SIZE + len(record.raw_name)) for record in records])
        return [self.extent(ref) for ref in refs]

    def window_of(self, ref: StorageRef) -> tuple[Window, int] | None:
        """Return the window of a small stored record, and where in it the data will lie."""
        if self._windows is None:
            self._windows = plan_windows(self, self.directory)
        return self._windows.get(ref.handle.header_offset)

    def scatter(self, windows: Sequence[tuple[Window, Mapping[int, memoryview]]], *, verify: bool) -> list[Window]:
        """Read small storages straight to where they belong; return the windows of which that could not be done."""
        return scatter_windows(self.source, windows, verify=verify)

    def read_windows(self, windows: Sequence[Window], *, verify: bool) -> None:
        """Fill whole windows, check the records inside, and let each one's data lie where `window_of` said."""
        read_windows(self.source, windows, verify=verify)


def root_of(directory: ZipDirectory) -> str:
    """Return the folder that holds the archive's records, with its slash: that of the record ``data.pkl``.

    PyTorch takes the folder of whichever record comes first; we ask for the one that holds the pickle, and for there
    being one only, so that both read the same file.
    """
    found = [record.name for record in directory.records if record.name.endswith("data.pkl")]
    found = [name for name in found if name.rpartition("/")[2] == "data.pkl"]
    shallow = min((name.count("/") for name in found), default=0)
    roots = [name.removesuffix("data.pkl") for name in found if name.count("/") == shallow]
    if not roots:
        return ""
    if len(roots) > 1:
        raise DirectoryError("the archive holds several checkpoints side by side", got=", ".join(roots[:4]))
    first = directory.records[0].name
    if not first.startswith(roots[0]):
        raise DirectoryError(
            "the archive's first record lies outside of the folder of its pickle, where PyTorch would look",
            expected=f"{roots[0]}...", got=first,
        )  # fmt: skip
    return roots[0]
