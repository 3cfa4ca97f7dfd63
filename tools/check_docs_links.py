"""Check that what the Markdown files point at exists.

Every relative link of every Markdown file must lead to a file or folder, and an anchor to a heading of it. In the
README also every path that begins with one of this repository's own folders, in text, commands and examples, and every
file name ending in .md or .toml.

Usage: python tools/check_docs_links.py [folder]      (default: the current one)
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote

SKIPPED_FOLDERS: Final = frozenset({"build", "dist", "node_modules"})

_FENCE: Final = re.compile(r"^(?P<fence>`{3,}|~{3,})[^\n]*\n.*?^(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL)
_INLINE_CODE: Final = re.compile(r"(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)")
_LINK: Final = re.compile(r"\]\(\s*<?(?P<inline>[^)\s>]+)>?[^)]*\)|^\[[^\]\n]+\]:\s*(?P<reference>\S+)", re.MULTILINE)
_HEADING: Final = re.compile(r"^#{1,6}\s+(?P<title>.+?)\s*#*$", re.MULTILINE)
_EXPLICIT_ANCHOR: Final = re.compile(r"^\((?P<myst>[\w-]+)\)=\s*$|\bid=\"(?P<html>[\w-]+)\"", re.MULTILINE)
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_ADDRESS: Final = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_PATH: Final = re.compile(r"(?<![\w./-])\.?[\w-]+(?:/[\w.-]+)+")
_FILE_NAME: Final = re.compile(r"(?<![\w./-])[\w-]+\.(?:md|toml)\b(?![\w/])")


def markdown_files(root: Path) -> list[Path]:
    """Give the Markdown files of a repository, without hidden and built folders."""
    return sorted(
        path
        for path in root.rglob("*.md")
        if not any(part.startswith(".") or part in SKIPPED_FOLDERS for part in path.relative_to(root).parts)
    )


def prose(text: str) -> str:
    """Give the text without code."""
    return _INLINE_CODE.sub("", _FENCE.sub("", text))


def slug(title: str) -> str:
    """Give the anchor that a heading gets: lower case, punctuation dropped, spaces as hyphens."""
    title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    """Give every anchor of a Markdown text; a repeated heading gets a number."""
    found: set[str] = set()
    for match in _HEADING.finditer(_FENCE.sub("", text)):
        base = name = slug(match["title"])
        number = 0
        while name in found:
            number += 1
            name = f"{base}-{number}"
        found.add(name)
    return found | {match["myst"] or match["html"] for match in _EXPLICIT_ANCHOR.finditer(text)}


def links(text: str) -> Iterator[str]:
    """Give the targets of the links that stay within the repository."""
    for match in _LINK.finditer(prose(text)):
        target = match["inline"] or match["reference"]
        if not _SCHEME.match(target):
            yield target


def broken_links(path: Path, root: Path) -> Iterator[str]:
    """Give one sentence for each link of the file at `path` that leads nowhere."""
    for target in links(path.read_text(encoding="utf-8")):
        name, _, anchor = unquote(target).partition("#")
        place = (root / name[1:] if name.startswith("/") else path.parent / name) if name else path
        if not place.exists():
            yield f"{path.relative_to(root)}: {target}: no such file"
        elif anchor and place.suffix == ".md" and anchor not in anchors(place.read_text(encoding="utf-8")):
            yield f"{path.relative_to(root)}: {target}: no such heading"


def missing_files(readme: Path, root: Path) -> Iterator[str]:
    """Give one sentence for each file of this repository that the README names and that is not there."""
    text = _ADDRESS.sub("", readme.read_text(encoding="utf-8"))
    own_folders = {path.name for path in root.iterdir() if path.is_dir()} - SKIPPED_FOLDERS
    named = {name.rstrip(".") for name in _PATH.findall(text) if name.split("/")[0] in own_folders}
    named.update(_FILE_NAME.findall(text))
    for name in sorted(named):
        if not (root / name).exists():
            yield f"{readme.relative_to(root)}: names {name}: no such file"


def problems(root: Path) -> list[str]:
    """Give everything that is wrong with the Markdown files below `root`."""
    readme = root / "README.md"
    found = [sentence for path in markdown_files(root) for sentence in broken_links(path, root)]
    return found + (list(missing_files(readme, root)) if readme.exists() else ["README.md: no such file"])


def main(arguments: Sequence[str]) -> int:
    """Print what is wrong; give the exit code."""
    root = Path(arguments[0] if arguments else ".").resolve()
    found = problems(root)
    print(f"docs links: {len(markdown_files(root))} files, {len(found)} problems")
    for sentence in found:
        print(f"  {sentence}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
