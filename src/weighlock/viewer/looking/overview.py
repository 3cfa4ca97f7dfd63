"""What a file is and holds, on one page."""

from collections.abc import Iterator
from typing import Any, Final

from weighlock.errors import WeighlockError
from weighlock.inspection.kinds import file_kind
from weighlock.inspection.paths import part_text
from weighlock.inspection.summary import Summary
from weighlock.viewer.failures import failure_document
from weighlock.viewer.looking.facts import place, text
from weighlock.viewer.looking.holding import ViewedFile

__all__ = ["describe_file", "name_files", "state_of"]

_HELD: Final = 200
_GLOBALS: Final = 1000
_GROUPS: Final = 100
_TOGETHER: Final = 20


def name_files(files: list[ViewedFile], version: str) -> dict[str, Any]:
    """Return every file with its format, or with what is wrong with it."""
    return {"version": version, "files": [_named(file) for file in files]}


def state_of(file: ViewedFile) -> dict[str, Any]:
    """Return what a page must know to see that what it shows is no more: it is asked for again and again."""
    return {"file": file.number, "generation": file.generation, "state": file.state}


def _named(file: ViewedFile) -> dict[str, Any]:
    found = file.tried
    facts = {**state_of(file), "name": text(file.name), "given": text(file.shown)}
    if isinstance(found, WeighlockError):
        return {**facts, "size": None, "format": None, "error": failure_document(found)}
    byteorder = str(found.metadata.get("byteorder") or "little")
    return {
        **facts, "size": found.size, "format": text(file_kind(found.format, found.metadata, byteorder)), "error": None,
    }  # fmt: skip


def describe_file(file: ViewedFile) -> dict[str, Any]:
    """Return the facts of one file; of one that cannot be read, what is wrong with it."""
    facts = _named(file)
    if facts["error"] is not None:
        return facts
    found: dict[str, Any] = file.once("overview", lambda: _summarized(file, file.summary))
    return facts | found


def _summarized(file: ViewedFile, summary: Summary) -> dict[str, Any]:
    totals = summary.totals
    return {
        "format": text(file_kind(summary.format, summary.metadata, summary.byteorder)),
        "kind": text(summary.kind),
        "metadata": {text(key): text(value) for key, value in list(summary.metadata.items())[:_HELD]},
        "holds": [_held(item) for item in summary.held[:_HELD]],
        "holds_more": summary.held_more + max(0, len(summary.held) - _HELD),
        "totals": {
            "tensors": totals.tensors + totals.arrays, "parameters": totals.parameters,
            "tensor_bytes": totals.tensor_bytes, "storage_bytes": totals.storage_bytes,
            "unreferenced_bytes": totals.unreferenced_bytes, "storages": totals.storages,
        },
        "dtypes": [
            {"dtype": text(row.dtype), "tensors": row.tensors, "nbytes": row.nbytes, "parameters": row.parameters,
             "share": row.nbytes / totals.tensor_bytes if totals.tensor_bytes else 0.0}
            for row in summary.dtypes
        ],
        "sharing": list(_sharing(file, summary))[:_GROUPS],
        "sharing_total": len(summary.aliases) + sum(bool(row.overlapping) for row in summary.storages),
        "globals": [
            {"name": text(row.name), "known": row.known, "places": list(map(place, row.paths))}
            for row in sorted(summary.globals, key=lambda row: row.known)[:_GLOBALS]
        ],
        "verdict": _verdict(summary),
        "gaps": [text(gap) for gap in summary.gaps],
    }  # fmt: skip


def _held(item: Any) -> dict[str, Any]:
    shown = None if item.text is None else text(item.text)
    return {"key": text(part_text(item.key)), "kind": text(item.kind), "tensors": item.tensors, "items": item.items,
            "text": shown}  # fmt: skip


def _sharing(file: ViewedFile, summary: Summary) -> Iterator[dict[str, Any]]:
    """Yield who shares memory: the same view under several names, then views that overlap."""
    for group in summary.aliases:
        saved = sum(summary.tensors[index].leaf.nbytes for index in group[1:])
        yield {"text": f"{len(group)} names of the same values", "saved": saved, "tensors": _listed(file, group)}
    for row in summary.storages:
        if row.overlapping:
            what = f"{len(row.overlapping)} views of storage {text(row.name, 100)} overlap"
            yield {"text": what, "saved": 0, "tensors": _listed(file, row.overlapping)}


def _listed(file: ViewedFile, indices: Any) -> list[dict[str, Any]]:
    return [{"index": index, "key": text(file.keys[index])} for index in indices[:_TOGETHER]]


def _verdict(summary: Summary) -> dict[str, Any]:
    refused = summary.refused_by_torch
    return {
        "ok": not summary.unknown and not summary.opaque,
        "text": text(summary.verdict, 2000),
        "torch": text("torch.load(weights_only=True) would refuse " + ", ".join(refused[:10]), 2000)
        if refused
        else None,
    }
