"""The structure of an object beside its tensors, as JSON: for formats that hold nothing but named tensors.

`encode` turns a tree of plain containers and values into a JSON document in which tensors stand by name; `decode` turns
it back. It is data both ways: a document can name no class. `docs/formats.md` describes the grammar.
"""

import base64
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

from weighlock.dtypes import DTYPES, DType
from weighlock.errors import DamagedError, LimitError, SaveError, UnsupportedTypeError, WeighlockError
from weighlock.formats.structure_objects import DECODERS, encode_object, has_attributes
from weighlock.tensors.leaves import Leaves
from weighlock.tensors.values import Device, Size, TorchName
from weighlock.text import brief

__all__ = ["Path", "decode", "encode", "name_of"]

Path = tuple[Any, ...]

# Levels of containers. Real checkpoints have ten; Python's JSON takes some hundreds.
_DEPTH: Final = 150
# One container may stand in many places, and be written at each: a tree of thirty shared pairs is a billion nodes.
_MOST_NODES: Final = 20_000_000
# Integers from here on can be made to collide in a dictionary.
_LARGE_KEY: Final = 1 << 61


def name_of(path: Path) -> str:
    """Return the name of the tensor that stands at a path.

    Examples
    --------
    >>> name_of(("optimizer", "state", 0, "exp_avg"))
    'optimizer.state.0.exp_avg'
    """
    return ".".join(map(str, path)) or "tensor"


def encode(value: Any, leaf: Callable[[Any, Path], Any], restart: Callable[[], None] = lambda: None) -> Any:
    """Return the node that says what `value` is; a container that stands at several places is one again afterwards.

    Parameters
    ----------
    value : object
    leaf : callable
        Given a value and its path, returns the node of a leaf (a tensor by name, say), or None where it is none.
    restart : callable
        Called where everything is asked for once more, from the start.

    Raises
    ------
    UnsupportedTypeError
        If something in it is neither a leaf, nor a plain container or value.
    SaveError
        If it contains itself, or is too deep or too large.
    """
    encoder = _Encoder(leaf)
    made = encoder.node(value, ())
    if encoder.repeated:
        restart()
        made = _Encoder(leaf, frozenset(encoder.repeated)).node(value, ())
    return made


class _Encoder:
    def __init__(self, leaf: Callable[[Any, Path], Any], shared: frozenset[int] = frozenset()) -> None:
        self._leaf = leaf
        self._left = _MOST_NODES
        self._shared = shared
        self._numbers: dict[int, int] = {}
        self._seen: set[int] = set()
        self.repeated: set[int] = set()
        """After a first pass: the containers that stand at several places."""

    def node(self, value: Any, path: Path) -> Any:
        self._left -= 1
        if len(path) > _DEPTH or self._left < 0:
            what = "the object contains itself, or is too deep or too large for a JSON description"
            raise SaveError(what, object_path=name_of(path[:8]), hint="Save it in PyTorch's own format.")
        kind = type(value)
        if value is None or kind is bool or kind is int or kind is str:
            return value
        if kind is float:
            return value if value - value == 0 else {"float": repr(value)}
        found = self._leaf(value, path)
        if found is not None:
            return found
        if kind in _VALUES or not value:
            return self._new_node(value, path)
        key = id(value)
        if key in self._numbers:
            return {"again": self._numbers[key]}
        if key in self._seen and not self._shared:
            self.repeated.add(key)
            return None
        self._seen.add(key)
        made = self._new_node(value, path)
        if key not in self._shared:
            return made
        number = self._numbers[key] = len(self._numbers)
        return {"shared": [number, made]}

    def _new_node(self, value: Any, path: Path) -> Any:
        kind = type(value)
        make = _ENCODERS.get(kind)
        if make is None or (kind is OrderedDict and has_attributes(value)):
            found = encode_object(value, path, self.node)
            if found is not None:
                return found
        if make is None:
            raise UnsupportedTypeError(
                "only plain containers and values can stand beside the tensors of this format",
                got=f"{kind.__module__}.{kind.__qualname__}", object_path=name_of(path),
                hint="Save it in PyTorch's own format, or leave it out.",
            )  # fmt: skip
        return make(self, value, path)

    def nodes(self, values: Any, path: Path) -> list[Any]:
        return [self.node(value, (*path, index)) for index, value in enumerate(values)]

    def mapping(self, value: Any, path: Path) -> dict[str, Any]:
        if all(type(key) is str for key in value):
            return {"dict": {key: self.node(held, (*path, key)) for key, held in value.items()}}
        pairs = [[self.node(key, (*path, "<key>")), self.node(held, (*path, key))] for key, held in value.items()]
        return {"items": pairs}


def _ordered(encoder: _Encoder, value: Any, path: Path) -> Any:
    return {"OrderedDict": [[encoder.node(k, (*path, "<key>")), encoder.node(v, (*path, k))] for k, v in value.items()]}


_ENCODERS: Final[dict[type, Callable[[_Encoder, Any, Path], Any]]] = {
    dict: _Encoder.mapping,
    OrderedDict: _ordered,
    list: _Encoder.nodes,
    tuple: lambda encoder, value, path: {"tuple": encoder.nodes(value, path)},
    set: lambda encoder, value, path: {"set": encoder.nodes(value, path)},
    frozenset: lambda encoder, value, path: {"frozenset": encoder.nodes(value, path)},
    bytes: lambda encoder, value, path: {"bytes": base64.b64encode(value).decode()},
    complex: lambda encoder, value, path: {"complex": [repr(value.real), repr(value.imag)]},
    Size: lambda encoder, value, path: {"Size": list(value)},
    Device: lambda encoder, value, path: {"device": str(value)},
    DType: lambda encoder, value, path: {"dtype": value.name},
}


