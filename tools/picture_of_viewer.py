"""Takes the picture of `weighlock view` that the README shows: a checkpoint of a small model, in the system's chromium.

usage: python tools/picture_of_viewer.py docs/images/view.png
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import weighlock as wl

SHOWN = "model.embed.weight"


def model() -> dict[str, Any]:
    """A training checkpoint with weights that are worth looking at."""
    noise = np.random.default_rng(7)
    place, wave = np.meshgrid(np.arange(160), np.arange(256))
    embed = np.sin(place / 2 ** (wave / 40)) + 0.05 * noise.standard_normal(place.shape)
    weights = {"embed.weight": embed.astype("float32")}
    for layer in range(6):
        for name, shape in (
            ("attn.qkv", (192, 64)),
            ("attn.out", (64, 64)),
            ("mlp.up", (256, 64)),
            ("mlp.down", (64, 256)),
        ):
            weights[f"blocks.{layer}.{name}.weight"] = noise.standard_normal(shape).astype("float32") / 8
            weights[f"blocks.{layer}.{name}.bias"] = np.zeros(shape[0], "float32")
    weights["head.weight"] = weights["embed.weight"]
    moments = {key: {"exp_avg": value * 0.1, "step": np.float32(900)} for key, value in weights.items()}
    return {"model": weights, "optimizer": {"state": moments}, "epoch": 3}


def main(target: str) -> None:
    """Start the viewer, open a tensor, take the picture."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        wl.save(model(), path)
        with wl.open_checkpoint(path) as opened:
            index = list(opened).index(SHOWN)
        command = [sys.executable, "-m", "weighlock", "view", str(path), "--no-browser"]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server,
            sync_playwright() as playwright,
        ):
            address = server.stdout.readline().strip() if server.stdout else ""
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 860}, color_scheme="light")
            page.goto(address)
            page.wait_for_selector("h1")
            page.goto(f"{address.partition('#')[0]}#/file/0/tensor/{index}?view=table")
            page.wait_for_selector("canvas")
            page.wait_for_timeout(1500)
            page.screenshot(path=target)
            browser.close()
            server.terminate()


if __name__ == "__main__":
    main(*sys.argv[1:])
