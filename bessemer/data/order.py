"""Which rows make up a step: fixed by (seed, step) alone, so resuming needs one integer."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeVar

import numpy as np

B = TypeVar("B")


def rows(step: int, batch: int, count: int, seed: int) -> np.ndarray:
    """The `batch` row numbers of `step`, int64. Every epoch shuffles all `count` rows anew; a step may span two epochs."""
    places = np.arange(step * batch, (step + 1) * batch)
    epochs, within = places // count, places % count
    return np.array([_shuffled(count, seed, int(epoch))[i] for epoch, i in zip(epochs, within, strict=True)])


def in_order(take: Callable[[np.ndarray], B], count: int, batch: int) -> Iterator[B]:
    """The first `count` rows as batches, unshuffled: what is held out is read the same way each time. The last batch may be smaller."""
    for begin in range(0, count, batch):
        yield take(np.arange(begin, min(begin + batch, count)))


@lru_cache(maxsize=4)
def _shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)
