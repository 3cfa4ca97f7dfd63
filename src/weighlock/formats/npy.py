"""NumPy's own files: ``.npy`` holds one array, ``.npz`` is a zip archive of them.

Source: NumPy's `numpy.lib.format`, versions 1.0 to 3.0. The header is a Python dictionary of three entries; it is read
by a pattern, and nothing of it is evaluated. Arrays of types that PyTorch has become tensors; text, dates and raw bytes
stay what they are. Structured and object arrays are refused: an object array is a pickle.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from weighlock.dtypes import DTYPES, DType
from weighlock.errors import DamagedError, LimitError, TensorBoundsError, UnsupportedError, WeighlockError
from weighlock.formats.extents import ExtentReader
from weighlock.formats.npz_records import read_members
from weighlock.formats.reading import Contents, Reading
from weighlock.formats.zip_directory import ZipDirectory, ZipRecord, data_offset
from weighlock.formats.zip_records import first_bytes
from weighlock.limits import Limits
from weighlock.storages.refs import Extent, StorageRef, Window
from weighlock.storages.source import ByteSource
from weighlock.tensors.layout import contiguous_stride, widest
from weighlock.tensors.spec import TensorSpec
from weighlock.text import brief

__all__ = ["NpyHeader", "parse_header", "read_npy", "read_npz"]

_MAGIC: Final = b"\x93NUMPY"

# Enough for nearly every header; NumPy's own are 118 bytes long.
_USUAL: Final = 192
_LONGEST: Final = 1 << 16
_MOST_BYTES: Final = (1 << 63) - 1
_MOST_DIGITS: Final = 19

_NAMES: Final = {
    "b1": "bool", "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64", "u1": "uint8", "u2": "uint16",
    "u4": "uint32", "u8": "uint64", "f2": "float16", "f4": "float32", "f8": "float64", "c8": "complex64",
    "c16": "complex128",
}  # fmt: skip
_FIELD: Final = re.compile(
    r"""\s*['"](\w{1,20})['"]\s*:\s*(?:(?P<truth>True|False)|\((?P<shape>[\d\sL,]*)\)|['"](?P<code>[^'"]*)['"])\s*,?"""
)
_CODE: Final = re.compile(
    r"[<>|=]?(?:(?P<kind>b1|[iu][1248]|f[248]|c8|c16)|(?P<long>f12|f16|c24|c32)|(?P<text>[USVa])(?P<width>\d{1,9})"
    r"|(?P<date>[mM]8(?:\[\d{0,9}[A-Za-z]{1,2}\]|\[generic\])?)|(?P<objects>O\d?))"
)


class NpyHeader(NamedTuple):
    """What an array is: `row` is its element type where PyTorch has it, `code` is NumPy's own name of it."""

    code: str
    row: DType | None
    itemsize: int
    shape: tuple[int, ...]
    fortran: bool
    data_start: int

    @property
    def nbytes(self) -> int:
        """The bytes of its elements."""
        count = self.itemsize
        for length in self.shape:
            count *= length
        return count

    @property
    def stride(self) -> tuple[int, ...]:
        """Its strides in elements."""
        if not self.fortran:
            return contiguous_stride(self.shape)
        return tuple(reversed(contiguous_stride(tuple(reversed(self.shape)))))


def header_length(head: bytes) -> int:
    """Return how many bytes stand before the data; `head` is the first twelve or more bytes."""
    if head[:6] != _MAGIC or len(head) < 12:
        raise DamagedError("no NumPy array: its first bytes are others", got=repr(head[:8]))
    if head[6] not in (1, 2, 3):
        raise UnsupportedError("an .npy file of an unknown version", expected="1 to 3", got=f"{head[6]}.{head[7]}")
    wide = 2 if head[6] == 1 else 4
    length = 8 + wide + int.from_bytes(head[8 : 8 + wide], "little")
    if length > _LONGEST:
        raise LimitError("the header of a NumPy array is too long", expected=f"at most {_LONGEST}", got=str(length))
    return length


def parse_header(head: bytes, limits: Limits) -> NpyHeader:
    """Return what the header of an array says; `head` is the whole of it, and may be more.

    Raises
    ------
    DamagedError
        If it is malformed.
    UnsupportedError
        If the array is structured, or holds Python objects.
    """
    length = header_length(head)
    text = head[10 if head[6] == 1 else 12 : length].decode("utf-8" if head[6] == 3 else "latin-1", "replace").strip()
    fields = _fields(text)
    truth, shape, code = (fields[name] for name in ("fortran_order", "shape", "descr"))
    parts = re.findall(r"\d+", shape["shape"] or "")
    known = truth["truth"] is not None and shape["shape"] is not None and code["code"] is not None
    if not known or any(len(part) > _MOST_DIGITS for part in parts):
        raise DamagedError("the header of a NumPy array is malformed", got=text[:80])
    lengths = tuple(map(int, parts))
    if len(lengths) > limits.max_dimensions:
        raise LimitError("the array has too many dimensions", got=str(len(lengths)))
    found = _element(code["code"])
    made = NpyHeader(*found, lengths, truth["truth"] == "True", length)
    if widest(lengths) * max(made.itemsize, 1) > _MOST_BYTES:
        raise DamagedError("an array's shape is larger than any memory", got=str(lengths)[:80])
    return made


def _fields(text: str) -> Mapping[str, Any]:
    if re.search(r"""['"]descr['"]\s*:\s*[\[(]""", text):
        raise UnsupportedError("a structured NumPy array has no form here", hint="Read it with numpy.load(path).")
    found: dict[str, Any] = {}
    position = 1
    while match := _FIELD.match(text, position):
        if match[1] in found:
            break
        found[match[1]] = match
        position = match.end()
    if text[:1] != "{" or text[position:].strip() != "}" or found.keys() != {"descr", "fortran_order", "shape"}:
        raise DamagedError("the header of a NumPy array is malformed", got=text[:80])
    return found


def _element(code: str) -> tuple[str, DType | None, int]:
    match = _CODE.fullmatch(code)
    if match is None:
        raise UnsupportedError("a NumPy array of an unknown type", got=brief(code))
    if match["objects"]:
        raise UnsupportedError(
            "a NumPy array of Python objects is a pickle, and can run any code when NumPy reads it",
            hint="Save the values as arrays of numbers, or as text.",
        )
    if match["kind"]:
        row = DTYPES[_NAMES[match["kind"]]]
        return code, row, row.itemsize
    if match["text"]:
        return code, None, int(match["width"]) * (4 if match["text"] == "U" else 1)
    return code, None, 8 if match["date"] else int(match["long"][1:])


# ---------------------------------------------------------------------------------------------------- one array


def _array(header: NpyHeader, ref: StorageRef, reading: Reading) -> Any:
    """Return what the reading makes of an array; `ref` holds its bytes."""
    leaves = reading.leaves
    if header.row is not None:
        return leaves.tensor(TensorSpec(leaves.storage(ref), header.row, 0, header.shape, header.stride))
    if header.nbytes > reading.limits.max_pickle_bytes:
        raise LimitError("an array of text or dates is too large", got=f"{header.nbytes} bytes", object_path=ref.key)
    whole = bytearray(header.nbytes)
    if ref.reader is not None and whole:
        ref.reader.read([(ref, memoryview(whole))], verify=reading.verify)
    leaves.allow_work(len(whole))
    kind = leaves.numpy_dtype(header.code)
    return leaves.build(leaves.numpy_array(), (1, header.shape, kind, header.fortran, bytes(whole)))


def _ref(key: str, header: NpyHeader, reader: Any, handle: Any) -> StorageRef:
    row = header.row or DTYPES["uint8"]
    order = "big" if header.code[:1] == ">" else "little"
    return StorageRef(key, row, header.nbytes // row.itemsize, "cpu", reader, key, handle, order)


def read_npy(source: ByteSource, reading: Reading) -> Contents:
    """Read one array from the start of `source`; several may follow each other.

    Raises
    ------
    DamagedError
        If its header is malformed, or the file is shorter than it says.
    UnsupportedError
        If it is structured, or holds Python objects.
    """
    head = source.read_at(0, min(source.size, _USUAL))
    length = header_length(head)
    if length > len(head):
        head = source.read_at(0, length)
    header = parse_header(head, reading.limits)
    end = header.data_start + header.nbytes
    if end > source.size:
        raise TensorBoundsError("the file is shorter than its array", expected=f"{end} bytes", got=str(source.size))
    ref = _ref("array", header, ExtentReader(source), header.data_start)
    storages = {ref.key: ref} if header.row is not None else {}
    notes = {"dtype": header.code, "trailing_bytes": source.size - end}
    return Contents(_array(header, ref, reading), "npy", end, lambda: notes, storages)


# ------------------------------------------------------------------------------------------------- many of them


class _Members:
    """The members of an .npz archive: a storage's handle is its record, and the length of the header in it."""

    ready: Final = True

    def __init__(self, source: ByteSource, reading: Reading) -> None:
        self.source = source
        self._limits = reading.limits

    def read(self, wanted: Sequence[tuple[StorageRef, memoryview]], *, verify: bool) -> None:
        read_members(self.source, [(*ref.handle, target) for ref, target in wanted], verify=verify)

    def window_of(self, ref: StorageRef) -> tuple[Window, int] | None:
        return None

    def read_windows(self, windows: Sequence[Window], *, verify: bool) -> None:
        """Nothing to do: there are none."""

    def extent(self, ref: StorageRef) -> Extent | None:
        record, skipped = ref.handle
        if record.method:
            return None
        return Extent(data_offset(self.source, record) + skipped, ref.nbytes)


def read_npz(source: ByteSource, directory: ZipDirectory, reading: Reading) -> Contents:
    """Read an archive of arrays as a dictionary, in the archive's order, under names without their ending.

    Raises
    ------
    DamagedError
        If a member is malformed, or of another size than its array.
    UnsupportedError
        If one is structured, or holds Python objects.
    """
    members = _Members(source, reading)
    made: dict[str, Any] = {}
    storages: dict[str, StorageRef] = {}
    for record in directory.records:
        if record.name.endswith("/"):
            continue
        try:
            name = record.name.removesuffix(".npy")
            header = _member_header(source, record, reading.limits)
            ref = _ref(name, header, members, (record, header.data_start))
            made[name] = _array(header, ref, reading)
        except WeighlockError as error:
            raise error.locate(path=source.name, record=record.name) from error.__cause__
        if header.row is not None:
            storages[name] = ref
    deflated = sum(record.method != 0 for record in directory.records)
    return Contents(made, "npz", source.size, lambda: {"members": len(made), "deflated": deflated}, storages)


def _member_header(source: ByteSource, record: ZipRecord, limits: Limits) -> NpyHeader:
    head = first_bytes(source, record, _USUAL)
    length = header_length(head)
    if length > len(head):
        head = first_bytes(source, record, length)
    header = parse_header(head, limits)
    if header.data_start + header.nbytes != record.size:
        raise TensorBoundsError(
            "a member has another size than its array", expected=f"{header.data_start + header.nbytes} bytes",
            got=str(record.size),
        )  # fmt: skip
    return header
