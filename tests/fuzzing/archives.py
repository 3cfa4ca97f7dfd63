"""Zip archives as lists of members: every field of local headers, directory and end can say something of its own."""

from __future__ import annotations

import copy
import random
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache

from tests.fuzzing.numbers import changed_bytes, edge, near

__all__ = ["changed_archive", "looks_like_archive", "parsed"]

_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_LOCAL_FIELDS = (
    ("version", 2),
    ("flags", 2),
    ("method", 2),
    ("time", 2),
    ("date", 2),
    ("crc", 4),
    ("packed", 4),
    ("size", 4),
)
_CENTRAL_FIELDS = (("made_by", 2), *_LOCAL_FIELDS)
_LAST_FIELDS = (("disk", 2), ("inner", 2), ("outer", 4), ("offset", 4))
_END_FIELDS = (("disk", 2), ("start_disk", 2), ("here", 2), ("count", 2), ("length", 4), ("offset", 4))
_END64_FIELDS = (
    "record", "made", "needed", "disk", "start", "here", "count", "length", "offset", "locator_disk", "locator_at",
    "disks",
)  # fmt: skip
Change = Callable[[random.Random, bytes], bytes]


class Member:
    """One member: what its local header, its directory entry and its descriptor say, and its bytes as stored."""

    def __init__(self) -> None:
        self.local: dict[str, int] = {}
        self.central: dict[str, int] = {}
        self.names = [b"", b""]
        self.extras = [b"", b""]
        self.comment = b""
        self.stored = b""
        self.tail = b""
        self.at: int | None = None

    def data(self) -> bytes:
        if self.central.get("method") == 8:
            try:
                return zlib.decompressobj(-15).decompress(self.stored, 1 << 20)
            except zlib.error:
                pass
        return self.stored

    def store(self, data: bytes) -> None:
        """Take other bytes, with the sizes and the checksum that belong to them."""
        self.stored = data
        if self.central.get("method") == 8:
            engine = zlib.compressobj(1, zlib.DEFLATED, -15)
            self.stored = engine.compress(data) + engine.flush()
        true = {"crc": zlib.crc32(data), "packed": len(self.stored), "size": len(data)}
        for fields in (self.local, self.central):
            if fields is self.central or any(fields[name] for name in true):
                fields.update(true)
        if self.tail[:4] == b"PK\x07\x08":
            self.tail = struct.pack("<4s3I", b"PK\x07\x08", *true.values())


