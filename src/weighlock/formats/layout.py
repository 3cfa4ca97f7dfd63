"""A file as a list of stretches: what each of its bytes is there for."""

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["LayoutRow", "complete"]


class LayoutRow(NamedTuple):
    """One stretch of a file.

    Attributes
    ----------
    kind : str
        ``"header"``, ``"padding"``, ``"pickle"``, ``"data"`` (a storage's bytes), ``"record"`` (of another kind),
        ``"descriptor"``, ``"directory"``, ``"end"``, ``"gap"`` (inside, and used by nothing) or ``"trailing"`` (behind
        the end).
    name : str
        The record or storage that it belongs to; empty where there is none.
    offset, nbytes : int
        In bytes from the start of the file.
    """

    kind: str
    name: str
    offset: int
    nbytes: int


def complete(rows: Iterable[LayoutRow], end: int, size: int) -> list[LayoutRow]:
    """Return the rows in the file's order, with rows for what lies between them and behind `end`, the checkpoint's end.

    Examples
    --------
    >>> [tuple(row) for row in complete([LayoutRow("data", "w", 8, 4)], 12, 20)]
    [('gap', '', 0, 8), ('data', 'w', 8, 4), ('trailing', '', 12, 8)]
    """
    made: list[LayoutRow] = []
    reached = 0
    for row in sorted(rows, key=lambda row: (row.offset, row.nbytes)):
        if row.offset > reached:
            made.append(LayoutRow("gap", "", reached, row.offset - reached))
        if row.nbytes:
            made.append(row)
        reached = max(reached, row.offset + row.nbytes)
    if reached < end:
        made.append(LayoutRow("gap", "", reached, end - reached))
    behind = max(reached, end)
    if behind < size:
        made.append(LayoutRow("trailing", "", behind, size - behind))
    return made
