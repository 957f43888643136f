"""What a document shares with evaluation items: runs of words, what counts of them, and the document without them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bessemer.corpus.contamination.index import I64, Index

WHOLE = 0.8  # of a text's words: what holds so much of it holds the text, not a phrase of it (Touvron et al. 2023, Llama 2, A.6: "dirty")
SHORTEST_PIECE, MOST_PIECES = 200, 10  # characters that a piece of a cut document needs, and pieces it may have (Brown et al. 2020, C)
BREAK = "\n\n"  # between two pieces


@dataclass(frozen=True)
class Runs:
    """R runs of words that a document and a segment of the index have in common."""

    segments: I64  # (R,)
    begins: I64  # (R,) first word in the document
    places: I64  # (R,) first word in the index
    lengths: I64  # (R,) words


def runs(index: Index, at: I64, grams: I64, common: NDArray[np.bool_], ngram: int) -> Runs:
    """The runs that one document's n-grams (`grams`, at words `at`) make up.

    An n-gram that is `common` counts only in a document that holds WHOLE of a text of `ngram` words at least: a phrase is in many
    documents because it is one, a question because it was copied. A run within a longer one, of another item that has
    some of the same words, counts only where WHOLE of its own text is there.
    """
    first = np.append(0, index.ends)[grams]
    times = index.ends[grams] - first
    hit = np.repeat(np.arange(len(grams)), times)
    places = index.places[first[hit] + np.arange(len(hit)) - (np.cumsum(times) - times)[hit]]
    segments, sizes = index.segments(places), index.sizes[grams[hit]].astype(np.int64)
    copied = covered(segments, places, sizes, len(index.starts))
    whole = (copied >= WHOLE * index.lengths()) & (copied >= ngram)
    kept = ~common[grams[hit]] | whole[segments]
    begins, places, segments, sizes = at[hit][kept], places[kept], segments[kept], sizes[kept]
    shift = begins - places
    order = np.lexsort((places, shift, segments))
    begins, places, segments, sizes, shift = begins[order], places[order], segments[order], sizes[order], shift[order]
    new = np.append(True, (np.diff(segments) != 0) | (np.diff(shift) != 0) | (np.diff(places) > sizes[:-1]))[: len(places)]
    start = np.flatnonzero(new)
    last = np.append(start[1:], len(places))[: len(start)] - 1
    found = Runs(segments[start], begins[start], places[start], places[last] + sizes[last] - places[start])
    own = covered(found.segments, found.places, found.lengths, len(index.starts)) >= WHOLE * index.lengths()
    kept = ~_within(found) | own[found.segments]
    return Runs(found.segments[kept], found.begins[kept], found.places[kept], found.lengths[kept])


def _within(found: Runs) -> NDArray[np.bool_]:
    """(R,) whether each run is a part of a longer one in the document."""
    ends = found.begins + found.lengths
    order = np.lexsort((-ends, found.begins))
    begins, ends = found.begins[order], ends[order]
    furthest = np.maximum.accumulate(np.append(-1, ends)[:-1])  # among the runs before each
    alike = np.append(False, (np.diff(begins) == 0) & (np.diff(ends) == 0))[: len(ends)]
    first = np.maximum.accumulate(np.where(alike, 0, np.arange(len(ends))))  # of those with the same words
    within = np.zeros(len(ends), bool)
    within[order] = furthest[first] >= ends
    return within


def covered(segments: I64, places: I64, sizes: I64, count: int) -> I64:
    """(count,) words of each segment that lie in one of these n-grams at least."""
    order = np.lexsort((places, segments))
    segments, places, sizes = segments[order], places[order], sizes[order]
    follows = np.append((np.diff(segments) == 0) & (np.diff(places) < sizes[:-1]), False)[: len(places)]
    fresh = np.where(follows, np.diff(places, append=0), sizes)
    return np.bincount(segments, fresh, count).astype(np.int64)


def union(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans (from, to) joined where they touch, in order."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return joined


def cut(text: str, spans: Sequence[tuple[int, int]], margin: int) -> str:
    """The text without these spans and `margin` characters on either side, its pieces apart; "" where too little or a patchwork is left."""
    at, pieces = 0, []
    for begin, end in [*union([(begin - margin, end + margin) for begin, end in spans]), (len(text), len(text))]:
        pieces.append(text[at : max(at, begin)].strip())
        at = end
    long = [piece for piece in pieces if len(piece) >= SHORTEST_PIECE]
    return BREAK.join(long) if len(pieces) <= MOST_PIECES else ""
