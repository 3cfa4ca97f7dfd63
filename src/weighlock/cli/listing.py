"""``weighlock ls``: one line per tensor."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from weighlock.checkpoint import Checkpoint
from weighlock.cli import wording
from weighlock.cli.opening import NO, exit_code, opened
from weighlock.cli.output import Output, Piece, note
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
    form: str = "text"


def list_files(
    files: Sequence[str], *, as_json: bool = False, color: str = "auto", encoding: str = "utf-8", **options: Any
) -> int:
    """List the tensors of each file; return the exit code. The options are those of `Choice`."""
    choice = Choice(**options)
    form = "json" if as_json else choice.form
    output = Output(json=form == "json", color=color)
    failures: list[WeighlockError] = []
    gaps: list[str] = []
    listed: list[Listed] = []
    for name, found in opened(files, encoding, output, failures):
        if isinstance(found, WeighlockError):
            listed.append(Listed(name, found, []))
            continue
        inventory = take_inventory(found)
        gaps += inventory.gaps
        made = Listed(name, found, _matching(inventory.rows, choice.include, choice.exclude), inventory)
        listed.append(made)
        if form != "json":
            _write(made, choice, output, several=len(files) > 1, first=len(listed) == 1)
    if form == "json":
        _write_document(listed, output)
    if not any(one.rows for one in listed) and not failures and not gaps and (choice.include or choice.exclude):
        note("no key matches")
        return NO
    return exit_code(files, failures, gaps)


class Listed(NamedTuple):
    """One file: the rows that were chosen, and all that it holds or what is wrong with it."""

    name: str
    checkpoint: Checkpoint | WeighlockError
    rows: Rows
    inventory: Inventory | None = None


def _write(listed: Listed, choice: Choice, output: Output, *, several: bool, first: bool) -> None:
    inventory = listed.inventory
    if inventory is None:
        return
    prefix = [listed.name] if several else []
    for gap in inventory.gaps:
        note(f"{listed.name}: {gap}")
    if choice.form == "text":
        output.lines(_text(prefix, listed.rows, inventory, long=choice.long))
    else:
        comma = choice.form == "csv"
        output.cells(_cells(prefix, listed.rows, long=choice.long, heading=comma and first), comma=comma)


def _write_document(listed: Sequence[Listed], output: Output) -> None:
    from weighlock.cli.documents import document, failed_input, input_document, tensor_document

    inputs = []
    for name, checkpoint, rows, inventory in listed:
        if isinstance(checkpoint, WeighlockError):
            inputs.append(failed_input(name, checkpoint))
        else:
            gaps = inventory.gaps if inventory is not None else ()
            inputs.append(input_document(checkpoint.name, checkpoint.size, checkpoint.format, gaps))
        inputs[-1]["tensors"] = [tensor_document(row) for row in rows]
    output.document(document("weighlock/ls", inputs=inputs))


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


def _cells(prefix: list[str], rows: Rows, *, long: bool, heading: bool) -> Iterator[Sequence[object]]:
    if heading:
        yield [*(["file"] if prefix else []), *(_LONG_COLUMNS if long else _COLUMNS)]
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
