"""Descriptions made into arrays: each leaf handed to a framework once more, over the parts of storages it needs."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from weighlock.backends import registry
from weighlock.errors import LimitError
from weighlock.inspection.slicing import Index, select
from weighlock.opening.planning import Gather, Plan, gathered
from weighlock.tensors.layout import contiguous_stride
from weighlock.tensors.spec import (
    JaggedSpec,
    MetaSpec,
    NestedSpec,
    NumpyArraySpec,
    NumpyDtypeSpec,
    NumpyScalarSpec,
    QuantizedSpec,
    SparseSpec,
    SubclassSpec,
    TensorSpec,
    UninitializedSpec,
    WrapperSpec,
)

__all__ = ["make_part", "make_whole"]

# Attributes of a tensor's class hold tensors, perhaps in containers: real ones are two levels deep.
_MAX_DEPTH: Final = 64


def make_whole(specs: Sequence[Any], framework: str, *, verify: bool) -> list[Any]:
    """Return the arrays for some leaves, read in one plan; those that shared memory share it again."""
    maker = _Maker(framework, verify=verify)
    for spec in specs:
        maker.want(spec)
    return maker.run(lambda: [maker.make(spec) for spec in specs])


def make_part(spec: TensorSpec, index: Index, framework: str, *, verify: bool) -> Any:
    """Return a part of a strided tensor: only the bytes that it needs are read.

    Raises
    ------
    ArgumentError
        If the index does not fit the shape.
    """
    view = select(index, spec.offset, spec.shape, spec.stride)
    maker = _Maker(framework, verify=verify)
    found = gathered(spec.ref, view, spec.dtype.itemsize)
    if found is not None:
        return maker.run(lambda: [maker.slice(spec, found)])[0]
    part = TensorSpec(spec.storage, spec.dtype, view.offset, view.shape, view.stride, conj=spec.conj, neg=spec.neg)
    maker.want(part)
    return maker.run(lambda: [maker.make(part)])[0]


class _Maker:
    """One reading of some leaves."""

    def __init__(self, framework: str, *, verify: bool) -> None:
        registry.check(framework)
        self._plan = Plan(verify=verify)
        self._leaves = registry.leaves_for(framework, verify=verify)
        self._storages: dict[int, Any] = {}
        self._made: dict[int, Any] = {}
        self._depth = 0

    def want(self, value: Any) -> None:
        """Note every strided tensor inside of a leaf."""
        self._deeper()
        if type(value) is TensorSpec:
            self._plan.want(value)
        else:
            for inner in _inside(value):
                self.want(inner)
        self._depth -= 1

    def run(self, build: Callable[[], list[Any]]) -> list[Any]:
        """Build what is wanted, then read all data."""
        self._plan.settle()
        leaves = self._leaves
        try:
            with leaves.reading():
                made = build()
                leaves.finish()
            return made
        finally:
            leaves.release()

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise LimitError("the attributes of a tensor are nested too deeply", expected=f"at most {_MAX_DEPTH}")

    def make(self, value: Any) -> Any:
        """Return what a description stands for; anything else as it is."""
        build = _BUILDERS.get(type(value))
        if build is None:
            return value
        found = self._made.get(id(value))
        if found is None:
            self._deeper()
            found = self._made[id(value)] = build(self, value)
            self._depth -= 1
        return found

    def _storage(self, ref: Any) -> Any:
        found = self._storages.get(id(ref))
        if found is None:
            found = self._storages[id(ref)] = self._leaves.storage(ref)
        return found

    def slice(self, spec: TensorSpec, wanted: Gather) -> Any:
        """Return a slice that is copied together."""
        storage = self._storage(self._plan.gather(wanted))
        shape = wanted.view.shape
        part = TensorSpec(storage, spec.dtype, 0, shape, contiguous_stride(shape), conj=spec.conj, neg=spec.neg)
        return self._leaves.tensor(part)

    # One method per kind of leaf

    def tensor(self, spec: TensorSpec) -> Any:
        ref, offset = self._plan.place(spec)
        found = self._leaves.tensor(TensorSpec(
            self._storage(ref), spec.dtype, offset, spec.shape, spec.stride, spec.requires_grad, conj=spec.conj,
            neg=spec.neg,
        ))  # fmt: skip
        return self._leaves.parameter(found, requires_grad=spec.requires_grad) if spec.parameter else found

    def quantized(self, spec: QuantizedSpec) -> Any:
        return self._leaves.quantized(QuantizedSpec(
            self.make(spec.tensor), spec.dtype, spec.shape, spec.scheme, self.make(spec.scale),
            self.make(spec.zero_point), spec.axis, stride=spec.stride,
        ))  # fmt: skip

    def sparse(self, spec: SparseSpec) -> Any:
        return self._leaves.sparse(
            SparseSpec(spec.layout, self.make(spec.indices), self.make(spec.values), spec.shape, spec.coalesced)
        )

    def nested(self, spec: NestedSpec) -> Any:
        return self._leaves.nested(NestedSpec(*map(self.make, (spec.buffer, spec.sizes, spec.strides, spec.offsets))))

    def jagged(self, spec: JaggedSpec) -> Any:
        values, offsets, lengths = map(self.make, (spec.values, spec.offsets, spec.lengths))
        return self._leaves.jagged(JaggedSpec(values, offsets, lengths, spec.ragged_index, self.make(spec.fields)))

    def subclass(self, spec: SubclassSpec) -> Any:
        return self._leaves.subclass(SubclassSpec(spec.cls, self.make(spec.data), self.make(spec.state)))

    def numpy_dtype(self, spec: NumpyDtypeSpec) -> Any:
        made = self._leaves.numpy_dtype(spec.code)
        return made if spec.state is None else self._leaves.build(made, self.make(spec.state))

    def numpy_array(self, spec: NumpyArraySpec) -> Any:
        self._leaves.allow_work(len(spec.data) if isinstance(spec.data, bytes | bytearray | str) else 0)
        state = (1, spec.shape, self.make(spec.dtype), spec.fortran, self.make(spec.data))
        return self._leaves.build(self._leaves.numpy_array(), state)

    def numpy_scalar(self, spec: NumpyScalarSpec) -> Any:
        return self._leaves.numpy_scalar(self.make(spec.dtype), self.make(spec.data))

    def sequence(self, value: Any) -> Any:
        return type(value)(map(self.make, value))

    def mapping(self, value: dict[Any, Any]) -> Any:
        return {key: self.make(item) for key, item in value.items()}


_BUILDERS: Final[dict[type, Callable[[_Maker, Any], Any]]] = {
    TensorSpec: _Maker.tensor,
    QuantizedSpec: _Maker.quantized,
    SparseSpec: _Maker.sparse,
    NestedSpec: _Maker.nested,
    JaggedSpec: _Maker.jagged,
    MetaSpec: lambda maker, spec: maker._leaves.meta(spec),  # noqa: SLF001 - this class's own table
    UninitializedSpec: lambda maker, spec: maker._leaves.uninitialized(spec),  # noqa: SLF001 - as above
    WrapperSpec: lambda maker, spec: maker._leaves.wrapper(spec),  # noqa: SLF001 - as above
    SubclassSpec: _Maker.subclass,
    NumpyDtypeSpec: _Maker.numpy_dtype,
    NumpyArraySpec: _Maker.numpy_array,
    NumpyScalarSpec: _Maker.numpy_scalar,
    list: _Maker.sequence,
    tuple: _Maker.sequence,
    dict: _Maker.mapping,
}

_INSIDE: Final[dict[type, tuple[str, ...]]] = {
    QuantizedSpec: ("tensor", "scale", "zero_point"),
    SparseSpec: ("indices", "values"),
    NestedSpec: ("buffer", "sizes", "strides", "offsets"),
    JaggedSpec: ("values", "offsets", "lengths", "fields"),
    SubclassSpec: ("data", "state"),
    NumpyArraySpec: ("data",),
}


def _inside(value: Any) -> Sequence[Any]:
    """Return what `_Maker.make` would descend to."""
    names = _INSIDE.get(type(value))
    if names is not None:
        return [getattr(value, name) for name in names]
    if type(value) is dict:
        return list(value.values())
    return value if type(value) in (list, tuple) else ()
