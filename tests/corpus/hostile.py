"""Hostile and damaged files. Their payloads print a word or compute a number, and are never run by the tests."""

from __future__ import annotations

import base64
import bz2
import codecs
import gzip
import io
import lzma
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from tests import old_writers
from tests.corpus.writers import (
    DATA,
    GOOD,
    Entry,
    archive,
    called,
    checkpoint,
    instance,
    join,
    name,
    number,
    numbers,
    obj,
    persistent,
    pickled,
    records,
    reduced,
    short,
    stack_global,
    storage_id,
    tensor,
    text,
    two,
    v2,
)


class Case(NamedTuple):
    """A file, the rules that a scan must report (any of several: ``WL101|WL104``), and the advisory it stands for."""

    make: Callable[[], bytes]
    rules: tuple[str, ...]
    advisory: str | None = None


HOSTILE: dict[str, Case] = {}


def add(label: str, make: bytes | Callable[[], bytes], *rules: str, advisory: str | None = None) -> None:
    assert label not in HOSTILE, label
    HOSTILE[label] = Case(make if callable(make) else (lambda: make), rules, advisory)


def in_zip(body: bytes, protocol: int = 2) -> bytes:
    return checkpoint(pickled(two(tensor(), body), protocol))


PAYLOAD = called("posix", "system", "echo weighlock")
EVIL = pickled(PAYLOAD)


def _bytes(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data


def _legacy_keys() -> bytes:
    good = old_writers.legacy_v2()
    return good.replace(pickle.dumps(["94001"], 2), pickled(b"](" + text("94001") + PAYLOAD + b"e"))


def _legacy_system() -> bytes:
    head = pickle.dumps(old_writers.MAGIC, 2) + pickle.dumps(1001, 2)
    return head + pickled(PAYLOAD) + pickle.dumps(1, 2) + pickle.dumps([], 2)


def _evil_tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(old_writers.tar())) as good, tarfile.open(fileobj=file, mode="w:") as bad:
        for member in good:
            handle = good.extractfile(member)
            data = handle.read() if handle else b""
            if member.name == "pickle":
                data = EVIL
            member.size = len(data)
            bad.addfile(member, io.BytesIO(data))
    return file.getvalue()


def _overwritten(data: bytes) -> bytes:
    at = data.index(b"PK\x01\x02")
    return data[:at] + b"\0" * 60 + data[at + 60 :]


# ------------------------------------------------------------------------------------------- dangerous globals, called

_CALLS: dict[str, Iterable[str]] = {
    "WL101": (
        "os.system",
        "posix.system",
        "nt.system",
        "os.popen",
        "os.execv",
        "os.spawnl",
        "os.posix_spawn",
        "os.fork",
        "subprocess.Popen",
        "subprocess.check_output",
        "subprocess.getoutput",
        "commands.getoutput",
        "pty.spawn",
        "asyncio.create_subprocess_shell",
        "asyncio.unix_events._UnixSubprocessTransport._start",
        "multiprocessing.Process",
        "platform.popen",
        "torch.utils.collect_env.run",
        "distutils.spawn.spawn",
    ),
    "WL102": (
        "builtins.exec",
        "builtins.eval",
        "builtins.compile",
        "__builtin__.eval",
        "__builtin__.execfile",
        "builtins.breakpoint",
        "code.interact",
        "code.InteractiveInterpreter.runcode",
        "codeop.compile_command",
        "runpy.run_path",
        "pdb.run",
        "bdb.Bdb.run",
        "timeit.timeit",
        "cProfile.run",
        "profile.run",
        "trace.Trace.run",
        "doctest.debug_script",
        "idlelib.pyshell.ModifiedInterpreter.runcode",
        "idlelib.autocomplete.AutoComplete.get_entity",
        "lib2to3.pgen2.grammar.Grammar.loads",
        "numpy.testing._private.utils.runstring",
        "numpy.f2py.crackfortran.myeval",
        "types.CodeType",
        "types.FunctionType",
        "marshal.loads",
        "torch._dynamo.guards.GuardBuilder.get",
        "torch.jit.annotations.get_signature",
        "torch.fx.graph_module.reduce_graph_module",
        "threading.Thread",
        "torch.utils.bottleneck.__main__.run_cprofile",
        "torch.utils._config_module.load_config",
        "torch.distributed.nn.jit.instantiator.instantiate_scriptable_remote_module_template",
    ),
    "WL103": (
        "importlib.import_module",
        "builtins.__import__",
        "pkgutil.resolve_name",
        "pip.main",
        "pip._internal.main",
        "zipimport.zipimporter",
        "pydoc.locate",
        "ensurepip.bootstrap",
        "sys.path.append",
    ),
    "WL104": (
        "builtins.getattr",
        "operator.attrgetter",
        "operator.methodcaller",
        "functools.partial",
        "inspect.getmodule",
    ),
    "WL105": (
        "builtins.open",
        "io.open",
        "shutil.rmtree",
        "os.remove",
        "tempfile.mktemp",
        "pathlib.Path.write_text",
        "glob.glob",
        "numpy.savetxt",
        "torch.save",
        "io.FileIO",
        "os.listdir",
    ),
    "WL106": (
        "socket.create_connection",
        "ssl.get_server_certificate",
        "urllib.request.urlopen",
        "urllib2.urlopen",
        "http.client.HTTPSConnection",
        "requests.get",
        "webbrowser.open",
        "ftplib.FTP",
        "smtplib.SMTP",
        "torch.hub.download_url_to_file",
    ),
    "WL107": (
        "ctypes.CDLL",
        "ctypes.string_at",
        "torch.ops.load_library",
        "torch.classes.load_library",
        "torch.utils.cpp_extension.load",
        "cffi.FFI",
    ),
    "WL108": (
        "pickle.loads",
        "_pickle.load",
        "dill.loads",
        "joblib.load",
        "numpy.load",
        "torch.load",
        "pandas.read_pickle",
    ),
    "WL109": ("torch.hub.load", "torch.jit.load", "torch.distributed.rpc.rpc_sync", "torch.compile"),
    "WL110": ("mypackage.models.Net", "torch.nn.modules.linear.Linear", "collections.UserDict"),
}


