"""Several domains in chosen shares: which row of the training comes from which, a pure function of the step.

Shares come from weights, or from sizes and a temperature. A cap on the epochs of a domain hands what exceeds it to the others. The
last part of the training may have a mix of its own (annealing), and takes what it needs before the rest is shared out.
"""

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

import numpy as np
from annotated_types import Ge, Lt

from bessemer.core import config
from bessemer.core.config import Fraction, Positive
from bessemer.data import order, tokens
from bessemer.data.tokens import Batch, TokenFile

Weight = Annotated[float, Ge(0.0), Lt(math.inf)]


@dataclass(frozen=True)
class MixConfig:
    weights: dict[str, Weight] = field(default_factory=dict)  # share of the rows that each domain gets, relative to the others; empty: by size
    temperature: Positive = 1.0  # without weights, the share is size^(1/temperature): 1 as the corpus has it, large all alike
    max_epochs: Weight = 0.0  # times a domain is read at most; what it would get beyond that goes to the others (0: no cap)
    anneal: dict[str, Weight] = field(default_factory=dict)  # weights in the last part of the training; empty: no such part
    anneal_share: Fraction | None = None  # how long that part is, as a share of the steps; left out: while the learning rate falls

    def __post_init__(self) -> None:
        for name in ("weights", "anneal"):
            given = getattr(self, name)
            if given and not sum(given.values()):
                raise ValueError(f"all of {name} are 0 ({', '.join(given)}): give one domain more")
        if self.weights and self.temperature != 1:
            raise ValueError(f"temperature {self.temperature:g} shares by size, and weights are given too: leave one of them out")


def check(cfg: MixConfig, known: Sequence[str]) -> None:
    """ValueError where the mix names a domain that is not among `known`."""
    for name in ("weights", "anneal"):
        for domain in getattr(cfg, name):
            if domain not in known:
                raise ValueError(config.unknown(f"mix.{name}", domain, list(known)))


@dataclass(frozen=True)
class Phase:
    """A part of the training with one mix. Counts are rows, by domain."""

    name: str
    begin: int  # rows of the training before it
    rows: tuple[int, ...]
    before: tuple[int, ...]  # what earlier phases took

    @property
    def total(self) -> int:
        return sum(self.rows)

    @cached_property
    def edges(self) -> list[int]:
        return [0, *np.cumsum(self.rows, dtype=object).tolist()]

    @cached_property
    def stride(self) -> int:
        """A number prime to the total, near total / golden ratio: steps of this size meet every place once, and spread evenly at any time.

        How evenly is a matter of the largest partial quotient of stride / total (Niederreiter 1992, chapter 3): the smallest is taken.
        """
        ideal = round(self.total * (math.sqrt(5) - 1) / 2)
        near = (n for n in range(max(1, ideal - 100), ideal + 101) if math.gcd(n, self.total) == 1)
        return min(near, key=lambda n: (max(_quotients(n, self.total)), abs(n - ideal)))


def phases(cfg: MixConfig, sizes: Mapping[str, int], steps: int, batch: int, context: int, decay: float) -> list[Phase]:
    """The training as one phase, or two. `sizes`: rows of `context` tokens that each domain holds; `decay`: anneal_share's default.

    ValueError where a mix names a domain that is unknown or empty, or cannot be filled under the cap.
    """
    check(cfg, list(sizes))
    largest = max(sizes.values())
    if not largest:
        raise ValueError(f"no domain fills one row of {context} tokens ({', '.join(sizes)}): lower context or add documents")
    share = (decay if cfg.anneal_share is None else cfg.anneal_share) if cfg.anneal else 0.0
    last = math.floor(share * steps + 1e-9) * batch
    room = [math.floor(cfg.max_epochs * size) if cfg.max_epochs else steps * batch * (size > 0) for size in sizes.values()]
    # Annealing comes last and takes first: the best text is few, and is meant for it.
    late = _allotted("anneal", cfg.anneal, sizes, room, last, cfg, context)
    main = cfg.weights or {name: (size / largest) ** (1 / cfg.temperature) for name, size in sizes.items()}
    room = [a - b for a, b in zip(room, late, strict=True)]
    early = _allotted("weights", main, sizes, room, steps * batch - last, cfg, context)
    both = [Phase("main", 0, tuple(early), (0,) * len(sizes)), Phase("anneal", steps * batch - last, tuple(late), tuple(early))]
    return [phase for phase in both if phase.total]


def _allotted(
    mix: str, given: Mapping[str, float], sizes: Mapping[str, int], room: Sequence[int], rows: int, cfg: MixConfig, context: int
) -> list[int]:
    """`rows` rows shared out by the weights of `given`, in the order of `sizes`. ValueError where they do not fit."""
    weights = [given.get(name, 0.0) for name in sizes]
    if rows and (empty := [name for name, size in sizes.items() if given.get(name) and not size]):
        raise ValueError(f"mix.{mix}: {', '.join(empty)} does not fill one row of {context} tokens: lower context or leave it out")
    if rows > (most := sum(free for free, weight in zip(room, weights, strict=True) if weight)):
        names = ", ".join(name for name, weight in zip(sizes, weights, strict=True) if weight)
        raise ValueError(
            f"mix.{mix}: {rows * context:,} tokens are wanted, and {names} give {most * context:,} in {cfg.max_epochs:g} epochs: "
            "raise max_epochs, lower steps, or give another domain a weight"
        )
    return allot(weights, room, rows)


