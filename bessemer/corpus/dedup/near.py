"""Duplicates: exact ones by hash, near ones by MinHash and verified, and lines that many documents share.

MinHash (Broder 1997): the share of equal minima of two documents' hashed word 5-grams estimates their Jaccard similarity s.
Locality-sensitive hashing compares only documents that agree in all `rows` minima of one of `bands` bands, which happens with
probability 1 - (1 - s^rows)^bands: for 14 x 8, as in FineWeb, 0.92 at s = 0.8 and 0.36 at s = 0.6. Each such pair is then
verified by its true Jaccard similarity, so nothing is removed by chance.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import rensa
import xxhash
from numpy.typing import NDArray

from bessemer.core.config import Count, Fraction, Whole, runtime
from bessemer.corpus import documents

U64 = NDArray[np.uint64]
WORD = re.compile(r"\w+")
MIX = np.uint64(0x9E3779B97F4A7C15)
SEED = 1
EXACT, SAME_URL, NEAR = "exact", "same url", "near"


@dataclass(frozen=True)
class DedupConfig:
    """What counts as a duplicate."""

    exact: bool = True  # remove documents that differ in case and white space at most, and a url's second copy
    near: bool = True  # remove near-duplicates
    min_jaccard: Fraction = 0.8  # share of word n-grams that two documents must have in common to be near-duplicates
    ngram: Count = 5  # words
    bands: Count = 14  # of MinHash; more find more pairs
    rows: Count = 8  # minima per band; more look at fewer pairs
    lines: bool = True  # keep a line that many documents share in the first of them only
    line_length: Count = 40  # characters; shorter lines are left alone
    line_documents: Count = 5  # a line in more documents than this is shared
    workers: Whole = runtime(0)  # processes; 0: one per core

    version: ClassVar[int] = 2
    content: ClassVar[tuple[str, ...]] = (documents.CONTENT,)


@dataclass(frozen=True)
class Sketch:
    """What is remembered of N documents to compare them with all others."""

    ids: NDArray[np.str_]  # (N,)
    exact: NDArray[np.void]  # (N,) 16 bytes: hash of the normalised text
    minima: NDArray[np.uint32]  # (N, bands x rows)
    lines: U64  # (L,) hashes of the distinct long lines, document after document
    ends: NDArray[np.int64]  # (N,) where each document's lines end


@dataclass(frozen=True)
class Decision:
    """What becomes of each of N documents."""

    reason: NDArray[np.str_]  # (N,) "" for a kept one
    twin: NDArray[np.int64]  # (N,) the kept document that it repeats, -1 for none
    estimated: NDArray[np.float64]  # (N,) Jaccard similarity with the twin by MinHash
    jaccard: NDArray[np.float64]  # (N,) and in truth


def fingerprint(text: str) -> bytes:
    """16 bytes that are equal for texts which differ in case and white space at most (XXH3, 128 bits)."""
    return xxhash.xxh3_128_digest(" ".join(text.lower().split()).encode())


class Hashes(dict[str, int]):
    """XXH3 hashes of words, each computed when first asked for."""

    def __missing__(self, word: str) -> int:
        found = self[word] = xxhash.xxh3_64_intdigest(word.encode())
        return found


def shingles(text: str, n: int, hashes: Hashes | None = None) -> U64:
    """The distinct word n-grams of a text, hashed and sorted. A text of fewer words is one n-gram; (0,) for one without words.

    `hashes` remembers those of words from one text to the next.
    """
    words = WORD.findall(text.lower())
    hashes = Hashes() if hashes is None else hashes
    ids = np.fromiter(map(hashes.__getitem__, words), np.uint64, len(words))
    n = min(n, len(ids))
    if n == 0:
        return ids
    grams = np.zeros(len(ids) - n + 1, np.uint64)
    for k in range(n):
        grams = (grams ^ (grams >> np.uint64(29))) * MIX + ids[k : len(ids) - n + 1 + k]
    return np.unique(grams)


def jaccard(a: U64, b: U64) -> float:
    """|a and b| / |a or b| of two sorted sets; 1 for two empty ones."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    union = len(a) + len(b) - common
    return common / union if union else 1.0


def minhash(sets: list[U64], size: int) -> NDArray[np.uint32]:
    """(N, size) minima of N sets of hashes under `size` random permutations."""
    ends = np.cumsum([0, *map(len, sets)], dtype=np.uint64)
    flat = np.concatenate([*sets, np.zeros(0, np.uint64)])
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(flat, ends, size, SEED)
    return np.array(matrix.to_rows(), np.uint32).reshape(len(sets), size)


def long_lines(text: str, length: int) -> Iterator[tuple[str, int]]:
    """(line, hash of what it says) of each line; 0 for one shorter than `length`, white space around it not counted."""
    for line in text.split("\n"):
        bare = line.strip()
        yield line, xxhash.xxh3_64_intdigest(bare.encode()) | 1 if len(bare) >= length else 0


