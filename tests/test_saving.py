"""`weighlock.save` against `torch.save` and `torch.load`, and against the things that go wrong with files."""

from __future__ import annotations

import collections
import errno
import io
import os
import pickle
import stat
import subprocess
import sys
import tempfile
import threading
import zipfile
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from weighlock.backends.numpy_types import (
    MetaTensor,
    NestedTensor,
    PackedTensor,
    QuantizedTensor,
    SparseTensor,
    UninitializedTensor,
)
from weighlock.dtypes import DTYPES
from weighlock.errors import ArgumentError, ArgumentTypeError, SaveError, UnsupportedTypeError
from weighlock.pickling.inert import GlobalRef, Stub
from weighlock.saving import save
from weighlock.tensors.values import TORCH_NAMES, Device, ReturnType, Size

NATIVE = [
    "float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64", "complex128",
]  # fmt: skip
WITHOUT_STORAGE_CLASS = ["uint16", "uint32", "uint64"]
BEYOND_NUMPY = ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]


def saved(obj: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    save(obj, file, **options)
    return file.getvalue()


def storages(data: bytes) -> dict[str, int]:
    """The length of each storage of an archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {
            info.filename.rpartition("/")[2]: info.file_size
            for info in archive.infolist()
            if info.filename.startswith("archive/data/")
        }


def pickle_of(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(f"{archive.namelist()[0].partition('/')[0]}/data.pkl")


def reload(torch: Any, obj: Any, **options: Any) -> Any:
    return torch.load(io.BytesIO(saved(obj, **options)), weights_only=True)


def to_numpy(torch: Any, obj: Any) -> Any:
    """The same tree with arrays for tensors, sharing what the tensors share."""
    if isinstance(obj, torch.Tensor):
        return obj.detach().numpy()
    if isinstance(obj, collections.OrderedDict):
        made = collections.OrderedDict((key, to_numpy(torch, value)) for key, value in obj.items())
        made.__dict__.update(obj.__dict__)
        return made
    if isinstance(obj, dict):
        return {key: to_numpy(torch, value) for key, value in obj.items()}
    if type(obj) in (list, tuple):
        return type(obj)(to_numpy(torch, value) for value in obj)
    return obj


def without_id(data: bytes) -> bytes:
    """An archive without what differs on purpose: the serialization id and its checksum."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/.data/serialization_id"))
        digits = archive.read(name)
    assert len(digits) == 40
    return data.replace(digits, b"#" * 40).replace(zlib.crc32(digits).to_bytes(4, "little"), b"####")


def training_checkpoint(torch: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten(), torch.nn.Linear(128, 5)
    )
    model(torch.randn(2, 3, 6, 6)).sum().backward()
    made = {
        "model": model.state_dict(),
        "epoch": 3,
        "history": [1.5, None, True, (1, 2), {"loss": 0.25}],
        "name": "run",
    }
    for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad):
        optimizer = kind(model.parameters(), lr=1e-3, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))
        optimizer.step()
        made[kind.__name__] = optimizer.state_dict()
        made[f"{kind.__name__} schedule"] = torch.optim.lr_scheduler.StepLR(optimizer, 10).state_dict()
    return made


