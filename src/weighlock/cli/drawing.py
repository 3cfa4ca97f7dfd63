"""``weighlock tree``: the names of the tensors as a tree."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from weighlock.cli import wording
from weighlock.cli.opening import exit_code, opened
from weighlock.cli.output import Output, Piece, note
from weighlock.errors import WeighlockError
from weighlock.inspection.folding import TreeLine, fold, tree_lines
from weighlock.inspection.inventory import TensorRow, take_inventory
from weighlock.text import safe_text

__all__ = ["draw_files", "drawn_tree"]

_LABEL_LIMIT: Final = 60
_MAX_DEPTH: Final = 40
_TIMES: Final = "\N{MULTIPLICATION SIGN}"


def draw_files(
    files: Sequence[str], *, depth: int | None = None, folded: bool = True, color: str = "auto", encoding: str = "utf-8"
) -> int:
    """Draw the tensors of each file as a tree; return the exit code."""
    output = Output(color=color)
    failures: list[WeighlockError] = []
    gaps: list[str] = []
    for name, found in opened(files, encoding, output, failures):
        if isinstance(found, WeighlockError):
            continue
        inventory = take_inventory(found)
        gaps += inventory.gaps
        if len(files) > 1:
            output.line((f"{name}:", "name"))
        output.lines(drawn_tree(inventory.rows, depth=depth or _MAX_DEPTH, folded=folded))
        for gap in inventory.gaps:
            note(f"{name}: {gap}")
    return exit_code(files, failures, gaps)


def drawn_tree(
    rows: Sequence[TensorRow], *, depth: int = _MAX_DEPTH, folded: bool = True, limit: int | None = None, file: str = ""
) -> Iterator[Sequence[Piece]]:
    """Yield the lines of the tree, at most `limit` of them and then a word on the rest."""
    lines = tree_lines(fold(rows, folded=folded), min(depth, _MAX_DEPTH))
    shown = list(lines if limit is None else islice(lines, limit))
    names = [_name(line) for line in shown]
    width = max(map(len, names), default=0)
    kinds = [wording.kind(line.row.leaf) if line.row else "" for line in shown]
    kind_width = max(map(len, kinds), default=0)
    shapes = [wording.shape(line.row.leaf.shape) if line.row else "" for line in shown]
    shape_width = max(map(len, shapes), default=0)
    for line, name, kind, shape in zip(shown, names, kinds, shapes, strict=True):
        size = wording.size(line.nbytes) + (" each" if line.times > 1 else "")
        yield [
            name.ljust(width), "  ", (kind.ljust(kind_width), "type"), f"  {shape:<{shape_width}}  {size}",
            _alias(line, rows),
        ]  # fmt: skip
    rest = sum(1 for _ in lines)
    if rest:
        yield [(f"… {rest:,} more lines: weighlock tree {file}", "note")]


def _name(line: TreeLine) -> str:
    label = safe_text(line.label)  # before it is measured: an escape is longer than what it stands for
    if len(label) > _LABEL_LIMIT:
        label = f"{label[: _LABEL_LIMIT // 2]}…{label[-_LABEL_LIMIT // 2 :]}"
    return f"{line.rails}{label}{f'  {_TIMES}{line.times}' if line.times > 1 else ''}"


def _alias(line: TreeLine, rows: Sequence[TensorRow]) -> Piece:
    if line.row is None or line.row.alias_of is None:
        return ""
    first = safe_text(rows[line.row.alias_of].key)
    return f"  = {first if len(first) <= _LABEL_LIMIT else first[:_LABEL_LIMIT] + '…'}", "note"
