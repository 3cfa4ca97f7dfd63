"""A zip archive as a list of stretches: headers, alignment, data, descriptors, the directory, the end."""

from collections.abc import Iterator
from typing import Final

from weighlock.formats.layout import LayoutRow
from weighlock.formats.zip_directory import ZipDirectory, ZipRecord, data_offsets
from weighlock.formats.zip_remains import LOCAL_SIZE
from weighlock.storages.ranges import RangedSource
from weighlock.storages.source import ByteSource

__all__ = ["zip_rows"]

_HAS_DESCRIPTOR: Final = 0x8
_DESCRIPTORS: Final = (16, 24, 12)  # with 64-bit sizes; without the mark, which is optional


def zip_rows(source: ByteSource, directory: ZipDirectory, storages: frozenset[str]) -> Iterator[LayoutRow]:
    """Yield the stretches of an archive. Where data begin is read from each record's local header.

    Parameters
    ----------
    storages : frozenset of str
        The names of the records that hold storages.
    """
    if isinstance(source, RangedSource):
        source.prefetch([(record.header_offset, LOCAL_SIZE + len(record.raw_name)) for record in directory.records])
    for record, begin in zip(directory.records, data_offsets(directory.records, source), strict=True):
        yield from _record_rows(record, begin, storages)
    start = directory.start_of_directory
    yield LayoutRow("directory", "", start, directory.nbytes)
    yield LayoutRow("end", "", start + directory.nbytes, directory.end - start - directory.nbytes)


def _record_rows(record: ZipRecord, begin: int, storages: frozenset[str]) -> Iterator[LayoutRow]:
    name = record.name
    header = LOCAL_SIZE + len(record.raw_name)
    yield LayoutRow("header", name, record.header_offset, header)
    # The extra field: PyTorch fills it so that the data begin at a multiple of 64 bytes.
    yield LayoutRow("padding", name, record.header_offset + header, begin - record.header_offset - header)
    kind = "data" if name in storages else "pickle" if name.endswith(".pkl") else "record"
    yield LayoutRow(kind, name, begin, record.compressed_size)
    behind = begin + record.compressed_size
    if record.flags & _HAS_DESCRIPTOR and record.end - behind in _DESCRIPTORS:
        yield LayoutRow("descriptor", name, behind, record.end - behind)
