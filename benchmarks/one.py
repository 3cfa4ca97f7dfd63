"""One system, one operation, one fresh process: prints the times of each repetition and the peak memory as JSON.

usage: python -m benchmarks.one SYSTEM OPERATION FILE REPETITIONS SCRATCH
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Work = Callable[[], Any]


def torch_work(operation: str, path: str, scratch: str) -> Work:
    import torch

    if operation == "save":
        data = torch.load(path, weights_only=True)
        return lambda: torch.save(data, scratch)
    return lambda: torch.load(path, weights_only=True, mmap=operation == "mmap")


def weighlock_work(operation: str, path: str, scratch: str) -> Work:
    import weighlock

    if operation == "save":
        data = weighlock.load(path)
        return lambda: weighlock.save(data, scratch)
    return lambda: weighlock.load(path, mmap=operation == "mmap")


def safetensors_work(operation: str, path: str, scratch: str) -> Work:
    from safetensors.numpy import load_file, save_file

    path = str(Path(path).with_suffix(".safetensors"))
    if operation == "save":
        data = load_file(path)
        return lambda: save_file(data, scratch)
    return lambda: load_file(path)


SYSTEMS = {"torch": torch_work, "weighlock": weighlock_work, "safetensors": safetensors_work}


def main(system: str, operation: str, path: str, repetitions: str, scratch: str) -> None:
    """Measure and print."""
    begin = time.perf_counter()
    work = SYSTEMS[system](operation, path, scratch)
    prepared = time.perf_counter() - begin
    times = []
    for _ in range(int(repetitions)):
        Path(scratch).unlink(missing_ok=True)
        gc.collect()
        begin = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - begin)
        del result
    Path(scratch).unlink(missing_ok=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"prepared": prepared, "times": times, "rss_mb": peak}))


if __name__ == "__main__":
    main(*sys.argv[1:])
