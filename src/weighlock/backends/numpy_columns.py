"""NumPy's arrays made many at once, over memory that is there."""

from collections.abc import Iterable, Sequence
from operator import add, attrgetter
from typing import Any, Final

import numpy as np

from weighlock.dtypes import DType
from weighlock.tensors.columns import TensorForm

__all__ = ["NUMPY_OF", "Layout", "made_over", "ndarray"]

ndarray: Final[Any] = np.ndarray


class _NumpyTypes(dict[DType, Any]):
    """NumPy's type of each row of our table, looked up once: some need another package, imported when it is needed."""

    def __missing__(self, row: DType) -> Any:
        found = self[row] = row.numpy
        return found


NUMPY_OF: Final = _NumpyTypes()

_DTYPE: Final = attrgetter("dtype")
_SHAPE: Final = attrgetter("shape")
_STRIDES: Final = attrgetter("strides")
_OFFSET: Final = attrgetter("offset")


class Layout:
    """A form of tensors as NumPy puts it: strides and offset in bytes. Only `usual` ones are made many at once."""

    __slots__ = ("dtype", "offset", "shape", "strides", "usual")

    def __init__(self, form: TensorForm) -> None:
        item = form.dtype.itemsize
        self.dtype = NUMPY_OF[form.dtype]
        self.shape = form.shape
        self.strides = tuple([step * item for step in form.stride])
        self.offset = form.offset * item
        self.usual = 0 not in form.shape and form.dtype.numpy_name is not None


def made_over(memories: Iterable[Any], starts: Iterable[int], layouts: Sequence[Layout]) -> list[Any]:
    """Return an array for each layout, over the storage that begins there in its memory."""
    begins = map(add, starts, map(_OFFSET, layouts))
    return list(map(
        ndarray, map(_SHAPE, layouts), map(_DTYPE, layouts), memories, begins, map(_STRIDES, layouts),
    ))  # fmt: skip
