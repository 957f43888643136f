"""Score documents with a classifier: keep, drop or weight them by it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from bessemer.core.config import Fraction, Whole, runtime, unknown
from bessemer.corpus import documents, each
from bessemer.corpus.classify.linear import Linear
from bessemer.corpus.documents import Row


@dataclass(frozen=True)
class ScoreConfig:
    name: str = "quality"  # the new column
    of: str = ""  # the class whose probability it holds; none: it holds the likeliest class, and NAME_score the probability
    keep: tuple[str, ...] = ()  # classes to keep, without `of`; none: all
    min: Fraction = 0.0  # refuse documents with a lower score
    max: Fraction = 1.0  # and with a higher one
    sample: Whole = 0  # keep with probability (2 - score)**-sample, as GPT-3 did with 9; 0: keep all
    weight: tuple[float, ...] = ()  # copies in the training mix at score 0 and at score 1, linear between: a column `weight`
    workers: Whole = runtime(0)  # processes; 0: one per core
    version: ClassVar[int] = 2
    content: ClassVar[tuple[str, ...]] = (documents.CONTENT,)

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name in ("weight", *documents.SCHEMA.names, *documents.REASON):
            raise ValueError(f"name {self.name!r} cannot be a new column: a word other than those documents have is needed")
        if self.weight and (len(self.weight) != 2 or min(self.weight) < 0):
            raise ValueError(f"weight {self.weight} is not two numbers from 0 up: copies at score 0 and at score 1")
        if self.of and self.keep:
            raise ValueError("keep names classes and `of` asks for the score of one: use min and max with `of`")

    def columns(self) -> dict[str, pa.DataType]:
        """What the stage adds."""
        named = {self.name: pa.float64()} if self.of else {self.name: pa.string(), f"{self.name}_score": pa.float64()}
        return named | ({"weight": pa.float64()} if self.weight else {})


def scorer(cfg: ScoreConfig, classifier: Path) -> each.Batch:
    """What `each.apply` does to a batch. ValueError for a class that the classifier does not know."""
    model = Linear.load(classifier)
    for place, wanted in (("of", [cfg.of] if cfg.of else []), ("keep", list(cfg.keep))):
        for word in wanted:
            if word not in model.classes:
                raise ValueError(unknown(f"score.{place}", word, model.classes))

    def work(rows: list[Row]) -> list[Row]:
        for row in rows:
            chances = model.probabilities(row["text"])
            best = model.classes.index(cfg.of) if cfg.of else int(chances.argmax())
            score = float(chances[best])
            row |= {cfg.name: score} if cfg.of else {cfg.name: model.classes[best], f"{cfg.name}_score": score}
            if cfg.weight:
                low, high = cfg.weight
                known = row.get("weight")  # of another classifier before: the mix wants both
                row["weight"] = (1.0 if known is None else known) * (low + (high - low) * score)
            row |= refusal(row["id"], model.classes[best], score, cfg)
        return rows

    return work


def refusal(identifier: str, name: str, score: float, cfg: ScoreConfig) -> Mapping[str, Any]:
    """Why a document is refused, {} where it is kept."""
    said = {"reason": cfg.name, "detail": f"{name} {score:.3f}", "value": score}
    if cfg.keep and name not in cfg.keep:
        return said
    if score < cfg.min:
        return said | {"bound": cfg.min}
    if score > cfg.max:
        return said | {"bound": cfg.max}
    # GPT-3 kept a page where a draw from a Pareto (Lomax) distribution exceeds 1 - score (Brown et al. 2020, appendix A). The chance of
    # that is (1 + (1 - score))**-alpha; the draw is the document's own, the same on every run.
    if cfg.sample and documents.lot(identifier, f"score {cfg.name}") >= (chance := (2.0 - score) ** -cfg.sample):
        return said | {"detail": f"drawn: kept with {chance:.4f}"}
    return {}
