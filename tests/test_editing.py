"""`weighlock.edit`: names, types and tensors changed, everything else as it was."""

from __future__ import annotations

import collections
import os
import re
from pathlib import Path

import numpy as np
import pytest

import weighlock as wl
from tests.torch_compare import same
from weighlock.errors import (
    ArgumentError,
    ChecksumError,
    LimitError,
    MissingKeyError,
    StateDictError,
    TargetError,
    UnsupportedError,
)
from weighlock.storages.refs import Extent


def state() -> dict:
    w = np.arange(12, dtype="f4").reshape(3, 4)
    return {"module.fc.weight": w, "module.fc.bias": np.ones(4, "f4"), "module.tied": w, "steps": np.array(3)}


def checkpoint() -> dict:
    groups = [{"lr": 0.1, "params": [0, 1]}]
    return {
        "state_dict": collections.OrderedDict(state()),
        "optimizer": {"state": {0: {"exp": np.zeros(3, "f4"), "step": np.array(1.0)}}, "param_groups": groups},
        "epoch": 3, "hparams": {"model.name": "x", "layers": [1, 2]},
    }  # fmt: skip


@pytest.fixture
def plain(tmp_path) -> Path:
    wl.save(state(), tmp_path / "plain.pt")
    return tmp_path / "plain.pt"


@pytest.fixture
def nested(tmp_path) -> Path:
    wl.save(checkpoint(), tmp_path / "nested.pt")
    return tmp_path / "nested.pt"


def extent_of(path: Path, key: str) -> Extent:
    with wl.open_checkpoint(path) as ckpt:
        found = ckpt[key].extent
    assert found is not None
    return found


def keys(path: Path) -> list[str]:
    with wl.open_checkpoint(path) as ckpt:
        return list(ckpt)


