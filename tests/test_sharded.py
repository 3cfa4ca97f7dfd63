"""State_dicts in several files with an index: written as transformers names them, read whole and piece by piece."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import weighlock as wl
from tests.range_server import RangeServer
from tests.test_deepspeed import write_stage_2
from weighlock.backends.numpy_flat import flat_leaf
from weighlock.cli import run
from weighlock.errors import (
    ArgumentError,
    CheckpointError,
    DamagedError,
    MissingFileError,
    MissingFolderError,
    NotACheckpointError,
    SourceError,
    UnsupportedTypeError,
)
from weighlock.inspection.values import read_values
from weighlock.sharding import save_shards, size_in_bytes, split
from weighlock.storages.folders import FolderSource, LocalFolder, check_name

KB = 1000


def state_dict(count=10):
    """Tensors of 4,000 bytes, two of them the same."""
    made = {f"layers.{number}.weight": np.full((100, 10), number, "float32") for number in range(count)}
    made["tied"] = made["layers.3.weight"]
    return made


def names_in(folder):
    return sorted(os.listdir(folder))


def index_of(folder, name="pytorch_model.bin.index.json"):
    return json.loads((folder / name).read_text())


class TestSizes:
    @pytest.mark.parametrize(
        ("size", "count"),
        [(7, 7), ("5GB", 5 * 10**9), ("1.5 MiB", 1_572_864), ("10kb", 10_000), ("3 B", 3), ("2TB", 2 * 10**12)],
    )
    def test_size(self, size, count):
        assert size_in_bytes(size) == count

    @pytest.mark.parametrize("size", [0, -1, True, "", "GB", "5XB", "-5GB", "0.1", None, "1e9", "9" * 50])
    def test_no_size(self, size):
        with pytest.raises(ArgumentError):
            size_in_bytes(size)

    # The results of huggingface_hub.split_torch_state_dict_into_shards for tensors of these bytes.
    @pytest.mark.parametrize(
        ("sizes", "most", "shards"),
        [
            ([6, 6, 2, 6, 2, 2], 10, [[0], [1, 2], [3, 4, 5]]),
            ([1, 1, 1], 10, [[0, 1, 2]]),
            ([20, 1, 20, 1], 10, [[0], [2], [1, 3]]),
            ([5, 5, 5], 5, [[0], [1], [2]]),
            ([3, 20, 3, 5], 10, [[1], [0, 2], [3]]),
            ([0, 0], 10, [[0, 1]]),
        ],
    )
    def test_as_huggingface_hub(self, sizes, most, shards):
        made = {str(number): np.zeros(size, "uint8") for number, size in enumerate(sizes)}
        found = split(made, most, flat_leaf)
        assert found.names == [[str(number) for number in shard] for shard in shards]
        assert found.total_size == sum(sizes)


class TestWriting:
    def test_layout(self, tmp_path):
        wl.save(state_dict(), tmp_path, max_shard_size=9 * KB)
        files = [f"pytorch_model-{number:05d}-of-00005.bin" for number in range(1, 6)]
        assert names_in(tmp_path) == [*files, "pytorch_model.bin.index.json"]
        index = index_of(tmp_path)
        assert index["metadata"] == {"total_size": 40 * KB}
        assert index["weight_map"]["layers.0.weight"] == files[0]
        assert index["weight_map"]["tied"] == index["weight_map"]["layers.3.weight"] == files[1]
        assert list(index["weight_map"]) == sorted(index["weight_map"])
        for file in files:
            assert set(wl.load(tmp_path / file)) == {key for key, place in index["weight_map"].items() if place == file}

    def test_torch_reads_each_file(self, torch, tmp_path):
        tensors = {key: torch.from_numpy(value) for key, value in state_dict().items()}
        wl.save(tensors, tmp_path / "m.bin", max_shard_size="9KB", framework="torch")
        found: dict = {}
        for file in sorted(set(index_of(tmp_path, "m.bin.index.json")["weight_map"].values())):
            found |= torch.load(tmp_path / file, weights_only=True)
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[key], value) for key, value in tensors.items())

    def test_safetensors(self, tmp_path):
        package = pytest.importorskip("safetensors")
        wl.save(state_dict(), tmp_path, format="safetensors", max_shard_size="9KB")
        assert names_in(tmp_path)[0] == "model-00001-of-00005.safetensors"
        index = index_of(tmp_path, "model.safetensors.index.json")
        for file in set(index["weight_map"].values()):
            with package.safe_open(tmp_path / file, "numpy") as opened:
                assert opened.metadata()["format"] == "pt"
                assert set(opened.keys()) == {key for key, place in index["weight_map"].items() if place == file}

    def test_one_file_is_enough(self, tmp_path):
        wl.save(state_dict(), tmp_path, max_shard_size="1GB")
        assert names_in(tmp_path) == ["pytorch_model.bin"]

    def test_what_an_earlier_save_left(self, tmp_path):
        (tmp_path / "other.bin").write_bytes(b"mine")
        (tmp_path / "pytorch_model-extra.bin").write_bytes(b"mine")
        wl.save(state_dict(10), tmp_path, max_shard_size="9KB")
        wl.save(state_dict(5), tmp_path, max_shard_size="9KB")
        assert [name for name in names_in(tmp_path) if "-of-" in name] == [
            f"pytorch_model-0000{number}-of-00003.bin" for number in (1, 2, 3)
        ]
        assert len(wl.load(tmp_path)) == 6
        wl.save(state_dict(5), tmp_path, max_shard_size="1GB", durable=True)
        assert names_in(tmp_path) == ["other.bin", "pytorch_model-extra.bin", "pytorch_model.bin"]
        wl.save(state_dict(5), tmp_path, max_shard_size="9KB", durable=True)
        assert "pytorch_model.bin" not in names_in(tmp_path)

    def test_a_failed_save_changes_nothing(self, tmp_path, monkeypatch):
        wl.save(state_dict(10), tmp_path, max_shard_size="9KB")
        before = {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)}
        with pytest.raises(UnsupportedTypeError):
            wl.save({**state_dict(10), "bad": np.array(["x"])}, tmp_path, max_shard_size="9KB")
        real, calls = os.replace, []

        def fail(source, target):
            calls.append(target)
            if len(calls) == 4:
                raise OSError(28, "No space left on device")
            real(source, target)

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(wl.SaveError):
            wl.save(state_dict(10), tmp_path, max_shard_size="9KB")
        assert {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)} == before

    def test_an_interrupted_exchange_leaves_no_index(self, tmp_path, monkeypatch):
        """Files of two saves never look like one set."""
        wl.save(state_dict(10), tmp_path, max_shard_size="9KB")
        real = os.replace

        def fail(source, target):
            if os.path.basename(target) == "pytorch_model-00002-of-00005.bin":
                raise OSError(5, "Input/output error")
            real(source, target)

        monkeypatch.setattr(os, "replace", fail)
        changed = state_dict(10)
        changed["layers.0.weight"] += 1
        with pytest.raises(wl.SaveError):
            wl.save(changed, tmp_path, max_shard_size="9KB")
        assert not [name for name in names_in(tmp_path) if name.endswith((".json", "-tmp", "-part"))]

    def test_two_saves_at_once(self, tmp_path):
        """The one that ends first took the unfinished parts of the other for a killed process's, and removed them."""
        earlier, later = state_dict(5), {name: value + 100 for name, value in state_dict(10).items()}
        later["tied"] = later["layers.3.weight"]
        saved = []

        def save(part, path):
            wl.save(part, path)
            saved.append(path)
            if len(saved) == 3:
                wl.save(earlier, tmp_path, max_shard_size="9KB")
                assert len(wl.load(tmp_path)) == 6

        save_shards(later, str(tmp_path), "9KB", "torch-zip", flat_leaf, save, durable=False)
        assert sorted(wl.load(tmp_path)) == sorted(later)
        assert (wl.load(tmp_path)["layers.9.weight"] == 109).all()
        assert len(names_in(tmp_path)) == 6

    def test_two_processes_at_once(self, tmp_path):
        program = (
            "import sys, numpy, weighlock\n"
            "fill, folder = float(sys.argv[1]), sys.argv[2]\n"
            "obj = {f'w{n}': numpy.full(1000, fill, 'f4') for n in range(12 - int(fill))}\n"
            "for _ in range(15): weighlock.save(obj, folder, max_shard_size='9KB')\n"
        )
        running = [
            subprocess.Popen([sys.executable, "-c", program, fill, tmp_path], stderr=subprocess.PIPE, text=True)
            for fill in "0123"
        ]
        errors = [process.communicate(timeout=60)[1] for process in running]
        assert errors == ["", "", "", ""]
        values = {float(value[0]) for value in wl.load(tmp_path).values()}
        assert len(values) == 1
        assert len(wl.load(tmp_path)) == 12 - values.pop()
        assert not [name for name in names_in(tmp_path) if name.startswith(".")]

    @pytest.mark.parametrize("format", ["torch-zip", "safetensors"])
    def test_a_folder_that_is_not_there(self, tmp_path, format):
        """The files were called ``new-00001-of-00005``, beside the place where the folder was wanted."""
        with pytest.raises(MissingFolderError, match="Create it first"):
            wl.save(state_dict(), f"{tmp_path}/new/", format=format, max_shard_size="9KB")
        assert names_in(tmp_path) == []

    @pytest.mark.parametrize("obj", [[np.zeros(1)], {"a": {"b": np.zeros(1)}}, {"a": 1}, {1: np.zeros(1)}])
    def test_only_flat_ones(self, obj, tmp_path):
        with pytest.raises(UnsupportedTypeError):
            wl.save(obj, tmp_path, max_shard_size=1)

    def test_needs_a_path(self):
        with pytest.raises(ArgumentError, match="path"):
            wl.save({}, io.BytesIO(), max_shard_size=1)


