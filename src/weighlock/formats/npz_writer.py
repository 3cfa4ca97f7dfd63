"""Writing .npz archives, which NumPy reads without ``allow_pickle``.

Members are stored, not deflated; the arrays in them begin at multiples of 64 bytes. Each member's bytes are those that
`numpy.save` writes. Types that NumPy itself does not have become raw bytes of their size, as there.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from struct import Struct
from typing import Final, NamedTuple

from weighlock.dtypes import DType
from weighlock.errors import SaveError
from weighlock.storages.checksum import crc32
from weighlock.storages.sinks import Buffer, GatheringSink, Sink, Stream
from weighlock.tensors.flat import FlatLeaf

__all__ = ["Member", "check_npz_names", "has_npy_code", "npy_header", "write_members", "write_npz"]

_ALIGNMENT: Final = 64
_FULL: Final = 0xFFFFFFFF
# UTF-8 names, and sizes and checksum behind the data; made on the first day that zip knows.
_FLAGS: Final = 0x0808
_DATE: Final = 0x21
# NumPy leaves room in the header for the first dimension to grow.
_GROWTH: Final = 21

_LOCAL: Final = Struct("<4sHHHHHIIIHH").pack
_ENTRY: Final = Struct("<4sHHHHHHIIIHHHHHII").pack
_DESCRIPTOR: Final = Struct("<4sIQQ").pack
_SHORT_DESCRIPTOR: Final = Struct("<4sIII").pack
_END64: Final = Struct("<4sQHHIIQQQQ").pack
_LOCATOR: Final = Struct("<4sIQI").pack
_END: Final = Struct("<4sHHHHIIH").pack

_CODES: Final = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "int64": "<i8", "int32": "<i4", "int16": "<i2",
    "int8": "|i1", "uint8": "|u1", "uint16": "<u2", "uint32": "<u4", "uint64": "<u8", "bool": "|b1",
    "complex64": "<c8", "complex128": "<c16",
}  # fmt: skip


def has_npy_code(dtype: DType) -> bool:
    """Whether NumPy itself has this element type: others become raw bytes, whose meaning is lost."""
    return dtype.name in _CODES


def npy_header(dtype: DType, shape: tuple[int, ...]) -> bytes:
    """Return what stands before the elements of a row-major array.

    Examples
    --------
    >>> from weighlock import dtype
    >>> npy_header(dtype("float32"), (2, 3))[10:70]
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), } "
    """
    code = _CODES.get(dtype.name) or f"{'|' if dtype.itemsize == 1 else '<'}V{dtype.itemsize}"
    text = f"{{'descr': '{code}', 'fortran_order': False, 'shape': {shape!r}, }}"
    text += " " * (_GROWTH - len(repr(shape[0])) if shape else 0)
    text += " " * (-(len(text) + 11) % _ALIGNMENT) + "\n"
    return b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text.encode()


def check_npz_names(names: list[str]) -> list[bytes]:
    """Return the names of the members; `SaveError` where an archive cannot have one."""
    found = []
    for name in names:
        try:
            encoded = f"{name}.npy".encode()
        except UnicodeEncodeError as error:
            raise SaveError("a name is no valid Unicode text, and zip has no form for it") from error
        if b"\0" in encoded or not name or name.startswith("/") or len(encoded) > 0xFFFF:
            raise SaveError("a zip archive cannot have a member of this name", got=repr(name)[:80])
        found.append(encoded)
    return found


class Member(NamedTuple):
    """A member of an archive.

    Attributes
    ----------
    name : bytes
    method : int
        0 where its bytes are stored, 8 where they are deflated.
    size : int
        Unpacked.
    packed : int
        In the archive.
    crc : int or None
        Of the unpacked bytes; None where it is worked out from the pieces, which are those bytes then.
    pieces : callable
        Returns its bytes as they are in the archive, piece by piece.
    """

    name: bytes
    method: int
    size: int
    packed: int
    crc: int | None
    pieces: Callable[[], Iterator[Buffer | Stream]]


def write_npz(sink: Sink, leaves: Mapping[str, FlatLeaf]) -> None:
    """Write an archive; the names were checked."""
    write_members(sink, (_member(*item) for item in zip(check_npz_names(list(leaves)), leaves.values(), strict=True)))


def _member(name: bytes, leaf: FlatLeaf) -> Member:
    head = npy_header(leaf.dtype, leaf.shape)
    size = len(head) + leaf.nbytes
    return Member(name, 0, size, size, None, lambda: chain((head,), leaf.pieces()))


def write_members(sink: Sink, members: Iterable[Member]) -> None:
    """Write an archive of these members, their data at multiples of 64 bytes."""
    archive = GatheringSink(sink)
    offset = 0
    entries = []
    for member in members:
        name, packed, size = member.name, member.packed, member.size
        padding = -(offset + 30 + len(name) + 4) % _ALIGNMENT
        extra = b"FB" + padding.to_bytes(2, "little") + bytes(padding)
        fields = (20, _FLAGS, member.method, 0, _DATE, 0, 0, 0, len(name), len(extra))
        archive.write(_LOCAL(b"PK\3\4", *fields) + name + extra)
        crc = 0
        for piece in member.pieces():
            for part in piece.pieces() if isinstance(piece, Stream) else (piece,):
                crc = crc32(part, crc) if member.crc is None else member.crc
                archive.write(bytes(part) if part is not piece else part)
        wide = max(size, packed, offset) >= _FULL
        tail = (_DESCRIPTOR if wide else _SHORT_DESCRIPTOR)(b"PK\7\x08", crc, packed, size)
        archive.write(tail)
        entries.append(_entry(member, offset, crc))
        offset += 30 + len(name) + len(extra) + packed + len(tail)
    directory = b"".join(entries)
    archive.write(directory)
    archive.write(_ending(len(entries), len(directory), offset))
    archive.flush()


def _entry(member: Member, offset: int, crc: int) -> bytes:
    extra, name = b"", member.name
    if max(member.size, member.packed, offset) >= _FULL:
        numbers = (member.size, member.packed, offset)
        extra = b"\1\0\x18\0" + b"".join(number.to_bytes(8, "little") for number in numbers)
    packed, size, place = (_FULL,) * 3 if extra else (member.packed, member.size, offset)
    version = 45 if extra else 20
    return _ENTRY(
        b"PK\1\2", version, version, _FLAGS, member.method, 0, _DATE, crc, packed, size, len(name), len(extra), 0, 0,
        0, 0, place,
    ) + name + extra  # fmt: skip


def _ending(count: int, size: int, offset: int) -> bytes:
    end64 = b""
    if count >= 0xFFFF or size >= _FULL or offset >= _FULL:
        end64 = _END64(b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)
        end64 += _LOCATOR(b"PK\6\7", 0, offset + size, 1)
    shown = min(count, 0xFFFF)
    return end64 + _END(b"PK\5\6", 0, 0, shown, shown, min(size, _FULL), min(offset, _FULL), 0)
