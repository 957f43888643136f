"""Evaluation items in a corpus: one pass finds their n-grams, a second one, which knows how common each is, acts on the documents."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from annotated_types import Interval
from numpy.typing import NDArray

from bessemer.core import artifact, jsonl, workers
from bessemer.core.config import Count, Fraction, Whole, runtime
from bessemer.corpus import documents as docs
from bessemer.corpus.contamination import index as grams
from bessemer.corpus.contamination import overlap
from bessemer.corpus.contamination.words import places
from bessemer.corpus.documents import Row

RESUME = Path(artifact.RUN) / "resume"
CHARACTERS = 1 << 21  # of documents that are compared at once
EXCERPT = 200  # characters of a span that are shown
CONTAMINATED = "contaminated"  # the reason, and with action "flag" the column that names the benchmarks


@dataclass(frozen=True)
class DecontaminateConfig:
    action: Literal["drop", "cut", "flag"] = "drop"  # drop the document; cut the span out of it; or only say so in a column
    fields: tuple[str, ...] = ()  # of a benchmark's rows that hold text; none named: all, but ids, addresses and categories
    ngram: Annotated[int, Interval(ge=2, le=100)] = 13  # words in a row that count as a copy (GPT-3: 13)
    shortest: Count = 8  # a text with fewer words than an n-gram, down to this, must be there as a whole; below: be a whole document
    common: Count = 10  # an n-gram in more documents than this is a phrase and does not count (GPT-3: 10), unless the whole text is there
    template: Count = 20  # an n-gram in more items of a benchmark than this is its form and does not count
    covered: Fraction = 0.0  # share of a text of an item from which on it counts as contaminated; 0: any n-gram (GPT-3), 0.8: Llama 2
    margin: Whole = 200  # characters cut on either side of a span (GPT-3: 200)
    workers: Whole = runtime(0)  # processes; 0: one per core

    version: ClassVar[int] = 2
    content: ClassVar[tuple[str, ...]] = (docs.CONTENT, "contamination.jsonl", "split/*")

    def __post_init__(self) -> None:
        if self.shortest > self.ngram:
            raise ValueError(f"shortest {self.shortest} must not exceed ngram {self.ngram}")


def run(documents: Path, out: Path, cfg: DecontaminateConfig) -> None:
    """Both passes over all shards of `documents`; the index lies in the folder for resuming. Only what is missing is done."""
    shards = docs.shards(documents, docs.NEEDED)
    todo = [(number, source) for number, source in enumerate(shards) if not _found(out, number).exists()]
    workers.run(find, [workers.Job((source, out, number), docs.rows(source)) for number, source in todo], cfg.workers, "find n-grams")
    index = grams.load(out / RESUME / "index.npz")
    times = np.zeros(len(index.keys), np.int64)
    for number in range(len(shards)):
        with np.load(_found(out, number)) as found:
            pairs = np.unique(np.stack([found["row"], found["gram"]]), axis=1)
        times += np.bincount(pairs[1], minlength=len(times))
    np.save(out / RESUME / "common.npy", times > cfg.common)
    todo = [(number, source) for number, source in enumerate(shards) if not docs.shard(out, number).exists()]
    workers.run(act, [workers.Job((source, out, number, cfg), docs.rows(source)) for number, source in todo], cfg.workers, "decontaminate")


def find(source: Path, out: Path, number: int, skip: tuple[tuple[int, str], ...], at: Any) -> None:
    """First pass: which n-grams of the index each document of a shard holds, and at which word."""
    index = grams.load(out / RESUME / "index.npz")
    found: list[tuple[NDArray[np.int64], ...]] = []
    for first, texts in _batches(source):
        at.value = first
        row, word, gram = grams.matches(index, texts)
        found.append((row + first, word, gram))
    columns = [np.concatenate([np.zeros(0, np.int64), *[part[i] for part in found]]) for i in range(3)]
    _found(out, number).parent.mkdir(parents=True, exist_ok=True)
    with artifact.atomic(_found(out, number)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, row=columns[0], word=columns[1], gram=columns[2])


def act(source: Path, out: Path, number: int, cfg: DecontaminateConfig, skip: tuple[tuple[int, str], ...], at: Any) -> None:
    """Second pass: write a shard without what the config wants gone, and what was found in it."""
    index, common = grams.load(out / RESUME / "index.npz"), np.load(out / RESUME / "common.npy")
    with np.load(_found(out, number)) as stored:
        row, word, gram = stored["row"], stored["word"], stored["gram"]
    schema = docs.schema(source)
    schema = docs.with_fields(schema, **{CONTAMINATED: pa.string()}) if cfg.action == "flag" else schema
    hits: list[Row] = []
    with docs.Writer(out, number, schema) as writer:
        for place, document in enumerate(docs.read(source)):
            at.value = place
            low, high = np.searchsorted(row, [place, place + 1])
            if low < high:
                here = shared(index, document, overlap.runs(index, word[low:high], gram[low:high], common, cfg.ngram))
                hits += here
                if here:
                    document = decide(document, here, cfg)
            writer.add(document)
        hits_of(out, number).parent.mkdir(parents=True, exist_ok=True)
        jsonl.write(hits_of(out, number), hits)


def shared(index: grams.Index, document: Row, runs: overlap.Runs) -> list[Row]:
    """What a document shares with evaluation items, one row a run of words: where in the document, and of which text of which item.

    `covered` is the share of that text's words that the document holds, in this run and in others.
    """
    if not len(runs.begins):
        return []
    text = document["text"]
    starts, ends = places(text)
    share = overlap.covered(runs.segments, runs.places, runs.lengths, len(index.starts)) / np.maximum(index.lengths(), 1)
    found = []
    for segment, begin, place, length in zip(*(column.tolist() for column in (runs.segments, runs.begins, runs.places, runs.lengths)), strict=True):
        start, end = int(starts[begin]), int(ends[begin + length - 1])
        benchmark, item, field = index.labels[segment]
        hit = {"document": document["id"], "start": start, "end": end, "benchmark": benchmark, "item": item, "field": field, "words": length}
        hit |= {"covered": round(float(share[segment]), 4), "text": text[start : min(end, start + EXCERPT)]}
        found.append(hit | {"segment": segment, "place": place})
    return sorted(found, key=lambda hit: (hit["start"], hit["end"], hit["segment"]))


def decide(document: Row, hits: list[Row], cfg: DecontaminateConfig) -> Row:
    """A document as the config wants it. Where it is refused, its value is the longest run of words in common."""
    if cfg.action == "flag":
        return document | {CONTAMINATED: ", ".join(sorted({hit["benchmark"] for hit in hits}))}
    best = max(hits, key=lambda hit: hit["words"])
    detail = f"{best['benchmark']} {best['item']} {best['field']}: {best['text']}"
    refused = document | {"reason": CONTAMINATED, "detail": detail, "value": float(best["words"]), "bound": float(min(cfg.ngram, best["words"]))}
    if cfg.action == "drop":
        return refused
    rest = overlap.cut(document["text"], [(hit["start"], hit["end"]) for hit in hits], cfg.margin)
    return document | {"text": rest} if rest else refused | {"reason": f"{CONTAMINATED}: too little left"}


def _batches(source: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of the first, texts) of a shard's documents, as many at once as CHARACTERS allows."""
    first, size, texts = 0, 0, []
    for row in docs.read(source, ["text"]):
        texts.append(row["text"])
        size += len(row["text"])
        if size >= CHARACTERS:
            yield first, texts
            first, size, texts = first + len(texts), 0, []
    yield first, texts


def _found(out: Path, number: int) -> Path:
    return out / RESUME / "found" / f"{number:05d}.npz"


def hits_of(out: Path, number: int) -> Path:
    return out / RESUME / "hits" / f"{number:05d}.jsonl"
