"""A tensor as a file to keep: an array of NumPy, or text for a spreadsheet."""

import io
import math
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from weighlock.dtypes import DTYPES
from weighlock.errors import LimitError, UnsupportedError
from weighlock.inspection.spelling import number_text
from weighlock.inspection.values import read_values
from weighlock.measuring.pieces import of_plain_type, parts_of, pieces
from weighlock.measuring.widening import as_numbers, numbers_in
from weighlock.tensors.spec import TensorSpec
from weighlock.viewer.bounds import MOST_CSV_CELLS, MOST_NPY_BYTES
from weighlock.viewer.looking.describing import chosen_spec
from weighlock.viewer.looking.holding import ViewedFile
from weighlock.viewer.reading.bands import lazy_of

if TYPE_CHECKING:
    import numpy

__all__ = ["Array", "as_csv", "as_npy", "file_name"]


def file_name(file: ViewedFile, index: int, ending: str) -> str:
    """Return a harmless name: letters, digits, dots, dashes."""
    key = file.keys[file.row(index).index]
    kept = "".join(mark if mark.isascii() and (mark.isalnum() or mark in "._-") else "_" for mark in key)
    return f"{kept.strip('._-')[-100:] or 'tensor'}.{ending}"


class Array(NamedTuple):
    """A file on its way: its length in bytes, and its pieces."""

    nbytes: int
    pieces: Iterator[bytes]


def as_npy(file: ViewedFile, index: int) -> Array:
    """Return a ``.npy`` file: its header, then the values. What NumPy has no type for comes as the float32 it equals.

    Of a quantized tensor the stored integers are written.

    Raises
    ------
    UnsupportedError
        If its elements are no numbers.
    LimitError
        If it is too large for a browser.
    """
    import numpy as np

    chosen_spec(file, index, "")
    part = parts_of(lazy_of(file, index))[0]
    if not numbers_in(part.dtype):
        raise UnsupportedError(f"elements of type {part.dtype} have no form in .npy")
    kind = of_plain_type(part.source).dtype.numpy if type(part.source) is TensorSpec else part.source.dtype
    empty = np.zeros(0, kind)
    dtype = _kept(empty, part.dtype).dtype
    shape = part.shape if part.dtype != "float4_e2m1fn_x2" else (*part.shape[:-1], 2 * (part.shape or (1,))[-1])
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes > MOST_NPY_BYTES:
        raise LimitError(
            "the tensor is too large to be handed to a browser", got=f"{nbytes:,} bytes",
            expected=f"at most {MOST_NPY_BYTES:,}", hint="`weighlock show FILE KEY -o NAME.npy` saves it.",
        )  # fmt: skip
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    values = (_kept(piece, part.dtype).tobytes() for piece in pieces(part.source))
    begin = head.getvalue() + next(
        values, b""
    )  # read now: most damage is seen while there still is an answer to choose
    return Array(len(head.getvalue()) + nbytes, chain([begin], values))


def _kept(piece: "numpy.ndarray", dtype: str) -> "numpy.ndarray":
    own = DTYPES.get(dtype)
    plain = piece.dtype.isbuiltin == 1 and piece.dtype.kind in "biufc" and (own is None or own.numpy_name is not None)
    return piece if plain else as_numbers(piece, dtype)


def as_csv(file: ViewedFile, index: int) -> bytes:
    """Return the values as text, a line for each row of the last dimension.

    Raises
    ------
    LimitError
        If there are more than a spreadsheet holds.
    """
    found = read_values(file.checkpoint, chosen_spec(file, index, ""), limit=MOST_CSV_CELLS)
    texts = [number_text(value, found.dtype) for value in found.flat]
    width = max(1, found.shape[-1] if found.shape else 1)
    rows = (",".join(texts[at : at + width]) for at in range(0, len(texts), width))
    return "".join(f"{row}\r\n" for row in rows).encode()
