"""AdamW whose two moments take a byte each, with a scale for each block of numbers (Dettmers et al. 2022)."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from bessemer.train.optimizers.muon import ELEMENTS, distributed, local

BLOCK = 256  # most numbers that share a scale
STATE = ("exp_avg", "exp_avg_scale", "exp_avg_root", "exp_avg_root_scale")


class AdamW8(torch.optim.Optimizer):
    """Block-wise 8-bit AdamW for weights of two or three dimensions.

    Kept is the root of the second moment, not itself: half as many decades for a byte to cover. Where the gradients of a block lie up to
    four decades apart, a hundred steps then end 6 % of their way from where AdamW's end, instead of 16 %.
    A block is a piece of a row and never crosses the ranks' shares, so that a checkpoint fits any number of ranks. `found_inf` and
    `grad_scale` are honoured as in optimizer.py. ValueError where a row is split into pieces that hold no whole number of blocks.
    """

    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], eps: float = 1e-8):
        super().__init__(groups, {"betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self._state(weight)
                parts = [local(weight.detach()), local(weight.grad, weight), *(local(state[name]) for name in STATE)]
                rows = max(1, ELEMENTS // max(parts[0][:1].numel(), 1))
                for pieces in zip(*(part.split(rows) for part in parts), strict=True):
                    self._move(pieces, state["step"] + 1, group)
                state["step"] += 1 if self.found_inf is None else 1 - self.found_inf

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)  # which makes every tensor as its weight is: fp32
        for state in self.state.values():
            for name in ("exp_avg", "exp_avg_root"):
                state[name] = state[name].to(torch.uint8)

    def _move(self, pieces: tuple[Tensor, ...], step: Tensor, group: dict[str, Any]) -> None:
        """One step of some rows. Where found_inf is 1, all is written as it was."""
        weight, gradient, *old = pieces
        (beta1, beta2), lr = group["betas"], group["lr"]
        gradient = gradient.float() if self.grad_scale is None else gradient.float() / self.grad_scale
        mean, square = decode(old[0], old[1], signed=True), decode(old[2], old[3], signed=False).square_()
        mean.lerp_(gradient, 1 - beta1)
        square.lerp_(gradient.square(), 1 - beta2)
        new = [weight, *encode(mean, old[1], signed=True), *encode(square.sqrt(), old[3], signed=False)]
        change = (mean / (1 - beta1**step)) / ((square / (1 - beta2**step)).sqrt_() + group["eps"])
        new[0] = weight * (1 - lr * group["weight_decay"]) - lr * change
        for kept, found in zip((weight, *old), new, strict=True):
            kept.copy_(found if self.found_inf is None else torch.where(self.found_inf > 0, kept, found.to(kept.dtype)))

    def _state(self, weight: Tensor) -> dict[str, Tensor]:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), device=weight.device)
            for name in STATE:
                scales = name.endswith("scale")
                state[name] = _scales(weight) if scales else torch.zeros_like(weight, dtype=torch.uint8)
        return state


def block(row: int) -> int:
    """How many numbers of a row of so many share a scale: at most 256, and whole blocks also in a half, a quarter, an eighth of a row."""
    share = row // 8 if row % 8 == 0 and row >= 128 else row
    return max(size for size in range(1, min(BLOCK, share) + 1) if share % size == 0)


def decode(codes: Tensor, scale: Tensor, signed: bool) -> Tensor:
    """fp32 numbers (..., C) of codes (..., C) and the largest size (..., C / block) in each block."""
    values, _ = _table(signed, codes.device)
    numbers = values.index_select(0, codes.flatten().long()).view(codes.shape)
    return (numbers.unflatten(-1, (scale.shape[-1], -1)) * scale[..., None]).flatten(-2)


def encode(numbers: Tensor, like: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Codes and scales of fp32 numbers (..., C), scales of the shape of `like`."""
    blocks = numbers.unflatten(-1, (like.shape[-1], -1))
    scale = blocks.abs().amax(-1)
    shares = (blocks / scale.clamp(min=1e-38)[..., None]).half().flatten()
    # 16 bits are few enough to look the nearest value up: 50 times as fast on a CPU as to search for it.
    _, nearest = _table(signed, numbers.device)
    return nearest.index_select(0, shares.view(torch.int16).long().add_(2**15)).view(numbers.shape), scale


@cache
def _table(signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """The 256 values of a byte, and the byte whose value is nearest to each of the 65,536 numbers of fp16, in the order of their bits.

    Seven decades below 1, each with twice the values of the one below it (dynamic tree quantisation, section 1.3). Roots have no 0: a
    weight whose root was rounded to nothing would be moved by its mean over next to nothing.
    """
    values = [0.0 if signed else 1e-7, 1.0]
    for decade in range(7):
        count = 2 ** (decade if signed else decade + 1)
        sizes = [10.0 ** (decade - 6) * (0.1 + 0.9 * (place + 0.5) / count) for place in range(count)]
        values += sizes + [-size for size in sizes] if signed else sizes
    table = torch.tensor(sorted(values), dtype=torch.float64)
    halves = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.float16).double()
    nearest = torch.bucketize(halves, (table[1:] + table[:-1]) / 2)
    return table.float().to(device), nearest.to(torch.uint8).to(device)


def _scales(weight: Tensor) -> Tensor:
    """Zeros, one for each block of `weight`, laid out as it is."""
    size = block(weight.shape[-1])
    own = local(weight)
    if own.shape[-1] % size:
        message = f"state_bits 8 wants pieces of rows that are multiples of {size}: {own.shape[-1]} of {weight.shape[-1]} numbers lie here"
        raise ValueError(f"{message}; use state_bits 32 or fewer tensor ranks")
    scales = torch.zeros(*own.shape[:-1], own.shape[-1] // size, device=own.device)
    if not distributed(weight):
        return scales
    from torch.distributed.tensor import DTensor

    shape = torch.Size((*weight.shape[:-1], weight.shape[-1] // size))
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(scales, weight.device_mesh, weight.placements, run_check=False, shape=shape, stride=stride)
