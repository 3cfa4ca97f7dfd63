"""`weighlock.salvage`: a damaged file in, a valid one out, and a report of what became of each tensor."""

import os
from typing import Any, Final, NamedTuple

from weighlock.errors import ArgumentError, DamagedError, NotACheckpointError, UnsupportedError, WeighlockError
from weighlock.formats.collector import collector_paused
from weighlock.formats.foreign import describe_foreign
from weighlock.formats.torch_legacy import matches
from weighlock.limits import DEFAULT_LIMITS, Limits
from weighlock.measuring.manifests import Manifest, ManifestFile, read_manifest
from weighlock.salvaging.held import entry_for, written_as_held
from weighlock.salvaging.plan import Plan, Progress, Terms, nothing
from weighlock.salvaging.report import SalvageReport
from weighlock.salvaging.translated import is_translated, untranslated
from weighlock.storages.addresses import is_address, open_anywhere
from weighlock.storages.source import ByteSource, open_source
from weighlock.storages.targets import refuse_address, write_path

__all__ = ["check_target", "salvage"]

_LOOK: Final = 8 << 20
_ZIP_MARKS: Final = (b"PK\x03\x04", b"PK\x01\x02")


# Reason for the parameter count: what is read, what is written, and what a caller may say of it, keyword-only.
def salvage(
    f: Any, out: str | os.PathLike[str], *, force: bool = False, dry_run: bool = False, require_crc: bool = False,
    raw: bool = False, manifest: Manifest | str | os.PathLike[str] | None = None, limits: Limits | None = None,
    progress: Progress = nothing,
) -> SalvageReport:  # fmt: skip
    """Write a new checkpoint of all that is whole in a damaged one; the damaged file is never touched.

    Reads PyTorch's zip archives (without a directory, cut, with damaged stretches, with something in front or behind,
    with translated line ends), its older streams, .npz archives, and safetensors files that were cut. The new file has
    the same structure and the same format; of a TorchScript program it holds the weights, by key. Tensors that are lost
    leave their dictionaries; in lists and tuples None stands for them, so that the others keep their numbers.

    Parameters
    ----------
    f : path, address, bytes-like or file object
    out : path
        The new file.
    force : bool
        Overwrite a file that is there.
    dry_run : bool
        Only find out what could be saved.
    require_crc : bool
        Keep only what is proven. Without, bytes are also kept that are where they should be and as many, where
        the format, or what is left of the file, has no checksum for them.
    raw : bool
        Where the structure is lost: save the storages that are whole as flat arrays of bytes, by their records' names.
    manifest : Manifest or path, optional
        What `weighlock.manifest` wrote down when the file was whole. A tensor is proven where its values have the
        SHA-256 that is listed, in formats without checksums too, and lost where they have another one. Where the
        structure is lost, storages get the names of the tensors whose values they are.
    limits : Limits, optional
    progress : callable, optional
        Called with the number of bytes that were read or written since the last call.

    Returns
    -------
    SalvageReport
        Each tensor with its state, ``"proven"``, ``"unproven"`` or ``"lost"``, and the reason.

    Raises
    ------
    DamagedError
        If nothing can be saved; the message says why.
    UnsupportedError
        If the format has no salvage.
    ArgumentError
        If `out` is the file itself, or is there already.

    Examples
    --------
    >>> import io, numpy, os, tempfile, weighlock
    >>> file = io.BytesIO()
    >>> weighlock.save({"a": numpy.zeros(100, "f4"), "b": numpy.ones(100, "f4")}, file)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = weighlock.salvage(file.getvalue()[:1300], os.path.join(folder, "saved.pt"))
    ...     sorted(weighlock.load(report.target)), [tensor.key for tensor in report.lost]
    (['a'], ['b'])
    """
    target = os.fspath(out)
    check_target(f, target, force=force)
    listed = manifest if manifest is None or isinstance(manifest, Manifest) else read_manifest(manifest)
    source = open_anywhere(f) if is_address(f) else open_source(f)
    try:
        entry = None if listed is None else entry_for(listed, source.name)
        with collector_paused():
            terms = Terms(limits or DEFAULT_LIMITS, require_crc, entry is not None, progress)
            return _salvaged(source, target, _Order(terms, entry, raw, dry_run))
    except WeighlockError as error:
        raise error.locate(path=source.name) from error.__cause__
    finally:
        source.close()


