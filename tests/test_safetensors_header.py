"""The safetensors header: what the safetensors package reads is read, what it refuses is refused."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighlock.dtypes import VALUES_PER_UNIT
from weighlock.errors import CheckpointError, DamagedError, LimitError, TruncatedError, UnsupportedError
from weighlock.formats.safetensors_header import read_header
from weighlock.limits import DEFAULT_LIMITS, Limits
from weighlock.storages.source import BytesSource


def file_of(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(code, shape, begin, end, **more):
    return {"dtype": code, "shape": shape, "data_offsets": [begin, end], **more}


def read(data, limits=DEFAULT_LIMITS):
    return read_header(BytesSource(data, "the file"), limits)


GOOD = {
    "no tensors": file_of({}),
    "spaces behind": file_of(b"{}    "),
    "metadata": file_of({"__metadata__": {"format": "pt", "ключ": "значение"}}),
    "metadata null": file_of({"__metadata__": None}),
    "scalar": file_of({"a": tensor("F32", [], 0, 4)}, b"1234"),
    "unsorted": file_of({"a": tensor("U8", [1], 1, 2), "b": tensor("U8", [1], 0, 1)}, b"12"),
    "empty tensors": file_of(
        {"a": tensor("F32", [0, 3], 0, 0), "b": tensor("U8", [2], 0, 2), "c": tensor("I64", [0], 2, 2)}, b"12"
    ),
    "four bits": file_of({"a": tensor("F4", [2, 6], 0, 6)}, b"123456"),
    "four bits, rows with half a byte": file_of({"a": tensor("F4", [2, 3], 0, 3)}, b"123"),
    "six bits": file_of({"a": tensor("F6_E2M3", [4], 0, 3), "b": tensor("F6_E3M2", [2, 8], 3, 15)}, bytes(15)),
    "another field": file_of({"a": tensor("U8", [1], 0, 1, more=1)}, b"1"),
    "every type": file_of(
        {
            code: tensor(code, [2], begin, begin + 16 // share)
            for code, share, begin in (
                ("F64", 1, 0),
                ("BF16", 4, 16),
                ("BOOL", 8, 20),
                ("F8_E8M0", 8, 22),
                ("C64", 1, 24),
            )
        },
        bytes(40),
    ),
}

BAD = {
    "no header": (file_of(b""), DamagedError, "JSON object"),
    "no JSON": (file_of(b"{nonsense"), DamagedError, "no JSON"),
    "NaN": (file_of(b'{"a":NaN}'), DamagedError, "no JSON"),
    "no UTF-8": (file_of(b'{"\xff":1}'), DamagedError, "no JSON"),
    "a list": (file_of(b"[]"), DamagedError, "JSON object"),
    "deep": (file_of(b'{"a":' + b"[" * 100_000), DamagedError, "no JSON"),
    "a long number": (file_of(b'{"a":' + b"9" * 10_000 + b"}"), DamagedError, "no JSON"),
    "a name twice": (
        file_of(b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"a":{"dtype":"U8"}}', b"1"),
        DamagedError, "twice"),
    "a field twice": (file_of(b'{"a":{"dtype":"U8","dtype":"I8","shape":[],"data_offsets":[0,1]}}', b"1"),
                      DamagedError, "twice"),
    "metadata number": (file_of({"__metadata__": {"a": 1}}), DamagedError, "metadata"),
    "metadata list": (file_of({"__metadata__": []}), DamagedError, "metadata"),
    "no object": (file_of({"a": 1}), DamagedError, "no JSON object"),
    "no type": (file_of({"a": {"shape": [], "data_offsets": [0, 1]}}, b"1"), DamagedError, "malformed"),
    "float length": (file_of({"a": tensor("U8", [1.0], 0, 1)}, b"1"), DamagedError, "malformed"),
    "true as length": (file_of({"a": tensor("U8", [True], 0, 1)}, b"1"), DamagedError, "malformed"),
    "negative length": (file_of({"a": tensor("U8", [-1, -1], 0, 1)}, b"1"), DamagedError, "malformed"),
    "negative offset": (file_of({"a": tensor("U8", [1], -1, 0)}, b"1"), DamagedError, "malformed"),
    "one offset": (file_of({"a": {"dtype": "U8", "shape": [], "data_offsets": [1]}}, b"1"), DamagedError, "malformed"),
    "wrong size": (file_of({"a": tensor("F32", [2], 0, 4)}, b"1234"), DamagedError, "shape"),
    "end before begin": (file_of({"a": tensor("U8", [1], 1, 0)}, b"1"), DamagedError, "shape"),
    "hole": (file_of({"a": tensor("U8", [1], 1, 2)}, b"12"), DamagedError, "no tensor"),
    "overlap": (file_of({"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 1, 3)}, b"123"), DamagedError, "overlap"),
    "bytes behind": (file_of({"a": tensor("U8", [1], 0, 1)}, b"12"), DamagedError, "behind"),
    "huge": (file_of({"a": tensor("U8", [1 << 40, 1 << 40, 0], 0, 0)}), DamagedError, "memory"),
    "unknown type": (file_of({"a": tensor("Q8", [1], 0, 1)}, b"1"), UnsupportedError, "Q8"),
    "half a byte": (file_of({"a": tensor("F4", [3], 0, 2)}, b"12"), DamagedError, "whole bytes"),
    "half a byte of six": (file_of({"a": tensor("F6_E2M3", [3], 0, 3)}, b"123"), DamagedError, "whole bytes"),
    "a name twice, escaped": (
        file_of(b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"\\u0061":{"dtype":"U8"}}', b"1"),
        DamagedError, "twice"),
    "true among lengths": (
        file_of({"a": tensor("U8", [1], 0, 1), "b": tensor("U8", [True], 1, 2)}, b"12"), DamagedError, "malformed"),
    "a float among offsets": (
        file_of({"a": tensor("U8", [1], 0, 1), "b": tensor("U8", [1], 1.0, 2)}, b"12"), DamagedError, "malformed"),
    "cut data": (file_of({"a": tensor("U8", [1], 0, 1), "b": tensor("U8", [5], 1, 6)}, b"123"),
                 TruncatedError, "1 of 2 tensors"),
    "cut header": (file_of({"a": tensor("U8", [1], 0, 1)})[:20], TruncatedError, "header"),
    "too short": (b"1234", TruncatedError, "too short"),
    "a huge header": (struct.pack("<Q", 1 << 62) + b"{}", LimitError, "too large"),
}  # fmt: skip


def shape_in_values(entry):
    """The header's own shape: our rows count the units of packed types."""
    shape = list(entry.shape)
    if entry.row is not None and entry.row.name in VALUES_PER_UNIT:
        shape[-1] *= VALUES_PER_UNIT[entry.row.name]
    return shape


