"""Summaries of checkpoints: what is listed, who shares memory, what is wasted, and what PyTorch would say."""

from __future__ import annotations

import argparse
import io
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

import weighlock
from weighlock.dtypes import DTYPES
from weighlock.errors import ArgumentError
from weighlock.inspection import inventory
from weighlock.inspection.folding import grow, tree_lines
from weighlock.inspection.inventory import take_inventory, tensors
from weighlock.inspection.paths import find, json_path, key_text
from weighlock.inspection.sharing import StorageRow
from weighlock.inspection.summary import Summary, summarize
from weighlock.inspection.weights_only import ALLOWED


def saved(obj: Any, **options: Any) -> weighlock.Checkpoint:
    file = io.BytesIO()
    weighlock.save(obj, file, **options)
    file.seek(0)
    return weighlock.read_checkpoint(file)


def summary_of(obj: Any) -> Summary:
    with saved(obj) as checkpoint:
        return summarize(checkpoint)


def ones(*shape: int) -> Any:
    return np.ones(shape, "f4")


def test_totals_and_shares():
    found = summary_of({"a": ones(2, 3), "b": np.ones(4, "i8"), "epoch": 3})
    assert found.totals._asdict() == {
        "tensors": 2, "arrays": 0, "parameters": 10, "tensor_bytes": 56, "storages": 2, "storage_bytes": 56,
        "unreferenced_bytes": 0,
    }  # fmt: skip
    assert [(share.dtype, share.tensors, share.parameters, share.nbytes) for share in found.dtypes] == [
        ("int64", 1, 4, 32), ("float32", 1, 6, 24),
    ]  # fmt: skip
    assert (found.format, found.byteorder, found.kind) == ("torch-zip", "little", "dict")


def test_what_the_top_level_holds():
    found = summary_of({
        "state_dict": OrderedDict(w=ones(2), b=ones(2)), "t": ones(1), "epoch": 3, "log": [1, 2], "name": "x",
        "args": argparse.Namespace(lr=1),
    })  # fmt: skip
    assert [(held.key, held.kind, held.tensors, held.items, held.text) for held in found.held] == [
        ("state_dict", "OrderedDict", 2, 2, None),
        ("t", "tensor", 1, None, None),
        ("epoch", "int", 0, None, "3"),
        ("log", "list", 0, 2, None),
        ("name", "str", 0, None, "'x'"),
        ("args", "Namespace", 0, 1, None),
    ]


def test_paths_keep_integers_and_the_files_order():
    with saved({"optimizer": {"state": {0: {"step": ones(1)}, 1: {"step": ones(1)}}}, "a.b": ones(1)}) as checkpoint:
        rows = tensors(checkpoint)
    assert [row.path for row in rows] == [
        ("optimizer", "state", 0, "step"), ("optimizer", "state", 1, "step"), ("a.b",),
    ]  # fmt: skip
    assert [row.key for row in rows] == ["optimizer.state.0.step", "optimizer.state.1.step", "a.b"]
    assert [row.index for row in rows] == [0, 1, 2]


def test_aliases_and_overlaps():
    base = np.arange(24, dtype="f4").reshape(4, 6)
    found = summary_of({"base": base, "same": base[:], "part": base[1:3], "turned": base.T, "other": ones(3)})
    rows = {row.key: row for row in found.tensors}
    assert found.aliases == [[0, 1]]
    assert rows["same"].alias_of == 0
    assert rows["part"].alias_of is None
    (shared,) = [row for row in found.storages if len(row.tensors) > 1]
    assert shared.tensors == (0, 1, 2, 3)
    assert shared.overlapping == (0, 1, 2, 3)
    assert rows["turned"].leaf.contiguous is False
    assert rows["turned"].leaf.stride == (1, 6)


def test_one_tensor_at_two_places_is_listed_twice():
    tensor = ones(2)
    with saved({"embed": tensor, "head": {"w": tensor}}) as checkpoint:
        assert [(row.key, row.alias_of) for row in tensors(checkpoint)] == [("embed", None), ("head.w", 0)]


def test_empty_tensors_share_nothing():
    with saved({"a": ones(0), "b": ones(0)}) as checkpoint:
        assert [row.alias_of for row in tensors(checkpoint)] == [None, None]


@pytest.mark.requires_torch
def test_halves_of_one_storage_do_not_overlap(torch):
    base = torch.ones(4, 6)
    file = io.BytesIO()
    torch.save({"left": base[:, :3], "right": base[:, 3:]}, file)
    file.seek(0)
    with weighlock.read_checkpoint(file) as checkpoint:
        found = summarize(checkpoint)
    assert [row.overlapping for row in found.storages] == [()]
    assert found.totals.unreferenced_bytes == 0


