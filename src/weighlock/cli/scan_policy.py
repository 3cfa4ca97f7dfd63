"""What counts: the policy file, the baseline of known findings, and the exit code that follows."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from weighlock.cli.opening import FAILED, GOOD, INCOMPLETE, NO
from weighlock.errors import ArgumentError, SourceError
from weighlock.limits import Limits
from weighlock.scanning.report import FileReport, Finding
from weighlock.scanning.rules import RULES, SEVERITIES, rank

__all__ = ["Policy", "digest", "exit_code", "graded", "known", "read_baseline", "read_policy", "write_baseline"]

_SCHEMA: Final = "weighlock/baseline"
_PIECE: Final = 4 << 20


class Policy(NamedTuple):
    """What counts as wrong.

    Attributes
    ----------
    fail_on : str
        The least severity that ends with exit code 1; ``"never"`` for none.
    allow, exclude : tuple of str
    severity : mapping of str to str
        Rules with a severity of the user's; ``"off"`` leaves them out.
    deep, allow_incomplete : bool
    limits : Limits or None
    """

    fail_on: str = "low"
    allow: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    severity: Mapping[str, str] = {}
    deep: bool = False
    allow_incomplete: bool = False
    limits: Limits | None = None


_KINDS: Final[dict[str, type]] = {
    "fail-on": str, "allow": list, "exclude": list, "severity": dict, "deep": bool, "allow-incomplete": bool,
    "limits": dict,
}  # fmt: skip


def read_policy(path: str | None) -> Policy:
    """Read a policy file.

    Raises
    ------
    ArgumentError
        If it is no TOML, or holds something that a policy does not have.
    SourceError
        If it cannot be read.
    """
    import tomllib

    if path is None:
        return Policy()
    try:
        with open(path, "rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise SourceError(f"the policy cannot be read: {error.strerror}", path=path) from error
    except ValueError as error:
        raise ArgumentError(f"the policy is no TOML: {error}", path=path) from error
    for key, value in found.items():
        if key not in _KINDS:
            raise ArgumentError("a policy has no such entry", got=key, expected=", ".join(_KINDS), path=path)
        if not isinstance(value, _KINDS[key]):
            raise ArgumentError(f"{key} is no {_KINDS[key].__name__}", got=type(value).__name__, path=path)
    _check(found, path)
    return Policy(
        found.get("fail-on", "low"), tuple(found.get("allow", ())), tuple(found.get("exclude", ())),
        found.get("severity", {}), found.get("deep", False), found.get("allow-incomplete", False),
        Limits(**found["limits"]) if "limits" in found else None,
    )  # fmt: skip


def _check(found: Mapping[str, Any], path: str) -> None:
    if found.get("fail-on", "low") not in (*SEVERITIES[1:], "never"):
        raise ArgumentError("fail-on names no severity", got=str(found["fail-on"])[:40], path=path)
    for name, severity in found.get("severity", {}).items():
        if name not in RULES or RULES[name].is_gap:
            raise ArgumentError("there is no such rule to grade", got=str(name)[:40], path=path)
        if severity not in (*SEVERITIES, "off"):
            raise ArgumentError(f"{name} has no such severity", got=str(severity)[:40], path=path)


def graded(report: FileReport, severities: Mapping[str, str]) -> FileReport:
    """Return a report with the severities of the policy."""
    if not severities:
        return report
    kept = [
        finding._replace(severity=severities.get(finding.rule, finding.severity))
        for finding in report.findings if severities.get(finding.rule) != "off"
    ]  # fmt: skip
    return report._replace(findings=tuple(sorted(kept, key=lambda finding: -rank(finding.severity))))


# ------------------------------------------------------------------------------------------------------- baselines

Known = Mapping[tuple[str, str], frozenset[str]]


def digest(path: str) -> str | None:
    """Return the SHA-256 of a file; None where it cannot be read."""
    made = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while piece := file.read(_PIECE):
                made.update(piece)
    except OSError:
        return None
    return made.hexdigest()


def write_baseline(path: str, reports: Iterable[FileReport]) -> int:
    """Write all findings as known ones; return how many."""
    from weighlock.cli.documents import document
    from weighlock.cli.output import written_to

    entries = [
        {"sha256": report.sha256, "rule": finding.rule, "fingerprint": finding.fingerprint, "file": report.name,
         "message": finding.message, "justification": ""}
        for report in reports for finding in report.findings if rank(finding.severity)
    ]  # fmt: skip
    with written_to(path) as file:
        json.dump(document(_SCHEMA, entries=entries), file, indent=1, ensure_ascii=True)
        file.write("\n")
    return len(entries)


def read_baseline(path: str) -> Known:
    """Read known findings: for each file's digest and rule, the fingerprints.

    Raises
    ------
    ArgumentError
        If the file is no baseline.
    SourceError
        If it cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        entries: list[Any] = found["entries"] if found["schema"] == _SCHEMA else None  # type: ignore[assignment]
        known_: dict[tuple[str, str], set[str]] = {}
        for entry in entries:
            known_.setdefault((entry["sha256"], entry["rule"]), set()).add(entry["fingerprint"])
    except OSError as error:
        hint = "Make it with --write-baseline."
        raise SourceError(f"the baseline cannot be read: {error.strerror}", path=path, hint=hint) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ArgumentError("the file is no baseline", path=path, hint="Make it with --write-baseline.") from error
    return {key: frozenset(prints) for key, prints in known_.items()}


def known(report: FileReport, finding: Finding, baseline: Known) -> bool:
    """Whether a finding stands in the baseline: for this very file, rule and place."""
    return finding.fingerprint in baseline.get((report.sha256 or "", finding.rule), ())


# ------------------------------------------------------------------------------------------------------- the answer


def exit_code(reports: Sequence[FileReport], policy: Policy, baseline: Known) -> int:
    """Return 1 for a finding that counts, 2 where nothing could be read, 3 where something was not examined, or 0."""
    least = len(SEVERITIES) if policy.fail_on == "never" else rank(policy.fail_on)
    if any(
        rank(finding.severity) >= least and not known(report, finding, baseline)
        for report in reports for finding in report.findings
    ):  # fmt: skip
        return NO
    if reports and all(any(gap.rule == "WL901" and report.size is None for gap in report.gaps) for report in reports):
        return FAILED
    incomplete = any(report.gaps for report in reports)
    return INCOMPLETE if incomplete and not policy.allow_incomplete else GOOD


def is_local(name: str) -> bool:
    """Whether a report's name is the path of a file here."""
    return os.path.isfile(name)
