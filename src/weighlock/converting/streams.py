"""The bytes of tensors and storages on their way to a file: little-endian, row-major, as ranges where they lie so."""

import sys
from collections.abc import Iterator
from typing import Any

from weighlock.dtypes import UINT8
from weighlock.errors import UnsupportedError, UnsupportedTypeError
from weighlock.measuring.pieces import check_effort, pieces, stretch_of
from weighlock.storages.assembled import AssembledSource, assembled
from weighlock.storages.copying import Generated, Progress, SourceRange
from weighlock.storages.refs import StorageRef
from weighlock.storages.sinks import Buffer, Stream
from weighlock.tensors.layout import is_contiguous
from weighlock.tensors.spec import OpaqueSpec, TensorSpec

__all__ = ["check_machine", "refused", "storage_stream", "tensor_stream"]


def check_machine() -> None:
    """Refuse a big-endian machine: what is copied as it is would be little-endian in files that say otherwise."""
    if sys.byteorder != "little":
        raise UnsupportedError("checkpoints are not converted on big-endian machines", hint="Load and save instead.")


def refused(spec: OpaqueSpec) -> UnsupportedTypeError:
    """Return the error for a tensor of a type that only the format it stands in has."""
    return UnsupportedTypeError(
        f"no other format has a form for a tensor of type {spec.kind}",
        record=spec.ref.key,
        hint="Leave it out (exclude).",
    )


def tensor_stream(spec: TensorSpec, progress: Progress | None = None, *, verify: bool = True) -> Stream:
    """Return the elements of a strided tensor in row-major order.

    Parameters
    ----------
    spec : TensorSpec
    progress : callable, optional
    verify : bool
        Check the CRC-32 of storages that have to be read as a whole.

    Raises
    ------
    LimitError
        If the view repeats the elements of its storage out of all proportion.
    """
    check_effort(spec)
    stretch = stretch_of(spec)
    if stretch is not None:
        crc = _checksum(spec.ref) if spec.nbytes == spec.ref.nbytes else None
        return SourceRange(stretch.source, stretch.offset, stretch.nbytes, crc, progress)
    if _as_it_is(spec) and is_contiguous(spec.shape, spec.stride) and assembled(spec.ref) is not None:
        return SourceRange(AssembledSource(spec.ref), spec.offset * spec.dtype.itemsize, spec.nbytes, None, progress)
    return Generated(spec.nbytes, lambda: _made(spec, progress, verify=verify))


def storage_stream(ref: StorageRef, low: int, high: int, progress: Progress | None, *, verify: bool) -> Stream:
    """Return bytes of a storage, from one to before another, with its elements turned to little-endian."""
    kind = ref.elements if ref.byteorder == "big" else UINT8
    item = kind.itemsize
    whole = TensorSpec(ref, kind, low // item, ((high - low) // item,), (1,))
    return tensor_stream(whole, progress, verify=verify)


def _as_it_is(spec: TensorSpec) -> bool:
    return spec.ref.byteorder == "little" and not spec.conj and not spec.neg


def _checksum(ref: StorageRef) -> int | None:
    reader: Any = ref.reader
    found: int | None = reader.checksum(ref) if hasattr(reader, "checksum") else None
    return found


def _made(spec: TensorSpec, progress: Progress | None, *, verify: bool) -> Iterator[Buffer]:
    for piece in pieces(spec, verify=verify, progress=progress):
        yield memoryview(piece.view("u1").data).cast("B")
