"""Losses: pure, unreduced functions of tensors. B rows, T tokens, N = B T, C width, V vocabulary."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Scores held in fp32 at a time: on CPU they should stay near the processor's cache, on a GPU a launch should be worth it.
CHUNK = {"cpu": 1 << 23, "cuda": 1 << 26}
# Bytes of slopes kept in 16 bits for the backward pass; beyond that the scores are computed again there.
KEPT = 1 << 32


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p(target) in nats, (B, T) from (B, T, V) and (B, T). Computed in fp32 whatever the logits are."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view_as(targets)


def head_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, cap: float = 0.0) -> Tensor:
    """The same, (B, T), of logits = hidden W^T + b, in chunks: scores of all places never exist in fp32 at once.

    hidden (B, T, C), weight (V, C), bias (V,), targets (B, T). `cap`: logits become cap tanh(logits / cap). A weight that is split over
    the vocabulary (a DTensor) gives every rank the whole loss.
    """
    split, shard = None, weight
    if hasattr(weight, "device_mesh"):  # a DTensor; importing its type takes half a second
        shard = weight.to_local()  # type: ignore[attr-defined]
        split = (weight.device_mesh.get_group(), weight.device_mesh.get_local_rank() * shard.shape[0])
        bias = bias if bias is None else bias.to_local()  # type: ignore[attr-defined]
    found: Tensor = HeadCrossEntropy.apply(hidden.flatten(0, -2), shard, bias, targets.flatten(), cap, split)
    return found.view_as(targets)


class HeadCrossEntropy(torch.autograd.Function):
    """Per place i, d loss_i / d scores_i does not depend on what the loss is multiplied by later, so it is made in the forward pass, in the
    16 bits that the products of the backward pass want; the factor of each place goes to the (N, C) side of those products."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, cap: float, split: Any) -> Tensor:
        where = hidden.device.type
        dtype = torch.get_autocast_dtype(where) if torch.is_autocast_enabled(where) else hidden.dtype
        x, w, b = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        ctx.rows = max(1, CHUNK[where] // len(w))
        ctx.cap, ctx.split, ctx.dtypes = cap, split, (hidden.dtype, weight.dtype)
        learns = any(ctx.needs_input_grad)
        keep = learns and dtype.itemsize == 2 and len(x) * len(w) * dtype.itemsize <= KEPT
        ctx.slopes = x.new_empty(len(x), len(w)) if keep else None
        costs = torch.empty(len(x), dtype=_full(dtype), device=x.device)
        for own in _chunks(len(x), ctx.rows):
            scores = _scores(x[own], w, b, None if ctx.slopes is None else ctx.slopes[own])
            costs[own] = slope(scores, targets[own], cap, split, keep)
        ctx.save_for_backward(x, w, b, targets)
        return costs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, w, b, targets = ctx.saved_tensors
        factor = grad[:, None]
        if ctx.slopes is not None:
            to_hidden = (ctx.slopes @ w) * factor
            to_weight = ctx.slopes.T @ (x * factor).to(x.dtype)
            to_bias = None if b is None else (ctx.slopes.T @ factor.to(x.dtype)).squeeze(1)
        else:
            to_hidden = torch.empty(x.shape, dtype=_full(x.dtype), device=x.device)
            # Many chunks add to one weight: in fp32 at least, or bf16 would round each time.
            to_weight = torch.zeros(w.shape, dtype=_full(w.dtype), device=w.device)
            to_bias = None if b is None else torch.zeros(b.shape, dtype=_full(b.dtype), device=b.device)
            for own in _chunks(len(x), ctx.rows):
                scores = _scores(x[own], w, b, None)
                slope(scores, targets[own], ctx.cap, ctx.split, True)
                to_hidden[own] = (scores @ w) * factor[own]
                to_weight += scores.T @ (x[own] * factor[own]).to(x.dtype)
                if to_bias is not None:
                    to_bias += (scores.T.to(to_bias.dtype) @ factor[own].to(to_bias.dtype)).squeeze(1)
        if ctx.split:
            torch.distributed.all_reduce(to_hidden, group=ctx.split[0])
        to_bias = None if to_bias is None else to_bias.to(ctx.dtypes[1])
        return to_hidden.to(ctx.dtypes[0]), to_weight.to(ctx.dtypes[1]), to_bias, None, None, None


def eager_slope(scores: Tensor, targets: Tensor, cap: float, split: Any, wanted: bool) -> Tensor:
    """-log p(target) (N,) of scores (N, V), which become its derivative by them where that is `wanted`. `split`: the ranks that hold other
    parts of the vocabulary, and the first entry of this one."""
    full = scores.to(_full(scores.dtype))
    squashed = torch.tanh(full / cap) if cap else None
    full = full if squashed is None else cap * squashed
    total, place, here = full.logsumexp(-1), targets, None
    if split:
        parts = [torch.empty_like(total) for _ in range(torch.distributed.get_world_size(split[0]))]
        torch.distributed.all_gather(parts, total, group=split[0])
        total, place = torch.stack(parts).logsumexp(0), targets - split[1]
        here = (place >= 0) & (place < scores.shape[1])
    target = full.gather(1, place.clamp(0, scores.shape[1] - 1)[:, None]).squeeze(1)
    if here is not None:  # another rank may have the target
        target = target * here
        torch.distributed.all_reduce(target, group=split[0])
    if wanted:
        hit = place[:, None] == torch.arange(scores.shape[1], device=scores.device)
        found = (full - total[:, None]).exp() - hit.to(full.dtype)
        scores.copy_(found if squashed is None else found * (1 - squashed.square()))
    return total - target


# What the loop swaps for its compiled form: one pass over the scores instead of seven.
slope = eager_slope


def _chunks(places: int, rows: int) -> Iterator[slice]:
    return (slice(i, i + rows) for i in range(0, places, rows))


def _scores(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None) -> Tensor:
    """x W^T + b, in `out` where that is given."""
    return torch.mm(x, weight.T, out=out) if bias is None else torch.addmm(bias, x, weight.T, out=out)


def _full(dtype: torch.dtype) -> torch.dtype:
    """fp32 at least."""
    return torch.promote_types(dtype, torch.float32)


def dpo(policy_chosen: Tensor, policy_rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Direct preference optimization, eq. 7 of Rafailov et al. 2023: loss and implicit reward margin, both (B,).

    All inputs are summed log-probabilities of answers, (B,).
    """
    margin = beta * ((policy_chosen - reference_chosen) - (policy_rejected - reference_rejected))
    return -F.logsigmoid(margin), margin
