"""Where the time of one load goes: each phase's own time, in microseconds, the median of many loads.

Python's collector runs before each load, as in `make bench`: with PyTorch imported it walks so much memory that the
processor's caches are cold afterwards.

usage: python -m benchmarks.phases FILE [LOADS]
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections import defaultdict
from typing import Any

import weighlock.formats.detect
import weighlock.formats.reading
import weighlock.loading
import weighlock.torch
import weighlock.torch.loading
from weighlock.backends import registry
from weighlock.backends.torch_backend import TorchLeaves

PHASES: tuple[tuple[Any, str, str], ...] = (
    (weighlock.torch.loading, "load_as", "parameters, and what fits nowhere else"),
    (weighlock.loading, "open_any", "open the file"),
    (registry, "leaves_for", "the backend"),
    (weighlock.formats.detect, "read_directory", "the directory: read and checked"),
    (weighlock.formats.reading.Unpickler, "load", "the pickle: first tensor, and all that is no run"),
    (weighlock.formats.reading.Unpickler, "_run_of_tensors", "the pickle: runs of tensors, in columns"),
    (TorchLeaves, "strided_columns", "storages and tensors made"),
    (TorchLeaves, "finish", "data read, headers and CRC-32 checked"),
)


def watch(times: dict[str, list[float]]) -> None:
    """Put a clock around each phase; what an inner phase takes is not counted twice."""
    inner: list[float] = []

    def clocked(function: Any, label: str) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            inner.append(0.0)
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                taken = time.perf_counter() - begin
                times[label].append(taken - inner.pop())
                if inner:
                    inner[-1] += taken

        return run

    for owner, name, label in PHASES:
        setattr(owner, name, clocked(getattr(owner, name), label))


def main(path: str, loads: str = "60") -> None:
    """Measure and print."""
    weighlock.torch.load(path)
    times: dict[str, list[float]] = defaultdict(list)
    watch(times)
    whole = []
    for _ in range(int(loads)):
        gc.collect()
        begin = time.perf_counter()
        weighlock.torch.load(path)
        whole.append(time.perf_counter() - begin)
    for _, _, label in PHASES:
        print(f"{statistics.median(times[label]) * 1e6:8.0f} us  {label}")
    print(f"{statistics.median(whole) * 1e6:8.0f} us  in all, with the clocks")


if __name__ == "__main__":
    main(*sys.argv[1:])
