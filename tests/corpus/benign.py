"""Harmless files of all kinds, and files that look like the hostile ones without being so. None may have a finding."""

from __future__ import annotations

import array
import bz2
import collections
import datetime
import decimal
import fractions
import gzip
import json
import lzma
import pathlib
import pickle
import struct
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.corpus import hostile, other_readers
from tests.corpus.hostile import _HARMLESS_SCRIPT, _dtype, _joblib, _npy, _script
from tests.corpus.writers import (
    DATA,
    GOOD,
    Entry,
    archive,
    called,
    checkpoint,
    name,
    number,
    numbers,
    pickled,
    records,
    reduced,
    short,
    storage_id,
    tensor,
    text,
    two,
    v2,
)  # fmt: skip
from tests.old_writers import OLD_FORMS, legacy

GOLDENS = sorted((Path(__file__).parent.parent / "goldens").glob("*/*.pt"))

BENIGN: dict[str, Callable[[], bytes]] = {}

for _path in GOLDENS:
    BENIGN[f"{_path.parent.name}/{_path.name}"] = _path.read_bytes
BENIGN |= {f"old/{label}": make for label, make in OLD_FORMS.items()}

_VALUES: dict[str, Any] = {
    "numbers": [0, -1, 2**70, 1.5, 1 + 2j], "text": {"a": "os.system('echo')", "b": "import os"},
    "bytes": [b"", b"abc", bytes(range(256)), bytearray(b"x")], "sets": [{1, 2}, frozenset((3, 4))],
    "collections": [collections.OrderedDict(a=1), collections.Counter("aab"), collections.deque([1], 3),
                    collections.defaultdict(list, a=[1])],
    "dates": [datetime.date(2020, 1, 2), datetime.datetime(2020, 1, 2, 3, tzinfo=datetime.UTC), datetime.timedelta(1),
              datetime.UTC, datetime.time(1, 2)],
    "exact": [decimal.Decimal("1.5"), fractions.Fraction(1, 3)], "paths": [pathlib.PurePosixPath("a/b")],
    "uuid": uuid.UUID(int=5), "ranges": [range(3), slice(1, 2)], "nested": [[[[[[[1]]]]]]], "none": None,
}  # fmt: skip
for _label, _value in _VALUES.items():
    for _protocol in range(6):
        BENIGN[f"pickle/{_label}_{_protocol}"] = lambda value=_value, protocol=_protocol: pickle.dumps(value, protocol)  # type: ignore[misc]


def _safetensors() -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    return struct.pack("<Q", len(header)) + header + DATA


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def _sparse_inside() -> bytes:
    return hostile._sparse(struct.pack("<2q", 0, 3), 2, numbers(4))


def _shared(count: int) -> bytes:
    """A pickle that stores far more objects than its memo indices suggest: none is far away."""
    return b"\x80\x02](" + b"".join(b"K\x01r" + struct.pack("<I", i) for i in range(count)) + b"e."


