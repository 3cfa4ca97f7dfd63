"""The comparison with PyTorch: that it compares, that it can fail, that its reasons are told; and what it has found."""

from __future__ import annotations

import copy
import io
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weighlock as wl
from tests.corpus.writers import DATA, checkpoint, name, number, numbers, pickled, storage_id, tensor, text, two
from tests.fuzzing import archives, reasons
from tests.fuzzing.mutations import SOUND, kind_of, mutated
from tests.fuzzing.seeds import seeds

PAGE = Path(__file__).parent.parent / "docs" / "compatibility.md"
SOURCE = Path(__file__).parent.parent / "src" / "weighlock"
_CLASSES = {
    "## Read by Weighlock, refused by PyTorch": reasons.OURS_ALONE,
    "## Refused by Weighlock, read by PyTorch": reasons.THEIRS_ALONE,
}
_ORDERED = name("collections", "OrderedDict") + b")R"


def _first_cells(section: str) -> list[str]:
    lines = section.partition("\n## ")[0].splitlines()
    return [line.partition(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")]


# --------------------------------------------------------------------------------------------------------- the reasons


@pytest.mark.parametrize("title", _CLASSES)
def test_every_reason_is_a_row_of_the_page(title):
    cells = _first_cells(PAGE.read_text().partition(title + "\n")[2])
    assert len(cells) > 10
    for row in _CLASSES[title]:
        assert sum(cell.startswith(row.page) for cell in cells) == 1, row


def test_every_reason_for_refusing_is_an_error_of_ours():
    source = "".join(path.read_text() for path in SOURCE.rglob("*.py"))
    for row in reasons.THEIRS_ALONE:
        # Some are put together of parts: three words in a row are enough.
        words = re.sub(r"\\\w\+?", "", row.words.partition(": ")[2]).replace("'s", "").split()
        assert any(" ".join(words[i : i + 3]) in source for i in range(max(len(words) - 2, 1))), row


@pytest.mark.parametrize("table", _CLASSES.values(), ids=["ours", "theirs"])
def test_a_reason_is_one_class(table):
    """No row takes any error of a class, and none is hidden behind one before it."""
    for index, row in enumerate(table):
        plain = re.sub(r"\\(.)", r"\1", row.words)
        assert len(row.words.partition(": ")[2]) > 5, row
        earlier = [other for other in table[:index] if re.match(other.words, plain)]
        assert not earlier, (row, earlier)


# -------------------------------------------------------------------------------------------------- sound mutations


@pytest.mark.parametrize("label", [
    "benign/torch-2.13.0/state_dict.zip.pt", "benign/torch-2.13.0/shared_storage.legacy.pt",
    "benign/torch-2.13.0/dtype_uint16.zip.pt", "benign/torch-1.13.0/optimizer_adamw.zip.pt",
    "benign/torch-2.13.0/plain_values.legacy.pt", "benign/torch-2.13.0/sparse.zip.pt",
])  # fmt: skip
def test_sound_mutations_leave_a_file_loadable(label):
    data = seeds()[label].data
    made = [mutated(data, SOUND + n) for n in range(300)]
    assert made == [mutated(data, SOUND + n) for n in range(300)]
    assert len(set(made)) > 200
    assert {kind_of(one) for one in made} == {kind_of(data)}
    loaded = 0
    for one in made:
        try:
            wl.load(one)
            loaded += 1
        except wl.WeighlockError:
            pass
    assert loaded > 140


# ------------------------------------------------------------------------------------------- the comparison can fail


@pytest.fixture
def agreement(torch):
    from tests.fuzzing.agreement import Agreement

    def check(theirs, ours, *, drop_in=True):
        made = Agreement(torch, drop_in=drop_in)
        made.check(theirs, ours)
        return made

    return check


@pytest.mark.requires_torch
def test_what_differs_is_found(torch, agreement):
    from tests.fuzzing.agreement import DifferenceError

    def shared():
        base = torch.arange(6.0)
        return [base, base[2:], {"a": 1.5, "n": float("nan")}]

    def changed(change):
        made = shared()
        change(made)
        return made

    agreement(shared(), shared())
    one: list[object] = []
    differences = [
        (shared(), changed(lambda made: made[0].mul_(2))),
        (shared(), changed(lambda made: made.__setitem__(1, made[1].clone()))),
        (shared(), changed(lambda made: made.__setitem__(1, made[0][1:5]))),
        (shared(), changed(lambda made: made[2].update(a=2.5))),
        (shared(), changed(lambda made: made[2].update(n=-float("nan")))),
        (shared(), changed(lambda made: made[0].requires_grad_())),
        (shared(), tuple(shared())),
        ([one, one], [[], []]), ([[], []], [one, one]),
        ({1: "a"}, {True: "a"}), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), ({1, 2}, {1, 3}),
        (0.0, -0.0), (torch.float32, torch.float16), (torch.Size([1]), (1,)),
        (torch.zeros(2, 3), torch.zeros(3, 2).T), (torch.nn.Parameter(torch.ones(1)), torch.ones(1)),
    ]  # fmt: skip
    for theirs, ours in differences:
        with pytest.raises(DifferenceError):
            agreement(theirs, ours)


@pytest.mark.requires_torch
def test_what_differs_is_found_in_arrays(torch, agreement):
    from tests.fuzzing.agreement import DifferenceError

    base, array = torch.arange(6.0), np.arange(6, dtype="float32")
    assert agreement([base, base[2:]], [array, array[2:]], drop_in=False).tensors == 2
    differences = [
        (base, array + 1), (base, array.astype("float64")), (base, array.reshape(2, 3)),
        ([base, base[2:]], [array, array[2:].copy()]), ([base, base.clone()], [array, array]),
        (base[::2], np.ascontiguousarray(array[::2])), (torch.int8, torch.int8),
    ]  # fmt: skip
    for theirs, ours in differences:
        with pytest.raises(DifferenceError):
            agreement(theirs, ours, drop_in=False)


@pytest.mark.requires_torch
def test_depth_size_and_emptiness_are_no_obstacle(torch, agreement):
    def deep(bottom):
        for _ in range(50_000):
            bottom = (bottom,)
        return bottom

    def twice(bottom):
        for _ in range(60):
            bottom = (bottom, bottom)
        return bottom

    agreement(deep(1), deep(1))
    agreement(twice(1), twice(1))
    endless: list[object] = []
    other: list[object] = []
    endless.append(endless)
    other.append(other)
    agreement(endless, other)
    agreement(torch.zeros(0, 2), np.zeros((0, 2), "float32"), drop_in=False)
    agreement({torch.per_channel_affine: 1}, {torch.per_channel_affine: 1})
    huge, view = torch.ones(1).expand(1 << 40), np.broadcast_to(np.ones(1, "float32"), 1 << 40)
    view.flags.writeable = True
    made = agreement(huge, view, drop_in=False)
    assert sum(made.notes.values()) == 1


@pytest.mark.requires_torch
def test_every_harmless_file_is_compared_or_has_a_reason(torch):
    """The files that the fuzzer begins with, as they are: nearly all of them are read by both."""
    from tests.fuzzing.differential import beside_torch

    answers = [beside_torch(seed.data).result.answer for label, seed in seeds().items()
               if label.startswith("benign/torch-2")]  # fmt: skip
    assert answers.count("both, compared") > 0.75 * len(answers)


# ------------------------------------------------------------------------------------------------- what it has found


def _arguments(storage: bytes, flag: bytes = b"\x89", more: bytes = b"") -> bytes:
    return b"(" + storage + number(0) + numbers(6) + numbers(1) + flag + _ORDERED + more + b"t"


def _called(arguments: bytes, function: str = "_rebuild_tensor_v2") -> bytes:
    return name("torch._utils", function) + arguments + b"R"


def _read(data: bytes, framework: str = "numpy"):
    return wl.load(data, framework=framework)


def _said(bit: str, value: bytes) -> bytes:
    return b"}" + text(bit) + value + b"s"


@pytest.mark.parametrize("value", [b"\x88", b"\x89"])
def test_a_bit_is_set_where_it_is_named(value):
    """PyTorch looks at the names only; ours took False for a no, and the numbers for others."""
    data = checkpoint(pickled(_called(_arguments(storage_id("0", 6), more=_said("neg", value)))))
    assert _read(data).tolist() == [-0.0, -1, -2, -3, -4, -5]


def test_metadata_are_names_and_truth_values():
    data = checkpoint(pickled(_called(_arguments(storage_id("0", 6), more=_said("neg", b"]")))))
    with pytest.raises(wl.PickleStreamError, match="more than names and truth values"):
        _read(data)


@pytest.mark.requires_torch
@pytest.mark.parametrize("flag", [b"\x88", b"\x89"])
def test_a_parameter_by_type_keeps_its_flag(torch, flag):
    """It was made to require a gradient, whatever the tensor said; integers could not be read at all."""
    start = name("torch._tensor", "_rebuild_from_type_v2") + b"(" + name("torch._utils", "_rebuild_tensor_v2")
    for kind in ("FloatStorage", "IntStorage") if flag == b"\x89" else ("FloatStorage",):
        made = start + name("torch.nn.parameter", "Parameter") + _arguments(storage_id("0", 6, cls=kind), flag) + b"}tR"
        data = checkpoint(pickled(made))
        theirs, ours = torch.load(io.BytesIO(data), weights_only=True), _read(data, "torch")
        assert type(ours) is torch.nn.Parameter
        assert ours.requires_grad is theirs.requires_grad is (flag == b"\x88")
        assert ours.is_leaf is theirs.is_leaf


@pytest.mark.requires_torch
@pytest.mark.parametrize("get", [b"h\x21", b"j\x21\0\0\0"])
def test_the_arguments_of_a_call_once_more(torch, get):
    """The storage in them was an object of our own in what the drop-in returned."""
    call = name("torch._utils", "_rebuild_tensor_v2")
    made = b"(" + call + _arguments(storage_id("0", 6)) + b"q\x21R" + get + get + b"t"
    _, first, second = _read(checkpoint(pickled(made)), "torch")
    assert type(first[0]) is torch.storage.TypedStorage
    assert first is second
    assert first[0].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("framework", ["numpy", pytest.param("torch", marks=pytest.mark.requires_torch)])
@pytest.mark.parametrize("function", ["_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"])
def test_a_quantized_storage_needs_a_quantizer(framework, function):
    """PyTorch makes a tensor whose first use ends the process; ours was an array of integers."""
    storage = storage_id("0", 6, cls="QInt32Storage")
    arguments = _arguments(storage, more=name("torch", "qint32") if function.endswith("3") else b"")
    if function == "_rebuild_tensor":
        arguments = b"(" + storage + number(0) + numbers(6) + numbers(1) + b"t"
    with pytest.raises(wl.PickleStreamError, match="without a quantizer"):
        _read(checkpoint(pickled(_called(arguments, function))), framework)


def _quantized(torch, *, scales, zeros, form):
    made = torch.quantize_per_channel(torch.ones(2, 3), torch.tensor([0.5, 0.25]), torch.tensor([1, 2]), 0, torch.qint8)
    file = io.BytesIO()
    torch.save(made, file, _use_new_zipfile_serialization=form == "zip")
    classes = {"DoubleStorage": scales, "LongStorage": zeros}
    data = file.getvalue()
    for old, new in classes.items():
        data = _with(data, f"c{'torch'}\n{old}\n".encode(), f"ctorch\n{new}\n".encode(), form)
    return data


def _with(data: bytes, old: bytes, new: bytes, form: str) -> bytes:
    """The checkpoint with a text in its pickle replaced."""
    if form != "zip":
        return data.replace(old, new)
    found = copy.deepcopy(archives.parsed(data))
    assert found is not None
    member = next(member for member in found.members if member.names[1].endswith(b"data.pkl"))
    assert old in member.data()
    member.store(member.data().replace(old, new))
    return bytes(found)


@pytest.mark.requires_torch
def test_quantized_tensors_keep_their_hooks(torch):
    file = io.BytesIO()
    torch.save(torch.quantize_per_tensor(torch.ones(2), 0.5, 1, torch.qint8), file)
    found = archives.parsed(file.getvalue())
    assert found is not None
    pickle = found.members[0].data()
    old = pickle[pickle.rindex(b"ccollections\nOrderedDict\n") :].partition(b"R")[0] + b"R"
    data = _with(file.getvalue(), old, b"}", "zip")
    assert type(torch.load(io.BytesIO(data), weights_only=True)._backward_hooks) is dict
    assert type(_read(data, "torch")._backward_hooks) is dict


@pytest.mark.requires_torch
@pytest.mark.parametrize(
    ("scales", "zeros"), [("LongStorage", "LongStorage"), ("DoubleStorage", "ComplexFloatStorage")]
)
def test_scales_are_fractions_and_zero_points_real(torch, scales, zeros):
    with pytest.raises(wl.PickleStreamError, match="no fractions, or its zero points no real numbers"):
        _read(_quantized(torch, scales=scales, zeros=zeros, form="zip"))


@pytest.mark.parametrize(("scale", "zero"), [(b"G" + bytes(8), b"G" + bytes(8)), (tensor("1"), b"K\x01")])
def test_one_scale_is_a_number_and_one_zero_point_an_integer(scale, zero):
    quantizer = b"(" + name("torch", "per_tensor_affine") + scale + zero + b"t"
    arguments = b"(" + storage_id("0", 6, cls="QInt32Storage") + number(0) + numbers(6) + numbers(1) + quantizer
    with pytest.raises(wl.PickleStreamError, match="is no number"):
        made = _called(arguments + b"\x89" + _ORDERED + b"t", "_rebuild_qtensor")
        _read(checkpoint(pickled(made), {"0": DATA, "1": DATA}))


@pytest.mark.requires_torch
def test_scales_are_not_copied_before_they_are_read(torch):
    """In a legacy stream PyTorch converts what lies in memory by chance."""
    data = _quantized(torch, scales="DoubleStorage", zeros="DoubleStorage", form="legacy")
    with pytest.raises(wl.PickleStreamError, match="converted before the stream gives its data"):
        _read(data, "torch")
    assert _read(data).scale.tolist() == [0.5, 0.25]


def _sparse(values: bytes, indices: str = "LongStorage") -> bytes:
    index = _called(b"(" + storage_id("0", 2, cls=indices) + number(0) + numbers(1, 2) + numbers(2, 1) + b"\x89"
                    + _ORDERED + b"t")  # fmt: skip
    layout = name("torch.serialization", "_get_layout") + text("torch.sparse_coo") + b"\x85R"
    return _called(b"(" + layout + b"(" + index + values + numbers(4) + b"\x89tt", "_rebuild_sparse_tensor")


@pytest.mark.requires_torch
@pytest.mark.parametrize("indices", ["LongStorage", "IntStorage"])
@pytest.mark.parametrize("more", [b"", _said("neg", b"\x88")])
def test_sparse_parts_are_read_before_they_are_copied(torch, indices, more):
    """PyTorch resolves and converts parts when it makes the tensor: of memory that was not read yet."""
    values = _called(b"(" + storage_id("1", 2) + number(0) + numbers(2) + numbers(1) + b"\x89" + _ORDERED + more + b"t")
    width = 8 if indices == "LongStorage" else 4
    storages = {"0": b"".join(n.to_bytes(width, "little") for n in (1, 3)), "1": DATA[4:12]}
    data = checkpoint(pickled(_sparse(values, indices)), storages)
    theirs, ours = torch.load(io.BytesIO(data), weights_only=True), _read(data, "torch")
    assert theirs._values().tolist() == ours._values().tolist() == ([-1, -2] if more else [1, 2])
    assert theirs._indices().tolist() == ours._indices().tolist() == [[1, 3]]


_KEPT = [
    "47198c6dcd8a17df",
    "31045da90bb2e7cf",
    "81ce2eef8f28c5c0",
    "9e1d8e316324838a",
    "a662142314460b00",
    "b49c96bf281c67f8",
    "b8503c0cebf4b9b7",
    "c2377bd29e6bbd02",
    "d8552f2173aae869",
    "d978ea692bfe1970",
    "ed48c2a8a95a2c02",
    "fef619fbe7ffccf0",
]


@pytest.mark.requires_torch
@pytest.mark.parametrize("label", _KEPT)
def test_what_has_differed_agrees(torch, label):
    """The mutants on which the two were first seen to differ."""
    from tests.fuzzing.differential import beside_torch

    assert beside_torch(seeds()[f"kept/{label}"].data).result.answer != "only Weighlock"


@pytest.mark.parametrize(("key", "stride"), [(b"\x0c", b"\x08"), (b"\x04", b"\x0f")])
def test_a_memo_place_that_is_taken_while_it_is_asked_for(key, stride):
    """The call of a tensor in one step looked the names up before it had stored what stands in front of them."""
    first = (name("torch._utils", "_rebuild_tensor_v2") + b"q\0((" + text("storage") + b"q\1"
             + name("torch", "FloatStorage") + b"q\2" + text("0") + b"q\3" + text("cpu") + b"q\4K\6tq\5QK\0K\6\x85q\6"
             + b"K\1\x85q\7\x89" + name("collections", "OrderedDict") + b"q\x08)Rq\x09tq\x0aRq\x0b")  # fmt: skip
    second = (b"h\0((h\1h\2" + text("1") + b"q" + key + b"h\4K\6tq\x0dQK\0K\6\x85q\x0eK\1\x85q" + stride
              + b"\x89h\x08)Rq\x10tq\x11R")  # fmt: skip
    data = checkpoint(pickled(b"(" + first + second + b"t"), {"0": DATA, "1": DATA})
    if stride == b"\x08":
        with pytest.raises(wl.WeighlockError):
            _read(data)
    else:
        with wl.read_checkpoint(data) as found:
            assert found.object[1].storage.location == "1"


def test_the_magic_number_is_never_a_value():
    """Spelled as no pickler does, it was returned as the number that it is, and what follows was passed over."""
    data = next(seed.data for label, seed in seeds().items() if label.endswith("torch-2.13.0/state_dict.legacy.pt"))
    with pytest.raises(wl.DamagedError, match="magic number"):
        _read(b"\x80\x02" * 20 + data[2:])


def test_a_storage_is_on_the_meta_device_or_not():
    """PyTorch forgets one without data at once; ours had none at its second mention either."""
    both = two(_called(_arguments(storage_id("0", 6, location="meta"))), _called(_arguments(storage_id("0", 6))))
    with pytest.raises(wl.PickleStreamError, match="on the meta device and elsewhere"):
        _read(checkpoint(pickled(both)))


def test_a_storage_of_an_archive_is_named_by_text():
    """PyTorch takes 1 and "1" for two storages, which both lie in the record 1."""
    named = name("torch", "FloatStorage") + number(0) + text("cpu") + number(6)
    data = checkpoint(pickled(_called(_arguments(b"(" + text("storage") + named + b"tQ"))))
    with pytest.raises(wl.PickleStreamError, match="named by a number: got 0"):
        _read(data)


def test_sizes_and_strides_without_data():
    arguments = b"(" + name("torch", "float32") + numbers(2, 3) + numbers(1) + b"\x89t"
    with pytest.raises(wl.PickleStreamError, match="do not fit together: got 2 sizes, 1 strides"):
        _read(checkpoint(pickled(_called(arguments, "_rebuild_meta_tensor_no_storage"))))


def test_a_counter_that_holds_itself_is_not_saved():
    """It is made of a new dictionary each time: without end, and with all of the memory."""
    endless: Any = Counter()
    endless["a"] = endless
    with pytest.raises(wl.SaveError, match="inside of the arguments that make it"):
        wl.save(endless, io.BytesIO())
    twice = Counter(a=1)
    file = io.BytesIO()
    wl.save([twice, [twice]], file)
    found = wl.load(file.getvalue())
    assert found[0] is found[1][0]


def test_a_tensor_of_a_mapping():
    """`torch.Tensor({...})` was the mapping."""
    with pytest.raises(wl.UnsupportedError, match="uninitialised tensor"):
        _read(checkpoint(pickled(name("torch", "Tensor") + b"}\x85R")))


def test_the_arguments_of_a_call_that_is_never_made():
    """The drop-in gave a storage of ours in them."""
    made = b"(" + name("torch._utils", "_rebuild_tensor_v2") + _arguments(storage_id("0", 6)) + b"t"
    with pytest.raises(wl.PickleStreamError, match="stand where they are not called"):
        _read(checkpoint(pickled(made)))


@pytest.mark.parametrize("framework", ["numpy", pytest.param("torch", marks=pytest.mark.requires_torch)])
def test_a_tensor_that_is_never_described(framework):
    """What stands for it inside of the machine was part of the result."""
    data = checkpoint(pickled(two(name("torch", "FloatTensor") + b")\x81", tensor())))
    with pytest.raises(wl.PickleStreamError, match="never described: got <torch class FloatTensor>"):
        _read(data, framework)


def test_arrays_as_keys():
    data = checkpoint(pickled(b"}" + tensor() + b"Ns"))
    with pytest.raises(wl.PickleStreamError, match="has no hash: got numpy.ndarray.*tensors can be keys"):
        _read(data)
