"""Changes that leave a checkpoint loadable: other types, views, containers, spellings, orders, bytes.

Damage shows that a loader refuses well. Only a file that both sides read shows whether they read the same in it.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from tests.fuzzing.pickles import LEARNED, opcodes
from tests.fuzzing.trees import Node, Tree, number, text

__all__ = ["changed_soundly", "storages_of"]

# Storage classes and element types by the bytes of an element.
_CLASSES = (
    (1, ("Byte", "Char", "Bool", "QInt8", "QUInt8")),
    (2, ("Short", "Half", "BFloat16")),
    (4, ("Int", "Float", "QInt32")),
    (8, ("Long", "Double", "ComplexFloat")),
    (16, ("ComplexDouble",)),
)
SIZES = {f"torch {name}Storage": size for size, names in _CLASSES for name in names}
SIZES |= {"torch UntypedStorage": 1, "torch.storage UntypedStorage": 1, "torch QUInt4x2Storage": 1,
          "torch QUInt2x4Storage": 1}  # fmt: skip
_DTYPES = (
    (1, ("uint8", "int8", "bool", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
         "float8_e8m0fnu", "float4_e2m1fn_x2", "bits8", "bits1x8", "bits2x4", "bits4x2")),
    (2, ("int16", "float16", "bfloat16", "uint16", "bits16")),
    (4, ("int32", "float32", "uint32", "complex32")),
    (8, ("int64", "float64", "uint64", "complex64")),
    (16, ("complex128",)),
)  # fmt: skip
DTYPES = {f"torch {name}": size for size, names in _DTYPES for name in names}
_ORDERED = b"ccollections\nOrderedDict\n)R"
Pieces = list[bytes]


def _global(name: str) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def changed_soundly(dice: random.Random, data: bytes) -> bytes:
    """Change a pickle one to four times so that it goes on making sense, as far as that can be told."""
    found, rest = opcodes(data)
    pieces = list(found)
    for _ in range(dice.choice((1, 1, 1, 2, 3, 4))):
        for change in dice.sample(_CHANGES, 8):  # not every pickle has what a change is for
            made = change(dice, pieces, Tree(pieces))
            if made is not None and made != pieces:
                pieces = list(opcodes(b"".join(made))[0])
                break
    return b"".join(pieces) + rest


def storages_of(data: bytes) -> dict[str, tuple[int, int]]:
    """Of each storage that a pickle names: the bytes of an element, and how many elements."""
    found = {}
    for node in Tree(opcodes(data)[0]).nodes:
        described = node.parts[0].true.parts if node.code == b"Q" and node.parts else []
        if len(described) >= 5 and described[1].name in SIZES:
            found[described[2].text] = (SIZES[described[1].name], described[4].value or 0)
    return found


def _edited(pieces: Pieces, *edits: tuple[int, int, bytes]) -> Pieces:
    """The opcodes with stretches replaced."""
    made = list(pieces)
    for start, end, new in sorted(edits, reverse=True):
        made[start:end] = [new]
    return made


def _taken(pieces: Pieces, node: Node) -> bytes:
    return b"".join(pieces[node.start : node.end])


# ------------------------------------------------------------------------------------------------------------ tensors


class _Tensor:
    """A call that makes a strided tensor, and what it is given."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.storage, self.offset, self.size, self.stride = node.arguments[:4]
        described = self.storage.true.parts[0].true.parts
        numel = described[4].value or 0
        width = SIZES.get(described[1].name, 1)
        version3 = node.called.endswith("v3") and len(node.arguments) > 6
        self.width = DTYPES.get(node.arguments[6].name, 1) if version3 else width
        self.count = numel * width // self.width


def _tensors(tree: Tree) -> list[_Tensor]:
    return [_Tensor(node) for node in tree.nodes if node.called.startswith("torch._utils _rebuild_tensor")
            and len(node.arguments) >= 4 and node.arguments[0].true.code == b"Q"
            and len(node.arguments[0].true.parts[0].true.parts) >= 5]  # fmt: skip


def _lengths(values: list[int]) -> bytes:
    if 0 < len(values) < 4:
        return b"".join(map(number, values)) + (b"\x85", b"\x86", b"\x87")[len(values) - 1]
    return b"(" + b"".join(map(number, values)) + b"t" if values else b")"


