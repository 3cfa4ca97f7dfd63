"""Paths as text, and back: where in a checkpoint's object a thing stands, and what stands at a place."""

from typing import Any, Final

from weighlock.errors import ArgumentError
from weighlock.inspection.leaves import LEAVES, strided_parts
from weighlock.objects import children
from weighlock.pickling.inert import repr_shallow
from weighlock.text import safe_text

__all__ = ["find", "json_path", "key_text", "part_text"]

_SHOWN: Final = 5
_WIDE: Final = 1 << 64


def part_text(part: Any) -> str:
    """Return one path element as text; never the digits of an enormous integer, never a deep tuple."""
    if type(part) is int and -_WIDE < part < _WIDE:
        return str(part)  # what nearly all parts of a deep path are: millions of them in a file of 40 KB
    return part if type(part) is str else repr_shallow(part)


def key_text(path: tuple[Any, ...]) -> str:
    """Return a path joined by dots; ``(top)`` for the whole object.

    Examples
    --------
    >>> key_text(("optimizer", "state", 0, "exp_avg"))
    'optimizer.state.0.exp_avg'
    """
    return ".".join(map(part_text, path)) or "(top)"


def json_path(path: tuple[Any, ...]) -> list[Any]:
    """Return a path for JSON: strings and integers as they are, any other key as ``{"repr": text}``."""
    return [
        part if type(part) is str or (type(part) is int and abs(part) < 1 << 63) else {"repr": part_text(part)}
        for part in path
    ]


def _held(value: Any) -> list[tuple[Any, Any]]:
    """Return what `value` holds, the strided parts of a leaf under the names that listings give them."""
    found = [pair for pair in children(value) if pair[0] not in ("<class>", "<key>")]
    if type(value) in LEAVES:
        names = {name for name, _ in found if isinstance(name, str)}
        found += [(name, part) for name, part in strided_parts(value) if name and name not in names]
    return found


def find(root: Any, key: str) -> tuple[tuple[Any, ...], Any]:
    """Return the path and the object that a key names.

    Parameters
    ----------
    root : object
        A checkpoint's object.
    key : str
        A path joined by dots, as `key_text` writes it and as a terminal shows it (escaped), or a JSON array.

    Raises
    ------
    ArgumentError
        If nothing, or more than one thing, has this key.
    """
    found = _find_array(root, key) if key.startswith("[") else []
    found = found or _find_text(root, key, str) or _find_text(root, key, safe_text)
    if not found:
        raise ArgumentError("nothing in the file has this key", got=safe_text(key, limit=120))
    if len(found) > 1:
        import json

        named = " or ".join(json.dumps(json_path(path))[:200] for path, _ in found[:_SHOWN])
        raise ArgumentError(
            "more than one thing has this key", got=safe_text(key, limit=120), hint=f"Name it as a path: {named}."
        )
    return found[0]


_Found = list[tuple[tuple[Any, ...], Any]]


def _find_array(root: Any, key: str) -> _Found:
    import json

    try:
        parts = json.loads(key)
    except (ValueError, RecursionError):
        return []
    value = root
    for part in parts:
        names = [child for name, child in _held(value) if type(name) is type(part) and name == part]
        if not names:
            return []
        value = names[0]
    return [(tuple(parts), value)]


def _find_text(root: Any, key: str, spelling: Any) -> _Found:
    """Return up to a few things that `key` may mean: a dot in it may stand inside a name or between two."""
    if key == "(top)":
        return [((), root)]
    found: _Found = []
    tried: set[tuple[int, int]] = set()
    pending: list[tuple[tuple[Any, ...], Any, int]] = [((), root, 0)]
    while pending and len(found) < _SHOWN:
        path, value, start = pending.pop()
        if (id(value), start) in tried:
            continue
        tried.add((id(value), start))
        for part, child in _held(value):
            name = spelling(part_text(part))
            end = start + len(name)
            if not key.startswith(name, start) or not (end == len(key) or key[end : end + 1] == "."):
                continue
            if end == len(key):
                found.append(((*path, part), child))
            else:
                pending.append(((*path, part), child, end + 1))
    return found