@pytest.mark.requires_torch
@pytest.mark.parametrize(
    ("view", "unused"),
    [
        (lambda base: base, 0),
        (lambda base: base.t(), 0),
        (lambda base: base[:10], 990_000),
        (lambda base: base[:, :10], 990_000),
        (lambda base: base[::2, ::2], 750_000),
        (lambda base: base[3, 4], 999_999),
        (lambda base: base[:0], 1_000_000),
        (lambda base: base[0, 0].expand(50, 50), 999_999),
        (lambda base: base.unfold(1, 3, 1), 0),
    ],
)
def test_bytes_that_no_tensor_uses(torch, view, unused):
    file = io.BytesIO()
    torch.save({"v": view(torch.zeros(1000, 1000, dtype=torch.uint8))}, file)
    file.seek(0)
    with weighlock.read_checkpoint(file) as checkpoint:
        assert summarize(checkpoint).totals.unreferenced_bytes == unused


@pytest.mark.requires_torch
def test_unused_bytes_beside_several_views(torch):
    base = torch.zeros(100, 100, dtype=torch.uint8)
    file = io.BytesIO()
    torch.save({"columns": base[:, :10], "rows": base[:5], "again": base[:5]}, file)
    file.seek(0)
    with weighlock.read_checkpoint(file) as checkpoint:
        found = summarize(checkpoint)
    assert found.totals.unreferenced_bytes == 10_000 - (1000 + 500 - 50)
    assert [row.used for row in found.storages] == [1450]
    assert found.storages[0].overlapping == (0, 1, 2)


@pytest.mark.requires_torch
def test_every_kind_of_tensor_is_one_row(torch):
    conjugate = torch.ones(2, dtype=torch.complex64)
    objects = {
        "strided": torch.ones(2),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "quantized": torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8),
        "channels": torch.quantize_per_channel(torch.ones(2, 2), torch.ones(2), torch.zeros(2), 0, torch.qint8),
        "coo": torch.eye(3).to_sparse(),
        "csr": torch.eye(3).to_sparse_csr(),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "jagged": torch.nested.nested_tensor([torch.ones(2, 1), torch.ones(3, 1)], layout=torch.jagged),
        "meta": torch.empty(3, 4, device="meta"),
        "lazy": torch.nn.UninitializedParameter(),
        "float4": torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
        "c": conjugate, "conj": conjugate.conj(), "array": np.ones(3), "scalar": np.float32(2.5),
    }  # fmt: skip
    file = io.BytesIO()
    torch.save(objects, file)
    file.seek(0)
    with weighlock.read_checkpoint(file) as checkpoint:
        found = summarize(checkpoint)
    rows = {row.key: row for row in found.tensors}
    assert {key: (row.leaf.layout, row.leaf.dtype, row.leaf.shape) for key, row in rows.items()} == {
        "strided": ("strided", "float32", (2,)),
        "parameter": ("strided", "float32", (2,)),
        "quantized": ("quantized per_tensor_affine", "qint8", (2,)),
        "channels": ("quantized per_channel_affine", "qint8", (2, 2)),
        "coo": ("sparse_coo", "float32", (3, 3)),
        "csr": ("sparse_csr", "float32", (3, 3)),
        "nested": ("nested", "float32", None),
        "jagged": ("jagged", "float32", None),
        "meta": ("meta", "float32", (3, 4)),
        "lazy": ("uninitialized", None, None),
        "float4": ("packed", "float4_e2m1fn_x2", (2,)),
        "c": ("strided", "complex64", (2,)),
        "conj": ("strided", "complex64", (2,)),
        "array": ("numpy", "float64", (3,)),
    }
    assert [name for name, _ in rows["coo"].parts] == ["values", "indices"]
    assert [name for name, _ in rows["csr"].parts] == ["values", "compressed_indices", "plain_indices"]
    assert rows["parameter"].leaf.parameter
    assert rows["parameter"].leaf.requires_grad
    assert rows["conj"].alias_of is None, "the conjugate holds other values than its base"
    assert (found.totals.tensors, found.totals.arrays) == (13, 1)
    assert [held.text for held in found.held if held.key == "scalar"] == ["2.5 (float32)"]