class TestAgainstTorch:
    def same_file(self, torch, tmp_path, obj, **options):
        # PyTorch names the root folder after the file; `archive` is what it is called here.
        torch.save(obj, tmp_path / "archive.pt", **options)
        save(to_numpy(torch, obj), tmp_path / "ours.pt", **options)
        assert without_id((tmp_path / "ours.pt").read_bytes()) == without_id((tmp_path / "archive.pt").read_bytes())

    def test_the_same_file_for_a_training_checkpoint(self, torch, tmp_path):
        self.same_file(torch, tmp_path, training_checkpoint(torch))

    def test_the_same_file_for_many_tensors(self, torch, tmp_path):
        self.same_file(torch, tmp_path, {f"layer.{i}.weight": torch.full((i % 7,), float(i)) for i in range(3000)})

    def test_the_same_file_for_nested_lists(self, torch, tmp_path):
        self.same_file(torch, tmp_path, [[torch.ones(3), [torch.zeros(2, 3), ()]], torch.tensor(5), {}, [[[]]]])

    def test_the_same_file_for_large_tensors(self, torch, tmp_path):
        self.same_file(torch, tmp_path, [torch.arange(1 << 20), torch.zeros(40_000, dtype=torch.uint8)])

    def test_the_same_file_without_the_byteorder_record(self, torch, tmp_path):
        self.same_file(torch, tmp_path, {"a": torch.ones(3)}, _disable_byteorder_record=True)

    @pytest.mark.parametrize("protocol", [1, 3])
    def test_the_same_file_in_other_protocols(self, torch, tmp_path, protocol):
        self.same_file(torch, tmp_path, {"a": torch.ones(3), "b": [torch.ones(2, 2)]}, pickle_protocol=protocol)

    @pytest.mark.parametrize("name", NATIVE + WITHOUT_STORAGE_CLASS)
    @pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (2, 3), (3, 0, 2), (1, 2, 3, 4)])
    def test_the_same_pickle_for_every_type(self, torch, name, shape):
        tensor = torch.ones(shape, dtype=getattr(torch, name))
        file = io.BytesIO()
        torch.save({"t": tensor, "again": tensor}, file)
        array = tensor.numpy()
        assert pickle_of(saved({"t": array, "again": array})) == pickle_of(file.getvalue())

    def test_the_same_pickle_for_transposed_tensors(self, torch):
        for tensor in (torch.ones(3, 4).t(), torch.ones(2, 3, 4).permute(2, 0, 1), torch.ones(1, 5).t()):
            file = io.BytesIO()
            torch.save(tensor, file)
            assert pickle_of(saved(tensor.numpy())) == pickle_of(file.getvalue())

    @pytest.mark.parametrize("name", NATIVE + WITHOUT_STORAGE_CLASS)
    def test_torch_reads_every_type(self, torch, name):
        array = np.arange(6).reshape(2, 3).astype(name)
        back = reload(torch, {"a": array})["a"]
        assert back.dtype is getattr(torch, name)
        assert np.array_equal(back.numpy(), array)

    @pytest.mark.requires_ml_dtypes
    @pytest.mark.parametrize("name", BEYOND_NUMPY)
    def test_torch_reads_types_that_numpy_has_not(self, torch, name):
        array = np.array([1, 2, 4, 0.5]).astype(DTYPES[name].numpy)
        tensor = torch.tensor([1, 2, 4, 0.5]).to(getattr(torch, name))
        back = reload(torch, [array])[0]
        assert back.dtype is tensor.dtype
        assert torch.equal(back.view(torch.uint8), tensor.view(torch.uint8))
        file = io.BytesIO()
        torch.save([tensor], file)
        assert pickle_of(saved([array])) == pickle_of(file.getvalue())

    @pytest.mark.requires_ml_dtypes
    def test_torch_reads_half_complex(self, torch):
        array = np.array([1 + 2j, 3]).astype(DTYPES["complex32"].numpy)
        assert reload(torch, array).to(torch.complex64).tolist() == [1 + 2j, 3]

    def test_the_weights_of_a_module_fit_it_again(self, torch):
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        state = to_numpy(torch, model.state_dict())
        back: Any = reload(torch, state)
        assert type(back) is collections.OrderedDict
        assert vars(back)["_metadata"] == model.state_dict()._metadata
        model.load_state_dict(back)

    def test_plain_values_that_weights_only_allows(self, torch):
        obj = {
            "bytes": b"ab", "empty": b"", "bytearray": bytearray(b"x"), "complex": 1 + 2j, "set": {1, 2},
            "big": 1 << 100, "counter": collections.Counter("aab"), "none": None, "size": Size((2, 3)),
            "dtype": DTYPES["float8_e5m2"],
            "device": Device("cuda", 1), "layout": TORCH_NAMES["sparse_coo"],
            "scheme": TORCH_NAMES["per_tensor_affine"],
        }  # fmt: skip
        back = reload(torch, obj)
        assert back["size"] == torch.Size((2, 3))
        assert type(back["size"]) is torch.Size
        assert back["dtype"] is torch.float8_e5m2
        assert back["device"] == torch.device("cuda", 1)
        assert back["layout"] is torch.sparse_coo
        assert back["scheme"] is torch.per_tensor_affine
        for name in ("bytes", "empty", "bytearray", "complex", "set", "big", "counter", "none"):
            assert back[name] == obj[name]
            assert type(back[name]) is type(obj[name])

    def test_values_of_torch_are_spelled_as_torch_does(self, torch):
        pairs = [
            (Size((2, 3)), torch.Size((2, 3))),
            (Device("cuda", 1), torch.device("cuda", 1)),
            (Device("cpu"), torch.device("cpu")),
            (DTYPES["bfloat16"], torch.bfloat16),
            (TORCH_NAMES["sparse_csr"], torch.sparse_csr),
            (TORCH_NAMES["per_channel_affine"], torch.per_channel_affine),
        ]
        for ours, theirs in pairs:
            file = io.BytesIO()
            torch.save([theirs, theirs], file)
            assert pickle_of(saved([ours, ours])) == pickle_of(file.getvalue())

    def test_return_types(self, torch):
        file = io.BytesIO(saved(ReturnType("max", (np.ones(2), np.zeros(2, "int64")))))
        back = torch.load(file, weights_only=False)
        assert type(back) is torch.return_types.max
        assert back.values.tolist() == [1, 1]

    def test_numpy_scalars_and_dtypes(self, torch):
        values = [np.float32(1.5), np.int64(7), np.bool_(True), np.dtype(">f4"), np.dtype("float64"), np.complex64(1j)]
        back = torch.load(io.BytesIO(saved(values)), weights_only=False)
        assert back == values
        assert [type(value) for value in back] == [type(value) for value in values]

    def test_numpy_scalars_are_spelled_as_numpy_does(self, torch):
        value = [np.float32(1.5), np.float32(2.5), np.int64(3), np.dtype("float32")]
        file = io.BytesIO()
        torch.save(value, file)
        assert pickle_of(saved(value)) == pickle_of(file.getvalue())

    def test_stubs_of_modules(self, torch):
        made = Stub(GlobalRef("torch.nn.modules.linear", "Linear"), ())
        made.state = {"in_features": 3, "training": False, "_parameters": {}, "_buffers": {}, "_modules": {}}
        back = torch.load(io.BytesIO(saved(made)), weights_only=False)
        assert type(back) is torch.nn.Linear
        assert back.in_features == 3

    def test_mmap_reads_it(self, torch, tmp_path):
        save({"a": np.arange(1000.0)}, tmp_path / "a.pt")
        assert torch.load(tmp_path / "a.pt", mmap=True)["a"].tolist() == list(range(1000))


