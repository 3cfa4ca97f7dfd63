"""Write the corpus: ``python -m tests.corpus FOLDER``, into ``hostile/`` and ``benign/`` below it."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.corpus.benign import BENIGN
from tests.corpus.hostile import HOSTILE


def write(folder: Path) -> None:
    for kind, files in (("hostile", {name: case.make for name, case in HOSTILE.items()}), ("benign", BENIGN)):
        for label, make in files.items():
            path = folder / kind / (label.replace("/", "_") + ".pt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(make())


if __name__ == "__main__":
    write(Path(sys.argv[1]))
