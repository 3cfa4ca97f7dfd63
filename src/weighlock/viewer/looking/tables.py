"""Storages, and the bytes of a file, as tables."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from weighlock.errors import WeighlockError
from weighlock.formats.layout import LayoutRow, complete
from weighlock.inspection.sharing import StorageRow
from weighlock.limits import DEFAULT_LIMITS
from weighlock.storages.addresses import open_anywhere
from weighlock.storages.source import ByteSource
from weighlock.viewer.looking.facts import text
from weighlock.viewer.looking.holding import ViewedFile

__all__ = ["SORTS", "list_layout", "list_storages"]

_TOGETHER: Final = 20

SORTS: Final[dict[str, Callable[[StorageRow], Any]]] = {
    "nbytes": lambda row: row.nbytes,
    "unused": lambda row: max(0, row.nbytes - row.used),
    "tensors": lambda row: len(row.tensors),
    "storage": lambda row: row.name,
    "used": lambda row: row.used,
    "location": lambda row: row.location,
}


def list_storages(file: ViewedFile, sort: str, page: tuple[int, int], *, descending: bool) -> dict[str, Any]:
    """Return a page of the storages: who lies in each, and what of it nobody uses."""
    rows = file.summary.storages
    order: Sequence[int] = file.orders.get(("storages", sort, descending), lambda: _order(rows, sort, descending))
    refs: list[Any] = file.once("storages", lambda: list(file.inventory.storages))
    offset, limit = page
    return {
        "total": len(rows), "offset": offset, "nbytes": sum(row.nbytes for row in rows),
        "rows": [_storage(file, rows[index], refs[index]) for index in order[offset : offset + limit]],
    }  # fmt: skip


def _order(rows: Sequence[StorageRow], sort: str, descending: bool) -> Sequence[int]:
    if sort not in SORTS:
        return range(len(rows))[:: -1 if descending else 1]
    return sorted(range(len(rows)), key=lambda index: SORTS[sort](rows[index]), reverse=descending)


def _storage(file: ViewedFile, row: StorageRow, ref: Any) -> dict[str, Any]:
    try:
        extent = file.checkpoint.extent(ref)
    except WeighlockError:
        extent = None
    return {
        "storage": text(row.name), "nbytes": row.nbytes, "used": row.used, "unused": max(0, row.nbytes - row.used),
        "location": text(row.location), "byteorder": row.byteorder, "record": text(row.member),
        "file_offset": None if extent is None else extent.offset, "tensor_count": len(row.tensors),
        "tensors": [{"index": index, "key": text(file.keys[index])} for index in row.tensors[:_TOGETHER]],
        "overlapping": len(row.overlapping),
    }  # fmt: skip


def list_layout(file: ViewedFile, page: tuple[int, int]) -> dict[str, Any]:
    """Return a page of the stretches of a file; of one that cannot be read, as far as its directory tells."""
    rows: list[LayoutRow]
    if isinstance(file.tried, WeighlockError):
        rows = file.once("layout", lambda: _bare_layout(file.given))
    else:
        rows = file.layout
    offset, limit = page
    size = file.once("size", lambda: max((row.offset + row.nbytes for row in rows), default=0))
    return {
        "size": size, "total": len(rows), "offset": offset,
        "rows": [
            {"offset": row.offset, "nbytes": row.nbytes, "kind": row.kind, "name": text(row.name),
             **_tensor_in(file, row)}
            for row in rows[offset : offset + limit]
        ],
        "kinds": file.once("kinds", lambda: _kinds(rows)),
    }  # fmt: skip


def _tensor_in(file: ViewedFile, row: LayoutRow) -> dict[str, Any]:
    """Return the first tensor that lies in a stretch of data."""
    if row.kind != "data" or isinstance(file.tried, WeighlockError):
        return {}
    storages = file.summary.storages
    held: dict[str, int] = file.once(
        "tensors by record", lambda: {one.member or one.name: one.tensors[0] for one in storages if one.tensors}
    )
    index = held.get(row.name)
    return {} if index is None else {"tensor": {"index": index, "key": text(file.keys[index])}}


def _kinds(rows: Sequence[LayoutRow]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for row in rows:
        sums[row.kind] = sums.get(row.kind, 0) + row.nbytes
    return sums


def _bare_layout(given: str) -> list[LayoutRow]:
    """Return the stretches of a file that is no checkpoint, or whose pickle cannot be read.

    Raises
    ------
    WeighlockError
        If it cannot be opened.
    """
    source = open_anywhere(given)
    try:
        return _archive_layout(source) or [LayoutRow("unknown", "", 0, source.size)]
    except WeighlockError:
        return [LayoutRow("unknown", "", 0, source.size)]
    finally:
        source.close()


def _archive_layout(source: ByteSource) -> list[LayoutRow]:
    from weighlock.formats.zip_directory import read_directory
    from weighlock.formats.zip_rows import zip_rows

    if source.read_at(0, min(4, source.size)) != b"PK\x03\x04":
        return []
    directory = read_directory(source, DEFAULT_LIMITS)
    data = frozenset(name for name in directory.names if "/data/" in name or "/tensors/" in name)
    return complete(zip_rows(source, directory, data), source.size, source.size)
