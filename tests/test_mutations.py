"""Damaged and hostile files: a result or one of our errors, nothing else, in bounded time and memory."""

from __future__ import annotations

import contextlib
import io
import pickle
import random
import resource
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import weighlock as wl
from tests import old_writers
from tests.old_writers import OLD_FORMS, name, number, numbers, persistent, storage_id, text, v2, zipped

GOLDENS = sorted(Path(__file__).parent.glob("goldens/*/*.pt"), key=lambda path: (path.stat().st_size, path.name))
CORPUS = {path.name: path.read_bytes() for path in GOLDENS[:12] + GOLDENS[-60:-40:2]} | {
    form: make() for form, make in OLD_FORMS.items()
}


def survives(data: bytes) -> None:
    """Loading and looking give a result or a WeighlockError."""
    for read in (wl.load, wl.read_checkpoint):
        with contextlib.suppress(wl.WeighlockError):
            read(data)


@pytest.mark.parametrize("corpus", CORPUS)
def test_truncated_anywhere(corpus):
    data = CORPUS[corpus]
    step = max(len(data) // 250, 1)
    for end in range(0, len(data), step):
        with pytest.raises(wl.WeighlockError):
            wl.load(data[:end])
            # A cut behind the last byte that counts leaves a whole checkpoint.
            assert end > len(data) * 0.4
            raise wl.TruncatedError("whole all the same")


@pytest.mark.parametrize("corpus", CORPUS)
def test_bytes_changed(corpus):
    data, dice = CORPUS[corpus], random.Random(corpus)
    for _ in range(60):
        changed = bytearray(data)
        for _ in range(dice.choice((1, 1, 2, 8))):
            changed[dice.randrange(len(changed))] = dice.choice((0, 1, 0x28, 0x52, 0x80, 0xFF, dice.randrange(256)))
        survives(bytes(changed))


@pytest.mark.parametrize("corpus", CORPUS)
def test_bytes_moved(corpus):
    data, dice = CORPUS[corpus], random.Random(corpus)
    for _ in range(20):
        a, b = sorted(dice.randrange(len(data)) for _ in range(2))
        survives(data[:a] + data[b:])
        survives(data[:b] + data[a:])


@given(st.binary(max_size=200))
def test_anything_as_a_pickle(body):
    survives(b"\x80\x02" + body + b".")


def refused(data: bytes, kind: type[wl.WeighlockError]) -> wl.WeighlockError:
    """The error, raised within 2 s and 200 MB."""
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(kind) as caught:
        wl.load(data)
    assert time.monotonic() - begin < 20  # generous: machines differ; an attack takes minutes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
    return caught.value


def test_a_flipped_bit_names_record_and_object():
    file = io.BytesIO()
    wl.save({"layer": {"weight": np.arange(1000.0)}}, file)
    data = bytearray(file.getvalue())
    data[data.index(np.arange(1000.0)[500:].tobytes())] ^= 1
    error = refused(bytes(data), wl.ChecksumError)
    assert (error.record, error.object_path) == ("archive/data/0", "layer.weight")
    assert wl.load(bytes(data), verify=False)["layer"]["weight"][500] != 500


@pytest.mark.parametrize("length", [20, 28])
def test_a_record_of_another_size_is_refused(length):
    """PR 170085: a storage that declares more elements than its record holds (CVE-2026-24747)."""
    pickled = b"\x80\x02" + v2(storage_id("0", 6), 0, numbers(6), numbers(1)) + b"."
    error = refused(zipped([("a/data.pkl", pickled), ("a/data/0", bytes(length))]), wl.TensorBoundsError)
    assert error.record == "a/data/0"


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(1, (6,), (1,)), (0, (7,), (1,)), (0, (2, 3), (4, 1)), (0, (2,), (2**30,)), (-1, (1,), (1,))],
)
def test_a_view_outside_of_its_storage_is_refused(offset, size, stride):
    pickled = b"\x80\x02}" + text("w") + v2(storage_id("0", 6), offset, numbers(*size), numbers(*stride)) + b"s."
    error = refused(zipped([("a/data.pkl", pickled), ("a/data/0", old_writers.DATA)]), wl.CheckpointError)
    assert error.object_path == "w"


def test_legacy_stream_that_claims_32_gib():
    """A header of 2**33 floats made torch allocate 32 GiB before it read a byte."""
    call = v2(storage_id("0", 2**30), 0, numbers(6), numbers(1))
    refused(old_writers.legacy(b"\x80\x02" + call + b".", [("0", 2**30, b"")]), wl.TruncatedError)


def test_cve_2026_24747_items_set_on_a_tensor():
    tensor = v2(storage_id("0", 6), 0, numbers(6), numbers(1))
    pickled = b"\x80\x02" + tensor + b"(" + number(0) + number(7) + b"u."
    refused(zipped([("a/data.pkl", pickled), ("a/data/0", old_writers.DATA)]), wl.PickleStreamError)


