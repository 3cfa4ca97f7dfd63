"""What is asked of one load, and which of it cannot be asked together."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from weighlock.errors import ArgumentError, ConflictError, UnsupportedError
from weighlock.limits import Limits
from weighlock.storages.mapping import MODES

__all__ = ["Request", "check_request"]


class Request(NamedTuple):
    """What is asked of one load: the parameters of `load`, and what only the drop-in for PyTorch asks.

    Attributes
    ----------
    scripts : bool
        Whether TorchScript archives are read, as data; otherwise `ScriptArchiveError`.
    map_streams : bool
        Whether legacy streams are mapped. PyTorch refuses.
    addresses : bool
        Whether text with a scheme is an address. PyTorch takes paths only.
    """

    map_location: Any = None
    pickle_module: Any = None
    pickle_load_args: Mapping[str, Any] = {}
    weights_only: bool = True
    mmap: bool | str | None = None
    framework: str = "numpy"
    on_unknown: str = "error"
    verify: bool = True
    limits: Limits | None = None
    scripts: bool = True
    map_streams: bool = True
    storage_options: Mapping[str, Any] | None = None
    addresses: bool = True
    into: Any = None
    strict: bool = True
    dtype: Any = None
    select: Any = None


def check_request(request: Request) -> None:
    """Refuse parameters that make no sense, or exclude each other.

    Raises
    ------
    ArgumentError, ConflictError
    UnsupportedError
        For read-only tensors of PyTorch.
    """
    if request.pickle_module is not None and request.weights_only:
        raise ConflictError(
            "Can not safely load weights when explicit pickle_module is specified",
            hint="It runs whatever the file says. For a file of your own, pass weights_only=False with it.",
        )
    if type(request.mmap) not in (bool, str, type(None)) or request.mmap not in (None, False, *MODES):
        raise ArgumentError("mmap must be True, False, 'r' or 'shared'", got=repr(request.mmap)[:40])
    if request.mmap == "r" and request.framework == "torch":
        raise UnsupportedError(
            "PyTorch has no read-only tensors: writing to one over read-only memory ends the process",
            hint="With mmap=True, changes stay in this process, and the file is as safe.",
        )
    if request.on_unknown not in ("error", "stub"):
        raise ArgumentError("on_unknown must be 'error' or 'stub'", got=repr(request.on_unknown)[:40])
    _check_choice(request)


def _check_choice(request: Request) -> None:
    asked = [name for name in ("into", "dtype", "select") if getattr(request, name) is not None]
    if asked and not request.weights_only:
        raise ConflictError(
            f"{asked[0]} needs a description of the file first, which weights_only=False does not have",
            hint="Leave weights_only=False out; on_unknown='stub' reads classes that are not here as inert data.",
        )
    if request.dtype is not None and request.mmap:
        raise ConflictError("a mapped file keeps its element types", hint="Leave mmap or dtype out.")
    for name in ("dtype", "mmap", "map_location"):
        if request.into is not None and getattr(request, name):
            raise ConflictError(f"the arrays of `into` have their own memory and types: {name} has no meaning with it")
