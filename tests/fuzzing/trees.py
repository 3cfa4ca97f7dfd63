"""Pickles as trees: which opcodes make which object of what parts, as far as the stack makes sense. Nothing is run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.fuzzing.pickles import EFFECT

__all__ = ["Node", "Tree", "number", "text"]


def number(value: int) -> bytes:
    """The opcode for an integer, as picklers write it."""
    if 0 <= value < 256:
        return b"K" + value.to_bytes(1, "little")
    if 0 <= value < 65536:
        return b"M" + value.to_bytes(2, "little")
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + value.to_bytes(4, "little", signed=True)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes((len(raw),)) + raw


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + len(raw).to_bytes(4, "little") + raw


@dataclass(eq=False)
class Node:
    """An object: its opcodes from `start` to before `end`, the last of them, and the objects it is made of."""

    start: int
    end: int
    piece: bytes
    parts: list[Node] = field(default_factory=list)
    same: Node | None = None

    @property
    def code(self) -> bytes:
        return self.piece[:1]

    @property
    def true(self) -> Node:
        """Itself, or the object that a memo place names."""
        node = self
        while node.same is not None:
            node = node.same
        return node

    @property
    def value(self) -> int | None:
        """Of an integer."""
        if self.true.code in (b"K", b"M"):
            return int.from_bytes(self.true.piece[1:], "little")
        if self.true.code == b"J":
            return int.from_bytes(self.true.piece[1:], "little", signed=True)
        return int.from_bytes(self.true.piece[2:], "little", signed=True) if self.true.code == b"\x8a" else None

    @property
    def name(self) -> str:
        """Of a global: module and name, between them a space."""
        piece = self.true.piece
        return piece[1:-1].decode("latin1").replace("\n", " ") if piece[:1] == b"c" else ""

    @property
    def text(self) -> str:
        return self.true.piece[5:].decode("latin1") if self.true.code == b"X" else ""

    @property
    def called(self) -> str:
        """Of a call: what is called."""
        return self.parts[0].name if self.code == b"R" and len(self.parts) == 2 else ""

    @property
    def arguments(self) -> list[Node]:
        return self.parts[1].true.parts if self.called else []


class Tree:
    """The objects of one pickle.

    Attributes
    ----------
    nodes : list of Node
        All of them, parts before wholes.
    slots : list of Node
        Plain values: what stands in dictionaries, lists and tuples outside of calls.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.nodes: list[Node] = []
        self.puts: dict[int, list[int]] = {}
        self.gets: dict[int, list[int]] = {}
        self._stack: list[Node | None] = []
        self._memo: dict[int, Node] = {}
        self._marks: list[int] = []
        for index, piece in enumerate(pieces):
            if piece[:1] == b"." or not self._step(index, piece):
                break
        self.slots = list(self._slots())

    def _step(self, index: int, piece: bytes) -> bool:
        code = piece[:1]
        if code in (b"q", b"r"):
            place = int.from_bytes(piece[1:], "little")
            self.puts.setdefault(place, []).append(index)
            if self._stack and self._stack[-1] is not None:
                self._memo[place] = self._stack[-1]
            return True
        if code in (b"h", b"j"):
            place = int.from_bytes(piece[1:], "little")
            self.gets.setdefault(place, []).append(index)
            if place not in self._memo:
                return False
            self._push(Node(index, index + 1, piece, same=self._memo[place]))
            return True
        return self._apply(index, piece)

    def _apply(self, index: int, piece: bytes) -> bool:
        below, marked, given, is_mark = EFFECT[piece[0]]
        if is_mark:
            self._stack.append(None)
            self._marks.append(index)
            return True
        start, parts = index, []
        if marked:
            while self._stack and self._stack[-1] is not None:
                parts.append(self._stack.pop())
            if not self._stack:
                return False
            self._stack.pop()
            start = self._marks.pop()
        for _ in range(below):
            if not self._stack or self._stack[-1] is None:
                return False
            parts.append(self._stack.pop())
        parts.reverse()
        nodes = [node for node in parts if node is not None]
        if given:
            made = Node(nodes[0].start if nodes and below else start, index + 1, piece, nodes)
            for _ in range(given):
                self._push(made)
        return True

    def _push(self, node: Node) -> None:
        self.nodes.append(node)
        self._stack.append(node)

    def _slots(self) -> Iterator[Node]:
        waiting = [node for node in self._stack[-1:] if node is not None]
        seen: set[int] = set()
        while waiting:
            node = waiting.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if node.code in (b"u", b"s", b"d"):
                first = node.code != b"d"
                values = node.parts[first + 1 :: 2]
                yield from values
                waiting += values + node.parts[:first]
            elif node.code in (b"e", b"a", b"l", b"t", b"\x85", b"\x86", b"\x87"):
                first = node.code in (b"e", b"a")
                yield from node.parts[first:]
                waiting += node.parts
            elif node.code == b"b":
                waiting += node.parts[:1]

    def is_free(self, node: Node) -> bool:
        """Whether it can go: nothing outside of it takes from the memo what is put there inside of it."""
        inside = range(node.start, node.end)
        for place, indices in self.puts.items():
            put_here = any(index in inside for index in indices)
            if put_here and any(index not in inside for index in self.gets.get(place, ())):
                return False
        return True

    def is_closed(self, node: Node) -> bool:
        """Whether it can go elsewhere: it takes nothing from the memo that is put there outside of it."""
        inside = range(node.start, node.end)
        for place, indices in self.gets.items():
            taken_here = any(index in inside for index in indices)
            if taken_here and not any(index in inside for index in self.puts.get(place, ())):
                return False
        return self.is_free(node)
