"""The mixture of experts against a naive loop, transformers' blocks with the same weights, and numbers worked by hand."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Dots1Config, Glm4MoeConfig, MixtralConfig, Qwen2MoeConfig, Qwen3MoeConfig
from transformers.models.dots1.modeling_dots1 import Dots1MoE
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeMoE
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from bessemer.model.config import ModelConfig
from bessemer.model.moe import Experts, Routing, each_expert, routing_terms
from bessemer.model.seen import Pass

X = torch.randn(3, 20, 32, generator=torch.Generator().manual_seed(0))
EVERY: Any = Pass(torch.arange(20)[None], None)  # type: ignore[arg-type]  # experts look at nothing but `counted`
SIGMOID = {"router": "sigmoid", "balance": "bias", "shared_experts": 1}
KINDS: list[dict[str, Any]] = [
    {},
    {"norm_topk": False, "top_k": 3},
    {"top_k": 1, "norm_topk": False},  # Switch: with a sum of one weight for a divisor the router would get no gradient
    {"shared_experts": 2, "shared_gate": True},
    {**SIGMOID, "routed_scale": 2.5},
    {**SIGMOID, "norm_topk": False, "top_k": 4},
    {"experts": 64},  # more experts than some rows have tokens: some get none
]


def build(**changes: Any) -> Experts:
    """Experts whose weights are large enough that scores differ, the bias of the choice included."""
    same = {"vocab": 8, "width": 32, "heads": 4, "kv_heads": 4, "hidden": 24, "ffn": "moe", "experts": 8, "top_k": 2}
    experts = Experts(ModelConfig(**{**same, **changes}))
    draw = torch.Generator().manual_seed(1)
    for weight in experts.parameters():
        torch.nn.init.normal_(weight, std=0.3, generator=draw)
    return experts


def padded(lengths: list[int]) -> Any:
    return EVERY._replace(counted=torch.arange(20) < torch.tensor(lengths)[:, None])


def naive(experts: Experts, x: Tensor) -> Tensor:
    """Token by token and expert by expert, from the papers' formulas."""
    cfg, weights = experts.cfg, {name: weight.to(x.dtype) for name, weight in experts.named_parameters()}
    rows = []
    for token in x.flatten(0, 1):
        logits = weights["router.weight"] @ token
        scores = torch.exp(logits) / torch.exp(logits).sum() if cfg.router == "softmax" else 1 / (1 + torch.exp(-logits))
        ranks = (scores + weights["expert_bias"] if cfg.balance == "bias" else scores).tolist()
        chosen = sorted(range(cfg.experts), key=lambda e: -ranks[e])[: cfg.top_k]
        total = sum(scores[e] for e in chosen) if cfg.norm_topk else 1.0
        out = torch.zeros_like(token)
        for e in chosen:
            gate, up = weights["gate_up"][e, : cfg.hidden] @ token, weights["gate_up"][e, cfg.hidden :] @ token
            out = out + cfg.routed_scale * scores[e] / total * (weights["down"][e] @ (gate * torch.sigmoid(gate) * up))
        if cfg.shared_experts:
            gate, up = weights["shared.gate.weight"] @ token, weights["shared.up.weight"] @ token
            shared = weights["shared.down.weight"] @ (gate * torch.sigmoid(gate) * up)
            out = out + (torch.sigmoid(weights["shared_gate.weight"] @ token) * shared if cfg.shared_gate else shared)
        rows.append(out)
    return torch.stack(rows).view_as(x)


def gradients(experts: Experts, out: Tensor, x: Tensor) -> list[Tensor]:
    learnt = [weight for name, weight in experts.named_parameters() if name != "expert_bias"]
    return list(torch.autograd.grad((out * torch.arange(32)).sum(), [x, *learnt]))


