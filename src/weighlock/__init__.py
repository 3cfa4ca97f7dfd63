"""Weighlock opens, checks and saves PyTorch checkpoints without PyTorch, and runs nobody's code to look at a file.

>>> import io, numpy, weighlock as wl
>>> file = io.BytesIO()
>>> wl.save({"layer.weight": numpy.ones((2, 2), "float32")}, file)
>>> _ = file.seek(0)
>>> wl.load(file)["layer.weight"].shape
(2, 2)

Importing this package imports neither NumPy nor PyTorch; each name is loaded when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weighlock.backends.numpy_types import (
        JaggedTensor as JaggedTensor,
        MetaTensor as MetaTensor,
        NestedTensor as NestedTensor,
        PackedTensor as PackedTensor,
        QuantizedTensor as QuantizedTensor,
        SparseTensor as SparseTensor,
        TensorSubclass as TensorSubclass,
        UninitializedTensor as UninitializedTensor,
        WrapperTensor as WrapperTensor,
    )
    from weighlock.checkpoint import Checkpoint as Checkpoint, read_checkpoint as read_checkpoint
    from weighlock.dtypes import DType as DType, dtype as dtype
    from weighlock.errors import *  # noqa: F403
    from weighlock.limits import Limits as Limits
    from weighlock.loading import load as load
    from weighlock.pickling.inert import GlobalRef as GlobalRef, Stub as Stub
    from weighlock.pickling.user_globals import (
        add_safe_globals as add_safe_globals,
        clear_safe_globals as clear_safe_globals,
        get_safe_globals as get_safe_globals,
        safe_globals as safe_globals,
    )
    from weighlock.saving import save as save
    from weighlock.state_dicts import state_dict as state_dict
    from weighlock.storages.storage import Storage as Storage
    from weighlock.tensors.values import Device as Device, ReturnType as ReturnType, Size as Size, TorchName as TorchName

# THE list of public names: the module that holds each. `__getattr__` and `__all__` are read from it.
_ROOMS = {
    "backends.numpy_types": "JaggedTensor MetaTensor NestedTensor PackedTensor QuantizedTensor SparseTensor "
    "TensorSubclass UninitializedTensor WrapperTensor",
    "checkpoint": "Checkpoint read_checkpoint",
    "dtypes": "DType dtype",
    "errors": "ArgumentError ArgumentTypeError CheckpointError ChecksumError DamagedError DeviceError DirectoryError "
    "LimitError MissingDependencyError MissingFileError NotACheckpointError PickleStreamError SaveError SourceError "
    "StateDictError TensorBoundsError TruncatedError UnsafeGlobalError UnsupportedError UnsupportedTypeError "
    "WeighlockError",
    "limits": "Limits",
    "loading": "load",
    "pickling.inert": "GlobalRef Stub",
    "pickling.user_globals": "add_safe_globals clear_safe_globals get_safe_globals safe_globals",
    "saving": "save",
    "state_dicts": "state_dict",
    "storages.storage": "Storage",
    "tensors.values": "Device ReturnType Size TorchName",
}
_ROOM_OF = {name: f"weighlock.{room}" for room, names in _ROOMS.items() for name in names.split()}

__all__ = sorted([*_ROOM_OF, "__version__"])  # noqa: PLE0605 - a list, sorted; ruff cannot see it


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("weighlock")
    room = _ROOM_OF.get(name)
    if room is None:
        raise AttributeError(f"module 'weighlock' has no attribute {name!r}")
    import sys

    __import__(room)  # noqa: TID251 - a name of our own, out of the table above
    value = getattr(sys.modules[room], name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
