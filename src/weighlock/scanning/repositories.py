"""A repository's static report as findings. The report comes from above: this room does not know the hub."""

from collections.abc import Iterable
from typing import Any, Final, Protocol

from weighlock.scanning.notes import Notes
from weighlock.scanning.report import FileReport, in_order

__all__ = ["RepositoryReport", "judge_repository"]


class RepositoryReport(Protocol):
    """What is asked of a report; `weighlock.hub.static.report.Report` is one."""

    @property
    def effects(self) -> Iterable[Any]: ...
    @property
    def urls(self) -> Iterable[Any]: ...
    @property
    def reasons(self) -> Iterable[str]: ...
    @property
    def complete(self) -> bool: ...


# How bad is what happens on import; what is not named here does no harm by itself (prints, seeds, folders).
_GRADES: Final = {
    "starts a process": "high", "runs text as code": "high", "installs packages": "high", "builds code": "high",
    "uses the network": "medium", "removes files": "high", "changes another package": "medium",
    "changes the environment": "low", "opens a file": "low", "changes sys.path": "low", "ends the process": "medium",
    "calls what it looks up by text": "high", "reaches into the interpreter": "high", "loads native code": "high",
    "unpickles": "medium", "runs code at the end": "medium",
}  # fmt: skip


def judge_repository(name: str, report: RepositoryReport) -> FileReport:
    """Return the findings of one repository's code.

    Parameters
    ----------
    name : str
        What the report is called: the path of the hubconf.
    report : RepositoryReport
    """
    notes = Notes(lambda _: False)
    for effect in report.effects:
        grade = _GRADES.get(effect.what.partition(":")[0])
        if grade is not None:
            notes.add("WL501", f"{effect.what} ({effect.file}:{effect.line})", member=effect.file, severity=grade,
                      name=effect.what)  # fmt: skip
    for url in report.urls:
        if not url.https or not url.hashed:
            what = "is fetched over http" if not url.https else "is fetched under a name without a hash"
            notes.add("WL502", f"{url.url} {what} ({url.file}:{url.line})", member=url.file, name=url.url,
                      severity="medium" if not url.https else "low")  # fmt: skip
    if not report.complete:
        for reason in report.reasons:
            notes.gap("WL906", reason)
    return FileReport(name, None, "repository", in_order(notes.findings.values()), tuple(notes.gaps.values()))
