"""Measures opening without loading: the index, one tensor, a slice; from a disk, and from a server that takes its time.

usage: make bench-lazy [ARGS="--rounds 5 --folder PATH"]

Each cell runs in a fresh process, which measures several times and keeps the best; the median over the rounds counts.
The server runs on loopback in a process of its own and waits 20 ms before each answer.
"""

from __future__ import annotations

import argparse
import gc
import json
import mmap
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.run import ROOT, WORK, environment

DELAY = 0.02

# What is measured, with the file it is measured on, and the bound in milliseconds that it is held against.
CELLS = (
    ("open", "big", 5.0), ("open", "many", 150.0), ("index", "big", 10.0), ("index", "many", 300.0),
    ("read", "big", 15.0), ("slice", "big", 15.0), ("column", "big", 50.0),
    ("remote-open", "big", 150.0), ("remote-read", "big", 150.0), ("remote-slice", "big", 150.0),
    ("remote-several", "big", 1000.0),
)  # fmt: skip
REPETITIONS = 5

READINGS: dict[str, Callable[[Any, str], Any]] = {
    "read": lambda ckpt, key: ckpt[key].read(),
    "slice": lambda ckpt, key: ckpt[key][100:110],
    "column": lambda ckpt, key: ckpt[key][:, 5],
    "several": lambda ckpt, key: ckpt.read(list(ckpt)[:20]),
}


def about(ckpt: Any, nbytes: int) -> str:
    """The key of the tensor of two dimensions whose size is nearest."""
    keys = [key for key, lazy in ckpt.items() if len(lazy.shape) > 1] or list(ckpt)
    return min(keys, key=lambda key: abs(ckpt[key].nbytes - nbytes))


def cell(work: str, address: str) -> None:
    """Measure one cell in this process, and print the best time in milliseconds and the peak memory in MiB."""
    import weighlock

    opened = weighlock.open_checkpoint
    if work.startswith("remote"):
        import weighlock.storages.remote
    if work.rsplit("-", maxsplit=1)[-1] not in ("open", "index"):
        # What is measured is reading, not importing.
        import numpy as __  # noqa: F401 - as above

    best = float("inf")
    for _repetition in range(REPETITIONS):
        gc.collect()
        begin = time.perf_counter()
        ckpt = opened(address)
        if work.endswith("index"):
            assert len(ckpt)
        elif not work.endswith("open"):
            key = about(ckpt, 4 << 20)
            begin = time.perf_counter()
            READINGS[work.rsplit("-", maxsplit=1)[-1]](ckpt, key)
        best = min(best, time.perf_counter() - begin)
        ckpt.close()
        del ckpt
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"ms": best * 1e3, "rss_mib": peak, "numpy": "numpy" in sys.modules}))


def serve(folder: str) -> None:
    """Serve the files of a folder, slowly, until standard input is closed."""
    from tests.range_server import RangeServer

    files = {}
    for path in sorted(Path(folder).glob("*.pt")):
        with path.open("rb") as file:
            files[path.name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with RangeServer(**files) as server:
        server.delay = DELAY
        print(server.url, flush=True)
        sys.stdin.read()


def measured(work: str, address: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.lazy", "--cell", work, address]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def command_time(path: Path) -> float:
    """Return the milliseconds that `weighlock ls` takes as a whole process."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "weighlock", "ls", str(path)]
    subprocess.run(command, env=environment(), stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - begin) * 1e3


def compare(folder: Path, url: str, rounds: int) -> list[dict[str, Any]]:
    """Measure every cell in turns, and print a row for each."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {(work, name): [] for work, name, _ in CELLS}
    listing = []
    for _ in range(rounds):
        listing.append(command_time(folder / "big.pt"))
        for work, name, _ in CELLS:
            address = f"{url}/{name}.pt" if work.startswith("remote") else str(folder / f"{name}.pt")
            found[work, name].append(measured(work, address))
    rows = []
    for work, name, bound in CELLS:
        every = found[work, name]
        rows.append({
            "work": work, "file": name, "bound_ms": bound, "ms": statistics.median(one["ms"] for one in every),
            "rss_mib": statistics.median(one["rss_mib"] for one in every),
        })  # fmt: skip
    rows.append({"work": "weighlock ls", "file": "big", "bound_ms": 100.0, "ms": statistics.median(listing)})
    for row in rows:
        peak = f"  peak {row['rss_mib']:5.0f} MiB" if "rss_mib" in row else ""
        print(f"{row['work']:15} {row['file']:5} {row['ms']:9.2f} ms  (bound {row['bound_ms']:6.0f} ms){peak}")
    return rows


def main() -> None:
    """Make the workloads unless a folder has them, measure, write the results."""
    parser = argparse.ArgumentParser(description="Opening checkpoints without loading them.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="a folder with big.pt and many.pt")
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        cell(*options.cell)
        return
    if options.serve:
        serve(options.serve)
        return
    if options.folder is None:
        subprocess.run([sys.executable, "-m", "benchmarks.workloads", str(WORK)], cwd=ROOT, check=True)
    folder = options.folder or WORK
    command = [sys.executable, "-m", "benchmarks.lazy", "--serve", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        rows = compare(folder, server.stdout.readline().strip(), options.rounds)
        server.communicate("")
    WORK.mkdir(parents=True, exist_ok=True)
    (WORK / "lazy.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
