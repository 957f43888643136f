"""Which rows make up a step: fixed by (seed, step) alone, so resuming needs one integer."""

from functools import lru_cache

import numpy as np


def rows(step: int, batch: int, count: int, seed: int) -> np.ndarray:
    """The `batch` row numbers of `step`, int64. Every epoch shuffles all `count` rows anew; a step may span two epochs."""
    places = np.arange(step * batch, (step + 1) * batch)
    epochs, within = places // count, places % count
    return np.array([_shuffled(count, seed, int(epoch))[i] for epoch, i in zip(epochs, within, strict=True)])


@lru_cache(maxsize=4)
def _shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)
