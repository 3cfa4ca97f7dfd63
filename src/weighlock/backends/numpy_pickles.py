"""NumPy objects inside a pickle, made without running NumPy's own unpickling (`__setstate__`) on a file's bytes.

Every size is checked against the bytes that are there before an array is made.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from weighlock.errors import PickleStreamError
from weighlock.text import brief

__all__ = ["PendingArray", "build", "complete_array", "complete_dtype", "dtype", "scalar"]

_MAX_FIELDS = 10_000


class PendingArray:
    """An array that the pickle has named, and completes with BUILD."""

    __slots__ = ()


def build(target: Any, state: Any, charge: Callable[[int], None]) -> Any:
    """Complete a NumPy object with the state that the pickle gives it."""
    if isinstance(target, np.dtype):
        return complete_dtype(target, state)
    if isinstance(target, PendingArray):
        return complete_array(state, charge)
    raise PickleStreamError("a state is set on something that takes none", got=type(target).__name__)


def dtype(code: str) -> "np.dtype[Any]":
    """Return the dtype with this code, in native byte order until `complete_dtype`."""
    try:
        return np.dtype(f"S{code[1:]}" if code[:1] == "a" else code)  # an old name, of which NumPy warns
    except TypeError:
        import ml_dtypes

        kind = getattr(ml_dtypes, code, None)
        if isinstance(kind, type):
            return np.dtype(kind)
        raise PickleStreamError("a NumPy dtype with an unknown code", got=code[:60]) from None


def complete_dtype(target: "np.dtype[Any]", state: Any) -> "np.dtype[Any]":
    """Return the dtype that `target` becomes: (version, byte order, subarray, names, fields, size, alignment, ...)."""
    if not isinstance(state, tuple) or not 5 <= len(state) <= 9:
        raise PickleStreamError("a NumPy dtype with a malformed state", got=brief(state))
    order, subarray, names, fields = state[1:5]
    if subarray is not None:
        base, shape = subarray
        return np.dtype((_checked(base), shape))
    if names is not None:
        return _structured(names, fields, state[5])
    if target.kind in "mM" and len(state) == 9:
        return _with_unit(target, state[8])
    if not isinstance(order, str) or order not in "<>=|":
        raise PickleStreamError("a NumPy dtype with an unknown byte order", got=brief(order, 20))
    if target.type in (np.str_, np.bytes_, np.void) and len(state) > 5 and type(state[5]) is int and state[5] >= 0:
        target = np.dtype(f"{target.kind}{state[5] // (4 if target.kind == 'U' else 1)}")
    return target if order == "|" else target.newbyteorder(order)  # type: ignore[arg-type]


def _checked(value: Any) -> "np.dtype[Any]":
    if not isinstance(value, np.dtype):
        raise PickleStreamError("something that is no NumPy dtype where one must stand", got=type(value).__name__)
    return value


def _structured(names: Any, fields: Any, itemsize: Any) -> "np.dtype[Any]":
    if not isinstance(names, tuple) or not isinstance(fields, dict) or len(names) > _MAX_FIELDS:
        raise PickleStreamError("a NumPy dtype with malformed fields", got=brief(names))
    described = [fields[name] for name in names]
    formats = [_checked(field[0]) for field in described]
    offsets = [field[1] for field in described]
    try:
        return np.dtype({"names": list(names), "formats": formats, "offsets": offsets, "itemsize": itemsize})
    except (TypeError, ValueError, OverflowError) as error:  # a field outside of the element, two of one name
        raise PickleStreamError(f"a NumPy dtype whose fields do not fit it: {error}", got=brief(names)) from error


def _with_unit(target: "np.dtype[Any]", metadata: Any) -> "np.dtype[Any]":
    unit, count = metadata[1][:2] if isinstance(metadata, tuple) and len(metadata) == 2 else (None, None)
    if isinstance(unit, bytes):
        unit = unit.decode("ascii")
    if not isinstance(unit, str) or type(count) is not int:
        raise PickleStreamError("a NumPy date type without its unit", got=brief(metadata))
    return np.dtype(target.kind + "8" + ("" if unit == "generic" else f"[{count}{unit}]"))


def complete_array(state: Any, charge: Callable[[int], None]) -> Any:
    """Return the array for a state (version, shape, dtype, Fortran order, data as bytes, or a list of objects)."""
    if not isinstance(state, tuple) or len(state) != 5:
        raise PickleStreamError("a NumPy array with a malformed state", got=repr(type(state)))
    _, shape, kind, fortran, data = state
    kind = _checked(kind)
    if not isinstance(shape, tuple) or len(shape) > 64 or not all(type(n) is int and n >= 0 for n in shape):
        raise PickleStreamError("a NumPy array with a malformed shape", got=brief(shape))
    order = "F" if fortran else "C"
    if isinstance(data, list):
        return _object_array(data, shape, kind, order)
    raw = data.encode("latin-1") if isinstance(data, str) else data
    if not isinstance(raw, bytes | bytearray) or kind.hasobject:
        raise PickleStreamError("a NumPy array whose data are no bytes", got=type(data).__name__)
    needed = kind.itemsize
    for length in shape:
        needed *= length
    if needed != len(raw):
        raise PickleStreamError(
            "a NumPy array whose data do not fit its shape", expected=str(needed), got=str(len(raw))
        )
    charge(len(raw))
    if not needed:
        return np.empty(shape, kind, order)  # type: ignore[call-overload]
    return np.ndarray(shape, kind, bytearray(raw), order="F" if fortran else "C")


def _object_array(items: list[Any], shape: tuple[int, ...], kind: "np.dtype[Any]", order: str) -> Any:
    count = 1
    for length in shape:
        count *= length
    if kind != np.dtype(object) or count != len(items):
        raise PickleStreamError("a NumPy object array whose items do not fit its shape", got=str(len(items)))
    flat = np.empty(count, object)
    for index, item in enumerate(items):  # one by one: assigning the list would unpack sequences among the items
        flat[index] = item
    return flat.reshape(shape, order=order)  # type: ignore[call-overload]


def scalar(kind: Any, data: Any) -> Any:
    """Return a NumPy scalar from its dtype and the bytes of its value."""
    kind = _checked(kind)
    if kind == np.dtype(object):
        return data
    raw = data.encode("latin-1") if isinstance(data, str) else data
    if not isinstance(raw, bytes) or len(raw) != kind.itemsize or kind.hasobject:
        raise PickleStreamError("a NumPy scalar whose data do not fit its dtype", got=brief(raw, 40))
    if not raw:
        return np.empty((), kind)[()]
    return np.ndarray((), kind, raw)[()]
