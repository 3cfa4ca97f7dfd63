"""A tensor of some framework that is to be written: what it is, where it lies, and its bytes in row-major order."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from weighlock.dtypes import DType
from weighlock.storages.sinks import Buffer, Stream

__all__ = ["FlatLeaf"]


class FlatLeaf(NamedTuple):
    """A tensor of some framework.

    Attributes
    ----------
    dtype : DType
    shape, stride : tuple of int
        In elements. Strides are None for what a view of another tensor cannot be: turned around, or unaligned.
    start : int
        The address of its first element.
    nbytes : int
        The bytes of its elements.
    pieces : callable
        Returns its bytes in row-major order, little-endian, piece by piece; or one `Stream` of them.
    buffer : object
        Where its bytes lie in one piece as they are to be written, anything that shows them; None otherwise.
    storage : object
        What identifies the memory that it is a view of.
    requires_grad, parameter : bool
        What is noted of it, where the structure is.
    """

    dtype: DType
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None
    start: int
    nbytes: int
    pieces: Callable[[], Iterator[Buffer | Stream]]
    buffer: Any = None
    storage: Any = None
    requires_grad: bool = False
    parameter: bool = False
