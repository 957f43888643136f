"""Optimizers and the learning-rate schedule."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from bessemer.model.model import Model
from bessemer.model.moe import Experts

OptimizerName = Literal["adamw", "muon"]


class Balancer(torch.optim.Optimizer):
    """Experts' biases, whose gradient is how much more than its share an expert got: each step moves them by `rate` against its sign
    (Wang et al. 2024, algorithm 1). The learning rate has no part in it."""

    def __init__(self, biases: list[nn.Parameter], rate: float):
        super().__init__(biases, {"rate": rate})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for bias in group["params"]:
                if bias.grad is not None:
                    bias.sub_(bias.grad.sign(), alpha=group["rate"])


class StackedMuon(torch.optim.Optimizer):
    """torch.optim.Muon, with match_rms_adamw, for stacks of matrices (E, A, B): each is made orthogonal by itself, all in one product."""

    def __init__(self, stacks: list[nn.Parameter], lr: float, weight_decay: float, momentum: float):
        super().__init__(stacks, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for stack in group["params"]:
                mean = self.state[stack].setdefault("momentum_buffer", torch.zeros_like(stack.grad))
                mean.lerp_(stack.grad, 1 - group["momentum"])
                update = orthogonal(stack.grad.lerp(mean, group["momentum"]))
                stack.mul_(1 - group["lr"] * group["weight_decay"])
                stack.add_(update, alpha=-group["lr"] * 0.2 * max(stack.shape[-2:]) ** 0.5)


def orthogonal(stack: Tensor) -> Tensor:
    """Each matrix of (E, A, B) with its singular values brought near 1: five steps of Newton and Schulz, in bf16 (Jordan et al. 2024)."""
    tall = stack.shape[-2] > stack.shape[-1]
    x = (stack.mT if tall else stack).bfloat16()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


def build(
    name: OptimizerName, model: Model, lr: float, betas: tuple[float, float], weight_decay: float, balance_rate: float
) -> list[torch.optim.Optimizer]:
    """The optimizers that together update every weight once.

    adamw: AdamW (Loshchilov and Hutter 2019) for everything; matrices decay, gains do not.
    muon: Muon (Jordan et al. 2024) for the matrices of the blocks, whose updates it makes orthogonal, scaled so that one `lr` fits both
    (Liu et al. 2025, eq. 4), one by one where experts stack them; AdamW for the embedding, the head and the gains.
    """
    biases = balancing(model)
    balancers = [Balancer(biases, balance_rate)] if biases else []
    weights = trained(model)
    if name == "adamw":
        return [_adamw(weights, lr, betas, weight_decay), *balancers]
    matrices = [weight for block in model.blocks for weight in _matrices(block)]
    stacks = [weight for weight in weights if weight.dim() == 3]
    chosen = {id(weight) for weight in [*matrices, *stacks]}
    rest = [weight for weight in weights if id(weight) not in chosen]
    muon: list[torch.optim.Optimizer] = [torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw")]
    if stacks:
        muon.append(StackedMuon(stacks, lr, weight_decay, momentum=0.95))
    return [*muon, _adamw(rest, lr, betas, weight_decay), *balancers]


def balancing(model: Model) -> list[nn.Parameter]:
    """The biases that keep experts' loads even: no loss has a part in them."""
    return [part.expert_bias for part in model.modules() if isinstance(part, Experts) and part.expert_bias is not None]


def trained(model: Model) -> list[nn.Parameter]:
    """All other weights."""
    apart = {id(bias) for bias in balancing(model)}
    return [weight for weight in model.parameters() if id(weight) not in apart]


def _matrices(block: nn.Module) -> Iterator[nn.Parameter]:
    """The weights of matrix products. A table of embeddings is none, though it has two dimensions; nor are a router's rows, each an
    expert's own, or the one row of a gate."""
    for name, part in block.named_modules():
        if not isinstance(part, nn.Embedding) and not name.endswith(("router", "shared_gate")):
            yield from (weight for weight in part.parameters(recurse=False) if weight.dim() == 2)


def _adamw(weights: list[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float) -> torch.optim.Optimizer:
    groups = [
        {"params": [w for w in weights if w.dim() >= 2], "weight_decay": weight_decay},
        {"params": [w for w in weights if w.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=1e-8, fused=True)


def schedule(step: int, steps: int, warmup: float, decay: float) -> float:
    """Share of the peak rate at `step`: linear warm-up, constant, linear decay to zero (Hägele et al. 2024).

    `warmup` and `decay` are shares of `steps`. The last step still moves: the rate reaches zero only after it.
    """
    rising, falling = warmup * steps, decay * steps
    return min(1.0, (step + 1) / rising if rising else 1.0, (steps - step) / falling if falling else 1.0)
