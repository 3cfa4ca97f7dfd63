"""Objects of the standard library and tensors of several parts, in the description of a structure.

What a document can name is a closed list: the classes that `pickling.reductions` takes apart and
`pickling.python_rows` makes. Each is made by the function that makes it for a pickle, with the same checks.
"""

from collections.abc import Callable
from typing import Any, Final

from weighlock.dtypes import DTYPES
from weighlock.errors import DamagedError, UnsupportedTypeError
from weighlock.pickling.inert import GlobalRef, Stub
from weighlock.pickling.python_rows import PYTHON_ROWS
from weighlock.pickling.reductions import Reduction, describe_python, named_type
from weighlock.tensors.layout import check_ints
from weighlock.tensors.leaves import Leaves
from weighlock.tensors.spec import JaggedSpec, MetaSpec, NestedSpec, SparseSpec, UninitializedSpec
from weighlock.tensors.values import TORCH_NAMES, ReturnType, TorchName

__all__ = ["DECODERS", "encode_object", "has_attributes"]

Path = tuple[Any, ...]
Node = Callable[[Any, Path], Any]

# Names in these modules; the classes are those of the closed table.
_MODULES: Final = frozenset({"argparse", "builtins", "collections", "datetime", "decimal", "fractions", "pathlib",
                             "types", "uuid"})  # fmt: skip


def has_attributes(value: Any) -> bool:
    """Whether a dictionary carries more than its items: PyTorch keeps the versions of modules so."""
    return bool(getattr(value, "__dict__", None))


def encode_object(value: Any, path: Path, node: Node) -> Any:
    """Return the node of an object; None where it is none of those that a document can hold.

    Parameters
    ----------
    node : callable
        Returns the node of anything inside, given its path.
    """
    kind = type(value)
    make = _ENCODERS.get(kind)
    if make is not None:
        return make(value, path, node)
    if isinstance(value, type):
        return {"class": named_type(value).full_name}
    describe = describe_python(kind)
    if describe is None or kind is Stub:
        return None
    made = describe(value)
    if isinstance(made, GlobalRef):
        return {"class": made.full_name}
    if not isinstance(made, Reduction):
        return None
    return {"object": [
        made.function.full_name,
        [node(arg, (*path, "<argument>")) for arg in made.args],
        None if made.state is None else node(made.state, path),
        [node(item, (*path, index)) for index, item in enumerate(made.items)],
        [[node(key, (*path, "<key>")), node(held, (*path, key))] for key, held in made.entries],
    ]}  # fmt: skip


def _fields(tag: str, *names: str) -> Callable[[Any, Path, Node], Any]:
    return lambda value, path, node: {tag: [node(getattr(value, name), (*path, name)) for name in names]}


def _sparse(value: SparseSpec, path: Path, node: Node) -> Any:
    names = ("compressed_indices", "plain_indices") if isinstance(value.indices, tuple) else ("indices",)
    parts = value.indices if isinstance(value.indices, tuple) else (value.indices,)
    indices = [node(part, (*path, name)) for name, part in zip(names, parts, strict=True)]
    values = node(value.values, (*path, "values"))
    return {"sparse": [value.layout.name, indices, values, list(value.shape), value.coalesced]}


def _meta(value: MetaSpec, path: Path, node: Node) -> Any:
    return {"meta": [value.dtype.name, list(value.shape), list(value.stride), value.requires_grad]}


_ENCODERS: Final[dict[type, Callable[[Any, Path, Node], Any]]] = {
    bytearray: lambda value, path, node: {"object": ["builtins.bytearray", [node(bytes(value), path)], None, [], []]},
    TorchName: lambda value, path, node: {"torch": value.name},
    ReturnType: lambda value, path, node: {"return_type": [value.type_name, node(tuple(value), path)]},
    SparseSpec: _sparse,
    NestedSpec: _fields("nested", "buffer", "sizes", "strides", "offsets"),
    JaggedSpec: _fields("jagged", "values", "offsets", "lengths", "ragged_index", "fields"),
    MetaSpec: _meta,
    UninitializedSpec: lambda value, path, node: {"uninitialized": [value.kind, value.requires_grad]},
}


