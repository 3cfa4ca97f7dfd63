"""Beside PyTorch: what ``torch.load(weights_only=True)`` makes of a file and what Weighlock makes of it.

Where both read a file, the results are equal. Where only one does, the reason stands in a table of
`tests.fuzzing.reasons`, and in ``docs/compatibility.md``. Everything else is a finding.
"""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import weighlock as wl
from tests.fuzzing.agreement import Agreement
from tests.fuzzing.archives import looks_like_archive, parsed
from tests.fuzzing.reasons import OF_THE_PLACE, OURS_ALONE, THEIRS_ALONE, Reason
from tests.fuzzing.running import Beside
from tests.fuzzing.targets import BrokenPromiseError, Outcome
from weighlock.errors import WeighlockError

__all__ = ["TELL", "beside_torch"]

LEFT_AS_FOUND = "a record with the attribute of a folder: PyTorch leaves its memory as it finds it"
NOT_SWAPPED = "an archive of the other byte order with new types: PyTorch leaves their bytes as they are"


TELL: list[Callable[[bool], None]] = [lambda reads: None]
"""Called with whether PyTorch is reading: a process that dies then has not died of Weighlock."""


def beside_torch(data: Any) -> Outcome:
    """Load on both sides, with NumPy and with PyTorch's own tensors, and compare whatever both read."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        TELL[0](True)
        theirs, refusal = _raised(lambda: torch.load(io.BytesIO(data), weights_only=True))
        TELL[0](False)
        made = {"NumPy": _raised(lambda: wl.load(data)), "torch": _raised(lambda: wl.load(data, framework="torch"))}
        refused = {side: error for side, (_, error) in made.items() if error is not None}
        if refusal is not None:
            return Outcome(_only_ours(refusal, refused, _known_difference(data)), None)
        notes = Counter({_reason_of(error, side): 1 for side, error in refused.items()})
        compared, known = 0, _known_difference(data)
        for side, (found, error) in made.items():
            if error is None and known:
                notes[f"not compared: {known}"] = 1
            elif error is None:
                agreement = Agreement(torch, drop_in=side == "torch", late=data[:2] != b"PK")
                agreement.check(theirs, found)
                notes.update({f"compared in part: {note}": 1 for note in agreement.notes})
                notes[f"tensors compared ({side})"] += agreement.tensors
                notes[f"other values compared ({side})"] += agreement.values
                compared += 1
    answer = {2: "both, compared", 1: "both, one side compared"}.get(compared, "only PyTorch" if refused else "both")
    return Outcome(Beside(answer, notes, _form(theirs) if not refused else None), None)


def _form(theirs: Any) -> Any:
    """What is new about a file that both read: types, and of tensors what a reader has to get right."""
    form: list[Any] = []
    waiting = [theirs]
    while waiting and len(form) < 12:
        value = waiting.pop()
        form.append(type(value).__name__)
        if type(value).__name__ in ("Tensor", "Parameter"):
            nested = value.is_nested
            plain = not nested and str(value.layout) == "torch.strided"
            form += [str(value.dtype), str(value.layout), plain and value.is_contiguous(), value.dim()]
        elif isinstance(value, dict):
            waiting += list(value.values())[:6]
        elif isinstance(value, list | tuple):
            waiting += value[:6]
    return tuple(form)


def _known_difference(data: bytes) -> str:
    """Where `docs/compatibility.md` tells that the results are others: what it says."""
    found = parsed(data) if looks_like_archive(data) else None
    if found is None:
        return ""
    if any(member.central.get("outer", 0) & 0x10 for member in found.members):
        return LEFT_AS_FOUND
    orders = [member.data() for member in found.members if member.names[1].lower().endswith(b"byteorder")]
    new_types = any(b"UntypedStorage" in member.data() for member in found.members)
    return NOT_SWAPPED if new_types and any(order == b"big" for order in orders) else ""


def _raised(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return call(), None
    except Exception as error:
        return None, error


def _only_ours(refusal: Exception, refused: dict[str, Exception], known: str) -> Beside:
    for side, error in refused.items():
        if not isinstance(error, WeighlockError) and not re.match(OF_THE_PLACE, _said(error)):
            raise BrokenPromiseError(f"Weighlock ({side}) raises {_said(error)}")
    if len(refused) == 2:
        return Beside("neither", Counter(), None)
    text = _said(refusal)
    row = _row(OURS_ALONE, text)
    if known == LEFT_AS_FOUND:
        return Beside("only Weighlock", Counter({f"only Weighlock: {known}": 1}), None)
    if row is None:
        raise BrokenPromiseError(f"only Weighlock reads it; PyTorch says {text[:200]}")
    alone = f"only Weighlock ({'both sides' if not refused else 'NumPy' if 'torch' in refused else 'torch'})"
    return Beside("only Weighlock", Counter({row.told(alone): 1}), (alone, row.words))


def _said(error: Exception) -> str:
    """The class and the words of an error, without PyTorch's advice around them."""
    text = str(error.what if isinstance(error, WeighlockError) else error)
    text = re.split(r"WeightsUnpickler error: |with following error: ", text)[-1].strip()
    text = re.sub(r"^\[enforce fail at [^]]*\] \. ", "", text)
    return f"{type(error).__name__}: {text}"


def _reason_of(error: Exception, side: str) -> str:
    row = _row(THEIRS_ALONE, _said(error)) if isinstance(error, WeighlockError) else None
    if row is None:
        raise BrokenPromiseError(f"only PyTorch reads it; Weighlock ({side}) says {_said(error)[:300]}")
    return row.told("only PyTorch")


def _row(table: tuple[Reason, ...], text: str) -> Reason | None:
    return next((row for row in table if re.match(row.words, text)), None)
