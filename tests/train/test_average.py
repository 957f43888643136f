"""The average of the weights, by hand."""

import pytest
import torch
from torch import nn

from bessemer.train.optimizers.average import Average


def one(value: float, dtype: torch.dtype = torch.float32) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model.to(dtype)


def put(model: nn.Linear, value: float) -> None:
    nn.init.constant_(model.weight, value)


def test_by_hand():
    """Decays min(0.2, (1 + n) / (10 + n)) are 0.1, 2/11, 0.2, 0.2: from 1 to 10, 21, 0, 5 by hand."""
    model = one(1.0)
    average = Average([model], 0.2)
    expected = 1.0
    for value, decay in ((10.0, 0.1), (21.0, 2 / 11), (0.0, 0.2), (5.0, 0.2)):
        put(model, value)
        average.update()
        expected = decay * expected + (1 - decay) * value
        assert average.means["weight"].item() == pytest.approx(expected, rel=1e-6)
    assert expected == pytest.approx(0.2 * 0.2 * (2 / 11 * 9.1 + 9 / 11 * 21) + 0.8 * 5.0)


def test_a_step_that_was_not_taken_leaves_it_as_it_was():
    model = one(1.0)
    average = Average([model], 0.9)
    put(model, 3.0)
    average.update(torch.tensor(0.0))
    before = average.means["weight"].clone()
    average.update(torch.tensor(1.0))
    assert torch.equal(average.means["weight"], before) and average.updates.item() == 1
    average.update(torch.tensor(0.0))
    assert average.means["weight"].item() > before.item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_swapped_in_and_out_again(dtype: torch.dtype):
    model = one(1 / 3, dtype)
    average = Average([model], 0.9)
    put(model, 2 / 3)
    average.update()
    before, mean = model.weight.detach().clone(), average.means["weight"].clone()
    assert mean.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    with average.swapped():
        assert torch.equal(model.weight.detach(), mean.to(dtype)) and not torch.equal(model.weight.detach(), before)
    assert torch.equal(model.weight.detach(), before)
    with pytest.raises(KeyError), average.swapped():
        raise KeyError
    assert torch.equal(model.weight.detach(), before)


def test_a_restored_average_goes_on_as_the_first():
    first, second = one(1.0), one(7.0)
    averages = Average([first], 0.5), Average([second], 0.5)
    for value in (2.0, 3.0):
        put(first, value)
        averages[0].update()
    averages[1].load_state_dict({name: tensor.clone() for name, tensor in averages[0].state_dict().items()})
    for model, average in zip((first, second), averages, strict=True):
        put(model, 4.0)
        average.update()
    assert torch.equal(averages[0].means["weight"], averages[1].means["weight"]) and averages[1].updates == 3


def test_without_a_decay_there_is_none():
    model = one(1.0)
    average = Average([model], 0.0)
    average.update(torch.tensor(0.0))
    average.swap()
    assert model.weight.item() == 1.0 and not average.means
