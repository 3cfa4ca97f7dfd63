"""Lazy tensors: what a checkpoint says of each, and reading it, or a part of it, when that is asked for."""

import operator
from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping, Sequence
from functools import cached_property
from types import EllipsisType
from typing import Any, Final

from weighlock.checkpoint import Checkpoint
from weighlock.dtypes import DTYPES, DType
from weighlock.errors import ArgumentError, ArgumentTypeError, MissingKeyError, UnsupportedError
from weighlock.inspection.globs import chooser
from weighlock.inspection.inventory import Inventory, TensorRow, take_inventory
from weighlock.inspection.leaves import strided_parts
from weighlock.inspection.slicing import Index
from weighlock.opening.naming import Path, spell
from weighlock.storages.refs import Extent
from weighlock.tensors.spec import JaggedSpec, NumpyArraySpec, QuantizedSpec, SparseSpec, TensorSpec

__all__ = ["LazyTensor", "LazyTensors", "Opened"]


class Opened:
    """One open checkpoint: its description, and the index of its tensors, made when it is first needed.

    Attributes
    ----------
    checkpoint : Checkpoint
    verify : bool
        Check the CRC-32 of what is read as a whole.
    """

    def __init__(self, checkpoint: Checkpoint, *, verify: bool) -> None:
        self.checkpoint = checkpoint
        self.verify = verify

    @cached_property
    def inventory(self) -> Inventory:
        """Every tensor, in the file's order."""
        return take_inventory(self.checkpoint)

    @cached_property
    def keys(self) -> list[str]:
        """The key of each row of the inventory."""
        return spell([row.path for row in self.inventory.rows])

    @cached_property
    def by_key(self) -> dict[str, TensorRow]:
        """The rows by key."""
        return dict(zip(self.keys, self.inventory.rows, strict=True))

    @cached_property
    def by_path(self) -> dict[Path, str]:
        """The keys by path."""
        found: dict[Path, str] = {}
        for key, row in zip(self.keys, self.inventory.rows, strict=True):
            found.setdefault(row.path, key)
        return found


