"""Importing Weighlock, loading with it and its command import no torch; import and command not even numpy.

Each claim is checked in a process of its own, with a decoy package named torch first on the path: it can be imported in
every environment, so an attempt shows, also one that would be caught where torch is not installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.conftest import GOLDENS

WATCHED = ("torch", "numpy", "ml_dtypes", "safetensors", "fsspec", "urllib.request", "http.client", "requests")
CHECKPOINT_SUFFIXES = {".pt", ".pth", ".bin", ".ckpt", ".tar", ".pkl"}

# What a folder of golden files may hold is also what Weighlock must refuse; at least one must load.
LOAD_ALL = """
import weighlock
loaded = 0
for path in sys.argv[1:]:
    try:
        weighlock.load(path)
        loaded += 1
    except weighlock.WeighlockError:
        pass
assert loaded, "not one golden file could be loaded"
"""

RUN_COMMAND = """
import runpy
sys.argv[0] = "weighlock"
try:
    runpy.run_module("weighlock", run_name="__main__", alter_sys=False)
except SystemExit as stop:
    assert stop.code in (None, 0), f"exit code {stop.code}"
"""


@pytest.fixture
def imported_by(tmp_path):
    """A function that runs code in a process of its own and gives the watched modules that it imported."""
    (tmp_path / "decoy" / "torch").mkdir(parents=True)
    (tmp_path / "decoy" / "torch" / "__init__.py").write_text("__version__ = '0'\n")
    report = tmp_path / "imported.json"

    def run(code, *arguments):
        script = tmp_path / "script.py"
        script.write_text(
            "import sys\n"
            + textwrap.dedent(code)
            + f"\nimport json, pathlib\nnames = [name for name in {WATCHED!r} if name in sys.modules]\n"
            + f"pathlib.Path({str(report)!r}).write_text(json.dumps(names))\n"
        )
        report.unlink(missing_ok=True)
        paths = [str(tmp_path / "decoy"), os.environ.get("PYTHONPATH", "")]
        done = subprocess.run(
            [sys.executable, str(script), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        return set(json.loads(report.read_text()))

    return run


def golden_checkpoints() -> list[Path]:
    return sorted(path for path in GOLDENS.rglob("*") if path.suffix in CHECKPOINT_SUFFIXES)


@pytest.fixture
def one_checkpoint(tmp_path) -> Path:
    """A small checkpoint of our own making."""
    path = tmp_path / "one.pth"
    code = "import sys, numpy, weighlock; weighlock.save({'w': numpy.zeros((2, 3), 'float32')}, sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=100)
    return path


@pytest.mark.parametrize(
    "code",
    ["import {name}", "try:\n    import {name}\nexcept Exception:\n    pass", "def f():\n    import {name}\nf()"],
)
@pytest.mark.parametrize("name", ["torch", "numpy"])
def test_the_check_itself_can_fail(imported_by, name, code):
    assert name in imported_by(code.format(name=name))


def test_the_check_itself_can_pass(imported_by):
    assert imported_by("import json") == set()


def test_import(imported_by):
    assert imported_by("import weighlock") == set()


def test_load(imported_by):
    found = golden_checkpoints()
    assert found, f"no golden checkpoints below {GOLDENS}"
    assert "torch" not in imported_by(LOAD_ALL, *found)


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("ls", "--help")])
def test_command_alone(imported_by, arguments):
    assert imported_by(RUN_COMMAND, *arguments) == set()


@pytest.mark.parametrize("verb", [(), ("inspect",), ("ls",)])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_command_on_a_file(imported_by, one_checkpoint, verb, options):
    assert imported_by(RUN_COMMAND, *verb, one_checkpoint, *options) == set()


def test_command_shows_a_tensor(imported_by, one_checkpoint):
    assert imported_by(RUN_COMMAND, "show", one_checkpoint, "w[0]") == set()
