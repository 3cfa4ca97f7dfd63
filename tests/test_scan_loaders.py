"""Files that other loaders are led by, with the loaders themselves: what they do, and that a scan says so."""

from __future__ import annotations

import pickle
import time
import warnings
import zipfile

import pytest

import weighlock as wl
from tests.corpus.hostile import EVIL, HOSTILE
from tests.corpus.other_readers import colliding
from tests.corpus.writers import name, number, pickled, text
from tests.fuzzing.running import Runner
from tests.fuzzing.unpickling import beside_pickle, names_in_c
from weighlock.scanning.programs import operators_in


def rules_of(report):
    return {finding.rule for file in report.files for finding in file.findings}


def index_of(file: str, offset: int, length: int) -> bytes:
    """The index of a distributed checkpoint with one entry."""
    place = b"}(" + text("relative_path") + text(file) + text("offset") + number(offset)
    place += text("length") + number(length) + b"u"
    module = "torch.distributed.checkpoint"
    place = name(f"{module}.filesystem", "_StorageInfo") + b")\x81" + place + b"b"
    data = b"}" + text("a") + place + b"s"
    return pickled(name(f"{module}.metadata", "Metadata") + b")\x81}" + text("storage_data") + data + b"sb")


@pytest.mark.parametrize(
    ("named", "rule"),
    [
        ("__0_0.distcp", "WL101"),
        ("data.bin", "WL101"),
        ("model.pt", "WL101"),
        ("./__0_0.distcp", "WL217"),
        ("sub/data.bin", "WL217"),
        ("../elsewhere.bin", "WL217"),
    ],
)
def test_parts_that_lie_in_what_is_data_to_others(named, rule, tmp_path):
    """PyTorch unpickles the middle of a tensor if the index says so; a scan looked only beside files of one ending."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    good = pickle.dumps({"a": b"\0" + EVIL})
    (folder / named).write_bytes(good)
    (folder / ".metadata").write_bytes(index_of(named, good.index(EVIL), len(EVIL)))
    assert rule in rules_of(wl.scan(folder))


@pytest.mark.parametrize("change", ["plain", "called", "rank"])
def test_an_index_that_is_not_written_by_pytorch(change, tmp_path):
    """PyTorch asks for attributes only: anything may have them."""
    good = index_of("__0_0.distcp", 0, 5)
    if change == "plain":
        good = good.replace(b"torch.distributed.checkpoint.metadata\nMetadata\n)\x81", b"types\nSimpleNamespace\n)R")
    elif change == "called":
        head, _, tail = good.partition(b"_StorageInfo\n)\x81")
        made = text("__0_0.distcp") + number(0) + number(5) + b"\x87\x81N"
        good = head + b"_StorageInfo\n" + made + tail[tail.index(b"b") :]
    else:
        good = index_of("data.bin", 0, 5)
    (tmp_path / ("__0.metadata" if change == "rank" else ".metadata")).write_bytes(good)
    assert "WL217" in rules_of(wl.scan(tmp_path))


@pytest.mark.parametrize("keys", ["complex", "huge", "pairs"])
def test_keys_of_one_hash_are_refused_in_time(keys):
    """They were compared each with all others: a megabyte took minutes, in a load as in a scan."""
    data = colliding(keys, 60_000)
    begin = time.process_time()
    with pytest.raises(wl.LimitError, match="dictionary keys"):
        wl.load(data)
    assert "WL310" in rules_of(wl.scan(data))
    assert time.process_time() - begin < 10


def test_the_same_keys_in_many_dictionaries_are_no_collision():
    """Python gives -1 and -2 one hash, and with them tuples of them."""
    keys = [(a, b, c) for a in range(-2, 3) for b in range(-2, 3) for c in range(-2, 3)]
    data = pickle.dumps([dict.fromkeys([(*key[:2], key[2]) for key in keys]) for _ in range(2000)], 4)
    assert wl.scan(data).verdict == "clean"
    assert len(wl.load(data)) == 2000


@pytest.mark.parametrize("label", ["frame_that_ends_in_a_text", "frame_that_ends_in_a_text_of_a_checkpoint"])
def test_frames_that_lead_pythons_machine_elsewhere(label):
    """It named posix.system where the scan, and a load, saw the bytes of a text."""
    data = HOSTILE[label].make()
    pickled_part = data[data.index(b"\x80\x04\x95") :]
    assert ("posix", "system") in names_in_c(pickled_part)
    assert "WL301" in rules_of(wl.scan(data))
    with pytest.raises(wl.PickleStreamError, match="a frame ends inside"):
        wl.load(data)


def test_frames_in_frames_are_refused_at_once():
    """Each was followed to its end: N frames in each other cost N**2."""
    data = b"\x80\x04" + b"".join(b"\x95" + (9 * (29_999 - n) + 2).to_bytes(8, "little") for n in range(30_000)) + b"N."
    begin = time.process_time()
    assert "WL301" in rules_of(wl.scan(data))
    assert time.process_time() - begin < 2


@pytest.mark.parametrize(
    "text_of", [b" " * 300_000, b"a" * 300_000, b"'\\" * 100_000, b'\\"""' * 100_000, b"getattr" + b"'" * 99_999]
)
def test_programs_are_searched_in_linear_time(text_of):
    begin = time.process_time()
    list(operators_in(text_of))
    list(operators_in(b'getattr"""' + text_of))
    assert time.process_time() - begin < 3


