"""Scanning: what is hostile is found, what is harmless is not, and a load never says otherwise."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

import weighlock as wl
from tests.corpus.benign import BENIGN, GOLDENS, LOOKALIKES
from tests.corpus.hostile import EVIL, HOSTILE
from tests.corpus.other_readers import plain_safetensors
from tests.corpus.writers import (
    GOOD,
    Entry,
    archive,
    called,
    checkpoint,
    name,
    number,
    pickled,
    records,
    reduced,
    tensor,
    text,
    two,
)  # fmt: skip
from weighlock.scanning.dangers import DANGERS, judge
from weighlock.scanning.rules import FAMILIES, RULES, SEVERITIES, rank

ADVISORIES = (
    "CVE-2025-32434", "CVE-2026-24747", "CVE-2025-62164", "CVE-2022-45907", "CVE-2024-48063", "CVE-2024-5480",
    "CVE-2025-1716", "CVE-2025-1889", "CVE-2025-1944", "CVE-2025-1945", "CVE-2025-10155", "CVE-2025-10156",
    "CVE-2025-10157", "GHSA-w8jq-xcqf-f792", "GHSA-7q5r-7gvp-wc82", "DCP .metadata",
)  # fmt: skip

# Parts of a file that a load leaves alone: what is in them does no harm to it, and is reported all the same.
NOT_LOADED = frozenset({
    "legacy_second_stream", "plain_second_pickle", "plain_third_pickle", "script_constants", "script_debug",
    "script_bytecode", "extra_record", "extra_record_deflated", "extra_record_as_storage", "zip_in_zip",
    "trailing_pickle", "cve_2025_32434_script", "cve_2025_1889", "safetensors_that_is_a_pickle",
    "safetensors_that_is_a_second_pickle", "safetensors_by_an_integer_with_nul", "tar_that_is_a_pickle",
    "safetensors_with_an_archive", "safetensors_with_an_archive_and_more", "npy_with_an_archive",
    "npy_behind_an_array", "script_that_saves", "script_that_saves_by_another_name", "script_that_maps_a_file",
    "script_of_bytecode", "script_constant_too_short", "record_without_proto", "record_with_a_last_line",
    "large_record_of_text", "lzma_that_is_an_integer", "package_in_a_checkpoint", "library_in_a_checkpoint",
    "export_in_a_checkpoint",
    *(label for label in HOSTILE if label.startswith("script_that_saves_by_")),
})  # fmt: skip


def scanned(data: bytes, **options) -> wl.ScanReport:
    return wl.scan(data, **options)


def rules_of(report: wl.ScanReport) -> set[str]:
    return {finding.rule for finding in report.findings}


def loads(data: bytes) -> bool:
    try:
        wl.load(data)
    except wl.WeighlockError:
        return False
    return True


@pytest.mark.parametrize("label", HOSTILE)
def test_hostile(label):
    case = HOSTILE[label]
    data = case.make()
    report = scanned(data)
    found = rules_of(report)
    for wanted in case.rules:
        assert any(re.fullmatch(one, rule) for one in wanted.split("|") for rule in found), (wanted, sorted(found))
    assert report.verdict == "findings"
    assert not [gap for gap in report.gaps if "cannot be examined" in gap.message]
    json.dumps(report.to_dict(), allow_nan=False)
    if loads(data) and label not in NOT_LOADED:
        assert rank(report.worst() or "info") < rank("high")


@pytest.mark.parametrize("label", BENIGN)
def test_benign(label):
    data = BENIGN[label]()
    report = scanned(data)
    assert [finding for finding in report.findings if finding.severity != "info"] == []
    assert report.gaps == ()
    assert report.verdict == "clean"
    # What is called clean is read, or refused for a reason that is no danger: a kind of file, text of Python 2, or an
    # array of objects.
    if "joblib" not in label:
        with contextlib.suppress(wl.NotACheckpointError, wl.PickleStreamError, wl.UnsupportedError):
            wl.load(data)


def test_the_corpus_is_large_and_holds_every_advisory():
    assert len(HOSTILE) >= 150
    assert len(BENIGN) >= 100
    assert {case.advisory for case in HOSTILE.values()} >= set(ADVISORIES)


def test_every_rule_has_a_file_that_has_it_and_one_that_only_looks_like_it():
    wanted = {row.id for row in RULES.values() if not row.is_gap and not row.id.startswith(("WL5", "WL6"))}
    named = {rule for case in HOSTILE.values() for one in case.rules for rule in one.split("|")}
    assert wanted - named == {"WL120", "WL217"}  # a remark; what only a folder has
    assert wanted == set(LOOKALIKES)


def test_what_is_not_loaded_is_not_loaded():
    for label in NOT_LOADED:
        assert loads(HOSTILE[label].make()), label


@pytest.mark.parametrize("path", GOLDENS[::7], ids=lambda path: path.name)
def test_a_scan_names_what_a_reading_names(path):
    with wl.read_checkpoint(path) as checkpoint_:
        expected = set(checkpoint_.globals)
    assert {use.name for use in wl.scan(path).globals} == expected


# ------------------------------------------------------------------------------------------------------ what it says


def test_where_and_what():
    (file,) = scanned(checkpoint(pickled(two(tensor(), b"](" + called("posix", "system", "echo hi") + b"e")))).files
    (finding,) = file.findings
    assert finding.rule == "WL101"
    assert finding.severity == "critical"
    assert finding.member == "archive/data.pkl"
    assert finding.name == "posix.system"
    assert finding.arguments == "'echo hi'"
    assert finding.path == "extra.0"
    data = checkpoint(pickled(two(tensor(), b"](" + called("posix", "system", "echo hi") + b"e")))
    assert finding.file_offset is not None
    assert data[finding.file_offset : finding.file_offset + 1] == b"R"
    assert file.format == "torch-zip"
    assert file.pickles == 1


def test_uses_of_globals():
    body = two(tensor(), name("mypackage", "Net") + b")\x81}" + text("lr") + b"K\x01sb")
    uses = {use.name: use for use in scanned(checkpoint(pickled(body))).globals}
    assert uses["mypackage.Net"].uses == ("called", "built")
    assert not uses["mypackage.Net"].known
    assert uses["torch._utils._rebuild_tensor_v2"].uses == ("called",)
    assert uses["torch._utils._rebuild_tensor_v2"].known
    assert uses["torch.FloatStorage"].uses == ("named",)


def test_allowed_globals():
    data = checkpoint(pickled(two(tensor(), called("mypackage.models", "Net", "x"))))
    assert scanned(data).verdict == "findings"
    assert scanned(data, allow=["mypackage.models.Net"]).verdict == "clean"
    assert scanned(data, allow=["mypackage.*"]).verdict == "clean"
    assert scanned(data, allow=["mypackage"]).verdict == "findings"


def test_what_is_named_as_safe_for_loading_is_allowed():
    import fractions

    class Thing:
        pass

    data = checkpoint(pickled(two(tensor(), called("tests.somewhere", "Thing"))))
    with wl.safe_globals([(Thing, "tests.somewhere.Thing"), fractions.Fraction]):
        assert scanned(data).verdict == "clean"
    assert scanned(data).verdict == "findings"


@pytest.mark.parametrize("allowed", ["os.system", "os.*", "*", "subprocess.Popen", "builtins.eval", ""])
def test_what_can_never_be_allowed(allowed):
    with pytest.raises(wl.ArgumentError, match="never be allowed"):
        scanned(EVIL, allow=[allowed])


def test_fingerprints_do_not_depend_on_offsets():
    def print_of(filler: str) -> str:
        body = b"}(" + text(filler) + b"N" + text("x") + called("posix", "system", "echo") + b"u"
        return scanned(checkpoint(pickled(body))).findings[0].fingerprint

    assert print_of("a") == print_of("a much longer key")
    other = scanned(checkpoint(pickled(called("posix", "system", "other")))).findings[0].fingerprint
    assert print_of("a") != other


def test_the_same_thing_many_times_is_one_finding():
    body = b"](" + called("posix", "system", "echo") * 500 + b"e"
    (finding,) = scanned(checkpoint(pickled(body))).findings
    assert finding.count == 500


def test_hostile_names_are_escaped():
    data = checkpoint(pickled(two(tensor(), called("evil\x1b[2J", "x\x1b]0;pwned\x07", "\x1b[31m"))))
    shown = json.dumps(scanned(data).to_dict())
    assert "pwned" in shown
    assert "\\u001b" not in shown
    assert "\\u0007" not in shown


def test_findings_are_bounded():
    body = b"](" + b"".join(called("mypackage", f"f{i}") for i in range(3000)) + b"e"
    report = scanned(checkpoint(pickled(body)))
    assert len(report.findings) == 1000
    assert "WL904" in {gap.rule for gap in report.gaps}


# ---------------------------------------------------------------------------------------------------- what it reads


def test_only_indices_of_sparse_tensors_are_read(tmp_path):
    path = tmp_path / "big.pt"
    path.write_bytes(checkpoint(GOOD, {"0": b"\0" * 24, "unused": bytes(4 << 20)}))
    assert wl.scan(path).files[0].bytes_read < 100_000


def test_deep_reads_everything(tmp_path):
    entries = records(GOOD)
    entries[2] = entries[2]._replace(crc=7)
    path = tmp_path / "flipped.pt"
    path.write_bytes(archive(entries))
    assert wl.scan(path).verdict == "clean"
    assert rules_of(wl.scan(path, deep=True)) == {"WL207"}


def test_deep_checks_every_local_header():
    entries = records(GOOD)
    entries[2] = entries[2]._replace(local_name="archive/data/9")
    assert scanned(archive(entries)).verdict == "clean"
    assert "WL206" in rules_of(scanned(archive(entries), deep=True))


def test_file_objects_and_paths(tmp_path):
    file = io.BytesIO(b"..." + EVIL)
    file.seek(3)
    assert wl.scan(file).verdict == "findings"
    assert file.tell() == 3
    path = tmp_path / "harmless.txt"
    path.write_bytes(EVIL)
    assert wl.scan(path).files[0].name == str(path)
    assert wl.scan([path, io.BytesIO(GOOD[:0] + pickle.dumps(1))]).verdict == "findings"


def test_folders_and_patterns(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.pt").write_bytes(EVIL)
    (tmp_path / "two.bin").write_bytes(pickle.dumps(1))
    (tmp_path / "config.json").write_text('{"a": 1}')
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x").write_bytes(EVIL)
    report = wl.scan(tmp_path)
    assert [file.verdict for file in report.files] == ["clean", "clean", "findings"]
    assert [file.skipped for file in report.files] == [True, False, False]
    assert wl.scan(tmp_path, exclude=["a/*"]).verdict == "clean"
    assert len(wl.scan(str(tmp_path / "*.bin")).files) == 1
    assert wl.scan(tmp_path / "config.json").verdict == "not fully examined"
    with pytest.raises(wl.ArgumentError):
        wl.scan(str(tmp_path / "*.nothing"))


def test_parts_of_a_distributed_checkpoint_are_files_of_their_own(tmp_path):
    """An index that says that all of a file is one part does not make it known."""
    info = b"}(" + text("relative_path") + text("__0_0.distcp") + text("offset") + number(0)
    info += text("length") + number(108) + b"u"
    module = "torch.distributed.checkpoint"
    info = name(f"{module}.filesystem", "_StorageInfo") + b")\x81" + info + b"b"
    index = name(f"{module}.metadata", "Metadata") + b")\x81}" + text("storage_data") + b"}" + text("a") + info + b"ssb"
    (tmp_path / ".metadata").write_bytes(pickled(index))
    (tmp_path / "__0_0.distcp").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    report = wl.scan(tmp_path / "__0_0.distcp")
    assert report.files[0].format == "dcp-part"
    assert report.verdict == "not fully examined"


def test_links_to_folders_are_followed_once(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.pt").write_bytes(EVIL)
    scanned_folder = tmp_path / "models"
    scanned_folder.mkdir()
    (scanned_folder / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(scanned_folder)
    (scanned_folder / "itself").symlink_to(scanned_folder)
    report = wl.scan(scanned_folder)
    assert [Path(file.name).name for file in report.files] == ["model.pt"]
    assert report.verdict == "findings"


def test_a_folder_that_cannot_be_listed_is_a_gap(tmp_path, monkeypatch):
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "one.pkl").write_bytes(pickle.dumps(1))
    (tmp_path / "secret").mkdir()
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    report = wl.scan(tmp_path)
    assert report.verdict == "not fully examined"
    assert [gap.rule for gap in report.gaps] == ["WL901"]


def test_pictures_beside_models_are_passed_over_but_for_pickles(tmp_path):
    (tmp_path / "logo.gif").write_bytes(b"GIF89a" + bytes(100))
    assert wl.scan(tmp_path).verdict == "clean"
    (tmp_path / "logo.gif").write_bytes(HOSTILE["picture_that_is_a_pickle"].make())
    assert wl.scan(tmp_path).verdict == "findings"


@pytest.mark.parametrize(
    "text", ["car\nbus\n", "class A:\n    pass\n", "import os\nimport sys\n", "cos\nsin\ntan\n", "V1\n"]
)
def test_text_that_begins_like_opcodes_is_passed_over(tmp_path, text):
    (tmp_path / "labels.txt").write_text(text * 20)
    report = wl.scan(tmp_path)
    assert report.verdict == "clean"
    assert report.files[0].skipped


def test_many_findings_crowd_out_none_that_is_worse():
    many = b"".join(name("pkg", f"Class{number}") + b")R0" for number in range(1500))
    report = scanned(b"\x80\x02" + many + EVIL[2:])
    assert report.worst() == "critical"
    assert "WL904" in {gap.rule for gap in report.gaps}


def test_archives_of_other_things_are_not_clean():
    unknown = archive([Entry("setup.py", b"import os"), Entry("model.so", b"\x7fELF" + bytes(60))])
    assert scanned(unknown).verdict == "not fully examined"
    assert scanned(archive([Entry("inner.zip", unknown)])).verdict == "not fully examined"
    assert scanned(archive([Entry("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(60))])).verdict == "not fully examined"


def test_what_is_read_of_large_files_of_other_kinds(tmp_path):
    """A file is not read through to find out that it is no pickle."""
    path = tmp_path / "large.safetensors"
    path.write_bytes(plain_safetensors(bytes(8_000_000)))
    assert wl.scan(path).files[0].bytes_read < 400_000


@pytest.mark.parametrize(
    "text", [b"010", b"0x1f", b"0o17", b"5\0junk", b"\0junk", b" 7", b"-010", b"1_0", b"00", b"01"]
)
def test_integers_are_read_as_the_unpickler_in_c_reads_them(text):
    data = b"I" + text + b"\n."
    assert wl.load(data) == pickle.loads(data)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("text", [rb"\l", rb"\777", rb"\\l", rb"\\\q", rb"\x41", rb"\'", rb"a\101"])
def test_escapes_that_python_warns_of(text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = pickle.loads(b"S'" + text + b"'\n.", encoding="latin1")
    assert wl.load(b"S'" + text + b"'\n.", encoding="latin1") == expected


@pytest.mark.parametrize("name", ["mypackage.os.system", "mypackage.models.subprocess.Popen", "builtins.eval"])
def test_a_pattern_does_not_reach_through_what_it_allows(name):
    data = checkpoint(pickled(two(tensor(), called(*name.split(".", 1), "echo"))))
    assert scanned(data, allow=["mypackage.*", "builtins.*"]).verdict == "findings"


def test_what_cannot_be_read_is_a_gap(tmp_path):
    report = wl.scan([tmp_path / "missing.pt", io.BytesIO(EVIL)])
    assert report.verdict == "findings"
    assert report.gaps[0].rule == "WL901"
    assert wl.scan(tmp_path / "missing.pt").verdict == "not fully examined"


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 4096, b"\x89HDF\r\n\x1a\n" + bytes(2000), b"\x93NUMPY\x01\x00\xff\xff", b"PK\x03\x04"]
)
def test_what_is_not_understood_is_not_clean(data):
    assert scanned(data).verdict != "clean"


@pytest.mark.parametrize("end", range(0, len(checkpoint(GOOD)), 37))
def test_no_cut_checkpoint_is_clean(end):
    assert scanned(checkpoint(GOOD)[:end]).verdict != "clean"


def test_a_bad_limit_stops_nothing():
    report = scanned(checkpoint(GOOD), limits=wl.Limits(max_pickle_bytes=10))
    assert report.verdict == "findings"
    assert "WL903" in {gap.rule for gap in report.gaps}


# -------------------------------------------------------------------------------------------------------- the tables


def test_rules_are_complete():
    for row in RULES.values():
        assert row.severity in SEVERITIES
        assert row.id[:3] in FAMILIES
        for sentence in (row.title, row.means, row.example, row.advice):
            assert sentence.strip() == sentence
            assert sentence
        assert row.means.endswith(".")
        assert row.is_gap == (row.cwe == 0)


def test_dangers_name_rules_that_exist_and_no_name_twice():
    seen = set()
    for rule, severity, reason, names in DANGERS:
        assert rule in RULES
        assert severity in ("high", "critical")
        assert reason
        for one in names.split():
            assert one not in seen, one
            seen.add(one)


def test_nothing_that_a_load_knows_is_dangerous():
    from weighlock.formats.reading import allowlist_with

    tables: list[Any] = list(allowlist_with().tables)
    known = [".".join(key) for table in tables for key in table]
    assert len(known) > 400
    wrong = [full for full in known if judge(full) is not None]
    # These read or make what they are given by our own functions, whatever their namesakes do.
    assert set(wrong) <= {
        "torch.storage._load_from_bytes", "torch.serialization._get_layout", "_codecs.encode", "copyreg._reconstructor",
        "copyreg.__newobj__", "copyreg.__newobj_ex__", "copy_reg._reconstructor", "copy_reg.__newobj__",
        "types.SimpleNamespace", "types.NoneType", "torch._C.Generator", "torch._dynamo.decorators._DimRange",
        "builtins.str", "builtins.bytes",
        "__builtin__.str", "__builtin__.bytes", "pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath",
    }  # fmt: skip


def test_reduced_helpers_make_what_they_say():
    # The corpus is only worth something if Python would really run it.
    assert pickle.loads(pickled(called("operator", "add", "a", "b"))) == "ab"
    assert pickle.loads(pickled(reduced(name("builtins", "list"), b"](K\x01K\x02e"))) == [1, 2]
    with archive_of([Entry("a", b"x"), Entry("b", b"y" * 100, 8)]) as found:
        assert found.read("b") == b"y" * 100


def archive_of(entries: list[Entry]):
    import zipfile

    return zipfile.ZipFile(io.BytesIO(archive(entries)))


# ------------------------------------------------------------------------------------------- files of PyTorch itself


@pytest.mark.requires_torch
def test_programs_of_torch_are_clean_but_for_a_remark(torch, tmp_path):
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(3, 2), torch.ones(1, 3)), file)
    report = scanned(file.getvalue())
    assert report.verdict == "clean"
    assert rules_of(report) == {"WL120"}
    assert report.files[0].format == "torchscript"


def test_programs_of_torch_that_write_files(torch, tmp_path):
    """torch.jit.load, and torch.load(weights_only=False), run `__setstate__`: the file is written by loading."""
    target = tmp_path / "written"
    source = f"""