@pytest.mark.requires_torch
def test_subclasses_are_rows_with_their_class(torch):
    class Marked(torch.Tensor):  # type: ignore[misc,name-defined,unused-ignore]
        pass

    Marked.__module__, Marked.__qualname__ = "somewhere", "Marked"
    module = type(pickle)("somewhere")
    module.Marked = Marked  # type: ignore[attr-defined]
    import sys

    sys.modules["somewhere"] = module
    try:
        marked = torch.ones(2).as_subclass(Marked)
        marked.extra = torch.zeros(3)
        file = io.BytesIO()
        torch.save({"m": marked}, file)
    finally:
        del sys.modules["somewhere"]
    file.seek(0)
    with weighlock.read_checkpoint(file) as checkpoint:
        found = summarize(checkpoint)
    assert [(row.key, row.leaf.layout, row.leaf.subclass, row.leaf.shape) for row in found.tensors] == [
        ("m", "subclass", "somewhere.Marked", (2,)), ("m.state.extra", "strided", None, (3,)),
    ]  # fmt: skip
    assert found.unknown == ("somewhere.Marked",)
    assert [row.paths for row in found.globals if not row.known] == [(("m",),)]


@pytest.mark.requires_torch
def test_a_module_is_described_without_its_class(torch):
    file = io.BytesIO()
    torch.save({"net": torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(2, 3))}, file)
    file.seek(0)
    with weighlock.read_checkpoint(file) as checkpoint:
        found = summarize(checkpoint)
    assert found.totals.parameters == 18
    assert [stub.name for stub in found.stubs][:2] == [
        "torch.nn.modules.container.Sequential",
        "torch.nn.modules.linear.Linear",
    ]
    paths = {row.name: row.paths for row in found.globals if not row.known}
    assert paths["torch.nn.modules.linear.Linear"] == (("net", "_modules", "0"), ("net", "_modules", "1"))
    assert 'on_unknown="stub"' in found.verdict
    assert "torch.nn.modules.linear.Linear" in found.refused_by_torch


def test_the_verdict_on_plain_weights():
    found = summary_of({"w": ones(1)})
    assert found.verdict == "OK to load with weighlock.load"
    assert found.refused_by_torch == ()


def test_the_verdict_on_what_torch_refuses():
    found = summary_of({"w": ones(1), "args": argparse.Namespace(lr=1)})
    assert found.unknown == ()
    assert found.refused_by_torch == ("argparse.Namespace",)
    assert found.verdict.endswith("torch.load(weights_only=True) would refuse argparse.Namespace")


@pytest.mark.requires_torch
def test_the_table_of_allowed_globals_is_torchs(torch):
    import torch._weights_only_unpickler as unpickler

    assert set(unpickler._get_allowed_globals()) <= ALLOWED
    spare = ALLOWED - set(unpickler._get_allowed_globals())
    assert all(name.startswith("torch.") for name in spare)
    assert spare <= {f"torch.{name}" for name in DTYPES}


def test_a_deep_tree_of_aliases_ends_in_a_gap_not_in_gigabytes(monkeypatch):
    monkeypatch.setattr(inventory, "_FREE_PATH_WORK", 1000)
    monkeypatch.setattr(inventory, "_PATH_WORK_PER_BYTE", 0)
    with saved({"k" * 300: {number: ones(1) for number in range(20)}}) as checkpoint:
        found = take_inventory(checkpoint)
    assert 0 < len(found.rows) < 5
    assert found.gaps


def test_a_container_that_holds_itself_is_entered_once():
    loop: dict[str, Any] = {"w": ones(1)}
    loop["again"] = loop
    with saved({"loop": loop}) as checkpoint:
        assert [row.key for row in tensors(checkpoint)] == ["loop.w"]


def test_keys_of_other_kinds():
    with saved({(1, 2): ones(1), 2.5: ones(1), True: ones(1), None: ones(1), 10**30: ones(1)}) as checkpoint:
        rows = tensors(checkpoint)
    assert [json_path(row.path) for row in rows] == [
        [{"repr": "<tuple of 2>"}], [{"repr": "2.5"}], [{"repr": "True"}], [{"repr": "None"}],
        [{"repr": "<big integer>"}],
    ]  # fmt: skip
    assert key_text(()) == "(top)"


