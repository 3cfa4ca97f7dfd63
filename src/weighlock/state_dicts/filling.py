"""`load_state_dict`: a state_dict into an object, after everything was checked; nothing is half loaded."""

import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from weighlock.errors import StateDictError, StateDictMismatchError
from weighlock.state_dicts.editing import check_mapping, strip_prefix, with_metadata
from weighlock.state_dicts.finding import held_in
from weighlock.state_dicts.matching import Match, Mismatch
from weighlock.state_dicts.trees import Slot, has_own, is_tensor, places
from weighlock.state_dicts.trees import assign as put

__all__ = ["LoadResult", "load_state_dict"]


class _Keys(NamedTuple):
    missing_keys: list[str]
    unexpected_keys: list[str]


class LoadResult(_Keys):
    """What `load_state_dict` did not load: a pair ``(missing_keys, unexpected_keys)``, as PyTorch returns it.

    Attributes
    ----------
    missing_keys, unexpected_keys : list of str
    mismatched : list of Mismatch
        Entries whose element type differed: they were cast.
    """

    mismatched: list[Mismatch]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return super().__repr__()


def load_state_dict(obj: Any, mapping: Mapping[str, Any], *, strict: bool = True, assign: bool = False) -> LoadResult:
    """Load a state_dict into an object: a PyTorch module or optimizer, or any tree that holds arrays.

    Everything is compared first. Where anything is wrong, nothing is changed.

    Parameters
    ----------
    obj : object
        With a `load_state_dict` method of its own, or a tree of objects, lists and dictionaries that hold arrays.
    mapping : mapping of str to array
        NumPy arrays are taken by PyTorch's modules too.
    strict : bool
        Refuse missing and unexpected keys. Shapes must fit in any case.
    assign : bool
        Put the given arrays into the object, instead of copying their values into those that are there.

    Returns
    -------
    LoadResult

    Raises
    ------
    StateDictMismatchError
        If keys or shapes do not fit; the message says which, why, and what to do.
    ArgumentTypeError
        If `mapping` is none.

    Examples
    --------
    >>> import numpy
    >>> class Net:
    ...     def __init__(self):
    ...         self.weight = numpy.zeros(2)
    >>> net = Net()
    >>> load_state_dict(net, {"weight": numpy.ones(2)})
    <All keys matched successfully>
    >>> net.weight
    array([1., 1.])
    """
    check_mapping(mapping)
    if callable(getattr(obj, "load_state_dict", None)):
        return _into_own(obj, mapping, strict=strict, assign=assign)
    return _into_tree(held_in(obj), mapping, strict=strict, assign=assign)


def result_of(report: Match) -> LoadResult:
    """Return what PyTorch would return after this comparison."""
    made = LoadResult(report.missing, report.unexpected)
    made.mismatched = report.retyped
    return made


def _check(report: Match, obj: Any, *, strict: bool) -> None:
    if report.mismatched or (strict and (report.missing or report.unexpected)):
        raise mismatch(report, obj)


def mismatch(report: Match, obj: Any) -> StateDictMismatchError:
    """Return the error that says everything that does not fit."""
    text = f"Error(s) in loading state_dict for {type(obj).__name__}: {report}"
    return StateDictMismatchError(
        text, missing=report.missing, unexpected=report.unexpected, mismatched=report.mismatched
    )


# Objects with a method of their own


def _into_own(obj: Any, mapping: Mapping[str, Any], *, strict: bool, assign: bool) -> LoadResult:
    given = _as_torch(mapping) if _is_torchs(obj) else mapping
    if hasattr(obj, "param_groups") or not has_own(obj):  # an optimizer checks its groups before it changes anything
        try:
            obj.load_state_dict(given)
        except (ValueError, KeyError) as error:
            raise StateDictMismatchError(f"the state does not fit the {type(obj).__name__}: {error}") from error
        return LoadResult([], [])
    report = Match(given, obj.state_dict())
    options = {"strict": strict, "assign": assign} if _is_torchs(obj) else {}
    fits = report.ok or not (strict or report.mismatched)
    if fits and not runs_code(obj):
        obj.load_state_dict(given, **options)
        return result_of(report)
    # A module's own code may rename keys, add them, or raise half way: then it is put back as it was.
    undo = _snapshot(obj, assign=assign)
    try:
        obj.load_state_dict(given, **options)
    except Exception as error:
        undo()
        if fits:
            raise StateDictError(f"{type(obj).__name__} refuses the state_dict: {error}") from error
        raise mismatch(report, obj) from error
    return result_of(report)


def _is_torchs(obj: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(obj, torch.nn.Module | torch.optim.Optimizer)


def runs_code(obj: Any) -> bool:
    """Whether loading runs code beyond PyTorch's own copying: hooks, or methods of the user's classes."""
    for module in getattr(obj, "modules", list)():
        kind = type(module)
        if getattr(module, "_load_state_dict_pre_hooks", None) or getattr(module, "_load_state_dict_post_hooks", None):
            return True
        for name in ("_load_from_state_dict", "set_extra_state", "load_state_dict"):
            if not getattr(getattr(kind, name, None), "__module__", "").startswith("torch.nn."):
                return True
    return not hasattr(obj, "modules")


def _snapshot(obj: Any, *, assign: bool) -> Callable[[], None]:
    """Return what puts an object back: by its own tensors where they are replaced, else by copies of their values."""
    if not _is_torchs(obj):
        before = {key: value.copy() if hasattr(value, "copy") else value for key, value in obj.state_dict().items()}
        return lambda: obj.load_state_dict(before)
    kept = [(module, dict(module._parameters), dict(module._buffers)) for module in obj.modules()]  # noqa: SLF001 - torch's
    values = [] if assign else [
        (tensor, tensor.detach().clone()) for _, *both in kept for held in both for tensor in held.values()
        if tensor is not None and shape_is_known(tensor)
    ]  # fmt: skip

    def undo() -> None:
        for module, parameters, buffers in kept:
            module._parameters.update(parameters)  # noqa: SLF001 - as above
            module._buffers.update(buffers)  # noqa: SLF001 - as above
        torch = sys.modules["torch"]
        with torch.no_grad():
            for tensor, value in values:
                tensor.copy_(value)

    return undo


def shape_is_known(tensor: Any) -> bool:
    """Whether a tensor has its shape and its data: a lazy parameter has not."""
    torch = sys.modules["torch"]
    return not isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin) and tensor.device.type != "meta"


