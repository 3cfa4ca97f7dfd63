"""PyTorch's tensors made many at once: each in a storage of its own, of exactly its size, filled from a window."""

import ctypes
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import compress, groupby, repeat
from operator import add, attrgetter
from typing import Any, Final

import torch

from weighlock.backends.torch_storages import memory_at
from weighlock.backends.torch_values import TORCH_DTYPES
from weighlock.dtypes import DType
from weighlock.storages.refs import Window
from weighlock.tensors.columns import TensorColumns, TensorForm

__all__ = ["Batch", "Batches", "Layout", "give_form"]

_CPU: Final = torch.device("cpu")
_address: Final = torch.Tensor.data_ptr
_as_strided: Final = torch.Tensor.as_strided_
_SHAPE: Final = attrgetter("shape")
_STRIDE: Final = attrgetter("stride")
_memmove: Final = ctypes.memmove
# Bytes per tensor from which on it is read straight into its own memory: telling the system where that is takes as
# long as copying this much.
_WORTH_SCATTERING: Final = 2048

# Makes tensors of one type: in two thirds of the time that `torch.empty_strided` takes to be told the type.
_makers: dict[DType, Callable[..., Any]] = {}


class Layout:
    """A form of tensors as PyTorch makes it.

    Attributes
    ----------
    is_whole : bool
        Whether the tensor covers its storage exactly: the tensor is then made first, and brings its storage along.
    make : callable
        Returns a new tensor of this form, not filled.
    over : callable
        Returns a flat tensor over memory that is there, in a storage of its own; see `give_form`.
    """

    __slots__ = ("is_whole", "make", "over")

    def __init__(self, form: TensorForm) -> None:
        shape, stride = form.shape, form.stride
        span = 1 + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
        self.is_whole = not form.offset and 0 not in shape and span * form.dtype.itemsize == form.nbytes
        kind = TORCH_DTYPES[form.dtype]
        self.over = partial(torch.frombuffer, dtype=kind, count=form.numel)
        self.make: Callable[[], Any]
        if form.requires_grad:
            self.make = partial(torch.empty_strided, shape, stride, dtype=kind, device=_CPU, requires_grad=True)
        else:
            maker = _makers.get(form.dtype)
            if maker is None:
                maker = torch.empty(0, dtype=kind, device=_CPU).new_empty_strided
                _makers[form.dtype] = maker
            self.make = partial(maker, shape, stride)


def give_hooks(tensors: list[Any]) -> None:
    """Give each one the empty mapping of hooks that its pickle gives it."""
    deque(map(setattr, tensors, repeat("_backward_hooks"), [OrderedDict() for _ in tensors]), maxlen=0)


def give_form(tensors: list[Any], forms: list[TensorForm]) -> None:
    """Make of flat tensors, in place, what their pickle says of them: a view would be something else to PyTorch."""
    deque(map(_as_strided, tensors, map(_SHAPE, forms), map(_STRIDE, forms)), maxlen=0)
    for tensor, form in zip(tensors, forms, strict=True):
        if form.requires_grad:
            tensor.requires_grad = True
    give_hooks(tensors)


class Batch:
    """The tensors whose data lie in one window, as columns: where each lies there, and its size in bytes."""

    __slots__ = ("places", "sizes", "tensors")

    def __init__(self) -> None:
        self.places: list[int] = []
        self.sizes: list[int] = []
        self.tensors: list[Any] = []

    def extend(self, places: Sequence[int], sizes: Sequence[int], tensors: Sequence[Any]) -> None:
        """Add some tensors."""
        self.places += places
        self.sizes += sizes
        self.tensors += tensors

    @property
    def is_coarse(self) -> bool:
        """Whether reading straight into the tensors pays, against copying them out of their window."""
        return sum(self.sizes) >= _WORTH_SCATTERING * len(self.sizes)

    def targets(self) -> dict[int, memoryview]:
        """Return the tensors' memory by their place in the window."""
        return dict(zip(self.places, map(memory_at, map(_address, self.tensors), self.sizes), strict=True))

    def copy_from(self, base: int) -> None:
        """Fill the tensors from the window, which was read to this address."""
        begins = map(add, self.places, repeat(base))
        deque(map(_memmove, map(_address, self.tensors), begins, self.sizes), maxlen=0)


class Batches(dict[Window, Batch]):
    """All tensors that wait for their windows."""

    def make(self, columns: TensorColumns) -> tuple[list[Any], list[bool]]:
        """Make the tensors of these columns that cover a small storage; return them, and for each whether it is one.

        The forms' layouts are known.
        """
        forms = columns.forms
        plan, headers = columns.reader.windows, columns.headers
        windows = list(map(plan.owners.get, headers))
        usual = [window is not None and form.layout.is_whole for window, form in zip(windows, forms, strict=True)]
        chosen = list(compress(forms, usual))
        made = [form.layout.make() for form in chosen]
        give_hooks(made)
        places = list(map(plan.places.__getitem__, compress(headers, usual)))
        sizes = [form.nbytes for form in chosen]
        begin = 0
        for window, group in groupby(compress(windows, usual)):
            end = begin + sum(1 for _ in group)
            self.setdefault(window, Batch()).extend(places[begin:end], sizes[begin:end], made[begin:end])
            begin = end
        return made, usual
