"""The closed table of harmless Python globals: builtin containers and values of the standard library.

Each is made by a function of ours that checks what it is given. What a call may cost is bounded by what the pickle
itself holds: nothing is sized by a number (``bytearray(1 << 33)`` is eight gigabytes from forty bytes), and copies are
charged to the reading (`context.charge`). Modules are imported when a file first names something of theirs.
"""

import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from weighlock.errors import PickleStreamError
from weighlock.pickling.allowlist import Known
from weighlock.pickling.inert import Described, GlobalRef
from weighlock.text import brief

__all__ = ["DESCRIBED_ROWS", "PYTHON_ROWS"]

Args = tuple[Any, ...]

_MAX_DIGITS: Final = 4300  # Python's own bound on converting text to integers, which takes quadratic time


def _described(module: str, name: str) -> Callable[[], Known]:
    return lambda: Known(Described(module, name))


def _wrong(name: str, args: Args) -> PickleStreamError:
    kinds = ", ".join(type(arg).__name__ for arg in args[:6])
    return PickleStreamError(f"{name} is called with arguments that no checkpoint gives it", got=f"({kinds})")


def _items(context: Any, name: str, args: Args) -> Any:
    """Return the one container in `args`, charged for being copied."""
    if not args:
        return ()
    if len(args) > 1 or not isinstance(args[0], list | tuple | dict | set | frozenset | range | str | bytes):
        raise _wrong(name, args)
    context.charge(8 * len(args[0]))
    return args[0]


def _hashable_items(context: Any, name: str, args: Args) -> Any:
    items = _items(context, name, args)
    context.reader.check_keys(list(items))
    return items


def _mapping_items(context: Any, name: str, args: Args) -> Any:
    items = _items(context, name, args)
    if not isinstance(items, Mapping):
        items = [tuple(item) if isinstance(item, list) and len(item) == 2 else item for item in items]
        if not all(isinstance(item, tuple) and len(item) == 2 for item in items):
            raise _wrong(name, args)
        context.reader.check_keys([key for key, _ in items])
    return items


def _bytearray(context: Any, args: Args) -> bytearray:
    if not args:
        return bytearray()
    if isinstance(args[0], bytes | bytearray) and len(args) == 1:
        context.charge(len(args[0]))
        return bytearray(args[0])
    if isinstance(args[0], str) and len(args) >= 2 and args[1] in ("latin-1", "latin1"):
        context.charge(len(args[0]))
        return bytearray(args[0], "latin-1")
    if isinstance(args[0], list):
        context.charge(len(args[0]))
        return bytearray(args[0])
    raise _wrong("bytearray", args)


def _bytes(context: Any, args: Args) -> bytes:
    return bytes(_bytearray(context, args))


def _encode(context: Any, args: Args) -> bytes:
    """`_codecs.encode(text, 'latin1')`: how protocol 2 spells bytes."""
    if len(args) != 2 or not isinstance(args[0], str) or args[1] not in ("latin1", "latin-1", "ascii", "utf-8"):
        raise _wrong("_codecs.encode", args)
    context.charge(len(args[0]))
    return args[0].encode(args[1])


def _number(kind: type, name: str) -> Callable[[Any, Args], Any]:
    def call(_: Any, args: Args) -> Any:
        if not all(isinstance(arg, int | float | str) for arg in args) or len(args) > 2:
            raise _wrong(name, args)
        if any(isinstance(arg, str) and len(arg) > _MAX_DIGITS for arg in args):
            raise _wrong(name, args)
        return kind(*args)

    return call


def _range(kind: type, name: str) -> Callable[[Any, Args], Any]:
    def call(_: Any, args: Args) -> Any:
        if not 1 <= len(args) <= 3 or not all(arg is None or type(arg) is int for arg in args):
            raise _wrong(name, args)
        return kind(*args)

    return call


def _slice(_: Any, args: Args) -> slice:
    if not 1 <= len(args) <= 3:
        raise _wrong("slice", args)
    return slice(*args)


