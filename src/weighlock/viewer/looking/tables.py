"""Storages, the bytes of a file, and the security report, as tables."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from weighlock.errors import WeighlockError
from weighlock.formats.layout import LayoutRow, complete
from weighlock.inspection.sharing import StorageRow
from weighlock.limits import DEFAULT_LIMITS
from weighlock.scanning.report import FileReport, Finding, ScanReport
from weighlock.scanning.rules import RULES
from weighlock.storages.addresses import is_address, open_anywhere
from weighlock.storages.source import ByteSource
from weighlock.viewer.looking.facts import text
from weighlock.viewer.looking.holding import ViewedFile

__all__ = ["SORTS", "list_layout", "list_storages", "scan_one"]

_TOGETHER: Final = 20
_FINDINGS: Final = 1000

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
            {"offset": row.offset, "nbytes": row.nbytes, "kind": row.kind, "name": text(row.name)}
            for row in rows[offset : offset + limit]
        ],
        "kinds": file.once("kinds", lambda: _kinds(rows)),
    }  # fmt: skip


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


def scan_one(file: ViewedFile) -> dict[str, Any]:
    """Return the security report: what loading would run, whether the file is whole, and what was not examined."""
    report = _scanned(file.given)
    findings = [finding for one in report.files for finding in one.findings]
    gaps = [gap for one in report.files for gap in one.gaps]
    return {
        "judgement": report.verdict, "severity": report.worst(), "files": len(report.files),
        "findings": [_finding(finding) for finding in findings[:_FINDINGS]], "findings_total": len(findings),
        "gaps": [
            {"rule": gap.rule, "message": text(gap.message, 2000), "where": text(gap.member or ""),
             "title": RULES[gap.rule].title, "remedy": RULES[gap.rule].advice}
            for gap in gaps[:_FINDINGS]
        ],
        "globals": [
            {"name": text(use.name), "known": use.known, "uses": list(use.uses), "places": [text(use.path or "")]}
            for use in report.globals[:_FINDINGS]
        ],
    }  # fmt: skip


def _scanned(given: str) -> ScanReport:
    import os

    from weighlock.scanning.scan import allowing, scan, scan_file

    # A name of the command line is a pattern for `scan`; here it names one file, also where it holds a bracket.
    if not is_address(given) and os.path.isdir(given):
        return scan(given)
    reports: tuple[FileReport, ...] = (scan_file(given, allowed=allowing(())),)
    return ScanReport(reports)


def _finding(finding: Finding) -> dict[str, Any]:
    rule = RULES[finding.rule]
    offset = finding.file_offset if finding.file_offset is not None else finding.offset
    where = [finding.member, None if finding.path is None else f"at {finding.path}"]
    where.append(None if offset is None else f"byte {offset:,}")
    return {
        "rule": finding.rule, "severity": finding.severity, "message": text(finding.message, 2000),
        "where": text(", ".join(part for part in where if part)), "title": rule.title, "explanation": rule.means,
        "remedy": rule.advice, "count": finding.count, "cwe": rule.cwe or None,
    }  # fmt: skip
