"""Losses and schedule, hand-worked."""

import math

import pytest
import torch

from bessemer.train import loss
from bessemer.train.optimizer import schedule


def test_cross_entropy_by_hand():
    """Scores (0, ln 3) are probabilities (1/4, 3/4)."""
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, math.log(3)]]])
    found = loss.cross_entropy(logits, torch.tensor([[0, 1]]))
    torch.testing.assert_close(found, torch.tensor([[math.log(4), math.log(4 / 3)]]))


def test_dpo_by_hand():
    """Chosen gains 2 nats over the reference and rejected loses 1: margin 0.5 * 3; loss -ln sigmoid(1.5). Equal to it: ln 2."""
    policy_chosen, policy_rejected = torch.tensor([-8.0, -5.0]), torch.tensor([-11.0, -6.0])
    reference_chosen, reference_rejected = torch.tensor([-10.0, -5.0]), torch.tensor([-10.0, -6.0])
    found, margin = loss.dpo(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.5)
    torch.testing.assert_close(margin, torch.tensor([1.5, 0.0]))
    torch.testing.assert_close(found, torch.tensor([math.log(1 + math.exp(-1.5)), math.log(2)]))


def test_the_rate_rises_stays_and_falls_to_zero():
    rates = [schedule(step, 100, warmup=0.1, decay=0.4) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0)
    assert all(rate == 1.0 for rate in rates[10:61])
    assert rates[80] == pytest.approx(0.5) and rates[99] == pytest.approx(1 / 40) and rates[100] == 0.0
    assert schedule(0, 10, 0.0, 0.0) == schedule(9, 10, 0.0, 0.0) == 1.0
