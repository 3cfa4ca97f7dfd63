"""The reader of digits as a module of PyTorch, in the way that repositories are written for torch.hub."""

import os

import torch
from torch import nn as _nn

dependencies = ["torch"]


def digits(pretrained=False, progress=True, **kwargs):
    """Tell which digit a display of five rows of three pixels shows.

    pretrained (bool): with the weights of the release
    progress (bool): show a bar while they are fetched
    hidden (int): hidden units, 32 by default; the pretrained model has 32
    """
    model = _model(**kwargs)
    if pretrained:
        address = "https://github.com/our-group/digits/releases/download/v1/digits-1fbec7d6.pt"
        model.load_state_dict(torch.hub.load_state_dict_from_url(address, progress=progress, check_hash=True))
    return model


def digits_from_the_repository():
    """Return the pretrained model, with weights that lie in the repository itself."""
    model = _model()
    path = os.path.join(os.path.dirname(__file__), "weights", "digits.pt")
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


def _model(hidden=32):
    return _Reader(hidden)


class _Reader(_nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.layers = _nn.Sequential(_nn.Linear(15, hidden), _nn.ReLU(), _nn.Linear(hidden, 10))

    def forward(self, pixels):  # (samples, 15) -> (samples, 10)
        return self.layers(pixels)
