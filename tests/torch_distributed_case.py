"""Run as a script: state_dicts of DTensor and of FSDP, in a gloo group of one process, saved and loaded again."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    api, folder = sys.argv[1], Path(sys.argv[2])
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    if api == "weighlock":
        sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
        import weighlock.torch as pt
    else:
        pt = torch
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        path = folder / "dtensor.pt"
        tensor = distribute_tensor(torch.arange(12.0).reshape(4, 3), mesh, [Shard(0)])
        pt.save({"d": tensor, "plain": torch.ones(2)}, path)
        for weights_only in (True, False):
            loaded = pt.load(path, weights_only=weights_only)
            assert isinstance(loaded["d"], DTensor)
            assert loaded["d"].placements == tensor.placements
            assert torch.equal(loaded["d"].to_local(), tensor.to_local())
        print("dtensor")
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        fully_shard(model, mesh=mesh)
        path = folder / "fsdp.pt"
        state = model.state_dict()
        pt.save(state, path)
        loaded = pt.load(path)
        assert list(loaded) == list(state)
        assert all(torch.equal(loaded[key].to_local(), state[key].to_local()) for key in state)
        model.load_state_dict(loaded)
        print("fsdp")
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