# What only looks like what a rule is about: by rule.
LOOKALIKES: dict[str, dict[str, bytes | Callable[[], bytes]]] = {
    "WL101": {"text_that_names_it": checkpoint(pickled(two(tensor(), text("posix.system")))),
              "key_that_names_it": checkpoint(pickled(b"}" + text("os.system") + b"K\x01s")),
              "bytes_that_spell_it": pickled(b"C\x0fcposix\nsystem\n.", 4)},
    "WL102": {"record_called_exec": archive([*records(GOOD), Entry("archive/exec.txt", b"exec(1)")])},
    "WL103": {"key_importlib": checkpoint(pickled(b"}" + text("importlib") + text("import_module") + b"s"))},
    "WL104": {"key_getattr": pickle.dumps({"getattr": "operator.attrgetter"}, 4)},
    "WL105": {"a_path": pickle.dumps(pathlib.PurePosixPath("/etc/passwd"), 2)},
    "WL106": {"an_address": pickle.dumps({"url": "http://example.org/x.pt"}, 4)},
    "WL107": {"key_ctypes": pickle.dumps({"ctypes": 1}, 4)},
    "WL108": {"tensor_in_pickle": lambda: pickled(reduced(name("torch.storage", "_load_from_bytes"), hostile._bytes(
        legacy(pickled(tensor("1")), [("1", 6, DATA)])))),
        "bytes_that_begin_like_one": pickle.dumps({"blob": b"\x80\x04rest"}, 4)},
    "WL109": {"torch_names": checkpoint(pickled(b"](" + name("torch", "float32") + name("torch", "strided") + b"e"))},
    "WL110": {"known_class": checkpoint(pickled(name("collections", "OrderedDict") + b")R"))},
    "WL111": {"stack_global_of_memo": pickle.dumps([collections.OrderedDict(), collections.OrderedDict()], 4)},
    "WL112": {"state_of_instance": checkpoint(pickled(name("collections", "OrderedDict") + b")R}" + text("_metadata")
                                                      + b"}sb"))},
    "WL113": {"byte_82_in_text": pickle.dumps("\x82\x07", 4)},
    "WL114": {"attribute_of_other_name": checkpoint(pickled(name("argparse", "Namespace") + b")R}" + text("lr")
                                                            + b"K\x01sb"))},
    "WL120": {"code_folder_of_text": archive([*records(GOOD), Entry("archive/code/notes.txt", b"x")])},
    "WL121": {"program_that_only_says_it": other_readers.script(other_readers.SETSTATE.replace(
        b"torch.save(torch.ones([1]), ", b"torch.saved.from_filename(")),
        "text_behind_getattr": other_readers.script(other_readers.SETSTATE.replace(
            b"torch.save(torch.ones([1])", b'print(getattr(self, "0"), "saved"')),
        "method_called_save_of_the_serializer": other_readers.script(other_readers.SETSTATE.replace(
            b"self: __torch__.M, state", b"s: __torch__.M, state").replace(b"torch.save(", b"(s).save(")),
        "method_called_save": other_readers.script(other_readers.SETSTATE.replace(b"torch.save(", b"self.save("))},
    "WL201": {"same_name_in_other_folder": archive([*records(GOOD), Entry("archive/x/version", b"3")])},
    "WL202": {"same_name_in_other_folder_and_case": archive([*records(GOOD), Entry("archive/x/VERSION", b"3")])},
    "WL203": {"empty_records": archive([*records(GOOD), Entry("archive/e", b""), Entry("archive/f", b"")])},
    "WL204": {"zip_marks_in_a_tensor": checkpoint(GOOD, {"0": b"PK\x03\x04PK\x05\x06" + bytes(16)})},
    "WL205": {"comment": lambda: checkpoint(GOOD)[:-2] + b"\x05\x00hello"},
    "WL206": {"zeros_in_the_local_header": archive([e._replace(local={"crc": 0, "packed": 0, "size": 0})
                                                    for e in records(GOOD)])},
    "WL214": {"text_that_spells_a_pickle": other_readers.plain_safetensors(other_readers.OLD),
              "opcodes_that_lead_nowhere": other_readers.safetensors(b"N}." + bytes(8))},
    "WL215": {"folder_that_is_empty": archive([*records(GOOD), Entry("archive/x/", b"")]),
              "other_attribute": other_readers.folder(checkpoint(GOOD), b"archive/data/0", attribute=False)},
    "WL216": {"names_of_other_endings": archive([*records(GOOD), Entry("archive/setup.pyx", b"x"),
                                                 Entry("archive/extra/config.py", b"x"), Entry("archive/so", b"x")])},
    "WL217": {"paths_elsewhere": pickle.dumps({"storage_data": {"relative_path": "../x"}}, 4)},
    "WL405": {"fields_that_fit": pickled(other_readers.array(other_readers.structured("f8", 0, 8, 0), bytes(8)))},
    "WL207": {"no_checksum": archive([e._replace(crc=0) for e in records(GOOD)])},
    "WL208": {"deflated": archive([e._replace(method=8) for e in records(GOOD)])},
    "WL209": {"deflates_well": archive([*records(GOOD), Entry("archive/zeros", bytes(60_000), 8)])},
    "WL210": {"two_pickles_of_other_names": archive([*records(GOOD), Entry("archive/other.pkl", GOOD)])},
    "WL211": {"no_records_but_the_pickle": archive(records(pickle.dumps({"a": 1}, 2))[:1])},
    "WL212": {"pickle_in_a_deeper_folder": archive(
        [*records(GOOD), Entry("archive/deep/data.pkl", pickle.dumps(1, 2))])},
    "WL213": {"dots_in_a_name": archive([*records(GOOD), Entry("archive/a..b", b"x"), Entry("archive/...", b"x")])},
    "WL301": {"python_2_text": b"\x80\x02U\x03a\xffb."},
    "WL302": {"several_pickles": pickle.dumps(1, 2) + pickle.dumps([2], 4)},
    "WL303": {"value_popped": checkpoint(b"\x80\x02K\x010K\x02.")},
    "WL304": {"framed": pickle.dumps({"a": "x" * 100_000}, 4)},
    "WL305": {"many_memo_entries": lambda: checkpoint(_shared(40_000))},
    "WL306": {"long_bytes": lambda: pickle.dumps(b"x" * 1_000_000, 4)},
    "WL307": {"nested_500": lambda: checkpoint(b"\x80\x02" + b"]" * 500 + b"a" * 499 + b".")},
    "WL308": {"items_on_ordered_dict": checkpoint(pickled(name("collections", "OrderedDict") + b")R(K\x01K\x02u"))},
    "WL309": {"bytearray_of_bytes": pickle.dumps(bytearray(b"abc"), 2)},
    "WL310": {"tuple_keys": pickle.dumps({(1, (2, (3, "x"))): 1, 2**70: 2}, 2)},
    "WL311": {"storage": checkpoint(GOOD)},
    "WL401": {"view_to_the_last_byte": checkpoint(pickled(tensor(size=numbers(1), stride=numbers(1), offset=5))),
              "empty_view_far_outside": checkpoint(pickled(tensor(size=numbers(0), stride=numbers(1), offset=6)))},
    "WL402": {"constants_that_fit": archive([
        Entry("m/data.pkl", _HARMLESS_SCRIPT), Entry("m/constants.pkl", pickled(tensor(numel=6) + b"\x85")),
        Entry("m/constants/0", DATA), Entry("m/version", b"3\n")]),
        "storage_of_zero": checkpoint(pickled(v2(storage_id("0", 0), 0, numbers(0), numbers(1))), {"0": b""})},
    "WL403": {"sparse_to_the_last_index": _sparse_inside},
    "WL404": {"expanded": checkpoint(pickled(tensor(size=numbers(1000, 6), stride=numbers(0, 1))))},
}  # fmt: skip


