"""The loop: mutants made, targets called, promises checked, everything counted.

Guided by what the loader says: a mutant whose answer (the error's class, its words and the line that raised it) is new
joins the files that are changed next. That costs nothing, and needs no instrumented build.
"""

from __future__ import annotations

import contextlib
import gc
import random
import re
import resource
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from tests.fuzzing.mutations import SOUND, mutated
from tests.fuzzing.seeds import Seed, seeds
from tests.fuzzing.targets import TARGETS, Outcome

__all__ = ["MOST_MEMORY", "MOST_SECONDS", "OUTSIDE", "Finding", "Results", "Runner", "watched"]

MOST_SECONDS = 1.0
"""Of the processor's time for one file of at most 64 KiB. The promise is 2 s for a megabyte."""
MOST_MEMORY = 48 << 20
"""What one such file may add to the process's peak. The promise is 200 MB."""
_ANSWERS = frozenset({"clean", "findings", "not fully examined"})
_HANG = 20.0
_POOL = 4000
# How many changes are to leave a file loadable: damage is what is looked for, but beside PyTorch it says little.
_SOUND, _SOUND_BESIDE = 0.1, 0.75
_ALWAYS = ("load", "scan")
OUTSIDE = frozenset({"torch", "unpickler"})
"""Targets that run other programs' code, too."""


class Hung(BaseException):
    """One call has taken too long to wait for its end."""


@dataclass(frozen=True)
class Finding:
    """A promise that did not hold: for which target, on which file, and how."""

    target: str
    lineage: str
    what: str
    data: bytes = b""

    @property
    def label(self) -> str:
        """What findings of one cause have in common."""
        return f"{self.target}: {re.sub(r'[0-9]+', '#', self.what.partition(' | ')[0])[:160]}"


class Beside(NamedTuple):
    """What a comparison with another program came to: who reads the file, what was compared and why not all, by count.

    `sign` is what a new kind of file has in it that no other had.
    """

    answer: str
    notes: Counter[str]
    sign: Any


@dataclass
class Results:
    """What a run has counted. Can be added up."""

    executions: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    findings: dict[str, Finding] = field(default_factory=dict)
    times: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, str, str] = (0.0, "", "")
    largest: tuple[int, str, str] = (0, "", "")
    new: list[tuple[str, bytes]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: Results) -> None:
        self.executions.update(other.executions)
        self.answers.update(other.answers)
        self.notes.update(other.notes)
        self.times.update(other.times)
        for label, finding in other.findings.items():
            self.findings.setdefault(label, finding)
        self.slowest = max(self.slowest, other.slowest)
        self.largest = max(self.largest, other.largest)
        self.seconds += other.seconds

    def note(self, finding: Finding) -> None:
        self.times[finding.label] += 1
        self.findings.setdefault(finding.label, finding)


