"""`into=` of `load`: data read straight into the memory of arrays and tensors that are there already.

Everything is compared before a byte is written. Storages whose bytes are what a target holds go into its memory; any
other is read as a whole, copied into its targets, and let go of before the next.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from weighlock.backends import registry
from weighlock.errors import StateDictError, UnsupportedError
from weighlock.state_dicts.drawing import state_dict
from weighlock.state_dicts.filling import LoadResult, check_target, copy_into, mismatch, result_of, runs_code
from weighlock.state_dicts.matching import Match
from weighlock.state_dicts.trees import dtype_name, has_own, is_tensor, slots
from weighlock.storages.source import ByteSource
from weighlock.tensors.layout import is_contiguous
from weighlock.tensors.spec import TensorSpec

__all__ = ["fill"]


class _Pair(NamedTuple):
    key: str
    spec: TensorSpec
    target: Any


def fill(root: Any, target: Any, source: ByteSource, *, selected: Callable[[str], bool], strict: bool,
         verify: bool) -> LoadResult:  # fmt: skip
    """Fill the arrays of `target` with the tensors of a described object; see `weighlock.load`.

    Raises
    ------
    StateDictMismatchError
        If keys or shapes do not fit: nothing was written.
    StateDictError, UnsupportedError
        If a target cannot take what it would get: nothing was written.
    """
    expected = {key: value for key, value in _targets(target).items() if selected(key)}
    found = _fitting(root, expected)
    given = {key: value for key, value in found.items() if selected(key)}
    report = Match(given, expected)
    if report.mismatched or (strict and (report.missing or report.unexpected)):
        raise mismatch(report, target)
    pairs = [_Pair(key, given[key], value) for key, value in expected.items() if key in given]
    for pair in pairs:
        _check(pair)
    _write(pairs, source, verify=verify)
    return result_of(report)


def _targets(target: Any) -> dict[str, Any]:
    """Return the arrays to fill, by name."""
    if hasattr(target, "param_groups"):
        raise UnsupportedError("an optimizer's state is no set of arrays that could be filled",
                               hint="Load the file, then call its load_state_dict.")  # fmt: skip
    found: dict[str, Any] = {}
    if has_own(target):
        _draw("", target, found)
        return found
    for slot in slots(target):
        if slot.owner:
            _draw(slot.key, slot.value, found)
        else:
            found[slot.key] = slot.value
    if not found:
        raise StateDictError("there is nothing to fill: no array lies in `into`", got=type(target).__name__)
    return found


def _draw(prefix: str, owner: Any, found: dict[str, Any]) -> None:
    if hasattr(owner, "param_groups"):
        return
    drawn = owner.state_dict()
    if runs_code(owner) or not all(map(is_tensor, drawn.values())):
        raise UnsupportedError(
            f"{type(owner).__name__} takes part in loading with code of its own", object_path=prefix or None,
            hint="Load the file, then call its load_state_dict.",
        )  # fmt: skip
    found.update((prefix + key, value) for key, value in drawn.items())


def _fitting(root: Any, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of the file under the names that fit best: of the whole tree, or of the state_dict in it."""
    candidates = [{slot.key: slot.value for slot in slots(root) if not slot.owner}]
    with suppress(StateDictError):
        candidates.append(dict(state_dict(root)))
    best = max(candidates, key=lambda names: sum(1 for name in expected if name in names))
    return {key: value for key, value in best.items() if is_tensor(value)}


