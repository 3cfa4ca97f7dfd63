"""Targets that are no file on this machine: addresses, which are refused, and standard output, devices and pipes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weighlock as wl
from weighlock.cli import run

STATE = {"w": np.arange(1000.0), "v": np.ones((3, 4), "f4")}
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="no /dev/stdout")


@pytest.fixture
def model(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    wl.save(STATE, "model.pt")
    return tmp_path / "model.pt"


def check(data: bytes) -> None:
    found = wl.load(data)
    assert all(np.array_equal(found[key], value) for key, value in STATE.items())


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    line = [sys.executable, "-m", "weighlock", *arguments]
    stdout = options.get("stdout", subprocess.PIPE)
    return subprocess.run(line, check=False, timeout=60, stdout=stdout, stderr=subprocess.PIPE)


class TestAddresses:
    ADDRESSES = ("s3://bucket/model.pt", "http://host/model.pt", "simplecache::s3://b/model.pt", "file:///model.pt")

    @pytest.mark.parametrize("address", ADDRESSES)
    def test_saving_is_refused_at_once(self, model, address):
        """It was said that a folder called s3: does not exist."""
        for save in (
            lambda: wl.save(STATE, address),
            lambda: wl.save(STATE, address, max_shard_size="1KB"),
            lambda: wl.save_async(STATE, address),
            lambda: wl.convert(model, address),
            lambda: wl.edit(model, address, drop=["v"]),
            lambda: wl.salvage(model, address),
            lambda: wl.Checkpointer(address.rpartition("/")[0] + "/run"),
        ):
            with pytest.raises(wl.TargetError, match=r"cannot be written to.*Save to a file, then upload"):
                save()
        assert os.listdir() == ["model.pt"]

    def test_nothing_is_looked_at_before(self):
        with pytest.raises(wl.TargetError, match="cannot be written to"):
            wl.save({"x": object()}, "s3://bucket/model.pt")

    def test_secrets_are_not_shown(self):
        with pytest.raises(wl.TargetError) as caught:
            wl.save(STATE, "https://me:secret@host/model.pt?signature=hidden")
        assert "secret" not in str(caught.value)
        assert "hidden" not in str(caught.value)

    def test_a_path_is_a_file(self, model):
        Path("s3:/bucket").mkdir(parents=True)
        wl.save(STATE, Path("s3://bucket/model.pt"))
        check(Path("s3:/bucket/model.pt").read_bytes())

    @pytest.mark.parametrize(
        "line",
        [
            ["convert", "model.pt", "s3://b/x.pt"], ["edit", "model.pt", "s3://b/x.pt", "--drop", "v"],
            ["salvage", "model.pt", "s3://b/x.pt"], ["ls", "model.pt", "-o", "s3://b/x.txt"],
            ["show", "model.pt", "w", "-o", "s3://b/x.npy"],
        ],
    )  # fmt: skip
    def test_the_commands(self, model, line, capfd):
        assert run(line) == 2
        caught = capfd.readouterr().err
        assert "an address cannot be written to" in caught
        assert "then upload it" in caught


@POSIX
class TestStandardOutput:
    @pytest.mark.parametrize("target", ["-", "/dev/stdout", "/dev/fd/1"])
    @pytest.mark.parametrize("form", ["torch-zip", "torch-legacy", "safetensors", "npz"])
    def test_a_pipe(self, model, target, form):
        done = command("convert", "model.pt", target, "--to", form)
        assert done.returncode == 0, done.stderr
        check(done.stdout)
        assert b"wrote       /dev/" in done.stderr
        assert b"read back" not in done.stderr, "nobody can read back what a pipe has taken"
        assert os.listdir() == ["model.pt"]

    def test_an_edit(self, model):
        done = command("edit", "model.pt", "-", "--drop", "v")
        assert list(wl.load(done.stdout)) == ["w"]

    def test_the_report_as_json_and_in_a_file(self, model):
        done = command("convert", "model.pt", "-", "--to", "npz", "--json")
        check(done.stdout)
        assert json.loads(done.stderr)["verified"] is False
        done = command("convert", "model.pt", "-", "--to", "npz", "-o", "report.txt")
        check(done.stdout)
        assert done.stderr == b""
        assert "wrote" in Path("report.txt").read_text()

    def test_a_file_that_the_shell_has_opened(self, model):
        """It is written to from where it stands, and asks for no --force."""
        with open("out", "wb", buffering=0) as out:
            out.write(b"before")
            assert command("convert", "model.pt", "-", "--to", "npz", stdout=out).returncode == 0
            out.seek(0, os.SEEK_END)
            out.write(b"after")
        data = Path("out").read_bytes()
        assert data[:6] == b"before"
        assert data[-5:] == b"after"
        check(data[6:-5])

    def test_a_terminal(self, model):
        import pty

        leader, follower = pty.openpty()
        try:
            done = command("convert", "model.pt", "-", "--to", "npz", stdout=follower)
        finally:
            os.close(leader)
            os.close(follower)
        assert done.returncode == 2
        assert b"not written to a terminal" in done.stderr

    def test_without_a_format(self, model):
        done = command("convert", "model.pt", "-")
        assert done.returncode == 2
        assert b"--to safetensors" in done.stderr

    def test_several_files(self, model):
        done = command("convert", "model.pt", "-", "--to", "safetensors", "--max-shard-size", "1KB")
        assert done.returncode == 2
        assert b"holds one file" in done.stderr

    def test_results_of_other_commands(self, model, capfd):
        assert run(["ls", "model.pt", "-o", "-"]) == 0
        assert "float64" in capfd.readouterr().out
        assert run(["salvage", "model.pt", "-"]) == 2
        assert "goes into a file" in capfd.readouterr().err
        assert os.listdir() == ["model.pt"]

    def test_a_file_of_that_name(self, model):
        assert run(["convert", "model.pt", "./-", "--to", "npz", "-q"]) == 0
        check(Path("-").read_bytes())


@POSIX
class TestSpecialFiles:
    def test_a_device_needs_no_force(self, model):
        report = wl.convert(model, "/dev/null", format="npz")
        assert report.written
        assert not report.verified
        assert run(["convert", "model.pt", "/dev/null", "--to", "npz", "-q"]) == 0

    def test_a_named_pipe(self, model):
        os.mkfifo("pipe")
        with subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE) as reader:
            try:
                assert run(["convert", "model.pt", "pipe", "--to", "safetensors", "-q"]) == 0
                assert reader.stdout is not None
                check(reader.stdout.read())
            finally:
                reader.kill()

    def test_a_descriptor_is_written_from_where_it_stands(self, tmp_path):
        with open(tmp_path / "out", "wb", buffering=0) as out:
            out.write(b"before")
            wl.save(STATE, f"/dev/fd/{out.fileno()}")
            assert out.tell() == (tmp_path / "out").stat().st_size
        check((tmp_path / "out").read_bytes()[6:])

    def test_a_file_still_needs_force(self, model):
        Path("there.npz").write_bytes(b"")
        with pytest.raises(wl.TargetError, match="there already"):
            wl.convert(model, "there.npz")


def test_file_objects_are_not_addresses():
    file = io.BytesIO()
    wl.save(STATE, file)
    check(file.getvalue())
