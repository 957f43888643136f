"""Matrix products in eight bits (Micikevicius et al. 2022, FP8 Formats for Deep Learning), put into a model from outside.

Values and weights are rounded to e4m3, gradients to the wider range of e5m2, each tensor after division by a scale that brings its largest
entry to the format's; the scale is found anew each time, so there is no history to keep or to resume. Weights, gradients of weights and
optimizer state stay fp32, all else is what autocast makes it. Scales are of the rows that a rank has at once, so that here, unlike
elsewhere, a micro-batch changes results, by as much as eight bits round.

M rows, K and N widths of a linear map.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bessemer.model.model import Model

VALUE, SLOPE = torch.float8_e4m3fn, torch.float8_e5m2
STEP = 16  # sizes that the hardware's products want multiples of


def swap(model: Model) -> int:
    """Let the linear maps of the blocks multiply in fp8 wherever autocast is on, and say how many do. The head stays as it is, and so do
    routers and whatever has a width that is no multiple of 16. Parameters and their names do not change."""
    maps: list[nn.Module] = [part for block in model.blocks for name, part in block.named_modules() if type(part) is nn.Linear and _fits(name, part)]
    for part in maps:
        part.__class__ = Linear8
    return len(maps)


def restore(model: nn.Module) -> None:
    """Undo `swap`."""
    for part in model.modules():
        if type(part) is Linear8:
            part.__class__ = nn.Linear  # type: ignore[assignment]


def _fits(name: str, part: nn.Linear) -> bool:
    return not name.endswith(("router", "shared_gate")) and part.in_features % STEP == 0 and part.out_features % STEP == 0


class Linear8(nn.Linear):
    """A linear map in fp8. Without autocast, as when text is sampled, and for rows that are no multiple of 16, it is an ordinary one."""

    def forward(self, x: Tensor) -> Tensor:
        where, rows = x.device.type, x.numel() // self.in_features
        if not torch.is_autocast_enabled(where) or rows == 0 or rows % STEP:
            return F.linear(x, self.weight, self.bias)
        dtype = torch.get_autocast_dtype(where)
        out = Product.apply(x.to(dtype).flatten(0, -2), self.weight).unflatten(0, x.shape[:-1])
        return out if self.bias is None else out + self.bias.to(dtype)


class Product(torch.autograd.Function):
    """x W^T (M, N) of x (M, K), in bf16 or fp16, and a weight (N, K) of any precision."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        value, scale = quantise(x, VALUE)
        rounded, weight_scale = quantise(weight, VALUE)
        # Not the rounded weight: ranks that share weights out must be free to let go of it until the backward pass.
        ctx.save_for_backward(value, scale, weight)
        return _product(value, rounded, scale, weight_scale, x.dtype, fast=True)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        value, scale, weight = ctx.saved_tensors
        steep, slope_scale = quantise(slope, SLOPE)
        rounded, weight_scale = quantise(weight, VALUE)
        # Both operands of a product have to lie along what is summed: these copies are a byte an entry.
        to_x = _product(steep, _turned(rounded), slope_scale, weight_scale, slope.dtype)
        to_weight = _product(_turned(steep), _turned(value), slope_scale, scale, weight.dtype)
        return to_x, to_weight


def quantise(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x / scale in `dtype`, and the scale, () fp32, that brings the largest entry of x to the largest of `dtype`. NaN and infinity make
    the scale such, and the product NaN, which the loop's guard sees."""
    largest = torch.finfo(dtype).max
    scale = (x.abs().amax().float() / largest).clamp(min=1e-30)
    return (x.float() / scale).clamp(-largest, largest).to(dtype), scale


def _product(a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, dtype: torch.dtype, fast: bool = False) -> Tensor:
    """a b^T. `fast` sums in fewer bits than fp32, which Hopper does at twice the rate and gradients suffer from."""
    return torch._scaled_mm(a, b.t(), a_scale, b_scale, out_dtype=dtype, use_fast_accum=fast)


def _turned(x: Tensor) -> Tensor:
    return x.t().contiguous()
