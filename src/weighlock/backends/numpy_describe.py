"""What NumPy arrays, scalars and dtypes become in a checkpoint: tensors and their storages, or calls.

Saving takes at most two passes. In the first, every array is given a storage of its own. If it then turns out that
arrays share memory, `settle` works out which bytes each group uses together, and the pickle is written again with that
plan. Arrays that own their memory, as nearly all do, cost no look at an address.
"""

from contextlib import suppress
from typing import Any, Final

import numpy as np

from weighlock import dtypes
from weighlock.backends.numpy_layout import COMPACT, KEEP, Layout, address, compacted, memory
from weighlock.backends.numpy_sharing import Group, sharing
from weighlock.dtypes import DType
from weighlock.errors import UnsupportedTypeError
from weighlock.pickling.inert import GlobalRef
from weighlock.pickling.reductions import (
    NUMPY_DTYPE,
    NUMPY_SCALAR,
    REBUILD_V2,
    REBUILD_V3,
    UNTYPED_STORAGE,
    Describe,
    Reduction,
    TensorCall,
    TensorForm,
    TensorPattern,
)

__all__ = ["Kind", "NumpyDescriber"]

Array = np.ndarray[Any, Any]

# PyTorch's name of the only place where NumPy arrays are. One object: the pickler's memo goes by identity.
_CPU: Final = "cpu"
# Up to this size a copy is cheaper than a view.
_SMALL: Final = 4 << 10


class Kind:
    """What arrays of one NumPy type become.

    Attributes
    ----------
    dtype : DType
    form : TensorForm
        Of a tensor that lies in a storage of its own type, where there is such a storage.
    untyped : TensorForm
        Of a tensor that lies in an untyped storage and names its type itself.
    unit : int
        Bytes that the storage of `form` counts as one.
    typed : bool
        Whether the tensor has no form in an untyped storage.
    """

    __slots__ = ("dtype", "form", "itemsize", "layouts", "native", "typed", "unit", "untyped")

    def __init__(self, dtype: DType, numpy_dtype: "np.dtype[Any]") -> None:
        self.dtype = dtype
        self.itemsize = numpy_dtype.itemsize
        self.native = numpy_dtype.isnative
        self.typed = dtype.kind == "q"
        self.untyped = TensorForm(REBUILD_V3, UNTYPED_STORAGE, GlobalRef("torch", dtype.name))
        if dtype.storage_class is None:
            self.form, self.unit = self.untyped, 1
        else:
            self.form, self.unit = TensorForm(REBUILD_V2, GlobalRef("torch", dtype.storage_class)), self.itemsize
        self.layouts: dict[Any, Layout] = {}

    def layout(self, array: Array) -> Layout:
        """Return how an array lies in memory; worked out once per shape and strides."""
        key = (array.shape, array.strides)
        found = self.layouts.get(key)
        if found is None:
            found = self.layouts[key] = Layout(*key, self.itemsize, native=self.native)
        return found


