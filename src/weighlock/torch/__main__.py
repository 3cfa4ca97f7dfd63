"""``python -m weighlock.torch script.py ...``, ``-m module ...`` and so on: an unchanged program, through Weighlock."""

import importlib.util
import os
import runpy
import sys
import types
from collections.abc import Callable
from typing import Final

from weighlock.torch.installing import install

__all__ = ["main"]

_USAGE = "usage: python -m weighlock.torch (SCRIPT | -m MODULE | -c CODE | -) [ARGUMENT ...]"


def main(arguments: list[str]) -> int:
    """Run a program as Python would, with `torch.load` and `torch.save` replaced.

    Parameters
    ----------
    arguments : list of str
        The script, a folder or archive with a ``__main__``, ``-m`` and a module, ``-c`` and code, or ``-`` for code
        from standard input; then the program's own arguments.

    Returns
    -------
    int
        0; what Python returns where there is no such program; 2 after a usage message. A program that ends itself
        (`sys.exit`) or raises does so here too.
    """
    kind = arguments[0] if arguments[:1] and arguments[0] in _KINDS else ""
    program = arguments[1:] if kind in ("-m", "-c") else arguments
    if not program or (not kind and program[0].startswith("-")):
        print(_USAGE, file=sys.stderr)
        return 0 if program[:1] in (["-h"], ["--help"]) else 2
    return _KINDS[kind](program)


def _run_script(program: list[str]) -> int:
    path = os.path.abspath(program[0])
    if not os.path.exists(path):
        print(f"{sys.executable}: can't open file {path!r}: [Errno 2] No such file or directory", file=sys.stderr)
        return 2
    text = b""
    if not os.path.isdir(path):
        with open(path, "rb") as file:
            text = file.read()
    sys.argv = program
    if text and not text.startswith((b"PK", importlib.util.MAGIC_NUMBER)):
        return _execute(text, path, os.path.dirname(os.path.realpath(path)))
    install()
    sys.path[0] = os.path.dirname(path)
    runpy.run_path(program[0], run_name="__main__")  # a folder, an archive, compiled code
    return 0


def _run_module(program: list[str]) -> int:
    sys.path[0] = os.getcwd()
    sys.argv = ["-m", *program[1:]]
    try:
        found = importlib.util.find_spec(program[0]) is not None
    except ModuleNotFoundError as error:  # of a package around it; whatever else its code raises is its own
        if not error.name or not f"{program[0]}.".startswith(f"{error.name}."):
            raise
        found = False
    if not found:
        print(f"{sys.executable}: No module named {program[0]}", file=sys.stderr)
        return 1
    install()
    runpy.run_module(program[0], run_name="__main__", alter_sys=True)
    return 0


def _run_text(program: list[str]) -> int:
    sys.argv = ["-c", *program[1:]]
    return _execute(program[0], "<string>", "")


def _run_input(program: list[str]) -> int:
    sys.argv = program
    return _execute(sys.stdin.read(), "<stdin>", "")


def _execute(text: str | bytes, name: str, folder: str) -> int:
    """Run code as the main module, which it stays when it has ended: for threads, and what is registered for the end.

    (`runpy` would take it away again, and write another name of the script into `sys.argv`.)
    """
    install()
    sys.path[0] = folder
    module = types.ModuleType("__main__")
    if os.path.isabs(name):
        module.__file__ = name
    sys.modules["__main__"] = module
    exec(compile(text, name, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - the user's own program
    return 0


_KINDS: Final[dict[str, Callable[[list[str]], int]]] = {
    "": _run_script, "-m": _run_module, "-c": _run_text, "-": _run_input,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
