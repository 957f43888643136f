"""The filters: named sets of rules with the bounds of their papers, presets of sets, and what happens to a document.

A rule is called `set.min_x` or `set.max_x`: it measures x and refuses a document below or above its bound. The name is the reason that
refused documents carry, and the key by which a config gives another bound.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import ClassVar, Literal, NamedTuple

from bessemer.core.config import Whole, runtime, unknown
from bessemer.corpus import documents
from bessemer.corpus.documents import Row
from bessemer.corpus.each import Batch
from bessemer.corpus.filters import c4, code, fineweb, gopher, readable
from bessemer.corpus.filters.page import Page
from bessemer.corpus.filters.table import Table

Measure = Callable[[Page, Mapping[str, float]], Iterator[tuple[str, float]]]
Bounds = dict[str, dict[str, float]]  # set -> rule -> bound


class Rules(NamedTuple):
    """A set of rules: what measures them one after the other, and their bounds."""

    measure: Measure
    bounds: Mapping[str, float]


SETS = {
    "readable": Rules(readable.readable, readable.BOUNDS),
    "gopher_repetition": Rules(gopher.repetition, gopher.REPETITION),
    "gopher_quality": Rules(gopher.quality, gopher.QUALITY),
    "c4": Rules(c4.c4, c4.BOUNDS),
    "fineweb": Rules(fineweb.fineweb, fineweb.BOUNDS),
    "code": Rules(code.code, code.BOUNDS),
}

# Sets in their order, and the bounds that differ from the papers'. The papers' are for prose of the open web: they throw away four fifths of
# technical documentation, with its signatures, tables and lists.
PRESETS: dict[str, tuple[tuple[str, ...], dict[str, float]]] = {
    "web": (("gopher_repetition", "gopher_quality", "c4", "fineweb"), {"c4.min_end_marks": 0}),
    "documentation": (
        ("readable", "gopher_quality", "gopher_repetition"),
        {
            "gopher_quality.min_words": 20,
            "gopher_quality.max_words": 1_000_000,
            "gopher_quality.min_mean_word": 2,
            "gopher_quality.max_mean_word": 25,  # a.dotted.name is one word
            "gopher_quality.max_hashes": 0.3,
            "gopher_quality.max_ellipses": 0.3,
            "gopher_quality.max_bullet_lines": 0.95,
            "gopher_quality.max_ellipsis_lines": 0.5,
            "gopher_quality.min_alphabetic": 0.3,
            "gopher_quality.min_stop_words": 0,
            "gopher_repetition.max_repeated_paragraphs": 0.6,
            "gopher_repetition.max_repeated_paragraph_text": 0.6,
            "gopher_repetition.max_repeated_lines": 0.6,
            "gopher_repetition.max_repeated_line_text": 0.6,
            **{f"gopher_repetition.max_top_{n}_gram": 0.5 for n in (2, 3, 4)},
            **{f"gopher_repetition.max_repeated_{n}_grams": 0.7 for n in (5, 6, 7, 8, 9, 10)},
        },
    ),
    "code": (("readable", "code"), {"readable.max_notices": 1}),
}


@dataclass(frozen=True)
class FilterConfig:
    """What a document must be to stay."""

    preset: Literal["web", "documentation", "code"] = "web"  # web: as FineWeb did; documentation: lenient bounds; code: source files
    # sets to apply instead, in order, with their papers' bounds: readable, gopher_repetition, gopher_quality, c4, fineweb, code
    rules: tuple[str, ...] = ()
    bounds: dict[str, float] = field(default_factory=dict)  # other bounds, by the rule's name: {"gopher_quality.min_words" = 30}; inf: none
    all_rules: bool = False  # go on after the first broken rule, and count for each rule how many documents break it
    workers: Whole = runtime(0)  # processes; 0: one per core

    version: ClassVar[int] = 2
    content: ClassVar[tuple[str, ...]] = (documents.CONTENT,)

    def __post_init__(self) -> None:
        for name in self.rules:
            if name not in SETS:
                raise ValueError(unknown("rules", name, list(SETS)))
        known = [f"{name}.{rule}" for name, rules in bounds_of(self).items() for rule in rules]
        for name in self.bounds:
            if name not in known:
                raise ValueError(unknown("bounds", name, known))


def bounds_of(cfg: FilterConfig) -> Bounds:
    """The sets that a config asks for, in order, with the bounds that hold."""
    sets, changed = (cfg.rules, {}) if cfg.rules else PRESETS[cfg.preset]
    changed = changed | cfg.bounds
    return {name: {rule: changed.get(f"{name}.{rule}", bound) for rule, bound in SETS[name].bounds.items()} for name in sets}


def broken(page: Page, bounds: Bounds) -> Iterator[tuple[str, float, float]]:
    """(rule, measured value, bound) of each rule that the page breaks, in order; edits the page where a set edits lines."""
    for name, bound in bounds.items():
        for rule, value in SETS[name].measure(page, bound):
            if value < bound[rule] if rule.startswith("min") else value > bound[rule]:
                yield f"{name}.{rule}", value, bound[rule]


def described(rule: str, value: float, bound: float) -> str:
    return f"{rule} {value:.4g} {'<' if '.min_' in rule else '>'} {bound:g}"


def prepare(cfg: FilterConfig) -> Batch:
    """What the stage does to a batch: the reason of a refused document, the column `words`, and the lines that rules took from a kept one."""
    bounds, table = bounds_of(cfg), Table()

    def work(rows: list[Row]) -> list[Row]:
        for row in rows:
            page = Page(row["text"], table, row.get("title") or "")
            row["words"] = page.plain
            if not row["text"].strip():
                row |= {"reason": "empty", "detail": "no text"}
            elif found := list(islice(broken(page, bounds), None if cfg.all_rules else 1)):
                rule, value, bound = found[0]
                row |= {"reason": rule, "detail": "; ".join(described(*each) for each in found), "value": float(value), "bound": float(bound)}
            elif not page.text.strip():
                row |= {"reason": "empty", "detail": "the rules took every line"}
            else:
                row |= {"text": page.text, "words": page.plain, "lines_removed": page.lines_removed}
        return rows

    return work


def rules_in(detail: str) -> list[str]:
    """The rules that a refused document's `detail` names; none where it was refused for something else."""
    names = [said.split(" ")[0] for said in detail.split("; ")]
    return [name for name in names if name.split(".")[0] in SETS]
