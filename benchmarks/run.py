"""Measures Weighlock, stock torch and safetensors side by side: interleaved, fresh processes, medians.

usage: make bench [ARGS="--rounds 5 --only many --big"]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import weighlock
from benchmarks.chart import draw

ROOT = Path(__file__).parent.parent
WORK = ROOT / ".work" / "bench"

OURS = ("torch", "weighlock", "weighlock.torch")
BOTH = (*OURS, "weighlock, safetensors", "safetensors")
# Workload, operation, repetitions in one process (the best counts), systems.
PLAN = (
    ("small", "load", 15, (*BOTH, "ptloader")),
    ("many", "load", 3, (*BOTH, "ptloader")),
    ("ckpt", "load", 3, OURS),
    ("big", "load", 2, (*BOTH, "ptloader", "floor")),
    ("big_legacy", "load", 2, OURS),
    ("big", "mmap", 3, BOTH),
    ("big", "open", 3, ("weighlock",)),
    ("many", "open", 3, ("weighlock",)),
    ("small", "save", 15, BOTH),
    ("many", "save", 3, BOTH),
    ("big", "save", 2, (*BOTH, "floor")),
)
COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "import and load small.pt": ("-c", "import weighlock; weighlock.load('small.pt')"),
    "import torch and load small.pt": ("-c", "import torch; torch.load('small.pt', weights_only=True)"),
    "import weighlock": ("-c", "import weighlock, sys; assert 'numpy' not in sys.modules"),
    "weighlock ls big.pt": ("-m", "weighlock", "ls", "big.pt"),
}
LEAST_ROUNDS_OF_COMMANDS = 5


def environment() -> dict[str, str]:
    """Compiled modules are kept, as they are for an installed package."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def named(text: str, *, huge: bool) -> str:
    """Return a workload's name, or a command with its file: `huge` stands for `big` where it is asked for."""
    return re.sub(r"\bbig(?=\b|_legacy)", "huge", text) if huge else text


def measure(system: str, operation: str, path: Path, repetitions: int, scratch: str) -> dict[str, Any]:
    """Run one cell in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.one", system, operation, str(path), str(repetitions), scratch]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(rounds: int, only: re.Pattern[str], scratch: str, *, huge: bool) -> list[dict[str, Any]]:
    """Measure every cell of the plan, printing each row as it is done."""
    rows = []
    for work, operation, repetitions, systems in PLAN:
        name = named(work, huge=huge)
        if not only.search(f"{name}.{operation}"):
            continue
        cells: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
        for _ in range(rounds):
            for system in systems:
                cells[system].append(measure(system, operation, WORK / f"{name}.pt", repetitions, scratch))
        best = {system: statistics.median(min(cell["times"]) for cell in found) for system, found in cells.items()}
        for system in systems:
            peak = statistics.median(cell["rss_mib"] for cell in cells[system])
            imports = statistics.median(cell["import_s"] for cell in cells[system]) * 1e3
            ratio = best["torch"] / best[system] if "torch" in best else None
            faster = f"{ratio:6.2f} x torch" if ratio else " " * 14
            print(f"{name:11} {operation:5} {system:22} {best[system] * 1e3:9.2f} ms  {faster}  "
                  f"peak {peak:6.0f} MiB  import {imports:5.0f} ms", flush=True)  # fmt: skip
            rows.append({"work": name, "operation": operation, "system": system, "ms": best[system] * 1e3,
                         "faster_than_torch": ratio, "rss_mib": peak, "import_ms": imports})  # fmt: skip
    return rows


def commands(rounds: int, only: re.Pattern[str], *, huge: bool) -> list[dict[str, Any]]:
    """Time whole processes, in turns."""
    chosen = {}
    for label, arguments in COMMANDS.items():
        name = named(label, huge=huge)
        if only.search(name):
            chosen[name] = [sys.executable, *(named(argument, huge=huge) for argument in arguments)]
    times: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(rounds + 1):  # the first one compiles
        for name, command in chosen.items():
            begin = time.perf_counter()
            subprocess.run(command, cwd=WORK, env=environment(), stdout=subprocess.DEVNULL, check=True)
            times[name].append(time.perf_counter() - begin)
    rows = []
    for name in chosen:
        median = statistics.median(times[name][1:])
        print(f"{name:30} {median * 1e3:9.2f} ms  as a whole process", flush=True)
        rows.append({"command": name, "ms": median * 1e3})
    return rows


def machine() -> dict[str, Any]:
    """Return what the figures were taken on."""
    versions = {name: version(name) for name in ("torch", "safetensors", "numpy")}
    return {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count(),
            "weighlock": weighlock.__version__, **versions}  # fmt: skip


def main() -> None:
    """Make the workloads, measure, write the results."""
    parser = argparse.ArgumentParser(description="Weighlock, torch and safetensors on the same work.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--only", type=re.compile, default=re.compile(""), help="a pattern such as many.load or 'weighlock ls'"
    )
    parser.add_argument("--big", action="store_true", help="1.4 GB (called huge) instead of 0.4 GB")
    options = parser.parse_args()
    # In a process of its own: a child's peak memory begins at what its parent had.
    maker = [sys.executable, "-m", "benchmarks.workloads", str(WORK), *(["--huge"] if options.big else [])]
    subprocess.run(maker, cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        rows = compare(options.rounds, options.only, str(Path(folder) / "saved.pt"), huge=options.big)
    processes = commands(max(options.rounds, LEAST_ROUNDS_OF_COMMANDS), options.only, huge=options.big)
    results = {"machine": machine(), "rounds": options.rounds, "cells": rows, "processes": processes}
    (WORK / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (WORK / "chart.svg").write_text(draw(results), encoding="utf-8")
    print(f"{WORK}/results.json and chart.svg")


if __name__ == "__main__":
    main()
