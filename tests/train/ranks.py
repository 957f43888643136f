"""Training steps of small models, shared out over 2 and then 4 processes: `python -m tests.train.ranks FOLDER [CASE ...]`."""

import importlib
import os
import socket
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing
from torch.distributed.tensor import DTensor

from bessemer.core import dist
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model, initialise
from bessemer.train.means import Means, totals, weighed
from bessemer.train.objective import Objective
from bessemer.train.optimizers.optimizer import Balancer, balancing, trained
from bessemer.train.parallel.mesh import MeshConfig
from bessemer.train.parallel.spread import spread
from tests.train import runs

STEPS = 2


@dataclass(frozen=True)
class Case:
    """A run of runs.RUNS or of MORE, on a mesh."""

    run: str
    mesh: MeshConfig = field(default_factory=MeshConfig)
    micro_batch: int = 0
    batch: int = 8
    dtype: torch.dtype = torch.float32  # of matrix products
    scale: float = 1.0  # of the loss, as fp16 needs it


@dataclass(frozen=True)
class Fit:
    """What a spread asks of a FitConfig."""

    mesh: MeshConfig
    batch: int
    micro_batch: int


BIASED = replace(runs.SMALL, bias="all", ffn="dense", act="gelu", norm="layer", qk_norm=True, tied=False, vocab=51)
MORE: dict[str, tuple[ModelConfig, Objective, Any]] = {
    "biased": (BIASED, runs.predict, runs.tokens),  # biases, gains of heads, a vocabulary that no two ranks can split
    "extras": (replace(runs.SMALL, value_embed=True, embed_skip=True), runs.predict, runs.packed),
    "shaw": (replace(runs.SMALL, position="relative", reach=4, qk_norm=True), runs.predict, runs.packed),
    "both": (replace(runs.SMALL, kv_heads=4, shape="encoder", head="lm+pair", types=2, bias="qkv"), runs.masked_pair, runs.masked),
    "prefer_": (replace(runs.SMALL, tied=False), runs.RUNS["prefer"][1], runs.pairs),
}
TWO = {
    "ddp": Case("predict"),
    "ddp micro": Case("copied", micro_batch=3),
    "ddp uneven": Case("balanced", micro_batch=2, batch=7),
    "ddp masked": Case("masked", micro_batch=1),
    "ddp ahead": Case("ahead", micro_batch=2, batch=5),
    "ddp unused": Case("unused"),
    "zero1": Case("predict", MeshConfig(zero=1), micro_batch=2),
    "zero1 uneven": Case("balanced", MeshConfig(zero=1), micro_batch=2, batch=7),
    "zero2": Case("copied", MeshConfig(zero=2), micro_batch=2),
    "zero2 ahead": Case("ahead", MeshConfig(zero=2)),
    "zero3": Case("ahead", MeshConfig(zero=3), micro_batch=3),
    "zero3 masked": Case("masked", MeshConfig(zero=3), batch=7),
    "zero3 unused": Case("unused", MeshConfig(zero=3), micro_batch=2),
    "zero3 scaled": Case("predict", MeshConfig(zero=3), micro_batch=2, scale=1024.0),
    "zero1 bf16": Case("predict", MeshConfig(zero=1), micro_batch=2, dtype=torch.bfloat16),
    "zero3 bf16": Case("balanced", MeshConfig(zero=3), micro_batch=3, dtype=torch.bfloat16),
    "tensor bf16": Case("both", MeshConfig(tensor=2), dtype=torch.bfloat16),
    "zero3 rwkv": Case("rwkv", MeshConfig(zero=3)),
    "zero3 prefer": Case("prefer", MeshConfig(zero=3), micro_batch=3, batch=5),
    "tensor": Case("predict", MeshConfig(tensor=2), micro_batch=3),
    "tensor copied": Case("copied", MeshConfig(tensor=2)),
    "tensor masked": Case("both", MeshConfig(tensor=2)),
    "tensor biased": Case("biased", MeshConfig(tensor=2)),
    "tensor shaw": Case("shaw", MeshConfig(tensor=2)),
    "tensor extras": Case("extras", MeshConfig(tensor=2), micro_batch=3),
    "zero2 extras": Case("extras", MeshConfig(zero=2), dtype=torch.bfloat16),
    "tensor prefer": Case("prefer_", MeshConfig(tensor=2)),
}
FOUR = {
    "four ddp": Case("balanced", batch=6),
    "four empty": Case("predict", batch=3),
    "four zero3": Case("copied", MeshConfig(zero=3), batch=7, micro_batch=1),
    "hsdp": Case("ahead", MeshConfig(zero=3, shards=2), micro_batch=1),
    "hsdp zero1": Case("balanced", MeshConfig(zero=1, shards=2), micro_batch=1),
    "tensor data": Case("copied", MeshConfig(tensor=2), micro_batch=2),
    "tensor zero1": Case("biased", MeshConfig(tensor=2, zero=1), micro_batch=2),
    "tensor zero3": Case("shaw", MeshConfig(tensor=2, zero=3), micro_batch=3, batch=7),
    "tensor zero2 tied": Case("both", MeshConfig(tensor=2, zero=2), micro_batch=3),
}
MORE["unused"] = (replace(runs.SMALL, shape="encoder", head="lm+pair", types=2), runs.predict, lambda step: runs.tokens(step))


