"""`weighlock.digest`: one hash of what a checkpoint holds, the same in every format.

The definition, version ``wl1``; a program of ten lines can check it:

- The digest of a strided tensor is the SHA-256 of its elements in row-major order, little-endian, without gaps.
- An entry is one line of canonical JSON (ASCII, no spaces, keys sorted). Of a tensor it is
  ``["tensor",path,dtype,shape,hex]``; of a leaf of several parts ``["tensor",path,layout,dtype,shape,parts,numbers]``,
  where each part is ``[name,dtype,shape,hex]``. Of any other value it is ``["value",path,value]``, spelled by
  `weighlock.measuring.contents`.
- The digest is the SHA-256 of all entries, sorted as text, each followed by a line feed.
"""

import json
from collections.abc import Iterable
from hashlib import sha256
from typing import Any, Final, NamedTuple

from weighlock.errors import WeighlockError
from weighlock.inspection.paths import json_path
from weighlock.measuring.contents import canonical, plain_contents
from weighlock.measuring.pieces import (
    Progress,
    in_threads,
    looking_into,
    parts_of,
    piece_size,
    pieces,
    stretch_of,
)
from weighlock.opening.opened import LazyCheckpoint
from weighlock.opening.tensors import LazyTensor
from weighlock.storages.refs import StorageRef
from weighlock.tensors.spec import JaggedSpec, QuantizedSpec, SubclassSpec, TensorSpec

__all__ = ["Digest", "digest", "hash_part"]

VERSION: Final = "wl1"


class Digest(NamedTuple):
    """What `weighlock.digest` returns; ``str()`` of it is its `content`.

    Attributes
    ----------
    content : str
        Of everything: ``"wl1:"`` and 64 hexadecimal digits.
    weights : str
        Of the tensors alone, in the same form: equal where a format could not hold the plain values.
    tensors : dict of str to str
        By key, the SHA-256 of the values of each tensor in hexadecimal; of a leaf in several parts (sparse, quantized)
        that of its entry; ``""`` of one without data.
    values : int
        How many plain values went into it.
    """

    content: str
    weights: str
    tensors: dict[str, str]
    values: int

    def __str__(self) -> str:
        return self.content


def digest(
    f: Any, *, include: str | Iterable[str] = (), exclude: str | Iterable[str] = (), progress: Progress | None = None
) -> Digest:
    """Return a hash of what a checkpoint holds: the same for every format, order, stride, alignment and file name.

    Paths, element types, shapes and values count; plain values do too, except with `include` or `exclude`. What does
    not: classes of containers, ``requires_grad``, shared memory, ``_metadata`` of state_dicts.

    Parameters
    ----------
    f : LazyCheckpoint, LazyTensors, path, address, bytes or file object
    include, exclude : str or iterable of str
        Globs over keys: only these tensors.
    progress : callable, optional
        Called with the number of bytes read since the last call, from several threads.

    Returns
    -------
    Digest

    Raises
    ------
    CheckpointError
        If bytes are missing or damaged.
    LimitError
        If a tensor repeats the bytes of its storage out of all proportion.

    Examples
    --------
    >>> import io, numpy, weighlock
    >>> new, old = io.BytesIO(), io.BytesIO()
    >>> weighlock.save({"w": numpy.ones((2, 2), "f4")}, new)
    >>> weighlock.save({"w": numpy.ones((2, 2), "f4")}, old, _use_new_zipfile_serialization=False)
    >>> weighlock.digest(new.getvalue()) == weighlock.digest(old.getvalue())
    True
    """
    with looking_into(f) as ckpt:
        chosen = ckpt.select(include, exclude) if include or exclude else ckpt
        entries = in_threads(lambda lazy: _entry(lazy, progress), chosen.values(), lambda lazy: lazy.nbytes)
        found = dict(zip(chosen, entries, strict=True))
        values = [] if chosen is not ckpt or not isinstance(ckpt, LazyCheckpoint) else _values(ckpt, progress)
    weights = [line for line, _ in found.values()]
    return Digest(
        _total([*weights, *values]), _total(weights), {key: short for key, (_, short) in found.items()}, len(values)
    )


def _total(lines: list[str]) -> str:
    whole = sha256()
    for line in sorted(lines):
        whole.update(line.encode("ascii") + b"\n")
    return f"{VERSION}:{whole.hexdigest()}"


def _line(*fields: Any) -> str:
    return json.dumps(fields, separators=(",", ":"), sort_keys=True, allow_nan=False)


def _values(ckpt: LazyCheckpoint, progress: Progress | None) -> list[str]:
    return [
        _line("value", json_path(path), _hashed(value, progress) if type(value) is StorageRef else canonical(value))
        for path, value in plain_contents(ckpt.object)
    ]


def _hashed(ref: StorageRef, progress: Progress | None) -> Any:
    """Return the spelling of a bare storage: its values count."""
    spec = TensorSpec(ref, ref.dtype, 0, (ref.numel,), (1,))
    return {**canonical(ref), "sha256": hash_part(spec, progress) if ref.location != "meta" else None}


def _entry(lazy: LazyTensor, progress: Progress | None) -> tuple[str, str]:
    """Return the line of a tensor, and its own digest."""
    try:
        hashed = [(part, hash_part(part.source, progress)) for part in parts_of(lazy)]
    except WeighlockError as error:
        error.locate(object_path=lazy.key)
        raise
    path = json_path(lazy.path)
    if len(hashed) == 1 and not hashed[0][0].name and lazy.layout in _PLAIN:
        part, own = hashed[0]
        return _line("tensor", path, part.dtype, part.shape, own), own
    parts = [[part.name, part.dtype, part.shape, own] for part, own in hashed]
    line = _line("tensor", path, lazy.layout, lazy.dtype_name, lazy.shape, parts, _numbers(lazy.spec))
    return line, sha256(line.encode("ascii")).hexdigest() if parts else ""


_PLAIN: Final = ("strided", "packed", "numpy")


def _numbers(spec: Any) -> Any:
    """Return the numbers of a leaf that are in no part of it: a scale, a zero point, an axis."""
    if type(spec) is SubclassSpec:
        return [str(getattr(spec.cls, "full_name", "")), _numbers(spec.data)]
    names = {QuantizedSpec: ("scale", "zero_point", "axis"), JaggedSpec: ("ragged_index",)}.get(type(spec), ())
    values = [getattr(spec, name) for name in names]
    return [_number(value) for value in values if type(value) is not TensorSpec]


def _number(value: Any) -> Any:
    return [canonical(item) for item in value] if isinstance(value, list | tuple) else canonical(value)


def hash_part(source: Any, progress: Progress | None = None) -> str:
    """Return the SHA-256 of a tensor's elements in row-major order, in hexadecimal."""
    made = sha256()
    stretch = stretch_of(source)
    if stretch is None:
        for piece in pieces(source, progress=progress):
            made.update(piece.view("u1").data)
        return made.hexdigest()
    # No NumPy for what lies in the file as it is hashed.
    size = piece_size(stretch.source)
    memory = memoryview(bytearray(min(size, stretch.nbytes)))
    for begin in range(0, stretch.nbytes, size):
        view = memory[: min(size, stretch.nbytes - begin)]
        stretch.source.read_into(stretch.offset + begin, view)
        made.update(view)
        if progress is not None:
            progress(len(view))
    return made.hexdigest()
