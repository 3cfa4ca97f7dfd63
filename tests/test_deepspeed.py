"""Folders of DeepSpeed's ZeRO: the weights of all ranks, put together as zero_to_fp32.py puts them together."""

import math

import numpy as np
import pytest

import weighlock as wl
from weighlock.errors import CheckpointError, DamagedError, MissingFileError, UnsafeGlobalError, UnsupportedError
from weighlock.inspection.values import read_values
from weighlock.pickling.inert import GlobalRef, Stub

SHAPES: list[dict[str, tuple[int, ...]]] = [
    {"a.weight": (7, 5), "b.weight": (3, 7)},
    {"a.bias": (7,), "b.bias": (3,), "scale": ()},
]


def weights():
    rng = np.random.default_rng(0)
    return {name: rng.random(shape).astype("float32") for group in SHAPES for name, shape in group.items()}


def padded(vector, unit):
    return np.concatenate([vector, np.full(-len(vector) % unit, -1, "float32")])


def model_states(values, rank=0, world=1, stage=2):
    states = {
        "module": {"a.weight": values["a.weight"].astype("float16"), "running": np.arange(3.0), "steps": np.array(5)},
        "buffer_names": ["running", "steps"],
        "param_shapes": [{name: wl.Size(shape) for name, shape in group.items()} for group in SHAPES],
        "shared_params": {"tied": "b.weight"},
        "frozen_param_shapes": {"frozen": wl.Size((3, 3))},
        "ds_version": "0.19.8",
        # What only DeepSpeed knows is never built.
        "ds_config": Stub(GlobalRef("deepspeed.runtime.config", "DeepSpeedConfig"), (1,)),
    }
    frozen = np.arange(9, dtype="float32").reshape(3, 3)
    if stage == 3:
        part = math.ceil(9 / world)
        frozen = padded(frozen.reshape(-1), world)[rank * part : (rank + 1) * part]
    states["frozen_param_fragments"] = {"frozen": frozen}
    return states


def optimizer_states(stage, world, **fields):
    value = Stub(GlobalRef("deepspeed.runtime.zero.config", "ZeroStageEnum"), (stage,), how="reduce")
    return {"optimizer_state_dict": {"zero_stage": value, "partition_count": world, **fields}}


