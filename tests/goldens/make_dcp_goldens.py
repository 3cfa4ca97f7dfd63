"""Makes the golden folders of torch.distributed.checkpoint: two gloo processes, FSDP and DTensor.

usage: python -m tests.goldens.make_dcp_goldens FOLDER     (from the root of the project, with torch installed)
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WORLD = 2


def expected() -> dict[str, Any]:
    """Return the numbers that the folders hold, by name, as lists."""
    import torch

    torch.manual_seed(0)
    return {
        "rows": torch.arange(35.0).reshape(7, 5),
        "columns": torch.arange(24, dtype=torch.int32).reshape(4, 6),
        "blocks": torch.arange(60, dtype=torch.float64).reshape(5, 4, 3),
        "half": torch.arange(10, dtype=torch.float16),
        "one": torch.arange(3, dtype=torch.int64),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
    }


def _state(mesh: Any) -> dict[str, Any]:
    import torch
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    whole = expected()
    return {
        "model": {
            "rows": distribute_tensor(whole["rows"], mesh, [Shard(0)]),
            "columns": distribute_tensor(whole["columns"], mesh, [Shard(1)]),
            "blocks": distribute_tensor(whole["blocks"], mesh, [Shard(1)]),
            "half": distribute_tensor(whole["half"], mesh, [Shard(0)]),
            "one": distribute_tensor(whole["one"], mesh, [Replicate()]),
        },
        "plain": {"scalar": whole["scalar"], "empty": whole["empty"], "seen": [torch.ones(2), torch.zeros(1)]},
        "epoch": 3,
        "args": {"lr": 0.001, "name": "größer", "betas": (0.9, 0.99), "none": None},
        "text": "x",
    }


def _fsdp(mesh: Any) -> dict[str, Any]:
    import torch
    from torch.distributed.checkpoint.state_dict import get_state_dict
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2))
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    found, optimizer_state = get_state_dict(model, optimizer)
    return {"model": found, "optim": optimizer_state}


def work(rank: int, folder: Path) -> None:
    """Be one of the processes."""
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    try:
        mesh = init_device_mesh("cpu", (WORLD,))
        dcp.save(_state(mesh), checkpoint_id=folder / "dtensor")
        fsdp = _fsdp(mesh)
        dcp.save(fsdp, checkpoint_id=folder / "fsdp")
        full = {name: value.full_tensor() for name, value in fsdp["model"].items()}
        moments = {
            name: state["exp_avg"].full_tensor() for name, state in fsdp["optim"]["state"].items()
        }  # fmt: skip
        if rank == 0:
            numbers = {name: value.tolist() for name, value in full.items()}
            averages = {name: value.tolist() for name, value in moments.items()}
            (folder / "fsdp.json").write_text(json.dumps({"model": numbers, "exp_avg": averages}) + "\n")
        sharded = _state(mesh)["model"]
        dcp.save(sharded, storage_writer=HuggingFaceStorageWriter(str(folder / "hf"), save_distributed=True))
    finally:
        dist.destroy_process_group()


def main(folder: Path) -> None:
    """Write ``dtensor``, ``fsdp``, ``hf`` and the numbers of ``fsdp.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.goldens.make_dcp_goldens"]
    others = [subprocess.Popen([*command, str(rank), str(folder)]) for rank in range(WORLD)]
    if any(process.wait(300) for process in others):
        raise SystemExit("a process failed")
    (folder / "store").unlink(missing_ok=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        work(int(sys.argv[1]), Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory():
            main(Path(sys.argv[1]))
