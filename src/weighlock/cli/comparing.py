"""``weighlock diff``: what two checkpoints differ in, repeated blocks folded into one line."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from weighlock.cli import wording
from weighlock.cli.common import STDIN, Common, taken, writing
from weighlock.cli.documents import document, input_document, json_value
from weighlock.cli.opening import GOOD, INCOMPLETE, NO, lazily, open_checkpoint
from weighlock.cli.output import Output, Piece
from weighlock.cli.progress import Bar
from weighlock.cli.tables import write_table
from weighlock.errors import ArgumentError
from weighlock.inspection.folding import ranges
from weighlock.inspection.paths import json_path
from weighlock.text import safe_text

if TYPE_CHECKING:
    from weighlock.comparing.diffing import Diff, ObjectDiff, TensorDiff, TensorSide
    from weighlock.comparing.values import ValueDiff
    from weighlock.opening.opened import LazyCheckpoint

__all__ = ["diff_files", "diff_lines", "status"]

Line = Sequence[Piece]

_NAME_LIMIT: Final = 90
_OBJECTS_SHOWN: Final = 40
_COLUMNS: Final = (
    "status", "key_a", "key_b", "changes", "dtype_a", "dtype_b", "shape_a", "shape_b", "differing", "outside",
    "max_abs", "rel_l2", "cosine",
)  # fmt: skip
_TIMES: Final = "\N{MULTIPLICATION SIGN}"
_MARKS: Final = {"only_a": "-", "only_b": "+", "renamed": ">", "changed": "~", "error": "!", "same": "="}
_STYLES: Final = {"only_a": "bad", "only_b": "good", "error": "bad"}


class Choice(NamedTuple):
    """How two files are compared."""

    values: bool = True
    rtol: float = 0.0
    atol: float = 0.0
    strip_prefix_a: str = ""
    strip_prefix_b: str = ""
    rename: Sequence[str] = ()
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    everything: bool = False


def diff_files(a: str, b: str, **options: Any) -> int:
    """Compare two files; return the exit code. The options are those of `Choice` and `Common`."""
    common, choice = taken(options), Choice(**options)
    if a == b == STDIN:
        raise ArgumentError("standard input can be read only once")
    with (
        writing(common, (a, b)) as output,
        lazily(open_checkpoint(a, common.encoding)) as one,
        lazily(open_checkpoint(b, common.encoding)) as other,
    ):
        found = _compared(one, other, common, choice)
        gaps = [*one.gaps, *other.gaps, *(str(row.error) for row in found.tensors if row.error is not None)]
        for gap in gaps:
            output.note(gap)
        _write(found, (one, other), common, choice, output)
    if found.objects or any(not row.same and row.error is None for row in found.tensors):
        return NO
    return INCOMPLETE if gaps else GOOD


def _compared(a: "LazyCheckpoint", b: "LazyCheckpoint", common: Common, choice: Choice) -> "Diff":
    from weighlock.comparing.diffing import diff

    total = sum(lazy.nbytes for ckpt in (a, b) for lazy in ckpt.values()) if choice.values else 0
    rules = [_rule(text) for text in choice.rename]
    named = choice._asdict() | {"rename": rules}
    del named["everything"]
    with Bar(total, shown=common.progress and not common.quiet) as bar:
        return diff(a, b, progress=bar, **named)


def _rule(text: str) -> tuple[str, str]:
    old, found, new = text.partition("=")
    if not found or not old:
        raise ArgumentError("a rule is OLD=NEW", got=text[:80])
    return old, new


def _write(
    found: "Diff", sides: "tuple[LazyCheckpoint, LazyCheckpoint]", common: Common, choice: Choice, output: Output
) -> None:
    rows = found.tensors if choice.everything else found.changed
    if common.form == "json":
        output.document(_document(found, sides, rows))
    elif common.form == "jsonl":
        for row in rows:
            output.document(row_document(row))
        for changed in found.objects:
            output.document({"status": "object", **changed._asdict()})
    elif common.form == "text":
        output.lines(diff_lines(found, everything=choice.everything, truncate=common.truncate))
    else:
        cells = [_cells(row) for row in rows]
        cells += [["object", one.key, one.key, f"{one.a} -> {one.b}", *[""] * 9] for one in found.objects]
        write_table(output, common.form, _COLUMNS, cells)


# ----------------------------------------------------------------------------------------------------- documents


def status(row: "TensorDiff") -> str:
    """Return one word for a tensor: ``only_a``, ``only_b``, ``error``, ``renamed``, ``changed`` or ``same``."""
    if row.a is None or row.b is None:
        return "only_b" if row.a is None else "only_a"
    if row.error is not None:
        return "error"
    return "renamed" if row.renamed else "changed" if row.changes else "same"


def row_document(row: "TensorDiff") -> dict[str, Any]:
    """Return one tensor of a comparison."""
    values = None
    if row.values is not None:
        values = {name: _finite(value) for name, value in row.values._asdict().items()}
    return {
        "name": row.name, "status": status(row), "renamed": row.renamed, "changes": row.changes,
        "compared": row.compared, "values": values, "a": _side_document(row.a), "b": _side_document(row.b),
        "error": None if row.error is None else str(row.error),
    }  # fmt: skip


def _finite(value: Any) -> Any:
    found = json_value(value)
    return None if isinstance(found, str) else found


def _side_document(side: "TensorSide | None") -> dict[str, Any] | None:
    if side is None:
        return None
    return {**side._asdict(), "path": json_path(side.path)}


def _document(found: "Diff", sides: "tuple[LazyCheckpoint, LazyCheckpoint]", rows: "Sequence[TensorDiff]") -> Any:
    counts = dict.fromkeys(_MARKS, 0)
    for row in found.tensors:
        counts[status(row)] += 1
    return document(
        "weighlock/diff", same=found.same, complete=found.complete and not any(side.gaps for side in sides),
        inputs=[input_document(side.name, side.size, side.format, side.gaps) for side in sides],
        counts={**counts, "objects": len(found.objects)}, tensors=[row_document(row) for row in rows],
        objects=[changed._asdict() for changed in found.objects],
    )  # fmt: skip


def _cells(row: "TensorDiff") -> list[object]:
    a, b = row.a, row.b
    values = row.values
    numbers = ("", "", "", "", "")
    if values is not None:
        numbers = tuple(
            "" if value is None else str(value)
            for value in (values.differing, values.outside, values.max_abs, values.rel_l2, values.cosine)
        )  # type: ignore[assignment]
    return [
        status(row), a.key if a else "", b.key if b else "", ",".join(row.changes),
        (a and a.dtype) or "", (b and b.dtype) or "", _lengths(a), _lengths(b), *numbers,
    ]  # fmt: skip


def _lengths(side: "TensorSide | None") -> str:
    return "" if side is None else ",".join(map(str, side.shape))


# ---------------------------------------------------------------------------------------------------------- text


def diff_lines(found: "Diff", *, everything: bool = False, truncate: bool = True) -> Iterator[Line]:
    """Yield the report for people: counts, then what differs, equal blocks in one line."""
    yield [("structure   ", "note"), _structure(found)]
    shown = found.tensors if everything else found.changed
    groups = [[row] for row in shown] if everything else _folded(shown)
    names = {id(group): _short(_name(group), truncate=truncate) for group in groups}
    width = max((len(name) for name in names.values()), default=0)
    for group in groups:
        kind = status(group[0])
        mark, name = _MARKS[kind], names[id(group)]
        yield [(f"{mark} ", _STYLES.get(kind, "note")), f"{name:<{width}}  ", *_facts(group, truncate=truncate)]
    limit = len(found.objects) if everything else _OBJECTS_SHOWN
    for changed in found.objects[:limit]:
        yield from _object_lines(changed, truncate=truncate)
    if len(found.objects) > limit:
        yield [(f"… {len(found.objects) - limit:,} more plain values differ: --all lists them", "note")]
    same = len(found.tensors) - len(found.changed)
    if same and not everything:
        more = " (--all lists them)" if found.changed or found.objects else ""
        compared = all(row.compared or not row.a or not row.a.nbytes for row in found.tensors if row.same)
        tolerated = sum(row.same and row.values is not None for row in found.tensors)
        what = "the same" if tolerated else "identical" if compared else "of the same structure"
        within = f", {tolerated:,} of them within the tolerance or equal in other bytes" if tolerated else ""
        yield [("= ", "note"), f"{same:,} tensor{'' if same == 1 else 's'} {what}{within}{more}"]


def _structure(found: "Diff") -> str:
    rows = found.tensors
    both = [row for row in rows if row.a is not None and row.b is not None]
    counts = {
        "only in A": sum(row.b is None for row in rows), "only in B": sum(row.a is None for row in rows),
        "renamed": sum(row.renamed for row in rows), "other shape": sum("shape" in row.changes for row in rows),
        "other dtype": sum("dtype" in row.changes for row in rows),
        "other layout": sum("layout" in row.changes for row in rows),
        "other values": sum("values" in row.changes for row in rows),
        "other plain value" + ("" if len(found.objects) == 1 else "s"): len(found.objects),
    }  # fmt: skip
    return " · ".join([*(f"{count:,} {what}" for what, count in counts.items() if count), f"{len(both):,} in both"])


_DIGITS: Final = re.compile(r"\d{1,9}")


def _folded(rows: "Sequence[TensorDiff]") -> "list[list[TensorDiff]]":
    """Return rows in groups: those whose names differ in numbers only, and that differ in the same way."""
    groups: dict[Any, list[TensorDiff]] = {}
    for row in rows:
        sides = tuple(side and (side.dtype, side.shape, side.layout) for side in (row.a, row.b))
        new = _DIGITS.sub("#", row.b.key) if row.renamed and row.b is not None else ""
        key = (status(row), row.changes, sides, _DIGITS.sub("#", row.name), new)
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def _name(group: "Sequence[TensorDiff]") -> str:
    first = group[0]
    text = _folded_name([row.name for row in group])
    if first.renamed and first.b is not None:
        text += f" → {_folded_name([row.b.key for row in group if row.b is not None])}"
    return text + (f" {_TIMES}{len(group)}" if len(group) > 1 else "")


def _folded_name(names: Sequence[str]) -> str:
    if len(names) == 1:
        return safe_text(names[0])
    columns = list(zip(*(_DIGITS.findall(name) for name in names), strict=True))
    texts = iter([column[0] if len(set(column)) == 1 else f"[{_range(column)}]" for column in columns])
    return safe_text(_DIGITS.sub(lambda _: next(texts), names[0]))


def _range(numbers: Sequence[str]) -> str:
    return ranges(sorted(set(numbers), key=int))


def _short(text: str, *, truncate: bool) -> str:
    return wording.short(text, _NAME_LIMIT) if truncate else text


def _facts(group: "Sequence[TensorDiff]", *, truncate: bool) -> Iterator[Piece]:
    row = group[0]
    a, b = row.a, row.b
    if a is None or b is None:
        side = a or b
        assert side is not None  # noqa: S101 - a row has at least one side
        yield f"{side.dtype or '?'} {wording.shape(side.shape)}", "type"
        if side.alias_of is not None and len(group) == 1:  # transformers leaves tied weights out of a file
            yield f"  = {_short(safe_text(side.alias_of), truncate=truncate)}", "note"
        return
    yield _both(a.dtype or "?", b.dtype or "?"), "type"
    yield f" {_both(wording.shape(a.shape), wording.shape(b.shape))}"
    if a.layout != b.layout:
        yield f" {_both(a.layout, b.layout)}"
    if row.error is not None:
        yield f"  not compared: {_short(safe_text(row.error), truncate=truncate)}"
    elif row.renamed:
        yield "  the same values"
    elif row.values is not None:
        yield "  " + (_values(row.values) if len(group) == 1 else _many_values(group))
    elif "values" in row.changes:
        yield "  other values"
    elif row.compared and "dtype" in row.changes:
        yield "  the same bytes"


def _both(a: str, b: str) -> str:
    return a if a == b else f"{a} → {b}"


def _values(values: "ValueDiff") -> str:
    if not values.differing:
        return "equal values"
    facts = [f"{values.differing:,} of {values.numel:,} differ"]
    if values.outside != values.differing:
        facts.append(f"{values.outside:,} beyond the tolerance")
    figures = {"max|Δ|": values.max_abs, "rel L2": values.rel_l2}
    facts += [f"{name} {value:.3g}" for name, value in figures.items() if value is not None]
    if values.cosine is not None:
        facts.append(f"cos {values.cosine:.5f}")
    for name, one, other in (("NaN", values.nan_a, values.nan_b), ("infinite", values.inf_a, values.inf_b)):
        if one or other:
            facts.append(f"{name} {one:,} in A, {other:,} in B")
    return " · ".join(facts)


def _many_values(group: "Sequence[TensorDiff]") -> str:
    listed = [row for row in group if row.values is not None and row.values.max_abs is not None]
    differing = sum(row.values.differing for row in group if row.values is not None)
    text = f"{differing:,} elements differ"
    if not listed:
        return text
    sizes = [row.values.max_abs or 0.0 for row in listed if row.values is not None]
    worst = listed[sizes.index(max(sizes))]
    name = wording.short(safe_text(worst.name), _NAME_LIMIT)
    return f"{text} · max|Δ| {min(sizes):.3g} … {max(sizes):.3g} (worst: {name})"


def _object_lines(changed: "ObjectDiff", *, truncate: bool) -> Iterator[Line]:
    name = _short(safe_text(changed.key), truncate=truncate)
    texts = [None if text is None else _short(safe_text(text), truncate=truncate) for text in (changed.a, changed.b)]
    if texts[0] is None:
        yield [("+ ", "good"), f"{name} = {texts[1]}"]
    elif texts[1] is None:
        yield [("- ", "bad"), f"{name} = {texts[0]}"]
    else:
        yield [("~ ", "note"), f"{name} = {texts[0]} → {texts[1]}"]
