"""An index of the word n-grams of evaluation sets, and where the words of documents repeat them.

A document's words are looked up in the vocabulary of the evaluation sets, so its n-grams are runs of small numbers, hashed for all
documents of a batch at once. A table of bits lets nearly all others pass; what remains is searched for and compared word by word, so
that no collision of hashes is ever reported. The index grows with the evaluation sets alone: about 30 bytes for each of their words.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bessemer.core import artifact
from bessemer.corpus.contamination.items import Item
from bessemer.corpus.contamination.words import words

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
MIX = np.uint64(0x9E3779B97F4A7C15)
SHIFT = np.uint64(29)
ARRAYS = ("words", "starts", "owners", "keys", "sizes", "ends", "places", "seen")


@dataclass(frozen=True)
class Index:
    """N-grams of S segments (texts of items) that hold W words between them.

    A segment of `ngram` words or more has all its n-grams in the index, a shorter one itself as a whole. An item without any text of
    `shortest` words is one segment, all its texts in a row; where even that is shorter, it is only found as a whole document.
    """

    vocabulary: dict[bytes, int]  # from 1
    words: NDArray[np.int32]  # (W + S,) segment after segment, 0 after each
    starts: I64  # (S,) where each begins
    owners: I64  # (S,) number of the item that it is a text of
    keys: U64  # (K,) sorted hashes of distinct n-grams
    sizes: NDArray[np.int8]  # (K,) words of each, 127 at most
    ends: I64  # (K,) where its places end
    places: I64  # where in `words` each n-gram stands, those of one n-gram together
    seen: NDArray[np.bool_]  # (2^b,) whether any key begins with these b bits
    shortest: int
    labels: list[tuple[str, str, str]]  # (S,) benchmark, item and field of each segment

    def segments(self, places: I64) -> I64:
        """Numbers of the segments that these places lie in."""
        return np.searchsorted(self.starts, places, "right") - 1

    def lengths(self) -> I64:
        """(S,) words of each segment."""
        return np.diff(self.starts, append=len(self.words)) - 1


def build(items: Sequence[Item], ngram: int, shortest: int, template: int) -> Index:
    """The index of some items.

    An n-gram in more than `template` items of one benchmark belongs to its form ("Which of the following ...") and is left out.
    """
    vocabulary: dict[bytes, int] = {}
    flat: list[int] = []
    starts, owners, labels = [], [], []
    for number, item in enumerate(items):
        for field, text in _segments(item, shortest):
            starts.append(len(flat))
            owners.append(number)
            labels.append((item.benchmark, item.name, field))
            flat += [vocabulary.setdefault(word, len(vocabulary) + 1) for word in text]
            flat.append(0)
    array, at, owner = np.array(flat, np.int32), np.array(starts, np.int64), np.array(owners, np.int64)
    lengths = np.diff(at, append=len(array)) - 1
    count = np.maximum(lengths - ngram, 0) + 1  # n-grams of each segment
    places = np.repeat(at - np.cumsum(count) + count, count) + np.arange(count.sum())
    sizes = np.repeat(np.minimum(lengths, ngram), count)
    hashes = np.zeros(len(places), np.uint64)
    for size, found in _hashes(array, set(sizes.tolist())):
        hashes[sizes == size] = found[places[sizes == size]]
    benchmarks = np.unique([item.benchmark for item in items], return_inverse=True)[1]
    item_of = np.repeat(owner, count)
    kept = np.flatnonzero(~_common(hashes, item_of, benchmarks[item_of], template))
    kept = kept[np.argsort(hashes[kept], kind="stable")]
    keys, first, times = np.unique(hashes[kept], return_index=True, return_counts=True)
    bits = min(30, max(16, len(keys).bit_length() + 4))
    seen = np.zeros(1 << bits, bool)
    seen[keys >> np.uint64(64 - bits)] = True
    return Index(vocabulary, array, at, owner, keys, sizes[kept][first].astype(np.int8), first + times, places[kept], seen, shortest, labels)


def _segments(item: Item, shortest: int) -> list[tuple[str, list[bytes]]]:
    texts = [(field, words(text)) for field, text in item.texts]
    long = [(field, text) for field, text in texts if len(text) >= shortest]
    whole = list(chain.from_iterable(text for _, text in texts))
    return long or ([("all", whole)] if whole else [])


def _common(hashes: U64, items: I64, benchmarks: I64, most: int) -> NDArray[np.bool_]:
    """(P,) whether the n-gram at each place stands in more than `most` items of the benchmark there."""
    order = np.lexsort((items, benchmarks, hashes))
    h, b, i = hashes[order], benchmarks[order], items[order]
    new_gram = np.append(True, (h[1:] != h[:-1]) | (b[1:] != b[:-1]))[: len(h)]
    new_item = new_gram | np.append(True, i[1:] != i[:-1])[: len(h)]
    group = np.cumsum(new_gram) - 1
    often = np.bincount(group, new_item) > most
    found = np.zeros(len(hashes), bool)
    found[order] = often[group]
    return found


def _hashes(ids: NDArray[np.int32], sizes: set[int]) -> Iterator[tuple[int, U64]]:
    """(n, the hash of the n words from each place on) for each n of `sizes`."""
    wide, rolling = ids.astype(np.uint64), np.zeros(len(ids), np.uint64)
    for size in range(1, max(sizes, default=0) + 1):
        rolling = rolling[: len(ids) - size + 1]
        rolling = (rolling ^ (rolling >> SHIFT)) * MIX + wide[size - 1 :]
        if size in sizes:
            mixed = (rolling ^ (rolling >> SHIFT)) * MIX
            yield size, mixed ^ (mixed >> SHIFT)


def matches(index: Index, texts: Sequence[str]) -> tuple[I64, I64, I64]:
    """Where these texts repeat an n-gram of the index: (H,) numbers of texts, of words in them, and of n-grams; sorted by the first two."""
    known = index.vocabulary.get
    said = [words(text) for text in texts]
    lengths = np.array([len(text) for text in said], np.int64)
    starts = np.cumsum(lengths + 1) - lengths - 1
    total = int(lengths.sum()) + len(said)
    ids = np.fromiter(map(known, chain.from_iterable(chain(text, (b"",)) for text in said), repeat(0)), np.int32, total)
    bits = np.uint64(64 - (len(index.seen) - 1).bit_length())
    found: list[tuple[I64, I64]] = []
    for size, hashes in _hashes(ids, set(index.sizes.tolist())):
        # What is shorter than `shortest` may only be a whole document.
        where = np.flatnonzero(index.seen[hashes >> bits]) if size >= index.shortest else starts[lengths == size]
        gram = np.minimum(np.searchsorted(index.keys, hashes[where]), len(index.keys) - 1)
        same = (index.keys[gram] == hashes[where]) & (index.sizes[gram] == size)
        where, gram = where[same], gram[same]
        step = np.arange(size)
        first = index.places[index.ends[gram] - 1]
        exact = (ids[where[:, None] + step] == index.words[first[:, None] + step]).all(axis=1)
        found.append((where[exact], gram[exact]))
    at, gram = (np.concatenate([np.zeros(0, np.int64), *[pair[part] for pair in found]]) for part in (0, 1))
    order = np.lexsort((gram, at))
    text = np.searchsorted(starts, at[order], "right") - 1
    return text, at[order] - starts[text], gram[order]


def save(index: Index, path: Path) -> None:
    """Write an index where other processes find it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {name: getattr(index, name) for name in ARRAYS}
    rest = {"vocabulary": b" ".join(index.vocabulary), "labels": json.dumps(index.labels).encode(), "shortest": str(index.shortest).encode()}
    with artifact.atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays | {name: np.frombuffer(said, np.uint8) for name, said in rest.items()})


def load(path: Path) -> Index:
    """The index that `save` wrote."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in ARRAYS}
        said = {name: stored[name].tobytes() for name in ("vocabulary", "labels", "shortest")}
    vocabulary = {word: number for number, word in enumerate(said["vocabulary"].split(), 1)}
    return Index(vocabulary, shortest=int(said["shortest"]), labels=[tuple(label) for label in json.loads(said["labels"])], **arrays)
