"""Exact values of a part of a tensor, as a grid of its last two dimensions; read byte by byte, without NumPy."""

from typing import Any

from weighlock.errors import LimitError
from weighlock.inspection.leaves import describe
from weighlock.inspection.slicing import Index
from weighlock.inspection.spelling import float_text, number_text
from weighlock.inspection.values import Values, read_values
from weighlock.viewer.bounds import MOST_CELLS
from weighlock.viewer.looking.describing import chosen_spec, plane
from weighlock.viewer.looking.facts import number
from weighlock.viewer.looking.holding import ViewedFile
from weighlock.viewer.queries import Query

__all__ = ["index_of", "read_cells"]


def index_of(shape: tuple[int, ...], at: tuple[int, ...], rows: range, columns: range) -> Index:
    """Return the index of a part of the last two dimensions, as far as the tensor has them."""
    slices = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
    return (*at, *slices[2 - min(len(shape), 2) :])


def read_cells(file: ViewedFile, index: int, query: Query) -> dict[str, Any]:
    """Return a part of a tensor: its values, and the shortest text of each.

    Raises
    ------
    LimitError
        If it has too many values.
    """
    spec = chosen_spec(file, index, query.text("part"))
    shape = describe(spec).shape or ()
    at = query.indices()
    lengths = plane(shape, at)
    rows, columns = query.stretch("rows", lengths[0]), query.stretch("cols", lengths[1])
    if len(rows) * len(columns) > MOST_CELLS:
        raise LimitError(
            "too many values at once", expected=f"at most {MOST_CELLS:,}", got=f"{len(rows) * len(columns):,}",
            hint="Ask for fewer rows or columns.",
        )  # fmt: skip
    found = read_values(file.checkpoint, spec, index_of(shape, at, rows, columns), limit=MOST_CELLS)
    return {
        "shape": list(shape), "dtype": found.dtype, "at": list(at), "rows": [rows.start, rows.stop],
        "cols": [columns.start, columns.stop], **_grids(found, len(rows), len(columns)),
    }  # fmt: skip


def _grids(found: Values, rows: int, columns: int) -> dict[str, Any]:
    def grid(cells: list[Any]) -> list[list[Any]]:
        return [cells[at * columns : (at + 1) * columns] for at in range(rows)]

    texts = [number_text(value, found.dtype) for value in found.flat]
    values = [
        number(value) if isinstance(value, int | float) and not isinstance(value, bool) else shown
        for value, shown in zip(found.flat, texts, strict=True)
    ]
    made = {"values": grid(values), "texts": grid(texts)}
    if found.dequantized is not None:
        made["dequantized"] = grid([number(float(float_text(value, "float64"))) for value in found.dequantized])
    return made
