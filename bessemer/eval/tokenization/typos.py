"""What typing errors do to a tokenizer: a word it knows as one token may fall into many once a letter is wrong.

One word in running text is taken at a time, with the space before it, and gets one error: two neighbouring letters change places (swap), one
is left out (drop), typed twice (double), or in the other case (case). Two numbers for each kind of error, summed over the words:
growth, tokens of the wrong words / tokens of the right ones - 1; and changed, the share of the right words' tokens that the wrong ones do
not have in the same order (1 - longest common subsequence / tokens).
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bessemer.eval import stats
from bessemer.eval.overlap import common_subsequence
from bessemer.eval.tokenization import texts as documents
from bessemer.eval.tokenization.counts import rounded
from bessemer.eval.tokenization.texts import Text
from bessemer.tokenizer.tokenizer import Tokenizer

SHORTEST = 4  # letters; shorter words become other words

Edit = Callable[[str, random.Random], str | None]


def swap(word: str, rng: random.Random) -> str | None:
    places = [i for i in range(len(word) - 1) if word[i] != word[i + 1]]
    if not places:
        return None
    i = rng.choice(places)
    return word[:i] + word[i + 1] + word[i] + word[i + 2 :]


def drop(word: str, rng: random.Random) -> str:
    i = rng.randrange(len(word))
    return word[:i] + word[i + 1 :]


def double(word: str, rng: random.Random) -> str:
    i = rng.randrange(len(word))
    return word[: i + 1] + word[i:]


def case(word: str, rng: random.Random) -> str | None:
    places = [i for i, letter in enumerate(word) if len(letter.swapcase()) == 1 and letter.swapcase() != letter]
    if not places:  # a script without case
        return None
    i = rng.choice(places)
    return word[:i] + word[i].swapcase() + word[i + 1 :]


EDITS: dict[str, Edit] = {"swap": swap, "drop": drop, "double": double, "case": case}


def draw(texts: Sequence[Text], count: int, seed: int) -> list[dict[str, str]]:
    """`count` words of running text, frequent ones as often as they occur: each right ("") and with every error it can have.

    Words have at least four characters and no digit; languages written without spaces have none, and a corpus of them gives an empty list.
    """
    rng = random.Random(seed)
    wanted = Counter(rng.choices(range(len(texts)), [text.words for text in texts], k=count)) if any(text.words for text in texts) else {}
    found = []
    for i, times in sorted(wanted.items()):
        eligible = [word for word in documents.words(texts[i].text) if len(word) >= SHORTEST and not any(c.isdigit() or c == "_" for c in word)]
        for word in rng.choices(eligible, k=times) if eligible else ():
            wrong = {name: edit(word, rng) for name, edit in EDITS.items()}
            found.append({"": word, **{name: said for name, said in wrong.items() if said}})
    return found


def measure(tokenizer: Tokenizer, words: Sequence[dict[str, str]], confidence: float) -> dict[str, Any] | None:
    """Growth and changed by kind of error and over all of them; None where there are no words."""
    if not words:
        return None
    said = [" " + spelling for word in words for spelling in word.values()]
    ids = ([str(i) for i in one] for one in tokenizer.encode_batch(said))
    encoded = [{name: next(ids) for name in word} for word in words]
    found = {"words": len(words), "all": _changes(encoded, tuple(EDITS), confidence)}
    return found | {name: _changes(encoded, (name,), confidence) for name in EDITS if any(name in word for word in encoded)}


def _changes(encoded: Sequence[dict[str, list[str]]], names: Sequence[str], confidence: float) -> dict[str, Any]:
    """A word is one item of the bootstrap, whatever the number of its errors."""
    rows = []
    for word in encoded:
        right = word[""]
        wrong = [word[name] for name in names if name in word]
        if right and wrong:
            rows.append((len(right) * len(wrong), sum(map(len, wrong)), sum(common_subsequence(right, other) for other in wrong)))
    before, after, kept = np.array(rows).T
    return {"growth": rounded(stats.ratio(after - before, before, confidence)), "changed": rounded(stats.ratio(before - kept, before, confidence))}
