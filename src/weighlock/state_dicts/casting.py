"""Element types of a whole state_dict changed at once, with memory shared afterwards wherever it was before."""

import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from weighlock.backends.numpy_casting import cast_array
from weighlock.dtypes import DTYPES, DType
from weighlock.dtypes import dtype as dtype_named
from weighlock.errors import ArgumentError
from weighlock.state_dicts.editing import check_mapping, with_metadata
from weighlock.state_dicts.trees import dtype_name, is_tensor

__all__ = ["cast", "element_type"]

_USUAL: Final = ("float32", "float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2")


def cast(mapping: Mapping[str, Any], dtype: Any, *, integers: bool = False) -> "OrderedDict[str, Any]":
    """Return the mapping with tensors of another element type.

    Parameters
    ----------
    mapping : mapping of str to tensor
        NumPy arrays or PyTorch tensors.
    dtype : str, numpy.dtype, torch.dtype or DType
        For example ``"float16"``.
    integers : bool
        Cast integers and booleans too. Otherwise only floating-point tensors are.

    Raises
    ------
    ArgumentError
        If there is no such element type.

    Examples
    --------
    >>> import numpy
    >>> cast({"w": numpy.ones(2), "n": numpy.arange(2)}, "float16")["w"].dtype
    dtype('float16')
    """
    check_mapping(mapping)
    row = element_type(dtype)
    chosen = {key: value for key, value in mapping.items() if is_tensor(value) and _is_chosen(value, integers)}
    made = _cast_all(list(chosen.values()), row.name)
    results = dict(zip(chosen, made, strict=True))
    out = OrderedDict((key, results.get(key, value)) for key, value in mapping.items())
    return with_metadata(out, getattr(mapping, "_metadata", None))


def element_type(dtype: Any) -> DType:
    """Return the row of an element type, however it is given; `ArgumentError` where there is none."""
    name = str(dtype).removeprefix("torch.") if not isinstance(dtype, type) else dtype.__name__
    try:
        return dtype_named(name)
    except KeyError as error:
        raise ArgumentError(
            "an unknown element type", expected=f"one of {', '.join(_USUAL)} and others of PyTorch's",
            got=repr(dtype)[:40],
        ) from error  # fmt: skip


def _is_chosen(value: Any, integers: bool) -> bool:
    row = DTYPES.get(dtype_name(value))
    return row is not None and (row.kind == "f" or (integers and row.kind in "iub"))


def _cast_all(values: list[Any], name: str) -> list[Any]:
    """Cast tensors; those that share memory are cast as the one stretch of memory that they are views of."""
    torch = sys.modules.get("torch")
    groups: dict[Any, list[int]] = {}
    for index, value in enumerate(values):
        groups.setdefault(_memory_of(value, torch), []).append(index)
    out: list[Any] = [None] * len(values)
    for members in groups.values():
        first = values[members[0]]
        is_torch = torch is not None and isinstance(first, torch.Tensor)
        if len(members) == 1:
            out[members[0]] = _torch_cast(first, name) if is_torch else _numpy_cast(first, name)
            continue
        made = (_shared_torch if is_torch else _shared_numpy)([values[index] for index in members], name)
        for index, tensor in zip(members, made, strict=True):
            out[index] = tensor
    return out


def _memory_of(value: Any, torch: Any) -> Any:
    """Return what tells the memory of a tensor from others': its storage, or the array that owns it."""
    if torch is not None and isinstance(value, torch.Tensor):
        if value.layout is not torch.strided or value.is_quantized:
            return ("torch", id(value))
        return ("torch", value.untyped_storage()._cdata, value.dtype)  # noqa: SLF001 - a storage's identity
    root = value
    while getattr(root, "base", None) is not None and hasattr(root.base, "dtype"):
        root = root.base
    return ("numpy", id(root), str(value.dtype))


def _numpy_cast(value: Any, name: str) -> Any:
    kind = dtype_named(name).numpy
    return cast_array(value, kind)


def _torch_cast(value: Any, name: str) -> Any:
    made = value.detach().to(getattr(sys.modules["torch"], name))
    torch = sys.modules["torch"]
    if isinstance(value, torch.nn.Parameter):
        return torch.nn.Parameter(made, requires_grad=value.requires_grad and made.is_floating_point())
    return made.requires_grad_(value.requires_grad) if made.is_floating_point() else made


def _shared_torch(values: list[Any], name: str) -> list[Any]:
    torch = sys.modules["torch"]
    first = values[0]
    flat = torch.empty(0, dtype=first.dtype, device=first.device).set_(first.untyped_storage())
    flat = flat.to(getattr(torch, name))
    kept: dict[int, Any] = {}
    out = []
    for value in values:
        if id(value) not in kept:
            made = flat.as_strided(value.size(), value.stride(), value.storage_offset())
            if isinstance(value, torch.nn.Parameter):
                made = torch.nn.Parameter(made, requires_grad=value.requires_grad and made.is_floating_point())
            kept[id(value)] = made
        out.append(kept[id(value)])
    return out


def _shared_numpy(values: list[Any], name: str) -> list[Any]:
    """Cast arrays of one owner: those that overlap as one, the others (neighbours in an arena) alone."""
    import numpy

    bounds = [numpy.lib.array_utils.byte_bounds(value) for value in values]
    order = sorted(range(len(values)), key=lambda index: bounds[index])
    out: list[Any] = [None] * len(values)
    cluster: list[int] = []
    end = -1
    for index in order:
        if cluster and bounds[index][0] >= end:
            _cast_cluster(values, bounds, cluster, out, name)
            cluster = []
        cluster.append(index)
        end = max(end, bounds[index][1]) if len(cluster) > 1 else bounds[index][1]
    _cast_cluster(values, bounds, cluster, out, name)
    return out


def _cast_cluster(values: list[Any], bounds: list[Any], cluster: list[int], out: list[Any], name: str) -> None:
    import numpy

    first, item = values[cluster[0]], values[cluster[0]].dtype.itemsize
    start, end = bounds[cluster[0]][0], max(bounds[index][1] for index in cluster)
    whole = all(
        (bounds[index][0] - start) % item == 0 and min(values[index].strides, default=0) >= 0 for index in cluster
    )
    if len(cluster) == 1 or not whole:
        for index in cluster:
            out[index] = _numpy_cast(values[index], name)
        return
    flat = _numpy_cast(numpy.lib.stride_tricks.as_strided(first, ((end - start) // item,), (item,)), name)
    for index in cluster:
        value = values[index]
        strides = [stride // item * flat.itemsize for stride in value.strides]
        begin = flat[(bounds[index][0] - start) // item :]
        out[index] = numpy.lib.stride_tricks.as_strided(begin, value.shape, strides)
