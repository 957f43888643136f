"""From numbers per item to scores with intervals, and to differences between two models on the same items."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from bessemer.eval import stats

T = TypeVar("T")
Row = dict[str, Any]
ALL = "all"
CLEAN, CONTAMINATED = "clean", "contaminated"  # kinds of the rows for the items that the training text does not hold, and that it holds
ANSWERS, CHOICES = ("exact_match", "rouge_l", "ended"), ("choice", "choice_per_byte")  # metrics, by what they are measured on
SHARES = ("exact_match", "ended", "choice", "choice_per_byte")  # each item is right or wrong
DIGITS = 6


def spread(rows: Sequence[T], count: int) -> list[T]:
    """`count` rows at even distances, so that every part of a file weighs as much as in the whole."""
    return [rows[i * len(rows) // count] for i in range(count)] if len(rows) > count else list(rows)


def of(model: str, items: Row, kinds: Sequence[str], confidence: float) -> list[Row]:
    """A row {model, metric, kind, value, low, high, n} per metric; those of answers also for each kind of question.

    bits_per_byte is over documents, ended the share of answers that the model itself brought to an end.
    """
    rows = [_row(model, "bits_per_byte", ALL, stats.ratio(items["bits"], items["sizes"], confidence))]
    for metric in ANSWERS:
        rows.append(_row(model, metric, ALL, _estimate(metric, items[metric], confidence)))
        for kind in sorted(set(kinds)):
            here = [value for value, own in zip(items[metric], kinds, strict=True) if own == kind]
            rows.append(_row(model, metric, kind, _estimate(metric, here, confidence)))
    for metric in CHOICES:
        rows.append(_row(model, metric, ALL, _estimate(metric, items[metric], confidence)))
    return rows


def split(model: str, items: Row, found: Mapping[str, Sequence[bool]], confidence: float) -> list[Row]:
    """The rows of `of` for the clean and the contaminated items alone, where there are any.

    `found` says of each metric's items whether the training text holds them.
    """
    rows = []
    for metric, flags in found.items():
        for kind in (CLEAN, CONTAMINATED):
            here = [value for value, flag in zip(items[metric], flags, strict=True) if flag == (kind == CONTAMINATED)]
            rows += [_row(model, metric, kind, _estimate(metric, here, confidence))] if here else []
    return rows


def differences(first: str, second: str, items: dict[str, Row], confidence: float) -> list[Row]:
    """A row {first, second, metric, value, low, high, p, n} per metric: how much higher the second model is on the very same items."""
    rows = []
    for metric in ("bits_per_byte", *ANSWERS, *CHOICES):
        column = "bits" if metric == "bits_per_byte" else metric
        sizes = items[first]["sizes"] if column == "bits" else None
        found = stats.paired(items[first][column], items[second][column], sizes, confidence)
        rows.append({"first": first, "second": second, "metric": metric, **_rounded(found)})
    return rows


def _estimate(metric: str, values: Sequence[float], confidence: float) -> stats.Estimate:
    return stats.proportion(int(sum(values)), len(values), confidence) if metric in SHARES else stats.mean(values, confidence)


def _row(model: str, metric: str, kind: str, estimate: stats.Estimate) -> Row:
    return {"model": model, "metric": metric, "kind": kind, **_rounded(estimate)}


def _rounded(found: stats.Estimate | stats.Difference) -> Row:
    return {name: round(value, DIGITS) for name, value in asdict(found).items()}
