"""Files that one loader takes for something harmless and another one runs: every one was tried with the loader named.

The payloads print a word, and are never run by the tests.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import struct
import tarfile

from tests import old_writers
from tests.corpus.hostile import _HARMLESS_SCRIPT, EVIL, PAYLOAD, _dtype, _joblib, _npy, add
from tests.corpus.writers import GOOD, Entry, archive, checkpoint, name, number, pickled, records, reduced, tensor, text

OLD = b"cposix\nsystem\n(S'echo weighlock'\ntR."
"""The payload in protocol 0: no byte says that it is a pickle."""
NAKED = b"\x8c\x05posix\x8c\x06system\x93\x8c\x0eecho weighlock\x85R."
"""The payload in protocol 4, without the PROTO that C's unpickler does not miss."""
GIF = b"GIF89a\x01\x02\x03"
"""BINFLOAT, which takes eight bytes for a number."""


def safetensors(data: bytes, begin: bytes = b"V") -> bytes:
    """A whole safetensors file of one tensor whose length is a text's opcode; the text ends before the last bracket."""
    header = b'{"t":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}' % (len(data), len(data))
    length = begin[0]
    while length < len(header) + 2:
        length += 256
    return struct.pack("<Q", length) + header.ljust(length - 2) + b"\n}" + data


def plain_safetensors(data: bytes) -> bytes:
    header = b'{"t":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (len(data), len(data))
    return struct.pack("<Q", len(header)) + header + data


def tar(first: bytes, evil: bytes | None = None, magic: bytes = b"ustar\x0000") -> bytes:
    """PyTorch's tar archive of 2016 behind an empty member of this name."""
    file = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(old_writers.tar())) as good,
        tarfile.open(fileobj=file, mode="w:", format=tarfile.USTAR_FORMAT) as made,
    ):
        made.addfile(tarfile.TarInfo("first"))
        for member in good:
            handle = good.extractfile(member)
            data = evil if evil is not None and member.name == "pickle" else handle.read() if handle else b""
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    block = bytearray(file.getvalue())
    block[:100] = first.ljust(100, b"\0")
    block[257:265] = magic.ljust(8, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block)


def stream_and_tar(begin: bytes, end: bytes, magic: bytes = b"ustar\x0000") -> bytes:
    """A pickle that passes over a whole tar archive as a string."""
    begin += b"}B"
    length = len(tar(b"x", EVIL, magic)) - len(begin) - 4
    return tar(begin + struct.pack("<I", length), EVIL, magic) + b"0." + end


def _twice() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(old_writers.tar())) as good, tarfile.open(fileobj=file, mode="w:") as made:
        for member in good:
            handle = good.extractfile(member)
            data = handle.read() if handle else b""
            for path, body in ((member.name, EVIL if member.name == "pickle" else data), (f"x/{member.name}", data)):
                copy = tarfile.TarInfo(path)
                copy.size = len(body)
                made.addfile(copy, io.BytesIO(body))
    return file.getvalue()


def script(code: bytes, **others: bytes) -> bytes:
    """A TorchScript archive with this text."""
    entries = [Entry("m/data.pkl", _HARMLESS_SCRIPT), Entry("m/constants.pkl", pickled(b")"))]
    entries += [Entry(f"m/{key.replace('_', '.')}", value) for key, value in others.items()]
    return archive([*entries, Entry("m/code/__torch__.py", code, 8), Entry("m/version", b"3\n")])


SETSTATE = b"""class M(Module):
  __parameters__ = []
  __buffers__ = []
  def __setstate__(self: __torch__.M, state: bool) -> NoneType:
    _0 = torch.save(torch.ones([1]), "weighlock-was-here")
    return None
"""


def structured(kind: str, offset: int, size: int, flags: int) -> bytes:
    """A NumPy type with one field."""
    fields = b"}" + text("a") + _dtype(kind) + number(offset) + b"\x86s"
    state = b"(" + number(3) + text("|") + b"N" + text("a") + b"\x85" + fields + number(size) + number(1)
    return _dtype(f"V{size}") + state + number(flags) + b"tb"


def array(dtype: bytes, raw: bytes, shape: int = 0) -> bytes:
    """A NumPy array as it pickles itself, made of `shape` elements first."""
    made = name("numpy.core.multiarray", "_reconstruct") + b"(" + name("numpy", "ndarray") + number(shape) + b"\x85"
    state = b"(" + number(1) + number(1) + b"\x85" + dtype + b"\x89B" + struct.pack("<I", len(raw)) + raw + b"tb"
    return made + text("b") + b"tR" + state


