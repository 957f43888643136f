"""Gopher's rules (Rae et al. 2021, A.1.1, table A1): quality, and repetition within a document.

As datatrove reads them: a word is a word or a mark, except where words are counted and measured; number signs and ellipses have
a share each; shares of characters are of the whole text.
"""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from bessemer.corpus.filters import grams
from bessemer.corpus.filters.page import Page
from bessemer.corpus.filters.words import LETTERS, PLAIN, STOP

QUALITY = {
    "min_words": 50,
    "max_words": 100_000,
    "min_mean_word": 3,  # characters
    "max_mean_word": 10,
    "max_hashes": 0.1,  # number signs per word or mark
    "max_ellipses": 0.1,
    "max_bullet_lines": 0.9,
    "max_ellipsis_lines": 0.3,
    "min_alphabetic": 0.8,  # share of words and marks with a letter
    "min_stop_words": 2,  # different ones of the eight
}

REPETITION = {
    "max_repeated_paragraphs": 0.3,
    "max_repeated_paragraph_text": 0.2,  # share of characters, as all below but lines
    "max_repeated_lines": 0.3,
    "max_repeated_line_text": 0.2,
    "max_top_2_gram": 0.2,
    "max_top_3_gram": 0.18,
    "max_top_4_gram": 0.16,
    "max_repeated_5_grams": 0.15,
    "max_repeated_6_grams": 0.14,
    "max_repeated_7_grams": 0.13,
    "max_repeated_8_grams": 0.12,
    "max_repeated_9_grams": 0.11,
    "max_repeated_10_grams": 0.1,
}

PARAGRAPH = re.compile("\n\n+")
BULLETS, ELLIPSES = ("•", "-"), ("...", "…")


def quality(page: Page, _: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Length, shape of words and lines, and the stop words of English prose."""
    words, text = page.words, page.text
    total = max(len(words), 1)
    yield "min_words", page.plain
    yield "max_words", page.plain
    mean = float(words.lengths[(words.bits & PLAIN) != 0].sum()) / max(page.plain, 1)
    yield "min_mean_word", mean
    yield "max_mean_word", mean
    yield "max_hashes", text.count("#") / total
    ellipses = text.count("...") + text.count("…")
    yield "max_ellipses", ellipses / total
    lines = text.splitlines()
    yield "max_bullet_lines", sum(line.lstrip().startswith(BULLETS) for line in lines) / max(len(lines), 1)
    yield "max_ellipsis_lines", sum(line.rstrip().endswith(ELLIPSES) for line in lines) / max(len(lines), 1) if ellipses else 0.0
    yield "min_alphabetic", words.share(LETTERS)
    yield "min_stop_words", int(np.bitwise_or.reduce(words.bits) >> STOP).bit_count() if len(words) else 0


def repetition(page: Page, bound: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Paragraphs, lines and sequences of words that come again. A share of sequences that cannot exceed its bound is given as an upper bound."""
    text = page.text
    size = max(len(text), 1)
    paragraphs = PARAGRAPH.split(text.strip())
    for name, parts in (("paragraph", paragraphs), ("line", [line for line in text.split("\n") if line])):
        different = set(parts)
        some = len(different) < len(parts)
        yield f"max_repeated_{name}s", (len(parts) - len(different)) / max(len(parts), 1)
        yield f"max_repeated_{name}_text", (sum(map(len, parts)) - sum(map(len, different))) / size if some else 0.0
    words = page.words
    most = len(words)
    for n in (2, 3, 4):
        name = f"max_top_{n}_gram"
        characters, most = grams.top(words, n, bound[name] * size, most)
        yield name, characters / size
    share = float("inf")
    for n in (5, 6, 7, 8, 9, 10):
        name = f"max_repeated_{n}_grams"
        if share > bound[name]:
            share = grams.repeated_at_most(words, n) / size
        yield name, share if share <= bound[name] else grams.repeated(words, n) / size
