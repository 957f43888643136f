"""RWKV-7 (Peng et al. 2025, "RWKV-7 Goose with Expressive Dynamic State Evolution", arXiv 2503.14456): trained like attention, decoded
like an RNN.

B rows, T tokens, C width, H heads, D head width.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bessemer.model.config import Architecture
from bessemer.model.rwkv.wkv import wkv
from bessemer.model.seen import Pass, Slot


class LowRank(nn.Module):
    """base + up(act(down(x))), the paper's loramlp: a number for each channel that the token changes a little."""

    def __init__(self, width: int, rank: int, act: Callable[[Tensor], Tensor] | None = None, base: bool = True):
        super().__init__()
        self.down, self.up = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)
        self.act = act or nn.Identity()
        self.base = nn.Parameter(torch.zeros(width)) if base else None

    def forward(self, x: Tensor) -> Tensor:
        inner = self.up(self.act(self.down(x)))
        return inner if self.base is None else self.base + inner


class Rwkv(nn.Module):
    """The time mix: every head keeps a matrix that each token decays, corrects and reads."""

    def __init__(self, cfg: Architecture, layer: int):
        super().__init__()
        self.heads, self.layer, self.depth = cfg.width // cfg.head_width, layer, cfg.depth
        decay, rate, value, gate = cfg.ranks or ranks(cfg.width)
        # How much of the previous token each input takes in, per channel.
        self.shift_r, self.shift_w, self.shift_k, self.shift_v, self.shift_a, self.shift_g = (nn.Parameter(torch.zeros(cfg.width)) for _ in range(6))
        self.receptance, self.key, self.value, self.out = (nn.Linear(cfg.width, cfg.width, bias=False) for _ in range(4))
        self.decay = LowRank(cfg.width, decay, torch.tanh)
        self.rate = LowRank(cfg.width, rate)
        self.blend = LowRank(cfg.width, value) if layer else None
        self.gate = LowRank(cfg.width, gate, torch.sigmoid, base=False)
        self.removal, self.replacement, self.bonus = (nn.Parameter(torch.zeros(cfg.width)) for _ in range(3))
        self.norm = nn.GroupNorm(self.heads, cfg.width, eps=64e-5)

    def forward(self, x: Tensor, seen: Pass, slot: Slot | None = None, first: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """out (B, T, C), and the first layer's values (B, T, C). The slot keeps `state` (B, H, D, D) and `shift` (B, C)."""
        step = shifted(x, seen, slot, "shift") - x
        r, k = self.receptance(x + step * self.shift_r), self.key(x + step * self.shift_k)
        for_value = x + step * self.shift_v
        v = self.value(for_value)
        if self.blend is None:
            first = v
        else:
            assert first is not None
            v = v + (first - v) * torch.sigmoid(self.blend(for_value))
        log_w = -math.exp(-0.5) * torch.sigmoid(self.decay(x + step * self.shift_w))
        rate = torch.sigmoid(self.rate(x + step * self.shift_a))  # in-context learning rate: how much of the old value is taken out
        gate = self.gate(x + step * self.shift_g)

        removed = F.normalize((k * self.removal).unflatten(-1, (self.heads, -1)), dim=-1)
        k = k * (1 + (rate - 1) * self.replacement)
        r, log_w, k, v, rate = (part.unflatten(-1, (self.heads, -1)) for part in (r, log_w, k, v, rate))  # (B, T, H, D)
        replaced = removed * rate
        if seen.live is not None:  # padding neither decays nor writes
            live = seen.live[:, :, None, None]
            log_w, written, replaced = log_w * live, k * live, replaced * live
        else:
            written = k
        y, state = wkv(r, log_w, written, v, -removed, replaced, None if slot is None else slot.get("state"), seen.begins)
        if slot is not None:
            slot["state"] = state

        y = self.norm(y.to(x.dtype).flatten(2).flatten(0, 1)).view_as(x)
        now = (r * k * self.bonus.view(self.heads, -1)).sum(-1, keepdim=True) * v  # what the token reads of itself
        return self.out((y + now.flatten(2)) * gate), first

    @torch.no_grad()
    def initialise(self, draw: torch.Generator) -> None:
        """The authors' initialisation (RWKV-LM, RWKV-v7): channels range from short memory to long, `out` starts at zero."""
        width, late, early = len(self.shift_r), self.layer / max(self.depth - 1, 1), 1 - self.layer / self.depth
        place = torch.arange(width) / max(width - 1, 1)  # 0 to 1 over the channels
        for shift, power in (("r", 0.2), ("w", 0.9), ("k", 0.7), ("v", 0.7), ("a", 0.9), ("g", 0.2)):
            getattr(self, f"shift_{shift}").copy_(1 - (torch.arange(width) / width) ** (power * early))
        within = torch.linspace(-1, 1, width // self.heads).repeat(self.heads)  # and over those of a head
        within = within * within.abs()
        assert self.decay.base is not None and self.rate.base is not None
        self.decay.base.copy_(-5.5 + 6 * place ** (1 + late**0.3) + 2.5 * within)
        self.rate.base.copy_(-0.19 + 0.3 * within + 0.4 * (place - 0.5))
        self.removal.copy_(0.71 - 0.1 * (place - 0.5))
        self.replacement.fill_(1.02)
        self.bonus.fill_(-0.04)
        if self.blend is not None:
            assert self.blend.base is not None
            self.blend.base.copy_(0.73 - 0.4 * (place - 0.5))
        for part in (self.decay, self.rate, self.gate, self.blend):
            if part is not None:
                nn.init.zeros_(part.down.weight)
                nn.init.orthogonal_(part.up.weight, gain=0.1 * max(1.0, part.up.in_features / part.up.out_features) ** 0.5, generator=draw)
        nn.init.orthogonal_(self.receptance.weight, generator=draw)
        nn.init.orthogonal_(self.key.weight, gain=0.1, generator=draw)
        nn.init.orthogonal_(self.value.weight, generator=draw)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.norm.weight, ((1 + self.layer) / self.depth) ** 0.7)


class Channel(nn.Module):
    """The channel mix: squared ReLU of the token and the one before it."""

    def __init__(self, cfg: Architecture, layer: int):
        super().__init__()
        self.layer, self.depth = layer, cfg.depth
        self.shift = nn.Parameter(torch.zeros(cfg.width))
        self.up = nn.Linear(cfg.width, cfg.hidden, bias=False)
        self.down = nn.Linear(cfg.hidden, cfg.width, bias=False)

    def forward(self, x: Tensor, seen: Pass, slot: Slot | None = None) -> tuple[Tensor, None]:
        step = shifted(x, seen, slot, "ffn_shift") - x
        return self.down(F.relu(self.up(x + step * self.shift)).square()), None

    @torch.no_grad()
    def initialise(self, draw: torch.Generator) -> None:
        width = len(self.shift)
        self.shift.copy_(1 - (torch.arange(width) / width) ** ((1 - self.layer / self.depth) ** 4))
        nn.init.orthogonal_(self.up.weight, generator=draw)
        nn.init.zeros_(self.down.weight)


def ranks(width: int) -> tuple[int, int, int, int]:
    """The authors' inner widths of the maps to decay, rate, value and gate: multiples of 32 that grow with sqrt(C)."""
    decay, rate, value, gate = (max(32, 32 * round(factor * width**0.5 / 32)) for factor in (2.5, 2.5, 1.7, 5.0))
    return decay, rate, value, gate


def shifted(x: Tensor, seen: Pass, slot: Slot | None, name: str) -> Tensor:
    """The token before each token of its document, zeros before the first, (B, T, C). The slot keeps a row's last token under `name`."""
    last = slot[name] if slot and name in slot else x.new_zeros(x.shape[0], x.shape[2])
    known = torch.cat([last[:, None], x], 1)
    if slot is not None:
        slot[name] = x[:, -1] if seen.live is None else known[torch.arange(len(x), device=x.device), seen.live.sum(1)]
    before = known[:, :-1]
    return before if seen.begins is None else before.masked_fill(seen.begins[:, :, None], 0)
