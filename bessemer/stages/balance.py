"""Measure what a corpus consists of (sites, topics, languages), cap what has too much of it, or weigh it to given shares."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from bessemer.core import artifact
from bessemer.corpus import balance as counts
from bessemer.corpus import each, shares
from bessemer.corpus.balance import WEIGHT, Weighing
from bessemer.corpus.shares import BalanceConfig, Size


def balance(documents: Path, *, out: Path, cfg: BalanceConfig) -> dict[str, float]:
    """The documents with a column `weight`, which `tokens` honours and which multiplies one that is there; or, with `drop`, fewer documents.

    balance.json has each value's documents, bytes and share before and after, the largest first. Dropping is decided by each document's
    id. It keeps every bound, and may leave a bounded value short of it by a few percent; targets it meets on average.
    """
    scratch = out / artifact.RUN / "resume"
    weighing = Weighing(cfg, scratch / "weights.json")
    before = counts.measure(documents, scratch / "before", cfg)
    found = shares.weights(before, cfg)
    if cfg.drop:
        artifact.write_json(scratch / "watched.json", shares.watched(before, found, cfg))
        pieces = counts.parts(documents, scratch / "parts", Weighing(cfg, scratch / "watched.json"))
        found = shares.lowered(before, found, pieces, cfg)
    artifact.write_json(weighing.file, found)
    numbers = each.apply("balance", documents, out, counts.weigher, weighing, {} if cfg.drop else {WEIGHT: pa.float64()})
    after = counts.measure(out, scratch / "after", cfg)
    artifact.write_json(out / "balance.json", {"by": cfg.by, "values": _table(before, after, found)})
    for when, sizes in (("before", before), ("after", after)):
        simpson, entropy = shares.effective(sizes)
        numbers |= {f"effective {cfg.by}s {when}": round(simpson, 2), f"effective {cfg.by}s by entropy {when}": round(entropy, 2)}
        numbers[f"largest share {when}"] = round(max(size for _, size in sizes.values()) / _total(sizes), 4)
    return {**numbers, "values": len(before)}


def _total(sizes: Mapping[str, Size]) -> float:
    return sum(size for _, size in sizes.values()) or 1.0


def _table(before: Mapping[str, Size], after: Mapping[str, Size], found: Mapping[str, float]) -> list[dict[str, object]]:
    def entry(size: Size, total: float) -> dict[str, float]:
        return {"documents": round(size[0], 2), "bytes": round(size[1]), "share": round(size[1] / total, 6)}

    totals = _total(before), _total(after)
    return [
        {"value": value, "weight": round(found[value], 6), "before": entry(size, totals[0]), "after": entry(after.get(value, (0, 0)), totals[1])}
        for value, size in before.items()
    ]
