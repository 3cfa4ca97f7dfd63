"""Tensors taken as columns are the tensors that their opcodes would have made one by one, whatever surrounds them."""

from __future__ import annotations

import gc
import io
import struct
import sys
import zipfile
from collections import OrderedDict
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import weighlock as wl
from weighlock.backends import numpy_backend
from weighlock.dtypes import DTYPES
from weighlock.pickling import columns
from weighlock.pickling.inert import Stub
from weighlock.storages.refs import StorageRef
from weighlock.storages.storage import Storage
from weighlock.tensors.rebuild import StorageClass
from weighlock.tensors.spec import TensorSpec

WIDTHS = {"FloatStorage": 4, "LongStorage": 8, "HalfStorage": 2, "BFloat16Storage": 2, "ByteStorage": 1}


class Item(NamedTuple):
    """One tensor of a state_dict, as the pickle spells it."""

    name: bytes
    storage: str
    cls: str = "FloatStorage"
    numel: int = 4
    offset: int = 0
    size: tuple[int, ...] = (4,)
    stride: tuple[int, ...] = (1,)
    requires_grad: bool = False
    location: str = "cpu"
    record: int | None = None
    """Bytes of its record, where that is not what `numel` says; -1 for no record."""
    odd: str = ""
    """What is unusual in the spelling: see `Writer.item`."""


class Writer:
    """Spells a pickle as `torch.save` does, each name once and then from the memo.

    What follows the first tensor, which introduces the names, is stored from the index `first` on.
    """

    def __init__(self, first: int, proto: int = 2) -> None:
        self.out = [b"\x80" + bytes([proto])]
        self.index = 0
        self.first = first
        self.stored: list[int] = []
        self.names: dict[Any, int] = {}

    def put(self, step: int = 0) -> None:
        self.index += step
        self.out.append(b"q%c" % self.index if self.index < 256 else b"r" + struct.pack("<I", self.index))
        self.stored.append(self.index)
        self.index += 1

    def get(self, index: int, *, wide: bool = False) -> None:
        self.out.append(b"h%c" % index if index < 256 and not wide else b"j" + struct.pack("<I", index))

    def text(self, raw: bytes, length: int | None = None) -> None:
        self.out.append(b"X" + struct.pack("<I", len(raw) if length is None else length) + raw)

    def named(self, key: Any, spelled: bytes, *, wide: bool = False) -> None:
        if key in self.names:
            self.get(self.names[key], wide=wide)
            return
        self.out.append(spelled)
        self.names[key] = self.index
        self.put()

    def known_text(self, value: str) -> None:
        raw = value.encode()
        self.named(value, b"X" + struct.pack("<I", len(raw)) + raw)

    def number(self, value: int) -> None:
        if 0 <= value < 256:
            self.out.append(b"K%c" % value)
        elif 0 <= value < 65536:
            self.out.append(b"M" + struct.pack("<H", value))
        else:
            self.out.append(b"J" + struct.pack("<i", value))

    def numbers(self, values: tuple[int, ...], *, stored: bool = True) -> None:
        if not values:
            self.out.append(b")")
            return
        if len(values) > 3:
            self.out.append(b"(")
        for value in values:
            self.number(value)
        self.out.append(b"\x85\x86\x87"[len(values) - 1 : len(values)] if len(values) < 4 else b"t")
        if stored:
            self.put()

    def item(self, item: Item) -> None:
        odd = item.odd
        self.text(item.name, len(item.name) + 1 if odd == "length" else None)
        self.put(step=3 if odd == "gap" else 0)
        if odd == "same index":
            self.index -= 1
        self.named("_rebuild_tensor_v2", b"ctorch._utils\n_rebuild_tensor_v2\n", wide=odd == "wide")
        self.out.append(b"((")
        self.known_text("storage")
        self.named(item.cls, b"ctorch\n%s\n" % item.cls.encode(), wide=odd == "wide")
        self.text(item.storage.encode())
        self.put()
        self.known_text(item.location)
        self.number(item.numel)
        self.out.append(b"Nt" if odd == "none" else b"t")
        self.put()
        self.out.append(b"Q")
        self.number(item.offset)
        if odd == "offset stored":
            self.put()
        self.numbers(item.size, stored=odd != "size not stored")
        if odd != "no stride":
            self.numbers(item.stride)
        self.out.append(b"\x88" if item.requires_grad else b"\x89")
        hooks = "dict" if odd == "hooks" else "OrderedDict"
        self.named(hooks, b"ccollections\n%s\n" % hooks.encode() if hooks != "dict" else b"cbuiltins\ndict\n")
        self.out.append(b")R")
        self.put()
        self.out.append(b"t")
        self.put()
        self.out.append(b"R")
        if odd == "memoize":
            self.out.append(b"\x94")
        self.put()
        self.index = max(self.index, self.first)
        if odd == "rename":  # the memo entry of the storage class is another class from here on
            self.out.append(b"cbuiltins\nset\nr" + struct.pack("<I", self.names[item.cls]) + b"0")
        if odd == "rename location":
            self.out.append(b"X\4\0\0\0metar" + struct.pack("<I", self.names[item.location]) + b"0")

    def finish(self, gets: bool) -> bytes:
        if gets:  # everything that was ever stored, asked for again
            self.out.append(b"(")
            for index in self.stored:
                self.get(index)
            self.out.append(b"t\x86")
        return b"".join(self.out) + b"."


