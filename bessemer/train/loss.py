"""Losses: pure, unreduced functions of tensors. B rows, T tokens, V vocabulary."""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p(target) in nats, (B, T) from (B, T, V) and (B, T). Computed in fp32 whatever the logits are."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view_as(targets)


def dpo(policy_chosen: Tensor, policy_rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Direct preference optimization, eq. 7 of Rafailov et al. 2023: loss and implicit reward margin, both (B,).

    All inputs are summed log-probabilities of answers, (B,).
    """
    margin = beta * ((policy_chosen - reference_chosen) - (policy_rejected - reference_rejected))
    return -F.logsigmoid(margin), margin
