"""What a computed value would be: names and text that a pickle puts together out of pieces, worked out without a call.

``getattr(os, "sys" + "tem")`` is the name ``os.system`` however it is spelled. Values here are what the machine left on
its stack: plain values, `GlobalRef` for a name, `Stub` for a call that was not made. Only pure functions over text are
worked out, with Python's own methods of `str` and `bytes`, and only within `_LONGEST`; anything else is unknown.
"""

import base64
import binascii
import codecs
import operator
import zlib
from collections.abc import Callable
from typing import Any, Final

from weighlock.pickling.inert import GlobalRef, Stub

__all__ = ["UNKNOWN", "Bound", "Computed", "Name", "Resolver"]

_LONGEST: Final = 1 << 16
_MOST_ARGUMENTS: Final = 64
_MOST_PARTS: Final = 4096
_MOST_WORK: Final = 16 << 20
_LEAST_WORK: Final = 16


class Name(str):
    """The dotted name of something importable, such as ``os.system``."""

    __slots__ = ()


class Computed(GlobalRef):
    """Stands for something called that is no global: what another call returned, or a value.

    `source` is that value.
    """

    __slots__ = ("source",)

    def __init__(self, source: Any) -> None:
        super().__init__("", "<computed>")
        self.source = source


class Bound:
    """Something callable that carries arguments already: a method of a value, or a partial."""

    __slots__ = ("args", "function", "of")

    def __init__(self, function: str, of: Any = None, args: tuple[Any, ...] = ()) -> None:
        self.function = function
        self.of = of
        self.args = args


class _Unknown:
    def __repr__(self) -> str:
        return "<unknown>"


UNKNOWN: Final = _Unknown()


class Resolver:
    """What the calls of one run would return, each worked out once, when the pickle makes it.

    Attributes
    ----------
    exhausted : bool
        There was more to work out than a pickle's own size justifies; the rest is unknown.
    """

    def __init__(self) -> None:
        self._made: dict[int, tuple[Stub, Any]] = {}
        self._work = _MOST_WORK

    @property
    def exhausted(self) -> bool:
        return self._work < 0

    def note(self, stub: Stub) -> None:
        """Work out what a call returns, from what its arguments are now."""
        self._work -= _LEAST_WORK
        if self._work < 0:
            return
        found = call(self.of(stub.global_ref), tuple([self._argument(value) for value in stub.args[:_MOST_ARGUMENTS]]))
        if found is UNKNOWN:
            return
        if isinstance(found, str | bytes):
            self._work -= len(found)
        self._made[id(stub)] = stub, found  # the stub is kept, so that its identity stays its own

    def of(self, value: Any) -> Any:
        """Return what a value from the machine's stack would be: plain, a `Name`, a `Bound`, or `UNKNOWN`."""
        if type(value) is Stub:
            found = self._made.get(id(value))
            return UNKNOWN if found is None else found[1]
        if isinstance(value, Computed):
            return self.of(value.source)
        if isinstance(value, GlobalRef):
            return Name(_normal(value.full_name))
        if isinstance(value, type):
            return Name(f"{value.__module__}.{value.__qualname__}")
        return value

    def _argument(self, value: Any) -> Any:
        found = self.of(value)
        if type(found) in (list, tuple) and len(found) <= _MOST_PARTS:
            self._work -= len(found)
            return [self.of(part) for part in found]
        return found


def call(target: Any, args: tuple[Any, ...]) -> Any:
    """Return what calling `target` would give."""
    if isinstance(target, Bound):
        return _call_bound(target, args)
    if not isinstance(target, Name):
        return UNKNOWN
    evaluate = _FUNCTIONS.get(target)
    try:
        if evaluate is not None:
            return evaluate(*args)
        owner, _, method = target.rpartition(".")
        if owner in ("builtins.str", "builtins.bytes") and args:
            return _method(args[0], method, args[1:])
        if method in ("__getitem__", "get", "__getattribute__", "__getattr__") and args:
            return item(Name(owner), args[0]) if method in ("__getitem__", "get") else attribute(Name(owner), args[-1])
    except Exception:  # noqa: BLE001 - whatever the arguments provoke: it cannot be worked out
        return UNKNOWN
    return UNKNOWN


