"""The entries of a zip archive's directory as columns: split, decoded, widened to 64 bits. Nothing is judged here."""

from functools import lru_cache
from struct import Struct
from typing import Any, Final

from weighlock.errors import DirectoryError
from weighlock.formats.zip_end import EndRecord
from weighlock.formats.zip_remains import LOCAL_SIZE

__all__ = ["Entries", "entry_struct", "extra_field", "zip64_fields"]

_ENTRY_MARK: Final = b"PK\x01\x02"
_FULL32: Final = 0xFFFFFFFF
_UTF8: Final = 0x0800
_ZIP64: Final = b"\x01\x00"
_FIRST_RUN: Final = 4
_LONGEST_RUN: Final = 128


@lru_cache(maxsize=256)
def entry_struct(layout: bytes) -> Struct:
    """Return the form of an entry whose name, extra and comment lengths are these six bytes."""
    name, extra, comment = (int.from_bytes(layout[at : at + 2], "little") for at in (0, 2, 4))
    return Struct(f"<4s4x2H4x3I6sH2x2I{name}s{extra}s{comment}x")


class Entries:
    """The directory's entries as columns, one list per field.

    Columns, because checks over whole lists run in C: 20,000 records take a third of the time of a loop over them.
    """

    __slots__ = ("attributes", "crcs", "disks", "extras", "flags", "header_sizes", "methods", "names", "offsets",
                 "packed", "raw_names", "sizes")  # fmt: skip

    def __init__(self, raw: bytes, end: EndRecord) -> None:
        columns = _read_columns(raw, end.offset)
        if len(columns[0]) != end.entries:
            got = f"{len(columns[0])} in the directory, {end.entries} in the end record"
            raise DirectoryError("the end record counts other entries", got=got, offset=end.position)
        (_, self.flags, self.methods, self.crcs, self.packed, self.sizes, self.header_sizes, self.disks,
         self.attributes, self.offsets, self.raw_names, self.extras) = columns  # fmt: skip
        self.names = _decode_names(self.raw_names, self.flags)
        if _FULL32 in self.sizes or _FULL32 in self.packed or _FULL32 in self.offsets:
            self._widen()

    def _widen(self) -> None:
        """Take the fields that do not fit into 32 bits from the zip64 extra field."""
        for index, name in enumerate(self.names):
            narrow = [self.sizes[index], self.packed[index], self.offsets[index]]
            if _FULL32 in narrow:
                wide = iter(zip64_fields(self.extras[index]))
                try:
                    values = [next(wide) if value == _FULL32 else value for value in narrow]
                except StopIteration:
                    raise DirectoryError("sizes of 4 GiB without their zip64 field", record=name) from None
                self.sizes[index], self.packed[index], self.offsets[index] = values


def _read_columns(raw: bytes, base: int) -> list[list[Any]]:
    """Split the directory, which stands at `base`, into columns: runs of entries of one form are unpacked together."""
    columns: list[list[Any]] = [[] for _ in range(12)]
    position, run = 0, _FIRST_RUN
    while position < len(raw):
        layout = raw[position + 28 : position + 34]
        entry = entry_struct(layout) if len(layout) == 6 else None
        if entry is None or position + entry.size > len(raw):
            got = f"entry {len(columns[0]) + 1}"
            raise DirectoryError("the directory ends inside an entry", got=got, offset=base + position)
        stop = position + entry.size * min(run, (len(raw) - position) // entry.size)
        chunk = list(zip(*entry.iter_unpack(raw[position:stop]), strict=True))
        good = _matching(chunk[0], chunk[6], layout)
        if not good:
            got = f"entry {len(columns[0]) + 1}"
            raise DirectoryError("an entry of the directory has a wrong signature", got=got, offset=base + position)
        run = min(run * 4, _LONGEST_RUN) if good == len(chunk[0]) else _FIRST_RUN
        chunk[6] = (LOCAL_SIZE + int.from_bytes(layout[:2], "little"),) * good
        for column, values in zip(columns, chunk, strict=True):
            column.extend(values[:good])
        position += good * entry.size
    return columns


def _matching(marks: tuple[bytes, ...], layouts: tuple[bytes, ...], layout: bytes) -> int:
    """Return how many entries from the first on are entries of this layout; the others were unpacked wrongly."""
    if marks.count(_ENTRY_MARK) == layouts.count(layout) == len(marks):
        return len(marks)
    good = 0
    while marks[good] == _ENTRY_MARK and layouts[good] == layout:
        good += 1
    return good


def _decode_names(raw_names: list[bytes], flags: list[int]) -> list[str]:
    joined = b"\0".join(raw_names)
    if joined.count(b"\0") != max(len(raw_names) - 1, 0):
        bad = next(raw for raw in raw_names if b"\0" in raw)
        raise DirectoryError("a record's name holds a NUL byte", record=bad.decode("latin1"))
    if not raw_names:
        return []
    if joined.isascii():
        return joined.decode("ascii").split("\0")
    # Names are only keys: what is no UTF-8 stays distinct as surrogates, which `safe_text` escapes.
    return [
        raw.decode("utf-8", "surrogateescape") if flag & _UTF8 else raw.decode("cp437")
        for raw, flag in zip(raw_names, flags, strict=True)
    ]


def zip64_fields(extra: bytes) -> tuple[int, ...]:
    """Return the 64-bit numbers of the zip64 extra field."""
    body = extra_field(extra, _ZIP64) or b""
    return tuple(int.from_bytes(body[at : at + 8], "little") for at in range(0, len(body) - 7, 8))


def extra_field(extra: bytes, kind: bytes) -> bytes | None:
    """Return the first extra field of this kind."""
    position = 0
    while position + 4 <= len(extra):
        length = int.from_bytes(extra[position + 2 : position + 4], "little")
        if extra[position : position + 2] == kind:
            return extra[position + 4 : position + 4 + length]
        position += 4 + length
    return None
