"""One system, one operation, one fresh process: its import time, each repetition's time, its peak memory, as JSON.

usage: python -m benchmarks.one SYSTEM OPERATION FILE REPETITIONS SCRATCH
"""

from __future__ import annotations

import gc
import importlib
import json
import mmap
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Work = Callable[[], Any]
import_times: list[float] = []


def imported(name: str) -> Any:
    """Import a package and note how long that took, in seconds."""
    begin = time.perf_counter()
    module = importlib.import_module(name)
    import_times.append(time.perf_counter() - begin)
    return module


def torch_work(operation: str, path: str, scratch: str) -> Work:
    torch = imported("torch")
    if operation == "save":
        data = torch.load(path, weights_only=True)
        return lambda: torch.save(data, scratch)
    return lambda: torch.load(path, weights_only=True, mmap=operation == "mmap")


def weighlock_work(operation: str, path: str, scratch: str) -> Work:
    weighlock = imported("weighlock")
    if operation == "save":
        data = weighlock.load(path)
        return lambda: weighlock.save(data, scratch)
    if operation == "open":
        return lambda: opened(weighlock, path)
    return lambda: weighlock.load(path, mmap=operation == "mmap")


def weighlock_safetensors_work(operation: str, path: str, scratch: str) -> Work:
    """The same content in the format of safetensors."""
    weighlock = imported("weighlock")
    path = str(Path(path).with_suffix(".safetensors"))
    if operation == "save":
        data = weighlock.load(path)
        return lambda: weighlock.save(data, scratch, format="safetensors")
    return lambda: weighlock.load(path, mmap=operation == "mmap")


def drop_in_work(operation: str, path: str, scratch: str) -> Work:
    torch, drop_in = imported("torch"), imported("weighlock.torch")
    if operation == "save":
        data = torch.load(path, weights_only=True)
        return lambda: drop_in.save(data, scratch)
    return lambda: drop_in.load(path, mmap=operation == "mmap")


def opened(weighlock: Any, path: str) -> int:
    """Look at a checkpoint without reading its tensors."""
    with weighlock.open_checkpoint(path) as checkpoint:
        return len(checkpoint)


def safetensors_work(operation: str, path: str, scratch: str) -> Work:
    # Its NumPy form copies; what maps the file is the one for torch.
    safetensors = imported("safetensors.torch" if operation == "mmap" else "safetensors.numpy")
    path = str(Path(path).with_suffix(".safetensors"))
    if operation == "save":
        data = safetensors.load_file(path)
        return lambda: safetensors.save_file(data, scratch)
    return lambda: safetensors.load_file(path)


def ptloader_work(operation: str, path: str, scratch: str) -> Work:
    ptloader = imported("ptloader")
    return lambda: ptloader.load(path)


def floor_work(operation: str, path: str, scratch: str) -> Work:
    """The bytes alone: read by two threads into memory of huge pages, or written in one go."""
    if operation == "load":
        return lambda: read_raw(path)
    data = memoryview(read_raw(path))
    return lambda: write_raw(scratch, data)


def read_raw(path: str) -> mmap.mmap:
    """Return memory of huge pages that two threads have filled with a file."""
    size = Path(path).stat().st_size
    memory = mmap.mmap(-1, size)
    memory.madvise(mmap.MADV_HUGEPAGE)
    target, descriptor = memoryview(memory), os.open(path, os.O_RDONLY)

    def fill(begin: int, end: int) -> None:
        while begin < end:
            begin += os.preadv(descriptor, [target[begin : min(end, begin + (16 << 20))]], begin)

    threads = [threading.Thread(target=fill, args=part) for part in ((0, size // 2), (size // 2, size))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(descriptor)
    target.release()
    return memory


def write_raw(path: str, data: memoryview) -> None:
    """Write bytes to a new file."""
    with open(path, "wb", buffering=0) as file:
        done = 0
        while done < len(data):
            done += file.write(data[done : done + (64 << 20)])


SYSTEMS = {
    "torch": torch_work, "weighlock": weighlock_work, "weighlock.torch": drop_in_work, "safetensors": safetensors_work,
    "weighlock, safetensors": weighlock_safetensors_work, "ptloader": ptloader_work, "floor": floor_work,
}  # fmt: skip


def main(system: str, operation: str, path: str, repetitions: str, scratch: str) -> None:
    """Measure and print."""
    work = SYSTEMS[system](operation, path, scratch)
    times = []
    for _ in range(int(repetitions)):
        Path(scratch).unlink(missing_ok=True)
        gc.collect()
        begin = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - begin)
        del result
    Path(scratch).unlink(missing_ok=True)
    # Kibibytes, on Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"import_s": sum(import_times), "times": times, "rss_mib": peak}))


if __name__ == "__main__":
    main(*sys.argv[1:])
