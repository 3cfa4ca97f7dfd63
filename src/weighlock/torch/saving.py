"""`weighlock.torch.save`: PyTorch's rules for its parameters; the writing is `saving`'s, atomic and checked."""

import os
from typing import Any

import torch

from weighlock.errors import ArgumentTypeError, SaveError
from weighlock.pickling.trusted import PICKLE
from weighlock.saving import save as write

__all__ = ["save"]


class _NoWriteError(ArgumentTypeError, AttributeError):
    """The object has no `write`."""


# Reason for the parameters: torch.save's own, in its order, with its names and defaults.
def save(
    obj: object,
    f: Any,
    pickle_module: Any = PICKLE,
    pickle_protocol: int = 2,
    _use_new_zipfile_serialization: bool = True,
    _disable_byteorder_record: bool = False,
) -> None:
    """Save an object as `torch.save` does: the same pickle and the same records.

    A file that is there is replaced only when the new one is whole.

    Parameters
    ----------
    obj : object
        Anything that can be pickled.
    f : str, os.PathLike or file object
        A file object needs `write` and `flush`, and is written from where it stands.
    pickle_module : module
        Whose `Pickler` takes the object apart.
    pickle_protocol : int
        Other loaders read protocol 2 with ``weights_only=True``; Weighlock reads all.

    Raises
    ------
    SaveError
        If the file cannot be written, or tensors view the same memory as different types.
    Exception
        Whatever an object's own reduction raises.

    Examples
    --------
    >>> import io, torch
    >>> file = io.BytesIO()
    >>> save({"step": 3}, file)
    >>> _ = file.seek(0)
    >>> torch.load(file)
    {'step': 3}
    """
    torch.serialization._check_dill_version(pickle_module)
    if not isinstance(f, str | os.PathLike) and not hasattr(f, "write"):
        what = "expected 'f' to be string, path, or a file-like object with a 'write' attribute"
        raise _NoWriteError(what, got=type(f).__name__)
    if torch.serialization._serialization_tls.skip_data and not _use_new_zipfile_serialization:
        raise SaveError("Cannot use skip_data=True with _use_new_zipfile_serialization=False")
    write(
        obj, f, pickle_protocol, pickle_module=None if pickle_module is PICKLE else pickle_module, framework="torch",
        _use_new_zipfile_serialization=_use_new_zipfile_serialization,
        _disable_byteorder_record=_disable_byteorder_record,
    )  # fmt: skip
