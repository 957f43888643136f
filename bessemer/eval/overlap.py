"""How much an answer shares with its reference: exact match in SQuAD's normal form (Rajpurkar et al. 2016) and ROUGE-L (Lin 2004)."""

import re
import string
from collections.abc import Sequence

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")
WORDS = re.compile(r"[^\W_]+")


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


def _f1(shared: int, found: int, wanted: int) -> float:
    return 2 * shared / (found + wanted) if shared else 0.0
