"""`weighlock.save`: objects in, a checkpoint that PyTorch opens out.

First everything is described, pickled and checked, in memory; only then is the target touched. A file is written under
a temporary name beside its target and takes the target's place by one rename, so that at every moment there is either
the old file or the new one, whole, and a file that somebody has mapped is never written into.
"""

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from weighlock.backends.registry import check as check_framework
from weighlock.errors import (
    ArgumentError,
    ArgumentTypeError,
    MissingFolderError,
    SaveError,
    TargetError,
    WeighlockError,
)
from weighlock.formats.legacy_writer import PID_TAIL, check_machine, write_legacy
from weighlock.formats.torch_objects import describe_torch
from weighlock.formats.zip_writer import ZipForm, write_zip
from weighlock.objects import children, format_path
from weighlock.pickling.pickler import Pickler
from weighlock.pickling.reductions import Describe
from weighlock.storages.sinks import DescriptorSink, ObjectSink, Sink, StorageRecords

__all__ = ["save", "write_file"]

# Longest part of the target's name that is repeated in the temporary name: file names have at most 255 bytes.
_NAME_BYTES: Final = 200
# How many elements of an object path are shown at each end.
_PATH_PARTS: Final = 12

Write = Callable[[Sink], None]


# Reason for eight parameters: torch's own, in the order of the issue, then ours, keyword-only.
def save(
    obj: Any,
    f: Any,
    pickle_protocol: int = 2,
    *,
    _use_new_zipfile_serialization: bool = True,
    _disable_byteorder_record: bool = False,
    pickle_module: Any = None,
    framework: str = "numpy",
    durable: bool = False,
) -> None:
    r"""Save an object to a checkpoint that ``torch.load(weights_only=True)`` reads.

    Arrays become tensors of the same shape, strides and type. Arrays that share memory share a storage, and only the
    bytes that are in use are written. The same object makes the same bytes, whatever the file is called.

    Parameters
    ----------
    obj : object
        Nested containers of NumPy arrays, numbers and strings; everything that `weighlock.load` returns. In the
        framework ``"torch"``, everything that `torch.save` takes.
    f : str, os.PathLike, or object with `write`
        A path is written beside its target first and then renamed, which replaces a file that is there; a symbolic
        link is followed. Devices, pipes and file objects are written directly, from where they stand.
    pickle_protocol : int
        1 to 5. PyTorch's ``weights_only=True`` reads no other than 2.
    pickle_module : module, optional
        What pickles in the framework ``"torch"``, instead of the standard `pickle`. In ``"numpy"``, None or that.
    framework : {"numpy", "torch"}
        Whose arrays are saved.
    durable : bool
        Wait until the file and its name are on the disk, so that it survives a power failure.

    Raises
    ------
    UnsupportedTypeError
        If the object holds something that a checkpoint has no form for; the message says where.
    SaveError
        If the file cannot be written. What was there before is untouched.
    ArgumentError
        If a parameter makes no sense.

    Examples
    --------
    >>> import io, numpy
    >>> file = io.BytesIO()
    >>> save({"weight": numpy.zeros((2, 3), "float32")}, file)
    >>> file.getvalue()[:4]
    b'PK\x03\x04'
    """
    check_framework(framework)
    target = _path(f)
    form = ZipForm(byteorder_record=not _disable_byteorder_record) if _use_new_zipfile_serialization else None
    if framework == "torch":
        write = _torch(obj, pickle_protocol, pickle_module, form)
    else:
        _check_module(pickle_module)
        write = _zip(obj, pickle_protocol, form) if form is not None else _legacy(obj, pickle_protocol)
    if target is None:
        _write_object(f, write)
    else:
        with _os_errors(target):
            _write_path(target, write, durable=durable)


def _check_module(pickle_module: Any) -> None:
    if pickle_module is not None and getattr(pickle_module, "__name__", None) != "pickle":
        raise ArgumentError(
            "another pickle module cannot be used", got=str(getattr(pickle_module, "__name__", pickle_module)),
            hint="Weighlock writes pickles itself; leave pickle_module out.",
        )  # fmt: skip


def _path(f: Any) -> str | None:
    """Return the path that `f` is, or None for a file object."""
    if isinstance(f, str | bytes | os.PathLike):
        path = os.fsdecode(f)
        if not path or "\0" in path:
            raise SaveError("the path of the file is empty or has a null byte in it", got=repr(path))
        return path
    if not callable(getattr(f, "write", None)):
        raise ArgumentTypeError(
            "f is neither a path nor a file to write to", expected="str, os.PathLike, or an object with write()",
            got=type(f).__name__,
        )  # fmt: skip
    return None


# What is written


def _torch(obj: Any, protocol: int, pickle_module: Any, form: ZipForm | None) -> Write:
    from weighlock.backends.torch_saving import serialize, zip_options

    pickle, storages, unit_sizes = serialize(obj, protocol, pickle_module, zipped=form is not None)
    if form is None:
        check_machine()
        return lambda sink: write_legacy(sink, pickle, storages, unit_sizes, protocol)
    form = form._replace(**zip_options())
    return lambda sink: write_zip(sink, pickle, storages, form)