def allot(weights: Sequence[float], room: Sequence[int], rows: int) -> list[int]:
    """`rows` whole rows in proportion to the weights, none above its room; what does not fit goes to the others, and again.

    The cap: Muennighoff et al. 2023 (up to four epochs are worth nearly as much as new text); handing on what exceeds it: UniMax,
    Chung et al. 2023. Rounding: largest remainder.
    """
    assert rows <= sum(free for free, weight in zip(room, weights, strict=True) if weight)
    found, left = [0] * len(weights), rows
    below = {i: weight for i, weight in enumerate(weights) if weight}
    while left and (full := [i for i, weight in below.items() if left * weight / sum(below.values()) >= room[i]]):
        for i in full:
            found[i] = room[i]
            del below[i]
        left = rows - sum(found)
    ideal = {i: left * weight / sum(below.values()) for i, weight in below.items()}
    for i, value in ideal.items():
        found[i] = math.floor(value)
    short = rows - sum(found)
    for i in sorted(ideal, key=lambda i: (found[i] - ideal[i], i))[:short]:
        found[i] += 1
    return found


def numbers(parts: Sequence[Phase], sizes: Mapping[str, int]) -> dict[str, float]:
    """Rows of each domain in each phase, and its epochs in all, under names for a manifest."""
    found: dict[str, float] = {}
    for i, (name, size) in enumerate(sizes.items()):
        found |= {f"{name}: {phase.name} rows": phase.rows[i] for phase in parts}
        found[f"{name}: epochs"] = round(sum(phase.rows[i] for phase in parts) / max(size, 1), 3)
    return found


class Mixture:
    """Source of next-token rows from several domains. A batch is that of `tokens.read`.

    Row r of a phase of N rows is at place r * stride mod N, and each domain owns as many places in a row as it has rows. So the shares
    hold exactly over the phase, within three rows in any batch of 32, and how many rows of a domain came before r is a sum in closed
    form. The k-th row of a domain is window k of its own shuffled sequence: none is read twice before all were read once.
    """

    def __init__(self, files: Mapping[str, TokenFile], sizes: Mapping[str, int], parts: Sequence[Phase], context: int, batch: int, seed: int):
        """`parts`: the phases that were made of these `sizes`. A domain of size 0 needs no file."""
        self.files = [files[name] if size else None for name, size in sizes.items()]
        self.sizes = np.array(list(sizes.values()))
        self.phases, self.context, self.batch, self.seed = parts, context, batch, seed

    def __call__(self, step: int) -> Batch:
        return tokens.read(self.places(step), self.context)

    def documents_at(self, step: int) -> list[str]:
        """The documents that step `step` reads: a lookup, no log."""
        return tokens.documents(self.places(step), self.context)

    def places(self, step: int) -> list[tuple[TokenFile, int]]:
        """The token file and the position in it of each row of a step."""
        domains, windows = self.rows(step)
        pairs = zip(domains.tolist(), windows.tolist(), strict=True)
        return [(file, window * self.context) for domain, window in pairs if (file := self.files[domain])]

    def rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Domain and window of each row of a step, (B,) int64 each."""
        phase = next(phase for phase in reversed(self.phases) if phase.begin <= step * self.batch)
        done = step * self.batch - phase.begin
        at = (phase.stride * done % phase.total + phase.stride * np.arange(self.batch)) % phase.total
        domains = np.searchsorted(phase.edges[1:], at, side="right")
        before = np.diff([below(edge, done, phase.stride, phase.total) for edge in phase.edges]) + phase.before
        sequence = np.argsort(domains, kind="stable")
        rank = np.empty_like(domains)  # the how manieth of its domain each row is within the step
        rank[sequence] = np.arange(self.batch) - np.searchsorted(domains[sequence], domains[sequence])
        return domains, order.shuffled(before[domains] + rank, self.sizes[domains], self.seed)

    def rows_of(self, domain: int, windows: np.ndarray) -> list[tuple[int, int]]:
        """`rows` the other way round: (row, window) wherever the training reads one of these windows (n,) of a domain, in order.

        Rows are numbered through the training: row r is in step r // batch.
        """
        taken, size = sum(phase.rows[domain] for phase in self.phases), int(self.sizes[domain])
        found: list[tuple[int, int]] = []
        for epoch in range(-(-taken // max(size, 1))):
            places = order.places_of(windows, size, epoch, self.seed)
            found += [(self._row_of(domain, place), window) for place, window in zip(places.tolist(), windows.tolist(), strict=True) if place < taken]
        return sorted(found)

    def _row_of(self, domain: int, place: int) -> int:
        """The row that reads this place of a domain's sequence: with it, the domain's rows become more than come before the place."""
        phase = next(phase for phase in reversed(self.phases) if phase.before[domain] <= place and phase.rows[domain])
        low, high = phase.edges[domain : domain + 2]

        def read(row: int) -> int:
            return below(high, row + 1, phase.stride, phase.total) - below(low, row + 1, phase.stride, phase.total)

        return phase.begin + bisect.bisect_right(range(phase.total), place - phase.before[domain], key=read)


def below(edge: int, rows: int, stride: int, total: int) -> int:
    """How many of r = 0 .. rows - 1 have r * stride mod total < edge."""
    return _floors(rows, stride, total, total) - _floors(rows, stride, total - edge, total)


def _quotients(a: int, b: int) -> list[int]:
    """The partial quotients of the continued fraction of a / b, after the whole part."""
    found = [0]
    a %= b
    while a:
        found.append(b // a)
        a, b = b % a, a
    return found


def _floors(n: int, a: int, b: int, m: int) -> int:
    """Sum of floor((a * i + b) / m) over i = 0 .. n - 1, in O(log m) steps, as Euclid's algorithm (Concrete Mathematics, section 3.5)."""
    total = 0
    while n:
        total += n * (n - 1) // 2 * (a // m) + n * (b // m)
        top = a % m * n + b % m
        n, a, b, m = top // m, m, top % m, a % m
    return total
