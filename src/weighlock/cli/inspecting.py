"""``weighlock inspect``: one page on each file."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from weighlock.cli import wording
from weighlock.cli.common import Common, chosen_files, taken, writing
from weighlock.cli.documents import document, failed_input, summary_document
from weighlock.cli.drawing import drawn_tree
from weighlock.cli.opening import NO, exit_code, opened
from weighlock.cli.output import Output, Piece
from weighlock.errors import WeighlockError
from weighlock.inspection.globs import chooser
from weighlock.inspection.kinds import file_kind
from weighlock.inspection.paths import part_text
from weighlock.inspection.sharing import unused
from weighlock.inspection.summary import Held, Summary, narrowed, summarize

__all__ = ["inspect_files"]

Line = Sequence[Piece]

_NAMED: Final = 6
_TREE_LINES: Final = 40
_NAME_LIMIT: Final = 60


class Choice(NamedTuple):
    """Globs over the keys of the tensors that are counted and drawn."""

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()


def inspect_files(files: Sequence[str] = (), **options: Any) -> int:
    """Say what each file is, what is inside, whether it can be loaded; return the exit code.

    The options are those of `Choice` and `Common`.
    """
    files = chosen_files(files, options.pop("files_from", None), null=options.pop("null", False))
    common, choice = taken(options), Choice(**options)
    failures: list[WeighlockError] = []
    gaps: list[str] = []
    inputs: list[dict[str, Any]] = []
    shown = matching = 0
    wanted = chooser(*choice) if choice.include or choice.exclude else None
    with writing(common, files) as output:
        for name, found in opened(files, common.encoding, output, failures):
            if isinstance(found, WeighlockError):
                inputs.append(failed_input(name, found))
                continue
            summary = summarize(found)
            gaps += summary.gaps
            if wanted is not None:
                summary = narrowed(summary, wanted)
                matching += len(summary.tensors)
            if output.json:
                inputs.append(summary_document(summary))
                continue
            output.lines(([[]] if shown else []) + list(_page(summary, common, drawn=2 if wanted is None else 1)))
            shown += 1
            for gap in summary.gaps:
                output.note(f"{name}: {gap}")
        _write_documents(inputs, common.form, output)
        if wanted is not None and not matching and not failures and not gaps:
            output.note("no key matches")
            return NO
    return exit_code(files, failures, gaps)


def _write_documents(inputs: Sequence[dict[str, Any]], form: str, output: Output) -> None:
    if form == "json":
        output.document(document("weighlock/inspect", inputs=inputs))
    elif form == "jsonl":
        for entry in inputs:
            output.document(document("weighlock/inspect", inputs=[entry]))


def _page(summary: Summary, common: Common, *, drawn: int) -> Iterator[Line]:
    """Yield the page; the tree where there are as many tensors as `drawn`."""
    kind = file_kind(summary.format, summary.metadata, summary.byteorder)
    yield [(summary.name, "name"), f"   {kind}   {wording.size(summary.size)}"]
    for label, text in _facts(summary):
        style = {"verdict": "bad" if summary.unknown or summary.opaque else "good"}.get(label)
        yield [(f"  {label:<9} ", "note"), (text, style) if style else text]
    if len(summary.tensors) >= drawn:
        yield []
        limit = _TREE_LINES if common.truncate else None
        yield from drawn_tree(summary.tensors, limit=limit, file=summary.name, truncate=common.truncate)


def _facts(summary: Summary) -> Iterator[tuple[str, str]]:
    yield "holds", _holds(summary)
    totals = summary.totals
    if totals.tensors:
        dtypes = " · ".join(
            f"{share.dtype} {wording.share(share.nbytes, totals.tensor_bytes)}" for share in summary.dtypes[:_NAMED]
        )
        yield (
            "params",
            (
                f"{wording.count(totals.parameters)}   bytes {wording.size(totals.storage_bytes)} in "
                f"{_plural(totals.storages, 'storage')}   dtypes {dtypes}"
            ),
        )
    sharing = " ; ".join(_sharing(summary))
    if sharing:
        yield "sharing", sharing
    if summary.globals:
        unknown = [row for row in summary.globals if not row.known]
        names = [row.name for row in (*unknown, *(row for row in summary.globals if row.known))]
        yield "imports", _some([name if at >= len(unknown) else f"{name} (unknown)" for at, name in enumerate(names)])
    for row in [row for row in summary.globals if not row.known and row.paths][:_NAMED]:
        yield "unknown", f"{_short(row.name)} at {_some([_path(path) for path in row.paths], ', ')}"
    yield "verdict", summary.verdict


def _path(path: tuple[Any, ...]) -> str:
    return _short(".".join(map(part_text, path)) or "(top)")


def _short(text: str) -> str:
    return wording.short(text, _NAME_LIMIT)


def _plural(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _some(texts: Sequence[str], separator: str = " · ", count: int = 0) -> str:
    """Join the first texts; `count` is how many there are, where not all were made."""
    more = max(count, len(texts)) - _NAMED
    return separator.join(map(_short, texts[:_NAMED])) + (f"{separator}{more:,} more" if more > 0 else "")


def _holds(summary: Summary) -> str:
    # Of an object that was not built, what has no tensors is the machinery of its class.
    built = summary.kind not in summary.unknown
    held = [item for item in summary.held if item.tensors or built]
    bare, count = summary.held_tensors, len(held) + summary.held_more
    if not held:
        return _short(summary.kind)
    if bare == count:
        return f"{_short(summary.kind)} of {_plural(bare, 'tensor')}"
    others = (item for item in held if item.kind != "tensor")
    texts = [*([_plural(bare, "tensor")] if bare else []), *map(_held, islice(others, _NAMED))]
    return f"{_short(summary.kind)}: {_some(texts, count=count - bare + bool(bare))}"


def _held(item: Held) -> str:
    key = part_text(item.key)
    if item.text is not None:
        return f"{key}={item.text}"
    if item.kind == "numpy array":
        return f"{key} (numpy array)"
    if item.tensors:
        return f"{key} ({_plural(item.tensors, 'tensor')})"
    return f"{key}={item.kind} (not built)" if item.items is None else f"{key} ({item.kind} of {item.items:,})"


def _sharing(summary: Summary) -> Iterator[str]:
    rows = {row.index: row for row in summary.tensors}
    if summary.aliases:
        first = summary.aliases[0]
        saved = sum(rows[index].leaf.nbytes for group in summary.aliases for index in group[1:])
        named = " = ".join(_short(rows[index].key) for index in first[:3]) + (" = …" if len(first) > 3 else "")
        yield f"{_plural(len(summary.aliases), 'group')}: {named} ({wording.size(saved)} saved)"
    overlapping = [index for row in summary.storages for index in row.overlapping]
    if overlapping:
        keys = _some([rows[index].key for index in overlapping[:3]], ", ")
        yield f"{_plural(len(overlapping), 'view')} overlap others: {keys}"
    wasteful = list(unused(summary.storages))
    if wasteful:
        worst = max(wasteful, key=lambda row: row.nbytes - row.used)
        keys = _short(rows[worst.tensors[0]].key) if worst.tensors else f"storage {worst.name}"
        yield f"{wording.size(sum(row.nbytes - row.used for row in wasteful))} that no tensor uses (most beside {keys})"
