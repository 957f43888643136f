"""Filter documents by rules (Gopher, C4, FineWeb, code), and say for each refused one by which rule and measure."""

from collections import Counter
from pathlib import Path

import pyarrow as pa

from bessemer.corpus import documents as docs
from bessemer.corpus import each
from bessemer.corpus.filters.rules import FilterConfig, prepare, rules_in


def filter(documents: Path, *, out: Path, cfg: FilterConfig) -> dict[str, float]:
    """Filter documents by rules: presets web, documentation and code, or sets of rules with bounds of your own.

    Kept documents get columns `words` and `lines_removed`; rejected/ holds the others as they came, with rule, measured value and bound.
    With `all_rules` the result also counts for each rule how many documents break it, alone or with others. ValueError where nothing is left.
    """
    numbers = each.apply("filter", documents, out, prepare, cfg, {"words": pa.int64(), "lines_removed": pa.int64()})
    if cfg.all_rules:
        broken = Counter(rule for row in docs.rejected(out, ["detail"]) for rule in rules_in(row["detail"]))
        numbers |= {f"broken: {rule}": n for rule, n in sorted(broken.items())}
    return numbers
