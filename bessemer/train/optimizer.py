"""Optimizer and learning-rate schedule."""

import torch
from torch import nn


def adamw(model: nn.Module, lr: float, betas: tuple[float, float], weight_decay: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019), one fused kernel; matrices decay, gains do not."""
    weights = list(model.parameters())
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
