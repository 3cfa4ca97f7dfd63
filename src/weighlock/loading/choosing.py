"""`select=` and `dtype=` of `load`: what they say of each tensor, asked of a description before anything is built."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from weighlock.dtypes import DTYPES, DType
from weighlock.errors import ArgumentError, ArgumentTypeError
from weighlock.formats.detect import read_any, read_file
from weighlock.formats.reading import Contents, Options, Reading
from weighlock.inspection.globs import chooser, glob
from weighlock.inspection.leaves import LEAVES
from weighlock.inspection.paths import key_text
from weighlock.objects import children, path_of, walk
from weighlock.pickling.user_globals import NO_USER_GLOBALS
from weighlock.state_dicts.casting import element_type
from weighlock.storages.refs import StorageRef
from weighlock.storages.source import ByteSource
from weighlock.tensors.choice import Choice
from weighlock.tensors.leaves import Leaves
from weighlock.tensors.spec import NumpyArraySpec, NumpyDtypeSpec, NumpyScalarSpec, TensorSpec

__all__ = ["Chosen", "Path", "caster", "choose", "described", "selector"]

Path = tuple[Any, ...]
_TENSORS = LEAVES - {NumpyArraySpec, NumpyDtypeSpec, NumpyScalarSpec}
_SHOWN = 5


def described(source: ByteSource, options: Options) -> Contents:
    """Return what a file holds with descriptions for tensors, and stubs for every class that is not known data."""
    options = options._replace(stubs_allowed=True, trusted=None, user_globals=NO_USER_GLOBALS)
    return read_file(source, Reading(Leaves(), read_any, options))


def selector(select: Any) -> Callable[[str], bool]:
    """Return whether a key is selected: by globs, or by a function of the caller's; all are where nothing is said."""
    if select is None:
        return lambda _: True
    if callable(select):
        return lambda key: bool(select(key))
    patterns = [select] if isinstance(select, str) else select
    if not isinstance(patterns, Sequence) or not all(isinstance(pattern, str) for pattern in patterns):
        raise ArgumentTypeError("select must be a glob, a list of globs, or a function", got=type(select).__name__)
    return chooser(patterns) if patterns else lambda _: False


def _floating(dtype: Any) -> DType:
    row = element_type(dtype)
    if row.kind != "f" or row.numpy_name is None:
        raise ArgumentError("only types of floating-point numbers can be cast to while reading", got=row.name)
    return row


def caster(dtype: Any) -> Callable[[str, DType], DType | None]:
    """Return what type a tensor becomes, given its key and its own: None for its own. See `load`."""
    if dtype is None:
        return lambda _key, _own: None
    if isinstance(dtype, Mapping):
        rules = [(glob(pattern).fullmatch, _floating(wanted)) for pattern, wanted in dtype.items()]
        return lambda key, _own: next((wanted for matches, wanted in rules if matches(key)), None)
    if callable(dtype) and not isinstance(dtype, type):

        def asked(key: str, own: DType) -> DType | None:
            wanted = dtype(key, own.name)
            return None if wanted is None else _floating(wanted)

        return asked
    row = _floating(dtype)
    return lambda _key, _own: row


class Chosen(NamedTuple):
    """What was decided.

    Attributes
    ----------
    choice : Choice
        For the backend that builds the tensors.
    left_out : list of tuple
        The paths of the tensors that are not selected.
    """

    choice: Choice
    left_out: list[Path]

    def leave_out(self, root: Any) -> None:
        """Take entries out of the mappings of the loaded object. In lists and the like, tensors without data stay."""
        names: dict[Path, list[Any]] = {}
        for path in self.left_out:
            if path:
                names.setdefault(path[:-1], []).append(path[-1])
        if not names:
            return
        found = [(value, names.get(path_of(node), [])) for node, value in walk(root) if isinstance(value, Mapping)]
        for mapping, keys in found:
            for key in keys:
                mapping.pop(key, None)  # type: ignore[attr-defined]


def choose(root: Any, selected: Callable[[str], bool], cast: Callable[[str, DType], DType | None]) -> Chosen:
    """Decide about every tensor of a described object.

    Raises
    ------
    ArgumentError
        If no tensor is selected of a file that has some.
    """
    choice = Choice()
    left_out: list[Path] = []
    count = 0
    for path, value in _tensors(root, choice):
        key = key_text(path)
        count += 1
        if not selected(key):
            left_out.append(path)
        elif type(value) is TensorSpec:
            choice.want(value, _target(value, key, cast))
    if count and len(left_out) == count:
        shown = ", ".join(map(key_text, left_out[:_SHOWN]))
        raise ArgumentError("select matches no tensor of the file", got=f"tensors such as {shown}")
    return Chosen(choice, left_out)


def _tensors(root: Any, choice: Choice) -> Iterator[tuple[Path, Any]]:
    """Yield tensors with their paths. What is more than a strided one is read in any case, with all of its parts."""
    parts: set[int] = set()
    for node, value in walk(root):
        kind = type(value)
        if kind is StorageRef or (kind is TensorSpec and id(value) in parts):
            choice.keep(value.ref)
        elif kind is not TensorSpec and (kind in _TENSORS or id(value) in parts):
            for _, part in children(value):
                parts.add(id(part))
        if kind in _TENSORS and id(value) not in parts:
            yield path_of(node), value


def _target(spec: TensorSpec, key: str, cast: Callable[[str, DType], DType | None]) -> DType | None:
    if spec.dtype.kind != "f" or spec.dtype.numpy_name is None or spec.conj or spec.neg:
        return None
    target = cast(key, spec.dtype)
    return None if target is DTYPES[spec.dtype.name] else target
