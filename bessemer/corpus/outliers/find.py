"""Find the documents of a corpus that are not like the others: measure each, see what is usual, judge each.

Two passes over the shards, each on all cores; between them only histograms. No document is measured by a model that has read it:
without a reference corpus there are two models, each of one half of a sample, and the other half's documents are theirs to read.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import xxhash

from bessemer.core import artifact, jsonl, workers
from bessemer.core.config import Count, Fraction, Positive, Whole, runtime, unknown
from bessemer.corpus import documents as docs
from bessemer.corpus import each
from bessemer.corpus.outliers import bounds
from bessemer.corpus.outliers.ngrams import Ngrams, train
from bessemer.corpus.outliers.statistics import NAMES, excerpt, measures

SHARDS = 16  # that the sample comes from, evenly spaced
SHOWN = 200  # characters of an example
Example = tuple[float, docs.Row]


@dataclass(frozen=True)
class OutliersConfig:
    """What an outlier is and what becomes of it."""

    spread: Positive = 5.0  # allowed distance from the median; 1 is that of the 10th or 90th percentile, 1.28 normal standard deviations
    statistics: tuple[str, ...] = tuple(NAMES)  # what documents are judged by
    action: Literal["remove", "weight"] = "remove"  # refuse outliers, or multiply their column `weight`
    weight: Fraction = 0.1  # by which it is multiplied
    sample: Count = 10_000  # documents that the language model reads
    examples: Count = 5  # most extreme ones of each statistic and side in outliers.jsonl
    workers: Whole = runtime(0)  # processes; 0: one per core

    content: ClassVar[tuple[str, ...]] = (docs.CONTENT,)

    def __post_init__(self) -> None:
        for name in self.statistics:
            if name not in NAMES:
                raise ValueError(unknown("statistics", name, list(NAMES)))


def models(documents: Path, reference: Path | None, folder: Path, cfg: OutliersConfig) -> list[Path]:
    """Where the trained models are: one of the reference, or one of each half of the documents. Trained where there is none yet."""
    found = [folder / f"model-{half}" for half in range(1 if reference else 2)]
    for half, path in enumerate(found):
        if not path.exists():
            texts = (excerpt(row["text"]) for row in sample(reference or documents, cfg.sample) if reference or _half(row["id"]) == half)
            part = path.with_name(path.name + ".part")
            train(texts).save(part)
            part.rename(path)
    return found


def sample(folder: Path, size: int) -> Iterator[docs.Row]:
    """About `size` documents, evenly spaced over at most SHARDS shards; the same ones each time."""
    shards = docs.shards(folder, docs.NEEDED)
    shards = shards[:: math.ceil(len(shards) / SHARDS)]
    stride = math.ceil(sum(map(docs.rows, shards)) / size) or 1
    rows = chain.from_iterable(docs.read(path, docs.NEEDED) for path in shards)
    return (row for n, row in enumerate(rows) if n % stride == 0)


def measure(source: Path, folder: Path, index: int, models: list[Path], skip: tuple[tuple[int, str], ...], at: Any) -> None:
    """The statistics of each document of a shard, to folder/measures-INDEX.npy; nan for one that killed an earlier attempt."""
    loaded, deadly = [Ngrams.load(path) for path in models], dict(skip)
    found = []
    for at.value, row in enumerate(docs.read(source, docs.NEEDED)):
        if at.value in deadly:
            found.append([math.nan] * len(NAMES))
            continue
        workers.limit(each.SECONDS)
        found.append(measures(row["text"], loaded[0] if len(loaded) == 1 else loaded[1 - _half(row["id"])]))
        workers.limit(0)
    with artifact.atomic(measured(folder, index)) as temporary, temporary.open("wb") as file:
        np.save(file, np.array(found, np.float64).reshape(-1, len(NAMES)))


def judge(source: Path, out: Path, index: int, measured: Path, limits: np.ndarray, cfg: OutliersConfig, skip: Any, at: Any) -> None:
    """Shard `index` of `out`: outliers refused or given less weight. Counts and the most extreme examples go to the folder of `measured`."""
    fields = {"perplexity": pa.float64()} | ({"weight": pa.float64()} if cfg.action == "weight" else {})
    allowed = [bounds.original(limits[:, 0]), bounds.original(limits[:, 2])]
    found: Counter[str] = Counter()
    examples: dict[str, list[Example]] = {}
    with docs.Writer(out, index, docs.with_fields(docs.schema(source), **fields)) as writer:
        for row, values, away in _judged(source, np.load(measured), limits, cfg):
            if np.isnan(values).all():  # else even an empty text has a length
                writer.add(row | {"reason": "crashed", "detail": "could not be measured"})
                continue
            row["perplexity"] = None if math.isnan(values[0]) else round(values[0], 2)
            worst = int(np.argmax(np.abs(away)))
            side = int(away[worst] > 0)
            if cfg.action == "weight" and row.get("weight") is None:
                row["weight"] = 1.0
            if abs(away[worst]) > 1:
                name, detail = list(NAMES)[worst], ("low", "high")[side]
                said = {"statistic": name, "side": detail, "value": values[worst], "bound": allowed[side][worst]}
                found[f"{name}, {detail}"] += 1
                kept = examples.setdefault(f"{name}, {detail}", [])
                kept.append((float(abs(away[worst])), {"id": row["id"], **said, "text": row["text"][:SHOWN]}))
                kept.sort(key=_extreme)
                del kept[cfg.examples :]
                if cfg.action == "weight":
                    row["weight"] *= cfg.weight
                else:
                    row |= {"reason": f"outlier.{name}", "detail": detail, "value": said["value"], "bound": said["bound"]}
            writer.add(row)
            at.value += 1
        artifact.write_json(judged(measured.parent, index), {"found": found, "examples": examples})


def show(out: Path, folder: Path, shards: int, cfg: OutliersConfig) -> dict[str, float]:
    """Write outliers.jsonl, the most extreme examples of each statistic and side, and return how many outliers each has."""
    found: Counter[str] = Counter()
    examples: dict[str, list[Example]] = {}
    for index in range(shards):
        one = json.loads(judged(folder, index).read_text(encoding="utf-8"))
        found.update(one["found"])
        for name, some in one["examples"].items():
            examples[name] = sorted([*examples.get(name, []), *some], key=_extreme)[: cfg.examples]
    jsonl.write(out / "outliers.jsonl", [row for name in sorted(examples) for _, row in examples[name]])
    return {f"outliers: {name}": found[name] for name in sorted(found)}


def measured(folder: Path, index: int) -> Path:
    return folder / f"measures-{index:05d}.npy"


def judged(folder: Path, index: int) -> Path:
    return folder / f"judged-{index:05d}.json"


def _judged(source: Path, values: np.ndarray, limits: np.ndarray, cfg: OutliersConfig) -> Iterator[tuple[docs.Row, list[float], np.ndarray]]:
    away = bounds.beyond(values, limits, cfg.statistics)
    return zip(docs.read(source), values.tolist(), away, strict=True)


def _extreme(example: Example) -> tuple[float, str]:
    return -example[0], example[1]["id"]


def _half(id: str) -> int:
    return xxhash.xxh3_64_intdigest(id.encode("utf-8", "surrogatepass")) & 1


def run(documents: Path, reference: Path | None, out: Path, cfg: OutliersConfig) -> dict[str, float]:
    """All of it, each part only where it is not done yet."""
    folder = out / artifact.RUN / "resume"
    folder.mkdir(parents=True, exist_ok=True)
    shards = list(enumerate(docs.shards(documents, docs.NEEDED)))
    trained = models(documents, reference, folder, cfg)
    todo = [workers.Job((path, folder, n, trained), docs.rows(path)) for n, path in shards if not measured(folder, n).exists()]
    workers.run(measure, todo, cfg.workers, "measure")
    counts = sum((bounds.histogram(np.load(measured(folder, n))) for n, _ in shards), np.zeros(1, np.int64))
    limits = bounds.limits(counts, cfg.spread)
    todo = [workers.Job((path, out, n, measured(folder, n), limits, cfg), docs.rows(path)) for n, path in shards if not docs.shard(out, n).exists()]
    workers.run(judge, todo, cfg.workers, "judge")
    shown = show(out, folder, len(shards), cfg)
    return docs.finish("outliers", documents, out) | shown
