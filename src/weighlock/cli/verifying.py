"""``weighlock verify`` and ``weighlock manifest``: whether files are whole, and what they were when they were."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from weighlock.cli import wording
from weighlock.cli.common import STDIN, Common, check_target, chosen_files, taken, write_result, writing
from weighlock.cli.documents import document
from weighlock.cli.opening import FAILED, GOOD, INCOMPLETE, NO, spooled
from weighlock.cli.output import Output, Piece
from weighlock.cli.progress import Bar, file_size
from weighlock.errors import ArgumentError
from weighlock.inspection.kinds import file_kind
from weighlock.scanning.rules import rank
from weighlock.text import safe_text

if TYPE_CHECKING:
    from weighlock.verifying.report import FileCheck, Problem

__all__ = ["make_manifest", "verify_paths"]

_WIDEST_NAME: Final = 60
_MOST: Final = 20


class Holding(NamedTuple):
    """What files are held against, and how many are looked at together."""

    manifest: str | None = None
    lock: str | None = None
    jobs: int = 1
    allow_incomplete: bool = False


def verify_paths(paths: Sequence[str] = (), **options: Any) -> int:
    """Check what is named; return the exit code. The options are `Holding` and `Common`."""
    from weighlock.verifying.verify import checks, plan

    listed, null = options.pop("files_from", None), options.pop("null", False)
    common, holding = taken(options), Holding(**options)
    named = chosen_files(paths, listed, null=null) if paths or listed is not None else None
    if named is None and holding.manifest is None:
        raise ArgumentError("nothing to verify", hint="Name files or folders, or give --manifest FILE.")
    meant = None if named is None else [spooled() if name == STDIN else name for name in named]
    wanted = plan(meant, holding.manifest, holding.lock, None, common.encoding)
    done: list[FileCheck] = []
    total = sum(file_size(file.file) for file in wanted.files)
    with writing(common, named or []) as output, Bar(total, shown=common.progress and not common.quiet) as bar:
        for found in checks(wanted, jobs=holding.jobs, progress=bar):
            done.append(found)
            if common.form == "text":
                _write(found, output, truncate=common.truncate)
            elif common.form == "jsonl":
                output.document(document("weighlock/verify-file", **found.to_dict()))
        if common.form == "json":
            output.document(_document(done))
        elif common.form == "text" and len(done) != 1:
            output.line((_summary(done), "note"))
    return _exit_code(done, allow_incomplete=holding.allow_incomplete)


def _exit_code(done: "Sequence[FileCheck]", *, allow_incomplete: bool) -> int:
    """Return 1 for a problem, 2 where nothing could be read, 3 where something was not checked, or 0."""
    if any(found.verdict == "problems" for found in done):
        return NO
    if done and all(found.size is None and found.gaps for found in done):
        return FAILED
    incomplete = any(found.gaps for found in done) or not done
    return INCOMPLETE if incomplete and not allow_incomplete else GOOD


def _document(done: "Sequence[FileCheck]") -> dict[str, Any]:
    from weighlock.verifying.report import VERDICTS, VerifyReport

    whole = VerifyReport(tuple(done))
    counts = {name.replace(" ", "_"): sum(found.verdict == name for found in done) for name in VERDICTS}
    totals = {"files": len(done), **counts, "checked": sum(found.checked for found in done),
              "unchecked": sum(found.unchecked for found in done)}  # fmt: skip
    return document("weighlock/verify", verdict=whole.verdict, totals=totals, inputs=[one.to_dict() for one in done])


# -------------------------------------------------------------------------------------------------------------- text


def _write(found: "FileCheck", output: Output, *, truncate: bool) -> None:
    name = safe_text(found.name, limit=_WIDEST_NAME if truncate else 1 << 16)
    for problem in found.problems[:_MOST]:
        output.lines([[f"{name}  ", *line] for line in _problem(problem)])
    if len(found.problems) > _MOST:
        output.line(f"{name}  ", (f"… and {len(found.problems) - _MOST:,} more problems", "note"))
    for gap in found.gaps[:_MOST]:
        where = "" if gap.member is None else f"{gap.member}: "
        output.line(f"{name}  ", ("INCOMPLETE ", "bad"), f"{gap.rule}  ", (where, "note"), gap.message)
    hints = list(dict.fromkeys(problem.hint for problem in found.problems[:_MOST] if problem.hint))
    output.lines([[f"{name}  ", ("next       ", "note"), (hint, "note")] for hint in hints[:3]])
    if found.verdict == "sound":
        output.line(f"{name}  ", ("ok", "good"), f"         {_facts(found)}")


def _problem(problem: "Problem") -> Iterator[list[Piece]]:
    grade = problem.severity.upper() if rank(problem.severity) else "note"
    places = [problem.record] if problem.record else []
    if problem.offset is not None:
        places.append(f"byte {problem.offset:,}")
    place = f"{', '.join(places)}: " if places else ""
    where = f"  [{problem.path}]" if problem.path else ""
    yield [(f"{grade:<11}", "bad"), f"{problem.code}  ", (place, "note"), f"{problem.message}{where}"]
    facts = [f"{label} {value}" for label, value in (("expected", problem.expected), ("got", problem.got)) if value]
    if facts:
        yield [" " * 18, (", ".join(facts), "note")]


def _facts(found: "FileCheck") -> str:
    kind = file_kind(found.format or "?", {}, "little").partition(" (")[0] if found.format else "no checkpoint"
    parts = [kind]
    if found.records:
        parts.append(f"{found.records:,} record{'' if found.records == 1 else 's'}")
    if found.format:
        parts.append(f"{found.tensors:,} tensor{'' if found.tensors == 1 else 's'}")
    covered = [f"{wording.size(found.checked)} checked"] if found.checked else []
    if found.unchecked:
        covered.append(f"{wording.size(found.unchecked)} of data without a checksum")
    return ", ".join(parts) + (f"; {', '.join(covered)}" if covered else "")


def _summary(done: "Sequence[FileCheck]") -> str:
    sound = sum(found.verdict == "sound" for found in done)
    bad = sum(found.verdict == "problems" for found in done)
    incomplete = sum(bool(found.gaps) for found in done)
    parts = [f"{len(done):,} file{'' if len(done) == 1 else 's'}: {sound:,} sound"]
    parts += [f"{bad:,} with problems"] if bad else []
    parts += [f"{incomplete:,} not fully checked"] if incomplete else []
    return f"{', '.join(parts)}; {wording.size(sum(found.checked for found in done))} checked"


# ---------------------------------------------------------------------------------------------------------- manifest


def make_manifest(paths: Sequence[str] = (), **options: Any) -> int:
    """Print, or write, the manifest of what is named; return the exit code. The options are `Common`."""
    from weighlock.verifying.manifest import manifest

    named = chosen_files(paths, options.pop("files_from", None), null=options.pop("null", False))
    common: Common = taken(options)
    if common.target is not None:
        check_target(common.target, named, force=common.force)
    left_out = [] if common.target is None else [common.target]
    total = 2 * sum(map(file_size, named))
    with Bar(total, shown=common.progress and not common.quiet) as bar:
        text = manifest(named, progress=bar, exclude=left_out).to_json()
    if common.target is not None:
        write_result(common, text.encode("ascii"))
    else:
        Output(quiet=common.quiet, color="never").text(text.rstrip("\n"))
    return GOOD
