"""The modes of `weighlock.load`: mapping, reading into what is there, casting and choosing while reading."""

from __future__ import annotations

import errno
import io
import mmap
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
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


def state() -> dict[str, Any]:
    return {
        "encoder": {"w": np.arange(LARGE, dtype="float32"), "b": np.ones(3, "float64"), "n": np.arange(4)},
        "decoder": {"w": np.full((2, 3), 1.5, "float32")},
        "list": [np.zeros(2, "float32"), "text"],
        "epoch": 3,
    }


@contextmanager
def few_bytes_read(path: Any, monkeypatch: pytest.MonkeyPatch, passes: int = 2) -> Iterator[None]:
    """Check that, beyond what it takes to describe a file (`passes` times), hardly a byte is read from it."""
    counts: list[int] = []
    pread, preadv = os.pread, os.preadv

    def count(read: Any) -> Any:
        def counting(descriptor: int, *arguments: Any) -> Any:
            found = read(descriptor, *arguments)
            counts.append(found if isinstance(found, int) else len(found))
            return found

        return counting

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", count(pread))
        patch.setattr(os, "preadv", count(preadv))
        wl.read_checkpoint(path).close()
        described = sum(counts)
        counts.clear()
        yield
        assert sum(counts) < passes * described + 10_000


FRAMEWORKS = ["numpy", pytest.param("torch", marks=pytest.mark.requires_torch)]


@pytest.fixture(params=WRITERS)
def tree(request: pytest.FixtureRequest, tmp_path: Any) -> Any:
    target = tmp_path / "tree.pt"
    target.write_bytes(WRITERS[request.param](state()))
    return target


@pytest.mark.parametrize("framework", FRAMEWORKS)
class TestSelect:
    def test_glob(self, tree, framework):
        found = wl.load(tree, select="encoder.**", framework=framework)
        assert list(found) == ["encoder", "decoder", "list", "epoch"]
        assert list(found["encoder"]) == ["w", "b", "n"]
        assert np.array_equal(np.asarray(found["encoder"]["w"]), state()["encoder"]["w"])
        assert found["decoder"] == {}
        assert found["list"][1] == "text"
        assert tuple(found["list"][0].shape) == (2,)
        assert found["epoch"] == 3

    def test_several_and_functions(self, tree, framework):
        for select in (["*.b", "decoder.w"], lambda key: key in {"encoder.b", "decoder.w"}):
            found = wl.load(tree, select=select, framework=framework)
            assert list(found["encoder"]) == ["b"]
            assert np.asarray(found["decoder"]["w"]).tolist() == [[1.5] * 3] * 2

    def test_only_what_matches_is_read(self, tree, framework, monkeypatch):
        with few_bytes_read(tree, monkeypatch):
            wl.load(tree, select="decoder.**", framework=framework)

    def test_mapped(self, tree, framework):
        found = wl.load(tree, select="encoder.w", mmap=True, framework=framework)
        assert list(found["encoder"]) == ["w"]
        assert np.array_equal(np.asarray(found["encoder"]["w"]), state()["encoder"]["w"])

    def test_nothing_matches(self, tree, framework):
        with pytest.raises(wl.ArgumentError, match=r"matches no tensor.*encoder\.w"):
            wl.load(tree, select="nothing.**", framework=framework)

    def test_wrong_arguments(self, tree, framework):
        with pytest.raises(wl.ArgumentError, match="select must be"):
            wl.load(tree, select=3, framework=framework)  # type: ignore[arg-type]
        with pytest.raises(wl.ConflictError, match="weights_only"):
            wl.load(tree, select="**", weights_only=False, framework=framework)


