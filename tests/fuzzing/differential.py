"""Beside PyTorch: what ``torch.load(weights_only=True)`` makes of a file and what Weighlock makes of it.

Where both read a file, the results are equal. Where only one does, the reason stands in a table here, and where a user
could notice it, in ``docs/compatibility.md``. Everything else is a finding.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import Any

import weighlock as wl
from tests import torch_compare
from tests.compare import same
from tests.fuzzing.targets import BrokenPromiseError, Outcome, attempt
from weighlock.errors import WeighlockError

__all__ = ["OURS_ALONE", "THEIRS_ALONE", "beside_torch"]

# PyTorch reads it, Weighlock refuses: the words of our error, and why.
THEIRS_ALONE: dict[str, str] = {}

# Weighlock reads it, PyTorch refuses: the words of PyTorch's error, and why.
OURS_ALONE: dict[str, str] = {}


def beside_torch(data: Any) -> Outcome:
    """Load on both sides and compare."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, refusal = _torch_load(torch, data)
        ours = attempt(lambda: wl.load(data))
        drop_in = attempt(lambda: wl.load(data, framework="torch"))
        if refusal is not None:
            return _only_ours(refusal, ours)
        for side, found in (("NumPy", ours), ("torch", drop_in)):
            if found.error is not None:
                _only_theirs(found.error, side)
        if ours.error is not None or drop_in.error is not None:
            return Outcome("only PyTorch", None)
        _compare(torch, theirs, ours.result, drop_in.result)
    return Outcome("both", None)


def _torch_load(torch: Any, data: bytes) -> tuple[Any, Exception | None]:
    try:
        return torch.load(io.BytesIO(data), weights_only=True), None
    except Exception as error:
        return None, error


def _only_ours(refusal: Exception, ours: Outcome) -> Outcome:
    if ours.error is not None:
        return Outcome("neither", None)
    text = f"{type(refusal).__name__}: {_gist(str(refusal))}"
    for words, _reason in OURS_ALONE.items():
        if re.search(words, text):
            return Outcome("only Weighlock", None)
    raise BrokenPromiseError(f"only Weighlock reads it; PyTorch says {text[:200]}")


def _gist(text: str) -> str:
    """What PyTorch says after its advice."""
    return re.split(r"WeightsUnpickler error: |with following error: |Please file an issue", text)[-1].strip()


def _only_theirs(error: WeighlockError, side: str) -> None:
    text = f"{type(error).__name__}: {error}"
    for words, _reason in THEIRS_ALONE.items():
        if re.search(words, text):
            return
    raise BrokenPromiseError(f"only PyTorch reads it; Weighlock ({side}) says {text[:300]}")


def _compare(torch: Any, theirs: Any, ours: Any, drop_in: Any) -> None:
    try:
        same(torch, theirs, ours)
        torch_compare.same(torch, theirs, drop_in)
    except AssertionError as error:
        raise BrokenPromiseError(f"other results: {error}") from error
