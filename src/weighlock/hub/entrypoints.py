"""`list`, `help` and `load`: what a hubconf offers, and calling it.

The first two read the syntax tree: no code of the repository runs, so nobody is asked to trust it. The third runs it,
in a space of its own.
"""

import dataclasses
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

from weighlock.errors import (
    ArgumentError,
    EntryPointError,
    HubError,
    MissingPackagesError,
)
from weighlock.hub import trust
from weighlock.hub.directories import Store, find_store
from weighlock.hub.lock_file import load_lock
from weighlock.hub.locks import note_record, read_record
from weighlock.hub.repositories import Wanted, Working, find, folder_at
from weighlock.hub.settings import Settings, current
from weighlock.hub.sources import Repository, parse
from weighlock.hub.usage import note_repository, running
from weighlock.text import safe_text

__all__ = [
    "Request",
    "call_entry",
    "describe",
    "executed_names",
    "find_entry",
    "obtain",
    "open_hubconf",
    "report_of",
]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of a repository: the parameters that `list`, `help` and `load` share.

    Attributes
    ----------
    repository : str or os.PathLike
    source : str
    trust_repo : bool, "check" or None
    force : bool
    validate : bool
    verbose : bool
    runs : bool
        Whether code of the repository will run.
    """

    repository: Any
    source: str = "github"
    trust_repo: Any = "check"
    force: bool = False
    validate: bool = True
    verbose: bool = True
    runs: bool = True


def obtain(request: Request, settings: Settings) -> Working:
    """Return a repository's files, and permission to run them where they are to be run.

    Raises
    ------
    HubError
        If they cannot be had, or may not be run.
    """
    store = find_store()
    repository = parse(request.repository, str(request.source).lower(), settings)
    lock = load_lock(settings)
    pin = lock.pin(repository) if lock is not None and repository.kind != "local" else None

    def allow(repository: Repository, commit: str | None, left_by_torch: str | None) -> None:
        """Ask, before anything is fetched in order to be run. What torch.hub has run already is trusted."""
        if not request.runs or (left_by_torch is not None and request.trust_repo is not False):
            return
        trust.check(
            store, settings, repository, commit, request.trust_repo,
            lambda: _warning(store, repository, settings, commit),
        )  # fmt: skip

    working = find(store, repository, settings, Wanted(allow, request.force, request.validate, pin))
    if request.verbose and working.source in ("stored", "torch.hub"):
        sys.stderr.write(f"Using cache found in {working.root}\n")
    note_repository(working)
    return working


def _warning(store: Store, repository: Repository, settings: Settings, commit: str | None) -> str:
    """Say what would run. It is fetched to be read; nothing of it runs."""
    first = f"{repository.full_name}{f' at commit {commit}' if commit else ''}: its hubconf.py and what that imports."
    if commit is None:
        return first
    try:
        report = report_of(folder_at(store, repository, settings, commit))
    except HubError as error:
        return f"{safe_text(first)}\n  {safe_text(str(error))}"
    needs = [*(report.dependencies or ()), *(f"{name} (not declared)" for name in report.undeclared)]
    lines = [first, f"  it offers {_some([entry.name for entry in report.entries if entry.kind != 'external'])}"]
    lines += [f"  it needs {_some(needs)}"] if needs else []
    lines += [f"  it may fetch {_some([url.url for url in report.urls], 3)}"] if report.urls else []
    lines += [f"  when it is imported, it {effect.what} ({effect.file}:{effect.line})" for effect in report.effects[:5]]
    lines += [f"  and {len(report.effects) - 5} things more"] if len(report.effects) > 5 else []
    return "\n".join(map(safe_text, lines))


def _some(names: list[str], most: int = 8) -> str:
    """Write the first few of many names."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more


def report_of(root: str) -> Any:
    """Return the static report on a folder.

    Raises
    ------
    HubError
        If it has no `hubconf.py`, or that cannot be read.
    """
    from weighlock.hub.static.reading import read_report

    return read_report(root)


def open_hubconf(working: Working) -> tuple[Any, Any]:
    """Import a repository's hubconf; return its space and the module.

    Raises
    ------
    MissingPackagesError
        If packages that it declares are not installed. That is seen before it runs.
    EntryPointError
        If it has no hubconf.
    Exception
        Whatever the hubconf raises.
    """
    from weighlock.hub.isolation import Place, open_space

    if not os.path.isfile(os.path.join(working.root, "hubconf.py")):
        raise EntryPointError("the repository has no hubconf.py", path=working.root)
    key, facts = _facts(working)
    _check_packages(facts["dependencies"] or (), working)
    space = open_space(key, Place(working.root, tuple(facts["roots"]), bool(facts["plain"])))
    with space.running():
        module = space.module("hubconf")
    if facts["dependencies"] is None:
        _check_packages(vars(module).get("dependencies") or (), working)
    return space, module


def _facts(working: Working) -> tuple[str, dict[str, Any]]:
    """Return what is known of a repository before it runs: for a commit it is written down once."""
    store = find_store()
    key = _key(working)
    path = store.path("spaces", key + ".json")
    known = read_record(path) if working.commit is not None else None
    if known is None or known.get("root") != working.root or "plain" not in known:
        try:
            report = report_of(working.root)
        except HubError as error:
            raise EntryPointError(str(error), path=working.root) from error
        dependencies = None if report.dependencies is None else [str(name) for name in report.dependencies]
        roots = [os.path.join(working.root, root) for root in report.roots]
        known = {
            "root": working.root,
            "plain": bool(report.compatibility),
            "roots": roots,
            "dependencies": dependencies,
        }
        if working.source != "local" and store.writable():
            note_record(path, known)
    return key, known


