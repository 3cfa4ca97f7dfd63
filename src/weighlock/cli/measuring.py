"""``weighlock stats`` and ``weighlock digest``: the values of a checkpoint in figures, and in one hash."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from weighlock.cli import wording
from weighlock.cli.common import Common, chosen_files, taken, writing
from weighlock.cli.documents import document, failed_input, input_document, json_value
from weighlock.cli.opening import NO, exit_code, lazily, opened
from weighlock.cli.output import Output, complain
from weighlock.cli.progress import Bar
from weighlock.cli.tables import write_table
from weighlock.errors import WeighlockError
from weighlock.inspection.paths import json_path
from weighlock.opening.tensors import LazyTensors

if TYPE_CHECKING:
    from weighlock.measuring.digests import Digest
    from weighlock.measuring.summaries import TensorStats

__all__ = ["digest_files", "measure_files"]

_COLUMNS: Final = ("key", "dtype", "shape", "min", "max", "mean", "std", "zeros", "nan", "posinf", "neginf")
_BARS: Final = " ▁▂▃▄▅▆▇█"
_KEY_WIDTH: Final = 72


class Choice(NamedTuple):
    """What is measured, and how."""

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    hist: bool = False
    bins: int = 40
    check: bool = False


class Measured(NamedTuple):
    """One file, what was measured in it, and what could not be."""

    name: str
    document: dict[str, Any]
    rows: "list[TensorStats]"


def measure_files(files: Sequence[str] = (), **options: Any) -> int:
    """Print the figures of every tensor of each file; return the exit code. The options are `Choice` and `Common`."""
    files = chosen_files(files, options.pop("files_from", None), null=options.pop("null", False))
    common, choice = taken(options), Choice(**options)
    failures: list[WeighlockError] = []
    gaps: list[str] = []
    found: list[Measured] = []
    with writing(common, files) as output:
        for name, checkpoint in opened(files, common.encoding, output, failures):
            if isinstance(checkpoint, WeighlockError):
                found.append(Measured(name, failed_input(name, checkpoint), []))
                continue
            with lazily(checkpoint) as ckpt:
                rows = _measured(ckpt.select(choice.include, choice.exclude), common, choice)
                own = [*ckpt.gaps, *(str(row.error) for row in rows if row.error is not None)]
            gaps += own
            for gap in own:
                output.note(f"{name}: {gap}")
            found.append(Measured(name, input_document(ckpt.name, ckpt.size, ckpt.format, own), rows))
            if common.form not in ("json", "jsonl"):
                _write(found[-1], common, choice, output, several=len(files) > 1, first=len(found) == 1)
        _write_documents(found, common, output)
    if choice.check and any(not row.finite for measured in found for row in measured.rows):
        return NO
    return exit_code(files, failures, gaps)


def _measured(tensors: LazyTensors, common: Common, choice: Choice) -> "list[TensorStats]":
    from weighlock.measuring.summaries import stats

    times = 2 if choice.hist else 1
    total = times * sum(lazy.nbytes for lazy in tensors.values())
    with Bar(total, shown=common.progress and not common.quiet) as bar:
        return stats(tensors, bins=choice.bins if choice.hist else 0, progress=bar)


def _write(measured: Measured, common: Common, choice: Choice, output: Output, *, several: bool, first: bool) -> None:
    text = common.form == "text"
    prefix = [measured.name] if several and not text else []
    if several and text:
        output.line((f"{measured.name}:", "name"))
    cells = [[*prefix, *_cells(row, common)] for row in measured.rows]
    columns = [*(["file"] if prefix else []), *_COLUMNS]
    if text and choice.hist:
        for row, line in zip(measured.rows, cells, strict=True):
            write_table(output, "text", columns, [line])
            output.lines(_drawn(row))
        return
    write_table(output, common.form, columns, cells, heading=text or first)
    unfit = sum(not row.finite for row in measured.rows)
    if unfit and text:
        output.line((f"{unfit:,} of {len(measured.rows):,} tensors hold NaN or infinities", "bad"))


def _cells(row: "TensorStats", common: Common) -> list[object]:
    key = row.key
    if common.form != "text":
        numbers = [_plain(value) for value in (row.min, row.max, row.mean, row.std)]
        shape = ",".join(map(str, row.shape))
        return [key, row.dtype or "", shape, *numbers, row.zeros, row.nan, row.posinf, row.neginf]
    if common.truncate:
        key = wording.short(key, _KEY_WIDTH)
    numbers = [_short(value) for value in (row.min, row.max, row.mean, row.std)]
    counts = [f"{count:,}" for count in (row.zeros, row.nan, row.posinf, row.neginf)]
    return [key, row.dtype or "?", wording.shape(row.shape), *numbers, *counts]


def _plain(value: Any) -> object:
    return "" if value is None else str(value).strip("()") if isinstance(value, complex) else value


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if not isinstance(value, int) else str(value)


def _drawn(row: "TensorStats") -> Iterator[list[str]]:
    """Draw a histogram in one line, each bin a bar of eighths of a line's height."""
    if row.histogram is None:
        return
    most = max(row.histogram.counts)
    heights = [math.ceil(8 * count / most) for count in row.histogram.counts]
    bars = "".join(_BARS[height] for height in heights)
    yield [f"  {_short(row.histogram.low)} {bars} {_short(row.histogram.high)}"]


