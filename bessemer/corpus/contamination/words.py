"""Text as words that can be compared: lower case, without accents and punctuation; and where in the text each word stands.

Apostrophes vanish (don't = dont), all other punctuation separates words. Accents, ligatures, full-width letters, soft hyphens and
zero-width characters are levelled by Unicode's compatibility decomposition (NFKD). Chinese characters and Japanese kana, which are written
without spaces, are a word each.
"""

import re
import unicodedata

import numpy as np
from numpy.typing import NDArray

APOSTROPHES = "'‘’ʼ"
NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
ALONE = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af]")
LETTERS = bytes(code if code > 127 or chr(code).isalnum() else 32 for code in range(256)).lower()
WORD = re.compile(r"[0-9a-z\x80-\U0010ffff]+")


class Fold(dict[int, str]):
    """What becomes of each character beyond ASCII, whatever stands beside it; worked out when first asked for."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        folded = "".join(map(_kept, unicodedata.normalize("NFKD", char).lower()))
        self[code] = f" {folded} " if ALONE.match(char) else folded
        return self[code]


def _kept(char: str) -> str:
    if char in APOSTROPHES or unicodedata.category(char) in ("Mn", "Mc", "Me", "Cf"):
        return ""
    return char if char.isalnum() else " "


FOLD = Fold()


def words(text: str) -> list[bytes]:
    """The words of a text, in order, as UTF-8."""
    if not text.isascii():
        text = NOT_ASCII.sub(lambda run: run[0].translate(FOLD), text)
    return text.encode().translate(LETTERS, b"'").split()


def places(text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(N,) where each of the N words begins in the text, and (N,) where it ends, in characters."""
    pieces = ["" if char == "'" else char if char < "\x80" else FOLD[ord(char)] for char in text]
    owner = np.repeat(np.arange(len(text)), [len(piece) for piece in pieces])
    spans = np.array([word.span() for word in WORD.finditer("".join(pieces).lower())], np.int64).reshape(-1, 2)
    return owner[spans[:, 0]], owner[spans[:, 1] - 1] + 1
