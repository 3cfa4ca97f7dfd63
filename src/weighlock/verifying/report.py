"""What a verification has found: facts without any work, and the notebook that they are gathered in."""

from typing import Any, Final, NamedTuple

from weighlock.errors import (
    CheckpointError,
    LimitError,
    MissingFileError,
    NotACheckpointError,
    PickleStreamError,
    SourceError,
    TensorBoundsError,
    UnsupportedError,
    WeighlockError,
)
from weighlock.scanning.archives import rule_of
from weighlock.scanning.report import Gap
from weighlock.scanning.rules import RULES, rank
from weighlock.text import safe_text

__all__ = ["VERDICTS", "FileCheck", "Notebook", "Problem", "VerifyReport"]

VERDICTS: Final = ("sound", "problems", "not fully checked")

_MOST: Final = 1000
_LONGEST: Final = 300


class Problem(NamedTuple):
    """One thing that is wrong with one file.

    Attributes
    ----------
    code : str
        A rule's id: ``weighlock explain WL207`` says more.
    severity : str
        ``"low"`` to ``"critical"``.
    message : str
    record : str or None
        The record of an archive, the storage of a stream, the file of a set.
    offset, length : int or None
        In bytes from the start of the file.
    path : str or None
        The tensor, or object, that is concerned.
    expected, got : str or None
    hint : str
        What to do next.
    """

    code: str
    severity: str
    message: str
    record: str | None = None
    offset: int | None = None
    length: int | None = None
    path: str | None = None
    expected: str | None = None
    got: str | None = None
    hint: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return self._asdict()


class FileCheck(NamedTuple):
    """What was found in one file, or one set of files.

    Attributes
    ----------
    name : str
    size : int or None
    format : str or None
    problems : tuple of Problem
        In the order in which they were found.
    gaps : tuple of weighlock.scanning.report.Gap
        What was not checked, and why.
    records, tensors : int
    checked : int
        Bytes that a checksum or a digest covers.
    unchecked : int
        Bytes of tensor data for which the file has no checksum.
    """

    name: str
    size: int | None = None
    format: str | None = None
    problems: tuple[Problem, ...] = ()
    gaps: tuple[Gap, ...] = ()
    records: int = 0
    tensors: int = 0
    checked: int = 0
    unchecked: int = 0

    @property
    def verdict(self) -> str:
        """``sound``, ``problems`` or ``not fully checked``; a problem is never masked by a gap."""
        if any(rank(problem.severity) for problem in self.problems):
            return "problems"
        return "not fully checked" if self.gaps else "sound"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "uri": self.name, "size": self.size, "format": self.format, "verdict": self.verdict,
            "complete": not self.gaps, "records": self.records, "tensors": self.tensors, "checked": self.checked,
            "unchecked": self.unchecked, "problems": [problem.to_dict() for problem in self.problems],
            "gaps": [gap._asdict() for gap in self.gaps],
        }  # fmt: skip


class VerifyReport(NamedTuple):
    """What `weighlock.verify` returns.

    Attributes
    ----------
    files : tuple of FileCheck

    Examples
    --------
    >>> VerifyReport((FileCheck("model.pt"),)).verdict
    'sound'
    """

    files: tuple[FileCheck, ...]

    @property
    def verdict(self) -> str:
        """``sound``, ``problems`` or ``not fully checked``."""
        found = {file.verdict for file in self.files}
        return next((name for name in ("problems", "not fully checked") if name in found), "sound")

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong and nothing was left out."""
        return self.verdict == "sound"

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All problems, file by file."""
        return tuple(problem for file in self.files for problem in file.problems)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it."""
        return {"verdict": self.verdict, "files": [file.to_dict() for file in self.files]}


class Notebook:
    """Problems and gaps of one file while it is checked, each once.

    Attributes
    ----------
    places : dict of str to str
        The key of the first tensor that lies in a record.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.gaps: list[Gap] = []
        self.places: dict[str, str] = {}
        self.records = self.tensors = self.checked = self.unchecked = 0
        self._seen: set[Any] = set()
        self._records: set[Any] = set()  # as they are called in the file, not as they are shown

    def add(self, code: str, message: str, **facts: Any) -> None:
        """Note a problem; the fields are those of `Problem`."""
        self._records.add(facts.get("record"))
        facts = {
            name: safe_text(value, limit=_LONGEST) if isinstance(value, str) else value for name, value in facts.items()
        }  # fmt: skip
        rule = RULES[code]
        key = (code, message, facts.get("record"), facts.get("offset"), facts.get("path"))
        if key in self._seen:
            return
        self._seen.add(key)
        if len(self.problems) >= _MOST:
            self.gap("WL904", f"more than {_MOST:,} problems; the others are not listed")
            return
        facts["hint"] = facts.get("hint") or rule.advice
        facts.setdefault("severity", rule.severity)
        self.problems.append(Problem(code, message=safe_text(message), **facts))

    def gap(self, code: str, message: str, record: str | None = None) -> None:
        """Note what was not checked."""
        found = Gap(code, safe_text(message), record)
        if found not in self.gaps and len(self.gaps) < _MOST:
            self.gaps.append(found)

    def has(self, record: str | None) -> bool:
        """Whether a problem of this record was noted."""
        return record in self._records

    def error(self, error: WeighlockError, *, base: int = 0, salvage: bool = True) -> None:
        """Note what a reading has raised.

        Parameters
        ----------
        base : int
            Where in the file the offsets of the error count from.
        salvage : bool
            Whether a salvage may help.
        """
        if isinstance(error, MissingFileError) and error.got:
            self.add("WL605", error.what, expected=error.expected, got=error.got, hint=error.hint)
        elif isinstance(error, SourceError):
            self.gap("WL901", error.what)
        elif isinstance(error, NotACheckpointError):
            self.gap("WL902", error.what)
        elif isinstance(error, UnsupportedError):
            self.gap("WL903", error.what, error.record)
        elif isinstance(error, CheckpointError):
            hint = error.hint
            if salvage and "salvage" not in (hint or ""):
                hint = f"{hint or 'Get the file again.'} `weighlock salvage` saves what is whole."
            offset = None if error.offset is None or error.record is not None else base + error.offset
            self.add(_code(error), error.what, record=error.record, offset=offset, path=error.object_path,
                     expected=error.expected, got=error.got, hint=hint)  # fmt: skip
        else:
            self.gap("WL901", error.what)

    def done(self, name: str, size: int | None, kind: str | None) -> FileCheck:
        """Return what was found."""
        return FileCheck(
            name, size, kind, tuple(self.problems), tuple(self.gaps), self.records, self.tensors, self.checked,
            self.unchecked,
        )  # fmt: skip


def _code(error: CheckpointError) -> str:
    if isinstance(error, PickleStreamError):
        return "WL301"
    if isinstance(error, LimitError):
        return "WL310"
    if isinstance(error, TensorBoundsError):
        return "WL401" if "view" in error.what or "tensor" in error.what else "WL402"
    if error.what.startswith(("tensors that the index names", "a tensor stands in another file", "the index")):
        return "WL605"
    return "WL402" if "has no record" in error.what else rule_of(error)
