"""What commands that read checkpoints have in common: options, where the result goes, which files are meant."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TextIO

from weighlock.cli.output import Output, note
from weighlock.errors import ArgumentError

__all__ = [
    "ALIASES",
    "FORMATS",
    "STDIN",
    "TAKEN",
    "WRITTEN_FORMATS",
    "Common",
    "check_target",
    "chosen_files",
    "taken",
    "write_result",
    "writing",
]

FORMATS: Final = ("text", "json", "jsonl", "csv", "tsv", "markdown")
STDIN: Final = "-"
STDOUT: Final = "-"
# What `weighlock.convert` knows, for the grammar and completion, which import no more than they must. A test compares.
ALIASES: Final = ("record", "clone", "error")
TAKEN: Final = ("all", "tensors", "state_dict")
WRITTEN_FORMATS: Final = ("torch-zip", "torch-legacy", "safetensors", "npz")


class Common(NamedTuple):
    """The options that such commands share, with their defaults.

    Attributes
    ----------
    form : str
        One of `FORMATS`.
    target : str or None
        The file that the result is written to; None for standard output.
    force, dry_run : bool
        Overwrite a file that is there; write nothing and say what would be written.
    quiet : bool
        Print nothing; the exit code is the answer.
    """

    form: str = "text"
    color: str = "auto"
    encoding: str = "utf-8"
    target: str | None = None
    force: bool = False
    dry_run: bool = False
    quiet: bool = False
    progress: bool = True
    truncate: bool = True


def taken(options: dict[str, Any]) -> Common:
    """Take the common options out of those of a command."""
    if options.pop("as_json", False):
        options["form"] = "json"
    if options.get("target") == STDOUT:
        options["target"] = None
    return Common(**{name: options.pop(name) for name in Common._fields if name in options})


@contextmanager
def writing(common: Common, inputs: Sequence[str], stream: TextIO | None = None) -> Iterator[Output]:
    """Give where the result is written; a file is written when all of it is there, or not at all.

    Parameters
    ----------
    common : Common
    inputs : sequence of str
    stream : file object, optional
        Instead of standard output, where no file is asked for.

    Raises
    ------
    ArgumentError
        If the file is there already, or is one of the inputs.
    SaveError
        If it cannot be written.
    """
    json = common.form in ("json", "jsonl")
    if common.target is None:
        yield Output(json=json, color=common.color, quiet=common.quiet, stream=stream)
        return
    import io

    check_target(common.target, inputs, force=common.force)
    text = io.StringIO()
    yield Output(json=json, color="never", stream=text)
    data = text.getvalue().encode("utf-8", "backslashreplace")
    write_result(common, data)


def write_result(common: Common, data: bytes) -> None:
    """Write the file that was asked for, whole or not at all."""
    from weighlock.storages.targets import write_file

    assert common.target is not None  # noqa: S101 - there is one where this is called
    if common.dry_run:
        note(f"would write {common.target}, {len(data):,} bytes")
        return
    write_file(common.target, data)


def check_target(target: str, inputs: Sequence[str], *, force: bool) -> None:
    """Refuse an address, an input, and without `force` a file that is there."""
    from weighlock.storages.targets import is_special, refuse_address

    refuse_address(target)
    if not os.path.exists(target) or is_special(target):
        return
    for name in inputs:
        if os.path.exists(name) and os.path.samefile(name, target):
            raise ArgumentError("the result would be written over the input", got=target)
    if os.path.isfile(target) and not force:
        raise ArgumentError("the file is there already", got=target, hint="--force overwrites it.")


def chosen_files(files: Sequence[str], files_from: str | None = None, *, null: bool = False) -> list[str]:
    """Return the files of a command line and of a list of names.

    Parameters
    ----------
    files : sequence of str
    files_from : str or None
        A file with one name on each line; ``-`` for standard input.
    null : bool
        Names end with a null byte instead.

    Raises
    ------
    ArgumentError
        If there are none, or standard input is asked for twice.
    """
    found = list(files)
    if files_from is not None:
        found += _names(files_from, "\0" if null else "\n")
    if not found:
        raise ArgumentError(
            "no file is given", hint="Try: weighlock --help. A list of files is read with --files-from."
        )
    if [*found, files_from].count(STDIN) > 1:
        raise ArgumentError("standard input can be read only once")
    return found


def _names(files_from: str, end: str) -> list[str]:
    try:
        if files_from == STDIN:
            data = sys.stdin.buffer.read()
        else:
            with open(files_from, "rb") as file:
                data = file.read()
    except OSError as error:
        raise ArgumentError(f"the list of files cannot be read: {error.strerror}", got=files_from) from error
    names = os.fsdecode(data).split(end)
    return [name.removesuffix("\r") if end == "\n" else name for name in names if name.strip("\r")]
