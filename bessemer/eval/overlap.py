"""How much a text shares with its reference: exact match in SQuAD's normal form (Rajpurkar et al. 2016), ROUGE (Lin 2004),
BLEU (Papineni et al. 2002) and chrF (Popovic 2015)."""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bessemer.eval import stats

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")
WORDS = re.compile(r"[^\W_]+")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n\s*\n")
# The "13a" words of mteval-v13a, which published BLEU is counted in: symbols stand apart, full stops and commas unless they
# are between digits, hyphens after a digit.
SYMBOL = re.compile("([" + re.escape("".join(set(string.punctuation) - set("'-.,"))) + "])")
STOP_AFTER, STOP_BEFORE, HYPHEN = re.compile(r"(\D)([.,])", re.ASCII), re.compile(r"([.,])(\D)", re.ASCII), re.compile(r"(\d)(-)", re.ASCII)
BLEU_ORDER, CHRF_ORDER, CHRF_BETA = 4, 6, 2  # longest n-grams, of words and of letters; recall weighs beta times precision
Counts = NDArray[np.float64]


def normalise(text: str) -> str:
    """SQuAD's normal form: lower case, ASCII punctuation deleted, articles (a, an, the) deleted, runs of space made one."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(answer: str, reference: str) -> bool:
    """Whether both have the same normal form. `json.dumps()` equals `jsondumps`: punctuation goes without leaving a space."""
    return normalise(answer) == normalise(reference)


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L F1: harmonic mean of the longest common subsequence over the words of either text. 0 to 1.

    Words are runs of letters and digits in lower case, unstemmed. On ASCII text that is what the `rouge-score` package does;
    letters beyond ASCII, which it drops, count here. Two texts without a word score 0.
    """
    found, wanted = WORDS.findall(answer.lower()), WORDS.findall(reference.lower())
    return _f1(common_subsequence(found, wanted), len(found), len(wanted))


def rouge_n(answer: str, reference: str, n: int) -> float:
    """ROUGE-N F1: n-grams that both have, each as often as both have it, over those of either text. Words as in `rouge_l`."""
    found, wanted = (_grams(WORDS.findall(text.lower()), n) for text in (answer, reference))
    return _f1((found & wanted).total(), found.total(), wanted.total())


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, one word of `a` per bit of a Python integer (Hyyro 2004): O(len(b)) big-integer steps."""
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full  # a zero bit marks where the subsequence grows by one
    for word in b:
        here = row & places.get(word, 0)
        row = (row + here | row - here) & full
    return len(a) - row.bit_count()


def bleu(counts: Counts) -> Counts:
    """BLEU of whole texts, 0 to 1, from the sums (..., 9) of `bleu_counts`. Equal to sacreBLEU's default, which prints 100 times as much.

    An order of n-grams with no match counts as if it had 1/2, the next such one 1/4 and so on (Chen and Cherry 2014, method 3).
    """
    shared, found, wanted_words = counts[..., :BLEU_ORDER], counts[..., BLEU_ORDER:-1], counts[..., -1]
    smooth = 0.5 ** np.cumsum(shared == 0, axis=-1)
    precision = np.where(shared > 0, shared, smooth) / np.maximum(found, 1)
    brevity = np.exp(np.minimum(0, 1 - wanted_words / np.maximum(found[..., 0], 1)))
    possible = (shared[..., 0] > 0) & (found[..., -1] > 0)
    return np.where(possible, brevity * np.exp(np.log(precision).mean(-1)), 0.0)


def bleu_counts(answer: str, reference: str) -> Counts:
    """(9,) n-grams shared for n = 1 to 4, those of the answer for n = 1 to 4, words of the reference."""
    found, wanted = bleu_words(answer), bleu_words(reference)
    shared = [(_grams(found, n) & _grams(wanted, n)).total() for n in range(1, BLEU_ORDER + 1)]
    return np.array([*shared, *(max(len(found) - n, 0) for n in range(BLEU_ORDER)), len(wanted)], dtype=np.float64)


def bleu_words(text: str) -> list[str]:
    """The words that BLEU counts, "13a" of sacreBLEU but for HTML entities, which stay as they are."""
    text = STOP_AFTER.sub(r"\1 \2 ", SYMBOL.sub(r" \1 ", f" {text} "))
    return HYPHEN.sub(r"\1 \2 ", STOP_BEFORE.sub(r" \1 \2", text)).split()


def chrf(counts: Counts) -> Counts:
    """chrF2 of whole texts, 0 to 1, from the sums (..., 18) of `chrf_counts`: F of the mean precision and mean recall of letter n-grams,
    over the orders that both sides have. Equal to sacreBLEU's, which prints 100 times as much."""
    shared, found, wanted = np.split(counts, 3, axis=-1)
    used = (found > 0) & (wanted > 0)
    orders = np.maximum(used.sum(-1), 1)
    precision, recall = ((np.where(used, shared / np.maximum(of, 1), 0.0)).sum(-1) / orders for of in (found, wanted))
    weighed = CHRF_BETA**2 * precision + recall
    return np.where(weighed > 0, (1 + CHRF_BETA**2) * precision * recall / np.where(weighed > 0, weighed, 1), 0.0)


def chrf_counts(answer: str, reference: str) -> Counts:
    """(18,) n-grams of letters, spaces left out: shared, the answer's, the reference's, for n = 1 to 6 each.

    An order for which the reference is too short counts nothing of the answer either.
    """
    found, wanted = ("".join(text.split()) for text in (answer, reference))
    orders = range(1, CHRF_ORDER + 1)
    shared = [(_grams(found, n) & _grams(wanted, n)).total() for n in orders]
    sizes = [[max(len(text) - n + 1, 0) if n <= len(wanted) else 0 for n in orders] for text in (found, wanted)]
    return np.array([*shared, *sizes[0], *sizes[1]], dtype=np.float64)


def compare(texts: Sequence[str], references: Sequence[str]) -> dict[str, stats.Estimate]:
    """How texts compare with their references, each 0 to 1 with its 95% interval over the pairs.

    exact: letter for letter; rouge_1, rouge_2, rouge_l: means over the pairs; chrf, bleu: of all pairs as one text, as is usual.
    """
    pairs = list(zip(texts, references, strict=True))
    return {
        "exact": stats.proportion(sum(text.strip() == reference.strip() for text, reference in pairs), len(pairs)),
        "rouge_1": stats.mean([rouge_n(*pair, 1) for pair in pairs]),
        "rouge_2": stats.mean([rouge_n(*pair, 2) for pair in pairs]),
        "rouge_l": stats.mean([rouge_l(*pair) for pair in pairs]),
        "chrf": stats.of_sums([chrf_counts(*pair) for pair in pairs], chrf),
        "bleu": stats.of_sums([bleu_counts(*pair) for pair in pairs], bleu),
    }


def lead(text: str) -> str:
    """The first sentence."""
    return SENTENCE_END.split(text.strip(), maxsplit=1)[0]


def _grams(pieces: Sequence[str], n: int) -> Counter[Sequence[str]]:
    pieces = pieces if isinstance(pieces, str) else tuple(pieces)
    return Counter(pieces[i : i + n] for i in range(len(pieces) - n + 1))


def _f1(shared: int, found: int, wanted: int) -> float:
    return 2 * shared / (found + wanted) if shared else 0.0