def _default_factory(value: Any, args: Args) -> Any:
    if value is None or isinstance(value, GlobalRef) or (isinstance(value, type) and value in _FACTORIES):
        return value
    raise _wrong("defaultdict", args)


def _defaultdict(context: Any, args: Args) -> Any:
    factory = _default_factory(args[0], args) if args else None
    if isinstance(factory, GlobalRef):
        # A factory that is not built cannot be called: the entries are kept, the default is not.
        factory = None
    return defaultdict(factory, _mapping_items(context, "defaultdict", args[1:]))


def _deque(context: Any, args: Args) -> Any:
    length = args[1] if len(args) > 1 else None
    if length is not None and type(length) is not int:
        raise _wrong("deque", args)
    return deque(_items(context, "deque", args[:1]), length)


def _counter(context: Any, args: Args) -> Any:
    made: Counter[Any] = Counter()
    dict.update(made, _mapping_items(context, "Counter", args))
    return made


def _build_attributes(_: Any, target: Any, state: Any) -> Any:
    """Set instance attributes, never one that would hide a method: data called `items` is not `dict.items`."""
    for name, value in _attributes(state):
        if not isinstance(name, str) or hasattr(type(target), name):
            raise PickleStreamError("an attribute that would hide a method of its object", got=brief(name))
        target.__dict__[name] = value
    return target


def _attributes(state: Any) -> list[tuple[Any, Any]]:
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[0], dict | None):
        return [*_attributes(state[0] or {}), *_attributes(state[1] or {})]
    if isinstance(state, dict):
        return list(state.items())
    if state is None:
        return []
    raise PickleStreamError("an object's state is no dictionary", got=type(state).__name__)


_FACTORIES: Final = {
    list,
    dict,
    set,
    int,
    float,
    str,
    tuple,
    bool,
    bytes,
    frozenset,
    complex,
    OrderedDict,
    Counter,
    deque,
}


def _reconstructor(context: Any, args: Args) -> Any:
    """`copyreg._reconstructor(class, base, state)`: protocols 0 and 1 spell every instance so."""
    if len(args) != 3:
        raise _wrong("copyreg._reconstructor", args)
    cls, base, state = args
    return context.reader.new(cls, () if base is object or state is None else (state,))


def _newobj(context: Any, args: Args) -> Any:
    return context.reader.new(args[0], tuple(args[1:]))


def _newobj_ex(context: Any, args: Args) -> Any:
    cls, positional, keywords = args
    return context.reader.new(cls, positional, keywords)


def _container(kind: type, name: str, items: Callable[[Any, str, Args], Any]) -> Callable[[], Known]:
    return lambda: Known(kind, lambda context, args: kind(items(context, name, args)))


def _plain(value: Any, call: Callable[[Any, Args], Any] | None = None) -> Callable[[], Known]:
    return lambda: Known(value, call)


def _date_args(name: str, size: int) -> Callable[[Args], Args]:
    def check(args: Args) -> Args:
        if not args or len(args) > 2:
            raise _wrong(name, args)
        raw = args[0].encode("latin-1") if isinstance(args[0], str) else args[0]
        if not isinstance(raw, bytes) or len(raw) != size:
            raise _wrong(name, args)
        return (raw, *args[1:])

    return check


def _date(name: str, size: int) -> Callable[[], Known]:
    def row() -> Known:
        import datetime

        kind, check = getattr(datetime, name), _date_args(name, size)
        return Known(kind, lambda _, args: kind(*check(args)))

    return row


def _timezone(name: str) -> Callable[[], Known]:
    def row() -> Known:
        import datetime

        kind = getattr(datetime, name)

        def call(_: Any, args: Args) -> Any:
            allowed = (int, float, str, datetime.timedelta)
            if not all(isinstance(arg, allowed) for arg in args) or len(args) > 7:
                raise _wrong(f"datetime.{name}", args)
            return kind(*args)

        return Known(kind, call)

    return row


