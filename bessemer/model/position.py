"""Where a token stands: what is added to the embedding, how queries and keys turn, what distance adds to a score.

B rows, T tokens, S keys, C width, D head width.
"""

import math

import torch
from torch import Tensor

from bessemer.model.config import Architecture

YARN_FAST, YARN_SLOW = 32, 1  # turns within the old context beyond which a dimension keeps its speed, or is slowed in full
LLAMA_LOW, LLAMA_HIGH = 1.0, 4.0  # the same bounds of Llama 3.1


def sinusoidal(at: Tensor, width: int) -> Tensor:
    """Fixed positions (B or 1, T, C), section 3.5 of Vaswani et al. 2017: all sines, then all cosines."""
    angle = at[..., None].float() * _frequencies(width, 10000.0, at.device)
    return torch.cat([angle.sin(), angle.cos()], -1)


def rotary(at: Tensor, cfg: Architecture) -> tuple[Tensor, Tensor]:
    """Cosine and sine (B or 1, 1, T, D) of each position's angles, eq. 15 of the RoPE paper (Su et al. 2021) with halves instead of pairs."""
    frequency, strength = rope_frequencies(cfg, at.device)
    angle = at[:, None, :, None].float() * frequency
    return torch.cat([angle.cos()] * 2, -1) * strength, torch.cat([angle.sin()] * 2, -1) * strength


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn (B, H, T, D) by its positions."""
    first, second = x.chunk(2, -1)
    return (x * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)


def rope_frequencies(cfg: Architecture, device: torch.device | str = "cpu") -> tuple[Tensor, float]:
    """Radians per token of each pair of dimensions (D / 2,), and the factor on cosine and sine.

    linear: positions are squeezed (Chen et al. 2023). ntk: the base grows, so that the fast pairs stay and the slowest is squeezed by the
    factor. yarn: pairs that turn often within the old context stay, those that never do are squeezed, with a ramp between, and
    scores grow a little sharper (Peng et al. 2023, eq. 15 to 23). llama3: the same idea in Llama 3.1's form.
    """
    width, factor = cfg.head_width, cfg.rope_factor
    plain = _frequencies(width, cfg.rope_base, device)
    before = cfg.rope_context or cfg.context / factor  # the context of the first training
    if cfg.rope_scaling == "linear":
        return plain / factor, 1.0
    if cfg.rope_scaling == "ntk":
        return _frequencies(width, ntk_base(cfg), device), 1.0
    if cfg.rope_scaling == "yarn":

        def pair(turns: float) -> float:
            """The pair of dimensions that turns so often within the old context."""
            return width * math.log(before / (turns * 2 * math.pi)) / (2 * math.log(cfg.rope_base))

        low, high = max(math.floor(pair(YARN_FAST)), 0), min(math.ceil(pair(YARN_SLOW)), width - 1)
        slowed = ((torch.arange(width // 2, device=device) - low) / max(high - low, 0.001)).clamp(0, 1)
        return plain * (1 - slowed) + plain / factor * slowed, 0.1 * math.log(factor) + 1.0
    if cfg.rope_scaling == "llama3":
        turns = before * plain / (2 * math.pi)
        kept = ((turns - LLAMA_LOW) / (LLAMA_HIGH - LLAMA_LOW)).clamp(0, 1)
        return plain * kept + plain / factor * (1 - kept), 1.0
    return plain, 1.0


def ntk_base(cfg: Architecture) -> float:
    """The base that `ntk` comes to: the slowest pair then turns rope_factor times slower."""
    return float(cfg.rope_base * cfg.rope_factor ** (cfg.head_width / (cfg.head_width - 2)))


def bucket(distance: Tensor, cfg: Architecture, both_ways: bool) -> Tensor:
    """T5's bucket of each distance (key - query): near ones have their own, far ones share in logarithmic steps up to `reach`."""
    buckets = cfg.buckets
    side = torch.zeros_like(distance)
    if both_ways:
        buckets //= 2
        side = (distance > 0) * buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = buckets // 2
    far = exact + (torch.log(distance.clamp(min=1).float() / exact) / math.log(cfg.reach / exact) * (buckets - exact)).long()
    return side + torch.where(distance < exact, distance, far.clamp(max=buckets - 1))


def _frequencies(width: int, base: float, device: torch.device | str) -> Tensor:
    return base ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
