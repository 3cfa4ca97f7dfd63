"""PyTorch's own words for our errors, beside ours: programs look for them in messages."""

from typing import Final

from weighlock.errors import PickleStreamError, UnsafeGlobalError, UnsupportedError, WeighlockError
from weighlock.pickling.user_globals import BLOCKED_MODULES, python3_name

__all__ = ["say_as_torch"]

_FAILED: Final = "Weights only load failed."
_MAPPED: Final = "mmap can only be used with files saved with `torch.save(..., _use_new_zipfile_serialization=True)`"
_NESTED: Final = "``torch.nested`` and ``torch._dynamo`` must be imported to load nested jagged tensors (NJTs)"
_DTENSOR: Final = "``torch.distributed.tensor`` must be imported to load DTensors"


def say_as_torch(error: WeighlockError, *, weights_only: bool) -> None:
    """Put PyTorch's phrases into the message of an error, where programs that expect PyTorch look for them."""
    if isinstance(error, UnsupportedError) and error.what.startswith("a legacy stream cannot be mapped"):
        error.what = f"{_MAPPED}: {error.what}"
    if not weights_only or not isinstance(error, PickleStreamError) or error.what.startswith(_FAILED):
        return
    if isinstance(error, UnsafeGlobalError):
        lines = list(dict.fromkeys(map(_line, error.globals)))
        # What must be imported first says PyTorch right at the beginning.
        imports = [line for line in lines if line in (_NESTED, _DTENSOR)]
        others = [line for line in lines if line not in imports]
        error.what = " ".join([_FAILED, *(f"{line}." for line in imports), "\n".join([error.what, *others])])
        error.hint = (
            "To look at them as inert data: weighlock.load(..., on_unknown='stub'). If one is plain data that should "
            "be known, please file an issue with the following so that we can make `weights_only=True` read it: "
            f"{', '.join(map(_shown, error.globals))}."
        )
    else:
        error.what = f"{_FAILED} {error.what}"


def _shown(name: str) -> str:
    """Return a global's name as PyTorch shows it: by its module in Python 3, a builtin by its name alone."""
    module, _, short = name.rpartition(".")
    return ".".join(python3_name(module, short)).removeprefix("builtins.")


def _line(name: str) -> str:
    shown = _shown(name)
    module = shown.partition(".")[0]
    if module in BLOCKED_MODULES:
        return f"Trying to load unsupported GLOBAL {shown} whose module {module} is blocked."
    if shown.startswith(("torch.nested.", "torch._dynamo.")):
        return _NESTED
    if shown.startswith(("torch.distributed.tensor.", "torch.distributed.device_mesh.")):
        return _DTENSOR
    return (
        f"Unsupported global: GLOBAL {shown} was not an allowed global by default. Please use "
        f"`torch.serialization.add_safe_globals([{shown}])` or the `torch.serialization.safe_globals([{shown}])` "
        "context manager to allowlist this global if you trust this class/function."
    )
