"""What a folder is that was given in place of a file, and which file to give."""

import os
from typing import Any, Final

from weighlock.errors import NotACheckpointError
from weighlock.text import safe_text

__all__ = ["describe_folder"]

_MOST_ENTRIES: Final = 10_000
_MOST_FOLDERS: Final = 100
_SHOWN: Final = 4
_ENDINGS: Final = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".th", ".pkl")


def describe_folder(path: str | os.PathLike[Any]) -> NotACheckpointError:
    """Return (not raise) the error that says what a folder is, and what to load in place of it."""
    shown = os.fsdecode(path)
    names = _names(shown)
    kind, what, hint = _describe(shown, names)
    return NotACheckpointError(f"{what}, not a file", kind=kind, path=shown, hint=hint)


def _names(path: str) -> list[str]:
    found: list[str] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                found.append(entry.name)
                if len(found) >= _MOST_ENTRIES:
                    break
    except OSError:
        return []
    return sorted(found)


def _checkpoints_below(path: str, names: list[str]) -> list[str]:
    """Return what may be loaded in the folders inside: the folder where it is a set of files, else its files."""
    found = []
    for name in names[:_MOST_FOLDERS]:
        inside = _names(os.path.join(path, name))
        if any(one == ".metadata" or one.endswith(".index.json") for one in inside):
            found.append(name)
        else:
            found += [f"{name}/{one}" for one in inside if one.lower().endswith(_ENDINGS)]
    return found


def _describe(path: str, names: list[str]) -> tuple[str, str, str]:
    known = frozenset(names)
    checkpoints = [name for name in names if name.lower().endswith(_ENDINGS)]
    listed = ", ".join(safe_text(name, limit=60) for name in checkpoints[:_SHOWN])
    listed += f" and {len(checkpoints) - _SHOWN} more" if len(checkpoints) > _SHOWN else ""
    if "saved_model.pb" in known:
        return "tensorflow-folder", "this is a TensorFlow SavedModel, a folder", "TensorFlow reads it."
    if "data.pkl" in known:
        name = os.path.basename(os.path.abspath(path))
        hint = f"Pack it again, uncompressed, from the folder above it: zip -0 -r model.pt {safe_text(name)}"
        return "unzipped-folder", "this is the content of a checkpoint that was unpacked, a folder", hint
    if "config.json" in known and checkpoints:
        return "transformers-folder", "this is a model's folder", f"Load the file inside: {listed}."
    if checkpoints:
        return "folder", "this is a folder", f"Load a file inside: {listed}."
    inner = [name for name in names if os.path.isfile(os.path.join(path, name, "data.pkl"))]
    if inner:
        hint = f"Pack it again, uncompressed, from inside this folder: zip -0 -r model.pt {safe_text(inner[0])}"
        return "unzipped-folder", "this is a folder with the content of a checkpoint that was unpacked", hint
    below = _checkpoints_below(path, names)
    if below:
        listed = ", ".join(safe_text(name, limit=120) for name in below[:_SHOWN])
        listed += f" and {len(below) - _SHOWN} more" if len(below) > _SHOWN else ""
        what = "a pipeline of diffusers, a folder" if "model_index.json" in known else "a folder of folders"
        return "folder", f"this is {what}", f"Load what is inside: {listed}."
    return "folder", "this is a folder without a file that looks like a checkpoint", "Give the path of the file itself."