@pytest.mark.parametrize("kind", KINDS)
def test_output_and_gradients_are_those_of_a_loop_over_tokens_and_experts(kind):
    experts, x, exact = build(**kind), X.clone().requires_grad_(), X.double().requires_grad_()
    out, expected = experts(x, EVERY)[0], naive(experts, exact)
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(gradients(experts, out, x), gradients(experts, expected, exact), strict=True):
        torch.testing.assert_close(ours, theirs.float(), atol=2e-4 * float(theirs.abs().max()), rtol=1e-4)


THEIR_SIZES = {"hidden_size": 32, "num_experts_per_tok": 2, "experts_implementation": "eager"}
QWEN = {"num_experts": 8, "moe_intermediate_size": 24}
DEEPSEEK = {"n_routed_experts": 8, "moe_intermediate_size": 24, "n_shared_experts": 2, "routed_scaling_factor": 1.5, "norm_topk_prob": True}
THEIRS = [
    (MixtralSparseMoeBlock, MixtralConfig, {"num_local_experts": 8, "intermediate_size": 24}, {}),
    (Qwen3MoeSparseMoeBlock, Qwen3MoeConfig, {**QWEN, "norm_topk_prob": True}, {}),
    (Qwen3MoeSparseMoeBlock, Qwen3MoeConfig, {**QWEN, "norm_topk_prob": False}, {"norm_topk": False}),
    (
        Qwen2MoeSparseMoeBlock,
        Qwen2MoeConfig,
        {**QWEN, "shared_expert_intermediate_size": 48},
        {"norm_topk": False, "shared_experts": 2, "shared_gate": True},
    ),
    (Glm4MoeMoE, Glm4MoeConfig, DEEPSEEK, {**SIGMOID, "shared_experts": 2, "routed_scale": 1.5}),
    (Dots1MoE, Dots1Config, DEEPSEEK, {**SIGMOID, "shared_experts": 2, "routed_scale": 1.5}),
]


@pytest.mark.parametrize(("block", "config", "sizes", "kind"), THEIRS)
def test_the_blocks_of_transformers_give_the_same_with_the_same_weights(block, config, sizes, kind):
    ours, theirs = build(**kind), block(config(**THEIR_SIZES, **sizes)).eval()
    ours_by_theirs = {"gate.weight": "router.weight", "experts.gate_up_proj": "gate_up", "experts.down_proj": "down"}
    ours_by_theirs |= {f"shared_expert{s}.{part}_proj.weight": f"shared.{part}.weight" for part in ("gate", "up", "down") for s in ("", "s")}
    ours_by_theirs |= {"shared_expert_gate.weight": "shared_gate.weight", "gate.e_score_correction_bias": "expert_bias"}
    state, names = ours.state_dict(), theirs.state_dict().keys()
    theirs.load_state_dict({name: state.pop(ours_by_theirs[name]) for name in names})
    assert not state  # no weight of ours is without a place there
    with torch.no_grad():
        torch.testing.assert_close(ours(X, EVERY)[0], theirs(X), atol=1e-5, rtol=1e-5)


def test_the_balance_loss_is_that_of_transformers_for_each_row():
    """Theirs sums the shares of the K places, ours averages them."""
    experts = build()
    _, routing = experts(X, padded([20, 20, 13]))
    for row, length in enumerate((20, 20, 13)):
        logits = experts.router(X[row, :length])
        theirs = load_balancing_loss_func((logits,), 8, 2)
        torch.testing.assert_close(2 * routing.loss[row], theirs, atol=1e-5, rtol=1e-5)


