"""What a scan has found: facts without any work. Nothing here changes once it is made."""

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from weighlock.scanning.rules import RULES, rank

__all__ = ["FileReport", "Finding", "Gap", "GlobalUse", "ScanReport"]

VERDICTS = ("clean", "findings", "not fully examined")


class Finding(NamedTuple):
    """One thing that was found in one file.

    Attributes
    ----------
    rule : str
        Its id in `RULES`.
    severity : str
    message : str
    member : str or None
        The record of an archive, or what else inside the file; of nested ones, the outer one comes first, then ``>``.
    offset, length : int or None
        In bytes from the start of the member, or of the file where there is none.
    file_offset : int or None
        The same from the start of the file, where the member lies in it as it is.
    name : str or None
        The global that it is about.
    arguments : str or None
        What it is called with, shortened.
    path : str or None
        About where in the object.
    count : int
        How often the same thing occurs.
    """

    rule: str
    severity: str
    message: str
    member: str | None = None
    offset: int | None = None
    length: int | None = None
    file_offset: int | None = None
    name: str | None = None
    arguments: str | None = None
    path: str | None = None
    count: int = 1  # type: ignore[assignment]  # hides tuple.count, which no finding needs

    @property
    def fingerprint(self) -> str:
        """What stays the same when the file is saved anew: rule, member, global and arguments, no offsets."""
        said = self.message if self.name is None else ""
        parts = (self.rule, self.member or "", self.name or "", self.arguments or "", said)
        return hashlib.sha256("\0".join(parts).encode("utf-8", "backslashreplace")).hexdigest()[:32]

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON can hold it."""
        cwe = RULES[self.rule].cwe
        return {**self._asdict(), "cwe": [cwe] if cwe else [], "fingerprint": self.fingerprint}


class Gap(NamedTuple):
    """Something that was not examined, and why; `rule` is one of WL9xx."""

    rule: str
    message: str
    member: str | None = None
    offset: int | None = None


class GlobalUse(NamedTuple):
    """A class or function that a file names.

    Attributes
    ----------
    name : str
    known : bool
        Whether it is one of PyTorch's rebuild functions, or known to be plain data.
    uses : tuple of str
        ``named``, ``called``, ``built`` (its objects are given a state).
    arguments : str or None
        Of the first call, shortened.
    member : str or None
    offset : int
        Where it is named first, in the member.
    path : str or None
    """

    name: str
    known: bool
    uses: tuple[str, ...]
    arguments: str | None
    member: str | None
    offset: int
    path: str | None


class FileReport(NamedTuple):
    """What was found in one file.

    Attributes
    ----------
    name : str
    size : int or None
    format : str or None
        One of ``formats.detect.FORMATS``, or another kind that was recognised.
    findings : tuple of Finding
        The worst first.
    gaps : tuple of Gap
    globals : tuple of GlobalUse
    pickles : int
        How many pickles were examined.
    bytes_read : int
    sha256 : str or None
        Of the whole file; only where a baseline asks for it.
    skipped : bool
        It holds nothing that a loader of models would read: text, an image.
    """

    name: str
    size: int | None = None
    format: str | None = None
    findings: tuple[Finding, ...] = ()
    gaps: tuple[Gap, ...] = ()
    globals: tuple[GlobalUse, ...] = ()
    pickles: int = 0
    bytes_read: int = 0
    sha256: str | None = None
    skipped: bool = False

    @property
    def verdict(self) -> str:
        """``clean``, ``findings`` or ``not fully examined``; a finding is never masked by a gap."""
        if any(rank(finding.severity) for finding in self.findings):
            return "findings"
        return "not fully examined" if self.gaps else "clean"

    @property
    def severity(self) -> str | None:
        """The worst severity of its findings, remarks left out."""
        worst = max((rank(finding.severity) for finding in self.findings), default=0)
        return None if not worst else next(f.severity for f in self.findings if rank(f.severity) == worst)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it."""
        return {
            "uri": self.name, "size": self.size, "format": self.format, "sha256": self.sha256,
            "verdict": self.verdict, "severity": self.severity, "complete": not self.gaps, "skipped": self.skipped,
            "pickles": self.pickles, "bytes_read": self.bytes_read,
            "findings": [finding.to_dict() for finding in self.findings],
            "gaps": [gap._asdict() for gap in self.gaps],
            "globals": [{**use._asdict(), "uses": list(use.uses)} for use in self.globals],
        }  # fmt: skip


class ScanReport(NamedTuple):
    """What was found in all that was scanned.

    Attributes
    ----------
    files : tuple of FileReport

    Examples
    --------
    >>> ScanReport((FileReport("model.pt"),)).verdict
    'clean'
    """

    files: tuple[FileReport, ...]

    @property
    def verdict(self) -> str:
        """``clean``, ``findings`` or ``not fully examined``."""
        verdicts = {file.verdict for file in self.files}
        return next((name for name in ("findings", "not fully examined") if name in verdicts), "clean")

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, remarks included, file by file."""
        return tuple(finding for file in self.files for finding in file.findings)

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """All that was not examined."""
        return tuple(gap for file in self.files for gap in file.gaps)

    @property
    def globals(self) -> tuple[GlobalUse, ...]:
        """Every class and function that is named, once for each file."""
        return tuple(use for file in self.files for use in file.globals)

    def worst(self) -> str | None:
        """Return the worst severity; None where nothing was found."""
        found = [file.severity for file in self.files if file.severity]
        return max(found, key=rank, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it."""
        return {"verdict": self.verdict, "files": [file.to_dict() for file in self.files]}


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings, the worst first, and else as they stand in the file."""
    return tuple(sorted(findings, key=lambda f: (-rank(f.severity), f.rule, f.file_offset or f.offset or 0)))