def _call_bound(target: Bound, args: tuple[Any, ...]) -> Any:
    if target.function == "partial":
        return call(target.of, (*target.args, *args))
    if target.function == "attrgetter" and args:
        found = args[0]
        for part in target.args:
            found = attribute(found, part)
        return found
    if target.function == "itemgetter" and args:
        return item(args[0], target.args[0])
    if target.function == "methodcaller" and args:
        return call(attribute(args[0], target.args[0]), target.args[1:])
    if isinstance(target.of, str | bytes):
        try:
            return _method(target.of, target.function, args)
        except Exception:  # noqa: BLE001 - as in `call`
            return UNKNOWN
    return UNKNOWN


def attribute(owner: Any, name: Any) -> Any:
    """Return an attribute of something, by name."""
    if not isinstance(name, str) or len(name) > _LONGEST:
        return UNKNOWN
    if isinstance(owner, Name):
        if name in ("__getitem__", "get") or not name:
            return Name(f"{owner}.{name}")
        return Name(_normal(f"{owner}.{name}"))
    if isinstance(owner, str | bytes):
        return Bound(name, owner)
    return UNKNOWN


def item(owner: Any, key: Any) -> Any:
    """Return an item: a module out of ``sys.modules``, an attribute out of a ``__dict__``."""
    if isinstance(owner, Name) and isinstance(key, str):
        if owner == "sys.modules":
            return Name(_normal(key))
        return Name(_normal(f"{owner.removesuffix('.__dict__')}.{key}"))
    if isinstance(owner, str | bytes | tuple | list | dict) and not isinstance(owner, Name):
        try:
            return owner[key]
        except (LookupError, TypeError):
            return UNKNOWN
    return UNKNOWN


def _normal(name: str) -> str:
    """Return one spelling of a name that has several: of Python 2, of private accelerators."""
    for old, new in _SPELLINGS:
        if name.startswith(old):
            return new + name[len(old) :]
    return name


_SPELLINGS: Final = (
    ("__builtin__.", "builtins."), ("__builtins__.", "builtins."), ("_operator.", "operator."),
    ("_functools.", "functools."), ("_codecs.", "codecs."),
    ("importlib._bootstrap._gcd_import", "importlib.import_module"),
    ("importlib.__import__", "importlib.import_module"), ("builtins.__import__", "importlib.import_module"),
    ("_frozen_importlib._gcd_import", "importlib.import_module"),
)  # fmt: skip


# ------------------------------------------------------------------------------------------ pure functions over text

_METHODS: Final = frozenset({
    "join", "lower", "upper", "casefold", "swapcase", "title", "capitalize", "replace", "strip", "lstrip", "rstrip",
    "split", "rsplit", "decode", "encode", "removeprefix", "removesuffix", "__add__", "__getitem__", "__str__",
    "partition", "rpartition", "translate", "hex", "fromhex",
})  # fmt: skip


def _method(owner: Any, name: str, args: tuple[Any, ...]) -> Any:
    if name == "fromhex" and isinstance(owner, str):
        return bytes.fromhex(owner)
    if not isinstance(owner, str | bytes) or name not in _METHODS or not _short(owner, *args):
        return UNKNOWN
    if name == "join" and not _short(*args[0]):
        return UNKNOWN
    if name == "replace" and len(owner) * max(len(args[1]), 1) > _LONGEST:
        return UNKNOWN
    return getattr(owner, name)(*args)


def _short(*values: Any) -> bool:
    return sum(len(value) if isinstance(value, str | bytes | list | tuple | dict) else 1 for value in values) < _LONGEST


def _add(first: Any, second: Any) -> Any:
    if isinstance(first, Name) or isinstance(second, Name) or not _short(first, second):
        return UNKNOWN
    kinds = (str, bytes, list, tuple)
    return operator.add(first, second) if isinstance(first, kinds) and isinstance(second, kinds) else UNKNOWN


