"""`weighlock.load`: the file's description handed to a framework, then all data read in one plan."""

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal

from weighlock.backends import registry
from weighlock.checkpoint import open_any
from weighlock.errors import (
    ArgumentError,
    ArgumentTypeError,
    CheckpointError,
    DamagedError,
    SourceError,
    WeighlockError,
)
from weighlock.formats.collector import collector_paused
from weighlock.formats.detect import read_any, read_file
from weighlock.formats.reading import Options, Reading, allowlist_with, unsafe_global_error
from weighlock.limits import DEFAULT_LIMITS, Limits
from weighlock.loading.options import Request, check_request
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
    mmap: bool | Literal["r", "shared"] | None = None,
    framework: str = "numpy",
    on_unknown: Literal["error", "stub"] = "error",
    verify: bool = True,
    limits: Limits | None = None,
    storage_options: Mapping[str, Any] | None = None,
    into: Any = None,
    strict: bool = True,
    dtype: Any = None,
    select: str | Sequence[str] | Callable[[str], bool] | None = None,
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
    mmap : bool, "r" or "shared"
        Map the file instead of reading it: data are read when they are touched, and CRC-32 is not checked. True: what
        is changed stays in this process; ``"r"``: arrays are read-only (PyTorch has no such tensors); ``"shared"``:
        what is changed goes to the file, or into the `bytearray` that was given.
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
    into : mapping, module or object that holds arrays, optional
        Fill its arrays or tensors in place instead of making new ones: NumPy's and PyTorch's, in dictionaries, lists,
        modules and any tree that `weighlock.load_state_dict` takes. Names and shapes are compared before anything is
        written; damage that is found while reading (a wrong checksum) leaves part of the data written.
    strict : bool
        With `into`: refuse missing and unexpected keys. Shapes must fit in any case.
    dtype : str, numpy.dtype, torch.dtype, mapping or callable, optional
        Cast floating-point tensors to this type while reading. A mapping has globs over keys, the first that matches
        counts; a function is called with a key and the name of the saved type, and returns a type, or None for its
        own. Tensors that share memory share it again; one that stands under several keys is asked about by its first.
    select : str, list of str, or callable, optional
        Read only tensors whose key matches one of these globs (``*`` stops at dots, ``**`` does not), or for which a
        function returns True; the others are left out of the mappings. In lists and tuples, tensors without data stay
        in their place. What is no tensor is kept.
    **pickle_load_args
        `encoding` (default ``"utf-8"``; ``"latin1"``, ``"bytes"`` ...) and `errors`: how strings written by Python 2
        are decoded.

    Returns
    -------
    object
        What was saved. A key order is the file's order. With `into`, a `state_dicts.LoadResult`: the missing and
        unexpected keys, as PyTorch's `load_state_dict` returns them.

    Raises
    ------
    CheckpointError
        If the file is no checkpoint (`NotACheckpointError`), not whole (`DamagedError`), names unknown classes
        (`UnsafeGlobalError`), or asks for too much (`LimitError`).
    SourceError
        If the file cannot be opened or read.
    StateDictMismatchError
        If keys or shapes of the file are not those of `into`; nothing was written.
    ArgumentError
        If a parameter makes no sense, excludes another, or `select` matches no tensor.

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
        storage_options=storage_options, into=into, strict=strict, dtype=dtype, select=select,
    ))  # fmt: skip


def load_as(f: Any, request: Request) -> Any:
    """Load a checkpoint as asked; see `load`."""
    encoding, errors = _text_options(request.pickle_load_args)
    check_request(request)
    registry.check(request.framework)
    source = open_any(f, request.storage_options, addresses=request.addresses)
    options = Options(
        limits=request.limits or DEFAULT_LIMITS, encoding=encoding, errors=errors, verify=request.verify,
        stubs_allowed=request.on_unknown == "stub", scripts=request.scripts, map_streams=request.map_streams,
    )  # fmt: skip
    try:
        with collector_paused():
            if request.into is not None:
                return _fill(source, request, options)
            chosen = _choose(source, request, options)
            made = _build(source, request, options, None if chosen is None else chosen.choice)
            if chosen is not None:
                chosen.leave_out(made)
            return made
    finally:
        source.close()


def _build(source: ByteSource, request: Request, options: Options, choice: Any) -> Any:
    leaves = Leaves()
    try:
        leaves = registry.leaves_for(
            request.framework, choice, map_location=request.map_location, mapped=request.mmap or False, source=source,
            verify=request.verify, eager=not request.weights_only,
        )  # fmt: skip
        options = options._replace(
            user_globals=user_globals.snapshot(leaves.safe_globals(), before=leaves.settle),
            trusted=None if request.weights_only else _trusted_loader(request, native=leaves.native),
        )
        with leaves.reading():
            return _read(source, Reading(leaves, read_any, options, _allowlist(leaves)))
    finally:
        leaves.release()


def _choose(source: ByteSource, request: Request, options: Options) -> Any:
    if request.select is None and request.dtype is None:
        return None
    from weighlock.loading.choosing import caster, choose, described, selector

    selected, cast = selector(request.select), caster(request.dtype)
    with _located(source):
        contents = described(source, options)
        try:
            return choose(contents.object, selected, cast)
        finally:
            contents.release()


def _fill(source: ByteSource, request: Request, options: Options) -> Any:
    from weighlock.loading.choosing import described, selector
    from weighlock.loading.filling import fill

    selected = selector(request.select)
    with _located(source):
        contents = described(source, options)
        try:
            made = fill(
                contents.object, request.into, source, selected=selected, strict=request.strict, verify=request.verify
            )
        finally:
            contents.release()
        source.finish(contents.end)
    return made


@contextmanager
def _located(source: ByteSource) -> Iterator[None]:
    """Name the file in its errors, and the object whose record is damaged."""
    try:
        yield
    except WeighlockError as error:
        if isinstance(error, CheckpointError | SourceError):
            error.locate(path=source.name)
        if isinstance(error, DamagedError) and error.record and not error.object_path:
            error.locate(object_path=_object_of_record(source, error.record))
        raise


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
    if not options:
        return "utf-8", "strict"
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