def spell(items: list[Item], *, first: int = 0, batch: int = 1000, gets: bool = True, extra: bytes = b"") -> bytes:
    writer = Writer(first)
    writer.out.append(b"}")
    writer.put()
    for begin in range(0, len(items), batch):
        writer.out.append(b"(")
        for item in items[begin : begin + batch]:
            writer.item(item)
        writer.out.append(b"u")
    writer.out.append(extra)
    return writer.finish(gets)


def archive(items: list[Item], pickled: bytes, *, order: str = "little", plain: bool = False, crc: int = 0) -> bytes:
    """Return an archive; `plain` leaves the local headers as Python's module writes them, else they are PyTorch's."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("model/data.pkl", pickled)
        made.writestr("model/byteorder", order)
        made.writestr("model/version", "3\n")
        written = set()
        for number, item in enumerate(items):
            nbytes = item.numel * WIDTHS[item.cls] if item.record is None else item.record
            if nbytes >= 0 and item.storage not in written and item.storage.isascii():
                written.add(item.storage)
                made.writestr(f"model/data/{item.storage}", bytes((number + at) % 251 for at in range(nbytes)))
        offsets = [info.header_offset for info in made.infolist()]
    data = bytearray(file.getvalue())
    for offset in () if plain else offsets:
        data[offset + 14 : offset + 26] = bytes(12)
    if crc:  # damage one byte of that record's data
        data[offsets[crc + 2] + 30 + len(f"model/data/{items[crc - 1].storage}")] ^= 1
    return bytes(data)


class Canon:
    """Values as plain text, objects that can be told apart by identity numbered as they are met."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}
        self.kept: list[Any] = []

    def number(self, value: Any) -> int:
        self.kept.append(value)
        return self.seen.setdefault(id(value), len(self.seen))

    def of(self, value: Any) -> Any:
        kind = type(value).__name__
        if isinstance(value, np.ndarray):
            return (kind, self.number(value), str(value.dtype), value.shape, value.strides, value.tobytes())
        if isinstance(value, Storage):
            known = (value.ref.key, value.ref.record, value.ref.dtype.name, value.ref.numel, value.location)
            return (kind, self.number(value), known, None if value.array is None else value.tobytes())
        if isinstance(value, StorageRef):
            return (kind, self.number(value), repr(value), value.record, value.byteorder, value.untyped)
        if isinstance(value, TensorSpec):
            fields = (value.dtype.name, value.offset, value.shape, value.stride, value.requires_grad)
            return (kind, self.number(value), self.of(value.storage), fields)
        if isinstance(value, dict):
            return (kind, self.number(value), [(self.of(key), self.of(item)) for key, item in value.items()])
        if isinstance(value, tuple | list):
            return (kind, [self.of(item) for item in value])
        if isinstance(value, wl.PackedTensor | wl.MetaTensor):
            return (kind, self.number(value), repr(value))
        if isinstance(value, StorageClass | Stub):
            return (kind, repr(value))
        return (kind, repr(value))


def _shared(value: Any) -> list[tuple[int, int]]:
    """Return which arrays of a dictionary lie on the same bytes."""
    arrays = [item for item in value.values() if isinstance(item, np.ndarray) and item.size]
    return [(i, j) for i, a in enumerate(arrays) for j, b in enumerate(arrays[:i]) if np.may_share_memory(a, b)]


def outcome(read: Any) -> Any:
    try:
        found = read()
    except wl.WeighlockError as error:
        return (type(error).__name__, str(error), error.offset, error.object_path, error.record)
    top = found[0] if isinstance(found, tuple) else found
    return (Canon().of(found), _shared(top) if isinstance(top, dict) else None)


