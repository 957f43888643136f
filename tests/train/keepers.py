"""Checkpoints from one number of ranks to another, for tests: `python -m tests.train.keepers FOLDER` is one of two processes."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bessemer.core import dist
from bessemer.model.model import Model, initialise
from bessemer.train.means import Means
from bessemer.train.optimizers.average import Average
from bessemer.train.optimizers.optimizer import OptimizerConfig, build
from bessemer.train.parallel.mesh import MeshConfig
from bessemer.train.parallel.spread import spread
from bessemer.train.resume.checkpoint import Checkpoints
from tests.train import runs

STEP, EXTRAS = 7, {"dtype": "bf16", "meter": {"tokens": 12345, "joules": 0.1}}
# 51 words and 3 blocks' gains: two ranks get unequal shares, and of some tensors one gets nothing.
DENSE = replace(runs.SMALL, vocab=51, depth=3, tied=True)
MODELS = {"dense": DENSE, "experts": replace(runs.RUNS["balanced"][0], vocab=51)}
OPTIMIZERS = {
    "adamw": OptimizerConfig(ema=0.9),
    "muon": OptimizerConfig(optimizer="muon", ema=0.9),
    "bytes": OptimizerConfig(state_bits=8, ema=0.9),
}
MESHES = {
    "replicas": MeshConfig(),
    "sharded": MeshConfig(zero=3),
    "tensor": MeshConfig(tensor=2),
    "stages": MeshConfig(pipeline=2),
    "apart": MeshConfig(expert=2),
}
KINDS = [  # model, optimizer, mesh
    *[("dense", optimizer, mesh) for optimizer in ("adamw", "muon") for mesh in MESHES if mesh != "apart"],
    ("dense", "bytes", "sharded"),
    ("experts", "muon", "sharded"),
    ("experts", "muon", "apart"),
    ("experts", "adamw", "replicas"),
]


@dataclass(frozen=True)
class Config:
    """What a Spread asks of a FitConfig."""

    mesh: MeshConfig
    micro_batch: int = 2
    batch: int = 8
    recompute: bool = False
    precision: str = "fp32"


class Run:
    """Models, optimizers and an average of one rank."""

    def __init__(self, model: str, optimizer: str, mesh: str = "replicas", seed: int = 0):
        whole = Model(MODELS[model])
        initialise(whole, seed)
        _, objective, _ = runs.RUNS["predict"]
        self.parts = spread(Means(whole, objective, torch.float32), Config(MESHES[mesh]), torch.device("cpu")).parts  # type: ignore[arg-type]
        self.optimizers = build(OPTIMIZERS[optimizer], self.parts, torch.float32)
        self.average = Average(self.parts, 0.9)

    def step(self) -> None:
        """A step along gradients that are drawn, so that all state is there and tells its weights apart."""
        draw = torch.Generator().manual_seed(1)
        for part in self.parts:
            for weight in part.parameters():
                weight.grad = torch.randn(weight.shape, generator=draw)
        for optimizer in self.optimizers:
            optimizer.step()
        self.average.update()

    def extras(self) -> dict[str, Any]:
        return {"average": self.average.state_dict(), **EXTRAS}

    def save(self, folder: Path, step: int) -> None:
        keeper = Checkpoints(folder)
        keeper.save(step, self.parts, self.optimizers, self.extras())
        keeper.close()

    def load(self, folder: Path) -> tuple[int, dict[str, Any]]:
        return Checkpoints(folder).load(self.parts, self.optimizers, {"average": self.average.state_dict()})


def outcome(work: Callable[[], Any]) -> str:
    try:
        return str(work())
    except (ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"


def main(folder: Path) -> None:
    dist.start()
    said = {}
    for kind in KINDS:
        run = Run(*kind, seed=1)
        name = "-".join(kind)
        step, extras = run.load(folder / "-".join(kind[:2]))
        said[name] = [step, {key: value for key, value in extras.items() if key != "average"}]
        run.save(folder / name, step + 1)
    dense = Run("dense", "adamw")
    said["damaged"] = outcome(lambda: dense.load(folder / "damaged")[0])
    said["other"] = outcome(lambda: dense.load(folder / "other"))
    said["full"] = outcome(lambda: dense.save(folder / "full", 1))
    (folder / f"said-{dist.rank()}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
