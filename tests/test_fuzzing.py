"""Fuzzing: a slice of it on every run, what it has found so far, and that it would find it."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import re
import resource
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import weighlock as wl
from tests import old_writers
from tests.corpus.writers import DATA, GOOD, Entry, archive, checkpoint, pickled, records, storage_id, v2
from tests.fuzzing import archives, pickles
from tests.fuzzing.bombs import BOMBS, LARGEST
from tests.fuzzing.mutations import kind_of, mutated
from tests.fuzzing.running import Results, Runner
from tests.fuzzing.seeds import mutant, seeds
from tests.fuzzing.targets import TARGETS, Outcome
from tests.old_writers import name, numbers, text
from weighlock.cli import run

PAIRS = b"K\x01" + b"2\x86" * 60
"""Pairs of one pair of one pair ...: small to build, and without end for whoever visits all of it."""


# ------------------------------------------------------------------------------------------------------- the slice


def _groups() -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for label, seed in seeds().items():
        kinds.setdefault("folder" if seed.main else kind_of(seed.data), []).append(label)
    small = [labels for kind, labels in kinds.items() if kind not in ("zip", "pickle", "folder")]
    return {
        "zip": kinds["zip"], "pickle": kinds["pickle"], "folder": kinds["folder"],
        "others": [label for labels in small for label in labels],
    }  # fmt: skip


@pytest.mark.parametrize(("group", "mutants"), [("zip", 5000), ("pickle", 6000), ("others", 5000), ("folder", 600)])
def test_a_slice(group, mutants, tmp_path):
    """The same mutants each time: a result or one of our errors, in bounded time and memory, without a warning."""
    results = Runner(20, list(TARGETS), tmp_path, _groups()[group]).run(mutants)
    assert sum(results.executions.values()) == 4 * mutants
    assert not results.findings, "\n".join(f"{f.target} {f.lineage}: {f.what}" for f in results.findings.values())


@pytest.mark.requires_torch
def test_a_slice_beside_torch(tmp_path):
    """In a process of its own, whose children may die of PyTorch's C++."""
    command = [sys.executable, "-m", "tests.fuzzing", "--targets", "torch", "--times", "4000", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (both,) = re.findall(r"torch: both, compared ([\d,]+)", done.stdout)
    assert int(both.replace(",", "")) > 2000, done.stdout[-3000:]
    for side in ("NumPy", "torch"):
        (tensors,) = re.findall(rf"([\d,]+) x tensors compared \({side}\)", done.stdout)
        assert int(tensors.replace(",", "")) > 4000


# ------------------------------------------------------------------------------------------- the mutations themselves


def test_a_number_makes_one_file():
    label = "benign/torch-2.13.0/state_dict.zip.pt"
    made = [mutated(seeds()[label].data, number) for number in range(200)]
    assert made == [mutated(seeds()[label].data, number) for number in range(200)]
    assert len(set(made)) > 150
    assert mutant(f"{label}@7@8") == mutated(made[7], 8)


def test_every_kind_is_known():
    assert {kind_of(seed.data) for seed in seeds().values()} >= {
        "zip", "legacy", "npy", "gguf", "tar", "safetensors", "json", "pickle",
    }  # fmt: skip


def test_a_pickle_is_taken_apart_and_put_together():
    for data in (pickle.dumps({"a": [1.5, "x", b"y", 2**70]}, protocol) for protocol in range(6)):
        pieces, rest = pickles.opcodes(data)
        assert b"".join(pieces) + rest == data
        assert (0, len(pieces) - 1) in pickles.objects(pieces) or pieces[0][:1] == b"\x80"


def test_an_archive_is_taken_apart_and_put_together():
    for label in ("benign/torch-2.13.0/state_dict.zip.pt", "benign/lookalike/WL208_deflated"):
        data = seeds()[label].data
        found = archives.parsed(data)
        assert found is not None
        assert bytes(found) == data


# --------------------------------------------------------------------------------------------------- it can find things


def _leak(_: object) -> Outcome:
    raise ValueError("no error of ours")


def _spin(_: object) -> Outcome:
    while True:
        pass


def _slow(_: object) -> Outcome:
    begin = time.process_time()
    while time.process_time() - begin < 1.3:
        pass
    return Outcome(None, None)


def _hungry(_: object) -> Outcome:
    return Outcome(np.ones(8 << 20).size, None)


def _noisy(_: object) -> Outcome:
    warnings.warn("odd", RuntimeWarning, stacklevel=1)
    return Outcome(None, None)


def _net(_: object) -> Outcome:
    return Outcome(None, wl.DamagedError("the file cannot be read: ValueError: x"))


@pytest.mark.parametrize(
    ("call", "what"),
    [(_leak, "ValueError: no error"), (_spin, "hangs"), (_slow, r"took \d"), (_hungry, r"took \d+ MiB"),
     (_noisy, "warned: RuntimeWarning: odd"), (_net, "not foreseen: ValueError")],
)  # fmt: skip
def test_what_breaks_a_promise_is_found(call, what, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.fuzzing.running._HANG", 1.5)
    runner = Runner(1, ["bad"], tmp_path, ["benign/more/number"], {"bad": call})
    if call is _hungry:
        Path("/proc/self/clear_refs").write_text("5")
    results = runner.run(1)
    assert any(re.match(what, finding.what) for finding in results.findings.values()), results.findings
    assert isinstance(results, Results)


# ------------------------------------------------------------------------------------------------- what it has found


def _with_pairs(data: bytes) -> list[bytes]:
    """The file once for each object in its pickles, with the pairs in its place."""
    kind = kind_of(data)
    if kind == "zip":
        found, made = archives.parsed(data), []
        assert found is not None
        for index, member in enumerate(found.members):
            for changed in _with_pairs(member.data()) if member.names[1].endswith(b"data.pkl") else []:
                other = copy.copy(found)
                other.members = [copy.deepcopy(one) for one in found.members]
                other.members[index].store(changed)
                made.append(bytes(other))
        return made
    before, made = b"", []
    while data:
        pieces, behind = pickles.opcodes(data)
        for start, end in pickles.objects(pieces):
            made.append(before + b"".join(pieces[:start]) + PAIRS + b"".join(pieces[end:]) + behind)
        taken = len(data) - len(behind)
        if not taken or kind != "legacy":
            break
        before, data = before + data[:taken], behind
    return made


_PAIRED = [
    *(f"benign/torch-2.13.0/{case}.{form}.pt" for case in ("sparse", "nested", "quantized", "conj_and_neg", "meta")
      for form in ("zip", "legacy")),
    "benign/old/legacy_storage_views", "benign/old/legacy_parameters", "benign/old/tar", "benign/pickle/collections_2",
    "benign/pickle/collections_4", "benign/pickle/dates_2", "benign/pickle/uuid_2", "benign/pickle/exact_2",
    "benign/more/numpy_array", "benign/more/numpy_scalar", "benign/lookalike/WL114_attribute_of_other_name",
]  # fmt: skip


def _error_of(call):
    try:
        call()
    except Exception as error:
        return error
    return None


# Such a file once hung in C, where no signal of Python's reaches: the thread can end the process.
@pytest.mark.timeout(90, method="thread")
@pytest.mark.parametrize("label", [label for label in _PAIRED if label in seeds()])
@pytest.mark.parametrize("framework", ["numpy", pytest.param("torch", marks=pytest.mark.requires_torch)])
def test_pairs_of_pairs_in_the_place_of_anything(label, framework):
    """Keys, locations, layouts, factories: each was once written out, hashed or converted before it was looked at."""
    for data in _with_pairs(seeds()[label].data):
        for read in (lambda d: wl.load(d, framework=framework), wl.read_checkpoint, wl.scan):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                error = _error_of(lambda read=read, data=data: read(data))
            # PyTorch's own word on a place that it does not know leaves as it is.
            of_torch = framework == "torch" and "restore data location" in str(error)
            assert error is None or isinstance(error, wl.WeighlockError) or of_torch, error
            assert len(str(error)) < 3000


def test_a_key_of_an_old_archive_is_text_or_a_number():
    key = b"(J" + struct.pack("<i", 1) + text("cpu")
    assert old_writers.tar().count(key) == 1
    with pytest.raises(wl.PickleStreamError, match="neither text nor number: got \\(1,\\)"):
        wl.load(old_writers.tar().replace(key, b"(K\x01\x85N0" + text("cpu")))


def test_state_dict_of_pairs_and_ranges():
    loaded = wl.load(b"\x80\x02](" + PAIRS + name("__builtin__", "xrange") + b"J\xff\xff\xff\x7f\x85Re.")
    with pytest.raises(wl.StateDictError):
        wl.state_dict(loaded)
    deep: object = np.arange(3)
    for _ in range(20_000):
        deep = [deep]
    assert [len(key) for key in wl.state_dict(deep)] == [2 * 20_000 - 1]


@pytest.mark.parametrize("options", [{"dtype": "float16"}, {"select": "a"}, {"into": {"a": np.zeros(3)}}])
def test_choosing_from_npz(options):
    file = io.BytesIO()
    wl.save(
        {"a": np.arange(3.0), "b": np.arange(2.0)} if "select" in options else {"a": np.arange(3.0)}, file, format="npz"
    )
    found = wl.load(file.getvalue(), **options)
    array = options["into"]["a"] if "into" in options else found["a"]
    assert array.tolist() == [0, 1, 2]
    assert "dtype" not in options or array.dtype == np.float16


def test_choosing_from_a_dcp_folder():
    folder = Path(__file__).parent / "goldens" / "dcp-torch-2.13.0" / "dtensor"
    assert wl.load(folder, dtype="float16")["model"]["rows"].dtype == np.float16
    assert list(wl.load(folder, select="model.rows")["model"]) == ["rows"]


def test_numbers_too_large_for_a_type_become_infinite():
    file = io.BytesIO()
    wl.save({"a": np.array([1e30, 1.0])}, file)
    assert wl.load(file.getvalue(), dtype="float16")["a"].tolist() == [np.inf, 1]


def test_the_only_file_of_an_archive_is_scanned_whatever_it_begins_with():
    """The loader reads it; a pickle of protocol 0 with bytes behind it was passed over."""
    data = archive([Entry("model.pth", b"cposix\nsystem\n(S'echo'\ntR.more")])
    with pytest.raises(wl.UnsafeGlobalError):
        wl.load(data)
    assert next(finding.rule for finding in wl.scan(data).findings) == "WL101"


def test_a_folder_with_an_index_is_examined_whole(tmp_path):
    wl.save({"a": np.zeros(500), "b": np.zeros(500)}, tmp_path / "model.safetensors", format="safetensors",
            max_shard_size=4000)  # fmt: skip
    assert len(list(tmp_path.iterdir())) == 3
    assert wl.scan(tmp_path).verdict == "clean"


@pytest.mark.parametrize("shape", [[0, *[2] * 60], [0, 1 << 40, 1 << 40]])
def test_empty_shapes_that_no_array_can_have(shape):
    header = f'{{"a":{{"dtype":"I64","shape":{shape},"data_offsets":[0,0]}}}}'.encode()
    with pytest.raises(wl.DamagedError, match="larger than any memory"):
        wl.load(struct.pack("<Q", len(header)) + header)
    sizes = numbers(0, *[1 << 30] * 4)
    with pytest.raises(wl.TensorBoundsError, match="more elements than can be counted"):
        wl.load(checkpoint(pickled(v2(storage_id("0", 6), 0, sizes, numbers(1, 1, 1, 1, 1)))))
    text_of = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {tuple(shape)}, }}".encode()
    with pytest.raises(wl.DamagedError):
        wl.load(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text_of)) + text_of)


