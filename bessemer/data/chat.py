"""Chat rows: conversations packed into rows of one length, each blind to its neighbours; only the assistant's words weigh.

Bins are filled by best-fit decreasing, so rows of short dialogues waste a few percent where padding each to the longest
would waste half.
"""

import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bessemer.core import jsonl
from bessemer.data import order
from bessemer.data.tokens import Batch
from bessemer.tokenizer.tokenizer import Tokenizer

Encoded = tuple[list[int], list[float]]  # ids, weight of each


def read(path: Path) -> list[dict[str, Any]]:
    """JSONL rows with `messages`. ValueError names the row that is none."""
    rows = jsonl.read(path)
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("messages"), list) or not all(isinstance(message, dict) for message in row["messages"]):
            raise ValueError(f"{path}: row {number}: a chat row is an object with messages, a list of objects")
    if not rows:
        raise ValueError(f"{path} holds no chat rows")
    return rows


def encode(rows: Sequence[dict[str, Any]], tokenizer: Tokenizer, context: int) -> tuple[list[Encoded], int]:
    """Rows as ids and weights, and how many were left out because they are longer than `context` + 1 tokens."""
    encoded = []
    for number, row in enumerate(rows):
        try:
            encoded.append(tokenizer.chat(row["messages"]))
        except ValueError as error:
            raise ValueError(f"chat row {row.get('id', number)}: {error}") from None
    fitting = [(ids, weights) for ids, weights in encoded if len(ids) <= context + 1]
    if not any(sum(weights[1:]) for _, weights in fitting):
        raise ValueError(f"none of {len(rows)} chat rows has an assistant's answer within {context} tokens: there is nothing to learn from")
    return fitting, len(encoded) - len(fitting)


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Bins of item numbers whose lengths sum to at most `room`: longest first, each into the fullest bin that takes it."""
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (room left, bin), sorted
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        assert lengths[item] <= room, "the caller leaves out what is too long"
        place = bisect.bisect_left(free, (lengths[item], -1))
        if place < len(free):
            left, number = free.pop(place)
        else:
            left, number = room, len(bins)
            bins.append([])
        bins[number].append(item)
        bisect.insort(free, (left - lengths[item], number))
    return bins


class ChatRows:
    """Source of packed conversations.

    A batch holds tokens, targets, at (position within its conversation), segment (number of the conversation, 0 = padding),
    token_weight, all (B, T).
    """

    def __init__(self, conversations: Sequence[Encoded], context: int, batch: int, seed: int):
        self.batch, self.seed = batch, seed
        # A conversation of n tokens gives n - 1 pairs of input and target.
        bins = pack([len(ids) - 1 for ids, _ in conversations], context)
        shape = (len(bins), context)
        self.tokens, self.targets, self.at, self.segment = (np.zeros(shape, dtype=np.int64) for _ in range(4))
        self.weight = np.zeros(shape, dtype=np.float32)
        for row, items in enumerate(bins):
            begin = 0
            for number, item in enumerate(items, 1):
                ids, weights = conversations[item]
                here = slice(begin, begin + len(ids) - 1)
                self.tokens[row, here], self.targets[row, here] = ids[:-1], ids[1:]
                self.weight[row, here] = weights[1:]
                self.at[row, here], self.segment[row, here] = np.arange(len(ids) - 1), number
                begin = here.stop
        self.count = len(bins)
        self.fill = float((self.segment > 0).mean())

    def __call__(self, step: int) -> Batch:
        return self.rows(order.rows(step, self.batch, self.count, self.seed))

    def rows(self, numbers: np.ndarray) -> Batch:
        """The named rows as a batch."""
        columns: dict[str, np.ndarray] = {
            "tokens": self.tokens,
            "targets": self.targets,
            "at": self.at,
            "segment": self.segment,
            "token_weight": self.weight,
        }
        return {name: torch.from_numpy(column[numbers]) for name, column in columns.items()}
