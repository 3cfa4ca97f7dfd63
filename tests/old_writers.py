"""Writers of the forms that no installable torch writes any more, by hand and without torch.

Each returns the bytes of a checkpoint of ``{"a": 2 x 3 float32 0..5, "b": its last row}`` (sharing one storage),
unless it says otherwise. Where today's torch still reads a form, a test compares with it.
"""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

DATA = struct.pack("<6f", *range(6))
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001


def name(module: str, attribute: str) -> bytes:
    return b"c%s\n%s\n" % (module.encode(), attribute.encode())


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def persistent(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"tQ"


def storage_id(key: str, numel: int, *more: bytes, cls: str = "FloatStorage", location: str = "cpu") -> bytes:
    return persistent(text("storage"), name("torch", cls), text(key), text(location), number(numel), *more)


def v2(storage: bytes, offset: int, size: bytes, stride: bytes) -> bytes:
    """A call of `_rebuild_tensor_v2`."""
    hooks = name("collections", "OrderedDict") + b")R"
    call = name("torch._utils", "_rebuild_tensor_v2")
    return call + b"(" + storage + number(offset) + size + stride + b"\x89" + hooks + b"tR"


def v1(storage: bytes, offset: int, size: bytes, stride: bytes) -> bytes:
    """A call of `_rebuild_tensor`, as of 0.1.10 to 0.3."""
    return name("torch._utils", "_rebuild_tensor") + b"(" + storage + number(offset) + size + stride + b"tR"


def built(storage: bytes, offset: int, size: bytes, stride: bytes) -> bytes:
    """A tensor class, then its state: 0.1."""
    call = name("torch", "FloatTensor") + b")\x81q\x05"
    return call + b"(" + storage + number(offset) + size + stride + b"tb"


def two_tensors(first: bytes, second: bytes) -> bytes:
    return b"\x80\x02}(" + text("a") + first + text("b") + second + b"u."


def legacy(pickled: bytes, storages: list[tuple[str, int, bytes]]) -> bytes:
    """A legacy stream around a pickle: the data of each storage as (key, elements, bytes)."""
    system = {"protocol_version": VERSION, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    keys = [key for key, _, _ in storages]
    head = b"".join(pickle.dumps(part, 2) for part in (MAGIC, VERSION, system))
    body = b"".join(struct.pack("<q", count) + data for _, count, data in storages)
    return head + pickled + pickle.dumps(keys, 2) + body


def _none_view(make: Callable[..., bytes]) -> bytes:
    storage = storage_id("94001", 6, b"N")
    a, b = make(storage, 0, numbers(2, 3), numbers(3, 1)), make(storage, 3, numbers(3), numbers(1))
    return legacy(two_tensors(a, b), [("94001", 6, DATA)])


def legacy_v1() -> bytes:
    return _none_view(v1)


def legacy_v2() -> bytes:
    return _none_view(v2)


def legacy_tensor_class() -> bytes:
    return _none_view(built)


def legacy_storage_views() -> bytes:
    """Before 0.4 a view of a storage was a storage of its own: (key, offset, length) of its root."""
    whole = storage_id("94001", 6, b"(" + text("94002") + number(0) + number(6) + b"t")
    row = storage_id("94001", 6, b"(" + text("94003") + number(3) + number(3) + b"t")
    a, b = v1(whole, 0, numbers(2, 3), numbers(3, 1)), v1(row, 0, numbers(3), numbers(1))
    return legacy(two_tensors(a, b), [("94001", 6, DATA)])


def legacy_parameters() -> bytes:
    """Parameter of 0.2 (state of three) and Variable of 0.3."""
    storage = storage_id("94001", 6, b"N")
    state = b"(\x88\x89" + name("collections", "OrderedDict") + b")Rtb"
    a = name("torch.nn.parameter", "Parameter") + v1(storage, 0, numbers(2, 3), numbers(3, 1)) + b"\x85R" + state
    b = name("torch.autograd.variable", "Variable") + v1(storage, 3, numbers(3), numbers(1)) + b"\x85R" + state
    return legacy(two_tensors(a, b), [("94001", 6, DATA)])


def legacy_parameter_state_of_five() -> bytes:
    """Parameter of 0.1: (data, grad, hooks, requires_grad, volatile)."""
    storage = storage_id("94001", 6, b"N")
    a = name("torch.nn.parameter", "Parameter") + b")\x81("
    a += v1(storage, 0, numbers(2, 3), numbers(3, 1)) + b"NN\x88\x89tb"
    return legacy(two_tensors(a, v1(storage, 3, numbers(3), numbers(1))), [("94001", 6, DATA)])


def legacy_protocol_0_keys() -> bytes:
    """Magic number and the rest as text pickles."""
    storage = storage_id("1", 6, b"N")
    pickled = two_tensors(v2(storage, 0, numbers(2, 3), numbers(3, 1)), v2(storage, 3, numbers(3), numbers(1)))
    head = b"".join(pickle.dumps(part, 0) for part in (MAGIC, VERSION, {"little_endian": True}))
    return head + pickled + pickle.dumps(["1"], 0) + struct.pack("<q", 6) + DATA


def tar(views: bool = True) -> bytes:
    """The tar archive of before 0.1.10; the second tensor lies on a view of the first one's storage."""
    storages = pickle.dumps(1, 2)
    storages += (
        b"\x80\x02(" + number(1) + text("cpu") + name("torch", "FloatStorage") + b"t." + struct.pack("<q", 6) + DATA
    )
    storages += pickle.dumps([(2, 1, 3, 3)] if views else [], 2)
    tensors = pickle.dumps(2, 2)
    for key, storage, sizes, strides, offset in (
        (10, 1, (2, 3), (3, 1), 0),
        (11, 2 if views else 1, (3,), (1,), 0 if views else 3),
    ):
        tensors += b"\x80\x02(" + number(key) + number(storage) + name("torch", "FloatTensor") + b"t."
        tensors += struct.pack(f"<i4x{len(sizes)}q{len(sizes)}qq", len(sizes), *sizes, *strides, offset)
    pickled = b"\x80\x02}(" + text("a") + number(10) + b"Q" + text("b") + number(11) + b"Qu."
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for member, data in (
            ("sys_info", pickle.dumps({}, 2)),
            ("pickle", pickled),
            ("tensors", tensors),
            ("storages", storages),
        ):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zipped(records: list[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for record, data in records:
            archive.writestr(record, data)
    return file.getvalue()


def _zip_pickle(key: str) -> bytes:
    storage = storage_id(key, 6)
    return two_tensors(v2(storage, 0, numbers(2, 3), numbers(3, 1)), v2(storage, 3, numbers(3), numbers(1)))


def zip_of_1_4() -> bytes:
    """Pointer-like keys, the version first, no byteorder."""
    key = "94293128474944"
    return zipped([("archive/version", b"3\n"), ("archive/data.pkl", _zip_pickle(key)), (f"archive/data/{key}", DATA)])


def zip_with_tensors_folder() -> bytes:
    return zipped([("archive/version", b"1\n"), ("archive/data.pkl", _zip_pickle("0")), ("archive/tensors/0", DATA)])


def zip_without_folder() -> bytes:
    return zipped([("data.pkl", _zip_pickle("0")), ("data/0", DATA), ("version", b"3\n")])


def zip_big_endian() -> bytes:
    swapped = struct.pack(">6f", *range(6))
    return zipped(
        [("a/data.pkl", _zip_pickle("0")), ("a/byteorder", b"big"), ("a/data/0", swapped), ("a/version", b"3\n")]
    )


def zip_of_a_legacy_stream() -> bytes:
    return zipped([("model.pth", legacy_v2())])


OLD_FORMS: dict[str, Callable[[], bytes]] = {
    form.__name__: form
    for form in (
        legacy_v1, legacy_v2, legacy_tensor_class, legacy_storage_views, legacy_parameters,
        legacy_parameter_state_of_five, legacy_protocol_0_keys, tar, zip_of_1_4, zip_with_tensors_folder,
        zip_without_folder, zip_big_endian, zip_of_a_legacy_stream,
    )
}  # fmt: skip
OLD_FORMS["tar_without_views"] = lambda: tar(views=False)

# What torch 2.13 does not read, or reads otherwise.
NOT_FOR_TORCH = {
    "zip_with_tensors_folder": "torch looks for data/ only",
    "zip_without_folder": "torch wants a folder",
    "zip_of_a_legacy_stream": "torch.hub unpacks these first",
    "legacy_tensor_class": "torch's classes no longer take a state",
    "legacy_parameters": "Parameters no longer take a state of three",
    "legacy_parameter_state_of_five": "Parameters no longer take a state of five",
    "legacy_protocol_0_keys": "read by torch as well, but with other results on some platforms",
}


def storage_module_pid(pickled: bytes) -> Any:
    """A pickle whose class comes through a ('module', class, file, source) id: whole modules of 0.1 to 1.5."""
    return persistent(text("module"), pickled, text("net.py"), text("class Net: pass"))


def storage_slices() -> bytes:
    """Two slices of one storage of two zeros, as torch 0.3 wrote bare storages."""
    parts = (
        storage_id("94001", 2, b"(" + text(key) + number(offset) + number(1) + b"t")
        for key, offset in (("94002", 0), ("94003", 1))
    )
    return legacy(b"\x80\x02" + b"".join(parts) + b"\x86.", [("94001", 2, bytes(8))])


def cuda_tensor() -> bytes:
    """A tensor of two elements from a GPU."""
    storage = storage_id("94001", 2, b"N", location="cuda:0")
    return legacy(b"\x80\x02" + v2(storage, 0, numbers(2), numbers(1)) + b".", [("94001", 2, DATA[:8])])


def python2_list() -> tuple[bytes, bytes]:
    """A list of a byte string of UTF-8 text, a tensor of one zero, and 2, as Python 2 wrote them; and the bytes."""
    raw = "żąąóżąż".encode()

    def short(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    pid = persistent(short(b"storage"), name("torch", "FloatStorage"), short(b"94001"), short(b"cpu"), number(1), b"N")
    pickled = b"\x80\x02](" + short(raw) + v2(pid, 0, numbers(1), numbers(1)) + b"K\x02e."
    system = b"\x80\x02}(" + short(b"protocol_version") + number(1001) + short(b"little_endian") + b"\x88u."
    head = pickle.dumps(MAGIC, 2) + pickle.dumps(VERSION, 2) + system
    return head + pickled + b"\x80\x02](" + short(b"94001") + b"e." + struct.pack("<q", 1) + bytes(4), raw
