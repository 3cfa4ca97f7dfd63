"""The drop-in in place of torch's own functions: installed, for a block, for a script; and `framework="torch"`."""

from __future__ import annotations

import inspect
import io
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import weighlock as wl
from weighlock.pickling.user_globals import safe_globals

pytestmark = [pytest.mark.requires_torch, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[1]


@pytest.fixture
def wt(torch):
    import weighlock.torch

    originals = torch.load, torch.save
    yield weighlock.torch
    weighlock.torch.uninstall()
    assert (torch.load, torch.save) == originals


class TestInstalling:
    def test_twice_is_once(self, torch, wt):
        original = torch.load
        wt.install()
        wt.install()
        assert torch.load is wt.load
        assert torch.serialization.save is wt.save
        wt.uninstall()
        assert torch.load is original
        wt.uninstall()
        assert torch.load is original

    def test_blocks_may_overlap(self, torch, wt):
        original = torch.load
        with wt.installed():
            with wt.installed():
                assert torch.load is wt.load
            assert torch.load is wt.load
        assert torch.load is original

    def test_a_block_does_not_end_an_installation(self, torch, wt):
        wt.install()
        with wt.installed():
            pass
        assert torch.load is wt.load

    def test_uninstalled_in_a_block_counts_from_its_end(self, torch, wt):
        original = torch.load
        with wt.installed():
            wt.install()
            wt.uninstall()
            assert torch.load is wt.load
        assert torch.load is original

    def test_what_others_put_there_stays(self, torch, wt, monkeypatch):
        original = torch.load
        with wt.installed():
            mine = lambda *args, **kwargs: None
            torch.load = mine
        assert torch.load is mine
        torch.load = original

    def test_an_error_in_the_block(self, torch, wt):
        original = torch.load
        with pytest.raises(KeyError), wt.installed():
            raise KeyError
        assert torch.load is original

    def test_from_many_threads(self, torch, wt):
        original, failures = torch.load, []

        def work():
            for _ in range(50):
                with wt.installed():
                    if torch.load is not wt.load:
                        failures.append("not installed inside of a block")

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert torch.load is original

    def test_what_torch_calls_itself_goes_through_it(self, torch, wt, tmp_path):
        path = tmp_path / "w.pt"
        torch.save({"a": torch.ones(2)}, path)
        with wt.installed():
            found = torch.hub.load_state_dict_from_url(path.as_uri(), model_dir=str(tmp_path / "cache"), progress=False)
        assert found["a"].tolist() == [1.0, 1.0]


class TestSignatures:
    @pytest.mark.parametrize("name", ["load", "save"])
    def test_they_are_torchs(self, torch, wt, name):
        ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (wt, torch))
        assert [(p.name, p.kind, p.default) for p in ours.values()] == [
            (p.name, p.kind, p.default) for p in theirs.values()
        ]

    def test_every_public_name_of_serialization(self, torch, wt):
        assert set(wt.serialization.__all__) == set(torch.serialization.__all__)
        for name in wt.serialization.__all__:
            assert getattr(wt.serialization, name)
        assert wt.serialization._is_zipfile is torch.serialization._is_zipfile

    def test_the_functions_that_differ_take_what_torchs_take(self, torch, wt):
        for name in ("register_package", "get_unsafe_globals_in_checkpoint"):
            ours, theirs = (
                inspect.signature(getattr(m, name)).parameters for m in (wt.serialization, torch.serialization)
            )
            assert list(ours) == list(theirs)


