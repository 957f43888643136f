"""The words of a document as arrays of numbers, by a table that remembers each distinct piece of text, so that it is split once."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bessemer.corpus.filters.words import ENDS, PUNCTUATION, bits, split


@dataclass(frozen=True)
class Words:
    """The N words and marks of a text, one number each."""

    ids: np.ndarray  # (N,) int64, equal for equal words
    lengths: np.ndarray  # (N,) int64, characters
    bits: np.ndarray  # (N,) uint16
    counts: np.ndarray  # (pieces,) int64: into how many words each piece was split

    def __len__(self) -> int:
        return len(self.ids)

    def share(self, bit: int) -> float:
        return np.count_nonzero(self.bits & bit) / max(len(self), 1)


class Vocabulary(dict[str, int]):
    """Word -> its number; what is known of it stands at that place of `lengths` and `bits`."""

    def __init__(self) -> None:
        self.lengths, self.bits = array("q"), array("H")

    def __missing__(self, word: str) -> int:
        self.lengths.append(len(word))
        self.bits.append(bits(word))
        self[word] = number = len(self)
        return number


class Table(dict[str, int]):
    """Piece of text -> its number. It grows with the distinct pieces seen, up to `ROOM` characters and one document, and starts anew."""

    ROOM = 1 << 21

    def __init__(self) -> None:
        self._empty()

    def _empty(self) -> None:
        self.clear()
        self.vocabulary = Vocabulary()
        self.words, self.ends = array("q"), array("q", [0])
        self.characters = 0

    def __missing__(self, piece: str) -> int:
        self.words.extend(map(self.vocabulary.__getitem__, split(piece)))
        self.ends.append(len(self.words))
        self.characters += len(piece)
        self[piece] = number = len(self)
        return number

    def read(self, pieces: list[str]) -> Words:
        """The words of a text that was split at white space."""
        if self.characters > self.ROOM:
            self._empty()
        found = np.fromiter(map(self.__getitem__, pieces), np.int64, len(pieces))
        starts, ends = _view(self.ends)[found], _view(self.ends)[found + 1]
        counts = ends - starts
        places = np.repeat(ends - np.cumsum(counts), counts)
        places += np.arange(len(places))
        ids = _view(self.words)[places]
        return Words(ids, _view(self.vocabulary.lengths)[ids], _view(self.vocabulary.bits)[ids], counts)


def _view(numbers: array) -> np.ndarray:
    return np.frombuffer(numbers, np.dtype(numbers.typecode)) if numbers else np.zeros(0, np.dtype(numbers.typecode))


def sentences(words: Words, pieces: Sequence[int]) -> int:
    """How many sentences there are in lines of so many pieces each: one a line, and one more after each mark that ends one.

    The end of a sentence takes along the marks that follow it.
    """
    line = np.repeat(np.repeat(np.arange(len(pieces)), pieces), words.counts)
    telling = (words.bits & (ENDS | PUNCTUATION)) != PUNCTUATION
    ending, line = (words.bits[telling] & ENDS) != 0, line[telling]
    return len(pieces) + int(np.count_nonzero(ending[:-1] & ~ending[1:] & (line[:-1] == line[1:])))
