"""Files that one loader takes for something harmless and another one runs: every one was tried with the loader named.

The payloads print a word, and are never run by the tests.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import random
import struct
import tarfile
from functools import partial

from tests import old_writers
from tests.corpus.hostile import _HARMLESS_SCRIPT, EVIL, PAYLOAD, _dtype, _joblib, _npy, add
from tests.corpus.writers import (
    GOOD,
    Entry,
    archive,
    checkpoint,
    name,
    number,
    pickled,
    records,
    reduced,
    storage_id,
    tensor,
    text,
    v2,
)

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


def bare_lzma(data: bytes, cut: int | None = None) -> bytes:
    """The old form of lzma, whose first five bytes are an integer's opcode with its length."""
    window = 4096 if cut is None else 65536
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": window, "lc": 4, "lp": 0, "pb": 3}]
    packed = lzma.compress(data, format=lzma.FORMAT_ALONE, filters=filters)
    return packed[:cut].ljust(5 + window, b"\0") + b"."


def colliding(keys: str, count: int) -> bytes:
    """A dictionary of keys that are all different, and have one hash."""
    head = b"\x80\x04}"
    if keys == "complex":
        head = b"\x80\x04" + name("builtins", "complex") + b"q\x000}"
        made = [struct.pack(">sdsd", b"G", -1000003.0 * k, b"G", k) for k in range(count)]
        made = [b"h\x00" + row + b"\x86R" for row in made]
    elif keys == "huge":
        made = [b"\x8a\x0c" + (k * _PRIME).to_bytes(12, "little") + b"\x85" for k in range(1, count)]
    else:
        made = [struct.pack("<sisBq", b"J", a, b"\x8a", 8, b) + b"\x86" for a, b in _pairs(count)]
    rows = [b"".join(key + b"N" for key in made[start : start + 1000]) for start in range(0, count, 1000)]
    return head + b"".join(b"(" + row + b"u" for row in rows) + b"."


_PRIME = (1 << 61) - 1


def _pairs(count: int) -> list[tuple[int, int]]:
    """Pairs of integers with one hash: Python's hash of a tuple (xxHash) is undone for the second of them."""
    most, first, second, start = 1 << 64, 11400714785074694791, 14029467366897019727, 2870177450012600261
    found: list[tuple[int, int]] = []
    undo, a = pow(second, -1, most), 0
    while len(found) < count:
        a += 1
        lane = (start + a * second) % most
        b = (12345 - ((lane << 31 | lane >> 33) % most) * first) * undo % most
        b -= most if b >= most // 2 else 0
        if -_PRIME < b < _PRIME and b != -1:
            found.append((a, b))
    return found


