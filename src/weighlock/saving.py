"""`weighlock.save`: objects in, a checkpoint that PyTorch opens out.

First everything is described, pickled and checked, in memory; only then is the target touched. A file is written under
a temporary name beside its target and takes the target's place by one rename, so that at every moment there is either
the old file or the new one, whole, and a file that somebody has mapped is never written into.
"""

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from weighlock.backends.registry import check as check_framework
from weighlock.errors import (
    ArgumentError,
    ArgumentTypeError,
    SaveError,
    TargetError,
    WeighlockError,
)
from weighlock.formats.collector import collector_paused
from weighlock.formats.legacy_writer import check_machine, write_legacy
from weighlock.formats.torch_objects import describe_torch
from weighlock.formats.zip_writer import ZipForm, write_zip
from weighlock.objects import children, format_path
from weighlock.pickling.pickler import Pickler
from weighlock.pickling.reductions import PID_TAIL, Describe
from weighlock.storages.sinks import ObjectSink, Sink, StorageRecords
from weighlock.storages.targets import Write, os_reason, refuse_address, write_path

__all__ = [
    "FORMAT_BY_SUFFIX", "WRITTEN_FORMATS", "Prepared", "form_of", "path_of_target", "prepare", "save", "trail_path"
]  # fmt: skip

WRITTEN_FORMATS: Final = ("torch-zip", "torch-legacy", "safetensors", "npz")
FORMAT_BY_SUFFIX: Final = {
    ".pt": "torch-zip", ".pth": "torch-zip", ".bin": "torch-zip", ".ckpt": "torch-zip", ".safetensors": "safetensors",
    ".npz": "npz",
}  # fmt: skip

# How many elements of an object path are shown at each end.
_PATH_PARTS: Final = 12


