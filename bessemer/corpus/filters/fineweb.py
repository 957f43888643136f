"""FineWeb's own rules, found by ablation on Common Crawl (Penedo et al. 2024, 3.6)."""

from collections.abc import Iterator, Mapping

from bessemer.corpus.filters.page import Page
from bessemer.corpus.filters.words import TERMINAL

BOUNDS = {
    "min_punctuated_lines": 0.12,  # share of lines that end a sentence
    "max_short_lines": 0.67,  # share of lines of at most 30 characters
    "max_repeated_text": 0.01,  # share of characters in lines that stand in the document before
    "max_newlines": 0.3,  # per word or mark: a list
}
SHORT = 30


def fineweb(page: Page, _: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Lists, menus and pages put together of repeated lines."""
    lines = [line for line in page.text.split("\n") if line.strip()]
    total = max(len(lines), 1)
    yield "min_punctuated_lines", sum(line.endswith(TERMINAL) for line in lines) / total
    yield "max_short_lines", sum(len(line) <= SHORT for line in lines) / total
    newlines = page.text.count("\n")
    repeated = sum(map(len, lines)) - sum(map(len, set(lines)))
    yield "max_repeated_text", repeated / max(len(page.text) - newlines, 1)
    yield "max_newlines", newlines / max(len(page.words), 1)
