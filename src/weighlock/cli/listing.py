"""``weighlock ls``: one line per tensor."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from weighlock.checkpoint import Checkpoint
from weighlock.cli import wording
from weighlock.cli.common import chosen_files, taken, writing
from weighlock.cli.opening import NO, exit_code, opened
from weighlock.cli.output import Output, Piece
from weighlock.errors import WeighlockError
from weighlock.inspection.globs import chooser
from weighlock.inspection.inventory import Inventory, TensorRow, take_inventory
from weighlock.text import safe_text

__all__ = ["list_files"]

_COLUMNS: Final = ("key", "dtype", "shape", "nbytes", "storage", "storage_offset", "contiguous")
_LONG_COLUMNS: Final = (*_COLUMNS, "stride", "layout", "requires_grad", "alias_of")
_KEY_WIDTH: Final = 72

Rows = list[TensorRow]


class Choice(NamedTuple):
    """Which rows of a listing are wanted, and how."""

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    long: bool = False


def list_files(files: Sequence[str] = (), **options: Any) -> int:
    """List the tensors of each file; return the exit code. The options are those of `Choice` and `Common`."""
    files = chosen_files(files, options.pop("files_from", None), null=options.pop("null", False))
    common, choice = taken(options), Choice(**options)
    failures: list[WeighlockError] = []
    gaps: list[str] = []
    listed: list[Listed] = []
    with writing(common, files) as output:
        for name, found in opened(files, common.encoding, output, failures):
            if isinstance(found, WeighlockError):
                listed.append(Listed(name, found, []))
                continue
            inventory = take_inventory(found)
            gaps += inventory.gaps
            made = Listed(name, found, _matching(inventory.rows, choice.include, choice.exclude), inventory)
            listed.append(made)
            if not output.json:
                _write(made, common.form, output, long=choice.long, several=len(files) > 1, first=len(listed) == 1)
        if output.json:
            _write_documents(listed, common.form, output)
        if not any(one.rows for one in listed) and not failures and not gaps and (choice.include or choice.exclude):
            output.note("no key matches")
            return NO
    return exit_code(files, failures, gaps)


class Listed(NamedTuple):
    """One file: the rows that were chosen, and all that it holds or what is wrong with it."""

    name: str
    checkpoint: Checkpoint | WeighlockError
    rows: Rows
    inventory: Inventory | None = None


# Reason for the parameter count: what is written and how it is shown, each passed by name.
def _write(listed: Listed, form: str, output: Output, *, long: bool, several: bool, first: bool) -> None:
    inventory = listed.inventory
    if inventory is None:
        return
    prefix = [listed.name] if several else []
    for gap in inventory.gaps:
        output.note(f"{listed.name}: {gap}")
    if form == "text":
        output.lines(_text(prefix, listed.rows, inventory, long=long))
    else:
        from weighlock.cli.tables import write_table

        columns = [*(["file"] if prefix else []), *(_LONG_COLUMNS if long else _COLUMNS)]
        write_table(output, form, columns, _cells(prefix, listed.rows, long=long), heading=first)


def _write_documents(listed: Sequence[Listed], form: str, output: Output) -> None:
    from weighlock.cli.documents import document, failed_input, input_document, tensor_document

    inputs = []
    for name, checkpoint, rows, inventory in listed:
        if isinstance(checkpoint, WeighlockError):
            inputs.append(failed_input(name, checkpoint))
        else:
            gaps = inventory.gaps if inventory is not None else ()
            inputs.append(input_document(checkpoint.name, checkpoint.size, checkpoint.format, gaps))
        inputs[-1]["tensors"] = [tensor_document(row) for row in rows]
    if form == "json":
        output.document(document("weighlock/ls", inputs=inputs))
        return
    for entry in inputs:
        if entry["error"] is not None:
            output.document({"uri": entry["uri"], "error": entry["error"]})
        for tensor in entry["tensors"]:
            output.document({"uri": entry["uri"], **tensor})


def _matching(rows: Rows, include: Sequence[str], exclude: Sequence[str]) -> Rows:
    if not include and not exclude:
        return rows
    wanted = chooser(include, exclude)
    return [row for row in rows if wanted(row.key)]


def _text(prefix: list[str], rows: Rows, inventory: Inventory, *, long: bool) -> Iterator[Sequence[Piece]]:
    if prefix:
        yield [(f"{prefix[0]}:", "name")]
    columns = [
        (safe_text(row.key), wording.kind(row.leaf), wording.shape(row.leaf.shape), wording.size(row.leaf.nbytes))
        for row in rows
    ]
    widths = [max((len(cells[number]) for cells in columns), default=0) for number in range(4)]
    widths[0] = min(widths[0], _KEY_WIDTH)
    for row, (key, kind, shape, size) in zip(rows, columns, strict=True):
        pieces: list[Piece] = [
            key.ljust(widths[0]), "  ", (kind.ljust(widths[1]), "type"), f"  {shape:<{widths[2]}}  {size:>{widths[3]}}"
        ]  # fmt: skip
        if long:
            pieces.append(f"  {_long(row)}")
        if row.alias_of is not None:
            pieces.append((f"  = {inventory.rows[row.alias_of].key}", "note"))
        yield pieces


def _long(row: TensorRow) -> str:
    leaf = row.leaf
    facts = [
        f"stride {wording.shape(leaf.stride)}" if leaf.stride else "",
        "" if row.storage is None else f"storage {row.storage} + {row.storage_offset}",
        "parameter" if leaf.parameter else "",
        "requires_grad" if leaf.requires_grad else "",
        "not contiguous" if leaf.contiguous is False else "",
    ]
    return "  ".join(filter(None, facts))


def _cells(prefix: list[str], rows: Rows, *, long: bool) -> Iterator[Sequence[object]]:
    for row in rows:
        leaf = row.leaf
        cells: list[object] = [
            *prefix, row.key, leaf.dtype or "", _numbers(leaf.shape), leaf.nbytes, row.storage or "",
            "" if row.storage_offset is None else row.storage_offset, _contiguous(leaf.contiguous),
        ]  # fmt: skip
        if long:
            alias = "" if row.alias_of is None else row.alias_of
            cells += [_numbers(leaf.stride), leaf.layout, "true" if leaf.requires_grad else "false", alias]
        yield cells


def _numbers(numbers: tuple[int, ...] | None) -> str:
    return "" if numbers is None else ",".join(map(str, numbers))


def _contiguous(contiguous: bool | None) -> str:
    return "" if contiguous is None else "contiguous" if contiguous else "strided"
