"""Storages of PyTorch: their memory, and where they go.

A storage has no memory before it is needed. Where the first tensor that views it covers it exactly, which nearly all
do, that tensor is made first and brings its storage along: one call instead of four.
"""

import ctypes
import mmap
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch

from weighlock.errors import ArgumentTypeError
from weighlock.storages.refs import StorageRef

__all__ = ["Placement", "TorchStorage", "address_of", "memory_at", "swap"]

_view_of_memory: Final = ctypes.pythonapi.PyMemoryView_FromMemory
_view_of_memory.restype = ctypes.py_object
_view_of_memory.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int]
_WRITABLE: Final = 0x200  # PyBUF_WRITE of Python's C interface


def memory_at(address: int, nbytes: int) -> memoryview:
    """Return writable memory as bytes. The caller keeps alive what owns it."""
    if not nbytes:
        return memoryview(bytearray())
    found: memoryview = _view_of_memory(address, nbytes, _WRITABLE)
    return found


def _advisor() -> Callable[[int, int, int], int] | None:
    """Return the system's `madvise`, where it knows huge pages."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


_madvise: Final = _advisor()
_PAGE: Final = mmap.PAGESIZE
# As NumPy does for its own arrays. Filling fresh memory in pages of 4 KiB takes twice the time of reading the file.
_WORTH_HUGE_PAGES: Final = 4 << 20


def large_memory_at(address: int, nbytes: int) -> memoryview:
    """Return writable memory that is about to be filled, in huge pages where it is large and the system grants them."""
    if _madvise is not None and nbytes >= _WORTH_HUGE_PAGES:
        begin = -(-address // _PAGE) * _PAGE
        _madvise(begin, (address + nbytes - begin) // _PAGE * _PAGE, mmap.MADV_HUGEPAGE)  # advice: it may be declined
    return memory_at(address, nbytes)


def address_of(block: bytearray) -> int:
    """Return where a block begins. The caller keeps it alive, and its length."""
    return ctypes.addressof(ctypes.c_char.from_buffer(block))


class TorchStorage:
    """One storage of a reading.

    Attributes
    ----------
    ref : StorageRef
    tensor : torch.Tensor or None
        The tensor that brought the storage's memory along.
    untyped : torch.UntypedStorage or None
        The storage itself, once something else than that tensor needed it.
    typed : torch.TypedStorage or None
        What stands in the tree where the pickle names the storage by itself.
    start : int
        Where its bytes lie in the window that it is read with.
    """

    __slots__ = ("ref", "start", "tensor", "typed", "untyped")

    def __init__(self, ref: StorageRef) -> None:
        self.ref = ref
        self.tensor: Any = None
        self.untyped: Any = None
        self.typed: Any = None
        self.start = 0

    @property
    def has_memory(self) -> bool:
        """Whether anything needs it."""
        return self.tensor is not None or self.untyped is not None

    def real(self) -> Any:
        """Return the `torch.UntypedStorage`, made now if there is none yet."""
        if self.untyped is None:
            made = torch.UntypedStorage(self.ref.nbytes) if self.tensor is None else self.tensor.untyped_storage()
            self.untyped = made
        return self.untyped

    def address(self) -> int:
        """Return where its bytes are."""
        owner = self.untyped if self.tensor is None else self.tensor
        found: int = owner.data_ptr()
        return found

    def memory(self) -> memoryview:
        """Return its bytes, writable."""
        return large_memory_at(self.address(), self.ref.nbytes)


def swap(untyped: Any, ref: StorageRef) -> None:
    """Reverse the bytes of each element in place, where the file was written in the other byte order."""
    if ref.byteorder != sys.byteorder and ref.elements.swap > 1 and ref.nbytes:
        untyped._byteswap(ref.elements.swap)  # byteswap itself asks iinfo, which knows no bits16


class Placement:
    """Where storages go: `map_location` in all of its forms, over PyTorch's registry of locations.

    Parameters
    ----------
    map_location : None, str, bytes, torch.device, mapping or callable
    """

    def __init__(self, map_location: Any) -> None:
        self._mapping: Mapping[Any, Any] = {}
        self._target: str | None = None
        self._function: Callable[[Any, str], Any] | None = None
        if map_location is None or isinstance(map_location, str | torch.device):
            self._target = None if map_location is None else str(map_location)
        elif isinstance(map_location, Mapping):
            self._mapping = map_location
        elif isinstance(map_location, bytes):
            self._target = os.fsdecode(map_location)
        elif callable(map_location):
            self._function = map_location
        else:
            what = "map_location must be None, a device, a dictionary or a function"
            raise ArgumentTypeError(what, got=type(map_location).__name__)
        self.is_meta = self._target is not None and self._target.partition(":")[0] == "meta"
        self.is_function = self._function is not None
        self._direct: dict[str, bool] = {}

    def _location(self, saved: str) -> str:
        return self._target if self._target is not None else str(self._mapping.get(saved, saved))

    def is_direct(self, saved: str) -> bool:
        """Whether a storage saved at this location simply stays on the CPU, without asking anybody."""
        found = self._direct.get(saved)
        if found is None:
            found = self._function is None and self._location(saved) == "cpu" and _cpu_stays()
            self._direct[saved] = found
        return found

    def restore(self, untyped: Any, saved: str) -> Any:
        """Return the storage that takes the place of one on the CPU; what PyTorch or the caller's function raises."""
        moved = self._function(untyped, saved) if self._function is not None else None
        if moved is None:
            moved = torch.serialization.default_restore_location(untyped, self._location(saved))
        if isinstance(moved, torch.storage.TypedStorage):
            moved = moved._untyped_storage
        if not isinstance(moved, torch.UntypedStorage):
            what = "the map_location function must return a storage or None"
            raise ArgumentTypeError(what, got=type(moved).__name__)
        return moved


def _cpu_stays() -> bool:
    """Whether PyTorch's own rule for the CPU is still the first in its registry: it returns the storage as it is."""
    first = torch.serialization._package_registry[0][2]
    return first is getattr(torch.serialization, "_cpu_deserialize", None)
