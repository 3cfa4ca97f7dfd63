"""Plain values as short text, for the lines that name what a checkpoint holds beside its tensors."""

from typing import Any, Final

from weighlock.dtypes import DType
from weighlock.errors import WeighlockError
from weighlock.inspection.leaves import LEAVES
from weighlock.inspection.numpy_values import read_scalar
from weighlock.pickling.inert import GlobalRef, Stub, repr_shallow
from weighlock.tensors.spec import NumpyArraySpec, NumpyScalarSpec
from weighlock.tensors.values import Device, Size, TorchName

__all__ = ["kind_of", "text_of"]

_SHOWN: Final = 200

# Values whose own text is short and costs nothing, whatever the file puts into them. Of the standard library's classes
# only the names: a checkpoint without dates must not import datetime.
_OWN_TEXT: Final = (DType, Device, TorchName, GlobalRef, range, slice)
_OWN_TEXT_NAMES: Final = frozenset({
    "datetime.datetime", "datetime.date", "datetime.time", "datetime.timedelta", "uuid.UUID",
    "pathlib.PurePosixPath", "pathlib.PureWindowsPath",
})  # fmt: skip


def kind_of(value: Any) -> str:
    """Return the name of an object's class, of a stub's the full name that the file gives."""
    if type(value) is Stub:
        return value.global_ref.full_name
    if type(value) is NumpyArraySpec:
        return "numpy array"
    if type(value) is NumpyScalarSpec:
        return "numpy scalar"
    return "tensor" if type(value) in LEAVES else type(value).__name__


def text_of(value: Any) -> str:
    """Return a value in a few words; never its whole content, never the code of its class."""
    if type(value) is NumpyScalarSpec:
        try:
            dtype, number = read_scalar(value)
        except WeighlockError:
            return "<numpy scalar>"
        return f"{number!r} ({dtype})"
    if type(value) is Size and len(value) <= _SHOWN:
        return str(list(value))
    if isinstance(value, _OWN_TEXT):
        return repr(value)[:_SHOWN]
    if f"{type(value).__module__}.{type(value).__name__}" in _OWN_TEXT_NAMES:
        return str(value)[:_SHOWN]
    return repr(value) if type(value) is Stub else repr_shallow(value)
