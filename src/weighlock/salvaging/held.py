"""Tensors held against a manifest: their SHA-256 proves them, or says that they are others.

The new file is written with all that may be right, and judged before it gets its name: what the loader makes of it is
hashed, tensor by tensor, as a manifest is made. Only where something is contradicted it is written once more, without.
"""

import os
import tempfile
from collections.abc import Mapping
from typing import Final

from weighlock.errors import ArgumentError, DamagedError
from weighlock.measuring.manifests import Manifest, ManifestFile, ManifestTensor, tensors_in
from weighlock.opening.opened import open_checkpoint
from weighlock.salvaging.plan import TRIED, Plan, Terms
from weighlock.salvaging.report import SalvagedTensor
from weighlock.storages.targets import write_path

__all__ = ["entry_for", "written_as_held"]

_PROVEN: Final = "its values have the SHA-256 that the manifest lists"
_OTHER: Final = "its values are not those that the manifest lists"


class _ContradictedError(Exception):
    """The file that was written holds what the manifest contradicts."""


def entry_for(manifest: Manifest, name: str) -> ManifestFile:
    """Return what a manifest says of a file: its only entry of a checkpoint, or that of the file's name.

    Raises
    ------
    ArgumentError
        If there is none, or no telling which.
    """
    files = [file for file in manifest.files if file.tensors]
    path = name.replace(os.sep, "/")
    named = [file for file in files if path == file.name or path.endswith("/" + file.name)]
    named = named or [file for file in files if os.path.basename(path) == file.name.rpartition("/")[2]]
    found = files if len(files) == 1 else named
    if len(found) != 1:
        raise ArgumentError(
            "the manifest does not tell which of its files this one was",
            expected=", ".join(file.name for file in files[:8]) or "a file with tensors", got=name,
            hint="Give a manifest of the one file.",
        )  # fmt: skip
    return found[0]


def written_as_held(plan: Plan, terms: Terms, target: str | None, entry: ManifestFile) -> list[SalvagedTensor]:
    """Write what the manifest does not contradict; return what became of each tensor.

    Parameters
    ----------
    target : str or None
        None for a dry run: the file is written to a temporary folder, and removed.

    Raises
    ------
    DamagedError
        If nothing is left.
    """
    if target is None:
        with tempfile.TemporaryDirectory() as folder:
            return written_as_held(plan, terms, os.path.join(folder, "dry-run"), entry)
    judged: list[SalvagedTensor] = []

    def judge(path: str) -> None:
        with open_checkpoint(path, limits=terms.limits) as ckpt:
            there = {tensor.key: tensor for tensor in tensors_in(ckpt, terms.progress)}
        judged.extend(_judged(tensor, there, listed, terms) for tensor in plan.tensors)
        if any(one.state != "lost" == other.state for one, other in zip(plan.tensors, judged, strict=True)):
            raise _ContradictedError

    listed = {tensor.key: tensor for tensor in entry.tensors}
    try:
        write_path(target, plan.write, durable=False, check=judge)
    except _ContradictedError:
        if not any(tensor.nbytes for tensor in judged if tensor.state != "lost"):
            raise DamagedError("no tensor can be saved: none has the values that the manifest lists") from None
        refused = {tensor.path for tensor in judged if tensor.state == "lost"}
        write_path(target, plan.narrowed(refused).write, durable=False)
    return judged


def _judged(
    tensor: SalvagedTensor, there: Mapping[str, ManifestTensor], listed: Mapping[str, ManifestTensor], terms: Terms
) -> SalvagedTensor:
    """Return what becomes of a tensor, now that its values are known."""
    made, wanted = there.get(tensor.key), listed.get(tensor.key)
    if tensor.state == "lost":
        return tensor
    if made is None or wanted is None or not wanted.sha256:
        return tensor if tensor.state != TRIED else tensor._replace(state="lost")
    if made == wanted:
        return tensor._replace(state="proven", reason=_PROVEN)
    return tensor._replace(state="lost", reason=_OTHER)
