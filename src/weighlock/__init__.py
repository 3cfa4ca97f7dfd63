"""Weighlock opens, checks and saves PyTorch checkpoints without PyTorch, and runs nobody's code to look at a file.

>>> import io, numpy, weighlock as wl
>>> file = io.BytesIO()
>>> wl.save({"layer.weight": numpy.ones((2, 2), "float32")}, file)
>>> _ = file.seek(0)
>>> wl.load(file)["layer.weight"].shape
(2, 2)

Importing this package imports neither NumPy nor PyTorch; each name is loaded when it is first used.
"""

# Type checkers take a variable of this name as true. Importing `typing` for it, or for `Any`, would take longer than
# everything else that this package does when it is imported.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from weighlock.backends.numpy_types import (
        JaggedTensor as JaggedTensor,
    )
    from weighlock.backends.numpy_types import (
        MetaTensor as MetaTensor,
    )
    from weighlock.backends.numpy_types import (
        NestedTensor as NestedTensor,
    )
    from weighlock.backends.numpy_types import (
        PackedTensor as PackedTensor,
    )
    from weighlock.backends.numpy_types import (
        QuantizedTensor as QuantizedTensor,
    )
    from weighlock.backends.numpy_types import (
        SparseTensor as SparseTensor,
    )
    from weighlock.backends.numpy_types import (
        TensorSubclass as TensorSubclass,
    )
    from weighlock.backends.numpy_types import (
        UninitializedTensor as UninitializedTensor,
    )
    from weighlock.backends.numpy_types import (
        WrapperTensor as WrapperTensor,
    )
    from weighlock.background import SaveFuture as SaveFuture
    from weighlock.background import save_async as save_async
    from weighlock.checkpoint import Checkpoint as Checkpoint
    from weighlock.checkpoint import read_checkpoint as read_checkpoint
    from weighlock.checkpointer import Checkpointer as Checkpointer
    from weighlock.checkpointer import LoadedStep as LoadedStep
    from weighlock.checkpointer import SavedStep as SavedStep
    from weighlock.comparing.diffing import Diff as Diff
    from weighlock.comparing.diffing import ObjectDiff as ObjectDiff
    from weighlock.comparing.diffing import TensorDiff as TensorDiff
    from weighlock.comparing.diffing import diff as diff
    from weighlock.comparing.values import ValueDiff as ValueDiff
    from weighlock.converting.conversion import ConvertReport as ConvertReport
    from weighlock.converting.conversion import convert as convert
    from weighlock.converting.edits import EditReport as EditReport
    from weighlock.converting.edits import edit as edit
    from weighlock.dtypes import DType as DType
    from weighlock.dtypes import dtype as dtype
    from weighlock.errors import *  # noqa: F403
    from weighlock.limits import Limits as Limits
    from weighlock.loading import load as load
    from weighlock.measuring.digests import Digest as Digest
    from weighlock.measuring.digests import digest as digest
    from weighlock.measuring.summaries import Histogram as Histogram
    from weighlock.measuring.summaries import TensorStats as TensorStats
    from weighlock.measuring.summaries import stats as stats
    from weighlock.opening.opened import LazyCheckpoint as LazyCheckpoint
    from weighlock.opening.opened import LazyStorage as LazyStorage
    from weighlock.opening.opened import open_checkpoint as open_checkpoint
    from weighlock.opening.tensors import LazyTensor as LazyTensor
    from weighlock.opening.tensors import LazyTensors as LazyTensors
    from weighlock.pickling.inert import GlobalRef as GlobalRef
    from weighlock.pickling.inert import Stub as Stub
    from weighlock.pickling.user_globals import (
        add_safe_globals as add_safe_globals,
    )
    from weighlock.pickling.user_globals import (
        clear_safe_globals as clear_safe_globals,
    )
    from weighlock.pickling.user_globals import (
        get_safe_globals as get_safe_globals,
    )
    from weighlock.pickling.user_globals import (
        safe_globals as safe_globals,
    )
    from weighlock.salvaging.report import SalvagedTensor as SalvagedTensor
    from weighlock.salvaging.report import SalvageReport as SalvageReport
    from weighlock.salvaging.salvage import salvage as salvage
    from weighlock.saving import save as save
    from weighlock.scanning.report import ScanReport as ScanReport
    from weighlock.scanning.scan import scan as scan
    from weighlock.state_dicts import load_state_dict as load_state_dict
    from weighlock.state_dicts import state_dict as state_dict
    from weighlock.storages.storage import Storage as Storage
    from weighlock.tensors.values import (
        Device as Device,
    )
    from weighlock.tensors.values import (
        ReturnType as ReturnType,
    )
    from weighlock.tensors.values import (
        Size as Size,
    )
    from weighlock.tensors.values import (
        TorchName as TorchName,
    )
    from weighlock.verifying.manifest import Manifest as Manifest
    from weighlock.verifying.manifest import ManifestFile as ManifestFile
    from weighlock.verifying.manifest import ManifestTensor as ManifestTensor
    from weighlock.verifying.manifest import manifest as manifest
    from weighlock.verifying.report import FileCheck as FileCheck
    from weighlock.verifying.report import Problem as Problem
    from weighlock.verifying.report import VerifyReport as VerifyReport
    from weighlock.verifying.verify import verify as verify

