"""AdamW with states of a byte: the code by its definition, the update against torch's AdamW."""

import copy

import pytest
import torch
from torch import nn

from bessemer.train.optimizers import adamw8
from bessemer.train.optimizers.adamw8 import AdamW8, block, decode, encode
from bessemer.train.optimizers.optimizer import OptimizerConfig, build
from tests.train import runs


def test_a_number_becomes_the_nearest_of_the_values():
    """Dettmers et al. 2022, section 1.3, by hand: the highest decade has 64 values of each sign, (0.1 + 0.9 (i + 1/2) / 64); the lowest one,
    55 % of a millionth."""
    scale = torch.tensor([[2.0]])
    numbers = torch.tensor([[2.0, -2.0, 0.0, 2 * (0.1 + 0.9 * 20.4 / 64), 2e-6 * 0.5, -2e-6 * 0.6]])
    codes, found = encode(numbers, scale, signed=True)
    assert torch.equal(found, scale)
    top = 0.1 + 0.9 * 63.5 / 64
    expected = [2.0, -2 * top, 0.0, 2 * (0.1 + 0.9 * 20.5 / 64), 2e-6 * 0.55, -2e-6 * 0.55]
    assert decode(codes, found, signed=True)[0].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("signed", [True, False])
def test_every_number_comes_back_near(signed: bool):
    """Within half the distance of two neighbours in its decade, and what fp16 rounds; a block of zeros, and tiny blocks, too."""
    draw = torch.Generator().manual_seed(1)
    numbers = torch.randn(7, 64, generator=draw) * 10.0 ** torch.randint(-3, 1, (7, 64), generator=draw)
    numbers[1] = 0
    numbers[2] *= 1e-20
    numbers = numbers if signed else numbers.abs()
    back = decode(*encode(numbers, torch.empty(7, 4), signed), signed)
    most = numbers.view(7, 4, 16).abs().amax(-1).repeat_interleave(16, -1)
    for decade in range(7):
        within = (numbers.abs() <= most * 10.0 ** (decade - 6)) & (numbers.abs() > most * 10.0 ** (decade - 7))
        near = 0.46 * 10.0 ** (decade - 6) * 0.9 / 2**decade * (1.5 if signed else 1.0) + 6e-8 + 5e-4 * 10.0 ** (decade - 6)
        assert ((back - numbers).abs() <= most * near)[within].all(), decade
    assert torch.equal(back[1], torch.zeros(64)) and (back[2] != 0).sum() > 60


def test_no_root_becomes_nothing():
    roots = torch.tensor([[1.0, 1e-9, 1e-30, 1e-4]])
    assert (decode(*encode(roots, torch.empty(1, 1), False), False) >= 1e-7 * 0.99).all()


def test_blocks_are_pieces_of_rows_that_ranks_can_share():
    assert [block(row) for row in (1, 7, 50, 64, 128, 384, 1000, 4096, 11008, 257)] == [1, 7, 50, 64, 16, 48, 125, 256, 172, 1]
    assert all(row // 8 % block(row) == 0 for row in range(128, 9000, 8))


def pair(seed: int, shape: tuple[int, ...] = (96, 128)) -> tuple[nn.Parameter, nn.Parameter]:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return nn.Parameter(weight.clone()), nn.Parameter(weight.clone())


def ours(weight: nn.Parameter) -> AdamW8:
    return AdamW8([{"params": [weight], "lr": 0.01, "weight_decay": 0.1}], (0.9, 0.95))


@pytest.mark.parametrize("shape", [(96, 128), (3, 32, 50)])
def test_it_moves_as_adamw_does(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch):
    """The first step is the same, since states are rounded after it; twenty steps stay within a tenth of the way. In pieces of rows."""
    monkeypatch.setattr(adamw8, "ELEMENTS", 1000)
    weight, reference = pair(1, shape)
    start = weight.detach().clone()
    mine, theirs = ours(weight), torch.optim.AdamW([reference], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    draw = torch.Generator().manual_seed(2)
    sizes = 10.0 ** (-3 * torch.rand(shape, generator=draw))  # gradients of very different size within a block
    for step in range(20):
        weight.grad = sizes * (torch.randn(shape, generator=draw) + 0.5)
        reference.grad = weight.grad.clone()
        mine.step()
        theirs.step()
        if step == 0:
            torch.testing.assert_close(weight.detach(), reference.detach(), atol=1e-6, rtol=1e-6)
    way, apart = (reference - start).norm(), (weight - reference).norm()
    assert way > 1 and apart < 0.1 * way, (way, apart)


def test_a_weight_that_gets_no_gradient_for_long_does_not_leap():
    """A row of the embedding whose token is rare shares its block with none, yet its square fades below what a byte can say."""
    weight, _ = pair(1, (4, 64))
    weight.data.zero_()
    update = ours(weight)
    for step in range(60):
        weight.grad = torch.zeros(4, 64)
        weight.grad[:, 0] = 1.0
        weight.grad[:, 1] = 1e-5 if step == 0 else 0.0
        before = weight.detach().clone()
        update.step()
        assert (weight - before).abs().max() < 0.011


def test_states_take_a_third_of_their_bytes_and_gains_stay_exact():
    model = runs.model("predict")
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    updates = build(OptimizerConfig(state_bits=8), [model])
    for update in updates:
        update.step()
    assert [type(update).__name__ for update in updates] == ["AdamW8", "AdamW"]
    assert all(weight.dim() == 1 for group in updates[1].param_groups for weight in group["params"])
    held = sum(value.nbytes for state in updates[0].state.values() for value in state.values())
    assert held < 0.34 * sum(8 * weight.numel() for weight in updates[0].state)


def test_a_restored_state_goes_on_bit_for_bit():
    weight, again = pair(1)
    draws = torch.randn(4, *weight.shape, generator=torch.Generator().manual_seed(3))
    first, second = ours(weight), ours(again)
    for draw in draws[:2]:
        weight.grad = draw.clone()
        first.step()
    again.data.copy_(weight.data)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for draw in draws[2:]:
        for one, update in ((weight, first), (again, second)):
            one.grad = draw.clone()
            update.step()
    assert torch.equal(weight, again)
    assert second.state[again]["exp_avg"].dtype == torch.uint8