class TestNames:
    @pytest.mark.parametrize("format", ["torch-zip", "torch-legacy", "safetensors", "npz"])
    def test_a_prefix_is_stripped_in_every_format(self, tmp_path, plain, format):
        source = tmp_path / f"in-{format}"
        wl.convert(plain, source, format=format)
        report = wl.edit(source, tmp_path / "out", strip_prefix="module.")
        assert report.format == format
        assert report.renamed == {key: key[7:] for key in state() if key.startswith("module.")}
        made = wl.load(tmp_path / "out")
        assert sorted(made) == sorted(key.removeprefix("module.") for key in state())
        for key, array in state().items():
            assert np.array_equal(made[key.removeprefix("module.")], array)
        assert np.shares_memory(made["fc.weight"], made["tied"]) is (format != "npz")

    def test_rules(self, tmp_path, plain):
        wl.edit(plain, tmp_path / "a.pt", rename={"module.fc.*": "head.*", "steps": "count"})
        assert keys(tmp_path / "a.pt") == ["head.weight", "head.bias", "module.tied", "count"]
        rules = [(re.compile(r"^module\.(\w+)\.(\w+)$"), r"\2_of_\1")]
        wl.edit(plain, tmp_path / "b.pt", rename=rules)
        assert keys(tmp_path / "b.pt") == ["weight_of_fc", "bias_of_fc", "module.tied", "steps"]

    def test_order_of_the_changes(self, tmp_path, plain):
        report = wl.edit(
            plain, tmp_path / "a.pt", drop="steps", cast={"module.fc.bias": "float64"}, strip_prefix="module.",
            rename={"fc.*": "lin.*"}, add_prefix="net.", replace={"module.fc.bias": np.zeros(4, "f4")},
        )  # fmt: skip
        assert report.renamed == {
            "module.fc.weight": "net.lin.weight", "module.fc.bias": "net.lin.bias", "module.tied": "net.tied",
        }  # fmt: skip
        assert report.cast == {"module.fc.bias": ("float32", "float64")}
        made = wl.load(tmp_path / "a.pt")
        assert list(made) == ["net.lin.weight", "net.lin.bias", "net.tied"]
        assert made["net.lin.bias"].tolist() == [0.0] * 4
        assert made["net.lin.bias"].dtype == "f8"

    def test_a_container_becomes_the_object(self, tmp_path, nested):
        wl.edit(nested, tmp_path / "a.pt", keep="state_dict", strip_prefix="state_dict.")
        made = wl.load(tmp_path / "a.pt")
        assert type(made) is collections.OrderedDict
        assert list(made) == list(state())

    def test_what_is_beside_stays(self, tmp_path, nested):
        wl.edit(nested, tmp_path / "a.pt", strip_prefix="state_dict.", drop="optimizer")
        assert list(wl.load(tmp_path / "a.pt")) == ["epoch", "hparams", *state()]
        wl.edit(nested, tmp_path / "b.pt", within="state_dict", strip_prefix="module.", add_prefix="m.")
        made = wl.load(tmp_path / "b.pt")
        assert list(made) == list(checkpoint())
        assert list(made["state_dict"]) == ["m.fc.weight", "m.fc.bias", "m.tied", "m.steps"]
        assert made["hparams"] == checkpoint()["hparams"]
        assert made["optimizer"]["param_groups"] == checkpoint()["optimizer"]["param_groups"]

    def test_containers_are_renamed(self, tmp_path, nested):
        wl.edit(nested, tmp_path / "a.pt", rename={"state_dict.*": "model.*", "epoch": "last.epoch"})
        made = wl.load(tmp_path / "a.pt")
        assert list(made) == ["optimizer", "last.epoch", "hparams", "model"]
        assert list(made["model"]) == list(state())

    def test_integer_keys_stay_integers(self, tmp_path, nested):
        wl.edit(nested, tmp_path / "a.pt", rename={"optimizer.state.0.exp": "optimizer.state.0.exp_avg"})
        assert list(wl.load(tmp_path / "a.pt")["optimizer"]["state"][0]) == ["exp_avg", "step"]

    @pytest.mark.requires_torch
    def test_the_versions_of_modules_go_along(self, torch, tmp_path):
        model = torch.nn.DataParallel(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)))
        torch.save(model.state_dict(), tmp_path / "a.pt")
        wl.edit(tmp_path / "a.pt", tmp_path / "b.pt", strip_prefix="module.")
        made = torch.load(tmp_path / "b.pt")
        torch.save(model.module.state_dict(), tmp_path / "expected.pt")
        expected = torch.load(tmp_path / "expected.pt")
        same(torch, expected, made)
        torch.save({"sd": model.state_dict()}, tmp_path / "c.pt")
        wl.edit(tmp_path / "c.pt", tmp_path / "d.pt", within="sd", strip_prefix="module.")
        same(torch, {"sd": expected}, torch.load(tmp_path / "d.pt"))

    def test_what_fits_nothing_is_an_error(self, tmp_path, plain, nested):
        target = tmp_path / "x.pt"
        for wrong, error in (
            ({"strip_prefix": "model."}, StateDictError), ({"rename": {"no": "yes"}}, StateDictError),
            ({"drop": "nothing.*"}, StateDictError), ({"keep": ["steps", "nothing"]}, StateDictError),
            ({"cast": {"nothing": "float16"}}, StateDictError), ({"replace": {"nothing": np.ones(1)}}, MissingKeyError),
            ({"within": "nothing", "drop": "x"}, MissingKeyError), ({"strip_prefix": "module"}, ArgumentError),
            ({"rename": {"module.*": "x"}}, ArgumentError), ({"cast": "no such type"}, ArgumentError),
        ):  # fmt: skip
            with pytest.raises(error):
                wl.edit(plain, target, **wrong)
        with pytest.raises(StateDictError, match=r"state_dict\.module.*within"):
            wl.edit(nested, target, strip_prefix="module.")
        assert not target.exists()

    def test_two_of_one_name(self, tmp_path, plain, nested):
        for path, rules in (
            (plain, {"module.fc.weight": "steps"}), (plain, {"module.fc.weight": "x", "module.fc.bias": "x"}),
            (nested, {"state_dict.steps": "epoch"}),
        ):  # fmt: skip
            with pytest.raises(StateDictError, match="one name"):
                wl.edit(path, tmp_path / "x.pt", rename=rules)

    def test_what_stands_in_a_list(self, tmp_path):
        wl.save({"layers": [np.ones(2), np.zeros(2)], "t": (np.ones(1),)}, tmp_path / "a.pt")
        for wrong in ({"drop": "layers.0"}, {"rename": {"layers.1": "x"}}, {"rename": {"t.0": "t.1"}},
                      {"replace": {"layers.0": np.ones(2)}}):  # fmt: skip
            with pytest.raises(UnsupportedError):
                wl.edit(tmp_path / "a.pt", tmp_path / "x.pt", **wrong)
        wl.edit(tmp_path / "a.pt", tmp_path / "x.pt", drop="layers")
        assert list(wl.load(tmp_path / "x.pt")) == ["t"]


