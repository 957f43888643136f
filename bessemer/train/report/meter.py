"""What a run says about itself: its speed, how much of the machine that is, memory, energy, and how far each step moves the weights."""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, distributed

from bessemer.core import device, dist
from bessemer.core.config import Positive, runtime
from bessemer.train.report.energy import Energy, memory

POLL = 30.0  # seconds in which the energy counters are read at least once


@dataclass(frozen=True)
class MeterConfig:
    tensorboard: bool = runtime(False)  # write the metrics for TensorBoard too, to run/tensorboard
    wandb: str = runtime("")  # project at Weights & Biases that gets the metrics too; empty: none
    carbon_intensity: Positive = runtime(445.0)  # grams of CO2e for a kWh of electricity; the world's mean of 2024 (IEA, Electricity 2025)
    power: Annotated[float, Ge(0.0)] = runtime(0.0)  # watts that a machine draws, where you know it; 0: measured, or estimated where it does not tell


class Meter:
    """Counts what a run does and takes, on one of the `ranks` processes that train together.

    Speed is that since `begin`; tokens, energy and carbon are the whole run's, over resumes. What was spent between the last checkpoint
    and a kill is not in them.
    """

    def __init__(self, cfg: MeterConfig, where: torch.device, dtype: torch.dtype, ranks: int):
        self.where, self.ranks, self.carbon_intensity = where, ranks, cfg.carbon_intensity
        with dist.first():  # all at once would measure each other
            self.peak = device.matmul_rate(where, dtype) * ranks
        self.before = {"tokens": 0.0, "energy_j": 0.0, "energy_estimated_j": 0.0}  # by the processes that were killed
        self.energy = Energy(where, first=os.environ.get("LOCAL_RANK", "0") == "0", watts=cfg.power)
        self.seen, self.polled = 0, time.perf_counter()
        self.begin()

    def begin(self) -> None:
        """The speed of the next numbers counts from here: what came before, an evaluation say, was no training."""
        self.began, self.tokens, self.flops = time.perf_counter(), 0, 0.0

    def add(self, tokens: int, flops: float) -> None:
        """A step of all ranks together is on its way. Nothing waits for it."""
        self.tokens, self.flops, self.seen = self.tokens + tokens, self.flops + flops, self.seen + tokens
        if time.perf_counter() - self.polled > POLL:
            self.energy.read()
            self.polled = time.perf_counter()

    def numbers(self) -> dict[str, float]:
        """What stands in a report. Waits for the device. Every rank calls it, and gets the same but for its own speed.

        tokens_per_second, mfu: tflops, those of the model, over peak_tflops, those of a large matrix product on all ranks. memory_gb,
        memory_now_gb: of the rank that takes most; a GPU's as allocated, else the process's. tokens. energy_j, carbon_g of what was
        measured, and energy_estimated_j of what was not; as soon as a part is estimated the carbon is called carbon_estimated_g.
        """
        if self.where.type == "cuda":
            torch.cuda.synchronize(self.where)
        spent = time.perf_counter() - self.began
        taken, now, most = self._taken()
        rate = self.flops / spent
        joules = {name: taken[name] for name in ("energy_j", "energy_estimated_j") if taken[name]}
        carbon = "carbon_estimated_g" if "energy_estimated_j" in joules else "carbon_g"
        return {
            "tokens_per_second": self.tokens / spent,
            "mfu": rate / self.peak,
            "tflops": rate / 1e12,
            "peak_tflops": self.peak / 1e12,
            "memory_gb": most,
            "memory_now_gb": now,
            "tokens": int(taken["tokens"]),
            **joules,
            carbon: sum(joules.values()) / 3.6e6 * self.carbon_intensity,
        }

    def state_dict(self) -> dict[str, float]:
        """The totals so far, of all ranks. Every rank calls it."""
        return self._taken()[0]

    def load_state_dict(self, saved: dict[str, float]) -> None:
        """Go on from the totals of a run that was killed."""
        self.before = dict(saved)

    def _taken(self) -> tuple[dict[str, float], float, float]:
        """Totals of all ranks, and the memory of the one that takes most: now, and at its most."""
        held = memory()
        if self.where.type == "cuda":
            held = torch.cuda.memory_allocated(self.where) / 1e9, torch.cuda.max_memory_allocated(self.where) / 1e9
        table = torch.zeros(self.ranks, 4, dtype=torch.float64)  # each rank fills a row of its own, so that the sum is a list
        table[dist.rank()] = torch.tensor([*self.energy.read(), *held], dtype=torch.float64)
        _add(table)
        measured, estimated = table[:, :2].sum(0).tolist()
        now, most = table[:, 2:].amax(0).tolist()
        since = {"tokens": self.seen, "energy_j": measured, "energy_estimated_j": estimated}
        return {name: self.before[name] + value for name, value in since.items()}, now, most


class Sizes:
    """How far the step that comes next moves each group of weights. Keeps a copy of all weights until it has said so."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]):
        self.groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self.before = [[_own(weight)[0].clone() for weight in group["params"]] for group in self.groups]

    def now(self) -> dict[str, float]:
        """RMS of the change over RMS of the weights before it, as "update: NAME". Every rank calls it once, and gets the same.

        A group whose weights were all 0 is left out.
        """
        sums: dict[str, Tensor] = {}
        for group, before in zip(self.groups, self.before, strict=True):
            for weight, was in zip(group["params"], before, strict=True):
                now, shards = _own(weight)
                size = torch.linalg.vector_norm(was)
                pair = torch.stack([torch.linalg.vector_norm(was.sub_(now)), size]).double().square()
                # On n ranks a whole weight is added n times and a shard n / shards times: so each counts n times, which cancels.
                sums[group["name"]] = sums.get(group["name"], torch.zeros_like(pair)) + shards * pair
        self.before = []
        names = _everybodys(sorted(sums))
        nothing = torch.zeros(2, dtype=torch.float64)
        table = torch.stack([sums[name].cpu() if name in sums else nothing for name in names])
        _add(table)
        return {f"update: {name}": (moved / size) ** 0.5 for name, (moved, size) in zip(names, table.tolist(), strict=True) if size > 0}


def _own(weight: Any) -> tuple[Tensor, int]:
    """What this rank holds of a weight, and into how many parts it is split."""
    if not hasattr(weight, "to_local"):
        return weight.detach(), 1
    shards = math.prod(ranks for ranks, kind in zip(weight.device_mesh.shape, weight.placements, strict=True) if not kind.is_replicate())
    return weight.detach().to_local(), shards


def _everybodys(names: list[str]) -> list[str]:
    """The names that any rank has: the first stage has an embedding, the last a head."""
    if dist.world() == 1:
        return names
    found: list[list[str]] = [[] for _ in range(dist.world())]
    distributed.all_gather_object(found, names)
    return sorted(set().union(*found))


def _add(table: Tensor) -> None:
    """Sum over all ranks, in place. On the processor: no GPU waits for it."""
    if dist.world() > 1:
        distributed.all_reduce(table)