def test_finding_what_a_key_names():
    inner = {"b.c": 1, "b": {"c": 2}, 0: [3, {"d": 4}]}
    root = {"a": inner, "x\x1b": 5, "": {"": 6}, "x[0]": 7}
    assert find(root, "a.0.1.d") == (("a", 0, 1, "d"), 4)
    assert find(root, "x\x1b") == (("x\x1b",), 5)
    assert find(root, "x\\x1b") == (("x\x1b",), 5), "as a terminal shows it"
    assert find(root, ".") == (("", ""), 6)
    assert find(root, "x[0]")[1] == 7
    assert find(root, '["a", "b", "c"]') == (("a", "b", "c"), 2)
    assert find(root, "(top)") == ((), root)
    with pytest.raises(ArgumentError, match="more than one"):
        find(root, "a.b.c")
    for wrong in ("nothing", "a.", "a.b.c.d", "[]x", '["a", "0"]'):
        with pytest.raises(ArgumentError, match="nothing in the file"):
            find(root, wrong)


def drawn(*keys: str, **shapes: tuple[int, ...]) -> list[str]:
    with saved({key: ones(*shapes.get(key.replace(".", "_"), (1,))) for key in keys}) as checkpoint:
        rows = tensors(checkpoint)
    return [f"{line.rails}{line.label}{f' x{line.times}' if line.times > 1 else ''}" for line in tree_lines(grow(rows))]


def test_numbered_blocks_are_folded():
    assert drawn("h.0.w", "h.0.b", "h.1.w", "h.1.b", "h.2.w", "h.2.b", "out") == ["h.[0-2] x3", "├─ w", "└─ b", "out"]


def test_blocks_of_different_structure_are_not_folded():
    assert drawn("h.0.w", "h.1.w", "h.2.w", h_1_w=(2,)) == ["h", "├─ [0,2].w x2", "└─ 1.w"]


def test_alternating_blocks_are_folded_with_their_step():
    keys = [f"s.{number}" for number in range(6)]
    assert drawn(*keys, s_1=(2,), s_3=(2,), s_5=(2,)) == ["s", "├─ [0-4:2] x3", "└─ [1-5:2] x3"]


def test_names_of_any_shape_make_a_tree():
    assert drawn("a.b", "a", "", "..", "a..b")
    assert len(drawn(".".join("k" * 1000))) == 1


def test_two_things_of_one_name_are_both_drawn():
    with saved({"a.b": ones(1), "a": {"b": ones(2)}}) as checkpoint:
        lines = list(tree_lines(grow(tensors(checkpoint))))
    assert sum(line.row is not None for line in lines) == 2


@pytest.mark.parametrize("legacy", [False, True])
def test_both_containers_give_the_same_rows(legacy):
    obj = {"w": ones(3, 2).T, "v": {"x": ones(1)}}
    with saved(obj, _use_new_zipfile_serialization=not legacy) as checkpoint:
        assert checkpoint.format == ("torch-legacy" if legacy else "torch-zip")
        assert [(row.key, row.leaf.shape, row.leaf.nbytes) for row in tensors(checkpoint)] == [
            ("w", (2, 3), 24), ("v.x", (1,), 4),
        ]  # fmt: skip


def test_a_storage_row_says_what_it_is():
    (row,) = summary_of({"w": ones(2)}).storages
    assert isinstance(row, StorageRow)
    assert (row.nbytes, row.used, row.location, row.byteorder, row.tensors) == (8, 8, "cpu", "little", (0,))
    assert row.member.endswith("data/0")


def test_a_tensor_at_a_name_and_below_it_and_keys_that_read_alike_are_all_in_the_tree(tmp_path):
    path = tmp_path / "alike.pth"
    weighlock.save({"a": np.zeros(1), "a.b": np.zeros(2), "c": {1: np.zeros(3), "1": np.zeros(4)}}, path)
    with weighlock.read_checkpoint(path) as checkpoint:
        lines = list(tree_lines(grow(tensors(checkpoint))))
    assert [(line.label, line.row and line.row.leaf.shape) for line in lines] == [
        ("a", (1,)), ("b", (2,)), ("c", None), ("1", (3,)), ("1 #2", (4,)),
    ]  # fmt: skip
    assert [line.nbytes for line in lines] == [24, 16, 56, 24, 32]


def test_equal_branches_share_their_names_and_equal_leaves_are_one_object(tmp_path):
    """What 300,000 tensors take hangs on it: names, shapes and types are held once for each structure."""
    path = tmp_path / "blocks.pth"
    weighlock.save({f"h.{number}.{name}": np.zeros(2, "f4") for number in range(3) for name in "wb"}, path)
    with weighlock.read_checkpoint(path) as checkpoint:
        rows = tensors(checkpoint)
        root = grow(rows)
    blocks: Any = root["h"]
    assert len({id(blocks[name].structure) for name in "012"}) == 1
    assert len({id(row.leaf) for row in rows}) == 1
    assert (blocks.tensors, blocks.nbytes, blocks["1"]["b"].index) == (6, 48, 3)
