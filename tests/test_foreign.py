"""Files that are no checkpoint: each is called by its name, with the way out, and never with an unsafe one."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import tarfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighlock.errors import CheckpointError, DirectoryError, NotACheckpointError, TruncatedError, WeighlockError
from weighlock.formats.foreign import amount, describe_folder, describe_foreign
from weighlock.formats.foreign_signatures import SIGNATURES
from weighlock.storages.source import BytesSource

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a2146" * 8 + b"\nsize 46830571\n"


def zip_of(*names, data=b"x"):
    holder = io.BytesIO()
    with zipfile.ZipFile(holder, "w") as made:
        for name in names:
            made.writestr(name, data)
    return holder.getvalue()


def tar_of(name):
    holder = io.BytesIO()
    with tarfile.open(fileobj=holder, mode="w") as made:
        made.addfile(tarfile.TarInfo(name))
    return holder.getvalue()


def onnx():
    producer = b"pytorch"
    return b"\x08\x08\x12" + bytes([len(producer)]) + producer + b"\x1a\x052.1.0:\xff\x02" + os.urandom(300)


def tfrecord():
    return bytes.fromhex("1800000000000000a37f4b22") + b"\x09\x00\x00\xc0\x01" + bytes(23)


FILES = {
    "a web page": (b"<!DOCTYPE html>\n<html><head><title>Google Drive - Virus scan</title>", "html",
                   ["web page", "Google Drive - Virus scan", "login"]),
    "a page after spaces": (b"\xef\xbb\xbf\n\n  <HTML><body>404", "html", ["web page"]),
    "an error of S3": (b'<?xml version="1.0"?><Error><Code>X</Code><Message>Access Denied</Message>', "xml",
                       ["XML", "Access Denied"]),
    "git lfs": (LFS, "git-lfs", ["Git LFS pointer", "46.8 MB", "4d7a21464d7a", "git lfs pull"]),
    "a cut git lfs": (LFS[:60], "git-lfs", ["Git LFS pointer", "git lfs pull"]),
    "gzip": (gzip.compress(b"x" * 100), "gzip", ["gzip", "Decompress"]),
    "bzip2": (bz2.compress(b"x" * 100), "bzip2", ["bzip2 -d"]),
    "xz": (lzma.compress(b"x" * 100), "xz", ["xz -d"]),
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x00" + bytes(20), "zstd", ["zstd -d"]),
    "lz4": (b"\x04\x22\x4d\x18" + bytes(20), "lz4", ["lz4 -d"]),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(20), "7z", ["7z x"]),
    "rar": (b"Rar!\x1a\x07\x01\x00" + bytes(20), "rar", ["unrar"]),
    "keras": (zip_of("metadata.json", "config.json", "model.weights.h5"), "keras", ["Keras"]),
    "docx": (zip_of("[Content_Types].xml", "word/document.xml"), "office", ["office document"]),
    "odt": (zip_of("mimetype", "content.xml"), "office", ["office document"]),
    "jar": (zip_of("META-INF/MANIFEST.MF", "a.class"), "jar", ["Java"]),
    "wheel": (zip_of("x/__init__.py", "x-1.dist-info/METADATA"), "wheel", ["pip"]),
    "mar": (zip_of("MAR-INF/MANIFEST.json", "model.pt"), "mar", ["TorchServe"]),
    "pt2": (zip_of("m/archive_format", "m/models/model.json"), "pt2", ["torch.export"]),
    "zip with checkpoints": (zip_of("a.txt", "b/model.pth"), "zip", ["may be checkpoints", "'b/model.pth'"]),
    "zip of other things": (zip_of(*(f"{n}.txt" for n in range(9))), "zip", ["0.txt, 1.txt", "and 4 more"]),
    "zip with names for a terminal": (zip_of("a\x1b[2J.txt", "b"), "zip", ["a\\x1b[2J.txt"]),
    "an empty zip": (zip_of(), "zip", ["empty zip"]),
    "onnx": (onnx(), "onnx", ["ONNX", "onnx.load"]),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(50), "tflite", ["TensorFlow Lite"]),
    "ggml": (b"tjgg\x03\0\0\0" + bytes(50), "ggml", ["GGML", "llama.cpp"]),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "hdf5", ["h5py"]),
    "hdf5 behind a user block": (bytes(512) + b"\x89HDF\r\n\x1a\n" + bytes(50), "hdf5", ["h5py"]),
    "json": (b'{"a": [1, 2]}', "json", ["JSON"]),
    "a list in json": (b"[1, 2, 3, 4]", "json", ["JSON"]),
    "an index": (json.dumps({"metadata": {}, "weight_map": {"a": "m-1.bin"}}).encode(), "safetensors-index",
                 ["index of a sharded", "weight_map"]),
    "a configuration": (b'{"architectures": ["BertModel"]}', "json", ["configuration"]),
    "an error in json": (b'{"error": "Repository not found"}', "json", ["Repository not found", "access"]),
    "yaml": (b"# A comment\nmodel:\n  depth: 3\n", "yaml", ["YAML"]),
    "dvc": (b"outs:\n- md5: 1f3e\n  size: 3\n  path: m.pt\n", "dvc", ["dvc pull"]),
    "python": (b"# coding: utf-8\nimport torch\n\nclass Net(torch.nn.Module): ...\n", "python", ["Python source"]),
    "text": ("Größe und Güte\n".encode(), "text", ["text", "Größe"]),
    "text in UTF-16": ("some text".encode("utf-16"), "text", ["text"]),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(50), "png", ["PNG"]),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(50), "jpeg", ["JPEG"]),
    "pdf": (b"%PDF-1.7\n" + bytes(50), "pdf", ["PDF"]),
    "elf": (b"\x7fELF\x02\x01\x01" + bytes(50), "elf", ["ELF"]),
    "tar": (tar_of("weights/a.ckpt"), "tar", ["tar archive", "tar -xf"]),
    "savedmodel": (b"\x08\x01\x12\xd2\x01\x0a\x20*\x07\n\x05serve2\x04v1.x" + bytes(90) + b"tensorflow", "tensorflow",
                   ["SavedModel"]),
    "tensorflow index": (bytes(8) + b"k" * 90 + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "tensorflow-index",
                         ["checkpoint"]),
    "tfrecord": (tfrecord(), "tfrecord", ["TensorBoard"]),
    "parquet": (b"PAR1" + bytes(50), "parquet", ["Parquet"]),
    "arrow": (b"ARROW1\0\0" + bytes(50), "arrow", ["Arrow"]),
    "sqlite": (b"SQLite format 3\0" + bytes(50), "sqlite", ["sqlite3"]),
    "preview": (b"PYTORCH1" + bytes(50), "pytorch-preview", ["PyTorch 1.0"]),
    "zeros": (bytes(5000), "zeros", ["nothing but zero bytes", "5.0 kB", "sparse"]),
    "zeros first": (bytes(70_000) + b"data" * 20_000, "zeros", ["begins with zero bytes"]),
    "junk": (bytes(range(128, 256)), "unknown", ["128 bytes that begin with 80 81 82"]),
}  # fmt: skip

TRUNCATED = {
    "empty": (b"", ["empty"]),
    "short": (b"\x80\x02", ["too short", "2 bytes"]),
    "short text": (b"abc", ["too short"]),
    "a cut zip": (zip_of("m/data.pkl", "m/data/0", "m/data/1")[:130], ["3 whole records, 2 of them tensor"]),
    "safetensors": (struct.pack("<Q", 900) + b'{"a":{"dtype"', ["safetensors", "908 bytes or more", "21"]),
}


def message_of(error):
    text = str(error)
    assert "weights_only" not in text
    assert "\x1b" not in text
    return text


@pytest.mark.parametrize("case", FILES)
def test_what_a_file_is(case):
    data, kind, words = FILES[case]
    error = describe_foreign(BytesSource(data, "model.pt"))
    assert isinstance(error, NotACheckpointError)
    assert error.kind == kind
    text = message_of(error)
    for word in [*words, "not a checkpoint" if kind != "unknown" else "no checkpoint", "model.pt"]:
        assert word in text
    assert error.hint
    assert error.hint.endswith((".", "FILE"))


@pytest.mark.parametrize("case", TRUNCATED)
def test_what_is_missing(case):
    data, words = TRUNCATED[case]
    error = describe_foreign(BytesSource(data, "model.pt"))
    assert isinstance(error, TruncatedError)
    text = message_of(error)
    for word in [*words, "model.pt"]:
        assert word in text


def test_every_signature_is_recognised():
    for row in SIGNATURES:
        data = bytearray(b"\xee" * 2000)
        start = row.offset % len(data)
        data[start : start + len(row.magic)] = row.magic
        found = describe_foreign(BytesSource(data))
        assert isinstance(found, NotACheckpointError)
        assert (found.kind, row.what in str(found)) == (row.kind, True)


def test_a_zip_with_a_damaged_directory_is_called_that():
    data = zip_of("a", "b") + b"PK\5\6" + bytes(18)
    assert not isinstance(describe_foreign(BytesSource(data)), NotACheckpointError)


def test_a_zip_behind_something_else():
    error = describe_foreign(BytesSource(b"\x00\x01junk" + zip_of("m/data.pkl")))
    assert isinstance(error, DirectoryError)
    assert "first byte" in message_of(error)


@pytest.mark.parametrize("case", [*FILES, *TRUNCATED])
def test_every_truncation_gives_our_error(case):
    data = (FILES.get(case) or TRUNCATED[case])[0]
    for length in [*range(min(len(data), 65)), len(data) // 2]:
        error = describe_foreign(BytesSource(data[:length]))
        assert isinstance(error, CheckpointError)
        message_of(error)


def test_pickles_of_protocol_0_are_left_to_the_pickle_reader():
    for value in ({"a": 1}, [1, 2], "text", 3, None, {"error": "x"}, {1: [2]}):
        data = pickle.dumps(value, protocol=0) + b"      "
        assert getattr(describe_foreign(BytesSource(data)), "kind", None) in {"text", "unknown", None}


@given(st.binary(max_size=300))
def test_any_bytes_give_our_error(data):
    assert isinstance(describe_foreign(BytesSource(data)), CheckpointError)


@pytest.mark.parametrize("text", ['{"a":' * 100_000, "[" * 100_000, '{"error": ' + "9" * 10_000 + "}"])
def test_hostile_json(text):
    assert isinstance(describe_foreign(BytesSource(text.encode())), CheckpointError)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (999_999, "1.0 MB"), (46_830_571, "46.8 MB"),
     (2_500_000_000, "2.5 GB"), (7 * 10**15, "7000.0 TB")],
)  # fmt: skip
def test_amount(count, text):
    assert amount(count) == text


FOLDERS = {
    "savedmodel": (["saved_model.pb", "variables/x"], "tensorflow-folder", ["SavedModel"]),
    "unzipped": (["data.pkl", "data/0", "version"], "unzipped-folder", ["unpacked", "zip -0 -r"]),
    "unzipped inside": (["archive/data.pkl", "archive/data/0"], "unzipped-folder", ["unpacked", "archive"]),
    "transformers": (["config.json", "pytorch_model.bin"], "transformers-folder", ["pytorch_model.bin"]),
    "files": ([f"{n}.pt" for n in range(9)], "folder", ["0.pt, 1.pt", "and 5 more"]),
    "a name for a terminal": (["a\x1b[2J.pt"], "folder", ["a\\x1b[2J.pt"]),
    "pipeline": (["model_index.json", "unet/a.safetensors", "vae/b.bin"], "folder",
                 ["pipeline of diffusers", "unet/a.safetensors, vae/b.bin"]),
    "steps": (["step1/.metadata", "step2/.metadata", "step2/__0_0.distcp"], "folder", ["inside: step1, step2."]),
    "other": (["README.md"], "folder", ["without a file that looks like a checkpoint"]),
    "empty": ([], "folder", ["path of the file"]),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_what_a_folder_is(case, tmp_path):
    names, kind, words = FOLDERS[case]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    error = describe_folder(tmp_path)
    assert error.kind == kind
    text = message_of(error)
    for word in [*words, str(tmp_path)]:
        assert word in text


def test_a_folder_that_is_not_there(tmp_path):
    assert isinstance(describe_folder(tmp_path / "none"), WeighlockError)