def _split(full: str) -> tuple[str, str]:
    # The parts from the first capital or private class on belong to the qualified name, as a pickle has them.
    module, _, short_name = full.rpartition(".")
    while module.rpartition(".")[2][:1].isupper() or module.rpartition(".")[2].startswith("_Unix"):
        module, _, owner = module.rpartition(".")
        short_name = f"{owner}.{short_name}"
    return module, short_name


for _rule, _names in _CALLS.items():
    for _full in _names:
        add(f"call_{_full}", in_zip(called(*_split(_full), "x")), _rule)
for _full in ("os.system", "builtins.eval", "shutil.rmtree", "torch.hub.load", "mypackage.Thing"):
    _expected = {"os.system": "WL101", "builtins.eval": "WL102", "shutil.rmtree": "WL105", "torch.hub.load": "WL109"}
    add(f"named_only_{_full}", in_zip(name(*_split(_full))), _expected.get(_full, "WL110"))

# ---------------------------------------------------------------------------------------- the same thing said otherwise

_SYSTEM = name("posix", "system")
_OS = reduced(name("importlib", "import_module"), text("os"))
_GETATTR = name("builtins", "getattr")
_SPELLINGS: dict[str, tuple[bytes, str]] = {
    "inst": (instance("posix", "system", "echo"), "WL101"),
    "obj": (obj("posix", "system", "echo"), "WL101"),
    "newobj": (_SYSTEM + b"(" + text("echo") + b"t\x81", "WL101"),
    "newobj_ex": (_SYSTEM + b"(" + text("echo") + b"t}\x92", "WL101"),
    "newobj_ex_keywords": (name("subprocess", "Popen") + b")}" + text("args") + text("echo") + b"s\x92", "WL101"),
    "stack_global": (stack_global("posix", "system") + short("echo") + b"\x85R", "WL101"),
    "stack_global_from_memo": (
        short("posix") + b"\x94" + b"0" + short("system") + b"\x940h\x00h\x01\x93" + short("echo") + b"\x85R",
        "WL101",
    ),
    "memo_put_and_get": (_SYSTEM + b"q\x05" + b"0h\x05" + text("echo") + b"\x85R", "WL101"),
    "memo_long": (_SYSTEM + b"r\x05\x00\x00\x00" + b"0j\x05\x00\x00\x00" + text("echo") + b"\x85R", "WL101"),
    "memo_text_put": (_SYSTEM + b"p7\n0g7\n" + text("echo") + b"\x85R", "WL101"),
    "memo_replaced": (
        name("collections", "OrderedDict") + b"q\x05" + b"0" + _SYSTEM + b"q\x05" + b"0h\x05" + text("echo") + b"\x85R",
        "WL101",
    ),
    "dup": (_SYSTEM + b"2" + text("echo") + b"\x85R" + b"\x86", "WL101"),
    "inside_list": (b"](" + PAYLOAD + b"e", "WL101"),
    "inside_key": (b"}" + PAYLOAD + b"K\x01s", "WL101"),
    "inside_frozenset": (b"(" + PAYLOAD + b"\x91", "WL101"),
    "inside_set": (b"\x8f(" + PAYLOAD + b"\x90", "WL101"),
    "inside_tuple_of_tuples": (b"((" + PAYLOAD + b"tt", "WL101"),
    "as_argument": (reduced(name("collections", "OrderedDict"), b"](" + b"(" + text("a") + PAYLOAD + b"te"), "WL101"),
    "as_state": (name("collections", "OrderedDict") + b")R}" + text("a") + PAYLOAD + b"sb", "WL101"),
    "as_hooks": (name("torch._utils", "_rebuild_parameter") + b"(" + tensor() + b"\x88" + PAYLOAD + b"tR", "WL101"),
    "as_factory": (reduced(name("collections", "defaultdict"), _SYSTEM), "WL101"),
    "getattr_of_module": (reduced(reduced(_GETATTR, _OS, text("system")), text("echo")), "WL101"),
    "getattr_from_pieces": (reduced(reduced(_GETATTR, _OS, join("sys", "tem")), text("echo")), "WL101"),
    "getattr_of_known_module": (
        reduced(
            reduced(_GETATTR, reduced(_GETATTR, name("torch", "Tensor"), text("__module__")), text("x")), text("echo")
        ),
        "WL104",
    ),
    "getattr_twice": (
        reduced(
            reduced(_GETATTR, reduced(_GETATTR, name("torch", "serialization"), text("os")), text("system")),
            text("echo"),
        ),
        "WL101",
    ),
    "import_from_pieces": (
        reduced(
            reduced(_GETATTR, reduced(name("builtins", "__import__"), join("o", "s")), text("system")), text("echo")
        ),
        "WL101",
    ),
    "attrgetter": (
        reduced(reduced(reduced(name("operator", "attrgetter"), text("system")), _OS), text("echo")),
        "WL101",
    ),
    "attrgetter_dotted": (
        reduced(
            reduced(reduced(name("operator", "attrgetter"), text("os.system")), name("torch", "serialization")),
            text("echo"),
        ),
        "WL101",
    ),
    "methodcaller": (reduced(reduced(name("operator", "methodcaller"), text("system"), text("echo")), _OS), "WL104"),
    "partial": (reduced(reduced(name("functools", "partial"), _SYSTEM, text("echo"))), "WL101"),
    "partial_of_getattr": (
        reduced(reduced(reduced(name("functools", "partial"), _GETATTR, _OS), text("system")), text("echo")),
        "WL101",
    ),
    "partial_of_partial": (
        reduced(reduced(name("functools", "partial"), reduced(name("functools", "partial"), _SYSTEM), text("echo"))),
        "WL101",
    ),
    "map": (
        reduced(name("builtins", "list"), reduced(name("builtins", "map"), _SYSTEM, b"](" + text("echo") + b"e")),
        "WL101",
    ),
    "sys_modules_item": (
        reduced(
            reduced(
                _GETATTR,
                reduced(reduced(name("operator", "itemgetter"), text("os")), name("sys", "modules")),
                text("system"),
            ),
            text("echo"),
        ),
        "WL101",
    ),
    "sys_modules_get": (
        reduced(
            reduced(
                _GETATTR, reduced(reduced(_GETATTR, name("sys", "modules"), text("get")), text("os")), text("system")
            ),
            text("echo"),
        ),
        "WL101",
    ),
    "dict_of_module": (
        reduced(
            reduced(name("operator", "getitem"), reduced(name("builtins", "vars"), _OS), text("system")), text("echo")
        ),
        "WL101",
    ),
    "dotted_through_torch": (stack_global("torch.serialization", "os.system") + short("echo") + b"\x85R", "WL101"),
    "dotted_through_collections": (stack_global("collections", "abc.sys.modules") + short("echo") + b"\x85R", "WL103"),
    "dotted_dunder": (stack_global("mypackage", "f.__globals__"), "WL104"),
    "computed_name": (
        b"".join((short("posix"), reduced(name("operator", "add"), text("sys"), text("tem")), b"\x93"))
        + short("echo")
        + b"\x85R",
        "WL111",
    ),
    "computed_name_resolved": (
        b"".join((short("posix"), reduced(name("operator", "add"), text("sys"), text("tem")), b"\x93"))
        + short("echo")
        + b"\x85R",
        "WL101",
    ),
    "computed_module": (join("po", "six") + short("system") + b"\x93" + short("echo") + b"\x85R", "WL101"),
    "joined_name": (
        short("posix")
        + reduced(stack_global("builtins", "str.join"), text(""), b"](" + text("sys") + text("tem") + b"e")
        + b"\x93"
        + short("echo")
        + b"\x85R",
        "WL101",
    ),
    "base64_name": (
        short("posix")
        + reduced(
            name("codecs", "decode"),
            reduced(name("base64", "b64decode"), text(base64.b64encode(b"system").decode())),
            text("ascii"),
        )
        + b"\x93"
        + short("echo")
        + b"\x85R",
        "WL101",
    ),
    "rot13_name": (
        short("posix")
        + reduced(name("codecs", "decode"), text(codecs.encode("system", "rot13")), text("rot13"))
        + b"\x93"
        + short("echo")
        + b"\x85R",
        "WL101",
    ),
    "reversed_name": (
        short("posix") + reduced(name("mypackage", "reverse"), text("metsys")) + b"\x93" + short("echo") + b"\x85R",
        "WL111",
    ),
    "format_name": (
        short("posix")
        + reduced(name("operator", "mod"), text("%stem"), text("sys"))
        + b"\x93"
        + short("echo")
        + b"\x85R",
        "WL101",
    ),
    "result_called": (reduced(reduced(name("mypackage", "factory")), text("echo")), "WL111"),
    "string_subclass": (
        short("posix") + reduced(name("builtins", "str"), text("system")) + b"\x93" + short("echo") + b"\x85R",
        "WL101",
    ),
    "persistent_argument": (persistent(text("storage"), PAYLOAD, text("0"), text("cpu"), number(6)), "WL101"),
    "code_object": (
        reduced(reduced(name("types", "FunctionType"), reduced(name("marshal", "loads"), text("x")))),
        "WL102",
    ),
    "build_on_module": (name("torch", "serialization") + b"}" + text("x") + text("y") + b"sb", "WL112"),
    "build_on_class": (name("mypackage", "Net") + b"}" + text("__call__") + _SYSTEM + b"sb", "WL112"),
    "build_on_known_class": (name("collections", "OrderedDict") + b"}" + text("x") + text("y") + b"sb", "WL112"),
    "build_state_of_unknown": (name("mypackage", "Net") + b")\x81}" + text("weight") + tensor() + b"sb", "WL110"),
    "setstate_of_dangerous": (name("subprocess", "Popen") + b")\x81}" + text("args") + text("x") + b"sb", "WL101"),
    "appends_to_unknown": (name("mypackage", "Log") + b")\x81(" + text("x") + b"e", "WL110"),
    "extension_1": (b"\x82\x07" + text("echo") + b"\x85R", "WL113"),
    "extension_2": (b"\x83\x07\x00" + text("echo") + b"\x85R", "WL113"),
    "extension_4": (b"\x84\x07\x00\x00\x00" + text("echo") + b"\x85R", "WL113"),
    "hidden_method": (name("collections", "OrderedDict") + b")R}" + text("items") + text("x") + b"sb", "WL114"),
    "discarded": (PAYLOAD + b"0" + text("harmless"), "WL303"),
    "discarded_by_mark": (b"(" + PAYLOAD + b"1" + text("harmless"), "WL303"),
    "after_many": (
        b"](" + b"".join(called("operator", "add", "a", str(i)) for i in range(300)) + PAYLOAD + b"e",
        "WL101",
    ),
}
for _label, (_body, _rule) in _SPELLINGS.items():
    add(f"spelled_{_label}", in_zip(_body, 4 if b"\x93" in _body or b"\x8c" in _body else 2), _rule)

