"""`map_location` for a framework that has the CPU only (and `meta`, which has no data).

PyTorch's rules: None keeps the saved location; a string or device is where everything goes; a dictionary maps saved
locations; a function is called once per storage with (storage, location) and returns a storage, or None for the
default. Without PyTorch every saved location lands on the CPU, and only what the caller asks for by name can fail.
"""

from collections.abc import Callable, Mapping
from typing import Any

from weighlock.errors import ArgumentTypeError, DeviceError
from weighlock.storages.storage import Storage

__all__ = ["CPU", "META", "Placement", "placement"]

CPU = "cpu"
META = "meta"

# Given the saved location (and a storage, where `wants_storage`): where the storage goes, or the storage to use.
Placement = Callable[[Storage, str], "str | Storage"]


def _named(location: Any) -> str:
    text = location.decode("ascii", "replace") if isinstance(location, bytes) else str(location)
    kind = text.partition(":")[0]
    if kind in (CPU, META):
        return kind
    raise DeviceError(
        "NumPy has no such device",
        expected="map_location 'cpu' or 'meta'",
        got=repr(text),
        hint="NumPy arrays live on the CPU: leave map_location out.",
    )


def _default(location: str) -> str:
    return META if location == META else CPU


def placement(map_location: Any) -> tuple[Placement, bool]:
    """Return the rule for a `map_location`, and whether it is the caller's function, which may look at the data.

    Raises
    ------
    DeviceError
        If it asks for a device that NumPy does not have.
    ArgumentTypeError
        If it is none of the five forms.
    """
    if map_location is None:
        return (lambda _, location: _default(location)), False
    if isinstance(map_location, Mapping):
        return _from_mapping(map_location), False
    if isinstance(map_location, str | bytes) or (hasattr(map_location, "type") and hasattr(map_location, "index")):
        target = _named(map_location)
        return (lambda _, __: target), False
    if callable(map_location):
        return _from_function(map_location), True
    raise ArgumentTypeError(
        "map_location must be None, a device, a dictionary or a function", got=type(map_location).__name__
    )


def _from_mapping(mapping: Mapping[Any, Any]) -> Placement:
    def place(_: Storage, location: str) -> str:
        return _named(mapping[location]) if location in mapping else _default(location)

    return place


def _from_function(function: Callable[[Storage, str], Any]) -> Placement:
    def place(storage: Storage, location: str) -> str | Storage:
        result = function(storage, location)
        if result is None:
            return _default(location)
        if isinstance(result, Storage):
            return result
        raise ArgumentTypeError("the map_location function must return a storage or None", got=type(result).__name__)

    return place
