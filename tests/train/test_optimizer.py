"""Who updates which weight, balancing by algorithm 1 of its paper, and the schedule by hand."""

from pathlib import Path

import pytest
import torch
from torch import nn

from bessemer.model.attend import See
from bessemer.model.model import Model
from bessemer.model.moe import Experts
from bessemer.model.seen import Pass
from bessemer.train.loop import FitConfig, fit
from bessemer.train.optimizer import Balancer, StackedMuon, balancing, build, schedule, trained
from tests.train import runs


def groups(name: str, optimizer: str) -> tuple[Model, dict[str, tuple[str, float]]]:
    """Of each weight: which optimizer moves it, and its decay. Each is moved once."""
    model = runs.model(name)
    names = {id(weight): name for name, weight in model.named_parameters()}
    found: dict[str, tuple[str, float]] = {}
    for update in build(optimizer, model, 1e-3, (0.9, 0.95), 0.1, 1e-3):
        for group in update.param_groups:
            for weight in group["params"]:
                assert names[id(weight)] not in found
                found[names[id(weight)]] = (type(update).__name__, group.get("weight_decay", 0.0))
    assert len(found) == len(names)
    return model, found


@pytest.mark.parametrize("name", runs.RUNS)
def test_matrices_decay_and_gains_do_not(name: str):
    model, found = groups(name, "adamw")
    for weight, (update, decay) in found.items():
        balanced = weight.endswith("expert_bias")
        assert update == ("Balancer" if balanced else "AdamW")
        assert decay == (0.1 if model.get_parameter(weight).dim() >= 2 else 0.0)


def test_muon_takes_matrices_of_products_and_nothing_else():
    """Not the embedding, tables of positions, gains, a router, a gate of one row. Stacked matrices of experts have a Muon of their own."""
    for name, parts in (
        ("ahead", ["mix.query", "mix.key", "mix.value", "mix.out"]),
        ("experts", ["mix.query", "mix.key", "mix.value", "mix.out", "ffn.shared.gate", "ffn.shared.up", "ffn.shared.down"]),
        ("predict", ["mix.query", "mix.key", "mix.value", "mix.out", "ffn.gate", "ffn.up", "ffn.down"]),
        ("lstm", ["mix.weight_ih", "mix.weight_hh", "ffn.gate", "ffn.up", "ffn.down"]),
    ):
        model, found = groups(name, "muon")
        ours = {weight for weight, (update, _) in found.items() if update == "Muon"}
        blocks = [block for block, part in model.named_modules() if block.endswith((".blocks.0", ".blocks.1"))]
        assert ours == {f"{block}.{part}" + ".weight" * ("weight_" not in part) for block in blocks for part in parts}
        for weight in found.keys() - ours:
            assert found[weight][0] == ("StackedMuon" if model.get_parameter(weight).dim() == 3 else "AdamW")
    assert groups("balanced", "muon")[1]["stack.blocks.0.ffn.expert_bias"][0] == "Balancer"
    gated = Model(runs.replace(runs.MOE, shared_experts=1, shared_gate=True))
    (muon, *_) = build("muon", gated, 1e-3, (0.9, 0.95), 0.1, 1e-3)
    assert all(min(weight.shape) > 1 for weight in muon.param_groups[0]["params"])


def test_biases_move_as_algorithm_1_says():
    """Wang et al. 2024: of 4 experts, c_i tokens went to each, their mean is c; b_i += u sign(c - c_i). Here the tokens 0 to 7 are sent
    by hand: three to experts 0 and 1, three to 0 and 2, two to 1 and 2, padding to 3. c = (6, 5, 5, 0), mean 4."""
    experts = Experts(runs.RUNS["balanced"][0])
    assert experts.expert_bias is not None
    nn.init.zeros_(experts.router.weight)
    with torch.no_grad():
        experts.router.weight[:, :4] = torch.eye(4)
    x = torch.zeros(1, 10, 32)
    for token, chosen in enumerate([(0, 1)] * 3 + [(0, 2)] * 3 + [(1, 2)] * 2 + [(3, 2)] * 2):
        x[0, token, list(chosen)] = 1.0
    out, routing = experts(x, Pass(torch.arange(10)[None], See(), counted=torch.arange(10)[None] < 8))
    assert routing is not None and routing.load[0].tolist() == pytest.approx([6 / 16, 5 / 16, 5 / 16, 0])
    out.sum().backward()
    Balancer([experts.expert_bias], 0.01).step()
    assert experts.expert_bias.tolist() == pytest.approx([-0.01, -0.01, -0.01, 0.01])
    assert experts.expert_bias.grad is not None and experts.expert_bias.grad.tolist() == [8.0, 4.0, 4.0, -16.0]  # 4 times what exceeds the mean


