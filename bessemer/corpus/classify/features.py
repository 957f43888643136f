"""Text as hashed features for a linear classifier: words, beginnings of words and pairs, without a vocabulary to keep (Weinberger et al. 2009)."""

import re

import numpy as np
import xxhash

TOKEN = re.compile(r"\w+|[^\w\s]")
WHO_OR_WHERE = re.compile(r"@\w+|https?://\S+")  # an account or an address says nothing about the next text: each is one word, "@"
STEM = 4  # letters of a word's beginning: what a stemmer would give, and for free. 0.6 points of F1 on tweets
MIX = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: odd, its bits spread
CACHE = 1 << 20  # words whose hashes are remembered, some 150 MB; at the next one all are forgotten
Features = tuple[np.ndarray, np.ndarray]


class Hasher:
    """Turns a text into (places, values): which of 2**bits features it has, ascending, and how much of each.

    Features are its words and punctuation marks, lower case, the first STEM letters of each, and each pair of neighbours. The value is
    1 + log(count); a text's values have length 1, so that a long text does not outweigh a short one. No text, no features.
    Only the first `characters` are read.
    """

    def __init__(self, bits: int, characters: int):
        self.bits, self.characters = bits, characters
        self.known: dict[str, int] = {}  # word -> its row of hashes
        self.hashes = np.empty((CACHE, 2), np.uint64)  # of the word, of its beginning

    def __call__(self, text: str) -> Features:
        text = text[: self.characters]
        if "@" in text or "://" in text:
            text = WHO_OR_WHERE.sub("@", text)
        words, stems = self._hashes(TOKEN.findall(text.lower())).T
        pairs = (words[:-1] * MIX) ^ words[1:]
        every = ((np.concatenate([words, stems, pairs]) * MIX) >> np.uint64(64 - self.bits)).astype(np.int32)
        every.sort()  # np.unique takes three times as long
        first = np.flatnonzero(np.diff(every, prepend=-1))
        values = 1.0 + np.log(np.diff(first, append=len(every)))
        values /= np.sqrt(values @ values) if len(values) else 1.0
        return every[first], values.astype(np.float32)

    def _hashes(self, words: list[str]) -> np.ndarray:
        """The two hashes of each word."""
        rows = list(map(self.known.get, words))
        if None in rows:
            fresh = {word for word in words if word not in self.known}
            if len(self.known) + len(fresh) > CACHE:
                self.known.clear()
                fresh = set(words)
            for word in fresh:
                self.hashes[len(self.known)] = _hash(word), _hash("^" + word[:STEM])
                self.known[word] = len(self.known)
            rows = [self.known[word] for word in words]
        return self.hashes[np.array(rows, np.int64)]


def _hash(word: str) -> int:
    return xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass"))