def test_an_old_name_of_a_numpy_type():
    made = wl.load(pickled(name("numpy", "dtype") + b"(" + text("a5") + b"\x89\x88tR", 2))
    assert made == np.dtype("S5")


def test_a_patch_is_no_record():
    entries = [entry._replace(flags=0x20) for entry in records(GOOD)]
    with pytest.raises(wl.UnsupportedError, match="patch"):
        wl.load(archive(entries))


@pytest.mark.requires_torch
def test_float_zero_points_keep_their_fractions(torch):
    values = torch.arange(12.0).reshape(4, 3)
    scales, zeros = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.5, 1.25, 2.125, 0.75])
    made = torch.quantize_per_channel(values, scales, zeros, 0, torch.quint8)
    file = io.BytesIO()
    torch.save(made, file)
    np.testing.assert_array_equal(wl.load(file.getvalue()).dequantize(), made.dequantize().numpy())


@pytest.mark.requires_torch
def test_bits_of_the_other_byte_order(torch):
    file = io.BytesIO()
    torch.save(torch.tensor([1, 2, 300], dtype=torch.int16).view(torch.bits16), file)
    found = archives.parsed(file.getvalue())
    assert found is not None
    next(member for member in found.members if member.names[1].endswith(b"byteorder")).store(b"big")
    made = wl.load(bytes(found), framework="torch")
    assert made.view(torch.int16).tolist() == [256, 512, 0x2C01]


