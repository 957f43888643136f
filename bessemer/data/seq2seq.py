"""Rows for an encoder-decoder: a source text and the target text to make of it, as in translation and summaries.

Several pairs share a row; a target sees its own source only. Both end with the end-of-text token, and a target is shifted right by one
behind a start token, T5's convention (Raffel et al. 2020): padding where the tokenizer has it, else the end of text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bessemer.core import jsonl
from bessemer.data import order
from bessemer.data.tokens import Batch
from bessemer.tokenizer.tokenizer import Tokenizer

SIDES = ("source", "target")
GROUP = 1024  # pairs packed together: more fill no better, and the time grows with their square
Pair = tuple[list[int], list[int]]


def start_of(tokenizer: Tokenizer) -> int:
    """The token that a decoder's input begins with."""
    return tokenizer.end_of_text if tokenizer.pad is None else tokenizer.pad


def within(segment: np.ndarray) -> np.ndarray:
    """The position of each token (B, T) in its segment."""
    first = np.ones_like(segment)
    first[:, 1:] = segment[:, 1:] != segment[:, :-1]
    counted = np.arange(segment.shape[1])
    return counted - np.maximum.accumulate(first * counted, axis=1)


def shifted(targets: np.ndarray, at: np.ndarray, start: int) -> np.ndarray:
    """What a decoder reads to predict `targets` (B, T): the target before, and `start` where a segment begins (position 0)."""
    before = np.full_like(targets, start)
    before[:, 1:] = targets[:, :-1]
    return np.where(at == 0, start, before)


def read(path: Path) -> list[dict[str, Any]]:
    """JSONL rows {source, target}. ValueError names the row that lacks a text."""
    rows = jsonl.read(path)
    for number, row in enumerate(rows, 1):
        for side in SIDES:
            if not isinstance(row.get(side), str) or not row[side].strip():
                raise ValueError(f"{path}: row {number}: {side} must be a text that is not empty")
    if not rows:
        raise ValueError(f"{path} holds no rows of source and target")
    return rows


def encode(rows: Sequence[dict[str, Any]], tokenizer: Tokenizer, source_context: int, context: int) -> tuple[list[Pair], int]:
    """Rows as ids of both sides, and how many were left out because a side, with its end, is longer than its context."""
    sides = [[[*ids, tokenizer.end_of_text] for ids in tokenizer.encode_batch([row[side] for row in rows])] for side in SIDES]
    pairs = [(source, target) for source, target in zip(*sides, strict=True) if len(source) <= source_context and len(target) <= context]
    if not pairs:
        raise ValueError(f"none of {len(rows)} rows fits {source_context} tokens of source and {context} of target")
    return pairs, len(rows) - len(pairs)


def pack(needs: Sequence[tuple[int, int]], room: tuple[int, int]) -> list[list[int]]:
    """Rows of pair numbers whose sources, and whose targets, sum to at most `room`: longest first, each into the fullest row that takes it."""
    sizes, most = np.array(needs, dtype=np.int64).reshape(-1, 2), np.array(room)
    assert (sizes <= most).all(), "the caller leaves out what is too long"
    groups = -(-len(sizes) // GROUP)
    return [row for group in range(groups) for row in _packed(np.arange(group, len(sizes), groups), sizes, most)]


def _packed(items: np.ndarray, sizes: np.ndarray, most: np.ndarray) -> list[list[int]]:
    rows: list[list[int]] = []
    free = np.empty((len(items), 2), dtype=np.int64)  # what is left of each row
    for item in items[np.argsort(-(sizes[items] / most).max(1), kind="stable")].tolist():
        left = free[: len(rows)] - sizes[item]
        slack = np.where((left >= 0).all(1), (left / most).sum(1), np.inf)
        place = int(slack.argmin()) if len(rows) and np.isfinite(slack.min()) else len(rows)
        if place == len(rows):
            rows.append([])
            free[place] = most
        free[place] -= sizes[item]
        rows[place].append(item)
    return rows


class Seq2SeqRows:
    """Source of packed pairs.

    A batch holds source_tokens, source_at, source_segment (B, S) and tokens, targets, at, segment, token_weight (B, T); segments are
    numbered alike on both sides, 0 is padding.
    """

    def __init__(self, pairs: Sequence[Pair], source_context: int, context: int, batch: int, seed: int, start: int):
        self.batch, self.seed = batch, seed
        rows = pack([(len(source), len(target)) for source, target in pairs], (source_context, context))
        self.count = len(rows)
        self.texts, self.segments = ([np.zeros((self.count, length), dtype=np.int32) for length in (source_context, context)] for _ in range(2))
        for row, items in enumerate(rows):
            begins = [0, 0]
            for number, item in enumerate(items, 1):
                for side, ids in enumerate(pairs[item]):
                    here = slice(begins[side], begins[side] + len(ids))
                    self.texts[side][row, here], self.segments[side][row, here], begins[side] = ids, number, here.stop
        self.start = start
        self.fill = [float((segment > 0).mean()) for segment in self.segments]  # of the sources, of the targets

    def __call__(self, step: int) -> Batch:
        return self.rows(order.rows(step, self.batch, self.count, self.seed))

    def rows(self, numbers: np.ndarray) -> Batch:
        """The named rows as a batch."""
        (source, targets), (source_segment, segment) = ([column[numbers].astype(np.int64) for column in both] for both in (self.texts, self.segments))
        return columns(source, source_segment, targets, segment, (segment > 0).astype(np.float32), self.start)


def columns(source: np.ndarray, source_segment: np.ndarray, targets: np.ndarray, segment: np.ndarray, weight: np.ndarray, start: int) -> Batch:
    """A batch of an encoder-decoder, from the source (B, S), the targets (B, T) and whose they are."""
    at = within(segment)
    found = {
        "source_tokens": source,
        "source_at": within(source_segment),
        "source_segment": source_segment,
        "tokens": shifted(targets, at, start),
        "targets": targets,
        "at": at,
        "segment": segment,
        "token_weight": weight,
    }
    return {name: torch.from_numpy(column) for name, column in found.items()}
