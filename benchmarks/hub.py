"""Measures the hub: its import, cached loads, lists, and a large download beside curl's, in turns.

usage: make bench-hub [ARGS="--rounds 5 --gigabytes 1 --only download"]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.hub_host import Host
from tests.hub_nginx import Nginx

ROOT = Path(__file__).parent.parent
WORK = ROOT / ".work" / "bench"

HEAVY = ("urllib3", "filelock", "tqdm", "torch", "numpy", "ssl", "http.client")
MOST = {"import": 0.0, "load": 10.0, "list": 30.0}
LEAST_OF_CURL = 0.8

IMPORT = f"""
import sys, time
begin = time.perf_counter()
import weighlock.hub
weighlock.hub.load
print((time.perf_counter() - begin) * 1e3, [name for name in {HEAVY} if name in sys.modules])
"""
# What the hubconf itself takes is measured by the hubconf, and taken off.
LOAD = """
import time, weighlock.hub as hub
hub.load
begin = time.perf_counter()
spent = hub.load("o/tiny", "net", trust_repo=True, verbose=False)
first = time.perf_counter() - begin - spent()
begin = time.perf_counter()
spent = hub.load("o/tiny", "net", verbose=False)
print(first * 1e3, (time.perf_counter() - begin - spent()) * 1e3)
"""
TINY = """
import time
_begin = time.perf_counter()
dependencies = ["json"]
import utils
_taken = [time.perf_counter() - _begin]
def net():
    begin = time.perf_counter()
    value = utils.VALUE
    taken = sum(_taken) + time.perf_counter() - begin
    _taken.clear()  # the hubconf is not run again
    return lambda: taken
"""
# Modules of the standard library, a megabyte together: their code is like that of a repository.
SOURCES = (
    "_pydecimal", "typing", "inspect", "doctest", "argparse", "tarfile", "datetime", "pdb", "subprocess", "optparse",
)  # fmt: skip
SOURCE_LOAD = """
import time, weighlock.hub as hub
spent = hub.load("o/source", "net", trust_repo=True, verbose=False)
print(spent() * 1e3)
"""
SOURCE = """
import time
_begin = time.perf_counter()
{imports}
_taken = time.perf_counter() - _begin
def net():
    return lambda: _taken
"""
LIST = """
import time, weighlock.hub as hub
hub.list
times = []
for _ in range(2):
    begin = time.perf_counter()
    found = hub.list("o/large", verbose=False)
    times.append((time.perf_counter() - begin) * 1e3)
assert len(found) == 40, len(found)
print(*times)
"""
DOWNLOAD = """
import sys, time, weighlock.hub as hub
begin = time.perf_counter()
hub.download_url_to_file(sys.argv[1], sys.argv[2], hash_prefix=sys.argv[3], progress=False)
print(time.perf_counter() - begin)
"""


def large_repository() -> dict[str, str]:
    """300 files of code; the hubconf takes its forty entry points from twenty of them."""
    net = "def net{0}_{1}(width={1}, *, pretrained=False):\n    'Net {1}.'\n    return width\n\n"
    files = {
        f"nets/part{number:03}.py": "import os\n" + "".join(net.format(number, index) for index in range(20))
        for number in range(298)
    }
    lines = [f"from nets.part{number:03} import net{number}_0, net{number}_1" for number in range(20)]
    return {**files, "nets/__init__.py": "", "hubconf.py": "\n".join(lines) + "\n"}


def source_repository() -> dict[str, str]:
    """A megabyte of source, all of which the hubconf imports."""
    folder = Path(argparse.__file__).parent
    files = {f"parts/{name}.py": (folder / f"{name}.py").read_text(encoding="utf-8") for name in SOURCES}
    imports = "\n".join(f"import parts.{name}" for name in SOURCES)
    return {**files, "parts/__init__.py": "", "hubconf.py": SOURCE.format(imports=imports)}


def imports(rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Import a megabyte of a repository: by the hub, which compiles it, and by Python, which has it compiled."""
    files = source_repository()
    for name, text in files.items():
        path = folder / "plain" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    plain = f"import sys; sys.path.insert(0, {str(folder / 'plain')!r}); import hubconf; print(hubconf.net()() * 1e3)"
    size = sum(map(len, files.values())) / 1e6
    rows = []
    for name, code in (("by the hub", SOURCE_LOAD), ("by Python, compiled before", plain)):
        times = [float(run(code)) for _ in range(rounds + 1)][1:]
        rows.append(
            row(f"import {size:.1f} MB of source {name}", min(times), statistics.median(times), "ms", "", good=True)
        )
    return rows


