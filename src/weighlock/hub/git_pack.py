"""The objects of a pack, as git's servers send them (gitformat-pack(5)), and the files of a commit among them.

Every object's id is computed from its bytes, so what a commit's id leads to is what that commit is.
"""

import hashlib
import re
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from weighlock.errors import ArchiveError

__all__ = ["Objects", "TreeEntry", "read_pack"]

_TYPES: Final = {1: b"commit", 2: b"tree", 3: b"blob", 4: b"tag"}
_OFS_DELTA: Final = 6
_REF_DELTA: Final = 7
_LARGEST: Final = 2 << 30
_MOST_ENTRIES: Final = 1_000_000
_DEEPEST: Final = 100
_MODE: Final = re.compile(rb"[0-7]{5,6}\Z")

Objects = dict[str, tuple[bytes, bytes]]
"""Type and content of objects by id."""


class TreeEntry(NamedTuple):
    """One file of a commit: git's mode (0o100644, 0o100755, 0o120000, 0o160000), its path, and its object."""

    mode: int
    path: bytes
    object: str


def object_id(kind: bytes, content: bytes) -> str:
    """Return the id that git gives an object."""
    return hashlib.sha1(b"%s %d\0" % (kind, len(content)) + content, usedforsecurity=False).hexdigest()


def read_pack(pack: bytes) -> Objects:
    """Return every object of a pack.

    Raises
    ------
    ArchiveError
        If the pack is damaged, or refers to objects outside of itself.
    """
    if pack[:4] != b"PACK" or len(pack) < 32 or pack[4:8] not in (b"\0\0\0\2", b"\0\0\0\3"):
        raise ArchiveError("this is no pack of git's")
    if hashlib.sha1(pack[:-20], usedforsecurity=False).digest() != pack[-20:]:
        raise ArchiveError("git's pack is damaged: its checksum differs")
    return _Reader(pack).objects(int.from_bytes(pack[8:12], "big"))


class _Reader:
    def __init__(self, pack: bytes) -> None:
        self.pack = pack
        self.at = 12
        self.by_offset: dict[int, tuple[bytes, bytes]] = {}
        self.by_id: Objects = {}
        self.size = 0

    def objects(self, count: int) -> Objects:
        waiting: dict[str, list[tuple[int, bytes]]] = {}
        for _ in range(count):
            self._one(waiting)
        ready = [base for base in waiting if base in self.by_id]
        while ready:
            base = ready.pop()
            kind, content = self.by_id[base]
            for start, delta in waiting.pop(base, ()):
                made = self._add(start, kind, self._patched(content, delta))
                if made in waiting:
                    ready.append(made)
        if waiting:
            raise ArchiveError("git's pack refers to objects that it does not hold")
        return self.by_id

    def _patched(self, base: bytes, delta: bytes) -> bytes:
        """Apply a delta (gitformat-pack(5), "Deltified representation"): some bytes can ask for gigabytes."""
        try:
            begin, size = _sizes(delta)
            if size[0] != len(base):
                raise ArchiveError("git's pack is damaged: a delta is for another object")
            self._count(size[1])
            return _apply(base, delta, begin, size[1])
        except IndexError as error:
            raise ArchiveError("git's pack is damaged: a delta ends too early") from error

    def _count(self, size: int) -> None:
        self.size += size
        if self.size > _LARGEST:
            raise ArchiveError("git's pack holds more than 2 GiB")

    def _one(self, waiting: dict[str, list[tuple[int, bytes]]]) -> None:
        start = self.at
        kind, size = self._header()
        if kind == _OFS_DELTA:
            base = self._offset()
            if start - base in self.by_offset:
                found, content = self.by_offset[start - base]
                self._add(start, found, self._patched(content, self._inflated(size)))
                return
            raise ArchiveError("git's pack has a delta without its base", offset=start)
        if kind == _REF_DELTA:
            name = self.pack[self.at : self.at + 20].hex()
            self.at += 20
            waiting.setdefault(name, []).append((start, self._inflated(size)))
            return
        if kind not in _TYPES:
            raise ArchiveError("git's pack has an object of an unknown type", offset=start)
        self._add(start, _TYPES[kind], self._inflated(size))

    def _add(self, start: int, kind: bytes, content: bytes) -> str:
        name = object_id(kind, content)
        self.by_id[name] = self.by_offset[start] = (kind, content)
        return name

    def _byte(self) -> int:
        if self.at >= len(self.pack) - 20:
            raise ArchiveError("git's pack ends too early", offset=self.at)
        self.at += 1
        return self.pack[self.at - 1]

    def _header(self) -> tuple[int, int]:
        byte = self._byte()
        kind, size, shift = byte >> 4 & 7, byte & 15, 4
        while byte & 0x80:
            byte = self._byte()
            size |= (byte & 0x7F) << shift
            shift += 7
        self._count(size)
        return kind, size

    def _offset(self) -> int:
        byte = self._byte()
        value = byte & 0x7F
        while byte & 0x80:
            byte = self._byte()
            value = (value + 1 << 7) | byte & 0x7F
        return value

    def _inflated(self, size: int) -> bytes:
        machine = zlib.decompressobj()
        try:
            data = machine.decompress(memoryview(self.pack)[self.at :], size + 1)
        except zlib.error as error:
            raise ArchiveError(f"git's pack is damaged: {error}", offset=self.at) from error
        if len(data) != size or not (machine.eof or not machine.decompress(machine.unconsumed_tail, 1)):
            raise ArchiveError("git's pack is damaged: an object has another size than it says", offset=self.at)
        self.at = len(self.pack) - len(machine.unused_data) if machine.eof else self.at
        return data