@pytest.fixture(params=["torch-zip", "torch-legacy", "safetensors"])
def folder(request, tmp_path):
    wl.save(state_dict(), tmp_path / "model.bin", format=request.param, max_shard_size="9KB")
    return tmp_path


class TestReading:
    @pytest.mark.parametrize("by", ["folder", "index"])
    @pytest.mark.parametrize("mmap", [False, True])
    def test_load(self, folder, by, mmap):
        if mmap and any(b"\x80\x02\x8a\x0a" in (folder / name).read_bytes()[:10] for name in names_in(folder)):
            pytest.skip("a legacy stream is never mapped")
        made = wl.load(folder if by == "folder" else folder / "model.bin.index.json", mmap=mmap)
        assert made.keys() == state_dict().keys()
        assert all(np.array_equal(made[key], value) for key, value in state_dict().items())
        assert np.shares_memory(made["tied"], made["layers.3.weight"])

    def test_with_torch(self, torch, folder):
        made = wl.load(folder, framework="torch")
        assert made["layers.7.weight"][0, 0] == 7
        assert made["tied"].data_ptr() == made["layers.3.weight"].data_ptr()

    @pytest.mark.parametrize("format", ["torch-zip", "safetensors"])
    @pytest.mark.parametrize("framework", ["numpy", "torch"])
    def test_many_small_tensors(self, request, tmp_path, format, framework):
        """Tensors that are made many at once are read when all files were described: each reader must live so long."""
        if framework == "torch":
            request.getfixturevalue("torch")
        made = {f"t{number}": np.full((2, 2), number, "float32") for number in range(2000)}
        wl.save(made, tmp_path, format=format, max_shard_size="10KB")
        found = wl.load(tmp_path, framework=framework)
        assert all(np.array_equal(np.asarray(found[key]), value) for key, value in made.items())

    def test_described(self, folder):
        with wl.read_checkpoint(folder) as checkpoint:
            assert checkpoint.format == "sharded"
            assert checkpoint.metadata["files"] == 5
            assert checkpoint.metadata["stored_size"] == checkpoint.metadata["total_size"] == 40 * KB
            assert "not_in_index" not in checkpoint.metadata or checkpoint.metadata["not_in_index"] == ["tied"]
            assert checkpoint.size == sum((folder / name).stat().st_size for name in names_in(folder))
            values = read_values(checkpoint, checkpoint.object["layers.7.weight"], (slice(2), 3))
            assert values.nested() == [7.0, 7.0]
        with pytest.raises(SourceError, match="closed"):
            checkpoint.storage_bytes(checkpoint.object["layers.7.weight"].ref)

    def test_few_files_are_open(self, tmp_path):
        wl.save(state_dict(60), tmp_path, max_shard_size=4 * KB)
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        with wl.read_checkpoint(tmp_path) as checkpoint:
            for number in range(60):
                checkpoint.storage_bytes(checkpoint.object[f"layers.{number}.weight"].ref, 0, 4)
            if before:
                assert len(os.listdir("/proc/self/fd")) <= before + 9
        if before:
            assert len(os.listdir("/proc/self/fd")) <= before + 1

    def test_an_index_without_its_folder(self, folder):
        with pytest.raises(NotACheckpointError, match="beside"):
            wl.load((folder / "model.bin.index.json").read_bytes())

    def test_several_sets(self, folder):
        (folder / "other.index.json").write_text("{}")
        with pytest.raises(NotACheckpointError, match="several"):
            wl.load(folder)
        (folder / "model.safetensors.index.json").write_bytes((folder / "model.bin.index.json").read_bytes())
        assert len(wl.load(folder)) == 11

    def test_a_file_that_changes_meanwhile(self, folder):
        source = FolderSource(LocalFolder(folder))
        part = source.part(names_in(folder)[0])
        source.close()
        assert part.size
        source = FolderSource(LocalFolder(folder))
        parts = [source.part(name) for name in names_in(folder)]
        for opened in list(source._open.values()):
            opened[0].close()
        source._open.clear()
        with open(parts[0].name, "ab") as file:
            file.write(b"more")
        with pytest.raises(SourceError, match="changed"):
            parts[0].read_at(0, 1)
        source.close()


