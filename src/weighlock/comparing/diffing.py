"""`weighlock.diff`: two checkpoints compared, structure first, then the values, streamed."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

from weighlock.comparing.pairing import Naming, Rules, renames
from weighlock.comparing.values import Tolerance, ValueDiff, compare_parts
from weighlock.errors import ArgumentError, WeighlockError
from weighlock.inspection.paths import key_text
from weighlock.inspection.plain import text_of
from weighlock.measuring.contents import canonical_text, plain_contents
from weighlock.measuring.pieces import Part, Progress, in_threads, looking_into, parts_of
from weighlock.opening.opened import LazyCheckpoint
from weighlock.opening.tensors import LazyTensor, LazyTensors
from weighlock.tensors.spec import QuantizedSpec, TensorSpec

__all__ = ["Diff", "ObjectDiff", "TensorDiff", "TensorSide", "diff", "plain_texts"]


class TensorSide(NamedTuple):
    """What one checkpoint says of a tensor.

    Attributes
    ----------
    key : str
        Its own key there.
    path : tuple
    dtype : str or None
    shape : tuple of int
    layout : str
    nbytes : int
    alias_of : str or None
        The key of the first tensor there that is the same view of the same bytes, if this is not the first.
    """

    key: str
    path: tuple[Any, ...]
    dtype: str | None
    shape: tuple[int, ...]
    layout: str
    nbytes: int
    alias_of: str | None = None


class TensorDiff(NamedTuple):
    """One tensor of either checkpoint, or of both.

    Attributes
    ----------
    name : str
        What it was compared under.
    a, b : TensorSide or None
        None where that side does not have it.
    renamed : bool
        Its name changed: a guess, since type, shape and bytes are the same.
    changes : tuple of str
        Of ``"dtype"``, ``"shape"``, ``"layout"`` and ``"values"``, those in which the sides differ. Values within the
        tolerance are no change.
    values : ValueDiff or None
        How the values differ. None where they are the same byte for byte, or were not compared.
    compared : bool
        Whether the values were compared.
    error : WeighlockError or None
        Why they could not be.
    """

    name: str
    a: TensorSide | None
    b: TensorSide | None
    renamed: bool = False
    changes: tuple[str, ...] = ()
    values: ValueDiff | None = None
    compared: bool = False
    error: WeighlockError | None = None

    @property
    def same(self) -> bool:
        """Whether both sides have it, under one name and without a change."""
        return self.a is not None and self.b is not None and not self.renamed and not self.changes and not self.error


class ObjectDiff(NamedTuple):
    """A plain value that differs: its key, and its text on each side; None where a side does not have it."""

    key: str
    a: str | None
    b: str | None


class Diff(NamedTuple):
    """What `weighlock.diff` returns.

    Attributes
    ----------
    tensors : tuple of TensorDiff
        In the order of `a`; what only `b` has stands at the end.
    objects : tuple of ObjectDiff
        The plain values that differ.
    objects_compared : int
        How many plain values there are under either's keys.
    """

    tensors: tuple[TensorDiff, ...]
    objects: tuple[ObjectDiff, ...]
    objects_compared: int

    @property
    def same(self) -> bool:
        """Whether nothing differs; False as well where something could not be compared."""
        return not self.objects and all(row.same for row in self.tensors)

    @property
    def complete(self) -> bool:
        """Whether everything could be compared."""
        return not any(row.error for row in self.tensors)

    @property
    def changed(self) -> tuple[TensorDiff, ...]:
        """The tensors that are not the same."""
        return tuple(row for row in self.tensors if not row.same)


# Reason for the parameter count: each is one way in which two checkpoints may differ without being different.
def diff(
    a: Any,
    b: Any,
    *,
    values: bool = True,
    rtol: float = 0.0,
    atol: float = 0.0,
    equal_nan: bool = True,
    strip_prefix_a: str = "",
    strip_prefix_b: str = "",
    rename: Rules = (),
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    progress: Progress | None = None,
) -> Diff:
    """Compare two checkpoints of any format: which tensors, of what type and shape, and how far the values are apart.

    Values are read in pieces of a megabyte. Equal bytes are found as fast as they can be read; all other values are
    compared in double precision, whatever their types: float32 with bfloat16, integers with floats.

    Parameters
    ----------
    a, b : LazyCheckpoint, LazyTensors, path, address, bytes or file object
    values : bool
        Compare values too. Otherwise no tensor is read, and no rename is guessed.
    rtol, atol : float
        Elements are equal where ``|a - b| <= atol + rtol * |b|``.
    equal_nan : bool
        NaN on both sides is equal.
    strip_prefix_a, strip_prefix_b : str
        What stands before the names of one side only: ``"module."``.
    rename : mapping or iterable of pairs
        New names for those of `a`, as `weighlock.state_dicts.rename` takes them.
    include, exclude : str or iterable of str
        Globs over the names after that; ``*`` stops at dots, ``**`` does not.
    progress : callable, optional
        Called with the number of bytes read since the last call, from several threads.

    Returns
    -------
    Diff

    Raises
    ------
    CheckpointError
        If one of them is no checkpoint. A tensor that cannot be read is no such error, but has one.
    StateDictError
        If no name has a prefix, or a rule fits none.
    ArgumentError
        If a tolerance is negative.

    Examples
    --------
    >>> import io, numpy, weighlock
    >>> def saved(obj):
    ...     file = io.BytesIO()
    ...     weighlock.save(obj, file)
    ...     return file.getvalue()
    >>> found = weighlock.diff(saved({"w": numpy.zeros(3), "n": 1}), saved({"w": numpy.array([0, 0.5, 0]), "n": 2}))
    >>> row = found.changed[0]
    >>> row.name, row.changes, row.values.differing, row.values.max_abs, found.objects
    ('w', ('values',), 1, 0.5, (ObjectDiff(key='n', a='1', b='2'),))
    """
    if not (rtol >= 0 and atol >= 0):
        raise ArgumentError("a tolerance is not negative", got=f"rtol={rtol}, atol={atol}")
    globs = _globs(include), _globs(exclude)
    naming_a, naming_b = Naming(strip_prefix_a, rename, *globs), Naming(strip_prefix_b, (), *globs)
    with ExitStack() as stack:
        one, other = stack.enter_context(looking_into(a)), stack.enter_context(looking_into(b))
        pairs = _pairs(naming_a.tensors(one), naming_b.tensors(other), progress if values else None, guess=values)
        comparison = Comparison(Tolerance(rtol, atol, equal_nan), progress, values=values)
        rows = tuple(in_threads(comparison.row, pairs, lambda pair: pair.nbytes))
        objects, count = _objects(one, other, naming_a, naming_b)
    return Diff(rows, objects, count)


def _globs(given: str | Iterable[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


class Pair(NamedTuple):
    """Two tensors that belong together, or one that has no other."""

    name: str
    a: LazyTensor | None
    b: LazyTensor | None
    renamed: bool = False

    @property
    def nbytes(self) -> int:
        """What there is to read."""
        return self.a.nbytes + self.b.nbytes if self.a is not None and self.b is not None else 0


def _pairs(
    a: Mapping[str, LazyTensor], b: Mapping[str, LazyTensor], progress: Progress | None, *, guess: bool
) -> list[Pair]:
    only_a = {name: tensor for name, tensor in a.items() if name not in b}
    only_b = {name: tensor for name, tensor in b.items() if name not in a}
    new_names = renames(only_a, only_b, progress) if guess and only_a and only_b else {}
    found = []
    for name, tensor in a.items():
        new = new_names.get(name)
        found.append(Pair(name, tensor, b.get(name)) if new is None else Pair(name, tensor, b[new], renamed=True))
    taken = set(new_names.values())
    return found + [Pair(name, None, tensor) for name, tensor in only_b.items() if name not in taken]


class Comparison:
    """What pairs are compared by."""

    def __init__(self, tolerance: Tolerance, progress: Progress | None, *, values: bool) -> None:
        self._tolerance = tolerance
        self._progress = progress
        self._values = values

    def row(self, pair: Pair) -> TensorDiff:
        """Compare one pair."""
        a, b = _side(pair.a), _side(pair.b)
        row = TensorDiff(pair.name, a, b, pair.renamed)
        if pair.a is None or pair.b is None or a is None or b is None:
            return row
        changes = [name for name in ("dtype", "shape", "layout") if getattr(a, name) != getattr(b, name)]
        changes = [name for name in changes if name != "layout" or {a.layout, b.layout} != {"strided", "numpy"}]
        row = row._replace(changes=tuple(changes))
        if pair.renamed:  # its bytes were compared already
            return row._replace(compared=True)
        if not self._values or "shape" in changes or "layout" in changes:
            return row
        try:
            return self._with_values(row, pair.a, pair.b)
        except WeighlockError as error:
            error.locate(object_path=row.name)
            return row._replace(error=error)

    def _with_values(self, row: TensorDiff, a: LazyTensor, b: LazyTensor) -> TensorDiff:
        parts_a, parts_b = parts_of(a), parts_of(b)
        if not parts_a and not parts_b:
            return row
        row = row._replace(compared=True)
        if [(part.name, part.shape) for part in parts_a] != [(part.name, part.shape) for part in parts_b]:
            return row._replace(changes=(*row.changes, "values"))  # as of sparse tensors with more or fewer values
        found = [
            compare_parts(one, other, self._tolerance_of(one), self._progress)
            for one, other in zip(parts_a, parts_b, strict=True)
        ]
        different = any(value is not None and value.outside for value in found) or _numbers(a.spec) != _numbers(b.spec)
        shown = next((value for value in found if value is not None), None)
        return row._replace(changes=(*row.changes, *(["values"] if different else [])), values=shown)

    def _tolerance_of(self, part: Part) -> Tolerance:
        """Return the tolerance for a part: what says where values stand has none."""
        return self._tolerance if part.name in ("", "values", "buffer", "tensor", "scale") else Tolerance()


def _numbers(spec: Any) -> Any:
    """Return what the numbers of a quantized tensor mean, as far as it is in no part of it."""
    if type(spec) is not QuantizedSpec:
        return None
    return [
        None if type(value) is TensorSpec else canonical_text(value)
        for value in (spec.scale, spec.zero_point, spec.axis)
    ]


def _side(tensor: LazyTensor | None) -> TensorSide | None:
    if tensor is None:
        return None
    return TensorSide(
        tensor.key, tensor.path, tensor.dtype_name, tensor.shape, tensor.layout, tensor.nbytes, tensor.alias_of
    )  # fmt: skip


def plain_texts(ckpt: LazyCheckpoint) -> dict[str, str]:
    """Return the plain values of a checkpoint as short text, by key."""
    return {name: text for name, (_, text) in (_plain(ckpt, Naming()) or {}).items()}


def _objects(a: LazyTensors, b: LazyTensors, naming_a: Naming, naming_b: Naming) -> tuple[tuple[ObjectDiff, ...], int]:
    """Return the plain values that differ, and how many there are."""
    one, other = _plain(a, naming_a), _plain(b, naming_b)
    if one is None or other is None:
        return (), 0
    names = dict.fromkeys([*one, *other])
    found = []
    for name in names:
        text_a, text_b = one.get(name), other.get(name)
        if text_a is None or text_b is None or text_a[0] != text_b[0]:
            found.append(ObjectDiff(name, text_a and text_a[1], text_b and text_b[1]))
    return tuple(found), len(names)


def _plain(tensors: LazyTensors, naming: Naming) -> dict[str, tuple[str, str]] | None:
    """Return the exact and the short spelling of each plain value; None where only some tensors are compared."""
    if not isinstance(tensors, LazyCheckpoint):
        return None
    wanted = naming.wanted()
    found: dict[str, tuple[str, str]] = {}
    for path, value in plain_contents(tensors.object):
        name = naming.plain(key_text(path))
        if wanted(name):
            found[name] = canonical_text(value), text_of(value)
    return found
