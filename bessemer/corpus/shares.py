"""How much of a corpus each site, topic or language may be: the weights that keep bounds and reach targets. Arithmetic alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from annotated_types import Ge

from bessemer.core import config
from bessemer.core.config import Count, Fraction, Whole, runtime
from bessemer.corpus import documents as docs

Size = tuple[float, float]  # documents and bytes of text, each document counted with its weight
OTHER = "(other)"  # the values beyond the `top` largest, together
MOST = 100.0  # times that a document may be read


@dataclass(frozen=True)
class BalanceConfig:
    by: str = "site"  # column whose values are counted; site, where there is no such column, is the host of `url`
    most_share: Annotated[Fraction, Ge(1e-6)] = 1.0  # of the bytes, that one value may have
    most_documents: Whole = 0  # that one value may have (0: any number)
    targets: dict[str, Fraction] = field(default_factory=dict)  # share of the bytes that a value is to have; the others share the rest as before
    drop: bool = False  # drop documents, instead of giving each a weight for `tokens`
    top: Count = 10_000  # values counted each on its own; rarer ones are left as they are
    workers: Whole = runtime(0)  # processes; 0: one per core

    version: ClassVar[int] = 2
    content: ClassVar[tuple[str, ...]] = (docs.CONTENT,)

    def __post_init__(self) -> None:
        if sum(self.targets.values()) > 1 + 1e-9:
            raise ValueError(f"targets add up to {sum(self.targets.values()):g}; they are shares of one whole")


def weights(sizes: Mapping[str, Size], cfg: BalanceConfig) -> dict[str, float]:
    """What each value's documents are to weigh: targets first, then the bound on documents, then that on the share.

    With `drop` no weight is above 1. ValueError where a target is for no value of the corpus, or no weights reach them or keep the bounds.
    """
    if not sizes:
        raise ValueError("there are no documents to balance")
    for value in cfg.targets:
        if value not in sizes:
            raise ValueError(config.unknown(f"targets: {cfg.by}", value, list(sizes)[:20]))
    total = sum(size for _, size in sizes.values())
    rest = sum(size for value, (_, size) in sizes.items() if value not in cfg.targets)
    if cfg.targets and not rest and sum(cfg.targets.values()) < 1 - 1e-9:
        raise ValueError(f"targets add up to {sum(cfg.targets.values()):g}, and there is no other {cfg.by} to have the rest")
    others = (1 - sum(cfg.targets.values())) * total / rest if cfg.targets and rest else 1.0
    found = {value: cfg.targets[value] * total / size if value in cfg.targets and size else others for value, (_, size) in sizes.items()}
    highest = max(found, key=lambda value: found[value])
    if cfg.drop and found[highest] > 1:
        found = {value: weight / found[highest] for value, weight in found.items()}
    elif found[highest] > MOST:
        raise ValueError(f"targets: {highest} would have to be read {found[highest]:,.0f} times; {MOST:g} is the most")
    for value, (documents, _) in sizes.items():
        if cfg.most_documents and value != OTHER and found[value] * documents > cfg.most_documents:
            found[value] = cfg.most_documents / documents
    most = bound({value: found[value] * size for value, (_, size) in sizes.items()}, cfg.most_share, cfg.by)
    return {v: min(found[v], most / size) if v != OTHER and size else found[v] for v, (_, size) in sizes.items()}


def bound(sizes: Mapping[str, float], share: float, by: str) -> float:
    """The most that one value may have, so that none has more than `share` of what is then there. ValueError where there is no such."""
    ranked = sorted((size for value, size in sizes.items() if value != OTHER), reverse=True)
    rest = sum(sizes.values())
    for cut, size in enumerate(ranked):  # the `cut` largest are cut to a share each, so that what is left is 1 - cut * share of the whole
        most = share * rest / (1 - cut * share)
        if size <= most * (1 + 1e-9):
            return most
        rest -= size
    if not sizes.get(OTHER):
        raise ValueError(f"most_share {share:g} cannot be kept: there are only {len(ranked)} values of {by}, and {len(ranked)} x {share:g} < 1")
    return share * sizes[OTHER] / (1 - len(ranked) * share)


def watched(sizes: Mapping[str, Size], found: Mapping[str, float], cfg: BalanceConfig) -> dict[str, float]:
    """`found` with 0 for the values that dropping keeps whole, and which are far from any bound."""
    near = 0.5 * cfg.most_share * sum(found[value] * size for value, (_, size) in sizes.items())
    return {v: found[v] if found[v] < 1 or (size > near and v != OTHER) else 0.0 for v, (_, size) in sizes.items()}


def lowered(sizes: Mapping[str, Size], found: Mapping[str, float], parts: Mapping[str, list[Size]], cfg: BalanceConfig) -> dict[str, float]:
    """`found` for dropping: lowered, part by part, until the documents that are really kept break no bound.

    `parts[value]`, of each value watched: what the documents with a number (documents.lot) below the value's weight come to, by the
    part of that range in which the number lies, the lowest first.
    """
    cut = {value: len(pieces) for value, pieces in parts.items()}
    while True:
        kept = {v: _added(parts[v][: cut[v]]) if v in parts else (found[v] * n, found[v] * size) for v, (n, size) in sizes.items()}
        most = cfg.most_share * sum(size for _, size in kept.values()) * (1 + 1e-9)
        over = [v for v, (n, size) in kept.items() if v != OTHER and cut.get(v) and (size > most or (cfg.most_documents and n > cfg.most_documents))]
        if not over:
            return {value: weight * (cut[value] / len(parts[value]) if value in parts else 1.0) for value, weight in found.items()}
        for value in over:
            cut[value] -= 1


def _added(sizes: list[Size]) -> Size:
    return sum(n for n, _ in sizes), sum(size for _, size in sizes)


def effective(sizes: Mapping[str, Size]) -> tuple[float, float]:
    """How many equally large values would be as diverse: inverse Simpson 1 / sum p^2, and exp of the entropy (Hill 1973, orders 2 and 1).

    What is beyond `top` counts as one value, so the figures are lower bounds.
    """
    total = sum(size for _, size in sizes.values())
    parts = [size / total for _, size in sizes.values() if size]
    return (1 / sum(part**2 for part in parts), math.exp(-sum(part * math.log(part) for part in parts))) if parts else (0.0, 0.0)
