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
from bessemer.train.optimizers.optimizer import Balancer, OptimizerConfig, balancing, build, schedule, trained
from tests.train import runs


def groups(name: str, **settings) -> tuple[Model, dict[str, tuple[str, str, float, float]]]:
    """Of each weight: which optimizer moves it, in which group, its peak rate and its decay. Each is moved once."""
    model = runs.model(name)
    names = {id(weight): name for name, weight in model.named_parameters()}
    found: dict[str, tuple[str, str, float, float]] = {}
    for update in build(OptimizerConfig(lr=1e-3, **settings), [model]):
        for group in update.param_groups:
            for weight in group["params"]:
                assert names[id(weight)] not in found
                found[names[id(weight)]] = (type(update).__name__, group["name"], group["initial_lr"], group.get("weight_decay", 0.0))
    assert len(found) == len(names)
    return model, found


@pytest.mark.parametrize("name", runs.RUNS)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_matrices_decay_and_gains_do_not(name: str, optimizer: str):
    model, found = groups(name, optimizer=optimizer)
    for weight, (update, group, _, decay) in found.items():
        wide = model.get_parameter(weight).dim() >= 2
        balanced = weight.endswith("expert_bias")
        muon = optimizer == "muon" and group in ("matrices", "experts")
        assert update == ("Balancer" if balanced else "Muon" if muon else "AdamW")
        assert decay == (0.1 if wide else 0.0)
        assert (group == "gains") == (not wide and not balanced)


def test_muon_takes_matrices_of_products_and_stacks_of_them_and_nothing_else():
    """Not the embedding, tables of positions, gains, a router, a gate of one row."""
    for name, parts in (
        ("ahead", ["mix.query", "mix.key", "mix.value", "mix.out"]),
        ("experts", ["mix.query", "mix.key", "mix.value", "mix.out", "ffn.shared.gate", "ffn.shared.up", "ffn.shared.down"]),
        ("predict", ["mix.query", "mix.key", "mix.value", "mix.out", "ffn.gate", "ffn.up", "ffn.down"]),
        ("lstm", ["mix.weight_ih", "mix.weight_hh", "ffn.gate", "ffn.up", "ffn.down"]),
    ):
        model, found = groups(name, optimizer="muon")
        ours = {weight for weight, (update, *_) in found.items() if update == "Muon"}
        blocks = [block for block, part in model.named_modules() if block.endswith((".blocks.0", ".blocks.1"))]
        expected = {f"{block}.{part}" + ".weight" * ("weight_" not in part) for block in blocks for part in parts}
        assert ours == expected | {weight for weight in found if model.get_parameter(weight).dim() == 3}
    gated = Model(runs.replace(runs.MOE, shared_experts=1, shared_gate=True))
    (muon, *_) = build(OptimizerConfig(optimizer="muon"), [gated])
    assert all(min(weight.shape) > 1 for group in muon.param_groups for weight in group["params"])


def test_each_weight_is_in_the_group_of_its_kind():
    _, found = groups("masked", optimizer="muon", embed_lr=5.0)
    kinds = {weight: group for weight, (_, group, *_) in found.items() if "blocks" not in weight}
    tables, heads = ["embed.weight", "place.weight", "kind.weight"], ["transform.0.weight", "pool.0.weight", "label.weight"]
    assert kinds == {weight: "embedding" if weight in tables else "head" if weight in heads else "gains" for weight in kinds}
    rates = {group: rate for _, group, rate, _ in found.values()}
    assert rates == pytest.approx({"embedding": 5e-3, "head": 5e-3, "matrices": 1e-3, "gains": 1e-3})
    _, found = groups("balanced")
    assert found["stack.blocks.1.ffn.router.weight"][:2] == ("AdamW", "routers")
    assert found["stack.blocks.1.ffn.down"][1] == "experts" and found["stack.blocks.1.ffn.expert_bias"][1] == "balance"


def test_the_parts_of_a_model_are_built_together():
    """Stages of a pipeline: the same groups as of the whole."""
    parts = [runs.model("predict"), runs.model("predict")]
    updates = build(OptimizerConfig(optimizer="muon"), parts)
    assert [type(update).__name__ for update in updates] == ["Muon", "AdamW"]
    assert sum(len(group["params"]) for update in updates for group in update.param_groups) == 2 * len(list(parts[0].parameters()))
    assert [group["name"] for update in updates for group in update.param_groups] == ["matrices", "embedding", "gains"]


def state(updates: list[torch.optim.Optimizer], model: Model) -> list[torch.Tensor]:
    held = [value for update in updates for kept in update.state.values() for value in kept.values()]
    return [tensor.detach().clone() for tensor in [*model.parameters(), *held]]