def test_cve_2025_62164_sparse_index_outside_of_the_shape():
    indices = v2(storage_id("0", 1, cls="LongStorage"), 0, numbers(1, 1), numbers(1, 1))
    values = v2(storage_id("1", 1), 0, numbers(1), numbers(1))
    layout = name("torch.serialization", "_get_layout") + text("torch.sparse_coo") + b"\x85R"
    sparse = (
        name("torch._utils", "_rebuild_sparse_tensor") + layout + b"(" + indices + values + numbers(4) + b"\x89t\x86R"
    )
    records = [("a/data.pkl", b"\x80\x02" + sparse + b"."), ("a/data/1", bytes(4))]
    refused(zipped([*records, ("a/data/0", (10**6).to_bytes(8, "little"))]), wl.TensorBoundsError)
    assert wl.load(zipped([*records, ("a/data/0", (3).to_bytes(8, "little"))])).to_dense().shape == (4,)


def test_cve_2025_32434_torchscript_and_tar_have_no_way_around_the_machine(tmp_path):
    """The side doors of torch 2.5: both containers are read by the restricted machine too."""
    hostile = b"\x80\x02cposix\nsystem\n" + text(f"touch {tmp_path / 'ran'}") + b"\x85R."
    refused(zipped([("a/data.pkl", hostile), ("a/constants.pkl", b"\x80\x02).")]), wl.UnsafeGlobalError)
    good = old_writers.tar()
    start = good.index(b"\x80\x02}(" + text("a"))
    refused(good[:start] + hostile + good[start + len(hostile) :], wl.UnsafeGlobalError)
    refused(pickle.dumps({}, 2)[:-1] + hostile[2:], wl.PickleStreamError)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("module", ["os", "posix", "nt", "sys"])
def test_blocked_modules_stay_blocked_when_named(module):
    with wl.safe_globals([(print, f"{module}.print")]):
        refused(b"\x80\x02c" + module.encode() + b"\nprint\n)R.", wl.UnsafeGlobalError)


_MANY, _PRIME = range(1, 50_000), (1 << 61) - 1
_UUID = b"cuuid\nUUID\nr\xff\0\xff\0"
_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R"
_FLOAT = b"cnumpy\ndtype\nX\x02\0\0\0f4\x89\x88\x87R"
BOMBS = {
    "bytearray of 8 GiB": b"c__builtin__\nbytearray\n\x8a\x05\0\0\0\0\x02\x85R.",
    "list of a range": b"c__builtin__\nlist\nc__builtin__\nrange\n\x8a\x05\0\0\0\0\x02\x85R\x85R.",
    "key nested 200,000 deep": b"})" + b"\x85" * 200_000 + b"Ns.",
    "key of 2**64 nodes": b"})" + b"2\x86" * 64 + b"Ns.",
    "one list copied 70,000 times": b"](" + b"K\x01" * 250_000 + b"eq\0c__builtin__\nset\nq\x01]("
    + b"h\x01h\0\x85R" * 70_000 + b"e.",
    "keys of one hash": b"}(" + b"".join(b"\x8a\x10" + (k * _PRIME).to_bytes(16, "little") + b"N" for k in _MANY)
    + b"u.",
    "described long after it is named": b"(" + b"".join(b"Nr" + n.to_bytes(4, "little") for n in range(60_000))
    + _UUID + b"j\xff\0\xff\0)\x81}X\x03\0\0\0intK\x05sb" * 20_000 + b"l.",
    "tensor of uninitialised memory": b"ctorch\nFloatTensor\n" + number(2**30) + b"\x85R.",
    "storage of uninitialised memory": b"ctorch.storage\nUntypedStorage\n" + number(2**30) + b"\x85R.",
    "array of 16 TiB": _ARRAY + b"(K\x01\x8a\x06\0\0\0\0\0\x10\x85" + _FLOAT + b"\x89C\0tb.",
    "fraction of a billion digits": b"cfractions\nFraction\n" + text("1e1000000000") + b"\x85R.",
    "extension code": b"\x82\x01.",
    "out-of-band buffer": b"\x97.",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused(bomb):
    refused(b"\x80\x02" + BOMBS[bomb], wl.CheckpointError)


def test_deep_nesting_loads_and_goes_away():
    nested = wl.load(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".")
    assert isinstance(nested, list)
    del nested


def test_data_cannot_hide_methods():
    hidden = b"\x80\x02ccollections\nOrderedDict\n)R}" + text("items") + b"K\x05sb."
    refused(hidden, wl.PickleStreamError)


def test_a_persistent_id_that_is_no_storage():
    refused(zipped([("a/data.pkl", b"\x80\x02" + persistent(text("module"), number(1)) + b".")]), wl.PickleStreamError)


def test_two_archives_in_one_are_refused():
    one, two = old_writers.zip_of_1_4(), old_writers.zip_big_endian()
    refused(one + two, wl.DirectoryError)


def test_names_that_differ_in_case_are_refused():
    records = zipfile.ZipFile(io.BytesIO(old_writers.zip_of_1_4()))
    named = [(entry, records.read(entry)) for entry in records.namelist()]
    refused(zipped([*named, ("archive/DATA.PKL", b"\x80\x02N.")]), wl.DirectoryError)