def train(case: Case, steps: int = STEPS) -> dict[str, Any]:
    """A few steps of AdamW. Losses, norms and held-out means of every step, and the weights at the end."""
    cfg, objective, source = (runs.RUNS | MORE)[case.run]
    model = Model(cfg)
    initialise(model, 0)
    if cfg.ffn != "moe" and case.dtype == torch.float32:  # experts' products are not for fp64
        model.double()  # AdamW makes large steps of the smallest gradients, rounding included
    shared = spread(Means(model, objective, case.dtype), Fit(case.mesh, case.batch, case.micro_batch), torch.device("cpu"))  # type: ignore[arg-type]
    weights, biases = trained(shared.parts[0]), balancing(shared.parts[0])
    plain, cut = [w for w in weights if not isinstance(w, DTensor)], [w for w in weights if isinstance(w, DTensor)]
    updates = [torch.optim.AdamW(one, lr=1e-2, eps=1e-5, foreach=False) for one in (plain, cut) if one] + [Balancer([b], 1e-3) for b in biases]
    found: dict[str, Any] = {"losses": [], "norms": [], "held_out": []}
    for step in range(steps):
        batch = weighed({name: column[: case.batch] for name, column in source(step).items()})
        own = {name: column[shared.rows[0] :: shared.rows[1]] for name, column in batch.items()}
        sums = shared.add(shared.backward(own, totals([batch]), case.micro_batch, torch.tensor(case.scale)))
        found["losses"].append({name: value.item() for name, value in sums.items()})
        found["norms"].append(shared.norm().item() / case.scale)
        for weight in shared.parts[0].parameters():
            if weight.grad is not None:
                weight.grad /= case.scale
        for update in updates:
            update.step()
            update.zero_grad()
        batch = weighed(source(1000 + step))
        found["held_out"].append({name: value.item() for name, value in shared.means(batch, totals([batch])).items()})
    shared.gather(model)
    return found | {"weights": model.state_dict()}


def work(rank: int, world: int, port: int, folder: Path, cases: dict[str, Case]) -> None:
    """What one process does."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.start()
    for name, case in cases.items():
        end = train(case)
        if rank == 0:
            torch.save(end, folder / f"{name}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    # Forked, since what they import takes longer than what they do.
    importlib.import_module("torch._dynamo")
    importlib.import_module("bessemer.train.parallel.tensor")
    for world, cases in ((2, TWO), (4, FOUR)):
        chosen = {name: case for name, case in cases.items() if name in sys.argv[2:] or len(sys.argv) == 2}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        multiprocessing.start_processes(work, (world, port, Path(sys.argv[1]), chosen), world, start_method="fork")
