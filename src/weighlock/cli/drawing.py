"""``weighlock tree``: the names of the tensors as a tree."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from weighlock.cli import wording
from weighlock.cli.common import chosen_files, taken, writing
from weighlock.cli.opening import exit_code, opened
from weighlock.cli.output import Piece
from weighlock.errors import WeighlockError
from weighlock.inspection.folding import TreeLine, grow, tree_lines
from weighlock.inspection.globs import chooser
from weighlock.inspection.inventory import TensorRow, take_inventory
from weighlock.text import safe_text

__all__ = ["draw_files", "drawn_tree"]

_LABEL_LIMIT: Final = 60
_MAX_DEPTH: Final = 40
_TIMES: Final = "\N{MULTIPLICATION SIGN}"


class Choice(NamedTuple):
    """What is drawn, and how."""

    depth: int | None = None
    folded: bool = True
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()


def draw_files(files: Sequence[str] = (), **options: Any) -> int:
    """Draw the tensors of each file as a tree; return the exit code. The options are those of `Choice` and `Common`."""
    files = chosen_files(files, options.pop("files_from", None), null=options.pop("null", False))
    common, choice = taken(options), Choice(**options)
    failures: list[WeighlockError] = []
    gaps: list[str] = []
    wanted = chooser(choice.include, choice.exclude)
    with writing(common, files) as output:
        for name, found in opened(files, common.encoding, output, failures):
            if isinstance(found, WeighlockError):
                continue
            inventory = take_inventory(found)
            gaps += inventory.gaps
            if len(files) > 1:
                output.line((f"{name}:", "name"))
            rows = [row for row in inventory.rows if wanted(row.key)]
            depth = choice.depth or _MAX_DEPTH
            output.lines(drawn_tree(rows, depth=depth, folded=choice.folded, truncate=common.truncate))
            for gap in inventory.gaps:
                output.note(f"{name}: {gap}")
    return exit_code(files, failures, gaps)


# Reason for the parameter count: what is drawn, and how much of it; each is passed by name.
def drawn_tree(
    rows: Sequence[TensorRow], *, depth: int = _MAX_DEPTH, folded: bool = True, limit: int | None = None,
    file: str = "", truncate: bool = True,
) -> Iterator[Sequence[Piece]]:  # fmt: skip
    """Yield the lines of the tree, at most `limit` of them and then a word on the rest."""
    by_index = {row.index: row for row in rows}
    length = _LABEL_LIMIT if truncate else 0
    lines = tree_lines(grow(rows), min(depth, _MAX_DEPTH), folded=folded)
    shown = list(lines if limit is None else islice(lines, limit))
    names = [_name(line, length) for line in shown]
    width = max(map(len, names), default=0)
    kinds = [wording.kind(line.row.leaf) if line.row else "" for line in shown]
    kind_width = max(map(len, kinds), default=0)
    shapes = [wording.shape(line.row.leaf.shape) if line.row else "" for line in shown]
    shape_width = max(map(len, shapes), default=0)
    for line, name, kind, shape in zip(shown, names, kinds, shapes, strict=True):
        size = wording.size(line.nbytes) + (" each" if line.times > 1 else "")
        yield [
            name.ljust(width), "  ", (kind.ljust(kind_width), "type"), f"  {shape:<{shape_width}}  {size}",
            _alias(line, by_index, length),
        ]  # fmt: skip
    rest = sum(1 for _ in lines)
    if rest:
        yield [(f"… {rest:,} more lines: weighlock tree {file}", "note")]


def _name(line: TreeLine, limit: int) -> str:
    # Escaped before it is measured: an escape is longer than what it stands for.
    label = wording.short(safe_text(line.label), limit)
    return f"{line.rails}{label}{f'  {_TIMES}{line.times}' if line.times > 1 else ''}"


def _alias(line: TreeLine, by_index: Mapping[int, TensorRow], limit: int) -> Piece:
    if line.row is None or line.row.alias_of is None:
        return ""
    row = by_index.get(line.row.alias_of)
    first = safe_text(row.key) if row is not None else "(a tensor that is not shown)"
    return f"  = {first if not limit or len(first) <= limit else first[:limit] + '…'}", "note"
