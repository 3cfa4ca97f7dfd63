"""Whose code may run here: rules that a user wrote, and the question where there is none.

A rule is a pattern ``host/owner/name``, optionally ``@`` and a branch, tag or commit; ``*`` stands for one part. What
is written without a host means github.com. Each part is compared by itself, so ``a_b/c`` is never taken for ``a/b_c``
(torch.hub joins the names and does: a repository that nobody trusted ran for one that somebody did).
"""

import builtins
import fnmatch
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

from weighlock.errors import ArgumentError, RepositoryNameError, UntrustedRepositoryError
from weighlock.hub.directories import Store, told_if_unwritable
from weighlock.hub.locks import held, read_record, write_record
from weighlock.hub.settings import Settings
from weighlock.hub.sources import Repository, is_commit
from weighlock.text import safe_text

__all__ = ["add", "check", "is_trusted", "remove", "rules"]

_BUILTIN: Final = tuple(
    f"github.com/{owner}/*" for owner in ("facebookresearch", "facebookincubator", "pytorch", "fairinternal")
)
"""The owners that torch.hub trusts of its own accord."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9_.-]+\Z")
_QUESTION: Final = " runs code of its own, and is not on the list of those that may. Trust it, now and later (y/N)? "


def rules(store: Store, settings: Settings) -> Iterator[tuple[str, str]]:
    """Give every rule with where it comes from: ``user``, ``settings``, ``torch.hub`` or ``built in``."""
    for row in _record(store)["rules"]:
        yield str(row["pattern"]), "user"
    for pattern in settings.trust:
        yield _pattern(pattern), "settings"
    for pattern in _of_torch(store):
        yield pattern, "torch.hub"
    for pattern in _BUILTIN:
        yield pattern, "built in"


def is_trusted(store: Store, settings: Settings, repository: Repository, commit: str | None) -> bool:
    """Whether a rule lets a repository's code run.

    Parameters
    ----------
    repository : Repository
        Its ref is what was asked for.
    commit : str or None
        The commit that would run.
    """
    if repository.kind == "local":
        return True
    return any(_matches(pattern, repository, commit) for pattern, _ in rules(store, settings))


def add(store: Store, pattern: str) -> str:
    """Add a rule; return it as it was understood.

    Raises
    ------
    RepositoryNameError
        If it is none.
    """
    pattern = _pattern(pattern)
    with held(store, "trust"), told_if_unwritable(store.root, "the list of what is trusted"):
        record = _record(store)
        if all(row["pattern"] != pattern for row in record["rules"]):
            record["rules"].append({"pattern": pattern, "added": int(time.time())})
            write_record(store.path("trust.json"), record)
    return pattern


def remove(store: Store, pattern: str) -> bool:
    """Take a rule back; return whether it was there."""
    pattern = _pattern(pattern)
    with held(store, "trust"):
        record = _record(store)
        left = [row for row in record["rules"] if row["pattern"] != pattern]
        found = len(left) < len(record["rules"])
        if found:
            write_record(store.path("trust.json"), {**record, "rules": left})
    return _forget_in_torch(store, pattern) or found


def check(
    store: Store, settings: Settings, repository: Repository, commit: str | None, trust_repo: Any,
    describe: Callable[[], str],
) -> None:  # fmt: skip
    """Let a repository pass, ask, or refuse.

    Parameters
    ----------
    trust_repo : bool, "check" or None
        True trusts it now and later. ``"check"`` and None ask where no rule lets it pass; False asks always.
    describe : callable
        What would run, for the question.

    Raises
    ------
    UntrustedRepositoryError
        If it is not trusted, and nobody can be asked, or the answer is no.
    """
    if not (trust_repo is None or isinstance(trust_repo, bool) or (type(trust_repo) is str and trust_repo == "check")):
        raise ArgumentError("trust_repo must be True, False, 'check' or None", got=repr(trust_repo)[:40])
    if repository.kind == "local":
        return
    trusted = is_trusted(store, settings, repository, commit)
    if trust_repo is False or (trust_repo is not True and not trusted):
        _ask(repository, commit, describe)
        if trusted:
            print("The repository is already trusted.", file=sys.stderr)  # noqa: T201 - part of the question's dialogue
    if not trusted and store.writable():
        try:
            add(store, repository.full_name)
            _tell_torch(store, repository)
        except OSError as error:  # it is trusted now all the same
            warnings.warn(f"that {repository} is trusted could not be written down: {error}", stacklevel=2)


def _ask(repository: Repository, commit: str | None, describe: Callable[[], str]) -> None:
    """Ask on the terminal. A program that has put its own function in the place of `input` is asked, too."""
    name = safe_text(str(repository))
    at = f"@{commit}" if commit else ""
    advice = f"To trust it: weighlock hub trust add {repository.full_name}{at}   or pass trust_repo=True."
    if not _can_ask():
        raise UntrustedRepositoryError(f"the repository {name} is not trusted, and nobody can be asked", hint=advice)
    print(describe(), file=sys.stderr)  # noqa: T201 - the question itself
    try:
        response = input(f"The repository {name}{_QUESTION}")
    except EOFError as error:
        raise UntrustedRepositoryError(f"the repository {name} is not trusted", hint=advice) from error
    if response.lower() in ("y", "yes"):
        return
    if response.lower() in ("n", "no", ""):
        raise UntrustedRepositoryError("Untrusted repository.", hint=advice)
    raise ArgumentError(f"Unrecognized response {response}.")


def _can_ask() -> bool:
    if type(builtins.input).__name__ != "builtin_function_or_method":
        return True
    try:
        return sys.stdin is not None and sys.stdin.isatty()
    except ValueError:
        return False


def _pattern(text: str) -> str:
    place, at, ref = text.strip().partition("@")
    parts = place.removeprefix("https://").strip("/").split("/")
    if len(parts) == 2 and "." not in parts[0]:
        parts.insert(0, "github.com")
    if len(parts) < 3 or not all(parts) or (at and not ref):
        raise RepositoryNameError(
            "this names no repository", got=text[:100], hint="Write owner/name, host/owner/name, or owner/name@commit."
        )
    return "/".join([parts[0].lower(), *parts[1:]]) + at + ref


def _matches(pattern: str, repository: Repository, commit: str | None) -> bool:
    place, _, ref = pattern.partition("@")
    wanted, found = place.split("/"), repository.full_name.split("/")
    if len(wanted) != len(found) or not all(map(fnmatch.fnmatchcase, _folded(found), _folded(wanted))):
        return False
    return not ref or ref in (repository.ref, commit) or (commit is not None and len(ref) >= 7 and _begins(commit, ref))


def _begins(commit: str, ref: str) -> bool:
    return is_commit(commit) and commit.startswith(ref)


def _folded(parts: list[str]) -> list[str]:
    """Lower the case: hosts find a repository under any spelling."""
    return [part.lower() for part in parts]


def _record(store: Store) -> dict[str, Any]:
    record = read_record(store.path("trust.json")) or {}
    found = record.get("rules")
    record["rules"] = (
        [row for row in found if isinstance(row, dict) and "pattern" in row] if isinstance(found, list) else []
    )
    return record


def _torch_path(store: Store) -> str:
    return os.path.join(store.hub, "trusted_list")


def _torch_lines(store: Store) -> list[str]:
    try:
        with open(_torch_path(store), encoding="utf-8", errors="replace") as file:
            return [line.strip() for line in file]
    except OSError:
        return []


def _of_torch(store: Store) -> Iterator[str]:
    """Give the rules of torch.hub's own list that can mean one repository only."""
    for line in _torch_lines(store):
        if line.count("_") == 1 and _PLAIN.match(line):  # a name, in which `*` stands for nothing
            yield "github.com/" + line.replace("_", "/")


def _tell_torch(store: Store, repository: Repository) -> None:
    """Write the name into torch.hub's list, where it can mean this repository only, so that it asks no second time."""
    name = f"{repository.owner}_{repository.name}"
    if repository.host == "github.com" and name.count("_") == 1 and name not in _torch_lines(store):
        with open(_torch_path(store), "ab+") as file:
            # A last line without its end would become one name with ours, and perhaps somebody's.
            begin = b"" if _ends_a_line(file) else b"\n"
            file.write(begin + name.encode() + b"\n")


def _ends_a_line(file: BinaryIO) -> bool:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    return file.read(1) in (b"", b"\n")


def _forget_in_torch(store: Store, pattern: str) -> bool:
    name = pattern.removeprefix("github.com/").replace("/", "_")
    lines = _torch_lines(store)
    if name not in lines:
        return False
    temporary = _torch_path(store) + f".{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines if line != name)
    os.replace(temporary, _torch_path(store))
    return True
