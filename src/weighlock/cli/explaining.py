"""``weighlock explain``: the table of rules, for people."""

import textwrap
from collections.abc import Sequence
from typing import Any

from weighlock.cli.documents import document
from weighlock.cli.opening import GOOD
from weighlock.cli.output import Output
from weighlock.scanning.rules import FAMILIES, RULES, Rule, rule

__all__ = ["explain_rules", "rule_document"]

_WIDTH = 100


def explain_rules(rules: Sequence[str], *, as_json: bool = False, color: str = "auto") -> int:
    """Explain the rules that are named, or list all; return the exit code."""
    output = Output(json=as_json, color=color)
    found = [rule(name) for name in rules] or list(RULES.values())
    if as_json:
        output.document(document("weighlock/explain", rules=[rule_document(row) for row in found]))
        return GOOD
    if rules:
        for index, row in enumerate(found):
            if index:
                output.line()
            _explain(output, row)
        return GOOD
    for prefix, family in FAMILIES.items():
        output.line((family, "name"))
        for row in found:
            if row.id.startswith(prefix):
                output.line(f"  {row.id}  ", (f"{_grade(row):<8}", "note"), f"  {row.title}")
    return GOOD


def rule_document(row: Rule) -> dict[str, Any]:
    """Return a rule as JSON can hold it."""
    return {**row._asdict(), "cwe": [row.cwe] if row.cwe else [], "gap": row.is_gap}


def _grade(row: Rule) -> str:
    return "gap" if row.is_gap else row.severity


def _explain(output: Output, row: Rule) -> None:
    output.line((f"{row.id}  {row.title}", "name"), f"   {_grade(row)}")
    for label, text in (("means", row.means), ("example", row.example), ("do", row.advice)):
        lines = textwrap.wrap(text, _WIDTH - 12)
        for index, line in enumerate(lines):
            output.line((f"  {label if not index else '':<8} ", "note"), line)
    if row.cwe:
        output.line(("  see      ", "note"), f"CWE-{row.cwe}")
