"""Write the pages of `docs/rules/` from the scan's own tables, or check that they are current.

Usage: python tools/rule_pages.py [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from weighlock.scanning.dangers import DANGERS
from weighlock.scanning.rules import FAMILIES, RULES, Rule

FOLDER: Final = Path(__file__).parent.parent / "docs" / "rules"
_MADE: Final = "<!-- Made by tools/rule_pages.py from the scan's tables. Change those. -->"


def pages() -> Iterator[tuple[str, str]]:
    """Give the name and the text of each page."""
    yield "index.md", _index()
    for prefix, family in FAMILIES.items():
        rows = [row for row in RULES.values() if row.id.startswith(prefix)]
        parts = [f"# {family}: {prefix}xx", _MADE, *map(_rule, rows)]
        if prefix == "WL1":
            parts.append(_dangers())
        yield f"{prefix.lower()}xx.md", "\n\n".join(parts) + "\n"


def _index() -> str:
    lines = [
        "# Rules",
        "",
        _MADE,
        "",
        "What `weighlock scan` reports. `weighlock explain WL101` shows the same text.",
        "",
    ]
    lines += ["```{toctree}", ":maxdepth: 1", "", *(f"{prefix.lower()}xx" for prefix in FAMILIES), "```", ""]
    for prefix, family in FAMILIES.items():
        lines += [f"## {family}", "", "| rule | | severity |", "|---|---|---|"]
        lines += [
            f"| [{row.id}]({prefix.lower()}xx.md#{_anchor(row)}) | {row.title} | {_grade(row)} |"
            for row in RULES.values() if row.id.startswith(prefix)
        ]  # fmt: skip
        lines.append("")
    return "\n".join(lines)


def _grade(row: Rule) -> str:
    return "gap" if row.is_gap else row.severity


def _heading(row: Rule) -> str:
    return f"{row.id}: {row.title.lower() if row.title.split()[0] != 'PyTorch' else row.title}"


def _anchor(row: Rule) -> str:
    kept = "".join(c for c in _heading(row).lower() if c.isalnum() or c in " -")
    return kept.replace(" ", "-")


def _rule(row: Rule) -> str:
    facts = f"Severity: {_grade(row)}." + (
        f" [CWE-{row.cwe}](https://cwe.mitre.org/data/definitions/{row.cwe}.html)." if row.cwe else ""
    )
    return f"## {_heading(row)}\n\n{facts}\n\n{row.means}\n\nExample: {row.example}\n\nWhat to do: {row.advice}"


def _dangers() -> str:
    lines = [
        "## Dangerous globals", "",
        "A global that is not known to be harmless is a finding. This table grades it. `.*` stands for all of a module",
        "or class. Names inside of dotted names count, too: `torch.os.system` is `os.system`.", "",
        "| rule | severity | it | names |", "|---|---|---|---|",
    ]  # fmt: skip
    for rule, severity, reason, names in DANGERS:
        shown = " ".join(f"`{name}`" for name in names.split())
        lines.append(f"| {rule} | {severity} | {reason} | {shown} |")
    return "\n".join(lines)


def main() -> int:
    """Write or check the pages; return the exit code."""
    check = "--check" in sys.argv[1:]
    wrong = []
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages():
        path = FOLDER / name
        if check:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                wrong.append(name)
        else:
            path.write_text(text, encoding="utf-8")
    extra = {path.name for path in FOLDER.glob("*.md")} - {name for name, _ in pages()}
    for name in [*wrong, *sorted(extra)]:
        print(f"docs/rules/{name} is not current: run python tools/rule_pages.py")
    return 1 if wrong or extra else 0


if __name__ == "__main__":
    sys.exit(main())
