"""How well classes, tags and answers were given: the usual measures with confidence intervals, and what it takes to beat no model at all."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from bessemer.eval import stats
from bessemer.eval.overlap import normalise
from bessemer.eval.stats import Estimate, Floats

SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?](?=\S)[^.!?\n]*)*[.!?]?")


def class_scores(wanted: Sequence[str], given: Sequence[str]) -> dict[str, Estimate]:
    """accuracy (Wilson interval), and macro_f1 (bootstrap over items): the mean of the F1 of each class that occurs or was given."""
    names = sorted({*wanted, *given})
    counts = np.zeros((len(wanted), len(names), 3))  # right, wanted, given
    for item, (want, got) in enumerate(zip(wanted, given, strict=True)):
        counts[item, names.index(want), 1] += 1
        counts[item, names.index(got), 2] += 1
        counts[item, names.index(want), 0] += want == got

    def macro(sums: Floats) -> Floats:
        both = sums[..., 1] + sums[..., 2]
        return (2 * sums[..., 0] / np.maximum(both, 1)).sum(-1) / (both > 0).sum(-1)

    right = sum(want == got for want, got in zip(wanted, given, strict=True))
    return {"accuracy": stats.proportion(right, len(wanted)), "macro_f1": stats.of_sums(counts, macro)}


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """(kind, first word, word after the last) of each entity in IOB2 tags. A model may continue what has not begun: that begins it."""
    found, begin = set(), 0
    kind = ""
    for at, tag in enumerate([*tags, "O"]):
        if kind and tag != f"I-{kind}":
            found.add((kind, begin, at))
            kind = ""
        if tag[:2] in ("B-", "I-") and not kind:
            begin, kind = at, tag[2:]
    return found


def entity_scores(wanted: Sequence[Sequence[str]], given: Sequence[Sequence[str]]) -> dict[str, Estimate]:
    """precision, recall and f1 of entities: right are those with the right words and the right kind (Tjong Kim Sang and De Meulder 2003).

    Intervals: bootstrap over rows. Precision is 0 where nothing was found.
    """
    counts = np.zeros((len(wanted), 3))  # right, wanted, given
    for item, pair in enumerate(zip(wanted, given, strict=True)):
        want, got = map(entities, pair)
        counts[item] = len(want & got), len(want), len(got)
    return {
        "precision": stats.of_sums(counts, lambda sums: sums[..., 0] / np.maximum(sums[..., 2], 1)),
        "recall": stats.of_sums(counts, lambda sums: sums[..., 0] / np.maximum(sums[..., 1], 1)),
        "f1": stats.of_sums(counts, lambda sums: 2 * sums[..., 0] / np.maximum(sums[..., 1] + sums[..., 2], 1)),
    }


def answer_scores(wanted: Sequence[str], given: Sequence[str]) -> dict[str, Estimate]:
    """exact (Wilson interval) and token_f1 (bootstrap) as SQuAD defines them (Rajpurkar et al. 2016, section 6.1; 2018 for empty answers)."""
    pairs = [(normalise(want), normalise(got)) for want, got in zip(wanted, given, strict=True)]
    return {
        "exact": stats.proportion(sum(want == got for want, got in pairs), len(pairs)),
        "token_f1": stats.mean([overlap(want.split(), got.split()) for want, got in pairs]),
    }


def overlap(wanted: Sequence[str], given: Sequence[str]) -> float:
    """F1 of two bags of words; of an empty one whether the other is empty too."""
    if not wanted or not given:
        return float(wanted == given)
    return 2 * sum((Counter(wanted) & Counter(given)).values()) / (len(wanted) + len(given))


def majority(train: Sequence[str], n: int) -> list[str]:
    """The baseline of classes: the commonest one for all `n` items."""
    return [min(Counter(train).items(), key=lambda pair: (-pair[1], pair[0]))[0]] * n


def looked_up(train_words: Sequence[Sequence[str]], train_tags: Sequence[Sequence[str]], words: Sequence[Sequence[str]]) -> list[list[str]]:
    """The baseline of tags: each word's commonest tag in the training rows, O for a word that is not in them."""
    seen: dict[str, Counter[str]] = {}
    for row, tags in zip(train_words, train_tags, strict=True):
        for word, tag in zip(row, tags, strict=True):
            seen.setdefault(word, Counter())[tag] += 1
    best = {word: min(counts.items(), key=lambda pair: (-pair[1], pair[0]))[0] for word, counts in seen.items()}
    return [[best.get(word, "O") for word in row] for row in words]


def nearest(question: str, context: str) -> str:
    """The baseline of answers: the sentence or line of the context that shares most words with the question, per word of its own."""
    asked = Counter(normalise(question).split())

    def shared(sentence: str) -> float:
        own = normalise(sentence).split()
        return sum((Counter(own) & asked).values()) / (len(own) + 1)

    return max((found[0].strip() for found in SENTENCE.finditer(context)), key=shared, default="")