@pytest.mark.parametrize("case", GOOD)
def test_as_the_safetensors_package(case):
    safetensors = pytest.importorskip("safetensors")
    header = read(GOOD[case])
    theirs = dict(safetensors.deserialize(GOOD[case]))
    assert {entry.name: (entry.dtype, shape_in_values(entry)) for entry in header.tensors} == {
        name: (found["dtype"], found["shape"]) for name, found in theirs.items()
    }
    for entry in header.tensors:
        start = header.data_start + entry.begin
        assert GOOD[case][start : header.data_start + entry.end] == bytes(theirs[entry.name]["data"])


def test_metadata_and_order():
    assert read(GOOD["metadata"]).metadata == {"format": "pt", "ключ": "значение"}
    assert [entry.name for entry in read(GOOD["unsorted"]).tensors] == ["b", "a"]


@pytest.mark.parametrize("case", BAD)
def test_refused(case):
    data, error, words = BAD[case]
    with pytest.raises(error, match=words) as caught:
        read(data)
    assert caught.value.path == "the file"


def test_limits():
    with pytest.raises(LimitError, match="tensors"):
        read(GOOD["unsorted"], Limits(max_records=1))
    with pytest.raises(LimitError, match="dimensions"):
        read(file_of({"a": tensor("U8", [1] * 65, 0, 1)}, b"1"))


def test_packed_floats_of_torch(torch):
    safetensors = pytest.importorskip("safetensors.torch")
    made = torch.arange(6, dtype=torch.uint8).reshape(2, 3).view(torch.float4_e2m1fn_x2)
    (entry,) = read(safetensors.save({"a": made})).tensors
    assert (entry.dtype, entry.shape, entry.end - entry.begin) == ("F4", (2, 3), 6)


BASE = GOOD["empty tensors"]


@given(st.lists(st.tuples(st.integers(0, len(BASE) - 1), st.integers(0, 255)), max_size=3), st.integers(0, len(BASE)))
def test_changed_bytes_are_read_or_our_error(changes, length):
    data = bytearray(BASE)
    for place, value in changes:
        data[place] = value
    try:
        header = read(bytes(data[:length]))
    except CheckpointError as error:
        str(error)
    else:
        assert all(header.data_start + entry.end <= len(data) for entry in header.tensors)
