"""JSON documents of a scan, as ``schemas/scan.json`` and ``schemas/scan-file.json`` describe them."""

from collections.abc import Sequence
from typing import Any

from weighlock.cli.documents import document
from weighlock.cli.scan_policy import Known, known
from weighlock.scanning.report import FileReport, ScanReport

__all__ = ["line_document", "scan_document"]


def scan_document(reports: Sequence[FileReport], baseline: Known) -> dict[str, Any]:
    """Return the document of a whole scan."""
    whole = ScanReport(tuple(reports))
    return document(
        "weighlock/scan", verdict=whole.verdict, severity=whole.worst(),
        totals={
            "files": len(reports),
            "clean": sum(report.verdict == "clean" for report in reports),
            "findings": sum(report.verdict == "findings" for report in reports),
            "incomplete": sum(bool(report.gaps) for report in reports),
            "bytes_read": sum(report.bytes_read for report in reports),
        },
        inputs=[_input(report, baseline) for report in reports],
    )  # fmt: skip


def line_document(report: FileReport, baseline: Known) -> dict[str, Any]:
    """Return the document of one file, for one line of JSONL."""
    return document("weighlock/scan-file", **_input(report, baseline))


def _input(report: FileReport, baseline: Known) -> dict[str, Any]:
    made = report.to_dict()
    for shown, finding in zip(made["findings"], report.findings, strict=True):
        shown["known"] = known(report, finding, baseline)
    return made
