"""Reading opcode arguments: bytes and a position in, a value and the next position out.

Each reader implements one argument form of `opcodes.OPCODES`. The machine runs on these readers (its loop repeats
only the few fixed-width forms that make up a checkpoint, and a test compares the two), and `decode` walks a pickle
with them without running anything.
"""

import codecs
import re
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Any, Final, NamedTuple

from weighlock.errors import LimitError, PickleStreamError, TruncatedPickleError
from weighlock.limits import DEFAULT_LIMITS
from weighlock.pickling.opcodes import BY_CODE, Opcode

__all__ = ["READERS", "Instruction", "decode"]

Reader = Callable[[bytes, int], tuple[Any, int]]

_U2: Final = Struct("<H").unpack_from
_I4: Final = Struct("<i").unpack_from
_U4: Final = Struct("<I").unpack_from
_U8: Final = Struct("<Q").unpack_from
_F8: Final = Struct(">d").unpack_from

# A line ends at its newline; no global, number or persistent id of a real pickle comes near this length.
MAX_LINE: Final = 1 << 16


class Instruction(NamedTuple):
    """One decoded instruction: where it starts, what it is, its argument, and where the next one starts."""

    offset: int
    opcode: Opcode
    argument: Any
    end: int


def truncated(data: bytes, position: int, need: int) -> TruncatedPickleError:
    """Return the error for an argument that reaches beyond the end of the pickle."""
    return TruncatedPickleError(
        "the pickle ends inside an instruction",
        expected=f"{need} more bytes",
        got=f"{max(len(data) - position, 0)}",
        offset=position,
    )


def _take(data: bytes, position: int, count: int) -> tuple[bytes, int]:
    end = position + count
    if end > len(data):
        raise truncated(data, position, count)
    return data[position:end], end


def read_line(data: bytes, position: int) -> tuple[bytes, int]:
    """Read up to a newline, which is not part of the value."""
    end = data.find(b"\n", position, position + MAX_LINE)
    if end < 0:
        if len(data) - position >= MAX_LINE:
            raise LimitError("a text argument in the pickle is too long", expected=f"{MAX_LINE} bytes", offset=position)
        raise truncated(data, position, 1)
    return data[position:end], end + 1


def _fixed(unpack: Callable[[bytes, int], tuple[Any, ...]], size: int) -> Reader:
    def read(data: bytes, position: int) -> tuple[Any, int]:
        end = position + size
        if end > len(data):
            raise truncated(data, position, size)
        return unpack(data, position)[0], end

    return read


_read_u1: Final = _fixed(Struct("<B").unpack_from, 1)
_read_u2: Final = _fixed(_U2, 2)
_read_i4: Final = _fixed(_I4, 4)
_read_u4: Final = _fixed(_U4, 4)
_read_u8: Final = _fixed(_U8, 8)
_read_f8: Final = _fixed(_F8, 8)


def _counted(read_count: Reader, convert: Callable[[bytes], Any] | None = None) -> Reader:
    def read(data: bytes, position: int) -> tuple[Any, int]:
        count, position = read_count(data, position)
        if count < 0:
            raise PickleStreamError("a negative length in the pickle", got=str(count), offset=position)
        raw, end = _take(data, position, count)
        return (raw if convert is None else convert(raw)), end

    return read


def decode_text(raw: bytes) -> str:
    """Decode UTF-8 as pickle does: lone surrogates pass."""
    return raw.decode("utf-8", "surrogatepass")


def decode_integer(raw: bytes) -> int:
    """Decode a little-endian two's complement integer of any length (LONG1, LONG4)."""
    if len(raw) > DEFAULT_LIMITS.max_integer_bytes:
        raise LimitError("an integer in the pickle is too long", got=f"{len(raw)} bytes")
    return int.from_bytes(raw, "little", signed=True)


def _read_none(data: bytes, position: int) -> tuple[None, int]:
    return None, position


# What C's number parsers skip, and the bytes of a number: a longer line of others is no number to any reader.
_SPACE: Final = b" \t\n\v\f\r"
_NUMERIC: Final = b"+-.0123456789_abcdefABCDEFxXoOlLnNiItTyY \t\r\v\f"
_OCTAL: Final = re.compile(rb"[+-]?0[0-7]+\Z")


def _number_line(data: bytes, position: int) -> tuple[bytes, int]:
    """Read a number's line up to its newline, and return what stands before a NUL: there C's strings end.

    Python's own C unpickler hands the line to C's parsers: what follows a NUL is passed over unseen. A machine that
    stops there instead does not see what comes behind the line.
    """
    end = data.find(b"\n", position)
    if end < 0:
        raise truncated(data, position, 1)
    line = data[position : min(end, position + MAX_LINE)].partition(b"\0")[0]
    if len(line) >= MAX_LINE and not line.strip(_NUMERIC):
        raise LimitError("a number in the pickle is too long", expected=f"{MAX_LINE} bytes", offset=position)
    return line, end + 1


