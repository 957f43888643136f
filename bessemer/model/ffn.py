"""The feed-forward of a block: what each token does by itself."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from bessemer.model.config import Architecture
from bessemer.model.seen import Pass, Slot


def relu2(x: Tensor) -> Tensor:
    """Squared ReLU (So et al. 2021, Primer)."""
    return F.relu(x).square()


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU's approximation by tanh (Hendrycks and Gimpel 2016), which GPT-2 and T5 were trained with."""
    return F.gelu(x, approximate="tanh")


ACT: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": gelu_tanh, "relu": F.relu, "relu2": relu2}


class Gated(nn.Module):
    """SwiGLU and its like (Shazeer 2020, eq. 6)."""

    def __init__(self, cfg: Architecture, layer: int = 0):
        super().__init__()
        bias = cfg.bias == "all"
        self.act = ACT[cfg.act]
        self.gate = nn.Linear(cfg.width, cfg.hidden, bias=bias)
        self.up = nn.Linear(cfg.width, cfg.hidden, bias=bias)
        self.down = nn.Linear(cfg.hidden, cfg.width, bias=bias)

    def forward(self, x: Tensor, seen: Pass, slot: Slot | None = None) -> tuple[Tensor, None]:
        return self.down(self.act(self.gate(x)) * self.up(x)), None


class Dense(nn.Module):
    """Two maps with an activation between (Vaswani et al. 2017, eq. 2)."""

    def __init__(self, cfg: Architecture, layer: int = 0):
        super().__init__()
        bias = cfg.bias == "all"
        self.act = ACT[cfg.act]
        self.up = nn.Linear(cfg.width, cfg.hidden, bias=bias)
        self.down = nn.Linear(cfg.hidden, cfg.width, bias=bias)

    def forward(self, x: Tensor, seen: Pass, slot: Slot | None = None) -> tuple[Tensor, None]:
        return self.down(self.act(self.up(x))), None