def sketch(texts: list[str], ids: list[str], cfg: DedupConfig) -> Sketch:
    """Sketches of some documents."""
    hashes = Hashes()
    sets = [shingles(text, cfg.ngram, hashes) for text in texts] if cfg.near else []
    minima = minhash(sets, cfg.bands * cfg.rows) if cfg.near else np.zeros((len(texts), 0), np.uint32)
    lines = [np.unique(np.array([h for _, h in long_lines(text, cfg.line_length) if h], np.uint64)) for text in texts] if cfg.lines else []
    ends = np.cumsum([len(found) for found in lines] if cfg.lines else [0] * len(texts), dtype=np.int64)
    exact = np.array([fingerprint(text) for text in texts], "V16")
    return Sketch(np.array(ids, np.str_), exact, minima, np.concatenate([*lines, np.zeros(0, np.uint64)]), ends)


def joined(sketches: list[Sketch]) -> Sketch:
    """The sketches of several shards as one."""
    before = np.cumsum([0, *[len(s.lines) for s in sketches]])
    ends = np.concatenate([s.ends + offset for s, offset in zip(sketches, before, strict=False)])
    ids, exact, minima, lines = (np.concatenate([getattr(s, name) for s in sketches]) for name in ("ids", "exact", "minima", "lines"))
    return Sketch(ids, exact, minima, lines, ends)


def buckets(minima: NDArray[np.uint32], bands: int) -> NDArray[np.int64]:
    """(N, bands) the bucket of each document in each band; -1 where it is alone in it."""
    found = np.full((len(minima), bands), -1, np.int64)
    rows = minima.shape[1] // bands
    for band in range(bands):
        keys = np.zeros(len(minima), np.uint64)
        for row in range(rows):
            keys = (keys ^ (keys >> np.uint64(29))) * MIX + minima[:, band * rows + row].astype(np.uint64)
        order = np.argsort(keys, kind="stable")
        same = keys[order][1:] == keys[order][:-1]
        number = np.concatenate([[0], np.cumsum(~same)]) if len(keys) else np.zeros(0, np.int64)
        shared = np.concatenate([same, [False]]) | np.concatenate([[False], same]) if len(keys) else np.zeros(0, bool)
        found[order[shared], band] = number[shared]
    return found


def decide(all_: Sketch, cfg: DedupConfig, sets_of: Callable[[list[int]], dict[int, U64]]) -> Decision:
    """Which documents to remove. In order of their ids (then of place), each is kept unless it repeats one kept before.

    `sets_of` gives the shingles of some documents; only of those is it asked that agree with another in a band.
    """
    count = len(all_.ids)
    reason, twin = np.full(count, "", "U8"), np.full(count, -1, np.int64)
    estimated, true = np.zeros(count), np.zeros(count)
    order = np.lexsort((np.arange(count), all_.ids))
    if cfg.exact:
        seen: dict[bytes, int] = {}
        urls: dict[str, int] = {}
        for d in order.tolist():
            same = seen.setdefault(all_.exact[d].tobytes(), d)
            url = urls.setdefault(str(all_.ids[d]), d)
            if same != d:
                reason[d], twin[d], estimated[d], true[d] = EXACT, same, 1.0, 1.0
            elif url != d:
                reason[d], twin[d] = SAME_URL, url
    if cfg.near:
        band = buckets(all_.minima, cfg.bands)
        kept: dict[tuple[int, int], list[int]] = {}
        sets = sets_of(np.flatnonzero((band >= 0).any(axis=1) & (reason == "")).tolist())
        for d in (d for d in order.tolist() if d in sets):
            keys = [(b, number) for b, number in enumerate(band[d].tolist()) if number >= 0]
            close = sorted({other for key in keys for other in kept.get(key, [])})
            scores = [(jaccard(sets[d], sets[other]), other) for other in close]
            best, other = max(scores, key=lambda pair: pair[0], default=(0.0, -1))
            if other >= 0 and best >= cfg.min_jaccard:
                reason[d], twin[d], true[d] = NEAR, other, best
                estimated[d] = float(np.mean(all_.minima[d] == all_.minima[other]))
            else:
                for key in keys:
                    kept.setdefault(key, []).append(d)
    # The twin of an exact copy may itself repeat another document: the copy then repeats that one just as much.
    for d in np.flatnonzero((twin >= 0) & (reason != NEAR) & (twin[twin] >= 0)).tolist():
        other = int(twin[d])
        twin[d] = twin[other]
        if reason[d] == EXACT:
            estimated[d], true[d] = estimated[other], true[other]
    return Decision(reason, twin, estimated, true)


def shared_lines(all_: Sketch, kept: NDArray[np.bool_], more_than: int) -> tuple[U64, NDArray[np.int64], NDArray[np.int64]]:
    """(hashes, first documents, numbers of documents) of the lines in more than `more_than` kept documents, sorted by hash."""
    owner = np.repeat(np.arange(len(all_.ends)), np.diff(all_.ends, prepend=0))
    keep = kept[owner] if len(owner) else np.zeros(0, bool)
    hashes, first, times = np.unique(all_.lines[keep], return_index=True, return_counts=True)
    often = times > more_than
    return hashes[often], owner[keep][first[often]], times[often]


def without_shared(text: str, document: int, shared: dict[int, int], length: int) -> tuple[str, list[str]]:
    """(text without the shared lines whose first document is another, the lines taken out)."""
    kept: list[str] = []
    removed: list[str] = []
    for line, number in long_lines(text, length):
        first = shared.get(number, document) if number else document
        (kept if first == document else removed).append(line)
    return "\n".join(kept).strip("\n"), removed
