"""A scan as SARIF 2.1.0 (OASIS): rules with help, regions, fingerprints, and what was not examined as notifications."""

import os
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

from weighlock.cli.documents import our_version
from weighlock.cli.scan_policy import Known, known
from weighlock.scanning.report import FileReport, Finding, Gap
from weighlock.scanning.rules import FAMILIES, RULES, Rule, rank

__all__ = ["sarif_log"]

_SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS: Final = {"critical": "error", "high": "error", "medium": "warning", "low": "note", "info": "note"}
_SCORES: Final = {"critical": "9.8", "high": "7.5", "medium": "5.0", "low": "2.0", "info": "0.0"}
# What code hosts take of one run; more is cut, and said.
_MOST_RESULTS: Final = 25_000


def sarif_log(reports: Sequence[FileReport], baseline: Known) -> dict[str, Any]:
    """Return the log of one run."""
    ids = list(RULES)
    results = [
        _result(report, finding, ids, known=known(report, finding, baseline) if baseline else None)
        for report in reports for finding in report.findings
    ]  # fmt: skip
    gaps = [_notification(report, gap) for report in reports for gap in report.gaps]
    if len(results) > _MOST_RESULTS:
        what = f"{len(results) - _MOST_RESULTS:,} further findings are left out of this log"
        gaps.append({"level": "warning", "message": {"text": what}})
        results = results[:_MOST_RESULTS]
    driver = {
        "name": "weighlock", "version": our_version(), "semanticVersion": our_version(),
        "rules": [_rule(row) for row in RULES.values()],
    }  # fmt: skip
    run = {
        "tool": {"driver": driver},
        "columnKind": "utf16CodeUnits",
        "originalUriBaseIds": {"SRCROOT": {"description": {"text": "The folder in which the scan was started."}}},
        "invocations": [{"executionSuccessful": not gaps, "toolExecutionNotifications": gaps}],
        "artifacts": [_artifact(report) for report in reports],
        "results": results,
    }
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(row: Rule) -> dict[str, Any]:
    tags = ["security", FAMILIES[row.id[:3]].lower()] + ([f"external/cwe/cwe-{row.cwe:03}"] if row.cwe else [])
    text = f"{row.means}\n\nExample: {row.example}\n\nWhat to do: {row.advice}"
    markdown = f"{row.means}\n\n**Example:** {row.example}\n\n**What to do:** {row.advice}"
    return {
        "id": row.id,
        "name": "".join(word.capitalize() for word in row.title.replace("'", "").split()),
        "shortDescription": {"text": row.title},
        "fullDescription": {"text": row.means},
        "help": {"text": text, "markdown": markdown},
        "defaultConfiguration": {"level": _LEVELS[row.severity]},
        "properties": {"tags": tags, "precision": "high", "security-severity": _SCORES[row.severity]},
    }


def _location(name: str) -> dict[str, Any]:
    """Return where a file is: relative to the folder of the scan, where it is not an absolute path."""
    if name.startswith(("http://", "https://")):
        return {"uri": quote(name, safe=":/?#[]@!$&'()*+,;=%")}
    path = quote(os.fsencode(name.replace(os.sep, "/")))
    if os.path.isabs(name):
        return {"uri": f"file://{path}"}
    return {"uri": path.removeprefix("./"), "uriBaseId": "SRCROOT"}


def _artifact(report: FileReport) -> dict[str, Any]:
    made: dict[str, Any] = {"location": _location(report.name)}
    if report.size is not None:
        made["length"] = report.size
    if report.sha256 is not None:
        made["hashes"] = {"sha-256": report.sha256}
    return made


def _result(report: FileReport, finding: Finding, ids: list[str], *, known: bool | None) -> dict[str, Any]:
    # A line besides the bytes: code hosts show nothing without one.
    region: dict[str, Any] = {"startLine": 1}
    if finding.file_offset is not None:
        region |= {"byteOffset": finding.file_offset, "byteLength": finding.length or 1}
    physical = {"artifactLocation": _location(report.name), "region": region}
    location: dict[str, Any] = {"physicalLocation": physical}
    logical = [
        {"fullyQualifiedName": name, "kind": kind}
        for name, kind in ((finding.member, "member"), (finding.path, "member")) if name
    ]  # fmt: skip
    if logical:
        location["logicalLocations"] = logical
    facts = {
        "severity": finding.severity, "security-severity": _SCORES[finding.severity], "member": finding.member,
        "offset": finding.offset, "global": finding.name, "arguments": finding.arguments, "count": finding.count,
    }  # fmt: skip
    result = {
        "ruleId": finding.rule,
        "ruleIndex": ids.index(finding.rule),
        "kind": "fail" if rank(finding.severity) else "informational",
        "level": _LEVELS[finding.severity] if rank(finding.severity) else "none",
        "message": {"text": finding.message},
        "locations": [location],
        "partialFingerprints": {"weighlock/v1": finding.fingerprint},
        "properties": {key: value for key, value in facts.items() if value is not None},
    }
    if known is not None:
        result["baselineState"] = "unchanged" if known else "new"
    if known:
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": "It is in the baseline."}]
    return result


def _notification(report: FileReport, gap: Gap) -> dict[str, Any]:
    where = f" ({gap.member})" if gap.member else ""
    return {
        "level": "error",
        "descriptor": {"id": gap.rule},
        "message": {"text": f"{gap.message}{where}"},
        "locations": [{"physicalLocation": {"artifactLocation": _location(report.name)}}],
    }
