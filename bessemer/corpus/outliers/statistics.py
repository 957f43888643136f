"""What is measured of a document, to see whether it is like the others."""

import math
import zlib

import numpy as np

from bessemer.corpus.outliers.ngrams import Ngrams, tokens

READ = 4096  # characters that are looked at: all of a short document, else four pieces spread over it
LEAST_BYTES = 512  # that a compression ratio needs to mean anything
LEAST_WORDS = 20  # that shares of words need
FIRST = 100  # words and marks among which the different ones are counted
# What is measured, and what is added before the logarithm is taken, so that zero is a value and a share of nearly nothing is nothing.
NAMES = {
    "perplexity": 0.0,  # of the words under a trigram model of other documents
    "order": 0.0,  # how many times likelier the two words before make a known word
    "compression": 0.0,  # bytes after zlib per byte
    "common_words": 0.1,  # share of words that are among the hundred commonest of other documents
    "different_words": 0.1,  # share of the first hundred words and marks
    "word_length": 0.0,  # letters
    "digits": 0.05,  # share of bytes, as those below
    "symbols": 0.05,
    "capitals": 0.05,
    "characters": 1.0,
}

# The class of each byte of UTF-8: 1 digit, 2 capital letter, 3 sign that prose has little use for, 0 anything else.
CLASS = np.zeros(256, np.int64)
for number, members in enumerate((b"0123456789", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"#$%&*+/<=>@[\\]^_`{|}~"), 1):
    CLASS[list(members)] = number


def excerpt(text: str) -> str:
    """At most READ characters of a text, in four pieces over its length."""
    if len(text) <= READ:
        return text
    size = READ // 4
    return "\n".join(text[at : at + size] for at in range(0, 4 * ((len(text) - size) // 3), (len(text) - size) // 3))


def measures(text: str, model: Ngrams) -> list[float]:
    """The value of each of NAMES; nan where the text is too short for it to mean anything."""
    read = excerpt(text)
    raw = read.encode("utf-8", "replace")
    words = tokens(read)
    enough = len(words) >= LEAST_WORDS
    numbers = model.numbered(words)
    bits, saved = model.surprise(words, numbers) if words else (np.full(1, math.nan), math.nan)
    marks = int(model.marks[numbers].sum())
    spelled = max(len(words) - marks, 1)
    _, digits, capitals, symbols = np.bincount(CLASS[np.frombuffer(raw, np.uint8)], minlength=4) / (len(raw) or math.nan)
    return [
        2.0 ** min(float(bits.mean()), 1000.0),
        2.0**saved if enough else math.nan,
        len(zlib.compress(raw, 1)) / len(raw) if len(raw) >= LEAST_BYTES else math.nan,
        float(model.common[numbers].sum()) / spelled if enough else math.nan,
        len(set(words[:FIRST])) / FIRST if len(words) >= FIRST else math.nan,
        (sum(map(len, words)) - marks) / spelled if enough else math.nan,
        float(digits),
        float(symbols),
        float(capitals),
        float(len(text)),
    ]
