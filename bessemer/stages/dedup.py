"""Remove duplicates: exact copies, verified near-duplicates (MinHash), and lines that many documents share."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bessemer.core import artifact, log, workers
from bessemer.corpus import documents as docs
from bessemer.corpus.dedup import near as duplicates
from bessemer.corpus.dedup.near import DedupConfig, Sketch

LINES = pa.schema([("line", pa.string()), ("documents", pa.int64()), ("id", pa.string())])


def dedup(documents: Path, *, out: Path, cfg: DedupConfig) -> dict[str, float]:
    """The documents that repeat no other, shard by shard, with a column `lines_removed`.

    rejected/ keeps each removed document with its kept twin's id, their similarity estimated and true; shared_lines/ each line
    that was cut, with the document that still has it. ValueError where nothing is left.
    """
    sources = docs.shards(documents, docs.NEEDED)
    sizes = [docs.rows(source) for source in sources]
    starts = np.cumsum([0, *sizes]).tolist()
    scratch = out / artifact.RUN / "dedup"
    todo = [index for index in range(len(sources)) if not docs.shard(out, index).exists()]
    if todo:
        sketches, decided = [scratch / f"{index:05d}.npz" for index in range(len(sources))], scratch / "decided.npz"
        jobs = [workers.Job((s, file, cfg), n) for s, file, n in zip(sources, sketches, sizes, strict=True) if not file.exists()]
        workers.run(sketch_shard, jobs, cfg.workers, "sketch")
        if not decided.exists():
            decide(sources, sizes, sketches, decided, cfg)
        workers.run(write_shard, [workers.Job((sources[i], out, i, starts[i], decided, cfg), sizes[i]) for i in todo], cfg.workers, "dedup")
    shutil.rmtree(scratch, ignore_errors=True)
    numbers = docs.finish("dedup", documents, out)
    cut = sum(row["lines_removed"] for row in docs.read(out, ["lines_removed"]))
    return {"documents_in": sum(sizes), "text_bytes_in": docs.size(documents), **numbers, "lines_removed": cut}


def sketch_shard(source: Path, file: Path, cfg: DedupConfig, skip: tuple[tuple[int, str], ...], at: Any) -> None:
    """The sketch of one shard."""
    columns = docs.table(source, ["id", "text"]).to_pydict()
    save(file, vars(duplicates.sketch(columns["text"], columns["id"], cfg)))


def decide(sources: list[Path], sizes: list[int], sketches: list[Path], file: Path, cfg: DedupConfig) -> None:
    """Compare all documents with each other and write down what becomes of each."""
    everything = duplicates.joined([Sketch(**np.load(path)) for path in sketches])
    starts = np.cumsum([0, *sizes])

    def sets_of(wanted: list[int]) -> dict[int, duplicates.U64]:
        sets, hashes = {}, duplicates.Hashes()
        for source, start, end in log.track(list(zip(sources, starts, starts[1:], strict=False)), "compare"):
            here = [d for d in wanted if start <= d < end]
            texts = docs.table(source, ["text"])["text"].take([d - start for d in here]).to_pylist() if here else []
            sets.update({d: duplicates.shingles(text, cfg.ngram, hashes) for d, text in zip(here, texts, strict=True)})
        return sets

    found = duplicates.decide(everything, cfg, sets_of)
    twins = np.where(found.twin >= 0, everything.ids[found.twin], "")
    lines, first, times = duplicates.shared_lines(everything, found.reason == "", cfg.line_documents)
    save(file, {**vars(found), "twin": twins, "hashes": lines, "first": first, "times": times})


def write_shard(source: Path, out: Path, index: int, start: int, decided: Path, cfg: DedupConfig, skip: tuple[tuple[int, str], ...], at: Any) -> None:
    """Shard `index` of `out`, its first document being number `start` of all, and what goes to rejected/ and shared_lines/."""
    d = np.load(decided)
    reason, twin, estimated, true = (d[name] for name in ("reason", "twin", "estimated", "jaccard"))
    shared = dict(zip(d["hashes"].tolist(), d["first"].tolist(), strict=True))
    times = dict(zip(d["hashes"].tolist(), d["times"].tolist(), strict=True))
    lines = []
    schema = docs.with_fields(docs.schema(source), lines_removed=pa.int64())
    with docs.Writer(out, index, schema, {"twin": pa.string(), "estimated": pa.float64(), "jaccard": pa.float64()}) as writer:
        for number, row in enumerate(docs.read(source), start):
            at.value = number - start
            if reason[number]:
                detail = f"repeats {twin[number]}" + (f", Jaccard {true[number]:.3f}" if reason[number] == duplicates.NEAR else "")
                scores = {"estimated": float(estimated[number]), "jaccard": float(true[number])}
                writer.add({**row, "reason": str(reason[number]), "detail": detail, "twin": str(twin[number]), **scores})
                continue
            text, removed = duplicates.without_shared(row["text"], number, shared, cfg.line_length)
            own = {h: line for line, h in duplicates.long_lines(row["text"], cfg.line_length) if shared.get(h) == number}
            lines += [{"line": line, "documents": times[h], "id": row["id"]} for h, line in own.items()]
            only_shared = {"reason": "only shared lines", "detail": f"{len(removed)} lines"}
            writer.add({**row, "lines_removed": len(removed), **({"text": text} if text.strip() else only_shared)})
        docs.write(docs.shard(out / "shared_lines", index), lines, LINES)


def save(file: Path, arrays: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with artifact.atomic(file) as temporary, temporary.open("wb") as opened:
        np.savez(opened, **arrays)
