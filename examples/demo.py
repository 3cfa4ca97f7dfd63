"""The main job in one minute: look at a checkpoint, load it, use it, save it, and refuse a hostile one. No PyTorch.

usage: make demo
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import weighlock as wl

HERE = Path(__file__).parent


def say(text: str = "") -> None:
    """Print a line, in order with what the commands print."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def command(*arguments: str) -> int:
    """Run the command line as a user would, and show it."""
    say(f"$ weighlock {' '.join(arguments)}")
    return subprocess.run([sys.executable, "-m", "weighlock", *arguments], cwd=HERE, check=False).returncode


def accuracy(weights: Mapping[str, Any], test: Mapping[str, Any]) -> float:
    """Return the share of digits read correctly: the model's forward pass, in NumPy."""
    hidden = test["pixels"] @ weights["layers.0.weight"].T + weights["layers.0.bias"]  # (samples, 32)
    scores = np.maximum(hidden, 0) @ weights["layers.2.weight"].T + weights["layers.2.bias"]  # (samples, 10)
    return float((scores.argmax(1) == test["digits"]).mean())


def load_three_ways() -> Mapping[str, Any]:
    """Load one model from its three files, and let each read the same digits."""
    test = wl.load(HERE / "test_set.pt")
    files = {
        "digits.pt": wl.load(HERE / "digits.pt"),
        "digits_legacy.pt": wl.load(HERE / "digits_legacy.pt"),
        # The class DigitReader is not here, and not needed.
        "digits_module.pt": wl.state_dict(wl.load(HERE / "digits_module.pt", on_unknown="stub")),
    }
    for name, weights in files.items():
        say(f"  {name:18} {len(weights)} arrays, {accuracy(weights, test):.2%} of 2,000 noisy digits read correctly")
    if len({accuracy(weights, test) for weights in files.values()}) != 1:
        raise SystemExit("the three files disagree")
    return files["digits.pt"]


def save_and_load_back(weights: Mapping[str, Any]) -> None:
    """Save, load back, compare every bit."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "again.pt"
        wl.save(dict(weights), path)
        again = wl.load(path)
        same = all(np.array_equal(weights[key], again[key]) for key in weights) and list(weights) == list(again)
        say(f"  {path.stat().st_size:,} bytes written, loaded back: {'equal' if same else 'DIFFERENT'}")
        if not same:
            raise SystemExit("what was saved is not what was loaded")


def refuse_the_hostile_file() -> None:
    """Show that a file which would run a command is named for what it is, and runs nothing."""
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            wl.load(HERE / "hostile.pt")
        except wl.UnsafeGlobalError as error:
            say(f"  refused: {error}")
        finally:
            os.chdir(before)
        if any(Path(folder).iterdir()):
            raise SystemExit("the hostile file ran its command")
        say("  nothing was run")


def main() -> None:
    """Run the tour."""
    torch = "is installed, and not used" if importlib.util.find_spec("torch") else "is not installed"
    say(f"PyTorch {torch}.\n\n1. Look, without loading")
    if command("digits.pt") or command("ls", "training.pt") or command("show", "digits.pt", "layers.2.bias[:4]"):
        raise SystemExit("the command line failed")
    say("\n2. Load as NumPy arrays: zip, legacy stream, whole-module pickle")
    weights = load_three_ways()
    say("\n3. Save, and load back")
    save_and_load_back(weights)
    say("\n4. A hostile file")
    refuse_the_hostile_file()
    if "torch" in sys.modules:
        raise SystemExit("PyTorch was imported")


if __name__ == "__main__":
    main()
