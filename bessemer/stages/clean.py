"""Clean documents by rules: normalise the text, refuse what is no text worth learning from, and say by which rule."""

from pathlib import Path

import pyarrow as pa

from bessemer.corpus import each
from bessemer.corpus.filters.rules import CleanConfig, cleaner


def clean(documents: Path, *, out: Path, cfg: CleanConfig) -> dict[str, float]:
    """The documents that pass every rule, shard by shard, with a column `words`.

    rejected/ keeps each refused document with the bound it broke and its own measure. ValueError where nothing is left.
    """
    return each.apply("clean", documents, out, cleaner, cfg, {"words": pa.int64()})