class Runner:
    """Runs targets on mutants. Everything that happens follows from `seed` and the code.

    Parameters
    ----------
    seed : int
    targets : sequence of str
    names : iterable of str, optional
        Which seeds are changed.
    folder : Path
        Where checkpoints in folders are written; nothing else is.
    """

    def __init__(
        self, seed: int, targets: Sequence[str], folder: Path, names: Iterable[str] | None = None,
        extra: dict[str, Callable[[Any], Outcome]] | None = None,
    ) -> None:  # fmt: skip
        self.dice = random.Random(seed)
        self.calls = {**TARGETS, **(extra or {})}
        self.always = [target for target in _ALWAYS if target in targets]
        self.sometimes = [target for target in targets if target not in self.always]
        self.folder = folder
        self.calls_made = targets
        self.names = sorted(seeds()) if names is None else sorted(names)
        self.pool: list[tuple[str, bytes]] = []
        self.seen: set[Any] = set()
        self.on_call: Callable[[str, str], None] = lambda target, lineage: None
        self._written: set[Path] = set()

    def run(self, mutants: int) -> Results:
        """Make so many mutants, and run the targets on each."""
        results = Results()
        begin = time.monotonic()
        with watched(), _warnings_told() as told:
            for _ in range(mutants):
                lineage, data = self._next()
                for target in self._targets():
                    self.one(target, lineage, data, results, told)
        results.seconds = time.monotonic() - begin
        return results

    def _next(self) -> tuple[str, bytes]:
        number = self.dice.getrandbits(40)
        if self.dice.random() < (_SOUND_BESIDE if OUTSIDE.issuperset(self.calls_made) else _SOUND):
            number += SOUND
        if self.pool and self.dice.random() < 0.5:
            lineage, data = self.dice.choice(self.pool)
        else:
            lineage = self.dice.choice(self.names)
            data = seeds()[lineage].data
        return f"{lineage}@{number}", mutated(data, number)

    def _targets(self) -> list[str]:
        more = self.dice.sample(self.sometimes, min(2, len(self.sometimes)))
        return [*self.always, *more]

    def one(self, target: str, lineage: str, data: bytes, results: Results, told: list[str]) -> None:
        """Run one target on one file, and note what does not hold."""
        self.on_call(target, lineage)
        f = self.place(lineage, data)
        before = _peak()
        outcome, failure, took = _called(self.calls[target], f)
        if took > MOST_SECONDS and failure is None:
            # Python's collector, and imports, fall on whoever comes first: only what takes long twice is slow.
            outcome, failure, again = _called(self.calls[target], f)
            took = min(took, again)
        grown = _peak() - before
        results.executions[target] += 1
        if target in OUTSIDE:  # PyTorch's time, memory and warnings are its own
            took, grown = 0.0, 0
            told.clear()
        if took > results.slowest[0]:
            results.slowest = (took, target, lineage)
        if grown > MOST_MEMORY // 4:
            _lower_peak()
        if grown > results.largest[0]:
            results.largest = (grown, target, lineage)
        for what in self._broken(failure, outcome, took, grown, told):
            results.note(Finding(target, lineage, what, data))
        told.clear()
        self._judge(target, lineage, data, outcome, results)

    def _broken(
        self, failure: str | None, outcome: Outcome | None, took: float, grown: int, told: list[str]
    ) -> Iterator[str]:
        if failure is not None:
            yield failure
        if took > MOST_SECONDS:
            yield f"took {took:.1f} s"
        if grown > MOST_MEMORY:
            yield f"took {grown >> 20} MiB"
        yield from (f"warned: {text}" for text in told)
        if outcome is not None and outcome.error is not None:
            what = outcome.error.what
            if what.startswith("the file cannot be read: ") and type(outcome.error) is not None:
                yield f"not foreseen: {what[25:]} {_line(outcome.error.__cause__)}"

    def _judge(self, target: str, lineage: str, data: bytes, outcome: Outcome | None, results: Results) -> None:
        """Count the answer, and keep the mutant where the answer is a new one."""
        if outcome is None:
            results.answers["finding"] += 1
            return
        error = outcome.error
        results.answers[f"{target} {'result' if error is None else type(error).__name__}"] += 1
        sign: Any = (
            (target, _shape(outcome.result)) if error is None else (type(error), _words(error.what), _line(error))
        )
        beside = outcome.result if isinstance(outcome.result, Beside) else None
        if beside is not None:
            results.answers[f"{target}: {beside.answer}"] += 1
            results.notes.update(beside.notes)
            sign = (target, beside.answer, beside.sign)
        if sign not in self.seen and (beside is None or beside.sign is not None):
            self.seen.add(sign)
            if len(lineage) < 400 and len(data) < 20_000:
                self.pool.append((lineage, data))
                results.new.append((lineage, data))
                if len(self.pool) > _POOL:
                    del self.pool[self.dice.randrange(len(self.pool))]

    def place(self, lineage: str, data: bytes) -> Any:
        """What is passed to a target: the bytes, or the folder in which they are one file."""
        name = lineage.partition("@")[0]
        seed: Seed | None = seeds().get(name)
        if seed is None or seed.main is None:
            return data
        folder = self.folder / re.sub(r"\W", "_", name)
        if folder not in self._written:
            folder.mkdir(parents=True, exist_ok=True)
            for other, content in seed.beside.items():
                (folder / other).write_bytes(content)
            self._written.add(folder)
        (folder / seed.main).write_bytes(data)
        return folder


def _called(call: Callable[[Any], Outcome], f: Any) -> tuple[Outcome | None, str | None, float]:
    """The outcome, or what was raised instead of one; and the processor's time."""
    signal.setitimer(signal.ITIMER_PROF, _HANG)
    begin = time.process_time()
    try:
        outcome = call(f)
    except Hung:
        return None, "hangs", _HANG
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return None, f"{type(error).__name__}: {error} {_line(error)}", 0.0
    else:
        return outcome, None, time.process_time() - begin
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _line(error: BaseException | None) -> str:
    """Where an error comes from: the innermost line of ours."""
    found, trace = "", error.__traceback__ if error is not None else None
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "weighlock" in name:
            found = f"({name.rpartition('/')[2]}:{trace.tb_lineno})"
        trace = trace.tb_next
    return found


def _words(text: str) -> str:
    return re.sub(r"[0-9]+|'[^']*'", "#", text)[:80]


def _shape(value: Any, depth: int = 0) -> Any:
    """What kind of thing a result is, roughly."""
    if isinstance(value, dict) and depth < 3:
        return (type(value).__name__, *sorted({str(_shape(item, depth + 1)) for item in list(value.values())[:8]}))
    if isinstance(value, list | tuple) and depth < 3:
        return (type(value).__name__, *sorted({str(_shape(item, depth + 1)) for item in value[:8]}))
    if isinstance(value, str):
        return value if value in _ANSWERS else "str"
    return type(value).__name__, str(getattr(value, "dtype", ""))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _lower_peak() -> None:
    """Let the peak be measured from what is in use now, so that one large file does not hide the next."""
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class watched:
    """Calls that do not end are ended, after time of the processor, not of the clock: machines are busy."""

    def __enter__(self) -> None:
        def stop(_signal: int, _frame: FrameType | None) -> None:
            raise Hung

        self._before = signal.signal(signal.SIGPROF, stop)

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGPROF, self._before)


class _warnings_told:
    """Every warning, as text, in a list."""

    def __enter__(self) -> list[str]:
        self._manager = warnings.catch_warnings()
        self._manager.__enter__()
        warnings.simplefilter("always")
        told: list[str] = []

        def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
            told.append(f"{category.__name__}: {message}")

        warnings.showwarning = show
        return told

    def __exit__(self, *_: object) -> None:
        self._manager.__exit__(None, None, None)
