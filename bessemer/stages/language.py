"""Say which language each document is in, and keep only the languages wanted."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from bessemer.corpus import each
from bessemer.corpus.classify.language import LanguageConfig, detector


def language(documents: Path, *, out: Path, cfg: LanguageConfig) -> dict[str, float]:
    """The documents with columns `language` (ISO 639) and `language_score` (0 to 1, about how often such an answer is right).

    rejected/ keeps the others, each with its language and score. ValueError for a code in `keep` that is none, or where nothing is left.
    """
    detector(cfg)  # a wrong code is an error now, not in a process of its own later
    return each.apply("language", documents, out, detector, cfg, {"language": pa.string(), "language_score": pa.float64()})


def estimate(cfg: LanguageConfig, step: Any) -> dict[str, float]:
    """Nothing but whether the codes are codes: how much there is to read shows later."""
    if cfg.keep:  # else the model need not be loaded to plan
        detector(cfg)
    return {}