def gradients(model: Model, seed: int, times: float = 1.0) -> None:
    draw = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.grad = times * torch.randn(weight.shape, generator=draw)


@pytest.mark.parametrize("settings", [{"optimizer": "adamw"}, {"optimizer": "muon"}, {"state_bits": 8}])
def test_a_step_that_is_not_to_be_taken_changes_no_bit(settings: dict):
    """Nor does the first one, before any optimizer has a state; steps after it go on as if it had not been."""
    ends = []
    for skipped in (False, True):
        model = runs.model("balanced")
        updates = build(OptimizerConfig(**settings), [model], torch.float32)
        for step, bad in enumerate([1.0, 0.0, 1.0, 0.0] if skipped else [0.0, 0.0]):
            gradients(model, 2 if step == 3 or (step == 1 and not skipped) else 1, torch.nan if bad and step else torch.inf if bad else 1.0)
            before = state(updates, model)
            for update in updates:
                update.found_inf, update.grad_scale = torch.tensor(bad), torch.tensor(1.0)  # type: ignore[attr-defined]
                update.step()
            after = state(updates, model)
            if bad and step:
                assert len(before) == len(after) and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        ends.append(after)
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert all(tensor.isfinite().all() for tensor in ends[1])


@pytest.mark.parametrize("settings", [{"optimizer": "adamw"}, {"optimizer": "muon"}, {"state_bits": 8}])
def test_gradients_are_divided_by_grad_scale(settings: dict):
    """By a power of two, so that nothing is rounded."""
    ends = []
    for times in (1.0, 1024.0):
        model = runs.model("balanced")
        updates = build(OptimizerConfig(**settings), [model], torch.float32)
        for step in range(2):
            gradients(model, step, times)
            for update in updates:
                update.grad_scale = torch.tensor(times)  # type: ignore[attr-defined]
                update.step()
        ends.append(state(updates, model))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


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


@pytest.mark.parametrize(
    "name, settings",
    [("balanced", {}), ("rwkv", {}), ("balanced", {"optimizer": "muon", "state_bits": 8, "ema": 0.9, "schedule": "cosine"})],
)
def test_a_run_that_was_cut_ends_bit_for_bit_as_one_that_was_not(name: str, settings: dict, tmp_path: Path):
    """The biases of experts, every optimizer's state and the average of the weights are part of what is saved."""
    whole, _ = runs.train(tmp_path / "whole", 9, name, **settings)
    _, objective, source = runs.RUNS[name]
    cfg = FitConfig(**{"steps": 9, "batch": 8, "precision": "fp32", "compile": False, "log_every": 1, "save_every": 5, "lr": 1e-2, **settings})
    for row in fit(runs.model(name), objective, source, cfg, tmp_path / "cut"):
        if row["step"] == 7:
            break
    again, rows = runs.train(tmp_path / "cut", 9, name, **settings)
    assert rows[0]["step"] == 6
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    moved = [bias.abs().max().item() for bias in balancing(again)]
    assert all(0 < most <= 9 * cfg.balance_rate + 1e-9 for most in moved)


def shares(steps: int, **settings) -> list[float]:
    return [round(schedule(step, steps, OptimizerConfig(**settings)), 6) for step in range(steps)]


def test_the_schedule_by_hand():
    """10 steps: up over two, flat, down over the last four; the last step still moves."""
    assert shares(10, warmup=0.2, decay=0.4) == [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert shares(3, warmup=0.0, decay=0.0) == [1, 1, 1]
    assert shares(4, warmup=0.0, decay=1.0, final=0.2) == [1, 0.8, 0.6, 0.4]
    assert shares(4, warmup=1.0, decay=1.0) == [0.25, 0.5, 0.5, 0.25]  # the lower of both


def test_the_cosine_by_hand():
    """Up over two of eight, then (1 + cos(pi k / 6)) / 2 for k = 0 to 5; with a floor, that share of the way above it."""
    half = 3**0.5 / 2
    wave = [1, (1 + half) / 2, 0.75, 0.5, 0.25, (1 - half) / 2]
    assert shares(8, schedule="cosine", warmup=0.25) == pytest.approx([0.5, 1, *wave], abs=1e-6)
    assert shares(8, schedule="cosine", warmup=0.25, final=0.1) == pytest.approx([0.5, 1, *(0.1 + 0.9 * share for share in wave)], abs=1e-6)
    assert shares(2, schedule="cosine", warmup=1.0) == [0.5, 1]
