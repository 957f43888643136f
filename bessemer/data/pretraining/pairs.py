"""Pairs of texts for BERT's pretraining: does the second follow the first? And some tokens of both are hidden (Devlin et al. 2019, section 3.1)."""

from collections.abc import Sequence

import numpy as np
import torch

from bessemer.data import order
from bessemer.data.pretraining.masked import MaskConfig, Masker
from bessemer.data.tokens import Batch, TokenFile
from bessemer.tokenizer.tokenizer import Tokenizer

SHORTEST = 8  # tokens that two texts have together: fewer say nothing about each other
BACK = 256  # tokens in which the beginning of a sentence is looked for
SENTENCE_ENDS = (".", "!", "?", "。", "！", "？", "\n")


def sentence_ends(tokenizer: Tokenizer) -> np.ndarray:
    """(V,) bool: the tokens after which a sentence may begin."""
    return np.array([tokenizer.decode([i]).rstrip(" \t\"')]").endswith(SENTENCE_ENDS) for i in range(tokenizer.vocab)])


class PairRows:
    """Source of pairs: rows [CLS] A [SEP] B [SEP], in half of which B is what follows A, in the others a part of another document.

    Documents are cut into stretches that fill a row, and each stretch at a random end of a sentence into A and what follows; an end
    shorter than SHORTEST is left out. A batch holds tokens, at, segment (1, 0 = padding), types (0: up to the first [SEP], 1: after), all
    (B, T); picked, targets, token_weight (B, P) of the hidden tokens; pair_targets (B,): 0 where B follows, 1 where not (as in BERT);
    row_weight (B,). The other document comes from the same file: across domains the question would be too easy.
    """

    def __init__(self, files: Sequence[TokenFile], tokenizer: Tokenizer, cfg: MaskConfig, context: int, batch: int, seed: int):
        self.files, self.masker, self.context, self.batch, self.seed = files, Masker(tokenizer, cfg), context, batch, seed
        self.cls, self.sep, self.ends = tokenizer.need("cls"), tokenizer.need("sep"), sentence_ends(tokenizer)
        self.room = context - 3
        if self.room < SHORTEST:
            raise ValueError(f"context {context} is too short for two texts: {SHORTEST + 3} is the least")
        self.edges = []  # of each file: how many stretches come before each document
        for file in files:
            lengths = np.diff(file.offsets) - 1  # without the end of text
            if (lengths > 0).sum() < 2:
                raise ValueError("next sentence needs two documents with text in every domain: without another one, every B would follow its A")
            self.edges.append(np.append(0, (lengths // self.room + (lengths % self.room >= SHORTEST)).cumsum()))
        self.before = np.append(0, np.cumsum([edges[-1] for edges in self.edges]))  # stretches before each file
        self.count = int(self.before[-1])
        if not self.count:
            raise ValueError(f"no document has {SHORTEST} tokens: there is no pair to make")

    def __call__(self, step: int) -> Batch:
        return self._rows(order.rows(step, self.batch, self.count, self.seed), np.random.default_rng((self.seed, step)))

    def rows(self, numbers: np.ndarray) -> Batch:
        """The named rows as a batch, the same each time: for held-out text."""
        return self._rows(numbers, np.random.default_rng((self.seed, *numbers.tolist())))

    def _rows(self, numbers: np.ndarray, draw: np.random.Generator) -> Batch:
        tokens, types, segment = (np.zeros((len(numbers), self.context), dtype=np.int64) for _ in range(3))
        tokens[:] = self.sep  # padding is masked out by its segment; this keeps it from being picked
        other = draw.random(len(numbers)) < 0.5
        for row, number in enumerate(numbers.tolist()):
            first, second = self._pair(number, bool(other[row]), draw)
            ids = np.concatenate([[self.cls], first, [self.sep], second, [self.sep]])
            tokens[row, : len(ids)], segment[row, : len(ids)] = ids, 1
            types[row, len(first) + 2 : len(ids)] = 1
        at = np.broadcast_to(np.arange(self.context), tokens.shape).copy()
        columns = {"at": at, "segment": segment, "types": types, "pair_targets": other.astype(np.int64)}
        columns["row_weight"] = np.ones(len(numbers), dtype=np.float32)
        return {**self.masker(tokens, at, draw), **{name: torch.from_numpy(column) for name, column in columns.items()}}

    def _pair(self, number: int, other: bool, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of A and B."""
        which = int(np.searchsorted(self.before, number, side="right")) - 1
        file, edges, number = self.files[which], self.edges[which], number - int(self.before[which])
        document = int(np.searchsorted(edges, number, side="right")) - 1
        begin = int(file.offsets[document]) + (number - int(edges[document])) * self.room
        text = file.ids[begin : min(begin + self.room, int(file.offsets[document + 1]) - 1)]
        cuts = np.flatnonzero(self.ends[text[:-1]]) + 1
        cut = int(draw.choice(cuts)) if len(cuts) else int(draw.integers(1, len(text)))
        return text[:cut], self._elsewhere(file, document, len(text) - cut, draw) if other else text[cut:]

    def _elsewhere(self, file: TokenFile, document: int, length: int, draw: np.random.Generator) -> np.ndarray:
        """At most `length` tokens of another document, long ones more often, from where a sentence begins if one does nearby."""
        low, high = int(file.offsets[document]), int(file.offsets[document + 1])
        while True:
            place = int(draw.integers(len(file.ids) - (high - low)))
            place += (high - low) * (place >= low)
            found = file.document_at(place)
            begin, end = int(file.offsets[found]), int(file.offsets[found + 1]) - 1
            if end > begin:
                break
        place = max(begin, min(place, end - length))
        near = max(begin, place - BACK)
        cuts = np.flatnonzero(self.ends[file.ids[near:place]])
        place = near + int(cuts[-1]) + 1 if len(cuts) else (begin if near == begin else place)
        return file.ids[place : min(place + length, end)]
