"""``weighlock layout``: what each byte of a file is there for."""

from collections.abc import Sequence
from typing import Any, Final

from weighlock.cli import wording
from weighlock.cli.common import chosen_files, taken, writing
from weighlock.cli.documents import document, failed_input, input_document
from weighlock.cli.opening import exit_code, opened
from weighlock.cli.output import Output
from weighlock.cli.tables import write_table
from weighlock.errors import WeighlockError
from weighlock.formats.layout import LayoutRow

__all__ = ["lay_out_files"]

_COLUMNS: Final = ("offset", "nbytes", "kind", "name")
_NAME_WIDTH: Final = 100


def lay_out_files(files: Sequence[str] = (), **options: Any) -> int:
    """Print the stretches of each file in their order; return the exit code. The options are those of `Common`."""
    files = chosen_files(files, options.pop("files_from", None), null=options.pop("null", False))
    common = taken(options)
    failures: list[WeighlockError] = []
    inputs: list[dict[str, Any]] = []
    with writing(common, files) as output:
        for name, checkpoint in opened(files, common.encoding, output, failures):
            if isinstance(checkpoint, WeighlockError):
                inputs.append({**failed_input(name, checkpoint), "stretches": []})
                continue
            rows = checkpoint.layout()
            facts = input_document(checkpoint.name, checkpoint.size, checkpoint.format, ())
            if common.form not in ("json", "jsonl"):
                prefix = [name] if len(files) > 1 and common.form != "text" else []
                if len(files) > 1 and not prefix:
                    output.line((f"{name}:", "name"))
                _write(rows, prefix, common.form, output, first=not inputs, truncate=common.truncate)
            inputs.append({**facts, "stretches": [row._asdict() for row in rows]})
        _write_documents(inputs, common.form, output)
    return exit_code(files, failures, ())


# Reason for the parameter count: what is written and how it is shown, each passed by name.
def _write(
    rows: Sequence[LayoutRow], prefix: list[str], form: str, output: Output, *, first: bool, truncate: bool
) -> None:
    columns = [*(["file"] if prefix else []), *_COLUMNS]
    if form != "text":
        cells = [[*prefix, row.offset, row.nbytes, row.kind, row.name] for row in rows]
        write_table(output, form, columns, cells, heading=first)
        return
    shown = [
        [f"{row.offset:,}", f"{row.nbytes:,}", row.kind, wording.short(row.name, _NAME_WIDTH if truncate else 0)]
        for row in rows
    ]
    write_table(output, "text", columns, shown)
    output.line((_totals(rows), "note"))


def _totals(rows: Sequence[LayoutRow]) -> str:
    sums: dict[str, int] = {}
    for row in rows:
        sums[row.kind] = sums.get(row.kind, 0) + row.nbytes
    return " · ".join(f"{kind} {wording.size(nbytes)}" for kind, nbytes in sums.items())


def _write_documents(inputs: Sequence[dict[str, Any]], form: str, output: Output) -> None:
    if form == "json":
        output.document(document("weighlock/layout", inputs=inputs))
    elif form == "jsonl":
        for entry in inputs:
            if entry["error"] is not None:
                output.document({"uri": entry["uri"], "error": entry["error"]})
            for stretch in entry["stretches"]:
                output.document({"uri": entry["uri"], **stretch})
