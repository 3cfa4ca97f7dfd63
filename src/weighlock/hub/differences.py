"""Where an archive differs from its commit: whether the commit itself says why.

git leaves out of archives what `.gitattributes` marks with export-ignore, and what submodules hold; a host may put in
the files that Git LFS only points to. Whoever delivers the archive could have left out or put in anything else, so each
difference is looked up in the commit's own `.gitattributes`; any other makes the archive worthless.
"""

import fnmatch
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from weighlock.hub.git_pack import TreeEntry
from weighlock.hub.git_tree import File

__all__ = ["explained"]

_SUBMODULE: Final = 0o160000
_ATTRIBUTES: Final = ".gitattributes"


def explained(folder: str, files: Iterable[File], commit: Iterable[TreeEntry]) -> str | None:
    """Return why the files of a folder differ from a commit's; None where the commit does not say.

    Parameters
    ----------
    folder : str
        Where the archive was extracted.
    files : iterable of File
        What is there.
    commit : iterable of TreeEntry
        What the commit names.
    """
    ours = {file.path: (file.mode, file.blob) for file in files}
    theirs = {os.fsdecode(entry.path): (entry.mode, entry.object) for entry in commit}
    if any(path not in theirs for path in ours):
        return None
    rules = list(_rules(folder, theirs, ours))
    reasons = set()
    for path, known in theirs.items():
        if ours.get(path) == known:
            continue
        if path not in ours and known[0] == _SUBMODULE:
            reasons.add("submodules are empty in an archive")
        elif path not in ours and _said(rules, path, "export-ignore"):
            reasons.add(".gitattributes leaves files out of archives")
        elif path in ours and _said(rules, path, "filter=lfs"):
            reasons.add("files stand where Git LFS has pointers")
        else:
            return None
    return "; ".join(sorted(reasons)) or None


def _rules(
    folder: str, theirs: Mapping[str, object], ours: Mapping[str, object]
) -> Iterator[tuple[str, str, frozenset[str]]]:
    """Give folder, pattern and attributes of each line of the commit's own `.gitattributes`, as far as they came."""
    for path, known in theirs.items():
        if posixpath.basename(path) != _ATTRIBUTES or ours.get(path) != known:
            continue
        with open(os.path.join(folder, *path.split("/")), encoding="utf-8", errors="replace") as file:
            for line in file:
                words = line.split()
                if words and not words[0].startswith(("#", "[")):
                    yield posixpath.dirname(path), words[0], frozenset(words[1:])


def _said(rules: Iterable[tuple[str, str, frozenset[str]]], path: str, attribute: str) -> bool:
    """Whether a rule gives a path, or a folder above it, an attribute (gitattributes(5), without its finer points)."""
    parts = path.split("/")
    above = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    return any(
        attribute in attributes and any(_matches(base, pattern, one) for one in above)
        for base, pattern, attributes in rules
    )


def _matches(base: str, pattern: str, path: str) -> bool:
    if base:
        if not path.startswith(base + "/"):
            return False
        path = path[len(base) + 1 :]
    pattern = pattern.removesuffix("/**").removesuffix("/")
    if "/" not in pattern:
        return fnmatch.fnmatchcase(posixpath.basename(path), pattern)
    return fnmatch.fnmatchcase(path, pattern.removeprefix("/").replace("**/", "*"))