def test_the_same_large_key_many_times():
    """Each use is two bytes, and hashes all of it again."""
    nest = b"K\x01" + b"2\x86" * 15 + b"q\x00"
    for data in (b"\x80\x04}" + nest + b"0" + b"h\x00Ns" * 200_000 + b".",
                 b"\x80\x04(" + nest + b"l0](" + b"h\x00\x85" * 100 + b"e."):  # fmt: skip
        begin = time.process_time()
        error = _error_of(lambda data=data: wl.load(data))
        assert error is None or "too often" in str(error)
        wl.scan(data)
        assert time.process_time() - begin < 20


# ------------------------------------------------------------------------------------------------ bombs of a megabyte

# Seconds of the processor and MiB; the promise is 2 s and 200 MiB beyond the objects themselves, on a quiet machine.
_SECONDS, _MEMORY = 10.0, 400


@pytest.mark.parametrize("label", [label for label in BOMBS if label != "deflated numbers"])
def test_bombs(label, tmp_path, capsys):
    data = BOMBS[label]()
    assert len(data) <= LARGEST
    path = tmp_path / "bomb"
    path.write_bytes(data)
    for read in (wl.load, wl.scan, lambda _: run(["inspect", str(path)])):
        gc.collect()  # what an earlier bomb left is not this one's
        begin, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            made = read(data)
        except wl.WeighlockError as error:
            made = str(error)
        assert time.process_time() - begin < _SECONDS
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < _MEMORY << 10
        del made
    assert len(capsys.readouterr().out) < 20_000


