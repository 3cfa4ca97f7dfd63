"""A scan as one page of HTML: no script, nothing fetched, every word of a file escaped."""

import html
from collections.abc import Sequence
from typing import Final

from weighlock.cli.documents import our_version
from weighlock.cli.scan_policy import Known, known
from weighlock.cli.scan_text import summary_line
from weighlock.scanning.report import FileReport, Finding
from weighlock.scanning.rules import RULES, rank
from weighlock.text import safe_text

__all__ = ["page"]

_STYLE: Final = """
:root { color-scheme: light dark; --bad: #b3261e; --warn: #8a5300; --good: #1b6e3a; --line: #8884; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; --warn: #ffcc80; --good: #80e0a0; } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 70rem; padding: 1rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top; padding: .3rem .6rem;
border-bottom: 1px solid var(--line); } code { font-size: .9em; } h2 { margin-top: 2rem; font-size: 1.1rem; }
.critical, .high { color: var(--bad); font-weight: 600; } .medium, .gap { color: var(--warn); font-weight: 600; }
.clean { color: var(--good); } .quiet { opacity: .75; }
"""


def page(reports: Sequence[FileReport], baseline: Known) -> str:
    """Return the whole page."""
    files = "\n".join(_file(report, baseline) for report in reports if report.verdict != "clean" or report.findings)
    clean = [report for report in reports if report.verdict == "clean" and not report.findings]
    listed = "".join(f"<li><code>{_text(report.name)}</code></li>" for report in clean)
    rules = sorted({f.rule for r in reports for f in r.findings} | {g.rule for r in reports for g in r.gaps})
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Weighlock scan</title><style>{_STYLE}</style></head><body>
<h1>Weighlock scan</h1><p>{_text(summary_line(list(reports), baseline))}.</p>
{files}
<h2 class="clean">Clean: {len(clean):,}</h2><ul>{listed}</ul>
<h2>Rules</h2><dl>{"".join(map(_rule, rules))}</dl>
<p class="quiet">Weighlock {_text(our_version())}</p></body></html>
"""


def _text(value: object) -> str:
    return html.escape(safe_text(value))


def _file(report: FileReport, baseline: Known) -> str:
    rows = "".join(_row(finding, known=known(report, finding, baseline)) for finding in report.findings)
    rows += "".join(
        f'<tr><td class="gap">not examined</td><td><a href="#{gap.rule}">{gap.rule}</a></td>'
        f"<td>{_place(gap.member, gap.offset)}</td><td>{_text(gap.message)}</td></tr>"
        for gap in report.gaps
    )
    facts = f"{report.verdict}; {report.format or 'unknown'}"
    return f"""<h2><code>{_text(report.name)}</code></h2><p>{_text(facts)}</p>
<table><thead><tr><th scope="col">severity</th><th scope="col">rule</th><th scope="col">where</th>
<th scope="col">what</th></tr></thead><tbody>{rows}</tbody></table>"""


def _row(finding: Finding, *, known: bool) -> str:
    grade = "known" if known else finding.severity if rank(finding.severity) else "note"
    times = f" ({finding.count:,} times)" if finding.count > 1 else ""
    return (
        f'<tr><td class="{grade}">{grade}</td><td><a href="#{finding.rule}">{finding.rule}</a></td>'
        f"<td>{_place(finding.member, finding.offset)}</td><td>{_text(finding.message)}{times}</td></tr>"
    )


def _place(member: str | None, offset: int | None) -> str:
    shown = f"<code>{_text(member)}</code>" if member else ""
    return shown + (f" byte {offset:,}" if offset is not None else "")


def _rule(name: str) -> str:
    row = RULES[name]
    return f'<dt id="{name}"><b>{name}</b> {_text(row.title)}</dt><dd>{_text(row.means)} {_text(row.advice)}</dd>'
