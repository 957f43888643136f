"""Parameters and FLOPs of a model, from its config alone."""

from functools import lru_cache

import torch
from torch import nn

from bessemer.model.attention import Attention, Cross
from bessemer.model.config import ModelConfig
from bessemer.model.model import Model
from bessemer.model.moe import Experts


def parameters(cfg: ModelConfig) -> int:
    """All weights, a tied head once."""
    return sum(weight.numel() for weight in _model(cfg).parameters())


def active_parameters(cfg: ModelConfig) -> int:
    """Those that take part in one token: of the experts, as many as it visits."""
    idle = sum(_idle(part) for part in _model(cfg).modules() if isinstance(part, Experts))
    return parameters(cfg) - idle


@lru_cache(maxsize=256)
def row_flops(cfg: ModelConfig, length: int, source: int = 0, predicted: int | None = None) -> float:
    """FLOPs to train on one row of `length` tokens, and of an encdec `source` tokens of the source: 2 per weight of a matrix product and
    pass, one forward and two backward, plus what mixes tokens. `predicted` places get logits, all if not given.

    Attention counts every pair, as in PaLM's appendix B, though a causal one needs half; of a window, the keys in it; of Shaw's relative
    positions, the key and the value of each distance too. RWKV-7 counts its state's four products a token. An embedding is a lookup
    and counts nothing.
    """
    model = _model(cfg)
    predicted = length if predicted is None else predicted
    total = 6.0 * (predicted * _matrices(model, ("transform", "head", "pool", "label")) + length * _matrices(model, ("stack", "further")))
    total += 6.0 * cfg.ahead * length * cfg.vocab * cfg.width
    total += 6.0 * source * _matrices(model, ("encoder",))
    keys = min(length, cfg.window or length)
    for name, part in model.named_modules():
        if isinstance(part, Attention):
            tokens, seen = (source, source) if name.startswith("encoder.") else (length, keys)
            distances = 2 * cfg.reach + 1 if cfg.position == "relative" else 0
            total += 12 * cfg.heads * cfg.head_width * tokens * (seen + distances)
        elif isinstance(part, Cross):
            total += 12 * cfg.heads * cfg.head_width * length * source + 6.0 * (source - length) * _size(part.key, part.value)
    if cfg.mixer == "rwkv":
        total += cfg.depth * length * 6 * 4 * cfg.width * cfg.head_width
    return total


def training_flops(cfg: ModelConfig, context: int) -> float:
    """The same for one token of rows of `context` tokens; of an encdec, whose source is as long."""
    source = context if cfg.shape == "encdec" else 0
    return row_flops(cfg, context, source) / (context + source)


def _matrices(model: Model, parts: tuple[str, ...]) -> float:
    """Weights of these parts that a token meets in matrix products."""
    found = 0.0
    for part in (getattr(model, name, None) for name in parts):
        for inner in part.modules() if part is not None else ():
            if not isinstance(inner, nn.Embedding):
                found += sum(weight.numel() for weight in inner.parameters(recurse=False) if weight.dim() >= 2)
            if isinstance(inner, Experts):
                found -= _idle(inner)
    return found


def _idle(experts: Experts) -> int:
    """Weights of the experts that a token does not visit."""
    stacked = sum(weight.numel() for weight in experts.parameters(recurse=False) if weight.dim() == 3)
    return stacked * (experts.cfg.experts - experts.cfg.top_k) // experts.cfg.experts


def _size(*maps: nn.Linear) -> int:
    return sum(one.weight.numel() for one in maps)


@lru_cache(maxsize=64)
def _model(cfg: ModelConfig) -> Model:
    with torch.device("meta"):
        return Model(cfg)
