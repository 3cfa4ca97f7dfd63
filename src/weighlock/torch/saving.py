"""`weighlock.torch.save`: PyTorch's rules for its parameters; the writing is `saving`'s, atomic and checked."""

import os
from typing import Any

import torch

from weighlock.background import SaveFuture
from weighlock.background import save_async as write_async
from weighlock.errors import ArgumentTypeError, SaveError
from weighlock.pickling.trusted import PICKLE
from weighlock.saving import save as write
from weighlock.torch import written

__all__ = ["save", "save_async"]


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
    _check(f, pickle_module, _use_new_zipfile_serialization)
    write(
        obj, f, pickle_protocol, pickle_module=None if pickle_module is PICKLE else pickle_module, framework="torch",
        format="torch-zip" if _use_new_zipfile_serialization else "torch-legacy",
        _disable_byteorder_record=_disable_byteorder_record,
    )  # fmt: skip
    written.note(f)


# Reason for the parameters: those of `save`, and `durable`.
def save_async(
    obj: object,
    f: Any,
    pickle_module: Any = PICKLE,
    pickle_protocol: int = 2,
    _use_new_zipfile_serialization: bool = True,
    _disable_byteorder_record: bool = False,
    *,
    durable: bool = False,
) -> SaveFuture:
    """Copy an object's data, and save it in the background, as `weighlock.save_async` does.

    When this returns, the tensors may be changed: what is written is what they were. PyTorch has no such function.

    Parameters
    ----------
    obj, f, pickle_module, pickle_protocol
        As for `save`.
    durable : bool
        Wait, in the background, until the file and its name are on the disk.

    Returns
    -------
    weighlock.SaveFuture
        Its result is None, and its exception what went wrong while writing.

    Raises
    ------
    Exception
        At once, whatever an object's own reduction raises.

    Examples
    --------
    >>> import os, tempfile, torch
    >>> path = os.path.join(tempfile.mkdtemp(), "model.pt")
    >>> weight = torch.zeros(3)
    >>> future = save_async({"weight": weight}, path)
    >>> _ = weight.add_(1)
    >>> future.result()
    >>> torch.load(path)
    {'weight': tensor([0., 0., 0.])}
    """
    _check(f, pickle_module, _use_new_zipfile_serialization)
    return write_async(
        obj, f, pickle_protocol, pickle_module=None if pickle_module is PICKLE else pickle_module, framework="torch",
        _use_new_zipfile_serialization=_use_new_zipfile_serialization,
        _disable_byteorder_record=_disable_byteorder_record, durable=durable,
    )  # fmt: skip


def _check(f: Any, pickle_module: Any, zipped: bool) -> None:
    torch.serialization._check_dill_version(pickle_module)
    if not isinstance(f, str | os.PathLike) and not hasattr(f, "write"):
        what = "expected 'f' to be string, path, or a file-like object with a 'write' attribute"
        raise _NoWriteError(what, got=type(f).__name__)
    if torch.serialization._serialization_tls.skip_data and not zipped:
        raise SaveError("Cannot use skip_data=True with _use_new_zipfile_serialization=False")
