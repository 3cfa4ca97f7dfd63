"""A scan as text: one line per finding, one per file without, and a line on all of them."""

from collections.abc import Iterable
from typing import Final

from weighlock.cli import wording
from weighlock.cli.output import Output, Piece
from weighlock.cli.scan_policy import Known, known
from weighlock.inspection.kinds import file_kind
from weighlock.scanning.report import FileReport, Finding, Gap
from weighlock.scanning.rules import SEVERITIES, rank
from weighlock.text import safe_text

__all__ = ["summary_line", "write_text"]

_WIDEST_NAME: Final = 60
_MOST: Final = 20


def write_text(reports: Iterable[FileReport], output: Output, baseline: Known, *, quiet: bool) -> list[FileReport]:
    """Write each report as soon as it is there; return all."""
    done: list[FileReport] = []
    for report in reports:
        done.append(report)
        if not quiet or report.verdict != "clean":
            _file(report, output, baseline)
    if not quiet:
        if len(done) > 1:
            output.line()
        output.line((summary_line(done, baseline), "note"))
    return done


def _file(report: FileReport, output: Output, baseline: Known) -> None:
    name = safe_text(report.name, limit=_WIDEST_NAME)
    for finding in report.findings[:_MOST]:
        output.line(f"{name}  ", *_finding(finding, known=known(report, finding, baseline)))
    if len(report.findings) > _MOST:
        output.line(f"{name}  ", (f"… and {len(report.findings) - _MOST:,} more findings", "note"))
    for gap in report.gaps[:_MOST]:
        output.line(f"{name}  ", *_gap(gap))
    if report.verdict == "clean":
        output.line(f"{name}  ", ("ok", "good"), f"         {_facts(report)}")


def _finding(finding: Finding, *, known: bool) -> list[Piece]:
    grade = "known" if known else finding.severity.upper() if rank(finding.severity) else "note"
    place = _place(finding.member, finding.offset)
    times = f"  ({finding.count:,} times)" if finding.count > 1 else ""
    where = f"  [{finding.path}]" if finding.path else ""
    style = "note" if known or not rank(finding.severity) else "bad"
    return [(f"{grade:<11}", style), f"{finding.rule}  ", (place, "note"), f"{finding.message}{where}{times}"]


def _gap(gap: Gap) -> list[Piece]:
    return [("INCOMPLETE ", "bad"), f"{gap.rule}  ", (_place(gap.member, gap.offset), "note"), gap.message]


def _place(member: str | None, offset: int | None) -> str:
    parts = [member] if member else []
    if offset is not None:
        parts.append(f"byte {offset:,}")
    return f"{', '.join(parts)}: " if parts else ""


def _facts(report: FileReport) -> str:
    if report.skipped:
        return f"{report.format}, nothing that a loader reads"
    kind = file_kind(report.format or "?", {}, "little").partition(" (")[0]
    named = len({use.name for use in report.globals})
    pickles = f"{report.pickles:,} pickle{'' if report.pickles == 1 else 's'}"
    return f"{kind}, {pickles}, {named:,} global{'' if named == 1 else 's'}"


def summary_line(reports: list[FileReport], baseline: Known) -> str:
    """Return one line on all files."""
    worst = dict.fromkeys(reversed(SEVERITIES[1:]), 0)
    old = 0
    for report in reports:
        for finding in report.findings:
            if known(report, finding, baseline):
                old += 1
            elif finding.severity in worst:
                worst[finding.severity] += 1
    with_findings = sum(report.verdict == "findings" for report in reports)
    clean = sum(report.verdict == "clean" for report in reports)
    graded = ", ".join(f"{count:,} {name}" for name, count in worst.items() if count)
    parts = [f"{len(reports):,} file{'' if len(reports) == 1 else 's'}: {clean:,} clean"]
    if with_findings:
        parts.append(f"{with_findings:,} with findings ({graded or 'all known'})")
    if old:
        parts.append(f"{old:,} findings known")
    incomplete = sum(bool(report.gaps) for report in reports)
    if incomplete:
        parts.append(f"{incomplete:,} not fully examined")
    read = sum(report.bytes_read for report in reports)
    total = sum(report.size or 0 for report in reports)
    return f"{', '.join(parts)}; read {wording.size(read)} of {wording.size(total)}"
