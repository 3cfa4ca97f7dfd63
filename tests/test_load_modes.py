"""The modes of `weighlock.load`: mapping, reading into what is there, casting and choosing while reading."""

from __future__ import annotations

import errno
import io
import mmap
import os
import zipfile
from typing import Any

import numpy as np
import pytest

import weighlock as wl
from tests import old_writers

LARGE = 40_000  # elements: beyond what small storages share


def content() -> dict[str, Any]:
    return {
        "large": np.arange(LARGE, dtype="float32"), "small": np.arange(6, dtype="float64").reshape(2, 3),
        "bytes": np.arange(3, dtype="uint8"), "odd": np.arange(5, dtype="int16"), "none": np.zeros((0, 3), "float32"),
        "step": 7,
    }  # fmt: skip


def same(found: Any, expected: Any) -> None:
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert np.array_equal(np.asarray(found[key]), np.asarray(value)), key


def saved(obj: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    wl.save(obj, file, **options)
    return file.getvalue()


def legacy(obj: Any) -> bytes:
    return saved(obj, _use_new_zipfile_serialization=False)


def deflated(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return file.getvalue()


WRITERS = {"zip": saved, "legacy": legacy}


@pytest.fixture(params=WRITERS)
def path(request: pytest.FixtureRequest, tmp_path: Any) -> Any:
    target = tmp_path / "a.pt"
    target.write_bytes(WRITERS[request.param](content()))
    return target


class TestMapping:
    def test_private(self, path):
        before = path.read_bytes()
        found = wl.load(path, mmap=True)
        same(found, content())
        assert not found["large"].flags.owndata
        found["large"][:] = -1
        found["small"][:] = -1
        assert path.read_bytes() == before
        same(wl.load(path), content())

    def test_read_only(self, path):
        found = wl.load(path, mmap="r")
        same(found, content())
        for key, value in found.items():
            assert key == "step" or not value.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            found["large"][0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            found["large"].flags.writeable = True

    def test_shared(self, path):
        found = wl.load(path, mmap="shared")
        same(found, content())
        found["large"][0] = -1
        found["small"][1, 2] = -2
        again = wl.load(path, verify=False)
        assert again["large"][0] == -1
        assert again["small"][1, 2] == -2
        assert again["odd"].tolist() == list(range(5))

    def test_arrays_of_a_stream_that_lie_unaligned_say_so(self, tmp_path):
        seen = set()
        for padding in range(8):
            target = tmp_path / f"{padding}.pt"
            target.write_bytes(legacy({"p" * padding: 1, "a": np.arange(LARGE, dtype="float64")}))
            array = wl.load(target, mmap=True)["a"]
            assert array.flags.aligned == (array.__array_interface__["data"][0] % 8 == 0)
            seen.add(array.flags.aligned)
            assert array.sum() == LARGE * (LARGE - 1) / 2
        assert seen == {True, False}

    def test_sharing_is_kept(self, tmp_path):
        base = np.arange(LARGE, dtype="float32")
        for name, write in WRITERS.items():
            (tmp_path / name).write_bytes(write({"a": base, "b": base[10:]}))
            for mode in (True, "shared"):
                found = wl.load(tmp_path / name, mmap=mode)
                found["a"][10] = 5
                assert found["b"][0] == 5

    def test_storage_views(self):
        data = old_writers.legacy_storage_views()
        assert repr(wl.load(data, mmap="r")) == repr(wl.load(data))

    @pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
    def test_bytes_are_not_copied(self, write):
        data = write(content())
        found = wl.load(data, mmap="r")
        begin = np.frombuffer(data, "uint8").__array_interface__["data"][0]
        assert begin <= found["large"].__array_interface__["data"][0] < begin + len(data)
        assert not found["large"].flags.writeable
        same(found, content())

    @pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
    @pytest.mark.parametrize("kind", ["bytearray", "mmap"])
    def test_changes_to_what_was_given(self, write, kind):
        raw = write(content())
        data: Any = bytearray(raw)
        if kind == "mmap":
            data = mmap.mmap(-1, len(raw))
            data[:] = raw
        private = wl.load(data, mmap=True)
        private["large"][0] = 9
        rewind = getattr(data, "seek", lambda _: None)  # a mapping is read as a file: from where it stands
        rewind(0)
        read_only = wl.load(data, mmap="r")
        assert not read_only["large"].flags.writeable
        assert bytes(data[:]) == raw
        rewind(0)
        shared = wl.load(data, mmap="shared")
        shared["large"][0] = 9
        assert read_only["large"][0] == 9
        assert wl.load(bytes(data[:]), verify=False)["large"][0] == 9

    def test_private_over_read_only_bytes(self):
        data = saved(content())
        before = bytes(bytearray(data))
        wl.load(data, mmap=True)["large"][0] = 9
        assert data == before

    def test_shared_is_refused_for_read_only_bytes(self):
        with pytest.raises(wl.UnsupportedError, match="read-only"):
            wl.load(saved(content()), mmap="shared")

    def test_shared_is_refused_for_a_file_that_may_not_be_written(self, path, monkeypatch):
        true_open = os.open

        def refuse(name: Any, flags: int, *rest: Any, **options: Any) -> int:
            if flags & os.O_RDWR:
                raise PermissionError(errno.EACCES, "Permission denied")
            return true_open(name, flags, *rest, **options)

        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(wl.UnsupportedError, match="cannot be mapped: Permission denied"):
            wl.load(path, mmap="shared")
        same(wl.load(path, mmap=True), content())

    @pytest.mark.parametrize("mode", [True, "r", "shared"])
    def test_what_cannot_be_mapped(self, tmp_path, mode):
        target = tmp_path / "a.pt"
        target.write_bytes(deflated(saved(content())))
        with pytest.raises(wl.UnsupportedError, match="compressed"):
            wl.load(target, mmap=mode)
        target.write_bytes(old_writers.zip_big_endian())
        with pytest.raises(wl.UnsupportedError, match="big-endian"):
            wl.load(target, mmap=mode)
        data = legacy(content())
        target.write_bytes(data[: len(data) // 2])
        with pytest.raises(wl.TruncatedError):
            wl.load(target, mmap=mode)
        with pytest.raises(wl.UnsupportedError, match="file object"):
            wl.load(io.BytesIO(saved(content())), mmap=mode)

    @pytest.mark.parametrize("mode", ["w", "", 1, "R", b"r"])
    def test_unknown_modes(self, mode):
        with pytest.raises(wl.ArgumentError, match="mmap must be"):
            wl.load(saved(content()), mmap=mode)

    @pytest.mark.parametrize("code", [errno.ENODEV, errno.EACCES])
    def test_a_file_system_without_mappings(self, path, monkeypatch, code):
        def refuse(*_: Any, **__: Any) -> Any:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(mmap, "mmap", refuse)
        with pytest.warns(RuntimeWarning, match="read instead"):
            found = wl.load(path, mmap=True)
        same(found, content())
        found["large"][0] = 5
        with pytest.warns(RuntimeWarning, match="read instead"):
            found = wl.load(path, mmap="r")
        same(found, content())
        assert not found["large"].flags.writeable
        with pytest.raises(wl.UnsupportedError, match="cannot be mapped"):
            wl.load(path, mmap="shared")

    def test_lack_of_memory_is_no_reason_to_read(self, path, monkeypatch):
        def refuse(*_: Any, **__: Any) -> Any:
            raise OSError(errno.ENOMEM, "no memory")

        monkeypatch.setattr(mmap, "mmap", refuse)
        with pytest.raises(wl.UnsupportedError, match="no memory"):
            wl.load(path, mmap=True)

    @pytest.mark.parametrize("mode", [True, "r", "shared"])
    def test_a_mapped_file_that_is_saved_over_is_replaced(self, path, mode):
        mapped = wl.load(path, mmap=mode)
        wl.save({"large": mapped["large"] * 0}, path)
        same(mapped, content())
        if mode == "shared":
            mapped["large"][0] = 77
        assert wl.load(path)["large"].max() == 0


class TestMappingInTorch:
    @pytest.fixture(params=WRITERS)
    def files(self, request: pytest.FixtureRequest, tmp_path: Any) -> list[Any]:
        made = []
        for padding in range(8):
            made.append(tmp_path / f"{padding}.pt")
            obj = {"p" * padding: 1, "a": np.arange(LARGE, dtype="float32"), "b": np.arange(3.0)}
            made[-1].write_bytes(WRITERS[request.param](obj))
        return made

    def test_private(self, torch, files):
        mapped = 0
        for path in files:
            before = path.read_bytes()
            found = wl.load(path, mmap=True, framework="torch")
            assert torch.equal(found["a"], torch.arange(LARGE, dtype=torch.float32))
            assert torch.equal(found["b"], torch.arange(3.0, dtype=torch.float64))
            assert found["a"].data_ptr() % 4 == 0
            mapped += not found["a"].untyped_storage().resizable()
            found["a"][0] = 5
            assert path.read_bytes() == before
        assert mapped

    def test_shared(self, torch, files):
        refused = 0
        for path in files:
            try:
                found = wl.load(path, mmap="shared", framework="torch")
            except wl.UnsupportedError as error:
                refused += "multiple of" in str(error)
                continue
            found["a"][0] = 5
            assert wl.load(path, verify=False)["a"][0] == 5
        assert refused < len(files)

    def test_read_only_is_refused(self, torch, files):
        with pytest.raises(wl.UnsupportedError, match="no read-only tensors"):
            wl.load(files[0], mmap="r", framework="torch")

    def test_a_file_system_without_mappings(self, torch, files, monkeypatch):
        def refuse(*_: Any, **__: Any) -> Any:
            raise OSError(errno.ENODEV, "no such device")

        monkeypatch.setattr(mmap, "mmap", refuse)
        with pytest.warns(RuntimeWarning, match="read instead"):
            found = wl.load(files[0], mmap=True, framework="torch")
        assert torch.equal(found["a"], torch.arange(LARGE, dtype=torch.float32))

    def test_trusted_streams_run_once(self, torch, tmp_path):
        torch.save({"a": torch.arange(LARGE)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
        found = wl.load(tmp_path / "a.pt", mmap=True, framework="torch", weights_only=False)
        assert found["a"][-1] == LARGE - 1

    def test_the_drop_in_refuses_streams_still(self, torch, files, tmp_path):
        import weighlock.torch

        torch.save({"a": torch.arange(LARGE)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
        with pytest.raises(RuntimeError, match="mmap can only be used"):
            weighlock.torch.load(tmp_path / "a.pt", mmap=True)
