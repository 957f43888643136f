"""How far from the others is too far: bounds from quantiles, which come from histograms, so that memory does not grow with the corpus."""

from collections.abc import Iterable, Sequence

import numpy as np

from bessemer.corpus.outliers.statistics import NAMES

FLOOR = np.array(list(NAMES.values()))
LOWEST, HIGHEST, STEPS = -16, 64, 128  # of a logarithm to base 2; what lies beyond counts as lying there; bins to one
SIDES = (0.1, 0.5, 0.9)  # so a kind of text that is a tenth of the corpus is usual, and what is less does not move the bounds
# A distance that no two documents are too far from each other by, whatever the corpus: a tenth (7 %), of lengths one (a factor of two).
ONE_SIDED = "order"  # words that follow from those before are no fault; repetition shows elsewhere
LEAST = np.array([1.0 if name == "characters" else 0.1 for name in NAMES])


def scaled(measures: np.ndarray) -> np.ndarray:
    """Measures, a row a document, as they are compared: logarithms to base 2."""
    with np.errstate(divide="ignore"):  # minus infinity lies beyond all bounds, as it should
        return np.log2(measures + FLOOR)


def histogram(measures: np.ndarray) -> np.ndarray:
    """Counts by statistic and bin. Those of shards add up; nan counts nowhere."""
    counts = np.zeros((len(NAMES), (HIGHEST - LOWEST) * STEPS), np.int64)
    for row, values in zip(counts, scaled(measures).T, strict=True):
        place = np.floor((values[~np.isnan(values)] - LOWEST) * STEPS)
        row += np.bincount(np.clip(place, 0, len(row) - 1).astype(np.int64), minlength=len(row))
    return counts


def limits(counts: np.ndarray, spread: float) -> np.ndarray:
    """For each statistic: lower bound, median and upper bound of the logarithm.

    A bound lies `spread` times as far from the median as the 10th or 90th percentile on its side, so that a skewed distribution has
    a wide side and a narrow one, and a few wild values move neither. A statistic that no document has is bounded by infinities.
    """
    found = np.array([_quantiles(row, SIDES) for row in counts])
    low, middle, high = found.T
    low = middle - spread * np.maximum(middle - low, LEAST)
    high = middle + spread * np.maximum(high - middle, LEAST)
    high[list(NAMES).index(ONE_SIDED)] = np.inf
    return np.stack([low, middle, high], 1)


def beyond(measures: np.ndarray, limits: np.ndarray, judged: Iterable[str]) -> np.ndarray:
    """How far each document (a row) lies out by each statistic: 1 is the bound, negative below the median; 0 where not judged."""
    low, middle, high = limits.T
    away = scaled(measures) - middle
    out = away / np.where(away < 0, middle - low, high - middle)
    out[:, [name not in set(judged) for name in NAMES]] = 0.0
    return np.nan_to_num(out, nan=0.0)


def original(limit: np.ndarray) -> list[float]:
    """Bounds in the statistics' own units."""
    return [float(value) for value in 2.0**limit - FLOOR]


def _quantiles(counts: np.ndarray, at: Sequence[float]) -> list[float]:
    """Quantiles within half a bin; of nothing, a middle from which everything is as far as nothing."""
    if not counts.sum():
        return [-np.inf, 0.0, np.inf]
    places = np.searchsorted(np.cumsum(counts), np.array(at) * counts.sum())
    return [float(place) for place in (places + 0.5) / STEPS + LOWEST]
