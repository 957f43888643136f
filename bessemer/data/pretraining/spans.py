"""Span-corruption rows, T5's pretraining: short spans of a text give way to sentinels, and the target says what each stands for
(Raffel et al. 2020, section 3.1.4).

The row "a b c d e f g" with spans "c d" and "f" hidden is the source "a b <0> e <1> g" and the target "<0> c d <1> f".
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Interval

from bessemer.data import seq2seq
from bessemer.data.tokens import Batch
from bessemer.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class SpanConfig:
    rate: Annotated[float, Interval(gt=0.0, lt=1.0)] = 0.15  # share of the tokens that are hidden
    span: Annotated[float, Ge(1.0)] = 3.0  # mean length of a hidden span, in tokens


def counts(length: int, cfg: SpanConfig) -> tuple[int, int]:
    """Of a text of `length` tokens: how many are hidden, and in how many spans."""
    hidden = min(max(round(length * cfg.rate), 1), length - 1)
    return hidden, min(max(round(hidden / cfg.span), 1), length - hidden)


def lengths(source_context: int, cfg: SpanConfig) -> tuple[int, int]:
    """How many tokens of text fill a source row, and how long its target is: both rows are full, with their end.

    ValueError where not even two tokens fit.
    """

    def source(length: int) -> int:
        hidden, spans = counts(length, cfg)
        return length - hidden + spans + 1

    if source(2) > source_context:
        raise ValueError(f"span corruption needs a source of {source(2)} tokens or more, not {source_context}")
    length = 2
    while source(length + 1) <= source_context:
        length += 1
    hidden, spans = counts(length, cfg)
    return length, hidden + spans + 1


def noise(rows: int, length: int, cfg: SpanConfig, draw: np.random.Generator) -> np.ndarray:
    """(B, T) bool, True where hidden: kept and hidden spans in turn, the kept ones first, every way to cut them as likely as any other."""
    hidden, spans = counts(length, cfg)
    sizes = np.stack([_cut(rows, length - hidden, spans, draw), _cut(rows, hidden, spans, draw)], axis=2).reshape(rows, -1)
    turns = np.zeros((rows, length), dtype=np.int64)
    np.put_along_axis(turns, sizes.cumsum(1)[:, :-1], 1, axis=1)
    return turns.cumsum(1) % 2 == 1


def _cut(rows: int, items: int, parts: int, draw: np.random.Generator) -> np.ndarray:
    """(B, parts) sizes, none 0, that sum to `items`: a random choice of parts - 1 of the places between two items."""
    cuts = np.sort(np.argsort(draw.random((rows, items - 1)), axis=1)[:, : parts - 1], axis=1) + 1
    return np.diff(cuts, axis=1, prepend=np.zeros((rows, 1), dtype=int), append=np.full((rows, 1), items))


class SpanRows:
    """Source of span-corruption rows, made of another source's rows of `lengths(...)[0]` tokens.

    A batch has the columns of Seq2SeqRows. Documents share a row: each numbers its sentinels from 0 and sees its own source only. A span
    that runs into the next document is the first one's, and what it hides of the next weighs nothing; nor does an end of text within
    a span, lest a model learns to stop there.
    """

    def __init__(self, source: Callable[[int], Batch], source_context: int, tokenizer: Tokenizer, cfg: SpanConfig, seed: int):
        self.source, self.cfg, self.seed = source, cfg, seed
        self.length, _ = lengths(source_context, cfg)
        tokenizer.need("sentinels")
        self.sentinels, self.end, self.start = np.array(tokenizer.sentinels), tokenizer.end_of_text, seq2seq.start_of(tokenizer)
        _, spans = counts(self.length, cfg)
        if spans > len(self.sentinels):
            raise ValueError(
                f"a row of {source_context} tokens hides {spans} spans, and the tokenizer has {len(self.sentinels)} sentinels: "
                "shorten the row, lengthen the spans, or train a tokenizer with more"
            )

    def __call__(self, step: int) -> Batch:
        return self._corrupted(self.source(step), step)

    def held_out(self, batches: Iterable[Batch]) -> list[Batch]:
        """Other rows of the same kind, corrupted in the same way each time."""
        return [self._corrupted(batch, number) for number, batch in enumerate(batches)]

    def _corrupted(self, batch: Batch, number: int) -> Batch:
        ids, segment = batch["tokens"].numpy(), batch["segment"].numpy()
        assert ids.shape[1] == self.length, "the other source's rows are as long as lengths() says"
        hidden = noise(len(ids), self.length, self.cfg, np.random.default_rng((self.seed, number)))
        return self.corrupt(ids, segment, hidden)

    def corrupt(self, ids: np.ndarray, segment: np.ndarray, hidden: np.ndarray) -> Batch:
        """A batch from tokens, segments and what is hidden, all (B, T), as many hidden tokens and spans in each row."""
        rows, length = ids.shape
        start = hidden.copy()
        start[:, 1:] &= ~hidden[:, :-1]
        owner = np.take_along_axis(segment, np.maximum.accumulate(np.where(start, np.arange(length), 0), axis=1), 1)  # of a hidden token's span
        before = start.cumsum(1) - start
        begins = np.ones_like(hidden)
        begins[:, 1:] = segment[:, 1:] != segment[:, :-1]
        sentinel = self.sentinels[before - np.maximum.accumulate(np.where(begins, before, 0), axis=1)]

        kept = ~hidden | start
        source, source_segment = np.where(start, sentinel, ids)[kept].reshape(rows, -1), segment[kept].reshape(rows, -1)
        said = np.stack([start, hidden], axis=2)  # in the target: a sentinel before each span, and what it hides
        targets = np.stack([sentinel, ids], axis=2)[said].reshape(rows, -1)
        target_segment = np.stack([segment, owner], axis=2)[said].reshape(rows, -1)
        weight = np.stack([start, (owner == segment) & (ids != self.end)], axis=2)[said].reshape(rows, -1)

        last = target_segment[:, -1:]  # both sides end in the last span's document
        (source, source_segment), (targets, segment) = (
            (np.append(ids, np.full_like(last, self.end), axis=1), np.append(whose, last, axis=1))
            for ids, whose in ((source, source_segment), (targets, target_segment))
        )
        weight = np.append(weight, np.ones_like(last), axis=1).astype(np.float32)
        return seq2seq.columns(source, source_segment, targets, segment, weight, self.start)