class Archive:
    """All members, what stands around them, and what the end says where that is not the truth."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.prefix = b""
        self.between = b""
        self.zip64 = False
        self.end: dict[str, int] = {}
        self.end64: dict[str, int] = {}
        self.comment = b""
        self.suffix = b""

    def __bytes__(self) -> bytes:
        body, directory = bytearray(self.prefix), bytearray()
        for member in self.members:
            offset = len(body) if member.at is None else member.at
            body += _LOCAL + _packed(_LOCAL_FIELDS, member.local)
            body += _lengths(member.names[0], member.extras[0]) + member.names[0] + member.extras[0]
            body += member.stored + member.tail
            directory += _CENTRAL + _packed(_CENTRAL_FIELDS, member.central)
            directory += _lengths(member.names[1], member.extras[1], member.comment)
            directory += _packed(_LAST_FIELDS, {**member.central, "offset": offset})
            directory += member.names[1] + member.extras[1] + member.comment
        body += self.between
        count, start = len(self.members), len(body)
        true = {"here": count, "count": count, "length": len(directory), "offset": start}
        body += directory
        if self.zip64:
            said = {"record": 44, "made": 0x31E, "needed": 45, "locator_disk": 0, "locator_at": len(body), "disks": 1}
            said |= true | self.end64
            body += struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", *_words(said, ("record", 8), ("made", 2), ("needed", 2),
                ("disk", 4), ("start", 4), ("here", 8), ("count", 8), ("length", 8), ("offset", 8)))  # fmt: skip
            body += struct.pack(
                "<4sIQI", b"PK\x06\x07", *_words(said, ("locator_disk", 4), ("locator_at", 8), ("disks", 4))
            )
        body += _END + _packed(_END_FIELDS, true | self.end) + struct.pack("<H", len(self.comment) % 65536)
        return bytes(body + self.comment + self.suffix)


def _words(said: dict[str, int], *fields: tuple[str, int]) -> list[int]:
    return [said.get(name, 0) % (1 << 8 * width) for name, width in fields]


def _packed(fields: tuple[tuple[str, int], ...], values: dict[str, int]) -> bytes:
    return b"".join((values.get(name, 0) % (1 << 8 * width)).to_bytes(width, "little") for name, width in fields)


def _lengths(*parts: bytes) -> bytes:
    return b"".join(struct.pack("<H", len(part) % 65536) for part in parts)


def _unpacked(fields: tuple[tuple[str, int], ...], data: bytes, at: int) -> tuple[dict[str, int], int]:
    values = {}
    for name, width in fields:
        values[name] = int.from_bytes(data[at : at + width], "little")
        at += width
    return values, at


def looks_like_archive(data: bytes) -> bool:
    return data[:4] == _LOCAL and _END in data


@lru_cache(256)
def parsed(data: bytes) -> Archive | None:
    """Take an archive apart; None where it is too broken for that."""
    found = Archive()
    end = data.rfind(_END)
    said, at = _unpacked(_END_FIELDS, data, end + 4)
    found.zip64 = data[end - 20 : end - 16] == b"PK\x06\x07"
    found.comment = data[at + 2 :]
    here = said["offset"]
    if data[here : here + 4] != _CENTRAL:
        here = data.find(_CENTRAL)
    starts = []
    while data[here : here + 4] == _CENTRAL and len(found.members) < 200:
        member, here, start = _parsed_member(data, here)
        starts.append(start)
        found.members.append(member)
    if not found.members:
        return None
    _stored(data, found, starts)
    return found


def _parsed_member(data: bytes, at: int) -> tuple[Member, int, int]:
    member = Member()
    member.central, at = _unpacked(_CENTRAL_FIELDS, data, at + 4)
    name, extra, comment = (int.from_bytes(data[at + i : at + i + 2], "little") for i in (0, 2, 4))
    last, at = _unpacked(_LAST_FIELDS, data, at + 6)
    member.central |= last
    member.names[1], member.extras[1] = data[at : at + name], data[at + name : at + name + extra]
    at += name + extra
    member.comment = data[at : at + comment]
    start = last["offset"]
    member.local, here = _unpacked(_LOCAL_FIELDS, data, start + 4)
    name, extra = (int.from_bytes(data[here + i : here + i + 2], "little") for i in (0, 2))
    here += 4
    member.names[0], member.extras[0] = data[here : here + name], data[here + name : here + name + extra]
    return member, at + comment, here + name + extra


def _stored(data: bytes, found: Archive, starts: list[int]) -> None:
    directory = data.find(_CENTRAL)
    for member, start in zip(found.members, starts, strict=True):
        member.stored = data[start : start + min(member.central["packed"], len(data))]
        end = start + len(member.stored)
        following = [m.central["offset"] for m in found.members if m.central["offset"] >= end]
        member.tail = data[end : min([*following, directory])][:64]


def changed_archive(dice: random.Random, data: bytes, change: Change) -> bytes:
    """Change an archive's structure, or with `change` the bytes of a member."""
    found = parsed(data)
    if found is None:
        return changed_bytes(dice, data)
    made = copy.copy(found)
    made.members = list(found.members)
    made.end, made.end64 = dict(found.end), dict(found.end64)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        if dice.random() < 0.55:
            _change_data(dice, made, change)
        else:
            dice.choice(_CHANGES)(dice, made)
        if not made.members:
            break
    return bytes(made)


def _own(made: Archive, index: int) -> Member:
    """A member of which this archive has its own copy."""
    member = copy.copy(made.members[index])
    member.local, member.central = dict(member.local), dict(member.central)
    member.names, member.extras = list(member.names), list(member.extras)
    made.members[index] = member
    return member


def _some(dice: random.Random, made: Archive) -> Member:
    return _own(made, dice.randrange(len(made.members)))


def _change_data(dice: random.Random, made: Archive, change: Change) -> None:
    pickles = [i for i, member in enumerate(made.members) if member.names[1].endswith((b".pkl", b".npy", b".pth"))]
    index = dice.choice(pickles) if pickles and dice.random() < 0.75 else dice.randrange(len(made.members))
    member = _own(made, index)
    if dice.random() < 0.06:
        member.stored = changed_bytes(dice, member.stored)
        return
    data, before = member.data(), dict(member.central)
    if len(data) < 16 and dice.random() < 0.7:
        data = dice.choice((b"", b"little", b"big", b"middle", b"3\n", b"1", b"64", b"4096", b"0", b"-1", b"9" * 30))
    else:
        data = change(dice, data)
    member.store(data)
    if dice.random() < 0.05:
        member.central |= {key: before[key] for key in ("crc", "packed", "size")}


def _field(dice: random.Random, made: Archive) -> None:
    member = _some(dice, made)
    fields, widths = dice.choice(
        ((member.local, _LOCAL_FIELDS), (member.central, (*_CENTRAL_FIELDS, *_LAST_FIELDS[:3])))
    )
    name, width = dice.choice(widths)
    fields[name] = int.from_bytes(near(dice, fields.get(name, 0), width), "little")


def _both_fields(dice: random.Random, made: Archive) -> None:
    member = _some(dice, made)
    name, width = dice.choice(_LOCAL_FIELDS)
    value = int.from_bytes(near(dice, member.central.get(name, 0), width), "little")
    member.local[name] = member.central[name] = value


def _flags(dice: random.Random, made: Archive) -> None:
    """Encryption, descriptor, strong encryption, UTF-8, masking."""
    member = _some(dice, made)
    bit = 1 << dice.choice((0, 3, 5, 6, 11, 13))
    for fields in dice.choice(((member.local,), (member.central,), (member.local, member.central))):
        fields["flags"] = fields.get("flags", 0) ^ bit