class LazyTensor:
    """One tensor of an open checkpoint: described, not read.

    Indexing reads a part, as NumPy understands integers, slices with any step, and ``...``: only the bytes that the
    part needs. `read` reads all of it.

    Attributes
    ----------
    key : str
        Its key in the checkpoint.

    Examples
    --------
    >>> import io, numpy, weighlock
    >>> file = io.BytesIO()
    >>> weighlock.save({"w": numpy.arange(12.0).reshape(3, 4)}, file)
    >>> _ = file.seek(0)
    >>> lazy = weighlock.open_checkpoint(file)["w"]
    >>> lazy.shape, lazy.dtype, lazy.nbytes
    ((3, 4), weighlock.dtype('float64'), 96)
    >>> lazy[1:, ::2]
    array([[ 4.,  6.],
           [ 8., 10.]])
    """

    __slots__ = ("_opened", "_row", "key")

    def __init__(self, opened: Opened, key: str, row: TensorRow) -> None:
        self._opened = opened
        self._row = row
        self.key = key

    @property
    def path(self) -> Path:
        """The keys (of any type), indices and attribute names that lead to it in the object."""
        return self._row.path

    @property
    def shape(self) -> tuple[int, ...]:
        """Its lengths; ``()`` where it has no shape of its own (nested and uninitialized tensors)."""
        return self._row.leaf.shape or ()

    @property
    def dtype(self) -> DType | None:
        """The type of its elements; None for arrays of a type that PyTorch does not have, and where there is none."""
        return DTYPES.get(self._row.leaf.dtype or "")

    @property
    def dtype_name(self) -> str | None:
        """The name of that type in the words of the file's format: also ``Q8_0``, which is no `dtype`."""
        return self._row.leaf.dtype

    @property
    def stride(self) -> tuple[int, ...] | None:
        """Its strides in elements; None where it is not strided memory."""
        return self._row.leaf.stride

    @property
    def offset(self) -> int | None:
        """Its first element's place in its storage, in elements."""
        return self._row.storage_offset

    @property
    def nbytes(self) -> int:
        """The bytes of its elements, were they stored contiguously; of all of its parts where it has several."""
        return self._row.leaf.nbytes

    @property
    def numel(self) -> int:
        """The number of its elements."""
        return self._row.leaf.numel

    @property
    def requires_grad(self) -> bool:
        """Whether it was saved so."""
        return self._row.leaf.requires_grad

    @property
    def is_contiguous(self) -> bool:
        """Whether its elements follow each other in row-major order."""
        return self._row.leaf.contiguous is True

    @property
    def layout(self) -> str:
        """``"strided"``, ``"packed"``, ``"sparse_coo"``, ``"quantized per_tensor_affine"``, ``"nested"`` ..."""
        return self._row.leaf.layout

    @property
    def storage(self) -> str | None:
        """The name of the storage that holds its values, as in `LazyCheckpoint.storages`."""
        return self._row.storage

    @property
    def alias_of(self) -> str | None:
        """The key of the first tensor that is the same view of the same bytes, if this is not the first."""
        first = self._row.alias_of
        return None if first is None else self._opened.keys[first]

    @property
    def metadata(self) -> dict[str, Any]:
        """What else the file says of it: ``conj``, ``neg``, ``parameter``, ``subclass``, ``scheme``, ``axis`` ..."""
        return _metadata(self._row)

    @property
    def spec(self) -> Any:
        """The description as `weighlock.read_checkpoint` has it: a `TensorSpec` or one of its relatives."""
        return self._row.spec

    @property
    def extent(self) -> Extent | None:
        """Where its bytes lie in the file, in one piece and in row-major order; None where they do not.

        They are in the file's byte order (`LazyCheckpoint.storages`), and nowhere for an archive inside another file.
        """
        spec = self._row.spec
        if type(spec) is not TensorSpec or not self.is_contiguous or spec.conj or spec.neg:
            return None
        whole = self._opened.checkpoint.extent(spec.ref)
        return None if whole is None else Extent(whole.offset + spec.offset * spec.dtype.itemsize, spec.nbytes)

    def read(self, *, framework: str = "numpy", dtype: Any = None) -> Any:
        """Return the whole tensor.

        Parameters
        ----------
        framework : {"numpy", "torch"}
        dtype : str or DType, optional
            Cast to this element type after reading.

        Returns
        -------
        numpy.ndarray, torch.Tensor, or one of `weighlock.SparseTensor` and its relatives
            On the CPU, in memory of its own. Where it covers its storage, its CRC-32 has been checked.

        Raises
        ------
        CheckpointError
            If its bytes are missing or damaged.
        """
        return read_several(self._opened, {self.key: self._row}, framework, dtype, integers=True)[self.key]

    def read_part(self, index: Any, *, framework: str = "numpy", dtype: Any = None) -> Any:
        """Return a part of it, as ``lazy[index]`` does, in another framework or element type.

        Parameters
        ----------
        index : int, slice, ..., or a tuple of these
            As NumPy understands them.
        framework, dtype
            As for `read`.

        Raises
        ------
        OutOfRangeError
            If the index lies outside.
        UnsupportedError
            If its layout has no parts that could be read alone: sparse, quantized and nested tensors.
        """
        from weighlock.opening.making import make_part

        items = _as_index(index)
        spec = self._row.spec
        if type(spec) is TensorSpec and not _turned_whole(spec):
            found = make_part(spec, items, framework, verify=self._opened.verify)
        elif self.layout in ("strided", "numpy", "packed"):
            found = self.read(framework=framework)[items]
        else:
            raise UnsupportedError(
                f"a part of a {self.layout} tensor cannot be read alone",
                object_path=self.key,
                hint="Read it as a whole.",
            )
        found = found if dtype is None else cast_all({"": found}, dtype, integers=True)[""]
        scalar = framework == "numpy" and getattr(found, "ndim", 1) == 0 and Ellipsis not in items
        return found[()] if scalar else found

    def __getitem__(self, index: Any) -> Any:
        return self.read_part(index)

    def __len__(self) -> int:
        if not self.shape:
            raise ArgumentTypeError("a tensor without dimensions has no length", object_path=self.key)
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[at] for at in range(len(self)))

    def __bool__(self) -> bool:
        return True

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        found = self.read()
        return found if dtype is None else found.astype(dtype)

    def __repr__(self) -> str:
        from weighlock.text import safe_text

        name = self._row.leaf.dtype or "no element type"
        layout = "" if self.layout == "strided" else f", {self.layout}"
        return f"<lazy tensor {safe_text(self.key, limit=120)!r}: {name}{list(self.shape)}{layout}>"