def _write_documents(found: Sequence[Measured], common: Common, output: Output) -> None:
    if common.form == "json":
        inputs = [{**one.document, "tensors": [stats_document(row) for row in one.rows]} for one in found]
        output.document(document("weighlock/stats", inputs=inputs))
    elif common.form == "jsonl":
        for one in found:
            if one.document["error"] is not None:
                output.document({"uri": one.document["uri"], "error": one.document["error"]})
            for row in one.rows:
                output.document({"uri": one.document["uri"], **stats_document(row)})


def stats_document(row: "TensorStats") -> dict[str, Any]:
    """Return one tensor's figures; numbers that JSON does not have are null."""
    figures = {name: _number(getattr(row, name)) for name in ("min", "max", "mean", "std")}
    counts = {name: getattr(row, name) for name in ("numel", "zeros", "nan", "posinf", "neginf")}
    histogram = None
    if row.histogram is not None:
        histogram = {"low": row.histogram.low, "high": row.histogram.high, "counts": row.histogram.counts}
    return {
        "key": row.key, "path": json_path(row.path), "dtype": row.dtype, "shape": row.shape, "layout": row.layout,
        **counts, **figures, "histogram": histogram, "error": None if row.error is None else str(row.error),
    }  # fmt: skip


def _number(value: Any) -> Any:
    found = json_value(value)
    return None if isinstance(found, str) and not isinstance(value, int) else found


# --------------------------------------------------------------------------------------------------------- digest


class Hashing(NamedTuple):
    """What is hashed, and what is shown of it."""

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    tensors: bool = False
    weights: bool = False


_NOTHING: Final[dict[str, Any]] = {"digest": None, "weights": None, "values": 0, "tensors": []}


def digest_files(files: Sequence[str] = (), **options: Any) -> int:
    """Print the digest of each file's content; return the exit code. The options are `Hashing` and `Common`."""
    files = chosen_files(files, options.pop("files_from", None), null=options.pop("null", False))
    common, choice = taken(options), Hashing(**options)
    failures: list[WeighlockError] = []
    gaps: list[str] = []
    inputs: list[dict[str, Any]] = []
    with writing(common, files) as output:
        for name, checkpoint in opened(files, common.encoding, output, failures):
            if isinstance(checkpoint, WeighlockError):
                inputs.append({**failed_input(name, checkpoint), **_NOTHING})
                continue
            with lazily(checkpoint) as ckpt:
                chosen = bool(choice.include or choice.exclude)
                try:
                    found = _hashed(ckpt.select(choice.include, choice.exclude) if chosen else ckpt, common)
                except WeighlockError as error:
                    error.locate(path=name)
                    failures.append(error)
                    complain(error)
                    inputs.append({**failed_input(name, error), **_NOTHING})
                    continue
                gaps += ckpt.gaps
                facts = input_document(ckpt.name, ckpt.size, ckpt.format, ckpt.gaps)
            if common.form not in ("json", "jsonl"):
                _write_digest(name, found, common.form, choice, output, several=len(files) > 1, first=not inputs)
            inputs.append(_digest_document(facts, found))
        if common.form == "json":
            output.document(document("weighlock/digest", inputs=inputs))
        elif common.form == "jsonl":
            for entry in inputs:
                output.document(entry)
    return exit_code(files, failures, gaps)


def _hashed(tensors: LazyTensors, common: Common) -> "Digest":
    from weighlock.measuring.digests import digest

    total = sum(lazy.nbytes for lazy in tensors.values())
    with Bar(total, shown=common.progress and not common.quiet) as bar:
        return digest(tensors, progress=bar)


def _digest_document(facts: dict[str, Any], found: "Digest") -> dict[str, Any]:
    tensors = [{"key": key, "sha256": own or None} for key, own in found.tensors.items()]
    return {**facts, "digest": found.content, "weights": found.weights, "values": found.values, "tensors": tensors}


# Reason for the parameter count: what is written and how it is shown, each passed by name.
def _write_digest(
    name: str, found: "Digest", form: str, choice: Hashing, output: Output, *, several: bool, first: bool
) -> None:
    whole = found.weights if choice.weights else found.content
    rows: list[tuple[str, ...]] = [(whole, name)]
    if choice.tensors:
        rows = [(own or "-", key) for key, own in found.tensors.items()]
    if form == "text":
        if several and choice.tensors:
            output.line((f"{name}:", "name"))
        output.lines([row[0], "  ", (row[1], "name")] for row in rows)
        return
    columns = ["digest", "key" if choice.tensors else "file"]
    if several and choice.tensors:
        columns = [*columns, "file"]
        rows = [(*row, name) for row in rows]
    write_table(output, form, columns, rows, heading=first)