def sparse_csr(lines: bytes, plain: bytes, shape: bytes, values: bytes = number(2) + b"\x85") -> bytes:
    """A compressed sparse tensor; `shape` is that of its plain indices."""

    def view(key: str, count: int, sizes: bytes, kind: str) -> bytes:
        strides = number(1) + b"\x85" if sizes.endswith(b"\x85") else number(2) + number(1) + b"\x86"
        return v2(storage_id(key, count, cls=kind), 0, sizes, strides)

    batch = not shape.endswith(b"\x85")
    line = (number(1) + number(3) + b"\x86") if batch else number(3) + b"\x85"
    size = number(2) + number(2) + b"\x86"
    parts = view("0", 3, line, "LongStorage") + view("1", len(plain) // 8, shape, "LongStorage")
    parts += view("2", 4, values, "FloatStorage")
    body = reduced(
        name("torch._utils", "_rebuild_sparse_tensor"), name("torch", "sparse_csr"), b"(" + parts + size + b"t"
    )
    return checkpoint(pickled(body), {"0": lines, "1": plain, "2": bytes(16)})


# pandas.read_pickle goes by the file's name: this is a pickle of one integer, and as x.xz another one is run.
add("lzma_that_is_an_integer", bare_lzma(OLD), "WL214", "WL101")
add("lzma_that_is_damaged_behind_it", lambda: bare_lzma(OLD + random.Random(1).randbytes(60_000), 40_000), "WL101")
# Each key is compared with all before it: hours for some megabytes, in load and scan as in every other reader.
for _keys in ("complex", "huge", "pairs"):
    add(f"keys_of_one_hash_{_keys}", partial(colliding, _keys, 8000), "WL310")
# torch.jit.load: an operator's name may be a text, in pieces and with escapes; self may be anything.
_RUN = SETSTATE.replace(
    b"  def __setstate__", b"  def __getstate__(self: __torch__.M) -> bool:\n    return True\n  def __setstate__"
)
for _label, _new in {
    "by_getattr": b'getattr(torch, "save")(',
    "by_getattr_in_pieces": b'getattr(torch, "sa" "ve")(',
    "by_getattr_escaped": b"getattr(torch, 's\\141ve')(",
    "by_getattr_twice": b'getattr(getattr(ops, "aten"), """save""")(',
    "by_getattr_behind_comments": b'getattr(torch, # \' \\\n "sa" # "\n "ve")(',
}.items():
    add(f"script_that_saves_{_label}", script(_RUN.replace(b"torch.save(", _new)), "WL121")
add(
    "script_that_saves_by_self",
    script(_RUN.replace(b"    _0 = torch.save(", b"    self = torch\n    _0 = self.save(")),
    "WL121",
)
# torch.package.PackageImporter runs what the same archive holds; torch.export and importers take what they know.
_PACKAGE = [
    Entry("archive/.data/extern_modules", b""),
    Entry("archive/m/m.pkl", pickled(name("collections", "OrderedDict") + b")R")),
]
add(
    "package_in_a_checkpoint",
    archive([*records(GOOD), *_PACKAGE, Entry("archive/collections.py", b"print(1)")]),
    "WL216",
)
add("library_in_a_checkpoint", archive([*records(GOOD), Entry("archive/data/aotinductor/m/m.so", b"\x7fELF")]), "WL216")
add("export_in_a_checkpoint", archive([*records(GOOD), Entry("archive/archive_format", b"pt2")]), "WL216")
# PyTorch loads these, and reads behind the values, or uses the indices of the second batch unseen.
_LINES = struct.pack("<3q", 0, 1, 2)
add(
    "sparse_fewer_values",
    sparse_csr(_LINES, struct.pack("<2q", 0, 1), number(2) + b"\x85", number(1) + b"\x85"),
    "WL403",
)
add(
    "sparse_other_batches",
    sparse_csr(
        _LINES, struct.pack("<4q", 0, 1, 900, 900), number(2) + number(2) + b"\x86", number(2) + number(2) + b"\x86"
    ),
    "WL403",
)


def _between_frames() -> bytes:
    """A text that begins in a frame and ends behind it: C drops what it has of it, and reads all of its length anew."""
    inside, length = 40, 200
    frame = b"\x8c" + bytes([length]) + b"a" * inside
    hidden = b"0" + OLD
    ours = b"0C" + bytes([inside - 3 + len(hidden) - 1]) + b"z" * (inside - 3)
    return b"\x80\x04\x95" + struct.pack("<Q", len(frame)) + frame + b"b" * (length - inside) + ours + hidden


# pickle.load and torch.load(weights_only=False): Python's machine in C takes other bytes for opcodes.
add("frame_that_ends_in_a_text", _between_frames(), "WL301", "WL101")
add("frame_that_ends_in_a_text_of_a_checkpoint", checkpoint(_between_frames()), "WL301", "WL101")
add(
    "frame_behind_the_stop",
    b"\x80\x04\x95" + struct.pack("<Q", 2 + 12) + b"N." + b"}B\x06\0\0\0" + b"a" * 6 + OLD,
    "WL301",
)
add("frame_in_a_frame", b"\x80\x04\x95" + struct.pack("<Q", 12) + b"\x95" + struct.pack("<Q", 5) + b"NNN00.", "WL301")
