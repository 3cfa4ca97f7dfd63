"""Storages that are made of others while they are read: elements cast, values replaced.

A description whose storage is one of these is read, hashed, compared and written like any other.
"""

from collections.abc import Sequence
from typing import Any, Final

from weighlock import dtypes
from weighlock.backends.numpy_casting import cast_array
from weighlock.dtypes import DType
from weighlock.errors import ArgumentError, UnsupportedError
from weighlock.formats.extents import ExtentReader
from weighlock.storages.assembled import assembled
from weighlock.storages.refs import Extent, StorageRef, Window
from weighlock.storages.source import BytesSource
from weighlock.tensors.layout import contiguous_stride
from weighlock.tensors.spec import TensorSpec

__all__ = ["Caster", "array_spec", "stored_array"]

# Elements that are cast at once where a part of a storage is asked for.
_AT_ONCE: Final = 1 << 18
_CASTABLE: Final = "fiubc"


class _CastReader:
    """Reads the elements of a storage in another type."""

    ready: Final = True

    def __init__(self, caster: "Caster", ref: StorageRef, old: DType) -> None:
        self._caster = caster
        self.origin = ref
        self._whole = TensorSpec(ref, old, 0, (ref.nbytes // old.itemsize,), (1,))

    def read_range(self, ref: StorageRef, start: int, target: memoryview) -> None:
        """Fill memory with the cast bytes from `start` on."""
        import numpy as np

        item = ref.dtype.itemsize
        first, last = start // item, -(-(start + len(target)) // item)
        done = 0
        for begin in range(first, last, _AT_ONCE):
            part = self._caster.elements(self._whole, begin, min(begin + _AT_ONCE, last))
            made = memoryview(np.ascontiguousarray(cast_array(part, ref.dtype.numpy)).view("u1").data).cast("B")
            low = max(start - begin * item, 0)
            count = min(len(made) - low, len(target) - done)
            target[done : done + count] = made[low : low + count]
            done += count

    def read(self, wanted: Sequence[tuple[StorageRef, memoryview]], *, verify: bool) -> None:
        for ref, target in wanted:
            self.read_range(ref, 0, target)

    def extent(self, ref: StorageRef) -> Extent | None:
        """Return None: it lies nowhere as it is."""
        return None

    def window_of(self, ref: StorageRef) -> tuple[Window, int] | None:
        return None

    def read_windows(self, windows: Sequence[Window], *, verify: bool) -> None:
        """Nothing to do: there are none."""


class Caster:
    """Casts tensors; those that share a storage share the cast one."""

    def __init__(self) -> None:
        self._made: dict[Any, StorageRef] = {}
        self._held: tuple[TensorSpec, Any] | None = None

    def elements(self, whole: TensorSpec, begin: int, end: int) -> Any:
        """Return elements of a storage as an array; of one that can only be read as a whole, the last is kept."""
        from weighlock.opening.making import make_part, make_whole

        ref: Any = whole.ref
        if ref.reader.extent(ref) is not None or assembled(ref) is not None:
            return make_part(whole, (slice(begin, end),), "numpy", verify=False)
        held = self._held
        if held is None or held[0] is not whole:
            self._held = None
            held = self._held = whole, make_whole([whole], "numpy", verify=True)[0]
        return held[1][begin:end]

    def cast(self, spec: TensorSpec, dtype: DType) -> bool:
        """Give a tensor another element type, in place; return whether it had another one before.

        Raises
        ------
        UnsupportedError
            If its type cannot be cast.
        """
        old = spec.dtype
        if old is dtype:
            return False
        real = old.kind != "c" or dtype.kind == "c"
        if old.kind not in _CASTABLE or old.numpy_name is None or spec.neg or spec.conj or not real:
            raise UnsupportedError(f"a tensor of type {old.name} cannot be cast to {dtype.name}")
        if dtype.kind not in _CASTABLE or dtype.numpy_name is None:
            raise ArgumentError("nothing can be cast to this element type", got=dtype.name)
        ref = spec.ref
        found = self._made.get((id(ref), old, dtype))
        if found is None:
            numel = ref.nbytes // old.itemsize
            found = StorageRef(ref.key, dtype, numel, ref.location, _CastReader(self, ref, old), ref.record)
            self._made[id(ref), old, dtype] = found
        spec.storage, spec.dtype = found, dtype
        return True


def stored_array(array: Any, key: str, like: TensorSpec) -> TensorSpec:
    """Return an array as the description of a tensor in a storage of its own.

    Parameters
    ----------
    array : numpy.ndarray, or anything that becomes one
    key : str
        Of the tensor, for messages.
    like : TensorSpec
        What it takes the place of: shapes must agree, and flags are kept.

    Raises
    ------
    ArgumentError
        If it has another shape, or a type that PyTorch does not have.
    """
    import numpy as np

    found = np.asarray(array.detach().cpu().numpy() if hasattr(array, "detach") else array)
    if found.dtype == np.dtype("V2") and like.dtype.itemsize == 2:  # what numpy.save makes of bfloat16
        found = found.view(like.dtype.numpy)
    if found.shape != like.shape:
        raise ArgumentError("the array has another shape than the tensor", expected=str(list(like.shape)),
                            got=str(list(found.shape)), object_path=key)  # fmt: skip
    made = array_spec(found, key, like.ref.location)
    made.requires_grad, made.parameter, made.attributes = like.requires_grad, like.parameter, like.attributes
    return made


def array_spec(array: Any, key: str, location: str = "cpu") -> TensorSpec:
    """Return a NumPy array as the description of a tensor; `ArgumentError` where PyTorch has no such type."""
    import numpy as np

    row = dtypes.from_numpy(array.dtype)
    if row is None:
        raise ArgumentError("PyTorch has no element type for this array", got=str(array.dtype), object_path=key)
    held = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(-1)
    source = BytesSource(held.view("u1") if held.nbytes else b"", f"<the array {key}>")
    ref = StorageRef(key, row, held.size, location, ExtentReader(source), key, 0)
    shape = tuple(array.shape)
    return TensorSpec(ref, row, 0, shape, contiguous_stride(shape))