def view(dice: random.Random, count: int) -> tuple[int, list[int], list[int]]:
    """Any offset, size and stride that stay inside of so many elements."""
    size = [dice.choice((1, 1, 2, 2, 3, 4, 5, 7)) for _ in range(dice.choice((0, 1, 1, 2, 2, 3, 4, 6)))]
    count = max(count, 0)
    if not count or dice.random() < 0.06:
        size.insert(dice.randrange(len(size) + 1), 0)
    stride: list[int] = []
    step = 1
    for length in reversed(size):
        stride.insert(0, step)
        step *= max(length, 1)
    kind = dice.random()
    if kind < 0.3:
        order = dice.sample(range(len(size)), len(size))
        size, stride = [size[i] for i in order], [stride[i] for i in order]
    elif kind < 0.6:
        stride = [dice.choice((step, step, 0, 1, 2, 3, step + 1, 1 << dice.randrange(40))) for step in stride]
    if 0 in size:
        return dice.choice((0, 0, count, dice.randrange(count + 1))), size, stride
    while sum((length - 1) * step for length, step in zip(size, stride, strict=True)) >= count:
        at = dice.randrange(len(size))
        if dice.random() < 0.5:
            size[at] = max(size[at] // 2, 1)
        else:
            stride[at] //= 2
    reach = sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    return dice.choice((0, count - reach - 1, dice.randrange(count - reach))), size, stride


def _seen(dice: random.Random, count: int) -> bytes:
    """Offset, size and stride as three arguments."""
    offset, size, stride = view(dice, count)
    return number(offset) + _lengths(size) + _lengths(stride)


def _new_view(dice: random.Random, pieces: Pieces, tree: Tree) -> Pieces | None:
    tensors = [t for t in _tensors(tree) if tree.is_free(t.size) and tree.is_free(t.stride)]
    if not tensors:
        return None
    chosen = dice.choice(tensors)
    offset, size, stride = view(dice, chosen.count)
    pairs = ((chosen.offset, number(offset)), (chosen.size, _lengths(size)), (chosen.stride, _lengths(stride)))
    return _edited(pieces, *((node.start, node.end, new) for node, new in pairs))


def _other_class(dice: random.Random, pieces: Pieces, tree: Tree) -> Pieces | None:
    """Another storage class of the same width, for all that name this one."""
    places = [i for i, piece in enumerate(pieces) if piece[1:-1].decode("latin1").replace("\n", " ") in SIZES]
    if not places:
        return None
    at = dice.choice(places)
    name = pieces[at][1:-1].decode().replace("\n", " ")
    same = [other for other, width in SIZES.items() if width == SIZES[name] and "torch " in other]
    return _edited(pieces, (at, at + 1, _global(dice.choice(same))))


def _other_dtype(dice: random.Random, pieces: Pieces, tree: Tree) -> Pieces | None:
    places = [i for i, piece in enumerate(pieces) if piece[1:-1].decode("latin1").replace("\n", " ") in DTYPES]
    if not places:
        return None
    at = dice.choice(places)
    width = DTYPES[pieces[at][1:-1].decode().replace("\n", " ")]
    return _edited(pieces, (at, at + 1, _global(dice.choice([n for n, w in DTYPES.items() if w == width]))))


def _share(dice: random.Random, pieces: Pieces, tree: Tree) -> Pieces | None:
    """Two tensors on one storage, the second with a view of its own."""
    tensors = _tensors(tree)
    if len(tensors) < 2:
        return None
    a, b = sorted(dice.sample(range(len(tensors)), 2))
    first, second = tensors[a], tensors[b]
    old = second.storage
    if first.storage.end > old.start or not all(map(tree.is_free, (old, second.size, second.stride))):
        return None
    offset, size, stride = view(dice, first.count if first.width == second.width else 0)
    pairs = ((second.offset, number(offset)), (second.size, _lengths(size)), (second.stride, _lengths(stride)),
             (old, _taken(pieces, first.storage)))  # fmt: skip
    return _edited(pieces, *((node.start, node.end, new) for node, new in pairs))


def _flag(dice: random.Random, pieces: Pieces, tree: Tree) -> Pieces | None:
    places = [i for i, piece in enumerate(pieces) if piece in (b"\x88", b"\x89")]
    if not places:
        return None
    at = dice.choice(places)
    return _edited(pieces, (at, at + 1, b"\x88" if pieces[at] == b"\x89" else b"\x89"))


def _metadata(dice: random.Random, pieces: Pieces, tree: Tree) -> Pieces | None:
    """Conjugate and negative bits: a last argument of the call."""
    tensors = [t.node.parts[1].true for t in _tensors(tree)
               if t.node.called.endswith("_v2") and len(t.node.arguments) == 6]  # fmt: skip
    if not tensors:
        return None
    at = dice.choice(tensors).end - 1
    said = b"".join(text(name) + dice.choice((b"\x88", b"\x88", b"\x89")) + b"s" for name in
                    dice.choice((("conj",), ("neg",), ("conj", "neg"), ())))  # fmt: skip
    return _edited(pieces, (at, at, b"}" + said))


def _wrap(dice: random.Random, pieces: Pieces, tree: Tree) -> Pieces | None:
    """A tensor as a Parameter, as one with attributes, as a view of its own kind, or in a container."""
    tensors = _tensors(tree)
    if not tensors:
        return None
    node = dice.choice(tensors).node
    before, after = dice.choice((
        (_global("torch._utils _rebuild_parameter"), dice.choice((b"\x88", b"\x89")) + _ORDERED + b"\x87R"),
        (_global("torch._utils _rebuild_parameter_with_state") + b"(",
         b"\x88" + _ORDERED + b"}" + text("tag") + number(3) + b"stR"),
        (b"(", b"N\x88t"), (b"]", b"a"), (b"}" + text("x"), b"s"), (b"(", b"2t"),
    ))  # fmt: skip
    return _edited(pieces, (node.end, node.end, after), (node.start, node.start, before))


def _attributes(dice: random.Random, pieces: Pieces, tree: Tree) -> Pieces | None:
    tensors = [t.node for t in _tensors(tree)]
    if not tensors:
        return None
    node = dice.choice(tensors)
    kind = dice.choice(("torch Tensor", "torch Tensor", "torch.nn.parameter Parameter"))
    state = b"}" + text(dice.choice(("tag", "name", "x y", "_spec"))) + _plain(dice) + b"s"
    before = _global("torch._tensor _rebuild_from_type_v2") + b"("
    return _edited(pieces, (node.end - 1, node.end, state + b"tR"), (node.start, node.start, before),
                   (node.parts[0].end, node.parts[0].end, _global(kind)))  # fmt: skip


# ------------------------------------------------------------------------------------------------- containers, values


def _plain(dice: random.Random) -> bytes:
    return dice.choice((
        lambda: number(dice.choice((0, 1, 255, 256, 65536, -1, -(1 << 31), 1 << 31, 1 << 63, -(1 << 63), 1 << 200))),
        lambda: b"G" + struct.pack(">d", dice.choice((0.0, -0.0, 1e308, float("inf"), float("nan"), 0.1))),
        lambda: text(dice.choice(("", "a", "x" * 300, "é", "日本", "\ud800", "a\0b", "storage", "\U0001f600"))),
        lambda: b"U" + bytes((3,)) + b"abc",
        lambda: dice.choice((b"N", b"\x88", b"\x89", b")", b"]", b"}", b"\x8f", _ORDERED)),
        lambda: _global("torch device") + text(dice.choice(("cpu", "cuda:1", "meta", "cuda", "mps:0"))) + b"\x85R",
        lambda: _global("torch Size") + _lengths([dice.choice((0, 1, 3, 1 << 40)) for _ in range(dice.randrange(5))])
        + b"\x85R",
        lambda: _global(dice.choice(list(DTYPES))),
        lambda: _global("__builtin__ complex") + b"G" + struct.pack(">d", 0.5) + b"G" + bytes(8) + b"\x86R",
        lambda: _global("__builtin__ set") + b"](K\x01K\x02" + text("z") + b"e\x85R",
        lambda: _global("__builtin__ bytearray") + _global("_codecs encode") + text("\xff\x00") + text("latin1")
        + b"\x86R\x85R",
        lambda: _global("_codecs encode") + text("a\xe9") + text("latin1") + b"\x86R",
        lambda: _global("collections Counter") + b"}(" + text("a") + b"K\x02" + text("b") + b"K\x01u\x85R",
        lambda: _global("torch.serialization _get_layout") + text("torch.sparse_coo") + b"\x85R",
        lambda: _global("torch._utils _rebuild_meta_tensor_no_storage") + b"(" + _global("torch float32")
        + b"K\x02K\x03\x86K\x03K\x01\x86\x89tR",
        lambda: dice.choice(_closed()) if _closed() else b"N",
    ))()  # fmt: skip


def _closed() -> list[bytes]:
    """Objects of other files that need neither their memo nor their storages."""
    if len(_CLOSED) != len(LEARNED[1]):
        _CLOSED[:] = [b"" if b"Q" in (codes := {piece[:1] for piece in opcodes(one)[0]}) or codes & {b"h", b"j"}
                      else one for one in LEARNED[1]]  # fmt: skip
    return [one for one in _CLOSED if one]


_CLOSED: list[bytes] = []


def _value(dice: random.Random, pieces: Pieces, tree: Tree) -> Pieces | None:
    """Another plain value."""
    leaves = [node for node in tree.slots if node.code in b"KMJ\x8aGXUN\x88\x89" and tree.is_free(node)]
    if not leaves:
        return None
    node = dice.choice(leaves)
    return _edited(pieces, (node.start, node.end, _plain(dice)))


def _fresh_tensor(dice: random.Random, pieces: Pieces, tree: Tree, before: int) -> bytes:
    """One more view of a storage that was named before."""
    tensors = [t for t in _tensors(tree) if t.storage.end <= before and not t.node.called.endswith("v3")]
    if not tensors:
        return _plain(dice)
    chosen = dice.choice(tensors)
    name = dice.choice(("v2", "v2", ""))
    start = _global("torch._utils _rebuild_tensor" + ("_" + name if name else "")) + b"("
    made = start + _taken(pieces, chosen.storage) + _seen(dice, chosen.count)
    return made + (dice.choice((b"\x88", b"\x89")) + _ORDERED if name else b"") + b"tR"


def _add(dice: random.Random, pieces: Pieces, tree: Tree) -> Pieces | None:
    """One more entry in a dictionary or list."""
    containers = [node for node in tree.nodes if node.code in (b"u", b"e")]
    if not containers:
        return None
    node = dice.choice(containers)
    new = _fresh_tensor(dice, pieces, tree, node.end - 1) if dice.random() < 0.6 else _plain(dice)
    key = dice.choice((text(f"new{dice.randrange(9)}"), number(dice.randrange(99)), text("a.b"), b"K\x01K\x02\x86"))
    return _edited(pieces, (node.end - 1, node.end - 1, (key if node.code == b"u" else b"") + new))


def _alias(dice: random.Random, pieces: Pieces, tree: Tree) -> Pieces | None:
    """An object once more in the place of a later one."""
    places = [(index, place) for place, indices in tree.puts.items() for index in indices]
    targets = [node for node in tree.slots if tree.is_free(node)]
    if not places or not targets:
        return None
    node = dice.choice(targets)
    before = [place for index, place in places if index < node.start]
    if not before:
        return None
    return _edited(pieces, (node.start, node.end, b"j" + struct.pack("<I", dice.choice(before))))


def _remove(dice: random.Random, pieces: Pieces, tree: Tree) -> Pieces | None:
    entries = [(node, i) for node in tree.nodes if node.code == b"u" for i in range(1, len(node.parts) - 1, 2)]
    if not entries:
        return None
    node, i = dice.choice(entries)
    end = node.parts[i + 2].start if i + 2 < len(node.parts) else node.end - 1
    whole = Node(node.parts[i].start, end, b"")
    return _edited(pieces, (whole.start, whole.end, b"")) if tree.is_free(whole) else None


def _container(dice: random.Random, pieces: Pieces, tree: Tree) -> Pieces | None:
    """A dictionary as one of another class, tuples as lists."""
    built = {id(node.parts[0].true) for node in tree.nodes if node.code == b"b"}
    chosen: list[tuple[Node, bytes]] = []
    counter = _global("collections Counter") + b")R"
    for node in tree.nodes:
        if node.code == b"}" and id(node) not in built:
            chosen.append((node, dice.choice((_ORDERED, _ORDERED, counter))))
        elif node.called == "collections OrderedDict" and node.end - node.start < 5 and id(node) not in built:
            chosen.append((node, dice.choice((b"}", counter))))
    tuples = [node for node in tree.slots if node.code == b"t" and tree.is_free(node)]
    if tuples and dice.random() < 0.4:
        node = dice.choice(tuples)
        return _edited(pieces, (node.start, node.start + 1, b"]("), (node.end - 1, node.end, b"e"))
    chosen = [(node, new) for node, new in chosen if tree.is_free(node)]
    if not chosen:
        return None
    node, new = dice.choice(chosen)
    return _edited(pieces, (node.start, node.end, new))


# ---------------------------------------------------------------------------------------------------------- spellings


def _respelled(dice: random.Random, piece: bytes) -> bytes:
    code, value = piece[:1], piece[1:]
    if code in (b"K", b"M"):
        wider = int.from_bytes(value, "little")
        return dice.choice((b"M" + struct.pack("<H", wider), b"J" + struct.pack("<i", wider),
                            b"\x8a\x04" + struct.pack("<i", wider),
                            b"\x8a\x0a" + struct.pack("<q", wider) + b"\0\0"))  # fmt: skip
    if code in (b"q", b"h"):
        return (b"r" if code == b"q" else b"j") + value + bytes(3)
    if code == b"X" and len(value) < 100 and value[4:].isascii():
        return b"U" + value[:1] + value[4:]
    if code == b"\x80":
        return b"\x80" + bytes((dice.choice((2, 2, 3, 4, 5)),))
    if piece == b")":
        return b"(t"
    return piece


def _spelling(dice: random.Random, pieces: Pieces, tree: Tree) -> Pieces | None:
    """Other opcodes for the same objects: a few of them, or all."""
    share = dice.choice((0.02, 0.2, 1.0))
    return [_respelled(dice, piece) if dice.random() < share else piece for piece in pieces]


def _one_by_one(dice: random.Random, pieces: Pieces, tree: Tree) -> Pieces | None:
    """APPENDS and SETITEMS as APPEND and SETITEM; tuples of up to three the long way."""
    edits: list[tuple[int, int, bytes]] = []
    for node in tree.nodes:
        step = {b"e": 1, b"u": 2}.get(node.code, 0)
        if step and dice.random() < 0.7 and len(node.parts) > 1:
            mark = next((i for i in range(node.parts[1].start - 1, node.start, -1) if pieces[i] == b"("), None)
            if mark is None or mark != node.parts[1].start - 1:
                continue
            edits.append((mark, mark + 1, b""))
            ends = [part.start for part in node.parts[1 + step :: step]] + [node.end - 1]
            edits += [(end, end, b"a" if step == 1 else b"s") for end in ends[:-1]]
            edits.append((node.end - 1, node.end, b"a" if step == 1 else b"s"))
    return _merged(pieces, edits)


def _merged(pieces: Pieces, edits: list[tuple[int, int, bytes]]) -> Pieces:
    """Edits of which several may stand at one place: insertions in the order of their list, then what is there."""
    before: dict[int, bytes] = {}
    instead: dict[int, bytes] = {}
    for start, end, new in edits:
        if start == end:
            before[start] = before.get(start, b"") + new
        else:
            instead[start] = new
    return [before.get(i, b"") + instead.get(i, piece) for i, piece in enumerate(pieces)]


def _memo(dice: random.Random, pieces: Pieces, tree: Tree) -> Pieces | None:
    """Other places in the memo; those that nobody asks for are left out, or everything is put away."""
    kind = dice.randrange(3)
    if kind == 0:
        unused = {index for place, indices in tree.puts.items() if place not in tree.gets for index in indices}
        return [piece for i, piece in enumerate(pieces) if i not in unused]
    places = sorted(tree.puts)
    new = [(place + 1000) % (1 << 32) for place in places]
    if kind == 1:
        new = dice.sample(range(max(len(places) * 2, 300)), len(places))
    moved = dict(zip(places, new, strict=True))
    made = []
    for piece in pieces:
        if piece[:1] in (b"q", b"r", b"h", b"j"):
            place = int.from_bytes(piece[1:], "little")
            code = b"r" if piece[:1] in b"qr" else b"j"
            made.append(code + struct.pack("<I", moved.get(place, place)))
        else:
            made.append(piece)
    return made


_CHANGES: tuple[Callable[[random.Random, Pieces, Tree], Pieces | None], ...] = (
    _new_view, _new_view, _new_view, _other_class, _other_class, _other_dtype, _share, _share, _flag, _metadata, _wrap,
    _attributes, _value, _value, _add, _add, _add, _alias, _alias, _remove, _container, _spelling, _one_by_one, _memo,
)  # fmt: skip
