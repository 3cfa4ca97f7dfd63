"""Files that this process saved and a program wrote into: told from damage, in the drop-in and nowhere else."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

import weighlock as wl

pytestmark = pytest.mark.requires_torch
SAID = "was written to after this process saved the file"


@pytest.fixture
def drop_in(torch: Any) -> Any:
    import weighlock.torch

    return weighlock.torch


def offset_of_data(path: Any) -> int:
    """Return where the record of the first storage begins."""
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        name = next(info for info in archive.infolist() if info.filename.endswith("/data/0"))
        file.seek(name.header_offset + 26)
        names, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
        return name.header_offset + 30 + names + extra


def overwrite(path: Any, data: bytes) -> None:
    place = offset_of_data(path)
    with open(path, "rb+") as file:
        file.seek(place)
        file.write(data)


@pytest.mark.parametrize("how", ["path", "reader", "named file", "weighlock", "installed"])
def test_a_program_may_overwrite_what_it_saved(drop_in, torch, tmp_path, how):
    """As PyTorch's own test of `write_record_metadata` does, at the offset that PyTorch tells it."""
    path: Any = tmp_path / "model.pt"
    if how == "named file":
        with tempfile.NamedTemporaryFile(dir=tmp_path, delete=False) as file:
            drop_in.save({"w": torch.ones(6)}, file)
            path = Path(file.name)
    elif how == "installed":
        with drop_in.installed():
            torch.save({"w": torch.ones(6)}, path)
    else:
        drop_in.save({"w": torch.ones(6)}, str(path))
    overwrite(path, torch.full((6,), 2.0).numpy().tobytes())
    with open(path, "rb") as file, pytest.warns(UserWarning, match=SAID):
        found = drop_in.load(file if how == "reader" else path)
    assert found["w"].tolist() == [2.0] * 6
    with pytest.raises(wl.ChecksumError):  # whoever does not ask for PyTorch's ways is told
        wl.load(path, framework="torch")
    drop_in.save({"w": torch.ones(6)}, path)
    assert drop_in.load(path)["w"].tolist() == [1.0] * 6


def test_where_no_birth_is_known_damage_stays_an_error(drop_in, torch, tmp_path, monkeypatch):
    from weighlock.torch import written

    monkeypatch.setattr(written, "_identity", lambda *_: None)
    path = tmp_path / "model.pt"
    drop_in.save({"w": torch.ones(6)}, path)
    overwrite(path, b"1234")
    with pytest.raises(wl.ChecksumError):
        drop_in.load(path)


@pytest.mark.parametrize("how", ["decay", "copy", "replaced", "number given again", "another process", "in memory"])
def test_damage_stays_an_error(drop_in, torch, tmp_path, how):
    path = tmp_path / "model.pt"
    data = torch.full((6,), 2.0).numpy().tobytes()
    read: Any = path
    if how == "another process":
        code = "import sys, torch, weighlock.torch as wt; wt.save({'w': torch.ones(6)}, sys.argv[1])"
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    else:
        drop_in.save({"w": torch.ones(6)}, path)
    if how in ("copy", "replaced"):
        read = tmp_path / "copy.pt"
        shutil.copy(path, read)
        if how == "replaced":
            os.replace(read, path)
            read = path
    if how == "number given again":
        kept = path.read_bytes()
        for _ in range(20):  # until another file has the number of one that was saved and removed
            gone = os.stat(path).st_ino
            path.unlink()
            time.sleep(0.02)
            path.write_bytes(kept)
            if os.stat(path).st_ino == gone:
                break
            drop_in.save({"w": torch.ones(6)}, path)
    before = os.stat(read)
    overwrite(read, data)
    if how == "decay":  # what a disk does to a file leaves its time alone
        os.utime(read, ns=(before.st_atime_ns, before.st_mtime_ns))
    if how == "in memory":
        read = io.BytesIO(path.read_bytes())
    with pytest.raises(wl.ChecksumError):
        drop_in.load(read)


def test_what_was_saved_but_not_changed_is_checked(drop_in, torch, tmp_path):
    """The time that a save leaves behind is none that a write leaves: those come in ticks of milliseconds."""
    from weighlock.torch import written

    path = tmp_path / "model.pt"
    for _ in range(20):
        drop_in.save({"w": torch.ones(6)}, path)
        assert not written.was_changed(path)
        with open(path, "rb+") as file:  # at once, within the same tick
            file.write(b"P")
        assert written.was_changed(path)
    assert not written.was_changed(tmp_path / "missing.pt")
    assert not written.was_changed(io.BytesIO())


def test_what_cannot_be_marked_is_saved_all_the_same(drop_in, torch):
    """A pipe, and memory, have no time."""
    receiving, sending = os.pipe()
    with open(receiving, "rb") as source, open(sending, "wb") as sink:
        drop_in.save(torch.ones(3), sink)
        sink.close()
        assert drop_in.load(io.BytesIO(source.read())).tolist() == [1.0] * 3


def test_only_the_latest_files_are_remembered(drop_in, torch, tmp_path, monkeypatch):
    from weighlock.torch import written

    monkeypatch.setattr(written, "_MOST", 3)
    paths = [tmp_path / f"{index}.pt" for index in range(5)]
    for path in paths:
        drop_in.save(torch.ones(6), path)
        overwrite(path, b"1234")
    assert [written.was_changed(path) for path in paths] == [False, False, True, True, True]
