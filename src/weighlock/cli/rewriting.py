"""``weighlock convert`` and ``weighlock edit``: a checkpoint written again, in another form or under other names."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

from weighlock.cli import wording
from weighlock.cli.common import STDIN, STDOUT, Common, chosen_files, taken, writing
from weighlock.cli.documents import document, failed_input
from weighlock.cli.opening import GOOD, exit_code, open_checkpoint
from weighlock.cli.output import Output, Piece, complain
from weighlock.cli.progress import Bar
from weighlock.errors import ArgumentError, WeighlockError
from weighlock.inspection.kinds import file_kind
from weighlock.text import safe_text

if TYPE_CHECKING:
    from weighlock.checkpoint import Checkpoint
    from weighlock.converting.conversion import ConvertReport
    from weighlock.converting.edits import EditReport
    from weighlock.converting.jobs import Job, Outcome, Target

__all__ = ["convert_file", "convert_files", "edit_file"]

Line = Sequence[Piece]

_STDOUT: Final = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
_SHOWN: Final = 8
_KEY_WIDTH: Final = 72
_INDENT: Final = 12
_ENDING_OF: Final = {"torch-zip": ".pt", "torch-legacy": ".pt", "safetensors": ".safetensors", "npz": ".npz"}
# The longest first: `.pth.tar` is one ending.
_ENDINGS: Final = (
    ".pth.tar", ".safetensors", ".index.json", ".ckpt", ".gguf", ".pth", ".bin", ".npz", ".npy", ".pkl", ".pt", ".th",
)  # fmt: skip
_TIMES: Final = "\N{MULTIPLICATION SIGN}"


class Wish(NamedTuple):
    """What both commands take of the new file."""

    to: str | None = None
    aliases: str = "record"
    metadata: Sequence[str] = ()
    verify: bool = True
    durable: bool = False


class Choice(NamedTuple):
    """What `convert` takes beside `Common`."""

    take: str = "all"
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    dtype: str | None = None
    max_shard_size: str | None = None
    to: str | None = None
    aliases: str = "record"
    metadata: Sequence[str] = ()
    verify: bool = True
    durable: bool = False


def convert_file(src: str, dst: str, **options: Any) -> int:
    """Convert a file; return the exit code. The options are those of `Choice` and `Common`."""
    common, choice = taken(options), Choice(**options)
    dst, stream = _stdout_or(dst, common)
    with writing(common, (src, dst), stream) as output:
        _convert(src, dst, common, choice, output)
    return GOOD


def convert_files(
    sources: Sequence[str], folder: str, *, files_from: str | None = None, null: bool = False, **options: Any
) -> int:
    """Convert each of several files into a folder; return the exit code: one bad file stops no other.

    Parameters
    ----------
    sources : sequence of str
    folder : str
        It has to be there; each file keeps its name, with the ending of its new format.
    files_from, null
        As in `chosen_files`.
    **options
        Those of `Choice` and `Common`.

    Raises
    ------
    ArgumentError
        If the format is not named, two files would get one name, or the folder is none. Nothing is written then.
    """
    files = chosen_files(sources, files_from, null=null)
    common, choice = taken(options), Choice(**options)
    if common.form == "json":
        raise ArgumentError("one JSON document is of one file", hint="--format jsonl has one document a line.")
    targets = _targets_in(folder, files, choice.to)
    failures: list[WeighlockError] = []
    with writing(common, [*files, *targets]) as output:
        for src, dst in zip(files, targets, strict=True):
            try:
                _convert(src, dst, common, choice, output)
            except WeighlockError as error:
                failures.append(error)
                if output.json:
                    failed = failed_input(src, error)
                    output.document({"uri": failed["uri"], "error": failed["error"]})
                else:
                    complain(error)
    return exit_code(files, failures, ())


def _targets_in(folder: str, files: Sequence[str], to: str | None) -> list[str]:
    """Return the new file of each file."""
    if to is None:
        raise ArgumentError("the format of several new files is not named", hint="Name it: --to safetensors.")
    if not os.path.isdir(folder):
        raise ArgumentError(
            "several files are written into a folder, and this is none", got=folder, hint="Make it first: mkdir."
        )  # fmt: skip
    made: dict[str, str] = {}
    for file in files:
        stem = "stdin" if file == STDIN else os.path.basename(file.partition("?")[0].rstrip("/"))
        known = next((ending for ending in _ENDINGS if stem.lower().endswith(ending)), "")
        target = os.path.join(folder, stem[: len(stem) - len(known)] + _ENDING_OF[to])
        if target in made:
            raise ArgumentError("two files would be written to one name", got=f"{made[target]}, {file}",
                                hint="Convert one of them by itself.")  # fmt: skip
        made[target] = file
    return list(made)


def _convert(src: str, dst: str, common: Common, choice: Choice, output: Output) -> None:
    from weighlock.converting.conversion import Part, converting
    from weighlock.converting.jobs import format_for

    wish = Wish(*(getattr(choice, name) for name in Wish._fields))
    part = Part(choice.take, tuple(choice.include), tuple(choice.exclude), choice.dtype)
    target = _target(dst, wish, common)._replace(max_shard_size=choice.max_shard_size)
    target = target._replace(format=format_for(target.path, wish.to))
    with converting(_opened(src, common), target, part) as made:
        report = made.report(_run(made.job, common))
    if output.json:
        output.document(_converted(report))
    else:
        output.lines(_conversion_lines(report, common))


def edit_file(src: str, dst: str, **options: Any) -> int:
    """Edit a file; return the exit code. The options are those of `Wish`, `Changes` and `Common`."""
    from weighlock.converting.edits import Changes, editing

    common = taken(options)
    wish = Wish(**{name: options.pop(name) for name in Wish._fields if name in options})
    changes = Changes(
        replace=_arrays(options.pop("replace", ())), cast=_casts(options.pop("cast", ())),
        rename=[_pair(text, "a rule is OLD=NEW") for text in options.pop("rename", ())], **options,
    )  # fmt: skip
    dst, stream = _stdout_or(dst, common)
    with writing(common, (src, dst), stream) as output:
        target = _target(dst, wish, common)
        with editing(_opened(src, common), target, changes) as made:
            report = made.report(_run(made.job, common))
        if common.form == "json":
            output.document(_edited(report))
        else:
            output.lines(_edit_lines(report, common))
    return GOOD


def _stdout_or(dst: str, common: Common) -> tuple[str, TextIO | None]:
    """Return the path of a target, and where the report goes if the new file itself goes to standard output."""
    path = _STDOUT[0] if dst == STDOUT else dst
    if path not in _STDOUT:
        return path, None
    if sys.stdout.isatty() and not common.dry_run:
        raise ArgumentError("a checkpoint is not written to a terminal", got=dst,
                            hint="Send it on: > model.safetensors, or a pipe.")  # fmt: skip
    sys.stdout.flush()
    return path, sys.stderr


def _opened(src: str, common: Common) -> "Checkpoint":
    return open_checkpoint(src, common.encoding)


def _target(dst: str, wish: Wish, common: Common) -> "Target":
    from weighlock.converting.jobs import Target, target_of

    metadata = dict(_pair(text, "metadata are KEY=VALUE") for text in wish.metadata) or None
    path = target_of(dst, force=common.force)
    return Target(path, wish.to or "", None, wish.aliases, metadata, wish.verify, wish.durable, common.force)


def _run(job: "Job", common: Common) -> "Outcome | None":
    if common.dry_run:
        return None
    with Bar(job.work, shown=common.progress and not common.quiet) as bar:
        return job.run(bar)


def _pair(text: str, what: str) -> tuple[str, str]:
    old, found, new = text.partition("=")
    if not found or not old:
        raise ArgumentError(what, got=text[:80])
    return old, new


def _arrays(given: Sequence[str]) -> dict[str, Any]:
    """Return the arrays that are named as KEY=FILE.npy."""
    made: dict[str, Any] = {}
    for text in given:
        key, path = _pair(text, "a replacement is KEY=FILE.npy")
        from weighlock.loading import load

        found = load(path)
        if not hasattr(found, "shape"):
            raise ArgumentError("the file holds no single array", got=path, hint="Save it with numpy.save.")
        made[key] = found
    return made


def _casts(given: Sequence[str]) -> Any:
    """Return what is cast to what: DTYPE for all floating-point tensors, DTYPE:GLOB for those that fit."""
    if not given:
        return None
    rules = [text.partition(":") for text in given]
    plain = [dtype for dtype, found, _ in rules if not found]
    if plain and len(rules) > 1:
        raise ArgumentError("a cast of everything stands beside others", got=", ".join(given)[:80],
                            hint="Give each its GLOB: --cast float16:'**'.")  # fmt: skip
    return plain[0] if plain else {pattern: dtype for dtype, _, pattern in rules}


# ----------------------------------------------------------------------------------------------------- documents


def _facts(report: "ConvertReport | EditReport") -> dict[str, Any]:
    return {
        "source": {"uri": report.source, "format": report.source_format},
        "target": {"uri": report.target, "format": report.format},
        "written": report.written, "verified": report.verified, "files": report.files, "nbytes": report.nbytes,
        "tensors": report.tensors, "aliases": report.aliases, "unknown": list(report.unknown),
        "cast": [{"key": key, "from": old, "to": new} for key, (old, new) in report.cast.items()],
    }  # fmt: skip


def _converted(report: "ConvertReport") -> dict[str, Any]:
    return document("weighlock/convert", **_facts(report), copies=report.copies, left_out=report.left_out)


def _edited(report: "EditReport") -> dict[str, Any]:
    renamed = [{"from": old, "to": new} for old, new in report.renamed.items()]
    return document(
        "weighlock/edit", **_facts(report), renamed=renamed, left_out=report.dropped, replaced=report.replaced
    )


# ---------------------------------------------------------------------------------------------------------- text


def _conversion_lines(report: "ConvertReport", common: Common) -> Iterator[Line]:
    yield _headline(report)
    yield from _casts_line(report.cast)
    yield from _listing("shared", [f"{name} = {of}" for name, of in report.aliases.items()], common)
    yield from _listing("copied", report.copies, common)
    yield from _listing("left out", report.left_out, common)
    yield from _unknown(report.unknown, common)


def _edit_lines(report: "EditReport", common: Common) -> Iterator[Line]:
    yield _headline(report)
    yield from _listing("renamed", [f"{old} → {new}" for old, new in report.renamed.items()], common)
    yield from _casts_line(report.cast)
    yield from _listing("replaced", report.replaced, common)
    yield from _listing("shared", [f"{name} = {of}" for name, of in report.aliases.items()], common)
    yield from _listing("left out", report.dropped, common)
    yield from _unknown(report.unknown, common)


def _headline(report: "ConvertReport | EditReport") -> Line:
    kind = file_kind(report.format, {}, "little")
    several = "" if len(report.files) == 1 else f" in {len(report.files):,} files"
    verb = "wrote" if report.written else "would write"
    tensors = f"{report.tensors:,} tensor{'' if report.tensors == 1 else 's'}"
    # Nobody knows how much a pipe has taken.
    size = "" if report.written and not report.nbytes else f" · {wording.size(report.nbytes)}"
    size += "" if report.written else " of data"
    checked = " · read back and compared" if report.verified else ""
    return [
        (f"{verb:<{_INDENT}}", "note"),
        (report.target, "name"),
        f"   {kind}{size}{several} · {tensors}{checked}",
    ]


def _casts_line(cast: Mapping[str, tuple[str, str]]) -> Iterator[Line]:
    counts: dict[tuple[str, str], int] = {}
    for kinds in cast.values():
        counts[kinds] = counts.get(kinds, 0) + 1
    for (old, new), count in counts.items():
        yield [(f"{'cast':<{_INDENT}}", "note"), f"{count:,} {_TIMES} {old} → {new}"]


def _listing(what: str, names: Sequence[str], common: Common) -> Iterator[Line]:
    """Yield the first of some names, one a line, and how many more there are."""
    limit = _SHOWN if common.truncate else len(names)
    for index, name in enumerate(names[:limit]):
        text = wording.short(safe_text(name), _KEY_WIDTH) if common.truncate else safe_text(name)
        yield [(f"{'' if index else what:<{_INDENT}}", "note"), text]
    if len(names) > limit:
        yield [" " * _INDENT, (f"… {len(names) - limit:,} more: --no-truncate lists them", "note")]


def _unknown(names: Sequence[str], common: Common) -> Iterator[Line]:
    yield from _listing("unknown", [f"{name}: kept, not built" for name in names], common)
