"""The zip archive of `torch.save` in PyTorch 2.13, byte for byte but for its root folder and its serialization id.

Where every byte goes follows from the names and sizes of the records alone, so the whole file is planned, and its space
reserved, before the first byte is written. In a file that can be written in any order, two threads share the large
records: while one writes a piece, the other computes the checksum of its own. Checksums stand behind the data and in
the directory.

PyTorch names the root folder after the file. Here it is always ``archive``, which is PyTorch's own name for files
without one, and the id is made of the records' names and checksums: the same records make the same file.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from weighlock.formats.zip_layout import LIMIT, Layout, directory, ending, local_header, short_head, trailer
from weighlock.storages.checksum import crc32, crc32_combine
from weighlock.storages.copying import PAGE, SourceRange, scratch
from weighlock.storages.plan import Task, run_in_order
from weighlock.storages.sinks import GATHER_UP_TO, RUN, Buffer, Sink, StorageRecords, Stream

__all__ = ["ALIGNMENT", "ZipForm", "write_zip"]

ALIGNMENT: Final = 64
_ROOT: Final = b"archive/"

# Large records are written in pieces that are still in the processor's cache after their checksum was computed, and
# that end where a page of the file ends.
_PIECE: Final = 1 << 20
# One thread writes at a time, as file systems have it; the other checks. A third has nothing to do.
_THREADS: Final = 2
_WORTH_THREADS: Final = 8 << 20
# Smaller data are copied, which takes less time than another part of a write.
_WORTH_NO_COPY: Final = 4 << 10
_ID_SIZE: Final = 40


class ZipForm(NamedTuple):
    """How an archive is written.

    Attributes
    ----------
    byteorder_record : bool
        Whether ``byteorder`` stands in its usual place; otherwise it comes last, as PyTorch writes it then.
    alignment : int
        The data of every record begin at a multiple of so many bytes.
    checksums : bool
        Without, every CRC-32 is 0, which says that there is none.
    byteorder : str
        What the record says of the storages' bytes: this machine's order, except where they were copied from a file.
    """

    byteorder_record: bool = True
    alignment: int = ALIGNMENT
    checksums: bool = True
    byteorder: str = sys.byteorder


_USUAL_FORM: Final = ZipForm()


def write_zip(sink: Sink, pickle: bytes, storages: StorageRecords, form: ZipForm = _USUAL_FORM) -> list[int]:
    """Write a checkpoint: its pickle and its storages.

    Parameters
    ----------
    sink : Sink
    pickle : bytes
        The record ``data.pkl``.
    storages : StorageRecords
        The records ``data/0``, ``data/1`` ...
    form : ZipForm

    Returns
    -------
    list of int
        The CRC-32 of each storage, as it was read; 0 where none was computed.
    """
    byteorder = (b"byteorder", form.byteorder.encode())
    before = [
        (b"data.pkl", pickle), (b".format_version", b"1"), (b".storage_alignment", b"%d" % form.alignment),
        *([byteorder] if form.byteorder_record else []),
    ]  # fmt: skip
    behind = [
        (b"version", b"3\n"), *([] if form.byteorder_record else [byteorder]),
        (b".data/serialization_id", bytes(_ID_SIZE)),
    ]  # fmt: skip
    archive = _Archive(sink, before, storages, behind, form)
    archive.write()
    return archive.checksums[len(before) : len(before) + len(storages.sizes)]


Records = list[tuple[bytes, bytes]]


class _Archive:
    """An archive being written: the records before the storages, the storages, and the records behind them."""

    def __init__(self, sink: Sink, before: Records, storages: StorageRecords, behind: Records, form: ZipForm) -> None:
        self._sink = sink
        self._before, self._storages, self._behind = before, storages, behind
        self._form = form
        names = [_ROOT + name for name, _ in before]
        names += [b"archive/data/%d" % index for index in range(len(storages.sizes))]
        names += [_ROOT + name for name, _ in behind]
        sizes = [*(len(data) for _, data in before), *storages.sizes, *(len(data) for _, data in behind)]
        places = {len(before) + index: place for index, place in storages.places.items()}
        self._layout = Layout(names, sizes, form.alignment, places)
        self.checksums = [0] * len(names)
        self._pieces: dict[int, list[tuple[int, int]]] = {}  # of each large record: checksum and length of its pieces

    def write(self) -> None:
        """Write the whole file."""
        if self._storages.buffer is not None:  # room that is left takes no space
            self._sink.reserve(self._layout.total)
        run_in_order(self._tasks(), self._threads())
        for index in self._pieces:
            self.checksums[index] = self._combined(index)
            if self._sink.at_random:
                end = self._layout.starts[index] + self._layout.sizes[index]
                self._sink.write_at(end, self._trailer(index))
        self._finish()

    def _threads(self) -> int:
        storages = self._storages
        if not self._sink.at_random or not storages.any_thread or storages.buffer is None:
            return 1
        large = sum(size for size in storages.sizes if size > GATHER_UP_TO)
        return min(_THREADS, os.cpu_count() or 1) if large > _WORTH_THREADS else 1

    def _data(self) -> Iterator[Buffer | Stream | None]:
        """Yield the data of each record but the last, when it is its turn; None where room is left for them."""
        for _, data in self._before:
            yield data
        buffer = self._storages.buffer
        for index, size in enumerate(self._storages.sizes):
            stored = None if buffer is None else buffer(index)
            if stored is not None and len(stored) != size:
                raise AssertionError(f"storage {index} has {len(stored)} bytes instead of {size}")
            yield stored
        for _, data in self._behind[:-1]:
            yield data

    # Reason for the length: the one loop over all records; a call per record would double its time.
    def _tasks(self) -> Iterator[tuple[int, Task]]:
        """Yield what is to be written, in the order of the file: runs of small records, pieces of large ones."""
        layout, checksums = self._layout, self.checksums
        crc_of = crc32 if self._form.checksums else _no_crc
        run, begin = _Run(), 0
        for index, data in enumerate(self._data()):
            name, size = layout.names[index], layout.sizes[index]
            offset, start = layout.offsets[index], layout.starts[index]
            small = run.small
            if size and start < LIMIT and size < LIMIT:
                first, last = short_head(len(name), start - offset)
                small += (first, name, last)
            else:
                small.append(local_header(name, offset, size, start))
            if data is not None and size <= GATHER_UP_TO:
                held = data.read() if isinstance(data, Stream) else data
                crc = checksums[index] = crc_of(held)
                if size > _WORTH_NO_COPY:
                    run.add(held)
                    small = run.small
                    small.append(trailer(offset, size, crc))
                else:
                    small += (held, trailer(offset, size, crc))
                if layout.offsets[index + 1] - begin > RUN:
                    yield begin, self._write(begin, run.parts())
                    run, begin = _Run(), layout.offsets[index + 1]
                continue
            yield begin, self._write(begin, run.parts())
            run, begin = _Run(), layout.offsets[index + 1]
            if data is None:
                end = start + size
                yield end, self._write(end, [trailer(offset, size, 0)])
                continue
            yield from self._large(index, data) if not isinstance(data, Stream) else self._streamed(index, data)
            if not self._sink.at_random:  # all its pieces are written by now
                checksums[index] = self._combined(index)
                run.small.append(self._trailer(index))
                begin = start + size
        yield begin, self._write(begin, run.parts())

    def _write(self, offset: int, parts: list[Buffer]) -> Task:
        return lambda: self._sink.write_parts_at(offset, parts)

    def _large(self, index: int, data: Buffer) -> Iterator[tuple[int, Task]]:
        start, size, view = self._layout.starts[index], self._layout.sizes[index], memoryview(data)
        pieces = self._pieces[index] = []
        begin = 0
        while begin < size:
            end = min(begin + _PIECE - (start + begin) % PAGE, size)
            pieces.append((0, end - begin))
            yield start + begin, self._piece(pieces, start + begin, view[begin:end])
            begin = end

    def _piece(self, pieces: list[tuple[int, int]], offset: int, data: memoryview) -> Task:
        place = len(pieces) - 1

        def task() -> None:
            if self._form.checksums:
                pieces[place] = (crc32(data), len(data))
            self._sink.write_at(offset, data)

        return task

    def _streamed(self, index: int, data: Stream) -> Iterator[tuple[int, Task]]:
        """Yield what writes a large record that is not in memory."""
        start, pieces = self._layout.starts[index], self._pieces.setdefault(index, [])
        known = not self._form.checksums or data.crc is not None
        if known or not isinstance(data, SourceRange):
            yield start, self._copied(pieces, start, data)
            return
        step = max(data.piece_size, _PIECE)
        for begin in range(0, len(data), step):
            pieces.append((0, min(step, len(data) - begin)))
            yield start + begin, self._moved(pieces, start, begin, data)

    def _moved(self, pieces: list[tuple[int, int]], start: int, begin: int, data: SourceRange) -> Task:
        """Return what reads a piece, checks it, and writes it."""
        place, step = len(pieces) - 1, data.piece_size

        def task() -> None:
            crc, end = 0, begin + pieces[place][1]
            for low in range(begin, end, step):
                bite = scratch(min(step, end - low))
                data.read_into(low, bite)
                crc = crc32(bite, crc)
                self._sink.write_at(start + low, bite)
            pieces[place] = (crc, end - begin)

        return task

    def _copied(self, pieces: list[tuple[int, int]], start: int, data: Stream) -> Task:
        """Return what writes a record whose checksum is known, or that can be made from its start only."""

        def task() -> None:
            if data.crc is not None or not self._form.checksums:
                data.copy_to(self._sink, start)
                pieces.append((data.crc or 0, len(data)))
                return
            crc = done = 0
            for piece in data.pieces():
                crc = crc32(piece, crc)
                self._sink.write_at(start + done, piece)
                done += len(piece)
            pieces.append((crc, done))

        return task

    def _combined(self, index: int) -> int:
        """Return the checksum of a large record whose pieces are written."""
        crc = 0
        for checksum, length in self._pieces[index] if self._form.checksums else ():
            crc = crc32_combine(crc, checksum, length)
        return crc

    def _trailer(self, index: int) -> bytes:
        return trailer(self._layout.offsets[index], self._layout.sizes[index], self.checksums[index])

    def _finish(self) -> None:
        """Write what follows from the checksums: the last record, the directory and its end."""
        layout, checksums = self._layout, self.checksums
        name, offset = layout.names[-1], layout.offsets[-1]
        data = _serialization_id(layout.names[:-1], checksums[:-1])
        checksums[-1] = crc = crc32(data) if self._form.checksums else 0
        entries = directory(layout, checksums)
        self._sink.write_at(offset, b"".join((
            local_header(name, offset, len(data), layout.starts[-1]), data, trailer(offset, len(data), crc),
            entries, ending(len(layout.names), len(entries), layout.end),
        )))  # fmt: skip


class _Run:
    """What is written in one go: small parts are joined, others stay where they lie."""

    __slots__ = ("_parts", "small")

    def __init__(self) -> None:
        self._parts: list[Buffer] = []
        self.small: list[Buffer] = []

    def add(self, data: Buffer) -> None:
        self._parts += (b"".join(self.small), data)
        self.small = []

    def parts(self) -> list[Buffer]:
        return [*self._parts, b"".join(self.small)]


def _no_crc(data: Buffer, crc: int = 0) -> int:
    return 0


def _serialization_id(names: Sequence[bytes], checksums: Sequence[int]) -> bytes:
    """Return 40 digits: 20 that follow from the names of all records, 20 from their checksums."""
    try:
        from _blake2 import blake2b  # hashlib would load OpenSSL beside it, which takes 4 MB and as many milliseconds
    except ImportError:
        from hashlib import blake2b

    digits = b""
    for material in (b"\n".join(names), b"".join(crc.to_bytes(4, "little") for crc in checksums)):
        digits += b"%020d" % int.from_bytes(blake2b(material, digest_size=8).digest(), "little")
    return digits
