"""What test_muon.py starts as four processes: each optimizer on DTensors, step by step against itself on the whole tensors."""

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from bessemer.train.optimizers.adamw8 import AdamW8
from bessemer.train.optimizers.average import Average
from bessemer.train.optimizers.muon import Muon
from bessemer.train.optimizers.optimizer import Balancer


class Pair(nn.Module):
    """Five matrices, three of one shape, whose rows four ranks cannot share evenly; stacks of 3 and of 4; a vector."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.gate, self.again = (nn.Linear(16, 12, bias=False) for _ in range(3))
        self.down, self.odd = nn.Linear(128, 16, bias=False), nn.Linear(16, 7, bias=False)
        self.few, self.many = nn.Parameter(torch.randn(3, 8, 16)), nn.Parameter(torch.randn(4, 8, 16))
        self.gain = nn.Parameter(torch.ones(6))


def sharded(kind: str) -> Pair:
    model = Pair()
    if kind == "shard":
        fully_shard(model, mesh=init_device_mesh("cpu", (4,)))
    elif kind == "hybrid":
        fully_shard(model, mesh=init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard")))
    else:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("shard", "tensor"))
        plan = {"up": ColwiseParallel(), "gate": ColwiseParallel(), "again": ColwiseParallel(), "down": RowwiseParallel()}
        parallelize_module(model, mesh["tensor"], plan)
        fully_shard(model, mesh=mesh["shard"])
    return model


def cut(whole: Tensor, like: Tensor) -> DTensor:
    """`whole` laid out as `like`: its own rows and columns, found by sending their numbers the way FSDP sent the weights."""
    assert isinstance(like, DTensor)
    from torch.distributed.tensor import Replicate

    every = DTensor.from_local(whole, like.device_mesh, [Replicate()] * like.device_mesh.ndim, run_check=False)
    return every.redistribute(placements=like.placements)


def meshes(weights: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    found: dict[DeviceMesh, list[nn.Parameter]] = {}
    for weight in weights:
        found.setdefault(weight.device_mesh, []).append(weight)  # type: ignore[attr-defined]
    return list(found.values())


def make(name: str, model: Pair) -> torch.optim.Optimizer:
    weights = [weight for weight in model.parameters() if name in ("adamw", "balance") or weight.dim() > 1]
    split = meshes(weights) if isinstance(weights[0], DTensor) else [weights]
    groups = [{"params": group, "lr": 0.1, "weight_decay": 0.1} for group in split]
    if name == "muon":
        return Muon(groups, 0.95, torch.float32)
    if name == "adamw":
        return torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    return AdamW8(groups, (0.9, 0.95)) if name == "adamw8" else Balancer(weights, 0.1)


def run(kind: str, name: str) -> None:
    ours, whole = sharded(kind), Pair()
    mine, reference = make(name, ours), make(name, whole)
    averages = Average([ours], 0.9), Average([whole], 0.9)
    for step in range(4):
        torch.manual_seed(100 + step)
        bad, scale = torch.tensor(float(step == 2)), torch.tensor(2.0)
        for weight, part in zip(whole.parameters(), ours.parameters(), strict=True):
            gradient = torch.randn(weight.shape)
            if step == 2:
                gradient.fill_(torch.nan)
            weight.grad, part.grad = gradient, cut(gradient.clone(), part)
        for update in (mine, reference):
            update.found_inf, update.grad_scale = bad, scale  # type: ignore[attr-defined]
            update.step()
        for average in averages:
            average.update(bad)
    averages[0].swap()
    moved = 0.0
    for (title, part), weight, start, mean in zip(
        ours.named_parameters(), whole.parameters(), Pair().parameters(), averages[1].means.values(), strict=True
    ):
        inside = averages[0].means[title].full_tensor()
        torch.testing.assert_close(inside, weight.detach(), atol=2e-6, rtol=2e-6, msg=lambda text, at=title: f"{kind} {name} {at}: {text}")
        torch.testing.assert_close(part.detach().full_tensor(), mean, atol=2e-6, rtol=2e-6)
        moved = max(moved, (inside - start).abs().max().item())
    assert moved > 0.05, (kind, name, moved)
    for weight in ours.parameters():  # what a checkpoint needs in order to fit other ranks
        for key, value in mine.state.get(weight, {}).items():
            assert key == "step" or (isinstance(value, DTensor) and value.placements == weight.placements and len(value) == len(weight)), key


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    for kind in ("shard", "hybrid", "tensor"):
        for name in ("muon", "adamw", "adamw8", "balance"):
            run(kind, name)
    distributed.destroy_process_group()
