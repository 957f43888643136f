"""Mixture of experts: a router sends each token to `top_k` of many small gated feed-forwards (Shazeer et al. 2017; Jiang et al. 2024).

No expert has a capacity, so no token is dropped. Tokens are sorted by expert once, and a grouped matrix product then runs all experts.

B rows, T tokens, N = B T tokens, K experts that a token visits, C width, F hidden width, E experts.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bessemer.model.config import Architecture
from bessemer.model.ffn import ACT, Gated
from bessemer.model.seen import Pass, Slot


class Routing(NamedTuple):
    """Where one layer sent the tokens of each row. Padding does not count; a row of padding alone is 0 everywhere."""

    loss: Tensor  # (B,) balance loss: 1 where all experts share evenly, up to E
    load: Tensor  # (B, E) share of the row's choices that fell on each expert
    entropy: Tensor  # (B,) of the router's scores, mean over tokens, in nats: 0 when it is certain, log E when it knows nothing


class Experts(nn.Module):
    """The feed-forward with cfg.experts experts, cfg.top_k of them for each token, and cfg.shared_experts for all (Dai et al. 2024).

    router softmax: Mixtral and Qwen-MoE; sigmoid: DeepSeek-V3, GLM-4-MoE. `cfg.hidden` is the inner width of one expert.
    """

    def __init__(self, cfg: Architecture, layer: int = 0):
        super().__init__()
        self.cfg, self.act = cfg, ACT[cfg.act]
        self.router = nn.Linear(cfg.width, cfg.experts, bias=False)
        self.gate_up = nn.Parameter(torch.empty(cfg.experts, 2 * cfg.hidden, cfg.width))  # each expert's gate above its up
        self.down = nn.Parameter(torch.empty(cfg.experts, cfg.width, cfg.hidden))
        for weight in (self.gate_up, self.down):
            nn.init.normal_(weight, std=0.02)
        self.expert_bias = nn.Parameter(torch.zeros(cfg.experts)) if cfg.balance == "bias" else None
        shared = cfg.shared_experts  # always visited together, so they are one feed-forward as wide as all of them
        self.shared = Gated(dataclasses.replace(cfg, hidden=cfg.hidden * shared)) if shared else None
        self.shared_gate = nn.Linear(cfg.width, 1, bias=False) if shared and cfg.shared_gate else None  # Qwen2-MoE

    def forward(self, x: Tensor, seen: Pass, slot: Slot | None = None) -> tuple[Tensor, Routing | None]:
        """(B, T, C) of (B, T, C), and where the tokens went; None while decoding, where nobody asks."""
        scores, chosen, weight = self.route(x)
        routing = None
        if slot is None:
            counted = torch.ones_like(scores[..., 0]) if seen.counted is None else seen.counted.to(scores.dtype)
            picks = _picks(chosen, counted, self.cfg.experts)
            routing = _routing(scores, picks, counted, self.cfg.top_k)
            if self.expert_bias is not None:
                weight = Balance.apply(weight, self.expert_bias, self.cfg.experts * picks.sum(0) - picks.sum())
        out = self.visit(x.flatten(0, 1), chosen.flatten(0, 1), weight.flatten(0, 1)).view_as(x)
        if self.shared is not None:
            shared, _ = self.shared(x, seen)
            out = out + (shared if self.shared_gate is None else self.shared_gate(x).sigmoid() * shared)
        return out, routing

    def route(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (B, T, E) of all experts, the chosen ones (B, T, K), and the weights (B, T, K) of what they say, in fp32."""
        with torch.autocast(x.device.type, enabled=False):  # scores that bf16 rounds to ties would choose other experts
            logits = F.linear(x.float(), self.router.weight.float())
        scores = logits.softmax(-1) if self.cfg.router == "softmax" else logits.sigmoid()
        ranks = scores if self.expert_bias is None else scores + self.expert_bias
        chosen = ranks.topk(self.cfg.top_k).indices
        weight = scores.gather(-1, chosen)  # the bias chooses, but does not weigh (Wang et al. 2024, eq. 3)
        if self.cfg.norm_topk:
            weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
        return scores, chosen, weight * self.cfg.routed_scale

    def visit(self, x: Tensor, chosen: Tensor, weight: Tensor) -> Tensor:
        """Weighted sum (N, C) of what the chosen experts (N, K) say to x (N, C)."""
        where = x.device.type
        dtype = torch.get_autocast_dtype(where) if torch.is_autocast_enabled(where) else x.dtype
        expert, order = chosen.flatten().sort(stable=True)  # (N K)
        place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=x.device))  # of each choice after sorting
        ends = torch.searchsorted(expert, torch.arange(self.cfg.experts, device=x.device), right=True, out_int32=True)
        heard = Reorder.apply(x.to(dtype), order, place, self.cfg.top_k)  # (N K, C)
        said = self.each(heard, ends)
        said = Reorder.apply(said, place, order, 1).unflatten(0, chosen.shape)  # (N, K, C)
        return (said * weight[..., None]).sum(1).to(dtype)

    def each(self, x: Tensor, ends: Tensor) -> Tensor:
        """What each expert says to its own rows (S, C) of x, which are sorted by expert; `ends` (E,) is where each one's rows end. A method
        because ranks that share the experts put something else in its place."""
        return feed_forward(x, self.gate_up, self.down, self.act, ends)


