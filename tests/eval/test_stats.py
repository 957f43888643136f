"""Intervals and p-values against scipy, hand-worked numbers, and their own promise: 95 % intervals cover 95 % of the time."""

import numpy as np
import pytest
from scipy import stats as reference

from bessemer.eval import stats


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (1, 10), (10, 10), (37, 200), (199, 200), (1, 1), (0, 1)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_equals_scipy(successes: int, n: int, confidence: float) -> None:
    ours = stats.proportion(successes, n, confidence)
    theirs = reference.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert ours.value == successes / n


def test_wilson_by_hand() -> None:
    """8 of 10, z = 1.959964: middle (0.8 + z2/20) / (1 + z2/10) = 0.716740, half 0.226577 -> 0.490162 to 0.943317."""
    ours = stats.proportion(8, 10)
    assert (ours.low, ours.high) == pytest.approx((0.490162, 0.943317), abs=2e-6)


def test_ratio_weighs_documents_by_their_length() -> None:
    """8 bits over 2 bytes and 6 bits over 12 bytes are 14/14 = 1 bit per byte, not the mean of 4 and 0.5."""
    ours = stats.ratio([8.0, 6.0], [2.0, 12.0])
    assert ours.value == 1.0
    assert (ours.low, ours.high) == (0.5, 4.0)  # drawing the same document twice happens in half of the resamples


def test_bootstrap_equals_scipy() -> None:
    random = np.random.default_rng(1)
    bits, size = random.gamma(3, 100, 80), random.integers(50, 500, 80).astype(float)
    ours = stats.ratio(bits, size, resamples=20000)
    theirs = reference.bootstrap(
        (bits, size), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True, vectorized=True, method="percentile",
        n_resamples=20000, rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.04 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.04 * width)


def test_intervals_cover_the_truth() -> None:
    """400 experiments of 60 draws with mean 2: a 95 % interval misses about 5 % (percentile bootstrap: slightly more)."""
    random = np.random.default_rng(3)
    found = [stats.mean(random.exponential(2.0, 60), resamples=400, seed=i) for i in range(400)]
    assert 0.89 < np.mean([e.low <= 2.0 <= e.high for e in found]) < 0.98
    narrow = [stats.mean(random.exponential(2.0, 60), 0.5, resamples=400, seed=i) for i in range(400)]
    assert 0.42 < np.mean([e.low <= 2.0 <= e.high for e in narrow]) < 0.57


def test_chunks_do_not_change_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    values, other = np.arange(50.0) ** 1.5, np.ones(50)
    whole = (stats.mean(values), stats.paired(other, values))
    monkeypatch.setattr(stats, "CHUNK", 300)
    assert (stats.mean(values), stats.paired(other, values)) == whole
    assert stats.mean(values, seed=1) != whole[0]


def test_exact_sign_test_equals_binomial_and_hand() -> None:
    """5 wins, no loss: both tails are 2 / 2^5 = 0.0625."""
    assert stats.sign_test(5, 0) == 0.0625
    assert stats.sign_test(0, 0) == 1.0
    for wins, losses in [(3, 3), (12, 4), (100, 131)]:
        assert stats.sign_test(wins, losses) == pytest.approx(reference.binomtest(wins, wins + losses).pvalue, rel=1e-12)


def test_paired_right_or_wrong_is_mcnemar() -> None:
    first, second = np.zeros(40), np.zeros(40)
    first[:10], second[:8], second[10:22] = 1, 1, 1  # 12 only the second, 2 only the first
    found = stats.paired(first, second)
    assert found.value == 0.25 and found.n == 40
    assert found.p == pytest.approx(reference.binomtest(12, 14).pvalue, rel=1e-12)
    assert found.low < 0.25 < found.high


def test_paired_p_equals_scipys_permutation_test() -> None:
    random = np.random.default_rng(5)
    first = random.normal(0, 1, 12)
    second = first + random.normal(0.4, 0.8, 12)
    exact = reference.permutation_test(
        (second, first), lambda a, b, axis: (a - b).mean(axis), permutation_type="samples", vectorized=True, n_resamples=10000
    ).pvalue  # 2^12 flips: scipy enumerates them all
    assert stats.paired(first, second, resamples=40000).p == pytest.approx(exact, abs=0.01)


def test_paired_with_sizes_is_the_difference_of_the_ratios() -> None:
    first, second, sizes = [10.0, 30.0, 7.0], [8.0, 31.0, 5.5], [4.0, 9.0, 3.0]
    found = stats.paired(first, second, sizes)
    assert found.value == pytest.approx(stats.ratio(second, sizes).value - stats.ratio(first, sizes).value)


def test_equal_models_do_not_differ() -> None:
    assert stats.paired([0.1, 0.7, 0.3], [0.1, 0.7, 0.3]) == stats.Difference(0.0, 0.0, 0.0, 1.0, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.mean([]), "at least one number"),
        (lambda: stats.mean([1.0, float("nan")]), "1 numbers that are not finite"),
        (lambda: stats.proportion(3, 2), "no more successes"),
        (lambda: stats.proportion(0, 0), "at least one item"),
        (lambda: stats.ratio([1.0], [0.0]), "positive denominator"),
        (lambda: stats.paired([1.0], [1.0, 2.0]), "same items: 1 against 2"),
    ],
)
def test_bad_input_is_one_clear_line(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