def _key(working: Working) -> str:
    """Return the name of a repository's space: readable, and no other commit's."""
    identity = f"{working.repository.full_name}\0{working.commit or os.path.realpath(working.root)}"
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:10]
    name = re.sub(r"\W", "_", "_".join(part for part in (working.repository.owner, working.repository.name) if part))
    return f"{name or 'local'}_{digest}"


_OTHER_NAMES: Final = {"cv2": "opencv-python", "PIL": "Pillow", "yaml": "PyYAML", "sklearn": "scikit-learn",
                       "skimage": "scikit-image", "hydra": "hydra-core", "bs4": "beautifulsoup4"}  # fmt: skip
"""Packages whose name is not the name that is imported."""


def _check_packages(names: Any, working: Working) -> None:
    missing = tuple(str(name) for name in names if not _is_installed(str(name), working.root))
    if missing:
        others = [f"{_OTHER_NAMES[name]} for {name}" for name in missing if name in _OTHER_NAMES]
        raise MissingPackagesError(
            f"Missing dependencies: {', '.join(missing)}", packages=missing, path=working.root,
            hint=f"Install them first{' (' + ', '.join(others) + ')' if others else ''}.",
        )  # fmt: skip


def _is_installed(name: str, root: str) -> bool:
    import importlib.util

    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def find_entry(module: Any, model: Any, working: Working) -> Callable[..., Any]:
    """Return an entry point by its name.

    Raises
    ------
    ArgumentError
        If the name is no text.
    EntryPointError
        If there is none.
    """
    if not isinstance(model, str):
        raise ArgumentError("Invalid input: model should be a string of function name", got=type(model).__name__)
    found = getattr(module, model, None) if model in dir(module) else None
    if not callable(found):
        import difflib

        names = [name for name in dir(module) if not name.startswith("_") and callable(getattr(module, name, None))]
        close = difflib.get_close_matches(model, names, 3) or names[:5]
        raise EntryPointError(
            f"Cannot find callable {model} in hubconf", path=working.root,
            hint=f"There are: {', '.join(close)}." if close else "It offers nothing.",
        )  # fmt: skip
    return found  # type: ignore[no-any-return]


def call_entry(
    working: Working, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], names: Callable[[], Any]
) -> Any:
    """Import a repository's hubconf and call an entry point.

    Parameters
    ----------
    working : Working
    model : str
        The entry point's name.
    args, kwargs
        What it is given.
    names : callable
        Returns what holds the functions that stand in for torch.hub's own meanwhile.

    Returns
    -------
    object
        What the entry point returns.

    Raises
    ------
    Exception
        Whatever the entry point raises.
    """
    from weighlock.hub.routing import routed

    with running(working.repository.full_name), routed(names):
        space, module = open_hubconf(working)
        entry = find_entry(module, model, working)
        with space.running():
            return entry(*args, **kwargs)


def describe(report: Any, name: str) -> Any:
    """Return the entry of a report by its name.

    Raises
    ------
    EntryPointError
        If there is none.
    """
    for entry in report.entries:
        if entry.name == name:
            return entry
    import difflib

    close = difflib.get_close_matches(name, [entry.name for entry in report.entries], 3)
    raise EntryPointError(
        f"Cannot find callable {name} in hubconf", path=report.root,
        hint=f"There are: {', '.join(close)}." if close else None,
    )  # fmt: skip


def executed_names(working: Working) -> Iterator[tuple[str, str | None]]:
    """Give names and docstrings of a hubconf's callables as they are after its code ran, in a process of its own.

    Raises
    ------
    EntryPointError
        If the hubconf fails.
    """
    import json
    import subprocess

    command = [
        sys.executable,
        "-m",
        "weighlock.hub.listing",
        working.root,
        working.commit or "",
        str(working.repository),
    ]
    done = subprocess.run(command, capture_output=True, check=False, timeout=600, env=_child())  # noqa: S603 - ourselves
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    answers = [line.removeprefix(ANSWER) for line in lines if line.startswith(ANSWER)]
    if not answers:
        why = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise EntryPointError(f"the hubconf fails: {safe_text(why[-1]) if why else 'no answer'}", path=working.root)
    yield from (tuple(row) for row in json.loads(answers[-1]))


ANSWER: Final = "weighlock-hub-names: "
"""Begins the one line that is the answer: a hubconf may print whatever it likes."""


def _child() -> dict[str, str]:
    """Return the environment of a process that runs a hubconf: what holds for this call holds there, too."""
    settings = current()
    told = {"WEIGHLOCK_OFFLINE": settings.offline, "WEIGHLOCK_HUB_LOCKED": settings.locked}
    home = os.path.dirname(find_store().hub)
    named = {"TORCH_HOME": home} if os.path.basename(find_store().hub) == "hub" else {}
    return {**os.environ, **named, **{name: "1" for name, value in told.items() if value}}
