"""The command ``weighlock``: what stands between a terminal, or another program, and `weighlock.inspection`.

Nothing is imported at the top but what every call needs; each command is a module of its own, imported when called.
"""

import errno
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from weighlock.errors import WeighlockError

__all__ = ["main", "run"]

# 128 + SIGPIPE and SIGINT, as a shell reports programs that end so.
_BROKEN_PIPE = 141
_INTERRUPTED = 130
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO))


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line (without the program's name); return its exit code.

    0: good; 1: the answer is "no"; 2: it could not be done; 3: not everything was examined.
    """
    import gc

    from weighlock.cli.output import debugging
    from weighlock.cli.verbs import quickly

    # A description of a large checkpoint is millions of objects, none of them garbage: walking them again and again
    # would double the time of the command. The process ends before garbage could matter.
    collecting = gc.isenabled()
    gc.disable()
    arguments, debug = _without_debug(arguments)
    token = debugging.set(debug)
    try:
        code = _guarded(_completing(arguments) or quickly(arguments) or (lambda: _parsed(arguments)), arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        _close_stdout()
        return _BROKEN_PIPE
    except OSError as error:
        _close_stdout()
        sys.stderr.write(f"weighlock: standard output cannot be written: {error.strerror}\n")
        return 2
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        debugging.reset(token)
        if collecting:
            gc.enable()
    return code


def _without_debug(arguments: Sequence[str]) -> tuple[Sequence[str], bool]:
    """Take ``--debug`` out of a command line, from before ``--``; ``WEIGHLOCK_DEBUG=1`` means the same."""
    import os

    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [argument for argument in arguments[:end] if argument != "--debug"]
    return [*kept, *arguments[end:]], len(kept) < end or bool(os.environ.get("WEIGHLOCK_DEBUG"))


def _completing(arguments: Sequence[str]) -> Callable[[], int] | None:
    """Return what answers a shell that completes a line; None where this is none."""
    if not arguments or arguments[0] != "__complete":
        return None
    from weighlock.cli.completing import complete

    return lambda: complete(arguments[1:])


def _guarded(command: Callable[[], int], arguments: Sequence[str]) -> int:
    """Run a command; no exception but those of the terminal leaves."""
    from weighlock.cli.output import Output

    try:
        return command()
    except WeighlockError as error:
        return Output(json=_wants_json(arguments)).error(error)
    except BrokenPipeError:
        raise
    except OSError as error:
        # Files are read and written through errors of our own; what has no name of a file is standard output.
        if error.filename is None and error.errno in _FULL:
            raise
        return Output(json=_wants_json(arguments)).crash(error)
    except Exception as error:  # noqa: BLE001 - Python's own exit code for a traceback is 1, which would say "no"
        return Output(json=_wants_json(arguments)).crash(error)


def _parsed(arguments: Sequence[str]) -> int:
    """Have click read the command line."""
    import os

    import click

    from weighlock.cli.application import application
    from weighlock.errors import ArgumentError

    try:
        result = application.main(list(arguments), prog_name="weighlock", standalone_mode=False)
    except SystemExit:
        # click's own answer to a reader that went away, and the end of its shell completion.
        if "_WEIGHLOCK_COMPLETE" in os.environ:
            raise
        raise BrokenPipeError from None
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        sys.stderr.write(error.format_message() + "\n")
        return 2
    except click.exceptions.Abort as stop:
        # click takes every EOFError for the end of its input, and some of our errors are ones: a file that was cut.
        if isinstance(stop.__cause__, WeighlockError):
            raise stop.__cause__ from None
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        what = error.format_message().strip().rstrip(".")
        name = "weighlock" if context is None else context.command_path
        raise ArgumentError(what[:1].lower() + what[1:], hint=f"Try: {name} --help") from error
    return result if isinstance(result, int) else 0


_JSON = frozenset(("--json", "--format=json", "--format=jsonl", "-fjson", "-fjsonl"))


def _wants_json(arguments: Sequence[str]) -> bool:
    """Tell the format of an error on a command line that could perhaps not be understood."""
    before = ["", *arguments]
    return any(
        argument in _JSON or (argument in ("json", "jsonl") and before[at] in ("--format", "-f"))
        for at, argument in enumerate(arguments)
    )


def _close_stdout() -> None:
    """Keep the interpreter from complaining, at its end, that nobody reads what is still buffered."""
    import os

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _open_streams() -> None:
    """Have somewhere to write where the shell closed a stream (``>&-``): Python has None there."""
    import os

    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - to the end of the process
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def main() -> NoReturn:
    """Run the command line of this process."""
    _open_streams()
    sys.exit(run(sys.argv[1:]))