class TestRecords:
    """The records that stand for tensors NumPy has no type for."""

    def test_packed(self, torch):
        tensor = PackedTensor(DTYPES["float4_e2m1fn_x2"], np.arange(6, dtype=np.uint8).reshape(2, 3))
        back = reload(torch, [tensor])[0]
        assert back.dtype is torch.float4_e2m1fn_x2
        assert back.shape == (2, 3)
        assert back.view(torch.uint8).tolist() == tensor.data.tolist()

    def test_bits(self, torch):
        back = reload(torch, PackedTensor(DTYPES["bits16"], np.arange(3, dtype=np.uint16)))
        assert back.dtype is torch.bits16
        assert back.view(torch.uint16).tolist() == [0, 1, 2]

    @pytest.mark.parametrize("name", ["qint8", "quint8", "qint32"])
    def test_quantized_per_tensor(self, torch, name):
        theirs = torch.quantize_per_tensor(
            torch.arange(6.0).reshape(2, 3), 0.5, 3 if name != "qint32" else 0, getattr(torch, name)
        )
        ours = QuantizedTensor(
            DTYPES[name],
            (2, 3),
            theirs.int_repr().numpy(),
            TORCH_NAMES["per_tensor_affine"],
            0.5,
            theirs.q_zero_point(),
        )
        back = reload(torch, ours)
        assert back.dtype is theirs.dtype
        assert torch.equal(back, theirs)
        file = io.BytesIO()
        torch.save(theirs, file)
        assert pickle_of(saved(ours)) == pickle_of(file.getvalue())

    def test_quantized_per_channel(self, torch):
        scales, zeros = torch.tensor([0.5, 0.25], dtype=torch.float64), torch.tensor([1, 2])
        theirs = torch.quantize_per_channel(torch.arange(6.0).reshape(2, 3), scales, zeros, 0, torch.qint8)
        ours = QuantizedTensor(
            DTYPES["qint8"], (2, 3), theirs.int_repr().numpy(), TORCH_NAMES["per_channel_affine"],
            scales.numpy(), zeros.numpy(), 0,
        )  # fmt: skip
        assert torch.equal(reload(torch, ours), theirs)

    @pytest.mark.parametrize("layout", ["sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc"])
    def test_sparse(self, torch, layout):
        dense = torch.tensor([[0, 1.0, 0, 2], [3, 0, 0, 0]])
        if layout == "sparse_coo":
            theirs = dense.to_sparse().coalesce()
            ours = SparseTensor(
                TORCH_NAMES[layout], theirs.indices().numpy(), theirs.values().numpy(), (2, 4), coalesced=True
            )
        else:
            blocks = {"blocksize": (1, 2)} if "bs" in layout else {}
            theirs = dense.to_sparse(layout=getattr(torch, layout), **blocks)
            columns = layout in ("sparse_csc", "sparse_bsc")
            first = theirs.ccol_indices() if columns else theirs.crow_indices()
            second = theirs.row_indices() if columns else theirs.col_indices()
            ours = SparseTensor(TORCH_NAMES[layout], (first.numpy(), second.numpy()), theirs.values().numpy(), (2, 4))
        back = reload(torch, ours)
        assert back.layout is theirs.layout
        assert torch.equal(back.to_dense(), dense)

    def test_nested(self, torch):
        theirs = torch.nested.nested_tensor([torch.ones(2, 3), torch.zeros(1, 3)])
        ours = NestedTensor(
            np.array([1.0] * 6 + [0.0] * 3, "float32"),
            np.array([[2, 3], [1, 3]]),
            np.array([[3, 1], [3, 1]]),
            np.array([0, 6]),
        )
        back = reload(torch, ours)
        assert [torch.equal(a, b) for a, b in zip(back.unbind(), theirs.unbind(), strict=True)] == [True, True]

    def test_meta(self, torch):
        back = reload(torch, MetaTensor(DTYPES["float16"], (2, 3), (3, 1)))
        assert (back.device.type, back.dtype, tuple(back.shape)) == ("meta", torch.float16, (2, 3))

    def test_uninitialized(self, torch):
        back = torch.load(io.BytesIO(saved([UninitializedTensor("parameter", requires_grad=True)])), weights_only=False)
        assert type(back[0]) is torch.nn.parameter.UninitializedParameter

    @pytest.mark.parametrize(
        "make",
        [
            lambda torch: torch.quantize_per_tensor(torch.ones(4, 4), 0.1, 0, torch.qint8),
            lambda torch: torch.quantize_per_channel(
                torch.ones(4, 4), torch.ones(4), torch.zeros(4), 0, torch.quint4x2
            ),
            lambda torch: torch.eye(3).to_sparse(),
            lambda torch: torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)]),
            lambda torch: torch.empty(2, 3, device="meta"),
            lambda torch: torch.ones(4).untyped_storage(),
            lambda torch: [tensor := torch.ones(4), tensor.storage()],
            lambda torch: torch.ones(4).to(torch.float8_e4m3fn),
            lambda torch: {"size": torch.Size([1, 2]), "dtype": torch.float32, "device": torch.device("cuda:1")},
            lambda torch: torch.max(torch.ones(3, 4), 1),
            lambda torch: torch.nn.Linear(2, 3).state_dict(),
        ],
    )
    def test_loading_and_saving_again_makes_the_same_pickle(self, torch, make):
        from weighlock.loading import load

        file = io.BytesIO()
        torch.save(make(torch), file)
        once = saved(load(io.BytesIO(file.getvalue())))
        assert pickle_of(once) == pickle_of(file.getvalue())
        assert saved(load(io.BytesIO(once))) == once

    def test_a_jagged_tensor_stays_one(self, torch):
        from weighlock.loading import load

        file = io.BytesIO()
        torch.save(torch.nested.nested_tensor([torch.ones(2, 3), torch.zeros(1, 3)], layout=torch.jagged), file)
        back = reload(torch, load(io.BytesIO(file.getvalue())))
        assert back.layout is torch.jagged
        assert [part.shape for part in back.unbind()] == [(2, 3), (1, 3)]


