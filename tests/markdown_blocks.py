"""Examples in Markdown pages: finding the Python blocks of a page, and running them as a script would run.

A block is tagged in its first line: ```` ```python ````, and behind it `gpu` or `torch` for a block that needs one. A
`text` block right behind a Python block is what that block prints.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import types
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

_BLOCK: Final = re.compile(
    r"^```python(?P<needs>[^\n]*)\n(?P<code>.*?)^```[ \t]*$(?:\s*^```text\n(?P<output>.*?)^```[ \t]*$)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One Python block of a page."""

    code: str
    line: int
    """Number of the line above the first line of code."""
    needs: frozenset[str]
    """What must be there to run it: "gpu", "torch"."""
    output: str | None
    """What it prints, exactly; None where the page does not say."""


def blocks(text: str) -> Iterator[Block]:
    """The Python blocks of a page, in order."""
    for match in _BLOCK.finditer(text):
        yield Block(
            code=match["code"],
            line=text.count("\n", 0, match.start("code")),
            needs=frozenset(match["needs"].split()),
            output=match["output"],
        )


def run_page(
    page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *, available: AbstractSet[str] = frozenset()
) -> int:
    """Run the blocks of a page one after the other in `folder`, as one script; return how many ran.

    A block that needs what is not `available` is compiled only. The script is the module `__main__`, so that classes
    that it defines can be pickled and found again, and line numbers in a traceback are those of the page.
    """
    script = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", script)
    monkeypatch.chdir(folder)
    ran = 0
    for block in blocks(page.read_text("utf-8")):
        code = compile("\n" * block.line + block.code, str(page), "exec", dont_inherit=True)
        if not block.needs <= available:
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, script.__dict__)
        if block.output is not None:
            assert printed.getvalue() == block.output, f"{page.name}, line {block.line}: the block prints otherwise"
        ran += 1
    return ran
