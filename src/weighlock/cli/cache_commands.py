"""``weighlock cache``: what its commands do."""

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from weighlock.cli.documents import document
from weighlock.cli.hub_commands import confirmed
from weighlock.cli.opening import GOOD, NO
from weighlock.cli.output import Output, note
from weighlock.cli.wording import size
from weighlock.hub import cache
from weighlock.hub.cache import Item
from weighlock.hub.directories import find_store
from weighlock.hub.lock_file import read_lock_file

__all__ = ["directory", "explain", "list_items", "prune", "remove_items", "usage", "verify"]

_NOTHING = "nothing in the cache has this in its name or path; weighlock cache ls shows what is there"


def _matching(words: Sequence[str]) -> list[Item]:
    items = cache.items(find_store())
    return [item for item in items if not words or any(word in item.name or word in item.path for word in words)]


def _row(item: Item) -> dict[str, Any]:
    return {"kind": item.kind, "name": item.name, "path": item.path, "nbytes": item.nbytes, "refs": list(item.used_by)}


def _line(output: Output, item: Item) -> None:
    refs = f"   {', '.join(item.used_by)}" if item.used_by else ""
    output.line((f"{item.kind:<10} ", "note"), f"{size(item.nbytes):>10}  ", (item.name, "name"), refs)


def list_items(*, words: Sequence[str], as_json: bool) -> int:
    """List what is stored."""
    output = Output(json=as_json)
    found = _matching(words)
    if as_json:
        output.document(document("weighlock/cache", command="ls", items=[_row(item) for item in found]))
        return GOOD
    for item in found:
        _line(output, item)
    return GOOD


def usage(*, as_json: bool) -> int:
    """Show how much each kind takes."""
    output = Output(json=as_json)
    total: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for item in cache.items(find_store()):
        total[item.kind] += item.nbytes
        count[item.kind] += 1
    if as_json:
        kinds = [{"kind": kind, "items": count[kind], "nbytes": total[kind]} for kind in sorted(total)]
        output.document(document("weighlock/cache", command="du", kinds=kinds, nbytes=sum(total.values())))
        return GOOD
    for kind in sorted(total):
        output.line((f"{kind:<10} ", "note"), f"{size(total[kind]):>10}  {count[kind]:,}")
    output.line((f"{'all':<10} ", "note"), f"{size(sum(total.values())):>10}  {sum(count.values()):,}")
    return GOOD


def remove_items(*, words: Sequence[str], dry_run: bool, yes: bool, as_json: bool) -> int:
    """Remove what matches; return 1 where nothing does, or the answer was no."""
    found = _matching(words)
    if not found:
        note(_NOTHING)
    return _removed("rm", found, dry_run=dry_run, yes=yes, as_json=as_json)


def prune(*, days: float | None, lock_files: Sequence[str], dry_run: bool, yes: bool, as_json: bool) -> int:
    """Remove what nothing refers to."""
    locks = [read_lock_file(path) for path in lock_files]
    found = list(cache.prunable(find_store(), locks, None if days is None else days * 86400))
    if not found:
        output = Output(json=as_json)
        if as_json:
            output.document(document("weighlock/cache", command="prune", items=[], removed=False))
        return GOOD
    return _removed("prune", found, dry_run=dry_run, yes=yes, as_json=as_json)


def _removed(command: str, found: list[Item], *, dry_run: bool, yes: bool, as_json: bool) -> int:
    output = Output(json=as_json)
    if not as_json:
        for item in found:
            _line(output, item)
    total = size(sum(item.nbytes for item in found))
    remove = bool(found) and not dry_run and (yes or confirmed(f"Remove {len(found):,} items, {total}?"))
    for item in found if remove else ():
        cache.remove(find_store(), item)
    if as_json:
        output.document(
            document("weighlock/cache", command=command, items=[_row(item) for item in found], removed=remove)
        )
    return GOOD if found and (remove or dry_run) else NO


def verify(*, words: Sequence[str], as_json: bool) -> int:
    """Compare everything with its digests; return 1 where something is damaged."""
    output = Output(json=as_json)
    wrong = []
    checked = 0
    for item in _matching(words):
        if item.kind in ("repository", "weights"):
            checked += 1
            why = cache.check_item(item)
            if why is not None:
                wrong.append({"name": item.name, "path": item.path, "why": why})
    if as_json:
        output.document(document("weighlock/cache", command="verify", checked=checked, wrong=wrong))
        return NO if wrong else GOOD
    for row in wrong:
        output.line((row["name"], "bad"), f"   {row['why']}   {row['path']}")
    output.line(f"{checked:,} checked, {len(wrong):,} damaged")
    return NO if wrong else GOOD


def explain(*, text: str, lock_files: Sequence[str], as_json: bool) -> int:
    """Say why something is stored; return 1 where it is not."""
    output = Output(json=as_json)
    names = list(lock_files) or [name for name in ("weighlock.lock",) if os.path.exists(name)]
    found = list(cache.why(find_store(), text, [read_lock_file(name) for name in names]))
    if as_json:
        rows = [{**_row(one.item), "source": one.source, "locks": list(one.locks)} for one in found]
        output.document(document("weighlock/cache", command="why", items=rows))
        return GOOD if found else NO
    for one in found:
        output.line((one.item.kind, "note"), " ", (one.item.name, "name"))
        output.line(f"  at {one.item.path}")
        output.lines([f"  from {one.source}"] for _ in range(one.source is not None))
        output.lines([f"  because {ref} means this commit"] for ref in one.item.used_by)
        output.lines([f"  because {lock} names it"] for lock in one.locks)
    if not found:
        note(_NOTHING)
    return GOOD if found else NO


def directory(*, as_json: bool) -> int:
    """Show the hub's folder, and whether it can be written."""
    output = Output(json=as_json)
    store = find_store()
    if as_json:
        output.document(document("weighlock/cache", command="dir", path=store.hub, writable=store.writable()))
    else:
        output.line(store.hub)
    return GOOD