def _method(dice: random.Random, made: Archive) -> None:
    """Compress a member, or say that it is compressed in some way."""
    member = _some(dice, made)
    if dice.random() < 0.6:
        data = member.data() if dice.random() < 0.8 else bytes(dice.choice((100, 10_000, 60_000)))
        member.local["method"] = member.central["method"] = 8 if member.central.get("method") == 0 else 0
        member.store(data)
    else:
        member.central["method"] = dice.choice((0, 1, 6, 8, 9, 12, 14, 93, 95, 98, 99, 65535))


def _rename(dice: random.Random, made: Archive) -> None:
    member, other = _some(dice, made), dice.choice(made.members)
    name = member.names[1]
    root = name.split(b"/")[0]
    new = dice.choice((
        other.names[1], name.upper(), name.swapcase(), b"", b"/", b"/" + name, b"../" + name, name + b"/", name + b"\0",
        name.replace(b"/", b"\\"), b"x/" + name, root + b"/data.pkl", root + b"/constants.pkl", root + b"/version",
        root + b"/data/0", root + b"/byteorder", root + b"/.data/version", b"data.pkl", b"a.npy", b"\xff\xfe",
        name * 40,
        root + b"/code/x.py", name.partition(b"/")[2], changed_bytes(dice, name)[:5000],
    ))  # fmt: skip
    which = dice.choice((0, 1, 2))
    for index in (0, 1):
        if which in (index, 2):
            member.names[index] = new


def _extra(dice: random.Random, made: Archive) -> None:
    """Extra fields: 64-bit sizes, padding, and lengths that lie."""
    member, where = _some(dice, made), dice.randrange(2)
    count = dice.randrange(4)
    words = b"".join(edge(dice, 8) for _ in range(count))
    size = near(dice, len(words), 2) if dice.random() < 0.3 else struct.pack("<H", len(words))
    made_of = dice.choice((b"\x01\x00", b"FB", b"\x75\x70", b"\x01\x99", edge(dice, 2)))
    member.extras[where] = dice.choice((b"", member.extras[where])) + made_of + size + words
    if dice.random() < 0.7:
        fields = (member.local, member.central)[where]
        for name in dice.sample(("packed", "size"), dice.randrange(3)):
            fields[name] = 0xFFFFFFFF
        if where == 1 and dice.random() < 0.4:
            member.at = 0xFFFFFFFF


def _offset(dice: random.Random, made: Archive) -> None:
    member = _some(dice, made)
    member.at = dice.choice((0, 1, 30, dice.randrange(4000), 2**32 - 1, 2**31, member.central.get("offset", 0)))


def _copy(dice: random.Random, made: Archive) -> None:
    index = dice.randrange(len(made.members))
    times = dice.choice((1, 1, 1, 2, 30, 300))
    if len(bytes(made.members[index].stored)) * times > 1 << 16:
        times = 1
    made.members[index:index] = [made.members[index]] * times


def _order(dice: random.Random, made: Archive) -> None:
    kind = dice.randrange(3)
    if kind == 0:
        dice.shuffle(made.members)
    elif kind == 1:
        made.members.reverse()
    else:
        del made.members[dice.randrange(len(made.members))]


def _pad(dice: random.Random, made: Archive) -> None:
    """Bytes where none should be: in front, behind, between, as a descriptor, as a comment."""
    junk = dice.choice(
        (b"\0", bytes(64), b"PK\x05\x06" + bytes(18), b"PK\x03\x04" + bytes(26), b"Z" * 300, b"\x80\x02N.")
    )
    where = dice.randrange(6)
    if where == 0:
        made.prefix = junk
    elif where == 1:
        made.suffix = junk
    elif where == 2:
        made.between = junk
    elif where == 3:
        made.comment = junk
    elif where == 4:
        _some(dice, made).tail += junk
    else:
        member = _some(dice, made)
        member.tail = dice.choice((b"", member.tail[4:], b"PK\x07\x08" + bytes(12), b"PK\x07\x08" + bytes(20)))


def _end(dice: random.Random, made: Archive) -> None:
    name, width = dice.choice(_END_FIELDS)
    made.end[name] = int.from_bytes(near(dice, len(made.members), width), "little")


def _end64(dice: random.Random, made: Archive) -> None:
    made.zip64 = dice.random() < 0.9
    name = dice.choice(_END64_FIELDS)
    made.end64[name] = int.from_bytes(near(dice, len(made.members), 8), "little")
    if dice.random() < 0.5:
        name, width = dice.choice(_END_FIELDS)
        made.end[name] = (1 << 8 * width) - 1


def _nest(dice: random.Random, made: Archive) -> None:
    """The archive as a member of itself, or another one in front."""
    whole = bytes(made)
    if len(whole) > 20_000:
        return
    if dice.random() < 0.5:
        made.prefix = whole
    else:
        _some(dice, made).store(whole)


_CHANGES = (
    _field, _field, _both_fields, _flags, _method, _rename, _rename, _extra, _offset, _copy, _order, _pad, _end, _end64,
    _nest,
)  # fmt: skip
