"""GGUF files, as llama.cpp writes them: tensors by name behind a header of metadata. Versions 2 and 3.

Source: the GGUF specification in the ggml project, and the block sizes of its `gguf` package 0.19. Dimensions are
listed from the fastest to the slowest; here they are row-major, as everywhere. Tensors in blocks (Q4_K and the like)
are listed with their type, and their bytes can be read; their values are not decoded.
"""

import struct
from collections.abc import Callable
from math import prod
from typing import Any, Final, NamedTuple

from weighlock.dtypes import DTYPES, DType
from weighlock.errors import DamagedError, LimitError, TruncatedError, UnsupportedError, WeighlockError
from weighlock.formats.extents import ExtentReader
from weighlock.formats.reading import Contents, Reading
from weighlock.limits import Limits
from weighlock.storages.refs import StorageRef
from weighlock.storages.source import ByteSource
from weighlock.tensors.layout import contiguous_stride, widest
from weighlock.tensors.spec import TensorSpec

__all__ = ["read"]

_VERSIONS: Final = (2, 3)
_ALIGNMENT: Final = 32
_MOST_DIMENSIONS: Final = 8  # GGML has four
_MOST_ALIGNMENT: Final = 1 << 20
_NESTING: Final = 8
_READ: Final = 1 << 16
_MOST_BYTES: Final = (1 << 63) - 1

# Name, values in a block, bytes of a block.
_TYPES: Final = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
_ROWS: Final[dict[str, DType]] = {
    "F32": DTYPES["float32"], "F16": DTYPES["float16"], "BF16": DTYPES["bfloat16"], "F64": DTYPES["float64"],
    "I8": DTYPES["int8"], "I16": DTYPES["int16"], "I32": DTYPES["int32"], "I64": DTYPES["int64"],
}  # fmt: skip

_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING: Final = 8
_ARRAY: Final = 9


class _Cursor:
    """Reads the header from its start on, in pieces that grow."""

    def __init__(self, source: ByteSource) -> None:
        self.source = source
        self.position = 4
        self.order = "<"
        self._buffer = b""
        self._base = 0
        self._ahead = _READ

    def take(self, count: int) -> bytes:
        begin = self.position - self._base
        if begin + count > len(self._buffer):
            if count > self.source.size - self.position:
                raise TruncatedError(
                    "the file ends inside of its header", expected=f"{count} bytes or more",
                    got=str(self.source.size - self.position), offset=self.position,
                    hint="It was probably cut while it was copied or downloaded: get it again.",
                )  # fmt: skip
            self._base, begin = self.position, 0
            size = min(max(self._ahead, count), self.source.size - self.position)
            self._buffer = self.source.read_at(self._base, size)
            self._ahead = min(self._ahead * 2, 64 << 20)
        self.position += count
        return self._buffer[begin : begin + count]

    def number(self, code: str) -> Any:
        (found,) = struct.unpack(self.order + code, self.take(struct.calcsize(self.order + code)))
        return found

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        """Return one value of the metadata."""
        if kind == _STRING:
            return self.text()
        code = _SCALARS.get(kind)
        if code is not None:
            return self.number(code)
        if kind != _ARRAY or depth > _NESTING:
            raise DamagedError("a value of an unknown type", got=f"type {kind}", offset=self.position)
        inner, count = self.number("I"), self.number("Q")
        code = _SCALARS.get(inner)
        if code is not None:
            raw = self.take(count * struct.calcsize(self.order + code))
            return list(struct.unpack(f"{self.order}{count}{code}", raw))
        # A string takes eight bytes or more, an array twelve: no count asks for more than the file has.
        if count * 8 > self.source.size - self.position:
            raise TruncatedError("the file ends inside of an array", got=f"{count} entries", offset=self.position)
        return [self.value(inner, depth + 1) for _ in range(count)]


class _Entry(NamedTuple):
    """A tensor as the header has it: `shape` is row-major, `offset` counts from the start of the data."""

    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class _Header(NamedTuple):
    version: int
    order: str
    metadata: dict[str, Any]
    tensors: list[_Entry]
    alignment: int
    data_start: int


