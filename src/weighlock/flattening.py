"""Objects to files of formats that hold nothing but named tensors: safetensors and npz."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from weighlock.errors import WeighlockError
from weighlock.formats.flat import Flattened, flatten
from weighlock.formats.safetensors_writer import safetensors_header, write_safetensors
from weighlock.storages.sinks import Sink
from weighlock.tensors.flat import FlatLeaf

__all__ = ["FLAT_FORMATS", "describer", "flat_writer", "named_leaves"]

FLAT_FORMATS: Final = ("safetensors",)


def describer(framework: str) -> tuple[Callable[[Any], FlatLeaf | None], Callable[[Any], Any]]:
    """Return what says of a framework's values which tensors they are, and what stands for its other values."""
    if framework == "torch":
        from weighlock.backends import torch_flat

        return torch_flat.flat_leaf, torch_flat.flat_note
    from weighlock.backends import numpy_flat

    return numpy_flat.flat_leaf, numpy_flat.flat_note


def named_leaves(obj: Mapping[str, Any], framework: str) -> dict[str, FlatLeaf | None]:
    """Return what tensor each value of a dictionary is; None for those that are none."""
    describe, _ = describer(framework)
    found = {}
    for name, value in obj.items():
        try:
            found[name] = describe(value)
        except WeighlockError as error:
            raise error.locate(object_path=str(name)) from error.__cause__
    return found


def flat_writer(
    obj: Any, format: str, framework: str, metadata: Mapping[str, str] | None = None
) -> Callable[[Sink], None]:
    """Return a function that writes an object to a sink; everything that can go wrong before the first byte has then.

    Raises
    ------
    UnsupportedTypeError, SaveError
        If the format has no form for the object.
    """
    flattened: Flattened = flatten(obj, *describer(framework))
    header, tensors = safetensors_header(flattened, metadata)
    return lambda sink: write_safetensors(sink, header, tensors)
