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
    "verify": "Whether every byte of a file is as it was written.",
    "manifest": "The SHA-256 of files and tensors, for later.",
    "salvage": "What is whole in a damaged file, in a new one.",
    "stats": "Minima, maxima, means, NaN of every tensor.",
    "digest": "One hash of the content, the same for every format.",
    "layout": "What each byte of a file is there for.",
    "view": "A page in the browser that shows what files hold.",
    "diff": "What two checkpoints differ in.",
    "convert": "The same checkpoint in another format.",
    "edit": "The same checkpoint under other names, or in other types.",
    "completion": "The script that completes commands and tensor names in a shell.",
    "schema": "The JSON Schema of a document.",
    "env": "What Weighlock runs on here, for a report.",
    "git": "Have git show differences of checkpoints.",
    "hub": "Models and weights from repositories: list, fetch, lock, trust.",
    "cache": "What the hub has stored: show, check, remove.",
}
"""THE list of commands, and what each does."""

_FLAGS: Final[dict[str, dict[str, str]]] = {
    "inspect": {"--json": "as_json"},
    "ls": {"--json": "as_json", "--long": "long", "-l": "long"},
    "show": {"--json": "as_json", "--all": "everything"},
    "tree": {},
    "stats": {"--json": "as_json", "--hist": "hist", "--check": "check"},
    "digest": {"--json": "as_json", "--tensors": "tensors", "--weights": "weights"},
    "layout": {"--json": "as_json"},
    "diff": {"--json": "as_json", "--all": "everything", "--quiet": "quiet", "-q": "quiet"},
    "convert": {"--json": "as_json", "--force": "force", "--dry-run": "dry_run", "--quiet": "quiet", "-q": "quiet"},
}


_PAIRS: Final = {"show": ("file", "key"), "diff": ("a", "b"), "convert": ("src", "dst")}


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
    if verb in _PAIRS:
        if len(names) != 2:
            return None
        return verb, {**dict(zip(_PAIRS[verb], names, strict=True)), **options}
    return (verb, {"files": tuple(names), **options}) if names else None


def quickly(arguments: Sequence[str]) -> Callable[[], int] | None:
    """Return what carries out a simple command line; None where click must read it."""
    parsed = parse(arguments)
    if parsed is None:
        return None
    verb, options = parsed
    return lambda: _function(verb)(**options)


# Each is imported when it is called: they need different rooms, and some of them NumPy.
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
    if verb == "stats":
        from weighlock.cli.measuring import measure_files

        return measure_files
    if verb == "digest":
        from weighlock.cli.measuring import digest_files

        return digest_files
    if verb == "layout":
        from weighlock.cli.layout import lay_out_files

        return lay_out_files
    if verb == "diff":
        from weighlock.cli.comparing import diff_files

        return diff_files
    if verb == "convert":
        from weighlock.cli.rewriting import convert_file

        return convert_file
    from weighlock.cli.inspecting import inspect_files

    return inspect_files
