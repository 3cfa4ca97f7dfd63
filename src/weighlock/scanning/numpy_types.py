"""NumPy's element types as a pickle describes them: how long an element is, and whether it holds objects.

NumPy believes the state of a dtype: where its fields lie, how long an element is, and whether it holds Python objects.
A field behind the element's end reads memory that is not the array's; an object that the flags deny is an address
that the file has chosen.
"""

import re
from typing import Any, Final

from weighlock.dtypes import DTYPES
from weighlock.errors import TensorBoundsError
from weighlock.tensors.spec import NumpyDtypeSpec

__all__ = ["check_dtype", "holds_objects", "itemsize"]

_WIDTHS: Final = {"b": 1, "B": 1, "?": 1, "h": 2, "H": 2, "e": 2, "i": 4, "I": 4, "f": 4, "q": 8, "Q": 8, "d": 8,
                  "l": 8, "L": 8, "F": 8, "D": 16, "O": 8, "object": 8}  # fmt: skip
_SIZED: Final = re.compile(r"([biufcSVaMmUO])(\d{1,9})(?:\[[\w/]+\])?\Z")
_FLEXIBLE: Final = "SVUa"
_DEEPEST: Final = 32
# NPY_ITEM_REFCOUNT and NPY_LIST_PICKLE: what every type that holds objects has, and no other.
_OBJECT_FLAGS: Final = 0x03


def _code(spec: NumpyDtypeSpec) -> str:
    return spec.code.lstrip("<>|=")


def _part(spec: NumpyDtypeSpec, index: int) -> Any:
    return spec.state[index] if spec.state is not None and len(spec.state) > index else None


def itemsize(spec: NumpyDtypeSpec) -> int | None:
    """Return the bytes of one element; None where that cannot be told."""
    code, said = _code(spec), _part(spec, 5)
    if code[:1] in _FLEXIBLE and (len(code) == 1 or code[1].isdigit()) and type(said) is int and said >= 0:
        return said
    if code in _WIDTHS:
        return _WIDTHS[code]
    found = _SIZED.match(code)
    if found is not None:
        return int(found[2]) * (4 if found[1] == "U" else 1)
    row = DTYPES.get(code.rstrip("_"))
    return None if row is None or row.kind == "q" else row.itemsize


def holds_objects(spec: NumpyDtypeSpec, depth: int = 0) -> bool:
    """Whether an element holds Python objects, whatever its flags say."""
    if _code(spec) in ("O", "O4", "O8", "object", "object_") or depth > _DEEPEST:
        return True
    return any(holds_objects(part, depth + 1) for part in _parts(spec))


def _parts(spec: NumpyDtypeSpec) -> list[NumpyDtypeSpec]:
    subarray, fields = _part(spec, 2), _part(spec, 4)
    found = [subarray[0]] if isinstance(subarray, tuple) and subarray else []
    found += [row[0] for row in fields.values() if isinstance(row, tuple) and row] if isinstance(fields, dict) else []
    return [part for part in found if type(part) is NumpyDtypeSpec]


def check_dtype(spec: NumpyDtypeSpec) -> None:
    """Check what the state of a type says of it.

    Raises
    ------
    TensorBoundsError
        If a field lies outside of the element, or objects are kept secret.
    """
    fields, subarray, size = _part(spec, 4), _part(spec, 2), itemsize(spec)
    if isinstance(fields, dict):
        for name, row in fields.items():
            _check_field(name, row, size)
    if isinstance(subarray, tuple) and len(subarray) == 2:
        _check_subarray(*subarray, size)
    flags = _part(spec, 7)
    if flags is None and not holds_objects(spec):
        return
    wanted = _OBJECT_FLAGS if holds_objects(spec) else 0
    if type(flags) is not int or flags & _OBJECT_FLAGS != wanted:
        what = "a NumPy type says of itself that it holds no objects, and has some"
        raise TensorBoundsError(what if wanted else "a NumPy type says that it holds objects, and has none",
                                got=f"flags {flags!r:.20}")  # fmt: skip


def _check_field(name: Any, row: Any, size: int | None) -> None:
    kind, offset = row[:2] if isinstance(row, tuple) and len(row) >= 2 else (None, None)
    width = itemsize(kind) if type(kind) is NumpyDtypeSpec else None
    if width is None or size is None or type(offset) is not int or not 0 <= offset <= size - width:
        expected = "a type of known length" if width is None else f"{width} bytes within {size}"
        raise TensorBoundsError("a field of a NumPy type lies outside of the element", expected=expected,
                                got=f"{name!r:.40} at {offset!r:.20}")  # fmt: skip


def _check_subarray(base: Any, shape: Any, size: int | None) -> None:
    count = itemsize(base) if type(base) is NumpyDtypeSpec else None
    lengths = shape if isinstance(shape, tuple) else (shape,)
    for length in lengths:
        count = count * length if count is not None and type(length) is int and length >= 0 else None
    if count is None or count != size:
        raise TensorBoundsError("a NumPy type of several elements has another length than they have",
                                expected=str(count), got=str(size))  # fmt: skip