class TestSharing:
    """What shares memory shares a storage; what does not costs nothing."""

    def test_the_same_array_twice(self):
        array = np.ones(10)
        assert storages(saved([array, array])) == {"0": 80}

    def test_two_objects_on_one_memory(self, torch):
        array = np.zeros(10)
        back = reload(torch, [array, array[:], array.reshape(2, 5)])
        back[0][7] = 5
        assert back[1][7] == 5
        assert back[2][1, 2] == 5
        assert storages(saved([array, array[:], array.reshape(2, 5)])) == {"0": 80}

    def test_a_view_costs_only_itself(self, torch):
        large = np.arange(1_000_000, dtype="float32")
        assert storages(saved({"v": large[500:510]})) == {"0": 40}
        assert reload(torch, {"v": large[500:510]})["v"].tolist() == list(range(500, 510))

    def test_overlapping_views_stay_overlapping(self, torch):
        large = np.arange(1000.0)
        written = saved([large[100:120], large[110:130]])
        assert storages(written) == {"0": 240}
        one, two = torch.load(io.BytesIO(written))
        assert one.tolist() == list(range(100, 120))
        assert two.tolist() == list(range(110, 130))
        two[0] = -1
        assert one[10] == -1

    def test_a_view_and_its_whole(self, torch):
        large = np.arange(100.0)
        back = reload(torch, {"view": large[90:], "whole": large})
        back["whole"][95] = 7
        assert back["view"][5] == 7

    def test_neighbours_in_one_memory_are_apart(self):
        large = np.zeros(100)
        assert storages(saved([large[:50], large[50:]])) == {"0": 400, "1": 400}

    def test_views_through_other_owners(self, torch):
        array = np.zeros(8)
        exported: Any = array
        other = np.frombuffer(memoryview(exported), np.float64)
        back = reload(torch, [array, other])
        back[0][3] = 1
        assert back[1][3] == 1

    def test_gaps_are_left_out(self, torch):
        matrix = np.arange(24.0).reshape(4, 6)
        written = saved([matrix[:, :2], matrix[::2], matrix.T[1:3]])
        assert sum(storages(saved([matrix[:, :2]])).values()) == 64
        back = torch.load(io.BytesIO(written))
        for tensor, array in zip(back, [matrix[:, :2], matrix[::2], matrix.T[1:3]], strict=True):
            assert np.array_equal(tensor.numpy(), array)

    def test_a_compact_copy_keeps_the_order_of_strides(self, torch):
        cube = np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
        view = cube.transpose(0, 3, 1, 2)[:, :2]
        back = reload(torch, view)
        assert np.array_equal(back.numpy(), view)
        assert back.is_contiguous(memory_format=torch.contiguous_format) is False
        assert np.argsort(back.stride()).tolist() == np.argsort(view.strides).tolist()

    def test_columns_that_lie_between_each_other(self, torch):
        matrix = np.arange(12.0).reshape(3, 4)
        columns = [matrix[:, i] for i in range(4)]
        assert storages(saved(columns)) == {str(i): 24 for i in range(4)}
        assert [t.tolist() for t in reload(torch, columns)] == matrix.T.tolist()

    def test_columns_that_share_keep_sharing(self, torch):
        matrix = np.arange(12.0).reshape(3, 4)
        back = reload(torch, [matrix[:, 1:3], matrix[:, 2:], matrix[:, 0]])
        back[0][1, 1] = -5
        assert back[1][1, 0] == -5
        assert back[2].tolist() == [0, 4, 8]
        assert len(storages(saved([matrix[:, 1:3], matrix[:, 2:], matrix[:, 0]]))) == 2

    def test_thousands_of_columns(self, torch):
        matrix = np.arange(3000.0).reshape(3, 1000)
        columns = list(matrix.T)
        back = reload(torch, columns)
        assert [t.tolist() for t in back] == matrix.T.tolist()

    def test_different_types_on_one_memory(self, torch):
        floats = np.zeros(4, "float32")
        obj = {
            "floats": floats,
            "bytes": floats.view("uint8"),
            "half": floats.view("float16")[2:4],
            "alone": np.ones(1),
        }
        back = reload(torch, obj)
        back["floats"][1] = 1
        assert back["bytes"][4:8].tolist() == [0, 0, 128, 63]
        assert back["half"].view(torch.uint8).tolist() == [0, 0, 128, 63]
        assert storages(saved(obj)) == {"0": 16, "1": 8}

    def test_types_at_odd_places_are_copied(self, torch):
        memory = np.arange(40, dtype="uint8")
        odd = memory[1:33].view("int64")
        back = reload(torch, [memory, odd, memory[3:7]])
        assert back[1].numpy().tolist() == odd.tolist()
        assert back[2].tolist() == [3, 4, 5, 6]

    def test_keys_count_in_the_order_of_the_object(self):
        a, b = np.zeros(4), np.zeros(8)
        assert storages(saved([b, a, b[2:4]])) == {"0": 64, "1": 32}

    def test_zero_size_arrays_share_nothing(self, torch):
        base = np.zeros(4)
        assert storages(saved([base, base[:0], base[4:], np.zeros((3, 0))])) == {"0": 32, "1": 0, "2": 0, "3": 0}
        assert [tuple(t.shape) for t in reload(torch, [base[:0], np.zeros((3, 0))])] == [(0,), (3, 0)]

    @pytest.mark.parametrize(
        "view",
        [
            lambda a: a[::-1],
            lambda a: a[:, ::-1],
            lambda a: a.astype(">f8"),
            lambda a: a[::2, ::3],
            lambda a: a.T,
            lambda a: a[1],
            lambda a: a[1:2, 2:3],
            lambda a: a[-1:, ::-1][:, -1:],
            lambda a: np.broadcast_to(a[0], (5, 6)),
            lambda a: np.broadcast_to(a[:, :1], (4, 6)),
            lambda a: np.broadcast_to(a[0, 0], (2, 3)),
            lambda a: as_strided(a, (3, 3), (8, 8)),
            lambda a: as_strided(a, (2, 2), (8, 24)),
            lambda a: np.frombuffer(b"\0" + a.tobytes(), "f8", 3, 1),
            lambda a: np.ndarray((2, 2), "f8", a.tobytes(), 4, (12, 20)),
            lambda a: a[np.newaxis, :, np.newaxis],
            np.asfortranarray,
            lambda a: a.real,
            lambda a: a.view([("x", "f8"), ("y", "f8")])["y"],
        ],
    )
    def test_every_way_to_lie_in_memory(self, torch, view):
        array = view(np.arange(24.0).reshape(4, 6))
        for obj in ([array], [array, array[...]], [array, array[:1], array[1:]]):
            for tensor, expected in zip(reload(torch, obj), obj, strict=True):
                assert tensor.shape == expected.shape
                assert np.array_equal(tensor.numpy(), expected)

    def test_big_endian_arrays_on_one_memory(self, torch):
        array = np.arange(5, dtype=">i4")
        back = reload(torch, [array, array[:]])
        back[0][2] = 50
        assert back[1].tolist() == [0, 1, 50, 3, 4]

    def test_random_views(self, torch):
        random = np.random.default_rng(0)
        for _ in range(60):
            base = np.arange(400, dtype="int32")
            views = []
            for _ in range(random.integers(1, 6)):
                start, step = random.integers(0, 200), random.integers(1, 4)
                view = base[start : start + random.integers(1, 200) : step]
                if view.size % 2 == 0 and random.integers(2):
                    view = view.reshape(2, -1).T
                views.append(view)
            back = reload(torch, views)
            for tensor, view in zip(back, views, strict=True):
                assert tensor.numpy().tolist() == view.tolist()
            shared = [[np.shares_memory(a, b) for a in views] for b in views]
            now = [[np.shares_memory(a.numpy(), b.numpy()) for a in back] for b in back]
            assert now == shared

    def test_memory_that_was_mapped(self, torch, tmp_path):
        np.arange(10.0).tofile(tmp_path / "raw")
        mapped = np.memmap(tmp_path / "raw", "float64", "r")
        assert reload(torch, [mapped, mapped[2:4]])[1].tolist() == [2, 3]

    def test_memory_is_not_copied_for_large_arrays(self):
        import resource

        large = np.ones(50 << 20, "uint8")

        class Nowhere:
            def write(self, data):
                return len(data)

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        save([large, large[100:]], Nowhere())
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30 << 10