def _path(name: str) -> Callable[[], Known]:
    def row() -> Known:
        import pathlib

        kind = pathlib.PureWindowsPath if "Windows" in name else pathlib.PurePosixPath

        def call(_: Any, args: Args) -> Any:
            if not all(isinstance(arg, str) for arg in args):
                raise _wrong(f"pathlib.{name}", args)
            return kind(*args)

        # A value of its own, so that a file's WindowsPath does not become a PosixPath here.
        return Known(kind, call)

    return row


def _namespace(module: str, name: str) -> Callable[[], Known]:
    def row() -> Known:
        import argparse
        import types

        kind: type = argparse.Namespace if module == "argparse" else types.SimpleNamespace

        def call(_: Any, args: Args) -> Any:
            if args:
                raise _wrong(name, args)
            return kind()

        return Known(kind, call, _build_attributes, (kind,))

    return row


def _from_text(module: str, name: str, pattern: str) -> Callable[[], Known]:
    """A number type of the standard library that is pickled as its text."""

    def row() -> Known:
        import decimal
        import fractions

        kind = {"Decimal": decimal.Decimal, "Fraction": fractions.Fraction}[name]
        # Fraction("1e1000000000") would compute that power of ten: exponents only where they stay unevaluated.
        expected = re.compile(pattern)

        def call(_: Any, args: Args) -> Any:
            if len(args) == 2 and all(type(arg) is int for arg in args):
                return kind(*args)
            if len(args) != 1 or not isinstance(args[0], str) or not expected.fullmatch(args[0]):
                raise _wrong(f"{module}.{name}", args)
            return kind(args[0])

        return Known(kind, call)

    return row


def _uuid() -> Known:
    import uuid

    def build(_: Any, target: Any, state: Any) -> Any:
        number = state.get("int") if isinstance(state, dict) else None
        if type(number) is not int or not 0 <= number < 1 << 128:
            raise PickleStreamError("a UUID without its number", got=type(state).__name__)
        return uuid.UUID(int=number)

    return Known(uuid.UUID, lambda _, args: _PendingUuid(), build, (_PendingUuid,))


class _PendingUuid:
    """A UUID whose number comes with BUILD; UUIDs cannot be changed once made."""


def _ordered_dict() -> Known:
    return Known(
        OrderedDict,
        lambda context, args: OrderedDict(_mapping_items(context, "OrderedDict", args)) if args else OrderedDict(),
        _build_attributes,
        (OrderedDict,),
    )


def _object() -> Known:
    return Known(object)


_DECIMAL: Final = r"[+-]?(\d{1,4300}(\.\d{0,4300})?(E[+-]?\d{1,9})?|s?NaN\d*|Infinity)"

