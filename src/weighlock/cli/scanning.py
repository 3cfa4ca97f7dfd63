"""``weighlock scan``: files to reports, one after the other or in several processes, and reports to one document."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from weighlock.cli import scan_policy as policies
from weighlock.cli.opening import GOOD
from weighlock.cli.output import Output, Progress, as_json, note, written_to
from weighlock.cli.scan_policy import Known, Policy
from weighlock.errors import ArgumentError, SourceError
from weighlock.limits import Limits
from weighlock.scanning.report import FileReport, Gap
from weighlock.scanning.rules import rank
from weighlock.scanning.scan import allowing, expand, scan_file

__all__ = ["scan_paths"]

_CHUNK: Final = 16
_TIDY_EVERY: Final = 16 * _CHUNK
_HUBCONF: Final = "hubconf.py"


# Reason for the parameters: the options of the command, one to one.
def scan_paths(
    paths: Sequence[str], *, form: str = "text", output: str | None = None, fail_on: str | None = None,
    allow: Sequence[str] = (), exclude: Sequence[str] = (), files_from: str | None = None, policy: str | None = None,
    baseline: str | None = None, write_baseline: str | None = None, deep: bool = False,
    allow_incomplete: bool = False, jobs: int = 1, quiet: bool = False, color: str = "auto",
) -> int:  # fmt: skip
    """Scan what is named; return the exit code."""
    read = policies.read_policy(policy)
    rules = read._replace(
        fail_on=fail_on or read.fail_on, allow=(*read.allow, *allow), exclude=(*read.exclude, *exclude),
        deep=deep or read.deep, allow_incomplete=allow_incomplete or read.allow_incomplete,
    )  # fmt: skip
    known = policies.read_baseline(baseline) if baseline is not None else {}
    named = [*paths, *_listed(files_from)]
    if not named:
        raise ArgumentError("nothing to scan", hint="Name files or folders, or give --files-from FILE.")
    items = list(expand(named, rules.exclude))
    hashed = baseline is not None or write_baseline is not None
    reports = _finished(items, _repositories(named), rules, jobs=jobs, quiet=quiet, hashed=hashed)
    with written_to(output) as stream:
        done = _WRITERS[form](reports, stream, _Look(color, known, quiet=quiet))
    if write_baseline is not None:
        count = policies.write_baseline(write_baseline, done)
        note(f"{count:,} findings are known from now on: {write_baseline}")
        return GOOD
    return policies.exit_code(done, rules, known)


def _listed(path: str | None) -> list[str]:
    """Return the paths in a file, one a line."""
    if path is None:
        return []
    try:
        if path == "-":
            return [line for line in sys.stdin.read().splitlines() if line.strip()]
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return [line for line in file.read().splitlines() if line.strip()]
    except OSError as error:
        raise SourceError(f"the list of files cannot be read: {error.strerror}", path=path) from error


def _finished(
    items: Sequence[tuple[Any, bool]], repositories: Sequence[FileReport], rules: Policy, *, jobs: int, quiet: bool,
    hashed: bool,
) -> Iterator[FileReport]:  # fmt: skip
    """Give each report as the policy grades it, with the file's digest where a baseline needs it."""
    progress = Progress(len(items), quiet=quiet)
    try:
        for report in (*repositories, *_reports(items, rules, jobs)):
            progress.step(report.name)
            found = policies.graded(report, rules.severity)
            if hashed and any(rank(finding.severity) for finding in found.findings):
                found = found._replace(sha256=policies.digest(found.name))
            yield found
    finally:
        progress.close()


def _repositories(named: Sequence[str]) -> list[FileReport]:
    """Report on the folders that are repositories: from the text of their hubconf."""
    found = []
    for folder in named:
        path = os.path.join(folder, _HUBCONF)
        if os.path.isdir(folder) and os.path.isfile(path):
            from weighlock.errors import HubError
            from weighlock.hub import surface
            from weighlock.scanning.repositories import judge_repository

            try:
                found.append(judge_repository(path, surface.inspect(folder, source="local", offline=True)))
            except HubError as error:
                found.append(FileReport(path, format="repository", gaps=(Gap("WL906", error.what),)))
    return found


# ------------------------------------------------------------------------------------------------------ the processes


