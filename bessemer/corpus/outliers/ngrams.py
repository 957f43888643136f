"""A small word trigram model: how surprising a text is to one that has read others. Trained in seconds, applied by table look-up.

Interpolated Witten-Bell smoothing (Witten & Bell 1991, method C; Chen & Goodman 1998, section 2.6):
p(w | h) = (c(hw) + T(h) p(w | h')) / (c(h) + T(h)), where T(h) is the number of different words seen after h, and h' is h without
its first word. Below the single words lies the uniform distribution. A word outside of the vocabulary costs what the class of such
words costs, and then its spelling under a model of byte pairs: without it, text of unknown words only would be no surprise at all.

N-grams live in tables of fixed size, one to a slot; where several fall on the same the commonest stays, so counts are true or zero,
probabilities sum to one, and memory does not grow with the text.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import repeat
from pathlib import Path

import numpy as np

# Words, characters of scripts that put no space between words, and marks.
TOKEN = re.compile(r"[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+|[^\w\s]|\w")
ASCII_TOKEN = re.compile(r"[a-z0-9_]+|[^a-z0-9_\s]")  # the same of lower case ASCII, twice as fast
UNKNOWN, START = 1, 2  # ids of words outside of the vocabulary, and of the place before the first word; 0 marks an empty slot
VOCABULARY, PAIRS, TRIPLES = 1 << 16, 20, 21  # words; bits of the tables' sizes
SEEN = 2  # documents that a word must stand in; what one author made up is no word
END = 10  # the byte that ends an unknown word: a line feed, which stands in none
COMMON = 100  # words of the vocabulary, by frequency, that count as common
MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio (Fibonacci hashing)


def tokens(text: str) -> list[str]:
    return (ASCII_TOKEN if text.isascii() else TOKEN).findall(text.lower())


class Ngrams:
    """A trained model: the vocabulary and arrays of counts."""

    def __init__(self, vocabulary: Sequence[str], arrays: dict[str, np.ndarray]):
        self.ids = {word: id for id, word in enumerate(vocabulary, START + 1)}
        spelled = np.array([False] * (START + 1) + [word[:1].isalnum() for word in vocabulary])
        self.marks = ~spelled  # by id, as the next; an unknown token counts as a word
        self.marks[UNKNOWN] = False
        self.common = spelled & (np.cumsum(spelled) <= COMMON)
        self.arrays = arrays
        self.pair_bits, self.triple_bits = (len(arrays[name]).bit_length() - 1 for name in ("pairs", "triples"))

    def numbered(self, words: Sequence[str]) -> np.ndarray:
        """The ids of words."""
        return np.fromiter(map(self.ids.get, words, repeat(UNKNOWN)), np.uint64, len(words))

    def surprise(self, words: Sequence[str], w: np.ndarray) -> tuple[np.ndarray, float]:
        """Bits that each word (with its id) costs, given the two before it, with the spelling of the unknown ones; and how many of these bits
        the two words before save a known word on average (0 where there is none), which is little where the order means nothing."""
        bits = -np.log2(self.probability(w, _before(w, 1), _before(w, 2)))
        known = w != UNKNOWN
        saved = float(np.mean(-np.log2(self.arrays["unigram"][w[known]]) - bits[known])) if known.any() else 0.0
        if not known.all():
            bits[~known] += self._spelling([words[i] for i in np.flatnonzero(~known).tolist()])
        return bits, saved

    def probability(self, w: np.ndarray, before: np.ndarray, first: np.ndarray) -> np.ndarray:
        """p(w | first, before), of ids."""
        a = self.arrays
        p = a["unigram"][w]
        seen, slot = _find(a["pairs"], before << np.uint64(20) | w, self.pair_bits)
        p = (seen * a["pair_count"][slot] + a["after_types"][before] * p) / (a["after_count"][before] + a["after_types"][before])
        key = first << np.uint64(20) | before
        known, history = _find(a["pairs"], key, self.pair_bits)
        types, total = known * a["pair_types"][history], known * a["pair_total"][history]
        seen, slot = _find(a["triples"], key << np.uint64(20) | w, self.triple_bits)
        return np.where(types > 0, (seen * a["triple_count"][slot] + types * p) / np.maximum(total + types, 1), p)

    def _spelling(self, words: list[str]) -> np.ndarray:
        letters = np.frombuffer(("\n" + "\n".join(words) + "\n").encode("utf-8", "replace"), np.uint8)
        bits = self.arrays["spelling"][letters[:-1], letters[1:]]
        ends = np.flatnonzero(letters[1:] == END)
        return np.diff(np.cumsum(bits, dtype=np.float64)[ends], prepend=0.0)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocabulary.txt").write_text("\n".join(self.ids), encoding="utf-8")
        for name, array in self.arrays.items():
            np.save(folder / f"{name}.npy", array)

    @staticmethod
    def load(folder: Path) -> "Ngrams":
        """A saved model; its tables stay on disk until looked into, and processes share them."""
        vocabulary = (folder / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
        return Ngrams(vocabulary, {path.stem: np.asarray(np.load(path, mmap_mode="r")) for path in sorted(folder.glob("*.npy"))})


def train(texts: Iterable[str], vocabulary: int = VOCABULARY, pair_bits: int = PAIRS, triple_bits: int = TRIPLES, seen: int = SEEN) -> Ngrams:
    """A model of these texts. Memory is that of their words (8 bytes each) and the tables."""
    numbers: dict[str, int] = {}
    found = [np.array([numbers.setdefault(word, len(numbers)) for word in tokens(text)], np.int64) for text in texts]
    counts, spread = np.zeros((2, len(numbers)), np.int64)
    for one in found:
        counts += np.bincount(one, minlength=len(numbers))
        spread[np.unique(one)] += 1
    names = list(numbers)
    kept = sorted((n for n in range(len(names)) if spread[n] >= seen), key=lambda n: (-counts[n], names[n]))[:vocabulary]
    ids = np.full(len(names), UNKNOWN, np.uint64)
    ids[kept] = np.arange(START + 1, START + 1 + len(kept))
    texts_ids = [ids[one] for one in found]
    spelled = [names[n] for n in range(len(names)) if ids[n] == UNKNOWN]
    arrays = _counted(texts_ids, len(kept) + 3, pair_bits, triple_bits) | {"spelling": _letters(spelled)}
    return Ngrams([names[n] for n in kept], arrays)


def _counted(texts: list[np.ndarray], size: int, pair_bits: int, triple_bits: int) -> dict[str, np.ndarray]:
    empty = np.zeros(0, np.uint64)
    w = np.concatenate([empty, *texts])
    before = np.concatenate([empty, *(_before(one, 1) for one in texts)])
    first = np.concatenate([empty, *(_before(one, 2) for one in texts)])
    count = np.bincount(w.astype(np.int64), minlength=size).astype(np.float64)
    types = np.count_nonzero(count)
    uniform = 1 / (size - 2)
    unigram = (count + types * uniform) / (count.sum() + types) if types else np.full(size, uniform)
    unigram[[0, START]] = 0.0  # no words
    pairs, pair_count = _table(before << np.uint64(20) | w, pair_bits)
    after_count, after_types = _totals(pairs >> np.uint64(20), pair_count, size)
    unseen = after_types == 0
    after_types[unseen] = 1  # never followed by anything: all to the single words
    key = first << np.uint64(20) | before
    held, _ = _find(pairs, key, pair_bits)
    triples, triple_count = _table((key << np.uint64(20) | w)[held], triple_bits)
    _, slot = _find(pairs, triples >> np.uint64(20), pair_bits)
    pair_total, pair_types = _totals(slot, triple_count, len(pairs))
    found = {"unigram": unigram, "pairs": pairs, "pair_count": pair_count, "after_count": after_count, "after_types": after_types}
    found |= {"pair_total": pair_total, "pair_types": pair_types, "triples": triples, "triple_count": triple_count}
    return {name: array if array.dtype == np.uint64 else array.astype(np.float32) for name, array in found.items()}


def _before(w: np.ndarray, by: int) -> np.ndarray:
    """The word `by` places before each; START before the first."""
    return np.concatenate([np.full(min(by, len(w)), START, np.uint64), w[: max(len(w) - by, 0)]])


def _slots(keys: np.ndarray, bits: int) -> np.ndarray:
    return (((keys ^ (keys >> np.uint64(31))) * MIX) >> np.uint64(64 - bits)).astype(np.int64)


def _table(keys: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Slots of keys and their counts; where keys compete the commonest has the slot, or else the smallest."""
    unique, count = np.unique(keys, return_counts=True)
    order = np.lexsort((-unique.astype(np.int64), count))  # the last write wins
    table, counts = np.zeros(1 << bits, np.uint64), np.zeros(1 << bits)
    slots = _slots(unique[order], bits)
    table[slots] = unique[order]
    counts[slots] = count[order]
    return table, counts


def _find(table: np.ndarray, keys: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether each key is in the table, and its slot."""
    slots = _slots(keys, bits)
    return table[slots] == keys, slots


def _totals(groups: np.ndarray, count: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """By group: the sum of counts and the number of different entries."""
    group = groups.astype(np.int64)
    return np.bincount(group, count, size), np.bincount(group, count > 0, size)


def _letters(words: list[str]) -> np.ndarray:
    """Bits of each byte after each other one in unknown words (add one half), the line feed being the end."""
    letters = np.frombuffer(("\n" + "\n".join(words) + "\n").encode("utf-8", "replace"), np.uint8).astype(np.int64)
    pairs = np.bincount(letters[:-1] * 256 + letters[1:], minlength=1 << 16).reshape(256, 256) + 0.5
    return -np.log2(pairs / pairs.sum(1, keepdims=True)).astype(np.float32)
