"""Objects to files of formats that hold nothing but named tensors: safetensors and npz."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from weighlock.errors import UnsupportedTypeError, WeighlockError
from weighlock.formats.flat import Flattened, flatten
from weighlock.formats.npz_writer import check_npz_names, write_npz
from weighlock.formats.safetensors_writer import safetensors_header, write_safetensors
from weighlock.storages.sinks import Sink
from weighlock.tensors.flat import FlatLeaf

__all__ = ["FLAT_FORMATS", "describer", "flat_writer", "named_leaves"]

FLAT_FORMATS: Final = ("safetensors", "npz")


def describer(framework: str) -> tuple[Callable[[Any], FlatLeaf | None], Callable[[Any], Any]]:
    """Return what says of a framework's values which tensors they are, and what stands for its other values."""
    if framework == "torch":
        from weighlock.backends import torch_flat

        return torch_flat.flat_leaf, torch_flat.flat_note
    from weighlock.backends import numpy_flat

    return numpy_flat.flat_leaf, numpy_flat.flat_note


def named_leaves(obj: Any, describe: Callable[[Any], FlatLeaf | None], what: str, hint: str) -> dict[str, FlatLeaf]:
    """Return the tensors of a dictionary by name.

    Parameters
    ----------
    describe : callable
        Given a value, returns the tensor that it is; None where it is none.
    what, hint : str
        What is said where it is no dictionary of tensors, and what to do then.

    Raises
    ------
    UnsupportedTypeError
        If it is none.
    """
    if not isinstance(obj, Mapping):
        raise UnsupportedTypeError(what, got=type(obj).__name__, hint=hint)
    found: dict[str, FlatLeaf] = {}
    for name, value in obj.items():
        try:
            leaf = describe(value)
        except WeighlockError as error:
            raise error.locate(object_path=str(name)) from error.__cause__
        if type(name) is not str or leaf is None:
            raise UnsupportedTypeError(what, got=type(value).__name__, object_path=str(name), hint=hint)
        found[name] = leaf
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
    if format == "npz":
        return _npz_writer(obj, framework)
    flattened: Flattened = flatten(obj, *describer(framework))
    header, tensors = safetensors_header(flattened, metadata)
    return lambda sink: write_safetensors(sink, header, tensors)


def _npz_writer(obj: Any, framework: str) -> Callable[[Sink], None]:
    hint = "Save it in PyTorch's own format, or as safetensors."
    leaves = named_leaves(obj, describer(framework)[0], "an .npz archive holds arrays by name, and nothing else", hint)
    check_npz_names(list(leaves))
    return lambda sink: write_npz(sink, leaves)
