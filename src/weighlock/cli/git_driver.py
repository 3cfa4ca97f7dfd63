"""``weighlock git``: git shows what has changed inside a checkpoint.

`install` names a driver in git's configuration and the files it is for in an attributes file, between two comments of
our own, so that `uninstall` finds all of it. See gitattributes(5), "Defining an external diff driver" and
"Performing text diffs of binary files".
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from weighlock.cli.output import Output, note
from weighlock.errors import ArgumentError, MissingDependencyError, WeighlockError

__all__ = ["install", "print_diff", "print_text", "uninstall"]

_BEGIN: Final = "# weighlock git install: begin"
_END: Final = "# weighlock git install: end"
_SECTION: Final = "diff.weighlock"


def install(
    patterns: Sequence[str], *, shared: bool = False, everywhere: bool = False, force: bool = False,
    dry_run: bool = False,
) -> int:  # fmt: skip
    """Set up the driver and its patterns; return the exit code."""
    attributes = _attributes_file(shared=shared, everywhere=everywhere)
    scope = "--global" if everywhere else "--local"
    settings = {
        "command": f"{_command()} git driver",
        "textconv": f"{_command()} git textconv",
        "cachetextconv": "false",
    }
    for name, value in settings.items():
        found = _git("config", scope, "--get", f"{_SECTION}.{name}", allowed=(0, 1)).rstrip("\n")
        if found and found != value and not force:
            raise ArgumentError("git has another driver of this name", got=found, hint="--force replaces it.")
    lines = [_BEGIN, *(f"{_quoted(pattern)} diff=weighlock" for pattern in patterns), _END]
    text = "".join(f"{line}\n" for line in [*_without_ours(_read(attributes)), *lines])
    if dry_run:
        for name, value in settings.items():
            note(f"would set {_SECTION}.{name} = {value} ({scope.removeprefix('--')})")
        note(f"would write to {attributes}: {' '.join(lines[1:-1])}")
        return 0
    for name, value in settings.items():
        _git("config", scope, f"{_SECTION}.{name}", value)
    _write(attributes, text)
    note(f"git compares {' '.join(patterns)} with Weighlock; the patterns stand in {attributes}")
    return 0


def uninstall(*, shared: bool = False, everywhere: bool = False, dry_run: bool = False) -> int:
    """Remove the driver and its patterns; return 1 where there was nothing."""
    attributes = _attributes_file(shared=shared, everywhere=everywhere)
    scope = "--global" if everywhere else "--local"
    before = _read(attributes)
    after = _without_ours(before)
    section = _git("config", scope, "--get-regexp", rf"^{_SECTION}\.", allowed=(0, 1))
    if before == after and not section:
        note("there is nothing to undo")
        return 1
    if dry_run:
        note(f"would remove {_SECTION} from git's configuration, and its patterns from {attributes}")
        return 0
    if section:
        _git("config", scope, "--remove-section", _SECTION)
    if after:
        _write(attributes, "".join(f"{line}\n" for line in after))
    elif os.path.exists(attributes):
        os.unlink(attributes)
    note("git compares checkpoints as it did before")
    return 0


def print_text(file: str) -> int:
    """Print a checkpoint as lines that can be compared; what is none is said in one line, so that git goes on."""
    from weighlock.cli import wording
    from weighlock.comparing.diffing import plain_texts
    from weighlock.measuring.digests import digest
    from weighlock.opening.opened import open_checkpoint

    output = Output(color="never")
    try:
        with open_checkpoint(file) as ckpt:
            hashes = digest(ckpt).tensors
            rows = [
                f"{key}  {tensor.dtype or '?'} {wording.shape(tensor.shape)}  {hashes[key]}"
                for key, tensor in ckpt.items()
            ]
            rows += [f"{key} = {text}" for key, text in plain_texts(ckpt).items()]
    except WeighlockError as error:
        rows = [f"not a checkpoint that can be read: {error.what}"]
    output.lines([row] for row in sorted(rows))
    return 0


def print_diff(arguments: Sequence[str]) -> int:
    """Print what two versions of a file differ in; the exit code is always 0, as git wants it."""
    from weighlock.cli.comparing import diff_lines
    from weighlock.comparing.diffing import diff
    from weighlock.opening.opened import open_checkpoint

    if len(arguments) < 7:
        raise ArgumentError("git calls this command, with seven arguments", got=str(len(arguments)))
    path, old, new = arguments[0], arguments[1], arguments[4]
    output = Output()
    output.line((f"diff --weighlock a/{path} b/{path}", "name"))
    try:
        if os.devnull in (old, new):
            gone, there = new == os.devnull, old if new == os.devnull else new
            with open_checkpoint(there) as ckpt:
                output.line(
                    (f"{'deleted' if gone else 'new'} file: {len(ckpt):,} tensors, {ckpt.size:,} bytes", "note")
                )
        else:
            output.lines(diff_lines(diff(old, new)))
    except WeighlockError as error:
        output.line((f"not compared: {error.what}", "bad"))
    return 0


def _command() -> str:
    """Return what a shell calls this program by."""
    found = shutil.which("weighlock")
    return shlex.quote(found) if found else f"{shlex.quote(sys.executable)} -m weighlock"


def _quoted(pattern: str) -> str:
    if pattern.isprintable() and not set(pattern) & set(' "\\#'):
        return pattern
    raise ArgumentError("the pattern has a character that cannot stand in an attributes file", got=pattern[:80])


def _attributes_file(*, shared: bool, everywhere: bool) -> str:
    if everywhere:
        set_to = _git("config", "--global", "--type=path", "--get", "core.attributesFile", allowed=(0, 1)).rstrip("\n")
        home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
        return set_to or os.path.join(home, "git", "attributes")
    if shared:
        return os.path.join(_git("rev-parse", "--show-toplevel").rstrip("\n"), ".gitattributes")
    return os.path.abspath(_git("rev-parse", "--git-path", "info/attributes").rstrip("\n"))


def _git(*arguments: str, allowed: Sequence[int] = (0,)) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607 - git itself, by its name, with arguments of our own
    except FileNotFoundError as error:
        raise MissingDependencyError("git is not installed") from error
    if done.returncode not in allowed:
        raise ArgumentError(f"git {arguments[0]} failed: {done.stderr.strip()[:200]}")
    return done.stdout


def _read(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def _without_ours(lines: Sequence[str]) -> list[str]:
    kept, inside = [], False
    for line in lines:
        inside = inside or line == _BEGIN
        if not inside:
            kept.append(line)
        inside = inside and line != _END
    return kept


def _write(path: str, text: str) -> None:
    from weighlock.storages.targets import write_file

    os.makedirs(os.path.dirname(path), exist_ok=True)
    write_file(path, text.encode("utf-8", "surrogateescape"))
