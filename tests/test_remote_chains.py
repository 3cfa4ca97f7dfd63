"""Addresses that fsspec chains (a file in an archive, a copy of a file elsewhere), and addresses that are none."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weighlock as wl
from tests.range_server import Held, RangeServer
from weighlock.cli import run
from weighlock.storages.remote_folders import split_address
from weighlock.storages.urls import links, shown

INDEX = "model.safetensors.index.json"
STATE = {f"layers.{number}.weight": np.full((100, 10), number, "f4") for number in range(4)}
# fsspec leaves the file of a cache of blocks open until it is collected.
LEFT_OPEN = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
CACHES = ("simplecache", "filecache", "blockcache")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "WEIGHLOCK_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def check(found: Any) -> None:
    assert list(found) == list(STATE)
    assert all(np.array_equal(found[key], value) for key, value in STATE.items())


@pytest.fixture
def files(tmp_path) -> dict[str, bytes]:
    """A set of four files with its index, and one file of the same."""
    folder = tmp_path / "set"
    folder.mkdir()
    wl.save(STATE, folder, max_shard_size=4_500, format="safetensors")
    wl.save(STATE, folder / "whole.pt")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def archive(files) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as made:
        for name, content in files.items():
            made.writestr(name, content)
            made.writestr(f"a folder/{name}", content)
    return data.getvalue()


@pytest.fixture
def server(files, archive):
    """A web server that has no lists of folders, and refuses whoever asks for one."""
    held = {f"models/{name}": data for name, data in files.items()}
    with RangeServer(**held, **{"x.zip": archive}) as running:
        yield running


@LEFT_OPEN
@pytest.mark.requires_aiohttp
class TestCaches:
    @pytest.mark.parametrize("cache", CACHES)
    @pytest.mark.parametrize("name", ["whole.pt", INDEX, ""])
    def test_a_file_an_index_and_a_folder(self, server, cache, name):
        """What a cache is asked of a file, it answers from the list of the folder; web servers have none."""
        check(wl.load(f"{cache}::{server.url}/models/{name}"))
        assert not any(request.path in ("/models", "/") for request in server.requests)

    @pytest.mark.parametrize("cache", CACHES)
    def test_slices(self, server, cache):
        with wl.open_checkpoint(f"{cache}::{server.url}/models/{INDEX}") as ckpt:
            assert ckpt["layers.2.weight"][3:5].tolist() == [[2.0] * 10] * 2
            assert ckpt.name == f"{cache}::{server.url}/models/{INDEX}"

    def test_a_query_goes_with_every_part(self, server):
        server.files = {path + "?download=true": held for path, held in server.files.items()}
        check(wl.load(f"simplecache::{server.url}/models/{INDEX}?download=true"))

    def test_a_missing_part(self, server):
        lost = sorted(path for path in server.files if "-of-" in path)[1]
        del server.files[lost]
        with pytest.raises(wl.MissingFileError, match="1 of the 4 files"):
            wl.load(f"simplecache::{server.url}/models/{INDEX}")

    @pytest.mark.parametrize("cache", ["simplecache", "filecache"])
    def test_a_copy_that_is_kept_is_what_is_read(self, server, cache, tmp_path):
        """The length is that of the copy, too: of the file as it is now, the copy could seem to be cut."""
        options = {cache: {"cache_storage": str(tmp_path / "copies")}}
        address = f"{cache}::{server.url}/models/whole.pt"
        check(wl.load(address, storage_options=options))
        longer = io.BytesIO()
        wl.save({**STATE, "more": np.zeros(5000)}, longer)
        server.files["/models/whole.pt"] = Held(longer.getvalue(), '"two"')
        check(wl.load(address, storage_options=options))

    def test_secrets_are_not_shown(self, server):
        address = server.url.replace("//", "//someone:secret@")
        with pytest.raises(wl.WeighlockError) as caught:
            wl.load(f"simplecache::{address}/models/nothing.pt?signature=hidden")
        assert "secret" not in str(caught.value)
        assert "hidden" not in str(caught.value)

    def test_the_command(self, server, capfd):
        assert run(["ls", f"filecache::{server.url}/models/{INDEX}"]) == 0
        assert capfd.readouterr().out.count("layers.") == 4


@pytest.mark.requires_fsspec
class TestArchives:
    @pytest.mark.parametrize("inside", ["whole.pt", INDEX, "", f"a folder/{INDEX}", "a folder/", "a folder"])
    def test_in_a_file_on_the_disk(self, archive, inside, tmp_path, monkeypatch):
        """What follows the two colons stays with the address of each part."""
        (tmp_path / "x.zip").write_bytes(archive)
        monkeypatch.chdir(tmp_path)
        check(wl.load(f"zip://{inside}::x.zip"))
        check(wl.load(f"simplecache::zip://{inside}::file://{tmp_path}/x.zip"))

    def test_names(self, archive, tmp_path):
        (tmp_path / "x.zip").write_bytes(archive)
        address = f"zip://a folder/{INDEX}::{tmp_path}/x.zip"
        with wl.open_checkpoint(address) as ckpt:
            assert ckpt.name == address
        with pytest.raises(wl.MissingFileError, match=r"zip://nothing\.pt::"):
            wl.load(f"zip://nothing.pt::{tmp_path}/x.zip")

    @LEFT_OPEN
    @pytest.mark.requires_aiohttp
    @pytest.mark.parametrize("between", ["", "simplecache::", "blockcache::"])
    def test_on_a_server(self, server, between):
        check(wl.load(f"zip://a folder/{INDEX}::{between}{server.url}/x.zip"))


class TestText:
    @pytest.mark.parametrize(
        ("address", "expected"),
        [
            ("zip://a/b.json::s3://c/x.zip", ("zip://a/::s3://c/x.zip", "b.json")),
            ("zip://b.json::x.zip", ("zip://::x.zip", "b.json")),
            ("simplecache::https://h/a/b.json?q=/1", ("simplecache::https://h/a/?q=/1", "b.json")),
            ("simplecache::zip://b.json::blockcache::https://h/x.zip",
             ("simplecache::zip://::blockcache::https://h/x.zip", "b.json")),
            ("https://h/a%20b/my%20b.json", ("https://h/a%20b/", "my b.json")),
        ],
    )  # fmt: skip
    def test_the_folder_of_an_address(self, address, expected):
        assert split_address(address) == expected

    def test_colons_in_the_path_of_a_web_server(self):
        assert links("https://h/a::b") == ["https://h/a::b"]

    @pytest.mark.parametrize(
        ("address", "expected"),
        [
            ("zip://m.pt::https://me:pw@h/x.zip?sig=1", "zip://m.pt::https://h/x.zip"),
            ("sftp://me:pw@h/m.pt", "sftp://h/m.pt"),
            ("s3://bucket/a?b#c@d", "s3://bucket/a?b#c@d"),
            ("github://org:repo@main/m.pt", "github://org:repo@main/m.pt"),
            ("https://me:pw@[::1/m.pt?sig=1", "https://[::1/m.pt"),
        ],
    )
    def test_what_is_shown(self, address, expected):
        assert shown(address) == expected

    def test_an_index_with_a_space_in_its_name(self, files):
        held = {f"models/{name}": data for name, data in files.items() if name != INDEX}
        with RangeServer(**held, **{"models/my%20model.index.json": files[INDEX]}) as running:
            check(wl.load(f"{running.url}/models/my%20model.index.json"))


class TestNoAddresses:
    """What is no address, or not all of one, is said before anybody is asked, with one that would do."""

    @pytest.mark.parametrize(
        ("address", "text"),
        [
            ("dir://", r"ends too early.*expected the address without dir://"),
            ("zip://model.pt", r"inside of something else.*zip://model\.pt::https://host/archive\.zip"),
            ("simplecache://a", r"simplecache::https://host/model\.pt"),
            ("s3://", r"names no bucket.*expected s3://bucket/model\.pt"),
            ("s3:///model.pt", r"names no bucket.*expected s3://bucket/model\.pt"),
            ("az://", r"names no container.*expected az://container/model\.pt"),
            ("hf://", r"names no file.*expected hf://owner/name/"),
            ("ftp://", r"names no host.*expected ftp://host/model\.pt"),
            ("http://", r"names no host.*expected https://host/model\.pt"),
            ("https:///model.pt", r"names no host.*expected https://host/model\.pt"),
            ("http://[::1/model.pt", r"no address: Invalid IPv6 URL"),
            ("http://host:port/model.pt", r"no address: Port could not"),
            ("file://", r"names no file.*expected file:///folder/model\.pt"),
            ("zip://model.pt::s3://", r"names no bucket"),
        ],
    )
    def test_an_incomplete_one(self, address, text):
        with pytest.raises(wl.SourceError, match=text):
            wl.load(address)

    @pytest.mark.requires_fsspec
    @pytest.mark.parametrize("address", ["nosuch://a/b", "nosuch::http://127.0.0.1/b", "zip://a::nosuch://b"])
    def test_an_unknown_scheme(self, address):
        with pytest.raises(wl.SourceError, match=r"nosuch://: expected http, https, file, .*pathlib\.Path"):
            wl.load(address)

    @pytest.mark.requires_fsspec
    def test_a_missing_driver(self, monkeypatch):
        """It is that of the last link, which is where the bytes are."""
        monkeypatch.setitem(sys.modules, "gcsfs", None)
        with pytest.raises(wl.MissingDependencyError, match=r"reads gs:// addresses.*pip install gcsfs"):
            wl.load("simplecache::gs://bucket/model.pt")

    @pytest.mark.requires_fsspec
    def test_one_that_needs_options(self):
        with pytest.raises(wl.ArgumentTypeError, match=r"need more than this one says.*storage_options"):
            wl.load("reference://a/b")

    def test_one_slash(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(wl.MissingFileError, match="two slashes"):
            wl.load("s3:/bucket/model.pt")
        with pytest.raises(wl.MissingFileError) as caught:
            wl.load(Path("s3:/bucket/model.pt"))
        assert "slashes" not in str(caught.value)

    def test_the_command(self, capfd):
        assert run(["s3://"]) == 2
        assert "expected s3://bucket/model.pt" in capfd.readouterr().err
        assert os.linesep not in capfd.readouterr().out