def rewrite(folder, change):
    path = folder / "model.bin.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


class TestDamage:
    def test_missing_files(self, folder):
        (folder / names_in(folder)[0]).unlink()
        (folder / names_in(folder)[0]).unlink()
        with pytest.raises(MissingFileError, match="2 of the 5 files.*00001-of-00005") as caught:
            wl.load(folder)
        assert isinstance(caught.value, FileNotFoundError)

    def test_extra_files_are_noted(self, folder):
        name = names_in(folder)[0].replace("of-00005", "of-00009")
        (folder / name).write_bytes(b"")
        with wl.read_checkpoint(folder) as checkpoint:
            assert checkpoint.metadata["files_not_in_index"] == [name]

    def test_a_tensor_in_the_wrong_file(self, folder):
        rewrite(folder, lambda index: index["weight_map"].update({
            "layers.0.weight": index["weight_map"]["layers.9.weight"]}))  # fmt: skip
        with pytest.raises(DamagedError, match=r"another file.*layers\.0\.weight"):
            wl.load(folder)

    def test_a_tensor_that_is_not_there(self, folder):
        rewrite(folder, lambda index: index["weight_map"].update({"more": index["weight_map"]["layers.0.weight"]}))
        with pytest.raises(DamagedError, match="more"):
            wl.load(folder)

    def test_a_tensor_that_the_index_does_not_name(self, folder):
        rewrite(folder, lambda index: index["weight_map"].pop("layers.0.weight"))
        with wl.read_checkpoint(folder) as checkpoint:
            assert "layers.0.weight" in checkpoint.metadata["not_in_index"]
            assert "layers.0.weight" in checkpoint.object

    def test_another_total(self, folder):
        rewrite(folder, lambda index: index["metadata"].update(total_size=1))
        with wl.read_checkpoint(folder) as checkpoint:
            assert (checkpoint.metadata["total_size"], checkpoint.metadata["stored_size"]) == (1, 40 * KB)

    def test_one_tensor_in_two_files(self, tmp_path):
        wl.save({"a": np.zeros(1)}, tmp_path / "x.bin")
        wl.save({"a": np.zeros(1), "b": np.zeros(1)}, tmp_path / "y.bin")
        (tmp_path / "m.index.json").write_text('{"weight_map": {"b": "y.bin", "c": "x.bin"}}')
        with pytest.raises(DamagedError, match="another file"):
            wl.load(tmp_path)

    @pytest.mark.parametrize("name", ["../x.bin", "/etc/passwd", "a/../../x", "..", ".", "", "C:\\x", "a\\..\\x", "a\0",
                                      3, None, ["x"], "x" * 5000, "./x", "a//b"])  # fmt: skip
    def test_names_that_lead_outside(self, folder, name):
        with pytest.raises(DamagedError):
            check_name(name)
        rewrite(folder, lambda index: index["weight_map"].update({"layers.0.weight": name}))
        for read in (wl.load, wl.read_checkpoint):
            with pytest.raises(DamagedError):
                read(folder)

    @pytest.mark.parametrize(
        "text",
        ["", "{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": 3}', '{"weight_map": {"a": "x", "a": "y"}}',
         "[" * 100_000, '{"weight_map": {"a": "m.index.json"}}'],
    )  # fmt: skip
    def test_no_index(self, text, tmp_path):
        (tmp_path / "m.index.json").write_text(text)
        with pytest.raises(CheckpointError):
            wl.load(tmp_path)

    def test_a_part_that_is_no_dictionary(self, tmp_path):
        wl.save([1], tmp_path / "x.bin")
        (tmp_path / "m.index.json").write_text('{"weight_map": {"a": "x.bin"}}')
        with pytest.raises(DamagedError, match="dictionary"):
            wl.load(tmp_path)

    def test_a_damaged_part_is_named(self, folder):
        name = names_in(folder)[2]
        data = bytearray((folder / name).read_bytes())
        (folder / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(CheckpointError) as caught:
            wl.load(folder)
        assert name in str(caught.value)


class TestWholeFiles:
    """A whole state_dict in a folder: transformers asks for it before it asks for an index of the same name."""

    ORDER = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

    @pytest.fixture
    def folder(self, tmp_path):
        """Each of the four, and a tensor that says which one it came from."""
        for name, form in (("model.safetensors", "safetensors"), ("pytorch_model.bin", "torch-zip")):
            wl.save({"origin": np.array([self.ORDER.index(name)])}, tmp_path / name, format=form)
            part, index = f"part-of-{name}", f"{name}.index.json"
            wl.save({"origin": np.array([self.ORDER.index(index)])}, tmp_path / part, format=form)
            (tmp_path / index).write_text(json.dumps({"weight_map": {"origin": part}}))
        return tmp_path

    def test_the_order(self, folder):
        for number, name in enumerate(self.ORDER):
            assert wl.load(folder)["origin"].tolist() == [number]
            with wl.open_checkpoint(folder) as ckpt:
                assert ckpt["origin"][:1].tolist() == [number]
            (folder / name).unlink()

    def test_the_index_by_its_name(self, folder):
        assert wl.load(folder / self.ORDER[1])["origin"].tolist() == [1]

    def test_the_order_on_a_web_server(self, folder):
        held = {f"m/{path.name}": path.read_bytes() for path in folder.iterdir()}
        with RangeServer(**held) as server:
            for number, name in enumerate(self.ORDER):
                server.forget()
                assert wl.load(f"{server.url}/m/")["origin"].tolist() == [number]
                asked = [request.path for request in server.requests]
                assert len(asked) == len(set(asked))
                del server.files[f"/m/{name}"]
            with pytest.raises(wl.UnsupportedError, match="no list of the files"):
                wl.load(f"{server.url}/m/")

    def test_all_that_can_be_asked_of_it(self, tmp_path, capfd):
        folder = tmp_path / "model"
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        weights = {"w": np.arange(10_000.0), "v": np.ones((3, 4), "f4")}
        wl.save(weights, folder / "model.safetensors", format="safetensors")
        assert np.array_equal(wl.load(folder, mmap=True)["w"], weights["w"])
        with wl.open_checkpoint(folder) as ckpt:
            assert ckpt.format == "safetensors"
            assert sum(row.nbytes for row in ckpt.layout) == ckpt.size
        for line in (["ls"], ["inspect"], ["layout"], ["digest"], ["stats"], ["verify"], ["scan"]):
            assert run([*line, str(folder)]) == 0, line
        assert run(["show", str(folder), "v[0]"]) == 0
        assert run(["diff", str(folder), str(folder / "model.safetensors")]) == 0
        assert run(["convert", str(folder), str(tmp_path / "copy.pt")]) == 0
        capfd.readouterr()
        assert np.array_equal(wl.load(tmp_path / "copy.pt")["w"], weights["w"])

    def test_damage_names_the_file(self, tmp_path):
        (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
        with pytest.raises(wl.NotACheckpointError, match=r"model\.safetensors"):
            wl.load(tmp_path)

    def test_a_folder_of_that_name(self, tmp_path):
        """DeepSpeed's script writes one."""
        (tmp_path / "pytorch_model.bin").mkdir()
        (tmp_path / "part.bin").write_bytes(b"")
        wl.save({"w": np.ones(1)}, tmp_path / "part.bin")
        (tmp_path / "other.bin.index.json").write_text(json.dumps({"weight_map": {"w": "part.bin"}}))
        assert wl.load(tmp_path)["w"].tolist() == [1.0]

    def test_full_precision_before_a_copy_in_half(self, tmp_path):
        """The trainer of transformers leaves the weights in half precision beside DeepSpeed's folder."""
        write_stage_2(tmp_path / "global_step3", 2)
        (tmp_path / "latest").write_text("global_step3")
        expected = wl.load(tmp_path)
        wl.save({"origin": np.zeros(1, "f2")}, tmp_path / "model.safetensors", format="safetensors")
        assert list(wl.load(tmp_path)) == list(expected)