@pytest.mark.parametrize("framework", FRAMEWORKS)
class TestDtype:
    def test_one_for_all(self, tree, framework):
        found = wl.load(tree, dtype="float16", framework=framework)
        for path in (("encoder", "w"), ("encoder", "b"), ("decoder", "w"), ("list", 0)):
            array = found[path[0]][path[1]]
            assert str(array.dtype).removeprefix("torch.") == "float16"
            assert np.array_equal(np.asarray(array), state()[path[0]][path[1]].astype("float16"))
        assert str(found["encoder"]["n"].dtype).removeprefix("torch.") == "int64"

    def test_by_key(self, tree, framework):
        by_glob = wl.load(tree, dtype={"*.w": "float64", "encoder.*": np.float32}, framework=framework)
        by_function = wl.load(
            tree, framework=framework,
            dtype=lambda key, own: {"float32": "float64", "float64": "float32"}[own] if key != "list.0" else None,
        )  # fmt: skip
        for found in (by_glob, by_function):
            types = [str(found[a][b].dtype).removeprefix("torch.") for a, b in
                     (("encoder", "w"), ("encoder", "b"), ("decoder", "w"), ("list", 0))]  # fmt: skip
            assert types == ["float64", "float32", "float64", "float32"]
            assert np.array_equal(np.asarray(found["encoder"]["w"]), state()["encoder"]["w"])

    @pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
    def test_aliases_stay(self, framework, write):
        base = np.arange(LARGE, dtype="float32") % 100
        data = write({"a": base, "part": base[10:20], "turned": base.reshape(200, -1).T, "again": base})
        found = wl.load(data, dtype="float16", framework=framework)
        found["a"][10] = 7
        assert found["part"][0] == found["again"][10] == found["turned"][10, 0] == 7
        assert np.array_equal(np.asarray(found["turned"])[20:], base.reshape(200, -1).T[20:].astype("float16"))

    def test_with_select(self, tree, framework, monkeypatch):
        with few_bytes_read(tree, monkeypatch):
            found = wl.load(tree, select="decoder.**", dtype="float64", framework=framework)
        assert np.asarray(found["decoder"]["w"]).tolist() == [[1.5] * 3] * 2
        assert np.asarray(found["decoder"]["w"]).dtype == "float64"

    def test_other_byte_order(self, framework):
        data = old_writers.zip_big_endian()
        plain = wl.load(data, framework=framework)
        found = wl.load(data, dtype="float64", framework=framework)
        for key, value in plain.items():
            if hasattr(value, "dtype") and "float" in str(value.dtype):
                assert np.array_equal(np.asarray(found[key]), np.asarray(value).astype("float64"))

    def test_damage_is_found(self, tree, framework, tmp_path):
        data = bytearray(saved({"a": np.arange(LARGE, dtype="float32")}))
        data[len(data) // 2] ^= 1
        with pytest.raises(wl.ChecksumError):
            wl.load(bytes(data), dtype="float64", framework=framework)

    @pytest.mark.parametrize("wrong", ["int8", "float33", {"*": "bool"}])
    def test_wrong_arguments(self, tree, framework, wrong):
        with pytest.raises(wl.ArgumentError):
            wl.load(tree, dtype=wrong, framework=framework)
        with pytest.raises(wl.ConflictError, match="mapped"):
            wl.load(tree, dtype="float16", mmap=True, framework=framework)


def empty_like(obj: Any) -> Any:
    if isinstance(obj, dict):
        return {key: empty_like(value) for key, value in obj.items()}
    if isinstance(obj, list):
        return [empty_like(value) for value in obj]
    return np.zeros_like(obj) if isinstance(obj, np.ndarray) else obj


class TestInto:
    def test_trees_of_arrays(self, tree):
        target = empty_like(state())
        kept = target["encoder"]["w"]
        result = wl.load(tree, into=target)
        assert repr(result) == "<All keys matched successfully>"
        assert target["encoder"]["w"] is kept
        assert np.array_equal(kept, state()["encoder"]["w"])
        assert np.array_equal(target["encoder"]["n"], state()["encoder"]["n"])
        assert target["decoder"]["w"].tolist() == [[1.5] * 3] * 2

    def test_objects(self, tmp_path):
        class Net:
            def __init__(self) -> None:
                self.weight = np.zeros((2, 3), "float32")
                self.layers = [np.zeros(2)]

        net = Net()
        wl.save({"weight": np.ones((2, 3), "float32"), "layers.0": np.ones(2)}, tmp_path / "a.pt")
        wl.load(tmp_path / "a.pt", into=net)
        assert net.weight.sum() == 6
        assert net.layers[0].sum() == 2

    def test_the_state_dict_inside_of_a_checkpoint(self, tmp_path):
        wl.save({"epoch": 1, "model": {"w": np.ones(3)}}, tmp_path / "a.pt")
        target = {"w": np.zeros(3)}
        wl.load(tmp_path / "a.pt", into=target)
        assert target["w"].tolist() == [1, 1, 1]

    def test_other_types_and_strides(self, tree):
        target = empty_like(state())
        target["encoder"]["w"] = np.zeros(LARGE * 2, "float64")[::2]
        target["decoder"]["w"] = np.zeros((3, 2), "float32").T
        target["encoder"]["b"] = np.zeros(3, ">f8")
        result = wl.load(tree, into=target)
        assert {entry.key for entry in result.mismatched} == {"encoder.w", "encoder.b"}
        assert np.array_equal(target["encoder"]["w"], np.arange(LARGE))
        assert (target["decoder"]["w"] == 1.5).all()
        assert target["encoder"]["b"].tolist() == [1, 1, 1]

    @pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
    def test_views_of_one_storage(self, write):
        base = np.arange(LARGE, dtype="float32")
        data = write({"a": base, "b": base[5:8], "c": base.reshape(200, -1).T})
        target = {"a": np.zeros(LARGE, "float32"), "b": np.zeros(3, "float32"), "c": np.zeros((200, 200), "float32")}
        wl.load(data, into=target)
        assert np.array_equal(target["a"], base)
        assert target["b"].tolist() == [5, 6, 7]
        assert np.array_equal(target["c"], base.reshape(200, -1).T)

    def test_nothing_is_written_where_anything_is_wrong(self, tree):
        for key, wrong in (("w", np.zeros(5, "float32")), ("b", np.zeros(3, "int64")), ("more", np.zeros(2))):
            target = empty_like(state())
            target["encoder"][key] = wrong
            with pytest.raises(wl.StateDictError):
                wl.load(tree, into=target)
            assert not any(value.any() for value in target["encoder"].values())
        target = empty_like(state())
        target["decoder"]["w"].flags.writeable = False
        with pytest.raises(wl.StateDictError, match="read-only"):
            wl.load(tree, into=target)
        assert not target["encoder"]["w"].any()

    def test_not_strict(self, tree):
        target: Any = {"encoder": {"b": np.zeros(3)}, "other": np.zeros(1)}
        with pytest.raises(wl.StateDictMismatchError, match="missing"):
            wl.load(tree, into=target)
        result = wl.load(tree, into=target, strict=False)
        assert result.missing_keys == ["other"]
        assert "decoder.w" in result.unexpected_keys
        assert target["encoder"]["b"].tolist() == [1, 1, 1]

    def test_with_select(self, tree, monkeypatch):
        target = empty_like(state())
        with few_bytes_read(tree, monkeypatch, passes=1):
            wl.load(tree, into=target, select="decoder.*")
        assert (target["decoder"]["w"] == 1.5).all()
        assert not target["encoder"]["w"].any()

    def test_damage_is_found(self):
        data = bytearray(saved({"a": np.arange(LARGE, dtype="float32")}))
        data[len(data) // 2] ^= 1
        target = {"a": np.zeros(LARGE, "float32")}
        with pytest.raises(wl.ChecksumError):
            wl.load(bytes(data), into=target)
        wl.load(bytes(data), into=target, verify=False)
        assert target["a"][1] == 1

    def test_compressed_and_big_endian(self):
        for data in (deflated(saved(state())), old_writers.zip_big_endian()):
            plain = wl.load(data)
            target = empty_like(plain)
            wl.load(data, into=target, strict=False)
            assert repr(target) == repr(plain)

    def test_file_objects_stand_behind_the_checkpoint(self):
        one = legacy({"a": np.ones(3)})
        file = io.BytesIO(one + legacy({"a": np.full(3, 2.0)}))
        target = {"a": np.zeros(3)}
        wl.load(file, into=target)
        assert file.tell() == len(one)
        wl.load(file, into=target)
        assert target["a"].tolist() == [2, 2, 2]

    @pytest.mark.parametrize("options", [{"mmap": True}, {"dtype": "float16"}, {"map_location": "cpu"}])
    def test_what_has_no_meaning_with_it(self, tree, options):
        with pytest.raises(wl.ConflictError, match="no meaning"):
            wl.load(tree, into=empty_like(state()), **options)

    def test_nothing_to_fill(self, tree):
        with pytest.raises(wl.StateDictError, match="nothing to fill"):
            wl.load(tree, into={"epoch": 3})


class TestIntoTorch:
    @pytest.fixture(params=[True, False], ids=["zip", "legacy"])
    def model(self, request: pytest.FixtureRequest, torch: Any, tmp_path: Any) -> Any:
        torch.manual_seed(0)
        made = torch.nn.Sequential(torch.nn.Linear(200, 300), torch.nn.BatchNorm1d(300), torch.nn.Linear(300, 2))
        torch.save(made.state_dict(), tmp_path / "a.pt", _use_new_zipfile_serialization=request.param)
        return made, tmp_path / "a.pt"

    def fresh(self, torch: Any) -> Any:
        return torch.nn.Sequential(torch.nn.Linear(200, 300), torch.nn.BatchNorm1d(300), torch.nn.Linear(300, 2))

    def test_modules(self, torch, model):
        saved_model, path = model
        target = self.fresh(torch)
        addresses = [parameter.data_ptr() for parameter in target.parameters()]
        versions = [parameter._version for parameter in target.parameters()]
        result = wl.load(path, into=target, framework="torch")
        assert repr(result) == "<All keys matched successfully>"
        assert addresses == [parameter.data_ptr() for parameter in target.parameters()]
        assert all(new._version > old for new, old in zip(target.parameters(), versions, strict=True))
        for key, value in saved_model.state_dict().items():
            assert torch.equal(target.state_dict()[key], value)
        assert all(parameter.requires_grad and parameter.is_leaf for parameter in target.parameters())

    def test_other_types(self, torch, model):
        saved_model, path = model
        target = self.fresh(torch).to(torch.bfloat16)
        wl.load(path, into=target)
        assert torch.equal(target[0].weight, saved_model[0].weight.to(torch.bfloat16))

    def test_state_dicts_and_strides(self, torch, model):
        saved_model, path = model
        target = {key: torch.zeros_like(value) for key, value in saved_model.state_dict().items()}
        target["0.weight"] = torch.zeros(200, 300).t()
        wl.load(path, into=target)
        for key, value in saved_model.state_dict().items():
            assert torch.equal(target[key], value)

    def test_mismatch(self, torch, model):
        _, path = model
        target = torch.nn.Sequential(torch.nn.Linear(200, 300), torch.nn.BatchNorm1d(300), torch.nn.Linear(300, 3))
        before = {key: value.clone() for key, value in target.state_dict().items()}
        with pytest.raises(RuntimeError, match=r"2\.weight"):
            wl.load(path, into=target)
        for key, value in target.state_dict().items():
            assert torch.equal(before[key], value)

    def test_what_takes_part_itself(self, torch, model):
        _, path = model
        target = self.fresh(torch)
        target.register_load_state_dict_pre_hook(lambda *_: None)
        with pytest.raises(wl.UnsupportedError, match="code of its own"):
            wl.load(path, into=target)
        with pytest.raises(wl.UnsupportedError, match="optimizer"):
            wl.load(path, into=torch.optim.SGD(self.fresh(torch).parameters()))
        with pytest.raises(wl.StateDictError, match="memory"):
            wl.load(path, into=self.fresh(torch).to("meta"))

    @pytest.mark.parametrize("name", ["complex64", "bool", "float8_e4m3fn", "bfloat16", "uint16"])
    def test_every_kind_of_element(self, torch, tmp_path, name):
        value = torch.arange(7).to(getattr(torch, name))
        torch.save({"v": value}, tmp_path / "a.pt")
        target = {"v": torch.zeros(7).to(value.dtype)}
        wl.load(tmp_path / "a.pt", into=target)
        assert torch.equal(target["v"].view(torch.uint8), value.view(torch.uint8))

    def test_conjugates_and_negatives(self, torch, tmp_path):
        value = torch.tensor([1 + 2j, 3 - 1j]).conj()
        for name, part in (("conj", value), ("neg", value.imag)):
            torch.save({"v": part}, tmp_path / name)
            expected = part.resolve_conj().resolve_neg().numpy()
            for target in ({"v": torch.zeros(2, dtype=part.dtype)}, {"v": np.zeros(2, expected.dtype)}):
                wl.load(tmp_path / name, into=target)
                assert np.array_equal(np.asarray(target["v"]), expected)


class TestChosenLeaves:
    """What is more than a strided tensor, and places other than the CPU's memory."""

    @pytest.mark.parametrize("framework", ["numpy", "torch"])
    def test_tensors_of_several_parts(self, torch, tmp_path, framework):
        parameter = torch.nn.Parameter(torch.ones(3, 2))
        torch.save({"p": parameter, "s": torch.eye(3).to_sparse()}, tmp_path / "a.pt")
        found = wl.load(tmp_path / "a.pt", dtype="float16", framework=framework)
        assert str(found["p"].dtype).endswith("float16")
        assert getattr(found["p"], "requires_grad", True)
        assert list(wl.load(tmp_path / "a.pt", select="p", framework=framework)) == ["p"]
        assert list(wl.load(tmp_path / "a.pt", select="s", dtype="float16", framework=framework)) == ["s"]

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_places(self, tree, framework):
        found = wl.load(tree, select="*.w", dtype="float16", map_location="meta", framework=framework)
        assert tuple(found["encoder"]["w"].shape) == (LARGE,)
        assert str(found["encoder"]["w"].dtype).removeprefix("torch.") == "float16"
        asked: list[str] = []

        def place(storage: Any, location: str) -> Any:
            asked.append(location)
            return storage

        found = wl.load(tree, select="*.w", dtype="float16", map_location=place, framework=framework)
        assert np.array_equal(np.asarray(found["encoder"]["w"]), state()["encoder"]["w"].astype("float16"))
        assert asked == ["cpu", "cpu"]

    def test_files_of_several_parts(self, tmp_path):
        weights = {f"l{index}.w": np.arange(50_000, dtype="float32") + index for index in range(4)}
        wl.save(weights, tmp_path / "model.safetensors", format="safetensors", max_shard_size="300KB")
        assert len(list(tmp_path.iterdir())) > 2
        found = wl.load(tmp_path, select="l[12].*", dtype="float64")
        assert list(found) == ["l1.w", "l2.w"]
        assert np.array_equal(found["l2.w"], weights["l2.w"])
        target = {key: np.zeros_like(value) for key, value in weights.items()}
        wl.load(tmp_path, into=target)
        assert all(np.array_equal(target[key], value) for key, value in weights.items())
        assert not wl.load(tmp_path, mmap="r")["l0.w"].flags.writeable
        wl.load(tmp_path, mmap="shared")["l3.w"][0] = -1
        assert wl.load(tmp_path)["l3.w"][0] == -1


PEAK = """
import resource, sys
import numpy as np
import weighlock as wl
if {torch}:
    import torch
wl.load({small!r}, {options})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
target = {target}
before = max(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
kept = wl.load({large!r}, {options})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.fixture(scope="module")
def large_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("peak")
    for name, rows in (("small", 1), ("large", 1 << 12)):
        wl.save({f"t{index}": np.ones((rows, 1 << 10), "float32") for index in range(10)}, folder / name)
    return str(folder / "small"), str(folder / "large")


class TestPeakMemory:
    """A file of ten tensors of 16 MiB: what is kept and one tensor, not the file."""

    def measure(self, files: tuple[str, str], options: str, target: str = "None", *, torch: bool = False) -> int:
        code = PEAK.format(small=files[0], large=files[1], options=options, target=target, torch=torch)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
        return int(done.stdout)

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_dtype(self, large_files, framework):
        options = f"dtype='float16', framework={framework!r}"
        assert self.measure(large_files, options, torch=framework == "torch") < 80 + 16 + 24  # MiB

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_select(self, large_files, framework):
        options = f"select=['t3'], framework={framework!r}"
        assert self.measure(large_files, options, torch=framework == "torch") < 16 + 24

    def test_into(self, large_files):
        code = "{f't{i}': np.ones((1 << 12, 1 << 10), 'float32') for i in range(10)}"
        options = "**({} if 'target' not in globals() else {'into': target})"
        assert self.measure(large_files, options, code) < 24
        assert self.measure(large_files, options, code.replace("float32", "float64")) < 16 + 24