def described(data: bytes) -> Any:
    with wl.read_checkpoint(data) as checkpoint:
        return (checkpoint.object, {key: repr(ref) for key, ref in checkpoint.storages.items()}, checkpoint.globals)


READINGS = {
    "numpy": wl.load,
    "described": described,
    "meta": lambda data: wl.load(data, map_location="meta"),
    "mapping": lambda data: wl.load(data, map_location={"cuda:0": "cpu"}),
    "unverified": lambda data: wl.load(data, verify=False),
    "mapped": lambda data: wl.load(data, mmap=True),
}


def both(monkeypatch: pytest.MonkeyPatch, data: bytes, read: Any) -> tuple[Any, int]:
    """Return what reading gives, the same in both ways, and how many tensors were taken as columns."""
    with monkeypatch.context() as patch:
        patch.setattr(columns, "_FEWEST", 1 << 40)
        expected = outcome(lambda: read(data))
    taken = []
    with monkeypatch.context() as patch:
        original = columns.LazyMemo.add

        def add(memo: Any, run: Any) -> None:
            taken.append(len(run))
            original(memo, run)

        patch.setattr(columns.LazyMemo, "add", add)
        assert outcome(lambda: read(data)) == expected
    return expected, sum(taken)


def plain_items(count: int, **changed: Any) -> list[Item]:
    kinds = list(WIDTHS)
    found = []
    for at in range(count):
        shape = [((4,), (1,)), ((2, 2), (2, 1)), ((), ()), ((2, 2), (1, 2)), ((1, 2, 1, 2), (4, 2, 2, 1))][at % 5]
        numel = 1 if at % 5 == 2 else 4
        item = Item(
            b"layer.%d.weight" % at,
            str(at),
            kinds[at // 3 % 5],
            numel,
            0,
            *shape,
            at % 7 == 0 and at // 3 % 5 in (0, 2, 3),
        )
        found.append(item._replace(**changed))
    return found


@pytest.mark.parametrize("read", READINGS)
@pytest.mark.parametrize("first", [0, 100, 300, 70000], ids=lambda first: f"from {first}")
@pytest.mark.parametrize("plain", [False, True], ids=["as PyTorch writes", "as zipfile writes"])
def test_every_entry_of_the_memo(monkeypatch, read, first, plain):
    items = plain_items(90)
    data = archive(items, spell(items, first=first, batch=40), plain=plain)
    expected, taken = both(monkeypatch, data, READINGS[read])
    assert len(expected) == 2
    assert taken == 0 if read == "meta" else taken > 40


ODD: dict[str, dict[str, Any]] = {
    "name not as long as it says": {"odd": "length"},
    "memo with a gap": {"odd": "gap"},
    "memo index twice": {"odd": "same index"},
    "get in its wide form": {"odd": "wide"},
    "None behind the length": {"odd": "none"},
    "offset stored": {"odd": "offset stored"},
    "size not stored": {"odd": "size not stored"},
    "no stride": {"odd": "no stride"},
    "hooks of another class": {"odd": "hooks"},
    "MEMOIZE": {"odd": "memoize"},
    "class renamed": {"odd": "rename"},
    "location renamed": {"odd": "rename location"},
    "storage named before": {"storage": "3"},
    "storage named later": {"storage": "50"},
    "same name": {"name": b"layer.1.weight"},
    "name with NUL": {"name": b"a\0b"},
    "empty name": {"name": b""},
    "name that is no text": {"name": b"\xff\xfe"},
    "name with a surrogate": {"name": b"\xed\xa0\x80"},
    "name in UTF-8": {"name": "größe".encode()},
    "name like a put": {"name": b"aq\1h\2((h\3h\4X\1\0\0\0"},
    "long name": {"name": b"n" * 300},
    "storage without a number": {"storage": "weights"},
    "storage with leading zeros": {"storage": "007"},
    "record too short": {"record": 3},
    "record too long": {"record": 300},
    "no record": {"record": -1},
    "no record on meta": {"record": -1, "location": "meta"},
    "on a GPU": {"location": "cuda:0"},
    "on meta": {"location": "meta"},
    "empty": {"numel": 0, "size": (0,)},
    "empty view": {"size": (0, 3), "stride": (3, 1)},
    "beyond its storage": {"size": (5,)},
    "far beyond its storage": {"offset": 1 << 30},
    "negative offset": {"offset": -1},
    "part of its storage": {"offset": 1, "size": (2,)},
    "same element again": {"size": (9,), "stride": (0,)},
    "more sizes than strides": {"size": (2, 2)},
    "many dimensions": {"size": (1,) * 8, "stride": (1,) * 8},
    "more dimensions": {"size": (1,) * 9, "stride": (1,) * 9},
    "large": {"numel": 30000, "size": (30000,)},
    "bfloat16": {"cls": "BFloat16Storage"},
    "class that is none": {"cls": "FloatStorage\nq\0c__main__\nThing"},
}


SPOILERS = ("memo with a gap", "memo index twice", "location renamed")
"""After these none of the others is taken as columns."""


@pytest.mark.parametrize("read", ["numpy", "described", "mapping"])
@pytest.mark.parametrize("odd", ODD)
def test_one_of_many_is_unusual(monkeypatch, odd, read):
    monkeypatch.setitem(WIDTHS, "FloatStorage\nq\0c__main__\nThing", 4)
    items = plain_items(60)
    base = Item(b"unusual", "unusual" if odd == "storage without a number" else "900")
    items.insert(30, base._replace(**ODD[odd]))
    for gets in (True, False):
        data = archive(items, spell(items, first=300, gets=gets))
        expected, taken = both(monkeypatch, data, READINGS[read])
        assert taken > 20 or len(expected) > 2 or odd in SPOILERS


def test_storage_shared_with_what_comes_behind(monkeypatch):
    items = plain_items(40)
    again = [Item(b"tied.%d" % at, str(at), items[at].cls, items[at].numel, 0, (1,), (1,)) for at in (5, 30, 5, 39)]
    _, taken = both(monkeypatch, archive(items, spell(items + again, gets=False)), wl.load)
    assert taken > 20
    loaded = wl.load(archive(items, spell(items + again, gets=False)))
    loaded["tied.5"][...] = 77
    assert loaded["layer.5.weight"].flat[0] == 77
    assert np.may_share_memory(loaded["tied.39"], loaded["layer.39.weight"])
    assert not np.may_share_memory(loaded["tied.39"], loaded["layer.38.weight"])


def test_entry_overwritten_behind_the_run(monkeypatch):
    items = plain_items(40)
    writer = Writer(300)
    writer.out.append(b"}(")
    for item in items:
        writer.item(item)
    last = writer.index - 1
    writer.out.append(b"uK\7r" + struct.pack("<I", last) + b"0")
    writer.get(last)
    writer.get(last - 1)
    writer.out.append(b"\x87.")
    data = archive(items, b"".join(writer.out))
    expected, _ = both(monkeypatch, data, wl.load)
    assert expected[0][1][1] == ("int", "7")
    assert expected[0][1][2][0] == "tuple"


def test_entry_stored_before_the_run(monkeypatch):
    """An index that a run will store holds something else before: the run's own entry counts afterwards."""
    items = plain_items(30)
    pickled = spell(items, first=300)
    early = b"\x80\x02X\1\0\0\0zr" + struct.pack("<I", 420) + b"0"
    expected, _ = both(monkeypatch, archive(items, early + pickled[2:]), wl.load)
    assert "'z'" not in repr(expected)


def test_memoize_counts_what_runs_stored(monkeypatch):
    items = plain_items(20)
    for extra in (b"X\1\0\0\0a\x940", b"X\1\0\0\0a\x940X\1\0\0\0b\x940"):
        both(monkeypatch, archive(items, spell(items, extra=extra)), wl.load)


@pytest.mark.parametrize("order", ["little", "big"])
def test_byte_order(monkeypatch, order):
    items = plain_items(30)
    _, taken = both(monkeypatch, archive(items, spell(items), order=order), wl.load)
    assert (taken > 0) == (order == sys.byteorder)


def test_function_is_asked_in_order():
    items = plain_items(30)
    asked = []
    wl.load(archive(items, spell(items)), map_location=lambda storage, location: asked.append(storage.ref.key))
    assert asked == [item.storage for item in items]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("damaged", [1, 12, 29])
def test_damage_is_found_where_it_is(monkeypatch, damaged, plain):
    items = plain_items(30)
    data = archive(items, spell(items, gets=False), crc=damaged, plain=plain)
    expected, _ = both(monkeypatch, data, wl.load)
    assert expected[0] == "ChecksumError"
    assert expected[3] == f"layer.{damaged - 1}.weight"


def test_unusual_headers_are_judged_one_by_one():
    items = plain_items(30)
    data = bytearray(archive(items, spell(items, gets=False)))
    at = data.index(b"model/data/17") - 30
    for change in (b"PK\x03\x05", b"PK\x03\x04\x14\0\1\0", b"PK\x03\x04\x14\0\0\0\x08\0"):
        changed = bytearray(data)
        changed[at : at + len(change)] = change
        with pytest.raises(wl.DirectoryError):
            wl.load(bytes(changed))
    changed = bytearray(data)
    changed[at + 30 + 11] ^= 1
    with pytest.raises(wl.DirectoryError, match="another one"):
        wl.load(bytes(changed))


def test_a_run_that_is_declined_is_not_tried_again_at_each_item(monkeypatch):
    items = [item._replace(numel=4, size=(5,), stride=(0,), cls="FloatStorage") for item in plain_items(900)]
    items[800] = items[800]._replace(numel=0, size=(0,))
    tried = []
    original = columns._rows

    def rows(*args: Any) -> Any:
        found = original(*args)
        tried.append(len(found[0]))
        return found

    monkeypatch.setattr(columns, "_rows", rows)
    wl.load(archive(items, spell(items, gets=False)))
    assert sum(tried) < 3 * len(items)


@pytest.mark.parametrize("options", [{"map_location": "meta"}, {"map_location": lambda *_: None}])
def test_leaves_that_want_no_columns_are_asked_once(monkeypatch, options):
    items = plain_items(300)
    asked = []
    original = numpy_backend.NumpyLeaves.strided_columns

    def strided_columns(leaves: Any, many: Any) -> Any:
        asked.append(len(many.keys))
        return original(leaves, many)

    monkeypatch.setattr(numpy_backend.NumpyLeaves, "strided_columns", strided_columns)
    wl.load(archive(items, spell(items, gets=False)), **options)
    assert sum(asked) <= len(items)


ITEMS = st.builds(
    Item,
    st.sampled_from([b"a", b"b.c", b"qr", b"X\1", "é".encode(), b"layer.weight", b"n" * 40]),
    st.integers(0, 12).map(str),
    st.sampled_from(list(WIDTHS)),
    st.sampled_from([1, 4, 4, 4, 78, 0, 20000]),
    st.sampled_from([0, 0, 0, 0, 1, 300]),
    st.sampled_from([(4,), (4,), (2, 2), (), (1, 1, 1, 4), (0,)]),
    st.sampled_from([(1,), (1,), (2, 1), (), (4, 4, 4, 1)]),
    st.booleans(),
    st.sampled_from(["cpu", "cpu", "cpu", "cuda:0", "meta"]),
    st.sampled_from([None] * 9 + [-1]),
    st.sampled_from([""] * 12 + ["gap", "none", "memoize", "wide", "rename", "hooks", "size not stored"]),
)


@given(
    st.lists(ITEMS, min_size=1, max_size=12), st.integers(4, 25), st.sampled_from([0, 190, 300]), st.integers(3, 50),
    st.sampled_from(["numpy", "described", "mapped"]),
)  # fmt: skip
def test_any_items(odd, count, first, batch, read):
    items = plain_items(count)
    for at, item in enumerate(odd):
        fits = len(item.size) == len(item.stride)
        items.insert((at * 7 + count) % len(items), item if fits else item._replace(stride=(1,) * len(item.size)))
    data = archive(items, spell(items, first=first, batch=batch))
    with pytest.MonkeyPatch.context() as patch:
        both(patch, data, READINGS[read])


@pytest.mark.requires_torch
@pytest.mark.parametrize("mapped", [False, True], ids=["read", "mapped"])
@pytest.mark.parametrize("plain", [False, True], ids=["as PyTorch writes", "as zipfile writes"])
def test_torch_tensors(tmp_path, mapped, plain):
    import torch

    import weighlock.torch as wt

    items = plain_items(60)
    items.insert(20, Item(b"large", "900", numel=30000, size=(30000,)))
    items.insert(40, Item(b"part", "901", offset=1, size=(2,), stride=(2,)))
    items.append(Item(b"tied", "7", items[7].cls, items[7].numel, 0, (1,), (1,)))
    expected = None
    path = tmp_path / "many.pt"
    path.write_bytes(archive(items, spell(items), plain=plain))
    for read in (torch.load, wt.load, partial(wl.load, framework="torch")):
        loaded, memo = read(path, mmap=mapped)
        every = [item for item in memo if isinstance(item, torch.Tensor)]
        assert [id(item) for item in every] == [id(item) for item in loaded.values()]
        hooks = [item for item in memo if type(item) is OrderedDict]
        assert all(a is b._backward_hooks for a, b in zip(hooks, every, strict=True))
        seen = [
            (t.dtype, t.shape, t.stride(), t.storage_offset(), t.requires_grad, t.untyped_storage().nbytes(), t.is_leaf,
             t.detach().contiguous().view(torch.uint8).tolist() if t.dim() else t.detach().view(1).view(torch.uint8))
            for t in every
        ]  # fmt: skip
        expected = expected or seen
        assert repr(seen) == repr(expected)
        pointers = [t.untyped_storage().data_ptr() for t in every]
        assert pointers[-1] == loaded["layer.7.weight"].untyped_storage().data_ptr()
        assert len(set(pointers)) == len(pointers) - 1
        calls = [item for item in memo if type(item) is tuple and len(item) == 6]
        assert len(calls) == len(items)


@pytest.mark.requires_torch
@pytest.mark.parametrize("align", [1, 64])
def test_parts_of_a_map_are_the_tensors_that_pytorch_makes(tmp_path, align):
    """Of every element type: no views of one another, in storages of their own, and as free of gradients."""
    import torch

    import weighlock.torch as wt
    from weighlock.backends.torch_values import TORCH_DTYPES

    content = {}
    for row in DTYPES.values():
        if row.kind == "q" or row.storage_class is None:
            continue
        for at, (shape, stride) in enumerate(
            [((6,), (1,)), ((2, 3), (3, 1)), ((2, 3), (1, 2)), ((), ()), ((3,), (2,))]
        ):
            kind = TORCH_DTYPES[row]
            count = 1 + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
            storage = torch.UntypedStorage(count * row.itemsize)
            flat = torch.empty(0, dtype=torch.uint8).set_(storage)
            flat.copy_(torch.arange(len(flat)) + at)
            tensor = torch.empty(0, dtype=kind).set_(storage, 0, shape, stride)
            content[f"{row.name}.{at}"] = tensor.requires_grad_(kind.is_floating_point and at == 1)
    path = tmp_path / "many.pt"
    with torch.utils.serialization.config.patch({"save.storage_alignment": align}):
        torch.save(content, path)
    expected, found = torch.load(path, mmap=True), wt.load(path, mmap=True)
    assert list(found) == list(expected)
    for name, want in expected.items():
        got, storage = found[name], found[name].untyped_storage()
        for seen in ("dtype", "shape", "requires_grad", "is_leaf", "_base"):
            assert getattr(got, seen) == getattr(want, seen), (name, seen)
        assert (got.stride(), bytes(storage)) == (want.stride(), bytes(want.untyped_storage())), name
        assert (got._backward_hooks, got._version) == (want._backward_hooks, want._version) or align == 1, name
        assert storage.resizable() == want.untyped_storage().resizable() or align == 1, name


@pytest.mark.requires_torch
@pytest.mark.parametrize("setting", ["meta", "mmap", "skip_data", "fake", "function"])
def test_torch_settings(monkeypatch, tmp_path, setting):
    import torch

    import weighlock.torch as wt

    items = plain_items(30)
    path = tmp_path / "model.pt"
    path.write_bytes(archive(items, spell(items, gets=False)))

    def read(load: Any) -> list[Any]:
        asked: list[str] = []
        choices: dict[str, dict[str, Any]] = {
            "meta": {"map_location": "meta"}, "mmap": {"mmap": True},
            "function": {"map_location": lambda storage, location: asked.append(location)},
        }  # fmt: skip
        options = choices.get(setting, {})
        if setting == "skip_data":
            with torch.serialization.skip_data():
                loaded = load(path, **options)
        elif setting == "fake":
            with torch._subclasses.fake_tensor.FakeTensorMode():
                loaded = load(path, **options)
        else:
            loaded = load(path, **options)
        return [(key, t.device, t.shape, t.stride(), type(t).__name__, len(asked)) for key, t in loaded.items()]

    assert read(wt.load) == read(torch.load)


@pytest.mark.parametrize("framework", ["numpy", pytest.param("torch", marks=pytest.mark.requires_torch)])
def test_memory_is_freed_without_the_collector(framework):
    """Nothing of a reading is left in a circle that would keep what was loaded alive until a collection."""
    items = [*plain_items(60), Item(b"tied", "7", "HalfStorage", 4, 0, (1,), (1,))]
    data = archive(items, spell(items, gets=True))
    wl.load(data, framework=framework)
    gc.collect()
    gc.disable()
    try:
        wl.load(data, framework=framework)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [type(value).__name__ for value in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == []
