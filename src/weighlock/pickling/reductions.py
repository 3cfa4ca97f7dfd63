"""How an object is taken apart for a pickle, and the closed table that says so for Python's own data types.

A leaf is described by one of four things: a `GlobalRef` (it is a name), a `Reduction` (a call that makes it, and what
is set on the result), a `Persistent` (it lies outside of the pickle), or a `TensorCall`. The pickler turns these into
opcodes and knows nothing else about leaves.
"""

import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING, REVERSE_IMPORT_MAPPING, REVERSE_NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Final

from weighlock.errors import UnsupportedTypeError
from weighlock.pickling.inert import GlobalRef, Stub

__all__ = [
    "FROM_TYPE",
    "NUMPY_DTYPE",
    "NUMPY_SCALAR",
    "PID_TAIL",
    "REBUILD_V2",
    "REBUILD_V3",
    "STORAGE",
    "UNTYPED_STORAGE",
    "Describe",
    "Describer",
    "Description",
    "Persistent",
    "Reduction",
    "TensorCall",
    "TensorForm",
    "TensorPattern",
    "describe_exactly",
    "describe_python",
    "hint_for",
    "spelled_name",
    "tensor_arguments",
]


class Reduction:
    """A call that makes an object, and what is then done to the object; the parts of `object.__reduce_ex__`.

    Attributes
    ----------
    function : GlobalRef
        What is called, by its name in Python 3.
    args : tuple
    how : str
        ``"reduce"`` for a call, ``"newobj"`` for an instance made without its `__init__`.
    kwargs : dict
        Keyword arguments, for ``"newobj"`` only.
    state : object
        What BUILD sets; None for nothing.
    items, entries : iterable
        What is appended, and what is set by key.
    """

    __slots__ = ("args", "entries", "function", "how", "items", "kwargs", "state")

    def __init__(
        self,
        function: GlobalRef,
        args: tuple[Any, ...] = (),
        *,
        how: str = "reduce",
        kwargs: dict[str, Any] | None = None,
        state: Any = None,
        items: Iterable[Any] = (),
        entries: Iterable[tuple[Any, Any]] = (),
    ) -> None:
        self.function = function
        self.args = args
        self.how = how
        self.kwargs = kwargs
        self.state = state
        self.items = items
        self.entries = entries


class Persistent:
    """An object that lies outside of the pickle: its persistent id."""

    __slots__ = ("pid",)

    def __init__(self, pid: tuple[Any, ...]) -> None:
        self.pid = pid


class TensorForm:
    """What the calls that rebuild the tensors of one type have in common.

    Attributes
    ----------
    function, storage : GlobalRef
        The rebuild function, and the class of the storage.
    dtype : GlobalRef or None
        The last argument, where the storage does not tell the type.
    """

    __slots__ = ("dtype", "function", "storage")

    def __init__(self, function: GlobalRef, storage: GlobalRef, dtype: GlobalRef | None = None) -> None:
        self.function = function
        self.storage = storage
        self.dtype = dtype


class TensorPattern:
    """What the calls for tensors have in common that differ in nothing but the key of their storage.

    Attributes
    ----------
    form : TensorForm
    location : str
    numel : int
        Elements of the storage, as its class counts them.
    offset, shape, stride
        Of the tensor, in elements.
    requires_grad : bool
    """

    __slots__ = ("form", "location", "numel", "offset", "requires_grad", "shape", "stride")

    # Reason for the parameters: the arguments of PyTorch's own rebuild function, one to one.
    def __init__(
        self,
        form: TensorForm,
        location: str,
        numel: int,
        offset: int,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: bool = False,
    ) -> None:
        self.form = form
        self.location = location
        self.numel = numel
        self.offset = offset
        self.shape = shape
        self.stride = stride
        self.requires_grad = requires_grad


# A pattern and the key of a storage. A plain tuple, since there is one per tensor.
TensorCall = tuple[TensorPattern, str]
Description = GlobalRef | Reduction | Persistent | TensorCall
Describe = Callable[[Any], Description]
# Asked once per type: how its objects are described, or None for "not mine".
Describer = Callable[[type], Describe | None]

# Names that stand in nearly every checkpoint of tensors.
REBUILD_V2: Final = GlobalRef("torch._utils", "_rebuild_tensor_v2")
REBUILD_V3: Final = GlobalRef("torch._utils", "_rebuild_tensor_v3")
FROM_TYPE: Final = GlobalRef("torch._tensor", "_rebuild_from_type_v2")
UNTYPED_STORAGE: Final = GlobalRef("torch.storage", "UntypedStorage")
NUMPY_SCALAR: Final = GlobalRef("numpy._core.multiarray", "scalar")
NUMPY_DTYPE: Final = GlobalRef("numpy", "dtype")

# What every persistent id begins with. One object, since the pickler's memo goes by identity.
STORAGE: Final = "storage"
# What it ends with in the legacy stream alone: no storage is a view of another.
PID_TAIL: Final = (None,)


def tensor_arguments(call: TensorCall) -> tuple[Any, ...]:
    """Return the arguments that PyTorch's rebuild function is called with."""
    pattern, key = call
    form = pattern.form
    storage = Persistent((STORAGE, form.storage, key, pattern.location, pattern.numel))
    # New tuples each time, as from PyTorch: the pickler would refer back to one that it has seen.
    shape, stride = (*map(int, pattern.shape),), (*map(int, pattern.stride),)
    args: tuple[Any, ...] = (storage, pattern.offset, shape, stride, pattern.requires_grad, OrderedDict())
    return args if form.dtype is None else (*args, form.dtype)


def spelled_name(ref: GlobalRef, protocol: int) -> tuple[str, str]:
    """Return module and name as Python 2 had them for protocols below 3, and as Python 3 has them for the others."""
    module, name = ref.module, ref.name
    if protocol < 3:
        names, modules = REVERSE_NAME_MAPPING, REVERSE_IMPORT_MAPPING
    else:
        names, modules = NAME_MAPPING, IMPORT_MAPPING
    if (module, name) in names:
        return names[module, name]
    return modules.get(module, module), name


def describe_python(kind: type) -> Describe | None:
    """Return how objects of this exact class are taken apart, if it is one of the table below.

    Classes are found by name, and only if their module is loaded already: an object of a module that nobody imported
    does not exist, and saving a checkpoint without dates never imports datetime.
    """
    found = _TABLE.get(f"{kind.__module__}.{kind.__qualname__}")
    if found is None:
        return None
    real = getattr(sys.modules.get(kind.__module__), kind.__qualname__, None)
    return found if real is kind or kind in _UNNAMED else None


def describe_exactly(kind: type) -> Describe | None:
    """As `describe_python`, for the types alone whose pickle is exactly that of Python's own pickler."""
    return _ordered_dict if kind is OrderedDict else None


def ordered(items: Iterable[Any]) -> list[Any]:
    """Return a set's items in an order that does not change from run to run, wherever there is one."""
    listed = list(items)
    try:
        return sorted(listed)
    except (TypeError, ValueError, RecursionError):
        return listed


def _called(module: str, name: str, arguments: Callable[[Any], tuple[Any, ...]]) -> Describe:
    function = GlobalRef(module, name)
    return lambda value: Reduction(function, arguments(value))


def _ordered_dict(value: Any) -> Reduction:
    # `_metadata` of a state_dict is an attribute of its OrderedDict.
    return Reduction(_ORDERED_DICT, (), state=value.__dict__ or None, entries=value.items())


def _defaultdict(value: Any) -> Reduction:
    factory = value.default_factory
    return Reduction(_DEFAULTDICT, () if factory is None else (factory,), entries=value.items())


def _deque(value: Any) -> Reduction:
    return Reduction(_DEQUE, () if value.maxlen is None else ((), value.maxlen), items=value)


def _namespace(value: Any) -> Reduction:
    return Reduction(_ARGPARSE_NAMESPACE, (), how="newobj", state=value.__dict__ or None)


def _simple_namespace(value: Any) -> Reduction:
    return Reduction(_SIMPLE_NAMESPACE, (), state=value.__dict__)


def _uuid(value: Any) -> Reduction:
    return Reduction(_UUID, (), how="newobj", state={"int": value.int})


def _own_reduction(module: str, name: str) -> Describe:
    """For classes of the standard library whose own `__reduce_ex__` is exact and runs nobody else's code."""
    function = GlobalRef(module, name)
    return lambda value: Reduction(function, value.__reduce_ex__(4)[1])  # 4: keeps `fold`


def _path(name: str) -> Describe:
    # Always under the public module: Python 3.13 alone would find its own, `pathlib._local`.
    return _called("pathlib", name, lambda value: value.parts)


def _stub(stub: Stub) -> Reduction:
    return Reduction(
        stub.global_ref, stub.args, how=stub.how, kwargs=stub.kwargs, state=stub.state,
        items=stub.items, entries=stub.entries,
    )  # fmt: skip


def hint_for(kind: type) -> str:
    """Say what to do about an object that cannot be saved."""
    if kind.__module__.partition(".")[0] == "torch":
        return "Save PyTorch's own tensors with framework='torch', or turn them into arrays with .numpy() first."
    for base, name in ((dict, "dict"), (tuple, "tuple"), (list, "list"), (str, "str"), (int, "int"), (float, "float")):
        if issubclass(kind, base):
            return f"Convert it first: {name}(value) has a form that PyTorch reads safely."
    if kind.__name__ in ("function", "builtin_function_or_method", "method"):
        return "Code cannot be saved; keep its name as a string."
    return "Save its data instead: numbers, strings, arrays, and lists, tuples and dictionaries of them."


_NAMED: Final[dict[Any, GlobalRef]] = {
    **{kind: GlobalRef("builtins", kind.__name__)
       for kind in (bool, bytearray, bytes, complex, dict, float, frozenset, int, list, object, range, set, slice, str,
                    tuple)},
    **{name: GlobalRef("collections", name) for name in ("Counter", "OrderedDict", "defaultdict", "deque")},
}  # fmt: skip


def named_type(kind: type) -> GlobalRef:
    """Return the name of a class that a checkpoint may hold as a value, such as the factory of a defaultdict.

    Raises
    ------
    UnsupportedTypeError
        If it may not.
    """
    if kind.__module__ == "collections" and getattr(sys.modules["collections"], kind.__name__, None) is kind:
        named = _NAMED.get(kind.__name__)
    else:
        named = _NAMED.get(kind)
    if named is None:
        name = f"{kind.__module__}.{kind.__qualname__}"
        raise UnsupportedTypeError(f"a class cannot be saved: {name}", hint="Save its name as a string.")
    return named


_ORDERED_DICT: Final = GlobalRef("collections", "OrderedDict")
_DEFAULTDICT: Final = GlobalRef("collections", "defaultdict")
_DEQUE: Final = GlobalRef("collections", "deque")
_ARGPARSE_NAMESPACE: Final = GlobalRef("argparse", "Namespace")
_SIMPLE_NAMESPACE: Final = GlobalRef("types", "SimpleNamespace")
_UUID: Final = GlobalRef("uuid", "UUID")
_ELLIPSIS: Final = GlobalRef("builtins", "Ellipsis")
_NOT_IMPLEMENTED: Final = GlobalRef("builtins", "NotImplemented")

# The types of Ellipsis and NotImplemented exist under no name in builtins.
_UNNAMED: Final = {type(Ellipsis), type(NotImplemented)}

_TABLE: Final[dict[str, Describe]] = {
    "argparse.Namespace": _namespace,
    "builtins.NotImplementedType": lambda _: _NOT_IMPLEMENTED,
    "builtins.complex": _called("builtins", "complex", lambda value: (value.real, value.imag)),
    "builtins.ellipsis": lambda _: _ELLIPSIS,
    "builtins.range": _called("builtins", "range", lambda value: (value.start, value.stop, value.step)),
    "builtins.slice": _called("builtins", "slice", lambda value: (value.start, value.stop, value.step)),
    "collections.Counter": _called("collections", "Counter", lambda value: (dict(value),)),
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": _defaultdict,
    "collections.deque": _deque,
    "datetime.date": _own_reduction("datetime", "date"),
    "datetime.datetime": _own_reduction("datetime", "datetime"),
    "datetime.time": _own_reduction("datetime", "time"),
    "datetime.timedelta": _own_reduction("datetime", "timedelta"),
    "datetime.timezone": _own_reduction("datetime", "timezone"),
    "decimal.Decimal": _called("decimal", "Decimal", lambda value: (str(value),)),
    "fractions.Fraction": _called("fractions", "Fraction", lambda value: (value.numerator, value.denominator)),
    "types.SimpleNamespace": _simple_namespace,
    "uuid.UUID": _uuid,
    "weighlock.pickling.inert.Stub": _stub,
    **{f"{module}.{name}": _path(name)
       for module in ("pathlib", "pathlib._local", "pathlib.types")
       for name in ("PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath")},
}  # fmt: skip
