"""One shard of the deduplicated corpus: what stays, without the lines that others share; what goes, with its twin."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from bessemer.corpus import documents as docs
from bessemer.corpus.dedup import decide, lines, sketch
from bessemer.corpus.dedup.near import DedupConfig
from bessemer.corpus.dedup.sketch import Sketches

EVIDENCE = {"twin": pa.string(), "estimated": pa.float64(), "jaccard": pa.float64()}
LINES = pa.schema([("line", pa.string()), ("documents", pa.int64()), ("id", pa.string())])
SHARED = "shared_lines"  # the folder beside the shards for the lines that were cut somewhere, one row a line, in its first document's shard


def shard(source: Path, out: Path, index: int, sketches: Sketches, decided: Path, shared: Sequence[Path], cfg: DedupConfig) -> None:
    """Shard `index` of `out`, by what is `decided` about each document and which lines are `shared`."""
    start, end = sketches.starts[index : index + 2]
    removed = decide.fates(sketch.mapped(decided, decide.DECISION), start, end)
    names = sketches.ids(np.array([twin for _, twin, *_ in removed.values()], np.int64))
    twins = dict(zip(removed, names, strict=True))
    cuts: dict[int, dict[int, tuple[int, int]]] = {}  # document -> hash of a line -> its first document, and how many have it
    for place, number, first, count in sketch.chosen(shared, decide.SHARED, "place", start, end).tolist():
        cuts.setdefault(place, {})[number] = (first, count)
    units, own = sketch.units(cfg), []
    schema = docs.with_fields(docs.schema(source), lines_removed=pa.int64())
    with docs.Writer(out, index, schema, EVIDENCE) as writer:
        for place, row in enumerate(docs.read(source), start):
            if place in removed:
                reason, _, estimated, true = removed[place]
                twin = twins[place].decode()
                detail = f"repeats {twin}" + (f", Jaccard {true:.3f}" if reason == "near" else "")
                writer.add({**row, "reason": reason, "detail": detail, "twin": twin, "estimated": estimated, "jaccard": true})
                continue
            text, taken = row["text"], list[str]()
            if known := cuts.get(place):
                text, taken = lines.cut(text, units, {number: first for number, (first, _) in known.items()}, place)
                mine = {number: count for number, (first, count) in known.items() if first == place}
                own += [{"line": line, "documents": mine[number], "id": row["id"]} for number, line in lines.said(row["text"], units, mine).items()]
            only_shared = {"reason": "only shared lines", "detail": f"{len(taken)} lines"}
            writer.add({**row, "lines_removed": len(taken), **({"text": text} if text.strip() or not taken else only_shared)})
        docs.write(docs.shard(out / SHARED, index), own, LINES)