class TestData:
    def test_a_tensor_is_replaced(self, tmp_path, plain):
        new = np.full((3, 4), 2, "f8")[:, ::-1]
        report = wl.edit(plain, tmp_path / "a.pt", replace={"module.tied": new})
        assert report.replaced == ["module.tied"]
        made = wl.load(tmp_path / "a.pt")
        assert made["module.tied"].dtype == "f8"
        assert np.array_equal(made["module.tied"], new)
        assert np.array_equal(made["module.fc.weight"], state()["module.fc.weight"])
        with pytest.raises(ArgumentError, match=r"\[3, 4\].*\[4, 3\]"):
            wl.edit(plain, tmp_path / "b.pt", replace={"module.tied": np.ones((4, 3))})
        with pytest.raises(ArgumentError, match="element type"):
            wl.edit(plain, tmp_path / "b.pt", replace={"steps": np.array("text")})

    def test_bfloat16_as_numpy_saves_it(self, tmp_path, plain):
        kind = wl.dtype("bfloat16").numpy
        wl.edit(plain, tmp_path / "a.pt", cast="bfloat16")
        np.save(tmp_path / "w.npy", np.full((3, 4), 1.5).astype(kind))
        raw = np.load(tmp_path / "w.npy")
        wl.edit(tmp_path / "a.pt", tmp_path / "b.pt", replace={"module.tied": raw})
        assert np.array_equal(wl.load(tmp_path / "b.pt")["module.tied"], np.full((3, 4), 1.5).astype(kind))

    @pytest.mark.requires_torch
    def test_flags_are_kept(self, torch, tmp_path):
        parameter = torch.nn.Parameter(torch.ones(2), requires_grad=False)
        torch.save({"p": parameter, "t": torch.ones(2, requires_grad=True)}, tmp_path / "a.pt")
        wl.edit(tmp_path / "a.pt", tmp_path / "b.pt", replace={"p": torch.zeros(2), "t": np.zeros(2, "f4")})
        made = torch.load(tmp_path / "b.pt")
        assert type(made["p"]) is torch.nn.Parameter
        assert (made["p"].requires_grad, made["t"].requires_grad) == (False, True)
        assert made["p"].sum() == made["t"].sum() == 0

    def test_casts(self, tmp_path, plain):
        report = wl.edit(plain, tmp_path / "a.pt", cast="float16")
        assert report.cast == {key: ("float32", "float16") for key in state() if key != "steps"}
        made = wl.load(tmp_path / "a.pt")
        assert np.shares_memory(made["module.fc.weight"], made["module.tied"])
        assert made["steps"].dtype == "i8"
        wl.edit(plain, tmp_path / "b.pt", cast={"steps": "int32", "**.bias": "bfloat16"})
        made = wl.load(tmp_path / "b.pt")
        assert made["steps"].dtype == "i4"
        assert made["module.fc.weight"].dtype == "f4"

    def test_what_cannot_be_cast(self, tmp_path):
        wl.save({"c": np.ones(2, "c8"), "f": np.ones(2)}, tmp_path / "a.pt")
        for wish in ({"c": "float32"}, {"f": "quint8"}, {"f": "float4_e2m1fn_x2"}):
            with pytest.raises((UnsupportedError, ArgumentError)):
                wl.edit(tmp_path / "a.pt", tmp_path / "b.pt", cast=wish)
        wl.edit(tmp_path / "a.pt", tmp_path / "b.pt", cast={"c": "complex128", "f": "complex64"})
        assert wl.load(tmp_path / "b.pt")["f"].tolist() == [1, 1]

    def test_dropped_storages_are_gone(self, tmp_path):
        wl.save({"big": np.arange(300_000.0), "small": np.ones(3), "view": np.arange(300_000.0)}, tmp_path / "a.pt")
        report = wl.edit(tmp_path / "a.pt", tmp_path / "b.pt", drop=["big", "view"])
        assert report.dropped == ["big", "view"]
        assert report.nbytes < 3_000
        assert wl.load(tmp_path / "b.pt")["small"].tolist() == [1, 1, 1]

    def test_checksums_are_taken_over(self, tmp_path, monkeypatch):
        """The new directory has the old sums, and nothing was computed for them."""
        from weighlock.formats import zip_writer
        from weighlock.storages.checksum import crc32

        wl.save({"a": np.arange(300_000.0), "b": np.arange(200_000.0)}, tmp_path / "a.pt")
        seen: list[int] = []

        def noted(data: bytes, crc: int = 0) -> int:
            seen.append(len(data))
            return crc32(data, crc)

        monkeypatch.setattr(zip_writer, "crc32", noted)
        wl.edit(tmp_path / "a.pt", tmp_path / "b.pt", add_prefix="x.", verify=False)
        assert max(seen) < 10_000
        monkeypatch.undo()
        assert np.array_equal(wl.load(tmp_path / "b.pt")["x.a"], np.arange(300_000.0))
        with wl.read_checkpoint(tmp_path / "a.pt") as old, wl.read_checkpoint(tmp_path / "b.pt") as new:
            sums = [[ref.handle.crc for ref in one.storages.values()] for one in (old, new)]
        assert sums[0] == sums[1]


