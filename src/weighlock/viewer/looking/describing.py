"""One tensor: everything that the file says of it, and how to read it elsewhere."""

from typing import Any, Final

from weighlock.errors import ArgumentError, UnsupportedError, WeighlockError
from weighlock.inspection.inventory import TensorRow
from weighlock.inspection.leaves import LEAVES, describe, strided_parts
from weighlock.inspection.numpy_values import read_array
from weighlock.tensors.spec import NumpyArraySpec, QuantizedSpec, SubclassSpec, TensorSpec
from weighlock.text import safe_text
from weighlock.viewer.bounds import MOST_PATH
from weighlock.viewer.looking.facts import alias_of, flags_of, size_of, steps, text
from weighlock.viewer.looking.holding import ViewedFile

__all__ = ["chosen_spec", "describe_tensor", "plane"]

_TOGETHER: Final = 100


def describe_tensor(file: ViewedFile, index: int) -> dict[str, Any]:
    """Return all that is known of one tensor without reading it."""
    row = file.row(index)
    leaf = row.leaf
    why = _why_not(row.spec)
    key = file.keys[index]
    return {
        "index": index, "key": text(key), "path": steps(row.path), **size_of(leaf), "numel": leaf.numel,
        "stride": None if leaf.stride is None else list(leaf.stride),
        "storage": None if row.storage is None else text(row.storage), "storage_offset": row.storage_offset,
        "contiguous": leaf.contiguous, "requires_grad": leaf.requires_grad, "alias_of": alias_of(file, row),
        "shared_with": _sharers(file, row), "flags": flags_of(row),
        "parts": [
            {"name": name, "dtype": part.dtype.name, "shape": list(part.shape), "nbytes": part.nbytes}
            for name, part in row.parts if name
        ],
        "readable": why is None, "why_not": why, **_commands(file, key),
    }  # fmt: skip


def _commands(file: ViewedFile, key: str) -> dict[str, str]:
    """Return how to read the tensor in Python and in a shell; both spell what is not printable as escapes.

    A key that begins with a dash would be taken for an option; one of a megabyte is for no clipboard.
    """
    import shlex

    if len(key) > MOST_PATH:
        return {}
    dashes = "-- " if "-" in (file.shown[:1], key[:1]) else ""
    return {
        "python": f"weighlock.open_checkpoint({file.shown!r})[{key!r}].read()",
        "cli": f"weighlock show {dashes}{shlex.quote(safe_text(file.shown))} {shlex.quote(safe_text(key))}",
    }


def _sharers(file: ViewedFile, row: TensorRow) -> list[dict[str, Any]]:
    """Return the other tensors in the same storage."""
    inside: dict[str, tuple[int, ...]] = file.once(
        "tensors by storage", lambda: {storage.name: storage.tensors for storage in file.summary.storages}
    )
    if row.storage is None:
        return []
    others = [index for index in inside.get(row.storage, ())[: _TOGETHER + 1] if index != row.index]
    return [{"index": index, "key": text(file.keys[index])} for index in others[:_TOGETHER]]


def _why_not(spec: Any) -> str | None:
    """Return why a tensor has no values of its own that could be shown; None where it has."""
    while type(spec) is SubclassSpec:
        spec = spec.data
    if type(spec) is NumpyArraySpec:
        try:
            read_array(spec)
        except WeighlockError as error:
            return text(error.what)
        return None
    if type(spec) is QuantizedSpec:
        spec = spec.tensor
    if type(spec) is TensorSpec:
        if spec.ref.location == "meta":
            return "the layout meta has no values that could be shown"
        return "the file holds no bytes of its storage" if spec.ref.reader is None and spec.ref.nbytes else None
    if type(spec) not in LEAVES:
        return "what its class holds is no tensor"
    leaf = describe(spec)
    if any(name for name, _ in strided_parts(spec)):
        return f"the layout {leaf.layout} has no values of its own; those of its parts can be shown"
    return f"the layout {leaf.layout} has no values that could be shown"


def chosen_spec(file: ViewedFile, index: int, part: str) -> Any:
    """Return the description of a tensor, or of a named part of it.

    Raises
    ------
    ArgumentError
        If it has no such part.
    UnsupportedError
        If it has no values of its own.
    """
    row = file.row(index)
    if part:
        found = [spec for name, spec in row.parts if name == part]
        if not found:
            raise ArgumentError("the tensor has no such part", got=part[:40])
        return found[0]
    why = _why_not(row.spec)
    if why is not None:
        raise UnsupportedError(why, object_path=row.key)
    spec = row.spec
    while type(spec) is SubclassSpec:
        spec = spec.data
    return spec


def plane(shape: tuple[int, ...], at: tuple[int, ...]) -> tuple[int, int]:
    """Return the lengths of the last two dimensions, where `at` holds an index for each of the others.

    Raises
    ------
    ArgumentError
        If there are not as many, or one lies outside.
    """
    leading = shape[:-2]
    if len(at) != len(leading) or any(index >= length for index, length in zip(at, leading, strict=True)):
        raise ArgumentError(
            "at names one index for each dimension before the last two", got=str(list(at))[:80],
            expected=f"below {list(leading)}",
        )  # fmt: skip
    rows, columns = (1, 1, *shape)[-2:]
    return rows, columns
