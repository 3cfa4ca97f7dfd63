"""Opening files one after the other, and the exit code of it all."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from weighlock.checkpoint import Checkpoint, read_checkpoint
from weighlock.cli.common import STDIN
from weighlock.cli.output import Output, complain
from weighlock.errors import ArgumentError, MissingFileError, WeighlockError

if TYPE_CHECKING:
    from weighlock.opening.opened import LazyCheckpoint

__all__ = [
    "FAILED",
    "GOOD",
    "INCOMPLETE",
    "NO",
    "check_encoding",
    "exit_code",
    "lazily",
    "open_checkpoint",
    "opened",
    "spooled",
]

GOOD: Final = 0
NO: Final = 1
FAILED: Final = 2
INCOMPLETE: Final = 3


def open_checkpoint(name: str, encoding: str) -> Checkpoint:
    """Describe one file.

    Raises
    ------
    WeighlockError
        If it cannot be read.
    """
    check_encoding(encoding)
    try:
        return read_checkpoint(spooled() if name == STDIN else name, encoding=encoding)
    except MissingFileError as error:
        if error.hint is None and name.isascii() and name.replace("-", "").isalpha():
            error.locate(hint="It is no command either; see weighlock --help.")
        raise


def check_encoding(encoding: str) -> None:
    """Raise `ArgumentError` where there is no such encoding."""
    import codecs

    try:
        if encoding != "bytes":
            codecs.lookup(encoding)
    except (LookupError, ValueError) as error:
        raise ArgumentError("no such encoding", got=encoding[:40]) from error


def spooled() -> Any:
    """Return standard input as a file that can be read by position: a copy on the disk, where it is a pipe."""
    import io
    import shutil
    import sys
    import tempfile

    class Named(io.BufferedRandom):
        name = "<stdin>"

    spool = Named(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115 - closed with the last reference
    shutil.copyfileobj(sys.stdin.buffer, spool, 1 << 20)
    spool.seek(0)
    return spool


def lazily(checkpoint: Checkpoint) -> "LazyCheckpoint":
    """Return the lazy tensors of a checkpoint; as a context manager it closes the file."""
    from weighlock.opening.opened import LazyCheckpoint

    return LazyCheckpoint(checkpoint, verify=True)


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
