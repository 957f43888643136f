"""Masked rows: some tokens are hidden, and a batch says which and what they were (BERT: Devlin et al. 2019, section 3.1).

Only the hidden places are predicted, as many in every row, so the model projects those alone onto the vocabulary.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from bessemer.core.config import Fraction
from bessemer.data.tokens import Batch
from bessemer.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class MaskConfig:
    rate: Fraction = 0.15  # share of the tokens that are to be predicted
    masked: Fraction = 0.8  # share of those that the mask token replaces
    swapped: Fraction = 0.1  # share of those that any other token replaces; the rest stays as it is
    whole_words: bool = False  # predict all tokens of a word or none

    def __post_init__(self) -> None:
        if not self.rate:
            raise ValueError("rate is 0: no token would be predicted")
        if self.masked + self.swapped > 1:
            raise ValueError(f"masked ({self.masked:g}) and swapped ({self.swapped:g}) are shares of the same tokens: together at most 1")


def ordinary(tokenizer: Tokenizer) -> np.ndarray:
    """(V,) bool: the tokens that stand for text, not for a role."""
    found = np.array(tokenizer.token_bytes()) > 0
    roles = [tokenizer.pad, tokenizer.mask, tokenizer.cls, tokenizer.sep, tokenizer.unk, *tokenizer.sentinels]
    found[[role for role in roles if role is not None]] = False
    return found


class Masker:
    """Hides tokens of rows. ValueError where the tokenizer has no mask token."""

    def __init__(self, tokenizer: Tokenizer, cfg: MaskConfig):
        self.cfg, self.mask = cfg, tokenizer.need("mask")
        self.ordinary = ordinary(tokenizer)
        self.words = np.flatnonzero(self.ordinary)
        self.starts = np.array(tokenizer.word_starts()) if cfg.whole_words else None

    def places(self, context: int) -> int:
        """P: how many places of a row of `context` tokens are predicted at most."""
        return max(1, round(self.cfg.rate * context))

    def __call__(self, tokens: np.ndarray, at: np.ndarray, draw: np.random.Generator) -> Batch:
        """Rows (B, T) and the positions within their documents, as the columns tokens (B, T), picked, targets, token_weight (B, P).

        Of a row's ordinary tokens `rate` are picked, a place that is left over weighs 0. Whole words: in random order while they fit.
        """
        picked, weight = self._pick(tokens, at, draw)
        targets = np.take_along_axis(tokens, picked, 1)
        fate = draw.random(picked.shape)
        other = self.words[draw.integers(len(self.words), size=picked.shape)]
        seen = np.where(fate < self.cfg.masked, self.mask, np.where(fate < self.cfg.masked + self.cfg.swapped, other, targets))
        hidden = tokens.copy()
        np.put_along_axis(hidden, picked, np.where(weight > 0, seen, targets), 1)
        columns = {"tokens": hidden, "picked": picked, "targets": targets, "token_weight": weight}
        return {name: torch.from_numpy(column) for name, column in columns.items()}

    def _pick(self, tokens: np.ndarray, at: np.ndarray, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Places (B, P) and their weight, 0 or 1."""
        rows, context = tokens.shape
        free = self.ordinary[tokens]
        wanted = np.maximum(1, np.rint(self.cfg.rate * free.sum(1, keepdims=True)))  # (B, 1)
        # Word by word (a token is a word of its own, or not): all tokens of a word draw one lot, and the lowest lots win.
        word = np.broadcast_to(np.arange(context), tokens.shape)
        if self.starts is not None:
            begins = self.starts[tokens] | ~free | (at == 0)
            begins[:, 1:] |= ~free[:, :-1]
            begins[:, 0] = True
            word = begins.cumsum(1) - 1
        cells = word + context * np.arange(rows)[:, None]
        size = np.bincount(cells.ravel(), minlength=rows * context)[cells]  # of each token's word
        lot = np.where(free & (size <= wanted), np.take_along_axis(draw.random(tokens.shape), word, 1), np.inf)
        sequence = np.argsort(lot, axis=1, kind="stable")[:, : self.places(context)]
        word, size, lot = (np.take_along_axis(each, sequence, 1) for each in (word, size, lot))
        rank = np.arange(sequence.shape[1])
        first = np.zeros_like(word)  # rank at which the word begins
        first[:, 1:] = np.maximum.accumulate(np.where(word[:, 1:] != word[:, :-1], rank[1:], 0), axis=1)
        return sequence, ((first + size <= wanted) & np.isfinite(lot)).astype(np.float32)


class MaskedRows:
    """Source of masked rows: those of another source, as it packs them, with some tokens hidden anew at every step.

    A batch holds tokens, at, segment (B, T), and picked, targets, token_weight (B, P). Where the tokenizer has a cls token, each
    document begins with it, as texts do when a trained encoder is used; the row keeps its length, and its last tokens fall off.
    """

    def __init__(self, source: Callable[[int], Batch], tokenizer: Tokenizer, cfg: MaskConfig, seed: int):
        self.source, self.masker, self.cls, self.seed = source, Masker(tokenizer, cfg), tokenizer.cls, seed

    def __call__(self, step: int) -> Batch:
        return self._hidden(self.source(step), step)

    def held_out(self, batches: Iterable[Batch]) -> list[Batch]:
        """Other rows of the same kind, hidden in the same way each time."""
        return [self._hidden(batch, number) for number, batch in enumerate(batches)]

    def _hidden(self, batch: Batch, number: int) -> Batch:
        tokens, at, segment = (batch[name].numpy() for name in ("tokens", "at", "segment"))
        if self.cls is not None:
            tokens, at, segment = opened(tokens, at, self.cls)
        found = self.masker(tokens, at, np.random.default_rng((self.seed, number)))
        return {**found, "at": torch.from_numpy(at), "segment": torch.from_numpy(segment)}


def opened(tokens: np.ndarray, at: np.ndarray, cls: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Full rows (B, T) with `cls` before each document: tokens, at, segment. What no longer fits is left out."""
    begins = at == 0
    to = np.arange(tokens.shape[1]) + begins.cumsum(1)  # a token moves by as many places as documents have begun
    found, first = np.full_like(tokens, cls), np.zeros_like(at)
    row, column = np.nonzero(to < tokens.shape[1])
    found[row, to[row, column]] = tokens[row, column]
    row, column = np.nonzero(begins & (to <= tokens.shape[1]))
    first[row, to[row, column] - 1] = 1
    counted = np.arange(tokens.shape[1])
    return found, counted - np.maximum.accumulate(first * counted, axis=1), first.cumsum(1)