def check_target(f: Any, target: str, *, force: bool) -> None:
    """Refuse to write over the damaged file, and without `force` over anything.

    Raises
    ------
    ArgumentError, TargetError
    """
    refuse_address(target)
    for name in (f, getattr(f, "name", None)):
        if isinstance(name, str | bytes | os.PathLike) and _is_same(name, target):
            raise ArgumentError("the result would be written over the damaged file", got=target)
    if os.path.isfile(target) and not force:
        raise ArgumentError("the file is there already", got=target, hint="force=True (--force) overwrites it.")


def _is_same(one: Any, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


class _Order(NamedTuple):
    """What was asked for."""

    terms: Terms
    entry: ManifestFile | None
    raw: bool
    dry_run: bool


def _salvaged(source: ByteSource, target: str, order: _Order) -> SalvageReport:
    file = untranslated(source) if is_translated(source) else None
    if file is None:
        return _written(source, source, target, order, ())
    with file:
        note = "line ends had been translated (every \\n to \\r\\n); that was undone"
        return _written(open_source(file), source, target, order, (note,))


def _written(
    source: ByteSource, original: ByteSource, target: str, order: _Order, notes: tuple[str, ...]
) -> SalvageReport:
    plan = _planned(source, order)
    written = None if order.dry_run else target
    lost = [tensor for tensor in plan.tensors if tensor.state == "lost"]
    if lost and not any(tensor.nbytes for tensor in plan.tensors if tensor.state != "lost"):
        got = f"{len(lost)} lost; the first: {lost[0].key}: {lost[0].reason}"
        raise DamagedError("no tensor can be saved", got=got)
    tensors = plan.tensors
    if order.entry is not None and not (plan.is_held or order.raw):
        tensors = written_as_held(plan, order.terms, written, order.entry)
    elif written is not None:
        write_path(target, plan.write, durable=False)
    nbytes = os.path.getsize(target) if written is not None else 0
    return SalvageReport(
        original.name, original.size, plan.format, written, tuple(tensors), (*notes, *plan.notes), nbytes
    )


def _planned(source: ByteSource, order: _Order) -> Plan:
    head, terms, raw = source.read_at(0, min(source.size, _LOOK)), order.terms, order.raw
    if matches(head) and not raw:
        from weighlock.salvaging.streams import plan_stream

        return plan_stream(source, terms)
    if _is_safetensors(head) and not raw:
        from weighlock.salvaging.flat_files import plan_safetensors

        return plan_safetensors(source, terms)
    if any(mark in head for mark in _ZIP_MARKS) or _ends_like_a_zip(source):
        from weighlock.salvaging.raw import plan_raw
        from weighlock.salvaging.zips import plan_zip

        return plan_raw(source, terms) if raw else plan_zip(source, terms, order.entry.tensors if order.entry else ())
    found = describe_foreign(source)
    if isinstance(found, NotACheckpointError):
        raise found
    raise UnsupportedError(
        "nothing can be saved from a file of this kind",
        expected="a zip archive or a stream of torch.save, or safetensors",
    )  # fmt: skip


def _ends_like_a_zip(source: ByteSource) -> bool:
    tail = source.read_at(max(source.size - _LOOK, 0), min(source.size, _LOOK))
    return any(mark in tail for mark in _ZIP_MARKS)


def _is_safetensors(head: bytes) -> bool:
    length = int.from_bytes(head[:8], "little")
    return len(head) > 9 and 2 <= length <= 100_000_000 and head[8:9] == b"{"