# Of these, two that are equal are as good as one.
_VALUES: Final = frozenset({bytes, complex, Size, Device, DType, TorchName, type})


def decode(document: Any, tensors: Mapping[str, Any], leaves: Leaves) -> Any:
    """Return the object that a document of `encode` describes.

    Parameters
    ----------
    document : object
        As JSON gives it.
    tensors : mapping of str to object
        What was made of each tensor.
    leaves : Leaves
        What makes the values that are not Python's own.

    Raises
    ------
    DamagedError
        If it is no such document, or names a tensor that is not there.
    """
    try:
        return _Decoder(tensors, leaves).value(document, 0)
    except WeighlockError:
        raise
    except Exception as error:  # a document from a file may be wrong in any way
        raise DamagedError(f"the description of the object's structure is malformed: {error}") from error


class _Decoder:
    def __init__(self, tensors: Mapping[str, Any], leaves: Leaves) -> None:
        self.tensors = tensors
        self.leaves = leaves
        self._shared: dict[int, Any] = {}

    def value(self, node: Any, depth: int) -> Any:
        kind = type(node)
        if kind is list:
            return self.values(node, depth)
        if kind is not dict:
            return node
        if len(node) != 1 or depth > 2 * _DEPTH:
            raise DamagedError("a node of the description of the object's structure is malformed")
        ((tag, held),) = node.items()
        turn = _DECODERS.get(tag)
        if turn is None:
            raise DamagedError("the description of the object's structure has an unknown node", got=repr(tag)[:40],
                               hint="A newer release of Weighlock may read it.")  # fmt: skip
        return turn(self, held, depth + 1)

    def values(self, nodes: Any, depth: int) -> list[Any]:
        if type(nodes) is not list:
            raise TypeError("a list is missing")
        return [self.value(node, depth + 1) for node in nodes]

    def mapping(self, held: Any, depth: int) -> dict[str, Any]:
        return {key: self.value(node, depth) for key, node in held.items()}

    def pairs(self, held: Any, depth: int) -> list[tuple[Any, Any]]:
        return [(self.key(key), self.value(node, depth)) for key, node in held]

    def key(self, node: Any) -> Any:
        """Return a dictionary's key: only what hashes in bounded time."""
        made = self.value(node, 2 * _DEPTH - 8)
        self.check_key(made)
        return made

    def check_key(self, made: Any) -> None:
        """Refuse a key that would take unbounded time to hash."""
        parts = made if type(made) is tuple else (made,)
        for part in parts:
            if type(part) not in (str, int, float, bool, bytes, type(None)) or (
                type(part) is int and abs(part) >= _LARGE_KEY
            ):
                raise LimitError("a key in the description of the object's structure is no plain value")

    def shared(self, held: Any, depth: int) -> Any:
        number, node = held
        made = self.value(node, depth)
        if type(number) is not int or number in self._shared:
            raise DamagedError("two objects of the structure have one number", got=repr(number)[:40])
        self._shared[number] = made
        return made

    def again(self, held: Any, depth: int) -> Any:
        return self._shared[held]

    def tensor(self, name: Any, depth: int) -> Any:
        found = self.tensors.get(name, self)
        if found is self:
            raise DamagedError("the description of the object's structure names a tensor that is not there",
                               got=brief(name, 80))  # fmt: skip
        return found

    def scalar(self, held: Any, depth: int) -> Any:
        code, data = held
        return self.leaves.numpy_scalar(self.leaves.numpy_dtype(_checked_code(code)), base64.b64decode(data))

    def code(self, code: Any) -> str:
        """Return the code of a NumPy type; `DamagedError` where it is none of numbers."""
        return _checked_code(code)

    def raw(self, text: Any) -> bytes:
        """Return the bytes that stand in a document."""
        return base64.b64decode(text, validate=True)

    def device(self, held: Any, depth: int) -> Any:
        kind, _, index = held.partition(":")
        return self.leaves.device(Device(kind, int(index) if index else None))

    def dtype(self, held: Any, depth: int) -> Any:
        return self.leaves.element_type(DTYPES[held])


def _checked_code(code: Any) -> str:
    if type(code) is not str or len(code) > 8 or code.lstrip("<>|=")[:1] not in tuple("?bifcuSUmM"):
        raise DamagedError("a number of an unknown NumPy type", got=brief(code, 40))
    return code


_DECODERS: Final[dict[str, Callable[[_Decoder, Any, int], Any]]] = {
    "dict": _Decoder.mapping,
    "items": lambda decoder, held, depth: dict(decoder.pairs(held, depth)),
    "OrderedDict": lambda decoder, held, depth: OrderedDict(decoder.pairs(held, depth)),
    "tuple": lambda decoder, held, depth: tuple(decoder.values(held, depth)),
    "set": lambda decoder, held, depth: {decoder.key(node) for node in held},
    "frozenset": lambda decoder, held, depth: frozenset(decoder.key(node) for node in held),
    "tensor": _Decoder.tensor,
    "shared": _Decoder.shared,
    "again": _Decoder.again,
    "numpy": _Decoder.scalar,
    "float": lambda decoder, held, depth: {"nan": float("nan"), "inf": float("inf"), "-inf": -float("inf")}[held],
    "bytes": lambda decoder, held, depth: base64.b64decode(held, validate=True),
    "complex": lambda decoder, held, depth: complex(float(held[0]), float(held[1])),
    "Size": lambda decoder, held, depth: decoder.leaves.size(Size(map(int, held))),
    "device": _Decoder.device,
    "dtype": _Decoder.dtype,
    **DECODERS,
}


def parse(text: str) -> Any:
    """Return the JSON value that a text is.

    Raises
    ------
    DamagedError
        If it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"the description of the object's structure is no JSON: {error}") from error