def _reports(items: Sequence[tuple[Any, bool]], rules: Policy, jobs: int) -> Iterator[FileReport]:
    workers = min(jobs or os.cpu_count() or 1, -(-len(items) // _CHUNK))
    if workers <= 1:
        allowed = allowing(rules.allow)
        for count, (item, walked) in enumerate(items, 1):
            yield scan_file(item, limits=rules.limits, deep=rules.deep, allowed=allowed, walked=walked)
            _tidy(count)
        return
    allowing(rules.allow)  # complains here, not in every process
    yield from _in_processes(items, rules, workers)


def _tidy(count: int) -> None:
    """Collect garbage once in a while: the command runs with the collector off, and a scan may take hours."""
    if count % _TIDY_EVERY == 0:
        import gc

        gc.collect()


def _in_processes(items: Sequence[tuple[Any, bool]], rules: Policy, workers: int) -> Iterator[FileReport]:
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    chunks = [list(items[at : at + _CHUNK]) for at in range(0, len(items), _CHUNK)]
    setting = rules.limits, rules.deep, rules.allow

    def pool(count: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(count, get_context("spawn"), initializer=_prepare, initargs=setting)

    with pool(workers) as many:
        futures = [many.submit(_scan_chunk, chunk) for chunk in chunks]
        for future, chunk in zip(futures, chunks, strict=True):
            try:
                yield from future.result()
            except BrokenProcessPool:
                # One file has taken a whole process with it. Each of these is scanned in a process of its own.
                yield from _one_by_one(chunk, pool, BrokenProcessPool)


def _one_by_one(
    chunk: Sequence[tuple[Any, bool]], pool: Callable[[int], Any], broken: type[Exception]
) -> Iterator[FileReport]:
    for item in chunk:
        try:
            with pool(1) as alone:
                yield from alone.submit(_scan_chunk, [item]).result()
        except broken:
            what = "the process that scanned it has died"
            yield FileReport(str(item[0]), gaps=(Gap("WL904", what),))


_prepared: dict[str, Any] = {}
_done: Final = [0]  # files that this process has scanned


def _prepare(limits: Limits | None, deep: bool, allow: Sequence[str]) -> None:
    """Set up a process that scans."""
    import gc

    gc.disable()
    _prepared.update(limits=limits, deep=deep, allowed=allowing(allow))


def _scan_chunk(chunk: Sequence[tuple[Any, bool]]) -> list[FileReport]:
    _done[0] += len(chunk)
    _tidy(_done[0])
    return [scan_file(item, walked=walked, **_prepared) for item, walked in chunk]


# ------------------------------------------------------------------------------------------------------ the documents


class _Look:
    """How a report is shown: colours, what is known already, and whether only what is wrong is said."""

    def __init__(self, color: str, known: Known, *, quiet: bool) -> None:
        self.color = color
        self.known = known
        self.quiet = quiet


def _text(reports: Iterator[FileReport], stream: Any, look: _Look) -> list[FileReport]:
    from weighlock.cli.scan_text import write_text

    return write_text(reports, Output(color=look.color, stream=stream), look.known, quiet=look.quiet)


def _json(reports: Iterator[FileReport], stream: Any, look: _Look) -> list[FileReport]:
    from weighlock.cli.scan_documents import scan_document

    done = list(reports)
    stream.write(as_json(scan_document(done, look.known)) + "\n")
    return done


def _jsonl(reports: Iterator[FileReport], stream: Any, look: _Look) -> list[FileReport]:
    from weighlock.cli.scan_documents import line_document

    done = []
    for report in reports:
        stream.write(as_json(line_document(report, look.known)) + "\n")
        stream.flush()
        done.append(report)
    return done


def _html(reports: Iterator[FileReport], stream: Any, look: _Look) -> list[FileReport]:
    from weighlock.cli.scan_page import page

    done = list(reports)
    stream.write(page(done, look.known))
    return done


def _sarif(reports: Iterator[FileReport], stream: Any, look: _Look) -> list[FileReport]:
    from weighlock.cli.sarif import sarif_log

    done = list(reports)
    stream.write(as_json(sarif_log(done, look.known)) + "\n")
    return done


_WRITERS: Final[dict[str, Callable[[Iterator[FileReport], Any, _Look], list[FileReport]]]] = {
    "text": _text, "json": _json, "jsonl": _jsonl, "html": _html, "sarif": _sarif,
}  # fmt: skip