class TestSerialization:
    def test_packages_of_equal_priority(self, torch, wt):
        registry = torch.serialization._package_registry
        before, order = list(registry), []
        try:
            for name in "abc":
                wt.serialization.register_package(
                    15, lambda storage, name=name: order.append(name), lambda storage, location: None
                )
            with pytest.raises(RuntimeError, match="don't know how to determine data location"):
                registry[:] = [entry for entry in registry if entry[0] == 15]
                wt.serialization.location_tag(torch.ones(1).untyped_storage())
            assert order == ["a", "b", "c"]
        finally:
            registry[:] = before

    def test_unsafe_globals(self, torch, wt, tmp_path):
        from torch.testing._internal.two_tensor import TwoTensor

        name = "torch.testing._internal.two_tensor.TwoTensor"
        for protocol in (2, 4):
            file = io.BytesIO()
            torch.save(TwoTensor(torch.ones(2), torch.ones(2)), file, pickle_protocol=protocol)
            file.seek(0)
            assert wt.serialization.get_unsafe_globals_in_checkpoint(file) == [name]
            file.seek(0)
            with torch.serialization.safe_globals([TwoTensor]):
                assert wt.serialization.get_unsafe_globals_in_checkpoint(file) == []
        file = io.BytesIO()
        torch.save(1, file, _use_new_zipfile_serialization=False)
        file.seek(0)
        with pytest.raises(ValueError, match="Expected input to be a checkpoint returned by torch.save"):
            wt.serialization.get_unsafe_globals_in_checkpoint(file)
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), file)
        file.seek(0)
        with pytest.raises(ValueError, match="but got a torchscript checkpoint"):
            wt.serialization.get_unsafe_globals_in_checkpoint(file)


SCRIPT = """
import sys, torch
from pathlib import Path
import helper
path = sys.argv[1]
torch.save({"w": torch.ones(2)}, path)
print(torch.load.__module__, torch.load(path)["w"].tolist(), sys.argv[1:], __name__, helper.VALUE)
sys.exit(3 if "fail" in sys.argv else 0)
"""


class TestScripts:
    def run(self, *arguments, cwd, **options):
        command = [sys.executable, "-W", "ignore", "-m", "weighlock.torch", *arguments]
        environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": ""}
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=110, check=False, **options
        )

    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "code").mkdir()
        (tmp_path / "code" / "script.py").write_text(SCRIPT)
        (tmp_path / "code" / "helper.py").write_text("VALUE = 7\n")
        return tmp_path

    def test_a_script(self, folder):
        done = self.run("code/script.py", "out.pt", "--flag", cwd=folder)
        assert done.stderr == ""
        assert done.stdout.split() == [
            "weighlock.torch.loading",
            "[1.0,",
            "1.0]",
            "['out.pt',",
            "'--flag']",
            "__main__",
            "7",
        ]
        assert self.run("code/script.py", "out.pt", "fail", cwd=folder).returncode == 3

    def test_a_module(self, folder):
        done = self.run("-m", "script", "out.pt", cwd=folder / "code")
        assert done.stderr == ""
        assert done.stdout.startswith("weighlock.torch.loading [1.0, 1.0] ['out.pt'] __main__ 7")

    def test_nothing_to_run(self, folder):
        for arguments in ((), ("-m",), ("-c",), ("--flag",)):
            done = self.run(*arguments, cwd=folder)
            assert done.returncode == 2
            assert "usage:" in done.stderr

    def test_a_program_that_is_not_there(self, folder):
        done = self.run("code/other.py", cwd=folder)
        assert (done.returncode, done.stdout) == (2, "")
        assert "can't open file" in done.stderr
        done = self.run("-m", "other.module", cwd=folder)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.endswith("No module named other.module\n")

    def test_what_must_be_imported_first_is_said_first(self, torch, folder):
        code = "import sys, torch; print(torch.load(sys.argv[1]).is_nested)"
        torch.save(torch.nested.nested_tensor([[1, 2], [3]], layout=torch.jagged), folder / "njt.pt")
        done = self.run("-c", code, "njt.pt", cwd=folder)
        assert done.returncode == 1
        assert "Weights only load failed. ``torch.nested`` and ``torch._dynamo`` must be imported" in done.stderr
        done = self.run("-c", f"import torch._dynamo; {code}", "njt.pt", cwd=folder)
        assert (done.stdout, done.stderr) == ("True\n", "")

    def test_code_on_the_command_line_and_from_standard_input(self, folder):
        code = "import sys, helper, torch; print(torch.load.__module__, sys.argv, __name__, helper.VALUE)"
        done = self.run("-c", code, "x", cwd=folder / "code")
        assert (done.stdout, done.stderr) == ("weighlock.torch.loading ['-c', 'x'] __main__ 7\n", "")
        done = self.run("-", "x", cwd=folder / "code", input=code)
        assert (done.stdout, done.stderr) == ("weighlock.torch.loading ['-', 'x'] __main__ 7\n", "")

    def test_a_folder_with_a_main(self, folder):
        (folder / "code" / "__main__.py").write_text("import helper, sys; print(helper.VALUE, sys.argv[1:])\n")
        done = self.run("code", "x", cwd=folder)
        assert (done.stdout, done.stderr) == ("7 ['x']\n", "")

    def test_the_main_module_is_pythons(self, folder):
        (folder / "code" / "main.py").write_text(
            "import atexit, os, pickle, sys, __main__\n"
            "class Own: pass\n"
            "print(sys.argv[0], os.path.isabs(__file__), __spec__, __main__.Own is Own)\n"
            "atexit.register(lambda: print(type(pickle.loads(pickle.dumps(Own()))) is Own))\n"
        )
        done = self.run("code/main.py", cwd=folder)
        assert (done.stdout, done.stderr) == ("code/main.py True None True\nTrue\n", "")


