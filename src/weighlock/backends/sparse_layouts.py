"""The invariants of PyTorch's sparse layouts, and sparse to dense, in NumPy."""

from typing import Any

import numpy as np

from weighlock.errors import TensorBoundsError, UnsupportedError

__all__ = ["check", "to_dense"]

Array = np.ndarray[Any, Any]


def _refuse(what: str, **facts: Any) -> TensorBoundsError:
    return TensorBoundsError(f"a sparse tensor contradicts itself: {what}", **facts)


def check(tensor: Any) -> None:
    """Refuse indices that are malformed or outside of the tensor's shape."""
    if tensor.layout.name == "sparse_coo":
        _check_coo(tensor.indices, tensor.values, tensor.shape)
    else:
        _check_compressed(tensor)


def _check_arrays(*arrays: Any) -> None:
    for array in arrays:
        if not isinstance(array, np.ndarray):
            raise _refuse("a part of it is no tensor", got=type(array).__name__)


def _check_coo(indices: Any, values: Any, shape: tuple[int, ...]) -> None:
    _check_arrays(indices, values)
    if indices.ndim != 2 or indices.dtype.kind not in "iu" or values.ndim < 1:
        raise _refuse("indices are no integer matrix", got=f"{indices.dtype}{list(indices.shape)}")
    sparse = indices.shape[0]
    if sparse > len(shape) or values.shape[0] != indices.shape[1] or values.shape[1:] != tuple(shape[sparse:]):
        raise _refuse("indices, values and shape do not fit together", got=f"{indices.shape}, {values.shape}, {shape}")
    if indices.size and (indices.min() < 0 or (indices.max(axis=1) >= np.array(shape[:sparse], np.int64)).any()):
        raise _refuse("an index outside of the shape", expected=f"shape {list(shape)}", got=str(int(indices.max())))


def _geometry(tensor: Any) -> tuple[int, bool, tuple[int, int]]:
    """Return the number of batch dimensions, whether rows are compressed, and the block's shape."""
    compressed, plain = tensor.indices
    _check_arrays(compressed, plain, tensor.values)
    batch = compressed.ndim - 1
    blocked = tensor.layout.name in ("sparse_bsr", "sparse_bsc")
    if (
        batch < 0
        or plain.ndim != batch + 1
        or tensor.values.ndim < batch + 1 + 2 * blocked
        or len(tensor.shape) < batch + 2
    ):
        raise _refuse("compressed indices, plain indices and values do not fit together")
    block = tensor.values.shape[batch + 1 : batch + 3] if blocked else (1, 1)
    return batch, tensor.layout.name in ("sparse_csr", "sparse_bsr"), (int(block[0]), int(block[1]))


def _check_compressed(tensor: Any) -> None:
    compressed, plain = tensor.indices
    batch, by_rows, block = _geometry(tensor)
    rows, columns = tensor.shape[batch : batch + 2]
    if 0 in block or rows % block[0] or columns % block[1]:
        raise _refuse("the shape is no multiple of the block", got=f"{rows} x {columns}, block {block}")
    major, minor = rows // block[0], columns // block[1]
    if not by_rows:
        major, minor = minor, major
    stored = plain.shape[-1]
    if compressed.shape[-1] != major + 1 or tensor.values.shape[: batch + 1] != plain.shape:
        raise _refuse("compressed indices do not fit the shape", expected=str(major + 1), got=str(compressed.shape[-1]))
    if compressed.dtype.kind not in "iu" or plain.dtype.kind not in "iu":
        raise _refuse("indices are no integers", got=str(compressed.dtype))
    steps = np.diff(compressed.astype(np.int64), axis=-1)
    if (
        (compressed[..., 0] != 0).any()
        or (compressed[..., -1] != stored).any()
        or (steps < 0).any()
        or (steps > minor).any()
    ):
        raise _refuse("compressed indices do not rise from 0 to the number of values")
    if plain.size and (plain.min() < 0 or plain.max() >= minor):
        raise _refuse("an index outside of the shape", expected=f"below {minor}", got=str(int(plain.max())))


def to_dense(tensor: Any, max_bytes: int) -> Array:
    """Return an ordinary array of the tensor's shape."""
    check(tensor)
    count = tensor.values.itemsize
    for length in tensor.shape:
        count *= length
    if count > max_bytes:
        raise UnsupportedError(
            "the dense array would be too large", expected=f"at most {max_bytes} bytes", got=str(count)
        )
    dense = np.zeros(tensor.shape, tensor.values.dtype)
    if tensor.layout.name == "sparse_coo":
        if len(tensor.indices):
            np.add.at(dense, tuple(tensor.indices), tensor.values)
        else:
            dense += tensor.values.sum(axis=0)
        return dense
    _fill_compressed(tensor, dense)
    return dense


def _fill_compressed(tensor: Any, dense: Array) -> None:
    compressed, plain = tensor.indices
    _, by_rows, block = _geometry(tensor)
    for index in np.ndindex(*compressed.shape[:-1]):
        counts = np.diff(compressed[index])
        major = np.repeat(np.arange(len(counts)), counts)
        row, column = (major, plain[index]) if by_rows else (plain[index], major)
        target = dense[index]
        values = tensor.values[index]
        if tensor.layout.name in ("sparse_csr", "sparse_csc"):
            target[row, column] = values
            continue
        for at, (r, c) in enumerate(zip(row.tolist(), column.tolist(), strict=True)):
            target[r * block[0] : (r + 1) * block[0], c * block[1] : (c + 1) * block[1]] = values[at]