def _constant(data: bytes) -> Callable[[], bytes]:
    return lambda: data


for _rule, _files in LOOKALIKES.items():
    for _label, _made in _files.items():
        BENIGN[f"lookalike/{_rule}_{_label}"] = _made if callable(_made) else _constant(_made)

_MORE: dict[str, bytes | Callable[[], bytes]] = {
    "safetensors": _safetensors,
    "script": _script({"data.pkl": _HARMLESS_SCRIPT, "constants.pkl": pickled(b")")}),
    "script_constants": _script({"data.pkl": _HARMLESS_SCRIPT, "constants.pkl": pickled(tensor() + b"\x85")}),
    "npy": _npy(struct.pack("<d", 1.5), "<f8"), "npy_two": _npy(bytes(8), "<f8") + _npy(bytes(4), "<i4"),
    "gzip_of_two_parts": _gzip(pickle.dumps({"a": 1})[:5]) + _gzip(pickle.dumps({"a": 1})[5:]),
    "npy_objects": _npy(pickle.dumps([1, "a"], 2)),
    "npz": archive([Entry("a.npy", _npy(struct.pack("<d", 1.5), "<f8")), Entry("b.npy", _npy(bytes(4), "<i4"), 8)]),
    "joblib": pickled(_joblib(b"\x05" + b"\xff" * 5 + struct.pack("<d", 1.5), _dtype("f8")), 4),
    "joblib_two": pickled(
        b"](" + 2 * _joblib(b"\x00" + struct.pack("<3f", 1, 2, 3), _dtype("f4"), b"K\x03\x85") + b"e", 4),
    "joblib_objects": pickled(_joblib(pickle.dumps(["a"], 2), _dtype("O8")), 4),
    "gzip": lambda: _gzip(pickle.dumps({"a": 1}, 4)), "gzip_zip": lambda: _gzip(checkpoint(GOOD)),
    "bzip2": lambda: bz2.compress(pickle.dumps({"a": 1}, 4)), "xz": lambda: lzma.compress(checkpoint(GOOD)),
    "zlib": lambda: zlib.compress(pickle.dumps({"a": 1}, 4)),
    "zip_of_a_checkpoint": lambda: archive([Entry("model.pth", checkpoint(GOOD))]),
    "zip_of_a_checkpoint_deflated": lambda: archive([Entry("model.pth", checkpoint(GOOD), 8)]),
    "many_tensors": lambda: checkpoint(pickled(b"}(" + b"".join(text(f"l{i}") + tensor() for i in range(300)) + b"u")),
    "numpy_array": pickled(reduced(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"),
                           b"K\x00\x85",
                           b"C\x01b") + b"(K\x01K\x01\x85" + _dtype("f8") + b"\x89C\x08" + bytes(8) + b"tb", 3),
    "numpy_scalar": pickled(reduced(name("numpy._core.multiarray", "scalar"), _dtype("f8"), b"C\x08" + bytes(8)), 3),
    "numpy_codes": lambda: checkpoint(pickled(called("_codecs", "encode", "abc", "latin1"))),
    "array_of_bytes": lambda: pickle.dumps(array.array("b", b"abc").tobytes(), 5),
    "short_text": pickled(short("abc"), 4), "number": pickled(number(5)),
}  # fmt: skip
for _label, _made in _MORE.items():
    BENIGN[f"more/{_label}"] = _made if callable(_made) else _constant(_made)