def _read_integer(data: bytes, position: int) -> tuple[int | bool, int]:
    line, end = _number_line(data, position)
    # Protocol 0 writes booleans as the integers 00 and 01.
    if line in (b"00", b"01") and end - position == 3:
        return line == b"01", end
    text = line.lstrip(_SPACE)
    if not text and end - position > len(line) + 1:
        return 0, end  # strtol stops at the NUL, and has no complaint
    if text.lstrip(b"+-")[:1] == b"0" and _OCTAL.match(text):
        return int(text, 8), end  # strtol takes a leading zero for octal
    return int(text, 0), end


def _read_key(data: bytes, position: int) -> tuple[int, int]:
    """Read the decimal index of GET and PUT."""
    line, end = _number_line(data, position)
    return int(line), end


def _read_long(data: bytes, position: int) -> tuple[int, int]:
    line, end = _number_line(data, position)
    return int(line[:-1] if line[-1:] == b"L" else line, 0), end


def _read_float_line(data: bytes, position: int) -> tuple[float, int]:
    line, end = _number_line(data, position)
    return float(line), end


def _read_text_line(data: bytes, position: int) -> tuple[str, int]:
    # Text may be long: unlike the other lines this one is bounded by the pickle alone.
    end = data.find(b"\n", position)
    if end < 0:
        raise truncated(data, position, 1)
    return data[position:end].decode("raw-unicode-escape"), end + 1


# Python warns of escapes that it does not know, and of octal ones above a byte; it reads them all the same.
_ESCAPE: Final = re.compile(rb"\\([4-7][0-7]{2}|.)", re.DOTALL)
_KNOWN_ESCAPES: Final = frozenset(b"\n\\'\"abfnrtv01234567x")


def _escape_without_warning(match: re.Match[bytes]) -> bytes:
    escape = match[1]
    if len(escape) == 3:
        return b"\\x%02x" % (int(escape, 8) & 0xFF)
    return match[0] if escape[0] in _KNOWN_ESCAPES else b"\\" + match[0]


def _read_quoted_line(data: bytes, position: int) -> tuple[bytes, int]:
    end = data.find(b"\n", position)
    if end < 0:
        raise truncated(data, position, 1)
    line = data[position:end]
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise PickleStreamError("a STRING argument without quotes", offset=position)
    text = line[1:-1]
    if b"\\" in text:
        text = _ESCAPE.sub(_escape_without_warning, text)
    return codecs.escape_decode(text)[0], end + 1


def _read_pair(data: bytes, position: int) -> tuple[tuple[str, str], int]:
    module, position = read_line(data, position)
    name, position = read_line(data, position)
    return (decode_text(module), decode_text(name)), position


# Lengths are signed in the 4-byte forms of protocols 1 and 2 (BINSTRING, LONG4), unsigned in the others.
READERS: Final[dict[str, Reader]] = {
    "-": _read_none,
    "u1": _read_u1,
    "u2": _read_u2,
    "i4": _read_i4,
    "u4": _read_u4,
    "u8": _read_u8,
    "f8": _read_f8,
    "decimalnl": _read_integer,
    "keynl": _read_key,
    "longnl": _read_long,
    "floatnl": _read_float_line,
    "line": read_line,
    "pair": _read_pair,
    "stringnl": _read_quoted_line,
    "unicodenl": _read_text_line,
    "string1": _counted(_read_u1),
    "string4": _counted(_read_i4),
    "bytes1": _counted(_read_u1),
    "bytes4": _counted(_read_u4),
    "bytes8": _counted(_read_u8),
    "unicode1": _counted(_read_u1, decode_text),
    "unicode4": _counted(_read_u4, decode_text),
    "unicode8": _counted(_read_u8, decode_text),
    "long1": _counted(_read_u1, decode_integer),
    "long4": _counted(_read_i4, decode_integer),
}

_STOP: Final = ord(".")


def decode(data: bytes, position: int = 0) -> Iterator[Instruction]:
    r"""Walk a pickle from `position` to its STOP without running it.

    Parameters
    ----------
    data : bytes
        The pickle; what follows its STOP is not looked at.
    position : int
        Where the first opcode stands, in bytes.

    Raises
    ------
    PickleStreamError
        At the first byte that is no opcode, or where the pickle ends too early.

    Examples
    --------
    >>> [step.opcode.name for step in decode(b"\x80\x02K\x07.")]
    ['PROTO', 'BININT1', 'STOP']
    """
    while True:
        if position >= len(data):
            raise truncated(data, position, 1)
        code = data[position]
        opcode = BY_CODE.get(code)
        if opcode is None:
            raise PickleStreamError("not a pickle opcode", got=f"byte 0x{code:02x}", offset=position)
        try:
            argument, end = READERS[opcode.argument](data, position + 1)
        except ValueError as error:  # int(), float() and the text codecs
            raise PickleStreamError(f"a malformed {opcode.name} argument: {error}", offset=position) from error
        yield Instruction(position, opcode, argument, end)
        if code == _STOP:
            return
        position = end
