"""Find evaluation items in a corpus by their word n-grams, remove them from it, and tell the clean part of each benchmark from the rest."""

from pathlib import Path

from bessemer.core import log
from bessemer.corpus import documents as docs
from bessemer.corpus.contamination import index, items, scan, verdict
from bessemer.corpus.contamination.scan import DecontaminateConfig


def decontaminate(documents: Path, benchmarks: tuple[Path, ...], *, out: Path, cfg: DecontaminateConfig) -> dict[str, float]:
    """The documents without what they share with `benchmarks`: files or folders of JSONL, JSON, CSV, TSV (each also .gz) or parquet, or a
    dialogues artifact, of which the held-out questions count.

    contamination.jsonl names each span in common: document, characters, benchmark, item, field, words, share of that text in the
    document. split/BENCHMARK.jsonl says of each item whether it is contaminated. ValueError where the benchmarks hold no words.
    """
    if not benchmarks:
        raise ValueError("benchmarks is empty: name at least one file or folder")
    found = list(items.read(benchmarks, cfg.fields))
    built = index.build(found, cfg.ngram, cfg.shortest, cfg.template)
    if not len(built.keys):
        raise ValueError(f"benchmarks: none of {len(found)} items has words to look for")
    log.say(f"{len(found):,} items, {len(built.keys):,} n-grams")
    index.save(built, out / scan.RESUME / "index.npz")
    scan.run(documents, out, cfg)
    numbers = docs.finish("decontaminate", documents, out)
    parts = [scan.hits_of(out, number) for number in range(len(docs.shards(documents)))]
    return numbers | verdict.write(out, parts, found, built, cfg.covered)
