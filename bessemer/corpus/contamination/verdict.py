"""Which items of each benchmark the corpus holds: the clean and the contaminated part of it, for the evaluation to tell apart."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bessemer.core import artifact, jsonl
from bessemer.corpus.contamination import overlap
from bessemer.corpus.contamination.index import Index
from bessemer.corpus.contamination.items import Item, benchmark, identifiers

Row = dict[str, Any]
HITS, SPLIT = "contamination.jsonl", "split"
NAMED = 10  # documents that are named of those that hold an item


def write(out: Path, parts: Sequence[Path], items: Sequence[Item], index: Index, least: float) -> dict[str, float]:
    """Join the hits of all shards (`parts`, in order) as contamination.jsonl and write split/BENCHMARK.jsonl: a row an item.

    An item is contaminated where a share of at least `least` (0: any) of one of its texts is found. `covered` is that share, of the
    text that is found most of, `covered_of_all` the share of all its texts. Returns counts.
    """
    found = np.zeros(len(index.words), bool)
    holders: dict[int, dict[str, None]] = {}
    count, documents = 0, 0
    last = None
    with artifact.atomic(out / HITS) as temporary, temporary.open("w", encoding="utf-8") as file:
        for part in parts:
            for hit in jsonl.read(part):
                segment, place = hit.pop("segment"), hit.pop("place")
                found[place : place + hit["words"]] = True
                holders.setdefault(int(index.owners[segment]), {})[hit["document"]] = None
                file.write(json.dumps(hit, ensure_ascii=False) + "\n")
                count, documents, last = count + 1, documents + (hit["document"] != last), hit["document"]
    numbers: dict[str, float] = {"spans": count, "documents with spans": documents}
    rows: dict[str, list[Row]] = {}
    for item, row in zip(items, _rows(items, index, found, holders, least), strict=True):
        rows.setdefault(item.benchmark, []).append(row)
    (out / SPLIT).mkdir(exist_ok=True)
    for name, own in rows.items():
        jsonl.write(out / SPLIT / f"{name}.jsonl", own)
        numbers[f"{name}: items"] = len(own)
        numbers[f"{name}: contaminated"] = sum(row["contaminated"] for row in own)
        numbers[f"{name}: not judged"] = sum(not row["judged"] for row in own)
    return numbers


def _rows(items: Sequence[Item], index: Index, found: np.ndarray, holders: dict[int, dict[str, None]], least: float) -> Iterator[Row]:
    segments = len(index.starts)
    sizes = np.repeat(index.sizes, np.diff(index.ends, prepend=0)).astype(np.int64)
    judged = overlap.covered(index.segments(index.places), index.places, sizes, segments)  # words that could be found
    copied = np.bincount(index.segments(np.flatnonzero(found)), minlength=segments)
    first = np.searchsorted(index.owners, np.arange(len(items) + 1))
    short = index.lengths() < index.shortest
    for number, item in enumerate(items):
        own = slice(first[number], first[number + 1])
        best = float(np.max(copied[own] / np.maximum(judged[own], 1), initial=0.0))
        whole = float(copied[own].sum() / max(judged[own].sum(), 1))
        documents = list(holders.get(number, ()))
        yield {
            "item": item.name, "contaminated": best > 0 and best >= least, "covered": round(best, 4), "covered_of_all": round(whole, 4),
            "judged": bool(judged[own].sum()) and not short[own].any(), "found_in": len(documents), "documents": documents[:NAMED],
        }  # fmt: skip


def contaminated(judged: Path, source: Path, file: str, rows: Sequence[Row]) -> list[bool]:
    """For each of the `rows` of the file of this name in the benchmark `source`: whether a decontaminate artifact calls it contaminated.

    ValueError where that artifact has not judged the benchmark, or not these rows of it.
    """
    path = judged / SPLIT / f"{benchmark(source)}.jsonl"
    if not path.is_file():
        known = ", ".join(sorted(other.stem for other in path.parent.glob("*.jsonl"))) or "none"
        raise ValueError(f"contamination: {judged} has judged no benchmark {path.stem} (it has: {known})")
    verdicts = {row["item"]: row["contaminated"] for row in jsonl.read(path)}
    names = identifiers(source / file, rows)
    if missing := [name for name in names if name not in verdicts]:
        raise ValueError(f"contamination: {path} does not hold {missing[0]} of {source / file}: it was made from another version of it")
    return [verdicts[name] for name in names]
