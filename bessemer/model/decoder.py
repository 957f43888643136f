"""The decoder: embed, `x + mix(norm(x))`, `x + ffn(norm(x))`, norm, project. B rows, T tokens, C width, V vocabulary."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bessemer.model.attention import Attention, Cache, rotary
from bessemer.model.config import ModelConfig


class Gated(nn.Module):
    """SwiGLU (Shazeer 2020, eq. 6)."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.gate = nn.Linear(cfg.width, cfg.hidden, bias=False)
        self.up = nn.Linear(cfg.width, cfg.hidden, bias=False)
        self.down = nn.Linear(cfg.hidden, cfg.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Relu2(nn.Module):
    """Squared ReLU (So et al. 2021, Primer)."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.up = nn.Linear(cfg.width, cfg.hidden, bias=False)
        self.down = nn.Linear(cfg.hidden, cfg.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)).square())


FFN = {"gated": Gated, "relu2": Relu2}


class Block(nn.Module):
    def __init__(self, cfg: ModelConfig, layer: int):
        super().__init__()
        self.mix_norm = nn.RMSNorm(cfg.width, cfg.norm_eps)
        self.mix = Attention(cfg, layer)
        self.ffn_norm = nn.RMSNorm(cfg.width, cfg.norm_eps)
        self.ffn = FFN[cfg.ffn](cfg)

    def forward(self, x: Tensor, at: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, cache: Cache | None) -> Tensor:
        x = x + self.mix(self.mix_norm(x), at, turn, mask, cache)
        return x + self.ffn(self.ffn_norm(x))


class Decoder(nn.Module):
    """ids -> hidden, and hidden -> logits, apart so that no caller computes logits it does not need."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.cfg = cfg
        self.embed = nn.Embedding(cfg.vocab, cfg.width)
        self.blocks = nn.ModuleList(Block(cfg, layer) for layer in range(cfg.depth))
        self.norm = nn.RMSNorm(cfg.width, cfg.norm_eps)
        self.head = nn.Linear(cfg.width, cfg.vocab, bias=False)
        if cfg.tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor, at: Tensor | None = None, segment: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Hidden states (B, T, C) of ids (B, T).

        `at` (B, T): positions, 0.. where not given. `segment` (B, T): tokens see only their own segment. `cache`: keys and values
        of earlier calls are seen, those of this one added at `at`.
        """
        if at is None:
            at = torch.arange(ids.shape[1], device=ids.device)[None]
        mask = None
        if cache is not None:  # (B, 1, T, S)
            at = at.expand_as(ids)
            mask = (torch.arange(cache.length, device=ids.device) <= at[:, :, None])[:, None]
        elif segment is not None:  # (B, 1, T, T)
            causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
            mask = (causal & (segment[:, :, None] == segment[:, None, :]))[:, None]
        turn = rotary(at, self.cfg.head_width, self.cfg.rope_base)
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, at, turn, mask, cache)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., V) scores of the next token."""
        return self.head(hidden)


def initialise(model: Decoder, seed: int) -> None:
    """Normal weights, std 0.02; what writes into the residual stream starts smaller by sqrt(2L), as in GPT-2. Norms are 1."""
    draw = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            into_residual = name.endswith(("mix.out.weight", "ffn.down.weight"))
            nn.init.normal_(weight, std=0.02 / math.sqrt(2 * model.cfg.depth) if into_residual else 0.02, generator=draw)
