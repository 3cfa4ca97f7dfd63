"""The example files: one model in three forms is the same model, and the demo shows what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import weighlock as wl

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
KEYS = ["layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"]
ACCURACY = 0.864


def three_forms():
    """The weights of `digits.pt`, of the legacy stream and of the pickled module."""
    return {
        "digits.pt": wl.load(EXAMPLES / "digits.pt"),
        "digits_legacy.pt": wl.load(EXAMPLES / "digits_legacy.pt"),
        "digits_module.pt": wl.state_dict(wl.load(EXAMPLES / "digits_module.pt", on_unknown="stub")),
    }


def same(left, right):
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def accuracy(weights):
    test = wl.load(EXAMPLES / "test_set.pt")
    hidden = test["pixels"] @ weights["layers.0.weight"].T + weights["layers.0.bias"]  # (samples, 32)
    scores = np.maximum(hidden, 0) @ weights["layers.2.weight"].T + weights["layers.2.bias"]  # (samples, 10)
    return (scores.argmax(1) == test["digits"]).mean()


def test_the_three_forms_are_three_formats():
    formats = []
    for name in three_forms():
        with wl.read_checkpoint(EXAMPLES / name) as checkpoint:
            formats.append(checkpoint.format)
    assert formats == ["torch-zip", "torch-legacy", "torch-zip"]


def test_the_three_forms_hold_the_same_model():
    expected, *others = three_forms().values()
    assert list(expected) == KEYS
    for weights in others:
        assert list(weights) == KEYS
        assert all(same(weights[key], expected[key]) for key in KEYS)


def test_the_comparison_sees_one_changed_bit():
    weight = wl.load(EXAMPLES / "digits.pt")["layers.0.weight"]
    changed = weight.copy()
    changed.view("uint8")[-1, -1] ^= 1
    assert same(weight, weight.copy())
    assert not same(weight, changed)


def test_the_model_reads_digits():
    """A tenth of the digits would be right by chance; the trained model's share was printed when it was made."""
    weights = wl.load(EXAMPLES / "digits.pt")
    assert accuracy(weights) == ACCURACY
    shuffled = {key: np.random.default_rng(0).permutation(value) for key, value in weights.items()}
    assert accuracy(shuffled) < ACCURACY / 2


def test_the_training_checkpoint_holds_the_model_and_its_optimizer():
    training = wl.load(EXAMPLES / "training.pt")
    assert list(training) == ["model", "optimizer", "epoch", "loss"]
    assert training["epoch"] == 400
    assert 0 < training["loss"] < 1
    weights = wl.load(EXAMPLES / "digits.pt")
    assert all(same(training["model"][key], weights[key]) for key in KEYS)
    state = training["optimizer"]["state"]
    assert [state[number]["exp_avg"].shape for number in range(4)] == [weights[key].shape for key in KEYS]


@pytest.mark.parametrize("on_unknown", ["error", "stub"])
def test_the_hostile_file_runs_nothing(tmp_path, monkeypatch, on_unknown):
    monkeypatch.chdir(tmp_path)
    if on_unknown == "error":
        with pytest.raises(wl.UnsafeGlobalError, match=r"posix\.system"):
            wl.load(EXAMPLES / "hostile.pt")
    else:
        stub = wl.load(EXAMPLES / "hostile.pt", on_unknown="stub")
        assert (stub.module, stub.name, stub.args) == ("posix", "system", ("touch HOSTILE_FILE_WAS_RUN",))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="the command in the hostile file is for POSIX systems")
def test_the_hostile_file_would_run_its_command(tmp_path, monkeypatch):
    """Python's own unpickler shows that the file does what the demo says it would."""
    monkeypatch.chdir(tmp_path)
    wl.load(EXAMPLES / "hostile.pt", weights_only=False)
    assert [path.name for path in tmp_path.iterdir()] == ["HOSTILE_FILE_WAS_RUN"]


@pytest.mark.requires_torch
def test_torch_reads_the_same_weights(torch):
    expected = torch.load(EXAMPLES / "digits.pt", weights_only=True)
    for weights in three_forms().values():
        assert all(same(weights[key], expected[key].numpy()) for key in KEYS)


def test_the_demo_shows_each_step_in_order(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "demo.py")],
        capture_output=True, text=True, encoding="utf-8", env=environment, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = [
        "$ weighlock digits.pt", "OK to load", "$ weighlock ls training.pt", "optimizer.state.0.exp_avg",
        "$ weighlock show digits.pt", *(f"{name:18} 4 arrays, {ACCURACY:.2%}" for name in three_forms()),
        "loaded back: equal", "refused: ", "posix.system", "nothing was run",
    ]  # fmt: skip
    places = [done.stdout.find(text) for text in shown]
    assert -1 not in places
    assert places == sorted(places)
    assert list(tmp_path.iterdir()) == []
