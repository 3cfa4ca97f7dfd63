"""``python -m weighlock.torch script.py ...`` and ``-m module ...``: an unchanged program, routed through Weighlock."""

import os
import runpy
import sys

from weighlock.torch.installing import install

__all__ = ["main"]

_USAGE = "usage: python -m weighlock.torch (SCRIPT | -m MODULE) [ARGUMENT ...]"


def main(arguments: list[str]) -> int:
    """Run a program as Python would, with `torch.load` and `torch.save` replaced.

    Parameters
    ----------
    arguments : list of str
        The script, or ``-m`` and the module; then the program's own arguments.
    """
    is_module = arguments[:1] == ["-m"]
    program = arguments[is_module:]
    if not program or (program[0].startswith("-") and not is_module):
        print(_USAGE, file=sys.stderr)
        return 0 if program[:1] in (["-h"], ["--help"]) else 2
    install()
    sys.argv = program
    if is_module:
        sys.path[0] = os.getcwd()
        runpy.run_module(program[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.realpath(program[0]))
        runpy.run_path(program[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
