"""Globs over dotted keys: what ``--include`` and ``--exclude`` mean, on the command line and in the library."""

import re
from collections.abc import Callable, Sequence

__all__ = ["chooser", "glob"]


def glob(pattern: str) -> re.Pattern[str]:
    """Return what a glob over dotted keys matches: ``*`` and ``?`` stop at dots, ``**`` does not.

    Examples
    --------
    >>> bool(glob("layers.*.bias").fullmatch("layers.3.bias"))
    True
    """
    places = {"**": ".*", "*": "[^.]*", "?": "[^.]"}
    tokens = re.findall(r"\*\*|\*|\?|\[!?\]?[^\]]*\]|.", pattern, re.DOTALL)
    return re.compile("".join(places.get(token) or _set(token) for token in tokens), re.DOTALL)


def _set(token: str) -> str:
    if len(token) < 3 or token[0] != "[":
        return re.escape(token)
    inverted = token[1] == "!"
    inside = re.sub(r"[\\\[\]^&~|]", r"\\\g<0>", token[2 if inverted else 1 : -1])
    return f"[{'^' if inverted else ''}{inside}]"


def chooser(include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Callable[[str], bool]:
    """Return whether a key is wanted: matched by any of `include` (by all keys where there is none), none of `exclude`.

    Examples
    --------
    >>> list(filter(chooser(["*.weight"], ["head.*"]), ["fc.weight", "fc.bias", "head.weight"]))
    ['fc.weight']
    """
    wanted = [glob(pattern).fullmatch for pattern in include]
    unwanted = [glob(pattern).fullmatch for pattern in exclude]
    return lambda key: (not wanted or any(match(key) for match in wanted)) and not any(match(key) for match in unwanted)