def _read_header(source: ByteSource, limits: Limits) -> _Header:
    cursor = _Cursor(source)
    version = cursor.number("I")
    if version & 0xFFFF == 0:
        cursor.order = ">"
        version = int.from_bytes(version.to_bytes(4, "little"), "big")
    if version not in _VERSIONS:
        raise UnsupportedError("a GGUF file of an unknown version", expected="2 or 3", got=str(version))
    tensor_count, value_count = cursor.number("Q"), cursor.number("Q")
    if max(tensor_count, value_count) > limits.max_records:
        raise LimitError("too many entries", expected=f"at most {limits.max_records}", got=f"{tensor_count} tensors")
    metadata: dict[str, Any] = {}
    for _ in range(value_count):
        key = cursor.text()
        if key in metadata:
            raise DamagedError("a key stands twice in the metadata", got=repr(key)[:80], offset=cursor.position)
        metadata[key] = cursor.value(cursor.number("I"))
    tensors = [_entry(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= _MOST_ALIGNMENT or alignment & (alignment - 1):
        raise DamagedError("the alignment is no power of two", got=repr(alignment)[:40])
    start = cursor.position + -cursor.position % alignment
    return _Header(version, "little" if cursor.order == "<" else "big", metadata, tensors, alignment, start)


def _entry(cursor: _Cursor) -> _Entry:
    name, dimensions = cursor.text(), cursor.number("I")
    if dimensions > _MOST_DIMENSIONS:
        raise DamagedError("a tensor with too many dimensions", got=str(dimensions), object_path=name)
    fastest_first = [cursor.number("Q") for _ in range(dimensions)]
    number, offset = cursor.number("I"), cursor.number("Q")
    if number not in _TYPES:
        raise UnsupportedError("a tensor of an unknown type", got=f"GGML type {number}", object_path=name)
    kind, block, size = _TYPES[number]
    if widest(fastest_first) > _MOST_BYTES >> 4:
        raise DamagedError("a tensor's shape is larger than any memory", object_path=name)
    count = prod(fastest_first)
    if (fastest_first[0] if fastest_first else 1) % block:
        raise DamagedError(f"rows of {kind} that do not fill whole blocks", got=str(fastest_first), object_path=name)
    return _Entry(name, kind, tuple(reversed(fastest_first)), offset, count // block * size)


def _check_places(header: _Header, size: int) -> None:
    """Refuse tensors that lie on each other or outside of the file."""
    end, before = 0, ""
    for entry in sorted(header.tensors, key=lambda entry: (entry.offset, entry.nbytes)):
        if entry.offset < end and entry.nbytes:
            raise DamagedError(f"a tensor lies on another one, {before}", object_path=entry.name)
        if entry.offset % header.alignment:
            raise DamagedError("a tensor is not aligned", expected=f"a multiple of {header.alignment}",
                               got=str(entry.offset), object_path=entry.name)  # fmt: skip
        end, before = entry.offset + entry.nbytes, entry.name
        if header.data_start + end > size:
            raise TruncatedError(
                "the file ends before its last tensor", expected=f"{header.data_start + end} bytes or more",
                got=str(size), object_path=entry.name,
                hint="It was probably cut while it was copied or downloaded: get it again.",
            )  # fmt: skip


def read(source: ByteSource, reading: Reading) -> Contents:
    """Read a GGUF file as a dictionary of tensors, in the order of the header.

    Raises
    ------
    DamagedError
        If the header is malformed, or its tensors lie outside of the file or on each other.
    UnsupportedError
        If its version or a type is unknown.
    """
    try:
        header = _read_header(source, reading.limits)
        _check_places(header, source.size)
    except (ValueError, struct.error) as error:
        if isinstance(error, WeighlockError):
            raise
        raise DamagedError(f"the header is malformed: {error}", path=source.name) from error
    tensors, leaves = ExtentReader(source), reading.leaves
    made: dict[str, Any] = {}
    storages: dict[str, StorageRef] = {}
    for name, kind, shape, offset, nbytes in header.tensors:
        if name in made:
            raise DamagedError("a tensor stands twice in the header", object_path=name)
        row = _ROWS.get(kind)
        dtype = row or DTYPES["uint8"]
        ref = StorageRef(
            name, dtype, nbytes // dtype.itemsize, "cpu", tensors, name, header.data_start + offset, header.order
        )
        storages[name] = ref
        if row is None:
            made[name] = leaves.opaque(kind, shape, ref)
        else:
            made[name] = leaves.tensor(TensorSpec(leaves.storage(ref), row, 0, shape, contiguous_stride(shape)))
    return Contents(made, "gguf", source.size, _notes(header), storages)


def _notes(header: _Header) -> Callable[[], dict[str, Any]]:
    return lambda: {
        "version": header.version, "byteorder": header.order, "alignment": header.alignment,
        "metadata": dict(header.metadata),
    }  # fmt: skip