def feed_forward(x: Tensor, gate_up: Tensor, down: Tensor, act: Callable[[Tensor], Tensor], ends: Tensor) -> Tensor:
    """(S, C) of rows (S, C) sorted by expert: the gated feed-forward of every expert, weights (E, 2F, C) and (E, C, F)."""
    gate, up = each_expert(x, gate_up.to(x.dtype), ends).chunk(2, -1)
    return each_expert(act(gate) * up, down.to(x.dtype), ends)


def routing_terms(layers: Sequence[Routing], aux_weight: float) -> dict[str, Tensor]:
    """What an objective adds for a model with experts, each term (B,).

    balance_loss: `aux_weight` times each layer's balance loss, summed over layers as in Switch; absent where the weight is 0.
    router_load_max: how many times its even share the busiest expert got, in the layer where that is worst; 1 is even.
    router_entropy: nats, mean over layers. experts_unused: share of experts that no token of the row visited.
    """
    load = torch.stack([layer.load for layer in layers]).detach()  # (L, B, E)
    terms = {
        "router_load_max": load.amax((0, 2)) * load.shape[-1],
        "router_entropy": torch.stack([layer.entropy for layer in layers]).mean(0),
        "experts_unused": (load == 0).float().mean((0, 2)),
    }
    if aux_weight:
        terms["balance_loss"] = aux_weight * torch.stack([layer.loss for layer in layers]).sum(0)
    return terms


def _picks(chosen: Tensor, counted: Tensor, experts: int) -> Tensor:
    """(B, E) how often the tokens of a row that count chose each expert."""
    picks = counted.new_zeros(len(chosen), experts)
    return picks.scatter_add(1, chosen.flatten(1), counted.repeat_interleave(chosen.shape[-1], 1))


def _routing(scores: Tensor, picks: Tensor, counted: Tensor, top_k: int) -> Routing:
    """The balance loss of each row by itself (DeepSeek-V3, eq. 17-20; with top_k 1 and one row: Switch, eq. 4-6), so that no number
    depends on which rows share a micro-batch."""
    tokens = counted.sum(1, keepdim=True).clamp(min=1)  # (B, 1)
    share = scores / scores.sum(-1, keepdim=True)
    load = picks / (top_k * tokens)
    mean = (share * counted[..., None]).sum(1) / tokens  # (B, E)
    surprise = -torch.special.xlogy(share, share).detach().sum(-1)  # (B, T)
    return Routing(scores.shape[-1] * (load * mean).sum(-1), load, (surprise * counted).sum(1) / tokens[:, 0])


class Balance(torch.autograd.Function):
    """Passes the weights through, and hands the bias of the choice a gradient of its own: how many choices more than its share each
    expert got, times E so that it is a whole number. It adds up over micro-batches and ranks like any gradient, and a step against
    its sign is the update of Wang et al. 2024 (algorithm 1)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, excess: Tensor) -> Tensor:
        ctx.save_for_backward(excess.to(bias.dtype))
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        return grad, ctx.saved_tensors[0], None


class Reorder(torch.autograd.Function):
    """Row order[i] // copies of x becomes row i. `place` undoes `order`, so the gradient is a gather too: no sum in the order in which
    threads happen to finish."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, place: Tensor, copies: int) -> Tensor:
        ctx.save_for_backward(place)
        ctx.copies = copies
        return x[order // copies]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        return grad[ctx.saved_tensors[0]].unflatten(0, (-1, ctx.copies)).sum(1), None, None, None


@torch.library.custom_op("bessemer::each_expert", mutates_args=())
def each_expert(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """x_e W_e^T for each expert: (S, out) of rows (S, in) that are sorted by expert, weights (E, out, in), and where each expert's rows
    end, (E,) int32. An operator of its own because torch 2.13 compiles grouped_mm in bf16 only."""
    return F.grouped_mm(x, weight.transpose(1, 2), offs=ends)


@torch.library.custom_op("bessemer::each_expert_backward", mutates_args=())
def _each_expert_backward(grad: Tensor, x: Tensor, weight: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    return F.grouped_mm(grad, weight, offs=ends), F.grouped_mm(grad.t(), x, offs=ends)


@each_expert.register_fake
def _(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


@_each_expert_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    return (*_each_expert_backward(grad.contiguous(), *ctx.saved_tensors), None)


each_expert.register_autograd(_gradients, setup_context=_save)