def test_routing_by_hand():
    """Two experts, top 1, softmax of logits (x, -x) ln(3)/2: a token with x = 1 scores (3/4, 1/4), with x = -1 the reverse.

    Row 0: three tokens of 1 and one of -1: load (3/4, 1/4), mean score (5/8, 3/8), loss 2 (15/32 + 3/32) = 9/8.
    Row 1: one of 1, one of -1, two of padding: load (1/2, 1/2), mean score the same, loss 1. Entropy of (3/4, 1/4) throughout.
    """
    experts = build(experts=2, top_k=1, norm_topk=False)
    with torch.no_grad():
        experts.router.weight.zero_()[:, 0] = torch.tensor([1.0, -1.0]) * math.log(3) / 2
    x = torch.zeros(2, 4, 32)
    x[..., 0] = torch.tensor([[1.0, 1, 1, -1], [1, -1, 1, 1]])
    _, routing = experts(x, EVERY._replace(counted=torch.tensor([[True] * 4, [True, True, False, False]])))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    torch.testing.assert_close(routing.load, torch.tensor([[0.75, 0.25], [0.5, 0.5]]))
    torch.testing.assert_close(routing.loss, torch.tensor([9 / 8, 1.0]))
    torch.testing.assert_close(routing.entropy, torch.tensor([entropy, entropy]))
    idle = Routing(torch.tensor([2.0, 2.0]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.zeros(2))  # a second layer, all to one expert
    terms = routing_terms([routing, idle], aux_weight=0.1)
    torch.testing.assert_close(terms["balance_loss"], torch.tensor([0.3125, 0.3]))
    torch.testing.assert_close(terms["router_load_max"], torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(terms["router_entropy"], torch.tensor([entropy / 2, entropy / 2]))
    torch.testing.assert_close(terms["experts_unused"], torch.tensor([0.25, 0.25]))
    assert "balance_loss" not in routing_terms([routing], aux_weight=0.0)


def test_no_number_depends_on_the_micro_batch():
    """Also not on what stands where padding does. The bias's gradients are whole numbers: equal to the last bit."""
    seen, other = padded([20, 7, 0]), X.clone()
    other[1, 7:], other[2] = 5.0, -3.0
    whole, parts = build(**SIGMOID), build(**SIGMOID)
    out, routing = whole(X, seen)
    out.sum().backward()
    for row in range(3):
        alone, one = parts(other[row : row + 1], seen._replace(counted=seen.counted[row : row + 1]))
        alone.sum().backward()
        for ours, theirs in zip(one, routing, strict=True):
            torch.testing.assert_close(ours, theirs[row : row + 1])
    assert torch.equal(whole.expert_bias.grad, parts.expert_bias.grad)
    assert whole.expert_bias.grad.sum() == 0 and whole.expert_bias.grad.abs().sum() > 0
    assert not any(part[2].any() for part in routing)  # the row of padding


def test_the_bias_gets_loads_for_a_gradient_and_nothing_of_the_loss():
    experts = build(**SIGMOID)
    out, _ = experts(X, EVERY)
    (1e6 * out).sum().backward()
    chosen = experts.route(X)[1]
    picks = torch.bincount(chosen.flatten(), minlength=8)
    assert torch.equal(experts.expert_bias.grad, (8 * picks - 3 * 20 * 2).float())


def skewed() -> Tensor:
    """Tokens that share a large part, so that a router sends nearly all to the same experts."""
    return X + 2 * torch.ones(32)


def busiest(experts: Experts, x: Tensor) -> float:
    return routing_terms([experts(x, EVERY)[1]], 0.0)["router_load_max"].mean().item()


def test_steps_against_the_sign_of_the_bias_gradient_even_the_loads():
    experts, x = build(**SIGMOID), skewed()
    with torch.no_grad():
        experts.expert_bias.zero_()
    before = busiest(experts, x)
    for _ in range(150):
        experts(x, EVERY)[0].sum().backward()
        with torch.no_grad():
            experts.expert_bias -= 0.006 * experts.expert_bias.grad.sign()
        experts.expert_bias.grad = None
    assert before > 3 and busiest(experts, x) < 1.6


def test_the_balance_loss_evens_the_loads():
    experts, x = build(), skewed()
    before, descent = busiest(experts, x), torch.optim.Adam([experts.router.weight], lr=0.02)
    for _ in range(100):
        descent.zero_grad()
        routing_terms([experts(x, EVERY)[1]], 1.0)["balance_loss"].mean().backward()
        descent.step()
    assert before > 3 and busiest(experts, x) < 1.6


def test_experts_and_router_learn_what_one_expert_cannot():
    """Half of the tokens want f, the other half -f: a linear direction tells them apart."""
    x = torch.randn(4, 64, 32, generator=torch.Generator().manual_seed(3))
    wanted = torch.where(x[..., :1] > 0, x.roll(1, -1), -x.roll(1, -1))
    left = {}
    for name, sizes in {"one": {"experts": 1, "top_k": 1, "norm_topk": False}, "four": {"experts": 4, "top_k": 1, "norm_topk": False}}.items():
        experts = build(**sizes)
        descent = torch.optim.Adam(experts.parameters(), lr=1e-2)
        for _ in range(100):
            descent.zero_grad()
            error = F.mse_loss(experts(x, EVERY)[0], wanted)
            error.backward()
            descent.step()
        left[name] = error.item()
    assert left["four"] < 0.5 * left["one"]


def test_decoding_token_by_token_equals_the_whole_and_reports_nothing():
    experts = build(**SIGMOID)
    with torch.no_grad():
        whole = experts(X, EVERY)[0]
        for at in range(20):
            out, routing = experts(X[:, at : at + 1], EVERY, {})
            assert routing is None
            torch.testing.assert_close(out, whole[:, at : at + 1], atol=1e-5, rtol=1e-5)


def test_experts_that_no_token_visits_keep_their_weights():
    experts = build(experts=64)
    experts(X[:1, :2], EVERY)[0].sum().backward()
    visited = set(experts.route(X[:1, :2])[1].flatten().tolist())
    assert 0 < len(visited) <= 4
    for e in range(64):
        for gradient in (experts.gate_up.grad[e], experts.down.grad[e]):
            assert bool(gradient.any()) == (e in visited) and gradient.isfinite().all()


def test_the_router_is_not_rounded_by_autocast():
    experts = build(**SIGMOID)
    scores, chosen, _ = experts.route(X)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = experts.route(X)
        out = experts(X, EVERY)[0].detach()
    assert torch.equal(rounded[0], scores) and torch.equal(rounded[1], chosen)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), experts(X, EVERY)[0].detach(), atol=0.02 * float(out.abs().max()), rtol=0.02)


