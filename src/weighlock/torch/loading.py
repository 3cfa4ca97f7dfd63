"""`weighlock.torch.load`: PyTorch's rules for its parameters, its warnings and words; the reading is `loading`'s."""

import io
import os
import warnings
from typing import Any, Final

import torch

from weighlock.errors import (
    ArgumentError,
    ChecksumError,
    ConflictError,
    NotACheckpointError,
    ScriptArchiveError,
    SourceError,
    UnsupportedError,
    WeighlockError,
)
from weighlock.loading import Request, load_as
from weighlock.torch import wording, written

__all__ = ["load"]

_TRUE: Final = ("1", "y", "yes", "true")


# Reason for the parameters: torch.load's own, in its order, with its names and defaults.
def load(
    f: Any,
    map_location: Any = None,
    pickle_module: Any = None,
    *,
    weights_only: bool | None = None,
    mmap: bool | None = None,
    **pickle_load_args: Any,
) -> Any:
    """Load what `torch.save` wrote, as `torch.load` does.

    Parameters
    ----------
    f : str, os.PathLike or file object
        A file object needs `read`, `tell` and `seek`; reading begins where it stands.
    map_location : None, str, torch.device, dict or callable
        Where storages go. A function is called once per storage with the storage on the CPU and its saved location,
        and returns a storage, or None for the default.
    pickle_module : module
        What runs the pickle with ``weights_only=False``; implies it.
    weights_only : bool
        True (the default) reads the file as data: nothing in it is imported or called but what was named with
        `torch.serialization.add_safe_globals`. False runs the pickle: **the file can then run any code**.
    mmap : bool
        Leave the data in the file and map it. Only for paths.
    **pickle_load_args
        `encoding` and `errors`: how strings written by Python 2 are decoded.

    Returns
    -------
    object
        What was saved, with PyTorch's own tensors.

    Raises
    ------
    WeighlockError
        Of a class that also derives from what `torch.load` raises there.
    Exception
        With ``weights_only=False``, whatever the pickle's own code raises.

    Examples
    --------
    >>> import io, torch
    >>> file = io.BytesIO()
    >>> torch.save(torch.arange(3), file)
    >>> _ = file.seek(0)
    >>> load(file)
    tensor([0, 1, 2])
    """
    only = _weights_only(weights_only, pickle_module)
    if only and pickle_load_args:
        warnings.warn("pickle_load_args only works if `weights_only=False`.", stacklevel=2)
    if mmap is None:
        from torch.utils.serialization import config

        mmap = config.load.mmap
    if pickle_module is not None:
        torch.serialization._check_dill_version(pickle_module)
    start = _start(f, mmap=mmap)
    request = Request(
        map_location, pickle_module, pickle_load_args, only, bool(mmap), framework="torch", scripts=False,
        verify=_checked(), map_streams=False, addresses=False,
    )  # fmt: skip
    try:
        return load_as(f, request)
    except ScriptArchiveError as error:
        return _script(f, start, map_location, error, weights_only=only)
    except NotACheckpointError as error:
        if isinstance(f, str | os.PathLike) and os.path.isdir(f):
            raise _FolderError(error.what, kind=error.kind, path=error.path, hint=error.hint) from None
        raise
    except WeighlockError as error:
        if isinstance(error, ChecksumError) and written.was_changed(f):
            return _changed(f, start, request, error)
        wording.say_as_torch(error, weights_only=only)
        raise


def _weights_only(given: bool | None, pickle_module: Any) -> bool:
    """Return whether the file is read as data: what was asked for, or what the environment insists on."""
    forced = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0").lower() in _TRUE
    lifted = os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0").lower() in _TRUE
    if forced and lifted:
        raise ConflictError(
            "Only one of `TORCH_FORCE_WEIGHTS_ONLY_LOAD` or `TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD` should be set, but both "
            "were set."
        )
    if forced:
        return True
    if lifted and given is None:
        warnings.warn(
            "Environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD detected, since the `weights_only` argument was not "
            "explicitly passed to `torch.load`, forcing weights_only=False.", UserWarning, stacklevel=3,
        )  # fmt: skip
        return False
    return pickle_module is None if given is None else bool(given)


def _checked() -> bool:
    """Whether checksums are compared: not where the program has switched them off, or the environment does.

    Programs that fill records in place (`torch.serialization.skip_data`) leave the checksums of the old bytes behind.
    """
    switched = os.environ.get("WEIGHLOCK_CHECKSUMS", "1").lower() not in ("0", "n", "no", "false")
    return switched and bool(torch.serialization.get_crc32_options())


class _FolderError(NotACheckpointError, IsADirectoryError):
    """A folder, where opening it raises in PyTorch."""


class _NoSeekError(UnsupportedError, AttributeError):
    """The object has no `seek` or no `tell`."""


class _UnseekableError(SourceError, io.UnsupportedOperation):
    """The file says that it cannot seek."""


def _start(f: Any, *, mmap: bool) -> int:
    """Return where a file object stands; refuse one that cannot be read by position, with PyTorch's advice."""
    if isinstance(f, str | os.PathLike):
        return 0
    if mmap:
        raise ArgumentError("f must be a file path in order to use the mmap argument", got=type(f).__name__)
    if isinstance(f, bytes | bytearray | memoryview):
        return 0
    try:
        start = f.tell()
        f.seek(start)
    except (AttributeError, io.UnsupportedOperation) as error:
        kind = _NoSeekError if isinstance(error, AttributeError) else _UnseekableError
        raise kind(
            f"{error}. You can only torch.load from a file that is seekable. Please pre-load the data into a buffer "
            "like io.BytesIO and try to load from it instead."
        ) from error
    return int(start)


def _changed(f: Any, start: int, request: Request, error: ChecksumError) -> Any:
    """Read a file of this process's own, into which a program has written since."""
    warnings.warn(
        f"{error.path}: the record {error.record} was written to after this process saved the file; the checksums of "
        "what stood there before are not compared (torch.serialization.set_crc32_options(False) says so in advance)",
        UserWarning, stacklevel=3,
    )  # fmt: skip
    if not isinstance(f, str | os.PathLike):
        f.seek(start)
    return load_as(f, request._replace(verify=False))


def _script(f: Any, start: int, map_location: Any, error: ScriptArchiveError, *, weights_only: bool) -> Any:
    """Hand a TorchScript archive to PyTorch, which runs it; or refuse it as PyTorch does."""
    warnings.warn(
        "'torch.load' received a zip file that looks like a TorchScript archive dispatching to 'torch.jit.load' (call "
        "'torch.jit.load' directly to silence this warning)", UserWarning, stacklevel=3,
    )  # fmt: skip
    if weights_only:
        raise ScriptArchiveError(
            "Cannot use ``weights_only=True`` with TorchScript archives passed to ``torch.load``", path=error.path,
            hint="Its weights are read as data by weighlock.load(..., on_unknown='stub') and weighlock.state_dict; "
            "torch.jit.load runs the program.",
        ) from None  # fmt: skip
    if not isinstance(f, str | os.PathLike):
        f.seek(start)
    return torch.jit.load(f, map_location=map_location)