class TestRefused:
    @pytest.mark.parametrize(
        "array",
        [
            np.array([object()]), np.array(["text"]), np.array([b"bytes"]), np.array(["2020"], "M8[D]"),
            np.array([1], "m8[s]"), np.zeros(2, [("x", "f4")]),
            np.zeros(2, "f4").view(np.recarray), np.zeros(2, "V3"), np.zeros(2, np.longdouble),
            np.zeros(2, np.clongdouble), np.ma.masked_array([1, 2], [False, True]), np.longdouble(1),
        ],
        ids=lambda array: f"{type(array).__name__}-{array.dtype}",
    )  # fmt: skip
    def test_what_torch_has_no_type_for(self, array):
        with pytest.raises(UnsupportedTypeError) as caught:
            saved({"a": [1, {"bad": array}]})
        assert caught.value.object_path == "a.1.bad"
        assert caught.value.hint

    def test_the_path_of_other_things(self):
        tree = {"model": collections.OrderedDict(x=[1, (2, {"deep": lambda: 1})])}
        with pytest.raises(UnsupportedTypeError, match=r"object model\.x\.1\.1\.deep"):
            saved(tree)
        with pytest.raises(UnsupportedTypeError, match=r"object \(top\)"):
            saved(object())
        with pytest.raises(UnsupportedTypeError, match=r"object c\.k"):
            saved({"c": collections.Counter({"k": print})})

    def test_a_path_of_a_hundred_thousand_steps_is_shortened(self):
        nested: Any = [object()]
        for _ in range(100_000):
            nested = [nested]
        with pytest.raises(UnsupportedTypeError) as caught:
            saved(nested)
        assert len(str(caught.value)) < 1000

    def test_a_tensor_of_torch(self, torch):
        with pytest.raises(UnsupportedTypeError, match="numpy"):
            saved({"a": torch.ones(2)})

    def test_nothing_is_touched_when_the_object_is_refused(self, tmp_path):
        target = tmp_path / "file.pt"
        target.write_bytes(b"old")
        with pytest.raises(UnsupportedTypeError):
            save([object()], target)
        with pytest.raises(UnsupportedTypeError):
            save([object()], tmp_path / "new.pt")
        assert target.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["file.pt"]
        file = io.BytesIO()
        with pytest.raises(UnsupportedTypeError):
            save([np.ones(3), object()], file)
        assert not file.getvalue()

    @pytest.mark.parametrize("options", [{"pickle_protocol": 0}, {"pickle_protocol": 6}, {"pickle_protocol": True},
                                         {"framework": "nonsense"}, {"pickle_module": os}])  # fmt: skip
    def test_parameters_that_make_no_sense(self, options):
        with pytest.raises(ArgumentError):
            saved({}, **options)

    def test_the_standard_pickle_module_is_accepted(self):
        assert saved({}, pickle_module=pickle) == saved({})

    @pytest.mark.parametrize("f", [None, 5, object()])
    def test_f_that_is_nothing_to_write_to(self, f):
        with pytest.raises(ArgumentTypeError):
            save({}, f)


