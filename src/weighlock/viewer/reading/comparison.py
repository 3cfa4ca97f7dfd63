"""What two of the files differ in."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from weighlock.comparing.diffing import Diff, TensorDiff, TensorSide, diff
from weighlock.comparing.values import ValueDiff
from weighlock.viewer.bounds import KEPT_DIFFS, RETRY_SECONDS
from weighlock.viewer.failures import failure_document, may_pass
from weighlock.viewer.jobs import Job, Kept
from weighlock.viewer.looking.facts import number, steps, text
from weighlock.viewer.looking.holding import ViewedFile
from weighlock.viewer.queries import Query
from weighlock.viewer.reading.bands import opened

__all__ = ["Comparisons"]

_STATES: Final[tuple[tuple[str, Callable[[TensorDiff], bool]], ...]] = (
    ("added", lambda row: row.a is None),
    ("removed", lambda row: row.b is None),
    ("error", lambda row: row.error is not None),
    ("renamed", lambda row: row.renamed),
    ("changed", lambda row: bool(row.changes)),
    ("same", lambda row: True),
)
_ALSO: Final = {
    "changed": frozenset({"changed", "renamed", "error"}),
    "different": frozenset(name for name, _ in _STATES if name != "same"),
}
_OBJECTS: Final = 500


class _Compared:
    """One comparison, with its rows by state."""

    def __init__(self, found: Diff, a: ViewedFile, b: ViewedFile) -> None:
        self.found = found
        self.states = [next(name for name, fits in _STATES if fits(row)) for row in found.tensors]
        self.counts = {name: self.states.count(name) for name, _ in _STATES}
        self._made = time.monotonic()
        self._unreached = any(row.error is not None and may_pass(row.error) for row in found.tensors)
        self.indices = [dict(zip(file.keys, range(len(file.keys)), strict=True)) for file in (a, b)]

    @property
    def outdated(self) -> bool:
        """Whether a tensor could not be read and may be by now; not at once, for each page of rows asks."""
        return self._unreached and time.monotonic() - self._made >= RETRY_SECONDS

    def chosen(self, only: str) -> Sequence[int]:
        """Return the rows of a state."""
        if only == "all":
            return range(len(self.states))
        wanted = _ALSO.get(only, {only})
        return [index for index, state in enumerate(self.states) if state in wanted]


class Comparisons:
    """The comparisons that were made last."""

    def __init__(self) -> None:
        self._kept: Kept[_Compared] = Kept(KEPT_DIFFS)

    def page(self, a: ViewedFile, b: ViewedFile, query: Query, job: Job) -> dict[str, Any]:
        """Return a page of the differences of two files."""
        values = query.flag("values", default=True)
        rtol, atol = query.decimal("rtol"), query.decimal("atol")
        only = query.choice("only", "all", "different", "changed", "added", "removed", "same")
        offset, limit = query.page()

        def compare() -> _Compared:
            found = diff(opened(a), opened(b), values=values, rtol=rtol, atol=atol, progress=job.check)
            return _Compared(found, a, b)

        key = a.number, a.generation, b.number, b.generation, values, rtol, atol
        kept = self._kept.get(key, compare, job)
        if kept.outdated:
            self._kept.drop(key)
            kept = self._kept.get(key, compare, job)
        chosen = kept.chosen(only)
        found = kept.found
        return {
            "counts": {**kept.counts, "objects": len(found.objects)}, "identical": found.same,
            "complete": found.complete, "compared": values, "total": len(chosen), "offset": offset,
            "rows": [_row(kept, index) for index in chosen[offset : offset + limit]],
            "objects": [
                {"key": text(row.key), "a": row.a and text(row.a), "b": row.b and text(row.b)}
                for row in found.objects[:_OBJECTS]
            ],
        }  # fmt: skip


def _row(kept: _Compared, index: int) -> dict[str, Any]:
    row, values = kept.found.tensors[index], kept.found.tensors[index].values
    a, b = (_side(side, kept.indices[at]) for at, side in enumerate((row.a, row.b)))
    return {
        "key_a": a and a["key"], "key_b": b and b["key"], "state": kept.states[index], "a": a, "b": b,
        "changes": list(row.changes), "compared": row.compared,
        "different": None if values is None else values.differing, "numel": None if values is None else values.numel,
        "max_abs": None if values is None else number(values.max_abs),
        "rel_l2": None if values is None else number(values.rel_l2),
        "cos": None if values is None else number(values.cosine),
        "text": _in_words(row, values),
        "error": None if row.error is None else failure_document(row.error),
    }  # fmt: skip


def _side(side: TensorSide | None, indices: dict[str, int]) -> dict[str, Any] | None:
    if side is None:
        return None
    return {
        "index": indices.get(side.key), "key": text(side.key), "path": steps(side.path), "dtype": side.dtype,
        "shape": list(side.shape), "layout": side.layout, "nbytes": side.nbytes,
    }  # fmt: skip


def _in_words(row: TensorDiff, values: ValueDiff | None) -> str:
    if row.error is not None:
        return text(row.error.what)
    if row.a is None or row.b is None:
        return "only in b" if row.a is None else "only in a"
    said = [f"{name} {text(getattr(row.a, name))} to {text(getattr(row.b, name))}"
            for name in ("dtype", "shape", "layout") if name in row.changes]  # fmt: skip
    if row.renamed:
        said.append("the same values under another name")
    if values is not None and values.differing:
        said.append(f"{values.differing:,} of {values.numel:,} values differ")
    elif row.compared and not row.changes and not row.renamed:
        said.append("the same")
    return "; ".join(said)
