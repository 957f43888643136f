"""Objectives: `objective(model, batch) -> {term: (B,) or (B, T)}`, unreduced.

The data says what counts (row_weight, token_weight), the objective says what it costs, and the loop alone averages. Terms whose
name ends in `loss` are added up and minimised; the others are only reported.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bessemer.model.decoder import Decoder
from bessemer.train import loss

Batch = dict[str, Tensor]
Terms = dict[str, Tensor]
Objective = Callable[[Decoder, Batch], Terms]


def predict(model: Decoder, batch: Batch) -> Terms:
    """Next-token cross-entropy: loss (B, T)."""
    hidden = model(batch["tokens"], batch.get("at"), batch.get("segment"))
    return {"loss": loss.cross_entropy(model.logits(hidden), batch["targets"])}


def predict_bytes(bytes_per_token: float) -> Objective:
    """`predict`, reported in bits per byte too, which compares across tokenizers. `bytes_per_token` belongs to the held-out text."""

    def objective(model: Decoder, batch: Batch) -> Terms:
        terms = predict(model, batch)
        return {**terms, "bits_per_byte": terms["loss"].detach() / (math.log(2) * bytes_per_token)}

    return objective


def answer_log_probs(model: Decoder, batch: Batch) -> tuple[Tensor, Tensor]:
    """Summed log-probability of the chosen and of the rejected answer, (B,) each. Both run as one batch of 2B rows."""
    tokens = torch.cat([batch["chosen_tokens"], batch["rejected_tokens"]])
    targets = torch.cat([batch["chosen_targets"], batch["rejected_targets"]])
    weight = torch.cat([batch["chosen_weight"], batch["rejected_weight"]])
    log_probs = -(loss.cross_entropy(model.logits(model(tokens)), targets) * weight).sum(-1)
    chosen, rejected = log_probs.chunk(2)
    return chosen, rejected


def prefer(beta: float, anchor: float = 0.0) -> Objective:
    """DPO against stored reference log-probabilities: loss, margin, accuracy, chosen and rejected reward, all (B,).

    `anchor` adds that share of the chosen answer's negative log-likelihood per token (as in Pang et al. 2024), which keeps DPO
    from lowering the chosen answer together with the rejected one.
    """

    def objective(model: Decoder, batch: Batch) -> Terms:
        chosen, rejected = answer_log_probs(model, batch)
        cost, margin = loss.dpo(chosen, rejected, batch["reference_chosen"], batch["reference_rejected"], beta)
        terms = {
            "dpo_loss": cost,
            "margin": margin.detach(),
            "accuracy": (margin > 0).float(),
            "chosen_reward": (beta * (chosen - batch["reference_chosen"])).detach(),
            "rejected_reward": (beta * (rejected - batch["reference_rejected"])).detach(),
        }
        if anchor:
            terms["anchor_loss"] = -anchor * chosen / batch["chosen_weight"].sum(-1)
        return terms

    return objective
