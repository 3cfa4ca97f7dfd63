"""Saving PyTorch's objects: pickled by Python's own machine, as `torch.save` does, with the storages beside it.

Any object that can be pickled can be saved. Plain tensors, of which a state_dict is full, are taken apart here; all
others by their own `__reduce_ex__`. Both ways give the same pickle, byte for byte, as `torch.save`.
"""

import io
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import torch

from weighlock.backends.torch_describe import TorchDescriber, cpu_is_first, is_usual, plain_dtypes
from weighlock.backends.torch_sources import source_of
from weighlock.backends.torch_storages import memory_at
from weighlock.errors import SaveError
from weighlock.pickling.pickler import Pickler
from weighlock.pickling.reductions import PID_TAIL
from weighlock.pickling.trusted import pickler_class
from weighlock.storages.sinks import StorageRecords

__all__ = ["serialize", "zip_options"]

_MARK: Final = "storage"
_CPU: Final = "cpu"


class _Token:
    """Stands for a plain tensor's storage until the pickler asks for its persistent id, which comes next."""

    __slots__ = ("dtype", "storage")

    def __init__(self, storage: Any, dtype: Any) -> None:
        self.storage = storage
        self.dtype = dtype


class _Storages:
    """The storages that a pickle names: their keys, in the order in which they are met."""

    def __init__(self, *, zipped: bool) -> None:
        self.zipped = zipped
        self.found: list[Any] = []
        self.units: list[int] = []
        self._keys: dict[int, str] = {}
        self._types: dict[int, Any] = {}  # by address: what lies there was saved as this type
        self._classes: dict[Any, tuple[Any, int]] = {}

    def pid(self, storage: Any, dtype: Any, holder: Any) -> tuple[Any, ...]:
        """Return the persistent id of a storage; `dtype` is None where it has none."""
        found = self._classes.get(dtype)
        if found is None:
            found = self._classes[dtype] = _class_of(dtype)
        kind, unit = found
        self._check_type(storage, torch.uint8 if dtype is None else dtype)
        key = self._keys.get(storage._cdata)
        if key is None:
            key = self._keys[storage._cdata] = str(len(self.found))
            self.found.append(storage)
            self.units.append(unit)
        fake = getattr(holder, "_fake_device", None)
        location = str(fake) if fake is not None else _location_of(storage)
        pid = (_MARK, kind, key, location, storage.nbytes() // unit)
        return pid if self.zipped else (*pid, None)

    def _check_type(self, storage: Any, dtype: Any) -> None:
        """Refuse two types over the same memory, which no loader of PyTorch's reads back."""
        if storage.device.type == "meta":
            return
        address = storage.data_ptr()
        if address and self._types.setdefault(address, dtype) != dtype:
            raise SaveError(
                "Cannot save multiple tensors or storages that view the same data as different types",
                hint="Save a copy of one of them.",
            )


def _class_of(dtype: Any) -> tuple[Any, int]:
    """Return the class that names a storage's type in a pickle, and the bytes that it counts as one."""
    if dtype is None:
        return torch.UntypedStorage, 1
    name = torch.storage._dtype_to_storage_type_map().get(dtype)
    if name is None:
        raise KeyError(f"dtype {dtype} is not recognized")
    return getattr(torch, name), torch._utils._element_size(dtype)


def _location_of(storage: Any) -> str:
    if storage.device.type == "cpu" and cpu_is_first():
        return _CPU
    location: str = torch.serialization.location_tag(storage)
    return location


def _plain_tensor(obj: Any, dtypes: dict[Any, Any]) -> Any:
    """Return what `torch.Tensor.__reduce_ex__` returns for a strided tensor on the CPU; NotImplemented for others."""
    storage_dtype = dtypes.get(obj.dtype)
    if (
        storage_dtype is None or obj.layout is not torch.strided or obj.__dict__ or obj.device.type != "cpu"
        or obj.is_nested or obj._backward_hooks
    ):  # fmt: skip
        return NotImplemented
    metadata = torch._C._get_tensor_metadata(obj)  # also refuses what has no storage
    token = _Token(obj.untyped_storage(), storage_dtype)
    args: tuple[Any, ...] = (
        token, obj.storage_offset(), tuple(obj.size()), obj.stride(), obj.requires_grad, OrderedDict(),
    )  # fmt: skip
    return torch._utils._rebuild_tensor_v2, (*args, metadata) if metadata else args


def _reducer() -> Callable[[Any, Any], Any] | None:
    """Return a pickler's `reducer_override`; None where somebody else has a say in how tensors are taken apart."""
    if not is_usual():
        return None
    plain = {dtype: dtype for dtype in plain_dtypes()}
    tensor = torch.Tensor

    def override(_: Any, obj: Any) -> Any:
        return _plain_tensor(obj, plain) if type(obj) is tensor else NotImplemented

    return override


def _pickler(base: Any, storages: _Storages) -> Any:
    """Return the pickler's class, with the storages and (in the legacy stream) the classes of modules outside."""
    typed, untyped = torch.storage.TypedStorage, torch.UntypedStorage
    seen: set[type] = set()

    def persistent_id(_: Any, obj: Any) -> Any:
        kind = type(obj)
        if kind is _Token:
            return storages.pid(obj.storage, obj.dtype, None)
        if isinstance(obj, typed):
            return storages.pid(obj._untyped_storage, obj.dtype, obj)
        if isinstance(obj, untyped):
            return storages.pid(obj, None, obj)
        if storages.zipped or not isinstance(obj, type) or not issubclass(obj, torch.nn.Module) or obj in seen:
            return None
        seen.add(obj)
        return ("module", obj, *source_of(obj))

    members: dict[str, Any] = {"persistent_id": persistent_id}
    override = _reducer() if getattr(base, "reducer_override", None) is None and base is pickler_class() else None
    if override is not None:
        members["reducer_override"] = override
    return type("TorchPickler", (base,), members)


def serialize(obj: Any, protocol: int, pickle_module: Any, *, zipped: bool) -> tuple[bytes, StorageRecords, list[int]]:
    """Pickle an object; return its pickle, its storages, and the bytes that each of these counts as one element.

    Parameters
    ----------
    obj : object
    protocol : int
        Of the pickle.
    pickle_module : module or None
        Whose `Pickler` writes it, instead of Python's.
    zipped : bool
        For the zip archive; otherwise for the legacy stream.

    Raises
    ------
    SaveError
        If tensors view the same memory as different types.
    Exception
        Whatever an object's own reduction raises.
    """
    if pickle_module is None and protocol in (2, 3) and is_usual() and cpu_is_first():
        made = _serialize_plainly(obj, protocol, zipped=zipped)
        if made is not None:
            return made
    storages = _Storages(zipped=zipped)
    buffer = io.BytesIO()
    _pickler(pickler_class(pickle_module), storages)(buffer, protocol=protocol).dump(obj)
    found = storages.found
    # On other devices, and fake: each is brought over when it is its turn.
    without_data = torch.serialization._serialization_tls.skip_data
    records = StorageRecords(
        [storage.nbytes() for storage in found], None if without_data else lambda index: _memory(found[index]),
        # Which stream a copy from a device waits for is a matter of the thread.
        any_thread=all(storage.device.type == "cpu" for storage in found),
    )  # fmt: skip
    return buffer.getvalue(), records, storages.units


def _serialize_plainly(obj: Any, protocol: int, *, zipped: bool) -> tuple[bytes, StorageRecords, list[int]] | None:
    """Pickle an object by our own machine; None where it holds more than that writes exactly as Python's."""
    describer = TorchDescriber()
    pickler = Pickler(protocol, describe=describer.describe, pid_tail=() if zipped else PID_TAIL, exact=True)
    try:
        pickle = pickler.dumps(obj)
    except (SaveError, RuntimeError, TypeError):  # whatever it is, the other way does it or says what is wrong
        return None
    return pickle, StorageRecords(describer.sizes, describer.buffer), describer.units


def _memory(storage: Any) -> memoryview:
    """Return a storage's bytes. Storages that were brought over for this live as long as the view's owner."""
    if storage.device.type != "cpu":
        return memoryview(bytes(memory_at((held := _on_cpu(storage)).data_ptr(), held.nbytes())))
    return memory_at(storage.data_ptr(), storage.nbytes())


def _on_cpu(storage: Any) -> Any:
    """Return a copy on the CPU; through pinned memory, where the user's configuration says so."""
    from torch.utils.serialization import config

    current = torch.accelerator.current_accelerator() if config.save.use_pinned_memory_for_d2h else None
    if current is None or current.type != storage.device.type:
        return storage.cpu()
    pinned = torch.empty(storage.nbytes(), dtype=torch.uint8, device="cpu", pin_memory=True).untyped_storage()
    pinned.copy_(storage)
    torch.accelerator.current_stream(storage.device.index).synchronize()
    return pinned


def zip_options() -> dict[str, Any]:
    """Return how PyTorch's own configuration wants archives written."""
    from torch.utils.serialization import config

    return {"alignment": config.save.storage_alignment, "checksums": config.save.compute_crc32}
