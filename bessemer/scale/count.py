"""Parameters and FLOPs of a model, from its config alone."""

from bessemer.model.config import ModelConfig


def parameters(cfg: ModelConfig) -> int:
    """All weights, a tied head once."""
    block = _block_matrices(cfg) + 2 * cfg.width
    return cfg.vocab * cfg.width * (1 if cfg.tied else 2) + cfg.depth * block + cfg.width


def training_flops(cfg: ModelConfig, context: int) -> float:
    """FLOPs to train on one token: 2 per weight of a matrix product and pass, one forward and two backward, plus attention.

    Attention counts every pair of the window, 12 L H D T as in PaLM's appendix B, though a causal one needs half; the embedding
    is a lookup and counts nothing.
    """
    matrices = cfg.depth * _block_matrices(cfg) + cfg.vocab * cfg.width
    return 6 * matrices + 12 * cfg.depth * cfg.heads * cfg.head_width * context


def _block_matrices(cfg: ModelConfig) -> int:
    attention = cfg.width * cfg.head_width * (2 * cfg.heads + 2 * cfg.kv_heads)
    return attention + cfg.width * cfg.hidden * (3 if cfg.ffn == "gated" else 2)
