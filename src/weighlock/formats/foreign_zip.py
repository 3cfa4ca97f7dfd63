"""What a zip archive is that holds no checkpoint of PyTorch's own."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from weighlock.errors import CheckpointError, NotACheckpointError
from weighlock.formats.zip_directory import read_directory
from weighlock.limits import DEFAULT_LIMITS
from weighlock.storages.source import ByteSource
from weighlock.text import safe_text

__all__ = ["describe_zip"]

_SHOWN: Final = 5
_CHECKPOINT_ENDINGS: Final = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pkl", ".pickle", ".th", ".pt2")


class _Kind(NamedTuple):
    kind: str
    what: str
    hint: str
    fits: Callable[[frozenset[str]], bool]


def _any(*parts: str) -> Callable[[frozenset[str]], bool]:
    return lambda names: any(name.startswith(parts) or name in parts for name in names)


_UNPACK: Final = "Unpack it and load the checkpoint inside, if there is one."

# The first row that fits is taken.
_KINDS: Final = (
    _Kind("keras", "a Keras model", "Read it with keras.models.load_model(path).",
          lambda names: {"config.json", "metadata.json"} <= names or "model.weights.h5" in names),
    _Kind("office", "an office document", "The weights are in another file.", _any("[Content_Types].xml", "mimetype")),
    _Kind("pt2", "a program exported with torch.export (.pt2)", "Weighlock reads checkpoints: save the state_dict.",
          lambda names: any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names)),
    _Kind("mar", "a TorchServe model archive", _UNPACK, _any("MAR-INF/")),
    _Kind("jar", "a Java archive", "It is a program or library.", _any("META-INF/MANIFEST.MF")),
    _Kind("wheel", "a Python package", "Install it with pip; weights that it ships are files inside it.",
          lambda names: any(".dist-info/" in name for name in names)),
)  # fmt: skip


def describe_zip(source: ByteSource) -> CheckpointError:
    """Return the error that says what the archive is, or what is wrong with its directory."""
    try:
        directory = read_directory(source, DEFAULT_LIMITS)
    except CheckpointError as error:
        return error
    names = [record.name for record in directory.records if not record.name.endswith("/")]
    if not names:
        return _not(source, "zip", "an empty zip archive", names, "Get the file again, or ask its author.")
    known = frozenset(names)
    for row in _KINDS:
        if row.fits(known):
            return _not(source, row.kind, row.what, names, row.hint)
    inside = [name for name in names if name.lower().endswith(_CHECKPOINT_ENDINGS)]
    if inside:
        hint = f"Unpack it and load {safe_text(inside[0], limit=60)!r} or what else you need of it."
        return _not(source, "zip", "a zip archive with files that may be checkpoints", inside, hint)
    return _not(source, "zip", "a zip archive without a checkpoint", names, _UNPACK)


def _not(source: ByteSource, kind: str, what: str, names: Sequence[str], hint: str) -> NotACheckpointError:
    listed = ", ".join(safe_text(name, limit=60) for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return NotACheckpointError(
        f"the file is {what}, not a checkpoint",
        kind=kind,
        got=f"{listed}{more}" if names else None,
        path=source.name,
        hint=hint,
    )
