"""Makes the example files: one small model, really trained, saved in the three ways that people save models.

usage: python examples/make_examples.py     (needs PyTorch; its output is committed, so nobody has to run it)

The task is made from a formula: tell the ten digits of a 5 x 3 pixel display apart when one of its 15 pixels is wrong.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
# The digits 0 to 9 on a display of five rows of three pixels, one bit each.
DIGITS = (31599, 11415, 29671, 29647, 23497, 31183, 31215, 29257, 31727, 31695)
WRONG_PIXELS = 1


class DigitReader(torch.nn.Module):
    """15 pixels in, 32 hidden units, 10 digits out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(15, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:  # (batch, 15) -> (batch, 10)
        scores: torch.Tensor = self.layers(pixels)
        return scores


def samples(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noisy displays (count, 15) and the digits they show (count,)."""
    digits = torch.randint(0, 10, (count,))
    shifts = torch.arange(14, -1, -1)
    pixels = (torch.tensor(DIGITS)[digits][:, None] >> shifts) & 1  # (count, 15)
    wrong = torch.rand(count, 15).argsort(1)[:, :WRONG_PIXELS]
    return pixels.scatter(1, wrong, 1 - pixels.gather(1, wrong)).float(), digits


def train() -> tuple[DigitReader, torch.optim.Optimizer, float]:
    """Return the trained model, its optimizer and the last loss."""
    torch.manual_seed(0)
    model = DigitReader()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loss = torch.zeros(())
    for _ in range(400):
        pixels, digits = samples(256)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(pixels), digits)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model, optimizer, loss.item()


def hostile(path: Path) -> None:
    """Write a checkpoint whose pickle would run a command: it only makes a file, to show whether it ran."""
    command = "touch HOSTILE_FILE_WAS_RUN"
    pickled = b"\x80\x02cposix\nsystem\nX" + len(command).to_bytes(4, "little") + command.encode() + b"\x85R."
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (("data.pkl", pickled), ("byteorder", b"little"), ("version", b"3\n")):
            archive.writestr(zipfile.ZipInfo(f"hostile/{name}", (1980, 1, 1, 0, 0, 0)), data)


def main() -> None:
    """Train once, save in every form."""
    model, optimizer, loss = train()
    torch.save(model.state_dict(), HERE / "digits.pt")
    torch.save(model.state_dict(), HERE / "digits_legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(model, HERE / "digits_module.pt")
    training: dict[str, Any] = {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 400, "loss": loss,
    }  # fmt: skip
    torch.save(training, HERE / "training.pt")
    hostile(HERE / "hostile.pt")
    torch.manual_seed(1)
    pixels, digits = samples(2000)
    test = {"pixels": pixels.to(torch.uint8), "digits": digits.to(torch.uint8)}
    torch.save(test, HERE / "test_set.pt")
    right = (model(pixels).argmax(1) == digits).float().mean()
    print(f"accuracy {float(right):.4f}, loss {loss:.4f}, pickle protocol {pickle.HIGHEST_PROTOCOL}")


if __name__ == "__main__":
    main()
