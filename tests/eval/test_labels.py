"""Measures of classes, tags and answers: against scikit-learn, and worked by hand."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from bessemer.eval import labels, stats

DRAW = np.random.default_rng(0)
WANTED = DRAW.choice(["a", "b", "c", "d"], 300, p=[0.6, 0.3, 0.08, 0.02]).tolist()
GIVEN = [want if right else other for want, right, other in zip(WANTED, DRAW.random(300) < 0.7, DRAW.choice(["a", "b", "e"], 300), strict=True)]


def test_classes_are_scored_as_by_scikit_learn():
    """e is given and never right: its F1 of 0 counts, in both."""
    found = labels.class_scores(WANTED, GIVEN)
    assert found["accuracy"].value == pytest.approx(accuracy_score(WANTED, GIVEN))
    assert found["macro_f1"].value == pytest.approx(f1_score(WANTED, GIVEN, average="macro", zero_division=0))
    assert found["macro_f1"].low < found["macro_f1"].value < found["macro_f1"].high and found["macro_f1"].n == 300


def test_an_interval_of_sums_is_that_of_a_mean():
    """The share of right items, resampled as counts, has about the interval of the plain bootstrap."""
    right = np.array([a == b for a, b in zip(WANTED, GIVEN, strict=True)], dtype=float)
    found, plain = stats.of_sums(right[:, None], lambda sums: sums[:, 0] / len(right)), stats.mean(right)
    assert found.value == pytest.approx(plain.value)
    assert found.low == pytest.approx(plain.low, abs=0.01) and found.high == pytest.approx(plain.high, abs=0.01)
    with pytest.raises(ValueError, match="no items"):
        stats.of_sums(np.zeros((0, 1)), lambda sums: sums[:, 0])


def test_perfect_and_useless_predictions():
    assert [one.value for one in labels.class_scores(WANTED, WANTED).values()] == [1, 1]
    wrong = labels.class_scores(["a", "b"], ["b", "a"])
    assert [one.value for one in wrong.values()] == [0, 0]


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-PER I-PER O B-LOC", {("PER", 0, 2), ("LOC", 3, 4)}),
        ("B-PER B-PER I-PER", {("PER", 0, 1), ("PER", 1, 3)}),
        ("O O", set()),
        ("I-PER I-PER O I-LOC", {("PER", 0, 2), ("LOC", 3, 4)}),  # what a model may say
        ("B-PER I-LOC I-LOC", {("PER", 0, 1), ("LOC", 1, 3)}),
    ],
)
def test_entities_of_tags(tags: str, found: set[tuple[str, int, int]]):
    assert labels.entities(tags.split()) == found


def test_entity_scores_by_hand():
    """Wanted 3, given 4, right 1: one has too many words, one the wrong kind, one is not there. P = 1/4, R = 1/3, F1 = 2/7."""
    wanted = [["B-PER", "I-PER", "O", "B-LOC"], ["B-PER", "O", "O"]]
    given = [["B-PER", "I-PER", "I-PER", "B-LOC"], ["B-LOC", "O", "B-LOC"]]
    found = labels.entity_scores(wanted, given)
    assert [found[name].value for name in ("precision", "recall", "f1")] == pytest.approx([1 / 4, 1 / 3, 2 / 7])
    nothing = labels.entity_scores(wanted, [["O"] * 4, ["O"] * 3])
    assert [one.value for one in nothing.values()] == [0, 0, 0]


@pytest.mark.parametrize(
    ("wanted", "given", "exact", "f1"),
    [
        ("The Eiffel Tower", "eiffel tower!", 1, 1),
        ("in the year 1918", "1918", 0, 2 / 4),  # "the" is no word here: 1 of 3 and 1 of 1
        ("a b b", "b b b", 0, 2 * 2 / 5),  # "a" is an article: "b b" and "b b b"
        ("cat", "dog", 0, 0),
        ("", "", 1, 1),
        ("", "dog", 0, 0),
        ("dog", "", 0, 0),
    ],
)
def test_answers_are_scored_as_in_squad(wanted: str, given: str, exact: float, f1: float):
    found = labels.answer_scores([wanted], [given])
    assert found["exact"].value == exact and found["token_f1"].value == pytest.approx(f1)


def test_baselines_by_hand():
    assert labels.majority(["x", "y", "y"], 2) == ["y", "y"] and labels.majority(["x", "y"], 1) == ["x"]
    tags = labels.looked_up([["Rome", "is", "Rome"], ["Rome", "is"]], [["B-LOC", "O", "B-LOC"], ["O", "O"]], [["is", "Rome", "Oslo"]])
    assert tags == [["O", "B-LOC", "O"]]
    context = "Paris is old. In 3.5 years the tower was built by workers. It stands."
    assert labels.nearest("When was the tower built?", context) == "In 3.5 years the tower was built by workers."
    assert labels.nearest("", "") == ""
