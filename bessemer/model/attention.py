"""Grouped-query attention with rotary positions (Su et al. 2021; Ainslie et al. 2023) and the cache that decoding needs.

B rows, T tokens, S keys, C width, H query heads, K key-value heads, D head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bessemer.model.config import ModelConfig

# On CPU the flash backward is slower in bf16 than plain matrix products while the (T, T) scores still fit the cache.
EXPLICIT_UP_TO = 512


class Cache:
    """Keys and values of everything read so far: (L, B, K, S, D). A row's tokens are written at their own positions, so rows of
    different length share a batch, and what padding wrote is overwritten before it can be seen."""

    def __init__(self, cfg: ModelConfig, rows: int, length: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        shape = (cfg.depth, rows, cfg.kv_heads, length, cfg.head_width)
        self.keys, self.values = torch.zeros(shape, device=device, dtype=dtype), torch.zeros(shape, device=device, dtype=dtype)
        self.length = length

    def put(self, layer: int, at: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, K, T, D) at positions `at` (B, T); returns all keys and values of the layer, (B, K, S, D)."""
        row = torch.arange(at.shape[0], device=at.device)[:, None]
        self.keys[layer].transpose(1, 2)[row, at] = key.transpose(1, 2)
        self.values[layer].transpose(1, 2)[row, at] = value.transpose(1, 2)
        return self.keys[layer], self.values[layer]


def rotary(at: Tensor, width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine (B or 1, 1, T, D) of each position's angles, eq. 15 of the RoPE paper with halves instead of pairs."""
    frequency = base ** (-torch.arange(0, width, 2, device=at.device, dtype=torch.float32) / width)
    angle = at[:, None, :, None].float() * frequency
    return torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn (B, H, T, D) by its positions."""
    first, second = x.chunk(2, -1)
    return (x * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(D)) v: (B, H, T, D) on (B, K, S, D). `mask` (B or 1, 1, T, S) is True where a key may be seen; None: causal."""
    groups = query.shape[1] // key.shape[1]
    if query.device.type == "cpu" and query.shape[2] > 1 and key.shape[2] <= EXPLICIT_UP_TO:
        if mask is None:
            mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
        if groups > 1:
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        weights = scores.float().masked_fill(~mask, float("-inf")).softmax(-1).to(value.dtype)
        return weights @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=groups > 1)


class Attention(nn.Module):
    """The mixer of a block: mix(x, turn, mask, cache)."""

    def __init__(self, cfg: ModelConfig, layer: int):
        super().__init__()
        self.cfg, self.layer = cfg, layer
        self.query = nn.Linear(cfg.width, cfg.heads * cfg.head_width, bias=False)
        self.key = nn.Linear(cfg.width, cfg.kv_heads * cfg.head_width, bias=False)
        self.value = nn.Linear(cfg.width, cfg.kv_heads * cfg.head_width, bias=False)
        self.out = nn.Linear(cfg.heads * cfg.head_width, cfg.width, bias=False)

    def forward(self, x: Tensor, at: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, cache: Cache | None) -> Tensor:
        query, key, value = (
            projection(x).unflatten(-1, (-1, self.cfg.head_width)).transpose(1, 2) for projection in (self.query, self.key, self.value)
        )
        query, key = rotate(query, *turn), rotate(key, *turn)
        if cache is not None:
            key, value = cache.put(self.layer, at, key, value)
        return self.out(attend(query, key, value, mask).transpose(1, 2).flatten(2))
