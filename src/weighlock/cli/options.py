"""What several commands share: their options, opening files one after the other, and the exit code of it all."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click

from weighlock.checkpoint import Checkpoint, read_checkpoint
from weighlock.cli.output import COLORS, Output, complain
from weighlock.errors import ArgumentError, MissingFileError, WeighlockError

__all__ = ["color_option", "encoding_option", "exit_code", "files_argument", "json_option", "opened"]

_F = TypeVar("_F", bound=Callable[..., Any])

GOOD, NO, FAILED, INCOMPLETE = 0, 1, 2, 3


def files_argument(command: _F) -> _F:
    """One file or more."""
    return click.argument("files", nargs=-1, required=True, metavar="FILE...")(command)


def json_option(command: _F) -> _F:
    """Strict JSON."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")(command)


def color_option(command: _F) -> _F:
    """Colour or none."""
    return click.option(
        "--color", type=click.Choice(COLORS), default="auto", show_default=True,
        help="Colour; NO_COLOR, FORCE_COLOR and TERM=dumb are respected.",
    )(command)  # fmt: skip


def encoding_option(command: _F) -> _F:
    """How text of Python 2 is read."""
    return click.option(
        "--encoding", default="utf-8", show_default=True, metavar="NAME",
        help="Of strings that Python 2 wrote: utf-8, latin1, bytes ...",
    )(command)  # fmt: skip


def open_checkpoint(name: str, encoding: str) -> Checkpoint:
    """Describe one file.

    Raises
    ------
    WeighlockError
        If it cannot be read.
    """
    import codecs

    try:
        if encoding != "bytes":
            codecs.lookup(encoding)
    except (LookupError, ValueError) as error:
        raise ArgumentError("no such encoding", got=encoding[:40]) from error
    try:
        return read_checkpoint(name, encoding=encoding)
    except MissingFileError as error:
        if error.hint is None and name.isascii() and name.replace("-", "").isalpha():
            error.locate(hint="It is no command either; see weighlock --help.")
        raise


def opened(
    files: Sequence[str], encoding: str, output: Output, failures: list[WeighlockError]
) -> Iterator[tuple[str, Checkpoint | WeighlockError]]:
    """Yield each file's name with its description, or with what is wrong with it: one bad file stops no other.

    In text the complaint is made here. With JSON and one file only the error is raised: its document is the answer.
    """
    for name in files:
        try:
            checkpoint = open_checkpoint(name, encoding)
        except WeighlockError as error:
            failures.append(error)
            if output.json and len(files) == 1:
                raise
            if not output.json:
                complain(error)
            yield name, error
            continue
        with checkpoint:
            yield name, checkpoint


def exit_code(files: Sequence[str], failures: Sequence[WeighlockError], gaps: Sequence[str]) -> int:
    """Return 2 where nothing could be read, 3 where something was not, 0 where all was."""
    if len(failures) == len(files):
        return FAILED
    return INCOMPLETE if failures or gaps else GOOD
