"""Compare what scanners say of the corpus in `tests/corpus`, and how fast they are on harmless checkpoints.

Usage: python -m benchmarks.scan [--peers FOLDER] [--files N]      (`make bench-scan`)

The other scanners are installed into an environment of their own below ``build/``, in the versions below. Each scans
every file through its own library, one process per scanner; files are called ``.pt``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PEERS = ("picklescan==1.0.5", "modelscan==0.8.8", "fickling==0.1.12")
# What fickling imports and does not ask for.
BESIDE = ("typing_extensions==4.16.0",)
ROOT = Path(__file__).parent.parent
TOOLS = ("weighlock", *(peer.partition("==")[0] for peer in PEERS))


def environment(folder: Path) -> Path:
    """Make the environment of the others, once; return its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS, *BESIDE], check=True)
    return python


def answers(tool: str, python: Path, files: list[Path]) -> dict[str, tuple[str, float]]:
    """Have one tool scan the files; by name, its verdict and its seconds."""
    found: dict[str, tuple[str, float]] = {}
    waiting = [str(path) for path in files]
    while waiting:
        done = subprocess.run(
            [sys.executable if tool == "weighlock" else python, Path(__file__).with_name("scan_peer.py"), tool],
            input="\n".join(waiting) + "\n", capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src") if tool == "weighlock" else ""},
        )  # fmt: skip
        for line in done.stdout.splitlines():
            path, verdict, seconds = json.loads(line)
            found[Path(path).name] = verdict, seconds
        rest = [path for path in waiting if Path(path).name not in found]
        if rest:  # the file that took the process with it
            found[Path(rest[0]).name] = f"crash {done.returncode}", 0.0
        waiting = rest[1:]
    return found


def corpus(folder: Path) -> tuple[list[Path], list[Path]]:
    from tests.corpus.__main__ import write

    write(folder)
    return sorted((folder / "hostile").iterdir()), sorted((folder / "benign").iterdir())


def running_code() -> set[str]:
    """Names of the files that run code of the file's choice in a loader without restriction."""
    from tests.corpus.hostile import HOSTILE

    rules = {f"WL10{number}" for number in range(1, 10)} | {"WL111", "WL113", "WL121"}
    return {
        f"{label}.pt" for label, case in HOSTILE.items()
        if any(rule in rules for one in case.rules for rule in one.split("|"))
    }  # fmt: skip


def speed_files(folder: Path, count: int) -> list[Path]:
    """Small checkpoints of ten tensors."""
    import numpy as np

    import weighlock

    folder.mkdir()
    for index in range(count):
        weighlock.save({f"layer{i}.weight": np.zeros((4, 4), "f4") for i in range(10)}, folder / f"{index}.pt")
    return sorted(folder.iterdir())


def tally(found: dict[str, tuple[str, float]]) -> tuple[int, int, int]:
    verdicts = [verdict for verdict, _ in found.values()]
    hits, clean = verdicts.count("found"), verdicts.count("clean")
    return hits, clean, len(verdicts) - hits - clean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, default=ROOT / "build" / "bench-scan")
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--missed", action="store_true", help="name the hostile files that each tool calls clean")
    options = parser.parse_args()
    python = environment(options.peers)
    with tempfile.TemporaryDirectory() as folder:
        hostile, benign = corpus(Path(folder) / "corpus")
        small = speed_files(Path(folder) / "small", options.files)
        code = [path for path in hostile if path.name in running_code()]
        print(f"{len(code)} files that run code, {len(hostile) - len(code)} that are damaged, odd or name an unknown "
              f"class, {len(benign)} harmless ones\n")  # fmt: skip
        print("| scanner | runs code: found | called clean | no answer | damaged or odd: found | called clean "
              "| no answer | harmless: clean | called hostile | no answer | small checkpoints |")  # fmt: skip
        print("|" + "---|" * 11)
        for tool, label in zip(TOOLS, ("weighlock", *PEERS), strict=True):
            bad = answers(tool, python, hostile)
            worst = tally({name: answer for name, answer in bad.items() if name in running_code()})
            odd = tally({name: answer for name, answer in bad.items() if name not in running_code()})
            wrong, right, mute = tally(answers(tool, python, benign))
            # The first file pays for imports: it is scanned twice.
            rounds = [answers(tool, python, [small[0], *small]) for _ in range(3)]
            best = min(sum(seconds for _, seconds in one.values()) for one in rounds)
            shown = label.replace("==", " ")
            cells = [*worst, *odd, right, wrong, mute, f"{len(small) / best:,.0f} a second"]
            print(f"| {shown} | {' | '.join(map(str, cells))} |", flush=True)
            if options.missed:
                print("\n".join(f"    {name}" for name, (verdict, _) in sorted(bad.items()) if verdict == "clean"))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
