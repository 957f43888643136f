"""Words and marks as spaCy's rules for English find them, and the sentences that they make."""

import random

import pytest

from bessemer.corpus.filters.table import Table, sentences
from bessemer.corpus.filters.words import ENDS, LETTERS, PLAIN, PUNCTUATION, STOP_BITS, bits, split

# Each expected split is what spaCy 3.8's blank English tokenizer gives.
SPLITS = [
    "word",
    "( foo - bar ) .",
    '" Hello ! "',
    "do n't",
    "I 'm",
    "dog 's",
    "can not",
    "U.S.",
    "Mr.",
    "e.g. ,",
    "3,000.5",
    "10 km",
    "50 %",
    "$ 5",
    "one , two",
    "either / or",
    "2020 - 10",
    "os.path",
    "http://example.org/a-b ,",
    "end ....... ",
    "wait ... what",
    "= = =",
    "¿ qué ?",
    "end . Next",
    "© 2020",
    "A.",
    "AB .",
    "''",
]


@pytest.mark.parametrize("expected", SPLITS)
def test_split(expected: str) -> None:
    words = expected.split()
    assert split("".join(words)) == words


def test_nothing_is_lost_or_added() -> None:
    dice = random.Random(0)
    signs = "aB7é一.,;:!?()[]{}<>_-–—…'’\"“/\\|@#$%^&*+=~`°©😀\u0301\ud800"
    for _ in range(3000):
        piece = "".join(dice.choices(signs, k=dice.randrange(1, 30)))
        words = split(piece)
        assert "".join(words) == piece and all(words)


def test_bits() -> None:
    assert bits("word") == LETTERS | PLAIN and bits("42") == PLAIN and bits("x2") == LETTERS | PLAIN
    assert bits(".") == ENDS | PUNCTUATION and bits("--") == PUNCTUATION and bits("+") == 0
    assert bits("•") == PLAIN | PUNCTUATION
    assert bits("the") == LETTERS | PLAIN | STOP_BITS["the"] and bits("The") == LETTERS | PLAIN


@pytest.mark.parametrize(
    ("lines", "count"),
    [
        (["One sentence without end"], 1),
        (["One. Two! Three?"], 3),
        (['He said "So." and left.'], 2),
        (["Wait... what (really?) yes"], 2),  # three full stops are one mark, which ends no sentence
        (["One.", "Two. Three."], 3),
        (["Price is 3.50, e.g. here."], 1),
        ([], 0),
    ],
)
def test_sentences(lines: list[str], count: int) -> None:
    assert sentences(Table().read(" ".join(lines).split()), [len(line.split()) for line in lines]) == count
