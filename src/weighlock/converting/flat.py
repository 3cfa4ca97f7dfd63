"""Descriptions as named tensors, for the formats that hold nothing else.

`formats.flat` works out names and shared memory from addresses. The tensors of a file have none: each storage is given
a range of numbers of its own, in which its tensors lie as they lie in the storage.
"""

import base64
from typing import Any, Final

from weighlock.converting.streams import refused, tensor_stream
from weighlock.errors import UnsupportedTypeError
from weighlock.inspection.leaves import LEAVES, describe
from weighlock.pickling.inert import GlobalRef, Stub
from weighlock.storages.copying import Progress
from weighlock.storages.refs import StorageRef
from weighlock.tensors.flat import FlatLeaf
from weighlock.tensors.spec import (
    JaggedSpec,
    MetaSpec,
    NestedSpec,
    NumpyArraySpec,
    NumpyDtypeSpec,
    NumpyScalarSpec,
    OpaqueSpec,
    SparseSpec,
    TensorSpec,
    UninitializedSpec,
)

__all__ = ["SpecLeaves"]

_GAP: Final = 64
# An array in a pickle (the state of a random generator) stands in the description of the structure up to this size.
_NOTED: Final = 1 << 20
# What has a node of its own in the description of the structure.
_NODES: Final = frozenset({JaggedSpec, MetaSpec, NestedSpec, NumpyArraySpec, SparseSpec, UninitializedSpec})
_HINT: Final = (
    'Take the weights alone, take="state_dict" (--take state_dict), or all tensors, take="tensors"; leave it out, '
    "exclude=KEY (--exclude); or convert to PyTorch's own format."
)


class SpecLeaves:
    """Says of descriptions which tensors they are: what `formats.flat.flatten` asks.

    Parameters
    ----------
    progress : callable, optional
    verify : bool
        Check the CRC-32 of storages that have to be read as a whole.
    """

    def __init__(self, progress: Progress | None = None, *, verify: bool = True) -> None:
        self._progress = progress
        self._verify = verify
        self._starts: dict[int, int] = {}
        self._end = _GAP

    def leaf(self, value: Any) -> FlatLeaf | None:
        """Return the tensor that a description is of; None where it is none.

        Raises
        ------
        UnsupportedTypeError
            If it is more than its elements.
        """
        kind = type(value)
        if kind is TensorSpec:
            return self._tensor(value)
        if kind is OpaqueSpec:
            raise refused(value)
        if kind in LEAVES and kind not in _NODES:
            raise UnsupportedTypeError(f"this format has no form for a {describe(value).layout} tensor", hint=_HINT)
        return None

    def _tensor(self, spec: TensorSpec) -> FlatLeaf:
        ref = spec.ref
        if ref.location == "meta" or (ref.reader is None and spec.nbytes):
            raise UnsupportedTypeError("a tensor has no data that could be written", hint=_HINT)
        if spec.attributes:
            raise UnsupportedTypeError("this format has no form for a tensor with Python attributes", hint=_HINT)
        start = self._starts.get(id(ref))
        if start is None:
            start = self._starts[id(ref)] = self._end
            self._end += ref.nbytes + _GAP - ref.nbytes % _GAP
        return FlatLeaf(
            spec.dtype, spec.shape, None if spec.conj or spec.neg else spec.stride,
            start + spec.offset * spec.dtype.itemsize, spec.nbytes,
            lambda: iter([tensor_stream(spec, self._progress, verify=self._verify)]), storage=id(ref),
            requires_grad=spec.requires_grad, parameter=spec.parameter,
        )  # fmt: skip

    def note(self, value: Any) -> Any:
        """Return the node that stands for a value of NumPy in the description of the structure."""
        kind = type(value)
        if kind is NumpyScalarSpec:
            return {"numpy": [_code(value.dtype), _text(value.data)]}
        if kind is NumpyArraySpec:
            return _array(value)
        if kind is StorageRef:
            raise UnsupportedTypeError("this format has no form for a storage without a tensor", hint=_HINT)
        if isinstance(value, GlobalRef | Stub):
            name = value.full_name if isinstance(value, GlobalRef) else value.global_ref.full_name
            raise UnsupportedTypeError("this format has no form for an object of this class", got=name, hint=_HINT)
        return None


def _array(spec: NumpyArraySpec) -> Any:
    shape: Any = spec.shape
    whole = isinstance(shape, tuple) and all(type(length) is int for length in shape)
    if not whole or not isinstance(spec.data, bytes | bytearray) or len(spec.data) > _NOTED:
        raise UnsupportedTypeError("this format has no form for a NumPy array inside the pickle", hint=_HINT)
    return {"ndarray": [_code(spec.dtype), list(shape), bool(spec.fortran), _text(spec.data)]}


def _code(dtype: Any) -> str:
    """Return NumPy's code of a type, with its byte order."""
    if type(dtype) is not NumpyDtypeSpec or type(dtype.code) is not str:
        raise UnsupportedTypeError("a NumPy value of an unknown type", hint=_HINT)
    code, state = dtype.code, dtype.state
    order = state[1] if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|") else ""
    if isinstance(state, tuple) and len(state) > 3 and state[3] is not None:
        raise UnsupportedTypeError("this format has no form for a NumPy array with fields", hint=_HINT)
    return code if code[:1] in "<>|=" else order + code


def _text(data: Any) -> str:
    if not isinstance(data, bytes | bytearray):
        raise UnsupportedTypeError("the bytes of a NumPy value are not bytes", got=type(data).__name__, hint=_HINT)
    return base64.b64encode(data).decode()