class TestLegacy:
    def test_torch_reads_it(self, torch):
        for name in NATIVE:
            array = np.arange(6).reshape(2, 3).astype(name)
            back = reload(torch, {"a": array}, _use_new_zipfile_serialization=False)["a"]
            assert back.dtype is getattr(torch, name)
            assert np.array_equal(back.numpy(), array)

    def test_a_training_checkpoint(self, torch):
        tree = to_numpy(torch, training_checkpoint(torch))
        back = reload(torch, tree, _use_new_zipfile_serialization=False)
        assert np.array_equal(back["model"]["0.weight"].numpy(), tree["model"]["0.weight"])
        assert back["Adam"]["param_groups"] == tree["Adam"]["param_groups"]

    def test_sharing(self, torch):
        base = np.arange(100.0)
        back = reload(torch, [base[10:20], base[15:40], np.ones(3)], _use_new_zipfile_serialization=False)
        back[0][6] = -1
        assert back[1][1] == -1
        assert back[2].tolist() == [1, 1, 1]

    def test_the_same_bytes_as_torch_but_for_keys(self, torch):
        file = io.BytesIO()
        torch.save({"a": torch.arange(5)}, file, _use_new_zipfile_serialization=False)
        ours = saved({"a": np.arange(5)}, _use_new_zipfile_serialization=False)
        theirs = file.getvalue()
        pid = pickle_keys(theirs)[0].encode()
        adjusted = theirs.replace(len(pid).to_bytes(4, "little") + pid, b"\1\0\0\0" + b"0")
        assert ours == adjusted

    @pytest.mark.parametrize("name", WITHOUT_STORAGE_CLASS)
    def test_types_that_torch_could_not_reload(self, name):
        with pytest.raises(UnsupportedTypeError, match="legacy"):
            saved({"a": np.ones(3, name)}, _use_new_zipfile_serialization=False)

    def test_different_types_on_one_memory(self):
        floats = np.zeros(4, "float32")
        with pytest.raises(UnsupportedTypeError, match="share memory"):
            saved([floats, floats.view("uint8")], _use_new_zipfile_serialization=False)

    def test_more_than_ten_storages(self, torch):
        back = reload(torch, [np.full(3, i) for i in range(25)], _use_new_zipfile_serialization=False)
        assert [int(t[0]) for t in back] == list(range(25))


def pickle_keys(legacy: bytes) -> list[str]:
    file = io.BytesIO(legacy)
    for _ in range(3):
        pickle.load(file)

    class Skipping(pickle.Unpickler):
        def persistent_load(self, pid):
            return pid

        def find_class(self, module, name):
            return collections.OrderedDict if name == "OrderedDict" else (lambda *args: args)

    Skipping(file).load()
    keys: list[str] = pickle.load(file)
    return keys


