"""The report on tokenizers as one HTML page that opens offline, and as one plot."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from bessemer.eval import exhibits, figures
from bessemer.eval.tokenization.texts import Text
from bessemer.tokenizer.tokenizer import Tokenizer

Row = dict[str, Any]
SAMPLE = 120  # characters of a domain's text shown in tokens
SAMPLES = 6  # domains shown so
# What the page's variables are where a figure stands alone.
COLOURS = ":root{--ink:#23211e;--line:#e4dfd6;--s1:#8b8f96;--s2:#2b708f;--s3:#c9581f;--s4:#5a8a3c;--s5:#7d5a9e;--s6:#a4822b;--sans:sans-serif}"


def render(report: Row) -> str:
    """`report` is report.json with `title`, `speed` and `samples`. Whatever came from documents is escaped."""
    tokenizers = report["tokenizers"]
    typos = tokenizers[0]["typos"]
    page = {
        **report,
        "whole": tokenizers[0]["groups"][0],
        "domains": _grid(tokenizers, "domain"),
        "languages": _grid(tokenizers, "language"),
        "parity": [(language, [row["parity"].get(language) for row in tokenizers]) for language in tokenizers[0]["parity"]],
        "parity_spread": _parity_spread(tokenizers),
        "typos": typos,
        "overview": [{"label": "bytes per token", "note": "on all texts; more is better", "svg": _bytes_per_token(tokenizers, "bytes")}],
        "parity_figure": _parity(tokenizers),
        "number_figures": _numbers(tokenizers),
        "typo_figures": _typos(tokenizers) if typos else [],
    }
    environment = Environment(
        loader=PackageLoader("bessemer.eval", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = exhibits.number
    environment.filters["pattern"] = pattern
    return environment.get_template("tokenization/page.html").render(page)


def pattern(lengths: str) -> str:
    """1+1+1+1 as 4×1: long runs of one length in short."""
    runs = [(length, len(list(run))) for length, run in itertools.groupby(lengths.split("+"))]
    return "+".join(f"{count}×{length}" if count > 2 else "+".join([length] * count) for length, count in runs)


def plot(tokenizers: Sequence[Row]) -> str:
    """Bytes per token as an SVG file of its own: by kind over the vocabulary where there are several sizes, else tokenizer by tokenizer."""
    svg = str(_bytes_per_token(tokenizers, "plot"))
    begin = svg.index(">", svg.index("<svg")) + 1
    return f"{svg[:begin]}<style>{COLOURS}svg{{background:#fff}}</style>{svg[begin:]}"


def samples(tokenizers: Mapping[str, Tokenizer], texts: Sequence[Text]) -> list[Row]:
    """The first line of some length of each domain, as each tokenizer cuts it."""
    found: dict[str, str] = {}
    for text in texts:
        lines = [line.strip() for line in text.text.splitlines()]
        if text.domain not in found and (line := next((line for line in lines if len(line) >= SAMPLE / 2), "")):
            found[text.domain] = line[:SAMPLE]
    return [
        {"domain": domain, "rows": [{"name": name, "pieces": _pieces(tokenizer, line)} for name, tokenizer in tokenizers.items()]}
        for domain, line in itertools.islice(sorted(found.items()), SAMPLES)
    ]


def _pieces(tokenizer: Tokenizer, line: str) -> list[str]:
    return [tokenizer.decode([i], skip_special=False) for i in tokenizer.encode(line)]


def _grid(tokenizers: Sequence[Row], by: str) -> list[list[Row]]:
    """For each group its row of every tokenizer."""
    return [list(rows) for rows in zip(*([row for row in one["groups"] if row["by"] == by] for one in tokenizers), strict=True)]


def _parity_spread(tokenizers: Sequence[Row]) -> list[Row]:
    found = []
    for row in tokenizers:
        ranked = sorted((estimate["value"], language) for language, estimate in row["parity"].items())
        if ranked:
            marks = [ranked[round(share * (len(ranked) - 1))] for share in (0.0, 0.5, 0.9, 1.0)]
            found.append({"name": row["name"], "languages": len(ranked), "marks": marks})
    return found


def _bytes_per_token(tokenizers: Sequence[Row], name: str) -> Any:
    if len({row["vocab"] for row in tokenizers}) > 1:
        lines: dict[str, tuple[list[float], list[float]]] = {}
        for row in sorted(tokenizers, key=lambda row: row["vocab"]):
            entries, values = lines.setdefault(row["kind"], ([], []))
            entries.append(row["vocab"])
            values.append(row["groups"][0]["bytes_per_token"]["value"])
        return figures.curves(lines, name, "entries")
    return figures.whiskers({row["name"]: _interval(row["groups"][0]["bytes_per_token"]) for row in tokenizers}, name)


def _parity(tokenizers: Sequence[Row]) -> list[Row]:
    values = {row["name"]: sorted(estimate["value"] for estimate in row["parity"].values()) for row in tokenizers}
    lines = {name: (range(1, len(own) + 1), own) for name, own in values.items() if own}
    svg = figures.curves(lines, "parity", "languages, fairest first", from_zero=True) if lines else ""
    return [{"label": "parity", "note": "tokens over those of the reference language", "svg": svg}] if lines else []


def _numbers(tokenizers: Sequence[Row]) -> list[Row]:
    digits = [row["digits"] for row in tokenizers[0]["numbers"]["lengths"]]
    shares = {one["name"]: (digits, [row["share"]["value"] for row in one["numbers"]["lengths"]]) for one in tokenizers}
    tokens = {one["name"]: (digits, [row["tokens"] for row in one["numbers"]["lengths"]]) for one in tokenizers}
    return [
        {"label": "numbers cut alike", "note": "share of the commonest split, by digits", "svg": figures.curves(shares, "alike", "digits", True)},
        {"label": "tokens per number", "note": "by digits", "svg": figures.curves(tokens, "number-tokens", "digits", True)},
    ]


def _typos(tokenizers: Sequence[Row]) -> list[Row]:
    found = []
    for measure, note in (
        ("growth", "more tokens, as a share; less is better"),
        ("changed", "tokens of the right word that are lost; less is better"),
    ):
        rows = {one["name"]: _interval(one["typos"]["all"][measure]) for one in tokenizers}
        found.append({"label": measure, "note": note, "svg": figures.whiskers(rows, f"typo-{measure}")})
    return found


def _interval(estimate: Row) -> figures.Interval:
    return estimate["value"], estimate["low"], estimate["high"]
