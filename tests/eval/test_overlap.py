"""Overlap scores against the rouge-score and sacrebleu packages, a plain dynamic programme, and numbers worked by hand."""

import random
import string

import numpy as np
import pytest
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from bessemer.eval import overlap, stats

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


def test_rouge_n_equals_the_reference_package() -> None:
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2"], use_stemmer=False)
    for answer, reference in zip(texts(200)[:100], texts(200)[100:], strict=True):
        wanted = scorer.score(reference, answer)
        found = [overlap.rouge_n(answer, reference, n) for n in (1, 2)]
        assert found == pytest.approx([wanted["rouge1"].fmeasure, wanted["rouge2"].fmeasure], abs=1e-12)
    assert overlap.rouge_n("a a b", "a b b", 1) == pytest.approx(2 / 3)


def corpora() -> list[tuple[list[str], list[str]]]:
    """Answers and references: strangers, near copies, one word, empty, short."""
    random_ = random.Random(3)
    made = texts(120)
    near = [" ".join(word for word in text.split() if random_.random() < 0.8) + " Größe 日本" for text in made]
    return [(made[:60], made[60:]), (near, made), (["the"] * 20, made[:20]), ([""] * 3, ["a b", "c", "d"]), (["a", "bc"], ["a", "bd ef"])]


@pytest.mark.parametrize("case", range(5))
def test_bleu_and_chrf_equal_sacrebleu(case: int) -> None:
    answers, references = corpora()[case]
    pairs = list(zip(answers, references, strict=True))
    for theirs, counts, score in ((BLEU(), overlap.bleu_counts, overlap.bleu), (CHRF(), overlap.chrf_counts, overlap.chrf)):
        wanted = theirs.corpus_score(answers, [references]).score / 100
        assert float(score(sum(counts(*pair) for pair in pairs))) == pytest.approx(wanted, abs=1e-9)
    if case == 1:
        assert 0.5 < wanted < 1


def test_words_of_bleu_are_those_of_sacrebleu() -> None:
    random_, theirs = random.Random(4), Tokenizer13a()
    letters = (string.punctuation + string.digits + "abé 日 .,-.,-").replace("&", "")
    for _ in range(500):
        text = "".join(random_.choices(letters, k=30))
        assert overlap.bleu_words(text) == theirs(text).split()


def test_bleu_by_hand() -> None:
    """The cat sat on the mat / the cat is on the mat: 5 of 6 words, 3 of 5 pairs, 1 of 4 triples, none of 3 fours, which counts as 1/2."""
    counts = overlap.bleu_counts("the cat sat on the mat", "the cat is on the mat")
    assert counts.tolist() == [5, 3, 1, 0, 6, 5, 4, 3, 6]
    assert float(overlap.bleu(counts)) == pytest.approx((5 / 6 * 3 / 5 * 1 / 4 * 0.5 / 3) ** 0.25)


def test_an_interval_of_a_pooled_score_is_that_of_a_ratio_of_sums() -> None:
    random_ = np.random.default_rng(0)
    counts = random_.integers(1, 50, (200, 2)).astype(float)
    found = stats.of_sums(list(counts), lambda sums: sums[..., 0] / sums[..., 1])
    wanted = stats.ratio(counts[:, 0], counts[:, 1])
    assert (found.value, found.n) == (pytest.approx(wanted.value), 200)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.01)
    assert found.low < found.value < found.high


def test_a_comparison_of_equal_texts_is_perfect() -> None:
    found = overlap.compare(["one two three four five"] * 3, ["one two three four five "] * 3)
    assert {name: round(value.value, 9) for name, value in found.items()} == dict.fromkeys(
        ("exact", "rouge_1", "rouge_2", "rouge_l", "chrf", "bleu"), 1
    )
    assert found["exact"].low < 1 == found["exact"].high  # three pairs are few


def test_the_first_sentence() -> None:
    assert overlap.lead(" One. Two.") == "One."
    assert overlap.lead("A 2.5 title\n\nThen text.") == "A 2.5 title"
    assert overlap.lead("Nothing ends") == "Nothing ends"
