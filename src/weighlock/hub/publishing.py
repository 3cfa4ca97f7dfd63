"""What an author should mend in a repository before others load models from it."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Final

from weighlock.hub.entrypoints import report_of
from weighlock.hub.static.report import Report

__all__ = ["Advice", "check_folder"]

_HARMLESS: Final = ("changes sys.path",)


@dataclasses.dataclass(frozen=True, slots=True)
class Advice:
    """One thing to mend: where it is, what it is, and what to do.

    Attributes
    ----------
    rule : str
        A short name for it: ``undeclared-dependency``.
    where : str
        File and line, below the folder.
    what, remedy : str
    """

    rule: str
    where: str
    what: str
    remedy: str


def check_folder(folder: str) -> list[Advice]:
    r"""Look at a folder with a `hubconf.py` as its users will; nothing of it runs.

    Parameters
    ----------
    folder : str

    Returns
    -------
    list of Advice
        Empty where there is nothing to mend.

    Raises
    ------
    EntryPointError
        If there is no hubconf, or it is not Python.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with open(os.path.join(folder, "hubconf.py"), "w") as file:
    ...     _ = file.write("dependencies = []\ndef net():\n    pass\n")
    >>> [advice.rule for advice in check_folder(folder)]
    ['missing-docstring']
    """
    report = report_of(os.path.abspath(os.path.expanduser(folder)))
    rules = (_dependencies, _names, _docstrings, _effects, _weights, _imports)
    return [advice for rule in rules for advice in rule(report)]


def _dependencies(report: Report) -> Iterator[Advice]:
    if report.dependencies is None:
        yield Advice(
            "no-dependencies", "hubconf.py:1", "no list called dependencies, written out as text",
            f"dependencies = {list(report.undeclared)!r}",
        )  # fmt: skip
        return
    for name in report.undeclared:
        yield Advice(
            "undeclared-dependency", "hubconf.py:1", f"{name} is imported, and not in dependencies",
            f"Add {name!r} to dependencies, or import it in the function that needs it, with a try around it.",
        )  # fmt: skip


def _names(report: Report) -> Iterator[Advice]:
    for entry in report.entries:
        if entry.kind == "external":
            yield Advice(
                "foreign-name", "hubconf.py:1", f"{entry.name} is offered as an entry point, and is another package's",
                f"Import it as _{entry.name}, or import its module.",
            )  # fmt: skip
        elif entry.kind == "reexport" and entry.name[:1].isupper():
            yield Advice(
                "class-offered", f"{entry.file}:{entry.line}", f"the class {entry.name} is offered as an entry point",
                f"Import it as _{entry.name} if it is not meant to be one.",
            )  # fmt: skip
    for reason in report.reasons:
        place, _, what = reason.partition(": ")
        yield Advice("hidden-names", place, what, "Define entry points by def, or list them: tools cannot see them.")
    if not report.entries:
        yield Advice("no-entry-point", "hubconf.py:1", "nothing can be loaded from it", "Define a function.")


def _docstrings(report: Report) -> Iterator[Advice]:
    for entry in report.entries:
        if entry.kind not in ("external", "generated") and not (entry.doc or "").strip():
            yield Advice(
                "missing-docstring", f"{entry.file or 'hubconf.py'}:{entry.line or 1}",
                f"{entry.name} has no docstring",
                "Say what it returns, and what each parameter does.",
            )  # fmt: skip


def _effects(report: Report) -> Iterator[Advice]:
    for effect in report.effects:
        if not effect.what.startswith(_HARMLESS):
            yield Advice(
                "import-side-effect", f"{effect.file}:{effect.line}", f"importing it {effect.what}",
                "Do it in the entry point, or not at all: it happens to everyone who lists the models, too.",
            )  # fmt: skip


def _weights(report: Report) -> Iterator[Advice]:
    for url in report.urls:
        where = f"{url.file}:{url.line}"
        if not url.https:
            yield Advice("insecure-url", where, f"{url.url} is not https", "Use https.")
        if "/blob/" in url.url:
            yield Advice("page-url", where, f"{url.url} is a page, not a file", "Use /raw/ or /resolve/.")
        if not url.hashed:
            yield Advice(
                "unhashed-weights", where, f"{url.url} has no hash in its name",
                "Name it <name>-<first 8 digits of its SHA-256>.<ext>, and load it with check_hash=True.",
            )  # fmt: skip


def _imports(report: Report) -> Iterator[Advice]:
    for reason in report.compatibility:
        place, _, what = reason.partition(" ")
        yield Advice(
            "plain-names", place, what, "Use import statements: two versions cannot stand side by side otherwise."
        )
