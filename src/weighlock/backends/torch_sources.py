"""The source text that legacy streams carry for each class of a pickled module, against the class as it is now."""

import difflib
import warnings
from typing import Any

import torch

__all__ = ["check_source", "source_of"]


def source_of(cls: type) -> tuple[str | None, str | None]:
    """Return the file and the source text of a class; (None, None) with a warning where they cannot be found."""
    from torch._sources import get_source_lines_and_file

    try:
        lines, _, file = get_source_lines_and_file(cls)
    except Exception:  # noqa: BLE001 - of whatever kind: saving the text is optional
        warnings.warn(
            f"Couldn't retrieve source code for container of type {cls.__name__}. It won't be checked for "
            "correctness upon loading.", stacklevel=2,
        )  # fmt: skip
        return None, None
    return file, "".join(lines)


def check_source(pid: tuple[Any, ...]) -> None:
    """Compare the text in a persistent id, ``([mark,] class, file, text)``, with that of the class as it is now.

    Warns with PyTorch's `SourceChangeWarning`; where the class says ``dump_patches``, writes the difference to
    ``<class>.patch`` in the working directory, as PyTorch does.
    """
    cls, file, text = pid[-3:] if len(pid) >= 3 else (None, None, None)
    if not isinstance(cls, type) or not file or not text:
        return
    _, now = source_of(cls)
    if now is None or now == text:
        return
    if getattr(cls, "dump_patches", False):
        advice = _write_patch(cls.__name__, now, text, file)
    else:
        advice = (
            "you can retrieve the original source code by accessing the object's source attribute or set "
            "`torch.nn.Module.dump_patches = True` and use the patch tool to revert the changes."
        )
    message = f"source code of class '{torch.typename(cls)}' has changed. {advice}"
    warnings.warn(message, torch.serialization.SourceChangeWarning, stacklevel=2)


def _write_patch(name: str, now: str, text: str, file: str) -> str:
    patch = f"{name}.patch"
    lines = "\n".join(difflib.unified_diff(now.split("\n"), text.split("\n"), file, file, lineterm=""))
    try:
        with open(patch, "a+") as opened:
            opened.seek(0)
            before = opened.read()
            if not before:
                opened.write(lines)
    except OSError:
        before = None
    if before is None or (before and before != lines):
        return f"a patch could not be written to {patch}: make sure that it does not exist, and the folder is writable."
    return f"Saved a reverse patch to {patch}. Run `patch -p0 < {patch}` to revert your changes."