def test_two_runs_are_equal_to_the_last_bit_on_several_threads():
    experts, threads = build(**SIGMOID), torch.get_num_threads()
    x = torch.randn(8, 256, 32, generator=torch.Generator().manual_seed(2))
    runs = []
    try:
        torch.set_num_threads(4)
        for _ in range(2):
            experts.zero_grad()
            rows = x.clone().requires_grad_()
            out, routing = experts(rows, EVERY)
            (out.square().sum() + routing.loss.sum()).backward()
            runs.append([out, rows.grad, *(weight.grad for weight in experts.parameters())])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_the_grouped_product_keeps_the_rules_of_operators():
    """Schema, shapes without data, and gradients are as torch.compile needs them."""
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(9, 16, generator=draw).requires_grad_(), torch.randn(4, 8, 16, generator=draw).requires_grad_()
    ends = torch.tensor([2, 2, 7, 9], dtype=torch.int32)
    torch.library.opcheck(each_expert, (x, weight, ends), test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))
    expected = torch.cat([part @ matrix.t() for part, matrix in zip(x.split([2, 0, 5, 2]), weight, strict=True)])
    torch.testing.assert_close(each_expert(x, weight, ends), expected)


@pytest.mark.slow
def test_compiled_in_one_graph_it_computes_the_same():
    experts, seen = build(**SIGMOID), padded([20, 20, 3])
    compiled = torch.compile(experts.forward, dynamic=False, fullgraph=True)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        runs = []
        for forward in (experts.forward, compiled):
            experts.zero_grad()
            x = X.clone().requires_grad_()
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                out, routing = forward(x, seen)
            (out.float().square().sum() + routing.loss.sum()).backward()
            runs.append([out, *routing, x.grad, *(weight.grad for weight in experts.parameters())])
        for eager, fast in zip(*runs, strict=True):
            torch.testing.assert_close(fast, eager, atol=tolerance * float(eager.abs().max()), rtol=tolerance)
