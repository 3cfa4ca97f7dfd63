"""The figures of one tensor, and its histogram."""

from typing import Any

from weighlock.measuring.summaries import TensorStats, measure
from weighlock.viewer.bounds import KEPT_FIGURES, MOST_BINS
from weighlock.viewer.failures import may_pass
from weighlock.viewer.jobs import Job, Kept
from weighlock.viewer.looking.describing import chosen_spec
from weighlock.viewer.looking.facts import number
from weighlock.viewer.looking.holding import ViewedFile
from weighlock.viewer.queries import Query
from weighlock.viewer.reading.bands import lazy_of

__all__ = ["measure_one"]

_DEFAULT_BINS = 60


def measure_one(file: ViewedFile, index: int, query: Query, job: Job) -> dict[str, Any]:
    """Return extremes, mean, deviation, counts and histogram; of a sparse tensor those of the stored values."""
    bins = query.number("bins", _DEFAULT_BINS, most=MOST_BINS)
    part = query.text("part")
    if part:
        chosen_spec(file, index, part)  # complains where there is none
    kept: Kept[TensorStats] = file.once("figures", lambda: Kept(KEPT_FIGURES))
    key = index, bins, part
    found = kept.get(key, lambda: measure(lazy_of(file, index), bins, job.check, part), job)
    if found.error is not None:
        if may_pass(found.error):
            kept.drop(key)  # the next one who asks is not told of a server that was away
        raise found.error
    return _document(found)


def _document(found: TensorStats) -> dict[str, Any]:
    extremes = [value for value in (found.min, found.max) if value is not None]
    histogram = None
    if found.histogram is not None:
        edges = found.histogram.edges()
        histogram = {
            "edges": [number(edges[0][0]), *(number(edge) for _, edge in edges)],
            "counts": list(found.histogram.counts),
        }
    return {
        "min": number(found.min), "max": number(found.max), "mean": number(found.mean), "std": number(found.std),
        "absmax": number(max(map(abs, extremes))) if extremes else None, "zeros": found.zeros, "nan": found.nan,
        "posinf": found.posinf, "neginf": found.neginf, "count": found.numel, "dtype": found.dtype,
        "histogram": histogram,
    }  # fmt: skip
