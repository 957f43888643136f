"""Score documents with a classifier, and keep, drop or weight them by the score."""

from functools import partial
from pathlib import Path

from bessemer.corpus import documents as docs
from bessemer.corpus import each
from bessemer.corpus.classify.score import ScoreConfig, scorer


def score(documents: Path, classifier: Path, *, out: Path, cfg: ScoreConfig) -> dict[str, float]:
    """The documents with a column `cfg.name`: the probability of one class, or the likeliest class beside NAME_score.

    rejected/ keeps those outside the bounds, with class and score. ValueError for a class the classifier does not know, a column that
    the documents have already, or where nothing is left.
    """
    scorer(cfg, classifier)  # what is wrong with it is an error now, not in a process of its own later
    new = cfg.columns()
    for shard in docs.shards(documents, docs.NEEDED):
        if taken := [name for name in docs.schema(shard).names if name in new and name != "weight"]:
            raise ValueError(f"{shard} already has a column {taken[0]}: give score.name another")
    return each.apply("score", documents, out, partial(scorer, classifier=classifier), cfg, new)