def _sizes(delta: bytes) -> tuple[int, list[int]]:
    """Return where a delta's commands begin, and the sizes of its base and of what it makes."""
    at = 0
    sizes = []
    for _ in range(2):
        value, shift = 0, 0
        while True:
            byte = delta[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
        sizes.append(value)
    return at, sizes


def _apply(base: bytes, delta: bytes, at: int, size: int) -> bytes:
    parts = []
    left = size
    while at < len(delta) and left >= 0:
        command = delta[at]
        at += 1
        if not command & 0x80:
            parts.append(delta[at : at + command])
            at += command
            left -= command
            continue
        numbers = [0, 0]
        for bit in range(7):
            if command >> bit & 1:
                numbers[bit >= 4] |= delta[at] << 8 * (bit if bit < 4 else bit - 4)
                at += 1
        parts.append(base[numbers[0] : numbers[0] + (numbers[1] or 0x10000)])
        left -= len(parts[-1])
    content = b"".join(parts)
    if len(content) != size:
        raise ArchiveError("git's pack is damaged: a delta makes another size than it says")
    return content


def commit_tree(objects: Objects, commit: str) -> str:
    """Return the tree id that a commit names.

    Raises
    ------
    ArchiveError
        If the commit is not among the objects.
    """
    kind, content = objects.get(commit, (b"", b""))
    for _ in range(_DEEPEST):
        if kind != b"tag":
            break
        target = content.partition(b"\n")[0].removeprefix(b"object ").decode("ascii", "replace")
        kind, content = objects.get(target, (b"", b""))
    line = content.partition(b"\n")[0]
    if kind != b"commit" or not line.startswith(b"tree ") or len(line) != 45:
        raise ArchiveError("the git server did not send the commit", expected=commit)
    return line[5:].decode("ascii", "replace")


def walk(objects: Objects, tree: str) -> Iterator[TreeEntry]:
    """Give the files below a tree.

    Raises
    ------
    ArchiveError
        If a tree is missing or malformed, or there are too many: a folder may stand in another any number of times, so
        that a few hundred bytes can be ten thousand million files.
    """
    left = _MOST_ENTRIES
    for entry in _entries(objects, tree, b"", 0):
        left -= 1
        if left < 0:
            raise ArchiveError(f"the commit has more than {_MOST_ENTRIES:,} files and folders", expected=tree)
        if entry.mode != 0o40000:
            yield entry


def _entries(objects: Objects, tree: str, prefix: bytes, depth: int) -> Iterator[TreeEntry]:
    """Give everything below a tree, folders too."""
    kind, content = objects.get(tree, (b"", b""))
    if kind != b"tree" or depth > _DEEPEST:
        raise ArchiveError("git's pack lacks a folder of the commit", expected=tree)
    at = 0
    while at < len(content):
        end = content.find(b"\0", at)
        mode, _, name = content[at:end].partition(b" ")
        if end < 0 or not name or end + 21 > len(content) or not _MODE.match(mode):
            raise ArchiveError("git's pack is damaged: a folder cannot be read", expected=tree)
        entry = TreeEntry(int(mode, 8), prefix + name, content[end + 1 : end + 21].hex())
        at = end + 21
        yield entry
        if entry.mode == 0o40000:
            yield from _entries(objects, entry.object, entry.path + b"/", depth + 1)
