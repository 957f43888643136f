"""Objectives: `objective(model, batch) -> {term: (B,), (B, T) or (B, P)}`, unreduced.

The data says what counts (row_weight, token_weight), the objective says what it costs, and the loop alone averages. Terms whose
name ends in `loss` are added up and minimised; the others are only reported. P: the places a batch picks out of its T tokens.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bessemer.model.model import Model
from bessemer.model.moe import routing_terms
from bessemer.train import loss

Batch = dict[str, Tensor]
Terms = dict[str, Tensor]
Objective = Callable[[Model, Batch], Terms]


def hidden_of(model: Model, batch: Batch) -> Tensor:
    """Hidden states of a batch's tokens, (B, T, C), or of the places it picks, (B, P, C). A source is encoded first."""
    extras: dict[str, Tensor] = {name: batch[name] for name in ("prefix", "types") if name in batch}
    if "source_tokens" in batch:
        extras["memory"] = model.encode(batch["source_tokens"], batch["source_segment"], batch["source_at"])
        extras["memory_segment"] = batch["source_segment"]
    hidden = model(batch["tokens"], batch.get("at"), batch.get("segment"), **extras)
    return picked(hidden, batch["picked"]) if "picked" in batch else hidden


def picked(hidden: Tensor, places: Tensor) -> Tensor:
    """(B, P, C) of (B, T, C) at places (B, P)."""
    return hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))


def predict(model: Model, batch: Batch) -> Terms:
    """Cross-entropy of the next token, of hidden tokens, or of a target text, whatever the batch asks for: loss (B, T) or (B, P)."""
    return {"loss": cost(model, hidden_of(model, batch), batch["targets"]), **routed(model)}


def cost(model: Model, hidden: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy (B, T) of what the head makes of hidden states (B, T, C)."""
    return loss.head_cross_entropy(model.transform(hidden), model.head.weight, model.head.bias, targets)


def routed(model: Model) -> Terms:
    """What the experts of the last forward pass add, each (B,): their balance loss, and how they shared the work. Nothing without experts."""
    return routing_terms(model.routing, model.cfg.aux_weight if model.cfg.balance == "aux" else 0.0) if model.routing else {}


def predict_ahead(share: float = 1.0) -> Objective:
    """Multi-token prediction (Gloeckle et al. 2024, eq. 2): loss and, for each further token the model predicts, ahead_N_loss, (B, T).

    ahead_N_loss stands at the place of its target, N tokens after the place that predicts it, so that a target weighs as it does
    for the next token. A document's first N targets nobody predicts: they cost nothing, and count in the mean. `share`: weight of
    each further loss beside the first; the paper's is 1.
    """

    def objective(model: Model, batch: Batch) -> Terms:
        hidden, targets, segment = hidden_of(model, batch), batch["targets"], batch.get("segment")
        terms = {"loss": cost(model, hidden, targets)}
        for n, further in enumerate(model.ahead(hidden, batch.get("at"), segment), 1):
            later = share * cost(model, further[:, :-n], targets[:, n:])
            if segment is not None:
                later = later * (segment[:, n:] == segment[:, :-n])
            terms[f"ahead_{n}_loss"] = F.pad(later, (n, 0))
        return terms | routed(model)

    return objective


def masked_pair(model: Model, batch: Batch) -> Terms:
    """BERT's two: mlm_loss (B, P) of hidden tokens; pair_loss, pair_accuracy (B,) of whether the second text follows the first."""
    hidden = hidden_of(model, {name: column for name, column in batch.items() if name != "picked"})
    scores = model.classify(hidden[:, 0])
    return {
        "mlm_loss": cost(model, picked(hidden, batch["picked"]), batch["targets"]),
        "pair_loss": F.cross_entropy(scores.float(), batch["pair_targets"], reduction="none"),
        "pair_accuracy": (scores.argmax(-1) == batch["pair_targets"]).float(),
        **routed(model),
    }


def classify(model: Model, batch: Batch) -> Terms:
    """The class of each picked place, a text's or a word's: loss, accuracy (B, P)."""
    scores = model.classify(hidden_of(model, batch))
    return {"loss": loss.cross_entropy(scores, batch["targets"]), "accuracy": (scores.argmax(-1) == batch["targets"]).float()}


def extract(model: Model, batch: Batch) -> Terms:
    """Where an answer begins and where it ends, each a choice among the tokens of its example: start_loss, end_loss, exact (B, P).

    `picked` (B, P) is a place of each example, targets and ends (B, P) are places in the row.
    """
    hidden = hidden_of(model, {name: column for name, column in batch.items() if name != "picked"})
    own = batch["segment"].gather(1, batch["picked"])[..., None] == batch["segment"][:, None]  # (B, P, T)
    start, end = (scores[:, None].float().masked_fill(~own, -torch.inf) for scores in model.classify(hidden).unbind(-1))
    right = (start.argmax(-1) == batch["targets"]) & (end.argmax(-1) == batch["ends"])
    return {"start_loss": loss.cross_entropy(start, batch["targets"]), "end_loss": loss.cross_entropy(end, batch["ends"]), "exact": right.float()}


def answer_log_probs(model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
    """Summed log-probability of the chosen and of the rejected answer, (B,) each. Both run as one batch of 2B rows."""
    tokens = torch.cat([batch["chosen_tokens"], batch["rejected_tokens"]])
    targets = torch.cat([batch["chosen_targets"], batch["rejected_targets"]])
    weight = torch.cat([batch["chosen_weight"], batch["rejected_weight"]])
    log_probs = -(cost(model, model(tokens), targets) * weight).sum(-1)
    chosen, rejected = log_probs.chunk(2)
    return chosen, rejected


def prefer(beta: float, anchor: float = 0.0) -> Objective:
    """DPO against stored reference log-probabilities: loss, margin, accuracy, chosen and rejected reward, all (B,).

    `anchor` adds that share of the chosen answer's negative log-likelihood per token (as in Pang et al. 2024), which keeps DPO
    from lowering the chosen answer together with the rejected one.
    """

    def objective(model: Model, batch: Batch) -> Terms:
        chosen, rejected = answer_log_probs(model, batch)
        loses, margin = loss.dpo(chosen, rejected, batch["reference_chosen"], batch["reference_rejected"], beta)
        terms = {
            "dpo_loss": loses,
            "margin": margin.detach(),
            "accuracy": (margin > 0).float(),
            "chosen_reward": (beta * (chosen - batch["reference_chosen"])).detach(),
            "rejected_reward": (beta * (rejected - batch["reference_rejected"])).detach(),
        }
        if anchor:
            terms["anchor_loss"] = -anchor * chosen / batch["chosen_weight"].sum(-1)
        return terms

    return objective