def _turned_whole(spec: TensorSpec) -> bool:
    """Whether its bytes are turned around in units larger than its elements, so that no part can be read alone."""
    return spec.ref.byteorder == "big" and spec.ref.elements.swap > spec.dtype.itemsize


def _as_index(index: Any) -> Index:
    items = index if isinstance(index, tuple) else (index,)
    made: list[int | slice | EllipsisType] = []
    for item in items:
        if isinstance(item, slice) or item is Ellipsis:
            made.append(item)
            continue
        number = _integer(item)
        if number is None:
            raise ArgumentTypeError(
                "a lazy tensor takes integers, slices and '...'", got=type(item).__name__,
                hint="Read it first, then index the array: lazy.read()[...].",
            )  # fmt: skip
        made.append(number)
    return tuple(made)


def _integer(item: Any) -> int | None:
    if isinstance(item, bool):
        return None
    try:
        return operator.index(item)
    except TypeError:
        return None


def _metadata(row: TensorRow) -> dict[str, Any]:
    spec, leaf = row.spec, row.leaf
    found: dict[str, Any] = {}
    if leaf.parameter:
        found["parameter"] = True
    if leaf.subclass is not None:
        found["subclass"] = leaf.subclass
    if type(spec) is TensorSpec:
        found.update({name: True for name in ("conj", "neg") if getattr(spec, name)})
        if spec.attributes is not None:
            found["attributes"] = spec.attributes
    elif type(spec) is QuantizedSpec:
        found["scheme"] = spec.scheme.name
        found.update({"axis": spec.axis} if spec.axis is not None else {})
    elif type(spec) is SparseSpec and spec.coalesced is not None:
        found["coalesced"] = spec.coalesced
    elif type(spec) is JaggedSpec:
        found["ragged_index"] = spec.ragged_index
    elif type(spec) is NumpyArraySpec:
        found["numpy_dtype"] = leaf.dtype
    parts = strided_parts(spec)
    main = parts[0][1] if parts else None
    if main is not None and main.ref.location != "cpu":
        found["location"] = main.ref.location
    return found