class TestFiles:
    def test_the_same_object_makes_the_same_bytes_whatever_the_name(self, tmp_path):
        tree = {"a": np.arange(5), "b": {"x", "y"}}
        for name in ("one.pt", "two.bin", ".pt", "ünïcode.pt", "a.b.c"):
            save(tree, tmp_path / name)
            assert (tmp_path / name).read_bytes() == saved(tree)

    @pytest.mark.parametrize("kind", [str, os.fsencode, lambda path: path])
    def test_kinds_of_paths(self, tmp_path, kind):
        save({}, kind(tmp_path / "a.pt"))
        assert (tmp_path / "a.pt").read_bytes() == saved({})

    def test_a_relative_path(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        save({}, "a.pt")
        assert os.listdir(tmp_path) == ["a.pt"]

    def test_a_file_object_is_written_from_where_it_stands(self, tmp_path):
        with (tmp_path / "file").open("wb") as file:
            file.write(b"before")
            save({"a": np.ones(3)}, file)
            file.write(b"after")
        assert (tmp_path / "file").read_bytes() == b"before" + saved({"a": np.ones(3)}) + b"after"

    def test_a_new_file_has_the_usual_mode(self, tmp_path):
        old = os.umask(0o027)
        try:
            save({}, tmp_path / "a.pt")
        finally:
            os.umask(old)
        assert stat.S_IMODE((tmp_path / "a.pt").stat().st_mode) == 0o640

    def test_an_existing_file_keeps_its_mode(self, tmp_path):
        (tmp_path / "a.pt").touch()
        (tmp_path / "a.pt").chmod(0o604)
        save({}, tmp_path / "a.pt")
        assert stat.S_IMODE((tmp_path / "a.pt").stat().st_mode) == 0o604

    def test_a_symbolic_link_is_followed(self, tmp_path):
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "real.pt").write_bytes(b"old")
        (tmp_path / "link.pt").symlink_to("folder/real.pt")
        save({}, tmp_path / "link.pt")
        assert (tmp_path / "link.pt").is_symlink()
        assert (tmp_path / "folder" / "real.pt").read_bytes() == saved({})
        assert os.listdir(tmp_path / "folder") == ["real.pt"]

    def test_a_dangling_link_makes_its_target(self, tmp_path):
        (tmp_path / "link.pt").symlink_to("new.pt")
        save({}, tmp_path / "link.pt")
        assert (tmp_path / "new.pt").read_bytes() == saved({})

    def test_a_mapped_file_is_replaced_never_written_into(self, tmp_path):
        target = tmp_path / "a.pt"
        save({"a": np.ones(1000)}, target)
        mapped = np.memmap(target, "uint8", "r")
        before = mapped.tobytes()
        save({"a": np.zeros(10)}, target)
        assert mapped.tobytes() == before

    @pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be opened again")
    def test_an_empty_file_that_is_held_open_is_written_into(self, tmp_path):
        # `with NamedTemporaryFile() as file: save(obj, file.name); upload(file)`, which sent an empty file.
        with tempfile.NamedTemporaryFile(dir=tmp_path) as file:
            save({"a": np.ones(3)}, file.name)
            assert file.read() == saved({"a": np.ones(3)})
            assert os.listdir(tmp_path) == [os.path.basename(file.name)]
            save({"a": np.ones(4)}, file.name)  # now there is something to lose
            assert (tmp_path / file.name).read_bytes() == saved({"a": np.ones(4)})
            file.seek(0)
            assert file.read() == saved({"a": np.ones(3)})

    @pytest.mark.skipif(sys.platform == "win32", reason="no pwrite")
    def test_an_empty_file_that_is_held_open_is_empty_after_a_failure(self, tmp_path, monkeypatch):
        real = os.pwrite

        def write(descriptor, data, offset):
            if offset:
                raise OSError(errno.EIO, "input/output error")
            return real(descriptor, data, offset)

        monkeypatch.setattr(os, "pwrite", write)
        with (tmp_path / "a.pt").open("wb"), pytest.raises(SaveError):
            save({"a": np.ones(1_000_000)}, tmp_path / "a.pt")
        assert (tmp_path / "a.pt").read_bytes() == b""

    def test_an_empty_file_that_nobody_holds_is_replaced(self, tmp_path):
        (tmp_path / "a.pt").touch()
        before = (tmp_path / "a.pt").stat().st_ino
        save({}, tmp_path / "a.pt")
        assert (tmp_path / "a.pt").stat().st_ino != before

    def test_a_file_can_be_saved_over_itself(self, torch, tmp_path):
        save({"a": np.arange(1000.0)}, tmp_path / "a.pt")
        mapped = torch.load(tmp_path / "a.pt", mmap=True)["a"].numpy()
        save({"b": mapped}, tmp_path / "a.pt")
        assert torch.load(tmp_path / "a.pt")["b"].tolist() == list(range(1000))

    def test_a_long_name(self, tmp_path):
        save({}, tmp_path / ("n" * 255))
        assert os.listdir(tmp_path) == ["n" * 255]
        save({}, tmp_path / ("ü" * 127))

    @pytest.mark.parametrize("path", ["", b"", "a\0b"])
    def test_a_path_that_is_none(self, path):
        with pytest.raises(SaveError):
            save({}, path)

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(SaveError, match="Create it first") as caught:
            save({}, tmp_path / "none" / "a.pt")
        assert "none" in str(caught.value)
        assert isinstance(caught.value.__cause__, FileNotFoundError)

    def test_a_folder_as_target(self, tmp_path):
        with pytest.raises(SaveError, match="folder"):
            save({}, tmp_path)

    def test_a_file_where_a_folder_should_be(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(SaveError):
            save({}, tmp_path / "file" / "a.pt")

    def test_a_read_only_file(self, tmp_path, monkeypatch):
        target = tmp_path / "a.pt"
        target.write_bytes(b"old")
        target.chmod(0o444)
        monkeypatch.setattr(os, "access", lambda _path, _mode: False)  # tests may run as root
        with pytest.raises(SaveError, match="read-only"):
            save({}, target)
        assert target.read_bytes() == b"old"

    @pytest.mark.skipif(sys.platform == "win32", reason="no devices")
    def test_devices_are_written_directly(self):
        save({"a": np.ones(3)}, "/dev/null")

    @pytest.mark.skipif(sys.platform == "win32", reason="no /dev/stdout")
    def test_standard_output_is_written_directly(self, tmp_path):
        script = "import weighlock.saving as s; s.save({'a': [1, 2]}, '/dev/stdout')"
        assert subprocess.check_output([sys.executable, "-c", script]) == saved({"a": [1, 2]})
        with (tmp_path / "redirected").open("wb") as file:
            subprocess.run([sys.executable, "-c", script], stdout=file, check=True)
        assert (tmp_path / "redirected").read_bytes() == saved({"a": [1, 2]})
        assert os.listdir(tmp_path) == ["redirected"]

    @pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
    def test_a_named_pipe(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        tree = {"a": np.ones(100_000)}
        writer = threading.Thread(target=save, args=(tree, tmp_path / "pipe"))
        writer.start()
        assert (tmp_path / "pipe").read_bytes() == saved(tree)
        writer.join()

    def test_durable_syncs_file_and_folder(self, tmp_path, monkeypatch):
        synced = []
        real = os.fsync

        def fsync(descriptor):
            synced.append(os.fstat(descriptor).st_mode)
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        save({}, tmp_path / "a.pt", durable=True)
        assert [stat.S_ISDIR(mode) for mode in synced] == [False, True]
        synced.clear()
        save({}, tmp_path / "a.pt")
        assert not synced


class TestInterrupted:
    """Whatever happens while writing, there is the old file or the new one."""

    @pytest.mark.parametrize(
        "failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), MemoryError()], ids=repr
    )
    @pytest.mark.parametrize("after", [0, 1])
    def test_the_old_file_stays(self, tmp_path, monkeypatch, failure, after):
        target = tmp_path / "a.pt"
        target.write_bytes(b"old")
        real, calls = os.pwrite, 0

        def write(descriptor, data, offset):
            nonlocal calls
            calls += 1
            if calls > after:
                raise failure
            return real(descriptor, data, offset)

        monkeypatch.setattr(os, "pwrite", write)
        expected = SaveError if isinstance(failure, OSError) else type(failure)
        with pytest.raises(expected) as caught:
            save({"a": np.ones(1_000_000)}, target)
        if isinstance(failure, OSError):
            assert caught.value.__cause__ is failure
            assert caught.value.path == str(target)
        assert target.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["a.pt"]

    def test_a_rename_that_fails(self, tmp_path, monkeypatch):
        def replace(_source, _target):
            raise PermissionError(errno.EPERM, "not permitted")

        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(SaveError, match="permissions"):
            save({}, tmp_path / "a.pt")
        assert os.listdir(tmp_path) == []

    @pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
    def test_a_real_limit_on_file_size(self, tmp_path):
        (tmp_path / "a.pt").write_bytes(b"old")
        script = f"""
import resource, sys, numpy, weighlock.saving as s
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    s.save([numpy.ones(1_000_000)], {str(tmp_path / "a.pt")!r})
except s.SaveError as error:
    sys.exit(0 if isinstance(error.__cause__, OSError) else 3)
sys.exit(4)
"""
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
        assert (tmp_path / "a.pt").read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["a.pt"]

    def test_a_killed_process_leaves_the_old_file(self, tmp_path):
        (tmp_path / "a.pt").write_bytes(b"old")
        script = f"""
import os, signal, numpy, weighlock.saving as s
real = os.pwrite
def write(descriptor, data, offset):
    if len(data) > 1000:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(descriptor, data, offset)
os.pwrite = write
s.save([numpy.ones(1_000_000)], {str(tmp_path / "a.pt")!r})
"""
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode != 0
        assert (tmp_path / "a.pt").read_bytes() == b"old"
        assert sorted(os.listdir(tmp_path))[1:] == ["a.pt"]
        assert os.listdir(tmp_path) != ["a.pt"]
        save({}, tmp_path / "b.pt")
        assert sorted(os.listdir(tmp_path)) == ["a.pt", "b.pt"]

    def test_a_file_object_that_fails(self):
        class Full(io.RawIOBase):
            def write(self, _data):
                raise OSError(errno.ENOSPC, "No space left on device")

        with pytest.raises(SaveError, match="No space") as caught:
            save({}, Full())
        assert isinstance(caught.value.__cause__, OSError)

    def test_a_closed_file_and_one_for_text(self, tmp_path):
        closed = io.BytesIO()
        closed.close()
        with pytest.raises(SaveError):
            save({}, closed)
        with (tmp_path / "text").open("w") as file, pytest.raises(ArgumentTypeError, match="wb"):
            save({}, file)

    def test_a_file_object_that_takes_nothing(self):
        class Stuck:
            def write(self, _data):
                return 0

        with pytest.raises(SaveError):
            save({}, Stuck())


def test_arguments_are_those_of_the_issue():
    import inspect

    assert list(inspect.signature(save).parameters)[:4] == [
        "obj",
        "f",
        "pickle_protocol",
        "_use_new_zipfile_serialization",
    ]


def test_deep_nesting_saves_and_loads(torch):
    nested: Any = []
    for _ in range(100_000):
        nested = [nested]
    back = torch.load(io.BytesIO(saved(nested)), weights_only=True)
    while back:
        back, nested = back[0], nested[0]
    assert nested == []


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".SafeTensors"])
def test_a_name_that_says_another_format_is_warned_of(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    with pytest.warns(UserWarning, match=f"format='{suffix[1:].lower()}'") as shown:
        save({"weight": np.zeros(3, "float32")}, path)
    assert shown[0].filename == __file__
    assert path.read_bytes()[:2] == b"PK"
    assert "weight" in zipfile.ZipFile(path).read("archive/data.pkl").decode("latin1")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("model.pt", {}),
        ("model", {}),
        ("model.safetensors", {"format": "safetensors"}),
        ("model.safetensors", {"format": "torch-zip"}),
        ("weights.npz", {"format": "npz"}),
    ],
)
def test_a_format_that_is_named_is_not_warned_of(tmp_path, recwarn, name, options):
    save({"weight": np.zeros(3, "float32")}, tmp_path / name, **options)
    assert not recwarn.list
    assert (tmp_path / name).stat().st_size > 12


def test_the_drop_in_says_nothing_of_names(tmp_path, torch, recwarn):
    import weighlock.torch

    weighlock.torch.save({"weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    assert not recwarn.list
    assert torch.equal(weighlock.torch.load(tmp_path / "model.safetensors")["weight"], torch.zeros(3))
