"""`weighlock.load`: the file's description handed to a framework, then all data read in one plan."""

import codecs
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from weighlock.backends import registry
from weighlock.checkpoint import open_any
from weighlock.errors import ArgumentError, ArgumentTypeError, ConflictError, DamagedError, WeighlockError
from weighlock.formats.collector import collector_paused
from weighlock.formats.detect import read_any, read_file
from weighlock.formats.reading import Options, Reading, allowlist_with, unsafe_global_error
from weighlock.limits import DEFAULT_LIMITS, Limits
from weighlock.objects import format_path, path_of, walk
from weighlock.pickling import user_globals
from weighlock.pickling.allowlist import Allowlist
from weighlock.pickling.inert import GlobalRef, Stub
from weighlock.storages.source import ByteSource
from weighlock.tensors.leaves import Leaves
from weighlock.tensors.spec import TensorSpec

__all__ = ["Request", "load", "load_as"]

_PATHS_SHOWN: Final = 5


# Reason for the parameter count: the first five are torch.load's own, in its order and with its names.
def load(
    f: Any,
    map_location: Any = None,
    pickle_module: Any = None,
    *,
    weights_only: bool = True,
    mmap: bool | None = None,
    framework: str = "numpy",
    on_unknown: Literal["error", "stub"] = "error",
    verify: bool = True,
    limits: Limits | None = None,
    storage_options: Mapping[str, Any] | None = None,
    **pickle_load_args: Any,
) -> Any:
    """Load a checkpoint: what `torch.save` wrote in any year, TorchScript, safetensors, or a pickle of tensors.

    Nothing in the file is imported or called: it is read as data. Tensors become NumPy arrays of the saved shape,
    strides and dtype; tensors that shared memory share it again.

    Parameters
    ----------
    f : str, os.PathLike, bytes-like or file object
        Text with a scheme is an address: ``https://``, or any that fsspec knows (``s3://``, ``gs://`` ...). A file
        object needs `read`, `seek` and `tell`; reading begins where it stands, and leaves it behind the checkpoint.
    map_location : None, str, device, dict or callable
        Where tensors go, as in `torch.load`. NumPy has ``"cpu"``, and ``"meta"``, which reads no data; every saved
        location lands on the CPU. A function is called once per storage with a `weighlock.Storage` and its saved
        location, and returns a storage or None.
    pickle_module : module
        Only with ``weights_only=False``: what runs the pickle instead of Python's own.
    weights_only : bool
        False runs the pickle with Python's own machine: **the file can then run any code**. For files of your own.
    mmap : bool
        Map the file instead of reading it: data are read when they are touched, changes stay private, and CRC-32 is
        not checked.
    framework : {"numpy", "torch"}
        What tensors become: NumPy arrays, or PyTorch's own tensors.
    on_unknown : {"error", "stub"}
        What becomes of classes that are neither known data nor named with `add_safe_globals`: one error that lists
        them all, or inert `Stub` objects.
    verify : bool
        Check the CRC-32 of every record that has one.
    limits : Limits
        How much the file may ask of the machine.
    storage_options : mapping, optional
        For addresses; see `weighlock.open_checkpoint`.
    **pickle_load_args
        `encoding` (default ``"utf-8"``; ``"latin1"``, ``"bytes"`` ...) and `errors`: how strings written by Python 2
        are decoded.

    Returns
    -------
    object
        What was saved. A key order is the file's order.

    Raises
    ------
    CheckpointError
        If the file is no checkpoint (`NotACheckpointError`), not whole (`DamagedError`), names unknown classes
        (`UnsafeGlobalError`), or asks for too much (`LimitError`).
    SourceError
        If the file cannot be opened or read.

    Examples
    --------
    >>> import io, numpy, weighlock
    >>> file = io.BytesIO()
    >>> weighlock.save({"weight": numpy.arange(3.0)}, file)
    >>> _ = file.seek(0)
    >>> weighlock.load(file)
    {'weight': array([0., 1., 2.])}
    """
    return load_as(f, Request(
        map_location, pickle_module, pickle_load_args, weights_only, mmap, framework, on_unknown, verify, limits,
        storage_options=storage_options,
    ))  # fmt: skip


class Request(NamedTuple):
    """What is asked of one load: the parameters of `load`, and what only the drop-in for PyTorch asks.

    Attributes
    ----------
    scripts : bool
        Whether TorchScript archives are read, as data; otherwise `ScriptArchiveError`.
    addresses : bool
        Whether text with a scheme is an address. PyTorch takes paths only.
    """

    map_location: Any = None
    pickle_module: Any = None
    pickle_load_args: Mapping[str, Any] = {}
    weights_only: bool = True
    mmap: bool | None = None
    framework: str = "numpy"
    on_unknown: str = "error"
    verify: bool = True
    limits: Limits | None = None
    scripts: bool = True
    storage_options: Mapping[str, Any] | None = None
    addresses: bool = True


