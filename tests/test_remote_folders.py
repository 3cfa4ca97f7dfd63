"""Checkpoints of several files at an address: an index on a web server, folders of fsspec's file systems."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weighlock as wl
from tests.range_server import Held, RangeServer
from tests.test_dcp import GOLDENS, WHOLE, same
from tests.test_deepspeed import write_stage_2
from weighlock.cli import run
from weighlock.storages.remote_folders import split_address

COUNT = 40
SHARDS = 14  # three tensors of 4,000 bytes each


def state_dict() -> dict[str, Any]:
    return {f"layers.{number:02}.weight": np.full((100, 10), number, "float32") for number in range(COUNT)}


def files_below(folder: Path, prefix: str) -> dict[str, bytes]:
    return {
        prefix + path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(params=["torch", "safetensors"])
def written(request, tmp_path):
    """A set of fourteen files, and the name of its index."""
    form: dict[str, Any] = {} if request.param == "torch" else {"format": "safetensors"}
    folder = tmp_path / "set"
    folder.mkdir()
    wl.save(state_dict(), folder, max_shard_size=13_000, **form)
    index = next(name for name in os.listdir(folder) if name.endswith(".index.json"))
    assert len(os.listdir(folder)) == SHARDS + 1
    return folder, index


@pytest.fixture
def served(written):
    folder, index = written
    with RangeServer(**files_below(folder, "models/set one/")) as server:
        # As a browser would send it.
        server.files = {path.replace(" ", "%20"): held for path, held in server.files.items()}
        yield server, f"{server.url}/models/set%20one/", index


def check(found: Any) -> None:
    expected = state_dict()
    assert list(found) == list(expected)
    assert all(np.array_equal(found[key], value) for key, value in expected.items())


class TestWebServer:
    def test_load_by_the_index(self, served):
        _, address, index = served
        check(wl.load(address + index))

    def test_load_by_the_folder(self, served):
        """A server has no list of its files: the names that transformers uses are asked for."""
        server, address, _ = served
        check(wl.load(address))
        asked = [request.path.rpartition("/")[2] for request in server.requests]
        assert len(asked) == len(set(asked))

    def test_opening_asks_once_for_each_file_and_several_at_a_time(self, served):
        server, address, index = served
        server.delay = 0.05
        with wl.open_checkpoint(address + index) as ckpt:
            assert ckpt.format == "sharded"
            assert len(ckpt) == COUNT
            assert len(server.requests) == SHARDS + 2, "the index is looked at as a file first"
            assert server.most_busy >= 4
            server.forget()
            assert ckpt["layers.20.weight"][3:5].tolist() == [[20.0] * 10] * 2
            # All of it came with the answers to the first requests.
            assert len(server.requests) == 0

    def test_only_what_is_read_is_fetched(self, tmp_path):
        model = {f"w{number}": np.full((1000, 1000), number, "float32") for number in range(3)}
        wl.save(model, tmp_path, max_shard_size="5MB", format="safetensors")
        with RangeServer(**files_below(tmp_path, "")) as server:
            with wl.open_checkpoint(f"{server.url}/model.safetensors.index.json") as ckpt:
                assert np.array_equal(ckpt["w1"][10:20], model["w1"][10:20])
                assert server.sent < 1 << 20
                assert {key: value.tolist() for key, value in ckpt.read(["w2"]).items()} == {"w2": model["w2"].tolist()}
            assert server.sent < 6 << 20

    def test_a_query_goes_with_every_file(self, served):
        server, address, index = served
        server.files |= {path + "?download=true": held for path, held in server.files.items()}
        check(wl.load(f"{address}{index}?download=true"))
        assert all(request.path.endswith("?download=true") for request in server.requests)

    def test_missing_files_are_named_together(self, served):
        server, address, index = served
        lost = sorted(path for path in server.files if "-of-" in path)[:2]
        for path in lost:
            del server.files[path]
        with pytest.raises(wl.MissingFileError, match=f"2 of the {SHARDS} files.*00001-of") as caught:
            wl.load(address + index)
        assert address.rpartition(":")[2][:5] in str(caught.value)

    def test_a_file_that_changes_meanwhile(self, tmp_path):
        model = {f"w{number}": np.full((1000, 1000), number, "float32") for number in range(2)}
        wl.save(model, tmp_path, max_shard_size="5MB", format="safetensors")
        path = "/model-00002-of-00002.safetensors"
        with (
            RangeServer(**files_below(tmp_path, "")) as server,
            wl.open_checkpoint(f"{server.url}/model.safetensors.index.json") as ckpt,
        ):
            server.files[path] = Held(server.files[path].data, '"two"')
            assert ckpt["w0"].read()[0, 0] == 0
            with pytest.raises(wl.ChangedFileError, match="00002-of-00002"):
                ckpt["w1"].read()

    @pytest.mark.parametrize("name", ["../secret.bin", "/etc/passwd", "a\\b", "%2e%2e/secret.bin", "a?b#c"])
    def test_names_stay_in_the_folder(self, name):
        """What leads out is refused; what only looks like an address is quoted, and then not there."""
        index = json.dumps({"weight_map": {"w": name}}).encode()
        with RangeServer(**{"a/m.index.json": index, "secret.bin": b"x"}) as server:
            with pytest.raises((wl.DamagedError, wl.MissingFileError)):
                wl.load(f"{server.url}/a/m.index.json")
            assert all(request.path.startswith("/a/") for request in server.requests)
            assert all("?" not in request.path for request in server.requests)

    def test_a_folder_without_anything_known(self):
        with RangeServer(**{"a/model.pt": b"x"}) as server:
            with pytest.raises(wl.UnsupportedError, match=r"no list of the files.*index\.json"):
                wl.load(server.url + "/a/")
            with pytest.raises(wl.StatusError):
                wl.load(server.url + "/a")

    def test_a_server_that_refuses_what_it_does_not_have(self, served):
        """Stores of objects say 403 of what is missing to whoever may not list them."""
        server, address, _ = served

        def refuse(handler, request):
            if request.path in server.files:
                return False
            handler.reply(request, 403, {}, b"")
            return True

        server.faults += [refuse] * 4
        check(wl.load(address))

    def test_secrets_are_not_shown(self, served):
        server, address, index = served
        lost = next(path for path in server.files if "-of-" in path)
        del server.files[lost]
        address = address.replace("http://", "http://someone:secret@")
        with pytest.raises(wl.MissingFileError) as caught:
            wl.load(f"{address}{index}")
        assert "secret" not in str(caught.value)

    def test_a_map_is_refused(self, served):
        _, address, index = served
        with pytest.raises(wl.UnsupportedError, match="remote"):
            wl.load(address + index, mmap=True)

    def test_a_distributed_checkpoint(self):
        with RangeServer(**files_below(GOLDENS / "dtensor", "step/")) as server:
            same(wl.load(server.url + "/step/")["model"], WHOLE)
            with wl.open_checkpoint(server.url + "/step/") as ckpt:
                assert ckpt.format == "dcp"
                assert np.array_equal(ckpt["model.blocks"][1:3, 2], WHOLE["blocks"][1:3, 2])

    def test_parts_of_tensors_are_fetched_at_the_same_time(self, torch, tmp_path):
        from torch.distributed import checkpoint

        state = {f"w{number}": torch.full((300, 300), float(number)) for number in range(16)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checkpoint.save(state, checkpoint_id=tmp_path, no_dist=True)
        with RangeServer(**files_below(tmp_path, "step/")) as server:
            server.delay = 0.02
            found = wl.load(server.url + "/step/")
            assert server.most_busy >= 4
        assert {key: value[0, 0] for key, value in found.items()} == {f"w{number}": number for number in range(16)}

    def test_the_command(self, served, capfd):
        _, address, index = served
        assert run(["ls", address + index]) == 0
        assert capfd.readouterr().out.count("layers.") >= COUNT
        assert run(["ls", address]) == 0


@pytest.mark.requires_fsspec
class TestFsspec:
    @pytest.fixture
    def memory(self):
        import fsspec

        system = fsspec.filesystem("memory")
        yield system
        system.rm("/box", recursive=True)

    @pytest.fixture
    def put(self, memory):
        def puts(folder: Path, prefix: str) -> None:
            for path, data in files_below(folder, prefix).items():
                memory.pipe(path, data)

        return puts

    def test_a_set_by_folder_and_by_index(self, written, put):
        folder, index = written
        put(folder, "/box/set/")
        for address in ("memory://box/set", "memory://box/set/", f"memory://box/set/{index}"):
            check(wl.load(address))
        with wl.open_checkpoint("memory://box/set") as ckpt:
            assert ckpt["layers.07.weight"][0].tolist() == [7.0] * 10

    def test_extra_files_are_noted(self, written, put, memory):
        folder, index = written
        put(folder, "/box/set/")
        name = next(name for name in os.listdir(folder) if "-of-" in name).replace(f"of-{SHARDS:05}", "of-00099")
        memory.pipe(f"/box/set/{name}", b"")
        with wl.read_checkpoint(f"memory://box/set/{index}") as checkpoint:
            assert checkpoint.metadata["files_not_in_index"] == [name]

    @pytest.mark.parametrize("name", ["dtensor", "hf"])
    def test_distributed_checkpoints(self, put, name):
        put(GOLDENS / name, "/box/step/")
        made = wl.load("memory://box/step")
        same(made["model"] if name == "dtensor" else made, WHOLE)

    def test_deepspeed(self, tmp_path, put):
        write_stage_2(tmp_path / "global_step3", 2)
        (tmp_path / "latest").write_text("global_step3")
        put(tmp_path, "/box/run/")
        expected = wl.load(tmp_path)
        found = wl.load("memory://box/run")
        assert list(found) == list(expected)
        assert all(np.array_equal(found[key], value) for key, value in expected.items())

    def test_a_folder_that_is_no_checkpoint(self, memory):
        memory.pipe("/box/other/a.txt", b"hello")
        with pytest.raises(wl.NotACheckpointError):
            wl.load("memory://box/other/")
        with pytest.raises(wl.MissingFileError):
            wl.load("memory://box/nothing")


@pytest.mark.requires_s3
def test_s3(s3_server, written):
    folder, index = written
    for path, data in files_below(folder, "bucket/set/").items():
        s3_server.system.pipe(path, data)
    for address in ("s3://bucket/set", f"s3://bucket/set/{index}"):
        check(wl.load(address, storage_options=s3_server.options))
    with wl.open_checkpoint("s3://bucket/set/", storage_options=s3_server.options) as ckpt:
        assert ckpt["layers.07.weight"][0].tolist() == [7.0] * 10
    s3_server.system.rm("bucket/set", recursive=True)


def test_file_addresses(written):
    folder, index = written
    check(wl.load(folder.as_uri()))
    check(wl.load(f"{folder.as_uri()}/{index}"))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://h/a/b.json", ("https://h/a/", "b.json")),
        ("https://h/b.json?x=/1#f", ("https://h/?x=/1", "b.json")),
        ("s3://bucket/a/b.json", ("s3://bucket/a/", "b.json")),
        ("memory://b.json", ("memory://", "b.json")),
    ],
)
def test_the_folder_of_an_address(address, expected):
    assert split_address(address) == expected
