"""Sequences of words that come again, as characters of the text (Gopher: Rae et al. 2021, A.1.1).

Sequences are compared by 64-bit hashes, so a text of N words costs a few sorts of N numbers, and most texts less: what cannot exceed
its bound is not counted exactly.
"""

import numpy as np

from bessemer.corpus.filters.table import Words

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def hashes(words: Words, n: int) -> np.ndarray:
    """(N - n + 1,) hashes of the sequences of n words; needs at least n words."""
    ids, size = words.ids.astype(np.uint64), len(words) - n + 1
    found = ids[:size]
    for k in range(1, n):  # a polynomial modulo 2^64: two sequences collide once in 10^19 pairs
        found = found * MULTIPLIER + ids[k : k + size]
    return found


def lengths(words: Words, n: int) -> np.ndarray:
    """(N - n + 1,) characters of the n words of each sequence, without spaces; needs at least n words."""
    sums = np.concatenate([[0], np.cumsum(words.lengths)])
    return sums[n:] - sums[:-n]


def top(words: Words, n: int, enough: float, most: int) -> tuple[int, int]:
    """(characters of the commonest sequence of n words, spaces included, times its number; that number). Of equally common ones the first.

    No sequence comes more than `most` times. Both are upper bounds where the first is not over `enough`.
    """
    if len(words) < n:
        return 0, most
    longest = int(lengths(words, n).max()) + n - 1
    if most * longest <= enough:
        return most * longest, most
    found = hashes(words, n)
    ordered = np.sort(found)
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    counts = np.diff(starts, append=len(ordered))
    most = int(counts.max())
    if most * longest <= enough:
        return most * longest, most
    first = int(np.argmax(np.isin(found, ordered[starts[counts == most]])))
    return most * (int(words.lengths[first : first + n].sum()) + n - 1), most


def repeated_at_most(words: Words, n: int) -> int:
    """An upper bound for `repeated` that needs no loop: characters of all words in a sequence that was there before.

    It falls as n grows: the words of a repeated sequence are words of repeated shorter ones.
    """
    if len(words) < n:
        return 0
    found = hashes(words, n)
    order = np.argsort(found)
    ordered = found[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    if len(starts) == len(found):
        return 0
    again = np.ones(len(found), bool)
    again[np.minimum.reduceat(order, starts)] = False
    covered = np.zeros(len(words), bool)
    for k in range(n):
        covered[k : k + len(again)] |= again
    return int(words.lengths[covered].sum())


def repeated(words: Words, n: int) -> int:
    """Characters in sequences of n words that were there before, none counted twice: read from the left, a repeated sequence is
    stepped over whole. Needs at least n words."""
    found, size = hashes(words, n).tolist(), lengths(words, n).tolist()
    seen: set[int] = set()
    at = total = 0
    while at < len(found):
        if found[at] in seen:
            total += size[at]
            at += n
        else:
            seen.add(found[at])
            at += 1
    return total
