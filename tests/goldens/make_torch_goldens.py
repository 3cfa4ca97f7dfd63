"""Makes the golden files of stock torch, and what torch loads from them. Run once per torch release; kept for ever.

usage: python -m tests.goldens.make_torch_goldens FOLDER     (from the root of the project, with torch installed)
"""

from __future__ import annotations

import inspect
import io
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.cases import CASES
from tests.describe import describe

# Larger than a golden file should be; the differential tests have them.
LEFT_OUT = {"big_view", "many_numbers", "jagged"}

# The parameter came with 1.13.
_TRUSTED = {"weights_only": False} if "weights_only" in inspect.signature(torch.load).parameters else {}


def main(folder: Path) -> None:
    """Write ``NAME.zip.pt``, ``NAME.legacy.pt`` and ``NAME.json`` for every case."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in CASES.items():
        if name in LEFT_OUT:
            continue
        try:
            _write(folder, name, make)
        # An older torch, which has no such thing or cannot save it.
        except (AttributeError, TypeError, RuntimeError, KeyError, NotImplementedError) as error:
            print(f"{name}: {error}")
            for left in folder.glob(f"{name}.*"):
                left.unlink()


def _write(folder: Path, name: str, make: Callable[[Any], Any]) -> None:
    for kind, new in (("zip", True), ("legacy", False)):
        file = io.BytesIO()
        torch.save(make(torch), file, _use_new_zipfile_serialization=new)
        (folder / f"{name}.{kind}.pt").write_bytes(file.getvalue())
        if new:
            file.seek(0)
            described = describe(torch.load(file, **_TRUSTED))
            (folder / f"{name}.json").write_text(json.dumps(described) + "\n", encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
