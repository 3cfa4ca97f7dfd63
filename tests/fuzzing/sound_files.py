"""Sound changes of whole files: archives and legacy streams that say the same in another way, or hold other bytes."""

from __future__ import annotations

import copy
import random
import struct
from collections.abc import Callable

from tests.fuzzing.archives import Archive, Member, looks_like_archive, parsed
from tests.fuzzing.numbers import changed_bytes
from tests.fuzzing.pickles import LEGACY_MAGIC, legacy_parts, opcodes
from tests.fuzzing.sound import changed_soundly, storages_of
from tests.fuzzing.trees import text

__all__ = ["changed_file"]


def changed_file(dice: random.Random, data: bytes) -> bytes | None:
    """A changed checkpoint that is still one; None where this is no file that is understood here."""
    if looks_like_archive(data):
        return _changed_archive(dice, data)
    if data.startswith(LEGACY_MAGIC):
        return _changed_legacy(dice, data)
    return None


def _other_bytes(dice: random.Random, data: bytes) -> bytes:
    """As many bytes, some or all of them others: also those that no writer of the type would write."""
    kind = dice.random()
    if kind < 0.3 or not data:
        return bytes(dice.choice((0, 1, 2, 127, 128, 255)) for _ in range(min(len(data), 1 << 12))).ljust(
            len(data), b"\1"
        )
    if kind < 0.5:
        return dice.randbytes(len(data))
    if kind < 0.6:
        return data[::-1]
    return (changed_bytes(dice, data) + data)[: len(data)].ljust(len(data), b"\0")


# ----------------------------------------------------------------------------------------------------------- archives


def _changed_archive(dice: random.Random, data: bytes) -> bytes | None:
    found = parsed(data)
    if found is None:
        return None
    made = copy.copy(found)
    made.members = [_copied(member) for member in found.members]
    made.end, made.end64 = dict(found.end), dict(found.end64)
    pickles = [member for member in made.members if member.names[1].endswith(b"data.pkl")]
    for _ in range(dice.choice((1, 1, 2, 3))):
        if pickles and dice.random() < 0.6:
            member = dice.choice(pickles)
            member.store(changed_soundly(dice, member.data()))
        else:
            dice.choice(_CHANGES)(dice, made)
    return bytes(made)


def _copied(member: Member) -> Member:
    made = copy.copy(member)
    made.local, made.central = dict(member.local), dict(member.central)
    made.names, made.extras = list(member.names), list(member.extras)
    return made


def _storage_bytes(dice: random.Random, made: Archive) -> None:
    storages = [member for member in made.members if b"/data/" in member.names[1]]
    if storages:
        member = dice.choice(storages)
        member.store(_other_bytes(dice, member.data()))


def _order(dice: random.Random, made: Archive) -> None:
    dice.shuffle(made.members)


def _padding(dice: random.Random, made: Archive) -> None:
    """Data at other places: extra fields of any length in local headers, as PyTorch aligns storages."""
    for member in made.members:
        if dice.random() < 0.5:
            filler = bytes(dice.choice((0, 1, 3, 7, 59, 200)))
            member.extras[0] = b"" if dice.random() < 0.2 else b"FB" + struct.pack("<H", len(filler)) + filler


def _deflated(dice: random.Random, made: Archive) -> None:
    for member in made.members:
        if dice.random() < 0.4:
            data = member.data()
            member.local["method"] = member.central["method"] = dice.choice((0, 8))
            member.store(data)


def _root(dice: random.Random, made: Archive) -> None:
    """Another name of the folder that all records lie in."""
    new = dice.choice((b"a", b"model", b"x" * 200, b"a b", b"data", "é".encode(), b"archive.pt", b"0"))
    for member in made.members:
        _, slash, rest = member.names[1].partition(b"/")
        if slash:
            member.names = [new + slash + rest] * 2
            for fields in (member.local, member.central):
                fields["flags"] |= 0x800 if not new.isascii() else 0


def _small_record(dice: random.Random, made: Archive) -> None:
    """The records beside the pickle and the storages: other contents, or none."""
    said = {
        b"byteorder": (b"little", b"big"),
        b"version": (b"3\n", b"3", b"2\n", b"5\n", b"10", b"1"),
        b".format_version": (b"1", b"0", b"2"),
        b".storage_alignment": (b"64", b"1", b"4096"),
        b"serialization_id": (b"0" * 40, b"", b"x"),
    }
    members = [member for member in made.members if member.names[1].rpartition(b"/")[2] in said]
    if not members:
        return
    member = dice.choice(members)
    if dice.random() < 0.25 and not member.names[1].endswith(b"/version"):
        made.members.remove(member)
    else:
        member.store(dice.choice(said[member.names[1].rpartition(b"/")[2]]))


