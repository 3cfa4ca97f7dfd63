"""`weighlock.verify`: files, folders and patterns, one report."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from weighlock.errors import ArgumentError, SourceError, WeighlockError
from weighlock.limits import Limits
from weighlock.verifying.checking import check_file, nothing
from weighlock.verifying.holding import (
    Locked,
    hold_against_lock,
    hold_against_manifest,
    locked_weights,
    missing_files,
)
from weighlock.verifying.manifest import Manifest, Progress, read_manifest
from weighlock.verifying.naming import Named, named_files, sets_in
from weighlock.verifying.report import FileCheck, Notebook, VerifyReport

__all__ = ["checks", "verify"]


def verify(
    f: Any = None, *, manifest: str | os.PathLike[str] | Manifest | None = None,
    lock: str | os.PathLike[str] | None = None, limits: Limits | None = None, encoding: str = "utf-8", jobs: int = 1,
) -> VerifyReport:  # fmt: skip
    """Say whether files are whole: every checksum, size, place, padding, and the bounds of every tensor.

    Reads every byte, a few megabytes at a time. What loading a file would run is the matter of `weighlock.scan`.

    Parameters
    ----------
    f : path, pattern, folder, address, bytes-like or file object, or a list of these
        A folder stands for all files in it; one that holds a set of files (an index, a distributed checkpoint) is
        checked as a set too. None, with a manifest on disk: the files that it lists, in its own folder.
    manifest : path or Manifest
        What `weighlock.manifest` made: each file, and each tensor, is held against it.
    lock : path
        A ``weighlock.lock``: each file is held against the entry whose address ends with its name.
    limits : Limits, optional
    encoding : str
        Of strings that Python 2 wrote.
    jobs : int
        Files that are checked at once.

    Returns
    -------
    VerifyReport
        Its `verdict` is ``"sound"``, ``"problems"``, or ``"not fully checked"``. A file that cannot be read is a gap
        in the report, not an error.

    Raises
    ------
    ArgumentError
        If nothing is named, a pattern fits nothing, or the manifest is none.
    PinError
        If the lock file cannot be read.

    Examples
    --------
    >>> import io, numpy, weighlock
    >>> file = io.BytesIO()
    >>> weighlock.save({"w": numpy.zeros(100, "f4")}, file)
    >>> weighlock.verify(file.getvalue()).verdict
    'sound'
    >>> damaged = bytearray(file.getvalue())
    >>> damaged[800] ^= 1
    >>> problem = weighlock.verify(bytes(damaged)).problems[0]
    >>> problem.code, problem.message, problem.record, problem.path
    ('WL207', 'the bytes are not the ones that were written', 'archive/data/0', 'w')
    """
    wanted = plan(f, manifest, lock, limits, encoding)
    return VerifyReport(tuple(checks(wanted, jobs=jobs)))


class Wanted(NamedTuple):
    """What is to be checked, and what it is held against."""

    files: Sequence[Named]
    manifest: Manifest | None
    locked: Sequence[Locked] | None
    complete: bool
    limits: Limits | None
    encoding: str


def plan(
    f: Any, manifest: Any, lock: Any, limits: Limits | None, encoding: str, exclude: Sequence[str] = ()
) -> Wanted:  # fmt: skip
    """Find out which files are meant; raises as `verify`."""
    listed = manifest if manifest is None or isinstance(manifest, Manifest) else read_manifest(manifest)
    locked = None if lock is None else locked_weights(lock)
    if f is None:
        if listed is None or isinstance(manifest, Manifest):
            raise ArgumentError("nothing to verify", hint="Name files or folders, or a manifest on disk.")
        folder = os.path.dirname(os.path.abspath(os.fspath(manifest)))
        files = [
            Named(os.path.join(folder, *file.name.split("/")), file.name, walked=True) for file in listed.files
            if _is_below(file.name) and os.path.exists(os.path.join(folder, *file.name.split("/")))
        ]  # fmt: skip
        return Wanted(files, listed, locked, True, limits, encoding)
    files = named_files(f)
    # The manifest itself lies among the files, as often as not.
    apart = {os.path.realpath(path) for path in (manifest, lock, *exclude) if isinstance(path, str | os.PathLike)}
    kept = [named for named in files if not (named.walked and os.path.realpath(named.file) in apart)]
    return Wanted(kept, listed, locked, any(named.walked for named in files), limits, encoding)


def _is_below(name: str) -> bool:
    """Whether a name from a manifest stays in its folder."""
    return not os.path.isabs(name) and ".." not in name.split("/") and ":" not in name and "\\" not in name


def checks(wanted: Wanted, *, jobs: int = 1, progress: Progress = nothing) -> Iterator[FileCheck]:
    """Give the check of each file, then of each set, then of what the manifest lists and nobody met."""
    met: set[str] = set()

    def work(named: Named) -> FileCheck | None:
        return _checked(named, wanted, met, progress)

    for found in _in_order(work, wanted.files, jobs):
        if found is not None:
            yield found
    for place in sets_in(wanted.files).values():
        yield check_file(place, limits=wanted.limits, encoding=wanted.encoding)
    if wanted.manifest is not None and wanted.complete:
        notes = Notebook()
        missing_files(wanted.manifest, met, notes)
        if notes.problems:
            yield notes.done("manifest", None, None)


def _in_order(
    work: Callable[[Named], FileCheck | None], files: Sequence[Named], jobs: int
) -> Iterator[FileCheck | None]:
    if jobs == 1 or len(files) < 2:
        yield from map(work, files)
        return
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(jobs or os.cpu_count() or 1)
    try:
        yield from pool.map(work, files)
    finally:  # an interrupt ends what has not begun yet
        pool.shutdown(cancel_futures=True)


def _checked(named: Named, wanted: Wanted, met: set[str], progress: Progress) -> FileCheck | None:
    """Check one file; None for one in a folder that is of no kind that can be checked, and held against nothing."""
    notes = Notebook()
    part = named.walked and isinstance(named.file, str) and named.file.endswith(".metadata")
    found = FileCheck(str(named.file)) if part else check_file(
        named.file, limits=wanted.limits, encoding=wanted.encoding, progress=progress, notes=notes
    )  # fmt: skip
    other_kind = bool(found.gaps) and all(gap.rule == "WL902" for gap in found.gaps) and not found.problems
    if named.walked and (other_kind or part):
        if wanted.manifest is None:
            return None
        notes = Notebook()
        found = FileCheck(found.name, found.size)
    try:
        if wanted.manifest is not None:
            entry = hold_against_manifest(named, wanted.manifest, notes, wanted.limits, progress)
            met.update(() if entry is None else (entry,))
        if wanted.locked is not None:
            hold_against_lock(named, wanted.locked, notes, progress)
    except SourceError as error:
        notes.gap("WL901", error.what)
    except WeighlockError as error:
        notes.error(error)
    return notes.done(found.name, found.size, found.format)
