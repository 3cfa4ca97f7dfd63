"""The bytes that are kept, on their way from the damaged file to the new one."""

import mmap
from collections.abc import Callable, Sequence
from typing import Any

from weighlock.errors import UnsupportedError
from weighlock.formats.zip_proving import Found, inflated
from weighlock.storages.sinks import StorageRecords
from weighlock.storages.source import ByteSource

__all__ = ["kept_records", "stretch"]


def kept_records(source: ByteSource, founds: Sequence[Found], progress: Callable[[int], object]) -> StorageRecords:
    """Return the storages that are kept, each read when it is its turn: mapped where that can be."""
    whole = _mapped(source)

    def buffer(index: int) -> Any:
        found = founds[index]
        progress(found.size)
        if found.method:
            return inflated(source, found)
        return stretch(source, whole, found.start, found.size)

    return StorageRecords([found.size for found in founds], buffer, any_thread=False)


def _mapped(source: ByteSource) -> memoryview | None:
    try:
        return source.map(mmap.ACCESS_READ)
    except UnsupportedError:
        return None


def stretch(source: ByteSource, whole: memoryview | None, start: int, size: int) -> Any:
    """Return bytes of a file, without a copy where it is mapped."""
    if not size:
        return b""
    return source.read_at(start, size) if whole is None else whole[start : start + size]