_ROWS: Final[dict[str, Callable[[], Known]]] = {
    "builtins.list": _container(list, "list", _items),
    "builtins.tuple": _container(tuple, "tuple", _items),
    "builtins.set": _container(set, "set", _hashable_items),
    "builtins.frozenset": _container(frozenset, "frozenset", _hashable_items),
    "builtins.dict": _container(dict, "dict", _mapping_items),
    "builtins.bytes": _plain(bytes, _bytes),
    "builtins.bytearray": _plain(bytearray, _bytearray),
    "builtins.str": _plain(str),
    "builtins.bool": _plain(bool, _number(bool, "bool")),
    "builtins.int": _plain(int, _number(int, "int")),
    "builtins.float": _plain(float, _number(float, "float")),
    "builtins.complex": _plain(complex, _number(complex, "complex")),
    "builtins.range": _plain(range, _range(range, "range")),
    "builtins.slice": _plain(slice, _slice),
    "builtins.object": _object,
    "builtins.Ellipsis": _plain(Ellipsis),
    "builtins.NotImplemented": _plain(NotImplemented),
    "builtins.NoneType": _plain(type(None)),
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": _plain(defaultdict, _defaultdict),
    "collections.Counter": _plain(Counter, _counter),
    "collections.deque": _plain(deque, _deque),
    "_codecs.encode": _plain(_encode, _encode),
    "copyreg._reconstructor": _plain(_reconstructor, _reconstructor),
    "copyreg.__newobj__": _plain(_newobj, _newobj),
    "copyreg.__newobj_ex__": _plain(_newobj_ex, _newobj_ex),
    "datetime.datetime": _date("datetime", 10),
    "datetime.date": _date("date", 4),
    "datetime.time": _date("time", 6),
    "datetime.timedelta": _timezone("timedelta"),
    "datetime.timezone": _timezone("timezone"),
    **{f"{module}.{name}": _path(name)
       for module in ("pathlib", "pathlib._local", "pathlib._types")
       for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")},
    "argparse.Namespace": _namespace("argparse", "Namespace"),
    "types.SimpleNamespace": _namespace("types", "SimpleNamespace"),
    "decimal.Decimal": _from_text("decimal", "Decimal", _DECIMAL),
    "fractions.Fraction": _from_text("fractions", "Fraction", r"[+-]?\d{1,4300}(/\d{1,4300})?"),
    "uuid.UUID": _uuid,
}  # fmt: skip

# Python 2 spells these otherwise (pickle protocols 0 to 2 keep its names).
_PYTHON2: Final = {
    "__builtin__.xrange": "builtins.range",
    "__builtin__.long": "builtins.int",
    "__builtin__.unicode": "builtins.str",
    "__builtin__.object": "builtins.object",
    "copy_reg._reconstructor": "copyreg._reconstructor",
    "copy_reg.__newobj__": "copyreg.__newobj__",
    "_collections.defaultdict": "collections.defaultdict",
    "_collections.deque": "collections.deque",
    "types.NoneType": "builtins.NoneType",
}


def _table() -> dict[tuple[str, str], Callable[[], Known]]:
    rows = dict(_ROWS)
    for name, row in _ROWS.items():
        if name.startswith("builtins."):
            rows["__builtin__." + name.removeprefix("builtins.")] = row
    rows.update({old: _ROWS[new] for old, new in _PYTHON2.items()})
    table = {}
    for name, row in rows.items():
        module, _, short = name.rpartition(".")
        table[module, short] = row
    return table


PYTHON_ROWS: Final = _table()

# PyTorch's own classes that checkpoints of distributed training hold as data: placements, meshes, metadata.
DESCRIBED_ROWS: Final = {
    (module, name): _described(module, name)
    for module, names in {
        "torch.distributed.tensor": "DTensor Shard Replicate Partial DeviceMesh",
        "torch.distributed.tensor._api": "DTensor",
        "torch.distributed._tensor": "DTensor",
        "torch.distributed._tensor.api": "DTensor",
        "torch.distributed._tensor.placement_types": "Shard Replicate Partial _Partial DTensorSpec TensorMeta",
        "torch.distributed.tensor.placement_types": "Shard Replicate Partial _StridedShard _MaskPartial",
        "torch.distributed.tensor._dtensor_spec": "DTensorSpec TensorMeta ShardOrderEntry",
        "torch.distributed.device_mesh": "DeviceMesh _MeshEnv",
        "torch.distributed._mesh_layout": "_MeshLayout _FlatLayout",
        "torch.distributed._shard.sharded_tensor.api": "ShardedTensor",
        "torch.distributed._shard.sharded_tensor.metadata": "ShardedTensorMetadata TensorProperties "
        "MEM_FORMAT_ENCODING",
        "torch.distributed._shard.sharded_tensor.shard": "Shard",
        "torch.distributed._shard.metadata": "ShardMetadata",
        "torch.distributed._shard.sharding_spec.chunk_sharding_spec": "ChunkShardingSpec",
        "torch.distributed._shard.sharding_spec.api": "EnumerableShardingSpec",
        "torch.distributed.remote_device": "_remote_device",
        "torch.distributed._remote_device": "_remote_device",
        "torch._dynamo.decorators": "_DimRange",
        "torch._C": "Generator",
    }.items()
    for name in names.split()
}
