"""Numbers with error bars: intervals for means, proportions and ratios of sums, and paired differences between two models.

Everything is resampled by item (question, document), because items are what another test set would have had instead.
All of it is seeded: the same numbers give the same interval.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
CHUNK = 1 << 22  # resampled items held in memory at once: 32 MB of indices
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number measured on `n` items, with the ends of its confidence interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """How much higher the second model is than the first on the same `n` items; `p` that no difference would look like this or more."""

    value: float
    low: float
    high: float
    p: float
    n: int


def proportion(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """Share of successes with the Wilson score interval (Wilson 1927), which stays honest at 0 and at n successes."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes among {n} items: there must be at least one item, and no more successes than items")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the exact value is 0 and 1; rounding would put the bound a hair inside or outside.
    return Estimate(share, 0.0 if successes == 0 else middle - half, 1.0 if successes == n else middle + half, n)


def mean(values: ArrayLike, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Mean of (n,) values with its percentile bootstrap interval (Efron 1979)."""
    values = _checked(values, "values")
    return ratio(values, np.ones_like(values), confidence, resamples, seed)


def ratio(numerators: ArrayLike, denominators: ArrayLike, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """sum(numerators) / sum(denominators) of n items with its percentile bootstrap interval.

    Bits per byte are such a ratio: a long document weighs what it is long. Items are resampled whole, so numerator and
    denominator of one document stay together.
    """
    numerators, denominators = _checked(numerators, "numerators"), _checked(denominators, "denominators")
    if numerators.shape != denominators.shape or (denominators <= 0).any():
        raise ValueError("a ratio needs one positive denominator per numerator")
    drawn = _bootstrap(numerators, denominators, resamples, seed)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(numerators.sum() / denominators.sum()), float(low), float(high), len(numerators))


def of_sums(counts: ArrayLike, number: Callable[[Floats], Floats], confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """`number` of the summed counts (n, ...) of n items, with its percentile bootstrap interval. F1 and BLEU are such numbers.

    `number` takes sums (resamples, ...) and gives (resamples,). ValueError where there is no item.
    """
    counts = np.asarray(counts, dtype=np.float64)
    if not len(counts):
        raise ValueError("there are no items to measure")
    n, flat = len(counts), counts.reshape(len(counts), -1)
    random = np.random.default_rng(seed)
    drawn = []
    for rows in _chunks(resamples, n):
        times = random.multinomial(n, np.full(n, 1 / n), size=rows)  # how often each item is drawn
        drawn.append(number((times @ flat).reshape(rows, *counts.shape[1:])))
    low, high = np.quantile(np.concatenate(drawn), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(number(counts.sum(0)[None])[0]), float(low), float(high), n)


def paired(
    first: ArrayLike,
    second: ArrayLike,
    sizes: ArrayLike | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """sum(second - first) / sum(sizes) on the same n items (sizes 1: the difference of two means), with interval and p-value.

    The interval is a bootstrap over items. The p-value is two-sided, from flipping the sign of each item's difference: if the
    models were equal, either could have given either result. Where differences are only -1, 0 and 1 (right or wrong) that test
    has a closed form, the exact McNemar test; otherwise signs are drawn, and p is never below 1 / (resamples + 1).
    """
    first, second = _checked(first, "first"), _checked(second, "second")
    if first.shape != second.shape:
        raise ValueError(f"paired results must be of the same items: {len(first)} against {len(second)}")
    change = second - first
    estimate = ratio(change, np.ones_like(change) if sizes is None else sizes, confidence, resamples, seed)
    if np.isin(change, (-1.0, 0.0, 1.0)).all():
        p = sign_test(int((change > 0).sum()), int((change < 0).sum()))
    else:
        p = _flip_test(change, resamples, seed)
    return Difference(estimate.value, estimate.low, estimate.high, p, estimate.n)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p of `wins` against `losses` where either is equally likely; ties say nothing (McNemar 1947, exact)."""
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1))
    return min(1.0, tail / 2 ** (n - 1)) if n else 1.0


def _flip_test(change: Floats, resamples: int, seed: int) -> float:
    random = np.random.default_rng(seed)
    observed = abs(change.sum()) - 1e-12 * np.abs(change).sum()  # equal sums must count as equal whatever their rounding
    hits = 0
    for rows in _chunks(resamples, len(change)):
        signs = random.integers(0, 2, (rows, len(change)), dtype=np.int8) * 2.0 - 1.0
        hits += int((np.abs(signs @ change) >= observed).sum())
    return (hits + 1) / (resamples + 1)


def _bootstrap(numerators: Floats, denominators: Floats, resamples: int, seed: int) -> Floats:
    """(resamples,) ratios of sums over n items drawn with replacement."""
    random = np.random.default_rng(seed)
    drawn = []
    for rows in _chunks(resamples, len(numerators)):
        picked = random.integers(0, len(numerators), (rows, len(numerators)))
        drawn.append(numerators[picked].sum(1) / denominators[picked].sum(1))
    return np.concatenate(drawn)


def _chunks(resamples: int, n: int) -> list[int]:
    rows = max(1, CHUNK // n)
    return [min(rows, resamples - done) for done in range(0, resamples, rows)]


def _checked(values: Any, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"{name} must be a list of at least one number, not of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} hold {int((~np.isfinite(array)).sum())} numbers that are not finite")
    return array
