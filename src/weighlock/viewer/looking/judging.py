"""The security report of a file. Imported when it is asked for: the scanner takes a fifth of the viewer's start."""

import os
from typing import Any, Final

from weighlock.scanning.report import FileReport, Finding, ScanReport
from weighlock.scanning.rules import RULES
from weighlock.scanning.scan import allowing, scan, scan_file
from weighlock.storages.addresses import is_address
from weighlock.viewer.looking.facts import text
from weighlock.viewer.looking.holding import ViewedFile

__all__ = ["scan_one"]

_FINDINGS: Final = 1000


def scan_one(file: ViewedFile) -> dict[str, Any]:
    """Return the security report: what loading would run, whether the file is whole, and what was not examined."""
    file.check(by_name=True)
    report = _scanned(file.given)
    file.check(by_name=True)  # what was judged is what is shown
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
