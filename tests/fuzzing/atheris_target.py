"""The same promises under atheris: libFuzzer chooses by the lines that a file reaches, our mutations do half the work.

``python -m tests.fuzzing.atheris_target [libFuzzer's options] [corpus folders]``, for example ``-runs=100000``. What
breaks a promise is written by libFuzzer as ``crash-...`` into the folder that ``-artifact_prefix=`` names.
"""

from __future__ import annotations

import importlib
import pkgutil
import random
import sys
from pathlib import Path

import atheris

_TARGETS = ("load", "scan", "inspect", "map")


def _instrument() -> None:
    """Import all that reads files, so that atheris sees each line of it."""
    with atheris.instrument_imports(include=["weighlock"]):
        import weighlock

        for room in (
            "backends",
            "formats",
            "inspection",
            "loading",
            "opening",
            "pickling",
            "scanning",
            "storages",
            "tensors",
        ):
            package = importlib.import_module(f"weighlock.{room}")
            for module in pkgutil.iter_modules(package.__path__, f"weighlock.{room}."):
                if ".torch_" not in module.name:
                    importlib.import_module(module.name)
        weighlock.load(b"\x80\x02N.")


def main() -> None:
    """Set up, and fuzz until libFuzzer's options say that it is enough."""
    _instrument()
    from tests.fuzzing.mutations import mutated
    from tests.fuzzing.running import Results, Runner, watched
    from tests.fuzzing.seeds import seeds
    from tests.fuzzing.targets import BrokenPromiseError

    folder = Path("build/fuzzing/atheris")  # libFuzzer ends the process: nothing could remove a temporary one
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds().values()):
        (folder / str(number)).write_bytes(seed.data)
    runner = Runner(0, _TARGETS, folder, [])

    def one_input(data: bytes) -> None:
        results = Results()
        for target in _TARGETS:
            runner.one(target, "", data, results, [])
        for finding in results.findings.values():
            raise BrokenPromiseError(f"{finding.target}: {finding.what}")

    def mutator(data: bytes, most: int, number: int) -> bytes:
        if random.Random(number).random() < 0.5:
            return bytes(atheris.Mutate(data, most))
        return mutated(bytes(data), number)[:most]

    atheris.Setup([*sys.argv, str(folder)], one_input, custom_mutator=mutator)
    with watched():
        atheris.Fuzz()


if __name__ == "__main__":
    main()
