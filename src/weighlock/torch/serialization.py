"""`torch.serialization` with its own names: PyTorch's functions, but for those that Weighlock does otherwise.

The registries are PyTorch's own: what is registered here or there is honoured by both.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.serialization import (
    LoadEndianness,
    SourceChangeWarning,
    StorageType,
    add_safe_globals,
    check_module_version_greater_or_equal,
    clear_safe_globals,
    default_restore_location,
    get_crc32_options,
    get_default_load_endianness,
    get_default_mmap_options,
    get_safe_globals,
    location_tag,
    mkdtemp,
    normalize_storage_type,
    safe_globals,
    set_crc32_options,
    set_default_load_endianness,
    set_default_mmap_options,
    skip_data,
    storage_to_tensor_type,
    validate_cuda_device,
    validate_hpu_device,
)

from weighlock.checkpoint import read_checkpoint
from weighlock.errors import ArgumentError
from weighlock.pickling.user_globals import python3_name
from weighlock.torch.loading import load
from weighlock.torch.saving import save

__all__ = [
    "LoadEndianness",
    "SourceChangeWarning",
    "StorageType",
    "add_safe_globals",
    "check_module_version_greater_or_equal",
    "clear_safe_globals",
    "default_restore_location",
    "get_crc32_options",
    "get_default_load_endianness",
    "get_default_mmap_options",
    "get_safe_globals",
    "get_unsafe_globals_in_checkpoint",
    "load",
    "location_tag",
    "mkdtemp",
    "normalize_storage_type",
    "register_package",
    "safe_globals",
    "save",
    "set_crc32_options",
    "set_default_load_endianness",
    "set_default_mmap_options",
    "skip_data",
    "storage_to_tensor_type",
    "validate_cuda_device",
    "validate_hpu_device",
]


def register_package(
    priority: int, tagger: Callable[[Any], str | None], deserializer: Callable[[Any, str], Any]
) -> None:
    """Register how storages of a device are tagged when they are saved, and restored when they are loaded.

    Parameters
    ----------
    priority : int
        Lower numbers are asked first; of equal ones, the one that was registered first.
    tagger : callable
        Given a storage, returns its location tag, or None for "not mine".
    deserializer : callable
        Given a storage on the CPU and a location tag, returns the storage at that location, or None.

    Examples
    --------
    >>> import torch
    >>> before = list(torch.serialization._package_registry)
    >>> register_package(30, lambda storage: None, lambda storage, location: None)
    >>> torch.serialization._package_registry[:] = before
    """
    registry = torch.serialization._package_registry
    registry.append((priority, tagger, deserializer))
    # PyTorch compares the functions of entries with equal priorities, which raises.
    registry.sort(key=lambda entry: entry[0])


def get_unsafe_globals_in_checkpoint(f: Any) -> list[str]:
    """Return the globals in a checkpoint that ``weights_only=True`` of PyTorch does not build by itself.

    The file is read as data by the loader's own machine, in any protocol. Nothing in it is imported.

    Parameters
    ----------
    f : str, os.PathLike or file object

    Returns
    -------
    list of str
        Full names, as in Python 3.

    Raises
    ------
    ValueError
        If it is a TorchScript archive, or not a zip archive of `torch.save`.
    """
    with read_checkpoint(f) as checkpoint:
        if checkpoint.format != "torch-zip":
            found = " but got a torchscript checkpoint" if checkpoint.format == "torchscript" else ""
            raise ArgumentError(f"Expected input to be a checkpoint returned by torch.save{found}")
        names = {".".join(python3_name(*name.rpartition(".")[::2])) for name in checkpoint.globals}
    allowed = torch._weights_only_unpickler
    return list(names - set(allowed._get_allowed_globals()) - set(allowed._get_user_allowed_globals()))


def __getattr__(name: str) -> Any:
    """Return whatever else PyTorch's module has, for programs that reach behind its public names."""
    return getattr(torch.serialization, name)
