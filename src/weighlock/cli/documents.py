"""JSON documents: the shapes that programs rely on, as `schemas/*.json` describe them.

Additions keep the schema's version; anything else raises it. Sizes are bytes, strides and offsets elements. `path` is
the truth (an array of strings and integers; any other key is ``{"repr": text}``), `key` is for people.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from weighlock.errors import WeighlockError
from weighlock.inspection.inventory import TensorRow
from weighlock.inspection.paths import json_path, part_text
from weighlock.inspection.summary import Summary

__all__ = [
    "SCHEMAS",
    "document",
    "error_document",
    "failed_input",
    "input_document",
    "json_value",
    "our_version",
    "summary_document",
    "tensor_document",
]

SCHEMAS: Final = (
    "weighlock/inspect",
    "weighlock/ls",
    "weighlock/show",
    "weighlock/stats",
    "weighlock/layout",
    "weighlock/diff",
    "weighlock/digest",
    "weighlock/convert",
    "weighlock/edit",
    "weighlock/error",
    "weighlock/hub",
    "weighlock/cache",
    "weighlock/scan",
    "weighlock/scan-file",
    "weighlock/explain",
    "weighlock/baseline",
    "weighlock/env",
    "weighlock/verify",
    "weighlock/verify-file",
    "weighlock/manifest",
    "weighlock/salvage",
)
SCHEMA_VERSION: Final = 1

_MAX_EXACT: Final = 1 << 64


def document(schema: str, **fields: Any) -> dict[str, Any]:
    """Return a document of one of `SCHEMAS`."""
    tool = {"name": "weighlock", "version": our_version()}
    return {"schema": schema, "schema_version": SCHEMA_VERSION, "tool": tool, **fields}


def our_version() -> str:
    """Return the version of this program; it has none where it runs from a folder that was never installed."""
    from importlib.metadata import PackageNotFoundError

    import weighlock

    try:
        return str(weighlock.__version__)
    except PackageNotFoundError:
        return "0+unknown"


def input_document(name: str, size: int, format_name: str, gaps: Sequence[str]) -> dict[str, Any]:
    """Return what every command says of a file that it could read."""
    return {"uri": name, "size": size, "format": format_name, "complete": not gaps, "gaps": list(gaps), "error": None}


def failed_input(name: str, error: WeighlockError) -> dict[str, Any]:
    """Return what stands for a file that could not be read, among others that could."""
    return {
        "uri": name, "size": None, "format": None, "complete": False, "gaps": [str(error)], "error": _error(error)
    }  # fmt: skip


def _error(error: WeighlockError) -> dict[str, Any]:
    facts = {name: getattr(error, name) for name in error.FACTS if name != "globals"}
    return {"type": type(error).__name__, "message": str(error), "what": error.what, **json_value(facts)}


def error_document(error: WeighlockError) -> dict[str, Any]:
    """Return the document for a command that could not be carried out."""
    return document("weighlock/error", error=_error(error))


def tensor_document(row: TensorRow) -> dict[str, Any]:
    """Return one tensor."""
    leaf = row.leaf
    found = {
        "index": row.index,
        "key": row.key,
        "path": json_path(row.path),
        "dtype": leaf.dtype,
        "shape": leaf.shape,
        "stride": leaf.stride,
        "layout": leaf.layout,
        "storage": row.storage,
        "storage_offset": row.storage_offset,
        "nbytes": leaf.nbytes,
        "contiguous": leaf.contiguous,
        "alias_of": row.alias_of,
        "requires_grad": leaf.requires_grad,
        "parameter": leaf.parameter,
        "subclass": leaf.subclass,
    }
    parts = row.parts
    if len(parts) > 1 or (parts and parts[0][0]):
        found["parts"] = [
            {"name": name, "dtype": part.dtype.name, "shape": part.shape, "stride": part.stride,
             "storage": part.ref.key, "storage_offset": part.offset, "nbytes": part.nbytes}
            for name, part in parts
        ]  # fmt: skip
    return found


def summary_document(summary: Summary) -> dict[str, Any]:
    """Return everything that is known of one file."""
    found = input_document(summary.name, summary.size, summary.format, summary.gaps)
    found |= {
        "format_version": json_value(summary.metadata.get("format_version")),
        "byteorder": summary.byteorder,
        "metadata": json_value(summary.metadata),
        "kind": summary.kind,
        "totals": summary.totals._asdict(),
        "dtypes": [
            {"dtype": share.dtype, "tensors": share.tensors, "parameters": share.parameters, "bytes": share.nbytes}
            for share in summary.dtypes
        ],
        "holds": [
            {"path": json_path((held.key,)), "key": part_text(held.key), "kind": held.kind, "tensors": held.tensors,
             "items": held.items, "text": held.text}
            for held in summary.held
        ],
        "holds_more": summary.held_more,
        "tensors": [tensor_document(row) for row in summary.tensors],
        "objects": [{"path": json_path(stub.path), "global": stub.name, "built": False} for stub in summary.stubs],
        "findings": _findings(summary),
    }  # fmt: skip
    return found | _storages(summary) | _safety(summary)


def _findings(summary: Summary) -> list[dict[str, Any]]:
    """Return what a scan would say of the classes and functions that are named; of their calls only a scan knows."""
    unknown = [row for row in summary.globals if not row.known]
    if not unknown:
        return []
    from weighlock.scanning.dangers import judge
    from weighlock.scanning.report import Finding
    from weighlock.scanning.rules import RULES

    found = []
    for row in unknown:
        danger = judge(row.name)
        rule = "WL110" if danger is None else danger.rule
        severity = RULES[rule].severity if danger is None else danger.severity
        message = f"{row.name} is named: " + ("it is unknown" if danger is None else f"it {danger.reason}")
        path = ".".join(map(part_text, row.paths[0])) if row.paths else None
        found.append(Finding(rule, severity, message, offset=row.offset, name=row.name, path=path).to_dict())
    return found


def _storages(summary: Summary) -> dict[str, Any]:
    return {
        "storages": [
            {"id": row.name, "bytes": row.nbytes, "used": row.used, "location": row.location,
             "byteorder": row.byteorder, "member": row.member, "tensors": row.tensors}
            for row in summary.storages
        ],
        "sharing": {
            "aliases": summary.aliases,
            "overlaps": [
                {"storage": row.name, "tensors": row.overlapping} for row in summary.storages if row.overlapping
            ],
        },
    }  # fmt: skip


def _safety(summary: Summary) -> dict[str, Any]:
    return {
        "globals": [
            {"name": row.name, "offset": row.offset, "known": row.known, "paths": list(map(json_path, row.paths))}
            for row in summary.globals
        ],
        "verdict": {
            "loads": not summary.unknown and not summary.opaque,
            "unknown": summary.unknown,
            "text": summary.verdict,
            "torch_weights_only": {"loads": not summary.refused_by_torch, "refused": summary.refused_by_torch},
        },
    }


def json_value(value: Any) -> Any:
    """Return a value as JSON can hold it: what is not finite as text, complex as a pair, anything else as its text."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) < _MAX_EXACT else hex(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else _not_finite(value)
    if isinstance(value, complex):
        return [json_value(value.real), json_value(value.imag)]
    if isinstance(value, Mapping):
        return {part_text(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    return part_text(value)


def _not_finite(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