def _modulo(text: Any, values: Any) -> Any:
    # Only plain %s: a width in the format would be as long as the number says.
    if not isinstance(text, str) or text.count("%") != text.count("%s") or not _short(text):
        return UNKNOWN
    parts = values if isinstance(values, tuple) else (values,)
    return text % parts if all(isinstance(part, str) and _short(part) for part in parts) else UNKNOWN


def _decoded(data: Any, encoding: Any = "utf-8", *_: Any) -> Any:
    known = ("utf-8", "utf8", "latin1", "latin-1", "ascii", "rot13", "rot_13", "hex", "base64", "unicode_escape")
    if not isinstance(encoding, str) or encoding.lower() not in known or not _short(data):
        return UNKNOWN
    return codecs.decode(data, encoding)


def _encoded(text: Any, encoding: Any = "utf-8", *_: Any) -> Any:
    known = ("utf-8", "utf8", "latin1", "latin-1", "ascii", "rot13", "rot_13")
    return codecs.encode(text, encoding) if encoding in known and _short(text) else UNKNOWN


def _inflated(data: Any, *_: Any) -> Any:
    return zlib.decompressobj().decompress(data, _LONGEST << 4) if isinstance(data, bytes) else UNKNOWN


def _text(value: Any = "", *encoding: Any) -> Any:
    if isinstance(value, bytes) and encoding:
        return _decoded(value, *encoding)
    plain = isinstance(value, str | float | bool) or (isinstance(value, int) and abs(value) < 1 << 64)
    return str(value) if plain else UNKNOWN


_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "builtins.getattr": lambda owner, name, *_: attribute(owner, name),
    "builtins.vars": lambda owner: Name(f"{owner}.__dict__") if isinstance(owner, Name) else UNKNOWN,
    "builtins.chr": chr,
    "builtins.str": _text,
    "builtins.map": lambda function, items: call(function, (items[0],)),
    "builtins.filter": lambda function, items: call(function, (items[0],)),
    "functools.reduce": lambda function, items, *_: call(function, tuple(items[:2])),
    "importlib.import_module": lambda name, *_: Name(_normal(name)) if isinstance(name, str) else UNKNOWN,
    "pkgutil.resolve_name": lambda name: Name(_normal(name.replace(":", "."))),
    "pydoc.locate": lambda name, *_: Name(_normal(name)),
    "functools.partial": lambda function, *args: Bound("partial", function, args),
    "operator.attrgetter": lambda *names: Bound("attrgetter", None, tuple(names[0].split("."))),
    "operator.itemgetter": lambda *keys: Bound("itemgetter", None, keys),
    "operator.methodcaller": lambda *args: Bound("methodcaller", None, args),
    "operator.getitem": item,
    "operator.add": _add, "operator.concat": _add, "operator.iadd": _add, "operator.iconcat": _add,
    "operator.mod": _modulo, "operator.imod": _modulo,
    "operator.call": lambda function, *args: call(function, args),
    "codecs.decode": _decoded, "codecs.encode": _encoded,
    "base64.b64decode": lambda data, *_: base64.b64decode(data) if _short(data) else UNKNOWN,
    "base64.decodebytes": lambda data: base64.decodebytes(data) if _short(data) else UNKNOWN,
    "base64.b32decode": lambda data, *_: base64.b32decode(data) if _short(data) else UNKNOWN,
    "base64.b16decode": lambda data, *_: base64.b16decode(data) if _short(data) else UNKNOWN,
    "base64.b85decode": lambda data, *_: base64.b85decode(data) if _short(data) else UNKNOWN,
    "binascii.unhexlify": binascii.unhexlify, "binascii.a2b_hex": binascii.unhexlify,
    "binascii.a2b_base64": lambda data: binascii.a2b_base64(data) if _short(data) else UNKNOWN,
    "zlib.decompress": _inflated,
}  # fmt: skip
