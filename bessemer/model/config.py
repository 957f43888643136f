"""What a model is: one flat description, one field per choice."""

from dataclasses import dataclass
from typing import Literal

from bessemer.core.config import Count

Ffn = Literal["gated", "relu2"]


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder. ValueError where fields do not fit together."""

    vocab: Count
    width: Count = 256
    depth: Count = 6
    heads: Count = 4  # query heads
    kv_heads: Count = 2  # heads that share keys and values; equal to heads: multi-head, 1: multi-query
    head_width: Count = 64  # even, since RoPE turns pairs
    hidden: Count = 704  # inner width of the feed-forward
    ffn: Ffn = "gated"  # gated: W3(silu(W1 x) * W2 x); relu2: W2 relu(W1 x)^2
    context: Count = 256  # tokens the model is trained on
    rope_base: float = 10000.0
    norm_eps: float = 1e-5
    tied: bool = True  # one matrix for embedding and head

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.head_width % 2:
            raise ValueError(f"head_width ({self.head_width}) must be even: RoPE turns pairs of dimensions")