def _check(pair: _Pair) -> None:
    """Refuse what could not be written, before anything is."""
    if type(pair.spec) is not TensorSpec or (pair.spec.ref.reader is None and pair.spec.nbytes):
        raise UnsupportedError("only strided tensors with data can be read into arrays", object_path=pair.key,
                               got=type(pair.spec).__name__)  # fmt: skip
    if _is_torchs(pair.target):
        torch = sys.modules["torch"]
        if pair.target.layout is not torch.strided or pair.target.is_quantized or pair.target.device.type == "meta":
            raise StateDictError("only strided tensors with memory can be filled", object_path=pair.key)
        return
    if not (hasattr(pair.target, "flags") and hasattr(pair.target, "reshape")):
        raise UnsupportedError("only arrays of NumPy and PyTorch can be filled", object_path=pair.key,
                               got=type(pair.target).__name__)  # fmt: skip
    if pair.spec.dtype.numpy_name is None:
        raise UnsupportedError("NumPy has no type for these elements", object_path=pair.key, got=pair.spec.dtype.name)
    check_target(pair.key, pair.target, pair.spec.dtype.numpy)


def _is_torchs(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _write(pairs: list[_Pair], source: ByteSource, *, verify: bool) -> None:
    by_storage: dict[int, list[_Pair]] = {}
    for pair in pairs:
        if pair.spec.nbytes:
            by_storage.setdefault(id(pair.spec.ref), []).append(pair)
    direct: dict[Any, list[tuple[Any, memoryview]]] = {}
    indirect = []
    for group in by_storage.values():
        memory = _memory_for(group[0]) if len(group) == 1 else None
        if memory is None:
            indirect.append(group)
        else:
            direct.setdefault(group[0].spec.ref.reader, []).append((group[0].spec.ref, memory))
    for reader, wanted in direct.items():
        reader.read(wanted, verify=verify)
    for group in indirect:
        for framework, members in _by_framework(group):
            _copy(members, framework, source, verify=verify)
    for pair in pairs:
        if _is_torchs(pair.target):  # their memory was written without PyTorch's knowledge
            sys.modules["torch"].autograd.graph.increment_version(pair.target)


def _memory_for(pair: _Pair) -> memoryview | None:
    """Return the memory of a target that holds exactly the bytes of the storage; None where they would differ."""
    spec, target = pair.spec, pair.target
    same = dtype_name(target) == spec.dtype.name and spec.ref.byteorder == sys.byteorder and not (spec.conj or spec.neg)
    if not same or spec.offset or spec.nbytes != spec.ref.nbytes or not is_contiguous(spec.shape, spec.stride):
        return None
    if _is_torchs(target):
        torch = sys.modules["torch"]
        if target.device.type != "cpu" or not target.is_contiguous() or target.is_conj() or target.is_neg():
            return None
        if type(target) not in (torch.Tensor, torch.nn.Parameter):
            return None
        return memoryview(target.detach().reshape(-1).view(torch.uint8).numpy())
    if not target.flags.c_contiguous:
        return None
    return memoryview(target.reshape(-1).view("uint8"))


def _by_framework(group: list[_Pair]) -> Iterator[tuple[str, list[_Pair]]]:
    for framework, torchs in (("numpy", False), ("torch", True)):
        members = [pair for pair in group if _is_torchs(pair.target) is torchs]
        if members:
            yield framework, members


def _copy(group: list[_Pair], framework: str, source: ByteSource, *, verify: bool) -> None:
    """Read one storage, and copy the tensors on it into their targets."""
    leaves = registry.leaves_for(framework, source=source, map_location="cpu", verify=verify)
    leaves.windows = False
    try:
        storage = _storage(group[0].spec, leaves)
        made = [leaves.tensor(_over(storage, pair.spec)) for pair in group]
        leaves.finish()
        for pair, value in zip(group, made, strict=True):
            copy_into(pair.target, value.reshape(tuple(pair.target.shape)))
    finally:
        leaves.release()


def _storage(spec: TensorSpec, leaves: Any) -> Any:
    ref = spec.ref
    if ref.part_of is None:
        return leaves.storage(ref)
    root, skipped = ref.part_of
    return leaves.storage_view(leaves.storage(root), ref, skipped // root.dtype.itemsize)


def _over(storage: Any, spec: TensorSpec) -> TensorSpec:
    return TensorSpec(storage, spec.dtype, spec.offset, spec.shape, spec.stride, conj=spec.conj, neg=spec.neg)
