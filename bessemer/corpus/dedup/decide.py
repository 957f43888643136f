"""Which documents go: copies first, then near-duplicates, then the lines of what is left.

Each function is one job over a share of the records or of the documents, and writes one file; so a killed stage goes on at
the first missing file. Every decision is by a total order (ids, then places), so no result depends on how the work is shared out.

Memory: a job over records holds `DedupConfig.records` of them, unless one text or one line alone has more copies. `resolve` holds
about 150 bytes for each document that is in a pair of near-duplicates, and 32 for each pair. One record of 25 bytes a document lies
on disk, mapped.
"""

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bessemer.corpus.dedup.near import DedupConfig, jaccard
from bessemer.corpus.dedup.sketch import Sketches, chosen, mapped, save
from bessemer.corpus.dedup.words import I64

REASONS = ("", "same url", "exact", "near")
KEPT, SAME_URL, EXACT, NEAR = range(4)
# What becomes of a document: why it goes, the place of its twin, and their Jaccard similarity, estimated and true.
DECISION = np.dtype([("reason", "u1"), ("twin", "i8"), ("estimated", "f8"), ("jaccard", "f8")])
REMOVAL = np.dtype([("place", "i8"), *DECISION.descr])
PAIR = np.dtype([("later", "i8"), ("earlier", "i8")])
VERIFIED = np.dtype([*PAIR.descr, ("estimated", "f8"), ("jaccard", "f8")])
SHARED = np.dtype([("place", "i8"), ("hash", "u8"), ("first", "i8"), ("documents", "i8")])
FIRST = 8  # members of a bucket that the others are compared with
DOCUMENTS = 1 << 13  # whose pairs are verified at once
PAIRS = 1 << 12  # whose minima are compared at once
DOUBT = 4.5  # standard errors between a pair's estimate and the least similarity at which it is not looked at more closely


def copies(sketches: Sketches, kind: str, decided: Path | None, part: int, parts: int, file: Path) -> None:
    """Documents with the url and id, or the text, of an earlier one, in one share of the records."""
    keys, places = repeated(*sketches.records(kind, part, parts), decided)
    check = sketches.take(f"{kind}.check", places)[:, 0]
    distinct, which = np.unique(places, return_inverse=True)
    order = np.lexsort((sketches.ranks(distinct)[which], check, keys))
    places = places[order]
    new = changes(keys[order], check[order])
    first = places[start_of(new)]
    found = np.zeros(int((~new).sum()), REMOVAL)
    found["place"], found["twin"] = places[~new], first[~new]
    found["reason"] = {"url": SAME_URL, "exact": EXACT}[kind]
    if kind == "exact":
        found["estimated"] = found["jaccard"] = 1
    save(file, found)


