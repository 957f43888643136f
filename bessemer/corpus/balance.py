"""Which sites, topics or languages the documents of a corpus belong to, counted, and each document weighed by where it belongs.

Counts are made by shard and added up, so memory depends on the number of values alone, and on no more than twice `top` of them.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bessemer.core import artifact, workers
from bessemer.corpus import documents as docs
from bessemer.corpus import each
from bessemer.corpus.documents import Row
from bessemer.corpus.shares import MOST, OTHER, BalanceConfig, Size

WEIGHT = "weight"  # the column that says how often a document is to be read; where there is none, each is read once
NONE = "(none)"  # what a document without a value belongs to
PARTS = 64  # of the documents that a bounded value keeps: it may end up short by one part of its bound


@dataclass(frozen=True)
class Weighing:
    """What a process needs to know: the config, and the file with the weight of each value."""

    cfg: BalanceConfig
    file: Path

    @property
    def workers(self) -> int:
        return self.cfg.workers

    def weights(self) -> dict[str, float]:
        return json.loads(self.file.read_text(encoding="utf-8"))


def weight_of(row: Row) -> float:
    """How often a document is to be read. ValueError where its column `weight` does not say so."""
    weight = row.get(WEIGHT, 1.0)
    if weight is None or not 0 <= weight <= MOST:
        raise ValueError(f"document {row['id']}: {WEIGHT} is {weight}; it is how often to read the document, from 0 to {MOST:g}")
    return weight


def value_of(row: Row, by: str) -> str:
    """The value that a document counts towards. A site is a host without its www."""
    if by in row or by != "site":
        return str(row[by]) if row[by] not in (None, "") else NONE
    try:
        return (urlsplit(row["url"] or "").hostname or NONE).removeprefix("www.")
    except ValueError:  # not an address
        return NONE


def measure(documents: Path, scratch: Path, cfg: BalanceConfig) -> dict[str, Size]:
    """Documents and bytes of each value, the largest first. What each shard has is kept in `scratch`, so a killed stage does none twice."""
    found: dict[str, Size] = {}
    for sizes in _counted(count_shard, documents, scratch, cfg, cfg.workers):
        for value, size in sizes.items():
            found[value] = _sum(found.get(value, (0.0, 0.0)), size)
        if len(found) > 2 * cfg.top:
            found = _largest(found, cfg.top)
    return _largest(found, cfg.top)


def parts(documents: Path, scratch: Path, weighing: Weighing) -> dict[str, list[Size]]:
    """For each value with a weight, what `shares.lowered` asks for."""
    found: dict[str, list[Size]] = {value: [(0.0, 0.0)] * PARTS for value, weight in weighing.weights().items() if weight}
    for pieces in _counted(part_shard, documents, scratch, weighing, weighing.workers):
        for value, sizes in pieces.items():
            found[value] = [_sum(*pair) for pair in zip(found[value], sizes, strict=True)]
    return found


def _counted(function: Callable[..., None], documents: Path, scratch: Path, given: Any, processes: int) -> Iterator[Mapping[str, Any]]:
    """What `function(shard, file, given)` writes to the file of each shard, in order."""
    sources = docs.shards(documents, docs.NEEDED)
    files = [scratch / f"{index:05d}.json" for index in range(len(sources))]
    scratch.mkdir(parents=True, exist_ok=True)
    todo = [workers.Job((source, file, given), docs.rows(source)) for source, file in zip(sources, files, strict=True) if not file.exists()]
    workers.run(function, todo, processes, "count")
    return (json.loads(file.read_text(encoding="utf-8")) for file in files)


def count_shard(source: Path, file: Path, cfg: BalanceConfig, skip: tuple[tuple[int, str], ...], at: Any) -> None:
    """What one shard has of each value."""
    found: dict[str, Size] = {}
    for value, _, size in _sizes(source, cfg.by, at):
        found[value] = _sum(found.get(value, (0.0, 0.0)), size)
    artifact.write_json(file, found)


def part_shard(source: Path, file: Path, weighing: Weighing, skip: tuple[tuple[int, str], ...], at: Any) -> None:
    """What one shard has in each part of each value."""
    weights, found = weighing.weights(), dict[str, list[Size]]()
    for value, share, size in _sizes(source, weighing.cfg.by, at):
        value = value if value in weights else OTHER
        if share < weights[value]:
            here = found.setdefault(value, [(0.0, 0.0)] * PARTS)
            part = min(int(share / weights[value] * PARTS), PARTS - 1)
            here[part] = _sum(here[part], size)
    artifact.write_json(file, found)


def _sizes(source: Path, by: str, at: Any) -> Iterator[tuple[str, float, Size]]:
    """Each document of a shard: its value, its number, and what it counts."""
    known = docs.schema(source).names
    place = by if by in known or by != "site" else "url"
    for rows in docs.batches(source, ["id", "text", place, *([WEIGHT] if WEIGHT in known else [])]):
        for row in rows:
            weight = weight_of(row)
            yield value_of(row, by), docs.lot(row["id"], f"balance {by}"), (weight, weight * len(row["text"].encode("utf-8", "replace")))
        at.value += len(rows)


def _sum(one: Size, other: Size) -> Size:
    return one[0] + other[0], one[1] + other[1]


def _largest(sizes: Mapping[str, Size], top: int) -> dict[str, Size]:
    """The `top` largest values, the rest as one."""
    ranked = sorted((value for value in sizes if value != OTHER), key=lambda value: (-sizes[value][1], value))
    rest = [sizes[value] for value in (*ranked[top:], *([OTHER] if OTHER in sizes else []))]
    return {value: sizes[value] for value in ranked[:top]} | ({OTHER: (sum(n for n, _ in rest), sum(b for _, b in rest))} if rest else {})


def weigher(weighing: Weighing) -> each.Batch:
    """Gives each document its weight; or drops it where its number is not below that."""
    weights, by = weighing.weights(), weighing.cfg.by

    def work(rows: list[Row]) -> list[Row]:
        for row in rows:
            value = value_of(row, by)
            weight = weights[value if value in weights else OTHER]
            if not weighing.cfg.drop:
                row[WEIGHT] = weight_of(row) * weight
            elif (share := docs.lot(row["id"], f"balance {by}")) >= weight:
                row |= {"reason": f"{by} has too much", "detail": value, "value": share, "bound": weight}
        return rows

    return work
