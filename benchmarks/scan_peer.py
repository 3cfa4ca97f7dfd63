"""One scanner over a list of files: a line of JSON for each. Runs in an environment of its own; see `scan`.

Usage: python scan_peer.py TOOL < list of paths
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import resource
import signal
import sys
import time
import zipfile
from collections.abc import Callable

SECONDS = 5
MEMORY = 6 << 30


def picklescan() -> Callable[[str], str]:
    from picklescan.scanner import scan_file_path

    def judge(path: str) -> str:
        found = scan_file_path(path)
        if found.infected_files or found.issues_count:
            return "found"
        return "error" if found.scan_err or not found.scanned_files else "clean"

    return judge


def modelscan() -> Callable[[str], str]:
    from modelscan.modelscan import ModelScan

    def judge(path: str) -> str:
        found = ModelScan().scan(path)
        summary = found["summary"]
        if summary["total_issues"]:
            return "found"
        return "error" if found["errors"] or not summary["scanned"]["total_scanned"] else "clean"

    return judge


def fickling() -> Callable[[str], str]:
    from fickling.analysis import Severity, check_safety
    from fickling.fickle import StackedPickle

    def pickles(path: str) -> list[bytes]:
        with open(path, "rb") as file:
            data = file.read()
        if data[:2] != b"PK":
            return [data]
        # It reads pickles, no archives of checkpoints: they are taken out for it.
        with zipfile.ZipFile(path) as archive:
            return [archive.read(name) for name in archive.namelist() if name.endswith(".pkl")]

    def judge(path: str) -> str:
        seen = False
        for data in pickles(path):
            for pickled in StackedPickle.load(io.BytesIO(data)):
                seen = True
                if check_safety(pickled).severity > Severity.LIKELY_SAFE:
                    return "found"
        return "clean" if seen else "error"

    return judge


def weighlock() -> Callable[[str], str]:
    from weighlock.scanning import scan

    verdicts = {"findings": "found", "not fully examined": "error", "clean": "clean"}
    return lambda path: verdicts[scan(path).verdict]


TOOLS = {made.__name__: made for made in (weighlock, picklescan, modelscan, fickling)}


def main() -> None:
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    real, sys.stdout = sys.stdout, io.StringIO()

    def too_long(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, too_long)
    with contextlib.redirect_stderr(io.StringIO()):
        judge = TOOLS[sys.argv[1]]()
        for line in sys.stdin:
            path = line.rstrip("\n")
            begin = time.perf_counter()
            signal.alarm(SECONDS)
            try:
                verdict = judge(path)
            except BaseException as error:  # noqa: BLE001 - whatever a tool does on a file is its answer
                verdict = f"error {type(error).__name__}"
            finally:
                signal.alarm(0)
            print(json.dumps([path, verdict, time.perf_counter() - begin]), file=real, flush=True)


if __name__ == "__main__":
    main()
