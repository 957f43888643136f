"""Optimizers and the learning-rate schedule.

Each optimizer honours two attributes, tensors () in fp32 on the weights' device, as torch's fused AdamW does: `found_inf` (where it is 1
the step changes nothing at all) and `grad_scale` (gradients are divided by it). So skipping a step, clipping and the loss scale of fp16
need neither a pass over the gradients nor a wait for the device.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn

from bessemer.core import device
from bessemer.core.config import Fraction, Positive
from bessemer.model.model import Block, Model
from bessemer.model.moe import Experts
from bessemer.train.optimizers.adamw8 import AdamW8
from bessemer.train.optimizers.muon import Muon, local

OptimizerName = Literal["adamw", "muon"]
Below1 = Annotated[float, Interval(ge=0.0, lt=1.0)]


@dataclass(frozen=True)
class OptimizerConfig:
    optimizer: OptimizerName = "adamw"  # muon: Muon for the matrices of the blocks, AdamW for the rest
    lr: Positive = 2e-3  # peak learning rate
    embed_lr: Positive = 1.0  # peak rate of embeddings and head, as a multiple of lr
    schedule: Literal["wsd", "cosine"] = "wsd"  # after the warm-up; wsd: constant, then a line down; cosine: half a wave down
    warmup: Fraction = 0.05  # share of the steps in which the rate rises
    decay: Fraction = 0.4  # share of the steps at the end in which it falls (wsd)
    final: Fraction = 0.0  # where it ends, as a share of the peak
    beta1: Below1 = 0.9
    beta2: Below1 = 0.95
    momentum: Below1 = 0.95  # of Muon
    weight_decay: Annotated[float, Ge(0.0)] = 0.1
    state_bits: Literal[32, 8] = 32  # of AdamW's two moments
    ema: Below1 = 0.0  # decay per step of an average of the weights that is evaluated and kept in their place; 0: none
    balance_rate: Positive = 1e-3  # how far an expert's bias moves in a step, where balance = bias


class Balancer(torch.optim.Optimizer):
    """Experts' biases, whose gradient is how much more than its share an expert got: each step moves them by `rate` against its sign
    (Wang et al. 2024, algorithm 1). The learning rate has no part in it."""

    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None  # nothing to do: a sign has no scale

    def __init__(self, biases: list[nn.Parameter], rate: float):
        super().__init__([{"params": biases, "name": "balance", "initial_lr": rate}], {"rate": rate})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for bias in (bias for bias in group["params"] if bias.grad is not None):
                move = local(bias.grad, bias).sign()
                if self.found_inf is not None:  # not times 0: the sign of nan is nan
                    move = torch.where(self.found_inf > 0, torch.zeros_like(move), move)
                local(bias.detach()).sub_(move, alpha=group["rate"])


def build(cfg: OptimizerConfig, parts: Sequence[Model], dtype: torch.dtype | None = None) -> list[torch.optim.Optimizer]:
    """The optimizers that together update every weight of `parts` once. Weights may be DTensors on any mesh.

    adamw: AdamW (Loshchilov and Hutter 2019) for everything; matrices decay, gains do not.
    muon: Muon (Jordan et al. 2024) for the matrices of the blocks, whose updates it makes orthogonal, scaled so that one `lr` fits both
    (Liu et al. 2025, eq. 4), one by one where experts stack them; AdamW for embeddings, head, routers and gains.

    dtype: of Muon's matrix products, the one the run computes in; None: whichever is faster here. Each group of each optimizer has its
    `name` (embedding, head, matrices, experts, routers, gains, balance) and `initial_lr`, the peak of its rate.
    """
    groups = _groups(cfg, parts)
    biases = [bias for part in parts for bias in balancing(part)]
    built: list[torch.optim.Optimizer] = []
    if cfg.optimizer == "muon":
        ours = [group for group in groups if group["name"] in ("matrices", "experts")]
        groups = [group for group in groups if group["name"] not in ("matrices", "experts")]
        if ours:
            dtype = dtype or device.precision("auto", ours[0]["params"][0].device)
            built.append(Muon(ours, cfg.momentum, dtype))
    betas = (cfg.beta1, cfg.beta2)
    if cfg.state_bits == 8:
        built.append(AdamW8([group for group in groups if group["name"] != "gains"], betas))
        groups = [group for group in groups if group["name"] == "gains"]
    if groups:
        built.append(torch.optim.AdamW(groups, betas=betas, eps=1e-8, fused=True))
    return [*built, Balancer(biases, cfg.balance_rate)] if biases else built


def balancing(model: nn.Module) -> list[nn.Parameter]:
    """The biases that keep experts' loads even: no loss has a part in them."""
    return [part.expert_bias for part in model.modules() if isinstance(part, Experts) and part.expert_bias is not None]


def trained(model: nn.Module) -> list[nn.Parameter]:
    """All other weights that learn."""
    apart = {id(bias) for bias in balancing(model)}
    return [weight for weight in model.parameters() if weight.requires_grad and id(weight) not in apart]


def schedule(step: int, steps: int, cfg: OptimizerConfig) -> float:
    """Share of the peak rate at `step`: linear warm-up, then constant and a line down to `cfg.final` (Hägele et al. 2024), or a cosine
    down to it (Loshchilov and Hutter 2017).

    `warmup` and `decay` are shares of `steps`. The last step still moves: the rate reaches `final` only after it.
    """
    rising, falling = cfg.warmup * steps, cfg.decay * steps
    rise = (step + 1) / rising if rising else 1.0
    if cfg.schedule == "cosine":
        done = max(step - rising, 0.0) / (steps - rising) if steps > rising else 0.0
        fall = (1 + math.cos(math.pi * done)) / 2
    else:
        fall = min(1.0, (steps - step) / falling) if falling else 1.0
    return min(1.0, rise, cfg.final + (1 - cfg.final) * fall)


def _groups(cfg: OptimizerConfig, parts: Sequence[Model]) -> list[dict[str, Any]]:
    """Weights that are treated alike: of one name, and on one mesh, since a fused kernel takes no two."""
    found: dict[Any, dict[str, Any]] = {}
    for part in parts:
        kinds = dict(_kinds(part))
        for weight in trained(part):
            name = "gains" if weight.dim() < 2 else kinds[id(weight)]
            lr = cfg.lr * cfg.embed_lr if name in ("embedding", "head") else cfg.lr
            decay = 0.0 if name == "gains" else cfg.weight_decay
            group = {"params": [], "name": name, "lr": lr, "initial_lr": lr, "weight_decay": decay}
            found.setdefault((name, getattr(weight, "device_mesh", None)), group)["params"].append(weight)
    return list(found.values())


def _kinds(model: nn.Module) -> Iterator[tuple[int, str]]:
    """By id, what each weight of two or three dimensions is for.

    A table that is looked up is an embedding, wherever it stands, also when a head is tied to it. A router's rows are each an expert's
    own, and the gate of shared experts has one row: neither is a matrix whose update is to be made orthogonal.
    """
    within = {id(weight) for block in model.modules() if isinstance(block, Block) for weight in block.parameters()}
    tables = {id(weight) for part in model.modules() if isinstance(part, nn.Embedding) for weight in part.parameters(recurse=False)}
    for name, weight in model.named_parameters():
        if id(weight) in tables:
            yield id(weight), "embedding"
        elif id(weight) not in within:
            yield id(weight), "head"
        elif name.endswith(("router.weight", "shared_gate.weight")):
            yield id(weight), "routers"
        else:
            yield id(weight), "experts" if weight.dim() == 3 else "matrices"