class TestTheRest:
    def test_in_place(self, plain):
        before = wl.digest(plain).tensors["module.tied"]
        with pytest.raises(TargetError, match="force"):
            wl.edit(plain, plain, strip_prefix="module.")
        wl.edit(plain, plain, strip_prefix="module.", force=True)
        assert wl.digest(plain).tensors["tied"] == before
        assert os.listdir(plain.parent) == ["plain.pt"]

    def test_in_place_of_a_damaged_file(self, plain):
        data = bytearray(plain.read_bytes())
        data[extent_of(plain, "module.fc.bias").offset] ^= 1
        plain.write_bytes(data)
        with pytest.raises(ChecksumError):
            wl.edit(plain, plain, strip_prefix="module.", force=True)
        assert plain.read_bytes() == data

    def test_a_dry_run(self, plain, tmp_path):
        report = wl.edit(plain, tmp_path / "b.pt", strip_prefix="module.", dry_run=True)
        assert report.renamed
        assert not report.written
        assert os.listdir(tmp_path) == ["plain.pt"]

    @pytest.mark.requires_torch
    def test_the_rest_of_the_object_stays(self, torch, tmp_path):
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.Adam(model.parameters())
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        obj = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(),
               "numpy": np.random.default_rng(1).integers(9, size=4), "epoch": 2}  # fmt: skip
        torch.save(obj, tmp_path / "a.pt")
        wl.edit(tmp_path / "a.pt", tmp_path / "b.pt", within="model", add_prefix="net.")
        made = torch.load(tmp_path / "b.pt", weights_only=False)
        assert list(made["model"]) == ["net.weight", "net.bias"]
        obj = torch.load(tmp_path / "a.pt", weights_only=False)
        del made["model"], obj["model"]
        assert np.array_equal(made.pop("numpy"), obj.pop("numpy"))
        same(torch, obj, made)

    def test_unknown_classes_are_kept_as_data(self, tmp_path):
        """Nothing is run, nothing is lost: the new pickle makes the calls of the old one."""
        stub = wl.Stub(wl.GlobalRef("posix", "system"), ("echo no",), how="reduce")
        wl.save({"x": stub, "w": np.ones(2)}, tmp_path / "a.pt")
        report = wl.edit(tmp_path / "a.pt", tmp_path / "b.pt", rename={"w": "v"})
        assert report.unknown == ("posix.system",)
        found = [{(one.rule, one.message) for one in wl.scan(tmp_path / name).findings} for name in ("a.pt", "b.pt")]
        assert found[0] == found[1] != set()
        wl.edit(tmp_path / "a.pt", tmp_path / "c.pt", drop="x")
        assert not wl.scan(tmp_path / "c.pt").findings

    def test_to_another_format(self, tmp_path, nested):
        wl.edit(nested, tmp_path / "x.safetensors", keep="state_dict", strip_prefix="state_dict.", cast="bfloat16")
        assert set(wl.load(tmp_path / "x.safetensors")) == set(state())
        wl.edit(tmp_path / "x.safetensors", tmp_path / "y.safetensors", drop="steps")
        assert list(wl.load(tmp_path / "y.safetensors")) == [key for key in state() if key != "steps"]


class TestHostile:
    def test_a_very_deep_object(self, tmp_path):
        """Ninety thousand levels: what is looked at grows with the file, and no faster."""
        depth = 90_000
        data = (
            b"\x80\x02}X\x01\x00\x00\x00a"
            + b"]" * depth
            + b"K\x01a"
            + b"a" * (depth - 1)
            + b"sX\x01\x00\x00\x00bK\x02s."
        )
        (tmp_path / "a.pkl").write_bytes(data)
        wl.edit(tmp_path / "a.pkl", tmp_path / "b.pt", format="torch-zip", drop="b")
        assert list(wl.read_checkpoint(tmp_path / "b.pt").object) == ["a"]
        wl.edit(tmp_path / "a.pkl", tmp_path / "c.pt", format="torch-zip", drop="a")
        assert wl.load(tmp_path / "c.pt") == {"b": 2}

    def test_a_key_of_many_dots(self, tmp_path):
        wl.save({"." * 200_000: np.ones(1), "x": np.ones(1)}, tmp_path / "a.pt")
        wl.edit(tmp_path / "a.pt", tmp_path / "b.pt", keep="x")
        assert list(wl.load(tmp_path / "b.pt")) == ["x"]

    def test_paths_out_of_all_proportion(self, tmp_path):
        """One key of a megabyte above a hundred values: named by few bytes, spelled in many."""
        inner = dict.fromkeys(range(70), 0)
        obj = {"k" * 1_000_000: {n: dict(inner) for n in range(3)}}
        wl.save(obj, tmp_path / "a.pt")
        with pytest.raises(LimitError, match="proportion"):
            wl.edit(tmp_path / "a.pt", tmp_path / "b.pt", drop="nothing")


def test_what_fits_no_name_is_quoted(tmp_path):
    wl.save({"a": np.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(wl.errors.StateDictError, match=r"got 'nothing'.*weighlock ls"):
        wl.edit(tmp_path / "a.pt", tmp_path / "b.pt", drop="nothing")