def _as_torch(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the mapping with NumPy arrays as tensors over the same memory; itself where there are none."""
    if not any(type(value).__module__ == "numpy" and is_tensor(value) for value in mapping.values()):
        return mapping
    made = OrderedDict((key, _tensor(value)) for key, value in mapping.items())
    return with_metadata(made, getattr(mapping, "_metadata", None))


_BY_BITS: Final = {1: "uint8", 2: "int16", 4: "int32"}


def _tensor(value: Any) -> Any:
    if type(value).__module__ != "numpy" or not is_tensor(value):
        return value
    torch = sys.modules["torch"]
    if not value.flags.writeable or not value.dtype.isnative or min(value.strides, default=0) < 0:
        value = value.astype(value.dtype.newbyteorder("="))
    try:
        return torch.from_numpy(value)
    except TypeError:  # a type that ml_dtypes adds to NumPy: the same bits
        return torch.from_numpy(value.view(_BY_BITS[value.dtype.itemsize])).view(getattr(torch, str(value.dtype)))


# Trees of objects


def _into_tree(root: Any, mapping: Mapping[str, Any], *, strict: bool, assign: bool) -> LoadResult:
    found = places(root)
    arrays = {slot.key: slot for slot in found if not slot.owner}
    owners = [slot for slot in found if slot.owner]
    expected = {key: slot.value for key, slot in arrays.items()}
    for owner in owners:
        expected.update({owner.key + key: value for key, value in owner.value.state_dict().items()})
    report = Match(mapping, expected)
    _check(report, root, strict=strict)
    pairs = [(slot, mapping[key]) for key, slot in arrays.items() if key in mapping]
    for slot, value in pairs:
        _check_slot(slot, value, assign=assign)
    undo: list[Callable[[], None]] = []
    try:
        for slot, value in pairs:
            undo.append(_undo(slot, assign=assign))
            if assign:
                put(slot, value)
            else:
                copy_into(slot.value, value)
        for owner in owners:
            inner = [key for key in mapping if key.startswith(owner.key)]
            if inner:
                part = strip_prefix({key: mapping[key] for key in inner}, owner.key)
                load_state_dict(owner.value, part, strict=strict, assign=assign)
    except Exception as error:
        for action in reversed(undo):
            with suppress(Exception):  # the one that failed may fail again
                action()
        if isinstance(error, StateDictError):
            raise
        raise StateDictError(f"loading failed, and was undone: {type(error).__name__}: {error}") from error
    return result_of(report)


def _check_slot(slot: Slot, value: Any, *, assign: bool) -> None:
    """Refuse what could not be stored, before anything is."""
    if assign:
        frozen = getattr(getattr(type(slot.holder), "__dataclass_params__", None), "frozen", False)
        if frozen or (isinstance(slot.holder, Sequence) and not hasattr(slot.holder, "__setitem__")):
            raise StateDictError("nothing can be assigned there", object_path=slot.key, got=type(slot.holder).__name__,
                                 hint="Load with assign=False.")  # fmt: skip
        return
    given = value.dtype if type(slot.value).__module__ == type(value).__module__ == "numpy" else None
    check_target(slot.key, slot.value, given)


def check_target(key: str, target: Any, given: Any) -> None:
    """Refuse an array that is read-only, or one of NumPy's that cannot take values of the type `given` (None: any).

    Raises
    ------
    StateDictError
        With the key.
    """
    flags = getattr(target, "flags", None)
    if flags is not None and not getattr(flags, "writeable", True):
        raise StateDictError("the array is read-only", object_path=key, hint="Load with assign=True.")
    if given is not None:
        import numpy

        if not numpy.can_cast(given, target.dtype, "same_kind"):
            raise StateDictError(
                "the values have no form in the array's type", object_path=key, expected=str(target.dtype),
                got=str(given), hint="Cast it first (weighlock.state_dicts.cast), or load with assign=True.",
            )  # fmt: skip


def _undo(slot: Slot, *, assign: bool) -> Callable[[], None]:
    if assign:
        return lambda: put(slot, slot.value)
    before = slot.value.clone() if hasattr(slot.value, "clone") else slot.value.copy()
    return lambda: copy_into(slot.value, before)


def copy_into(target: Any, value: Any) -> None:
    """Copy the values of one array into another, of whichever library each is."""
    if hasattr(target, "copy_"):
        with sys.modules["torch"].no_grad():
            target.copy_(_tensor(value))
    elif hasattr(value, "detach"):
        target[...] = value.detach().cpu().numpy()
    else:
        target[...] = value