def candidates(sketches: Sketches, decided: Path, part: int, parts: int, file: Path) -> None:
    """Pairs worth a closer look, in one share of the buckets: each member with the first few of its bucket.

    So a bucket of a million pages made from one template gives FIRST pairs for each, not half a million. What such a bucket
    misses another finds: two pages that are more alike than the template makes them agree in bands that the others do not have.
    """
    keys, places = repeated(*sketches.records("near", part, parts), decided)
    distinct, which = np.unique(places, return_inverse=True)
    ranks = sketches.ranks(distinct)[which]
    order = np.lexsort((ranks, keys))
    ranks, start = ranks[order], start_of(changes(keys[order]))
    number, count = np.arange(len(keys)) - start, max(1, len(distinct))
    codes = [np.zeros(0, np.int64)]
    for k in range(FIRST):
        later = np.flatnonzero(number > k)
        codes.append(np.unique(ranks[later] * count + ranks[start[later] + k]))
    code = np.unique(np.concatenate(codes))
    by_rank = np.empty_like(distinct)
    by_rank[ranks] = places[order]
    found = np.zeros(len(code), PAIR)
    found["later"], found["earlier"] = by_rank[code // count], by_rank[code % count]
    save(file, found[np.argsort(found["later"], kind="stable")])


def verify(sketches: Sketches, low: int, high: int, pairs: Sequence[Path], cfg: DedupConfig, file: Path) -> None:
    """Near-duplicates among the pairs whose later document lies in places `low` to `high`."""
    verified = [np.zeros(0, VERIFIED)]
    size = cfg.bands * cfg.rows
    least = cfg.min_jaccard - DOUBT * math.sqrt(cfg.min_jaccard * (1 - cfg.min_jaccard) / size)
    for begin in range(low, high, DOCUMENTS):
        found_by = chosen(pairs, PAIR, "later", begin, min(begin + DOCUMENTS, high))
        count = sketches.starts[-1]  # its square is a 64-bit number up to three thousand million documents
        code = np.unique(found_by["later"] * count + found_by["earlier"])
        places, which = np.unique(np.concatenate([code // count, code % count]), return_inverse=True)
        minima = sketches.take("minima", places, size)
        later, earlier = which.reshape(2, -1)
        estimated = np.zeros(len(code))
        for at in (slice(first, first + PAIRS) for first in range(0, len(code), PAIRS)):
            estimated[at] = np.count_nonzero(minima[later[at]] == minima[earlier[at]], axis=1) / size
        near = np.flatnonzero(estimated >= least)
        needed, of = np.unique(np.concatenate([later[near], earlier[near]]), return_inverse=True)
        sets = sketches.slices("sets", places[needed])
        found = np.zeros(len(near), VERIFIED)
        found["later"], found["earlier"], found["estimated"] = places[later[near]], places[earlier[near]], estimated[near]
        found["jaccard"] = [jaccard(sets[a], sets[b]) for a, b in zip(*of.reshape(2, -1).tolist(), strict=True)]
        verified.append(found[found["jaccard"] >= cfg.min_jaccard])
    save(file, np.concatenate(verified))


def resolve(sketches: Sketches, verified: Sequence[Path], file: Path) -> None:
    """In the order of ids, a document goes if it is a near-duplicate of an earlier one that stays: its twin is the most similar of those."""
    pairs = np.concatenate([np.fromfile(path, VERIFIED) for path in verified])
    places, which = np.unique(np.concatenate([pairs["later"], pairs["earlier"]]), return_inverse=True)
    later, earlier = sketches.ranks(places)[which].reshape(2, -1)
    gone, chosen_pairs = bytearray(len(places)), []
    for pair in np.lexsort((earlier, -pairs["jaccard"], later)):
        if not gone[later[pair]] and not gone[earlier[pair]]:
            gone[later[pair]] = 1
            chosen_pairs.append(pair)
    taken = pairs[chosen_pairs]
    found = np.zeros(len(taken), REMOVAL)
    found["place"], found["reason"], found["twin"] = taken["later"], NEAR, taken["earlier"]
    found["estimated"], found["jaccard"] = taken["estimated"], taken["jaccard"]
    save(file, found)


def shared(sketches: Sketches, decided: Path, more_than: int, part: int, parts: int, file: Path) -> None:
    """The lines in more than `more_than` documents that stay, in one share of the lines: each place of each, and its first document."""
    keys, places = repeated(*sketches.records("shared", part, parts), decided, more_than)
    new = changes(keys)
    found = np.zeros(len(keys), SHARED)
    found["place"], found["hash"] = places, keys
    found["first"], found["documents"] = places[start_of(new)], lengths(new)  # places are sorted within a key
    save(file, found[np.argsort(places, kind="stable")])


def repeated(keys: NDArray[np.uint64], places: I64, decided: Path | None, more_than: int = 1) -> tuple[NDArray[np.uint64], I64]:
    """The records whose key has more than so many documents that still stay. `keys` are sorted."""
    keep = lengths(changes(keys)) > more_than
    keys, places = keys[keep], places[keep]
    if decided and len(keys):
        keep = mapped(decided, DECISION)["reason"][places] == KEPT
        keys, places = keys[keep], places[keep]
        keep = lengths(changes(keys)) > more_than
        keys, places = keys[keep], places[keep]
    return keys, places


def changes(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a run of equal rows begins."""
    new = np.zeros(len(columns[0]), bool)
    new[:1] = True
    for column in columns:
        new[1:] |= column[1:] != column[:-1]
    return new


def start_of(new: NDArray[np.bool_]) -> I64:
    """For each row, where its run began."""
    return np.flatnonzero(new)[np.cumsum(new) - 1]


def lengths(new: NDArray[np.bool_]) -> I64:
    """For each row, how long its run is."""
    times = np.diff(np.flatnonzero(new), append=len(new))
    return np.repeat(times, times)


def record(count: int, before: Path | None, removals: Sequence[Path], file: Path) -> None:
    """Write down what becomes of each of `count` documents: as in `before`, and as the removals say."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    if before:
        shutil.copyfile(before, temporary)
    else:
        with temporary.open("wb") as empty:
            empty.truncate(count * DECISION.itemsize)  # zeros: all stay
    for path in removals:
        found = np.fromfile(path, REMOVAL)
        if len(found):
            decided = np.memmap(temporary, DECISION, "r+")
            for name in DECISION.names or ():
                decided[name][found["place"]] = found[name]
    temporary.replace(file)


def fates(decided: NDArray[Any], start: int, end: int) -> dict[int, tuple[str, int, float, float]]:
    """(reason, place of the kept twin, estimated and true similarity) of each document from place `start` to `end` that goes.

    The twin of a copy may itself repeat another document: the copy then repeats that one just as much.
    """
    found = {}
    for place in (np.flatnonzero(decided["reason"][start:end]) + start).tolist():
        reason, twin, estimated, true = decided[place].tolist()
        while decided[twin]["reason"]:
            next_reason, twin, *scores = decided[twin].tolist()
            if reason == EXACT and next_reason == NEAR:
                estimated, true = scores
        found[place] = (REASONS[reason], twin, estimated, true)
    return found
