"""Facts in the form in which they are sent: escaped for people, numbers as JSON can hold them."""

import math
from collections.abc import Sequence
from typing import Any, Final

from weighlock.inspection.inventory import TensorRow
from weighlock.inspection.leaves import Leaf
from weighlock.inspection.paths import json_path, key_text
from weighlock.text import safe_text
from weighlock.viewer.bounds import MOST_PATH
from weighlock.viewer.looking.holding import ViewedFile

__all__ = ["alias_of", "flags_of", "number", "place", "portable", "shorter", "size_of", "steps", "text"]

_EXACT: Final = 1 << 53
_NAME: Final = 1000


def text(value: object, limit: int = _NAME) -> str:
    """Return text that came from a file, as a page may show it."""
    return safe_text(value, limit=limit)


def place(path: tuple[Any, ...]) -> str:
    """Return a path as a page may show it."""
    return text(key_text(path))


def steps(path: tuple[Any, ...]) -> list[Any] | None:
    """Return a path for JSON; None where it is longer than any request could name."""
    return json_path(path) if shorter(path) else None


def shorter(path: Sequence[Any]) -> bool:
    """Whether a path is short enough to be sent with every row."""
    return sum(len(part) if isinstance(part, str | bytes) else 8 for part in path) <= MOST_PATH


def number(value: Any) -> Any:
    """Return a figure: text where JSON's readers would round it or JSON has no form for it, complex ones as text."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if -_EXACT <= value <= _EXACT else str(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return str(value).strip("()")


def portable(document: Any) -> Any:
    """Return a document with every number as `number` has it."""
    if isinstance(document, dict):
        return {key: portable(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [portable(value) for value in document]
    return number(document)


def size_of(leaf: Leaf) -> dict[str, Any]:
    """Return what a table says of a tensor."""
    return {
        "dtype": leaf.dtype, "shape": None if leaf.shape is None else list(leaf.shape), "nbytes": leaf.nbytes,
        "layout": leaf.layout,
    }  # fmt: skip


def alias_of(file: ViewedFile, row: TensorRow) -> dict[str, Any] | None:
    """Return the first tensor that is the same view of the same bytes."""
    if row.alias_of is None:
        return None
    return {"index": row.alias_of, "key": text(file.keys[row.alias_of])}


def flags_of(row: TensorRow) -> list[str]:
    """Return what is worth a mark beside a tensor."""
    leaf = row.leaf
    marks = {
        "parameter": leaf.parameter,
        "requires grad": leaf.requires_grad,
        "shared": row.alias_of is not None,
        "not contiguous": leaf.contiguous is False,
        "conjugated": getattr(row.spec, "conj", False),
        "negated": getattr(row.spec, "neg", False),
        "empty": leaf.numel == 0 and leaf.layout == "strided",
    }
    found = [mark for mark, is_set in marks.items() if is_set]
    return found + ([f"class {text(leaf.subclass, 200)}"] if leaf.subclass is not None else [])