@pytest.mark.requires_torch
@pytest.mark.parametrize(
    "label",
    [label for label in HOSTILE if label.startswith(("script_that_saves_by_getattr", "script_that_saves_by_self"))],
)
def test_programs_that_write_when_they_are_loaded(torch, label, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.pt").write_bytes(HOSTILE[label].make())
    _with_state(tmp_path / "m.pt", tmp_path / "n.pt")
    torch.jit.load("n.pt")
    assert (tmp_path / "weighlock-was-here").exists()
    assert "WL121" in rules_of(wl.scan(tmp_path / "n.pt"))


def _with_state(path, made):
    """The same program, whose object has a state to set."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(made, "w") as new:
        for one in old.namelist():
            data = pickled(name("__torch__", "M") + b")\x81\x88b") if one.endswith("data.pkl") else old.read(one)
            new.writestr(one, data)


@pytest.mark.requires_torch
def test_a_checkpoint_that_is_a_package(torch, tmp_path, monkeypatch):
    from torch.package import PackageImporter

    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.pt").write_bytes(
        HOSTILE["package_in_a_checkpoint"].make().replace(b"print(1)", b"open('x','w')"[:8])
    )
    assert "WL216" in rules_of(wl.scan(tmp_path / "m.pt"))
    torch.load("m.pt", weights_only=True)
    with zipfile.ZipFile("m.pt") as old, zipfile.ZipFile("n.pt", "w") as new:
        for one in old.namelist():
            new.writestr(
                one, b"open('was-here','w').close()\nOrderedDict = dict" if one.endswith(".py") else old.read(one)
            )
    PackageImporter("n.pt").load_pickle("m", "m.pkl")
    assert (tmp_path / "was-here").exists()
    assert "WL216" in rules_of(wl.scan(tmp_path / "n.pt"))


@pytest.mark.parametrize("seed", range(4))
def test_what_is_clean_names_nothing_else_to_the_machine_in_c(seed, tmp_path):
    """A slice of ``python -m tests.fuzzing --targets unpickler``."""
    runner = Runner(seed, ["unpickler"], tmp_path, extra={"unpickler": beside_pickle})
    results = runner.run(400)
    assert not results.findings, {label: finding.lineage for label, finding in results.findings.items()}
    assert results.answers["unpickler result"] == 400


@pytest.mark.parametrize("protocol", [0, 1])
@pytest.mark.parametrize("value", ["x" * 100_000, b"y" * 100_000, ["a"] * 5 + ["b" * 70_000]])
def test_old_pickles_with_long_texts_are_pickles(protocol, value):
    """Longer than what is looked at to tell what a file is: it was text to some, and a pickle to others."""
    data = pickle.dumps({"a": 1, "b": value}, protocol)
    report = wl.scan(data)
    assert report.files[0].format == "pickle"
    assert report.verdict == "clean"
    assert wl.load(data) == {"a": 1, "b": value}


@pytest.mark.requires_torch
def test_a_distributed_checkpoint_of_safetensors(torch, tmp_path):
    """Its index has the lengths of the tensors only: they were taken for parts that overlap."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.filesystem import SerializationFormat

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        writer = dcp.FileSystemWriter(tmp_path, serialization_format=SerializationFormat.SAFETENSORS)
        dcp.save({"a": torch.ones(3), "b": torch.zeros(2, 2)}, storage_writer=writer, no_dist=True)
    assert wl.scan(tmp_path).verdict == "clean"
