"""Prefix rows: a part at the beginning of each document is seen in both directions, the rest is predicted (Raffel et al. 2020, section 3.2.1)."""

from collections.abc import Callable, Iterable

import numpy as np
import torch

from bessemer.data.tokens import Batch


class PrefixRows:
    """Source of prefix rows: those of another source, each of their documents split at a place that is drawn anew at every step.

    A batch is that of the other source, with prefix (B, T) bool, and token_weight 0 where a target is part of a prefix.
    """

    def __init__(self, source: Callable[[int], Batch], seed: int):
        self.source, self.seed = source, seed

    def __call__(self, step: int) -> Batch:
        return split(self.source(step), np.random.default_rng((self.seed, step)))

    def held_out(self, batches: Iterable[Batch]) -> list[Batch]:
        """Other rows of the same kind, split in the same way each time."""
        return [split(batch, np.random.default_rng((self.seed, number))) for number, batch in enumerate(batches)]


def split(batch: Batch, draw: np.random.Generator) -> Batch:
    """The batch with a prefix in each document: of n tokens 0 .. n - 1, all as likely. Padding (segment 0) has none."""
    at, segment = batch["at"].numpy(), batch["segment"].numpy()
    rows, most = len(segment), int(segment.max()) + 1
    lengths = np.bincount((segment + most * np.arange(rows)[:, None]).ravel(), minlength=rows * most).reshape(rows, most)
    prefixes = (draw.random((rows, most)) * lengths).astype(np.int64)
    prefixes[:, 0] = 0
    own = torch.from_numpy(np.take_along_axis(prefixes, segment, 1))
    place = torch.from_numpy(at)
    # The last token of a prefix sees nothing of what comes after it, so it predicts; those before it see their targets.
    return {**batch, "prefix": place < own, "token_weight": batch["token_weight"] * (place >= own - 1)}