# THE list of public names: the module that holds each. `__getattr__` and `__all__` are read from it.
_ROOMS = {
    "backends.numpy_types": "JaggedTensor MetaTensor NestedTensor PackedTensor QuantizedTensor SparseTensor "
    "TensorSubclass UninitializedTensor WrapperTensor",
    "background": "SaveFuture save_async",
    "checkpoint": "Checkpoint read_checkpoint",
    "checkpointer": "Checkpointer LoadedStep SavedStep",
    "comparing.diffing": "Diff ObjectDiff TensorDiff diff",
    "comparing.values": "ValueDiff",
    "converting.conversion": "ConvertReport convert",
    "converting.edits": "EditReport edit",
    "dtypes": "DType dtype",
    "errors": "ArchiveError ArgumentError ArgumentTypeError AuthenticationError ChangedFileError CheckpointError "
    "ChecksumError ConflictError DamagedError DeviceError DirectoryError DownloadError EntryPointError "
    "HashMismatchError HubError LimitError MissingDependencyError MissingFileError MissingFolderError "
    "MissingKeyError MissingPackagesError NetworkError NotACheckpointError NotInRepositoryError NotWeightsError "
    "OfflineError OutOfRangeError PickleStreamError PinError RateLimitError ReadOnlyCacheError RepositoryNameError "
    "SaveError ScriptArchiveError SourceError StateDictError StateDictMismatchError StatusError TargetError "
    "TensorBoundsError TruncatedError TruncatedPickleError UnsafeGlobalError UnsupportedError UnsupportedTypeError "
    "UntrustedRepositoryError WeighlockError",
    "limits": "Limits",
    "loading": "load",
    "measuring.digests": "Digest digest",
    "measuring.summaries": "Histogram TensorStats stats",
    "opening.opened": "LazyCheckpoint LazyStorage open_checkpoint",
    "opening.tensors": "LazyTensor LazyTensors",
    "pickling.inert": "GlobalRef Stub",
    "pickling.user_globals": "add_safe_globals clear_safe_globals get_safe_globals safe_globals",
    "salvaging.report": "SalvageReport SalvagedTensor",
    "salvaging.salvage": "salvage",
    "saving": "save",
    "scanning.report": "ScanReport",
    "scanning.scan": "scan",
    "state_dicts": "load_state_dict state_dict",
    "storages.storage": "Storage",
    "tensors.values": "Device ReturnType Size TorchName",
    "verifying.manifest": "Manifest ManifestFile ManifestTensor manifest",
    "verifying.report": "FileCheck Problem VerifyReport",
    "verifying.verify": "verify",
}
# Rooms that are used by their name: weighlock.state_dicts.strip_prefix(...)
_SUBMODULES = ("hub", "state_dicts", "torch")
_ROOM_OF = {name: f"weighlock.{room}" for room, names in _ROOMS.items() for name in names.split()}

__version__ = "0.1.0"

__all__ = sorted([*_ROOM_OF, "__version__"])  # noqa: PLE0605 - a list, sorted; ruff cannot see it


def __getattr__(name: str) -> "Any":
    room = _ROOM_OF.get(name)
    if room is None and name not in _SUBMODULES:
        raise AttributeError(f"module 'weighlock' has no attribute {name!r}")
    import sys

    full = room or f"weighlock.{name}"
    __import__(full)
    value = getattr(sys.modules[full], name) if room else sys.modules[full]
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
