"""Beside PyTorch: what ``torch.load(weights_only=True)`` makes of a file and what Weighlock makes of it.

Where both read a file, the results are equal. Where only one does, the reason stands in a table here, and where a user
could notice it, in ``docs/compatibility.md``. Everything else is a finding.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import weighlock as wl
from tests import torch_compare
from tests.compare import same
from tests.fuzzing.archives import looks_like_archive, parsed
from tests.fuzzing.targets import BrokenPromiseError, Outcome, attempt
from weighlock.errors import WeighlockError

__all__ = ["OURS_ALONE", "THEIRS_ALONE", "beside_torch"]

DIRECTORY = "an archive whose directory cannot be believed"
MALFORMED = "a pickle that does what no pickler writes"
BOUNDS = "a tensor that is not inside of its bytes"

THEIRS_ALONE: dict[str, str] = {
    r"^ChecksumError": "a record whose CRC-32 is wrong",
    r"^DirectoryError": DIRECTORY,
    r"^TruncatedError": "bytes are missing",
    r"^LimitError: the record claims to inflate too far|^LimitError": "limits",
    r"encrypted or a patch|on another disk|spread over several disks|compressed by a method": DIRECTORY,
    r"the inflated record|the record cannot be inflated|compressed data": DIRECTORY,
    r"^DamagedError: (the list of storages|the stream holds|the record byteorder)": "a stream that lacks what it names",
    r"^TensorBoundsError|^DamagedError: a tensor contradicts itself": BOUNDS,
    r"objects are left over|an unknown pickle protocol|arguments of a call are not a tuple": MALFORMED,
    r"a state is set on|malformed description|of an unknown class|a persistent id|metadata is no": MALFORMED,
    r"do not fit together|is no (length|size)|is not a short list|hooks are no mapping|hide a method": MALFORMED,
    r"arguments that no checkpoint gives|uninitialised|an unknown tensor layout|neither text nor number": MALFORMED,
    r"whose parts are no tensors|impossible name|is no (tensor|dictionary|mapping)|a device that is no": MALFORMED,
    r"a quantized tensor|a sparse tensor|unknown quantizer|a nested tensor|a jagged tensor": BOUNDS,
    r"^PickleStreamError": MALFORMED,
}
"""PyTorch reads it, Weighlock refuses: what our error says, and why. The first that fits counts."""

# What PyTorch's own registry says of a place leaves the drop-in as it is; NumPy puts every storage on the CPU.
_DEVICES = r"don't know how to restore data location|Attempting to deserialize object on|Invalid device"

VALUES = "harmless values that a closed table makes"
RECORDS = "records that nothing depends on"
PLACES = "places that PyTorch looks at and Weighlock does not need"
OURS_ALONE: dict[str, str] = {
    r"Unsupported (global|class)|[Tt]rying to (call|instantiate|build)|Can only (build|SETITEM|create)": VALUES,
    r"Unsupported operand": "pickle protocols other than 2",
    r"Invalid magic number|Invalid protocol version|stack underflow|pop from an empty|unpickling": "plain pickles",
    r"Weights only load failed": VALUES,
    r"type object .* has no attribute|has no attribute": "legacy streams of new types",
    r"TorchScript": "TorchScript archives",
    r"header or archive is corrupted": RECORDS,
    r"not in a subdirectory|failed locating file|failed finding|file not found": "archives without PyTorch's folders",
    r"parse the version|file with version|hasRecord|stoull|invalid literal for int|Unknown endianness": RECORDS,
    r"unsupported feature|unsupported multidisk|unsupported encryption|archive: ": DIRECTORY,
    r"codec can't decode": "names of records that are no UTF-8",
    r"requires_grad|must be bool": "NumPy has no gradients",
    rf"{_DEVICES}": "places that are not here",
    r"positional arguments|negative seek|too many values|not enough values|invalid data type": PLACES,
    r"Storage size calculation|setStorage|INTERNAL ASSERT|Overflow when": "memory that is not read yet",
    r"record size .* does not match": "a storage mentioned again with another length: the first mention counts",
    r"cls must be a type|Invalid serialized state": MALFORMED,
    r"expected string or bytes-like|meta-data|hooks|list index out of range|must be (a )?(tuple|str|int)": PLACES,
    r"legacy .tar|tar format": "tar archives",
}
"""Weighlock reads it, PyTorch refuses: what PyTorch says, and why. The first that fits counts."""


def beside_torch(data: Any) -> Outcome:
    """Load on both sides and compare."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, refusal = _raised(lambda: torch.load(io.BytesIO(data), weights_only=True))
        ours = attempt(lambda: wl.load(data))
        drop_in, error = _raised(lambda: wl.load(data, framework="torch"))
        if refusal is not None:
            return _only_ours(refusal, ours, error)
        for side, found in (("NumPy", ours.error), ("torch", error)):
            if found is not None:
                _only_theirs(found, side)
        if ours.error is not None or error is not None:
            return Outcome("only PyTorch", None)
        if _is_small(torch, theirs) and not _names_a_folder(data):
            _compare(torch, theirs, ours.result, drop_in)
    return Outcome("both", None)


