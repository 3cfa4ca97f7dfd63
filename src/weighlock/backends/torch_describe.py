"""What PyTorch's plain tensors become in a checkpoint, for our own pickler.

Most of what is saved is made of a few types: dictionaries, lists, numbers, strings and plain tensors. Python's pickler
asks PyTorch twenty times per tensor; ours writes one in a single step, and the bytes are the same. Whatever else is
met is refused here with `UnsupportedTypeError`, and the whole object goes to Python's pickler instead.
"""

from copyreg import dispatch_table
from ctypes import string_at
from typing import Any, Final

import torch

from weighlock.backends.torch_storages import memory_at
from weighlock.errors import UnsupportedTypeError
from weighlock.pickling.inert import GlobalRef
from weighlock.pickling.reductions import Describe, TensorCall, TensorForm, TensorPattern

__all__ = ["TorchDescriber", "is_usual", "plain_dtypes"]

_OWN_REDUCE: Final = torch.Tensor.__reduce_ex__
_REBUILD_V2: Final = GlobalRef("torch._utils", "_rebuild_tensor_v2")
_CPU: Final = "cpu"
# Up to this size a copy is cheaper than a view.
_SMALL: Final = 4 << 10


def is_usual() -> bool:
    """Return whether nobody else has a say in how tensors are taken apart."""
    return not (
        torch.Tensor.__reduce_ex__ is not _OWN_REDUCE
        or torch.Tensor in dispatch_table or torch.nn.Parameter in dispatch_table
        or torch.serialization._serialization_tls.skip_data
        or torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack()
    )  # fmt: skip


def cpu_is_first() -> bool:
    """Return whether the location of what is on the CPU is PyTorch's own word for it."""
    tagger = torch.serialization._package_registry[0][1]
    return tagger is getattr(torch.serialization, "_cpu_tag", None)


def plain_dtypes() -> dict[Any, str]:
    """Return the dtypes whose tensors lie in storages of their own type, with the class of these."""
    return {
        dtype: name
        for dtype, name in torch.storage._dtype_to_storage_type_map().items()
        if dtype not in torch.storage._new_dtypes() and "q" not in str(dtype)
    }


class TorchDescriber:
    """Describes plain tensors to a pickler, and keeps their storages.

    Attributes
    ----------
    sizes, units : list of int
        Of each storage, in the order of their keys: its bytes, and the bytes that it counts as one element.
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.units: list[int] = []
        self._storages: list[Any] = []
        self._keys: dict[int, str] = {}
        self._types: dict[int, Any] = {}  # by address: what lies there was saved as this type
        self._patterns: dict[Any, TensorPattern] = {}
        self._forms = {
            dtype: (TensorForm(_REBUILD_V2, GlobalRef("torch", name)), dtype.itemsize)
            for dtype, name in plain_dtypes().items()
        }
        self._tensor = self._describer()

    def describe(self, kind: type) -> Describe | None:
        """Return how objects of a type are described, or None. A `pickling.Describer`."""
        return self._tensor if kind is torch.Tensor else None

    # Reason for the length: called once per tensor, of which there may be very many.
    def _describer(self) -> Describe:
        keys, types, patterns, storages, sizes = self._keys, self._types, self._patterns, self._storages, self.sizes
        strided, metadata_of, untyped = torch.strided, torch._C._get_tensor_metadata, torch.Tensor.untyped_storage

        def describe(tensor: Any) -> TensorCall:
            if (
                tensor.layout is not strided or tensor.__dict__ or not tensor.is_cpu or tensor.is_nested
                or tensor._backward_hooks or metadata_of(tensor)  # this also refuses what has no storage
            ):  # fmt: skip
                raise UnsupportedTypeError("not a plain tensor")
            dtype, storage = tensor.dtype, untyped(tensor)
            identity, nbytes = storage._cdata, storage.nbytes()
            spelling = (
                dtype, nbytes, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.requires_grad
            )  # fmt: skip
            pattern = patterns.get(spelling) or self._pattern(*spelling)
            key = keys.get(identity)
            if key is None:
                key = keys[identity] = str(len(storages))
                storages.append(storage)
                sizes.append(nbytes)
                self.units.append(dtype.itemsize)
            address = storage.data_ptr()
            if address and types.setdefault(address, dtype) is not dtype:
                raise UnsupportedTypeError("storages of two types at one place")
            return pattern, key

        return describe

    # Reason for the parameters: the fields of a pattern.
    def _pattern(
        self, dtype: Any, nbytes: int, offset: int, shape: Any, stride: tuple[int, ...], requires_grad: bool
    ) -> TensorPattern:
        form = self._forms.get(dtype)
        if form is None:
            raise UnsupportedTypeError("not a plain tensor")
        spelling = (dtype, nbytes, offset, shape, stride, requires_grad)
        made = TensorPattern(form[0], _CPU, nbytes // form[1], offset, tuple(shape), stride, requires_grad)
        self._patterns[spelling] = made
        return made

    def buffer(self, index: int) -> bytes | memoryview:
        """Return the bytes of a storage: of large ones the memory itself, of others a copy."""
        address, nbytes = self._storages[index].data_ptr(), self.sizes[index]
        return memory_at(address, nbytes) if nbytes > _SMALL else string_at(address, nbytes)
