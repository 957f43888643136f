"""Runs of `fit` that stop on one kind of ranks and go on upon another: `python elsewhere.py FOLDER` is one process of those torchrun would start."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from bessemer.core import dist
from bessemer.model.model import Model
from bessemer.train.loop import FitConfig, fit
from bessemer.train.objective import Batch
from bessemer.train.parallel.mesh import MeshConfig
from tests.train import grids
from tests.train.grids import DEEP, Grid, mesh

STEPS, STOP = 7, 3
TWO = {
    "copies": Grid("predict", mesh()),
    "optimizer sharded": Grid("predict", mesh(zero=1)),
    "gradients sharded": Grid("predict", mesh(zero=2), {"tied": False}),
    "weights sharded": Grid("experts", mesh(zero=3)),
    "matrices split": Grid("predict", mesh(tensor=2)),
    "two stages": Grid("predict", mesh(pipeline=2), DEEP),
    "interleaved": Grid("predict", mesh(pipeline=2, interleave=2), DEEP),
    "two shares of experts": Grid("balanced", mesh(expert=2)),
    "two halves of a row": Grid("predict", mesh(context=2)),
}
FOUR = {
    "copies of shards": Grid("predict", mesh(zero=2, shards=2)),
    "matrices split, sharded": Grid("predict", mesh(tensor=2, zero=1)),
    "pipelines": Grid("predict", mesh(pipeline=2, zero=3), DEEP),
    "experts twice": Grid("balanced", mesh(expert=2)),
}


def train(folder: Path, grid: Grid, alone: bool, stop: bool) -> Model | None:
    """Train, or go on: on the grid's ranks or `alone`, to the end or to a SIGTERM after some steps. None where that came."""
    _, objective, source = grids.RUNS[grid.run]
    built = grids.model(grid).float()

    def rows(step: int) -> Batch:
        if stop and step == STOP:
            os.kill(os.getpid(), signal.SIGTERM)
        return source(step)

    shared = MeshConfig() if alone else replace(grid.mesh, ranks=dist.world())
    cfg = FitConfig(steps=STEPS, batch=8, precision="fp32", compile=False, optimizer="muon", lr=1e-2, ema=0.5, save_every=100, mesh=shared)
    try:
        list(fit(built, objective, rows, cfg, folder))
    except SystemExit:
        return None
    return built


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    dist.start()
    torch.set_num_threads(1)
    for name, grid in (FOUR if dist.world() == 4 else TWO).items():
        assert train(folder / "there" / name, grid, alone=False, stop=True) is None
        end = train(folder / "here" / name, grid, alone=False, stop=False)
        if end and dist.rank() == 0:
            torch.save(end.state_dict(), folder / "here" / name / "end.pt")
