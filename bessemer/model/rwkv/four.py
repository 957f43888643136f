"""RWKV-4 (Peng et al. 2023, "RWKV: Reinventing RNNs for the Transformer Era", arXiv 2305.13048), for checkpoints of that version.

B rows, T tokens, C width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bessemer.model.config import Architecture
from bessemer.model.rwkv.seven import shifted
from bessemer.model.seen import Pass, Slot

NOTHING = -1e38  # logarithm of a sum of nothing; finite, so that differences of two are no NaN


class Rwkv4(nn.Module):
    """The time mix: a mean of the values so far, in each channel of its own, weighted by e^key and by age."""

    def __init__(self, cfg: Architecture, layer: int):
        super().__init__()
        self.layer, self.depth = layer, cfg.depth
        # How much of each input is the token itself; the rest is the one before.
        self.mix_r, self.mix_k, self.mix_v = (nn.Parameter(torch.ones(cfg.width)) for _ in range(3))
        # The logarithm of how fast the past fades, and the advantage of the present.
        self.decay, self.bonus = (nn.Parameter(torch.zeros(cfg.width)) for _ in range(2))
        self.receptance, self.key, self.value, self.out = (nn.Linear(cfg.width, cfg.width, bias=False) for _ in range(4))

    def forward(self, x: Tensor, seen: Pass, slot: Slot | None = None, first: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """out (B, T, C). The slot keeps `shift` (B, C) and `state` (B, 3, C): numerator and denominator, both over e^maximum, and maximum."""
        before = shifted(x, seen, slot, "shift")
        r, k, v = (
            part(before + (x - before) * mix) for part, mix in ((self.receptance, self.mix_r), (self.key, self.mix_k), (self.value, self.mix_v))
        )
        state = slot.get("state") if slot is not None else None
        states = scan(k, v, -self.decay.exp(), state, seen.begins)  # (3, B, T + 1, C), after each token, the given one first
        if slot is not None:
            last = states[:, :, -1] if seen.live is None else states[:, torch.arange(len(x), device=x.device), seen.live.sum(1)]
            slot["state"] = last.transpose(0, 1)
        above, below, top = states[:, :, :-1]
        if seen.begins is not None:
            top = top.masked_fill(seen.begins[:, :, None], NOTHING)
        own = self.bonus + k
        largest = torch.maximum(top, own).detach()
        old, new = (top - largest).exp(), (own - largest).exp()
        return self.out(torch.sigmoid(r) * ((old * above + new * v) / (old * below + new)).to(r.dtype)), first

    @torch.no_grad()
    def initialise(self, draw: torch.Generator) -> None:
        """The authors' initialisation (RWKV-LM, RWKV-v4neo): channels range from long memory to short, `out` starts at zero."""
        width, late, early = len(self.decay), self.layer / max(self.depth - 1, 1), 1 - self.layer / self.depth
        place = torch.arange(width) / width
        self.mix_k.copy_(place**early)
        self.mix_v.copy_(place**early + 0.3 * late)
        self.mix_r.copy_(place ** (0.5 * early))
        self.decay.copy_(-5 + 8 * torch.linspace(0, 1, width) ** (0.7 + 1.3 * late))
        self.bonus.copy_(math.log(0.3) + 0.5 * ((torch.arange(width) + 1) % 3 - 1))
        nn.init.orthogonal_(self.value.weight, generator=draw)
        for part in (self.receptance, self.key, self.out):
            nn.init.zeros_(part.weight)


class Channel4(nn.Module):
    """The channel mix: as version 7's, with a gate."""

    def __init__(self, cfg: Architecture, layer: int):
        super().__init__()
        self.layer, self.depth = layer, cfg.depth
        self.mix_r, self.mix_k = (nn.Parameter(torch.ones(cfg.width)) for _ in range(2))
        self.receptance = nn.Linear(cfg.width, cfg.width, bias=False)
        self.up = nn.Linear(cfg.width, cfg.hidden, bias=False)
        self.down = nn.Linear(cfg.hidden, cfg.width, bias=False)

    def forward(self, x: Tensor, seen: Pass, slot: Slot | None = None) -> tuple[Tensor, None]:
        before = shifted(x, seen, slot, "ffn_shift")
        step = x - before
        inner = F.relu(self.up(before + step * self.mix_k)).square()
        return torch.sigmoid(self.receptance(before + step * self.mix_r)) * self.down(inner), None

    @torch.no_grad()
    def initialise(self, draw: torch.Generator) -> None:
        place = (torch.arange(len(self.mix_k)) / len(self.mix_k)) ** (1 - self.layer / self.depth)
        self.mix_k.copy_(place)
        self.mix_r.copy_(place)
        nn.init.orthogonal_(self.up.weight, gain=max(1.0, self.up.out_features / self.up.in_features) ** 0.5, generator=draw)
        for part in (self.receptance, self.down):
            nn.init.zeros_(part.weight)


def scan(k: Tensor, v: Tensor, log_w: Tensor, state: Tensor | None, begins: Tensor | None) -> Tensor:
    """Decayed sums of e^k v and e^k after every token, (3, B, T + 1, C): both divided by e^maximum, and that maximum.

    k, v (B, T, C); log_w (C). First stands the given state (B, 3, C), or nothing. By doubling: what a token knows of the last 2n
    tokens is what it knows of the last n, and what the token n before it knew of its own.
    """
    rows, tokens, width = k.shape
    if state is None:
        state = F.pad(torch.full((rows, 1, width), NOTHING, device=k.device), (0, 0, 2, 0))
    dtype = torch.promote_types(k.dtype, torch.float32)
    k, v, log_w = k.to(dtype), v.to(dtype), log_w.to(dtype)
    # Nothing depends on the maxima, so no gradient flows through them: e^(k - maximum) is 1, but its gradient is that of e^k.
    weight = (k - k.detach()).exp()
    above, below, top = (torch.cat([state[:, i, None], x], 1) for i, x in enumerate((weight * v, weight, k.detach())))
    at = torch.arange(tokens + 1, device=k.device)
    began = torch.zeros_like(at)[None] if begins is None else torch.where(F.pad(begins, (1, 0)), at, 0).cummax(1).values
    age = (at - began)[..., None]  # tokens before this one in its document, (B or 1, T + 1, 1)
    span = 1
    while span <= tokens:
        old_above, old_below, old_top = (F.pad(x[:, :-span], (0, 0, span, 0)) for x in (above, below, top))
        old_top = torch.where(age >= span, old_top + span * log_w, NOTHING)
        largest = torch.maximum(top, old_top).detach()
        old, new = (old_top - largest).exp(), (top - largest).exp()
        above, below, top = old * old_above + new * above, old * old_below + new * below, largest
        span *= 2
    return torch.stack([above, below, top])
