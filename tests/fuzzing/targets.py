"""What is done with each file, and what must hold: a valid result, or one of Weighlock's errors that says why not."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import weighlock as wl
from weighlock.cli.documents import summary_document
from weighlock.errors import UnsafeGlobalError, WeighlockError
from weighlock.inspection.summary import summarize

__all__ = ["TARGETS", "BrokenPromiseError", "Outcome", "TIGHT"]

TIGHT = wl.Limits(
    max_records=20, max_pickle_bytes=2048, max_inflation=20, max_inflated_bytes=10_000, max_nesting=2, max_key_nodes=20,
    max_large_keys=2, max_dimensions=3, max_integer_bytes=16,
)  # fmt: skip
"""Limits that many of the seeds come near to."""


class BrokenPromiseError(AssertionError):
    """What a target returned is not what it must be."""


class Outcome(NamedTuple):
    """What one call came to: a result, or the error."""

    result: Any
    error: WeighlockError | None


def attempt(call: Callable[[], Any]) -> Outcome:
    """Call; only Weighlock's own errors count as an answer."""
    try:
        return Outcome(call(), None)
    except WeighlockError as error:
        str(error)
        return Outcome(None, error)


def _load(f: Any) -> Outcome:
    return attempt(lambda: wl.load(f))


def _stub(f: Any) -> Outcome:
    return attempt(lambda: wl.load(f, on_unknown="stub", verify=False))


def _tight(f: Any) -> Outcome:
    return attempt(lambda: wl.load(f, limits=TIGHT))


def _map(f: Any) -> Outcome:
    return attempt(lambda: wl.load(f, mmap=True))


def _cast(f: Any) -> Outcome:
    return attempt(lambda: wl.load(f, dtype="float16", select="**"))


def _latin(f: Any) -> Outcome:
    return attempt(lambda: wl.load(f, encoding="bytes"))


def _open(f: Any) -> Outcome:
    """Open, and read every tensor by itself; one that cannot be read says so."""

    def call() -> Any:
        with wl.open_checkpoint(f) as ckpt:
            dict(ckpt.objects), ckpt.storages, ckpt.gaps, repr(ckpt)
            return [attempt(tensor.read).error for tensor in list(ckpt.values())[:50]]

    return attempt(call)


def _inspect(f: Any) -> Outcome:
    """What ``weighlock inspect --json`` and ``weighlock layout`` print."""

    def call() -> Any:
        with wl.read_checkpoint(f) as checkpoint:
            rows = checkpoint.layout() if checkpoint.size < 1 << 20 else []
            document = summary_document(summarize(checkpoint))
        return json.dumps(document, allow_nan=False), len(rows)

    return attempt(call)


def _scan(f: Any, *, deep: bool = False) -> Outcome:
    """A report in any case, and one that agrees with loading."""
    report = wl.scan(f, deep=deep)
    verdict = report.verdict
    if verdict not in ("clean", "findings", "not fully examined"):
        raise BrokenPromiseError(f"the verdict is {verdict!r}")
    json.dumps([[str(finding) for finding in file.findings] for file in report.files])
    loaded = attempt(lambda: wl.load(f))
    if verdict == "clean" and isinstance(loaded.error, UnsafeGlobalError) and not _all_are_data(report, loaded.error):
        raise BrokenPromiseError(f"the scan is clean, but loading says: {loaded.error}")
    if loaded.error is None and verdict == "not fully examined":
        # An index of several files is no checkpoint itself; the files are.
        gaps = [gap for file in report.files for gap in file.gaps if gap.rule != "WL902"]
        if gaps or not isinstance(f, Path):
            raise BrokenPromiseError(f"loading runs on it, but the scan has gaps: {gaps[:2]}")
    return Outcome(verdict, None)


def _all_are_data(report: wl.ScanReport, error: UnsafeGlobalError) -> bool:
    """Whether the scan has seen all that the load does not know, as classes of other programs that are plain data."""
    known = {use.name for file in report.files for use in file.globals if use.known}
    return set(error.globals) <= known


def _deep(f: Any) -> Outcome:
    return _scan(f, deep=True)


def _write(f: Any) -> Outcome:
    """What was read is written and read again: the writer gives the same bytes for the same objects."""
    loaded = attempt(lambda: wl.load(f))
    if loaded.error is not None:
        return loaded
    first, second = io.BytesIO(), io.BytesIO()
    saved = attempt(lambda: wl.save(loaded.result, first))
    if saved.error is not None:
        return saved
    again = wl.load(first.getvalue())
    wl.save(again, second)
    # Sets have the order in which they were filled: one that was read has another.
    if first.getvalue() != second.getvalue() and b"set\n" not in first.getvalue():
        raise BrokenPromiseError("what was written and read is written otherwise")
    return Outcome(loaded.result, None)


def _fill(f: Any) -> Outcome:
    """What was loaded is the place that is filled by loading once more."""
    loaded = attempt(lambda: wl.load(f))
    if loaded.error is not None or not isinstance(loaded.result, dict | list) or _bytes_in(loaded.result) > 1 << 24:
        return loaded  # one number can stand in for terabytes: who fills an array of that size has asked for it
    return attempt(lambda: wl.load(f, into=loaded.result))


def _bytes_in(root: Any) -> int:
    """How many bytes the arrays have that stand in an object, at most at a thousand places."""
    total, waiting = 0, [root]
    for _ in range(1000):
        if not waiting:
            break
        value = waiting.pop()
        total += getattr(value, "nbytes", 0)
        if isinstance(value, dict | list | tuple):
            waiting += list(value.values() if isinstance(value, dict) else value)[:1000]
    return total if not waiting else 1 << 62  # a pair of pairs of pairs of one object has no end


TARGETS: dict[str, Callable[[Any], Outcome]] = {
    "load": _load,
    "stub": _stub,
    "tight": _tight,
    "map": _map,
    "cast": _cast,
    "bytes": _latin,
    "open": _open,
    "inspect": _inspect,
    "scan": _scan,
    "deep": _deep,
    "write": _write,
    "fill": _fill,
}
