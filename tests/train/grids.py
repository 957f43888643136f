"""Steps of training on a grid of processes, for tests: `python grids.py FOLDER NAME,NAME...` is one process of those that torchrun would start."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from bessemer.core import dist
from bessemer.model.model import Model, initialise
from bessemer.train.means import Means, totals, weighed
from bessemer.train.objective import predict
from bessemer.train.parallel.mesh import MeshConfig
from bessemer.train.parallel.spread import spread
from tests.train import runs

STEPS = 3
DEEP = {"depth": 4}
RUNS = {**runs.RUNS, "packed": (runs.SMALL, predict, runs.packed)}


@dataclass(frozen=True)
class Config:
    """What a Spread asks of a FitConfig."""

    mesh: MeshConfig
    micro_batch: int = 0
    batch: int = 8
    recompute: bool = False
    precision: str = "fp32"


@dataclass(frozen=True)
class Grid:
    """A run of tests/train/runs.py with other fields of the model, on a mesh."""

    run: str
    mesh: MeshConfig
    changes: dict = field(default_factory=dict)
    micro_batch: int = 0
    scale: float = 1.0  # of the loss, as for fp16


def mesh(**axes: int) -> MeshConfig:
    return MeshConfig(**axes)


TWO = {
    "two stages": Grid("predict", mesh(pipeline=2), DEEP, micro_batch=2, scale=8.0),
    "untied": Grid("predict", mesh(pipeline=2), {**DEEP, "tied": False, "value_embed": True}),
    "interleaved": Grid("predict", mesh(pipeline=2, interleave=2), {"depth": 5}, micro_batch=2),
    "pairs": Grid("prefer", mesh(pipeline=2), DEEP, micro_batch=4),
    "masked": Grid("masked", mesh(pipeline=2), DEEP, micro_batch=1),
    "ahead": Grid("ahead", mesh(pipeline=2), {"ffn": "dense", "act": "gelu"}, micro_batch=4),
    "two shares of experts": Grid("experts", mesh(expert=2), micro_batch=3),
    "balanced experts": Grid("balanced", mesh(expert=2)),
    "two halves of a row": Grid("predict", mesh(context=2), {"qk_norm": True, "window": 9}, micro_batch=3),
    "packed": Grid("packed", mesh(context=2), {"position": "learned"}),
}
FOUR = {
    "four stages": Grid("predict", mesh(pipeline=4), {"depth": 5}, micro_batch=1),
    "pipelines": Grid("predict", mesh(pipeline=2), DEEP, micro_batch=2),
    "sharded pipelines": Grid("predict", mesh(pipeline=2, zero=3), DEEP, micro_batch=2),
    "interleaved pipelines": Grid("predict", mesh(pipeline=2, interleave=2, zero=1), {**DEEP, "tied": False}, micro_batch=2),
    "four shares of experts": Grid("experts", mesh(expert=4)),
    "experts twice": Grid("balanced", mesh(expert=2), micro_batch=2),
    "experts and shards": Grid("experts", mesh(expert=2, zero=3)),
    "four quarters of a row": Grid("predict", mesh(context=4)),
    "halves of rows": Grid("packed", mesh(context=2, zero=2)),
}


def model(grid: Grid) -> Model:
    built = Model(replace(RUNS[grid.run][0], **grid.changes))
    initialise(built, 0)
    # In fp64 no gradient is so small that AdamW makes a whole step of its rounding. Grouped products know fp32 only.
    return built if built.cfg.ffn == "moe" else built.double()


def train(grid: Grid) -> dict:
    """A few steps of AdamW. Returns the weights at the end, each step's means and gradient norm, held-out means, and how many numbers the
    weights of this rank have; whole on rank 0 only."""
    _, objective, source = RUNS[grid.run]
    built = model(grid)
    cfg = Config(grid.mesh, grid.micro_batch)
    share = spread(Means(built, objective, torch.float32), cfg, torch.device("cpu"))  # type: ignore[arg-type]
    weights = [weight for part in share.parts for weight in part.parameters()]
    update = torch.optim.AdamW(weights, lr=1e-2, eps=1e-6, foreach=False)
    rows = []
    for step in range(STEPS):
        batch = weighed(source(step))
        own = {name: column[share.rows[0] :: share.rows[1]] for name, column in batch.items()}
        sums = share.add(share.backward(own, totals([batch]), grid.micro_batch, torch.tensor(grid.scale)))
        norm = share.norm()
        for weight in weights:
            if weight.grad is not None:
                weight.grad.mul_(1 / norm)
        update.step()
        update.zero_grad()
        rows.append({name: value.item() for name, value in sums.items()} | {"norm": norm.item() / grid.scale})
    held_out = weighed(source(100))
    rows.append({name: value.item() for name, value in share.means(held_out, totals([held_out])).items()})
    share.gather(built)
    held = sum(weight.to_local().numel() if isinstance(weight, DTensor) else weight.numel() for weight in weights)
    return {"weights": {name: weight.detach().clone() for name, weight in built.state_dict().items()}, "rows": rows, "held": held}


if __name__ == "__main__":
    folder, names = Path(sys.argv[1]), sys.argv[2].split(",")
    dist.start()
    torch.set_num_threads(1)
    grids = FOUR if dist.world() == 4 else TWO
    for name in names:
        end = train(grids[name])
        everybody = [None] * dist.world()
        torch.distributed.all_gather_object(everybody, end["held"])
        end["held"] = everybody
        if dist.rank() == 0:
            torch.save(end, folder / f"{name}.pt")
    torch.distributed.destroy_process_group()