def _zip(obj: Any, protocol: int, form: ZipForm) -> Write:
    pickle, describer = _serialize(obj, protocol, untyped=True)
    storages = StorageRecords(describer.sizes, describer.buffer)
    return lambda sink: write_zip(sink, pickle, storages, form)


def _legacy(obj: Any, protocol: int) -> Write:
    check_machine()
    pickle, describer = _serialize(obj, protocol, untyped=False)
    storages = StorageRecords(describer.sizes, describer.buffer)
    return lambda sink: write_legacy(sink, pickle, storages, describer.unit_sizes, protocol)


def _serialize(obj: Any, protocol: int, *, untyped: bool) -> tuple[bytes, Any]:
    from weighlock.backends.numpy_describe import NumpyDescriber
    from weighlock.backends.numpy_reductions import add_records

    describer = NumpyDescriber(untyped=untyped)
    add_records(describer)

    def describe(kind: type) -> Describe | None:
        return describe_torch(kind) or describer.describe(kind)

    while True:
        pickler = Pickler(protocol, describe=describe, pid_tail=() if untyped else PID_TAIL)
        try:
            pickle = pickler.dumps(obj)
        except SaveError as error:
            error.locate(object_path=_object_path(pickler.trail))
            raise
        if describer.settle():
            return pickle, describer


def _object_path(trail: list[Any]) -> str:
    """Return where the last object of a trail of containers stands."""
    parts: list[Any] = []
    holder = trail[0] if trail else None
    for held in trail[1:]:
        step = next((key for key, value in children(holder) if value is held), trail)
        if step is not trail:  # other steps are between an object and its own parts
            parts.append(step)
            holder = held
    if len(parts) > 2 * _PATH_PARTS:
        parts[_PATH_PARTS:-_PATH_PARTS] = ["..."]
    return format_path(tuple(parts))


# Where it is written


class _ClosedFileError(SaveError, ValueError):
    """The file object is closed: a ValueError in Python's own classes."""


def _write_object(f: Any, write: Write) -> None:
    try:
        write(ObjectSink(f))
        flush = getattr(f, "flush", None)
        if callable(flush):
            flush()
    except WeighlockError:
        raise
    except OSError as error:
        raise TargetError(f"the file object could not be written to: {_reason(error)}").caused_by(error) from error
    except ValueError as error:  # "I/O operation on closed file"
        raise _ClosedFileError(f"the file object could not be written to: {error}") from error


@contextmanager
def _os_errors(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = None
        if isinstance(error, PermissionError):
            hint = "Check the permissions of the file and of its folder."
        elif isinstance(error, FileNotFoundError | NotADirectoryError):
            folder = os.path.dirname(path)
            hint = f"Parent directory {folder} does not exist. Create it first."
        missing = isinstance(error, FileNotFoundError)
        kind = MissingFolderError if missing else TargetError
        made = kind(f"the file cannot be written: {_reason(error)}", path=path, hint=hint)
        raise made.caused_by(error) from error


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def write_file(path: str, data: bytes, *, durable: bool = False) -> None:
    """Write a whole file, or leave what is there as it was.

    Raises
    ------
    SaveError
        If it cannot be written.
    """
    with _os_errors(path):
        _write_path(path, lambda sink: sink.write(data), durable=durable)


def _write_path(path: str, write: Write, *, durable: bool) -> None:
    mode = _mode(path)
    if mode is not None and stat.S_ISDIR(mode):
        raise SaveError("the target is a folder", path=path, hint="Give the name of a file in it.")
    if (mode is None or stat.S_ISREG(mode)) and not path.startswith(_OPEN_FILES):
        _write_file(os.path.realpath(path), write, mode, durable=durable)
    else:
        # A device, a pipe, or what a shell has opened: there is no name to replace.
        descriptor = os.open(path, os.O_WRONLY | _BINARY)
        try:
            write(DescriptorSink(descriptor))
        finally:
            os.close(descriptor)


_OPEN_FILES: Final = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/self/fd/")
_BINARY: Final[int] = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def _mode(path: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _write_file(target: str, write: Write, mode: int | None, *, durable: bool) -> None:
    if mode is not None and not os.access(target, os.W_OK):
        # The rename would need the folder's permission only, and take a file that was protected on purpose.
        raise SaveError("the file is read-only", path=target, hint="Save under another name, or make it writable.")
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, _temporary_name(os.path.basename(target)))
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
    try:
        try:
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(descriptor, stat.S_IMODE(mode))
            write(DescriptorSink(descriptor))
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, target)
    except BaseException:  # an interrupt too must not leave half a file behind
        os.unlink(temporary)
        raise
    if durable:
        _sync_folder(folder)


def _temporary_name(name: str) -> str:
    shown = os.fsdecode(os.fsencode(name)[:_NAME_BYTES])
    return f".{shown}.{os.urandom(6).hex()}.weighlock-tmp"


def _sync_folder(folder: str) -> None:
    if sys.platform == "win32":
        return  # folders cannot be opened there; NTFS journals the rename
    descriptor = os.open(folder, os.O_RDONLY | _BINARY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
