"""The files that are changed: made by the scripts of `tests/corpus`, the golden files, and what fuzzing has kept.

A checkpoint in a folder is a seed of its own for each of its files: that one is changed, the others stay as they are.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from tests.corpus.benign import BENIGN
from tests.corpus.hostile import HOSTILE
from tests.fuzzing import pickles
from tests.fuzzing.mutations import mutated

__all__ = ["KEPT", "Seed", "mutant", "seeds"]

KEPT = Path(__file__).parent / "kept.zip"
"""Mutants that were worth keeping: each made the loader say something that no other had."""
GOLDENS = Path(__file__).parent.parent / "goldens"

_LARGEST = 10_500


class Seed(NamedTuple):
    """A file, and where it is one of several in a folder, the others by name."""

    data: bytes
    main: str | None = None
    beside: dict[str, bytes] = {}  # noqa: RUF012 - never changed


@lru_cache(1)
def seeds() -> dict[str, Seed]:
    """All seeds by name, in an order that never changes."""
    found: dict[str, Seed] = {}
    made = {**{f"benign/{name}": make for name, make in BENIGN.items()},
            **{f"hostile/{name}": case.make for name, case in HOSTILE.items()}}  # fmt: skip
    for name, make in made.items():
        data = make()
        if len(data) <= _LARGEST:
            found[name] = Seed(data)
    for path in sorted((GOLDENS / "gguf-0.19.0").glob("*.gguf")):
        found[f"gguf/{path.name}"] = Seed(path.read_bytes())
    found |= {f"made/{name}": Seed(data) for name, data in _made()}
    found |= dict(_folders())
    if KEPT.exists():
        with zipfile.ZipFile(KEPT) as kept:
            found |= {f"kept/{name}": Seed(kept.read(name)) for name in sorted(kept.namelist())}
    for seed in found.values():
        _learn(seed.data)
    return found


def _learn(data: bytes) -> None:
    """Take the pickles of a seed into what others are changed with."""
    if pickles.looks_like_pickle(data):
        pickles.learn(data)
    elif data[:2] == b"PK":
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for name in archive.namelist():
                    if name.endswith("data.pkl"):
                        pickles.learn(archive.read(name))
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError):
            pass


def mutant(lineage: str) -> bytes:
    """The file of a finding: ``name@number@number`` is a seed, changed with each number in turn."""
    name, *numbers = lineage.split("@")
    data = seeds()[name].data
    for number in numbers:
        data = mutated(data, int(number))
    return data


def _made() -> Iterator[tuple[str, bytes]]:
    """Forms that only Weighlock's own writers make here."""
    import numpy as np

    import weighlock as wl

    objects: dict[str, Any] = {
        "plain": {"a": np.arange(6, dtype="float32").reshape(2, 3), "b": np.zeros((0, 2), "int64")},
        "types": {name: np.ones(3, name) for name in ("float16", "int8", "bool", "complex64", "uint16", "float64")},
        "nested": {"model": {"w": np.ones((2, 2)), "n": [np.arange(3), 5, "x"]}, "epoch": 3},
    }
    base = np.arange(12.0)
    objects["shared"] = {"all": base, "part": base[3:7], "turned": base.reshape(3, 4).T}
    for label, made in objects.items():
        for form in ("torch-zip", "torch-legacy", "safetensors", "npz"):
            file = io.BytesIO()
            try:
                wl.save(made, file, format=form)
            except wl.WeighlockError:
                continue
            yield f"{label}.{form}", file.getvalue()


def _folders() -> Iterator[tuple[str, Seed]]:
    """Each file of each checkpoint in a folder."""
    for folder, files in _folder_files().items():
        for main, data in files.items():
            if len(data) <= 2 * _LARGEST:
                beside = {name: content for name, content in files.items() if name != main}
                yield f"folder/{folder}/{main}", Seed(data, main, beside)


def _folder_files() -> dict[str, dict[str, bytes]]:
    found = {}
    for name in ("dtensor", "hf"):
        paths = sorted((GOLDENS / "dcp-torch-2.13.0" / name).iterdir())
        found[f"dcp-{name}"] = {path.name: path.read_bytes() for path in paths}
    part = BENIGN["more/safetensors"]()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    second = part.replace(b'"a"', b'"b"')
    index = {"metadata": {"total_size": 48}, "weight_map": {"a": names[0], "b": names[1]}}
    found["sharded"] = {"model.safetensors.index.json": json.dumps(index).encode(), names[0]: part, names[1]: second}
    return found