def load_as(f: Any, request: Request) -> Any:
    """Load a checkpoint as asked; see `load`."""
    encoding, errors = _text_options(request.pickle_load_args)
    _check_options(request)
    registry.check(request.framework)
    source = open_any(f, request.storage_options, addresses=request.addresses)
    leaves = Leaves()
    try:
        leaves = registry.leaves_for(
            request.framework, map_location=request.map_location, mapped=bool(request.mmap), source=source,
            verify=request.verify, eager=not request.weights_only,
        )  # fmt: skip
        options = Options(
            limits=request.limits or DEFAULT_LIMITS,
            encoding=encoding,
            errors=errors,
            user_globals=user_globals.snapshot(leaves.safe_globals(), before=leaves.settle),
            stubs_allowed=request.on_unknown == "stub",
            verify=request.verify,
            trusted=None if request.weights_only else _trusted_loader(request, native=leaves.native),
            scripts=request.scripts,
        )
        with collector_paused(), leaves.reading():
            return _read(source, Reading(leaves, read_any, options, _allowlist(leaves)))
    finally:
        source.close()
        leaves.release()


def _read(source: ByteSource, reading: Reading) -> Any:
    try:
        contents = read_file(source, reading)
        if reading.unknown and not reading.options.stubs_allowed:
            raise unsafe_global_error(_places(contents.object, tuple(reading.unknown)))
        reading.leaves.finish()
        source.finish(contents.end)
    except WeighlockError as error:
        if reading.leaves.raised is not None:
            raise reading.leaves.raised from None
        error.locate(path=source.name)
        if isinstance(error, DamagedError) and error.record and not error.object_path:
            error.locate(object_path=_object_of_record(source, error.record))
        raise
    contents.release()
    return contents.object


def _text_options(options: Mapping[str, Any]) -> tuple[str, str]:
    for name in options:
        if name not in ("encoding", "errors", "fix_imports", "buffers"):
            raise ArgumentTypeError(f"load() got an unexpected keyword argument {name!r}")
    encoding, errors = options.get("encoding", "utf-8"), options.get("errors", "strict")
    try:
        if encoding != "bytes":
            codecs.lookup(encoding)
        codecs.lookup_error(errors)
    except (LookupError, TypeError) as error:
        raise ArgumentError(f"encoding or errors name nothing that Python knows: {error}") from error
    return encoding, errors


def _check_options(request: Request) -> None:
    if request.pickle_module is not None and request.weights_only:
        raise ConflictError(
            "Can not safely load weights when explicit pickle_module is specified",
            hint="It runs whatever the file says. For a file of your own, pass weights_only=False with it.",
        )
    if request.mmap not in (None, True, False):
        raise ArgumentError("mmap must be True or False", got=repr(request.mmap)[:40])
    if request.on_unknown not in ("error", "stub"):
        raise ArgumentError("on_unknown must be 'error' or 'stub'", got=repr(request.on_unknown)[:40])


def _trusted_loader(request: Request, *, native: bool) -> Any:
    from weighlock.pickling.trusted import trusted_loader

    return trusted_loader(request.pickle_module, dict(request.pickle_load_args), native=native)


_allowlists: dict[bool, Allowlist] = {}


def _allowlist(leaves: Leaves) -> Allowlist:
    """Return the closed table of a framework: made once, since it is filled as files name things."""
    found = _allowlists.get(leaves.native)
    if found is None:
        # In PyTorch's own world there are no inert stand-ins: what it could build if it were imported is unknown.
        made = allowlist_with(leaves.rows, described=False) if leaves.native else allowlist_with()
        found = _allowlists.setdefault(leaves.native, made)
    return found


def _places(root: Any, names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return where each unknown global stands in the object."""
    places: dict[str, list[str]] = {name: [] for name in names}
    for node, value in walk(root):
        ref = value.global_ref if type(value) is Stub else value
        if isinstance(ref, GlobalRef) and ref.full_name in places:
            found = places[ref.full_name]
            path = format_path(tuple(part for part in path_of(node) if part != "<class>"))
            if len(found) < _PATHS_SHOWN and path not in found:
                found.append(path)
    return {name: tuple(found) for name, found in places.items()}


def _object_of_record(source: ByteSource, record: str) -> str | None:
    """Return the path of the first tensor in a record, by describing the file again; None where that fails."""
    try:
        contents = read_any(source, Reading(Leaves(), read_any, Options(stubs_allowed=True, verify=False)))
    except WeighlockError:
        return None
    for node, value in walk(contents.object):
        if type(value) is TensorSpec and value.ref.record == record:
            return format_path(path_of(node))
    return None
