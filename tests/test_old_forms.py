"""Every form of before torch 1.6, written by hand: read as what it says, and as today's torch reads it."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import weighlock as wl
from tests import old_writers
from tests.old_writers import NOT_FOR_TORCH, OLD_FORMS

EXPECTED = np.arange(6, dtype="float32").reshape(2, 3)


@pytest.mark.parametrize("form", OLD_FORMS)
def test_read(form):
    loaded = wl.load(OLD_FORMS[form]())
    assert list(loaded) == ["a", "b"]
    np.testing.assert_array_equal(loaded["a"], EXPECTED)
    np.testing.assert_array_equal(loaded["b"], EXPECTED[1])


@pytest.mark.parametrize("form", OLD_FORMS)
def test_sharing_is_kept(form):
    loaded = wl.load(OLD_FORMS[form]())
    loaded["a"][1, 2] = 99
    assert loaded["b"][2] == 99


@pytest.mark.parametrize("form", OLD_FORMS)
def test_described_bytes_are_the_tensors_bytes(form):
    """What looking reads of a storage, views of storages included, is what loading finds in it."""
    with wl.read_checkpoint(OLD_FORMS[form]()) as checkpoint:
        for key, expected in (("a", EXPECTED), ("b", EXPECTED[1])):
            spec = checkpoint.object[key]
            raw = checkpoint.storage_bytes(spec.ref, spec.offset * 4, expected.nbytes)
            order = ">" if spec.ref.byteorder == "big" else "<"
            np.testing.assert_array_equal(np.frombuffer(raw, f"{order}f4"), expected.ravel())


@pytest.mark.requires_torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", [form for form in OLD_FORMS if form not in NOT_FOR_TORCH])
def test_torch_reads_the_same(torch, tmp_path, form):
    path = tmp_path / "old.pt"
    path.write_bytes(OLD_FORMS[form]())
    loaded = torch.load(path, weights_only=False)
    np.testing.assert_array_equal(loaded["a"].numpy(), EXPECTED)
    np.testing.assert_array_equal(loaded["b"].numpy(), EXPECTED[1])


def test_the_source_text_of_a_module_is_ignored():
    """Whole modules of 0.1 to 1.5 carry their class's source; the class is named, nothing of the text is run."""
    cls = old_writers.storage_module_pid(old_writers.name("__main__", "Net"))
    data = old_writers.legacy(b"\x80\x02" + cls + b")\x81}" + old_writers.text("training") + b"\x88sb.", [])
    stub = wl.load(data, on_unknown="stub")
    assert (stub.module, stub.name, stub.state) == ("__main__", "Net", {"training": True})
    with pytest.raises(wl.UnsafeGlobalError, match=r"__main__\.Net"):
        wl.load(data)


def test_big_endian_of_every_width():
    rows = [("DoubleStorage", ">f8"), ("ComplexFloatStorage", ">c8"), ("ShortStorage", ">i2"), ("ByteStorage", "u1")]
    for cls, code in rows:
        values = np.arange(4).astype(code)
        pickled = b"\x80\x02" + old_writers.v2(
            old_writers.storage_id("0", 4, cls=cls), 0, old_writers.numbers(4), old_writers.numbers(1)
        ) + b"."  # fmt: skip
        data = old_writers.zipped([("a/data.pkl", pickled), ("a/byteorder", b"big"), ("a/data/0", values.tobytes())])
        np.testing.assert_array_equal(wl.load(data), values)


PYTHON_2: dict[str, tuple[bytes, dict[str, Any], Any]] = {
    "utf8": (b"}q\x00(U\x01aU\x03h\xc3\xa9u.", {}, {"a": "hé"}),
    "latin1": (b"}q\x00(U\x01aU\x02h\xe9u.", {"encoding": "latin1"}, {"a": "hé"}),
    "bytes": (b"}q\x00(U\x01aU\x02h\xe9u.", {"encoding": "bytes"}, {b"a": b"h\xe9"}),
    "long string": (b"T\x2c\x01\x00\x00" + b"x" * 300 + b".", {}, "x" * 300),
    "text protocol": (b"(dp0\nS'a'\np1\nL5L\nsS'b'\np2\nI01\ns.", {}, {"a": 5, "b": True}),
    "unicode": (b"V\\u00e9\n.", {}, "é"),
    "replace": (b"U\x01\xe9.", {"errors": "replace"}, "\N{REPLACEMENT CHARACTER}"),
    "xrange": (b"c__builtin__\nxrange\n(K\x00K\x05K\x01tR.", {}, range(5)),
}


@pytest.mark.parametrize("name", PYTHON_2)
def test_python_2(name):
    body, options, expected = PYTHON_2[name]
    head = b"" if name in ("text protocol", "unicode") else b"\x80\x02"
    assert wl.load(head + body, **options) == expected


def test_python_2_text_that_is_not_utf8_says_what_to_do():
    with pytest.raises(wl.PickleStreamError, match="encoding='latin1'"):
        wl.load(b"\x80\x02U\x01\xe9.")


def test_numpy_of_both_core_names():
    array = np.arange(6.0).reshape(2, 3)
    for protocol in range(6):
        data = pickle.dumps(array, protocol)
        for old, new in ((b"numpy._core", b"numpy.core"), (b"numpy.core", b"numpy.core")):
            changed = data.replace(old, new)
            if protocol >= 4:  # lengths are written before the names
                changed = data
            np.testing.assert_array_equal(wl.load(changed), array)