def write_stage_2(folder, world, stage=2):
    folder.mkdir(parents=True, exist_ok=True)
    values = weights()
    wl.save(model_states(values), folder / "mp_rank_00_model_states.pt")
    parts = []
    for group in SHAPES:
        vector = padded(np.concatenate([values[name].reshape(-1) for name in group]), 2 * world)
        parts.append(np.split(vector, world))
    for rank in range(world):
        states = optimizer_states(stage, [world] * len(SHAPES),
                                  single_partition_of_fp32_groups=[group[rank].copy() for group in parts])  # fmt: skip
        wl.save(states, folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    return values


def write_stage_3(folder, world, cut=None):
    """`cut` divides each rank's vector into two, which happens in the middle of parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    values = weights()
    for rank in range(world):
        wl.save(model_states(values, rank, world, 3), folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        pieces = [np.split(padded(value.reshape(-1), world), world)[rank] for value in values.values()]
        vector = np.concatenate(pieces)
        groups = [vector] if cut is None else [vector[:cut].copy(), vector[cut:].copy()]
        wl.save(optimizer_states(3, world, fp32_flat_groups=groups),
                folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")  # fmt: skip
    return values


@pytest.fixture(params=[(1, 2), (2, 1), (2, 3), (3, 1), (3, 2), (3, 4), (3, -2)])
def written(request, tmp_path):
    """A folder as DeepSpeed's `save_checkpoint` leaves it, and what was in it."""
    stage, world = request.param
    inside = tmp_path / "global_step7"
    values = (
        write_stage_3(inside, abs(world), 11 if world < 0 else None)
        if stage == 3
        else write_stage_2(inside, world, stage)
    )
    (tmp_path / "latest").write_text("global_step7")
    return tmp_path, stage, abs(world), values


class TestReading:
    @pytest.mark.parametrize("verify", [True, False])
    def test_load(self, written, verify):
        folder, _, _, values = written
        for path in (folder, folder / "global_step7"):
            made = wl.load(path, verify=verify)
            assert set(made) == {*values, "tied", "running", "steps", "frozen"}
            for name, value in values.items():
                assert made[name].dtype == np.float32
                assert np.array_equal(made[name], value)
            assert made["tied"] is made["b.weight"]
            assert made["frozen"].tolist() == np.arange(9).reshape(3, 3).tolist()
            assert made["running"].tolist() == [0, 1, 2]
            assert made["steps"] == 5

    def test_described_and_partly_read(self, written):
        folder, stage, world, values = written
        with wl.read_checkpoint(folder) as checkpoint:
            assert checkpoint.format == "deepspeed"
            assert checkpoint.metadata["stage"] == stage
            assert checkpoint.metadata["ranks"] == world
            assert checkpoint.metadata["tag"] == "global_step7"
            assert checkpoint.metadata["deepspeed"] == "0.19.8"
            for name, value in values.items():
                assert read_values(checkpoint, checkpoint.object[name]).nested() == value.tolist()
            found = read_values(checkpoint, checkpoint.object["a.weight"], (slice(2, 6), slice(1, 4, 2))).nested()
            assert found == values["a.weight"][2:6, 1:4:2].tolist()

    def test_torch(self, torch, written):
        folder, _, _, values = written
        made = wl.load(folder, framework="torch")
        assert all(np.array_equal(made[name].numpy(), value) for name, value in values.items())

    def test_verify_misses_a_rank(self, written):
        folder, _, world, _ = written
        report = wl.verify(folder)
        assert report.sound
        assert report.files[-1].format == "deepspeed"
        next(folder.glob(f"*/*zero_pp_rank_{abs(world) - 1}_mp_rank_00_optim_states.pt")).unlink()
        if abs(world) > 1:
            assert [problem.code for problem in wl.verify(folder).problems] == ["WL605"]

    def test_one_file(self, written):
        folder, stage, _, _ = written
        name = "zero_pp_rank_0_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_00_model_states.pt"
        made = wl.load(folder / "global_step7" / name, on_unknown="stub")
        assert made["buffer_names"] == ["running", "steps"]


def change(folder, name, edit):
    states = wl.load(folder / name, on_unknown="stub")
    edit(states)
    wl.save(states, folder / name)


OPTIMIZER = "zero_pp_rank_0_mp_rank_00_optim_states.pt"


class TestRefused:
    def test_a_missing_rank(self, tmp_path):
        write_stage_2(tmp_path, 3)
        (tmp_path / "zero_pp_rank_2_mp_rank_00_optim_states.pt").unlink()
        with pytest.raises(MissingFileError, match="3 ranks"):
            wl.load(tmp_path)
        (tmp_path / "zero_pp_rank_0_mp_rank_00_optim_states.pt").unlink()
        with pytest.raises(MissingFileError, match="some ranks"):
            wl.load(tmp_path)

    def test_no_model_states(self, tmp_path):
        write_stage_2(tmp_path, 2)
        (tmp_path / "mp_rank_00_model_states.pt").unlink()
        with pytest.raises(MissingFileError, match="model states"):
            wl.load(tmp_path)

    def test_cut_in_other_ways(self, tmp_path):
        write_stage_2(tmp_path, 1)
        (tmp_path / "zero_pp_rank_0_mp_rank_01_optim_states.pt").write_bytes((tmp_path / OPTIMIZER).read_bytes())
        with pytest.raises(UnsupportedError, match=r"parallelism.*zero_to_fp32"):
            wl.load(tmp_path)

    def test_experts(self, tmp_path):
        write_stage_2(tmp_path, 1)
        (tmp_path / "layer_0_expert_0_mp_rank_00_model_states.pt").write_bytes(b"")
        with pytest.raises(UnsupportedError, match="experts"):
            wl.load(tmp_path)

    @pytest.mark.parametrize(
        "edit",
        [
            lambda states: states["optimizer_state_dict"].pop("zero_stage"),
            lambda states: states["optimizer_state_dict"].update(zero_stage=9),
            lambda states: states["optimizer_state_dict"].update(zero_stage="x"),
            lambda states: states["optimizer_state_dict"].update(partition_count=5),
            lambda states: states["optimizer_state_dict"].update(single_partition_of_fp32_groups=[]),
            lambda states: states["optimizer_state_dict"].update(single_partition_of_fp32_groups=[1, 2]),
            lambda states: states["optimizer_state_dict"].update(
                single_partition_of_fp32_groups=[np.zeros(3, "f4"), np.zeros(12, "f4")]
            ),
            lambda states: states["optimizer_state_dict"].update(
                single_partition_of_fp32_groups=[np.zeros((7, 8), "f4"), np.zeros(12, "f4")]
            ),
            lambda states: states.pop("optimizer_state_dict"),
        ],
    )
    def test_hostile_optimizer_states(self, tmp_path, edit):
        write_stage_2(tmp_path, 1)
        change(tmp_path, OPTIMIZER, edit)
        for read in (wl.load, wl.read_checkpoint):
            with pytest.raises((CheckpointError, MissingFileError)):
                read(tmp_path)

    @pytest.mark.parametrize(
        "edit",
        [
            lambda states: states.pop("module"),
            lambda states: states.pop("param_shapes"),
            lambda states: states["param_shapes"].append({}),
            lambda states: states["param_shapes"][0].update(more=wl.Size((1000,))),
            lambda states: states["param_shapes"][0].update(more=wl.Size((1 << 40, 1 << 40))),
            lambda states: states["param_shapes"][0].update(more=wl.Size((-1,))),
            lambda states: states.update(param_shapes=3),
            lambda states: states.update(buffer_names=[{}]),
            lambda states: states["module"].update(running=3),
            lambda states: states.update(frozen_param_fragments={}),
            lambda states: states.update(shared_params=3),
        ],
    )
    @pytest.mark.parametrize("stage", [2, 3])
    def test_hostile_model_states(self, tmp_path, edit, stage):
        name = "mp_rank_00_model_states.pt"
        if stage == 3:
            write_stage_3(tmp_path, 1)
            name = f"zero_pp_rank_0_{name}"
        else:
            write_stage_2(tmp_path, 1)
        change(tmp_path, name, edit)
        try:
            made = wl.load(tmp_path)
        except CheckpointError:
            return
        assert sum(value.nbytes for value in made.values()) < 2000  # an empty group more is no harm

    @pytest.mark.parametrize("tag", ["../other", "/etc", "..", "", "\0", "none"])
    def test_hostile_tags(self, tmp_path, tag):
        (tmp_path / "latest").write_text(tag)
        (tmp_path / "inner").mkdir()
        write_stage_2(tmp_path / "other", 1)
        (tmp_path / "inner" / "latest").write_text(tag)
        for folder in (tmp_path, tmp_path / "inner"):
            with pytest.raises(wl.NotACheckpointError):
                wl.load(folder)

    def test_parts_that_are_damaged(self, tmp_path):
        write_stage_2(tmp_path, 2)
        path = tmp_path / OPTIMIZER
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(DamagedError, match="zero_pp_rank_0"):
            wl.load(tmp_path)


def one_rank(folder):
    """What FSDP saved as a sharded state_dict before there was DTensor: pickled ShardedTensors, a file per process."""
    stub = Stub(GlobalRef("torch.distributed._shard.sharded_tensor.api", "ShardedTensor"))
    stub.state = (np.zeros(2),)
    wl.save({"w": stub}, folder / "rank0.pt")
    return folder / "rank0.pt"


def test_one_rank_of_fsdp(tmp_path):
    found = wl.load(one_rank(tmp_path), on_unknown="stub")["w"]
    assert found.name == "ShardedTensor"
    assert found.state[0].tolist() == [0, 0]


def test_one_rank_of_fsdp_with_torch(torch, tmp_path):
    with pytest.raises(UnsafeGlobalError, match=r"one process.*torch\.distributed\.checkpoint"):
        wl.load(one_rank(tmp_path), framework="torch")
