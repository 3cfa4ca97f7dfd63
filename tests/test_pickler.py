"""The pickler against Python's own: the same bytes where they should be, the same objects everywhere."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import fractions
import math
import os
import pathlib
import pickle
import subprocess
import sys
import types
import uuid
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighlock.errors import ArgumentError, SaveError, UnsupportedTypeError
from weighlock.pickling.inert import GlobalRef, Stub
from weighlock.pickling.pickler import PROTOCOLS, Pickler
from weighlock.pickling.recipes import spell_int
from weighlock.pickling.reductions import Persistent, Reduction, TensorForm, TensorPattern

SHARED = "shared"


def with_metadata() -> collections.OrderedDict[str, int]:
    made = collections.OrderedDict((f"layer.{i}", i) for i in range(1001))
    made._metadata = collections.OrderedDict([("", {"version": 1}), ("layer", {"version": 2})])  # type: ignore[attr-defined]
    return made


def recursive_list() -> list[Any]:
    made: list[Any] = [1]
    made.append(made)
    return made


def recursive_tuple(length: int) -> tuple[Any, ...]:
    inner: list[Any] = []
    made = (inner, *range(length - 1))
    inner.append(made)
    return made


def recursive_dict() -> dict[str, Any]:
    made: dict[str, Any] = {"a": 1}
    made["self"] = made
    made["list"] = [made]
    return made


# Written with the very opcodes of Python's C pickler.
SAME_BYTES: dict[str, Any] = {
    "constants": [None, True, False],
    "integers": [0, 255, 256, 65535, 65536, -1, 2**31 - 1, -(2**31), 2**31, -(2**31) - 1, 2**63, -(2**63), -128, -129],
    "large integers": [2**2039 - 1, 2**2039, -(2**2039), -(2**2039) - 1, 2**9000, -(2**9000)],
    "floats": [0.0, -0.0, 1.5, 1e300, math.inf, -math.inf, 5e-324],
    "text": ["", "a", "é", "\ud800 lone", "x" * 255, "x" * 256, "\n", "日本"],
    "bytes": [b"a", b"latin1", bytes(range(256)), b"x" * 300],
    "bytearray": [bytearray(b"hello"), bytearray()],
    "shared": [SHARED, SHARED, (SHARED, SHARED), {SHARED: SHARED}, "latin1", b"x", b"x"],
    **{f"list of {n}": list(range(n)) for n in (0, 1, 2, 999, 1000, 1001, 2000, 2001)},
    **{f"dict of {n}": {i: i for i in range(n)} for n in (0, 1, 2, 999, 1000, 1001, 2000, 2001)},
    **{f"OrderedDict of {n}": collections.OrderedDict((i, i) for i in range(n)) for n in (0, 1, 2, 1000, 1001, 2001)},
    **{f"deque of {n}": collections.deque(range(n)) for n in (0, 1, 2, 1000, 1001)},
    **{f"tuple of {n}": tuple(range(n)) for n in range(6)},
    "metadata": with_metadata(),
    "recursive list": recursive_list(),
    "recursive dict": recursive_dict(),
    **{f"recursive tuple of {n}": recursive_tuple(n) for n in range(1, 6)},
    "optimizer": {"state": {0: {"step": 1.0, "betas": (0.9, 0.999)}}, "param_groups": [{"lr": 1e-3, "params": [0, 1]}]},
    "defaultdict": [collections.defaultdict(list, {1: [2]}), collections.defaultdict(None, {1: 2})],
    "Counter": collections.Counter("abracadabra"),
    "deque with maxlen": collections.deque([1, 2], 5),
    "range, slice, complex": [range(3), range(1, 10, 2), slice(1, None, 2), 1 + 2j],
    "one-element sets": [{1}, frozenset(["a"]), set(), frozenset()],
    "dates": [
        datetime.datetime(2020, 1, 2, 3, 4, 5, 6),  # noqa: DTZ001 - naive dates must survive too
        datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC),
        datetime.date(2020, 1, 1),
        datetime.time(1, 2),
        datetime.timedelta(1, 2, 3),
        datetime.timezone(datetime.timedelta(hours=1), "here"),
    ],
    "pure paths": [pathlib.PurePosixPath("/a/b"), pathlib.PureWindowsPath("c:/x")],
    "SimpleNamespace": types.SimpleNamespace(a=1, b=[2]),
    "numbers": [decimal.Decimal("1.50"), fractions.Fraction(1, 3)],
    "singletons": [Ellipsis, NotImplemented, type(None), Ellipsis],
    "classes": [list, dict, collections.OrderedDict, int, list],
    "same date twice": [datetime.date(2020, 1, 1)] * 2,
}
# Instances without a call of their class: protocol 1 has no opcode for them, and is spelled otherwise here.
SAME_BYTES_FROM_2: dict[str, Any] = {
    "Namespace": [argparse.Namespace(a=1, b=[2]), argparse.Namespace()],
    "UUID": uuid.UUID(int=12345),
}
if pathlib.PurePosixPath.__module__ != "pathlib":  # Python 3.13 alone names a private module there
    del SAME_BYTES["pure paths"]


@pytest.mark.parametrize("protocol", [1, 2, 3])
@pytest.mark.parametrize("name", SAME_BYTES)
def test_writes_what_python_writes(name, protocol):
    assert Pickler(protocol).dumps(SAME_BYTES[name]) == pickle.dumps(SAME_BYTES[name], protocol)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("name", SAME_BYTES_FROM_2)
def test_writes_instances_as_python_does(name, protocol):
    assert Pickler(protocol).dumps(SAME_BYTES_FROM_2[name]) == pickle.dumps(SAME_BYTES_FROM_2[name], protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", [name for name in {**SAME_BYTES, **SAME_BYTES_FROM_2} if "recursive" not in name])
def test_python_reads_back_an_equal_object(name, protocol):
    obj = {**SAME_BYTES, **SAME_BYTES_FROM_2}[name]
    back = pickle.loads(Pickler(protocol).dumps(obj))
    assert back == obj
    assert type(back) is type(obj)
    assert getattr(back, "__dict__", None) == getattr(obj, "__dict__", None)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_self_reference_survives(protocol):
    back = pickle.loads(Pickler(protocol).dumps(recursive_list()))
    assert back[1] is back
    back = pickle.loads(Pickler(protocol).dumps(recursive_dict()))
    assert back["self"] is back
    assert back["list"][0] is back
    for length in range(1, 6):
        made = pickle.loads(Pickler(protocol).dumps(recursive_tuple(length)))
        assert made[0][0] is made
        assert len(made) == length


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_identity_survives(protocol):
    one: list[int] = []
    back = pickle.loads(Pickler(protocol).dumps([one, one, [], (one,)]))
    assert back[0] is back[1]
    assert back[0] is back[3][0]
    assert back[0] is not back[2]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_set_that_contains_itself_through_an_object(protocol):
    inner = types.SimpleNamespace()
    holder = frozenset([(1, 2)])
    inner.held = [holder, holder]
    back = pickle.loads(Pickler(protocol).dumps(inner))
    assert back.held[0] is back.held[1]


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(alphabet=st.characters())
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.dates()
    | st.datetimes(timezones=st.none())
    | st.timedeltas()
    | st.fractions()
    | st.decimals(allow_nan=False),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.dictionaries(st.text(), inner).map(collections.OrderedDict)
        | st.lists(inner).map(collections.deque)
        | st.sets(st.integers() | st.text())
        | st.frozensets(st.binary())
    ),
    max_leaves=30,
)


@given(plain, st.sampled_from(PROTOCOLS))
def test_any_tree_reads_back_equal(obj, protocol):
    assert pickle.loads(Pickler(protocol).dumps(obj)) == obj


@given(st.integers() | st.integers(-(2**70), 2**70))
def test_any_integer_is_spelled_as_python_does(value):
    assert Pickler(2).dumps(value) == pickle.dumps(value, 2)


@given(st.integers(0, 2**40))
def test_recipes_spell_integers_as_the_pickler_does(value):
    assert b"\x80\x02" + spell_int(value) + b"." == pickle.dumps(value, 2)


def test_empty_bytes_are_spelled_so_that_torch_reads_them():
    assert b"_codecs\nencode" in Pickler(2).dumps(b"")
    assert pickle.loads(Pickler(2).dumps([b"", b""])) == [b"", b""]


def test_fold_survives():
    late = datetime.datetime(2020, 10, 25, 2, 30, fold=1)  # noqa: DTZ001 - naive on purpose
    assert pickle.loads(Pickler(2).dumps(late)).fold == 1


def test_sets_are_written_in_an_order_that_does_not_depend_on_the_run():
    names = [f"name{i}" for i in range(50)]
    script = f"from weighlock.pickling.pickler import Pickler; print(Pickler(2).dumps(set({names!r})))"
    runs = {
        subprocess.check_output([sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed})
        for seed in ("1", "2", "3")
    }
    assert len(runs) == 1
    assert pickle.loads(Pickler(2).dumps({1, "a", None})) == {1, "a", None}


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: (x,), lambda x: {"k": x}, lambda x: (1, 2, 3, x)])
def test_depth_costs_no_stack(wrap):
    nested: Any = []
    for _ in range(100_000):
        nested = wrap(nested)
    assert Pickler(2).dumps(nested).endswith(b".")
    while nested:  # taken apart by hand: Python's own deallocation of tuples is recursive in places
        nested = next(iter(nested.values())) if isinstance(nested, dict) else nested[-1]


def test_an_error_deep_inside_costs_no_stack():
    nested: Any = [object()]
    for _ in range(100_000):
        nested = [nested]
    pickler = Pickler(2)
    with pytest.raises(UnsupportedTypeError):
        pickler.dumps(nested)
    assert len(pickler.trail) == 100_002


@pytest.mark.parametrize("protocol", [0, 6, -1, True, 2.0, "2", None])
def test_refuses_other_protocols(protocol):
    with pytest.raises(ArgumentError, match="protocol"):
        Pickler(protocol)


class Unknown:
    pass


class StringSubclass(str):
    __slots__ = ()


@pytest.mark.parametrize("value", [Unknown(), Unknown, len, lambda: 1, StringSubclass("a"), {"a": Unknown()}, object()])
def test_refuses_what_has_no_form(value):
    pickler = Pickler(2)
    with pytest.raises(UnsupportedTypeError) as caught:
        pickler.dumps({"top": [value]})
    assert caught.value.hint
    assert pickler.trail[-1] is (value["a"] if isinstance(value, dict) else value)


def test_a_class_that_only_claims_to_be_a_known_one_is_refused():
    impostor = type("Decimal", (), {"__module__": "decimal", "__qualname__": "Decimal"})
    with pytest.raises(UnsupportedTypeError):
        Pickler(2).dumps(impostor())


def test_a_change_meanwhile_is_a_save_error():
    changing = {"a": 1, "b": 2}

    class Grower:
        pass

    def describe(kind):
        if kind is not Grower:
            return None

        def grow(_):
            changing["c"] = 3
            return GlobalRef("m", "n")

        return grow

    changing["a"] = Grower()  # type: ignore[assignment]
    with pytest.raises(SaveError, match="changed while"):
        Pickler(2, describe=describe).dumps(changing)


def test_a_line_break_in_a_name_cannot_forge_opcodes():
    forged = GlobalRef("os", "system\nq\x00")
    for protocol in (1, 2, 3):
        with pytest.raises(SaveError, match="line break"):
            Pickler(protocol).dumps(forged)


class Point:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made = super().__new__(cls)
        made.args, made.kwargs = args, kwargs
        return made


class Items(list):
    pass


def stub(cls: type, *args: Any, **options: Any) -> Stub:
    return Stub(GlobalRef(cls.__module__, cls.__qualname__), args, **options)


@pytest.fixture
def importable(monkeypatch):
    """Tests are imported under names that the standard pickle cannot look up."""
    module = types.ModuleType("weighlock_test_classes")
    for cls in (Point, Items):
        monkeypatch.setattr(cls, "__module__", module.__name__)
        setattr(module, cls.__name__, cls)
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("how", ["reduce", "newobj"])
def test_stubs_become_what_they_stood_for(protocol, how):
    made = stub(Point, 1, [2], how=how)
    made.state = {"extra": 5}
    back = pickle.loads(Pickler(protocol).dumps([made, made]))
    assert type(back[0]) is Point
    assert back[0] is back[1]
    assert (back[0].args, back[0].extra) == ((1, [2]), 5)


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_stubs_keep_keyword_arguments_and_items(protocol):
    back = pickle.loads(Pickler(protocol).dumps(stub(Point, 1, kwargs={"b": 2})))
    assert (back.args, back.kwargs) == ((1,), {"b": 2})
    many = stub(Items)
    many.items = list(range(1001))
    assert pickle.loads(Pickler(protocol).dumps(many)) == many.items
    counted = Stub(GlobalRef("collections", "OrderedDict"), (), how="reduce")
    counted.entries = [(i, i) for i in range(1001)]
    assert list(pickle.loads(Pickler(protocol).dumps(counted).replace(b"", b"")).items()) == counted.entries


@pytest.mark.parametrize(
    ("protocol", "name"), [(1, b"c__builtin__\nxrange\n"), (2, b"c__builtin__\nxrange\n"), (3, b"cbuiltins\nrange\n")]
)
def test_names_follow_the_protocol(protocol, name):
    assert name in Pickler(protocol).dumps(range(3))
    assert name in Pickler(protocol).dumps(GlobalRef("builtins", "range"))
    assert name in Pickler(protocol).dumps(GlobalRef("__builtin__", "xrange"))


def test_one_name_is_written_once():
    written = Pickler(2).dumps([GlobalRef("m", "n"), GlobalRef("m", "n"), GlobalRef("m", "o")])
    assert written.count(b"cm\nn\n") == 1


# Tensors: the pickler knows only the shape of the call.

TYPED = TensorForm(GlobalRef("torch._utils", "_rebuild_tensor_v2"), GlobalRef("torch", "FloatStorage"))
UNTYPED = TensorForm(
    GlobalRef("torch._utils", "_rebuild_tensor_v3"),
    GlobalRef("torch.storage", "UntypedStorage"),
    GlobalRef("torch", "u"),
)


class Leaf:
    def __init__(self, call: Any) -> None:
        self.call = call


def describe_leaf(kind):
    return (lambda leaf: leaf.call) if kind is Leaf else None


def leaves(count: int) -> list[Leaf]:
    shapes = [((), ()), ((3,), (1,)), ((2, 3), (3, 1)), ((1, 2, 3, 4), (24, 12, 4, 1)), ((0, 300), (300, 1))]
    made, patterns = [], dict[Any, TensorPattern]()
    for index in range(count):
        shape, stride = shapes[index % len(shapes)]
        form = (TYPED, UNTYPED)[index % 3 == 0]
        numel = (7, 300, 70_000, 2**31, 2**40)[index % 7 % 5]
        spelling = (form, "cpu", numel, index % 4 * 200, shape, stride, index % 11 == 0)
        pattern = patterns.setdefault(spelling, TensorPattern(*spelling))
        made.append(Leaf((pattern, str(index))))
    return made


@pytest.mark.parametrize("tail", [(), (None,)])
@pytest.mark.parametrize("protocol", [2, 3])
def test_recipes_change_nothing(protocol, tail):
    tree: list[Any] = [{"k": leaf, "again": leaf} for leaf in leaves(2000)]
    tree.append({"shared": Leaf(tree[5]["k"].call), "number": "7"})
    quick, slow = (Pickler(protocol, describe=describe_leaf, pid_tail=tail) for _ in range(2))
    slow._uses_recipes = False
    written = quick.dumps(tree)
    assert quick._recipes, "no recipe was used"
    assert written == slow.dumps(tree)


def test_a_container_may_add_to_persistent_ids():
    class Unpickler(pickle.Unpickler):
        def persistent_load(self, pid):
            return pid

    import io

    written = Pickler(2, describe=lambda _: lambda _: Persistent(("storage", 1)), pid_tail=(None,)).dumps([Unknown()])
    assert Unpickler(io.BytesIO(written)).load() == [("storage", 1, None)]


def test_a_described_object_is_remembered():
    made = Unknown()
    written = Pickler(2, describe=lambda _: lambda _: Reduction(GlobalRef("builtins", "list"), ([1],))).dumps(
        [made, made]
    )
    back = pickle.loads(written)
    assert back == [[1], [1]]
    assert back[0] is back[1]
