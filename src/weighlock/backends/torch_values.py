"""PyTorch's own constants in place of our names for them: the rows that a reading in its framework searches first.

`tensors.rebuild` knows a dtype, a layout or a class by a row of our tables. In this framework a pickle holds the real
thing; `PLAIN` leads back to the row. Names that this PyTorch does not have keep their row.
"""

from collections.abc import Callable
from typing import Any, Final

import torch

from weighlock.dtypes import DTYPES, DType
from weighlock.pickling.allowlist import Known
from weighlock.tensors.rebuild import TORCH_ROWS, TensorClass
from weighlock.tensors.values import TORCH_NAMES, TorchName

__all__ = ["CONSTANTS", "PLAIN", "ROWS", "TORCH_DTYPES"]

TORCH_DTYPES: Final[dict[DType, Any]] = {
    row: getattr(torch, name) for name, row in DTYPES.items() if hasattr(torch, name)
}
CONSTANTS: Final[dict[TorchName, Any]] = {
    row: getattr(torch, name) for name, row in TORCH_NAMES.items() if hasattr(torch, name)
}


def _real(module: str, name: str, value: Any) -> Any:
    """Return PyTorch's own object for a value of our table; the value itself where there is none."""
    if type(value) is DType:
        return TORCH_DTYPES.get(value, value)
    if type(value) is TorchName:
        return CONSTANTS.get(value, value)
    if value.kind in ("typed", "sparse"):
        holder: Any = torch
        for part in module.split(".")[1:]:
            holder = getattr(holder, part, None)
        return getattr(holder, name, value)
    return {"Tensor": torch.Tensor, "nn.Parameter": torch.nn.Parameter, "nn.Buffer": _BUFFER}.get(value.name, value)


_BUFFER: Final = getattr(torch.nn.parameter, "Buffer", None)


def _row(real: Any, row: tuple[Any, ...]) -> Callable[[], Known]:
    return lambda: Known(real, *row[1:])


def _tables() -> tuple[dict[tuple[str, str], Callable[[], Known]], dict[int, Any]]:
    rows, plain = {}, {}
    for key, make in TORCH_ROWS.items():
        row = make()
        value = row[0]
        if type(value) not in (DType, TorchName, TensorClass):
            continue
        real = _real(*key, value)
        if real is not None and real is not value:
            rows[key] = _row(real, row)
            plain[id(real)] = value
    return rows, plain


# By identity: these objects live as long as PyTorch does, and nothing that a file holds is ever compared or hashed.
ROWS, PLAIN = _tables()
