"""Compare tokenizers on the same documents: tokens by language and domain, numbers, typing errors, dead entries, speed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Interval

from bessemer.core import artifact
from bessemer.core.config import Count, Whole, runtime
from bessemer.eval.tokenization import counts, numbers, page, speed, texts, typos
from bessemer.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenizerReportConfig:
    title: str = "Tokenizers"  # heading of the page
    max_bytes: Count = 10_000_000  # text that is read of each input, about, in whole documents at even distances
    domain: str = ""  # column whose values sort documents into domains; left out: each input is a domain, called by its artifact's name
    language: str = "language"  # column that says which language a document is in; inputs without it count as of none
    translation: str = ""  # column: documents with the same value say the same in different languages; left out: no parity
    reference: str = "en"  # language that the others are compared with in parity
    words: Count = 2000  # words that get typing errors
    numbers: Count = 1000  # numbers drawn of each length of five digits and more; of up to four all are looked at
    seed: Whole = 0
    confidence: Annotated[float, Interval(gt=0, lt=1)] = 0.95  # of the intervals
    rounds: Whole = runtime(5)  # how often encoding is timed; 0: not at all
    timed_bytes: Count = runtime(2_000_000)  # text that is timed, about

    content: ClassVar[tuple[str, ...]] = ("report.json",)  # the page also shows the speed, which no two runs have in common


def tokenizer_report(documents: tuple[Path, ...], tokenizers: tuple[Path, ...], *, out: Path, cfg: TokenizerReportConfig) -> dict[str, float]:
    """Write report.json, report.html and plot.svg; speeds go to run/speed.json. The first tokenizer is what the others are compared with.

    Memory: the texts read, at most `max_bytes` of each input. ValueError where an input, a column or a language is missing.
    """
    if not documents or not tokenizers:
        raise ValueError(f"{'tokenizers' if documents else 'documents'} is empty: name at least one")
    names = artifact.names_of(tokenizers, "tokenizers")
    loaded = {name: Tokenizer.load(path) for name, path in zip(names, tokenizers, strict=True)}
    read = texts.sample(documents, artifact.names_of(documents, "inputs"), cfg.max_bytes, cfg.domain, cfg.language, cfg.translation)
    words = typos.draw(read, cfg.words, cfg.seed)
    found: list[dict[str, Any]] = []
    first: counts.Counts | None = None
    for name, tokenizer in loaded.items():
        counted = counts.count(tokenizer, read, f"tokens {name}")
        first = first or counted
        found.append({"name": name, **_measured(tokenizer, read, words, counted, first, cfg)})
    report = {"confidence": cfg.confidence, "translation": cfg.translation, "reference": cfg.reference, "tokenizers": found}
    artifact.write_json(out / "report.json", report)

    timed: dict[str, Any] = {}
    if cfg.rounds:
        timed = speed.measure(loaded, speed.sample(read, cfg.timed_bytes), cfg.rounds)
        artifact.write_json(out / artifact.RUN / "speed.json", timed)
    shown = {**report, "title": cfg.title, "speed": timed, "samples": page.samples(loaded, read)}
    for file, text in {"report.html": page.render(shown), "plot.svg": page.plot(found)}.items():
        with artifact.atomic(out / file) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")
    return _numbers(found)


def _measured(
    tokenizer: Tokenizer,
    read: list[texts.Text],
    words: list[dict[str, str]],
    counted: counts.Counts,
    first: counts.Counts,
    cfg: TokenizerReportConfig,
) -> dict[str, Any]:
    """Everything that is known of one tokenizer."""
    return {
        **counts.summary(tokenizer, counted, first, cfg.confidence),
        "groups": counts.groups(read, counted, cfg.confidence),
        "parity": counts.parity(read, counted, cfg.reference, cfg.confidence) if cfg.translation else {},
        "numbers": numbers.measure(tokenizer, cfg.numbers, cfg.seed, cfg.confidence),
        "typos": typos.measure(tokenizer, words, cfg.confidence),
    }


def _numbers(found: list[dict[str, Any]]) -> dict[str, float]:
    """The main figures of each tokenizer for the manifest."""
    numbers: dict[str, float] = {}
    for row in found:
        whole = row["groups"][0]  # all texts
        for name in ("bytes_per_token", "tokens_per_word"):
            if whole[name]:
                numbers[f"{row['name']}: {name}"] = whole[name]["value"]
        numbers |= {f"{row['name']}: {name}": row[name] for name in ("vocab", "dead", "renyi")}
    return numbers