# ---------------------------------------------------------------------------------------------------------- containers


def _npy(objects: bytes, descr: str = "|O") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (1,), }}".encode()
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + objects


def _joblib(array: bytes, dtype: bytes, shape: bytes = b"K\x01\x85") -> bytes:
    made = name("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81}("
    made += text("subclass") + name("numpy", "ndarray") + text("shape") + shape + text("order") + text("C")
    made += text("dtype") + dtype + text("allow_mmap") + b"\x88" + text("numpy_array_alignment_bytes") + b"K\x10ub"
    return made + array


def _dtype(code: str) -> bytes:
    return reduced(name("numpy", "dtype"), text(code), b"\x89", b"\x88")


def _script(pickles: dict[str, bytes]) -> bytes:
    code = b"class M(Module):\n  __parameters__ = []\n  __buffers__ = []\n"
    entries = [Entry(f"m/{key}", value) for key, value in pickles.items()]
    return archive([*entries, Entry("m/code/__torch__.py", code, 8), Entry("m/version", b"3\n")])


_HARMLESS_SCRIPT = pickled(name("__torch__", "M") + b")\x81}" + text("training") + b"\x88sb")

for _protocol in range(6):
    add(f"plain_protocol_{_protocol}", pickle.dumps({"a": [1]}, _protocol)[:-1] + b"0" + PAYLOAD + b".", "WL101")
add("plain_text_only", b"cposix\nsystem\n(S'echo'\ntR.", "WL101")
add("legacy", lambda: old_writers.legacy(pickled(two(tensor("1"), PAYLOAD)), [("1", 6, DATA)]), "WL101")
add("legacy_in_the_keys", _legacy_keys, "WL101")
add("legacy_in_the_system_info", _legacy_system, "WL101")
add("legacy_second_stream", lambda: old_writers.legacy_v2() + EVIL, "WL101")
add(
    "legacy_module_source",
    lambda: old_writers.legacy(pickled(old_writers.storage_module_pid(name("mypackage", "Net")) + b")\x81"), []),
    "WL110",
)
add("plain_second_pickle", pickle.dumps({"a": 1}, 2) + EVIL, "WL101")
add("plain_third_pickle", pickle.dumps(1, 4) + pickle.dumps(2, 2) + EVIL, "WL101")
add("plain_followed_by_bytes", pickle.dumps({"a": 1}, 2) + b"something else", "WL302")
add("script_data", _script({"data.pkl": pickled(PAYLOAD), "constants.pkl": pickled(b")")}), "WL101")
add("script_constants", _script({"data.pkl": _HARMLESS_SCRIPT, "constants.pkl": EVIL}), "WL101")
add(
    "script_debug",
    _script({"data.pkl": _HARMLESS_SCRIPT, "constants.pkl": pickled(b")"), "code/__torch__.py.debug_pkl": EVIL}),
    "WL101",
)
add(
    "script_bytecode",
    _script({"data.pkl": _HARMLESS_SCRIPT, "constants.pkl": pickled(b")"), "bytecode.pkl": EVIL}),
    "WL101",
)
add("extra_record", archive([*records(GOOD), Entry("archive/notes.bin", EVIL)]), "WL101")
add("extra_record_deflated", archive([*records(GOOD), Entry("archive/notes.bin", EVIL, 8)]), "WL101")
add("extra_record_as_storage", archive([*records(GOOD), Entry("archive/data/7", EVIL)]), "WL101")
add("zip_in_zip", archive([*records(GOOD), Entry("archive/inner.pt", in_zip(PAYLOAD))]), "WL101")
add("zip_of_one_pickle", archive([Entry("model.pth", EVIL)]), "WL101")
add("zip_of_pickles", archive([Entry("a.pkl", pickle.dumps(1)), Entry("b.pkl", EVIL)]), "WL101")
add("npy_of_objects", _npy(EVIL), "WL101")
add("npz_of_objects", archive([Entry("a.npy", _npy(EVIL))]), "WL101")
add("npz_of_two", archive([Entry("a.npy", _npy(b"\0" * 8, "<f8")), Entry("b.npy", _npy(EVIL))]), "WL101")
add("gzip", lambda: gzip.compress(EVIL, mtime=0), "WL101")
add("bzip2", lambda: bz2.compress(EVIL), "WL101")
add("xz", lambda: lzma.compress(EVIL), "WL101")
add("zlib", lambda: zlib.compress(EVIL), "WL101")
add("gzip_of_zip", lambda: gzip.compress(in_zip(PAYLOAD), mtime=0), "WL101")
add(
    "joblib_after_array",
    pickled(b"](" + _joblib(b"\x00" + struct.pack("<d", 1.5), _dtype("f8")) + PAYLOAD + b"e", 4),
    "WL101",
)
add("joblib_objects", pickled(b"](" + _joblib(EVIL, _dtype("O8")) + b"e", 4), "WL101")
add(
    "bytes_load_from_bytes",
    in_zip(reduced(name("torch.storage", "_load_from_bytes"), b"B" + struct.pack("<I", len(EVIL)) + EVIL)),
    "WL101",
)
add(
    "bytes_legacy_inside",
    lambda: in_zip(
        reduced(
            name("torch.storage", "_load_from_bytes"),
            _bytes(old_writers.legacy(pickled(two(tensor("1"), PAYLOAD)), [("1", 6, DATA)])),
        )
    ),
    "WL101",
)
add("bytes_pickle_loads", lambda: in_zip(reduced(name("pickle", "loads"), _bytes(EVIL))), "WL101", "WL108")
add("bytes_unknown_loader", lambda: in_zip(reduced(name("mypackage", "restore"), _bytes(EVIL))), "WL101", "WL110")
add(
    "bytes_zipped_pickle",
    lambda: in_zip(reduced(name("pickle", "loads"), reduced(name("zlib", "decompress"), _bytes(zlib.compress(EVIL))))),
    "WL101",
)
add(
    "bytes_in_state",
    lambda: in_zip(name("mypackage", "Net") + b")\x81}" + text("blob") + _bytes(EVIL) + b"sb"),
    "WL101",
)
add(
    "bytes_no_checkpoint",
    lambda: in_zip(reduced(name("torch.storage", "_load_from_bytes"), _bytes(b"nothing"))),
    "WL108",
)
add(
    "numpy_object_array",
    in_zip(
        reduced(name("numpy._core.multiarray", "_reconstruct"), name("numpy", "ndarray"), b"K\x00\x85", b"C\x01b")
        + b"(K\x01K\x01\x85"
        + _dtype("O8")
        + b"\x89]("
        + PAYLOAD
        + b"etb"
    ),
    "WL101",
)
add(
    "dcp_metadata",
    pickled(
        stack_global("torch.distributed.checkpoint.metadata", "Metadata") + b")\x81}(" + short("x") + PAYLOAD + b"ub", 4
    ),
    "WL101",
    advisory="DCP .metadata",
)


# ----------------------------------------------------------------------------------------- the structure of the archive

_RECORDS = records(GOOD)
_BAD = Entry("archive/data.pkl", pickled(two(tensor(), PAYLOAD)))


def _swapped(**changes: Any) -> list[Entry]:
    return [_RECORDS[0]._replace(**changes), *_RECORDS[1:]]


add("twice_good_first", archive([*_RECORDS, _BAD]), "WL201", "WL210", "WL101")
add("twice_bad_first", archive([_BAD, *_RECORDS]), "WL201", "WL210", "WL101")
add("twice_same", archive([*_RECORDS, _RECORDS[0]]), "WL201")
add("twice_storage", archive([*_RECORDS, _RECORDS[2]._replace(data=b"\1" * 24)]), "WL201")
add("case_pickle", archive([*_RECORDS, _BAD._replace(name="archive/DATA.PKL")]), "WL202", "WL210", "WL101")
add("case_folder", archive([*_RECORDS, _BAD._replace(name="ARCHIVE/data.pkl")]), "WL202", "WL101")
add("case_storage", archive([*_RECORDS, _RECORDS[3]._replace(name="archive/VERSION")]), "WL202")
add("overlap", archive([*_RECORDS, Entry("archive/extra", b"", size=40, packed_size=40, at=10)]), "WL203")
add(
    "outside_of_the_file",
    archive([*_RECORDS, Entry("archive/extra", b"", size=9, packed_size=9_000_000, at=50)]),
    "WL203",
)
add("prefixed_bytes", archive(_RECORDS, prefix=b"#!/bin/sh\n"), "WL204")
add("prefixed_archive", lambda: checkpoint(pickled(two(tensor(), PAYLOAD))) + checkpoint(GOOD), "WL204", "WL101")
add("prefixed_good_archive", lambda: checkpoint(GOOD) + checkpoint(pickled(two(tensor(), PAYLOAD))), "WL204", "WL101")
add("two_ends", lambda: checkpoint(GOOD) + checkpoint(GOOD)[-22:], "WL204")
add("pickle_before_archive", lambda: EVIL + checkpoint(GOOD), "WL204", "WL101")
add("appended_bytes", archive(_RECORDS, suffix=b"appended"), "WL205")
add("appended_kilobytes", archive(_RECORDS, suffix=b"x" * 4000), "WL205")
add("header_other_name", archive(_swapped(local_name="archive/fake.pkl")), "WL206")
add("header_other_method", archive(_swapped(local={"method": 8})), "WL206")
add("header_other_size", archive(_swapped(local={"size": 7})), "WL206")
add("header_other_crc", archive(_swapped(local={"crc": 7})), "WL206")
add("header_encrypted_only", archive(_swapped(local={"flags": 1})), "WL206")
add("header_missing", archive([*_RECORDS, Entry("archive/x", b"", size=4, packed_size=4, at=70)]), "WL203|WL206")
add("two_sizes", archive(_swapped(size=7)), "WL206")
add("crc_of_pickle", archive([_BAD._replace(crc=7), *_RECORDS[1:]]), "WL207", "WL101")
add("crc_of_small_record", archive([*_RECORDS[:3], _RECORDS[3]._replace(crc=7)]), "WL207")
add("encrypted_pickle", archive(_swapped(flags=1)), "WL208")
add("encrypted_beside_evil", archive([_BAD, *_RECORDS[1:3], _RECORDS[3]._replace(flags=1)]), "WL208", "WL101")
add("unknown_method", archive(_swapped(method=99)), "WL208")
add("method_of_other_record", archive([*_RECORDS, Entry("archive/x", b"abc", 12)]), "WL208")
add("bomb_declared", archive([*_RECORDS, Entry("archive/x", b"", 8, size=1 << 30)]), "WL209")
add("bomb_gzip", lambda: gzip.compress(bytes(64 << 20), mtime=0), "WL209")
add("several_checkpoints", archive([*records(GOOD, "a"), *records(pickled(PAYLOAD), "b")]), "WL212", "WL101")
add("first_record_elsewhere", archive([Entry("other/readme", b"x"), *_RECORDS]), "WL212")
add("climbing_name", archive([*_RECORDS, Entry("archive/../../x", b"x")]), "WL213")
add("absolute_name", archive([*_RECORDS, Entry("/etc/x", b"x")]), "WL213")
add("drive_name", archive([*_RECORDS, Entry("C:\\x", b"x")]), "WL213")
add("nul_name", archive([*_RECORDS, Entry("archive/x\0.py", b"x")]), "WL213")
add("cut_without_directory", lambda: checkpoint(pickled(two(tensor(), PAYLOAD)))[:-120], "WL211", "WL101")
add("cut_in_the_pickle", lambda: checkpoint(pickled(two(PAYLOAD, text("x" * 5000))))[:1500], "WL211", "WL101")
add("cut_good", lambda: checkpoint(GOOD)[:-120], "WL211")
add("directory_overwritten", lambda: _overwritten(checkpoint(GOOD)), "WL211")
add("directory_counts_wrong", lambda: checkpoint(GOOD)[:-12] + b"\x09\x00" + checkpoint(GOOD)[-10:], "WL211")
add(
    "deflated_damaged",
    archive([*_RECORDS, Entry("archive/x.pkl", b"\x80\x02", 8, crc=0)._replace(packed_size=3)]),
    "WL2..",
)
add("pickle_deflated", archive([_BAD._replace(method=8), *_RECORDS[1:]]), "WL101")
add("pickle_without_crc", archive([_BAD._replace(crc=0), *_RECORDS[1:]]), "WL101")


# ------------------------------------------------------------------------------------------------- the pickle itself

add("bad_opcode", checkpoint(pickled(PAYLOAD)[:-1] + b"\xff."), "WL301", "WL101")
add("empty_stack", checkpoint(b"\x80\x02R."), "WL301")
add("unknown_memo", checkpoint(b"\x80\x02h\x09."), "WL301")
add("protocol_9", checkpoint(b"\x80\x09" + PAYLOAD + b"."), "WL301", "WL101")
add("no_stop", checkpoint(b"\x80\x02" + PAYLOAD), "WL301", "WL101")
add("broken_then_evil", checkpoint(b"\x80\x02\xff" + PAYLOAD + b"."), "WL301", "WL101")
add("broken_then_stack_global", checkpoint(b"\x80\x04\xff" + stack_global("posix", "system") + b"."), "WL301", "WL101")
add("hex_integer", checkpoint(b"I0x10\n0" + PAYLOAD + b"."), "WL304", "WL101")
add("unhashable_key", checkpoint(b"\x80\x02" + PAYLOAD + b"0}]K\x01s."), "WL301", "WL101")
add("trailing_pickle", checkpoint(GOOD + EVIL), "WL302", "WL101")
add("trailing_bytes", checkpoint(GOOD + b"hidden"), "WL302")
add("protocol_twice", checkpoint(b"\x80\x02\x80\x02K\x01."), "WL304")
add("protocol_in_the_middle", checkpoint(b"K\x01\x80\x020K\x01."), "WL304")
add("frame_too_long", checkpoint(b"\x80\x04\x95" + struct.pack("<Q", 1 << 50) + b"K\x01."), "WL304")
add("left_over", checkpoint(b"\x80\x02" + PAYLOAD + b"K\x01."), "WL304", "WL101")
add("left_over_mark", checkpoint(b"\x80\x02(K\x01."), "WL304")
add("buffer", checkpoint(b"\x80\x05\x97."), "WL304")
add("memo_bomb", checkpoint(b"\x80\x02K\x01r\xff\xff\xff\x7f."), "WL305")
add("memo_bomb_text", checkpoint(b"K\x01p2147483647\n."), "WL305")
add("bytes8_bomb", checkpoint(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"abc."), "WL306")
add("unicode_bomb", checkpoint(b"\x80\x02X\xff\xff\xff\x7fabc."), "WL306")
add("long4_bomb", checkpoint(b"\x80\x02\x8b\xff\xff\xff\x7f1."), "WL306|WL310")
add("bytearray8_bomb", checkpoint(b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x."), "WL306")
add("deep_lists", checkpoint(b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b"."), "WL307")
add("deep_tuples", checkpoint(b"\x80\x02)" + b"\x85" * 50_000 + b"."), "WL307")
add("deep_stubs", checkpoint(b"\x80\x02N" + (b"0" + b"") + name("mypackage", "Node") + b"N" + b"\x85R"), "WL110")
add("items_on_tensor", checkpoint(pickled(tensor() + b"(K\x00K\x01u")), "WL308", advisory="CVE-2026-24747")
add("item_on_tensor", checkpoint(pickled(tensor() + b"K\x00K\x01s")), "WL308", advisory="CVE-2026-24747")
add("append_to_tensor", checkpoint(pickled(tensor() + b"K\x01a")), "WL308")
add("append_to_dict", checkpoint(b"\x80\x02}K\x01a."), "WL308")
add("additems_to_list", checkpoint(b"\x80\x04](K\x01\x90."), "WL308")
add("state_on_list", checkpoint(b"\x80\x02]}K\x01K\x02sb."), "WL308")
add(
    "bytearray_of_8_gib",
    in_zip(reduced(name("builtins", "bytearray"), b"\x8a\x05\0\0\0\0\2")),
    "WL309",
    advisory="memory by bytearray",
)
add(
    "uninitialised_tensor",
    in_zip(reduced(name("torch", "FloatTensor"), number(100))),
    "WL309",
    advisory="uninitialised memory",
)
add(
    "uninitialised_storage",
    in_zip(reduced(name("torch", "UntypedStorage"), number(100))),
    "WL309",
    advisory="uninitialised memory",
)
add("encode_with_codec", in_zip(called("_codecs", "encode", "x", "zip_codec")), "WL309")
add("dtype_of_text", in_zip(reduced(name("numpy", "dtype"), text("f8,(2,2)i4"), b"\x89", b"\x88")), "WL309")
add(
    "colliding_keys",
    lambda: checkpoint(
        b"\x80\x02}("
        + b"".join(b"\x8a\x0a" + (i * ((1 << 61) - 1)).to_bytes(10, "little") + b"N" for i in range(1, 6000))
        + b"u."
    ),
    "WL310",
)
add("nested_key", lambda: checkpoint(b"\x80\x02}K\x01" + b"q\x010h\x01" + b"2\x86" * 60 + b"Ns."), "WL310")
add("persistent_module", checkpoint(pickled(persistent(text("module"), text("x"), text("y"), text("z")))), "WL311")
add("persistent_text", checkpoint(b"\x80\x02Phello\n."), "WL311")
add("persistent_in_plain_pickle", b"\x80\x02K\x01Q.", "WL311")

# ------------------------------------------------------------------------------------------------------------ tensors

add("view_outside", in_zip(tensor(size=numbers(100), stride=numbers(1))), "WL401", advisory="CVE-2026-24747")
add("view_offset_outside", in_zip(tensor(size=numbers(1), stride=numbers(1), offset=6)), "WL401")
add("view_stride_outside", in_zip(tensor(size=numbers(2), stride=numbers(1_000_000))), "WL401")
add("view_negative", in_zip(tensor(size=numbers(2), stride=numbers(-1))), "WL309|WL401")
add("view_overflow", in_zip(v2(storage_id("0", 6), 0, b"(\x8a\x08" + b"\xff" * 7 + b"\x7ft", numbers(1))), "WL401")
add("view_and_evil", in_zip(b"](" + tensor(size=numbers(100), stride=numbers(1)) + PAYLOAD + b"e"), "WL401", "WL101")
add("storage_too_short", checkpoint(GOOD, {"0": DATA[:8]}), "WL402", advisory="CVE-2026-24747")
add("storage_too_long", checkpoint(GOOD, {"0": DATA * 3}), "WL402")
add("storage_missing", checkpoint(GOOD, {"5": DATA}), "WL402")
add("storage_count_negative", in_zip(v2(storage_id("0", -6), 0, numbers(2), numbers(1))), "WL311|WL402")
add(
    "storage_huge_legacy",
    lambda: old_writers.legacy(
        pickled(v2(storage_id("1", 1 << 30, b"N"), 0, numbers(2), numbers(1))), [("1", 1 << 30, DATA)]
    ),
    "WL402",
    advisory="32 GiB from a header",
)
add("legacy_cut", lambda: old_writers.legacy_v2()[:-9], "WL211|WL402")
add("legacy_other_length", lambda: old_writers.legacy(pickled(tensor("1", 6)), [("1", 4, DATA[:16])]), "WL402")


def _sparse(indices: bytes, count: int, size: bytes) -> bytes:
    def part(key: str, kind: str, numel: int, shape: bytes, stride: bytes) -> bytes:
        return v2(storage_id(key, numel, cls=kind), 0, shape, stride)

    body = reduced(
        name("torch._utils", "_rebuild_sparse_tensor"),
        called("torch.serialization", "_get_layout", "torch.sparse_coo"),
        b"("
        + part("0", "LongStorage", count, numbers(1, count), numbers(count, 1))
        + part("1", "FloatStorage", count, numbers(count), numbers(1))
        + size
        + b"\x88t",
    )
    return checkpoint(pickled(body), {"0": indices, "1": bytes(4 * count)})


def _compressed(lines: bytes, plain: bytes, layout: str = "torch.sparse_csr") -> bytes:
    body = reduced(
        name("torch._utils", "_rebuild_sparse_tensor"),
        called("torch.serialization", "_get_layout", layout),
        b"("
        + v2(storage_id("0", 3, cls="LongStorage"), 0, numbers(3), numbers(1))
        + v2(storage_id("1", 2, cls="LongStorage"), 0, numbers(2), numbers(1))
        + v2(storage_id("2", 2), 0, numbers(2), numbers(1))
        + numbers(2, 3)
        + b"t",
    )
    return checkpoint(pickled(body), {"0": lines, "1": plain, "2": bytes(8)})


add("sparse_outside", _sparse(struct.pack("<2q", 0, 1_000_000), 2, numbers(4)), "WL403", advisory="CVE-2025-62164")
add("sparse_negative", _sparse(struct.pack("<2q", 0, -5), 2, numbers(4)), "WL403", advisory="CVE-2025-62164")
add("sparse_csr_outside", _compressed(struct.pack("<3q", 0, 1, 2), struct.pack("<2q", 0, 99)), "WL403")
add("sparse_csr_falling", _compressed(struct.pack("<3q", 0, 5, 2), struct.pack("<2q", 0, 1)), "WL403")
add("sparse_csr_not_from_zero", _compressed(struct.pack("<3q", 1, 1, 2), struct.pack("<2q", 0, 1)), "WL403")
add(
    "expanded_hugely",
    in_zip(tensor(size=numbers(1_000_000, 1_000_000), stride=numbers(0, 0))),
    "WL404",
    advisory="stride 0",
)
add(
    "meta_hugely",
    in_zip(
        reduced(
            name("torch._utils", "_rebuild_meta_tensor_no_storage"),
            name("torch", "float32"),
            b"(\x8a\x08" + b"\0" * 7 + b"\x10t",
            numbers(1),
            b"\x89",
        )
    ),
    "WL404",
    advisory="meta tensor of 2**60",
)

# --------------------------------------------------------------------------------------------------------- advisories

add("cve_2025_32434_tar", _evil_tar, "WL101", advisory="CVE-2025-32434")
add("cve_2025_32434_script", HOSTILE["script_constants"].make, "WL101", advisory="CVE-2025-32434")
add("cve_2022_45907", HOSTILE["call_torch.jit.annotations.get_signature"].make, "WL102", advisory="CVE-2022-45907")
add(
    "cve_2024_48063",
    in_zip(called("torch.distributed.nn.api.remote_module", "RemoteModule", "x")),
    "WL110",
    advisory="CVE-2024-48063",
)
add(
    "cve_2024_5480",
    in_zip(called("torch.distributed.rpc.internal", "PythonUDF", "x")),
    "WL109",
    advisory="CVE-2024-5480",
)
add("cve_2025_1716", in_zip(called("pip", "main", "install")), "WL103", advisory="CVE-2025-1716")
add(
    "cve_2025_1889",
    lambda: archive([*records(GOOD), Entry("archive/config.p", EVIL)]),
    "WL101",
    advisory="CVE-2025-1889",
)
add(
    "cve_2025_1944",
    archive([_BAD._replace(local_name="archive/datap.kl"), *_RECORDS[1:]]),
    "WL206",
    "WL101",
    advisory="CVE-2025-1944",
)
add("cve_2025_1945", archive([_BAD._replace(flags=1), *_RECORDS[1:]]), "WL208", advisory="CVE-2025-1945")
add("cve_2025_10155", EVIL, "WL101", advisory="CVE-2025-10155")
add(
    "cve_2025_10156",
    archive([_BAD, *_RECORDS[1:3], _RECORDS[3]._replace(crc=1)]),
    "WL207",
    "WL101",
    advisory="CVE-2025-10156",
)
add(
    "cve_2025_10157",
    in_zip(called("asyncio.unix_events", "_UnixSubprocessTransport._start", "x")),
    "WL101",
    advisory="CVE-2025-10157",
)
add("ghsa_w8jq", in_zip(called("numpy.f2py.crackfortran", "getlincoef", "x")), "WL102", advisory="GHSA-w8jq-xcqf-f792")
add("ghsa_7q5r", in_zip(called("idlelib.run", "Executive.runcode", "x")), "WL102", advisory="GHSA-7q5r-7gvp-wc82")
add(
    "qtensor_stride",
    checkpoint(
        pickled(
            reduced(
                name("torch._utils", "_rebuild_qtensor"),
                storage_id("0", 24, cls="QInt8Storage"),
                number(0),
                numbers(4),
                numbers(1000),
                b"(" + name("torch", "per_tensor_affine") + b"G" + bytes(8) + b"K\x00t",
                b"\x89",
                name("collections", "OrderedDict") + b")R",
            )
        )
    ),
    "WL401",
    advisory="unchecked stride of quantized tensors",
)
add(
    "wrapper_oob",
    in_zip(
        reduced(
            name("torch._tensor", "_rebuild_from_type_v2"),
            name("torch._utils", "_rebuild_tensor_v2"),
            name("torch", "Tensor"),
            b"("
            + storage_id("0", 6)
            + number(0)
            + numbers(1000)
            + numbers(1)
            + b"\x89"
            + name("collections", "OrderedDict")
            + b")Rt",
            b"}",
        )
    ),
    "WL401",
    advisory="_rebuild_from_type_v2 out of bounds",
)
add(
    "torch_case_insensitive",
    archive([_BAD._replace(name="archive/Data.pkl"), *_RECORDS]),
    "WL202",
    "WL101",
    advisory="lookup without regard to case",
)
add(
    "only_upper_case",
    archive([_BAD._replace(name="archive/DATA.PKL"), *_RECORDS[1:]]),
    "WL101",
    advisory="lookup without regard to case",
)
