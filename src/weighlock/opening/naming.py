"""Paths spelled as keys, so that no two places of a checkpoint have the same one.

A key is the path joined by dots. Where several paths would read the same (``{"a.b": ..., "a": {"b": ...}}``, or the
keys ``1`` and ``"1"`` in one dictionary), each of them is spelled as a JSON array instead, as the command line takes
it too: ``["a","b"]``. What is then still not unique (keys of other types that look the same) ends in ``#2``, ``#3``.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from weighlock.inspection.paths import json_path, key_text

__all__ = ["Path", "array_text", "spell"]

Path = tuple[Any, ...]


def array_text(path: Path) -> str:
    """Return a path as a JSON array.

    Examples
    --------
    >>> array_text(("state", 0, "exp.avg"))
    '["state",0,"exp.avg"]'
    """
    return json.dumps(json_path(path), separators=(",", ":"), ensure_ascii=False)


def spell(paths: Sequence[Path], taken: Iterable[str] = ()) -> list[str]:
    """Return a key for each path, no two alike.

    Parameters
    ----------
    paths : sequence of tuple
    taken : iterable of str
        Keys that are given out already; a path that would read like one is spelled as an array.

    Examples
    --------
    >>> spell([("fc", "weight"), ("a", "b"), ("a.b",)])
    ['fc.weight', '["a","b"]', '["a.b"]']
    """
    texts = [key_text(path) for path in paths]
    used = set(taken)
    if len(set(texts)) == len(texts) and not used.intersection(texts):
        return texts
    counts = Counter(texts)
    plain = {text for text, count in counts.items() if count == 1 and text not in used}
    used |= plain
    return [
        text if text in plain else _distinct(array_text(path), used) for text, path in zip(texts, paths, strict=True)
    ]


def _distinct(text: str, used: set[str]) -> str:
    """Return the text, numbered where it is used already, and note that it is."""
    found, number = text, 1
    while found in used:
        number += 1
        found = f"{text}#{number}"
    used.add(found)
    return found
