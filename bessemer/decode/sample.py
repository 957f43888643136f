"""Choosing the next token from its scores. B rows, V vocabulary."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bessemer.core.config import Count, Fraction, Whole


@dataclass(frozen=True)
class Sampling:
    """How to continue a text."""

    max_tokens: Count = 128  # longest answer
    temperature: float = 0.0  # 0: greedy
    top_k: Whole = 0  # keep the k likeliest tokens; 0: all
    top_p: Fraction = 1.0  # keep the likeliest tokens that together have this probability (nucleus, Holtzman et al. 2020)
    seed: Whole = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be at least 0, not {self.temperature}")


def choose(logits: Tensor, sampling: Sampling, draw: torch.Generator) -> Tensor:
    """One token per row, (B,) from (B, V)."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    scores = logits.float() / sampling.temperature
    if 0 < sampling.top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < scores.topk(sampling.top_k).values[:, -1:], float("-inf"))
    probabilities = scores.softmax(-1)
    if sampling.top_p < 1:
        ordered, index = probabilities.sort(descending=True, stable=True)
        # A token stays while the mass before it is short of top_p, so the first one always stays.
        dropped = ordered.cumsum(-1) - ordered >= sampling.top_p
        dropped[:, 0] = False
        probabilities = probabilities.scatter(-1, index, ordered.masked_fill(dropped, 0.0))
    return torch.multinomial(probabilities, 1, generator=draw)[:, 0]
