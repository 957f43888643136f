"""What an answer claims, and whether two answers to one prompt can both be right.

Only closed answers can contradict each other: yes or no, a number, the letter of an option, a few words. Two poems cannot.
"""

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from bessemer.corpus.ambiguity.prompts import NEGATIONS, digits, misspelt
from bessemer.corpus.contamination.words import words

Verdict = Literal["agree", "contradict", "differ"]
SHORT = 4  # words, articles not counted, of an answer that names one thing; a longer one is a sentence
FEW = 2  # words in which two longer answers may differ and still state one thing of two values
YES_NO = re.compile(r"(yes|no|true|false|correct|incorrect)\b(?=\s*(?:[,.;:!()–—-]|$))", re.IGNORECASE)
OPTION = re.compile(r"\(([A-Za-z])\)|([A-H])(?:[.):](?=\s|$)|$)")
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?")
FINAL = re.compile(r"(?:####|(?:final |correct )?answer(?: is|:))\s*(\S.*)", re.IGNORECASE)
NAME = re.compile(r"(?<=[a-z0-9,;:)] )[A-Z]\w*")  # a capital within a sentence
ARTICLES = frozenset(b"a an the".split())
SPELLED = {word: str(n).encode() for n, word in enumerate(b"zero one two three four five six seven eight nine ten eleven twelve".split())}
POSITIVE = ("yes", "true", "correct")


@dataclass(frozen=True)
class Claim:
    """What an answer says in its shortest form."""

    kind: Literal["yes or no", "option", "number", "short", "long"]
    value: str  # of the first three kinds
    words: tuple[bytes, ...]  # all of them, without articles
    names: frozenset[bytes]  # those with a capital within a sentence


def claim(answer: str) -> Claim:
    """Read an answer. One that ends in `#### 7` or `the answer is 7.` claims that."""
    said = tuple(SPELLED.get(word, word) for word in words(answer) if word not in ARTICLES)
    names = frozenset(word for name in NAME.findall(answer) for word in words(name))
    final = FINAL.search(answer.strip().rpartition("\n")[2])
    text = (final[1].removesuffix(".") or final[1] if final else answer).strip()
    plain = words(text)
    last = tuple(SPELLED.get(word, word) for word in plain if word not in ARTICLES)
    if match := YES_NO.match(text):
        return Claim("yes or no", "yes" if match[1].lower() in POSITIVE else "no", said, names)
    if match := OPTION.match(text):
        return Claim("option", (match[1] or match[2]).upper(), said, names)
    numbers = {number(found) for found in NUMBER.findall(text)} | {SPELLED[word].decode() for word in plain if word in SPELLED}
    if len(numbers) == 1 and sum(not digits(word) for word in last) <= FEW:
        return Claim("number", numbers.pop(), said, names)
    return Claim("short" if len(last) <= SHORT else "long", "", last if final and len(last) <= SHORT else said, names)


def number(text: str) -> str:
    """A number in one form: 1,200.50 and 2401/2 are the same."""
    plain = re.sub(r"[,\s]", "", text)
    try:
        return str(Fraction(plain))
    except (ValueError, ZeroDivisionError):  # thousands of digits; something divided by zero
        return plain


def compare(a: Claim, b: Claim) -> Verdict:
    """Whether two answers say the same, exclude each other, or are merely different."""
    if a.words == b.words and a.value == b.value:
        return "agree"
    if a.kind == b.kind and a.value:
        return "agree" if a.value == b.value else "contradict"
    only_a, only_b = (list((Counter(x.words) - Counter(y.words)).elements()) for x, y in ((a, b), (b, a)))
    alike = len(only_a) == len(only_b) and all(misspelt(x, y) for x, y in zip(sorted(only_a), sorted(only_b), strict=True))
    part = (not only_a or not only_b) and not set(only_a + only_b) & NEGATIONS
    if alike or part:
        return "agree" if a.words and b.words else "differ"
    if {a.kind, b.kind} <= {"short", "number", "option"}:
        return "contradict"
    telling = NEGATIONS | a.names | b.names
    stated = all(len(extra) <= FEW and any(word in telling or word.isdigit() for word in extra) for extra in (only_a, only_b) if extra)
    common = len(a.words) - len(only_a)
    if stated and common >= FEW * max(len(only_a), len(only_b)):
        return "contradict"
    return "agree" if common >= 0.8 * max(len(a.words), len(b.words)) else "differ"