def folder(data: bytes, record: bytes, *, attribute: bool = True) -> bytes:
    """An archive in which a record is marked as a folder."""
    changed = bytearray(data)
    at = changed.rindex(record) - 46
    changed[at + 38] = 0x10 if attribute else 0x20
    return bytes(changed)


def second_name(data: bytes) -> bytes:
    """An archive whose first record has Info-ZIP's field with another name."""
    at = data.index(b"PK\x01\x02")
    size = struct.unpack_from("<H", data, at + 28)[0]
    field = b"\x01" + bytes(4) + b"archive/other.pkl"
    field = b"up" + struct.pack("<H", len(field)) + field
    changed = bytearray(data[: at + 46 + size] + field + data[at + 46 + size :])
    struct.pack_into("<H", changed, at + 30, len(field))
    end = changed.rindex(b"PK\x05\x06")
    struct.pack_into("<I", changed, end + 12, struct.unpack_from("<I", changed, end + 12)[0] + len(field))
    return bytes(changed)


def commented(data: bytes) -> bytes:
    """An archive with a comment: its end record is not the file's last 22 bytes."""
    return data[:-2] + b"\x02\0ab"


LEGACY = pickle.dumps(old_writers.MAGIC, 2) + pickle.dumps(1001, 2) + b"\x80\x02"
INSIDE = commented(archive(records(EVIL)))

