"""Rows for people, spreadsheets, shells and Markdown: one table, four ways to write it."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from weighlock.cli.output import Output, Piece
from weighlock.text import safe_text

__all__ = ["aligned", "markdown_cell", "write_table"]

_NUMBER: Final = re.compile(r"[+-]?[\d.,]+(?:e[+-]?\d+)?(?: [KMGTPE]i?B| B| %)?|nan|-?inf|")
_TAME: Final = re.compile(r"[A-Za-z0-9 .,:%+\-]*")


# Reason for the parameter count: what is written, how, and under which headings; each is passed by name.
def write_table(
    output: Output, form: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, heading: bool = True
) -> None:
    """Write rows as ``text``, ``csv``, ``tsv`` (never with a heading) or ``markdown``."""
    if form in ("csv", "tsv"):
        comma = form == "csv"
        output.cells([columns, *rows] if heading and comma else rows, comma=comma)
    elif form == "markdown":
        head = [columns, ["---"] * len(columns)] if heading else []
        output.lines([f"| {' | '.join(map(str, row))} |"] for row in head)
        output.lines([f"| {' | '.join(map(markdown_cell, row))} |"] for row in rows)
    else:
        output.lines(aligned([columns, *rows] if heading else list(rows)))


def markdown_cell(cell: object) -> str:
    r"""Return text as a cell of a Markdown table, in which nothing of it is markup.

    Examples
    --------
    >>> markdown_cell("fc.weight"), markdown_cell("[x](y)|`")
    ('fc.weight', '`` [x](y)\\|` ``')
    """
    text = safe_text(cell)
    if _TAME.fullmatch(text) and text == text.strip(" ") and "://" not in text and "www." not in text:
        return text
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest or text != text.strip(" ") else ""
    return f"{fence}{pad}{text.replace('|', chr(92) + '|')}{pad}{fence}"


def aligned(rows: Sequence[Sequence[object]]) -> Iterator[Sequence[Piece]]:
    """Yield lines of rows in columns: numbers to the right, the first row a heading."""
    texts = [[safe_text(cell) for cell in row] for row in rows]
    if not texts:
        return
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    right = [all(_NUMBER.fullmatch(text) for text in column[1:]) for column in zip(*texts, strict=True)]
    for number, row in enumerate(texts):
        cells = [
            text.rjust(width) if numeric else text.ljust(width)
            for text, width, numeric in zip(row, widths, right, strict=True)
        ]
        line = "  ".join(cells).rstrip(" ")
        yield [(line, "note")] if number == 0 else [line]