class NumpyDescriber:
    """Describes NumPy objects to a pickler, and keeps what lies outside of the pickle.

    Parameters
    ----------
    untyped : bool
        Whether the container can hold storages without a type; the legacy stream cannot.

    Attributes
    ----------
    leaves : dict of type to callable
        How objects of exactly this type are described; `numpy_reductions.add_records` adds to it.
    """

    def __init__(self, *, untyped: bool = True) -> None:
        self._untyped = untyped
        self._kinds: dict[Any, Kind] = {}
        self._storages: list[tuple[Array, Layout, Kind] | Group] = []
        self._layouts: dict[Any, tuple[Layout, Kind]] = {}
        self._first_pass: list[Any] = []
        self._may_share = False
        self._plan: dict[tuple[int, Layout], Group] | None = None
        self.leaves: dict[type, Describe] = {np.ndarray: self.array, np.memmap: self.array}

    def describe(self, kind: type) -> Describe | None:
        """Return how objects of a type are described, or None if it is not NumPy's. A `pickling.Describer`."""
        found = self.leaves.get(kind)
        if found is not None:
            return found
        if issubclass(kind, np.generic):
            return _scalar
        if issubclass(kind, np.dtype):
            return _dtype
        if issubclass(kind, np.ndarray):
            raise UnsupportedTypeError(
                f"PyTorch has no form for a {kind.__module__}.{kind.__qualname__}",
                hint="Save numpy.asarray(value); of a masked array, save the data and the mask.",
            )
        return None

    # Tensors

    def array(self, array: Array) -> TensorCall:
        """Describe an array as a tensor."""
        found = self._layouts.get((array.dtype, array.shape, array.strides))
        if found is None or self._plan is not None:
            return self._first_of_its_kind(array)
        # As `place`, without another call, since there may be very many.
        if array.base is not None or not array.flags.owndata:
            self._may_share = True
        layout, kind = found
        key = str(len(self._storages))
        self._storages.append((array, layout, kind))
        return layout.pattern, key

    def _first_of_its_kind(self, array: Array) -> TensorCall:
        kind = self.kind(array.dtype)
        call = self.place(array, kind)
        layout = kind.layout(array)
        if layout.pattern is not None:
            self._layouts[array.dtype, array.shape, array.strides] = (layout, kind)
        return call

    def kind(self, numpy_dtype: "np.dtype[Any]", dtype: DType | None = None) -> Kind:
        """Return what arrays of a type become: what NumPy's type says, or a tensor of type `dtype` from raw units.

        Raises
        ------
        UnsupportedTypeError
            If PyTorch has no such type, or the container has no place for it.
        """
        key = numpy_dtype if dtype is None else (numpy_dtype, dtype)
        found = self._kinds.get(key)
        if found is None:
            row = dtype or dtypes.from_numpy(numpy_dtype)
            if row is None:
                raise UnsupportedTypeError(f"PyTorch has no dtype for NumPy's {numpy_dtype}", hint=_hint(numpy_dtype))
            if row.storage_class is None and not self._untyped:
                raise UnsupportedTypeError(
                    f"PyTorch cannot load {row.name} from a file of the legacy format",
                    hint="Save without _use_new_zipfile_serialization=False.",
                )
            found = self._kinds[key] = Kind(row, numpy_dtype)
        return found

    def place(self, array: Array, kind: Kind) -> TensorCall:
        """Give an array a storage, and return the tensor that views it."""
        layout = kind.layouts.get((array.shape, array.strides)) or kind.layout(array)
        if self._plan is not None:
            start = address(array)
            group = self._plan.get((start, layout))
            if group is not None:
                return self._view(group, start, kind, layout)
        elif array.base is not None or not array.flags.owndata:
            self._may_share = True
        key = str(len(self._storages))
        self._storages.append((array, layout, kind))
        if layout.pattern is None:
            numel = layout.numel if kind.unit > 1 else layout.numel * kind.itemsize
            layout.pattern = TensorPattern(kind.form, _CPU, numel, 0, layout.shape, layout.stride)
        return layout.pattern, key

    def _view(self, group: Group, start: int, kind: Kind, layout: Layout) -> TensorCall:
        if group.key is None:
            group.key = str(len(self._storages))
            self._storages.append(group)
        form, unit = (kind.untyped, 1) if group.mixed else (kind.form, kind.unit)
        offset = (start - group.start) // kind.itemsize
        return TensorPattern(form, _CPU, group.nbytes // unit, offset, layout.shape, layout.spread), group.key

    def settle(self) -> bool:
        """Return whether the pickle may stay as it is; if not, write it again with this describer.

        Raises
        ------
        UnsupportedTypeError
            If arrays of different types share memory, and the container cannot hold that.
        """
        if not self._may_share or self._plan is not None:
            return True
        groups = sharing(entry for entry in self._storages if not isinstance(entry, Group))
        if not groups:
            return True
        if not self._untyped and any(group.mixed for group in groups):
            raise UnsupportedTypeError(
                "arrays of different types share memory, which the legacy format has no form for",
                hint="Copy one of them, or save without _use_new_zipfile_serialization=False.",
            )
        self._plan = {(member.start, member.layout): group for group in groups for member in group.members}
        self._first_pass = self._storages  # keeps addresses from being used again
        self._storages = []
        return False

    # Storages

    @property
    def sizes(self) -> list[int]:
        """Bytes of each storage, in the order of their keys."""
        return [entry[1].stored if type(entry) is tuple else entry.nbytes for entry in self._storages]  # type: ignore[union-attr]

    @property
    def unit_sizes(self) -> list[int]:
        """Bytes that each storage counts as one element."""
        return [entry.members[0].kind.unit if isinstance(entry, Group) else entry[2].unit for entry in self._storages]

    def buffer(self, index: int) -> bytes | memoryview:
        """Return the bytes of a storage: of large ones the memory itself, of others a copy."""
        entry = self._storages[index]
        if type(entry) is not tuple:
            return entry.buffer()  # type: ignore[union-attr]
        array, layout, _ = entry
        if layout.how == KEEP:
            if layout.contiguous:
                if layout.nbytes <= _SMALL:
                    return array.tobytes()
                with suppress(ValueError, TypeError, BufferError):  # NumPy has no buffers of some types
                    return memoryview(array).cast("B")  # type: ignore[arg-type,unused-ignore]
            return memory(address(array), layout.nbytes, array)
        if layout.how == COMPACT:
            made = compacted(array, layout)
        else:
            made = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
        return memory(address(made), made.nbytes, made)


def _hint(numpy_dtype: "np.dtype[Any]") -> str:
    """Say what to do about an array that PyTorch has no dtype for."""
    if numpy_dtype.names is not None:
        return "Save the fields one by one, as a dictionary."
    return {
        "O": "Save a list of the objects, or convert the array to numbers.",
        "U": "Save the strings as a list: array.tolist().",
        "S": "Save the strings as a list: array.tolist().",
        "M": "Save array.view('int64') and the unit.",
        "m": "Save array.view('int64') and the unit.",
        "f": "Convert it to float64.",
        "c": "Convert it to complex128.",
    }.get(numpy_dtype.kind, "Save array.view('uint8'), and what it means beside it.")


# Plain NumPy values, which are pickled as NumPy does it: only torch.load(weights_only=False) reads them back.


def _scalar(value: Any) -> Reduction:
    kind = value.dtype
    if kind.hasobject or kind.char in "gG":
        what = f"a NumPy scalar of type {kind} has no form that is the same on every machine"
        raise UnsupportedTypeError(what, hint="Convert it to a number of Python first: value.item().")
    return Reduction(NUMPY_SCALAR, (kind, value.tobytes()))


def _dtype(value: "np.dtype[Any]") -> Reduction:
    if value.char in "gG":
        raise UnsupportedTypeError(f"NumPy's {value} is not the same type on every machine", hint="Save its name.")
    reduced: Any = value.__reduce__()
    _, (code, *rest), state = reduced
    if isinstance(code, type):  # a type that another package added to NumPy, such as ml_dtypes.bfloat16
        code = GlobalRef(code.__module__, code.__qualname__)
    return Reduction(NUMPY_DTYPE, (code, *rest), state=state)