# pickle.load, torch.load(weights_only=False), joblib.load: whatever the file is, its bytes are opcodes to them.
add("picture_that_is_a_pickle", GIF + OLD, "WL214", "WL101")
add("picture_that_is_a_pickle_without_proto", GIF + NAKED, "WL214", "WL101")
add("safetensors_that_is_a_pickle", safetensors(OLD), "WL214", "WL101")
add("safetensors_that_is_a_second_pickle", safetensors(b"." + OLD), "WL214", "WL101")
add("safetensors_by_an_integer_with_nul", safetensors(OLD, b"I"), "WL214", "WL101")
add("tar_that_is_a_pickle", tar(OLD), "WL214", "WL101")
add("text_that_is_a_pickle", b"V" + b"a" * 70_000 + b"\n0" + OLD, "WL214", "WL101")
add("hdf5_that_is_a_pickle", b"}B\x02\x02\0\0".ljust(512, b"a") + b"\x89HDF\r\n\x1a\n0" + OLD, "WL214", "WL101")
add("integer_with_nul", checkpoint(pickled(b"I5\0is no number\n0" + PAYLOAD)), "WL304", "WL101")
add("octal_integer", b"I010\n.", "WL304")
# torch.load asks whether the file is a tar archive before it asks for a legacy stream.
add("legacy_stream_and_tar", stream_and_tar(LEGACY, pickle.dumps([], 2)), "WL101")
add("legacy_stream_and_old_tar", stream_and_tar(LEGACY, pickle.dumps([], 2), b""), "WL101")
add("tar_of_two_pickles", _twice, "WL211")
# torch.jit.load and zipfile search the end of the file for an archive, whatever begins it and follows it.
add("safetensors_with_an_archive", plain_safetensors(INSIDE), "WL204", "WL101")
add("safetensors_with_an_archive_and_more", plain_safetensors(INSIDE + b"more"), "WL204", "WL101")
add("npy_with_an_archive", _npy(INSIDE, "|u1").replace(b"(1,), ", b"(%d,),%s" % (len(INSIDE), b"")), "WL204", "WL101")
# numpy.load(allow_pickle=True): the header is Python text, with all its spellings.
add("npy_escaped_type", _npy(EVIL, "\\x4f"), "WL101")
add("npy_type_by_name", _npy(EVIL, "object"), "WL101")
add(
    "npy_type_far_away",
    _npy(EVIL)
    .replace(b"'descr': ", b"'descr': " + b" " * 5000)
    .replace(struct.pack("<H", len(_npy(b"")) - 10), struct.pack("<H", len(_npy(b"")) + 4990), 1),
    "WL101",
)
add(
    "npy_field_of_objects",
    _npy(EVIL)
    .replace(b"'|O'", b"[('a','O')]")
    .replace(struct.pack("<H", len(_npy(b"")) - 10), struct.pack("<H", len(_npy(b"")) - 3), 1),
    "WL101",
)
add("npy_of_a_picture", _npy(GIF + OLD), "WL101")
add("npy_behind_an_array", _npy(bytes(8), "<f8") + _npy(EVIL), "WL101")
add("npz_type_by_name", archive([Entry("a.npy", _npy(EVIL, "object"))]), "WL101")
# gzip, bz2 and lzma read all streams as one.
add("gzip_behind_an_empty_stream", lambda: gzip.compress(b"", mtime=0) + gzip.compress(EVIL, mtime=0), "WL101")
add("gzip_of_two", lambda: gzip.compress(pickle.dumps({}), mtime=0) + gzip.compress(EVIL, mtime=0), "WL101")
add("bzip2_of_two", lambda: bz2.compress(pickle.dumps({})) + bz2.compress(EVIL), "WL101")
add("xz_of_two", lambda: lzma.compress(pickle.dumps({})) + lzma.compress(EVIL), "WL101")
add("gzip_and_more", lambda: gzip.compress(pickle.dumps({}), mtime=0) + b"more", "WL302")
# joblib passes over an array's bytes, pickle does not; and joblib must be followed to the byte.
_U1 = _dtype("u1")
add(
    "joblib_array_of_opcodes",
    pickled(_joblib(b"0" + OLD.ljust(48) + bytes(8), _U1, number(8) + b"\x85"), 4),
    "WL214",
    "WL101",
)
add(
    "joblib_array_of_a_list",
    pickled(
        _joblib(b"B" + struct.pack("<I", len(EVIL)) + EVIL[2:] + b"..", _U1, b"]" + number(5) + b"a").replace(
            text("numpy_array_alignment_bytes") + b"K\x10", b""
        )
    ),
    "WL301",
    "WL101",
)
add("joblib_field_of_objects", pickled(_joblib(EVIL, structured("O8", 0, 8, 0x1B)), 4), "WL101")
add(
    "joblib_array_twice",
    pickled(b"(" + _joblib(b"\0\0", _U1).replace(b")\x81", b")\x81q\x09") + b"h\x09}bt", 4),
    "WL301",
)
# NumPy believes what a pickle says of a type.
add("numpy_field_outside", pickled(array(structured("f8", 1000, 8, 0), bytes(8))), "WL405")
add("numpy_hidden_objects", pickled(array(structured("O8", 0, 8, 0), b"A" * 8)), "WL405")
add(
    "numpy_hidden_object_scalar",
    pickled(reduced(name("numpy.core.multiarray", "scalar"), structured("O8", 0, 8, 0), b"C\x08AAAAAAAA"), 4),
    "WL405",
)
add(
    "numpy_type_changed_in_use",
    pickled(
        b"("
        + array(_dtype("V8") + b"q\x09", bytes(8))
        + b"h\x09("
        + number(3)
        + text("|")
        + b"NNN"
        + number(10_000)
        + number(1)
        + number(0)
        + b"tbt"
    ),
    "WL309",
)
add("numpy_uninitialised", pickled(array(_dtype("f8"), bytes(8), 1000)), "WL309")
# torch.jit.load runs __setstate__; so does torch.load(weights_only=False).
add("script_that_saves", script(SETSTATE), "WL121")
add("script_that_saves_by_another_name", script(SETSTATE.replace(b"torch.save(", b"torch \\\n . save (")), "WL121")
add(
    "script_that_maps_a_file",
    script(SETSTATE.replace(b"torch.save(torch.ones([1]), ", b"ops.aten.from_file(")),
    "WL121",
)
add("script_of_bytecode", script(b"", bytecode_pkl=pickled(text("aten::save"))), "WL121")
# C++ takes the word of constants.pkl for the length of the data, and reads on behind them.
add(
    "script_constant_too_short",
    archive(
        [
            Entry("m/data.pkl", _HARMLESS_SCRIPT),
            Entry("m/constants.pkl", pickled(tensor(numel=6) + b"\x85")),
            Entry("m/constants/0", bytes(8)),
            Entry("m/version", b"3\n"),
        ]
    ),
    "WL402",
)
# PyTorch reads nothing from a record that is marked as a folder, and gives out the memory as it was.
add("folder_by_attribute", folder(checkpoint(GOOD), b"archive/data/0"), "WL215")
add("folder_by_attribute_pickle", folder(checkpoint(GOOD), b"archive/data.pkl"), "WL215")
add("folder_by_name", archive([*records(GOOD), Entry("archive/data/1/", bytes(8))]), "WL215")
add("second_name", second_name(checkpoint(GOOD)), "WL206")
add("record_without_proto", archive([*records(GOOD), Entry("archive/attributes.pkl", NAKED)]), "WL101")
add("record_with_a_last_line", archive([*records(GOOD), Entry("archive/attributes.pkl", OLD + b"\n")]), "WL101")
add(
    "large_record_of_text",
    archive([*records(GOOD), Entry("archive/notes.txt", b"V" + b"a" * 70_000 + b"\n0" + OLD)]),
    "WL101",
)
add(
    "mesh_that_connects",
    pickled(reduced(name("torch.distributed.device_mesh", "DeviceMesh"), text("cpu"), b"]")),
    "WL309",
)
