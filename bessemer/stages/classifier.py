"""Train a classifier of texts (quality, toxicity, topic) from labelled examples."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Gt, Interval

from bessemer.core.config import Count
from bessemer.corpus.classify import examples as labelled
from bessemer.corpus.classify import linear, measure
from bessemer.corpus.classify.examples import Examples
from bessemer.corpus.classify.features import Hasher

LEAST = linear.FOLDS + 1  # different texts of each class: so that each part of the examples has one


@dataclass(frozen=True)
class ClassifierConfig:
    classes: tuple[str, ...] = ()  # the class of each input; none: by the column `label`, or by the input's own name
    text: str = "text"  # the column with the text
    label: str = "label"  # the column with the class
    limit: Count = 100_000  # examples of each class at most, chosen by the hash of their text
    characters: Annotated[int, Interval(ge=1, le=1_000_000)] = 3000  # of each text that are read
    bits: Annotated[int, Interval(ge=8, le=24)] = 18  # 2**bits features
    held_out: Annotated[float, Gt(0.0), Interval(le=0.5)] = 0.1  # share of the examples that the numbers are measured on

    version: ClassVar[int] = 2


def classifier(examples: tuple[Path, ...], *, out: Path, cfg: ClassifierConfig) -> dict[str, float]:
    """A linear classifier of words, their beginnings and pairs: weights.safetensors and config.json.

    Each input is a folder of documents, or a .parquet, .jsonl(.gz) or .csv(.gz) file. Returns what it reaches on the held-out share: accuracy,
    F1, AUC, calibration error, and each class by itself. A score means what the examples mean: where 1 % of them are toxic, a score
    of 0.5 is for texts of which half are. ValueError for fewer than two classes, or fewer than LEAST texts of one.
    """
    hasher = Hasher(cfg.bits, cfg.characters)
    found = labelled.gather(examples, cfg.classes, cfg.text, cfg.label, cfg.limit, hasher)
    rank, of = ranks(found)
    if len(found.classes) < 2:
        raise ValueError(f"classifier: the examples are all of one class ({', '.join(found.classes) or 'none'}); two are needed at least")
    for name, count in zip(found.classes, of, strict=True):
        if count < LEAST:
            raise ValueError(f"classifier: class {name} has {count} different texts; {LEAST} are needed at least")
    held = rank < np.maximum(1, np.round(of * cfg.held_out))[found.labels]
    seen = [row for row, unseen in zip(found.rows, held, strict=True) if not unseen]
    model, chosen = linear.train(found.classes, seen, found.labels[~held], rank[~held], hasher)
    model.save(out)
    chances = np.array([model.of(row) for row, unseen in zip(found.rows, held, strict=True) if unseen])
    counts = {"examples": len(held), "held_out": int(held.sum())}
    return counts | chosen | measure.numbers(found.classes, found.labels[held], chances)


def ranks(found: Examples) -> tuple[np.ndarray, np.ndarray]:
    """The place of each example among the different texts of its class, by hash, and how many different texts each class has.

    What is held out and what is in which fold follows from it: equal texts go together, and every class is in every part.
    """
    rank, of = np.zeros(len(found.labels), np.int64), np.zeros(len(found.classes), np.int64)
    for index in range(len(found.classes)):
        mine = found.labels == index
        different, rank[mine] = np.unique(found.hashes[mine], return_inverse=True)
        of[index] = len(different)
    return rank, of
