"""Optimizers and the learning-rate schedule."""

from typing import Literal

import torch
from torch import nn

from bessemer.model.decoder import Decoder

OptimizerName = Literal["adamw", "muon"]


def build(name: OptimizerName, model: Decoder, lr: float, betas: tuple[float, float], weight_decay: float) -> list[torch.optim.Optimizer]:
    """The optimizers that together update every weight once.

    adamw: AdamW (Loshchilov and Hutter 2019) for everything; matrices decay, gains do not.
    muon: Muon (Jordan et al. 2024) for the matrices of the blocks, whose updates it makes orthogonal, scaled so that one `lr` fits both
    (Liu et al. 2025, eq. 4); AdamW for the embedding, the head and the gains.
    """
    if name == "adamw":
        return [_adamw(list(model.parameters()), lr, betas, weight_decay)]
    matrices = [weight for weight in model.blocks.parameters() if weight.dim() == 2]
    chosen = {id(weight) for weight in matrices}
    rest = [weight for weight in model.parameters() if id(weight) not in chosen]
    muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    return [muon, _adamw(rest, lr, betas, weight_decay)]


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