def total(array):
    return float(array.sum())


class Summed:
    def __init__(self, array):
        self.array = array

    def __reduce__(self):
        return total, (self.array,)


class TestFramework:
    def test_the_same_code(self, torch, wt, tmp_path):
        path = tmp_path / "a.pt"
        wl.save({"w": torch.ones(3)}, path, framework="torch")
        assert wl.load(path, framework="torch")["w"].tolist() == [1.0] * 3
        assert isinstance(wl.load(path)["w"], np.ndarray)
        with pytest.raises(wl.UnsupportedTypeError, match="framework='torch'"):
            wl.save({"w": torch.ones(3)}, path)

    def test_an_unknown_framework(self):
        with pytest.raises(wl.ArgumentError, match="'numpy' or 'torch'"):
            wl.load(b"", framework="jax")

    def test_more_than_torch_reads(self, torch, tmp_path):
        """Bytes, tar archives, safetensors, TorchScript as data, stubs: all with torch's own tensors."""
        from tests.old_writers import tar

        assert torch.equal(wl.load(tar(), framework="torch")["a"], torch.arange(6.0).reshape(2, 3))
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(torch.nn.Linear(3, 2)), file)
        drawn = wl.state_dict(wl.load(file.getvalue(), framework="torch"))
        assert isinstance(drawn["weight"], torch.Tensor)
        assert drawn["weight"].shape == (2, 3)
        file = io.BytesIO()
        torch.save(torch.nn.Linear(3, 2), file)
        loaded = wl.load(file.getvalue(), framework="torch", on_unknown="stub")
        assert isinstance(wl.state_dict(loaded)["weight"], torch.nn.Parameter)

    def test_safetensors(self, torch, tmp_path):
        pytest.importorskip("safetensors")
        from safetensors.torch import save_file

        import weighlock.torch

        save_file({"w": torch.arange(6.0).reshape(2, 3).bfloat16()}, tmp_path / "m.safetensors")
        for loaded in (wl.load(tmp_path / "m.safetensors", framework="torch"), torch.load(tmp_path / "m.safetensors"),
                       weighlock.torch.load(tmp_path / "m.safetensors")):  # fmt: skip
            assert loaded["w"].dtype is torch.bfloat16
            assert loaded["w"].tolist() == [[0, 1, 2], [3, 4, 5]]

    def test_a_damaged_record(self, torch):
        import weighlock.torch

        file = io.BytesIO()
        torch.save({"w": torch.ones(100_000), "b": torch.ones(3)}, file)
        for place in (torch.ones(2).numpy().tobytes(),):
            data = bytearray(file.getvalue())
            data[data.index(place)] ^= 1
            torch.load(io.BytesIO(bytes(data)))  # torch itself does not look
            with pytest.raises(wl.ChecksumError):
                weighlock.torch.load(io.BytesIO(bytes(data)))
            assert wl.load(bytes(data), framework="torch", verify=False)["w"].shape == (100_000,)

    def test_checksums_are_switched_off_by_the_program_or_the_environment(self, torch, monkeypatch):
        import weighlock.torch

        file = io.BytesIO()
        torch.save({"w": torch.ones(100_000)}, file)
        data = bytearray(file.getvalue())
        at = data.index(torch.ones(2).numpy().tobytes())
        data[at : at + 4] = torch.full((1,), 2.0).numpy().tobytes()
        monkeypatch.setenv("WEIGHLOCK_CHECKSUMS", "0")
        assert weighlock.torch.load(io.BytesIO(bytes(data)))["w"].sum() == 100_001
        monkeypatch.delenv("WEIGHLOCK_CHECKSUMS")
        torch.serialization.set_crc32_options(False)
        try:
            assert weighlock.torch.load(io.BytesIO(bytes(data)))["w"].sum() == 100_001
        finally:
            torch.serialization.set_crc32_options(True)
        with pytest.raises(wl.ChecksumError):
            weighlock.torch.load(io.BytesIO(bytes(data)))

    def test_memory_bombs(self, torch):
        import weighlock.torch
        from tests.test_torch_drop_in import _zip_of

        bomb = b"\x80\x02ctorch\nFloatTensor\n(J\x00\x00\x00\x7ftR."
        with pytest.raises(wl.WeighlockError):
            weighlock.torch.load(_zip_of(bomb))

    def test_attributes_that_python_reads(self, torch):
        import weighlock.torch

        class Evil:
            def __init__(self, name):
                self.name = name

            def __reduce__(self):
                tensor = torch.ones(1)
                func, args = tensor.__reduce_ex__(2)
                return torch._tensor._rebuild_from_type_v2, (func, torch.Tensor, args, {self.name: 3})

        for name in ("__class__", "__dict__", "__init__"):
            file = io.BytesIO()
            torch.save(Evil(name), file)
            file.seek(0)
            with pytest.raises(wl.PickleStreamError, match="impossible name"):
                weighlock.torch.load(file)

    def test_named_code_sees_whole_arrays(self):
        """In NumPy too: data are read before a function that the user named looks at them."""
        file = io.BytesIO()
        wl.save({"a": np.ones(10), "b": np.full(100_000, 2.0)}, file)
        import zipfile

        source, target = zipfile.ZipFile(file), io.BytesIO()
        data = source.read("archive/data.pkl")
        # The pickle is rewritten by hand: a call of `total` around the first array.
        with zipfile.ZipFile(target, "w") as archive:
            for info in source.infolist():
                record = source.read(info)
                if info.filename.endswith("data.pkl"):
                    place = data.index(b"ctorch._utils")
                    end = data.index(b"X\x01\x00\x00\x00b")
                    name = f"c{__name__}\ntotal\n".encode()
                    record = data[:place] + name + data[place:end] + b"\x85R" + data[end:]
                archive.writestr(info.filename, record)
        with safe_globals([total]):
            assert wl.load(target.getvalue())["a"] == 10.0


def test_without_torch(monkeypatch):
    """Where torch cannot be imported, the message says so."""
    import builtins

    real = builtins.__import__
    for name in [name for name in sys.modules if name.startswith("weighlock.backends.torch_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(sys.modules["weighlock.backends"], "torch_backend", raising=False)

    def missing(name, *args, **kwargs):
        if name == "torch" or name.startswith("torch."):
            raise ImportError("No module named 'torch'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(wl.MissingDependencyError, match="PyTorch is not installed"):
        wl.load(b"", framework="torch")