import torch
class Net(torch.nn.Module):
    @torch.jit.export
    def __getstate__(self):
        return (self.training,)
    @torch.jit.export
    def __setstate__(self, state: tuple[bool]):
        self.training = state[0]
        torch.save(torch.ones(1), {str(target)!r})
    def forward(self, x):
        return x
"""
    (tmp_path / "net_that_writes.py").write_text(source)
    names: dict[str, Any] = {}
    filename = str(tmp_path / "net_that_writes.py")
    exec(compile(source, filename, "exec"), names)  # torch.jit.script reads a class's text from its file
    path = tmp_path / "script.pt"
    torch.jit.script(names["Net"]()).save(str(path))
    torch.jit.load(str(path))
    assert target.exists()
    assert "WL121" in rules_of(wl.scan(path))


@pytest.mark.requires_torch
def test_a_storage_marked_as_a_folder(torch, tmp_path):
    """PyTorch returns memory that nobody has written; ours refuses, and the same bytes without the mark are read."""
    path = tmp_path / "marked.pt"
    torch.save({"a": torch.arange(1000.0)}, path)
    data = bytearray(path.read_bytes())
    assert wl.scan(bytes(data)).verdict == "clean"
    data[data.rindex(b"data/0") - len("marked/") - 46 + 38] = 0x10
    path.write_bytes(data)
    torch.load(path, weights_only=True)  # without an error
    assert "WL215" in rules_of(wl.scan(path))
    assert wl.verify(path).verdict != "sound"
    with pytest.raises(wl.CheckpointError, match="marked as a folder"):
        wl.load(path)


@pytest.mark.requires_torch
def test_pickled_modules_name_their_classes(torch):
    file = io.BytesIO()
    torch.save(torch.nn.Linear(2, 2), file)
    report = scanned(file.getvalue())
    assert {(finding.rule, finding.name) for finding in report.findings} == {
        ("WL110", "torch.nn.modules.linear.Linear")
    }
    assert scanned(file.getvalue(), allow=["torch.nn.modules.*"]).verdict == "clean"


@pytest.mark.requires_torch
@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_torch_is_clean(torch, protocol):
    from tests.cases import CASES

    for label in ("optimizer_adamw", "sparse", "plain_values", "strides", "state_dict"):
        for as_zip in (True, False):
            file = io.BytesIO()
            made = CASES[label](torch)
            torch.save(made, file, pickle_protocol=protocol, _use_new_zipfile_serialization=as_zip)
            assert scanned(file.getvalue()).verdict == "clean", (label, as_zip)


@pytest.mark.requires_torch
def test_a_distributed_checkpoint_is_clean(torch, tmp_path):
    import torch.distributed.checkpoint as dcp

    with pytest.warns(UserWarning, match="."):
        dcp.save({"a": torch.ones(3), "b": {"c": torch.zeros(2, 2)}, "n": 5}, checkpoint_id=tmp_path / "dcp")
    report = wl.scan(tmp_path / "dcp")
    assert report.verdict == "clean"
    assert {file.format for file in report.files} == {"pickle", "dcp-part"}
    # Without the index, the same file is several archives in one.
    (part,) = (tmp_path / "dcp").glob("*.distcp")
    assert "WL204" in rules_of(wl.scan(part.read_bytes()))
    with part.open("ab") as file:
        file.write(b"more")
    assert "WL205" in rules_of(wl.scan(tmp_path / "dcp"))


# --------------------------------------------------------------------------------------------------- under attack


def test_mutated_files_are_judged_in_bounds():
    """Whatever the bytes are: a report, never an accident of ours, and in time."""
    dice = random.Random(7)
    seeds = [data for case in HOSTILE.values() if 0 < len(data := case.make()) < 20_000]
    for _ in range(1500):
        changed = bytearray(dice.choice(seeds))
        for _ in range(dice.choice((1, 2, 4))):
            at = dice.randrange(len(changed))
            changed[at : at + dice.choice((0, 1, 8))] = dice.choice(
                (b"\x00", b"\xff", b"(", b"R", b".", b"b", b"PK\x05\x06")
            )
        report = scanned(bytes(changed))
        assert not [gap for gap in report.gaps if "cannot be examined" in gap.message]


def test_files_of_very_many_pickles_are_bounded():
    report = scanned(b"\x80\x02N." * 10_500)
    assert report.verdict == "not fully examined"
    assert report.files[0].pickles <= 10_001
    assert scanned(b"\x80\x02N." * 9_000).verdict == "clean"


@pytest.mark.parametrize(
    "data",
    [b"PK\x03\x04" + b"PK\x05\x06" * 1000, b"PK\x03\x04" * 2000,
     (b"PK\x03\x04" + bytes(22) + b"\x05\0\0\0abcde\x80\x02N.") * 200],
)  # fmt: skip
def test_marks_of_archives_without_one(data):
    report = scanned(data)
    assert report.verdict == "findings"
    assert not [gap for gap in report.gaps if "cannot be examined" in gap.message]


def test_names_out_of_a_web_of_calls():
    """Each call takes the result of the one before twice: worked out once each, or never done."""
    step = b"0" + name("operator", "add") + b"h\x01h\x01\x86Rq\x01"
    assert rules_of(scanned(checkpoint(pickled(text("a") + b"q\x01" + step * 2000)))) >= {"WL104"}
    inner = name("mypackage", "f")
    step = b"0" + inner + b"h\x01h\x01\x86Rq\x01"
    assert rules_of(scanned(checkpoint(pickled(b"K\x01q\x01" + step * 2000)))) >= {"WL110"}


def test_huge_integers_as_keys():
    key = b"\x8b" + (20_000).to_bytes(4, "little") + b"\x7f" * 20_000
    report = scanned(checkpoint(pickled(b"}(" + key + called("posix", "system", "x") + b"u")))
    assert rules_of(report) == {"WL101"}
    assert report.gaps == ()


def test_records_that_claim_to_unpack_to_far_too_much():
    entries = [*records(GOOD), Entry("archive/x.pkl", b"\x80\x02" + bytes(20 << 20), 8)]
    assert rules_of(scanned(archive(entries))) == {"WL209"}
    entries = [Entry("archive/data.pkl", b"\x80\x02" + bytes(20 << 20), 8)]
    assert rules_of(scanned(archive(entries))) == {"WL209"}


def test_a_scan_keeps_nothing():
    import gc

    data = checkpoint(GOOD)
    scanned(data)
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for _ in range(50):
            scanned(data)
        assert len(gc.get_objects()) - before < 50
    finally:
        gc.enable()


def test_loading_keeps_nothing_in_the_table():
    from weighlock.formats.reading import allowlist_with

    table = allowlist_with()
    first = table.find("collections", "OrderedDict")
    kept = len(table._kept)
    assert table.find("collections", "OrderedDict") is first
    assert len(table._kept) == kept
