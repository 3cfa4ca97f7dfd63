"""The drop-in for PyTorch's own functions: the same names, signatures, results; safer, faster.

>>> import io, torch, weighlock.torch
>>> file = io.BytesIO()
>>> weighlock.torch.save({"weight": torch.ones(2)}, file)
>>> _ = file.seek(0)
>>> weighlock.torch.load(file, map_location="cpu")
{'weight': tensor([1., 1.])}

A running program is routed through it by `install`, a block of it by ``with installed():``, and an unchanged script by
``python -m weighlock.torch script.py``. Every difference from PyTorch stands in ``docs/compatibility.md``.
"""

from weighlock.torch import hub, serialization
from weighlock.torch.installing import install, installed, uninstall
from weighlock.torch.loading import load
from weighlock.torch.saving import save, save_async

__all__ = ["hub", "install", "installed", "load", "save", "save_async", "serialization", "uninstall"]
