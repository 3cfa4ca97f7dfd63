"""``weighlock hub``: what its commands do."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

from weighlock.cli.documents import document
from weighlock.cli.opening import GOOD, INCOMPLETE, NO
from weighlock.cli.output import Output, note
from weighlock.errors import HubError
from weighlock.hub import bundles, entrypoints, locking, publishing, surface, trust
from weighlock.hub import lock_file as locks
from weighlock.hub.checkpoints import Weights, file_sha256, find_weights
from weighlock.hub.directories import find_store, get_dir
from weighlock.hub.settings import configured, current
from weighlock.hub.static.report import Report
from weighlock.hub.usage import Recording, recording

__all__ = [
    "check",
    "directory",
    "help_entry",
    "inspect_repository",
    "list_entries",
    "lock",
    "prefetch",
    "trust_add",
    "trust_list",
    "trust_remove",
]


def _report(repository: str, *, source: str, refresh: bool, offline: bool) -> Report:
    return surface.inspect(repository, source=source, force_reload=refresh, offline=offline or None)  # type: ignore[no-any-return]


def _signature(entry: Any) -> str:
    return f"{entry.name}{entry.signature or '(...)'}"


def _first_line(doc: str | None) -> str:
    return next((line.strip() for line in (doc or "").splitlines() if line.strip()), "")


def list_entries(
    *, repository: str, everything: bool, execute: bool, source: str, refresh: bool, offline: bool, as_json: bool
) -> int:
    """List entry points; return 3 where the syntax tree does not tell all of them."""
    output = Output(json=as_json)
    if execute:
        return _list_executed(output, repository, source=source, refresh=refresh, offline=offline)
    report = _report(repository, source=source, refresh=refresh, offline=offline)
    shown = [entry for entry in report.entries if everything or entry.kind != "external"]
    if as_json:
        rows = [dataclasses.asdict(entry) for entry in shown]
        output.document(
            document(
                "weighlock/hub", command="list", entries=rows, complete=report.complete, reasons=list(report.reasons)
            )
        )
    for entry in [] if as_json else shown:
        about = _first_line(entry.doc)
        output.line((_signature(entry), "name"), *([f"   {about}"] if about else []))
    for reason in report.reasons:
        note(f"the list may not be complete: {reason}")
    return GOOD if report.complete else INCOMPLETE


def _list_executed(output: Output, repository: str, *, source: str, refresh: bool, offline: bool) -> int:
    with configured(offline=offline or None):
        request = entrypoints.Request(repository=repository, source=source, force=refresh, verbose=False)
        found = list(entrypoints.executed_names(entrypoints.obtain(request, current())))
    if output.json:
        rows = [{"name": name, "doc": doc} for name, doc in found]
        output.document(document("weighlock/hub", command="list", entries=rows, complete=True, reasons=[]))
    else:
        for name, doc in found:
            output.line((name, "name"), f"   {_first_line(doc)}".rstrip())
    return GOOD


def help_entry(*, repository: str, entry: str, source: str, refresh: bool, offline: bool, as_json: bool) -> int:
    """Show one entry point."""
    output = Output(json=as_json)
    found = entrypoints.describe(_report(repository, source=source, refresh=refresh, offline=offline), entry)
    if as_json:
        output.document(document("weighlock/hub", command="help", entry=dataclasses.asdict(found)))
        return GOOD
    output.line((_signature(found), "name"))
    for line in (found.doc or "").strip().splitlines():
        output.line(f"  {line.strip()}")
    return GOOD


def inspect_repository(*, repository: str, source: str, refresh: bool, offline: bool, as_json: bool) -> int:
    """Show the static report."""
    output = Output(json=as_json)
    report = _report(repository, source=source, refresh=refresh, offline=offline)
    if as_json:
        output.document(document("weighlock/hub", command="inspect", report=dataclasses.asdict(report)))
        return GOOD if report.complete else INCOMPLETE
    output.line((repository, "name"))
    for label, texts in _report_lines(report):
        for at, text in enumerate(texts):
            output.line((f"  {label if not at else '':<13} ", "note"), text)
    return GOOD if report.complete else INCOMPLETE


def _report_lines(report: Report) -> list[tuple[str, list[str]]]:
    declared = "none declared" if report.dependencies is None else ", ".join(report.dependencies) or "nothing"
    entries = [f"{_signature(entry)}   {entry.kind}" for entry in report.entries]
    urls = [f"{url.url}{'' if url.hashed else '   no hash'}   {url.file}:{url.line}" for url in report.urls]
    return [
        ("about", [_first_line(report.doc)] if report.doc else []),
        ("offers", entries or ["nothing"]),
        ("needs", [declared, *(f"{name} (not declared)" for name in report.undeclared)]),
        ("fetches", urls),
        ("on import", [f"{effect.what}   {effect.file}:{effect.line}" for effect in report.effects]),
        ("plain names", list(report.compatibility)),
        ("not known", list(report.reasons)),
        ("folder", [report.root]),
    ]


# Reason for the parameters: one for each option.
def prefetch(
    *, repositories: Sequence[str], urls: Sequence[str], locked: bool,
    write_bundle: str | None, read_bundle: str | None,
    lock_file: str | None, source: str, refresh: bool, offline: bool, as_json: bool,
) -> int:  # fmt: skip
    """Fetch ahead; write or read a bundle."""
    output = Output(json=as_json)
    if not (repositories or urls or locked or read_bundle):
        raise HubError("nothing was named to be fetched", hint="Try: weighlock hub prefetch --help")
    with configured(offline=offline or None, lock_file=lock_file, locked=locked or None):
        found = bundles.read_bundle(read_bundle) if read_bundle else []
        names, wanted = list(repositories), list(urls)
        if locked:
            lock = locks.read_lock_file(current().lock_file)
            names += [f"{pin.name}:{pin.ref}" if pin.ref else pin.name for pin in lock.repositories]
            wanted += [pin.urls[0] for pin in lock.weights]
        found += surface.prefetch(*names, urls=wanted, source=source, force_reload=refresh)
        if write_bundle:
            bundles.write_bundle(write_bundle, *names, urls=wanted, source=source)
            found.append(write_bundle)
    if as_json:
        output.document(document("weighlock/hub", command="prefetch", paths=found))
    else:
        for path in found:
            output.line(path)
    return GOOD


# Reason for the parameters: one for each option.
def lock(
    *, repositories: Sequence[str], urls: Sequence[str], entries: Sequence[str], check: bool, lock_file: str | None,
    source: str, refresh: bool, offline: bool, as_json: bool,
) -> int:  # fmt: skip
    """Write the lock file, or compare the cache with it."""
    output = Output(json=as_json)
    with configured(offline=offline or None, lock_file=lock_file):
        if check:
            return _check_lock(output)
        if not (repositories or urls):
            raise HubError("nothing was named to be locked", hint="Try: weighlock hub lock --help")
        used = _run_entries(repositories, entries, source) if entries else None
        new = locking.lock(*repositories, urls=urls, used=used, source=source, update=not offline or refresh)
    if as_json:
        output.document(document("weighlock/hub", command="lock", lock=dataclasses.asdict(new)))
        return GOOD
    for pin in new.repositories:
        output.line((pin.name, "name"), f" {pin.ref or 'default branch'} {pin.commit}")
    for weights in new.weights:
        output.line((weights.urls[0], "name"), f" {weights.size:,} bytes {weights.sha256[:16]}")
    return GOOD


def _run_entries(repositories: Sequence[str], entries: Sequence[str], source: str) -> Recording:
    with recording() as used:
        for repository in repositories:
            for entry in entries:
                surface.load(repository, entry, source=source, verbose=False)
    return used


def _check_lock(output: Output) -> int:
    """Compare the cache with the lock file, without a network."""
    wrong: list[str] = []
    lock = locks.read_lock_file(current().lock_file)
    with configured(locked=True, offline=True):
        for pin in lock.repositories:
            request = entrypoints.Request(
                repository=f"{pin.name}:{pin.ref}" if pin.ref else pin.name, verbose=False, runs=False
            )
            wrong += _complaint(pin.name, lambda request=request: entrypoints.obtain(request, current()))
        for weights in lock.weights:
            wrong += _complaint(weights.urls[0], lambda weights=weights: _check_weights(weights))
    if output.json:
        output.document(document("weighlock/hub", command="lock", wrong=wrong))
    else:
        output.lines([line] for line in wrong)
    return NO if wrong else GOOD


def _check_weights(pin: locks.WeightsPin) -> None:
    path = find_weights(find_store(), Weights(url=pin.urls[0]), current())
    if file_sha256(path) != pin.sha256:
        raise HubError("the file in the cache is another one", path=path)


def _complaint(name: str, work: Any) -> list[str]:
    try:
        work()
    except HubError as error:
        return [f"{name}: {error}"]
    return []


def check(*, folder: str, as_json: bool) -> int:
    """Show what an author should mend; return 1 where there is something."""
    output = Output(json=as_json)
    found = publishing.check_folder(folder)
    if as_json:
        output.document(document("weighlock/hub", command="check", advice=[dataclasses.asdict(one) for one in found]))
    for one in [] if as_json else found:
        output.line((one.where, "name"), f" {one.what}  ", (f"[{one.rule}]", "note"))
        output.line(f"  {one.remedy}")
    return NO if found else GOOD


def directory() -> int:
    """Show the hub's folder."""
    Output().line(os.path.abspath(get_dir()))
    return GOOD


def trust_add(*, patterns: Sequence[str]) -> int:
    """Add patterns."""
    for pattern in patterns:
        Output().line(trust.add(find_store(), pattern))
    return GOOD


def trust_remove(*, patterns: Sequence[str]) -> int:
    """Take patterns back; return 1 where one was not there."""
    missing = [pattern for pattern in patterns if not trust.remove(find_store(), pattern)]
    for pattern in missing:
        note(f"there is no such pattern: {pattern}")
    return NO if missing else GOOD


def trust_list(*, as_json: bool) -> int:
    """Show patterns."""
    output = Output(json=as_json)
    rows = list(trust.rules(find_store(), current()))
    if as_json:
        trusted = [{"pattern": pattern, "from": origin} for pattern, origin in rows]
        output.document(document("weighlock/hub", command="trust", trusted=trusted))
        return GOOD
    for pattern, origin in rows:
        output.line((pattern, "name"), (f"   {origin}", "note"))
    return GOOD


def confirmed(question: str) -> bool:
    """Ask on the terminal; no terminal means no."""
    if not sys.stdin.isatty():
        note(f"{question} Say -y where nobody can be asked.")
        return False
    sys.stderr.write(f"{question} (y/N) ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