# Reason for the parameter count: torch's own, in its order, then ours, keyword-only.
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
    format: str | None = None,
    metadata: Mapping[str, str] | None = None,
    max_shard_size: int | str | None = None,
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
        link is followed. Devices, pipes and file objects are written directly, from where they stand. Addresses
        (``s3://...``) are refused.
    pickle_protocol : int
        1 to 5. PyTorch's ``weights_only=True`` reads no other than 2.
    pickle_module : module, optional
        What pickles in the framework ``"torch"``, instead of the standard `pickle`. In ``"numpy"``, None or that.
    framework : {"numpy", "torch"}
        Whose arrays are saved.
    durable : bool
        Wait until the file and its name are on the disk, so that it survives a power failure.
    format : {"torch-zip", "torch-legacy", "safetensors", "npz"}
        What is written; PyTorch's zip archive by default, whatever the file is called, with a warning where the name
        says another of these. A dictionary of tensors makes the same safetensors file as the safetensors package does;
        of other objects, and of tensors that share memory, the metadata say what `weighlock.load` needs to give them
        back. An npz file holds arrays by name, and nothing else.
    metadata : mapping of str to str
        What stands in the metadata of a safetensors file.
    max_shard_size : int or str
        Bytes, or for example ``"5GB"``: a dictionary of tensors is cut into files of at most so much (one tensor more
        than that has a file of its own), with an index beside them, as transformers does. `f` is then the name of the
        undivided file, or a folder.

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
    target = path_of_target(f)
    kind = _format(format, zipped=_use_new_zipfile_serialization, metadata=metadata)
    if format is None and target is not None:
        _warn_of_name(target)

    def prepared(part: Any, metadata: Mapping[str, str] | None = metadata) -> Prepared:
        if kind in ("safetensors", "npz"):
            return _prepare_flat(part, kind, framework, metadata)
        form = form_of(kind == "torch-zip", _disable_byteorder_record)
        return prepare(part, pickle_protocol, pickle_module, framework, form)

    if max_shard_size is None:
        prepared(obj).write(target, f, durable=durable)
        return
    from weighlock.flattening import describer
    from weighlock.sharding import save_shards

    check_framework(framework)
    if kind == "safetensors" and metadata is None:
        metadata = {"format": "pt"}  # transformers reads no others

    def save_part(part: Any, path: str) -> None:
        prepared(part, metadata).write(path, None, durable=durable)

    save_shards(obj, target, max_shard_size, kind, describer(framework)[0], save_part, durable=durable)


class Prepared(NamedTuple):
    """An object that was described and pickled, and is ready to be written.

    Attributes
    ----------
    storages : StorageRecords
        Its data, where they lie in memory.
    write_to : callable
        Given a sink and storages, writes everything.
    """

    storages: StorageRecords
    write_to: Callable[[Sink, StorageRecords], object]

    def write(self, target: str | None, f: Any, *, durable: bool) -> None:
        """Write it to a path, or to the file object `f` where that is None."""

        def write(sink: Sink) -> None:
            self.write_to(sink, self.storages)

        if target is None:
            _write_object(f, write, durable=durable)
        else:
            write_path(target, write, durable=durable)


def prepare(obj: Any, pickle_protocol: int, pickle_module: Any, framework: str, form: ZipForm | None) -> Prepared:
    """Describe and pickle an object; everything that can be wrong with it is found here.

    Parameters
    ----------
    form : ZipForm or None
        None for the legacy stream. The others are those of `save`.
    """
    check_framework(framework)
    with collector_paused():
        if framework == "torch":
            return _torch(obj, pickle_protocol, pickle_module, form)
        _check_module(pickle_module)
        return _zip(obj, pickle_protocol, form) if form is not None else _legacy(obj, pickle_protocol)


def form_of(zipped: bool, without_byteorder: bool) -> ZipForm | None:
    """Return the form of a file that the parameters of `save` ask for; None for the legacy stream."""
    return ZipForm(byteorder_record=not without_byteorder) if zipped else None


def _format(format: str | None, *, zipped: bool, metadata: Any) -> str:
    chosen = ("torch-zip" if zipped else "torch-legacy") if format is None else format
    if chosen not in WRITTEN_FORMATS:
        known = ", ".join(map(repr, WRITTEN_FORMATS))
        raise ArgumentError("an unknown format to write", expected=f"one of {known}", got=repr(chosen)[:40])
    if metadata is not None and chosen != "safetensors":
        raise ArgumentError("only safetensors files have metadata of this kind", got=f"format={chosen!r}")
    return chosen


def _warn_of_name(target: str) -> None:
    """Warn where the name says another format than the one that is written by default."""
    suffix = os.path.splitext(target)[1].lower()
    named = FORMAT_BY_SUFFIX.get(suffix, "torch-zip")
    if named != "torch-zip":
        warnings.warn(
            f"a PyTorch checkpoint is written to a file that is called {suffix}: readers of {suffix} files cannot read "
            f"it. Say format={named!r}, or format='torch-zip' if it is meant.", UserWarning, stacklevel=3,
        )  # fmt: skip


def _prepare_flat(obj: Any, format: str, framework: str, metadata: Mapping[str, str] | None) -> Prepared:
    """Describe an object for a format that holds named tensors only."""
    from weighlock.flattening import flat_writer

    check_framework(framework)
    with collector_paused():
        write = flat_writer(obj, format, framework, metadata)
    return Prepared(StorageRecords([], None), lambda sink, _: write(sink))


def _check_module(pickle_module: Any) -> None:
    if pickle_module is not None and getattr(pickle_module, "__name__", None) != "pickle":
        raise ArgumentError(
            "another pickle module cannot be used", got=str(getattr(pickle_module, "__name__", pickle_module)),
            hint="Weighlock writes pickles itself; leave pickle_module out.",
        )  # fmt: skip


def path_of_target(f: Any) -> str | None:
    """Return the path that `f` is, or None for a file object."""
    if isinstance(f, str | bytes | os.PathLike):
        path = os.fsdecode(f)
        if not path or "\0" in path:
            raise SaveError("the path of the file is empty or has a null byte in it", got=repr(path))
        refuse_address(path)
        return path
    if not callable(getattr(f, "write", None)):
        raise ArgumentTypeError(
            "f is neither a path nor a file to write to", expected="str, os.PathLike, or an object with write()",
            got=type(f).__name__,
        )  # fmt: skip
    return None


# What is written


def _torch(obj: Any, protocol: int, pickle_module: Any, form: ZipForm | None) -> Prepared:
    from weighlock.backends.torch_saving import serialize, zip_options

    pickle, storages, unit_sizes = serialize(obj, protocol, pickle_module, zipped=form is not None)
    if form is None:
        check_machine()
        return Prepared(storages, lambda sink, data: write_legacy(sink, pickle, data, unit_sizes, protocol))
    form = form._replace(**zip_options())
    return Prepared(storages, lambda sink, data: write_zip(sink, pickle, data, form))


def _zip(obj: Any, protocol: int, form: ZipForm) -> Prepared:
    pickle, describer = _serialize(obj, protocol, untyped=True)
    storages = StorageRecords(describer.sizes, describer.buffer)
    return Prepared(storages, lambda sink, data: write_zip(sink, pickle, data, form))


def _legacy(obj: Any, protocol: int) -> Prepared:
    check_machine()
    pickle, describer = _serialize(obj, protocol, untyped=False)
    storages, units = StorageRecords(describer.sizes, describer.buffer), describer.unit_sizes
    return Prepared(storages, lambda sink, data: write_legacy(sink, pickle, data, units, protocol))


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
            error.locate(object_path=trail_path(pickler.trail))
            raise
        if describer.settle():
            return pickle, describer


def trail_path(trail: list[Any]) -> str:
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


def _write_object(f: Any, write: Write, *, durable: bool) -> None:
    try:
        descriptor = f.fileno() if durable else -1
    except (AttributeError, OSError) as error:
        hint = "Give a path, or a file of the system."
        raise ArgumentError("this object cannot be written durably", got=type(f).__name__, hint=hint) from error
    try:
        write(ObjectSink(f))
        flush = getattr(f, "flush", None)
        if callable(flush):
            flush()
        if durable:
            os.fsync(descriptor)
    except WeighlockError:
        raise
    except OSError as error:
        raise TargetError(f"the file object could not be written to: {os_reason(error)}").caused_by(error) from error
    except ValueError as error:  # "I/O operation on closed file"
        raise _ClosedFileError(f"the file object could not be written to: {error}") from error
