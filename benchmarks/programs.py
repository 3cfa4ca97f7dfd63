"""Well-known programs on top of PyTorch, run unchanged through Weighlock: they train, save, load and go on.

usage: python -m weighlock.torch benchmarks/programs.py     (in an environment with the packages named below)

Each part needs its package (pytorch-lightning, accelerate, timm, transformers, ultralytics) and is skipped where it is
not installed. Run it without ``-m weighlock.torch`` for stock PyTorch. Nothing is downloaded.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch


def lightning(folder: Path) -> None:
    """Fit, save a checkpoint, load the module from it, fit on from it."""
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader, TensorDataset

    class Module(pl.LightningModule):
        def __init__(self, width: int = 8) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))

        def training_step(self, batch, index):
            return torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.01)

    def trainer(epochs: int) -> pl.Trainer:
        return pl.Trainer(max_epochs=epochs, default_root_dir=folder, accelerator="cpu", logger=False,
                          enable_progress_bar=False, enable_model_summary=False)  # fmt: skip

    data = DataLoader(TensorDataset(torch.randn(64, 4), torch.randn(64, 1)), batch_size=8)
    module, first = Module(), trainer(2)
    first.fit(module, data)
    path = str(folder / "lightning.ckpt")
    first.save_checkpoint(path)
    again = Module.load_from_checkpoint(path, weights_only=False)
    assert all(map(torch.equal, module.state_dict().values(), again.state_dict().values()))
    trainer(4).fit(Module(), data, ckpt_path=path)


def accelerate(folder: Path) -> None:
    """Save and load the state of a prepared model and optimizer."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    net = torch.nn.Linear(3, 2)
    net, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9))
    accelerator.save_state(str(folder / "accelerate"), safe_serialization=False)
    accelerator.load_state(str(folder / "accelerate"))
    assert optimizer is not None


def timm(folder: Path) -> None:
    """Build a model from a checkpoint whose keys carry a prefix."""
    from timm import create_model

    model, path = create_model("resnet10t", num_classes=3), folder / "timm.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, path)
    again = create_model("resnet10t", num_classes=3, checkpoint_path=str(path))
    assert torch.equal(model.state_dict()["fc.weight"], again.state_dict()["fc.weight"])


def transformers(folder: Path) -> None:
    """Load a model from ``pytorch_model.bin``."""
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50)
    model = BertModel(config)
    config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    again = BertModel.from_pretrained(folder, use_safetensors=False)
    assert torch.equal(model.pooler.dense.weight, again.pooler.dense.weight)


def distributed_checkpoint(folder: Path) -> None:
    """PyTorch's own distributed checkpoint, of one process."""
    import torch.distributed.checkpoint as dcp

    net = torch.nn.Linear(3, 2)
    dcp.save({"net": net.state_dict(), "step": 3}, checkpoint_id=str(folder / "dcp"), no_dist=True)
    state = {"net": {key: torch.zeros_like(value) for key, value in net.state_dict().items()}, "step": 0}
    dcp.load(state, checkpoint_id=str(folder / "dcp"), no_dist=True)
    assert state["step"] == 3
    assert torch.equal(state["net"]["weight"], net.weight)


def ultralytics(folder: Path) -> None:
    """Save a whole detection model and load it again."""
    from ultralytics import YOLO

    model = YOLO("yolov8n.yaml")
    model.save(str(folder / "yolo.pt"))
    again = YOLO(str(folder / "yolo.pt"))
    assert sum(p.numel() for p in again.model.parameters()) == sum(p.numel() for p in model.model.parameters())


PARTS: tuple[Callable[[Path], None], ...] = (
    lightning, accelerate, timm, transformers, distributed_checkpoint, ultralytics,
)  # fmt: skip


def main() -> None:
    """Run each part and say how it went."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print(f"torch {torch.__version__}, torch.load is {torch.load.__module__}.{torch.load.__name__}")
    for part in PARTS:
        with tempfile.TemporaryDirectory() as folder:
            before = os.getcwd()
            os.chdir(folder)
            try:
                torch.manual_seed(0)
                part(Path(folder))
                print(f"{part.__name__}: ok")
            except ImportError as error:
                print(f"{part.__name__}: skipped, {error}")
            finally:
                os.chdir(before)


if __name__ == "__main__":
    main()
