"""The fixed workloads, made once with stock torch and safetensors.

`small` has 60 tensors of 64 x 64, `many` 20,000 of 16 floats, `ckpt` is a training checkpoint with 450,000 plain Python
values, `big` the weights of a transformer of 411 MB, `huge` of one of 1.4 GB.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def transformer(layers: int, width: int) -> dict[str, Any]:
    """Return random weights in the shapes of a GPT: (vocabulary, width) embeddings, four matrices per layer."""
    import torch

    weights = {"wte.weight": torch.randn(50257, width), "wpe.weight": torch.randn(1024, width)}
    shapes = {"attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width),
              "mlp.c_fc": (width, 4 * width), "mlp.c_proj": (4 * width, width)}  # fmt: skip
    for layer in range(layers):
        for norm in ("ln_1", "ln_2"):
            weights[f"h.{layer}.{norm}.weight"] = torch.ones(width)
            weights[f"h.{layer}.{norm}.bias"] = torch.zeros(width)
        for name, shape in shapes.items():
            weights[f"h.{layer}.{name}.weight"] = torch.randn(*shape)
            weights[f"h.{layer}.{name}.bias"] = torch.zeros(shape[1])
    return weights


def training_checkpoint() -> dict[str, Any]:
    """Return a model of 200 layers, its AdamW state, and lists of plain values."""
    import torch

    model = torch.nn.Sequential(*[torch.nn.Linear(128, 128) for _ in range(200)])
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 128)).sum().backward()
    optimizer.step()
    return {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3,
        "loss_history": [number / 7 for number in range(300_000)], "steps": list(range(100_000)),
        "names": [f"sample_{number:06d}" for number in range(50_000)],
    }  # fmt: skip


def make(folder: Path, *, huge: bool) -> None:
    """Write every workload that is not there yet; `huge` stands for `big` where it is asked for."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    makers = {
        "small": lambda: {f"l{number}.w": torch.randn(64, 64) for number in range(60)},
        "many": lambda: {f"layer.{number}.weight": torch.randn(16) for number in range(20_000)},
        "ckpt": training_checkpoint,
        **({"huge": lambda: transformer(24, 1024)} if huge else {"big": lambda: transformer(4, 1024)}),
    }
    for name, maker in makers.items():
        path = folder / f"{name}.pt"
        if path.exists():
            continue
        weights = maker()
        torch.save(weights, folder / f"{name}_legacy.pt", _use_new_zipfile_serialization=False)
        if name != "ckpt":
            save_file(weights, folder / f"{name}.safetensors")
        # Last, and by rename: a workload whose file is there is whole.
        torch.save(weights, folder / "unfinished")
        (folder / "unfinished").replace(path)


if __name__ == "__main__":
    make(Path(sys.argv[1]), huge="--huge" in sys.argv)
