"""The plain values of a checkpoint in a spelling of their own, in which equal values read equal whatever the format.

Container classes and the order of keys are not part of it: a safetensors file has neither. Nor are the versions of
modules that PyTorch keeps in an attribute of a state_dict (`_metadata`), the flags of tensors, and who shares memory
with whom.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from weighlock.dtypes import DType
from weighlock.errors import WeighlockError
from weighlock.inspection.numpy_values import read_scalar
from weighlock.inspection.plain import kind_of
from weighlock.objects import PathNode, children, path_of
from weighlock.opening.plain import plain_places
from weighlock.pickling.inert import GlobalRef, Stub
from weighlock.storages.refs import StorageRef
from weighlock.tensors.spec import NumpyScalarSpec

__all__ = ["canonical", "canonical_text", "plain_contents"]

_EXACT: Final = 1 << 53


def plain_contents(root: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Give the path and the value of everything that neither is a tensor nor holds anything.

    Parameters
    ----------
    root : object
        A checkpoint's object. A container that stands at several places is entered once.
    """
    return ((path_of(node), value) for node, value in plain_places(root, _held))


def _held(node: PathNode | None, value: Any) -> Iterator[tuple[PathNode | None, Any]]:
    pairs: Any
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, set | frozenset):
        pairs = enumerate(sorted(value, key=canonical_text))
    else:
        pairs = value.children() if type(value) is Stub else children(value)
    return (((part, node), child) for part, child in pairs if part != "<key>")


def canonical_text(value: Any) -> str:
    """Return a plain value as canonical JSON: ASCII, no spaces.

    Examples
    --------
    >>> canonical_text(0.1)
    '{"float":"0x1.999999999999ap-4"}'
    """
    return json.dumps(canonical(value), separators=(",", ":"), sort_keys=True, allow_nan=False)


def canonical(value: Any) -> Any:
    """Return a plain value as JSON can hold it exactly."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) < _EXACT else {"int": hex(value)}
    form = _FORMS.get(type(value))
    if form is not None:
        return form(value)
    if isinstance(value, Mapping):
        return {"empty": "mapping"}
    if isinstance(value, list | tuple | set | frozenset) or type(value).__name__ == "deque":
        return {"empty": "set" if isinstance(value, set | frozenset) else "sequence"}
    return {"type": kind_of(value), "text": str(value)}


def _float(value: float) -> str:
    return "nan" if math.isnan(value) else value.hex()


def _scalar(value: NumpyScalarSpec) -> Any:
    try:
        name, number = read_scalar(value)
    except WeighlockError:
        data = value.data if isinstance(value.data, bytes | bytearray) else str(value.data).encode()
        return {"numpy": None, "bytes": data.hex()}
    return {"numpy": name, "value": canonical(number)}


_FORMS: Final[dict[type, Callable[[Any], Any]]] = {
    float: lambda value: {"float": _float(value)},
    complex: lambda value: {"complex": [_float(value.real), _float(value.imag)]},
    bytes: lambda value: {"bytes": value.hex()},
    bytearray: lambda value: {"bytes": value.hex()},
    NumpyScalarSpec: _scalar,
    DType: lambda value: {"dtype": value.name},
    GlobalRef: lambda value: {"global": value.full_name},
    Stub: lambda value: {"object": value.global_ref.full_name},
    StorageRef: lambda value: {"storage": value.dtype.name, "length": value.numel},
}
