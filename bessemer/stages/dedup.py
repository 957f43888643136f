"""Remove duplicates: exact copies, verified near-duplicates (MinHash), and lines and paragraphs that many documents share."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from bessemer.core import artifact, workers
from bessemer.corpus import documents as docs
from bessemer.corpus.dedup import decide, sketch, write
from bessemer.corpus.dedup.near import DedupConfig
from bessemer.corpus.dedup.sketch import Sketches

Work = tuple[Path, Callable[..., None], tuple[Any, ...]]  # a file, and the call that makes it
TOGETHER = 1000  # documents; smaller shards share a process


def dedup(documents: Path, *, out: Path, cfg: DedupConfig) -> dict[str, float]:
    """The documents that repeat no other, shard by shard, with a column `lines_removed`.

    Kept is the document with the smallest id. rejected/ holds each removed document with its kept twin's id and their similarity,
    estimated and true; shared_lines/ each line or paragraph that was cut, with the document that still has it. (A twin that has none
    but shared lines is in rejected/ too: other documents have them.) ValueError where nothing is left.
    """
    sources = docs.shards(documents, docs.NEEDED)
    sizes = [docs.rows(source) for source in sources]
    scratch = out / artifact.RUN / "dedup"
    if not all(docs.shard(out, index).exists() for index in range(len(sources))):
        sketches, groups = Sketches(scratch / "sketch", tuple(np.cumsum([0, *sizes]).tolist())), grouped(sizes)

        def sketched(index: int) -> Work:
            return sketches.shard(index), sketch.write, (sources[index], sketches.shard(index), cfg)

        def written(index: int) -> Work:
            return docs.shard(out, index), write.shard, (sources[index], out, index, sketches, decided, shared, cfg)

        phase("sketch", [[sketched(index) for index in group] for group in groups], cfg)
        decided, shared = decisions(sketches, groups, scratch, cfg)
        phase("dedup", [[written(index) for index in group] for group in groups], cfg)
    shutil.rmtree(scratch, ignore_errors=True)
    numbers = docs.finish("dedup", documents, out)
    cut = sum(row["lines_removed"] for row in docs.read(out, ["lines_removed"]))
    return {"documents_in": sum(sizes), "text_bytes_in": docs.size(documents), **numbers, "lines_removed": cut}


def decisions(sketches: Sketches, groups: Sequence[range], scratch: Path, cfg: DedupConfig) -> tuple[Path, list[Path]]:
    """(the file that says what becomes of each document, the files of shared lines)."""
    starts = sketches.starts

    def shares(name: str, kind: str, function: Callable[..., None], *args: Any) -> list[Path]:
        parts = max(1, -(-sketches.count(kind) // cfg.records))
        files = [scratch / f"{name}-{parts}" / f"{part:05d}" for part in range(parts)]
        phase(name, [[(file, function, (sketches, *args, part, parts, file))] for part, file in enumerate(files)], cfg)
        return files

    def recorded(name: str, before: Path | None, removals: list[Path]) -> Path:
        file = scratch / f"decided-{name}"
        phase(name, [[(file, decide.record, (starts[-1], before, removals, file))]], cfg)
        return file

    urls = recorded("urls", None, shares("urls", "url", decide.copies, "url", None))
    copies = recorded("copies", urls, shares("copies", "exact", decide.copies, "exact", urls))
    pairs = shares("pairs", "near", decide.candidates, copies)
    verified = [scratch / "verified" / f"{group.start:05d}" for group in groups]
    spans = [(starts[group.start], starts[group.stop]) for group in groups]
    phase("verify", [[(file, decide.verify, (sketches, *span, pairs, cfg, file))] for file, span in zip(verified, spans, strict=True)], cfg)
    near = scratch / "near"
    phase("resolve", [[(near, decide.resolve, (sketches, verified, near))]], cfg)
    decided = recorded("near", copies, [near])
    return decided, shares("shared", "shared", decide.shared, decided, cfg.line_documents)


def grouped(sizes: Sequence[int]) -> list[range]:
    """Neighbouring shards that are done in one process, so that a corpus of many small ones does not spend its time on starting them."""
    groups, size = [range(0)], 0
    for index, count in enumerate(sizes):
        if size + count > TOGETHER and len(groups[-1]):
            groups.append(range(index, index))
            size = 0
        groups[-1] = range(groups[-1].start, index + 1)
        size += count
    return groups


def phase(label: str, jobs: Sequence[Sequence[Work]], cfg: DedupConfig) -> None:
    """Make each file that is missing, each job in a process; a single job here, since a process takes longer to start than that."""
    missing = [[work for work in job if not work[0].exists()] for job in jobs]
    todo = [workers.Job((works[0][0], works), len(works)) for works in missing if works]
    if len(todo) == 1:
        make(*(*todo[0].args, (), SimpleNamespace(value=0)))
    else:
        workers.run(make, todo, cfg.workers, label)


def make(first: Path, works: Sequence[Work], skip: tuple[tuple[int, str], ...], at: Any) -> None:
    """One job. `first` is there for the message should it die."""
    for at.value, (_, function, args) in enumerate(works):
        function(*args)
