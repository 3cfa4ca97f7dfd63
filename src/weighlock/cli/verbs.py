"""The verbs, and the command lines that need no parser.

click takes as long to import as a large checkpoint takes to be described. Most command lines are a verb, flags and
files; those are understood here, and all others, with help and mistakes, by click. A test holds the two together.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

__all__ = ["VERBS", "quickly"]

VERBS: Final = {
    "inspect": "What a file is, what is inside, whether it can be loaded.",
    "ls": "One line per tensor.",
    "show": "The values of a tensor, or what stands at a place.",
    "tree": "The names of the tensors as a tree.",
    "scan": "What loading would run, and whether files are whole.",
    "explain": "What a rule of the scan means.",
    "hub": "Models and weights from repositories: list, fetch, lock, trust.",
    "cache": "What the hub has stored: show, check, remove.",
}
"""THE list of commands, and what each does."""

_FLAGS: Final[dict[str, dict[str, str]]] = {
    "inspect": {"--json": "as_json"},
    "ls": {"--json": "as_json", "--long": "long", "-l": "long"},
    "show": {"--json": "as_json", "--all": "everything"},
    "tree": {},
}


def parse(arguments: Sequence[str]) -> tuple[str, dict[str, Any]] | None:
    """Return the verb and its options where the line holds nothing but a verb, flags and files; None otherwise."""
    verb, rest = (arguments[0], arguments[1:]) if arguments and arguments[0] in VERBS else ("inspect", arguments)
    if verb not in _FLAGS:
        return None
    flags = _FLAGS[verb]
    if not all(argument in flags or (argument and argument[0] != "-") for argument in rest):
        return None
    options: dict[str, Any] = {flags[argument]: True for argument in rest if argument in flags}
    names = [argument for argument in rest if argument not in flags]
    if verb == "show":
        if len(names) != 2:
            return None
        return verb, {"file": names[0], "key": names[1], **options}
    return (verb, {"files": tuple(names), **options}) if names else None


def quickly(arguments: Sequence[str]) -> Callable[[], int] | None:
    """Return what carries out a simple command line; None where click must read it."""
    parsed = parse(arguments)
    if parsed is None:
        return None
    verb, options = parsed
    return lambda: _function(verb)(**options)


def _function(verb: str) -> Callable[..., int]:
    if verb == "ls":
        from weighlock.cli.listing import list_files

        return list_files
    if verb == "show":
        from weighlock.cli.showing import show_place

        return show_place
    if verb == "tree":
        from weighlock.cli.drawing import draw_files

        return draw_files
    from weighlock.cli.inspecting import inspect_files

    return inspect_files