# ------------------------------------------------------------------------------------------------------- reading


class _Context:
    """What the rows of the closed table ask for while they make an object."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self.reader = self

    def charge(self, nbytes: int) -> None:
        self._decoder.leaves.charge(nbytes)

    def check_keys(self, keys: list[Any]) -> None:
        for key in keys:
            self._decoder.check_key(key)


def _known(name: Any) -> Any:
    module, _, short = str(name).rpartition(".")
    row = PYTHON_ROWS.get((module, short)) if module in _MODULES else None
    if row is None:
        raise DamagedError("the description of the object's structure names an unknown class", got=repr(name)[:80])
    return row()


def _object(decoder: Any, held: Any, depth: int) -> Any:
    name, args, state, items, entries = held
    known = _known(name)
    if known.call is None:
        raise DamagedError("the description of the object's structure calls no class", got=repr(name)[:80])
    context = _Context(decoder)
    made = known.call(context, tuple(decoder.values(args, depth)))
    if items:
        made.extend(decoder.values(items, depth))
    for key, value in decoder.pairs(entries, depth):
        made[key] = value
    if state is None:
        return made
    if known.build is None:
        raise DamagedError("the description of the object's structure sets a state on what has none")
    return known.build(context, made, decoder.value(state, depth))


def _array(decoder: Any, held: Any, depth: int) -> Any:
    code, shape, fortran, data = held
    leaves: Leaves = decoder.leaves
    state = (1, check_ints(shape, "shape"), leaves.numpy_dtype(decoder.code(code)), fortran is True, decoder.raw(data))
    return leaves.build(leaves.numpy_array(), state)


def _sparse_of(decoder: Any, held: Any, depth: int) -> Any:
    layout, indices, values, shape, coalesced = held
    parts = tuple(decoder.values(indices, depth))
    return decoder.leaves.sparse(SparseSpec(
        TORCH_NAMES[layout], parts[0] if len(parts) == 1 else parts, decoder.value(values, depth),
        check_ints(shape, "shape"), coalesced,
    ))  # fmt: skip


def _parameter(decoder: Any, held: Any, depth: int) -> Any:
    name, requires_grad = held
    return decoder.leaves.parameter(decoder.tensor(name, depth), requires_grad=requires_grad is True)


def _meta_of(decoder: Any, held: Any, depth: int) -> Any:
    dtype, shape, stride, requires_grad = held
    sizes, steps = check_ints(shape, "shape"), check_ints(stride, "stride")
    return decoder.leaves.meta(MetaSpec(DTYPES[dtype], sizes, steps, requires_grad is True))


def _return_type(decoder: Any, held: Any, depth: int) -> Any:
    name, items = held
    if type(name) is not str:
        raise TypeError("a name is missing")
    return decoder.leaves.returned(ReturnType(name, decoder.value(items, depth)))


def _uninitialized(decoder: Any, held: Any, depth: int) -> Any:
    kind, requires_grad = held
    if kind not in ("parameter", "buffer"):
        raise UnsupportedTypeError("an uninitialized tensor of an unknown kind", got=repr(kind)[:40])
    return decoder.leaves.uninitialized(UninitializedSpec(kind, requires_grad is True))


DECODERS: Final[dict[str, Callable[[Any, Any, int], Any]]] = {
    "object": _object,
    "class": lambda decoder, held, depth: _known(held).value,
    "ndarray": _array,
    "parameter": _parameter,
    "requires_grad": lambda decoder, held, depth: decoder.leaves.requiring(decoder.tensor(held, depth)),
    "torch": lambda decoder, held, depth: decoder.leaves.constant(TORCH_NAMES[held]),
    "return_type": _return_type,
    "sparse": _sparse_of,
    "nested": lambda decoder, held, depth: decoder.leaves.nested(NestedSpec(*decoder.values(held, depth))),
    "jagged": lambda decoder, held, depth: decoder.leaves.jagged(JaggedSpec(*decoder.values(held, depth))),
    "meta": _meta_of,
    "uninitialized": _uninitialized,
}
"""What turns a node back, by its tag: given the decoder, what the tag holds, and the depth."""
