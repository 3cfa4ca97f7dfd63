"""The tensors of a file as a table: searched, filtered, sorted, a page at a time."""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from weighlock.errors import ArgumentError
from weighlock.inspection.globs import glob
from weighlock.inspection.inventory import TensorRow
from weighlock.viewer.bounds import MOST_SEARCHED, MOST_WILDCARDS
from weighlock.viewer.jobs import Job
from weighlock.viewer.looking.facts import alias_of, flags_of, size_of, steps, text
from weighlock.viewer.looking.holding import ViewedFile
from weighlock.viewer.queries import Query

__all__ = ["Choice", "choice_of", "list_tensors"]

_SORTS: Final[dict[str, Callable[[TensorRow, str], Any]]] = {
    "key": lambda row, key: key,
    "nbytes": lambda row, key: row.leaf.nbytes,
    "dtype": lambda row, key: row.leaf.dtype or "",
    "shape": lambda row, key: row.leaf.shape or (),
    "storage": lambda row, key: row.storage or "",
    "layout": lambda row, key: row.leaf.layout,
}
_EVERY: Final = 4096


class Choice(NamedTuple):
    """Which rows are wanted, and in which order."""

    text: str = ""
    dtype: str = ""
    layout: str = ""
    shape: str = ""
    least: int = 0
    sort: str = "file"
    descending: bool = False


def choice_of(query: Query) -> Choice:
    """Return what a request wants.

    Raises
    ------
    ArgumentError
        If it cannot be understood.
    """
    wanted = query.text("q", most=MOST_SEARCHED)
    if sum(map(wanted.count, "*?")) > 2 * MOST_WILDCARDS or wanted.count("*") > MOST_WILDCARDS:
        raise ArgumentError("the pattern has too many wildcards", expected=f"at most {MOST_WILDCARDS}")
    return Choice(
        wanted, query.text("dtype"), query.text("layout"), query.text("shape").strip("[]() "),
        query.number("min_bytes"), query.choice("sort", "file", *_SORTS), query.flag("desc"),
    )  # fmt: skip


def list_tensors(file: ViewedFile, choice: Choice, page: tuple[int, int], job: Job) -> dict[str, Any]:
    """Return a page of the rows that are wanted."""
    rows = file.rows
    order: Sequence[int] = file.orders.get(("order", choice), lambda: _ordered(file, choice, job), job)
    offset, limit = page
    return {
        "total": len(rows), "matched": len(order), "offset": offset,
        "rows": [_row(file, rows[index]) for index in order[offset : offset + limit]],
    }  # fmt: skip


def _row(file: ViewedFile, row: TensorRow) -> dict[str, Any]:
    return {
        "index": row.index, "key": text(file.keys[row.index]), "path": steps(row.path), **size_of(row.leaf),
        "storage": None if row.storage is None else text(row.storage), "contiguous": row.leaf.contiguous,
        "alias_of": alias_of(file, row), "flags": flags_of(row),
    }  # fmt: skip


def _ordered(file: ViewedFile, choice: Choice, job: Job) -> Sequence[int]:
    rows, keys = file.rows, file.keys
    found: Sequence[int] = _matching(file, choice.text, job)
    for wanted in _filters(choice):
        job.check()
        found = [index for index in found if wanted(rows[index])]
    job.check()
    key = _SORTS.get(choice.sort)
    if key is None:
        return found[::-1] if choice.descending else found
    return sorted(found, key=lambda index: key(rows[index], keys[index]), reverse=choice.descending)


def _matching(file: ViewedFile, wanted: str, job: Job) -> Sequence[int]:
    if not wanted:
        return range(len(file.rows))
    lowered, wanted = file.lowered, wanted.casefold()
    if not any(mark in wanted for mark in "*?"):
        return [index for index, key in enumerate(lowered) if wanted in key]
    fits = glob(wanted).fullmatch
    found: list[int] = []
    for begin in range(0, len(lowered), _EVERY):
        job.check()
        keys = lowered[begin : begin + _EVERY]
        found += [index for index, key in enumerate(keys, begin) if fits(key)]
    return found


def _filters(choice: Choice) -> list[Callable[[TensorRow], bool]]:
    found: list[Callable[[TensorRow], bool]] = []
    if choice.dtype:
        found.append(lambda row: row.leaf.dtype == choice.dtype)
    if choice.layout:
        found.append(lambda row: row.leaf.layout.startswith(choice.layout))
    if choice.least:
        found.append(lambda row: row.leaf.nbytes >= choice.least)
    if choice.shape:
        found.append(_shaped(choice.shape))
    return found


def _shaped(wanted: str) -> Callable[[TensorRow], bool]:
    """Return whether a shape fits: ``64,3,7,7``, where ``*`` is any length and a last ``...`` any more dimensions."""
    parts = [
        part.strip()
        for part in wanted.replace("\N{MULTIPLICATION SIGN}", ",").replace("x", ",").split(",")
        if part.strip()
    ]
    more = bool(parts) and parts[-1] in ("...", "…", "**")
    parts = parts[:-1] if more else parts
    if not all(part == "*" or (part.isascii() and part.isdigit() and len(part) < 19) for part in parts):
        raise ArgumentError("a shape is lengths with commas between them", expected="64,3,* or 64,...", got=wanted[:80])
    lengths = [None if part == "*" else int(part) for part in parts]

    def fits(row: TensorRow) -> bool:
        shape = row.leaf.shape
        if shape is None or len(shape) < len(lengths) or (len(shape) > len(lengths) and not more):
            return False
        return all(length is None or length == own for length, own in zip(lengths, shape, strict=False))

    return fits
