"""Measures diff, stats, digest, convert and edit beside what moves the same bytes: cmp, cat, sha256sum and cp.

Everything is interleaved, in whole processes, files in the page cache; the best round counts, and the ratio is that of
the best rounds.

usage: make bench-tools [ARGS="--rounds 5 --file big.pt"]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
WORK = ROOT / ".work" / "bench"
WEIGHLOCK = (sys.executable, "-m", "weighlock")

# The peak memory of a child begins at what its parent had: this parent has little.
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""

Command = tuple[str, ...]


def seconds(command: Command) -> float:
    """Run one command, and return how long it took."""
    begin = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    took = time.perf_counter() - begin
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    return took


def peak(command: Command) -> float:
    """Return the peak memory of a command, in MiB."""
    return float(subprocess.run((sys.executable, "-c", PEAK, *command), capture_output=True, check=True).stdout)


def changed(source: Path, target: Path) -> None:
    """Write a copy whose tensors all differ: one bit in each page of them is turned."""
    import weighlock

    shutil.copyfile(source, target)
    with weighlock.open_checkpoint(source) as ckpt, target.open("r+b") as file:
        for extent in (lazy.extent for lazy in ckpt.values()):
            assert extent is not None
            for offset in range(extent.offset, extent.offset + extent.nbytes, 4096):
                file.seek(offset)
                byte = file.read(1)
                file.seek(offset)
                file.write(bytes([byte[0] ^ 1]))


def compare(label: str, commands: dict[str, Command], rounds: int, nbytes: int, *, written: bool = False) -> None:
    """Time commands in turns; the first is what the others are measured by.

    With `written` the last word of each is a file that it makes. It is removed before, and what others have left to be
    written to the disk is written first, so that nobody waits for it.
    """
    best = dict.fromkeys(commands, float("inf"))
    for _ in range(rounds):
        for name, command in commands.items():
            if written:
                Path(command[-1]).unlink(missing_ok=True)
                os.sync()
            best[name] = min(best[name], seconds(command))
    base = next(iter(best.values()))
    for name, took in best.items():
        if written:
            Path(commands[name][-1]).unlink(missing_ok=True)
        print(f"{label:16} {name:22} {took * 1e3:9.1f} ms  {nbytes / took / 1e9:6.2f} GB/s  {base / took:6.2f} x"
              f"  peak {peak(commands[name]):5.0f} MiB", flush=True)  # fmt: skip


def rewrite(source: Path, folder: Path, rounds: int) -> None:
    """Time what writes a checkpoint again beside a copy of the file."""
    path, st, out = str(source), str(folder / "x.safetensors"), str(folder / "out")
    convert, edit, quiet = (*WEIGHLOCK, "convert"), (*WEIGHLOCK, "edit"), ("--no-verify",)
    subprocess.run((*convert, "-q", path, st), check=True)
    commands = {
        "cp": ("cp", path, out),
        "to safetensors": (*convert, path, f"{out}.safetensors"),
        "  unchecked": (*convert, *quiet, path, f"{out}.safetensors"),
        "back to .pt": (*convert, st, f"{out}.pt"),
        "  unchecked ": (*convert, *quiet, st, f"{out}.pt"),
        "edit --add-prefix": (*edit, "--add-prefix", "net.", path, f"{out}.pt"),
        "  unchecked  ": (*edit, "--add-prefix", "net.", *quiet, path, f"{out}.pt"),
    }
    compare("written again", commands, rounds, source.stat().st_size, written=True)
    Path(st).unlink()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="diff, stats, digest, convert and edit beside cmp, cat and cp.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--file", type=Path, default=WORK / "huge.pt")
    options = parser.parse_args()
    if not options.file.exists():
        subprocess.run([sys.executable, "-m", "benchmarks.workloads", str(WORK), "--huge"], cwd=ROOT, check=True)
    path = str(options.file)
    nbytes = options.file.stat().st_size
    os.environ.setdefault("PYTHONPATH", str(ROOT / "src"))
    with tempfile.TemporaryDirectory(dir=options.file.parent) as folder:
        copy, other = Path(folder) / "copy.pt", Path(folder) / "other.pt"
        shutil.copyfile(path, copy)
        changed(options.file, other)
        same = {"cmp": ("cmp", path, str(copy)), "weighlock diff": (*WEIGHLOCK, "diff", path, str(copy))}
        compare("the same", same, options.rounds, 2 * nbytes)
        apart = {"cat": ("cat", path, str(other)), "weighlock diff": (*WEIGHLOCK, "diff", path, str(other))}
        compare("all different", apart, options.rounds, 2 * nbytes)
        other.unlink()
        copy.unlink()
        rewrite(options.file, Path(folder), options.rounds)
    whole = {
        "cat": ("cat", path), "sha256sum": ("sha256sum", path), "weighlock digest": (*WEIGHLOCK, "digest", path),
        "weighlock stats": (*WEIGHLOCK, "stats", path), "weighlock stats --hist": (*WEIGHLOCK, "stats", "--hist", path),
        "weighlock ls": (*WEIGHLOCK, "ls", path), "weighlock layout": (*WEIGHLOCK, "layout", path),
    }  # fmt: skip
    compare("one file", whole, options.rounds, nbytes)


if __name__ == "__main__":
    main()