class LazyTensors(Mapping[str, LazyTensor]):
    """Some tensors of an open checkpoint by key, in the file's order: a read-only mapping.

    Examples
    --------
    >>> import io, numpy, weighlock
    >>> file = io.BytesIO()
    >>> weighlock.save({"a": {"w": numpy.ones(2), "b": numpy.zeros(2)}, "n": 3}, file)
    >>> _ = file.seek(0)
    >>> ckpt = weighlock.open_checkpoint(file)
    >>> list(ckpt.keys("a.*")), list(ckpt.select(exclude="**.b"))
    (['a.w', 'a.b'], ['a.w'])
    >>> ckpt.read("**.w")
    {'a.w': array([1., 1.])}
    """

    def __init__(self, opened: Opened, rows: Callable[[], Mapping[str, TensorRow]]) -> None:
        self._opened = opened
        self._get_rows = rows

    @property
    def _rows(self) -> Mapping[str, TensorRow]:
        return self._get_rows()

    def __getitem__(self, key: str | Path) -> LazyTensor:
        name = self._opened.by_path.get(key, "") if isinstance(key, tuple) else key
        row = self._rows.get(name)
        if row is None:
            raise self._missing(key)
        return LazyTensor(self._opened, name, row)

    def __contains__(self, key: object) -> bool:
        name = self._opened.by_path.get(key) if isinstance(key, tuple) else key
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def keys(self, pattern: str | None = None) -> KeysView[str]:
        """Return the keys; with a glob, those that match it.

        Parameters
        ----------
        pattern : str, optional
            ``*`` and ``?`` stop at dots, ``**`` does not.
        """
        return KeysView(self if pattern is None else self.select(include=pattern))

    def select(self, include: str | Iterable[str] = (), exclude: str | Iterable[str] = ()) -> "LazyTensors":
        """Return the tensors whose keys match any of the globs `include` (all without one) and none of `exclude`.

        Parameters
        ----------
        include, exclude : str or iterable of str
            ``*`` and ``?`` stop at dots, ``**`` does not.
        """
        wanted = chooser(_globs(include), _globs(exclude))
        rows = {key: row for key, row in self._rows.items() if wanted(key)}
        return LazyTensors(self._opened, lambda: rows)

    def read(
        self, keys: str | Iterable[str | Path] | None = None, *, framework: str = "numpy", dtype: Any = None
    ) -> dict[str, Any]:
        """Read several tensors in one plan: neighbours together, shared bytes once; who shared memory shares it again.

        Parameters
        ----------
        keys : str, iterable of keys, or None
            A glob, or the keys (or paths) themselves; all tensors where it is None.
        framework : {"numpy", "torch"}
        dtype : str or DType, optional
            Cast floating-point tensors to this type after reading.

        Returns
        -------
        dict of str to array
            By key, in the order asked for; in the file's order for a glob.

        Raises
        ------
        MissingKeyError
            If a key is not there.
        CheckpointError
            If bytes are missing or damaged.
        """
        if keys is None:
            rows: Mapping[str, TensorRow] = self._rows
        elif isinstance(keys, str):
            rows = self.select(include=keys)._rows  # noqa: SLF001 - its own class
        else:
            found = [self[key] for key in keys]
            rows = {lazy.key: lazy._row for lazy in found}  # noqa: SLF001 - the same module's own class
        return read_several(self._opened, rows, framework, dtype)

    def _missing(self, key: Any) -> MissingKeyError:
        from weighlock.inspection.paths import find, key_text

        shown = key if isinstance(key, str) else key_text(key) if isinstance(key, tuple) else repr(key)
        hint = "keys() lists them all."
        if isinstance(key, str):
            rivals = [name for name, row in self._rows.items() if row.key == key]
            if rivals:
                return MissingKeyError(
                    "more than one tensor reads like this key", got=key, hint=f"They are {' and '.join(rivals[:4])}."
                )
            try:
                find(self._opened.checkpoint.object, key)
                hint = "It is no tensor; `object` and `objects` hold everything else."
            except ArgumentError:
                hint = _similar(key, self._rows) or hint
        return MissingKeyError("no tensor in the file has this key", got=shown, hint=hint)

    def __repr__(self) -> str:
        return f"<{len(self)} lazy tensors>"


_COMPARED: Final = 2000


def _similar(key: str, rows: Iterable[str]) -> str | None:
    import difflib
    from itertools import islice

    found = difflib.get_close_matches(key[:200], list(islice(rows, _COMPARED)), n=2, cutoff=0.7)
    return f"Is it {' or '.join(found)}?" if found else None


def _globs(given: str | Iterable[str]) -> Sequence[str]:
    return (given,) if isinstance(given, str) else tuple(given)


def read_several(
    opened: Opened, rows: Mapping[str, TensorRow], framework: str, dtype: Any, *, integers: bool = False
) -> dict[str, Any]:
    """Return the arrays of some rows, read in one plan."""
    from weighlock.opening.making import make_whole

    made = make_whole([row.spec for row in rows.values()], framework, verify=opened.verify)
    found = dict(zip(rows, made, strict=True))
    return found if dtype is None else cast_all(found, dtype, integers=integers)


def cast_all(found: dict[str, Any], dtype: Any, *, integers: bool) -> dict[str, Any]:
    """Cast arrays, sharing kept. With `integers` all of them are meant, and one that cannot be cast is refused."""
    from weighlock.state_dicts.casting import cast

    if integers:
        for key, value in found.items():
            if not hasattr(value, "reshape"):
                raise UnsupportedError("this kind of tensor cannot be cast", got=type(value).__name__, object_path=key)
    return dict(cast(found, dtype, integers=integers))
