"""Completion in a shell: commands, options, and the names of tensors inside of the file on the line.

A shell calls ``weighlock __complete WORD...`` with the words up to the cursor at each press of the key, so nothing here
imports click: the options stand in a table, which a test compares with the grammar. What is printed goes into the
user's command line as it is, so names with any character that means something to a shell are not offered.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from weighlock.cli.common import ALIASES, FORMATS, TAKEN, WRITTEN_FORMATS
from weighlock.cli.output import COLORS
from weighlock.cli.verbs import VERBS

__all__ = ["OPTIONS", "complete", "print_script"]

_COMMON: Final = ("--color", "--encoding", "--help")
_WRITTEN: Final = ("--output", "--force", "--dry-run", "--quiet", "--no-progress", "--no-truncate", *_COMMON)
_LISTED: Final = ("--files-from", "--null")
_CHOSEN: Final = ("--include", "--exclude")
_FORM: Final = ("--format", "--json")
_REWRITTEN: Final = ("--to", "--aliases", "--metadata", "--no-verify", "--durable", *_FORM, *_WRITTEN)

OPTIONS: Final[dict[str, tuple[str, ...]]] = {
    "inspect": (*_LISTED, *_CHOSEN, *_FORM, *_WRITTEN),
    "ls": (*_LISTED, *_CHOSEN, "--long", *_FORM, *_WRITTEN),
    "show": ("--all", "--dtype", *_FORM, *_WRITTEN),
    "tree": ("--depth", "--fold", "--no-fold", *_LISTED, *_CHOSEN, *_WRITTEN),
    "stats": (*_LISTED, *_CHOSEN, "--hist", "--bins", "--check", *_FORM, *_WRITTEN),
    "digest": (*_LISTED, *_CHOSEN, "--tensors", "--weights", *_FORM, *_WRITTEN),
    "layout": (*_LISTED, *_FORM, *_WRITTEN),
    "scan": (*_FORM, "--output", "--fail-on", "--allow", "--exclude", "--files-from", "--policy", "--baseline",
             "--write-baseline", "--deep", "--allow-incomplete", "--jobs", "--quiet", "--color", "--help"),
    "explain": ("--json", "--color", "--help"),
    "verify": (*_LISTED, "--manifest", "--lock", "--jobs", "--allow-incomplete", *_FORM, *_WRITTEN),
    "manifest": (*_LISTED, *_WRITTEN),
    "salvage": ("--manifest", "--require-crc", "--raw", "--all", "--force", "--dry-run", "--quiet", "--no-truncate",
                *_FORM, "--color", "--help"),
    "diff": (*_CHOSEN, "--values", "--no-values", "--rtol", "--atol", "--strip-prefix-a", "--strip-prefix-b",
             "--rename", "--all", *_FORM, *_WRITTEN),
    "view": ("--port", "--no-browser", "--idle-timeout", "--host", "--i-know-this-exposes-files", "--base-url",
             "--allow-host", "--log", "--encoding", "--color", "--help"),
    "convert": (*_LISTED, *_CHOSEN, "--take", "--dtype", "--max-shard-size", *_REWRITTEN),
    "edit": ("--rename", "--drop", "--keep", "--strip-prefix", "--add-prefix", "--cast", "--replace", "--within",
             *_REWRITTEN),
}  # fmt: skip
"""The options of the commands that read checkpoints."""

_SUBCOMMANDS: Final = {
    "completion": ("bash", "zsh", "fish"),
    "git": ("install", "uninstall", "textconv", "driver"),
    "hub": ("list", "help", "inspect", "prefetch", "lock", "check", "trust", "dir"),
    "cache": ("ls", "du", "rm", "prune", "verify", "why", "dir"),
}
_FORMATS_OF: Final[dict[str, tuple[str, ...]]] = {
    "inspect": ("text", "json", "jsonl"),
    "show": ("text", "json", "csv", "tsv"),
    "convert": ("text", "json", "jsonl"),
    "edit": ("text", "json"),
    "scan": ("text", "json", "jsonl", "html", "sarif"),
    "verify": ("text", "json", "jsonl"),
    "salvage": ("text", "json"),
}
_GLOBS: Final = ("--include", "--exclude", "-i", "-x", "--drop", "--keep", "--rename", "--replace", "--within",
                 "--strip-prefix")  # fmt: skip
_WITH_VALUES: Final = frozenset({
    "--format", "-f", "--color", "--encoding", "--output", "-o", "--files-from", "--include", "-i", "--exclude", "-x",
    "--dtype", "--depth", "--bins", "--rtol", "--atol", "--strip-prefix-a", "--strip-prefix-b", "--rename",
    "--to", "--aliases", "--metadata", "--take", "--max-shard-size", "--drop", "--keep", "--strip-prefix",
    "--add-prefix", "--cast", "--replace", "--within",
    "--fail-on", "--allow", "--policy", "--baseline", "--write-baseline", "--jobs", "-j",
    "--manifest", "--lock", "--port", "--idle-timeout", "--host", "--base-url", "--allow-host",
})  # fmt: skip
_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "--color": COLORS, "--to": WRITTEN_FORMATS, "--take": TAKEN, "--aliases": ALIASES,
}  # fmt: skip
_HARMLESS: Final = re.compile(r"[A-Za-z0-9_.,:@%+/-]+")
_MOST: Final = 1000


def complete(words: Sequence[str]) -> int:
    """Print what the last word may become, one a line; nothing where the shell should complete names of files."""
    try:
        found = list(_candidates(list(words) or [""]))
    except Exception:  # noqa: BLE001 - whatever is wrong with the file, a key press must not print a complaint
        return 0
    sys.stdout.write("".join(f"{text}\n" for text in found[:_MOST]))
    return 0


def _candidates(words: list[str]) -> Iterator[str]:
    *before, word = words
    verb = before[0] if before and before[0] in VERBS else None
    previous = before[-1] if before else ""
    if not before and not word.startswith("-"):
        yield from _starting(word, VERBS)
    elif choices := _choices(verb or "inspect", previous):
        yield from _starting(word, choices)
    elif previous in _GLOBS and verb is not None and (verb == "edit" or "--include" in OPTIONS.get(verb, ())):
        files = _files(before[1:])
        yield from _parts(word, _keys(files[:1] if verb in ("convert", "edit") else files))
    elif word.startswith("-"):
        yield from _starting(word, OPTIONS.get(verb or "inspect", ("--help",)))
    elif verb in _SUBCOMMANDS and len(before) == 1:
        yield from _starting(word, _SUBCOMMANDS[verb])
    elif verb == "schema" and len(before) == 1:
        from weighlock.cli.schemas import names

        yield from _starting(word, names())
    elif verb == "show" and len(_files(before[1:])) == 1:
        yield from _parts(word, _keys(_files(before[1:])))


def _choices(verb: str, option: str) -> Sequence[str]:
    """Return the values that an option may have, where there are few."""
    if option in ("--format", "-f"):
        return _FORMATS_OF.get(verb, FORMATS)
    if option == "--fail-on":
        return ("low", "medium", "high", "critical", "never")
    if option in ("--dtype", "--cast"):
        from weighlock.dtypes import DTYPES

        return [name for name, row in DTYPES.items() if row.kind in "fiubc"]
    return _CHOICES.get(option, ())


def _starting(word: str, texts: Sequence[str] | dict[str, str]) -> Iterator[str]:
    return (text for text in texts if text.startswith(word))


def _files(words: Sequence[str]) -> list[str]:
    """Return the words that are no options and no values of options."""
    found, skip = [], False
    for word in words:
        if skip or word.startswith("-"):
            skip = not skip and word in _WITH_VALUES
        else:
            found.append(word)
    return found


def _keys(files: Sequence[str]) -> Iterator[str]:
    """Yield the keys of every file that can be read; nothing remote is asked at the press of a key."""
    import os

    from weighlock.checkpoint import read_checkpoint
    from weighlock.errors import WeighlockError
    from weighlock.inspection.inventory import take_inventory

    for name in files:
        path = os.path.expanduser(name)
        if os.path.isfile(path) or os.path.isdir(path):
            try:
                with read_checkpoint(path) as checkpoint:
                    yield from (row.key for row in take_inventory(checkpoint).rows)
            except WeighlockError:
                continue


def _parts(word: str, keys: Iterator[str]) -> list[str]:
    """Return the keys that a word may become, up to the next dot where there are many."""
    found = dict.fromkeys(key for key in keys if key.startswith(word) and _HARMLESS.fullmatch(key))
    if len(found) <= _FEW:
        return list(found)
    ends = ((key, key.find(".", len(word) + 1)) for key in found)
    return list(dict.fromkeys(key if end < 0 else key[: end + 1] for key, end in ends))


_FEW: Final = 40


def print_script(shell: str) -> int:
    """Print the script for a shell; return the exit code."""
    from weighlock.cli.output import Output

    Output(color="never").text(_SCRIPTS[shell])
    return 0


_BASH: Final = """\
_weighlock() {
    local cur words cword
    if declare -F _get_comp_words_by_ref >/dev/null; then
        _get_comp_words_by_ref -n =: cur words cword
    else
        words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; cur=${COMP_WORDS[COMP_CWORD]}
    fi
    local IFS=$'\\n'
    COMPREPLY=($("${words[0]}" __complete "${words[@]:1:cword}" 2>/dev/null))
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *. ]] && compopt -o nospace
    declare -F __ltrim_colon_completions >/dev/null && __ltrim_colon_completions "$cur"
    return 0
}
complete -o default -F _weighlock weighlock"""

_ZSH: Final = """\
#compdef weighlock
_weighlock() {
    local -a found
    found=(${(f)"$(${words[1]} __complete "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( $#found )); then
        if [[ $#found -eq 1 && $found[1] == *. ]]; then compadd -S '' -a found; else compadd -a found; fi
    else
        _files
    fi
}
compdef _weighlock weighlock"""

_FISH: Final = """\
function __weighlock_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found ($words[1] __complete $words[2..-1] 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c weighlock -f -a '(__weighlock_complete)'"""

_SCRIPTS: Final = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
