"""Many tensors that a pickle describes one after the other, as columns; a framework makes them in one step."""

from collections.abc import Sequence
from typing import Any

from weighlock.storages.refs import StorageRef

__all__ = ["TensorColumns", "TensorForm"]


class TensorForm:
    """What many tensors have in common: all of it but where their data lie.

    Parameters
    ----------
    storage : StorageRef
        Any of their storages.

    Attributes
    ----------
    dtype : DType
    numel, nbytes : int
        The length of the storage, in elements and in bytes.
    location : str
    untyped : bool
        Of the storage: see `StorageRef`.
    offset : int
    shape, stride : tuple of int
        In elements; the view is known to lie inside of the storage.
    requires_grad : bool
    layout : object
        What a framework makes of these; its own.
    """

    __slots__ = (
        "dtype", "layout", "location", "nbytes", "numel", "offset", "requires_grad", "shape", "stride", "untyped",
    )  # fmt: skip

    def __init__(
        self, storage: StorageRef, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], requires_grad: bool
    ) -> None:
        self.dtype = storage.dtype
        self.numel = storage.numel
        self.nbytes = storage.nbytes
        self.location = storage.location
        self.untyped = storage.untyped
        self.offset = offset
        self.shape = shape
        self.stride = stride
        self.requires_grad = requires_grad
        self.layout: Any = None


class TensorColumns:
    """Tensors, each the first to view its storage.

    Attributes
    ----------
    reader : RecordReader
        One that also has `windows`, `scatter` and `starts`.
    keys : list of str
        The storages' names in the file.
    handles : list
        What the reader knows them by.
    forms : list of TensorForm
    byteorder : str
    storages : dict of int to object
        What `Leaves.storage` returned for those of these tensors for which it was called, by their place in the
        columns. Of the others the storage is asked for only if the pickle names it again.
    """

    __slots__ = ("byteorder", "forms", "handles", "keys", "reader", "storages")

    def __init__(
        self, reader: Any, keys: Sequence[str], handles: Sequence[Any], forms: Sequence[TensorForm], byteorder: str
    ) -> None:
        self.reader = reader
        self.keys = keys
        self.handles = handles
        self.forms = forms
        self.byteorder = byteorder
        self.storages: dict[int, Any] = {}

    @property
    def headers(self) -> list[int]:
        """Where the records begin in the file: the reader's windows are known by that."""
        return [handle.header_offset for handle in self.handles]

    def ref(self, index: int) -> StorageRef:
        """Return the description of one storage."""
        form, handle = self.forms[index], self.handles[index]
        return StorageRef(
            self.keys[index], form.dtype, form.numel, form.location, self.reader, handle.name, handle, self.byteorder,
            form.untyped,
        )  # fmt: skip
