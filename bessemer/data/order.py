"""Which rows make up a step: fixed by (seed, step) alone, so resuming needs one integer."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeVar

import numpy as np

B = TypeVar("B")
ROUNDS = 12  # of the permutation; with 8 the orders of five rows are not yet equally frequent


def rows(step: int, batch: int, count: int, seed: int) -> np.ndarray:
    """The `batch` row numbers of `step`, int64. Every epoch shuffles all `count` rows anew; a step may span two epochs."""
    return shuffled(np.arange(step * batch, (step + 1) * batch), count, seed)


def shuffled(places: np.ndarray, count: int | np.ndarray, seed: int) -> np.ndarray:
    """The row numbers at these places of an endless sequence in which each `count` places hold every row once, in a new order.

    No order is written down, however many rows there are. An array of counts gives each place a sequence of its own.
    """
    epochs, within = np.divmod(places, count)
    different, which = np.unique(epochs, return_inverse=True)
    keys = np.stack([_keys(seed, epoch) for epoch in different.tolist()])[which].T  # (ROUNDS, places)
    return _permuted(within, np.broadcast_to(count, within.shape), keys)


def places_of(rows: np.ndarray, count: int, epoch: int, seed: int) -> np.ndarray:
    """Where `shuffled` has these rows in the given epoch: the places, int64, counted from the first of all epochs."""
    keys = np.broadcast_to(_keys(seed, epoch)[:, None], (ROUNDS, len(rows)))
    return epoch * count + _permuted(rows, np.broadcast_to(np.int64(count), rows.shape), keys, back=True)


def in_order(take: Callable[[np.ndarray], B], count: int, batch: int) -> Iterator[B]:
    """The first `count` rows as batches, unshuffled: what is held out is read the same way each time. The last batch may be smaller."""
    for begin in range(0, count, batch):
        yield take(np.arange(begin, min(begin + batch, count)))


def _permuted(places: np.ndarray, count: np.ndarray, keys: np.ndarray, back: bool = False) -> np.ndarray:
    """Where a keyed permutation of range(count) takes each place; or, `back`, from where it comes.

    A Feistel network on the cells of a left x right table that just holds `count`; a place that lands beyond `count` goes through
    again until it does not (generalised Feistel and cycle walking: Black and Rogaway 2002).
    """
    mixed = _unmixed if back else _mixed
    rows = np.sqrt(count).astype(np.uint64)
    columns = -(-count // rows.astype(np.int64)).astype(np.uint64)
    found = places.astype(np.uint64)
    todo = np.arange(len(found))
    while len(todo):
        height, width = rows[todo], columns[todo]
        left, right = mixed(*np.divmod(found[todo], width), height, width, keys[:, todo])
        found[todo] = left * width + right
        todo = todo[found[todo] >= count[todo]]
    return found.astype(np.int64)


def _mixed(left: np.ndarray, right: np.ndarray, height: np.ndarray, width: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    for one, other in zip(keys[::2], keys[1::2], strict=True):
        left = (left + _scrambled(right, one)) % height
        right = (right + _scrambled(left, other)) % width
    return left, right


def _unmixed(left: np.ndarray, right: np.ndarray, height: np.ndarray, width: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rounds of `_mixed` undone, the last first."""
    for one, other in zip(keys[-2::-2], keys[::-2], strict=True):
        right = (right + width - _scrambled(left, other) % width) % width
        left = (left + height - _scrambled(right, one) % height) % height
    return left, right


def _scrambled(values: np.ndarray, key: np.ndarray) -> np.ndarray:
    """A hash of each value below 2^48, so that a sum with it cannot wrap around (multipliers: SplitMix64, Steele et al. 2014)."""
    values = (values ^ key) * np.uint64(0x9E3779B97F4A7C15)
    values ^= values >> np.uint64(32)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    return values >> np.uint64(16)


@lru_cache(maxsize=256)
def _keys(seed: int, epoch: int) -> np.ndarray:
    return np.random.SeedSequence((seed, epoch)).generate_state(ROUNDS, np.uint64)
