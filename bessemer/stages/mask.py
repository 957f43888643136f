"""Mask private data: e-mail and IP addresses, telephone, card and account numbers, keys; count what was found."""

from collections import Counter
from pathlib import Path

import pyarrow.compute as pc

from bessemer.corpus import documents as docs
from bessemer.corpus import each
from bessemer.corpus.private.mask import KINDS, MASKED, MaskConfig, masker


def mask(documents: Path, *, out: Path, cfg: MaskConfig) -> dict[str, float]:
    """The same documents with placeholders for what is private, shard by shard, and a column `masked` of counts by kind."""
    numbers = each.apply("mask", documents, out, masker, cfg, {"masked": MASKED})
    totals: Counter[str] = Counter()
    for path in docs.shards(out):
        column = docs.table(path, ["masked"])["masked"]
        totals.update({f"masked: {kind}": pc.sum(pc.struct_field(column, kind)).as_py() or 0 for kind in KINDS})
    return numbers | totals
