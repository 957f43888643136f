"""From an objective's unreduced terms to what a step minimises. The loop alone averages, and this is where."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bessemer.model.model import Model
from bessemer.train.objective import Batch, Objective


class Means(nn.Module):
    """(batch, total weights) -> the loss to differentiate, and this batch's part of each term's weighted mean, both scalars.

    A module, so that what splits a model over ranks can wrap all that happens with its weights. The totals are those of a whole step:
    its gradient is the plain sum over micro-batches and ranks.
    """

    def __init__(self, model: Model, objective: Objective, dtype: torch.dtype):
        super().__init__()
        self.model, self.objective, self.dtype = model, objective, dtype

    def forward(self, batch: Batch, totals: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        where = batch["row_weight"].device.type
        with torch.autocast(where, self.dtype, enabled=self.dtype != torch.float32):
            terms = self.objective(self.model, batch)
        return reduce(terms, batch, totals)


def reduce(terms: dict[str, Tensor], batch: Batch, totals: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted means of terms (B,) by row_weight and (B, T) by token_weight; their sum where they are losses."""
    parts = {}
    for name, term in terms.items():
        weight = "token_weight" if term.dim() == 2 else "row_weight"
        assert term.shape == batch[weight].shape, f"{name} {tuple(term.shape)} has no {weight} of its shape"
        parts[name] = (term.float() * batch[weight]).sum() / totals[weight]
    return total(parts), {name: part.detach() for name, part in parts.items()}


def total(parts: dict[str, Tensor]) -> Tensor:
    """What is minimised: the sum of the terms that are losses."""
    return torch.stack([part for name, part in parts.items() if name.endswith("loss")]).sum()


def weighed(batch: Batch) -> Batch:
    """With a row_weight: where the data says nothing, rows count alike."""
    return batch if "row_weight" in batch else {**batch, "row_weight": torch.ones(len(next(iter(batch.values()))))}


def totals(batches: Sequence[Batch]) -> dict[str, Tensor]:
    """The weight of all rows and of all tokens of weighed batches: what makes a mean independent of how they are split."""
    names = [name for name in ("row_weight", "token_weight") if name in batches[0]]
    return {name: torch.stack([batch[name].sum() for batch in batches]).sum() for name in names}