def test_an_expert_with_its_share_keeps_its_bias():
    bias = nn.Parameter(torch.tensor([0.5, 0.5, 0.5]))
    bias.grad = torch.tensor([3.0, 0.0, -3.0])
    update = Balancer([bias], 0.1)
    update.param_groups[0]["lr"] = 0.0  # the loop sets a learning rate on every optimizer; it has no part in this
    update.step()
    assert bias.tolist() == pytest.approx([0.4, 0.5, 0.6])


def test_biases_have_no_part_in_clipping(tmp_path: Path):
    """Their gradients are counts in the hundreds; the reported norm is that of the others."""
    _, objective, source = runs.RUNS["balanced"]
    model = runs.model("balanced")
    batch = source(0)
    terms = objective(model, batch)
    loss = (terms["loss"] * batch["token_weight"]).sum() / batch["token_weight"].sum()
    loss.backward()
    biases = balancing(model)
    assert len(biases) == 2 and max(bias.grad.abs().max() for bias in biases) > 50
    expected = torch.stack([weight.grad.norm() for weight in trained(model) if weight.grad is not None]).norm()
    _, rows = runs.train(tmp_path, 1, "balanced")
    assert rows[0]["grad_norm"] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("name", ["balanced", "rwkv"])
def test_a_run_that_was_cut_ends_bit_for_bit_as_one_that_was_not(name: str, tmp_path: Path):
    """The biases of experts, and their optimizer, are part of what is saved."""
    whole, _ = runs.train(tmp_path / "whole", 9, name)
    _, objective, source = runs.RUNS[name]
    cfg = FitConfig(steps=9, batch=8, precision="fp32", compile=False, log_every=1, save_every=5, lr=1e-2)
    for row in fit(runs.model(name), objective, source, cfg, tmp_path / "cut"):
        if row["step"] == 7:
            break
    again, rows = runs.train(tmp_path / "cut", 9, name)
    assert rows[0]["step"] == 6
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    moved = [bias.abs().max().item() for bias in balancing(again)]
    assert all(0 < most <= 9 * cfg.balance_rate + 1e-9 for most in moved)


def test_the_schedule_by_hand():
    """10 steps: up over two, flat, down over the last four; the last step still moves."""
    assert [round(schedule(step, 10, 0.2, 0.4), 6) for step in range(10)] == [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert [schedule(step, 3, 0.0, 0.0) for step in range(3)] == [1, 1, 1]


@pytest.mark.parametrize("shape", [(3, 16, 8), (3, 8, 16)])
def test_a_stack_of_matrices_is_trained_as_each_of_them_by_itself(shape):
    stack = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    singles = [nn.Parameter(matrix.clone()) for matrix in stack.detach()]
    ours = StackedMuon([stack], 0.1, 0.1, momentum=0.95)
    theirs = torch.optim.Muon(singles, lr=0.1, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for seed in range(4):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        stack.grad = gradient.clone()
        for single, part in zip(singles, gradient, strict=True):
            single.grad = part.clone()
        before = stack.detach().clone()
        ours.step()
        theirs.step()
        assert (stack - before).abs().max() > 0.05
        torch.testing.assert_close(stack.detach(), torch.stack([single.detach() for single in singles]), atol=0.02, rtol=0.02)  # products in bf16