def _one_more(dice: random.Random, made: Archive) -> None:
    """A record that nothing names."""
    member = _copied(dice.choice(made.members))
    root = member.names[1].partition(b"/")[0]
    name = dice.choice((b"/extra", b"/data/999", b"/readme.txt", b"/.data/x", b"/a/b/c", b"/data.pkl.bak"))
    if all(other.names[1] != root + name for other in made.members):
        member.names = [root + name] * 2
        member.store(dice.choice((b"", b"hello", bytes(300))))
        made.members.insert(dice.randrange(len(made.members) + 1), member)


def _facts(dice: random.Random, made: Archive) -> None:
    """What no reader needs: dates, systems, permissions, comments, and the versions that are asked for."""
    for member in made.members:
        for field, values in (("time", (0, 0x7FFF)), ("date", (0, 0x21, 0x5A21)), ("version", (0, 10, 20, 45))):
            member.local[field] = member.central[field] = dice.choice(values)
        member.central["made_by"] = dice.choice((0, 20, 0x31E, 0x314))
        member.central["inner"] = dice.choice((0, 1))
        member.central["outer"] = dice.choice((0, 0, 0x20, 0o100644 << 16))
        member.comment = dice.choice((b"", b"", b"a comment"))
    made.comment = dice.choice((b"", b"", b"of the archive"))


def _sizes_behind(dice: random.Random, made: Archive) -> None:
    """Sizes in the local header, or behind the data as PyTorch's writer does it."""
    for member in made.members:
        if dice.random() < 0.5:
            continue
        true = {name: member.central[name] for name in ("crc", "packed", "size")}
        behind = dice.random() < 0.5
        for fields in (member.local, member.central):
            fields["flags"] = fields["flags"] | 8 if behind else fields["flags"] & ~8
        member.local |= dict.fromkeys(true, 0) if behind else true
        member.tail = struct.pack("<4s3I", b"PK\x07\x08", *true.values()) if behind else b""


def _zip64(dice: random.Random, made: Archive) -> None:
    made.zip64 = not made.zip64
    made.end, made.end64 = {}, {}


_CHANGES: tuple[Callable[[random.Random, Archive], None], ...] = (
    _storage_bytes, _storage_bytes, _storage_bytes, _order, _padding, _deflated, _root, _small_record, _small_record,
    _one_more, _facts, _sizes_behind, _zip64,
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------ legacy streams


def _changed_legacy(dice: random.Random, data: bytes) -> bytes | None:
    parts, rest = legacy_parts(data)
    if len(parts) < 5:
        return None
    for _ in range(dice.choice((1, 1, 2, 3))):
        kind = dice.random()
        blocks = _blocks(parts[3], parts[4], rest)
        if kind < 0.55 or blocks is None:
            parts[3] = changed_soundly(dice, parts[3])
        elif kind < 0.85:
            key = dice.choice(list(blocks)) if blocks else ""
            if key:
                blocks[key] = blocks[key][:8] + _other_bytes(dice, blocks[key][8:])
            order = list(blocks)
            if dice.random() < 0.4:
                dice.shuffle(order)
                parts[4] = b"\x80\x02](" + b"".join(map(text, order)) + b"e." if order else b"\x80\x02]."
            rest = b"".join(blocks[key] for key in order)
        elif kind < 0.93:
            index = dice.choice((0, 1, 2, 4))
            parts[index] = _respelled_keys(dice, parts[index])
        else:
            rest += dice.choice((b"\0", b"more", bytes(100)))
    return b"".join(parts) + rest


def _respelled_keys(dice: random.Random, part: bytes) -> bytes:
    """The pickles around the object: facts of the machine that wrote it, in other values."""
    if b"little_endian" in part:
        return part.replace(b"\x88", b"\x89") if dice.random() < 0.5 else part.replace(b"K\x04", b"K\x08", 1)
    return part[:2] + b"".join(b"r" + p[1:] + bytes(3) if p[:1] == b"q" else p for p in opcodes(part)[0][1:])


def _blocks(pickle: bytes, keys: bytes, rest: bytes) -> dict[str, bytes] | None:
    """The bytes of each storage with their count, in the order of the stream; None where that is not what is there."""
    known = storages_of(pickle)
    found: dict[str, bytes] = {}
    at = 0
    for piece in opcodes(keys)[0]:
        if piece[:1] != b"X":
            continue
        key = piece[5:].decode("latin1")
        if key not in known or key in found:
            return None
        count = int.from_bytes(rest[at : at + 8], "little")
        end = at + 8 + count * known[key][0]
        if end > len(rest):
            return None
        found[key] = rest[at:end]
        at = end
    return found if at == len(rest) else None
