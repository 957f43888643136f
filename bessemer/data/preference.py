"""Preference pairs: one prompt, a chosen and a rejected answer, padded to one length."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bessemer.data import order
from bessemer.data.chat import Encoded
from bessemer.data.tokens import Batch
from bessemer.tokenizer.tokenizer import Tokenizer

SIDES = ("chosen", "rejected")


def encode(rows: Sequence[dict[str, Any]], tokenizer: Tokenizer, context: int) -> tuple[list[tuple[Encoded, Encoded]], int]:
    """Rows of {messages, chosen, rejected} as encoded pairs, and how many were longer than `context` + 1 and left out."""
    pairs = []
    for number, row in enumerate(rows):
        if not all(isinstance(row.get(side), str) for side in SIDES) or not isinstance(row.get("messages"), list):
            raise ValueError(f"preference row {row.get('id', number)}: needs text under chosen and under rejected, and messages")
        chosen, rejected = (_last_turn_only(tokenizer, [*row["messages"], {"role": "assistant", "content": row[side]}]) for side in SIDES)
        pairs.append((chosen, rejected))
    fitting = [pair for pair in pairs if max(len(ids) for ids, _ in pair) <= context + 1]
    if not fitting:
        raise ValueError(f"none of {len(rows)} preference pairs fits {context} tokens")
    return fitting, len(pairs) - len(fitting)


def _last_turn_only(tokenizer: Tokenizer, messages: list[dict[str, Any]]) -> Encoded:
    """Earlier answers of the assistant are prompt here: the preference is about the last."""
    ids, weights = tokenizer.chat(messages)
    prompt = len(tokenizer.chat(messages[:-1], reply=True)[0])
    return ids, [0.0] * prompt + weights[prompt:]


class Pairs:
    """Source of pairs. A batch holds, for both sides S, S_tokens, S_targets, S_weight (B, T), and row_weight (B,).

    `reference` adds reference_chosen and reference_rejected (B,): the log-probabilities a frozen model gave, computed once.
    """

    def __init__(self, pairs: Sequence[tuple[Encoded, Encoded]], batch: int, seed: int, reference: np.ndarray | None = None):
        self.batch, self.seed, self.count = batch, seed, len(pairs)
        longest = max(len(ids) - 1 for pair in pairs for ids, _ in pair)
        length = -(-longest // 32) * 32
        self.columns: dict[str, np.ndarray] = {"row_weight": np.ones(len(pairs), dtype=np.float32)}
        for side, name in enumerate(SIDES):
            tokens, targets = np.zeros((len(pairs), length), dtype=np.int64), np.zeros((len(pairs), length), dtype=np.int64)
            weight = np.zeros((len(pairs), length), dtype=np.float32)
            for row, pair in enumerate(pairs):
                ids, weights = pair[side]
                tokens[row, : len(ids) - 1], targets[row, : len(ids) - 1], weight[row, : len(ids) - 1] = ids[:-1], ids[1:], weights[1:]
            self.columns |= {f"{name}_tokens": tokens, f"{name}_targets": targets, f"{name}_weight": weight}
        if reference is not None:  # (pairs, 2)
            self.columns |= {f"reference_{name}": reference[:, side].astype(np.float32) for side, name in enumerate(SIDES)}

    def __call__(self, step: int) -> Batch:
        return self.rows(order.rows(step, self.batch, self.count, self.seed))

    def rows(self, numbers: np.ndarray) -> Batch:
        """The named pairs as a batch."""
        return {name: torch.from_numpy(column[numbers]) for name, column in self.columns.items()}
