"""Preprocess text: Unicode, broken encodings, control characters, left-over entities; notices, stop words, punctuation on demand."""

from pathlib import Path

import pyarrow as pa

from bessemer.corpus import each
from bessemer.corpus.filters.text import CleanConfig, prepare


def clean(documents: Path, *, out: Path, cfg: CleanConfig) -> dict[str, float]:
    """Preprocess text: Unicode, broken encodings, control characters, left-over entities; notices, stop words, punctuation on demand.

    Every document stays, with columns `mojibake` and `notice_lines`, but one without text afterwards. ValueError where nothing is left.
    """
    return each.apply("clean", documents, out, prepare, cfg, {"mojibake": pa.bool_(), "notice_lines": pa.int64()})
