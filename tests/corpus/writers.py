"""Pickles opcode by opcode, and zip archives field by field: the forms that no library writes."""

from __future__ import annotations

import struct
import zlib
from typing import Any, NamedTuple

from tests.old_writers import DATA, name, number, numbers, persistent, storage_id, text, v2

__all__ = [
    "DATA", "Entry", "archive", "called", "checkpoint", "instance", "join", "name", "number", "numbers", "obj",
    "persistent", "pickled", "reduced", "stack_global", "storage_id", "tensor", "text", "two", "v2",
]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- pickles


def pickled(body: bytes, protocol: int = 2) -> bytes:
    """A pickle around opcodes that leave one object."""
    return b"\x80" + bytes((protocol,)) + body + b"."


def reduced(function: bytes, *args: bytes) -> bytes:
    return function + b"(" + b"".join(args) + b"tR"


def called(module: str, function: str, *args: str) -> bytes:
    """GLOBAL and REDUCE with arguments of text."""
    return reduced(name(module, function), *map(text, args))


def instance(module: str, function: str, *args: str) -> bytes:
    """INST: a call in one opcode, of protocol 0."""
    return b"(" + b"".join(map(text, args)) + f"i{module}\n{function}\n".encode()


def obj(module: str, function: str, *args: str) -> bytes:
    """OBJ: the class stands between the mark and its arguments."""
    return b"(" + name(module, function) + b"".join(map(text, args)) + b"o"


def short(value: str) -> bytes:
    raw = value.encode()
    return b"\x8c" + bytes((len(raw),)) + raw


def stack_global(module: bytes | str, function: bytes | str) -> bytes:
    parts = [short(part) if isinstance(part, str) else part for part in (module, function)]
    return b"".join(parts) + b"\x93"


def join(*parts: str) -> bytes:
    """Text put together from pieces by calls."""
    made = text(parts[0])
    for part in parts[1:]:
        made = reduced(name("operator", "add"), made, text(part))
    return made


def two(first: bytes, second: bytes) -> bytes:
    """A dictionary with a harmless tensor's place and something else."""
    return b"}(" + text("weight") + first + text("extra") + second + b"u"


def tensor(key: str = "0", numel: int = 6, size: bytes = b"", stride: bytes = b"", offset: int = 0) -> bytes:
    return v2(storage_id(key, numel), offset, size or numbers(2, 3), stride or numbers(3, 1))


# --------------------------------------------------------------------------------------------------------- archives


class Entry(NamedTuple):
    """One record, with what the directory and the local header say of it where that is not the truth."""

    name: str
    data: bytes
    method: int = 0
    flags: int = 0
    crc: int | None = None
    size: int | None = None
    packed_size: int | None = None
    local_name: str | None = None
    local: dict[str, int] = {}  # noqa: RUF012 - never changed
    at: int | None = None


def _raw(entry: Entry) -> bytes:
    if entry.method != 8:
        return entry.data
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    return engine.compress(entry.data) + engine.flush()


def archive(entries: list[Entry], *, prefix: bytes = b"", suffix: bytes = b"", base: int | None = None) -> bytes:
    """An archive as it is told to be. Offsets count from `base`: 0, so that a prefix is counted."""
    body, directory = prefix, b""
    base = 0 if base is None else base
    for entry in entries:
        raw, offset = _raw(entry), len(body) - base
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        size = len(entry.data) if entry.size is None else entry.size
        packed = len(raw) if entry.packed_size is None else entry.packed_size
        said: dict[str, Any] = {
            "flags": entry.flags,
            "method": entry.method,
            "crc": crc,
            "packed": packed,
            "size": size,
        }
        said |= entry.local
        local_name = (entry.name if entry.local_name is None else entry.local_name).encode()
        if entry.at is None:
            body += struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, said["flags"], said["method"], 0, 0, said["crc"],
                                said["packed"], said["size"], len(local_name), 0) + local_name + raw  # fmt: skip
        else:
            offset = entry.at
        raw_name = entry.name.encode("utf-8", "surrogateescape")
        directory += struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, entry.flags, entry.method, 0, 0, crc, packed,
                                 size, len(raw_name), 0, 0, 0, 0, 0, offset) + raw_name  # fmt: skip
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, len(entries), len(entries), len(directory), len(body) - base, 0)
    return body + directory + end + suffix


def records(pickle_bytes: bytes, root: str = "archive", storages: dict[str, bytes] | None = None) -> list[Entry]:
    """The records of a checkpoint."""
    found = [Entry(f"{root}/data.pkl", pickle_bytes), Entry(f"{root}/byteorder", b"little")]
    found += [Entry(f"{root}/data/{key}", data) for key, data in (storages or {"0": DATA}).items()]
    return [*found, Entry(f"{root}/version", b"3\n")]


def checkpoint(pickle_bytes: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    return archive(records(pickle_bytes, storages=storages))


GOOD = pickled(two(tensor(), text("harmless")))
