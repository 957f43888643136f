"""Near-duplicates: word n-grams, their Jaccard similarity, MinHash and its bands.

MinHash (Broder 1997): the share of equal minima of two documents' hashed word 5-grams estimates their Jaccard similarity s.
Locality-sensitive hashing compares only documents that agree in all `rows` minima of one of `bands` bands, which happens with
probability 1 - (1 - s^rows)^bands: for 24 x 5, 0.95 at s = 0.65, 0.99 at 0.7 and more than 0.9998 at 0.8. (14 x 8, as in FineWeb:
0.36, 0.56 and 0.92.) So many pairs that are too different agree in a band, and each pair is verified: by all its minima first, then by
its true similarity. The least similarity of 0.65 is where the unverified bands of 14 x 8 begin to find a third of the pairs. It is less
than it sounds: two copies of one text, each with 2.5 % of its words changed at random, have 0.975^10 / (2 - 0.975^10) = 0.63.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import rensa
from numpy.typing import NDArray

from bessemer.core.config import Count, Fraction, Whole, runtime
from bessemer.corpus import documents
from bessemer.corpus.dedup import words
from bessemer.corpus.dedup.words import I64, U64

U32 = NDArray[np.uint32]
SEED = 1


@dataclass(frozen=True)
class DedupConfig:
    """What counts as a duplicate."""

    exact: bool = True  # remove documents that differ in case and white space at most, and a url's second copy
    near: bool = True  # remove near-duplicates
    min_jaccard: Fraction = 0.65  # share of word n-grams that two documents must have in common to be near-duplicates
    ngram: Count = 5  # words
    bands: Count = 24  # of MinHash; more find more pairs
    rows: Count = 5  # minima per band; more look at fewer pairs
    lines: bool = True  # keep a line that many documents share in the first of them only
    paragraphs: bool = False  # the same for what stands between blank lines
    line_length: Count = 40  # characters; shorter lines and paragraphs are left alone
    line_documents: Count = 5  # a line in more documents than this is shared
    workers: Whole = runtime(0)  # processes; 0: one per core
    records: Count = runtime(1_000_000)  # hashes that a process compares at once, 100 to 200 bytes of memory each

    version: ClassVar[int] = 4
    content: ClassVar[tuple[str, ...]] = (documents.CONTENT,)


def shingles(texts: list[str], n: int) -> tuple[U32, I64]:
    """(the distinct word n-grams of each text, hashed and sorted, text after text; (N,) where those of each end).

    A text of fewer words is one n-gram, and one without words has none.
    """
    hashes, counts = words.hashes(texts)
    ends = np.cumsum(counts)
    # Texts of 1, 2 ... n - 1 words first, then all n-grams of the others.
    found = [np.zeros(0, np.uint64)]
    owner = np.repeat(np.arange(len(texts), dtype=np.uint64), counts)
    for size in range(1, n + 1):
        starts = (ends - counts)[counts == size] if size < n else np.flatnonzero(np.arange(len(hashes)) + n <= ends[owner])
        grams = np.zeros(len(starts), np.uint64)
        for k in range(size):
            grams = (grams ^ (grams >> np.uint64(29))) * words.MIX + hashes[starts + k]
        found.append(owner[starts] << np.uint64(32) | words.mixed(grams) >> np.uint64(32))
    both = np.sort(np.concatenate(found))
    both = both[np.concatenate([[True], both[1:] != both[:-1]])] if len(both) else both
    return both.astype(np.uint32), np.searchsorted(both, np.arange(1, len(texts) + 1, dtype=np.uint64) << np.uint64(32)).astype(np.int64)


def jaccard(a: U32, b: U32) -> float:
    """|a and b| / |a or b| of two sets; 1 for two empty ones."""
    both = np.sort(np.concatenate([a, b]))
    common = int(np.count_nonzero(both[1:] == both[:-1]))
    union = len(both) - common
    return common / union if union else 1.0


def minhash(sets: U32, ends: I64, size: int) -> U32:
    """(N, size) minima of N sets of hashes, given one after the other, under `size` random permutations."""
    offsets = np.concatenate([[0], ends]).astype(np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(sets.astype(np.uint64), offsets, size, SEED)
    return np.array(matrix.to_rows(), np.uint32).reshape(len(ends), size)


def band_keys(minima: U32, bands: int) -> U64:
    """(N, bands) one key for each document and band; equal keys mean equal minima in the same band."""
    rows = minima.reshape(len(minima), bands, minima.shape[1] // bands).astype(np.uint64)
    keys = np.tile(np.arange(1, bands + 1, dtype=np.uint64), (len(minima), 1))
    for row in range(rows.shape[2]):
        keys = (keys ^ (keys >> np.uint64(29))) * words.MIX + rows[:, :, row]
    return words.mixed(keys)
