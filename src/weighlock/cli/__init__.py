"""The command ``weighlock``: what stands between a terminal, or another program, and `weighlock.inspection`.

Nothing is imported here but what every call needs; each command is a module of its own, imported when it is called.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main", "run"]

# 128 + SIGPIPE and SIGINT, as a shell reports programs that end so.
_BROKEN_PIPE = 141
_INTERRUPTED = 130


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line (without the program's name); return its exit code.

    0: good; 1: the answer is "no"; 2: it could not be done; 3: not everything was examined.
    """
    import gc

    from weighlock.cli.application import invoke

    # A description of a large checkpoint is millions of objects, none of them garbage: walking them again and again
    # would double the time of the command. The process ends before garbage could matter.
    gc.disable()
    try:
        code = invoke(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        _close_stdout()
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        gc.enable()
    return code


def _close_stdout() -> None:
    """Keep the interpreter from complaining, at its end, that nobody reads what is still buffered."""
    import os

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def main() -> NoReturn:
    """Run the command line of this process."""
    sys.exit(run(sys.argv[1:]))
