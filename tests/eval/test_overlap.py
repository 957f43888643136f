"""Overlap scores against the rouge-score package, a plain dynamic programme, and numbers worked by hand."""

import random
import string

import pytest
from rouge_score import rouge_scorer

from bessemer.eval import overlap

WORDS = ["json.dumps", "the", "a", "Serialize", "obj", "_private", "x1", "to", "str,", "file-like", "2.5", "--", "", "it's"]


def texts(count: int) -> list[str]:
    random_ = random.Random(0)
    return [" ".join(random_.choices(WORDS, k=random_.randint(0, 40))) for _ in range(count)]


def test_rouge_l_equals_the_reference_package() -> None:
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    answers, references = texts(400)[:200], texts(400)[200:]
    found = [overlap.rouge_l(a, r) for a, r in zip(answers, references, strict=True)]
    wanted = [scorer.score(r, a)["rougeL"].fmeasure for a, r in zip(answers, references, strict=True)]
    assert found == pytest.approx(wanted, abs=1e-12)
    assert 0 < sum(found) / len(found) < 1


def test_rouge_l_on_any_ascii() -> None:
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    random_ = random.Random(1)
    for _ in range(200):
        a, b = ("".join(random_.choices(string.printable, k=60)) for _ in range(2))
        assert overlap.rouge_l(a, b) == pytest.approx(scorer.score(b, a)["rougeL"].fmeasure, abs=1e-12)


def test_letters_beyond_ascii_count() -> None:
    assert overlap.rouge_l("der Größe nach", "Größe nach") == pytest.approx(2 * 2 / (3 + 2))
    assert overlap.rouge_l("", "") == overlap.rouge_l("...", "word") == 0.0


def test_longest_common_subsequence_equals_the_plain_programme() -> None:
    def plain(a: list[str], b: list[str]) -> int:
        table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
        return table[-1][-1]

    random_ = random.Random(2)
    for size in (0, 1, 5, 70, 200):
        a, b = (random_.choices("abcd", k=size) for _ in range(2))
        assert overlap.common_subsequence(a, b) == plain(a, b)
    assert overlap.common_subsequence(list("ABCBDAB"), list("BDCABA")) == 4  # Cormen's example


def test_squad_normal_form() -> None:
    assert overlap.normalise("  The json.dumps()\tof an Object. ") == "jsondumps of object"
    assert overlap.exact_match("A list.", "the LIST")
    assert not overlap.exact_match("lists", "list")
    assert not overlap.exact_match("", "list")
