"""Examples in Markdown pages: finding the blocks of a page that can be run, and running them as a reader would.

A block is tagged in its first line. ```` ```python ```` is Python, ```` ```sh ```` are commands of a shell, and behind
that stands

- `gpu`, `torch`, `fsspec` or `s3` for a block that needs one;
- `file:NAME` for the content of a file, in any language: it is written where it says;
- `exit:CODE` for commands that end with another code than 0.

A `text` block right behind a block is what that prints: Python on standard output, commands on the terminal.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

_BLOCK: Final = re.compile(
    r"^```(?P<language>\w+)(?P<tags>[^\n]*)\n(?P<code>.*?)^```[ \t]*$(?:\s*^```text\n(?P<output>.*?)^```[ \t]*$)?",
    re.MULTILINE | re.DOTALL,
)
_RUN: Final = ("python", "sh")
_COMMANDS: Final = {"weighlock": "-P -m weighlock", "python": ""}
"""What a shell's commands are called with: this Python, and this Weighlock."""


@dataclass(frozen=True)
class Block:
    """One block of a page."""

    language: str
    code: str
    line: int
    """Number of the line above the first line of code."""
    needs: frozenset[str]
    """What must be there to run it: "gpu", "torch"."""
    output: str | None
    """What it prints, exactly; None where the page does not say."""
    file: str | None = None
    """The file that it is the content of."""
    code_of_exit: int = 0
    output_at: tuple[int, int] = (0, 0)
    """Where in the page the output begins and ends."""


def blocks(text: str) -> Iterator[Block]:
    """Give the blocks of a page that are run or written, in order."""
    for match in _BLOCK.finditer(text):
        tags = match["tags"].split()
        named = dict(tag.split(":", 1) for tag in tags if ":" in tag)
        if match["language"] not in _RUN and "file" not in named:
            continue
        yield Block(
            language=match["language"],
            code=match["code"],
            line=text.count("\n", 0, match.start("code")),
            needs=frozenset(tag for tag in tags if ":" not in tag),
            output=match["output"],
            file=named.get("file"),
            code_of_exit=int(named.get("exit", 0)),
            output_at=match.span("output"),
        )


def run_page(
    page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *, available: AbstractSet[str] = frozenset(),
    shown_as: Mapping[str, str] | None = None, update: bool = False,
) -> int:  # fmt: skip
    """Run the blocks of a page one after the other in `folder`; return how many ran.

    A block that needs what is not `available` is compiled only. The Python blocks are one script, the module
    `__main__`, so that classes that it defines can be pickled and found again, and line numbers in a traceback are
    those of the page. Each shell block is a shell of its own. `shown_as` says what the page writes in the place of a
    text that is another one on each machine. `update` writes what the blocks print into the page.
    """
    script = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", script)
    monkeypatch.chdir(folder)
    text = page.read_text("utf-8")
    printed_by: list[tuple[Block, str]] = []
    for block in blocks(text):
        if block.file is not None:
            _write(Path(os.path.expanduser(block.file)), block.code)
            continue
        code = _compiled(block, page)
        if not block.needs <= available:
            continue
        where = f"{page.name}, line {block.line}"
        printed = _run_shell(block, folder, where) if code is None else _run_python(code, script)
        for real, shown in (shown_as or {}).items():
            printed = printed.replace(real, shown)
        printed_by.append((block, printed))
        if block.output is not None and not update:
            assert printed == block.output, f"{where}: the block prints otherwise"
    if update:
        page.write_text(_with_outputs(text, printed_by), "utf-8")
    return len(printed_by)


def _with_outputs(text: str, printed_by: list[tuple[Block, str]]) -> str:
    """Return a page that says what its blocks print."""
    for block, printed in reversed(printed_by):
        if block.output is not None:
            start, end = block.output_at
            text = text[:start] + printed + text[end:]
    return text


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def _compiled(block: Block, page: Path) -> types.CodeType | None:
    """Compile Python; None for a shell."""
    if block.language != "python":
        return None
    code: types.CodeType = compile("\n" * block.line + block.code, str(page), "exec", dont_inherit=True)
    return code


def _run_python(code: types.CodeType, script: types.ModuleType) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, script.__dict__)
    return printed.getvalue()


def _run_shell(block: Block, folder: Path, where: str) -> str:
    """Run commands; return what they write on the terminal."""
    commands = folder / ".commands"
    for name, how in _COMMANDS.items():
        if not (commands / name).exists():
            _write(commands / name, f'#!/bin/sh\nexec "{sys.executable}" {how} "$@"\n')
            (commands / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-e", "-c", block.code], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, check=False, cwd=folder,
    )  # fmt: skip
    printed = done.stdout.decode("utf-8")
    assert done.returncode == block.code_of_exit, f"{where}: the commands end with {done.returncode}\n{printed}"
    return printed
