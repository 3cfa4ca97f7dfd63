"""The command: ``python -m tests.fuzzing [--times N] [--minutes M] [--targets load,scan] [--seed N]``."""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import os
import pickle
import resource
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from pathlib import Path

from tests.fuzzing.mutations import kind_of
from tests.fuzzing.running import Finding, Results, Runner
from tests.fuzzing.seeds import KEPT, mutant, seeds
from tests.fuzzing.targets import TARGETS

_BATCH = 5000
# Seconds of the clock after which a process is ended that does not come back from a call into C.
_LONGEST = 20
_MOST_ADDRESSES = 8 << 30


def main(arguments: list[str]) -> int:
    """Run, print, write findings; give the exit code."""
    options = _parser().parse_args(arguments)
    targets = options.targets.split(",") if options.targets else list(TARGETS)
    if "torch" in targets or (options.again and options.again[0] == "torch"):
        from tests.fuzzing.differential import beside_torch

        TARGETS["torch"] = beside_torch
    if "unpickler" in targets or (options.again and options.again[0] == "unpickler"):
        from tests.fuzzing.unpickling import beside_pickle

        TARGETS["unpickler"] = beside_pickle
    if options.again:
        return _again(*options.again)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="weighlock-fuzz-", dir=_memory_folder()) as folder:
        results, runner = _batches(options, targets, Path(folder), out)
    print(summary(results))
    if options.keep:
        _keep(runner)
    return 1 if results.findings else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("--times", type=int, default=100_000, help="executions, at least")
    parser.add_argument("--minutes", type=float, help="stop after this time, whatever --times says")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--targets", help=f"some of {','.join(TARGETS)}")
    parser.add_argument("--only", default="", help="seeds whose names begin like this")
    parser.add_argument("--out", default="build/fuzzing", help="where the files of findings are written")
    parser.add_argument("--keep", action="store_true", help=f"put mutants with new answers into {KEPT.name}")
    parser.add_argument("--again", nargs=2, metavar=("TARGET", "FILE@NUMBERS"), help="one finding once more")
    return parser


def _memory_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _batches(options: argparse.Namespace, targets: list[str], folder: Path, out: Path) -> tuple[Results, Runner]:
    """One process after another, so that one that dies is a finding, and the run goes on."""
    names = [name for name in seeds() if name.startswith(options.only)]
    if "torch" in targets:
        names = [name for name in names if name.startswith(("benign/torch", "benign/old", "benign/lookalike"))
                 and kind_of(seeds()[name].data) in ("zip", "legacy")]  # fmt: skip
    runner = Runner(options.seed, targets, folder, names)
    results, begin, number = Results(), time.monotonic(), 0
    while sum(results.executions.values()) < options.times:
        if options.minutes and time.monotonic() - begin > options.minutes * 60:
            break
        runner.dice.seed(f"{options.seed} {number}")
        number += 1
        known = set(results.findings)
        batch = _forked(runner, _BATCH)
        runner.pool += batch.new
        del runner.pool[: max(len(runner.pool) - 4000, 0)]
        results.add(batch)
        for label in set(results.findings) - known:
            _tell(results.findings[label], out)
        done = sum(results.executions.values())
        print(f"{done:,} executions, {done / (time.monotonic() - begin):,.0f}/s, pool {len(runner.pool)}, "
              f"{len(results.findings)} findings", flush=True)  # fmt: skip
    return results, runner


def _forked(runner: Runner, mutants: int) -> Results:
    """Run a batch in a child. What it has seen comes back; if it dies, the file that it died of."""
    current = mmap.mmap(-1, 4096)

    def remember(target: str, lineage: str) -> None:
        text = f"{target} {lineage}\n".encode()[:4000]
        current[: len(text)] = text
        signal.alarm(_LONGEST)

    def reads(theirs: bool) -> None:
        current[4000] = theirs

    runner.on_call = remember
    if "torch" in runner.calls:
        from tests.fuzzing.differential import TELL

        TELL[0] = reads
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        if "torch" in runner.calls:  # PyTorch takes gigabytes where a few bytes ask for them
            resource.setrlimit(resource.RLIMIT_AS, (_MOST_ADDRESSES, _MOST_ADDRESSES))
        try:
            results = runner.run(mutants)
            with os.fdopen(writing, "wb") as to_parent:
                pickle.dump((results, runner.seen), to_parent)
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    if data:
        results, runner.seen = pickle.loads(data)
        return results
    target, _, lineage = bytes(current[:4000]).partition(b"\n")[0].decode().partition(" ")
    results = Results()
    if current[4000]:
        results.answers["torch: PyTorch died"] += 1
        results.notes[f"PyTorch ended the process ({status}) while it read {lineage}"] += 1
    else:
        results.note(Finding(target, lineage, f"the process died ({status})", mutant(lineage)))
    return results


def _tell(finding: Finding, out: Path) -> None:
    digest = hashlib.sha256(finding.label.encode("utf-8", "replace")).hexdigest()
    path = out / f"{digest[:12]}.bin"
    path.write_bytes(finding.data)
    facts = {"target": finding.target, "file": finding.lineage, "what": finding.what}
    path.with_suffix(".json").write_text(json.dumps(facts, indent=1))
    print(f"FINDING {finding.target} {finding.lineage}\n    {finding.what}\n    {path}", flush=True)


def summary(results: Results) -> str:
    """The figures of a run."""
    total = sum(results.executions.values())
    rate = total / results.seconds if results.seconds else 0
    lines = [f"{total:,} executions in {results.seconds:,.0f} s, {rate:,.0f} a second"]
    lines += [f"  {target:<10} {count:>12,}" for target, count in sorted(results.executions.items())]
    lines += [f"answers: {', '.join(f'{name} {count:,}' for name, count in results.answers.most_common(25))}"]
    lines += [f"  {count:>10,} x {note}" for note, count in sorted(results.notes.items())]
    lines += [f"slowest: {results.slowest[0]:.3f} s, {results.slowest[1]} {results.slowest[2]}"]
    lines += [f"most memory: {results.largest[0] / 2**20:.1f} MiB, {results.largest[1]} {results.largest[2]}"]
    lines += [f"findings: {len(results.findings)}"]
    lines += [f"  {results.times[label]:>8,} x {label}" for label in sorted(results.findings)]
    return "\n".join(lines)


def _again(target: str, lineage: str) -> int:
    data = mutant(lineage)
    results = Results()
    with tempfile.TemporaryDirectory(prefix="weighlock-fuzz-") as folder:
        runner = Runner(0, [target], Path(folder), [lineage.partition("@")[0]])
        print(f"{len(data)} bytes")
        print(TARGETS[target](runner.place(lineage, data)))
    return 1 if results.findings else 0


def _keep(runner: Runner) -> None:
    """Add the mutants of the pool to those that are kept, the smallest first, up to 300 KB in all."""
    files = {hashlib.sha256(data).hexdigest()[:16]: data for lineage, data in runner.pool if "folder/" not in lineage}
    if KEPT.exists():
        with zipfile.ZipFile(KEPT) as old:
            files |= {name: old.read(name) for name in old.namelist()}
    total = 0
    with zipfile.ZipFile(KEPT, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as kept:
        for name, data in sorted(files.items(), key=lambda item: (len(item[1]), item[0])):
            total += len(data)
            if total < 300_000:
                kept.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED, 9)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
