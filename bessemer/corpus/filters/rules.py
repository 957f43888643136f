"""Rules that tell text from noise: each measures one number on a document and has a bound for it.

After Gopher (Rae et al. 2021, A.1.1), C4 (Raffel et al. 2020, 2.2) and FineWeb (Penedo et al. 2024). Their bounds are for prose
of the open web and throw away four fifths of technical documentation, with its signatures, tables and lists; the defaults
here keep it. Where the original bound differs, the comment behind the field gives it.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from bessemer.core.config import Count, Fraction, Whole, runtime
from bessemer.corpus import documents
from bessemer.corpus.documents import Row
from bessemer.corpus.each import Batch

WORD = re.compile(r"\w\S*\w|\w")
# Invisible, and no part of any spelling: zero-width space, direction marks, word joiner, byte order mark, soft hyphen.
INVISIBLE = re.compile("[\u200b\u200e\u200f\u2060\ufeff\u00ad\u202a-\u202e]")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
BREAK = re.compile("\r\n?|[\u2028\u2029\x85]")
UNREADABLE = re.compile("[\ufffd\ue000-\uf8ff\x00-\x08\x0e-\x1f\x7f-\x9f]")
NOTICE = re.compile(
    r"lorem ipsum|(enable|requires?|without|turn on) javascript|javascript (is|must be|has been)? ?(disabled|enabled|required|not)"
    r"|(accept|use[sd]?|about) (all )?cookies|cookie policy|terms of (use|service)|privacy policy|all rights reserved"
)
NOTICE_WORDS = ("lorem ipsum", "javascript", "cookie", "terms of", "privacy policy", "rights reserved")  # one is in each notice
ERROR_PAGE = re.compile(
    r"^\W*(error\W*)?(400|401|403|404|405|410|429|500|502|503|504)\b(?!\W*\d)|(page|file|url|document) (was )?not found|access (is )?denied"
    r"|^\W*forbidden\b|internal server error|service unavailable|bad gateway|too many requests|^\W*not found\b",
    re.IGNORECASE,
)
ERROR_WORDS = 150  # a page with more words than this is about errors, not one itself
GRAM = 10  # words


@dataclass(frozen=True)
class CleanConfig:
    """The bounds of each rule. A document outside of any is refused, and kept in rejected/ with the rule and its measure."""

    max_unreadable: Fraction = 0.01  # share of characters that are no text: controls, replacement and private-use characters
    max_error_page: Fraction = 0.0  # 1 where title or first line say that the page is an error message
    min_words: Whole = 20  # Gopher: 50
    max_words: Count = 1_000_000  # Gopher: 100 000
    max_notices: Fraction = 0.2  # share of lines with placeholder text, JavaScript, cookie or legal notices; C4: 0
    min_mean_word: float = 2.0  # letters in a word, on average; Gopher: 3
    max_mean_word: float = 25.0  # Gopher: 10; a.dotted.name is one word
    min_alphabetic: Fraction = 0.4  # share of words with a letter in them; Gopher: 0.8, of words and symbols
    max_symbols: Fraction = 0.3  # number signs and ellipses per word; Gopher: 0.1
    max_bullets: Fraction = 0.95  # share of lines that start with a bullet; Gopher: 0.9
    max_ellipses: Fraction = 0.5  # share of lines that end with an ellipsis; Gopher: 0.3
    max_repeated_lines: Fraction = 0.6  # share of lines that stand in the document before; Gopher: 0.3
    max_repeated_text: Fraction = 0.6  # share of characters in such lines; Gopher: 0.2
    max_repeated_grams: Fraction = 0.7  # share of 10-word sequences that stand in the document before
    workers: Whole = runtime(0)  # processes; 0: one per core

    content: ClassVar[tuple[str, ...]] = (documents.CONTENT,)


@dataclass(frozen=True)
class Document:
    """A document as the rules see it."""

    title: str
    raw: str  # before `normalised`
    text: str  # after

    @cached_property
    def words(self) -> list[str]:
        return WORD.findall(self.text)

    @cached_property
    def lines(self) -> list[str]:
        return [stripped for line in self.text.split("\n") if (stripped := line.strip())]


def normalised(text: str) -> str:
    """Composed characters (NFC), plain line ends, no control or invisible characters, no trailing space. Spelling is kept."""
    text = CONTROL.sub("", BREAK.sub("\n", text))
    if not text.isascii():
        text = INVISIBLE.sub("", unicodedata.normalize("NFC", text)).replace("\xa0", " ")
    return "\n".join(map(str.rstrip, text.split("\n"))).strip("\n")


def unreadable(d: Document) -> float:
    return len(UNREADABLE.findall(d.raw)) / max(len(d.raw), 1)


def error_page(d: Document) -> float:
    if len(d.words) > ERROR_WORDS:
        return 0.0
    return float(any(ERROR_PAGE.search(line) for line in (d.title, *d.lines[:2])))


def words(d: Document) -> float:
    return len(d.words)


def notices(d: Document) -> float:
    lower = d.text.lower()
    if not any(word in lower for word in NOTICE_WORDS):  # fifty times faster than the search, and true of most documents
        return 0.0
    return sum(bool(NOTICE.search(line)) for line in lower.split("\n")) / len(d.lines)


def mean_word(d: Document) -> float:
    return sum(map(len, d.words)) / max(len(d.words), 1)


def alphabetic(d: Document) -> float:
    return sum(word.isalpha() or any(map(str.isalpha, word)) for word in d.words) / max(len(d.words), 1)


def symbols(d: Document) -> float:
    return (d.text.count("#") + d.text.count("...") + d.text.count("…")) / max(len(d.words), 1)


def bullets(d: Document) -> float:
    return sum(line.startswith(("•", "‣", "◦", "- ", "* ")) for line in d.lines) / max(len(d.lines), 1)


def ellipses(d: Document) -> float:
    return sum(line.endswith(("...", "…")) for line in d.lines) / max(len(d.lines), 1)


def repeated_lines(d: Document) -> float:
    return (len(d.lines) - len(set(d.lines))) / max(len(d.lines), 1)


def repeated_text(d: Document) -> float:
    total = sum(map(len, d.lines))
    return (total - sum(map(len, set(d.lines)))) / max(total, 1)


def repeated_grams(d: Document) -> float:
    if len(d.words) < 2 * GRAM:
        return 0.0
    numbers: dict[str, int] = {}
    ids = np.fromiter((numbers.setdefault(word, len(numbers)) for word in d.words), np.uint64, len(d.words))
    grams = np.zeros(len(ids) - GRAM + 1, np.uint64)
    for k in range(GRAM):  # a polynomial hash modulo 2^64: two sequences collide once in 10^19 pairs
        grams = grams * np.uint64(0x9E3779B97F4A7C15) + ids[k : len(ids) - GRAM + 1 + k] + np.uint64(1)
    return 1 - len(np.unique(grams)) / len(grams)


# In this order; the first that a document breaks is its reason. A rule's bounds are the fields called min_ and max_ and its name.
MEASURES: tuple[Callable[[Document], float], ...] = (
    *(unreadable, error_page, words, notices, mean_word, alphabetic, symbols),
    *(bullets, ellipses, repeated_lines, repeated_text, repeated_grams),
)


def broken(document: Document, cfg: CleanConfig) -> tuple[str, float, float] | None:
    """(field of the bound, measured value, bound) of the first rule that the document breaks, or None."""
    for measure in MEASURES:
        name, value = measure.__name__, measure(document)
        low, high = getattr(cfg, f"min_{name}", None), getattr(cfg, f"max_{name}", None)
        if low is not None and value < low:
            return f"min_{name}", value, low
        if high is not None and value > high:
            return f"max_{name}", value, high
    return None


def cleaner(cfg: CleanConfig) -> Batch:
    """What the stage does to a batch of documents; adds the column `words`."""

    def clean(rows: list[Row]) -> list[Row]:
        for row in rows:
            document = Document(row.get("title") or "", row["text"], normalised(row["text"]))
            row["words"] = len(document.words)
            if found := broken(document, cfg):
                reason, value, bound = found
                detail = f"{value:.4g} {'<' if reason.startswith('min') else '>'} {bound:g}"
                row |= {"reason": reason, "detail": detail, "value": float(value), "bound": float(bound)}
            else:
                row["text"] = document.text
        return rows

    return clean
