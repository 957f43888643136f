"""Attention as a block's mixer (Vaswani et al. 2017): multi-head, grouped or multi-query (Ainslie et al. 2023), of a text with itself or
with an encoded source.

B rows, T tokens, S keys, C width, H query heads, K key-value heads, D head width.
"""

import torch
from torch import Tensor, nn

from bessemer.model.attend import See, attend, scores_mask
from bessemer.model.config import GATE, Architecture, ModelConfig
from bessemer.model.position import rotate
from bessemer.model.seen import Pass, Slot


class Attention(nn.Module):
    """A text's tokens look at each other."""

    def __init__(self, cfg: ModelConfig, layer: int = 0):
        super().__init__()
        self.cfg = cfg
        self.query, self.key, self.value, self.out = projections(cfg)
        self.query_norm = nn.RMSNorm(cfg.head_width, cfg.norm_eps) if cfg.qk_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(cfg.head_width, cfg.norm_eps) if cfg.qk_norm else nn.Identity()
        self.token_value = TokenValue(cfg) if cfg.value_embed and layer % 2 == (cfg.depth - 1) % 2 else None
        if cfg.position == "relative":  # one table for all heads, as in the paper
            self.relative_key = nn.Embedding(2 * cfg.reach + 1, cfg.head_width)
            self.relative_value = nn.Embedding(2 * cfg.reach + 1, cfg.head_width)

    def forward(self, x: Tensor, seen: Pass, slot: Slot | None = None, first: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        query = self.query_norm(_heads(self.query(x), self.cfg))
        key = self.key_norm(_heads(self.key(x), self.cfg))
        value = _heads(self.value(x), self.cfg)
        if self.token_value is not None:
            value = value + self.token_value(x, seen.ids).to(value.dtype)
        if seen.turn is not None:
            query, key = rotate(query, *seen.turn), rotate(key, *seen.turn)
        if slot is not None:
            key, value = put(slot, seen.at, key, value)
        mixed = self.look(query, key, value, seen.see) if seen.distance is None else self._relative(query, key, value, seen)
        return self.out(mixed.transpose(1, 2).flatten(2)), first

    def look(self, query: Tensor, key: Tensor, value: Tensor, see: See) -> Tensor:
        """`attend`; a method because ranks that share a row's tokens put something else in its place."""
        return attend(query, key, value, see)

    def _relative(self, query: Tensor, key: Tensor, value: Tensor, seen: Pass) -> Tensor:
        """Shaw et al. 2018, eq. 3 and 4: each distance has a key and a value of its own, clipped at `reach`.

        A query meets the 2 reach + 1 keys once; scores then look theirs up, so no (T, S, D) tensor exists. Values likewise: the
        weights of equal distances are summed first.
        """
        assert seen.distance is not None
        groups, wide = self.cfg.heads // self.cfg.kv_heads, (*query.shape[:3], key.shape[2])
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        place = (seen.distance.clamp(-self.cfg.reach, self.cfg.reach) + self.cfg.reach)[:, None].expand(wide)  # (B, H, T, S)
        query = query * self.cfg.head_width**-0.5
        scores = query @ key.transpose(-2, -1) + (query @ self.relative_key.weight.T.to(query.dtype)).gather(-1, place)
        mask = scores_mask(seen.see, query.shape[2], key.shape[2], query.device)
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)  # finite: a row of padding sees nothing, and must not become NaN
        weights = scores.float().softmax(-1)
        # Whatever is farther than `reach` adds up in two places: in fp32, since a GPU's sum in bf16 loses small terms.
        by_distance = weights.new_zeros(*wide[:3], 2 * self.cfg.reach + 1).scatter_add(-1, place, weights)
        return weights.to(value.dtype) @ value + by_distance.to(value.dtype) @ self.relative_value.weight.to(value.dtype)


class TokenValue(nn.Module):
    """A value of each token that does not depend on its text, and a gate for each head that does (value embeddings of modded-nanogpt,
    Jordan et al. 2024; after Zhou et al. 2024, Value Residual Learning). The gate starts near 1, and goes from 0 to 2."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.cfg = cfg
        self.table = nn.Embedding(cfg.vocab, cfg.kv_heads * cfg.head_width)
        self.gate = nn.Linear(GATE, cfg.kv_heads, bias=False)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        """(B, K, T, D) from x (B, T, C) and ids (B, T)."""
        gate = 2 * torch.sigmoid(self.gate(x[..., :GATE]))  # (B, T, K)
        return _heads(self.table(ids), self.cfg) * gate.transpose(1, 2)[..., None]


class Cross(nn.Module):
    """A text's tokens look at an encoded source. Its keys and values are made once and kept in the cache."""

    def __init__(self, cfg: Architecture):
        super().__init__()
        self.cfg = cfg
        self.query, self.key, self.value, self.out = projections(cfg)

    def forward(self, x: Tensor, seen: Pass, slot: Slot | None = None) -> Tensor:
        if slot is not None and seen.memory is None:
            key, value = slot["memory_keys"], slot["memory_values"]
        else:
            assert seen.memory is not None
            key, value = _heads(self.key(seen.memory), self.cfg), _heads(self.value(seen.memory), self.cfg)
        if slot is not None:
            slot["memory_keys"], slot["memory_values"] = key, value
        mixed = attend(_heads(self.query(x), self.cfg), key, value, seen.across)
        return self.out(mixed.transpose(1, 2).flatten(2))


def put(slot: Slot, at: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Write (B, K, T, D) at positions `at` (B, T); returns all keys and values so far, (B, K, S, D).

    A row's tokens stand at their own positions, so rows of different length share a batch, and what padding wrote is overwritten
    before it can be seen.
    """
    row = torch.arange(at.shape[0], device=at.device)[:, None]
    slot["keys"].transpose(1, 2)[row, at] = key.transpose(1, 2).to(slot["keys"].dtype)
    slot["values"].transpose(1, 2)[row, at] = value.transpose(1, 2).to(slot["values"].dtype)
    return slot["keys"], slot["values"]


def projections(cfg: Architecture) -> tuple[nn.Linear, nn.Linear, nn.Linear, nn.Linear]:
    """The maps to queries, keys and values, and the one back."""
    wide, narrow, bias = cfg.heads * cfg.head_width, cfg.kv_heads * cfg.head_width, cfg.bias != "none"
    query, key, value = (nn.Linear(cfg.width, size, bias=bias) for size in (wide, narrow, narrow))
    return query, key, value, nn.Linear(wide, cfg.width, bias=cfg.bias == "all")


def _heads(x: Tensor, cfg: Architecture) -> Tensor:
    """(B, T, H * D) as (B, H, T, D)."""
    return x.unflatten(-1, (-1, cfg.head_width)).transpose(1, 2)