def run(code: str, *arguments: str) -> str:
    """Run code in a fresh process, as an installed package runs: with its compiled modules kept."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


def row(name: str, best: float, typical: float, unit: str, bound: str, *, good: bool) -> dict[str, Any]:
    print(
        f"{name:44} best {best:9.2f}  median {typical:9.2f} {unit:5} {bound:22} {'ok' if good else 'MISSED'}",
        flush=True,
    )
    return {"name": name, "best": best, "median": typical, "unit": unit, "bound": bound, "ok": good}


def calls(rounds: int) -> list[dict[str, Any]]:
    """Measure the import, a cached load and a list, each in fresh processes."""
    found: dict[str, list[float]] = {}
    heavy = set()
    for index in range(rounds + 1):
        taken, _, names = run(IMPORT).partition(" ")
        heavy.add(names)
        figures = {"import weighlock.hub": float(taken)}
        for name, code in (("load of a cached tiny repository", LOAD), ("list of 300 files", LIST)):
            first, again = map(float, run(code).split())
            figures |= {f"{name}, first in a process": first, f"{name}, again": again}
        for name, value in figures.items():
            found.setdefault(name, []).extend([value] if index else [])
    rows = []
    for name, values in found.items():
        most = MOST[name.partition(" ")[0]]
        typical = statistics.median(values)
        good = heavy == {"[]"} if name.startswith("import") else min(values) <= most
        bound = f"nothing of {len(HEAVY)}" if name.startswith("import") else f"at most {most:.0f} ms"
        rows.append(row(name, min(values), typical, "ms", bound, good=good))
    return rows


def downloads(rounds: int, gigabytes: float, folder: Path) -> list[dict[str, Any]]:
    """Fetch one large file from nginx, by curl and by us, in turns."""
    root, target = folder / "served", str(folder / "fetched")
    root.mkdir()
    size = int(gigabytes * 1e9)
    with (root / "large.bin").open("wb") as file:
        block = os.urandom(1 << 20)
        for at in range(0, size, len(block)):
            file.write(block[: size - at])
    digest = subprocess.run(["sha256sum", root / "large.bin"], capture_output=True, text=True, check=True).stdout[:64]

    def curl(url: str) -> float:
        begin = time.perf_counter()
        subprocess.run(["curl", "-sf", "-o", target, url], check=True)
        return time.perf_counter() - begin

    def ours(url: str) -> float:
        return float(run(DOWNLOAD, url, target, digest))

    systems = {"curl": curl, "weighlock": ours}
    times: dict[str, list[float]] = {name: [] for name in systems}
    with Nginx(folder / "nginx", root) as server:
        for index in range(rounds + 1):
            # In another order each time, and with nothing on its way to the disk that the one before has written.
            order = [*systems.items()][index % len(systems) :] + [*systems.items()][: index % len(systems)]
            for name, fetch in order:
                Path(target).unlink(missing_ok=True)
                os.sync()
                taken = fetch(server.url + "/large.bin")
                times[name].extend([size / taken / 1e6] if index else [])
    rows = []
    for name, speeds in times.items():
        ratio = statistics.median(ours / curls for ours, curls in zip(speeds, times["curl"], strict=True))
        bound = f"{ratio:4.0%} of curl (80%)"
        rows.append(row(f"{gigabytes:g} GB by {name}", max(speeds), statistics.median(speeds), "MB/s", bound,
                        good=ratio >= LEAST_OF_CURL))  # fmt: skip
    return rows


def main() -> None:
    """Make a host, measure, write the results; exit with 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description="The hub's figures.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--only", type=re.compile, default=re.compile(""), help="calls or download")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory(dir=WORK) as name, Host(Path(name) / "host") as host:
        folder = Path(name)
        for variable in [name for name in os.environ if name.startswith("WEIGHLOCK_")]:
            del os.environ[variable]
        os.environ |= {"TORCH_HOME": name, "HOME": name, "WEIGHLOCK_HUB_CONFIG": host.config(folder / "hub.toml")}
        if options.only.search("calls"):
            host.repository("o/tiny", {"hubconf.py": TINY, "utils.py": "VALUE = 1\n"})
            host.repository("o/large", large_repository())
            host.repository("o/source", source_repository())
            rows += calls(max(options.rounds, 9))
            rows += imports(options.rounds, folder)
        if options.only.search("download"):
            rows += downloads(options.rounds, options.gigabytes, folder)
    (WORK / "hub.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if all(found["ok"] for found in rows) else 1)


if __name__ == "__main__":
    main()