def test_many_unknown_classes_are_looked_at_in_linear_time():
    from weighlock.inspection.summary import summarize

    with wl.read_checkpoint(BOMBS["unknown classes"]()) as found:
        begin = time.process_time()
        assert len(summarize(found).unknown) > 100_000
        assert time.process_time() - begin < 10
    assert len(DATA) == 24


def test_a_pickle_of_an_old_archive_is_not_hidden_by_the_next():
    """Each begins a stretch of its own; the scan kept the last of them only, and was clean."""
    good = old_writers.tar()
    assert wl.scan(good).verdict == "clean"
    at = good.index(b"torch\nFloatTensor")
    bad = good[:at] + b"torch\nFloatTenson" + good[at + 17 :]
    assert bad.count(b"torch\nFloatTensor") == 1
    with pytest.raises(wl.UnsafeGlobalError):
        wl.load(bad)
    assert {finding.name for finding in wl.scan(bad).findings} == {"torch.FloatTenson"}


def test_archives_in_archives_end_at_the_limit():
    data = archive(records(pickled(b"N")))
    for _ in range(70):
        data = archive([Entry("inside", data)])
    with pytest.raises(wl.LimitError, match="inside checkpoints"):
        wl.load(data)
    assert wl.scan(data).verdict != "clean"


def test_what_is_unpacked_may_not_have_more_instructions_than_the_file_justifies():
    """A thousandth of it is enough to say it; the bytes of a tensor, however many, are no instructions."""
    with pytest.raises(wl.LimitError, match="far more instructions"):
        wl.load(BOMBS["deflated lists"]())
    zeros = b"\x80\x04\x8e" + (7 << 20).to_bytes(8, "little") + bytes(7 << 20) + b"."
    data = archive([records(zeros)[0]._replace(method=8), *records(b"")[1:]])
    assert len(data) < 100_000
    assert wl.load(data) == bytes(7 << 20)
    assert wl.scan(data).verdict == "clean"


def test_a_scan_that_is_stopped_leaves_nothing_for_the_collector():
    """The error led back to the run, and the run held a hundred megabytes until Python's collector came by."""
    data = BOMBS["lists in lists"]()[:2000]
    wl.scan(data)
    gc.collect()
    gc.disable()
    try:
        assert wl.scan(data).verdict == "findings"
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_bomb_of_numbers_in_a_process_of_its_own():
    """What a long test run has left in its heap hides how little this takes."""
    code = """
import resource
import weighlock as wl
from tests.fuzzing.bombs import BOMBS
data, before = BOMBS["deflated numbers"](), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    wl.load(data)
except wl.LimitError as error:
    assert "far more instructions" in str(error)
wl.scan(data)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < _MEMORY << 10
