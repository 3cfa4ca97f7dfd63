"""Draws the results of `make bench` as an SVG: a group of bars for each piece of work, one bar for each system.

usage: python -m benchmarks.chart RESULTS.json CHART.svg
"""

from __future__ import annotations

import json
import sys
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

WIDTH, LEFT, RIGHT, BAR, GAP, TOP = 860, 190, 150, 15, 16, 64
COLORS = {
    "weighlock": "#0b6e8f", "weighlock.torch": "#57a7c2", "torch": "#c8642b", "safetensors": "#8a8f98",
    "weighlock, safetensors": "#2f8f6b", "ptloader": "#b9bcc2", "floor": "#dfe1e5",
}  # fmt: skip
NAMES = {
    "weighlock": "Weighlock, NumPy", "weighlock.torch": "Weighlock, PyTorch", "torch": "PyTorch",
    "weighlock, safetensors": "Weighlock, safetensors", "safetensors": "safetensors", "ptloader": "ptloader",
    "floor": "the bytes alone",
}  # fmt: skip


def bar(row: dict[str, Any], longest: float, y: int) -> str:
    """One bar: its length is the time, in parts of the longest of its group."""
    width = max((WIDTH - LEFT - RIGHT) * row["ms"] / longest, 1)
    ratio = row["faster_than_torch"]
    note = f"{row['ms']:,.1f} ms" + (f"  ({ratio:.1f} x)" if ratio and row["system"] != "torch" else "")
    return (
        f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 3}" fill="{COLORS[row["system"]]}"/>'
        f'<text x="{LEFT - 8}" y="{y + 10}" text-anchor="end">{escape(NAMES[row["system"]])}</text>'
        f'<text x="{LEFT + width + 6:.1f}" y="{y + 10}">{note}</text>'
    )


def draw(results: dict[str, Any]) -> str:
    """Return the chart of one run."""
    parts, y = [], TOP
    for (work, operation), rows in groupby(results["cells"], key=lambda row: (row["work"], row["operation"])):
        group = list(rows)
        parts.append(f'<text x="8" y="{y + 10}" class="head">{escape(operation)} {escape(work)}</text>')
        longest = max(row["ms"] for row in group)
        for row in group:
            y += BAR
            parts.append(bar(row, longest, y))
        y += BAR + GAP
    machine = results["machine"]
    about = (f"Medians of {results['rounds']} fresh processes, interleaved. {machine['cores']} cores, Python "
             f"{machine['python']}, PyTorch {machine['torch']}. In brackets: times as fast as PyTorch.")  # fmt: skip
    style = (
        "text{font:12px sans-serif;fill:#222}.head{font-weight:bold;font-size:13px}.title{font-weight:bold;"
        "font-size:16px}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}" role="img">'
        f"<title>Times of loading and saving</title><style>{style}</style>"
        f'<rect width="{WIDTH}" height="{y}" fill="#fff"/>'
        f'<text x="8" y="24" class="title">Shorter is faster</text><text x="8" y="44">{escape(about)}</text>'
        + "".join(parts)
        + "</svg>\n"
    )


def main(source: str, target: str) -> None:
    """Read results, write the chart."""
    Path(target).write_text(draw(json.loads(Path(source).read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
