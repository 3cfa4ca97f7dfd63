"""Objects as named tensors: for formats that hold nothing else.

A backend says of each leaf what tensor it is and where in memory it lies (`FlatLeaf`). Here the leaves get their names,
and it is found out which of them are the same memory: one of those is stored, the others are said to be views of it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from weighlock.errors import DamagedError, WeighlockError
from weighlock.formats.structure import Path, decode, encode, name_of, parse
from weighlock.tensors.flat import FlatLeaf
from weighlock.tensors.layout import check_view, is_contiguous, reach
from weighlock.tensors.leaves import Leaves
from weighlock.tensors.spec import TensorSpec

__all__ = ["DOCUMENT", "FlatTensor", "Flattened", "flatten", "restore", "shared_storages", "views_of_others"]

DOCUMENT: Final = "weighlock"
"""The key of the metadata under which the document of aliases and structure stands."""

_VERSION: Final = 1


class FlatTensor(NamedTuple):
    """A tensor to be stored."""

    name: str
    leaf: FlatLeaf


class Flattened(NamedTuple):
    """An object taken apart: the tensors to be stored, and what else there is to know.

    Attributes
    ----------
    tensors : list of FlatTensor
    document : dict or None
        What `restore` needs beside the tensors; None where the object is just a dictionary of them.
    """

    tensors: list[FlatTensor]
    document: dict[str, Any] | None


Describe = Callable[[Any], FlatLeaf | None]


def _named(value: Any, describe: Describe) -> list[FlatTensor] | None:
    """Return the tensors of a dictionary that holds nothing else; None where an object is anything else."""
    if not isinstance(value, dict):
        return None
    found = []
    for key, held in value.items():
        leaf = _described(describe, held, (key,)) if type(key) is str else None
        if leaf is None:
            return None
        found.append(FlatTensor(key, leaf))
    return found


def flatten(
    value: Any, describe: Describe, note: Callable[[Any], Any] = lambda _: None, *, exact: bool = False,
    aliases: bool = True,
) -> Flattened:  # fmt: skip
    """Take an object apart.

    Parameters
    ----------
    describe : callable
        Given a value, returns the tensor that it is; None where it is none.
    note : callable
        Given a value, returns the node that stands for it in the description of the structure; None where it is a
        container or value of Python's own.
    exact : bool
        Describe the structure of a dictionary of tensors too: its class, its order, what its tensors require.
    aliases : bool
        Find out which tensors are the same memory. Otherwise each is stored.

    Raises
    ------
    UnsupportedTypeError
        If it holds something that is neither.
    """
    stored = _stored if aliases else _each
    named = None if exact else _named(value, describe)
    if named is not None:
        tensors, views = stored(named)
        return Flattened(tensors, {"version": _VERSION, "aliases": views} if views else None)
    found: dict[str, FlatTensor] = {}

    def leaf_node(held: Any, path: Path) -> Any:
        leaf = _described(describe, held, path)
        if leaf is None:
            return _described(note, held, path)
        name = _unused(name_of(path), found)
        found[name] = FlatTensor(name, leaf)
        if leaf.parameter:
            return {"parameter": [name, leaf.requires_grad]}
        return {"requires_grad" if leaf.requires_grad else "tensor": name}

    tree = encode(value, leaf_node, found.clear)
    tensors, views = stored(list(found.values()))
    document: dict[str, Any] = {"version": _VERSION}
    if views:
        document["aliases"] = views
    return Flattened(tensors, {**document, "tree": tree})


def _described(describe: Callable[[Any], Any], value: Any, path: Path) -> Any:
    try:
        return describe(value)
    except WeighlockError as error:
        raise error.locate(object_path=name_of(path)) from error.__cause__


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    """Return the name, with a number behind it where another path reads the same."""
    made, number = name, 2
    while made in taken or made == "__metadata__":
        made, number = f"{name}~{number}", number + 1
    return made


# -------------------------------------------------------------------------------------------------------- aliases


def _each(tensors: list[FlatTensor]) -> tuple[list[FlatTensor], dict[str, Any]]:
    return tensors, {}


def _stored(tensors: list[FlatTensor]) -> tuple[list[FlatTensor], dict[str, Any]]:
    """Return the tensors that must be stored, and of which of them the others are views, and how."""
    found: dict[str, Any] = {}
    for cluster in _clusters(tensors):
        found.update(_views(cluster))
    if not found:
        return tensors, found
    stored = [tensor for tensor in tensors if tensor.name not in found]
    return stored, {tensor.name: found[tensor.name] for tensor in tensors if tensor.name in found}


def _clusters(tensors: list[FlatTensor]) -> Iterator[list[FlatTensor]]:
    """Yield the sets of two and more whose ranges of memory overlap, each in its first order."""
    ranges = []
    for index, (_, leaf) in enumerate(tensors):
        dtype, shape, stride, start, nbytes, _, buffer, *_ = leaf
        if nbytes and stride is not None:
            span = nbytes if buffer is not None else reach(0, shape, stride) * dtype.itemsize
            ranges.append((start, start + span, index))
    ranges.sort()
    cluster: list[int] = []
    end = 0
    for begin, stop, index in (*ranges, (1 << 64, 1 << 64, -1)):
        if begin >= end:
            if len(cluster) > 1:
                yield [tensors[member] for member in sorted(cluster)]
            cluster = []
        cluster.append(index)
        end = max(end, stop)


def _views(cluster: list[FlatTensor]) -> dict[str, Any]:
    """Return which tensors of a cluster are views of which others: the same view, or a part of a contiguous one."""
    aliases: dict[str, Any] = {}
    stored: list[FlatTensor] = []
    same: dict[Any, Any] = {}
    for tensor in sorted(cluster, key=_size_order):
        name, leaf = tensor
        key = (leaf.start, leaf.dtype, leaf.shape, leaf.stride)
        if key in same:
            aliases[name] = same[key]
            continue
        whole = next((other for other in stored[:_TRIES] if _holds(other.leaf, leaf)), None)
        if whole is None:
            stored.append(tensor)
            same[key] = name
        else:
            offset = (leaf.start - whole.leaf.start) // leaf.dtype.itemsize
            aliases[name] = same[key] = {
                "of": whole.name, "offset": offset, "shape": list(leaf.shape), "stride": list(leaf.stride or ()),
            }  # fmt: skip
    return aliases


# How many of the largest tensors of a cluster are asked whether they hold another one.
_TRIES: Final = 64


def _size_order(tensor: FlatTensor) -> tuple[bool, int]:
    leaf = tensor.leaf
    return not is_contiguous(leaf.shape, leaf.stride or ()), -leaf.nbytes


def _holds(whole: FlatLeaf, part: FlatLeaf) -> bool:
    if whole.dtype is not part.dtype or part.stride is None or not is_contiguous(whole.shape, whole.stride or ()):
        return False
    begin = part.start - whole.start
    if begin < 0 or begin % part.dtype.itemsize:
        return False
    return begin + reach(0, part.shape, part.stride) * part.dtype.itemsize <= whole.nbytes


def views_of_others(leaves: Mapping[str, FlatLeaf]) -> dict[str, Any]:
    """Return which of these tensors need not be stored, being views of others of them."""
    return _stored([FlatTensor(name, leaf) for name, leaf in leaves.items()])[1]


def shared_storages(leaves: Sequence[FlatLeaf]) -> list[int]:
    """Return for each leaf a number that it shares with all that lie in one storage with it."""
    numbers: dict[Any, int] = {}
    return [
        len(numbers) + index if leaf.storage is None else numbers.setdefault(leaf.storage, index)
        for index, leaf in enumerate(leaves)
    ]


# -------------------------------------------------------------------------------------------------------- reading


def restore(text: str, tensors: Mapping[str, TensorSpec], leaves: Leaves, made: dict[str, Any]) -> Any:
    """Return the object that was taken apart.

    Parameters
    ----------
    text : str
        The document, as JSON.
    tensors : mapping of str to TensorSpec
        The stored tensors.
    leaves : Leaves
    made : dict of str to object
        What `leaves` made of them, in their order; the aliases are added to it.

    Raises
    ------
    DamagedError
        If the document is malformed, or does not fit the tensors.
    """
    document = parse(text)
    if not isinstance(document, dict) or type(document.get("version")) is not int:
        raise DamagedError("the description of the object's structure has no version", got=text[:60])
    if document["version"] != _VERSION:
        raise DamagedError(
            "the object's structure is described in a way that this release does not know",
            expected=f"version {_VERSION}", got=str(document["version"])[:20],
            hint="A newer release of Weighlock reads it.",
        )  # fmt: skip
    aliases = document.get("aliases", {})
    if not isinstance(aliases, dict):
        raise DamagedError("the aliases of a file are no JSON object", got=type(aliases).__name__)
    for name, of in aliases.items():
        if name in made:
            raise DamagedError("a tensor is stored, and said to be a view of another one", object_path=name)
        made[name] = leaves.tensor(_alias(name, of, tensors))
    return decode(document["tree"], made, leaves) if "tree" in document else made


def _alias(name: str, of: Any, tensors: Mapping[str, TensorSpec]) -> TensorSpec:
    whole_name: Any = of.get("of") if isinstance(of, dict) else of
    whole = tensors.get(whole_name) if type(whole_name) is str else None
    if whole is None:
        raise DamagedError("a tensor is said to be a view of one that is not there", object_path=name)
    if type(of) is str:
        return TensorSpec(whole.storage, whole.dtype, whole.offset, whole.shape, whole.stride)
    offset, shape, stride = of.get("offset"), of.get("shape"), of.get("stride")
    if not isinstance(shape, list) or not isinstance(stride, list):
        raise DamagedError("a view of a tensor is malformed", object_path=name)
    check_view(whole.ref.nbytes, whole.dtype.itemsize, offset, tuple(shape), tuple(stride))
    return TensorSpec(whole.storage, whole.dtype, offset, tuple(shape), tuple(stride))
