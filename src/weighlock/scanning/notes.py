"""What one file's examination collects: findings and gaps, each once, and the bounds of how many are kept."""

from collections.abc import Callable, Collection
from typing import Any, Final

from weighlock.pickling.inert import GlobalRef, Stub, repr_shallow
from weighlock.pickling.symbols import Name, Resolver
from weighlock.scanning.report import Finding, Gap, GlobalUse
from weighlock.scanning.rules import RULES
from weighlock.text import safe_text

__all__ = ["Notes", "preview"]

_MOST_FINDINGS: Final = 1000
_LONGEST_PREVIEW: Final = 120
_LONGEST_NAME: Final = 300
_MOST_GLOBALS: Final = 5000


class Notes:
    """Findings and gaps of one file.

    Attributes
    ----------
    allowed : callable
        Whether the user has allowed a global by name.
    place : callable
        Where in the file a member begins, by its name, or None; set by whoever knows the container.
    """

    def __init__(self, allowed: Callable[[str], bool]) -> None:
        self.allowed = allowed
        self.findings: dict[tuple[Any, ...], Finding] = {}
        self.gaps: dict[tuple[Any, ...], Gap] = {}
        self.globals: dict[tuple[str, str | None], GlobalUse] = {}
        self.place: Callable[[str | None], int | None] = lambda member: 0 if member is None else None
        self.pickles = 0
        self._kept: dict[str, int] = {}

    # Reason for the parameter count: the fields of a finding, each optional.
    def add(
        self, rule: str, message: str, *, member: str | None = None, offset: int | None = None,
        severity: str | None = None, name: str | None = None, arguments: str | None = None, path: str | None = None,
        length: int | None = None,
    ) -> None:  # fmt: skip
        """Keep a finding; the same one again only counts."""
        name = None if name is None else safe_text(name, limit=_LONGEST_NAME)
        key = (rule, member, name, arguments, message if name is None else severity)
        found = self.findings.get(key)
        if found is not None:
            self.findings[key] = found._replace(count=found.count + 1)
            return
        grade = severity or RULES[rule].severity
        # Each severity has room of its own: a thousand unknown classes do not crowd out one program that is started.
        self._kept[grade] = self._kept.get(grade, 0) + 1
        if self._kept[grade] > _MOST_FINDINGS:
            self.gap("WL904", f"more than {_MOST_FINDINGS:,} findings of one severity; the others are not listed")
            return
        start = self.place(member)
        self.findings[key] = Finding(
            rule, grade, safe_text(message), member, offset, length,
            None if start is None or offset is None else start + offset, name, arguments,
            None if path is None else safe_text(path, limit=_LONGEST_NAME),
        )  # fmt: skip

    def gap(self, rule: str, message: str, member: str | None = None, offset: int | None = None) -> None:
        """Keep what was not examined."""
        if len(self.gaps) < _MOST_FINDINGS:
            self.gaps.setdefault((rule, message, member), Gap(rule, safe_text(message), member, offset))

    def use(self, found: GlobalUse) -> None:
        """Keep a global that is named; of one that is named again, how it is used."""
        path = None if found.path is None else safe_text(found.path, limit=_LONGEST_NAME)
        found = found._replace(name=safe_text(found.name, limit=_LONGEST_NAME), path=path)
        key = (found.name, found.member)
        before = self.globals.get(key)
        if before is not None:
            uses = tuple(dict.fromkeys((*before.uses, *found.uses)))
            found = before._replace(uses=uses, arguments=before.arguments or found.arguments)
        elif len(self.globals) >= _MOST_GLOBALS:
            self.gap("WL904", f"more than {_MOST_GLOBALS:,} globals; the others are not listed")
            return
        self.globals[key] = found


def preview(args: Any, kwargs: Collection[str] = (), resolver: Resolver | None = None) -> str:
    """Return the arguments of a call in short, escaped; what the pickle has worked out is shown as its value."""
    of = _as_it_is if resolver is None else resolver.of
    if not isinstance(args, tuple):
        return safe_text(_shown(args, of), limit=_LONGEST_PREVIEW)
    shown = [_shown(arg, of) for arg in args[:6]]
    if len(args) > 6:
        shown.append("...")
    if kwargs:
        shown.append("**" + ",".join(map(str, list(kwargs)[:4])))
    return safe_text(", ".join(shown), limit=_LONGEST_PREVIEW)


def _as_it_is(value: Any) -> Any:
    return value


def _shown(value: Any, of: Callable[[Any], Any]) -> str:
    if isinstance(value, Stub | GlobalRef):
        found = of(value)
        if isinstance(found, Name):
            return str(found)
        if isinstance(found, str | bytes | int):
            return repr_shallow(found)
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, list | tuple) and 0 < len(value) <= 3 and all(isinstance(v, str | int | bytes) for v in value):
        return f"[{', '.join(map(repr_shallow, value))}]"
    return repr_shallow(value)
