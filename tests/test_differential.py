"""What Weighlock loads is what stock torch loads: every case, in every container that torch can write."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import weighlock as wl
from tests.cases import CASES
from tests.compare import Pairs, same

pytestmark = pytest.mark.requires_torch


def _zip(torch: Any, obj: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(obj, file, **options)
    return file.getvalue()


def _legacy(torch: Any, obj: Any, **options: Any) -> bytes:
    return _zip(torch, obj, _use_new_zipfile_serialization=False, **options)


def _aligned(torch: Any, obj: Any) -> bytes:
    from torch.utils.serialization import config

    with config.patch("save.storage_alignment", 4096):
        return _zip(torch, obj)


def _without_crc(torch: Any, obj: Any) -> bytes:
    torch.serialization.set_crc32_options(False)
    try:
        return _zip(torch, obj)
    finally:
        torch.serialization.set_crc32_options(True)


def _deflated(torch: Any, obj: Any) -> bytes:
    """The same records, compressed by Python's zipfile: no descriptors, no alignment."""
    source, target = zipfile.ZipFile(io.BytesIO(_zip(torch, obj))), io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for info in source.infolist():
            archive.writestr(info.filename, source.read(info))
    return target.getvalue()


def _rezipped(torch: Any, obj: Any) -> bytes:
    """The same records stored by Python's zipfile, in another order."""
    source, target = zipfile.ZipFile(io.BytesIO(_zip(torch, obj))), io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in sorted(source.namelist(), reverse=True):
            archive.writestr(name, source.read(name))
    return target.getvalue()


CONTAINERS: dict[str, Callable[[Any, Any], bytes]] = {
    "zip": _zip,
    "zip-protocol-1": lambda torch, obj: _zip(torch, obj, pickle_protocol=1),
    "zip-protocol-4": lambda torch, obj: _zip(torch, obj, pickle_protocol=4),
    "zip-protocol-5": lambda torch, obj: _zip(torch, obj, pickle_protocol=5),
    "zip-4096": _aligned,
    "zip-no-crc": _without_crc,
    "zip-byteorder-last": lambda torch, obj: _zip(torch, obj, _disable_byteorder_record=True),
    "zip-deflated": _deflated,
    "zip-rezipped": _rezipped,
    "legacy": _legacy,
    "legacy-protocol-1": lambda torch, obj: _legacy(torch, obj, pickle_protocol=1),
    "legacy-protocol-4": lambda torch, obj: _legacy(torch, obj, pickle_protocol=4),
    "pickle-2": lambda torch, obj: pickle.dumps(obj, 2),
    "pickle-5": lambda torch, obj: pickle.dumps(obj, 5),
}


def _oracle(torch: Any, obj: Any, data: bytes, container: str) -> Any:
    """What torch makes of the bytes; the object itself where torch cannot reload its own file."""
    try:
        if container.startswith("pickle"):
            return pickle.loads(data)
        return torch.load(io.BytesIO(data), weights_only=False)
    except (AttributeError, RuntimeError):
        # Legacy streams of newer dtypes ("UntypedStorage has no attribute 'dtype'") and of nested tensors.
        assert container.startswith(("legacy", "pickle"))
        return obj


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", CASES)
def test_equals_torch(torch, name, container):
    obj = CASES[name](torch)
    data = CONTAINERS[container](torch, obj)
    pairs = Pairs()
    same(torch, _oracle(torch, obj, data, container), wl.load(data), pairs)
    pairs.check_sharing()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_load_save_load_is_the_identity_for_torch(torch, name):
    """What Weighlock saves of what it loaded, stock torch loads as what it first was."""
    if name in ("jagged", "meta_storage"):
        pytest.skip("torch's jagged layout is rebuilt by torch's own compiler state")
    obj = CASES[name](torch)
    file = io.BytesIO()
    wl.save(wl.load(_zip(torch, obj)), file)
    again = wl.load(file.getvalue())
    same(torch, torch.load(io.BytesIO(file.getvalue()), weights_only=False), again)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["path", "pathlike", "bytes", "bytearray", "memoryview", "file", "buffer at 100"])
def test_every_kind_of_input(torch, tmp_path, kind):
    obj = CASES["state_dict"](torch)
    data = _zip(torch, obj)
    path = tmp_path / "model.pth"
    path.write_bytes(data)
    buffer = io.BytesIO(b"x" * 100 + data)
    buffer.seek(100)
    with path.open("rb") as file:
        given = {
            "path": str(path), "pathlike": path, "bytes": data, "bytearray": bytearray(data),
            "memoryview": memoryview(data), "file": file, "buffer at 100": buffer,
        }[kind]  # fmt: skip
        same(torch, obj, wl.load(given))


@pytest.mark.parametrize("name", ["state_dict", "shared_storage", "strides", "dtype_bfloat16"])
def test_mapped_equals_torch(torch, tmp_path, name):
    obj = CASES[name](torch)
    path = tmp_path / "model.pth"
    path.write_bytes(_zip(torch, obj))
    loaded = wl.load(path, mmap=True)
    pairs = Pairs()
    same(torch, obj, loaded, pairs)
    pairs.check_sharing()


def test_several_legacy_streams_in_one_file(torch):
    file = io.BytesIO()
    for number in range(3):
        torch.save({"t": torch.full((3,), float(number))}, file, _use_new_zipfile_serialization=False)
    file.seek(0)
    assert [float(wl.load(file)["t"][0]) for _ in range(3)] == [0.0, 1.0, 2.0]
    assert file.tell() == len(file.getvalue())


def test_whole_modules_give_their_state_dict(torch):
    module = torch.nn.Sequential(
        torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2), torch.nn.Sequential(torch.nn.Conv1d(1, 1, 1))
    )
    module.register_buffer("hidden", torch.ones(1), persistent=False)
    module.register_buffer("seen", torch.ones(2))
    for data in (_zip(torch, module), _legacy(torch, module), pickle.dumps(module)):
        drawn = wl.state_dict(wl.load(data, on_unknown="stub"))
        assert list(drawn) == list(module.state_dict())
        same(torch, dict(module.state_dict()), dict(drawn))


@pytest.mark.filterwarnings("ignore")
def test_torchscript_gives_its_state_dict(torch):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).eval()
    for program in (torch.jit.script(module), torch.jit.trace(module, torch.ones(1, 3))):
        file = io.BytesIO()
        torch.jit.save(program, file)
        drawn = wl.state_dict(wl.load(file.getvalue()))
        assert list(drawn) == list(program.state_dict())
        same(torch, dict(program.state_dict()), dict(drawn))


@pytest.mark.filterwarnings("ignore")
def test_torchscript_attributes_are_no_state(torch):
    """silero-vad keeps tensors as plain attributes of a module without parameters: not part of its state_dict."""

    class Inner(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)
            self.context = torch.zeros(3)

        def forward(self, x):
            return self.layer(x) + self.context.sum()

    file = io.BytesIO()
    program = torch.jit.trace(Inner(), torch.ones(1, 2))
    torch.jit.save(program, file)
    loaded = wl.load(file.getvalue())
    assert list(wl.state_dict(loaded)) == list(program.state_dict())


def test_unsafe_loading_gives_arrays_too(torch):
    data = _zip(torch, CASES["state_dict"](torch))
    loaded = wl.load(data, weights_only=False)
    assert all(isinstance(value, np.ndarray) for value in loaded.values())
    same(torch, dict(CASES["state_dict"](torch)), dict(loaded))
