"""Values without NumPy: every element type, only the bytes that are needed, and slices as people type them."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import weighlock
from weighlock.dtypes import DTYPES, dtype
from weighlock.errors import ArgumentError, LimitError, UnsupportedError
from weighlock.inspection.decoding import decode, small_floats, unpack_units
from weighlock.inspection.slicing import parse_index, select, split_key
from weighlock.inspection.values import read_values
from weighlock.storages.refs import Extent, StorageRef
from weighlock.tensors.spec import QuantizedSpec, TensorSpec
from weighlock.tensors.values import TORCH_NAMES

SMALL = ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]


class Memory:
    """A checkpoint of one storage that notes which bytes are read."""

    def __init__(self, data: bytes, *, packed: bool = False) -> None:
        self.data = data
        self.packed = packed
        self.asked: list[tuple[int, int]] = []

    def extent(self, ref: StorageRef) -> Extent | None:
        return None if self.packed else Extent(0, len(self.data))

    def storage_bytes(self, ref: StorageRef, start: int = 0, count: int | None = None) -> bytes:
        count = len(self.data) - start if count is None else count
        self.asked.append((start, count))
        return self.data[start : start + count]

    gap = 4096

    def storage_parts(self, ref: StorageRef, parts: Sequence[tuple[int, int]]) -> list[bytes]:
        return [self.storage_bytes(ref, low, high - low) for low, high in parts]

    def tensor(
        self, name: str, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, **facts: Any
    ) -> TensorSpec:
        row = dtype(name)
        byteorder = facts.pop("byteorder", "little")
        ref = StorageRef("0", row, len(self.data) // row.itemsize, "cpu", self, byteorder=byteorder)  # type: ignore[arg-type]
        return TensorSpec(ref, row, offset, shape, stride, **facts)

    def show(self, spec: Any, index: str = "[...]", **options: Any) -> Any:
        return read_values(self, spec, parse_index(index), **options).nested()  # type: ignore[arg-type]


def same(one: float, other: float) -> bool:
    return (math.isnan(one) and math.isnan(other)) or (
        one == other and math.copysign(1, one) == math.copysign(1, other)
    )


@pytest.mark.requires_ml_dtypes
@pytest.mark.parametrize("name", SMALL)
def test_every_code_of_a_small_float(name):
    expected = np.arange(256, dtype=np.uint8).view(dtype(name).numpy).astype(np.float64)
    assert len(small_floats(name)) == 256
    for code, (ours, theirs) in enumerate(zip(small_floats(name), expected, strict=True)):
        assert same(ours, float(theirs)), f"{name} code {code:#x}: {ours} is not {theirs}"


@pytest.mark.requires_ml_dtypes
def test_every_code_of_float4():
    import ml_dtypes

    codes = np.arange(256, dtype=np.uint8)
    table = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float64)
    pairs = decode(codes.tobytes(), dtype("float4_e2m1fn_x2"))
    assert all(same(low, table[code & 15]) and same(high, table[code >> 4]) for code, (low, high) in enumerate(pairs))


@pytest.mark.requires_ml_dtypes
def test_every_code_of_bfloat16_and_float16():
    codes = np.arange(65536, dtype=np.uint16)
    for name in ("bfloat16", "float16"):
        with np.errstate(invalid="ignore"):  # signalling NaNs become quiet ones
            expected = codes.view(dtype(name).numpy).astype(np.float64)
        ours = decode(codes.tobytes(), dtype(name))
        assert all(same(one, float(other)) for one, other in zip(ours, expected, strict=True))


@pytest.mark.parametrize("name", [row.name for row in DTYPES.values()])
def test_every_type_decodes_to_one_item_per_element(name):
    row = DTYPES[name]
    assert len(decode(bytes(range(row.itemsize)) * 3, row)) == 3


def test_bits_are_hexadecimal():
    assert decode(b"\x01\xff", dtype("bits8")) == ["0x01", "0xff"]
    assert decode(b"\x01\xff", dtype("bits16")) == ["0xff01"]


def test_packed_integers_come_lowest_bits_first():
    assert unpack_units(b"\x21", "quint4x2") == [1, 2]
    assert unpack_units(b"\xe4", "quint2x4") == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "code", "values"),
    [
        ("float32", "f", [1.5, -2.0]), ("int64", "q", [-1, 2**62]), ("bool", "?", [True, False]),
        ("uint16", "H", [1, 65535]), ("float16", "e", [0.5, 6.0]),
    ],
)  # fmt: skip
def test_big_endian_storages(name, code, values):
    memory = Memory(struct.pack(f">2{code}", *values))
    assert memory.show(memory.tensor(name, (2,), (1,), byteorder="big")) == values
    assert memory.show(memory.tensor(name, (2,), (1,), byteorder="big"), "[1]") == values[1]


def test_big_endian_complex_numbers_swap_their_halves():
    memory = Memory(struct.pack(">4f", 1, 2, 3, -4))
    assert memory.show(memory.tensor("complex64", (2,), (1,), byteorder="big")) == [1 + 2j, 3 - 4j]


def test_a_big_endian_untyped_storage_swaps_in_the_units_of_its_elements():
    memory = Memory(struct.pack(">2f", 1, 2))
    spec = memory.tensor("uint8", (8,), (1,), byteorder="big")
    spec.ref.elements = dtype("float32")
    assert memory.show(spec, "[4:]") == list(struct.pack("<f", 2))


def test_conjugate_and_negative_views():
    memory = Memory(struct.pack("<4f", 1, 2, 3, -4))
    assert memory.show(memory.tensor("complex64", (2,), (1,), conj=True)) == [1 - 2j, 3 + 4j]
    assert memory.show(memory.tensor("float32", (2,), (2,), 1, neg=True)) == [-2, 4]


INDICES = st.lists(
    st.one_of(
        st.integers(-3, 2),
        st.builds(slice, *[st.one_of(st.none(), st.integers(-6, 6))] * 2, st.sampled_from([None, 1, 2, 3, -1, -2])),
        st.just(Ellipsis),
    ),
    max_size=4,
)


@given(INDICES, st.sampled_from([(5, 4, 3), (3, 5), (4,), (), (0, 3)]), st.booleans())
def test_a_slice_gives_what_numpy_gives(index, shape, turned):
    array = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    if turned:
        array = array.T
    memory = Memory(np.arange(max(array.size, 1), dtype="<i4").tobytes())
    spec = memory.tensor(
        "int32", array.shape, tuple(step // 4 for step in array.strides) if array.size else (1,) * array.ndim
    )
    try:
        expected = array[tuple(index)].tolist()
    except IndexError:
        with pytest.raises(ArgumentError):
            read_values(memory, spec, tuple(index))  # type: ignore[arg-type]
        return
    assert read_values(memory, spec, tuple(index)).nested() == expected  # type: ignore[arg-type]


def test_only_the_bytes_of_the_slice_are_read():
    memory = Memory(bytes(4 << 20))
    spec = memory.tensor("float32", (1024, 1024), (1024, 1))
    memory.show(spec, "[1000, 5:9]")
    assert memory.asked == [((1000 * 1024 + 5) * 4, 16)]
    memory.asked.clear()
    memory.show(spec, "[::512, :2]")
    assert sum(count for _, count in memory.asked) <= 2 * 16


def test_a_compressed_record_is_read_once():
    memory = Memory(bytes(4 << 20), packed=True)
    memory.show(memory.tensor("float32", (1024, 1024), (1024, 1)), "[::64, 0]")
    assert memory.asked == [(0, 4 << 20)]


def test_too_many_values_are_refused_unless_asked_for():
    memory = Memory(bytes(4 * 20_000))
    spec = memory.tensor("float32", (20_000,), (1,))
    with pytest.raises(LimitError, match="at most 10000, got 20000"):
        memory.show(spec)
    assert memory.asked == []
    assert len(memory.show(spec, limit=None)) == 20_000


def test_a_stride_of_zero_cannot_ask_for_more_than_the_limit():
    memory = Memory(bytes(4))
    with pytest.raises(LimitError):
        memory.show(memory.tensor("float32", (1 << 40,), (0,)))


def test_a_tensor_without_data_is_refused():
    memory = Memory(b"")
    spec = memory.tensor("float32", (0,), (1,))
    spec.ref.location = "meta"
    with pytest.raises(UnsupportedError):
        memory.show(spec)


def test_quantized_values_stand_for_numbers():
    memory = Memory(bytes([1, 2, 3, 4, 5, 6]))
    spec = QuantizedSpec(
        memory.tensor("quint8", (2, 3), (3, 1)), dtype("quint8"), (2, 3), TORCH_NAMES["per_tensor_affine"], 0.5, 1
    )
    found = read_values(memory, spec, (1, slice(None, None, -1)))  # type: ignore[arg-type]
    assert list(found.flat) == [6, 5, 4]
    assert found.dequantized == [2.5, 2.0, 1.5]


def test_quantized_channels_follow_the_slice():
    memory = Memory(bytes([1, 2, 3, 4, 5, 6]))
    spec = QuantizedSpec(
        memory.tensor("quint8", (2, 3), (3, 1)), dtype("quint8"), (2, 3), TORCH_NAMES["per_channel_affine"],
        [1.0, 10.0, 100.0], [0, 1, 2], 1,
    )  # fmt: skip
    found = read_values(memory, spec, (slice(None), 2))  # type: ignore[arg-type]
    assert found.dequantized == [100.0, 400.0]


def test_packed_quantized_values():
    memory = Memory(b"\x21\x43\x05")
    spec = QuantizedSpec(
        memory.tensor("quint4x2", (3,), (1,)), dtype("quint4x2"), (5,), TORCH_NAMES["per_tensor_affine"], 2.0, 0
    )
    assert memory.show(spec) == [1, 2, 3, 4, 5]
    assert memory.show(spec, "[-2:]") == [4, 5]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[0]", (0,)), ("[:10]", (slice(None, 10),)), ("[..., 0]", (Ellipsis, 0)), ("[2:5, 1]", (slice(2, 5), 1)),
        ("[::-1]", (slice(None, None, -1),)), ("[-3:]", (slice(-3, None),)), ("[:]", (slice(None),)), ("[]", ()),
        ("[ 1 , : ]", (1, slice(None))),
    ],
)  # fmt: skip
def test_indices_are_read(text, expected):
    assert parse_index(text) == expected


@pytest.mark.parametrize("text", ["[1,]", "[,]", "[-]", "[1.5]", "[1:2:3:4]", "[.. ]", "[--1]", "[" + "9" * 99 + "]"])
def test_what_is_no_index_is_refused(text):
    with pytest.raises(ArgumentError):
        parse_index(text)


def test_an_index_must_fit():
    for text in ("[0, 0, 0]", "[5]", "[..., ...]", "[::0]"):
        with pytest.raises(ArgumentError):
            select(parse_index(text), 0, (5, 2), (2, 1))


def test_a_key_is_split_from_its_slice():
    assert split_key("a.b[0, 1:]") == ("a.b", "[0, 1:]")
    assert split_key("a.b") == ("a.b", None)
    assert split_key("a[b]") == ("a[b]", None)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("code", ["<f8", ">i4", "?", "<c16", "<f2"])
def test_numpy_arrays_of_a_pickle(order, code, tmp_path):
    import pickle

    array = np.arange(6).astype(code).reshape(2, 3, order=order)
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"a": array, "s": array[1, 1]}, protocol=2))
    with weighlock.read_checkpoint(path) as checkpoint:
        assert read_values(checkpoint, checkpoint.object["a"], (slice(None), 1)).nested() == array[:, 1].tolist()


def test_values_of_a_saved_file():
    file = io.BytesIO()
    weighlock.save({"w": np.arange(12, dtype="f4").reshape(3, 4)}, file)
    file.seek(0)
    with weighlock.read_checkpoint(file) as checkpoint:
        assert read_values(checkpoint, checkpoint.object["w"], (-1,)).nested() == [8, 9, 10, 11]


@pytest.mark.requires_torch
def test_every_type_as_torch_has_it(torch, tmp_path):
    path = tmp_path / "types.pt"
    raw = torch.arange(64, dtype=torch.uint8)
    names = [row.name for row in DTYPES.values() if row.kind in "fiubc"]
    torch.save({name: raw.clone().view(getattr(torch, name)) for name in names}, path)
    expected = torch.load(path, weights_only=True)
    with weighlock.read_checkpoint(path) as checkpoint:
        for name in names:
            wide = torch.complex128 if name.startswith("complex") else torch.float64
            theirs = (
                expected[name].tolist()
                if name.startswith(("int", "uint", "bool"))
                else expected[name].to(wide).tolist()
            )
            ours = read_values(checkpoint, checkpoint.object[name]).nested()
            assert str(ours) == str(theirs) or all(one == other for one, other in zip(ours, theirs, strict=True)), name


@pytest.mark.requires_torch
def test_quantized_tensors_as_torch_has_them(torch, tmp_path):
    path = tmp_path / "q.pt"
    values = torch.linspace(-1, 1, 12).reshape(3, 4)
    scales, zeros = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0, 1, 2, 3])
    tensors = {
        "tensor": torch.quantize_per_tensor(values, 0.1, 10, torch.quint8),
        "channel": torch.quantize_per_channel(values, scales, zeros, 1, torch.qint8),
        "packed": torch.quantize_per_channel(values, scales, zeros.float(), 1, torch.quint4x2),
    }
    torch.save(tensors, path)
    with weighlock.read_checkpoint(path) as checkpoint:
        for name, tensor in tensors.items():
            found = read_values(checkpoint, checkpoint.object[name])
            assert found.dequantized is not None
            assert found.nested(found.dequantized) == [
                pytest.approx(row, rel=1e-6) for row in tensor.dequantize().tolist()
            ]
