"""Outliers: documents whose perplexity, length or characters are unlike the others', removed or given less weight."""

from pathlib import Path

from bessemer.corpus.outliers import find
from bessemer.corpus.outliers.find import OutliersConfig


def outliers(documents: Path, reference: Path | None = None, *, out: Path, cfg: OutliersConfig) -> dict[str, float]:
    """The documents with a column `perplexity`, less those that are extreme, which rejected/ keeps with their measure and its bound.

    The language model reads a sample of `reference` where there is one (CCNet's way: what is good text is known), else of the
    documents themselves. outliers.jsonl shows the most extreme of each statistic. ValueError where nothing is left.
    """
    return find.run(documents, reference, out, cfg)