def _names_a_folder(data: bytes) -> bool:
    """Whether a record has the attribute of a folder: PyTorch then leaves the memory as it finds it."""
    found = parsed(data) if looks_like_archive(data) else None
    return found is not None and any(member.central.get("outer", 0) & 0x10 for member in found.members)


def _raised(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return call(), None
    except Exception as error:
        return None, error


def _only_ours(refusal: Exception, ours: Outcome, error: Exception | None) -> Outcome:
    if error is not None and not isinstance(error, WeighlockError) and not re.match(_DEVICES, str(error)):
        raise BrokenPromiseError(f"the drop-in raises {type(error).__name__}: {error}")
    if ours.error is not None:
        return Outcome("neither", None)
    text = f"{type(refusal).__name__}: {_gist(str(refusal))}"
    if any(re.search(words, text) for words in OURS_ALONE):
        return Outcome("only Weighlock", None)
    raise BrokenPromiseError(f"only Weighlock reads it; PyTorch says {text[:200]}")


def _gist(text: str) -> str:
    """What PyTorch says after its advice, which goes on when it asks for a report."""
    return re.split(r"WeightsUnpickler error: |with following error: ", text)[-1].strip()


def _only_theirs(error: Exception, side: str) -> None:
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, WeighlockError) and any(re.search(words, text) for words in THEIRS_ALONE):
        return
    raise BrokenPromiseError(f"only PyTorch reads it; Weighlock ({side}) says {text[:300]}")


_MOST_BYTES = 1 << 24


def _is_small(torch: Any, root: Any) -> bool:
    """Whether a result can be compared: a view of one number can have terabytes, and pairs of one pair have no end."""
    waiting = [root]
    for _ in range(2000):
        if not waiting:
            return True
        value = waiting.pop()
        if isinstance(value, torch.Tensor) and value.numel() * value.element_size() > _MOST_BYTES:
            return False
        if isinstance(value, torch.Tensor):
            waiting += [value._backward_hooks or {}]
        waiting += [getattr(value, "__dict__", {})] if isinstance(value, dict | torch.Tensor) else []
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += value
        elif isinstance(value, torch.serialization.StorageType) or (
            callable(value) and not isinstance(value, torch.Tensor)
        ):
            return False  # a function or class by itself: each side has its own
    return False


def _compare(torch: Any, theirs: Any, ours: Any, drop_in: Any) -> None:
    for compare, found in ((same, ours), (torch_compare.same, drop_in)):
        try:
            compare(torch, theirs, found)
        except (RecursionError, RuntimeError, TypeError):
            return  # of the comparison itself: of depth, and of tensors that stand where only numbers can be compared
        except AssertionError as error:
            side = "NumPy" if found is ours else "torch"
            raise BrokenPromiseError(f"other results ({side}): {' '.join(str(error).split())[:200]}") from error
